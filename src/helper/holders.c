/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who holds a block device. A helper process.
 *
 * Nothing here may touch the device or a filesystem on it: no stat of a mount point, no
 * /proc/PID/maps, exe or cmdline, which wait for a process's memory and so perhaps for this very
 * device.
 */
#include "helper/holders.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mountinfo.h"

#define HOLDERS_MAX_NODES      257 /* the disk and its partitions */
#define HOLDERS_MAX_NAMESPACES 64
#define HOLDERS_MAX_FRIENDS    64
#define HOLDERS_PATH_BYTES     4096

struct holders_node {
	char name[32];	  /* ublkb0, ublkb0p1 */
	char numbers[24]; /* major:minor */
};

struct holders_search {
	struct holders_node nodes[HOLDERS_MAX_NODES];
	unsigned nr_nodes;
	char namespaces[HOLDERS_MAX_NAMESPACES][32]; /* mount namespaces that were looked at */
	unsigned nr_namespaces;
	/* all members of the btrfs that one of the nodes belongs to */
	char friends[HOLDERS_MAX_FRIENDS][32];
	unsigned nr_friends;
	char overlays[256]; /* where they are mounted: "/, /merged"; "": none was seen */
	char *text;
	size_t len;
};

static void holders_say(struct holders_search *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void holders_say(struct holders_search *s, const char *fmt, ...)
{
	char item[256];
	size_t used = strlen(s->text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(item, sizeof(item), fmt, ap);
	va_end(ap);
	if (strstr(s->text, item))
		return; /* the same mount in a second namespace */
	snprintf(s->text + used, s->len - used, "%s%s", used ? "; " : "", item);
}

/* ---- the disk and its partitions ----------------------------------------- */

static void holders_add_node(struct holders_search *s, const char *disk, const char *name)
{
	struct holders_node *node = &s->nodes[s->nr_nodes];
	char path[128];
	FILE *file;

	if (s->nr_nodes == HOLDERS_MAX_NODES)
		return;
	if (strcmp(disk, name) == 0)
		snprintf(path, sizeof(path), "/sys/block/%s/dev", disk);
	else
		snprintf(path, sizeof(path), "/sys/block/%s/%s/dev", disk, name);
	file = fopen(path, "re");
	if (!file)
		return;
	if (fscanf(file, "%23s", node->numbers) == 1) {
		snprintf(node->name, sizeof(node->name), "%s", name);
		s->nr_nodes++;
	}
	fclose(file);
}

static void holders_find_nodes(struct holders_search *s, uint32_t dev_id)
{
	char disk[24], path[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(disk, sizeof(disk), "ublkb%u", dev_id);
	snprintf(path, sizeof(path), "/sys/block/%s", disk);
	holders_add_node(s, disk, disk);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		size_t len = strlen(disk);

		if (strncmp(entry->d_name, disk, len) == 0 && entry->d_name[len] == 'p' &&
		    strlen(entry->d_name) < sizeof(s->nodes[0].name))
			holders_add_node(s, disk, entry->d_name);
	}
	if (dir)
		closedir(dir);
}

static const struct holders_node *holders_node_by_path(const struct holders_search *s,
						       const char *path)
{
	if (strncmp(path, "/dev/", 5) != 0)
		return NULL;
	for (unsigned i = 0; i < s->nr_nodes; i++) {
		if (strcmp(path + 5, s->nodes[i].name) == 0)
			return &s->nodes[i];
	}
	return NULL;
}

/* ---- what may hold them -------------------------------------------------- */

/* A btrfs of several devices is mounted by one of them, and that one alone is in mountinfo. */
static bool holders_is_friend(const struct holders_search *s, const char *source)
{
	for (unsigned i = 0; i < s->nr_friends && strncmp(source, "/dev/", 5) == 0; i++) {
		if (strcmp(source + 5, s->friends[i]) == 0)
			return true;
	}
	return false;
}

static void holders_add_overlay(struct holders_search *s, const char *point)
{
	size_t used = strlen(s->overlays);

	if (strcmp(point, "/") == 0 ? !*s->overlays : !strstr(s->overlays, point))
		snprintf(s->overlays + used, sizeof(s->overlays) - used, "%s%.200s",
			 used ? ", " : "", point);
}

static void holders_in_mountinfo(struct holders_search *s, const char *path)
{
	FILE *file = fopen(path, "re");
	char line[2 * HOLDERS_PATH_BYTES];

	while (file && fgets(line, sizeof(line), file)) {
		char numbers[24], point[HOLDERS_PATH_BYTES], source[HOLDERS_PATH_BYTES] = "",
							     type[32] = "";
		const char *rest = strstr(line, " - ");
		bool ours = false, is_friend = false;

		if (!rest || sscanf(line, "%*d %*d %23s %*s %4095s", numbers, point) != 2)
			continue;
		/* btrfs and others have numbers of their own, and the node as their source. */
		if (sscanf(rest + 3, "%31s %4095s", type, source) == 2) {
			ours = holders_node_by_path(s, source) != NULL;
			is_friend = strcmp(type, "btrfs") == 0 && holders_is_friend(s, source);
		}
		for (unsigned i = 0; i < s->nr_nodes && !ours; i++)
			ours = strcmp(numbers, s->nodes[i].numbers) == 0;
		if (ours)
			holders_say(s, "mounted on %.200s", ub_mountinfo_unescape(point));
		else if (is_friend)
			holders_say(s, "part of the btrfs that is mounted on %.180s",
				    ub_mountinfo_unescape(point));
		else if (strcmp(type, "overlay") == 0)
			holders_add_overlay(s, ub_mountinfo_unescape(point));
	}
	if (file)
		fclose(file);
}

static void holders_in_swaps(struct holders_search *s)
{
	FILE *file = fopen("/proc/swaps", "re");
	char line[HOLDERS_PATH_BYTES], path[HOLDERS_PATH_BYTES];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%4095s", path) == 1 && holders_node_by_path(s, path))
			holders_say(s, "used as swap (%.200s)", path);
	}
	if (file)
		fclose(file);
}

/* The first word of a file; "": there is none. */
static const char *holders_word(const char *path, char *word, size_t len)
{
	FILE *file = fopen(path, "re");

	word[0] = '\0';
	if (file && fgets(word, (int)len, file))
		word[strcspn(word, " \n")] = '\0';
	if (file)
		fclose(file);
	return word;
}

static void holders_say_holder(struct holders_search *s, const char *holder)
{
	char path[320], name[128];

	snprintf(path, sizeof(path), "/sys/class/block/%.200s/dm/name", holder);
	if (*holders_word(path, name, sizeof(name)))
		holders_say(s, "held by %.120s (%.60s, device mapper)", name, holder);
	else
		holders_say(s, "held by %.200s", holder);
}

/* Device mapper, md and the like name themselves in sysfs. */
static void holders_in_sysfs(struct holders_search *s)
{
	for (unsigned i = 0; i < s->nr_nodes; i++) {
		struct dirent *entry;
		char path[128];
		DIR *dir;

		snprintf(path, sizeof(path), "/sys/class/block/%s/holders", s->nodes[i].name);
		dir = opendir(path);
		while (dir && (entry = readdir(dir))) {
			if (entry->d_name[0] != '.')
				holders_say_holder(s, entry->d_name);
		}
		if (dir)
			closedir(dir);
	}
}

/* /sys/fs/btrfs/UUID/devices has the members of each that is mounted. */
static void holders_add_friends(struct holders_search *s, const char *devices)
{
	DIR *dir = opendir(devices);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) && s->nr_friends < HOLDERS_MAX_FRIENDS) {
		if (entry->d_name[0] != '.' && strlen(entry->d_name) < sizeof(s->friends[0]))
			strcpy(s->friends[s->nr_friends++], entry->d_name);
	}
	if (dir)
		closedir(dir);
}

