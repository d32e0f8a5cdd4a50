/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The run directory: names, the lock, state.json, the socket, and what a dead keeper leaves. */
#include "unit.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "run/rundir.h"
#include "run/state.h"

static char base_dir[512];

static bool swallow(enum ub_log_level level, const char *line)
{
	(void)level;
	(void)line;
	return true;
}

static int base_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	ub_log_to_sink(swallow); /* the warning that this is no tmpfs */
	snprintf(base_dir, sizeof(base_dir), "%s/ublk-bridge-test-XXXXXX",
		 tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(base_dir))
		return -1;
	return setenv("UBLK_BRIDGE_RUNDIR", base_dir, 1);
}

static int base_teardown(void **state)
{
	char command[1200];

	(void)state;
	snprintf(command, sizeof(command), "chmod -R u+rwx '%s' && rm -r '%s'", base_dir, base_dir);
	return system(command); /* NOLINT(cert-env33-c): our own directory */
}

static const char *path_of(const char *name, const char *file)
{
	static char path[2048];

	snprintf(path, sizeof(path), "%s/%s%s%s", getenv("UBLK_BRIDGE_RUNDIR"), name,
		 file ? "/" : "", file ? file : "");
	return path;
}

static bool is_there(const char *name, const char *file)
{
	struct stat st;

	return lstat(path_of(name, file), &st) == 0;
}

static void write_file(const char *name, const char *file, const char *text, size_t len)
{
	int fd = open(path_of(name, file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), (ssize_t)len);
	close(fd);
}

static void create(struct ub_rundir *dir, const char *name)
{
	struct ub_err err = { 0 };

	if (ub_rundir_create(dir, name, &err))
		fail_msg("%s: %s", name, err.text);
}

/* What a SIGKILL does to a keeper: its descriptors go, its files stay. */
static void die(struct ub_rundir *dir)
{
	close(dir->listen_fd);
	close(dir->lock_fd);
	close(dir->dir_fd);
	*dir = (struct ub_rundir)UB_RUNDIR_NONE;
}

static struct ub_state some_state(const char *name, uint64_t cookie)
{
	struct ub_state s = {
		.dev_id = 7, .cookie = cookie, .keeper_pid = 4711, .server_pid = 4712
	};

	snprintf(s.name, sizeof(s.name), "%s", name);
	snprintf(s.backend, sizeof(s.backend), "mem");
	return s;
}

/* ---- names
 * ----------------------------------------------------------------------------------------- */

static void good_names_are_accepted(void **state)
{
	static const char *const good[] = { "a",   "vm-disk", "A.b_c-9", "_x",
					    "0x1", "1a",      "ublk0",	 "9.9" };
	char longest[UB_NAME_BYTES];
	struct ub_err err = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (ub_name_check(good[i], &err))
			fail_msg("'%s' was refused", good[i]);
	}
	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(ub_name_check(longest, &err), 0);
}

