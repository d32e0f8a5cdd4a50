/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* state.json, written and read. */
#include "run/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define STATE_VERSION 1
/* twice a command as long as execve(2) takes, in hexadecimal */
#define STATE_BYTES (16U << 20)

int ub_state_write(struct ub_rundir *dir, const struct ub_state *state, json_t *recipe,
		   json_t *migration, struct ub_err *err)
{
	char cookie[17], device[32];
	cleanup_free char *text = NULL;
	cleanup_fd int fd = -1;
	json_t *json;
	size_t len;

	snprintf(cookie, sizeof(cookie), "%016llx", (unsigned long long)state->cookie);
	snprintf(device, sizeof(device), "/dev/ublkb%u", state->dev_id);
	json = json_pack("{s:i, s:s, s:i, s:s, s:s, s:i, s:i, s:i, s:I, s:i, s:I, s:s}", "version",
			 STATE_VERSION, "name", state->name, "id", (int)state->dev_id, "device",
			 device, "cookie", cookie, "keeper_pid", (int)state->keeper_pid,
			 "server_pid", (int)state->server_pid, "standby_pid",
			 (int)state->standby_pid, "standby_started",
			 (json_int_t)state->standby_started, "spare_pid", (int)state->spare_pid,
			 "spare_started", (json_int_t)state->spare_started, "backend",
			 state->backend);
	if ((recipe && json_object_set(json, "recipe", recipe) < 0) ||
	    (migration && json_object_set(json, "migration", migration) < 0)) {
		json_decref(json);
		json = NULL;
	}
	text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	json_decref(json);
	if (!text)
		return ub_err_errno(err, ENOMEM, "state.json");
	len = strlen(text);
	if (len > STATE_BYTES) /* nobody would read it back */
		return ub_err_set(err, E2BIG,
				  "cannot write state.json: what the device is made of takes too "
				  "many words");
	errno = 0;
	fd = openat(dir->dir_fd, "state.json.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len ||
	    renameat(dir->dir_fd, "state.json.new", dir->dir_fd, "state.json") < 0)
		return ub_err_errno(err, errno ? errno : EIO, "cannot write state.json");
	return 0;
}

/* ---- reading ------------------------------------------------------------- */

static int state_from_json(json_t *json, struct ub_state *state)
{
	const char *name, *cookie, *backend;
	int version, id, keeper, server, standby = 0, spare = 0;
	json_int_t started = 0, spare_started = 0;
	struct ub_err ignored;

	if (json_unpack(json, "{s:i, s:s, s:i, s:s, s:i, s:i, s?i, s?I, s?i, s?I, s:s}", "version",
			&version, "name", &name, "id", &id, "cookie", &cookie, "keeper_pid",
			&keeper, "server_pid", &server, "standby_pid", &standby, "standby_started",
			&started, "spare_pid", &spare, "spare_started", &spare_started, "backend",
			&backend) < 0 ||
	    version != STATE_VERSION || id < 0)
		return -EBADMSG;
	snprintf(state->name, sizeof(state->name), "%s", name);
	snprintf(state->backend, sizeof(state->backend), "%s", backend);
	state->dev_id = (uint32_t)id;
	state->cookie = strtoull(cookie, NULL, 16);
	state->keeper_pid = keeper;
	state->server_pid = server;
	state->standby_pid = standby;
	state->standby_started = (uint64_t)started;
	state->spare_pid = spare;
	state->spare_started = (uint64_t)spare_started;
	return ub_name_check(state->name, &ignored) ? -EBADMSG : 0;
}

/* NAME's state.json as it is. 0 or -errno. */
static int state_load(const char *name, json_t **json)
{
	cleanup_fd int dir = ub_rundir_open(name);
	cleanup_fd int fd =
		dir < 0 ? -1 : openat(dir, "state.json", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_free char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return dir < 0 ? dir : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size < 0 || st.st_size > STATE_BYTES)
		return -EBADMSG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	n = read(fd, text, (size_t)st.st_size);
	if (n < 0)
		return -errno;
	*json = json_loadb(text, (size_t)n, 0, NULL);
	return *json ? 0 : -EBADMSG;
}

/*
 * A migration, as far as everybody wants to know of it: whether it is over, and the device is made
 * of something else.
 */
static int state_look_at_migration(const char *name, const json_t *json, struct ub_state *state)
{
	const json_t *migration = json_object_get(json, "migration");
	const char *cookie = json_string_value(json_object_get(migration, "cookie"));
	cleanup_fd int dir = migration ? ub_rundir_open(name) : -1;
	/* A server may write it at any time: it is read once. */
	uint64_t side = dir >= 0 ? ub_rundir_read_side_at(dir) : 0;
	const json_t *recipe;
	const char *kind;

	state->is_migrating = state->has_moved = false;
	state->store = (uint64_t)json_integer_value(
		json_object_get(json_object_get(json, "recipe"), "store"));
	if (!migration)
		return 0;
	if (!cookie)
		return -EBADMSG;
	state->has_moved = side && side == strtoull(cookie, NULL, 16);
	state->is_migrating = !state->has_moved && side != UB_RUNDIR_SIDE_VOID;
	if (!state->has_moved)
		return 0;
	recipe = json_object_get(migration, "recipe");
	kind = json_string_value(json_object_get(recipe, "kind"));
	state->store = (uint64_t)json_integer_value(json_object_get(recipe, "store"));
	snprintf(state->backend, sizeof(state->backend), "%s", kind ? kind : "");
	return kind ? 0 : -EBADMSG;
}

int ub_state_read_all(const char *name, struct ub_state *state, json_t **json)
{
	int ret;

	*json = NULL;
	ret = state_load(name, json);
	if (ret == 0)
		ret = state_from_json(*json, state);
	if (ret == 0)
		ret = state_look_at_migration(name, *json, state);
	return ret;
}

int ub_state_read(const char *name, struct ub_state *state)
{
	json_t *json = NULL;
	int ret = ub_state_read_all(name, state, &json);

	json_decref(json);
	return ret;
}

json_t *ub_state_recipe(const json_t *json, const struct ub_state *state)
{
	if (state->has_moved)
		json = json_object_get(json, "migration");
	return json_object_get(json, "recipe");
}

void ub_state_each(bool (*take)(const struct ub_state *state, void *arg), void *arg)
{
	DIR *dir = opendir(ub_rundir_base());
	struct dirent *entry;
	struct ub_state state = { 0 };
	bool goes_on = true;

	while (dir && goes_on && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && ub_state_read(entry->d_name, &state) == 0)
			goes_on = take(&state, arg);
	}
	if (dir)
		closedir(dir);
}

struct state_search {
	uint64_t cookie;
	struct ub_state *state;
	bool is_found;
};

static bool state_matches(const struct ub_state *state, void *arg)
{
	struct state_search *search = arg;

	search->is_found = state->cookie == search->cookie;
	if (search->is_found)
		*search->state = *state;
	return !search->is_found;
}

int ub_state_find(uint64_t cookie, struct ub_state *state)
{
	struct state_search search = { .cookie = cookie, .state = state };

	ub_state_each(state_matches, &search);
	return search.is_found ? 0 : -ENOENT;
}
