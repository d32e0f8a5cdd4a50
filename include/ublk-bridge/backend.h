/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The contract between the core and a back end: what stands behind a device.
 *
 * The core (src/ublk/) knows back ends by this header alone, and a back end knows the core by this
 * one and io.h. Rules that every back end obeys:
 *  - submit() never blocks, never allocates and never fails by return; every I/O that it accepted
 *    is completed exactly once with ub_io_complete(), in any order, from any thread;
 *  - a result is the full length or a negative errno;
 *  - overlapping I/Os in flight may be executed in any order: the kernel orders what it cares
 *    about;
 *  - FLUSH covers every write that was completed before it was submitted.
 */
#ifndef UBLK_BRIDGE_BACKEND_H
#define UBLK_BRIDGE_BACKEND_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io.h"

struct ub_backend;
struct ub_err;
struct ub_backend_stats;
struct ub_ledger;
struct ub_backend_queue_stats;

#define UB_MIN_IO_BYTES	   4096U      /* the driver wants max_sectors of at least 8 */
#define UB_MAX_RANGE_BYTES (1U << 30) /* largest DISCARD or WRITE_ZEROES: fits a commit's s32 */

/*
 * What a back end can do. Filled by get_limits(), checked once by ub_limits_check(), and turned
 * into ublk's parameters, which the kernel freezes at START. Fixed widths: it crosses from the
 * server to the keeper in a message.
 */
struct ub_limits {
	uint64_t size_bytes;	      /* a multiple of logical_block_bytes, at least one */
	uint32_t logical_block_bytes; /* 512 to 4096, a power of two: the finest I/O accepted */
	/* logical to 1 MiB, a power of two: the finest efficient I/O */
	uint32_t physical_block_bytes;
	/* 0: nothing to say; else a power of two, at least physical */
	uint32_t optimal_io_bytes;
	/* largest READ or WRITE; at least 4096 and a logical block */
	uint32_t max_io_bytes;
	uint32_t discard_granularity_bytes; /* 0: logical_block_bytes */
	uint32_t max_discard_bytes;	    /* largest DISCARD; 0 without can_trim */
	uint32_t max_zeroes_bytes;	    /* largest WRITE_ZEROES; 0 without can_zero */
	uint8_t read_only;
	uint8_t rotational;
	uint8_t can_flush; /* without: FLUSH is answered by the core, there is nothing to flush */
	uint8_t can_fua;   /* without: the core sends the write, then a FLUSH */
	/* without: a DISCARD that comes all the same succeeds and does nothing */
	uint8_t can_trim;
	uint8_t can_zero;   /* without: the core writes zeroes */
	uint8_t multi_conn; /* a FLUSH on one connection covers all */
	uint8_t nr_queues;  /* as many suit it best; 0: it does not matter */
};

enum ub_health {
	UB_HEALTH_ONLINE,
	UB_HEALTH_DEGRADED, /* serves, but not everything: `why` says what fails */
	UB_HEALTH_OFFLINE,  /* I/O waits for what stands behind it */
	/* for good: I/O fails; before the device is live this ends the attach */
	UB_HEALTH_FAILED,
};

/*
 * Whom a back end has opened for: the server, or a layer that has it for a child. It hears what the
 * back end has to say, in the functions at the end of this header, and passes on to its own host
 * what that shall know. So a layer hears of an outage before anybody else does.
 *
 * Each: any thread, never waits; NULL: it is not heard. `be` is the one that speaks. The host
 * outlives its back ends, and threads that they leave behind.
 */
struct ub_host {
	/* Repeats of one state do not come. `why` is good during the call. */
	void (*report)(struct ub_host *host, struct ub_backend *be, enum ub_health health,
		       const char *why);
	void (*grown)(struct ub_host *host, struct ub_backend *be);
	void (*ranges)(struct ub_host *host, struct ub_backend *be);
	/* ub_backend_hold_socket(); 0: it is not held, and drop() is not called for it. */
	uint32_t (*hold)(struct ub_host *host, const struct ub_backend *be, int fd);
	void (*drop)(struct ub_host *host, uint32_t id);
	void (*forget)(struct ub_host *host, const struct ub_backend *be);
	bool (*has_keeper)(struct ub_host *host);
	_Atomic int health; /* ub_backend_report()'s: what came last; 0 at first: ONLINE */
};

#define UB_BACKEND_MAX_PATHS 16

/*
 * What can be changed while a device is live. Only the members that `which` names count. Fixed
 * widths: it crosses from the keeper to the server in a message, too.
 */
