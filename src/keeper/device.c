/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's device as the keeper makes and unmakes it:
 *
 *   ADD_DEV ─ SET_PARAMS ─ SERVE ─(FETCHING)─ START_DEV ─ LIVE ─ …
 *     … ─ STOP_DEV ─(server ends)─ DEL_DEV
 *
 * Every step that fails leads to ub_keeper_teardown(), which undoes those before it, whichever they
 * were. What happens when the server dies in between is recover.c's. The keeper's main thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/process.h"
#include "base/size.h"
#include "base/step.h"
#include "helper/helper.h"
#include "keeper/keeper.h"
#include "keeper/recipe.h"
#include "keeper/verbs.h"
#include "run/ask-server.h"
#include "run/cookie.h"
#include "run/state.h"
#include "ublk/device.h"
#include "ublk/params.h"

#define RECOVERY_FLAGS	  (UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE)
#define FETCH_TIMEOUT_MS  30000
#define SYNC_TIMEOUT_MS	  2000
#define EXIT_TIMEOUT_MS	  5000
#define DEL_TIMEOUT_MS	  5000
#define KILLED_TIMEOUT_MS 45000 /* Linux 6.12 may notice a server's death only after 30 s */

static int64_t keeper_timeout_ms(const struct ub_keeper *k)
{
	return (int64_t)k->opts->timeout_s * 1000;
}

/* ---- ADD_DEV and SET_PARAMS ---------------------------------------------- */

/*
 * The largest I/O: what was asked for, or what fits in the arena where it must be locked in memory.
 */
static uint32_t keeper_max_io(const struct ub_keeper *k, unsigned nr_queues, unsigned depth)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE), most = k->side->limits.max_io_bytes;
	uint64_t fits = UB_DEFAULT_ARENA_BYTES / ((uint64_t)nr_queues * depth);
	bool is_placed = (k->side->caps & UB_CAP_PLACE) && k->data_path != UB_DATA_PATH_COPY;

	if (most > UB_MAX_IO_BYTES)
		most = UB_MAX_IO_BYTES;
	if (k->opts->max_io_bytes)
		most = k->opts->max_io_bytes < most ? k->opts->max_io_bytes : most;
	else if (!is_placed && fits < most)
		most = (uint32_t)fits;
	most = most / page * page;
	most = most < UB_MIN_IO_BYTES ? UB_MIN_IO_BYTES : most;
	if (k->opts->max_io_bytes && most != k->opts->max_io_bytes)
		ub_log(UB_LOG_NOTICE,
		       "--max-io %u becomes %u: whole pages, and what %s takes at the most",
		       k->opts->max_io_bytes, most, k->side->o->kind);
	return most;
}

static int keeper_check_added(struct ub_keeper *k, uint64_t wanted, unsigned nr_queues,
			      unsigned depth, struct ub_err *err)
{
	const struct ublksrv_ctrl_dev_info *info = &k->info;

	if ((info->flags & wanted) != wanted)
		return ub_err_set(err, EOPNOTSUPP,
				  "the kernel did not grant the data path %s: try --data-path copy",
				  ub_data_path_name(k->data_path));
	if (k->recovery.is_on && (info->flags & RECOVERY_FLAGS) != RECOVERY_FLAGS)
		return ub_err_set(err, EOPNOTSUPP,
				  "the kernel did not grant the device's recovery: try "
				  "--no-recovery");
	if (info->nr_hw_queues == 0 || info->queue_depth == 0 ||
	    info->max_io_buf_bytes < UB_MIN_IO_BYTES)
		return ub_err_set(err, EPROTO,
				  "the kernel granted %u queues, depth %u, I/O of %u bytes",
				  info->nr_hw_queues, info->queue_depth, info->max_io_buf_bytes);
	if (info->nr_hw_queues != nr_queues || info->queue_depth != depth)
		ub_log(UB_LOG_NOTICE, "the kernel granted %u queues of depth %u, not %u of %u",
		       info->nr_hw_queues, info->queue_depth, nr_queues, depth);
	return 0;
}

static int keeper_set_params(struct ub_keeper *k, struct ub_err *err)
{
	struct ublk_params params;
	int ret = ub_step("set-params", err);

	if (ret)
		return ret;
	ub_params_from_limits(&k->side->limits, k->info.max_io_buf_bytes, &params);
	return ub_ctrl_set_params(&k->ctrl, k->info.dev_id, &params, err);
}

