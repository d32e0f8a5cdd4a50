/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A migration, as its keeper tells it in JSON, in words for people. Control plane; asks nobody. */
#ifndef UB_CLI_PROGRESS_H
#define UB_CLI_PROGRESS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define UB_PROGRESS_SAMPLES 32

/* How fast it goes: what was done lately. Zero it. */
struct ub_progress {
	struct {
		uint64_t ms, done_bytes;
	} samples[UB_PROGRESS_SAMPLES];
	unsigned nr; /* taken so far */
};

/*
 * Another look at "migration" (an object); now_ms: of the monotonic clock. The rate is forgotten
 * while it is not copying, and when it began anew.
 */
void ub_progress_take(struct ub_progress *p, const json_t *migration, uint64_t now_ms);

/* Bytes a second that were copied or brought to zero; 0: it is not known. */
uint64_t ub_progress_rate(const struct ub_progress *p);

/* How much of the device is on the other side, 0 to 100. */
unsigned ub_progress_percent(const json_t *migration);

/*
 * "copying: 45 %, 12 MiB/s, 0:34 left, 1 GiB dirty, 3 MiB mirrored". p NULL: without a rate.
 * Returns buf.
 */
const char *ub_progress_text(const struct ub_progress *p, const json_t *migration, char *buf,
			     size_t len);

/*
 * The same for one line of a terminal, behind a bar where it has room; never wider than `columns`:
 * what is least important is left out. Returns buf.
 */
const char *ub_progress_bar(const struct ub_progress *p, const json_t *migration, unsigned columns,
			    char *buf, size_t len);

/*
 * What takes a line of so many columns from the terminal again, with the cursor where it began.
 * terminal: how wide that is now, if it wraps what has become too long for it; 0: it cuts it.
 * Returns buf.
 */
const char *ub_progress_erase(size_t drawn, unsigned terminal, char *buf, size_t len);

/*
 * How "last_migration" ended: "migrated to DESTINATION in 3.4 s, pause 5.1 ms, 32 MiB copied, 480
 * MiB zeroed, 12 MiB mirrored", "failed after 3.4 s: WHY", "was cancelled after 3.4 s". Returns
 * buf.
 */
const char *ub_progress_result(const json_t *last, char *buf, size_t len);

#endif