static void holders_in_btrfs(struct holders_search *s)
{
	DIR *dir = opendir("/sys/fs/btrfs");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		for (unsigned i = 0; i < s->nr_nodes && entry->d_name[0] != '.'; i++) {
			char path[384], member[448];

			snprintf(path, sizeof(path), "/sys/fs/btrfs/%s/devices", entry->d_name);
			snprintf(member, sizeof(member), "%s/%s", path, s->nodes[i].name);
			if (access(member, F_OK) == 0)
				holders_add_friends(s, path);
		}
	}
	if (dir)
		closedir(dir);
}

/* jbd2 has a directory for each journal: of one on a device of its own with that device's name. */
static void holders_in_journals(struct holders_search *s)
{
	for (unsigned i = 0; i < s->nr_nodes; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/fs/jbd2/%s", s->nodes[i].name);
		if (access(path, F_OK) == 0)
			holders_say(s, "the external journal of an ext4 that is mounted");
	}
}

/* A zram device that writes back to it. */
static void holders_in_zrams(struct holders_search *s)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[320], backing[256];

		if (strncmp(entry->d_name, "zram", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/backing_dev", entry->d_name);
		if (holders_node_by_path(s, holders_word(path, backing, sizeof(backing))))
			holders_say(s, "the backing device of %.60s", entry->d_name);
	}
	if (dir)
		closedir(dir);
}