/* As asked for, or as suits the back end; one is the default, and no more than CPUs of use. */
static unsigned keeper_nr_queues(const struct ub_keeper *k)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	unsigned nr = k->side->limits.nr_queues ? k->side->limits.nr_queues : 1;

	if (k->opts->nr_queues)
		return k->opts->nr_queues;
	return cpus > 0 && nr > (unsigned long)cpus ? (unsigned)cpus : nr;
}

int ub_keeper_add(struct ub_keeper *k, struct ub_err *err)
{
	unsigned nr_queues = keeper_nr_queues(k);
	unsigned depth = k->opts->depth ? k->opts->depth : UB_DEFAULT_DEPTH;
	uint64_t wanted;
	int ret;

	k->data_path = k->opts->data_path;
	ret = ub_step("add-dev", err);
	if (ret == 0)
		ret = ub_data_path_choose(&k->data_path, k->features, k->side->caps, err);
	if (ret)
		return ret;
	wanted = ub_data_path_flag(k->data_path);
	k->recovery.is_on =
		!k->opts->no_recovery && (k->features & RECOVERY_FLAGS) == RECOVERY_FLAGS;
	if (!k->recovery.is_on && !k->opts->no_recovery)
		ub_log(UB_LOG_WARNING,
		       "this kernel cannot recover devices: the device goes when its server dies");
	k->info = (struct ublksrv_ctrl_dev_info){
		.nr_hw_queues = (uint16_t)nr_queues,
		.queue_depth = (uint16_t)depth,
		.max_io_buf_bytes = keeper_max_io(k, nr_queues, depth),
		.dev_id = k->opts->id < 0 ? UINT32_MAX : (uint32_t)k->opts->id,
		/*
		 * The helper scans, once and before the device is announced, where the kernel lets
		 * it.
		 */
		.flags = wanted | (k->features & UBLK_F_NO_AUTO_PART_SCAN) |
			 (k->recovery.is_on ? RECOVERY_FLAGS : 0),
		.ublksrv_flags = ub_cookie_make(),
	};
	ret = ub_ctrl_add(&k->ctrl, &k->info, err);
	if (ret)
		return ret;
	k->added = true;
	ret = ub_step("added", err);
	if (ret == 0)
		ret = keeper_check_added(k, wanted, nr_queues, depth, err);
	return ret ? ret : keeper_set_params(k, err);
}

/* ---- SERVE: the server opens the device and fetches ---------------------- */

static int keeper_make_stats(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_stats_bytes(k->info.nr_hw_queues);
	void *page;

	k->stats_fd = memfd_create("ublk-bridge-stats", MFD_CLOEXEC);
	/* Its pages are there from now on: whoever counts never waits for memory. */
	if (k->stats_fd < 0 || fallocate(k->stats_fd, 0, 0, (off_t)len) < 0)
		return ub_err_errno(err, errno, "the statistics page of %zu bytes", len);
	page = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, k->stats_fd, 0);
	if (page == MAP_FAILED)
		return ub_err_errno(err, errno, "the statistics page");
	k->stats = page;
	k->stats->magic = UB_STATS_MAGIC;
	k->stats->version = UB_STATS_VERSION;
	k->stats->nr_queues = k->info.nr_hw_queues;
	k->stats->start_ns = ub_now_ms() * 1000000;
	k->stats->start_unix_s = (uint64_t)time(NULL);
	return 0;
}

static unsigned keeper_nr_slots(const struct ub_keeper *k)
{
	return (unsigned)k->info.queue_depth + UB_INTERNAL_SLOTS;
}

int ub_keeper_map_ledger(struct ub_keeper *k, struct ub_err *err)
{
	struct stat st;
	void *page;

	if (fstat(k->ledger_fd, &st) < 0)
		return ub_err_errno(err, errno, "the ledger");
	page = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->ledger_fd, 0);
	if (page == MAP_FAILED)
		return ub_err_errno(err, errno, "the ledger");
	k->ledger = page;
	k->ledger_bytes = (size_t)st.st_size;
	k->links.ledger = k->ledger;
	return 0;
}