static void bad_names_are_refused(void **state)
{
	static const char *const bad[] = {
		"",  ".",   "..",  "../x", "a/b", "/a", ".hidden", "-x",
		"0", "123", "a b", "a\n",  "a:b", "ä",	"a\\b",	   "a*"
	};
	char longer[UB_NAME_BYTES + 1];
	struct ub_err err = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (ub_name_check(bad[i], &err) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		unit_assert_says(err.text, "is not a name");
	}
	memset(longer, 'n', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(ub_name_check(longer, &err), -EINVAL);
}

/* ---- making and removing
 * ----------------------------------------------------------------------------- */

static void create_makes_a_private_directory(void **state)
{
	struct ub_rundir dir;
	struct stat st;

	(void)state;
	create(&dir, "disk");
	assert_int_equal(stat(path_of("disk", NULL), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(stat(path_of("disk", "lock"), &st), 0);
	assert_int_equal(st.st_mode & 077, 0);
	assert_true(is_there("disk", "server.sock"));
	assert_true(ub_rundir_is_held("disk"));
	ub_rundir_remove(&dir);
}

static void remove_leaves_nothing_and_may_be_repeated(void **state)
{
	unsigned before = unit_nr_fds();
	struct ub_rundir dir, none = UB_RUNDIR_NONE;
	struct ub_err err = { 0 };
	struct ub_state s = some_state("disk", 1);

	(void)state;
	create(&dir, "disk");
	assert_int_equal(ub_state_write(&dir, &s, NULL, NULL, &err), 0);
	ub_rundir_remove(&dir);
	assert_false(is_there("disk", NULL));
	assert_int_equal(unit_nr_fds(), before);
	ub_rundir_remove(&dir);
	ub_rundir_remove(&none);
	assert_false(ub_rundir_is_held("disk"));
}

static void the_base_directory_is_made(void **state)
{
	struct ub_rundir dir;
	char deeper[600];

	(void)state;
	snprintf(deeper, sizeof(deeper), "%s/run", base_dir);
	setenv("UBLK_BRIDGE_RUNDIR", deeper, 1);
	create(&dir, "disk");
	assert_true(is_there("disk", "lock"));
	ub_rundir_remove(&dir);
}

static void a_base_that_cannot_be_made_is_named(void **state)
{
	struct ub_rundir dir;
	struct ub_err err = { 0 };
	char missing[600];
	int fd;

	(void)state;
	snprintf(missing, sizeof(missing), "%s/no/such", base_dir);
	setenv("UBLK_BRIDGE_RUNDIR", missing, 1);
	assert_int_equal(ub_rundir_create(&dir, "disk", &err), -ENOENT);
	unit_assert_says(err.text, missing);
	ub_rundir_remove(&dir);
	snprintf(missing, sizeof(missing), "%s/file", base_dir);
	fd = open(missing, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	setenv("UBLK_BRIDGE_RUNDIR", missing, 1);
	assert_int_equal(ub_rundir_create(&dir, "disk", &err), -ENOTDIR);
	ub_rundir_remove(&dir);
}

static void a_base_without_rights_is_refused(void **state)
{
	struct ub_rundir dir;
	struct ub_err err = { 0 };

	(void)state;
	if (geteuid() == 0)
		skip(); /* root may write everywhere */
	assert_int_equal(chmod(base_dir, 0500), 0);
	assert_int_equal(ub_rundir_create(&dir, "disk", &err), -EACCES);
	unit_assert_says(err.text, "disk");
	ub_rundir_remove(&dir);
}

static void a_held_name_is_refused(void **state)
{
	struct ub_rundir dir, second;
	struct ub_err err = { 0 };
	struct ub_state s = some_state("disk", 1);
	unsigned before;

	(void)state;
	create(&dir, "disk");
	assert_int_equal(ub_state_write(&dir, &s, NULL, NULL, &err), 0);
	before = unit_nr_fds();
	assert_int_equal(ub_rundir_create(&second, "disk", &err), -EBUSY);
	unit_assert_says(err.text, "'disk' is taken");
	ub_rundir_remove(&second); /* which must not touch the first one's */
	assert_int_equal(unit_nr_fds(), before);
	assert_true(is_there("disk", "server.sock"));
	assert_true(is_there("disk", "state.json"));
	assert_true(ub_rundir_is_held("disk"));
	ub_rundir_remove(&dir);
}

static void two_names_live_side_by_side(void **state)
{
	struct ub_rundir a, b;

	(void)state;
	create(&a, "a");
	create(&b, "b");
	ub_rundir_remove(&a);
	assert_false(is_there("a", NULL));
	assert_true(ub_rundir_is_held("b"));
	ub_rundir_remove(&b);
}

static void a_dead_keepers_directory_is_taken_over(void **state)
{
	struct ub_rundir dir;
	struct ub_err err = { 0 };
	struct ub_state s = some_state("disk", 1);

	(void)state;
	create(&dir, "disk");
	assert_int_equal(ub_state_write(&dir, &s, NULL, NULL, &err), 0);
	die(&dir);
	assert_false(ub_rundir_is_held("disk"));
	assert_true(is_there("disk", "server.sock"));
	create(&dir, "disk"); /* bind() over the old socket */
	assert_true(ub_rundir_is_held("disk"));
	ub_rundir_remove(&dir);
	assert_false(is_there("disk", NULL));
}

static void sweep_removes_what_is_dead(void **state)
{
	struct ub_rundir dir;
	struct ub_err err = { 0 };
	struct ub_state s = some_state("disk", 1);

	(void)state;
	create(&dir, "disk");
	assert_int_equal(ub_state_write(&dir, &s, NULL, NULL, &err), 0);
	write_file("disk", "state.json.new", "{", 1); /* killed while it wrote */
	die(&dir);
	ub_rundir_sweep("disk");
	assert_false(is_there("disk", NULL));
	ub_rundir_sweep("disk");
}

static void names_are_those_of_directories_sorted(void **state)
{
	char **names;

	(void)state;
	assert_int_equal(ub_rundir_names(&names), 0);
	free(names);
	assert_int_equal(mkdir(path_of("zebra", NULL), 0700), 0);
	assert_int_equal(mkdir(path_of("ape", NULL), 0700), 0);
	assert_int_equal(mkdir(path_of(".hidden", NULL), 0700), 0);
	assert_int_equal(ub_rundir_names(&names), 2);
	assert_string_equal(names[0], "ape");
	assert_string_equal(names[1], "zebra");
	free(names[0]);
	free(names[1]);
	free(names);
	assert_int_equal(ub_rundir_sweep("ape"), 0);
	assert_int_equal(ub_rundir_sweep("ape"), -ENOENT);
	assert_int_equal(mkdir(path_of("zebra", "foreign"), 0700), 0);
	assert_int_equal(ub_rundir_sweep("zebra"), -ENOTEMPTY);
	assert_int_equal(rmdir(path_of("zebra", "foreign")), 0);
	assert_int_equal(ub_rundir_sweep("zebra"), 0);
	assert_int_equal(rmdir(path_of(".hidden", NULL)), 0);
}

static void sweep_spares_what_is_held(void **state)
{
	struct ub_rundir dir;

	(void)state;
	create(&dir, "disk");
	ub_rundir_sweep("disk");
	assert_true(is_there("disk", "lock"));
	assert_true(is_there("disk", "server.sock"));
	ub_rundir_remove(&dir);
}

/* ---- the socket
 * -------------------------------------------------------------------------------------- */

static void assert_connects(const struct ub_rundir *dir)
{
	int client = ub_rundir_connect(dir->name), server;
	char got = 0;

	assert_true(client >= 0);
	server = accept(dir->listen_fd, NULL, NULL);
	assert_true(server >= 0);
	assert_int_equal(send(client, "x", 1, 0), 1);
	assert_int_equal(recv(server, &got, 1, 0), 1);
	assert_int_equal(got, 'x');
	close(server);
	close(client);
}

static void the_socket_is_reached_by_name(void **state)
{
	struct ub_rundir dir;

	(void)state;
	assert_int_equal(ub_rundir_connect("disk"), -ENOENT);
	create(&dir, "disk");
	assert_connects(&dir);
	die(&dir);
	assert_int_equal(ub_rundir_connect("disk"), -ECONNREFUSED);
	create(&dir, "disk");
	assert_connects(&dir);
	ub_rundir_remove(&dir);
}

static void a_path_longer_than_a_socket_address_works(void **state)
{
	char path[900], name[UB_NAME_BYTES];
	struct ub_rundir dir;
	size_t used = strlen(base_dir);

	(void)state;
	memcpy(path, base_dir, used + 1);
	for (unsigned i = 0; i < 4; i++) {
		used += (size_t)snprintf(path + used, sizeof(path) - used, "/%s",
					 "a-directory-with-a-name-of-about-eighty-characters-"
					 "so-that-four-of-them-are-far-too-much");
		assert_int_equal(mkdir(path, 0700), 0);
	}
	assert_true(used > 300);
	setenv("UBLK_BRIDGE_RUNDIR", path, 1);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	create(&dir, name);
	assert_connects(&dir);
	ub_rundir_remove(&dir);
	assert_false(is_there(name, NULL));
}

/* ---- state.json
 * -------------------------------------------------------------------------------------- */

static void state_reads_back_as_written(void **state)
{
	struct ub_state s = some_state("disk", 0x7562deadbeef0123ULL), got = { 0 };
	struct ub_err err = { 0 };
	struct ub_rundir dir;
	struct stat st;

	(void)state;
	create(&dir, "disk");
	assert_int_equal(ub_state_read("disk", &got), -ENOENT);
	for (unsigned round = 0; round < 2; round++) {
		s.dev_id = round ? (1U << 20) - 1 : 0;
		assert_int_equal(ub_state_write(&dir, &s, NULL, NULL, &err), 0);
		memset(&got, 0xff, sizeof(got));
		assert_int_equal(ub_state_read("disk", &got), 0);
		assert_string_equal(got.name, "disk");
		assert_string_equal(got.backend, "mem");
		assert_int_equal(got.dev_id, s.dev_id);
		assert_true(got.cookie == s.cookie);
		assert_int_equal(got.keeper_pid, 4711);
		assert_int_equal(got.server_pid, 4712);
	}
	assert_int_equal(stat(path_of("disk", "state.json"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_false(is_there("disk", "state.json.new"));
	ub_rundir_remove(&dir);
}

/* Which side the device is on: what the file says, if it is about this migration. */
static void the_side_decides_of_which_migration_it_is(void **state)
{
	struct ub_state s = some_state("disk", 0x7562deadbeef0123ULL), got;
	uint64_t cookie = 0xfedcba9876543210ULL, other = 1;
	struct ub_err err = { 0 };
	struct ub_rundir dir;
	json_t *recipe = json_pack("{s:s}", "kind", "mem"), *json;
	json_t *migration = json_pack("{s:s, s:{s:s, s:i}}", "cookie", "fedcba9876543210", "recipe",
				      "kind", "nbd", "store", 12);
	int fd;

	(void)state;
	create(&dir, "disk");
	assert_true(ub_rundir_read_side(&dir) == 0);
	assert_int_equal(ub_state_write(&dir, &s, recipe, migration, &err), 0);
	assert_int_equal(ub_state_read("disk", &got), 0);
	assert_true(got.is_migrating && !got.has_moved);
	fd = ub_rundir_make_side(&dir, &err);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &other, sizeof(other), 0), sizeof(other));
	assert_int_equal(ub_state_read("disk", &got), 0);
	assert_true(got.is_migrating && !got.has_moved);
	assert_int_equal(pwrite(fd, &cookie, sizeof(cookie), 0), sizeof(cookie));
	assert_int_equal(ub_state_read_all("disk", &got, &json), 0);
	assert_true(!got.is_migrating && got.has_moved && got.store == 12);
	assert_string_equal(got.backend, "nbd");
	assert_string_equal(json_string_value(json_object_get(ub_state_recipe(json, &got), "kind")),
			    "nbd");
	json_decref(json);
	/* Another attempt's file: what is written to the old one has no effect. */
	close(ub_rundir_make_side(&dir, &err));
	assert_int_equal(pwrite(fd, &cookie, sizeof(cookie), 0), sizeof(cookie));
	assert_int_equal(ub_state_read("disk", &got), 0);
	assert_true(got.is_migrating && !got.has_moved);
	assert_string_equal(got.backend, "mem");
	/* It has ended, and state.json does not know yet. */
	ub_rundir_void_side(&dir);
	assert_int_equal(ub_state_read("disk", &got), 0);
	assert_true(!got.is_migrating && !got.has_moved);
	/* Without a migration it says nothing. */
	assert_int_equal(ub_state_write(&dir, &s, recipe, NULL, &err), 0);
	assert_int_equal(ub_state_read("disk", &got), 0);
	assert_true(!got.is_migrating && !got.has_moved);
	close(fd);
	json_decref(recipe);
	json_decref(migration);
	ub_rundir_remove(&dir);
	assert_false(is_there("disk", NULL));
}

/* A cookie has its top bits set as often as not, and a longest name is allowed. */
static void extreme_states_read_back(void **state)
{
	struct ub_state s, got;
	struct ub_err err = { 0 };
	struct ub_rundir dir;
	char name[UB_NAME_BYTES];

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	s = some_state(name, UINT64_MAX);
	snprintf(s.backend, sizeof(s.backend), "fifteen-letters");
	create(&dir, name);
	assert_int_equal(ub_state_write(&dir, &s, NULL, NULL, &err), 0);
	assert_int_equal(ub_state_read(name, &got), 0);
	assert_true(got.cookie == UINT64_MAX);
	assert_string_equal(got.name, name);
	assert_string_equal(got.backend, "fifteen-letters");
	ub_rundir_remove(&dir);
}

#define STATE_TEXT(version, id, cookie, keeper) \
	"{\"version\": " version ", \"name\": \"disk\", \"id\": " id \
	", \"device\": \"x\", \"cookie\": " cookie ", \"keeper_pid\": " keeper \
	", \"server_pid\": 2, \"backend\": \"mem\"}"

static void a_corrupt_state_is_told_from_none(void **state)
{
	static const char *const corrupt[] = {
		"",
		"{",
		"garbage",
		"[]",
		"\"text\"",
		"{}",
		STATE_TEXT("2", "7", "\"75621\"", "1"),
		STATE_TEXT("\"1\"", "7", "\"75621\"", "1"),
		STATE_TEXT("1", "-1", "\"75621\"", "1"),
		STATE_TEXT("1", "\"7\"", "\"75621\"", "1"),
		STATE_TEXT("1", "7", "75621", "1"),
		STATE_TEXT("1", "7", "\"75621\"", "null"),
		STATE_TEXT("1", "7", "\"75621\"", "1") "trailing",
		"{\"version\": 1}",
	};
	static const char good[] = STATE_TEXT("1", "7", "\"75621\"", "1");
	struct ub_rundir dir;
	struct ub_state got;

	(void)state;
	create(&dir, "disk");
	for (size_t i = 0; i < sizeof(corrupt) / sizeof(corrupt[0]); i++) {
		write_file("disk", "state.json", corrupt[i], strlen(corrupt[i]));
		if (ub_state_read("disk", &got) != -EBADMSG)
			fail_msg("accepted: %s", corrupt[i]);
	}
	/* The template itself is fine, and every truncation of it is not. */
	write_file("disk", "state.json", good, strlen(good));
	assert_int_equal(ub_state_read("disk", &got), 0);
	assert_true(got.cookie == 0x75621);
	for (size_t len = 0; len < strlen(good); len++) {
		write_file("disk", "state.json", good, len);
		assert_int_equal(ub_state_read("disk", &got), -EBADMSG);
	}
	ub_rundir_remove(&dir);
}

static void binary_and_oversize_states_are_refused(void **state)
{
	enum { HUGE = 1 << 20 };
	char *text = malloc(HUGE);
	struct ub_rundir dir;
	struct ub_state got;
	uint64_t seed = 3;

	(void)state;
	assert_non_null(text);
	create(&dir, "disk");
	for (size_t i = 0; i < HUGE; i++)
		text[i] = (char)unit_random(&seed);
	write_file("disk", "state.json", text, HUGE);
	assert_int_equal(ub_state_read("disk", &got), -EBADMSG);
	memset(text, ' ', HUGE);
	write_file("disk", "state.json", text, HUGE);
	assert_int_equal(ub_state_read("disk", &got), -EBADMSG);
	memset(text, '[', HUGE);
	write_file("disk", "state.json", text, HUGE);
	assert_int_equal(ub_state_read("disk", &got), -EBADMSG);
	assert_int_equal(truncate(path_of("disk", "state.json"), 1LL << 40), 0);
	assert_int_equal(ub_state_read("disk", &got), -EBADMSG);
	ub_rundir_remove(&dir);
	free(text);
}

/* A command can have many words; what is written can be read, or it is not written. */
static void a_long_recipe_is_read_back(void **state)
{
	static char words[(12 << 20) + 1];
	struct ub_state s = some_state("disk", 1), got;
	struct ub_err err = { 0 };
	struct ub_rundir dir;
	json_t *recipe, *json;

	(void)state;
	create(&dir, "disk");
	memset(words, 'a', sizeof(words) - 1);
	recipe = json_pack("{s:s, s:s}", "kind", "mem", "command", words);
	assert_non_null(recipe);
	assert_int_equal(ub_state_write(&dir, &s, recipe, NULL, &err), 0);
	assert_int_equal(ub_state_read_all("disk", &got, &json), 0);
	assert_string_equal(json_string_value(
				    json_object_get(json_object_get(json, "recipe"), "command")),
			    words);
	json_decref(json);
	json_object_set_new(recipe, "more", json_string(words));
	assert_int_equal(ub_state_write(&dir, &s, recipe, NULL, &err), -E2BIG);
	assert_int_equal(ub_state_read("disk", &got), 0); /* the last one is there still */
	json_decref(recipe);
	ub_rundir_remove(&dir);
}

static void a_link_in_place_of_the_state_is_not_followed(void **state)
{
	static const char good[] = STATE_TEXT("1", "7", "\"75621\"", "1");
	struct ub_rundir dir;
	struct ub_state got;

	(void)state;
	create(&dir, "disk");
	write_file("disk", "elsewhere", good, strlen(good));
	assert_int_equal(symlink("elsewhere", path_of("disk", "state.json")), 0);
	assert_int_equal(ub_state_read("disk", &got), -ELOOP);
	unlink(path_of("disk", "elsewhere"));
	ub_rundir_remove(&dir);
}

static void a_state_is_found_by_its_cookie(void **state)
{
	struct ub_rundir a, b, corrupt, empty;
	struct ub_state s, got;
	struct ub_err err = { 0 };

	(void)state;
	assert_int_equal(ub_state_find(11, &got), -ENOENT);
	create(&a, "a");
	create(&b, "b");
	create(&corrupt, "corrupt");
	create(&empty, "empty");
	s = some_state("a", 11);
	assert_int_equal(ub_state_write(&a, &s, NULL, NULL, &err), 0);
	s = some_state("b", 12);
	assert_int_equal(ub_state_write(&b, &s, NULL, NULL, &err), 0);
	write_file("corrupt", "state.json", "{", 1);
	assert_int_equal(ub_state_find(11, &got), 0);
	assert_string_equal(got.name, "a");
	assert_int_equal(ub_state_find(12, &got), 0);
	assert_string_equal(got.name, "b");
	assert_int_equal(ub_state_find(13, &got), -ENOENT);
	ub_rundir_remove(&a);
	ub_rundir_remove(&b);
	ub_rundir_remove(&corrupt);
	ub_rundir_remove(&empty);
}

static void without_a_base_nothing_is_found(void **state)
{
	struct ub_state got;
	char missing[600];

	(void)state;
	snprintf(missing, sizeof(missing), "%s/none", base_dir);
	setenv("UBLK_BRIDGE_RUNDIR", missing, 1);
	assert_int_equal(ub_state_find(1, &got), -ENOENT);
	assert_int_equal(ub_state_read("disk", &got), -ENOENT);
	assert_int_equal(ub_rundir_connect("disk"), -ENOENT);
	assert_false(ub_rundir_is_held("disk"));
	ub_rundir_sweep("disk");
}

#define BASE_TEST(f) cmocka_unit_test_setup_teardown(f, base_setup, base_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_names_are_accepted),
		cmocka_unit_test(bad_names_are_refused),
		BASE_TEST(create_makes_a_private_directory),
		BASE_TEST(remove_leaves_nothing_and_may_be_repeated),
		BASE_TEST(the_base_directory_is_made),
		BASE_TEST(a_base_that_cannot_be_made_is_named),
		BASE_TEST(a_base_without_rights_is_refused),
		BASE_TEST(a_held_name_is_refused),
		BASE_TEST(two_names_live_side_by_side),
		BASE_TEST(a_dead_keepers_directory_is_taken_over),
		BASE_TEST(sweep_removes_what_is_dead),
		BASE_TEST(names_are_those_of_directories_sorted),
		BASE_TEST(sweep_spares_what_is_held),
		BASE_TEST(the_socket_is_reached_by_name),
		BASE_TEST(a_path_longer_than_a_socket_address_works),
		BASE_TEST(state_reads_back_as_written),
		BASE_TEST(the_side_decides_of_which_migration_it_is),
		BASE_TEST(extreme_states_read_back),
		BASE_TEST(a_corrupt_state_is_told_from_none),
		BASE_TEST(binary_and_oversize_states_are_refused),
		BASE_TEST(a_long_recipe_is_read_back),
		cmocka_unit_test(a_long_recipe_is_read_back),
		BASE_TEST(a_link_in_place_of_the_state_is_not_followed),
		BASE_TEST(a_state_is_found_by_its_cookie),
		BASE_TEST(without_a_base_nothing_is_found),
	};

	return cmocka_run_group_tests_name("rundir", tests, NULL, NULL);
}
