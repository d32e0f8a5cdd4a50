/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The run directory of a device. Keeper and verbs; never the server. */
#include "keeper/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>

#include <ublk-bridge/message.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"

#define RUNDIR_TAKING	     "taking"
#define RUNDIR_DEFAULT	     "/run/ublk-bridge"
#define RUNDIR_STATE_VERSION 1
/* twice a command as long as execve(2) takes, in hexadecimal */
#define RUNDIR_STATE_BYTES (16U << 20)
#define RUNDIR_TRIES	   10 /* a verb that looks whether it is held has the lock for a moment */
#define RUNDIR_PAUSE_MS	   10
#define RUNDIR_ANSWER_MS   500
#define RUNDIR_BACKLOG	   16
#define RUNDIR_ADOPT_MS	   5000
#define RUNDIR_SIDE_VOID   UINT64_MAX /* no migration's cookie */

int ub_name_check(const char *name, struct ub_err *err)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t len = strlen(name);

	if (len == 0 || len >= UB_NAME_BYTES || strspn(name, allowed) != len || *name == '.' ||
	    *name == '-' || strspn(name, "0123456789") == len)
		return ub_err_set(err, EINVAL,
				  "--name: '%s' is not a name: use up to 64 letters, digits, '.', "
				  "'_' and "
				  "'-', not a number alone, and begin with none of '.' and '-'",
				  name);
	return 0;
}

static const char *rundir_base(void)
{
	const char *path = getenv("UBLK_BRIDGE_RUNDIR");

	return path && *path ? path : RUNDIR_DEFAULT;
}