enum {
	UB_SET_OUTAGE_LIMIT = 1 << 0,
	UB_SET_STALL_TIMEOUT = 1 << 1,
	UB_SET_LOG_LEVEL = 1 << 2,     /* the server's own: no back end sees it */
	UB_SET_FENCE_TIMEOUT = 1 << 3, /* not of a server that speaks version 3 of the messages */
};

struct ub_settings {
	uint32_t which;
	uint32_t log_level;
	uint64_t outage_limit_ms; /* UINT64_MAX: none */
	uint64_t stall_timeout_ms;
	uint64_t fence_timeout_ms; /* 0: nothing waits for what was sent on a lost connection */
};

enum {
	/* place() names the store itself: the tag buffers are hardly used */
	UB_CAP_PLACE = 1 << 0,
	UB_CAP_STATUS = 1 << 1, /* takes UB_OP_STATUS */
};

enum {
	UB_RESIZE_PREALLOC = 1 << 0, /* what a device of memory grows by is taken at once */
};

/* How a device was asked for. Strings and descriptors stay the caller's. */
struct ub_backend_config {
	const char *kind;	  /* the ops' name: "mem", "nbd", "null" */
	const char *options;	  /* for the back end to read; "" when there are none */
	const char *more_options; /* NULL: none; what it does not know of these it ignores */
	/* mem, null: the device's size; with an identity: every back end's */
	uint64_t size_bytes;
	uint32_t logical_block_bytes; /* 0: the back end's choice */
	unsigned nr_queues;	      /* how many queue_init() calls will come at the most */
	bool read_only;
	int fd;	       /* mem: the store (store.h); nbd: a connected socket, or -1; else -1 */
	int cancel_fd; /* readable: nobody waits for open() any more; -1: it cannot be told */
	/* what get_identity() of the server before said: a standby's; NULL: the first one's */
	const char *identity;
	/*
	 * Not 0: it is what a device is being moved to. An outage, or no answer for about so long,
	 * ends its I/O with ENOLINK, and it goes on by itself afterwards: until promote().
	 */
	uint64_t late_ms;
	struct ub_host *host; /* NULL: nobody listens */
};

struct ub_backend {
	const struct ub_backend_ops *ops;
	/*
	 * A layer's child, which is asked what the layer does not define itself
	 * (backend/backend.h); NULL: it is no layer, or answers for all its children. Set by its
	 * open(), and fixed.
	 */
	struct ub_backend *below;
	struct ub_host *host;	     /* of the config; NULL: none */
	struct ub_limits limits;     /* as checked */
	void *priv;		     /* the back end's */
	_Atomic bool is_destination; /* of a migration: opened with late_ms, and not promoted yet */
	_Atomic int health;	     /* what it reported last while it was one */
	/* stats.h: set, and zeroed, before the first queue_init() */
	struct ub_backend_stats *stats;
	/*
	 * ledger.h: set before the first queue_init(), too, and it stays the same side until
	 * close(): which of the two is the device's changes with a migration, as it does for stats.
	 * NULL: what is sent need not be remembered (unit tests).
	 */
	struct ub_ledger *ledger;
	unsigned ledger_side;
};

/* A back end's part on one queue. */
struct ub_backend_queue {
	struct ub_backend *backend;
	struct ub_queue *queue;
	unsigned qid;
	unsigned nr_slots; /* those for internal I/O included */
	void *priv;
	struct ub_backend_queue_stats *stats; /* stats.h: the queue's thread counts there */
	bool is_started; /* the core's, as all that follows: queue_start() was called */
	_Atomic bool has_left;
	struct ub_msg leave_msg;
	struct ub_backend_queue *next_leaving;
};

struct ub_backend_ops {
	const char *name;
	uint32_t caps; /* UB_CAP_* */

