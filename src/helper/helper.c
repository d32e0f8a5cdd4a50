/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disposable helper processes. Both sides: what the helper does, and who waits for it.
 */
#include "helper/helper.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/node.h"
#include "base/text.h"
#include "helper/holders.h"
#include "helper/self.h"

#define HELPER_TRIES	100
#define HELPER_PAUSE_MS 50
#define HELPER_SAY_MS	10000
#define HELPER_MAX_ARGS 8
/* The parsers look at up to 16 blocks, and those have up to 4 KiB. */
#define HELPER_SCAN_MIN_BYTES (64U << 10)
/* udev looks at a device for a moment when it appears or was written */
#define HELPER_PROBE_TRIES 10

/* ---- the helper's side --------------------------------------------------- */

static void helper_pause(void)
{
	const struct timespec pause = { .tv_nsec = HELPER_PAUSE_MS * 1000000L };

	nanosleep(&pause, NULL);
}

static uint32_t helper_id(const char *id)
{
	return (uint32_t)strtoul(id, NULL, 10);
}

/*
 * Scans partitions. The kernel says EINVAL until it is ready for that, EBUSY when somebody has a
 * partition open already, who then has found it, and EIO when a table would lie behind the end of a
 * tiny device.
 */
static void helper_scan(int fd)
{
	uint64_t size_bytes = 0;

	if (ioctl(fd, BLKGETSIZE64, &size_bytes) == 0 && size_bytes < HELPER_SCAN_MIN_BYTES)
		return;
	for (unsigned i = 0; i < HELPER_TRIES; i++) {
		if (ioctl(fd, BLKRRPART) == 0 || errno == EBUSY)
			return;
		if (errno != EINVAL)
			break;
		helper_pause();
	}
	printf("partitions were not scanned: %s", strerror(errno));
}

/*
 * Where the kernel itself refuses to scan: partx(8) reads the table and tells it of each partition.
 */
static void helper_add_partitions(const char *id)
{
	char path[32], name[] = "partx", update[] = "--update",
		       *argv[] = { name, update, path, NULL };
	posix_spawn_file_actions_t actions;
	int status = -1, ret;
	pid_t pid;

	snprintf(path, sizeof(path), "/dev/ublkb%.10s", id);
	posix_spawn_file_actions_init(&actions);
	/* It complains of each device that has no table, and most have none. */
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	ret = posix_spawnp(&pid, "partx", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (ret) {
		printf("partitions were not looked for: partx (util-linux): %s", strerror(ret));
		return;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
}

/* Those that this kernel has for the device: "none mq-deadline kyber"; "": nobody knows. */
static void helper_schedulers(const char *path, char *text, size_t len)
{
	char *end = text;

	if (ub_text_read_file(path, text, len) < 0)
		*text = '\0';
	for (const char *c = text; *c; c++) {
		if (!strchr("[]\n", *c))
			*end++ = *c;
	}
	*end = '\0';
}

/* True if the scheduler file has `name` in brackets, or alone. */
static bool helper_scheduler_is(const char *path, const char *name)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[256], want[72];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return false;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	snprintf(want, sizeof(want), "[%s]", name);
	return strcmp(text, name) == 0 || strstr(text, want);
}

/*
 * Sets the scheduler and reads it back: the kernel chooses its default by itself about when the
 * node appears, and may undo what was set too early.
 */
static int helper_set_scheduler(const char *id, const char *name)
{
	char path[64], known[200];

	snprintf(path, sizeof(path), "/sys/block/ublkb%.10s/queue/scheduler", id);
	for (unsigned i = 0; i < HELPER_TRIES; i++) {
		cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

		if (fd >= 0 && write(fd, name, strlen(name)) < 0 && errno == EINVAL)
			break;
		if (helper_scheduler_is(path, name))
			return UB_EXIT_DONE;
		helper_pause();
	}
	helper_schedulers(path, known, sizeof(known));
	printf("--scheduler: cannot set the scheduler '%s': this kernel has %s", name, known);
	return UB_EXIT_FAILED;
}

/*
 * Fewer requests than tags: a queue whose tags are all in a dead server is noticed by Linux 6.12
 * only when a request times out. One that stays idle tells at once.
 */
static void helper_set_requests(const char *id, const char *nr)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/ublkb%.10s/queue/nr_requests", id);

	cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, nr, strlen(nr)) < 0)
		printf("%s does not become %s: %s: the death of its server may be noticed late",
		       path, nr, strerror(errno));
}

