/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What people see of a migration. */
#include "cli/progress.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "cli/common.h"

#define PROGRESS_MAX_BAR    40
#define PROGRESS_MIN_BAR    8
#define PROGRESS_COLUMNS    66 /* that the text takes when it is long: the bar shall not jump */
#define PROGRESS_MIRRORED   18 /* of them: ", 1023.9 MiB mirrored" */
#define PROGRESS_TEXT_BYTES 384

static uint64_t progress_get(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

static const char *progress_string(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

/* ---- how fast ------------------------------------------------------------ */

static uint64_t progress_done(const json_t *migration)
{
	return progress_get(migration, "copied_bytes") + progress_get(migration, "zeroed_bytes");
}

void ub_progress_take(struct ub_progress *p, const json_t *migration, uint64_t now_ms)
{
	bool is_copying = strcmp(progress_string(migration, "phase"), "copying") == 0;
	uint64_t done = progress_done(migration);

	if (!is_copying ||
	    (p->nr && done < p->samples[(p->nr - 1) % UB_PROGRESS_SAMPLES].done_bytes))
		p->nr = 0;
	if (!is_copying)
		return;
	p->samples[p->nr % UB_PROGRESS_SAMPLES].ms = now_ms;
	p->samples[p->nr % UB_PROGRESS_SAMPLES].done_bytes = done;
	p->nr++;
}

uint64_t ub_progress_rate(const struct ub_progress *p)
{
	unsigned last = p->nr - 1,
		 first = p->nr > UB_PROGRESS_SAMPLES ? p->nr - UB_PROGRESS_SAMPLES : 0;
	uint64_t ms, bytes;

	if (p->nr < 2)
		return 0;
	ms = p->samples[last % UB_PROGRESS_SAMPLES].ms - p->samples[first % UB_PROGRESS_SAMPLES].ms;
	bytes = p->samples[last % UB_PROGRESS_SAMPLES].done_bytes -
		p->samples[first % UB_PROGRESS_SAMPLES].done_bytes;
	return ms ? (uint64_t)((double)bytes * 1000 / (double)ms) : 0;
}

unsigned ub_progress_percent(const json_t *migration)
{
	uint64_t total = progress_get(migration, "total_bytes"),
		 dirty = progress_get(migration, "dirty_bytes");
	unsigned percent;

	if (total == 0 || dirty >= total)
		return 0;
	percent = (unsigned)(100 * ((double)(total - dirty) / (double)total));
	return dirty && percent > 99 ? 99 : percent; /* what is left is never nothing */
}

/* ---- in words ------------------------------------------------------------ */

/* "0:34 left", "2:03:04 left"; "" when it cannot be known. */
static const char *progress_left(const struct ub_progress *p, const json_t *migration, char *buf,
				 size_t len)
{
	uint64_t rate = p ? ub_progress_rate(p) : 0, seconds;

	buf[0] = '\0';
	if (rate == 0)
		return buf;
	seconds = progress_get(migration, "dirty_bytes") / rate;
	if (seconds < 3600)
		snprintf(buf, len, ", %llu:%02llu left", (unsigned long long)seconds / 60,
			 (unsigned long long)seconds % 60);
	else if (seconds < 100 * 3600ULL)
		snprintf(buf, len, ", %llu:%02llu:%02llu left", (unsigned long long)seconds / 3600,
			 (unsigned long long)seconds / 60 % 60, (unsigned long long)seconds % 60);
	return buf;
}

/* What stands behind the phase. */
static const char *progress_numbers(const struct ub_progress *p, const json_t *migration, char *buf,
				    size_t len)
{
	char dirty[32], mirrored[32], rate[32], left[40], speed[64] = "";

	if (p && p->nr > 1)
		snprintf(speed, sizeof(speed), ", %s/s",
			 ub_size_format(ub_progress_rate(p), rate, sizeof(rate)));
	snprintf(buf, len, "%u %%%s%s, %s dirty, %s mirrored", ub_progress_percent(migration),
		 speed, progress_left(p, migration, left, sizeof(left)),
		 ub_size_format(progress_get(migration, "dirty_bytes"), dirty, sizeof(dirty)),
		 ub_size_format(progress_get(migration, "mirrored_bytes"), mirrored,
				sizeof(mirrored)));
	return buf;
}

/* As many of them as have room, from the first on; nothing of what there is not. */
static const char *progress_few_numbers(const struct ub_progress *p, const json_t *migration,
					size_t columns, char *buf, size_t len)
{
	char part[4][64] = { "" }, text[32];
	uint64_t mirrored = progress_get(migration, "mirrored_bytes");
	size_t used = (size_t)snprintf(buf, len, "%u %%", ub_progress_percent(migration));

	if (p && p->nr > 1)
		snprintf(part[0], sizeof(part[0]), ", %s/s",
			 ub_size_format(ub_progress_rate(p), text, sizeof(text)));
	progress_left(p, migration, part[1], sizeof(part[1]));
	snprintf(part[2], sizeof(part[2]), ", %s dirty",
		 ub_size_format(progress_get(migration, "dirty_bytes"), text, sizeof(text)));
	if (mirrored)
		snprintf(part[3], sizeof(part[3]), ", %s mirrored",
			 ub_size_format(mirrored, text, sizeof(text)));
	for (unsigned i = 0; i < UB_ARRAY_SIZE(part) && used + strlen(part[i]) <= columns; i++)
		used += (size_t)snprintf(buf + used, len - used, "%s", part[i]);
	return buf;
}

const char *ub_progress_text(const struct ub_progress *p, const json_t *migration, char *buf,
			     size_t len)
{
	const char *phase = progress_string(migration, "phase"),
		   *why = progress_string(migration, "why");
	char numbers[PROGRESS_TEXT_BYTES];

	if (strcmp(phase, "connecting") == 0)
		snprintf(buf, len, "%s%s%s", phase, *why ? ": " : "", why);
	else
		snprintf(buf, len, "%s: %s%s%s", phase,
			 progress_numbers(p, migration, numbers, sizeof(numbers)), *why ? ": " : "",
			 why);
	return buf;
}

const char *ub_progress_bar(const struct ub_progress *p, const json_t *migration, unsigned columns,
			    char *buf, size_t len)
{
	bool is_copying = strcmp(progress_string(migration, "phase"), "copying") == 0;
	size_t needed = PROGRESS_COLUMNS, width, filled;
	char text[PROGRESS_TEXT_BYTES], bar[PROGRESS_MAX_BAR + 1];

	/* That it copies a bar says by itself. */
	if (is_copying)
		progress_few_numbers(p, migration, columns, text, sizeof(text));
	else
		ub_progress_text(p, migration, text, sizeof(text));
	if (is_copying && progress_get(migration, "mirrored_bytes") == 0)
		needed -= PROGRESS_MIRRORED;
	width = columns > needed ? columns - needed : 0;
	if (width > PROGRESS_MAX_BAR)
		width = PROGRESS_MAX_BAR;
	if (width < PROGRESS_MIN_BAR) {
		snprintf(buf, len, "%s", text);
	} else {
		filled = width * ub_progress_percent(migration) / 100;
		memset(bar, '.', width);
		memset(bar, '=', filled);
		bar[width] = '\0';
		snprintf(buf, len, "[%s] %s", bar, text);
	}
	ub_cli_cut(buf, columns);
	return buf;
}

const char *ub_progress_erase(size_t drawn, unsigned terminal, char *buf, size_t len)
{
	size_t rows = terminal && drawn ? (drawn - 1) / terminal : 0;
	size_t used = (size_t)snprintf(buf, len, "\r\033[K");

	/* Row by row: to clear the screen's rest would put it into the scrollback of some. */
	while (rows-- && used + sizeof("\033[A\033[K") <= len)
		used += (size_t)snprintf(buf + used, len - used, "\033[A\033[K");
	return buf;
}

/* It is not known where the server has died right behind the cutover. */
static const char *progress_pause(const json_t *last, char *buf, size_t len)
{
	const json_t *pause = json_object_get(last, "pause_ms");

	if (json_is_number(pause))
		snprintf(buf, len, "pause %.1f ms", json_number_value(pause));
	else
		snprintf(buf, len, "pause not known");
	return buf;
}

const char *ub_progress_result(const json_t *last, char *buf, size_t len)
{
	const char *result = progress_string(last, "result"), *why = progress_string(last, "why");
	double seconds = json_number_value(json_object_get(last, "seconds"));
	char copied[32], zeroed[32], mirrored[32], pause[48];

	if (strcmp(result, "moved") == 0)
		snprintf(buf, len,
			 "migrated to %s in %.1f s, %s, %s copied, %s zeroed, %s mirrored",
			 progress_string(last, "destination"), seconds,
			 progress_pause(last, pause, sizeof(pause)),
			 ub_size_format(progress_get(last, "copied_bytes"), copied, sizeof(copied)),
			 ub_size_format(progress_get(last, "zeroed_bytes"), zeroed, sizeof(zeroed)),
			 ub_size_format(progress_get(last, "mirrored_bytes"), mirrored,
					sizeof(mirrored)));
	else
		snprintf(buf, len, "%s%s after %.1f s%s%s",
			 strcmp(result, "cancelled") == 0 ? "was " : "", result, seconds,
			 *why ? ": " : "", why);
	return buf;
}
