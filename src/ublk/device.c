/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device as the server holds it. The server's main thread; knows no back end but by the contract.
 */
#include "ublk/device.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/node.h"
#include "base/step.h"
#include "ublk/queue.h"

#define DEVICE_OPEN_TRIES    500
#define DEVICE_OPEN_PAUSE_MS 10
#define DEVICE_PAUSE_NS	     (1000L * 1000)
#define DEVICE_LOCKED_BYTES  (32U << 20)

size_t ub_device_arena_bytes(unsigned nr_queues, unsigned depth, uint32_t max_io_bytes)
{
	return (size_t)nr_queues * depth * max_io_bytes;
}

/* udev may still be at the node's owner, and a former opener's release may still run: 5 s. */
static int device_open_node(struct ub_device *dev, struct ub_err *err)
{
	const struct timespec pause = { .tv_nsec = DEVICE_OPEN_PAUSE_MS * 1000000L };
	int ret = -ENOENT;

	for (unsigned i = 0; i < DEVICE_OPEN_TRIES; i++) {
		ret = ub_node_open(UB_NODE_CHAR, dev->config.dev_id, O_RDWR, err);
		if (ret >= 0) {
			dev->cdev_fd = ret;
			return 0;
		}
		if (ret != -ENOENT && ret != -EBUSY && ret != -EACCES)
			break;
		nanosleep(&pause, NULL);
	}
	return ret;
}

/* A device that was moved from memory has more of them than anybody would lock. */
static bool device_locks_arena(const struct ub_device *dev)
{
	return !ub_data_path_spares_bufs(dev->config.data_path, dev->backend->ops->caps) &&
	       (dev->config.data_path == UB_DATA_PATH_COPY || dev->config.arena_fd >= 0 ||
		dev->arena_bytes <= DEVICE_LOCKED_BYTES);
}

static int device_cannot_lock(const struct ub_device *dev, int code, struct ub_err *err)
{
	return ub_err_errno(err, code,
			    "cannot lock tag buffers of %zu bytes (raise RLIMIT_MEMLOCK, give "
			    "CAP_IPC_LOCK, "
			    "or lower --depth or --max-io)",
			    dev->arena_bytes);
}

/*
 * The tag buffers. They are locked, because memory may be short just when the kernel waits for this
 * device to take its pages; not so where the back end names its store and they are hardly used.
 * Those that are locked are the next server's, too: it is there already, and would need as many
 * again.
 */
static int device_make_arena(struct ub_device *dev, struct ub_err *err)
{
	const struct ub_device_config *c = &dev->config;
	bool locked, shared;
	void *p;

	dev->arena_bytes = ub_device_arena_bytes(c->nr_queues, c->depth, c->max_io_bytes);
	locked = device_locks_arena(dev);
	shared = locked && c->arena_fd >= 0;
	if (shared)
		p = mmap(NULL, dev->arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->arena_fd,
			 0);
	else
		p = mmap(NULL, dev->arena_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED && errno == EAGAIN) /* what is mapped is locked: mlockall(MCL_FUTURE) */
		return device_cannot_lock(dev, errno, err);
	if (p == MAP_FAILED)
		return ub_err_errno(err, errno,
				    "tag buffers of %zu bytes (lower --depth or --max-io)",
				    dev->arena_bytes);
	dev->arena = p;
	madvise(p, dev->arena_bytes, MADV_DONTFORK);
	madvise(p, dev->arena_bytes, MADV_DONTDUMP);
	if (!locked)
		/* else MCL_FUTURE keeps each page that was ever used */
		munlock(p, dev->arena_bytes);
	if (locked && mlock(p, dev->arena_bytes) < 0)
		return device_cannot_lock(dev, errno, err);
	return 0;
}

int ub_device_prepare(struct ub_device *dev, const struct ub_device_config *config,
		      struct ub_backend *backend, struct ub_err *err)
{
	int ret;

