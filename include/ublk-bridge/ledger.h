/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ledger: a memfd that the keeper holds and the server writes. It says what was sent to remote
 * servers and may still be executed there, so that whoever comes after a death knows which newer
 * changes have to wait, and for how long.
 *
 *   a SENT record   one for each request slot of each queue: a change is in flight on a connection.
 *                   FREE ─(before it is sent)─► SENT ─(it was answered)─► FREE
 *                                                  └─(its connection was given up)─► a range
 *   a connection    FREE ─► OPEN ─(given up, or our process died)─► LOST ─(reset)─► RESET
 *                        ─(its ranges have their clock)─► FREE
 *   a range         what a connection that was given up may still change.
 *                   FREE ─► RANGE ─(the request was given back to the kernel)─► DONE
 *                        ─(its time is over)─► FREE
 *
 * One server process at a time writes it: SENT records by the thread that sends, all else under a
 * lock of that process. The keeper writes only to connections of processes that are dead. Every
 * state is written last, with a store-release, so that a SIGKILL between any two instructions
 * leaves a ledger that says too much, and never too little. src/base/fence.h has the rules; all
 * times are of the monotonic clock, in milliseconds.
 *
 * Room: the geometry is in the head. A program that knows more members than the page has room for,
 * or less, goes by it.
 */
#ifndef UBLK_BRIDGE_LEDGER_H
#define UBLK_BRIDGE_LEDGER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define UB_LEDGER_MAGIC	  0x7264676c /* "lgdr" */
#define UB_LEDGER_VERSION 1
#define UB_LEDGER_SIDES	  2
/* two of each connection that a back end may have, and as many of the process before */
#define UB_LEDGER_CONNS 256
/* as many as two queues of the deepest can have in flight, twice */
#define UB_LEDGER_MAX_RANGES 16384
#define UB_LEDGER_HEAD_BYTES 4096 /* of the page, and of each side: most of it is room */

/* A change in flight. */
struct ub_ledger_sent {
	uint64_t start, end; /* bytes: of the whole request */
	uint16_t conn;	     /* an index */
	uint8_t op;	     /* enum ub_op */
	uint8_t reserved;
	_Atomic uint32_t state; /* enum ub_sent_state */
	uint64_t room;
};
_Static_assert(sizeof(struct ub_ledger_sent) == 32, "part of the page's geometry");

enum ub_sent_state { UB_SENT_FREE, UB_SENT };

enum ub_ledger_conn_state { UB_CONN_FREE, UB_CONN_OPEN, UB_CONN_LOST, UB_CONN_RESET };

/* What its socket is, and so what a reset of it is. */
enum ub_ledger_conn_kind {
	UB_CONN_TCP, /* a reset purges what is on its way */
	/* what lies in the other end's queue stays there until it is read, or dropped */
	UB_CONN_UNIX,
	UB_CONN_OTHER, /* vsock: a reset cannot be seen */
};

enum {
	UB_CONN_CLOSED = 1 << 0, /* the other end closed it, before anything that we did to it */
};

struct ub_ledger_conn {
	_Atomic uint32_t state; /* enum ub_ledger_conn_state */
	uint32_t kind;		/* enum ub_ledger_conn_kind */
	int32_t pid;		/* the server process whose connection it is, or was */
	uint32_t id;		/* under which that process has told the keeper of it (LINK) */
	_Atomic uint32_t flags; /* UB_CONN_CLOSED, … */
	uint32_t reserved;
	/* since then the other end has all of it that it will ever get */
	_Atomic uint64_t reset_ms;
	/* changes that were answered on it, and not flushed since: its thread counts */
	_Atomic uint64_t unflushed_bytes;
	uint64_t room[3];
};
_Static_assert(sizeof(struct ub_ledger_conn) == 64, "part of the page's geometry");

enum ub_range_state { UB_RANGE_FREE, UB_RANGE, UB_RANGE_DONE };

enum {
	UB_RANGE_MERGED = 1 << 0, /* of several changes, or of one of several: none can claim it */
	UB_RANGE_BLIND = 1 << 1,  /* nobody knows what was sent */
	UB_RANGE_INHERITED = 1 << 2, /* of a server process before this one */
};

#define UB_LEDGER_NO_CONN UINT16_MAX

