/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A request on its way: the back end's scratch of an I/O, and lists of such. */
#ifndef UB_BACKEND_NBD_CMD_H
#define UB_BACKEND_NBD_CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ublk-bridge/io.h>

struct nbd_backend;
struct nbd_link;
struct ub_ledger_sent;

/* The scratch of an I/O. It belongs to the home thread of the conn where the I/O is. */
struct nbd_cmd {
	struct nbd_backend *be;
	struct ub_io *io;
	struct nbd_link *link; /* in flight there; NULL: it waits */
	/* by the parts that were answered: what a server's maximum makes us split */
	uint32_t done_bytes;
	/* of the part in flight; of a READ's data, how much came */
	uint32_t part_bytes, seen_bytes;
	uint64_t seen_edges; /* … and where its pieces begin and end: nbd_cmd_data() */
	uint64_t sent_ns;    /* for the statistics */
	/* it was sent, and its connection ended, and it has not been sent again yet */
	bool is_again;
	bool was_sent;	  /* it was sent, and its connection ended, at some time */
	bool has_ranges;  /* the ledger has some that let it pass */
	bool is_internal; /* the link's own: nbd_send_internal() */
	/* FLUSH: of the conn where it is, the older link; any conn */
	bool was_old_flushed, was_flushed;
	/* how often its link was given up because it was slow: each time it gets twice as long */
	uint8_t nr_slow;
	uint8_t nr_wrong;  /* how often its answer was wrong */
	uint32_t owner;	   /* its name in the ledger; not 0 */
	uint32_t sent_seq; /* of the fence, when it was sent */
	/* be->nr_losses: when its first part was answered; FLUSH: when it was sent last */
	uint64_t losses;
	uint64_t flush_mark;	     /* FLUSH: the link's answered_bytes when it was sent */
	uint64_t todo;		     /* FLUSH: a bit for each conn that it has to be sent to */
	struct ub_ledger_sent *rec;  /* its record in the ledger */
	struct nbd_cmd *prev, *next; /* in in_flight, waiting or held */
	struct nbd_cmd *posted;	     /* in an inbox */
};

/* In order of submission. */
struct nbd_list {
	struct nbd_cmd *first, *last;
};

static inline bool nbd_op_changes(uint8_t op)
{
	return op == UB_OP_WRITE || op == UB_OP_DISCARD || op == UB_OP_WRITE_ZEROES;
}

/* The one place that every I/O passes when it is answered. res: as ub_io_complete() has it. */
void nbd_cmd_complete(struct nbd_cmd *cmd, int32_t res);

/*
 * A FLUSH has been wherever it had to be. A server says once that something could not be written:
 * the application hears of it, though it was we who asked.
 */
void nbd_flush_complete(struct nbd_cmd *cmd);

/* ---- lists: the home thread of the conn that has them -------------------- */

static inline void nbd_list_add(struct nbd_list *list, struct nbd_cmd *cmd)
{
	cmd->prev = list->last;
	cmd->next = NULL;
	if (list->last)
		list->last->next = cmd;
	else
		list->first = cmd;
	list->last = cmd;
}

static inline void nbd_list_add_first(struct nbd_list *list, struct nbd_cmd *cmd)
{
	cmd->prev = NULL;
	cmd->next = list->first;
	if (list->first)
		list->first->prev = cmd;
	else
		list->last = cmd;
	list->first = cmd;
}

static inline void nbd_list_remove(struct nbd_list *list, struct nbd_cmd *cmd)
{
	if (cmd->prev)
		cmd->prev->next = cmd->next;
	else
		list->first = cmd->next;
	if (cmd->next)
		cmd->next->prev = cmd->prev;
	else
		list->last = cmd->prev;
}

/* Puts all of `from` before what is in `list`. */
static inline void nbd_list_splice_first(struct nbd_list *list, struct nbd_list *from)
{
	if (!from->first)
		return;
	from->last->next = list->first;
	if (list->first)
		list->first->prev = from->last;
	else
		list->last = from->last;
	list->first = from->first;
	from->first = from->last = NULL;
}

#endif
