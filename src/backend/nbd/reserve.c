/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What keeps this device going while memory is short: pages that are there already, and a claim to
 * those that the kernel keeps back. The reasons stand in HACKING.md, "Traps".
 */
#include "backend/nbd/reserve.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>

#include "base/heap.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/text.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define RESERVE_LOOK_MS	       10 /* how often is looked whether memory is short */
#define RESERVE_DMA_ZONE_BYTES (16U << 20)
#define RESERVE_MIN_FREE_BYTES (1U << 20) /* where the kernel does not say */
#define RESERVE_MIN_SEND_BYTES (32U << 10)
#define RESERVE_SPARE_BYTES    (1U << 20) /* commands in flight, TLS records, a handshake */

/* ---- when it is opened --------------------------------------------------- */

/*
 * When memory is short, and how much of the rest may be in requests on their way, follows from the
 * setting that the page allocator's watermarks follow from.
 */
void nbd_reserve_read_watermarks(struct nbd_backend *be)
{
	uint64_t min_free_bytes = RESERVE_MIN_FREE_BYTES;
	char text[32];

	if (ub_text_read_file("/proc/sys/vm/min_free_kbytes", text, sizeof(text)) > 0)
		min_free_bytes = strtoull(text, NULL, 10) << 10;
	/*
	 * Above the watermark at which kswapd begins; the first 16 MiB are free and of no use on
	 * many machines.
	 */
	be->short_bytes = RESERVE_DMA_ZONE_BYTES + min_free_bytes * 2;
	/*
	 * A real-time thread goes to half of the lowest watermark; half of that half for all
	 * connections.
	 */
	be->send_bytes = min_free_bytes / 4 / be->nr_conns;
	if (be->send_bytes < RESERVE_MIN_SEND_BYTES)
		be->send_bytes = RESERVE_MIN_SEND_BYTES;
}

/*
 * What making all connections again takes is in the heap before it is needed: the old ones may
 * still be there when the new ones are made. How much that is has just been seen; certificates make
 * it megabytes. heap: of ub_heap_keep() before the first one was made; NULL: be->heap_bytes says
 * it.
 */
int nbd_reserve_heap(struct nbd_backend *be, const void *heap, struct ub_err *err)
{
	if (heap)
		be->heap_bytes = ub_heap_growth(heap) + RESERVE_SPARE_BYTES;
	if (ub_heap_reserve(be->heap_bytes) < 0)
		return ub_err_errno(err, ENOMEM, "%s: memory for making connections again",
				    be->server);
	return 0;
}

/* ---- threads ------------------------------------------------------------- */

/*
 * Makes the calling thread one whose sends find pages when others have to wait for them, or an
 * ordinary one again. 0 or -errno (it needs CAP_SYS_NICE).
 */
static int reserve_use(bool use)
{
	struct sched_param param = { .sched_priority = use ? sched_get_priority_min(SCHED_RR) : 0 };

	/*
	 * The page allocator stops all others at a watermark, and a real-time thread at half of it.
	 */
	return sched_setscheduler(0, use ? SCHED_RR | SCHED_RESET_ON_FORK : SCHED_OTHER, &param) <
			       0 ?
		       -errno :
		       0;
}

/* Whether this thread may become a real-time one, tried while it does no harm. */
void nbd_reserve_allow(struct nbd_queue *nq)
{
	int ret = reserve_use(true);

	if (ret == 0)
		ret = reserve_use(false);
	nq->may_use_reserve = ret == 0;
	if (ret < 0)
		ub_log(UB_LOG_WARNING,
		       "%s: no real-time priority (%s; it needs CAP_SYS_NICE): when memory runs "
		       "out, swap and "
		       "write-back through this device may hang",
		       nq->be->server, strerror(-ret));
}

void nbd_reserve_look_now(struct nbd_queue *nq)
{
	struct sysinfo info;
	bool is_short;
	uint64_t now;

	nq->has_looked = true; /* once a batch */
	now = ub_now_ms();
	if (now - nq->memory_seen_ms < RESERVE_LOOK_MS)
		return;
	nq->memory_seen_ms = now;
	is_short =
		sysinfo(&info) == 0 && (uint64_t)info.freeram * info.mem_unit < nq->be->short_bytes;
	if (is_short != nq->uses_reserve && reserve_use(is_short) == 0)
		nq->uses_reserve = is_short;
}

/* What this thread needs while memory is short must be there by then: all of its stack. */
static void reserve_lock_stack(void)
{
	pthread_attr_t attr;
	size_t bytes;
	void *stack;

	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (pthread_attr_getstack(&attr, &stack, &bytes) == 0 && mlock(stack, bytes) < 0)
		ub_log(UB_LOG_DEBUG, "cannot lock the connector's stack: %s", strerror(errno));
	pthread_attr_destroy(&attr);
}

void nbd_reserve_prepare_connector(void)
{
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	reserve_use(true);
	reserve_lock_stack();
}