struct ub_ledger_range {
	uint64_t start, end;	/* bytes, as they were sent */
	uint64_t clock_ms;	/* since when its time counts; 0: not yet */
	uint64_t event;		/* the give-up that made it: of ub_ledger_side.events */
	uint32_t owner;		/* the request that it lets pass, in this process; 0: none */
	uint16_t conn;		/* whose clock it waits for; UB_LEDGER_NO_CONN once that runs */
	uint8_t op;		/* enum ub_op */
	uint8_t flags;		/* UB_RANGE_MERGED, … */
	_Atomic uint32_t state; /* enum ub_range_state */
	uint32_t reserved;
	uint64_t room[2];
};
_Static_assert(sizeof(struct ub_ledger_range) == 64, "part of the page's geometry");

/*
 * What stands behind the device, or what it is being moved to: ub_stat_side() says which of the two
 * is the present one.
 */
struct ub_ledger_side {
	_Atomic uint64_t timeout_ms; /* as long as a range lasts; the server's, for others to see */
	/* connections with unanswered changes that were given up, process deaths included */
	_Atomic uint64_t events;
	_Atomic uint64_t warned; /* waits that ended by time alone */
	/* connections that ended with changes answered and not flushed */
	_Atomic uint64_t nr_losses;
	_Atomic uint64_t lost_bytes;	   /* of those: as many may be gone */
	_Atomic uint64_t last_loss_unix_s; /* 0: there was none */
	_Atomic uint64_t waiting;	   /* a gauge: changes that wait for a range now */
	_Atomic uint64_t nr_live;	   /* a gauge: ranges */
	/*
	 * An errno: a FLUSH of our own was answered with it, which the server says once. The
	 * application's next FLUSH gets it, whichever process that comes to; until then each
	 * further one of our own does. 0: there is none.
	 */
	_Atomic uint32_t flush_error;
	uint32_t reserved;
};

struct ub_ledger {
	uint32_t magic;
	uint32_t version;
	uint32_t nr_queues, nr_slots; /* slots of a queue, those for internal I/O included */
	uint32_t nr_ranges, nr_conns; /* of a side */
	uint32_t head_bytes, conn_bytes, range_bytes, sent_bytes;
	uint64_t side_bytes;
	/* Not 0: the server that serves keeps no records. What it sent is known to nobody. */
	_Atomic uint32_t is_blind;
	/*
	 * A cutover is being written down: with this cookie in the run directory's file `side`,
	 * that side is the present one from now on (ub_stat_side()). A server that dies between the
	 * two leaves it for the keeper. 0: none is.
	 */
	_Atomic uint32_t cut_side;
	_Atomic uint64_t cut_cookie;
};

/* How large the ledger of such a device is. 0: it cannot be. */
size_t ub_ledger_bytes(unsigned nr_queues, unsigned nr_slots);
/* Writes the geometry into a page of zeroes of so many bytes. */
void ub_ledger_init(struct ub_ledger *page, unsigned nr_queues, unsigned nr_slots);
/*
 * Whether a page of len_bytes holds what its head says, and this program can use it for such a
 * device.
 */
int ub_ledger_check(const struct ub_ledger *page, size_t len_bytes, unsigned nr_queues,
		    unsigned nr_slots);

static inline struct ub_ledger_side *ub_ledger_side(struct ub_ledger *page, unsigned side)
{
	return (struct ub_ledger_side *)((char *)page + page->head_bytes + side * page->side_bytes);
}

static inline struct ub_ledger_conn *ub_ledger_conn(struct ub_ledger *page, unsigned side,
						    unsigned i)
{
	return (struct ub_ledger_conn *)((char *)ub_ledger_side(page, side) + page->head_bytes +
					 (size_t)i * page->conn_bytes);
}

static inline struct ub_ledger_range *ub_ledger_range(struct ub_ledger *page, unsigned side,
						      unsigned i)
{
	return (struct ub_ledger_range *)((char *)ub_ledger_conn(page, side, page->nr_conns) +
					  (size_t)i * page->range_bytes);
}

static inline struct ub_ledger_sent *ub_ledger_sent(struct ub_ledger *page, unsigned side,
						    unsigned qid, unsigned slot)
{
	return (struct ub_ledger_sent *)((char *)ub_ledger_range(page, side, page->nr_ranges) +
					 ((size_t)qid * page->nr_slots + slot) * page->sent_bytes);
}

#endif
