/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CONFIG and SERVE. */
#include "keeper/brief.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "keeper/keeper.h"
#include "ublk/device.h"

/* The message that says what is to be served. *msg is the caller's to free(). */
static int keeper_make_config(struct ub_keeper *k, bool is_standby, struct ub_msg_config **msg,
			      struct ub_err *err)
{
	const struct ub_side_options *o = k->side->o;
	cleanup_free char *json = o->nbd ? nbd_options_to_json(o->nbd) : NULL;
	const char *options = json ? json : o->options;
	const char *identity = is_standby && k->side->identity ? k->side->identity : "";
	const char *kind = k->recovery.has_failed ? "error" : o->kind;
	size_t options_bytes = strlen(options) + 1, identity_bytes = strlen(identity) + 1;
	size_t len = sizeof(**msg) + options_bytes + identity_bytes;

	if ((o->nbd && !json) || !(*msg = calloc(1, len)))
		return ub_err_errno(err, ENOMEM, "the message to the server");
	if (len > UB_MESSAGE_MAX_BYTES)
		return ub_err_set(err, E2BIG, "the options of the back end are too long");
	(*msg)->header.type = UB_MSG_CONFIG;
	(*msg)->header.len_bytes = (uint32_t)len;
	(*msg)->size_bytes = is_standby ? k->side->limits.size_bytes : o->size_bytes;
	(*msg)->logical_block_bytes =
		is_standby ? k->side->limits.logical_block_bytes : o->logical_block_bytes;
	(*msg)->nr_queues = k->opts->nr_queues ? k->opts->nr_queues : 1;
	(*msg)->read_only = k->opts->read_only;
	(*msg)->has_fd = k->side->store_fd >= 0;
	(*msg)->core_dump = k->opts->core_dump;
	(*msg)->log_level = (uint8_t)ub_log_get_level();
	(*msg)->options_bytes = (uint32_t)options_bytes;
	snprintf((*msg)->kind, sizeof((*msg)->kind), "%s", kind);
	memcpy((*msg)->options, options, options_bytes);
	memcpy((*msg)->options + options_bytes, identity, identity_bytes);
	return 0;
}

int ub_brief_send_config(struct ub_keeper *k, struct ub_server *server, struct ub_err *err)
{
	cleanup_free struct ub_msg_config *msg = NULL;
	int ret = keeper_make_config(k, server == k->standby, &msg, err);

	if (ret)
		return ret;
	ret = ub_message_send(server->fd, &msg->header, &k->side->store_fd, k->side->store_fd >= 0,
			      0);
	return ret ? ub_err_errno(err, -ret, "the server cannot be reached") : 0;
}

/* Asks the kernel which CPUs each queue serves. */
static int keeper_get_masks(struct ub_keeper *k, struct ub_msg_serve *msg, struct ub_err *err)
{
	uint8_t mask[UB_CPU_MASK_BYTES];
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	msg->mask_bytes = (uint32_t)(((cpus > 0 ? cpus : 1) + 63) / 64 * 8);
	if (sizeof(*msg) + (size_t)msg->mask_bytes * msg->nr_queues > UB_MESSAGE_MAX_BYTES)
		msg->mask_bytes = 0; /* a giant machine: its threads go where the scheduler likes */
	for (unsigned i = 0; i < msg->nr_queues && msg->mask_bytes; i++) {
		int ret = ub_ctrl_get_affinity(&k->device.ctrl, k->device.info.dev_id, (uint16_t)i,
					       mask, sizeof(mask), err);

		if (ret)
			return ret;
		memcpy(msg->masks + (size_t)i * msg->mask_bytes, mask, msg->mask_bytes);
	}
	return 0;
}

int ub_brief_send_serve(struct ub_keeper *k, struct ub_server *server, struct ub_err *err)
{
	struct ub_msg_serve *msg = (struct ub_msg_serve *)calloc(1, UB_MESSAGE_MAX_BYTES);
	const int all[UB_NR_SERVE_FDS] = { [UB_FD_STATS] = k->shared.stats_fd,
					   [UB_FD_LISTEN] = k->rundir.listen_fd,
					   [UB_FD_ARENA] = k->shared.arena_fd,
					   [UB_FD_STORE] = -1,
					   [UB_FD_LEDGER] = k->shared.ledger_fd };
	cleanup_free void *free_msg = msg;
	int packed[UB_MESSAGE_MAX_FDS], ret;
	unsigned nr;

	if (!msg)
		return ub_err_errno(err, ENOMEM, "the message to the server");
	msg->header.type = UB_MSG_SERVE;
	msg->dev_id = k->device.info.dev_id;
	msg->nr_queues = k->device.info.nr_hw_queues;
	msg->depth = k->device.info.queue_depth;
	msg->max_io_bytes = k->device.info.max_io_buf_bytes;
	msg->data_path = k->device.data_path;
	msg->served_pid = server == k->standby ? k->server->pid : 0;
	msg->scans_partitions =
		!k->recovery.is_on || (k->device.info.flags & UBLK_F_NO_AUTO_PART_SCAN);
	msg->flags = k->opts->no_stats ? UB_SERVE_NO_STATS : 0;
	ret = keeper_get_masks(k, msg, err);
	if (ret)
		return ret;
	msg->header.len_bytes = (uint32_t)(sizeof(*msg) + (size_t)msg->mask_bytes * msg->nr_queues);
	nr = ub_message_pack_fds(all, UB_NR_SERVE_FDS, server->version, packed, &msg->has_fd);
	ret = ub_message_send(server->fd, &msg->header, packed, nr, 0);
	return ret ? ub_err_errno(err, -ret, "the server cannot be reached") : 0;
}