	memset(dev, 0, sizeof(*dev));
	dev->config = *config;
	dev->backend = backend;
	dev->cdev_fd = -1;
	dev->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dev->event_fd < 0)
		return ub_err_errno(err, errno, "an event descriptor");
	dev->queues = calloc(config->nr_queues, sizeof(struct ub_queue *));
	if (!dev->queues)
		return ub_err_errno(err, ENOMEM, "%u queues", config->nr_queues);
	ret = ub_step("device-arena", err);
	if (ret == 0)
		ret = device_make_arena(dev, err);
	for (unsigned i = 0; i < config->nr_queues && ret == 0; i++)
		ret = ub_queue_create(&dev->queues[i], dev, (uint16_t)i, err);
	if (ret == 0) {
		dev->bqs = ub_device_make_queues(dev, backend, ub_stat_side(config->stats), err);
		ret = dev->bqs ? 0 : -err->code;
	}
	for (unsigned i = 0; i < config->nr_queues && ret == 0; i++) {
		dev->queues[i]->bq = &dev->bqs[i];
		ret = ub_queue_start_thread(dev->queues[i], err);
	}
	return ret;
}

/* ---- a back end's part on the queues, and another back end --------------- */

struct ub_backend_queue *ub_device_make_queues(struct ub_device *dev, struct ub_backend *be,
					       unsigned side, struct ub_err *err)
{
	struct ub_backend_queue *bqs = calloc(dev->config.nr_queues, sizeof(*bqs));

	if (!bqs) {
		ub_err_errno(err, ENOMEM, "%u queues of %s", dev->config.nr_queues, be->ops->name);
		return NULL;
	}
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		unsigned nr_slots = dev->config.depth + UB_INTERNAL_SLOTS;

		bqs[i].backend = be;
		bqs[i].queue = dev->queues[i];
		bqs[i].qid = i;
		bqs[i].nr_slots = nr_slots;
		bqs[i].stats = &dev->config.stats->queues[i].backends[side];
		if (ub_backend_queue_init(&bqs[i], nr_slots, err) != 0) {
			ub_device_free_queues(bqs, i + 1);
			return NULL;
		}
	}
	return bqs;
}

void ub_device_free_queues(struct ub_backend_queue *bqs, unsigned nr)
{
	for (unsigned i = 0; bqs && i < nr; i++)
		ub_backend_queue_destroy(&bqs[i]);
	free(bqs);
}

void ub_device_pause(struct ub_device *dev)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++)
		ub_queue_pause(dev->queues[i]);
}

bool ub_device_is_paused(const struct ub_device *dev)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		if (!ub_queue_is_paused(dev->queues[i]))
			return false;
	}
	return true;
}

uint64_t ub_device_oldest_ns(const struct ub_device *dev)
{
	uint64_t oldest_ns = 0;

	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		uint64_t ns = ub_queue_oldest_ns(dev->queues[i]);

		if (ns && (!oldest_ns || ns < oldest_ns))
			oldest_ns = ns;
	}
	return oldest_ns;
}

void ub_device_flush(struct ub_device *dev)
{
	ub_queue_flush(dev->queues[0]);
}

int ub_device_flush_result(const struct ub_device *dev)
{
	return atomic_load_explicit(&dev->queues[0]->flush_result, memory_order_acquire);
}

bool ub_device_is_flushing(const struct ub_device *dev)
{
	return atomic_load_explicit(&dev->queues[0]->is_flushing, memory_order_acquire);
}

struct ub_backend_queue *ub_device_swap(struct ub_device *dev, struct ub_backend *be,
					struct ub_backend_queue *bqs)
{
	struct ub_backend_queue *before = dev->bqs;

	assert(ub_device_is_paused(dev));
	dev->backend = be;
	dev->bqs = bqs;
	dev->is_swapped = true;
	return before;
}

void ub_device_resume(struct ub_device *dev)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++)
		ub_queue_resume(dev->queues[i], dev->is_swapped ? &dev->bqs[i] : NULL);
	dev->is_swapped = false;
}

void ub_device_leave(struct ub_device *dev, struct ub_backend_queue *bqs)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++)
		ub_queue_leave(dev->queues[i], &bqs[i]);
}

bool ub_device_has_left(const struct ub_device *dev, const struct ub_backend_queue *bqs)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		if (!atomic_load_explicit(&bqs[i].has_left, memory_order_acquire))
			return false;
	}
	return true;
}

int ub_device_take(struct ub_device *dev, struct ub_err *err)
{
	int ret = ub_step("device-open", err);

	if (ret == 0)
		ret = device_open_node(dev, err);
	for (unsigned i = 0; i < dev->config.nr_queues && ret == 0; i++)
		ret = ub_queue_map(dev->queues[i], err);
	return ret;
}