int ub_keeper_make_ledger(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_ledger_bytes(k->info.nr_hw_queues, keeper_nr_slots(k));
	int ret;

	k->ledger_fd = memfd_create("ublk-bridge-ledger", MFD_CLOEXEC);
	/* Whoever is to send something writes here first, and must not wait for memory then. */
	if (k->ledger_fd < 0 || fallocate(k->ledger_fd, 0, 0, (off_t)len) < 0)
		return ub_err_errno(err, errno, "the ledger of %zu bytes", len);
	ret = ub_keeper_map_ledger(k, err);
	if (ret == 0)
		ub_ledger_init(k->ledger, k->info.nr_hw_queues, keeper_nr_slots(k));
	return ret;
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
		int ret = ub_ctrl_get_affinity(&k->ctrl, k->info.dev_id, (uint16_t)i, mask,
					       sizeof(mask), err);

		if (ret)
			return ret;
		memcpy(msg->masks + (size_t)i * msg->mask_bytes, mask, msg->mask_bytes);
	}
	return 0;
}

int ub_keeper_write_state(struct ub_keeper *k, struct ub_err *err)
{
	struct ub_state state = {
		.dev_id = k->info.dev_id,
		.cookie = k->info.ublksrv_flags,
		.keeper_pid = getpid(),
		.server_pid = k->server->pid,
		.standby_pid = k->standby->stage == UB_STANDBY_READY && !k->standby->is_dismissed ?
				       k->standby->pid :
				       0,
	};
	json_t *recipe, *migration;
	int ret;

	state.standby_started = ub_process_started(state.standby_pid);
	state.spare_pid = k->standby->stage >= UB_STANDBY_PREPARING ? k->standby->pid : 0;
	state.spare_started = ub_process_started(state.spare_pid);
	snprintf(state.name, sizeof(state.name), "%s", k->rundir.name);
	snprintf(state.backend, sizeof(state.backend), "%s", k->side->o->kind);
	migration = ub_migrate_make_state(k, err);
	if (!migration && ub_migrate_is_on(k))
		return -err->code;
	recipe = ub_recipe_make(k, k->side);
	ret = recipe ? ub_state_write(&k->rundir, &state, recipe, migration, err) :
		       ub_err_errno(err, ENOMEM, "state.json");
	json_decref(recipe);
	json_decref(migration);
	if (ret == 0)
		ub_migrate_noted(k);
	return ret;
}

void ub_keeper_note_state(struct ub_keeper *k)
{
	struct ub_err err = { 0 };

	if (ub_keeper_write_state(k, &err) == 0)
		return;
	ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->info.dev_id, err.text);
	k->migration.must_note = true;
}

/* A name is taken while a keeper holds it, and while the device of a dead keeper lives. */
int ub_keeper_check_name(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_state state;
	struct ub_err ignored;

	if (!ub_rundir_is_held(name) &&
	    (ub_state_read(name, &state) != 0 ||
	     ub_ctrl_get_info(&k->ctrl, state.dev_id, &info, &ignored) != 0 ||
	     info.ublksrv_flags != state.cookie))
		return 0;
	return ub_err_set(err, EBUSY,
			  "the name '%s' is taken: choose another --name, or detach that device",
			  name);
}

static int keeper_make_rundir(struct ub_keeper *k, struct ub_err *err)
{
	char name[UB_NAME_BYTES], device[32];
	int ret = ub_step("rundir", err);

	if (ret)
		return ret;
	snprintf(name, sizeof(name), "ublk%u", k->info.dev_id);
	if (k->opts->name)
		snprintf(name, sizeof(name), "%s", k->opts->name);
	snprintf(device, sizeof(device), "/dev/ublkb%u", k->info.dev_id);
	ub_log_set_device(device, name);
	ret = ub_keeper_check_name(k, name, err);
	if (ret == 0)
		ret = ub_rundir_create(&k->rundir, name, err);
	if (ret)
		return ret;
	ub_control_open(&k->control, k, &k->loop, ub_steal_fd(&k->rundir.control_fd));
	return ub_keeper_write_state(k, err);
}

/* Where the tag buffers are locked, the next server has the same ones. */
static int keeper_make_arena(struct ub_keeper *k, struct ub_err *err)
{
	size_t len = ub_device_arena_bytes(k->info.nr_hw_queues, k->info.queue_depth,
					   k->info.max_io_buf_bytes);

	if (!k->recovery.is_on ||
	    ((k->side->caps & UB_CAP_PLACE) && k->data_path != UB_DATA_PATH_COPY))
		return 0;
	k->arena_fd = memfd_create("ublk-bridge-buffers", MFD_CLOEXEC);
	if (k->arena_fd < 0 || ftruncate(k->arena_fd, (off_t)len) < 0)
		return ub_err_errno(err, errno, "tag buffers of %zu bytes", len);
	return 0;
}