static int helper_settle(const char *id, const char *scheduler, const char *scan,
			 const char *nr_requests)
{
	cleanup_fd int fd = -1;
	struct ub_err err;
	int ret;

	for (unsigned i = 0; i < HELPER_TRIES; i++) {
		fd = ub_node_open(UB_NODE_BLOCK, helper_id(id), O_RDONLY, &err);
		if (fd >= 0 || (fd != -ENOENT && fd != -ENXIO && fd != -EACCES))
			break;
		helper_pause();
	}
	if (fd < 0) {
		fputs(err.text, stdout);
		return UB_EXIT_FAILED;
	}
	if (strcmp(scan, UB_HELPER_SCAN) == 0)
		helper_scan(fd);
	if (strcmp(scan, UB_HELPER_ADD) == 0)
		helper_add_partitions(id);
	ret = strcmp(scheduler, "keep") == 0 ? UB_EXIT_DONE : helper_set_scheduler(id, scheduler);
	if (ret == UB_EXIT_DONE && strcmp(nr_requests, "0") != 0)
		helper_set_requests(id, nr_requests);
	return ret;
}

static int helper_sync(const char *id)
{
	struct ub_err err;
	cleanup_fd int fd = ub_node_open_anyhow(UB_NODE_BLOCK, helper_id(id), O_RDONLY, &err);

	if (fd >= 0 && fsync(fd) == 0)
		return UB_EXIT_DONE;
	printf("cannot write back /dev/ublkb%s: %s", id, fd < 0 ? err.text : strerror(errno));
	return UB_EXIT_FAILED;
}

static int helper_holders(const char *id)
{
	char text[512];

	if (!ub_holders_find(helper_id(id), text, sizeof(text)))
		return UB_EXIT_DONE;
	fputs(text, stdout);
	return UB_EXIT_BUSY;
}

static int helper_release(const char *id)
{
	char who[512];

	for (unsigned i = 0; i < HELPER_PROBE_TRIES; i++) {
		struct ub_err err;
		cleanup_fd int fd =
			ub_node_open_anyhow(UB_NODE_BLOCK, helper_id(id), O_RDONLY | O_EXCL, &err);

		if (fd == -ENOENT && !ub_node_is_known(UB_NODE_BLOCK, helper_id(id)))
			return UB_EXIT_DONE; /* no disk: there is nothing to release */
		if (fd == -ENOENT || fd == -EEXIST) {
			fputs(err.text, stdout);
			return UB_EXIT_FAILED;
		}
		/*
		 * First: a server's write error is told once, and is the user's as long as there is
		 * one.
		 */
		if (fd < 0 || ub_holders_find(helper_id(id), who, sizeof(who))) {
			helper_pause();
			continue;
		}
		if (fsync(fd) < 0) {
			printf("cannot write back /dev/ublkb%s: %s", id, strerror(errno));
			return UB_EXIT_FAILED;
		}
		/* That may have taken long, and somebody may have come. */
		if (!ub_holders_find(helper_id(id), who, sizeof(who)))
			return UB_EXIT_DONE;
	}
	ub_holders_suspect(helper_id(id), who, sizeof(who));
	fputs(who, stdout);
	return UB_EXIT_BUSY;
}