int ub_rundir_check_rights(struct ub_err *err)
{
	cleanup_fd int fd = open(rundir_base(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (geteuid() != 0)
		return ub_err_set(err, EPERM,
				  "run this as root: this is the user %u, who may not look at the "
				  "devices",
				  geteuid());
	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return ub_err_set(err, EPERM, "run this as root: %s: %s", rundir_base(),
				  strerror(errno));
	return 0;
}

static int rundir_open_base(bool create, struct ub_err *err)
{
	const char *path = rundir_base();
	struct statfs fs;
	int fd;

	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return ub_err_errno(err, errno, "cannot make the run directory %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ub_err_errno(err, errno, "the run directory %s", path);
	if (create && fstatfs(fd, &fs) == 0 && fs.f_type != TMPFS_MAGIC)
		ub_log(UB_LOG_WARNING,
		       "%s is not on a tmpfs: it must not lie on a device that is served from here",
		       path);
	return fd;
}

/* A socket path has 108 bytes, a run directory may have more: go by way of the descriptor. */
static void rundir_address(int dir_fd, const char *file, struct sockaddr_un *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", dir_fd, file);
}

/* A listening socket in the directory, or -errno with *err. */
static int rundir_listen(const struct ub_rundir *dir, const char *file, int type,
			 struct ub_err *err)
{
	cleanup_fd int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;

	if (fd < 0)
		return ub_err_errno(err, errno, "%s", file);
	unlinkat(dir->dir_fd, file, 0); /* of a dead keeper: the lock is ours */
	rundir_address(dir->dir_fd, file, &addr);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, RUNDIR_BACKLOG) < 0)
		return ub_err_errno(err, errno, "cannot bind %s in the run directory", file);
	return ub_steal_fd(&fd);
}

int ub_rundir_listen_server(struct ub_rundir *dir, struct ub_err *err)
{
	dir->listen_fd = rundir_listen(dir, "server.sock", SOCK_SEQPACKET, err);
	return dir->listen_fd < 0 ? dir->listen_fd : 0;
}

int ub_rundir_listen_control(struct ub_rundir *dir, struct ub_err *err)
{
	dir->control_fd = rundir_listen(dir, "control.sock", SOCK_STREAM, err);
	return dir->control_fd < 0 ? dir->control_fd : 0;
}

/*
 * True if the file that was opened is still the one of that name: a sweep may have removed it
 * meanwhile.
 */
static bool rundir_is_current(int dir_fd, const char *name, int fd)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/*
 * Opens NAME and locks it. 0, -EAGAIN: it was removed under us or somebody looks at it, or -errno.
 */
static int rundir_try_lock(struct ub_rundir *dir, int base, struct ub_err *err)
{
	if (mkdirat(base, dir->name, 0700) < 0 && errno != EEXIST)
		return ub_err_errno(err, errno, "cannot make the run directory %s/%s",
				    rundir_base(), dir->name);
	dir->dir_fd = openat(base, dir->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->dir_fd < 0 && errno == ENOENT)
		return -EAGAIN;
	if (dir->dir_fd < 0)
		return ub_err_errno(err, errno, "the run directory %s/%s", rundir_base(),
				    dir->name);
	dir->lock_fd = openat(dir->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (dir->lock_fd < 0 && errno == ENOENT)
		return -EAGAIN;
	if (dir->lock_fd < 0)
		return ub_err_errno(err, errno, "the lock in %s/%s", rundir_base(), dir->name);
	if (flock(dir->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EAGAIN :
					      ub_err_errno(err, errno, "the lock in %s/%s",
							   rundir_base(), dir->name);
	if (!rundir_is_current(dir->dir_fd, "lock", dir->lock_fd) ||
	    !rundir_is_current(base, dir->name, dir->dir_fd))
		return -EAGAIN;
	return 0;
}

int ub_rundir_lock(struct ub_rundir *dir, const char *name, struct ub_err *err)
{
	const struct timespec pause = { .tv_nsec = RUNDIR_PAUSE_MS * 1000000L };
	cleanup_fd int base = rundir_open_base(true, err);
	int ret = -EAGAIN;

	*dir = (struct ub_rundir)UB_RUNDIR_NONE;
	if (base < 0)
		return base;
	snprintf(dir->name, sizeof(dir->name), "%s", name);
	for (unsigned i = 0; i < RUNDIR_TRIES && ret == -EAGAIN; i++) {
		if (i)
			nanosleep(&pause, NULL);
		ret = rundir_try_lock(dir, base, err);
		if (ret) {
			ub_close(&dir->lock_fd);
			ub_close(&dir->dir_fd);
		}
		if (ret && ret != -EAGAIN)
			/* if it is empty: not when another has it */
			unlinkat(base, name, AT_REMOVEDIR);
	}
	if (ret == -EAGAIN)
		return ub_err_set(err, EBUSY,
				  "the name '%s' is taken: choose another --name, or detach that "
				  "device",
				  name);
	return ret;
}

int ub_rundir_create(struct ub_rundir *dir, const char *name, struct ub_err *err)
{
	int ret = ub_rundir_lock(dir, name, err);

	if (ret == 0)
		ret = ub_rundir_listen_server(dir, err);
	return ret ? ret : ub_rundir_listen_control(dir, err);
}

void ub_rundir_let_go(struct ub_rundir *dir)
{
	ub_close(&dir->listen_fd);
	ub_close(&dir->control_fd);
	ub_close(&dir->lock_fd);
	ub_close(&dir->dir_fd);
}

int ub_rundir_write_state(struct ub_rundir *dir, const struct ub_state *state, json_t *recipe,
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
			 RUNDIR_STATE_VERSION, "name", state->name, "id", (int)state->dev_id,
			 "device", device, "cookie", cookie, "keeper_pid", (int)state->keeper_pid,
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
	if (len > RUNDIR_STATE_BYTES) /* nobody would read it back */
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

int ub_rundir_make_side(struct ub_rundir *dir, struct ub_err *err)
{
	static const uint64_t nothing = 0;
	cleanup_fd int fd = -1;

	unlinkat(dir->dir_fd, "side", 0);
	errno = 0;
	fd = openat(dir->dir_fd, "side", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	/* Its page is there from now on: whoever writes it does not wait for memory. */
	if (fd < 0 || pwrite(fd, &nothing, sizeof(nothing), 0) != (ssize_t)sizeof(nothing))
		return ub_err_errno(err, errno ? errno : EIO,
				    "the file 'side' in the run directory");
	return ub_steal_fd(&fd);
}

static uint64_t rundir_read_side(int dir_fd)
{
	cleanup_fd int fd = openat(dir_fd, "side", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	uint64_t side = 0;

	return fd >= 0 && pread(fd, &side, sizeof(side), 0) == (ssize_t)sizeof(side) ? side : 0;
}

uint64_t ub_rundir_read_side(const struct ub_rundir *dir)
{
	return dir->dir_fd >= 0 ? rundir_read_side(dir->dir_fd) : 0;
}

void ub_rundir_remove_side(struct ub_rundir *dir)
{
	if (dir->dir_fd >= 0)
		unlinkat(dir->dir_fd, "side", 0);
}

void ub_rundir_void_side(struct ub_rundir *dir)
{
	static const uint64_t side = RUNDIR_SIDE_VOID;
	cleanup_fd int fd = openat(dir->dir_fd, "side", O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && pwrite(fd, &side, sizeof(side), 0) != (ssize_t)sizeof(side))
		ub_log(UB_LOG_DEBUG, "the file 'side' in the run directory: %s", strerror(errno));
}

void ub_rundir_mark_taking(struct ub_rundir *dir, bool is_taking)
{
	int fd;

	if (!is_taking) {
		unlinkat(dir->dir_fd, RUNDIR_TAKING, 0);
		return;
	}
	fd = openat(dir->dir_fd, RUNDIR_TAKING, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ub_close(&fd);
}

bool ub_rundir_is_taking(const struct ub_rundir *dir)
{
	return faccessat(dir->dir_fd, RUNDIR_TAKING, F_OK, 0) == 0;
}

/* 0 or -errno: it is still there. */
static int rundir_unlink(int dir_fd, const char *name)
{
	static const char *const files[] = { "server.sock", "control.sock",
					     "state.json",  "state.json.new",
					     "side",	    RUNDIR_TAKING,
					     "lock" };
	cleanup_fd int base = open(rundir_base(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (unsigned i = 0; i < UB_ARRAY_SIZE(files); i++)
		unlinkat(dir_fd, files[i], 0);
	if (base < 0)
		return -errno;
	return unlinkat(base, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

void ub_rundir_remove(struct ub_rundir *dir)
{
	if (dir->dir_fd >= 0 && dir->lock_fd >= 0)
		rundir_unlink(dir->dir_fd, dir->name);
	ub_rundir_let_go(dir);
}

/* ---- other keepers' directories ------------------------------------------ */

static int rundir_open(const char *name)
{
	struct ub_err ignored;
	cleanup_fd int base = rundir_open_base(false, &ignored);
	int fd;

	if (base < 0)
		return -ENOENT;
	fd = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

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
	    version != RUNDIR_STATE_VERSION || id < 0)
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
	cleanup_fd int dir = rundir_open(name);
	cleanup_fd int fd =
		dir < 0 ? -1 : openat(dir, "state.json", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_free char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return dir < 0 ? dir : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size < 0 || st.st_size > RUNDIR_STATE_BYTES)
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
	cleanup_fd int dir = migration ? rundir_open(name) : -1;
	/* A server may write it at any time: it is read once. */
	uint64_t side = dir >= 0 ? rundir_read_side(dir) : 0;
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
	state->is_migrating = !state->has_moved && side != RUNDIR_SIDE_VOID;
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
	DIR *dir = opendir(rundir_base());
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

static int rundir_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int ub_rundir_names(char ***names)
{
	DIR *dir = opendir(rundir_base());
	struct ub_err ignored;
	struct dirent *entry;
	int nr = 0, ret = 0;

	*names = NULL;
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (ret == 0 && (entry = readdir(dir))) {
		char **more;

		if (ub_name_check(entry->d_name, &ignored) != 0)
			continue;
		more = realloc(*names, ((size_t)nr + 1) * sizeof(**names));
		ret = more ? 0 : -ENOMEM;
		if (more) {
			*names = more;
			more[nr] = strdup(entry->d_name);
			ret = more[nr] ? 0 : -ENOMEM;
			nr += ret == 0;
		}
	}
	closedir(dir);
	if (nr)
		qsort(*names, (size_t)nr, sizeof(**names), rundir_compare);
	return nr;
}

bool ub_rundir_is_held(const char *name)
{
	cleanup_fd int dir = rundir_open(name);
	cleanup_fd int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CLOEXEC);

	return lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

int ub_rundir_sweep(const char *name)
{
	cleanup_fd int dir = rundir_open(name);
	cleanup_fd int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CLOEXEC);

	if (dir < 0)
		return dir;
	if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0)
		return -EBUSY;
	return rundir_unlink(dir, name);
}

static int rundir_connect(const char *name, const char *file, int type)
{
	static const struct timeval limit = { .tv_usec = RUNDIR_ANSWER_MS * 1000L };
	cleanup_fd int dir = rundir_open(name);
	cleanup_fd int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr;

	if (dir < 0 || fd < 0)
		return dir < 0 ? dir : -errno;
	/* One that does not accept lets its queue fill up, and connect(2) then waits. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	rundir_address(dir, file, &addr);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return ub_steal_fd(&fd);
}

int ub_rundir_connect(const char *name)
{
	return rundir_connect(name, "server.sock", SOCK_SEQPACKET);
}

int ub_rundir_connect_control(const char *name)
{
	return rundir_connect(name, "control.sock", SOCK_STREAM);
}

static void rundir_close_fds(int fds[])
{
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&fds[i]);
}

/*
 * Greets a server, says one thing and waits for the answer of that type: in inbox, the descriptors
 * in fds (the caller's). 0 with *version, what is spoken there, or -errno; -EAGAIN: the time is
 * over.
 *
 * Other messages are passed over: the threads of a server that takes a keeper log at any time, and
 * as soon as that is whom they speak to, which is before it is told so.
 *
 * The answer is waited for: whoever closes a socket with something unread in it resets the
 * connection, and what it had sent before is then lost.
 */
static int rundir_say(int fd, enum ub_message_type type, enum ub_message_type answer_type,
		      unsigned limit_ms, uint64_t inbox[], int fds[], unsigned *version)
{
	const struct timeval limit = { .tv_sec = limit_ms / 1000,
				       .tv_usec = limit_ms % 1000 * 1000L };
	const struct ub_msg_header *answer = (const struct ub_msg_header *)inbox;
	uint64_t deadline = ub_now_ms() + limit_ms;
	int ret;

	*version = UB_MESSAGE_V3;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	ret = ub_message_send_hello(fd);
	if (ret == 0)
		ret = ub_message_send_type(fd, type);
	while (ret == 0) {
		ret = ub_message_receive(fd, inbox, fds, 0);
		if (ret || answer->type == answer_type)
			break;
		if (answer->type == UB_MSG_HELLO)
			*version = ub_message_hello_version(answer);
		rundir_close_fds(fds);
		if (ub_now_ms() >= deadline)
			ret = -EAGAIN;
	}
	return ret;
}

int ub_rundir_adopt(const char *name, struct ub_adoption *a)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)] = { 0 };
	struct ub_msg_adopted *answer = (struct ub_msg_adopted *)inbox;
	static const struct timeval forever = { 0 };
	cleanup_fd int fd = ub_rundir_connect(name);
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;
	int ret;

	*a = (struct ub_adoption){ .fd = -1 };
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		a->fds[i] = -1;
	if (fd < 0)
		return fd;
	ret = rundir_say(fd, UB_MSG_ADOPT, UB_MSG_ADOPTED, RUNDIR_ADOPT_MS, inbox, a->fds,
			 &a->version);
	if (ret == 0 && answer->header.len_bytes < UB_V3_BYTES_ADOPTED)
		ret = -EPROTO;
	if (ret)
		return ret == -EAGAIN ? -ETIMEDOUT : ret;
	ub_message_unpack_fds(a->fds, answer->has_fd);
	/* As whoever bound the socket is named, and not who answers: the server says it itself. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.uid != geteuid())
		return -EPERM;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof(forever));
	a->state = answer->state;
	a->pid = answer->pid;
	a->nr_links = answer->nr_links;
	a->fd = ub_steal_fd(&fd);
	return 0;
}

/* Asks NAME's server one thing; the answer, of the same type, is in inbox. 0 or -errno. */
static int rundir_ask(const char *name, enum ub_message_type type, uint64_t inbox[])
{
	cleanup_fd int fd = ub_rundir_connect(name);
	int fds[UB_MESSAGE_MAX_FDS];
	unsigned version;
	int ret;

	if (fd < 0)
		return fd;
	ret = rundir_say(fd, type, type, RUNDIR_ANSWER_MS, inbox, fds, &version);
	if (ret == 0)
		rundir_close_fds(fds);
	return ret;
}

int ub_rundir_ask_health(const char *name, unsigned *health, char *why, size_t len)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)] = { 0 };
	struct ub_msg_text *answer = (struct ub_msg_text *)inbox;
	int ret = rundir_ask(name, UB_MSG_HEALTH, inbox);

	if (ret == 0 && answer->header.len_bytes < UB_V3_BYTES_TEXT)
		ret = -EPROTO;
	if (ret)
		return ret;
	*health = answer->value;
	answer->text[sizeof(answer->text) - 1] = '\0';
	snprintf(why, len, "%s", answer->text);
	return 0;
}

int ub_rundir_cancel_io(const char *name)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)] = { 0 };

	return rundir_ask(name, UB_MSG_CANCEL, inbox);
}

bool ub_rundir_is_offline(const char *name, char *why, size_t len)
{
	unsigned health;

	return ub_rundir_ask_health(name, &health, why, len) == 0 &&
	       (health == UB_HEALTH_OFFLINE || health == UB_HEALTH_FAILED);
}

struct socket_search {
	const char *name;
	bool is_found;
};

static bool socket_is_of(const json_t *recipe, const char *name)
{
	const char *path =
		json_string_value(json_object_get(json_object_get(recipe, "command"), "socket"));

	return path && strstr(path, name);
}

/*
 * Whether a device's command listens there still, though the keeper that made the socket is gone.
 */
static bool socket_is_not_its(const struct ub_state *state, void *arg)
{
	struct socket_search *search = arg;
	struct ub_state now;
	json_t *json = NULL;

	if (ub_state_read_all(state->name, &now, &json) == 0)
		search->is_found = socket_is_of(json_object_get(json, "recipe"), search->name) ||
				   socket_is_of(json_object_get(json_object_get(json, "migration"),
								"destination"),
						search->name);
	json_decref(json);
	return !search->is_found;
}

static bool socket_is_in_use(const char *name)
{
	struct socket_search search = { .name = name };

	ub_state_each(socket_is_not_its, &search);
	return search.is_found;
}

/* Sockets of processes that are no more. */
static void rundir_sweep_sockets(int base)
{
	int copy = fcntl(base, F_DUPFD_CLOEXEC, 0);
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *entry;
	int pid;

	while (dir && (entry = readdir(dir))) {
		if (sscanf(entry->d_name, ".nbd-%d", &pid) == 1 && kill(pid, 0) < 0 &&
		    errno == ESRCH && !socket_is_in_use(entry->d_name))
			unlinkat(base, entry->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

int ub_rundir_socket_path(char *path, size_t len, struct ub_err *err)
{
	cleanup_fd int base = rundir_open_base(true, err);
	static unsigned nr; /* a migration has two commands */
	char name[32];

	if (base < 0)
		return base;
	rundir_sweep_sockets(base);
	snprintf(name, sizeof(name), nr ? ".nbd-%d-%u.sock" : ".nbd-%d.sock", getpid(), nr);
	nr++;
	if (snprintf(path, len, "%s/%s", rundir_base(), name) >= (int)len)
		return ub_err_set(err, ENAMETOOLONG,
				  "the run directory %s is too long a path for a socket",
				  rundir_base());
	unlinkat(base, name, 0); /* of an earlier process with this number */
	return 0;
}
