/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking on at a migration, and telling of it. Control plane. */
#include "cli/watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "cli/common.h"
#include "cli/progress.h"
#include "run/ask-keeper.h"
#include "run/state.h"
#include "run/find.h"

#define WATCH_LOOK_TIMEOUT_MS 2000
#define WATCH_LOOK_MIN_MS     50
#define WATCH_LOOK_MAX_MS     1000
#define WATCH_DRAW_EVERY_MS   200   /* where somebody does */
#define WATCH_TELL_EVERY_MS   10000 /* where nobody watches a terminal */
#define WATCH_PATIENCE_MS     60000 /* with a device that has no keeper just now */
/* with a keeper that has just come, and may know of it yet */
#define WATCH_UNKNOWN_MS 5000
#define WATCH_COLUMNS	 80

struct watch {
	const struct ub_state *state; /* of the device */
	struct ub_err *err;
	const json_t *before; /* how the one before it ended: no news */
	struct ub_progress progress;
	uint64_t heard_ms, known_ms; /* when the keeper answered last; and knew of it */
	uint64_t told_ms;
	char phase[16]; /* the last that was told */
	size_t drawn;	/* the columns of the bar that stands on the terminal; 0: none */
	bool is_cancelled;
};

static volatile sig_atomic_t watch_signal;

static void watch_on_signal(int number)
{
	watch_signal = number;
}

/* The second one ends it at once. */
void ub_cli_watch_catch_signals(void)
{
	struct sigaction action = { .sa_handler = watch_on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static unsigned watch_columns(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
		return size.ws_col - 1U;
	return WATCH_COLUMNS - 1;
}

/* To where the bar began. */
static void watch_erase(const struct watch *w)
{
	const char *term = getenv("TERM");
	/* These cut a line that is too long for a window that was made narrower, others wrap it. */
	bool wraps = !getenv("XTERM_VERSION") && (!term || strcmp(term, "linux") != 0);
	char text[256];

	fputs(ub_progress_erase(w->drawn, wraps ? watch_columns() + 1 : 0, text, sizeof(text)),
	      stderr);
}

static void watch_clear(struct watch *w)
{
	if (w->drawn)
		watch_erase(w);
	w->drawn = 0;
}

/*
 * A terminal has one line that is drawn again and again; else there is one for a phase, and for a
 * while.
 */
static void watch_tell(struct watch *w, const json_t *migration)
{
	const char *phase = json_string_value(json_object_get(migration, "phase"));
	uint64_t now = ub_now_ms();
	char text[512];

	ub_progress_take(&w->progress, migration, now);
	if (isatty(STDERR_FILENO)) {
		ub_progress_bar(&w->progress, migration, watch_columns(), text, sizeof(text));
		watch_erase(w);
		fputs(text, stderr);
		w->drawn = ub_cli_width(text);
		return;
	}
	if (!phase || (strcmp(phase, w->phase) == 0 && now - w->told_ms < WATCH_TELL_EVERY_MS))
		return;
	snprintf(w->phase, sizeof(w->phase), "%s", phase);
	w->told_ms = now;
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: %s", w->state->dev_id,
	       ub_progress_text(&w->progress, migration, text, sizeof(text)));
}

/* The device, and not another that has its number by now. */
static bool watch_is_there(const struct watch *w)
{
	struct ub_state state;
	struct ub_err ignored;
	char device[32];
	int ret;

	snprintf(device, sizeof(device), "/dev/ublkb%u", w->state->dev_id);
	ret = ub_device_find_state(device, &state, NULL, &ignored);
	return ret == 0 ? state.cookie == w->state->cookie :
			  ret != -ENODEV && ret != -ENOENT && ret != -EPERM;
}

/* 0 with *info, -EAGAIN: nobody answers just now, or another -errno with *err: nobody will. */
static int watch_look(struct watch *w, json_t **info)
{
	struct ub_err err = { 0 };

	if (ub_control_ask(w->state->name, json_pack("{s:s}", "verb", "info"), info,
			   WATCH_LOOK_TIMEOUT_MS, &err) == 0) {
		w->heard_ms = ub_now_ms();
		return 0;
	}
	if (!watch_is_there(w))
		return ub_err_set(w->err, ENODEV, "/dev/ublkb%u has gone meanwhile",
				  w->state->dev_id);
	if (ub_now_ms() - w->heard_ms <= WATCH_PATIENCE_MS)
		return -EAGAIN;
	*w->err = err;
	ub_err_wrap(w->err, "nobody says how the migration goes on (ublk-bridge recover %s)",
		    w->state->name);
	return -EHOSTDOWN;
}

/* Where a signal has come: until somebody has heard of it. */
static void watch_cancel(struct watch *w)
{
	struct ub_err err = { 0 };
	json_t *reply = NULL;
	int ret;

	if (!watch_signal || w->is_cancelled)
		return;
	ret = ub_control_ask(w->state->name, json_pack("{s:s}", "verb", "migrate-cancel"), &reply,
			     WATCH_LOOK_TIMEOUT_MS, &err);
	json_decref(reply);
	if (ret == -EAGAIN || ret == -ECONNREFUSED || ret == -ENOENT || ret == -ECONNRESET ||
	    ret == -ETIMEDOUT)
		return; /* that is seen when it is looked at next, or tried again */
	w->is_cancelled = true;
	watch_clear(w);
	if (ret)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: it cannot be cancelled: %s", w->state->dev_id,
		       err.text);
}