int ub_keeper_send_serve(struct ub_keeper *k, struct ub_server *server, struct ub_err *err)
{
	struct ub_msg_serve *msg = (struct ub_msg_serve *)calloc(1, UB_MESSAGE_MAX_BYTES);
	const int all[UB_NR_SERVE_FDS] = { [UB_FD_STATS] = k->stats_fd,
					   [UB_FD_LISTEN] = k->rundir.listen_fd,
					   [UB_FD_ARENA] = k->arena_fd,
					   [UB_FD_STORE] = -1,
					   [UB_FD_LEDGER] = k->ledger_fd };
	cleanup_free void *free_msg = msg;
	int packed[UB_MESSAGE_MAX_FDS], ret;
	unsigned nr;

	if (!msg)
		return ub_err_errno(err, ENOMEM, "the message to the server");
	msg->header.type = UB_MSG_SERVE;
	msg->dev_id = k->info.dev_id;
	msg->nr_queues = k->info.nr_hw_queues;
	msg->depth = k->info.queue_depth;
	msg->max_io_bytes = k->info.max_io_buf_bytes;
	msg->data_path = k->data_path;
	msg->served_pid = server == k->standby ? k->server->pid : 0;
	msg->scans_partitions = !k->recovery.is_on || (k->info.flags & UBLK_F_NO_AUTO_PART_SCAN);
	msg->flags = k->opts->no_stats ? UB_SERVE_NO_STATS : 0;
	ret = keeper_get_masks(k, msg, err);
	if (ret)
		return ret;
	msg->header.len_bytes = (uint32_t)(sizeof(*msg) + (size_t)msg->mask_bytes * msg->nr_queues);
	nr = ub_message_pack_fds(all, UB_NR_SERVE_FDS, server->version, packed, &msg->has_fd);
	ret = ub_message_send(server->fd, &msg->header, packed, nr, 0);
	return ret ? ub_err_errno(err, -ret, "the server cannot be reached") : 0;
}

int ub_keeper_make_shared(struct ub_keeper *k, struct ub_err *err)
{
	int ret = keeper_make_stats(k, err);

	if (ret == 0)
		ret = ub_keeper_make_ledger(k, err);
	return ret ? ret : keeper_make_arena(k, err);
}

int ub_keeper_serve(struct ub_keeper *k, struct ub_err *err)
{
	int ret = keeper_make_rundir(k, err);

	if (ret == 0)
		ret = ub_keeper_make_shared(k, err);
	if (ret == 0)
		ret = ub_step("serve", err);
	if (ret == 0)
		ret = ub_keeper_send_serve(k, k->server, err);
	if (ret == 0)
		ret = ub_keeper_await(k->server, UB_MSG_READY, FETCH_TIMEOUT_MS,
				      "its queues were made", err);
	if (ret)
		return ret;
	if (ub_message_send_type(k->server->fd, UB_MSG_TAKE) < 0)
		ub_log(UB_LOG_DEBUG, "the server is gone already"); /* and that is found out now */
	return ub_keeper_await(k->server, UB_MSG_FETCHING, FETCH_TIMEOUT_MS,
			       "it had fetched every tag", err);
}

/* ---- START_DEV ----------------------------------------------------------- */

static bool keeper_must_stop_waiting(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->server->gone || k->nr_signals > 0;
}

int ub_keeper_long_cmd(struct ub_keeper *k, struct ub_ctrl_cmd *cmd, uint32_t op, uint64_t data,
		       const char *what, int64_t timeout_ms, bool (*until)(void *))
{
	int ret;

	*cmd = (struct ub_ctrl_cmd){ .op = op, .dev_id = k->info.dev_id, .data = data };
	cmd->queue_id = UINT16_MAX;
	ret = ub_ctrl_send(&k->ctrl, cmd);
	return ret ? ret : ub_ctrl_wait(&k->ctrl, cmd, &k->loop, what, timeout_ms, until, k);
}

