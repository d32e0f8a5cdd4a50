/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Handing a device over to the next version's keeper, and taking it. Both keepers' main threads. */
#include "keeper/upgrade.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/journal.h"
#include "base/log.h"
#include "base/process.h"
#include "base/step.h"
#include "keeper/adopt.h"
#include "keeper/job/verbs.h"
#include "keeper/note.h"
#include "keeper/recover.h"
#include "keeper/standby.h"
#include "run/ask-keeper.h"

#define UPGRADE_ASK_MS 30000
/* for the new keeper: to make a standby, and to have the server yield */
#define UPGRADE_WAIT_MS	   120000
#define UPGRADE_TRIES_MS   100000 /* the last try begins before that, and may take the rest */
#define UPGRADE_LINE_BYTES 512

/* ---- the old keeper ------------------------------------------------------ */

int ub_verb_handover(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		     json_t *reply, struct ub_err *err)
{
	(void)args;
	(void)reply;
	if (!k->was_live || k->server->gone || k->life == UB_RECOVERING)
		return ub_err_set(err, EAGAIN, "the device is not live now: try again");
	if (!k->recovery.is_on)
		return ub_err_set(err, EOPNOTSUPP,
				  "this device goes with its server (--no-recovery, or a kernel "
				  "that cannot recover devices): it "
				  "cannot be upgraded while it is in use");
	if (k->side->o->nbd && k->side->o->nbd->address.transport == NBD_SOCKET &&
	    !k->side->o->nbd->restarts)
		return ub_err_set(err, EOPNOTSUPP,
				  "the connection of this device was handed over ready made (--fd, "
				  "--command) and would end with its "
				  "server: it cannot be upgraded while it is in use");
	if (k->job.handover.is_asked)
		return ub_err_set(err, EBUSY, "it is being upgraded already");
	k->job.handover.is_asked = true;
	k->job.handover.caller = caller;
	return 1; /* keeper_watch() sees it */
}

/* A line of the new keeper's: `done`. False: it has gone, or says something else. */
static bool upgrade_await_done(int fd, pid_t *pid)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	uint64_t deadline = ub_now_ms() + UPGRADE_WAIT_MS, now;
	char line[UPGRADE_LINE_BYTES] = "";
	size_t len = 0;
	json_t *json;
	bool is_done;

	while (!memchr(line, '\n', len)) {
		ssize_t n;

		now = ub_now_ms();
		if (len == sizeof(line) || now >= deadline ||
		    poll(&poll_fd, 1, (int)(deadline - now)) == 0)
			return false;
		n = recv(fd, line + len, sizeof(line) - len, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return false;
		len += (size_t)n;
	}
	json = json_loadb(line, len, 0, NULL);
	is_done =
		json && strcmp(json_string_value(json_object_get(json, "verb")) ?: "", "done") == 0;
	*pid = (pid_t)json_integer_value(json_object_get(json, "pid"));
	json_decref(json);
	return is_done;
}

/*
 * What this keeper knows, and the next one reads from state.json, stays as it is: only the
 * processes change.
 */
static int upgrade_take_back(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	k->control = (struct ub_control)UB_CONTROL_NONE;
	return ub_adopt_again(k, name, err);
}

void ub_upgrade_hand_over(struct ub_keeper *k)
{
	cleanup_fd int fd = ub_control_take(&k->control, k->job.handover.caller);
	static const char ok[] = "{\"ok\":true,\"version\":1}\n";
	char name[UB_NAME_BYTES];
	struct ub_err err = { 0 };
	pid_t pid = 0;

	k->job.handover.is_asked = false;
	if (fd < 0 || k->server->gone)
		/* who asked has gone by now, or there is something else to do first */
		return;
	if (ub_note_write(k, &err) != 0) {
		ub_log(UB_LOG_WARNING, "it is not handed over: %s", err.text);
		return;
	}
	snprintf(name, sizeof(name), "%s", k->rundir.name);
	/*
	 * The standby stays, alone: until the next keeper has the memory it may be the last who
	 * holds it.
	 */
	ub_life_enter(k, UB_HANDING_OVER);
	ub_adopt_let_go(k);
	if (send(fd, ok, sizeof(ok) - 1, MSG_NOSIGNAL) == (ssize_t)sizeof(ok) - 1 &&
	    upgrade_await_done(fd, &pid)) {
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: another keeper (pid %d) has taken over",
		       k->device.info.dev_id, pid);
		ub_journal_main_pid(pid);
		ub_life_enter(k, UB_OVER);
		return;
	}
	ub_log(UB_LOG_WARNING, "/dev/ublkb%u: the new keeper did not come up: this one goes on",
	       k->device.info.dev_id);
	ub_life_enter(k, UB_ADOPTING);
	if (upgrade_take_back(k, name, &err) != 0) {
		ub_log(UB_LOG_ERROR,
		       "/dev/ublkb%u: it cannot be taken back: %s (ublk-bridge recover %u)",
		       k->device.info.dev_id, err.text, k->device.info.dev_id);
		ub_life_enter(k, UB_OVER);
	}
}

/* ---- the new keeper ------------------------------------------------------ */

int ub_upgrade_ask(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	json_t *reply = NULL;
	int ret = ub_step("handover", err);

	if (ret)
		return ret;
	k->job.handover.asked_ms = ub_now_ms();
	ret = ub_control_ask_on(name, json_pack("{s:s}", "verb", "handover"), &reply,
				UPGRADE_ASK_MS, &k->job.handover.old_fd, err);
	json_decref(reply);
	if (ret == -EOPNOTSUPP)
		ub_err_wrap(err,
			    "the keeper of '%s' is of a version that cannot be upgraded while the "
			    "device is in use",
			    name);
	return ret;
}

int ub_upgrade_finish(struct ub_keeper *k, struct ub_err *err)
{
	uint64_t pause_ms = 0, until_ms;
	char line[64];
	int ret = ub_step("upgrade", err), len;

	while (ret == 0 && k->standby->stage != UB_STANDBY_READY) {
		int wait_ms = ub_standby_tend(k);

		/* it has failed once, and this is no time for another try */
		if (k->recovery.standby_delay_ms)
			return ub_err_set(err, ECHILD, "a server of this version does not come up");
		if (k->standby->stage != UB_STANDBY_READY)
			ub_loop_once(&k->loop, wait_ms);
		if (k->signals.nr || k->server->gone)
			ret = ub_err_set(err, EINTR,
					 "interrupted while a server of this version was made");
	}
	until_ms = ub_now_ms() + k->job.handover.wait_ms;
	if (k->job.handover.asked_ms && until_ms > k->job.handover.asked_ms + UPGRADE_TRIES_MS)
		until_ms = k->job.handover.asked_ms + UPGRADE_TRIES_MS;
	if (ret == 0)
		ret = ub_recover_switch(k, until_ms, &pause_ms, err);
	if (ret) {
		if (!err->code)
			ub_err_errno(err, -ret, "/dev/ublkb%u", k->device.info.dev_id);
		return ret;
	}
	len = snprintf(line, sizeof(line), "{\"verb\":\"done\",\"pid\":%d}\n", getpid());
	if (k->job.handover.old_fd >= 0 &&
	    send(k->job.handover.old_fd, line, (size_t)len, MSG_NOSIGNAL) != len)
		ub_log(UB_LOG_DEBUG, "the old keeper has gone already");
	ub_close(&k->job.handover.old_fd);
	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: upgraded; I/O stood still for %llu ms",
	       k->device.info.dev_id, (unsigned long long)pause_ms);
	return 0;
}
