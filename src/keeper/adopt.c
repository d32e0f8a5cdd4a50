/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A keeper for a device that has lost its own.
 *
 *   the server lives            it gets this keeper, and notices nothing else
 *   it recovers, half way       likewise, and the recovery is brought to its end
 *   only its standby lives      likewise, and then the device is recovered as after any death
 *   none of them lives          what the device was made from is read from state.json;
 *                               for memory there is nothing left
 *
 * The keeper's main thread.
 */
#include "keeper/adopt.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/process.h"
#include "base/step.h"
#include "base/text.h"
#include "keeper/jobs.h"
#include "keeper/keeper.h"
#include "keeper/life.h"
#include "keeper/note.h"
#include "keeper/recipe.h"
#include "keeper/recover.h"
#include "keeper/shared.h"
#include "run/ask-server.h"
#include "run/state.h"

#define ADOPT_TRIES    20
#define ADOPT_PAUSE_MS 50
#define ADOPT_END_MS   5000 /* for a server that has given up */
#define ADOPT_LINKS_MS 1000

/* Whether there is still what state.json speaks of. */
static int adopt_find_device(struct ub_keeper *k, const struct ub_state *state, struct ub_err *err)
{
	int ret = ub_ctrl_get_info(&k->device.ctrl, state->dev_id, &k->device.info, err);

	if (ret == -ENODEV || (ret == 0 && k->device.info.ublksrv_flags != state->cookie))
		return ub_err_set(err, ENODEV,
				  "/dev/ublkb%u of '%s' is gone: 'ublk-bridge detach %s' clears "
				  "what is left",
				  state->dev_id, state->name, state->name);
	if (ret == 0 && k->device.info.state == UBLK_S_DEV_DEAD)
		return ub_err_set(err, ENODEV,
				  "/dev/ublkb%u of '%s' was stopped: it cannot be recovered: "
				  "detach it, and attach it anew",
				  state->dev_id, state->name);
	return ret;
}

/*
 * The standby of a keeper that is gone, which has no part in what comes. Not when it is the server
 * by now: state.json is written only when a recovery is over.
 */
static void adopt_end_old_standby(const struct ub_state *state, pid_t server_pid)
{
	if (state->standby_pid != server_pid &&
	    ub_process_is(state->standby_pid, state->standby_started))
		kill(state->standby_pid, SIGKILL);
	if (state->spare_pid != server_pid && ub_process_is(state->spare_pid, state->spare_started))
		kill(state->spare_pid, SIGKILL);
}

/*
 * Likewise those of which state.json says nothing, because /run was full: all that have
 * server.sock, too. Once this server has died they would answer there, and know of none that came
 * later.
 */
static void adopt_end_strays(const struct ub_keeper *k, pid_t server_pid)
{
	char path[40], sock[64] = "", comm[32];
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t pid;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", k->rundir.listen_fd);
	if (readlink(path, sock, sizeof(sock) - 1) <= 0)
		sock[0] = '\0';
	while (sock[0] && proc && (entry = readdir(proc))) {
		pid = atoi(entry->d_name);
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		if (pid <= 0 || pid == server_pid ||
		    ub_text_read_file(path, comm, sizeof(comm)) <= 0 ||
		    strcmp(comm, UB_SERVER_COMM "\n") != 0 || !ub_process_has_file(pid, sock))
			continue;
		ub_log(UB_LOG_DEBUG,
		       "/dev/ublkb%u: a standby server (pid %d) was left: it is ended",
		       k->device.info.dev_id, pid);
		kill(pid, SIGKILL);
	}
	if (proc)
		closedir(proc);
}

/* A server of a version that has none leaves no record of what it sends. */
static int adopt_ledger(struct ub_keeper *k, struct ub_adoption *a, struct ub_err *err)
{
	int ret;

	if (a->fds[UB_FD_LEDGER] < 0) {
		ret = ub_shared_make_ledger(k, err);
		if (ret == 0)
			atomic_store(&k->shared.ledger->is_blind, 1);
		return ret;
	}
	k->shared.ledger_fd = ub_steal_fd(&a->fds[UB_FD_LEDGER]);
	ret = ub_shared_map_ledger(k, err);
	if (ret == 0 &&
	    ub_ledger_check(k->shared.ledger, k->shared.ledger_bytes, k->device.info.nr_hw_queues,
			    (unsigned)k->device.info.queue_depth + UB_INTERNAL_SLOTS) < 0)
		ret = ub_err_set(err, EPROTO,
				 "the server's ledger is of a version that this one cannot use");
	if (ret == 0)
		ub_links_inherit(&k->links, a->state == UB_ADOPTED_STANDBY ? 0 : a->pid);
	return ret;
}

/* Whose connections are not here yet could die unnoticed by their other ends. */
static void adopt_await_links(struct ub_keeper *k, const struct ub_server *server, unsigned nr)
{
	uint64_t deadline = ub_now_ms() + ADOPT_LINKS_MS;

	while (server->nr_links < nr && !server->gone && ub_now_ms() < deadline)
		ub_loop_once(&k->loop, ADOPT_PAUSE_MS);
}