int ub_keeper_start(struct ub_keeper *k, struct ub_err *err)
{
	char fate[96];
	bool lives;
	int ret = ub_step("start-dev", err);

	if (ret)
		return ret;
	/*
	 * START of a device whose server is dead already never returns on Linux 6.12: its partition
	 * scan reads, nobody answers, and STOP and DEL wait for the same mutex until the machine is
	 * restarted. One that is dying is as good as dead: its queues' threads may have ended.
	 */
	lives = ub_keeper_server_lives(k->server, EXIT_TIMEOUT_MS);
	if (k->server->err.code) {
		*err = k->server->err;
		return -ECHILD;
	}
	if (!lives)
		return ub_err_set(err, ECHILD, "the server %s before START_DEV",
				  ub_keeper_server_fate(k->server, fate, sizeof(fate)));
	ret = ub_keeper_long_cmd(k, &k->start_cmd, UBLK_U_CMD_START_DEV, (uint64_t)k->server->pid,
				 "START_DEV", keeper_timeout_ms(k), keeper_must_stop_waiting);
	if (ret == 0) {
		k->started = true;
		return ub_step("started", err);
	}
	/* It may have been on its way all the same: then there is a disk to be stopped. */
	k->started = true;
	if (k->server->err.code) {
		*err = k->server->err;
		return ret;
	}
	if (k->server->gone)
		return ub_err_set(err, ECHILD, "the server %s during START_DEV",
				  ub_keeper_server_fate(k->server, fate, sizeof(fate)));
	if (ret == -EINTR)
		return ub_err_set(err, EINTR, "interrupted during START_DEV");
	return ub_err_errno(err, -ret, "START_DEV");
}

/* ---- taking it away ------------------------------------------------------ */

bool ub_keeper_still_ours(struct ub_keeper *k)
{
	struct ublksrv_ctrl_dev_info info;
	struct ub_err ignored;

	int ret = ub_ctrl_get_info(&k->ctrl, k->info.dev_id, &info, &ignored);

	return ret == 0 ? info.ublksrv_flags == k->info.ublksrv_flags : ret != -ENODEV;
}

/* A step on the way down: it cannot fail, but whoever takes it can be killed there. */
static void keeper_unmake_step(const char *name)
{
	struct ub_err ignored;

	ub_step(name, &ignored);
}

/*
 * A command does not come back, because the server does not answer: the kernel fails what it holds,
 * and ends the command, when the process is gone. Its ring may stay busy for ever, so there is a
 * new one.
 */
static void keeper_unstick(struct ub_keeper *k)
{
	struct ub_err err;

	if (k->server->pid && !k->server->gone)
		kill(k->server->pid, SIGKILL);
	ub_ctrl_close(&k->ctrl);
	if (ub_ctrl_open(&k->ctrl, &err) != 0)
		ub_log(UB_LOG_ERROR, "%s", err.text);
}

bool ub_keeper_try_stop(struct ub_keeper *k)
{
	int ret;

	if (!(k->features & UBLK_F_SAFE_STOP_DEV) || !ub_keeper_still_ours(k))
		return true;
	keeper_unmake_step("stop-dev");
	ret = ub_keeper_long_cmd(k, &k->stop_cmd, UBLK_U_CMD_TRY_STOP_DEV, 0, "TRY_STOP_DEV",
				 keeper_timeout_ms(k), NULL);
	if (ret == 0)
		k->started = false;
	return ret != -EBUSY;
}

static void keeper_stop(struct ub_keeper *k, bool force)
{
	char scrap[256], id[16];
	int ret;

	keeper_unmake_step("stop-dev");
	snprintf(id, sizeof(id), "%u", k->info.dev_id);
	if (force && !k->server->gone) {
		if (!ub_rundir_is_offline(k->rundir.name, scrap, sizeof(scrap)))
			ub_helper_run(&k->loop, (const char *const[]){ "sync", id, NULL },
				      "writing back", scrap, sizeof(scrap), SYNC_TIMEOUT_MS, NULL,
				      NULL);
		ub_message_send_type(k->server->fd, UB_MSG_CANCEL);
	}
	ret = ub_keeper_long_cmd(k, &k->stop_cmd, UBLK_U_CMD_STOP_DEV, 0, "STOP_DEV",
				 keeper_timeout_ms(k), NULL);
	if (ret && ret != -ENODEV) {
		ub_log(UB_LOG_WARNING, "STOP_DEV: %s: the server is killed", strerror(-ret));
		keeper_unstick(k);
		if (k->ctrl.has_ring)
			ub_keeper_long_cmd(k, &k->kill_cmd, UBLK_U_CMD_STOP_DEV, 0, "STOP_DEV",
					   KILLED_TIMEOUT_MS, NULL);
	}
	k->started = false;
}

