/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a keeper answers. Nothing here waits for anything. */
#include "keeper/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keeper/keeper.h"
#include "keeper/ranges.h"

#include "config.h"

static const char *verb_state(const struct ub_keeper *k)
{
	if (!k->was_live)
		return "attaching";
	if (k->recovery.is_running)
		return "recovering";
	if (k->server->gone)
		return "ending";
	return k->recovery.has_failed ? "failed" : "live";
}

void ub_verb_show_ranges(const struct ub_keeper *k, json_t *reply)
{
	struct ub_ranges r;

	ub_ranges_read(k->ledger, k->stats ? ub_stat_side(k->stats) : 0, k->limits.size_bytes,
		       ub_now_ms(), &r);
	ub_ranges_to_json(k->opts->nbd ? &r : NULL, k->opts->nbd, reply);
}

/* What its memory takes of the machine, or how many connections were asked for. */
static void verb_show_source(const struct ub_keeper *k, json_t *reply)
{
	bool is_memory = strcmp(k->opts->kind, "mem") == 0;
	struct stat st;

	json_object_set_new(reply, "memory_bytes",
			    is_memory && k->store_fd >= 0 && fstat(k->store_fd, &st) == 0 ?
				    json_integer((json_int_t)st.st_blocks * 512) :
				    json_null());
	json_object_set_new(reply, "connections_asked",
			    k->opts->nbd ? json_integer((json_int_t)k->opts->nbd->nr_connections) :
					   json_null());
}

int ub_verb_info(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		 json_t *reply, struct ub_err *err)
{
	char device[32];
	json_t *info;

	(void)caller;
	(void)args;
	(void)err;
	snprintf(device, sizeof(device), "/dev/ublkb%u", k->info.dev_id);
	info = json_pack("{s:s, s:s, s:i, s:i, s:i, s:o, s:i, s:s, s:s, s:I, s:i, s:b, s:i, s:i, "
			 "s:i, s:s, s:s}",
			 "name", k->rundir.name, "device", device, "id", (int)k->info.dev_id,
			 "keeper_pid", (int)getpid(), "server_pid", (int)k->server->pid,
			 "standby_pid",
			 k->standby->stage == UB_STANDBY_READY ? json_integer(k->standby->pid) :
								 json_null(),
			 "recoveries", (int)k->recovery.nr_done, "state", verb_state(k), "backend",
			 k->opts->kind, "size_bytes", (json_int_t)k->limits.size_bytes,
			 "logical_block_bytes", (int)k->limits.logical_block_bytes, "read_only",
			 (int)k->limits.read_only, "queues", (int)k->info.nr_hw_queues, "depth",
			 (int)k->info.queue_depth, "max_io_bytes", (int)k->info.max_io_buf_bytes,
			 "data_path", ub_data_path_name(k->data_path), "program_version",
			 PACKAGE_VERSION);
	json_object_update(reply, info);
	json_decref(info);
	verb_show_source(k, reply);
	ub_settings_show(k, reply);
	ub_verb_show_ranges(k, reply);
	json_object_set_new(reply, "migration", ub_migrate_to_json(k));
	json_object_set_new(reply, "last_migration", ub_migrate_last_to_json(k));
	return 0;
}

/* ---- detach -------------------------------------------------------------- */

/* Those that have gone make room. */
static void verb_forget_callers(struct ub_keeper *k)
{
	struct ub_keeper_detach *d = &k->detach;
	unsigned nr = 0;

	for (unsigned i = 0; i < d->nr_callers; i++) {
		if (ub_control_is_awaited(&k->control, d->callers[i]))
			d->callers[nr++] = d->callers[i];
	}
	d->nr_callers = nr;
}

bool ub_verb_detach_is_awaited(struct ub_keeper *k)
{
	verb_forget_callers(k);
	return k->detach.nr_callers > 0;
}

int ub_verb_detach(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		   json_t *reply, struct ub_err *err)
{
	const json_t *force = json_object_get(args, "force");

	(void)reply;
	if (force && !json_is_boolean(force))
		return ub_err_set(err, EINVAL, "force: it is true or false");
	if (!k->was_live)
		return ub_err_set(err, EAGAIN, "the device is not live yet: try again");
	if (ub_migrate_is_on(k) && !json_is_true(force))
		return ub_err_set(err, EBUSY,
				  "/dev/ublkb%u stays: it is being migrated to %.200s: cancel that "
				  "first (migrate --cancel), or use --force",
				  k->info.dev_id, k->migration.label);
	verb_forget_callers(k);
	if (k->detach.nr_callers == UB_CONTROL_MAX_CLIENTS)
		return ub_err_set(err, EBUSY, "%u others wait for it already",
				  UB_CONTROL_MAX_CLIENTS);
	k->detach.callers[k->detach.nr_callers++] = caller;
	k->detach.is_forced |= json_is_true(force);
	return 1; /* keeper_watch() sees it */
}

void ub_verb_detach_answer(struct ub_keeper *k, const struct ub_err *err)
{
	struct ub_keeper_detach asked = k->detach;

	/* An answer may be followed by the next request. */
	k->detach.nr_callers = 0;
	for (unsigned i = 0; i < asked.nr_callers; i++)
		ub_control_answer(&k->control, asked.callers[i], NULL, err);
}