static void adopt_note_dead_server(struct ub_keeper *k, const struct ub_state *state)
{
	k->server->pid = state->server_pid;
	k->server->gone = true;
}

/* A server, or a standby alone, has taken this keeper. */
static int adopt_process(struct ub_keeper *k, struct ub_adoption *a, const struct ub_state *state,
			 struct ub_err *err)
{
	struct ub_server *server = a->state == UB_ADOPTED_STANDBY ? k->standby : k->server;
	int ret;

	k->shared.stats_fd = ub_steal_fd(&a->fds[UB_FD_STATS]);
	k->shared.arena_fd = ub_steal_fd(&a->fds[UB_FD_ARENA]);
	k->rundir.listen_fd = ub_steal_fd(&a->fds[UB_FD_LISTEN]);
	k->side->store_fd = k->side->o->nbd ? -1 : ub_steal_fd(&a->fds[UB_FD_STORE]);
	ub_close(&a->fds[UB_FD_STORE]);
	server->version = a->version;
	ret = ub_server_watch(server, a->pid, ub_steal_fd(&a->fd), err);
	if (ret == 0)
		ub_server_hold_rings(server);
	if (ret == 0)
		ret = ub_shared_map_stats(k, err);
	if (ret == 0)
		ret = adopt_ledger(k, a, err);
	if (ret)
		return ret;
	adopt_await_links(k, server, a->nr_links);
	if (a->state == UB_ADOPTED_STANDBY) {
		server->stage = UB_STANDBY_READY;
		adopt_note_dead_server(k, state);
		return 0;
	}
	adopt_end_old_standby(state, a->pid);
	adopt_end_strays(k, a->pid);
	if (a->state == UB_ADOPTED_FETCHING && k->device.info.state == UBLK_S_DEV_LIVE) {
		if (ub_message_send_type(server->fd, UB_MSG_LIVE) < 0)
			ub_log(UB_LOG_DEBUG, "the server is gone already");
	} else if (a->state == UB_ADOPTED_FETCHING) {
		ret = ub_recover_finish(k, server, err);
		/* It died of it. All that it had is here, and would be gone with this keeper. */
		if (ret && !ub_server_lives(server, ADOPT_END_MS)) {
			ub_log(UB_LOG_WARNING, "/dev/ublkb%u: %s", k->device.info.dev_id,
			       err->text);
			*err = (struct ub_err){ 0 };
			ret = 0;
		}
	}
	return ret;
}

/* Nobody lives who knows the device: a standby is made from what was written down. */
static int adopt_from_state(struct ub_keeper *k, const struct ub_state *state, struct ub_err *err)
{
	int ret;

	if (strcmp(k->side->o->kind, "mem") == 0)
		return ub_err_set(err, ESTALE,
				  "/dev/ublkb%u: its memory went with the last process that held "
				  "it, and cannot be recovered: "
				  "detach it with --force",
				  k->device.info.dev_id);
	if (k->side->o->nbd && k->side->o->nbd->address.transport == NBD_SOCKET &&
	    !k->side->o->nbd->restarts)
		return ub_err_set(err, ESTALE,
				  "/dev/ublkb%u: its connection was handed over ready made (--fd, "
				  "--command) and went with its "
				  "server: detach it with --force",
				  k->device.info.dev_id);
	ret = ub_rundir_listen_server(&k->rundir, err);
	if (ret == 0)
		ret = ub_shared_make(k, err);
	if (ret)
		return ret;
	/* The one that there was went with the last who held it. */
	atomic_store(&k->shared.ledger->is_blind, 1);
	adopt_note_dead_server(k, state);
	return 0;
}

/*
 * A standby that was made before the device was moved, and would open what it was moved from. One
 * that has the memory that the device is made of now was made after it.
 */
static bool adopt_is_of_old_side(const struct ub_keeper *k, const struct ub_adoption *a,
				 const struct ub_state *state)
{
	int fd = a->fds[UB_FD_STORE];
	struct stat st;

	if (a->state != UB_ADOPTED_STANDBY || !state->has_moved)
		return false;
	return k->side->o->nbd || !state->store || fd < 0 || fstat(fd, &st) < 0 ||
	       st.st_ino != state->store;
}

static int adopt_server(struct ub_keeper *k, const struct ub_state *state, struct ub_err *err)
{
	struct ub_adoption a;
	int ret = ub_rundir_adopt(state->name, &a);

	/*
	 * It may not know yet that its keeper has gone; or it ended just then, and nobody listens
	 * the next time.
	 */
	for (unsigned i = 0; i < ADOPT_TRIES && ret == -ENOTCONN; i++) {
		ub_loop_once(&k->loop, ADOPT_PAUSE_MS);
		ret = ub_rundir_adopt(state->name, &a);
	}
	if (ret == 0 && adopt_is_of_old_side(k, &a, state)) {
		ub_log(UB_LOG_NOTICE,
		       "%s: its standby (pid %d) was made before it was migrated: it is ended",
		       state->name, a.pid);
		kill(a.pid, SIGKILL);
		ret = -ECONNREFUSED;
	}
	if (ret == 0)
		ret = adopt_process(k, &a, state, err);
	else if (ret == -ENOENT || ret == -ECONNREFUSED)
		ret = adopt_from_state(k, state, err);
	else
		ret = ub_err_errno(err, -ret,
				   "the server of '%s' (pid %d) does not answer: kill it, and try "
				   "again",
				   state->name, state->server_pid);
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&a.fds[i]);
	ub_close(&a.fd);
	return ret;
}

