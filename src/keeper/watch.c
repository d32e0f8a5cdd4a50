/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper while its device is live. */
#include "keeper/watch.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/size.h"
#include "base/step.h"
#include "keeper/job/detach.h"
#include "keeper/jobs.h"
#include "keeper/keeper.h"
#include "keeper/kernel.h"
#include "keeper/life.h"
#include "keeper/recover.h"
#include "keeper/shared.h"
#include "keeper/standby.h"
#include "keeper/upgrade.h"

#define WATCH_EXIT_MS 5000

/* ---- the end ------------------------------------------------------------- */

/* A step on the way down: it cannot fail, but the process can be killed there. */
static void watch_step(const char *name)
{
	struct ub_err ignored;

	ub_step(name, &ignored);
}

static void watch_say_served(const struct ub_keeper *k)
{
	uint64_t ios[UB_NR_OPS] = { 0 }, bytes[UB_NR_OPS] = { 0 }, errors = 0;
	char read[32], written[32];

	for (unsigned i = 0; i < k->device.info.nr_hw_queues; i++) {
		for (unsigned op = 0; op < UB_NR_OPS; op++) {
			ios[op] += ub_stat_read(&k->shared.stats->queues[i].ios[op]);
			bytes[op] += ub_stat_read(&k->shared.stats->queues[i].bytes[op]);
			errors += ub_stat_read(&k->shared.stats->queues[i].errors[op]);
		}
	}
	ub_log(UB_LOG_NOTICE,
	       "/dev/ublkb%u served %llu reads (%s), %llu writes (%s), %llu flushes, %llu "
	       "discards, %llu "
	       "writes of zeroes; %llu failed",
	       k->device.info.dev_id, (unsigned long long)ios[UB_OP_READ],
	       ub_size_format(bytes[UB_OP_READ], read, sizeof(read)),
	       (unsigned long long)ios[UB_OP_WRITE],
	       ub_size_format(bytes[UB_OP_WRITE], written, sizeof(written)),
	       (unsigned long long)ios[UB_OP_FLUSH], (unsigned long long)ios[UB_OP_DISCARD],
	       (unsigned long long)ios[UB_OP_WRITE_ZEROES], (unsigned long long)errors);
}

void ub_watch_teardown(struct ub_keeper *k, bool force)
{
	ub_life_enter(k, UB_GOING);
	ub_kernel_stop(k, force);
	watch_step("end-server");
	if (k->server->pid && !k->server->gone && k->server->fd >= 0)
		ub_message_send_type(k->server->fd, UB_MSG_EXIT); /* it may have ended by itself */
	if (k->standby->pid && !k->standby->gone)
		ub_message_send_type(k->standby->fd, UB_MSG_EXIT);
	ub_server_end(k->server, WATCH_EXIT_MS);
	ub_server_end(k->standby, WATCH_EXIT_MS);
	ub_links_clear(&k->links);
	ub_jobs_raise(k, UB_EVENT_ENDING);
	ub_command_end(&k->side->command); /* after the last flush */
	if (k->was_live)
		watch_say_served(k); /* what the kernel wrote back at the end included */
	ub_kernel_delete(k);
	ub_detach_answer(k, &(struct ub_err){ .code = 0 });
	ub_control_close(&k->control);
	watch_step("remove-rundir");
	ub_rundir_remove(&k->rundir);
	ub_shared_release(k);
	free(k->side->identity);
	k->side->identity = NULL;
	ub_life_enter(k, UB_OVER);
}

/* Who insisted did not wait for it. */
static void watch_say_rest(struct ub_keeper *k)
{
	char rest[120];

	if (!k->shared.stats)
		return;
	ub_ranges_describe_rest(k->shared.ledger, k->side->limits.size_bytes, rest, sizeof(rest));
	if (rest[0])
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->device.info.dev_id, rest);
}

/* is_wanted: somebody asked for the end, and got it. */
static int watch_finish(struct ub_keeper *k, bool is_wanted)
{
	bool died = k->server->gone && k->server->status != 0;
	char fate[96];

	if (died)
		ub_log(UB_LOG_ERROR, "/dev/ublkb%u: the server %s: the device is taken away",
		       k->device.info.dev_id, ub_server_fate(k->server, fate, sizeof(fate)));
	else if (k->server->gone && !k->signals.nr && !is_wanted)
		ub_log(UB_LOG_NOTICE, "/dev/ublkb%u was stopped by somebody else",
		       k->device.info.dev_id);
	ub_jobs_raise(k, UB_EVENT_GOING);
	watch_say_rest(k);
	ub_watch_teardown(k, k->signals.nr > 1 || k->job.detach.is_forced);
	return died ? UB_EXIT_FAILED : UB_EXIT_DONE;
}

/* ---- while it lives ------------------------------------------------------ */

/* The server has gone. 0: another one serves; else the device is to be taken away. */
static int watch_recover(struct ub_keeper *k)
{
	struct ub_err err = { 0 };
	int ret = k->recovery.is_on ? ub_recover(k, &err) : -ENODEV;

	if (ret && ret != -ENODEV && err.code)
		ub_log(UB_LOG_ERROR, "/dev/ublkb%u cannot be recovered: %s", k->device.info.dev_id,
		       err.text);
	return ret;
}

/* Until the device is to be taken away. True: somebody wants that. */
static bool watch_live(struct ub_keeper *k)
{
	int wait_ms;

	for (;;) {
		if (k->server->gone && watch_recover(k) != 0)
			return false;
		wait_ms = ub_jobs_sooner(ub_jobs_tend(k), ub_standby_tend(k));
		if (k->job.handover.is_asked) {
			ub_upgrade_hand_over(k);
			if (k->life == UB_OVER)
				return false;
			wait_ms = 0; /* it is back, and has no standby */
		}
		if (ub_detach_tend(k, &wait_ms))
			return true;
		if (!k->server->gone)
			ub_loop_once(&k->loop, wait_ms);
	}
}

int ub_watch(struct ub_keeper *k)
{
	bool is_wanted = watch_live(k);

	return k->life == UB_OVER ? UB_EXIT_DONE : watch_finish(k, is_wanted);
}