static void keeper_delete(struct ub_keeper *k)
{
	int ret;

	keeper_unmake_step("del-dev");
	ret = ub_keeper_long_cmd(k, &k->del_cmd, UBLK_U_CMD_DEL_DEV, 0, "DEL_DEV", DEL_TIMEOUT_MS,
				 NULL);

	if (ret == -EINTR || ret == -ETIMEDOUT)
		ub_log(UB_LOG_WARNING,
		       "/dev/ublkb%u is gone, but somebody still has it open or mounted: its "
		       "number stays "
		       "taken until then",
		       k->info.dev_id);
	else if (ret && ret != -ENODEV)
		ub_log(UB_LOG_WARNING, "DEL_DEV: %s: try 'ublk-bridge detach %u'", strerror(-ret),
		       k->info.dev_id);
	k->added = false;
}

static void keeper_say_served(const struct ub_keeper *k)
{
	uint64_t ios[UB_NR_OPS] = { 0 }, bytes[UB_NR_OPS] = { 0 }, errors = 0;
	char read[32], written[32];

	for (unsigned i = 0; i < k->info.nr_hw_queues; i++) {
		for (unsigned op = 0; op < UB_NR_OPS; op++) {
			ios[op] += ub_stat_read(&k->stats->queues[i].ios[op]);
			bytes[op] += ub_stat_read(&k->stats->queues[i].bytes[op]);
			errors += ub_stat_read(&k->stats->queues[i].errors[op]);
		}
	}
	ub_log(UB_LOG_NOTICE,
	       "/dev/ublkb%u served %llu reads (%s), %llu writes (%s), %llu flushes, %llu "
	       "discards, %llu "
	       "writes of zeroes; %llu failed",
	       k->info.dev_id, (unsigned long long)ios[UB_OP_READ],
	       ub_size_format(bytes[UB_OP_READ], read, sizeof(read)),
	       (unsigned long long)ios[UB_OP_WRITE],
	       ub_size_format(bytes[UB_OP_WRITE], written, sizeof(written)),
	       (unsigned long long)ios[UB_OP_FLUSH], (unsigned long long)ios[UB_OP_DISCARD],
	       (unsigned long long)ios[UB_OP_WRITE_ZEROES], (unsigned long long)errors);
}

void ub_keeper_release_shared(struct ub_keeper *k)
{
	if (k->stats)
		munmap(k->stats, ub_stats_bytes(k->info.nr_hw_queues));
	k->stats = NULL;
	if (k->ledger)
		munmap(k->ledger, k->ledger_bytes);
	k->ledger = NULL;
	ub_close(&k->ledger_fd);
	ub_close(&k->stats_fd);
	ub_close(&k->side->store_fd);
	ub_close(&k->arena_fd);
	ub_ctrl_close(&k->ctrl);
}

void ub_keeper_teardown(struct ub_keeper *k, bool force)
{
	if (k->ctrl.stuck)
		keeper_unstick(k); /* a START that never came back */
	if (k->started && ub_keeper_still_ours(k))
		keeper_stop(k, force);
	keeper_unmake_step("end-server");
	if (k->server->pid && !k->server->gone && k->server->fd >= 0)
		ub_message_send_type(k->server->fd, UB_MSG_EXIT); /* it may have ended by itself */
	if (k->standby->pid && !k->standby->gone)
		ub_message_send_type(k->standby->fd, UB_MSG_EXIT);
	ub_keeper_end_server(k->server, EXIT_TIMEOUT_MS);
	ub_keeper_end_server(k->standby, EXIT_TIMEOUT_MS);
	ub_links_clear(&k->links);
	ub_migrate_end(k);
	ub_command_end(&k->side->command); /* after the last flush */
	if (k->was_live)
		keeper_say_served(k); /* what the kernel wrote back at the end included */
	if (k->added && ub_keeper_still_ours(k))
		keeper_delete(k);
	k->added = false;
	ub_verb_detach_answer(k, &(struct ub_err){ .code = 0 });
	ub_control_close(&k->control);
	keeper_unmake_step("remove-rundir");
	ub_rundir_remove(&k->rundir);
	ub_keeper_release_shared(k);
	free(k->side->identity);
	k->side->identity = NULL;
}