void ub_device_fetch(struct ub_device *dev)
{
	dev->is_taken = true;
	for (unsigned i = 0; i < dev->config.nr_queues; i++)
		ub_queue_go(dev->queues[i]);
}

enum ub_queue_state ub_device_state(struct ub_device *dev)
{
	int least = UB_QUEUE_ENDED;
	eventfd_t ignored;

	eventfd_read(dev->event_fd, &ignored);
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		int state = atomic_load_explicit(&dev->queues[i]->state, memory_order_acquire);

		if (state == UB_QUEUE_FAILED)
			return UB_QUEUE_FAILED;
		if (state < least)
			least = state;
	}
	return least;
}

int ub_device_error(struct ub_device *dev, struct ub_err *err)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		struct ub_queue *q = dev->queues[i];

		if (atomic_load_explicit(&q->state, memory_order_acquire) == UB_QUEUE_FAILED) {
			*err = q->err;
			return -err->code;
		}
	}
	return ub_err_set(err, EIO, "no queue has failed");
}

static void device_cancel_queue(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	ub_queue_cancel(q);
	atomic_store_explicit(&q->is_cancelled, true, memory_order_release);
}

static void device_yield_queue(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	q->is_yielding = true;
}

void ub_device_yield(struct ub_device *dev)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		struct ub_queue *q = dev->queues[i];

		if (q->yield_msg.fn)
			continue;
		q->yield_msg.fn = device_yield_queue;
		ub_queue_post(q, &q->yield_msg);
	}
}

static bool device_queue_runs(struct ub_queue *q)
{
	return q && q->has_thread &&
	       atomic_load_explicit(&q->state, memory_order_acquire) < UB_QUEUE_ENDED;
}

void ub_device_set_size(struct ub_device *dev, uint64_t size_bytes)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++)
		ub_queue_set_size(dev->queues[i], size_bytes);
}

bool ub_device_has_size(struct ub_device *dev, uint64_t size_bytes)
{
	for (unsigned i = 0; i < dev->config.nr_queues; i++) {
		if (atomic_load_explicit(&dev->queues[i]->size_bytes, memory_order_acquire) !=
		    size_bytes)
			return false;
	}
	return true;
}

void ub_device_cancel(struct ub_device *dev)
{
	for (unsigned i = 0; dev->queues && i < dev->config.nr_queues; i++) {
		struct ub_queue *q = dev->queues[i];

		/* Once is enough, and the message may still be on its way. */
		if (!device_queue_runs(q) || q->cancel_msg.fn)
			continue;
		q->cancel_msg.fn = device_cancel_queue;
		ub_queue_post(q, &q->cancel_msg);
	}
}

/*
 * A back end's queues hand I/O to each other. So that none hands it to one that has ended, they all
 * stop giving I/O to the back end before the first is told to end.
 */
static void device_cancel_all(struct ub_device *dev)
{
	const struct timespec pause = { .tv_nsec = DEVICE_PAUSE_NS };

	ub_device_cancel(dev);
	for (unsigned i = 0; dev->queues && i < dev->config.nr_queues; i++) {
		struct ub_queue *q = dev->queues[i];

		while (device_queue_runs(q) &&
		       !atomic_load_explicit(&q->is_cancelled, memory_order_acquire))
			nanosleep(&pause, NULL);
	}
}

void ub_device_close(struct ub_device *dev)
{
	if (dev->is_taken)
		device_cancel_all(dev);
	for (unsigned i = 0; dev->queues && i < dev->config.nr_queues; i++)
		ub_queue_end_thread(dev->queues[i]);
	if (dev->bqs)
		ub_backend_stop(dev->backend);
	ub_device_free_queues(dev->bqs, dev->config.nr_queues);
	dev->bqs = NULL;
	for (unsigned i = 0; dev->queues && i < dev->config.nr_queues; i++)
		ub_queue_destroy(dev->queues[i]);
	free(dev->queues);
	dev->queues = NULL;
	if (dev->arena)
		munmap(dev->arena, dev->arena_bytes);
	dev->arena = NULL;
	if (dev->backend) {
		ub_close(&dev->cdev_fd);
		ub_close(&dev->event_fd);
	}
	dev->backend = NULL;
}