/* A loop device opens its file as anybody does, and the kernel alone holds it. */
static void holders_in_loops(struct holders_search *s)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[320], backing[HOLDERS_PATH_BYTES];
		FILE *file;

		if (strncmp(entry->d_name, "loop", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue; /* it has no file at the moment */
		if (fscanf(file, "%4095s", backing) == 1 && holders_node_by_path(s, backing))
			holders_say(s, "held by %.200s", entry->d_name);
		fclose(file);
	}
	if (dir)
		closedir(dir);
}

/* True when this mount namespace was not looked at before. */
static bool holders_new_namespace(struct holders_search *s, const char *pid)
{
	char path[64], link[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.16s/ns/mnt", pid);
	n = readlink(path, link, sizeof(link) - 1);
	if (n <= 0 || s->nr_namespaces == HOLDERS_MAX_NAMESPACES)
		return false;
	link[n] = '\0';
	for (unsigned i = 0; i < s->nr_namespaces; i++) {
		if (strcmp(s->namespaces[i], link) == 0)
			return false;
	}
	strcpy(s->namespaces[s->nr_namespaces++], link); /* both are 32 bytes long */
	return true;
}

static void holders_in_fds(struct holders_search *s, const char *pid)
{
	char path[64], link[64], comm[32] = "?";
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		if (n <= 0)
			continue;
		link[n] = '\0';
		found = holders_node_by_path(s, link) != NULL;
	}
	if (dir)
		closedir(dir);
	if (found) {
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
		file = fopen(path, "re");
		if (file) {
			if (fgets(comm, sizeof(comm), file))
				comm[strcspn(comm, "\n")] = '\0';
			fclose(file);
		}
		holders_say(s, "opened by %s (pid %.16s)", comm, pid);
	}
}

/* All that any process shows: its mount namespace, and what it has open. */
static void holders_in_processes(struct holders_search *s)
{
	struct dirent *entry;
	char self[16];
	DIR *proc;

	snprintf(self, sizeof(self), "%d", getpid());
	proc = opendir("/proc");
	while (proc && s->nr_nodes && (entry = readdir(proc))) {
		char path[64];

		if (!isdigit((unsigned char)entry->d_name[0]) || strcmp(entry->d_name, self) == 0)
			continue;
		if (holders_new_namespace(s, entry->d_name)) {
			snprintf(path, sizeof(path), "/proc/%.16s/mountinfo", entry->d_name);
			holders_in_mountinfo(s, path);
		}
		holders_in_fds(s, entry->d_name);
	}
	if (proc)
		closedir(proc);
}

static struct holders_search *holders_search(uint32_t dev_id, char *text, size_t len)
{
	struct holders_search *s = calloc(1, sizeof(*s));

	text[0] = '\0';
	if (!s)
		return NULL;
	s->text = text;
	s->len = len;
	holders_find_nodes(s, dev_id);
	holders_in_swaps(s);
	holders_in_sysfs(s);
	holders_in_loops(s);
	holders_in_zrams(s);
	holders_in_journals(s);
	holders_in_btrfs(s);
	holders_in_processes(s);
	if (s->nr_friends && !text[0])
		holders_say(s, "part of a btrfs that is mounted");
	return s;
}

bool ub_holders_find(uint32_t dev_id, char *text, size_t len)
{
	struct holders_search *s = holders_search(dev_id, text, len);

	free(s);
	return text[0] != '\0';
}

void ub_holders_suspect(uint32_t dev_id, char *text, size_t len)
{
	struct holders_search *s = holders_search(dev_id, text, len);

	/*
	 * A filesystem without a mount point of its own is held by what lies upon it, and nobody
	 * can tell which that is.
	 */
	if (s && !text[0])
		snprintf(text, len, "held by something that cannot be named%s%s",
			 s->overlays[0] ? ": perhaps it is below an overlay: " : "", s->overlays);
	free(s);
}