	/*
	 * Files and directories that open() and what comes later look up by name, so that the
	 * server keeps the mounts they lie on: as many as fit. Before open(). May be NULL.
	 */
	unsigned (*get_paths)(const struct ub_backend_config *cfg, char *paths[], unsigned max);
	/*
	 * The server's main thread, before the queues run (and later, for a swap, while they do):
	 * may block and allocate. 0 or -errno with *err filled. close() and queue_destroy() accept
	 * what a failed open() or queue_init() left.
	 */
	int (*open)(struct ub_backend *be, const struct ub_backend_config *cfg, struct ub_err *err);
	int (*get_limits)(struct ub_backend *be, struct ub_limits *limits, struct ub_err *err);
	/*
	 * What another process must know to open the same thing when it cannot be asked, in words
	 * without secrets; the caller's to free(), NULL: no memory. With it in cfg->identity,
	 * open() reaches for nothing and waits for nobody: that begins with queue_start(). NULL:
	 * cfg says all.
	 */
	char *(*get_identity)(struct ub_backend *be);
	int (*queue_init)(struct ub_backend_queue *bq, unsigned nr_slots, struct ub_err *err);
	/*
	 * Any thread but the queues', once they have all stopped with it: the threads that it has
	 * by itself end. What they have posted to queues until then still runs there. May block;
	 * may be NULL.
	 */
	void (*stop)(struct ub_backend *be);
	void (*queue_destroy)(struct ub_backend_queue *bq);
	void (*close)(struct ub_backend *be);
	/*
	 * The main thread: the device is live. Until then what fails is to be reported, not waited
	 * for; -errno with *err: something has failed by now. May be NULL.
	 */
	int (*set_live)(struct ub_backend *be, struct ub_err *err);
	/*
	 * The main thread: nbd: the next connected socket, which is its own from now on. May be
	 * NULL.
	 */
	int (*take_socket)(struct ub_backend *be, int fd);
	/*
	 * The main thread, while the queues run: the settings that `which` names are in force when
	 * the queues' threads have seen them, soon. All of them or none; -errno with *err. NULL:
	 * there is nothing to be set.
	 */
	int (*set)(struct ub_backend *be, const struct ub_settings *settings, struct ub_err *err);
	/*
	 * The main thread, while the queues run: how large the device could be now, by what stands
	 * behind it, in whole blocks. 0 or -errno with *err. NULL: as large as anybody likes.
	 */
	int (*get_size)(struct ub_backend *be, uint64_t *size_bytes, struct ub_err *err);
	/*
	 * The main thread, while the queues run: the device gets this size, whole blocks and not
	 * more than get_size() said. Growing: what it grows by reads as whatever stands behind it
	 * has, zeroes for memory; I/O there comes once this has returned 0. Shrinking, or the size
	 * that it has: I/O behind the new end has ended, and no more comes; what was there may go.
	 * flags: UB_RESIZE_*. 0, or -errno with *err and the size as it was. NULL: the size is
	 * fixed.
	 */
	int (*resize)(struct ub_backend *be, uint64_t size_bytes, uint32_t flags,
		      struct ub_err *err);

	/*
	 * The main thread, while the queues pause: what was a migration's destination is the
	 * device's now. May be NULL.
	 */
	void (*promote)(struct ub_backend *be);
	/*
	 * A destination's. Any thread, never blocks: what is in flight takes too long and ends with
	 * ENOLINK, soon. May be NULL where nothing takes long.
	 */
	void (*reset)(struct ub_backend *be);
	/*
	 * Any thread: nothing that was ended with an error can still be executed, by a server that
	 * has it in hand. True at the latest when the back end's own limit for that is over. May be
	 * NULL: it is always so.
	 */
	bool (*has_settled)(struct ub_backend *be);
	/*
	 * Any thread, between open() and close(): somebody knows that what was sent on connections
	 * which were given up until this event (ub_ledger_side.events) can be executed no more. May
	 * be NULL.
	 */
	void (*fenced)(struct ub_backend *be, uint64_t event);
	/*
	 * Any thread: counts whenever something that was answered and not flushed may have been
	 * lost, before anything is sent to the server that comes next; a destination's also for
	 * each next connection, whoever ended the last. May be NULL: nothing is ever lost.
	 */
	uint64_t (*nr_losses)(struct ub_backend *be);
	/*
	 * Any thread: why what stands behind the device is not reached now, for people: "not
	 * reached: …, 7 tries in 12 s"; "" while it is, or before the first try. May be NULL.
	 */
	void (*describe_outage)(struct ub_backend *be, char *buf, size_t len);
	/*
	 * Any thread: nanoseconds that an I/O is on its way there and back while it occupies
	 * nobody. Whoever copies has as many more in flight. May be NULL: none.
	 */
	uint64_t (*latency_ns)(struct ub_backend *be);

	/* The queue's thread: neither blocks nor allocates. Those marked may be NULL. */
	void (*queue_start)(struct ub_backend_queue *bq); /* may be NULL */
	/*
	 * Asks for the memory where a READ's data lies or a WRITE's data shall go, so that the
	 * kernel copies straight from or to it. 1: io->buf names it, good until the I/O is
	 * completed and committed; 0: use the core's buffer; -errno: the I/O fails with that.
	 * submit() follows in every case but the last, and sees in io->buf which it was. Only of
	 * the root back end, and only with UB_CAP_PLACE.
	 */
	int (*place)(struct ub_backend_queue *bq, struct ub_io *io);
	void (*submit)(struct ub_backend_queue *bq, struct ub_io *io);
	/*
	 * A change goes back to the kernel, and submit() has not seen the whole of it in one I/O:
	 * it came in parts (UB_PART), or ended before submit(). io names all of it, and is no I/O:
	 * nothing completes it. May be NULL.
	 */
	void (*give_back)(struct ub_backend_queue *bq, const struct ub_io *io);
	void (*submit_end)(struct ub_backend_queue *bq); /* after a batch of submits; may be NULL */
	/*
	 * Completes with err (a negative errno) all that it holds, waiting ones too; may be NULL.
	 */
	void (*cancel)(struct ub_backend_queue *bq, int err);
	/*
	 * It is taken out of a live device: no I/O is there, nor comes. Called again each turn
	 * until it is true: nothing in the ring refers to it any more. May be NULL: there is never
	 * anything.
	 */
	bool (*queue_stop)(struct ub_backend_queue *bq);
};