/* The device, its processes, and whoever asks for them. */
static int adopt_device(struct ub_keeper *k, const struct ub_state *state, struct ub_err *err)
{
	int ret = adopt_find_device(k, state, err);

	if (ret == 0)
		ret = ub_step("adopt", err);
	if (ret == 0)
		ret = adopt_server(k, state, err);
	if (ret == 0 && ub_migrate_has_raced(k))
		ret = ub_err_set(err, EAGAIN,
				 "'%s' was migrated just now, while it was looked where it is: try "
				 "again",
				 state->name);
	if (ret == 0)
		ret = ub_rundir_listen_control(&k->rundir, err);
	if (ret)
		return ret;
	k->device.state = UB_KERNEL_STARTED;
	ub_life_enter(k, UB_LIVE);
	ub_jobs_raise(k, UB_EVENT_ADOPTED);
	ub_control_open(&k->control, k, k->verbs, &k->loop, ub_steal_fd(&k->rundir.control_fd));
	return 0;
}

static int adopt_command(struct ub_keeper *k, const struct ub_recipe *recipe, struct ub_err *err)
{
	k->side->command.reconnected = ub_side_give_socket;
	k->side->command.arg = k;
	return ub_command_adopt(&k->side->command, &k->loop, ub_recipe_command_pid(recipe), err);
}

int ub_adopt(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	static struct ub_recipe recipe; /* k->opts are in it: as long as the keeper */
	struct ub_state state;
	json_t *json = NULL;
	int ret = ub_rundir_lock(&k->rundir, name, err);

	if (ret == -EBUSY)
		return ub_err_set(err, EBUSY, "'%s' has got another keeper just now", name);
	if (ret)
		return ret;
	if (ub_state_read_all(name, &state, &json) != 0 || !ub_state_recipe(json, &state)) {
		json_decref(json);
		return ub_err_set(err, EBADMSG,
				  "state.json of '%s' is missing or cannot be understood: the "
				  "device can be detached, by its "
				  "number, and not recovered",
				  name);
	}
	ret = ub_recipe_read(ub_state_recipe(json, &state), &recipe, err);
	if (ret == 0 && strcmp(recipe.opts.side.kind, state.backend) != 0)
		ret = ub_err_set(err, EBADMSG, "state.json of '%s' contradicts itself", name);
	if (ret == 0) {
		k->opts = &recipe.opts;
		k->side->o = &recipe.opts.side;
		ret = ub_migrate_adopt(k, json, &state, err);
	}
	json_decref(json);
	if (ret)
		return ret;
	ret = ub_ctrl_open(&k->device.ctrl, err);
	if (ret == 0)
		ret = ub_kernel_get_features(k, err);
	if (ret == 0)
		ret = ub_recipe_apply(&recipe, k, err);
	if (ret == 0)
		ret = adopt_device(k, &state, err);
	if (ret == 0)
		ret = adopt_command(k, &recipe, err);
	if (ret == 0)
		ub_note(k);
	if (ret == 0 && k->server->gone) {
		ret = ub_recover(k, err);
		if (ret && !err->code)
			ub_err_errno(err, -ret, "/dev/ublkb%u", k->device.info.dev_id);
	}
	return ret;
}

static int adopt_again(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	struct ub_state state;
	int ret = ub_rundir_lock(&k->rundir, name, err);

	if (ret == 0 && ub_state_read(name, &state) != 0)
		ret = ub_err_set(err, EBADMSG,
				 "state.json of '%s' is missing or cannot be understood", name);
	if (ret == 0)
		ret = ub_ctrl_open(&k->device.ctrl, err);
	if (ret == 0) {
		ub_migrate_adopt_again(k);
		ret = adopt_device(k, &state, err);
	}
	return ret;
}

int ub_adopt_again(struct ub_keeper *k, const char *name, struct ub_err *err)
{
	int ret = adopt_again(k, name, err);

	if (ret == -EAGAIN && ub_migrate_has_raced(k)) {
		ub_adopt_let_go(k);
		ret = adopt_again(k, name, err);
	}
	if (ret == 0)
		ub_note(k);
	return ret;
}

void ub_adopt_let_go(struct ub_keeper *k)
{
	/*
	 * Servers that are live serve on; a standby that was made for this keeper's device waits,
	 * or ends.
	 */
	for (unsigned i = 0; i < UB_ARRAY_SIZE(k->servers); i++) {
		if (k->servers[i].pid)
			ub_server_forget(&k->servers[i]);
	}
	ub_links_clear(&k->links);
	ub_jobs_raise(k, UB_EVENT_LET_GO);
	ub_control_close(&k->control);
	ub_rundir_let_go(&k->rundir);
	ub_shared_release(k);
}
