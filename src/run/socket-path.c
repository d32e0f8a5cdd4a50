/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Paths for sockets, and their removal when their process has gone. */
#include "run/socket-path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "run/state.h"

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
static void socket_sweep(int base)
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
	cleanup_fd int base = ub_rundir_open_base(true, err);
	static unsigned nr; /* a migration has two commands */
	char name[32];

	if (base < 0)
		return base;
	socket_sweep(base);
	snprintf(name, sizeof(name), nr ? ".nbd-%d-%u.sock" : ".nbd-%d.sock", getpid(), nr);
	nr++;
	if (snprintf(path, len, "%s/%s", ub_rundir_base(), name) >= (int)len)
		return ub_err_set(err, ENAMETOOLONG,
				  "the run directory %s is too long a path for a socket",
				  ub_rundir_base());
	unlinkat(base, name, 0); /* of an earlier process with this number */
	return 0;
}
