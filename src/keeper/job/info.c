/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a keeper answers. Nothing here waits for anything. */
#include "keeper/job/verbs.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keeper/job/set.h"
#include "keeper/keeper.h"
#include "run/ranges.h"

#include "config.h"

void ub_verb_show_ranges(const struct ub_keeper *k, json_t *reply)
{
	struct ub_ranges r;

	ub_ranges_read(k->shared.ledger, k->shared.stats ? ub_stat_side(k->shared.stats) : 0,
		       k->side->limits.size_bytes, ub_now_ms(), &r);
	ub_ranges_to_json(k->side->o->nbd ? &r : NULL, k->side->o->nbd, reply);
}

/* What its memory takes of the machine, or how many connections were asked for. */
static void verb_show_source(const struct ub_keeper *k, json_t *reply)
{
	const struct ub_side_options *o = k->side->o;
	bool is_memory = strcmp(o->kind, "mem") == 0;
	int fd = k->side->store_fd;
	struct stat st;

	json_object_set_new(reply, "memory_bytes",
			    is_memory && fd >= 0 && fstat(fd, &st) == 0 ?
				    json_integer((json_int_t)st.st_blocks * 512) :
				    json_null());
	json_object_set_new(reply, "connections_asked",
			    o->nbd ? json_integer((json_int_t)o->nbd->nr_connections) :
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
	snprintf(device, sizeof(device), "/dev/ublkb%u", k->device.info.dev_id);
	info = json_pack("{s:s, s:s, s:i, s:i, s:i, s:o, s:i, s:s, s:s, s:I, s:i, s:b, s:i, s:i, "
			 "s:i, s:s, s:s}",
			 "name", k->rundir.name, "device", device, "id", (int)k->device.info.dev_id,
			 "keeper_pid", (int)getpid(), "server_pid", (int)k->server->pid,
			 "standby_pid",
			 k->standby->stage == UB_STANDBY_READY ? json_integer(k->standby->pid) :
								 json_null(),
			 "recoveries", (int)k->recovery.nr_done, "state", ub_life_name(k),
			 "backend", k->side->o->kind, "size_bytes",
			 (json_int_t)k->side->limits.size_bytes, "logical_block_bytes",
			 (int)k->side->limits.logical_block_bytes, "read_only",
			 (int)k->side->limits.read_only, "queues", (int)k->device.info.nr_hw_queues,
			 "depth", (int)k->device.info.queue_depth, "max_io_bytes",
			 (int)k->device.info.max_io_buf_bytes, "data_path",
			 ub_data_path_name(k->device.data_path), "program_version",
			 PACKAGE_VERSION);
	json_object_update(reply, info);
	json_decref(info);
	verb_show_source(k, reply);
	ub_set_show(k, reply);
	ub_verb_show_ranges(k, reply);
	json_object_set_new(reply, "migration", ub_migrate_to_json(k));
	json_object_set_new(reply, "last_migration", ub_migrate_last_to_json(k));
	return 0;
}