static void helper_tell(const char *name, const char *value)
{
	if (*value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

/* It stays an I/O flusher, as the keeper is: what it allocates must not wait for its own device. */
static int helper_fence(char **args)
{
	const char *id = args[0], *score = args[5], *command = args[6];
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	char device[32];

	setsid();
	if (fd < 0 || write(fd, score, strlen(score)) < 0)
		printf("the fence command keeps the keeper's OOM score: %s\n", strerror(errno));
	snprintf(device, sizeof(device), "/dev/ublkb%.10s", id);
	helper_tell("UBLK_BRIDGE_DEVICE", device);
	helper_tell("UBLK_BRIDGE_NAME", args[1]);
	helper_tell("UBLK_BRIDGE_SERVER", args[2]);
	helper_tell("UBLK_BRIDGE_HOST", args[3]);
	helper_tell("UBLK_BRIDGE_PORT", args[4]);
	fflush(stdout);
	if (chdir("/") == 0)
		execl("/bin/sh", "sh", "-c", command, NULL);
	printf("cannot execute /bin/sh: %s\n", strerror(errno));
	return 126;
}

int ub_helper_main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	int ret = UB_EXIT_USAGE;

	if (argc == 6 && strcmp(verb, "settle") == 0)
		ret = helper_settle(argv[2], argv[3], argv[4], argv[5]);
	else if (argc == 3 && strcmp(verb, "release") == 0)
		ret = helper_release(argv[2]);
	else if (argc == 3 && strcmp(verb, "sync") == 0)
		ret = helper_sync(argv[2]);
	else if (argc == 3 && strcmp(verb, "holders") == 0)
		ret = helper_holders(argv[2]);
	else if (argc == 9 && strcmp(verb, "fence") == 0)
		ret = helper_fence(argv + 2);
	fflush(stdout);
	return ret;
}

/* ---- the side that waits ------------------------------------------------- */

struct helper_run {
	int out_fd;
	char *out;
	size_t len, used;
	bool ended;
};

static void helper_output(void *arg)
{
	struct helper_run *run = arg;
	char scrap[256];
	bool full = run->used + 1 >= run->len;
	ssize_t n = read(run->out_fd, full ? scrap : run->out + run->used,
			 full ? sizeof(scrap) : run->len - 1 - run->used);

	if (n > 0 && !full)
		run->used += (size_t)n;
	else if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		run->ended = true; /* it, and whoever inherited the pipe, is gone */
}

static int helper_await(struct ub_loop *loop, struct helper_run *run, const char *what,
			int64_t timeout_ms, bool (*until)(void *arg), void *arg)
{
	uint64_t began = ub_now_ms(), say = began + HELPER_SAY_MS;
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : began + (uint64_t)timeout_ms;

	while (!run->ended) {
		uint64_t now = ub_now_ms(), next = say < deadline ? say : deadline;

		if (until && until(arg))
			return -EINTR;
		if (now >= deadline)
			return -ETIMEDOUT;
		if (now >= say) {
			ub_log(UB_LOG_NOTICE, "%s: still waiting after %llu s", what,
			       (unsigned long long)((now - began) / 1000));
			say += HELPER_SAY_MS;
			continue;
		}
		ub_loop_once(loop, (int)(next - now));
	}
	return 0;
}

static int helper_status(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

int ub_helper_run(struct ub_loop *loop, const char *const args[], const char *what, char *out,
		  size_t len, int64_t timeout_ms, bool (*until)(void *arg), void *arg)
{
	struct helper_run run = { .out = out, .len = len };
	const char *argv[HELPER_MAX_ARGS + 1] = { UB_HELPER_VERB };
	int pipe_fds[2], pid, ret;

	out[0] = '\0';
	for (unsigned i = 0; args[i]; i++) {
		assert(i + 1 < HELPER_MAX_ARGS);
		argv[i + 1] = args[i];
	}
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	pid = ub_spawn_self("ublk-bridge", argv, (const int[]){ -1, pipe_fds[1], -1, -1 });
	close(pipe_fds[1]);
	if (pid < 0) {
		close(pipe_fds[0]);
		return pid;
	}
	run.out_fd = pipe_fds[0];
	ub_loop_add(loop, run.out_fd, helper_output, &run);
	ret = helper_await(loop, &run, what, timeout_ms, until, arg);
	ub_loop_remove(loop, run.out_fd);
	close(run.out_fd);
	out[run.used] = '\0';
	if (ret == 0)
		return helper_status(pid);
	/*
	 * Given up. If it hangs in the device, not even this ends it, and nobody may wait for it.
	 */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, WNOHANG);
	return ret;
}
