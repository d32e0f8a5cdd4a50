/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device as the server holds it: /dev/ublkcN, its queues and their threads.
 *
 * Used by the server's main thread. The queue threads are inside; they speak to the main thread
 * through `event_fd` and the queues' states alone.
 */
#ifndef UB_UBLK_DEVICE_H
#define UB_UBLK_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/backend.h>
#include <ublk-bridge/page.h>

#include "base/err.h"
#include "ublk/datapath.h"

#define UB_MAX_CPUS	  8192
#define UB_CPU_MASK_BYTES (UB_MAX_CPUS / 8)

/* As ADD_DEV returned it, not as it was asked for. */
struct ub_device_config {
	uint32_t dev_id;
	unsigned nr_queues;
	unsigned depth;
	uint32_t max_io_bytes;
	enum ub_data_path data_path;
	bool no_clock;		     /* nothing is timed: the histograms stay empty */
	struct ub_stats_page *stats; /* mapped, of nr_queues queues; the caller's */
	const uint8_t (*affinity)[UB_CPU_MASK_BYTES]; /* one CPU mask a queue; the caller's */
	/*
	 * a memfd of ub_device_arena_bytes() that the next server uses, too; -1: none. The caller's
	 */
	int arena_fd;
	bool scans_partitions; /* the driver may, where it does so by itself */
};

struct ub_device {
	struct ub_device_config config;
	struct ub_backend *backend; /* open, with checked limits; the caller's */
	int cdev_fd;
	int event_fd; /* readable when a queue's state has changed */
	void *arena;  /* the tag buffers */
	size_t arena_bytes;
	struct ub_backend_queue *bqs; /* the back end's parts, one a queue */
	bool is_swapped;	      /* the queues are to be told when they resume */
	bool is_taken;		      /* ub_device_fetch() let the threads go on */
	struct ub_queue **queues;
};

/* The life of a queue's thread, in order. */
enum ub_queue_state {
	UB_QUEUE_STARTING,
	UB_QUEUE_READY,	   /* it waits for ub_device_fetch() */
	UB_QUEUE_FETCHING, /* every tag was given to the driver */
	UB_QUEUE_YIELDED,  /* it holds nothing and takes nothing any more: ub_device_yield() */
	UB_QUEUE_ENDED,	   /* every tag came back, or it was told to quit */
	UB_QUEUE_FAILED,   /* it never got as far as fetching: ub_device_error() says why */
};

/* How large the tag buffers of a device are together, in bytes. */
size_t ub_device_arena_bytes(unsigned nr_queues, unsigned depth, uint32_t max_io_bytes);

/*
 * Makes buffers, queues and threads, all but what needs the device itself: the threads wait in
 * READY. Everything that takes memory is done here. 0 or -errno with *err; on failure
 * ub_device_close() cleans up.
 */
int ub_device_prepare(struct ub_device *dev, const struct ub_device_config *config,
		      struct ub_backend *backend, struct ub_err *err);

/*
 * Opens /dev/ublkcN and maps its descriptors. Once, after ub_device_prepare(). 0 or -errno with
 * *err.
 */
int ub_device_take(struct ub_device *dev, struct ub_err *err);
/* Then: lets the threads fetch every tag. */
void ub_device_fetch(struct ub_device *dev);

/* The state that every queue has reached at least; FAILED if one has. Drains event_fd. */
enum ub_queue_state ub_device_state(struct ub_device *dev);

/* Why a queue failed. Only after ub_device_state() said FAILED. */
int ub_device_error(struct ub_device *dev, struct ub_err *err);

/*
 * For the next server: what is in flight is finished, and what comes from now on is left to whoever
 * takes the device over (the driver sends it again). The state then becomes YIELDED, and nothing
 * but the process's end may follow.
 */
void ub_device_yield(struct ub_device *dev);

/*
 * Every queue refuses what lies behind this end, from soon on. Once ub_device_has_size(), which
 * becomes true when no I/O is in flight behind it either, and makes event_fd readable. Not again
 * before that.
 */
void ub_device_set_size(struct ub_device *dev, uint64_t size_bytes);
bool ub_device_has_size(struct ub_device *dev, uint64_t size_bytes);

/*
 * A back end's parts on all queues, made beside those of the present one; side: of the statistics.
 * An array of nr_queues, or NULL with *err. Any thread but the queues'.
 */
struct ub_backend_queue *ub_device_make_queues(struct ub_device *dev, struct ub_backend *be,
					       unsigned side, struct ub_err *err);
/* The first nr of them. No queue may know of them any more. NULL: nothing. */
void ub_device_free_queues(struct ub_backend_queue *bqs, unsigned nr);

/*
 * A barrier over all queues: requests that come wait; is_paused when none is in flight, which makes
 * event_fd readable. Not while a size is being set. Main thread, as those that follow.
 */
void ub_device_pause(struct ub_device *dev);
bool ub_device_is_paused(const struct ub_device *dev);
/*
 * While it is being paused: since when the oldest request is in flight that the pause waits for, by
 * the monotonic clock. 0: there is none, or nothing is timed.
 */
uint64_t ub_device_oldest_ns(const struct ub_device *dev);
/*
 * Has the back end flush what it has answered so far, paused or not; one that is under way goes on.
 * is_flushing: until it is over, however; then event_fd is readable. Not while a layer is there.
 */
void ub_device_flush(struct ub_device *dev);
bool ub_device_is_flushing(const struct ub_device *dev);
/* How the last one has ended: 0 or -errno. */
int ub_device_flush_result(const struct ub_device *dev);
/*
 * While it is paused: the queues go on with this one. Returns the parts of the one before, which
 * are the caller's.
 */
struct ub_backend_queue *ub_device_swap(struct ub_device *dev, struct ub_backend *be,
					struct ub_backend_queue *bqs);
/* Also before it is paused: then nothing was. */
void ub_device_resume(struct ub_device *dev);
/*
 * The queues' threads let go of these parts, which are not the present ones. Once they have left,
 * nothing in the rings refers to them. has_left: any thread.
 */
void ub_device_leave(struct ub_device *dev, struct ub_backend_queue *bqs);
bool ub_device_has_left(const struct ub_device *dev, const struct ub_backend_queue *bqs);

/* Fails all I/O that is in flight, and all that still comes, with -EIO. */
void ub_device_cancel(struct ub_device *dev);

/* Ends the threads wherever they are, and frees everything. Also a zeroed or half-open device. */
void ub_device_close(struct ub_device *dev);

#endif