/*
 * It is over, as far as this keeper knows: 1 with *last, which is new; 0: not known yet; -errno
 * with *err.
 */
static int watch_end(struct watch *w, json_t *info, json_t **last)
{
	json_t *found = json_object_get(info, "last_migration");

	if (json_is_object(found) && !json_equal(found, w->before)) {
		*last = json_incref(found);
		return 1;
	}
	if (ub_now_ms() - w->known_ms < WATCH_UNKNOWN_MS)
		return 0;
	return ub_err_set(w->err, ENOENT,
			  "/dev/ublkb%u: its keeper knows of no migration any more: 'ublk-bridge "
			  "info' says what it serves",
			  w->state->dev_id);
}

/*
 * One look: 0: it goes on; 1: both sides agree, and that was waited for; 2: it is over, *last;
 * -errno with *err.
 */
static int watch_once(struct watch *w, bool until_in_step, json_t **last)
{
	json_t *info = NULL, *migration;
	int ret = watch_look(w, &info);

	if (ret)
		return ret == -EAGAIN ? 0 : ret;
	migration = json_object_get(info, "migration");
	if (json_is_object(migration)) {
		const char *phase = json_string_value(json_object_get(migration, "phase"));

		w->known_ms = ub_now_ms();
		watch_tell(w, migration);
		ret = until_in_step && phase && strcmp(phase, "in-step") == 0;
	} else {
		ret = watch_end(w, info, last);
		ret = ret == 1 ? 2 : ret;
	}
	json_decref(info);
	return ret;
}

/*
 * A look costs the machine something, and the move with it: what has taken long may be known a
 * little later.
 */
static int watch_wait_ms(uint64_t since_ms)
{
	uint64_t wait = (ub_now_ms() - since_ms) / 3;
	uint64_t most = isatty(STDERR_FILENO) ? WATCH_DRAW_EVERY_MS : WATCH_LOOK_MAX_MS;

	wait = wait < WATCH_LOOK_MIN_MS ? WATCH_LOOK_MIN_MS : wait;
	return (int)(wait < most ? wait : most);
}

bool ub_cli_watch_has_signal(void)
{
	return watch_signal;
}

int ub_cli_watch(const struct ub_state *state, const json_t *before, bool until_in_step,
		 json_t **last, struct ub_err *err)
{
	struct watch w = { .state = state, .err = err, .before = before };
	uint64_t since_ms = ub_now_ms();
	int ret;

	w.heard_ms = w.known_ms = since_ms;
	for (;;) {
		watch_cancel(&w);
		ret = watch_once(&w, until_in_step, last);
		if (ret)
			break;
		poll(NULL, 0, watch_wait_ms(since_ms));
	}
	watch_clear(&w);
	return ret;
}
