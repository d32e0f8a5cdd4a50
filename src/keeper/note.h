/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing down what the device is made of: state.json. The keeper's main thread. */
#ifndef UB_KEEPER_NOTE_H
#define UB_KEEPER_NOTE_H

#include "base/err.h"

struct ub_keeper;

int ub_note_write(struct ub_keeper *k, struct ub_err *err);
/*
 * Likewise, and a failure is only said: I/O may be waiting, and a full or read-only /run must not
 * keep it so. The job `migrate` tries again.
 */
void ub_note(struct ub_keeper *k);

#endif
