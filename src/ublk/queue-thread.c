/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A queue's thread: from its stack to its end. Between, it does turns (queue.c).
 *
 * start, go and end are the main thread's. A queue thread never ends by itself while its device
 * lives: a lone dead queue would hang its I/O for ever, so what cannot be mended aborts the server.
 */
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/step.h"
#include "ublk/queue.h"
#include "ublk/ring.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define THREAD_STACK_BYTES (256U << 10)

/* Until the device is there. False: it is not to be served after all. */
static bool thread_await_go(struct ub_queue *q)
{
	while (sem_wait(&q->go) < 0 && errno == EINTR)
		;
	return !q->must_not_go;
}

/*
 * For scan_in_start_hangs (quirks.h): the driver does not scan where a queue's thread may not
 * administrate.
 */
static void thread_drop_admin(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) < 0)
		return;
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		uint32_t keep =
			i == CAP_TO_INDEX(CAP_SYS_ADMIN) ? ~CAP_TO_MASK(CAP_SYS_ADMIN) : ~0U;

		data[i].effective &= keep;
		data[i].permitted &= keep;
		data[i].inheritable &= keep;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		ub_log(UB_LOG_DEBUG, "cannot drop CAP_SYS_ADMIN: %s", strerror(errno));
}

/* Takes the device into the ring and fetches every tag. */
static int thread_take(struct ub_queue *q)
{
	int ret = io_uring_register_files(&q->ring, &q->dev->cdev_fd, 1);

	if (ret < 0)
		return ub_err_errno(&q->err, -ret, "queue %u: cannot register the device", q->qid);
	if (!q->dev->config.scans_partitions)
		thread_drop_admin();
	ub_ring_arm_wake(q);
	ub_queue_fetch_all(q);
	ret = io_uring_submit(&q->ring);
	if (ret < 0)
		return ub_err_errno(&q->err, -ret, "queue %u: cannot fetch", q->qid);
	return ub_step("queue-fetch", &q->err);
}

/* To the CPUs whose requests come to this queue; a mask that cannot be set is no reason to fail. */
static void thread_set_affinity(const struct ub_queue *q)
{
	const uint8_t *mask = q->dev->config.affinity[q->qid];

	sched_setaffinity(0, UB_CPU_MASK_BYTES, (const cpu_set_t *)(const void *)mask);
}

static void thread_set_state(struct ub_queue *q, enum ub_queue_state state)
{
	atomic_store_explicit(&q->state, (int)state, memory_order_release);
	eventfd_write(q->dev->event_fd, 1);
}

/* All that was taken is finished; it counts once the driver has it. */
static void thread_say_yielded(struct ub_queue *q)
{
	int ret = io_uring_submit(&q->ring);

	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		ub_ring_fatal(q, "cannot commit", -ret);
	if (io_uring_sq_ready(&q->ring))
		return; /* not all of it went: the next turn */
	q->has_yielded = true;
	thread_set_state(q, UB_QUEUE_YIELDED);
}

/* The device ends: what is in flight of a layer's own ends, too. */
static void thread_end_internal(struct ub_queue *q)
{
	if (q->nr_internal)
		ub_backend_cancel(q->bq, -ENODEV);
	while (q->nr_internal || q->leaving)
		ub_queue_turn(q);
}

static void *thread_main(void *arg)
{
	struct ub_queue *q = arg;
	char name[16];
	int ret;

	snprintf(name, sizeof(name), "ublk-q%u", q->qid);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	thread_set_affinity(q);
	ret = ub_ring_make(q);
	if (ret) {
		thread_set_state(q, UB_QUEUE_FAILED);
		return NULL;
	}
	thread_set_state(q, UB_QUEUE_READY);
	if (!thread_await_go(q)) {
		io_uring_queue_exit(&q->ring);
		thread_set_state(q, UB_QUEUE_ENDED);
		return NULL;
	}
	if (thread_take(q)) {
		io_uring_queue_exit(&q->ring);
		thread_set_state(q, UB_QUEUE_FAILED);
		return NULL;
	}
	ub_queue_begin_with(q, q->bq);
	thread_set_state(q, UB_QUEUE_FETCHING);
	/* Told to quit, it still waits for the back end to let go of what it holds. */
	while ((q->nr_gone < q->depth && !q->quit) || q->nr_owned) {
		ub_queue_turn(q);
		if (__builtin_expect(q->is_yielding && !q->has_yielded && !q->nr_owned, 0))
			thread_say_yielded(q);
	}
	thread_end_internal(q);
	/*
	 * Linux 6.12 waits here for every command on the file: with a tag still fetched, for ever.
	 */
	if (q->nr_gone == q->depth)
		io_uring_unregister_files(&q->ring);
	io_uring_queue_exit(&q->ring);
	thread_set_state(q, UB_QUEUE_ENDED);
	return NULL;
}

/* ---- its beginning and its end: the main thread's ------------------------ */

/*
 * The stack is ours, so that it can be locked: a page of it that is not there must not be needed.
 */
static int thread_make_stack(struct ub_queue *q, pthread_attr_t *attr, struct ub_err *err)
{
	q->stack = mmap(NULL, THREAD_STACK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (q->stack == MAP_FAILED) {
		q->stack = NULL;
		return ub_err_errno(err, errno, "queue %u: its stack", q->qid);
	}
	if (mlock(q->stack, THREAD_STACK_BYTES) < 0)
		return ub_err_errno(err, errno,
				    "cannot lock a stack of %u bytes (raise RLIMIT_MEMLOCK, or "
				    "give "
				    "CAP_IPC_LOCK)",
				    THREAD_STACK_BYTES);
	/* A guard page below, so that running over it kills and does not corrupt. */
	mprotect(q->stack, (size_t)sysconf(_SC_PAGESIZE), PROT_NONE);
	pthread_attr_setstack(attr, q->stack, THREAD_STACK_BYTES);
	return 0;
}

int ub_queue_start_thread(struct ub_queue *q, struct ub_err *err)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int ret;

	ret = ub_step("queue-thread", err);
	if (ret)
		return ret;
	pthread_attr_init(&attr);
	ret = thread_make_stack(q, &attr, err);
	if (ret == 0) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		ret = pthread_create(&q->thread, &attr, thread_main, q);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		q->has_thread = ret == 0;
		if (ret)
			ret = ub_err_errno(err, ret, "queue %u: its thread", q->qid);
	}
	pthread_attr_destroy(&attr);
	return ret;
}

void ub_queue_go(struct ub_queue *q)
{
	sem_post(&q->go);
}

static void thread_quit(struct ub_msg *msg, struct ub_queue *q)
{
	(void)msg;
	q->quit = true;
	ub_queue_cancel(q);
}

/* Wherever it is. */
static void thread_join(struct ub_queue *q)
{
	if (!q->dev->is_taken) {
		q->must_not_go = true;
		ub_queue_go(q);
	} else if (atomic_load_explicit(&q->state, memory_order_acquire) < UB_QUEUE_ENDED) {
		q->quit_msg.fn = thread_quit;
		ub_queue_post(q, &q->quit_msg);
	}
	pthread_join(q->thread, NULL);
	q->has_thread = false;
}

void ub_queue_end_thread(struct ub_queue *q)
{
	if (!q)
		return;
	if (q->has_thread)
		thread_join(q);
	if (q->stack)
		munmap(q->stack, THREAD_STACK_BYTES);
	q->stack = NULL;
}
