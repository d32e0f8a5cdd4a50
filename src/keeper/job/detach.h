/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verb `detach`, and the signals that ask for the same: the device goes when nobody holds it
 * and all is written back, or when somebody insists.
 *
 * The keeper's main thread.
 */
#ifndef UB_KEEPER_JOB_DETACH_H
#define UB_KEEPER_JOB_DETACH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "keeper/control.h"
#include "run/ranges.h"

#define UB_DETACH_TOLD_BYTES 512

struct ub_keeper_detach {
	struct ub_control_callers callers; /* who wait for an answer */
	bool is_forced;
	/* all is written back, and what lost connections may still write is waited for */
	bool awaits_ranges;
	/* the latter for the side that the device is not made of */
	struct ub_ranges_wait wait, other_wait;
	char told[UB_DETACH_TOLD_BYTES]; /* why it stays, as the log has it */
};

/*
 * Looks whether somebody wants the end, and whether the device may go. True: it is to be taken away
 * now. Else *wait_ms is shortened to when this is to be called again. Runs a helper and waits for
 * it.
 */
bool ub_detach_tend(struct ub_keeper *k, int *wait_ms);

/* All who wait for a detach: err->code is 0, and the device is gone, or why it stays. */
void ub_detach_answer(struct ub_keeper *k, const struct ub_err *err);

#endif