/*
 * How a back end's part on a queue is called, by the core and by a layer that has it for a child:
 * an op that is NULL does what is said there. A layer passes on what it wants to by itself, to its
 * children's parts. Threads and errors: as of the op.
 */

/* Before anything else, also of a part that has begun: then it is not told again. Queue thread. */
static inline void ub_backend_queue_start(struct ub_backend_queue *bq)
{
	if (!bq->is_started && bq->backend->ops->queue_start)
		bq->backend->ops->queue_start(bq);
	bq->is_started = true;
}

static inline void ub_backend_submit(struct ub_backend_queue *bq, struct ub_io *io)
{
	bq->backend->ops->submit(bq, io);
}

static inline void ub_backend_submit_end(struct ub_backend_queue *bq)
{
	const struct ub_backend_ops *ops = bq->backend->ops;

	if (ops->submit_end)
		ops->submit_end(bq);
}

static inline void ub_backend_give_back(struct ub_backend_queue *bq, const struct ub_io *io)
{
	if (bq->backend->ops->give_back)
		bq->backend->ops->give_back(bq, io);
}

static inline void ub_backend_cancel(struct ub_backend_queue *bq, int err)
{
	assert(err < 0);
	if (bq->backend->ops->cancel)
		bq->backend->ops->cancel(bq, err);
}

/* True, too, where it has never begun. */
static inline bool ub_backend_queue_stop(struct ub_backend_queue *bq)
{
	const struct ub_backend_ops *ops = bq->backend->ops;

	return !ops->queue_stop || !bq->is_started || ops->queue_stop(bq);
}

/* And what is not on a queue's thread. bq->backend is set. 0 or -errno with *err. */
static inline int ub_backend_queue_init(struct ub_backend_queue *bq, unsigned nr_slots,
					struct ub_err *err)
{
	assert(nr_slots > UB_INTERNAL_SLOTS);
	return bq->backend->ops->queue_init(bq, nr_slots, err);
}

static inline void ub_backend_queue_destroy(struct ub_backend_queue *bq)
{
	bq->backend->ops->queue_destroy(bq);
}

static inline void ub_backend_stop(struct ub_backend *be)
{
	if (be->ops->stop)
		be->ops->stop(be);
}

/*
 * Tells the operator of a change. Repeats of one state are swallowed. Any thread, never blocks;
 * `why` is copied and cut at 200 bytes.
 */
void ub_backend_report(struct ub_backend *be, enum ub_health health, const char *why);

/* What stands behind the device has become larger than it. Any thread, never blocks. */
void ub_backend_report_grown(struct ub_backend *be);

/*
 * A connection was given up, and what it had in hand may still be executed: newer changes may have
 * to wait (ledger.h). The keeper wants to know. Any thread, never blocks.
 */
void ub_backend_report_ranges(struct ub_backend *be);

/*
 * A connection whose other end may go on executing what was sent to it when this process is no
 * more: whoever makes the next one wants to know. fd stays the caller's, who says when it closes
 * it. The id for that, or 0. Any thread; a back end calls it before its first write, and not on a
 * queue's thread.
 */
uint32_t ub_backend_hold_socket(const struct ub_backend *be, int fd);

/*
 * Of a socket that is held: it closes. 0: nothing. Any thread, also one that has outlived its back
 * end: hence the host, which a back end may keep for that.
 */
static inline void ub_host_drop_socket(struct ub_host *host, uint32_t id)
{
	if (host && host->drop && id)
		host->drop(host, id);
}

/* The back end closes: those that it still holds are dropped. */
static inline void ub_host_forget_sockets(struct ub_host *host, const struct ub_backend *be)
{
	if (host && host->forget)
		host->forget(host, be);
}

/* Whether somebody would reset what is held, should this process die. Any thread. */
static inline bool ub_host_has_keeper(struct ub_host *host)
{
	return host && host->has_keeper && host->has_keeper(host);
}

/*
 * The back ends that a program offers, NULL-terminated: defined beside its main(), so that a new
 * one is a file and a line there.
 */
extern const struct ub_backend_ops *const ub_backends[];

#endif
