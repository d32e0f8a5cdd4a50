/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What kernels do that has to be worked around, by its own name each. Control plane, both
 * processes.
 *
 * The driver has no version: what it can do stands for what it does wrong. So features are looked
 * at for that in one place, ub_quirks_of(), and everybody else asks for the quirk that is meant.
 */
#ifndef UB_UBLK_QUIRKS_H
#define UB_UBLK_QUIRKS_H

#include <stdbool.h>
#include <stdint.h>

struct ub_quirks {
	/*
	 * A SIGKILL under load may follow a null pointer in the dying queue's thread
	 * (io_fallback_tw), and with it a process and a device that never go: ublk_cancel_cmd also
	 * cancels a command that ublk_queue_rq has handed to the task, and its memory is freed
	 * while it is on a list of work for that task. It is harmless while that list is the
	 * ring's; but the thread that dies last ends the ring, and the list moves to it while it
	 * runs what is left for it. So somebody else holds each ring until the last thread of the
	 * server is over, and closes it then.
	 */
	bool rings_must_be_held;

	/*
	 * When one queue was fetched and another one not, START_USER_RECOVERY follows a null
	 * pointer (ublk_queue_reinit), and whoever asks anything of the device afterwards hangs. So
	 * a device of several queues whose server died in between is given up.
	 */
	bool half_fetched_is_fatal;

	/*
	 * A second START_USER_RECOVERY is EINVAL when nothing was fetched since the first one,
	 * whose effect lasts. It is taken for done.
	 */
	bool start_twice_is_einval;

	/*
	 * A server that dies while it holds every tag of a queue is noticed by the driver's timer
	 * alone (ublk_timeout), after 30 s: there is no idle tag that could be cancelled. So a
	 * request of the queue is never used (nr_requests).
	 */
	bool full_queue_hides_death;

	/*
	 * Partitions are scanned inside START, with the device's mutex held. A server that dies
	 * then leaves it held for ever where its requests wait for the next one. So the queues'
	 * threads have no CAP_SYS_ADMIN when they fetch, which suppresses the scan: partitions are
	 * added by a helper, and BLKRRPART is EINVAL for the device's life.
	 */
	bool scan_in_start_hangs;
};

/*
 * features: as GET_FEATURES names them, or the flags of a device that was added with all of them
 * that we use. Never fails; 0 is a kernel with every quirk.
 */
struct ub_quirks ub_quirks_of(uint64_t features);

#endif
