/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A migration as the keeper sees it: what is said to the server, what is written down, and who dies
 * when.
 */
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "backend/store.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "keeper/keeper.h"
#include "keeper/note.h"
#include "keeper/tables.h"
#include "keeper/recipe.h"
#include "keeper/job/verbs.h"
#include "run/state.h"

#define SIZE (1ULL << 20)
#define MEM  "\"destination\":{\"kind\":\"mem\"}"
#define NBD \
	"\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{\\\"transport\\\":\\\"uri\\\",\\\"uri\\\":" \
	"\\\"nbd://there/x\\\"}\"}"
#define MIGRATE(members) "{\"version\":1,\"verb\":\"migrate\"," members "}\n"
#define VERB(name)	 "{\"version\":1,\"verb\":\"" name "\"}\n"

static char base_dir[512];
static struct nbd_options nbd;
static struct ub_attach_options opts;
static struct ub_keeper keeper;
static struct ub_stats_page *page;
static int server_fd; /* the other end of the keeper's */
static int client_fd;
static uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
static int got_fds[UB_MESSAGE_MAX_FDS];

static bool swallow(enum ub_log_level level, const char *line)
{
	(void)level;
	(void)line;
	return true;
}

static void give_server(struct ub_keeper *k)
{
	struct ub_err err = { 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	server_fd = pair[1];
	*k->server = (struct ub_server)UB_SERVER_NONE;
	k->server->keeper = k;
	k->server->version = UB_MESSAGE_VERSION;
	assert_int_equal(ub_server_watch(k->server, getpid(), pair[0], &err), 0);
}

/* A live NBD device in a run directory of its own. */
static int keeper_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	struct ub_err err = { 0 };

	(void)state;
	ub_log_to_sink(swallow);
	snprintf(base_dir, sizeof(base_dir), "%s/ub-migrate-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(base_dir));
	setenv("UBLK_BRIDGE_RUNDIR", base_dir, 1);
	nbd_options_init(&nbd);
	nbd.address.transport = NBD_TCP;
	nbd.address.host = strdup("here");
	nbd.address.port = strdup("10809");
	opts = (struct ub_attach_options){
		.side = { .kind = "nbd", .options = "", .nbd = &nbd, .fd = -1 },
		.scheduler = "none",
		.timeout_s = 5,
	};
	ub_keeper_init(&keeper, &opts, ub_keeper_jobs, ub_keeper_verbs);
	ub_life_enter(&keeper, UB_LIVE);
	keeper.recovery.is_on = true;
	keeper.device.info.dev_id = 7;
	keeper.device.info.nr_hw_queues = 1;
	keeper.device.data_path = UB_DATA_PATH_COPY;
	keeper.side->identity = strdup("the source");
	keeper.side->limits = (struct ub_limits){ .size_bytes = SIZE,
						  .logical_block_bytes = 4096,
						  .physical_block_bytes = 4096,
						  .max_io_bytes = 65536 };
	page = aligned_alloc(64, (ub_stats_bytes(1) + 63) & ~(size_t)63);
	assert_non_null(page);
	memset(page, 0, ub_stats_bytes(1));
	keeper.shared.stats = page;
	give_server(&keeper);
	assert_int_equal(ub_rundir_create(&keeper.rundir, "seven", &err), 0);
	ub_control_open(&keeper.control, &keeper, ub_keeper_verbs, &keeper.loop,
			ub_steal_fd(&keeper.rundir.control_fd));
	client_fd = ub_rundir_connect_control("seven");
	assert_true(client_fd >= 0);
	assert_int_equal(ub_note_write(&keeper, &err), 0);
	return 0;
}

static int keeper_teardown(void **state)
{
	(void)state;
	ub_jobs_raise(&keeper, UB_EVENT_ENDING);
	ub_command_end(&keeper.side->command);
	ub_control_close(&keeper.control);
	ub_rundir_remove(&keeper.rundir);
	ub_server_forget(keeper.server);
	ub_links_clear(&keeper.links);
	close(client_fd);
	close(server_fd);
	ub_close(&keeper.side->store_fd);
	free(keeper.side->identity);
	free(page);
	if (keeper.side->recipe)
		ub_recipe_destroy(keeper.side->recipe);
	free(keeper.side->recipe);
	nbd_options_destroy(&nbd);
	for (unsigned i = 0; i < UB_LOOP_MAX; i++)
		assert_int_equal(keeper.loop.sources[i].fd, -1);
	assert_int_equal(rmdir(base_dir), 0);
	return 0;
}

/* The keeper does what there is to do. */
static void pump(void)
{
	for (unsigned i = 0; i < 8; i++) {
		ub_loop_once(&keeper.loop, 0);
		ub_job_migrate.tend(&keeper);
	}
}

static void pump_until_cleared(void)
{
	for (unsigned i = 0; i < 500 && ub_migrate_has_leftovers(&keeper); i++) {
		ub_loop_once(&keeper.loop, 10);
		ub_job_migrate.tend(&keeper);
	}
	assert_false(ub_migrate_has_leftovers(&keeper));
}

/* ---- the client, and the server ------------------------------------------ */

static void client_say(const char *text)
{
	assert_int_equal(send(client_fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	pump();
}

/* The caller's to json_decref(). */
static json_t *client_hear(void)
{
	static char line[65536];
	size_t len = 0;

	while (len < sizeof(line) && recv(client_fd, line + len, 1, MSG_DONTWAIT) == 1) {
		if (line[len++] == '\n')
			break;
	}
	return json_loadb(line, len, 0, NULL);
}

static void assert_ok(void)
{
	json_t *reply = client_hear();

	assert_non_null(reply);
	if (!json_is_true(json_object_get(reply, "ok")))
		fail_msg("refused: %s", json_string_value(json_object_get(reply, "error")));
	json_decref(reply);
}

static void assert_refused(const char *name, const char *part)
{
	json_t *reply = client_hear();
	const char *code = json_string_value(json_object_get(reply, "errno"));

	assert_non_null(reply);
	if (!code || strcmp(code, name) != 0)
		fail_msg("%s, not %s: %s", code ? code : "done", name,
			 json_string_value(json_object_get(reply, "error")));
	unit_assert_says(json_string_value(json_object_get(reply, "error")), part);
	json_decref(reply);
}

/* A member of the member `of` of what info says; the caller's to json_decref(). */
static json_t *info(const char *of, const char *member)
{
	json_t *reply, *value;

	client_say(VERB("info"));
	reply = client_hear();
	value = json_object_get(reply, of);
	value = json_incref(member ? json_object_get(value, member) : value);
	json_decref(reply);
	assert_non_null(value);
	return value;
}

static void assert_info(const char *of, const char *member, const char *value)
{
	json_t *json = info(of, member);

	if (value)
		assert_string_equal(json_string_value(json), value);
	else
		assert_true(json_is_null(json));
	json_decref(json);
}

static bool server_has_nothing(void)
{
	return poll(&(struct pollfd){ .fd = server_fd, .events = POLLIN }, 1, 0) == 0;
}

static void drop_fds(void)
{
	for (unsigned i = 0; i < UB_MESSAGE_MAX_FDS; i++)
		ub_close(&got_fds[i]);
}

static struct ub_msg_migrate *server_hears_migrate(void)
{
	struct ub_msg_migrate *msg = (struct ub_msg_migrate *)inbox;

	assert_int_equal(ub_message_receive(server_fd, inbox, got_fds, MSG_DONTWAIT), 0);
	assert_int_equal(msg->header.type, UB_MSG_MIGRATE);
	ub_message_unpack_fds(got_fds, msg->has_fd);
	return msg;
}

static void server_hears_control(uint32_t what)
{
	struct ub_msg_migrate_control *msg = (struct ub_msg_migrate_control *)inbox;
	int fds[UB_MESSAGE_MAX_FDS];

	assert_int_equal(ub_message_receive(server_fd, inbox, fds, MSG_DONTWAIT), 0);
	assert_int_equal(msg->header.type, UB_MSG_MIGRATE_CONTROL);
	assert_int_equal(msg->what, what);
	assert_int_equal(msg->id, keeper.job.migration.id);
}

static void server_says_as(uint32_t id, enum ub_migration_phase phase, uint32_t code,
			   const char *text, const char *identity)
{
	size_t len = sizeof(struct ub_msg_migration) + strlen(identity) + 1;
	struct ub_msg_migration *msg = calloc(1, len);

	assert_non_null(msg);
	msg->header.type = UB_MSG_MIGRATION;
	msg->header.len_bytes = (uint32_t)len;
	msg->id = id;
	msg->phase = phase;
	msg->code = code;
	msg->caps = 5;
	msg->limits = (struct ub_limits){ .size_bytes = 2 * SIZE,
					  .logical_block_bytes = 512,
					  .physical_block_bytes = 512,
					  .max_io_bytes = 4096,
					  .can_flush = 1 };
	msg->pause_us = 1500;
	snprintf(msg->text, sizeof(msg->text), "%s", text);
	strcpy(msg->identity, identity);
	assert_int_equal(ub_message_send(server_fd, &msg->header, NULL, 0, 0), 0);
	free(msg);
	pump();
}

static void server_says(enum ub_migration_phase phase, uint32_t code, const char *text)
{
	server_says_as(keeper.job.migration.id, phase, code, text, "the destination");
}

static void server_links(enum ub_message_type type, uint32_t id, bool is_destination)
{
	struct ub_msg_link msg = { .header = { .type = type, .len_bytes = sizeof(msg) },
				   .id = id,
				   .is_destination = is_destination };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(ub_message_send(server_fd, &msg.header, pair, type == UB_MSG_LINK, 0), 0);
	close(pair[0]);
	close(pair[1]);
	pump();
}

/* ---- what is written down ------------------------------------------------ */

static uint64_t side(void)
{
	return ub_rundir_read_side(&keeper.rundir);
}

static bool side_is_there(void)
{
	struct stat st;

	return fstatat(keeper.rundir.dir_fd, "side", &st, 0) == 0;
}

/*
 * What state.json has at a path such as "migration.destination.kind"; NULL: nothing. The caller's.
 */
static json_t *noted(const char *path)
{
	char copy[128], *rest = copy, *key;
	struct ub_state state;
	json_t *json, *value;

	assert_int_equal(ub_state_read_all("seven", &state, &json), 0);
	snprintf(copy, sizeof(copy), "%s", path);
	value = json;
	while (value && (key = strsep(&rest, ".")))
		value = json_object_get(value, key);
	json_incref(value);
	json_decref(json);
	return value;
}

static void assert_noted(const char *path, const char *text)
{
	json_t *json = noted(path);

	if (text)
		assert_string_equal(json_string_value(json), text);
	else
		assert_null(json);
	json_decref(json);
}

/* state.json cannot be written while a directory has the name of the new one. */
static void notes_fail(bool fail)
{
	if (fail)
		assert_int_equal(mkdirat(keeper.rundir.dir_fd, "state.json.new", 0700), 0);
	else
		assert_int_equal(unlinkat(keeper.rundir.dir_fd, "state.json.new", AT_REMOVEDIR), 0);
}

/* The cutover: the server's, in the file that it was given. */
static void server_writes_side(uint64_t cookie)
{
	assert_int_equal(pwrite(got_fds[UB_FD_SIDE], &cookie, sizeof(cookie), 0), sizeof(cookie));
}

static uint64_t begin(const char *request)
{
	uint64_t cookie;

	client_say(request);
	assert_ok();
	cookie = server_hears_migrate()->cookie;
	server_says(UB_MIGRATION_CONNECTING, 0, "");
	return cookie;
}

static uint64_t begin_copying(const char *request)
{
	uint64_t cookie = begin(request);

	server_says(UB_MIGRATION_READY, 0, "");
	server_hears_control(UB_MIGRATE_GO);
	server_says(UB_MIGRATION_COPYING, 0, "");
	return cookie;
}

/* ---- as it should be ----------------------------------------------------- */

static void a_device_is_moved_to_memory(void **state)
{
	struct ub_msg_migrate *msg;
	struct ub_state read;
	uint64_t cookie;
	struct stat st;

	(void)state;
	client_say(MIGRATE(MEM ",\"wait\":true,\"rate_bytes\":1000,\"mirror_timeout_ms\":2000"));
	assert_ok();
	msg = server_hears_migrate();
	cookie = msg->cookie;
	assert_true(cookie != 0);
	assert_string_equal(msg->kind, "mem");
	assert_string_equal(msg->options, "");
	assert_true(msg->size_bytes == SIZE && msg->rate_bytes == 1000 &&
		    msg->mirror_timeout_ms == 2000);
	assert_int_equal(msg->flags, UB_MIGRATE_WAIT);
	for (unsigned i = 0; i < UB_NR_MIGRATE_FDS; i++)
		assert_true(got_fds[i] >= 0);
	assert_int_equal(fstat(got_fds[UB_FD_SIDE], &st), 0);
	assert_int_equal(st.st_size, 8);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(side_is_there() && side() == 0);
	assert_noted("migration.destination.kind", "mem");
	assert_noted("migration.recipe", NULL);
	assert_info("migration", "phase", "connecting");
	assert_info("migration", "destination", "memory of 1 MiB");
	server_says(UB_MIGRATION_CONNECTING, 0, "");
	assert_true(server_has_nothing());
	server_says(UB_MIGRATION_READY, 0, "");
	server_hears_control(UB_MIGRATE_GO);
	assert_noted("migration.recipe.identity", "the destination");
	assert_noted("recipe.identity", "the source");
	server_says(UB_MIGRATION_COPYING, 0, "");
	assert_info("migration", "phase", "copying");
	server_says(UB_MIGRATION_PAUSED, ETIMEDOUT, "it does not answer");
	assert_info("migration", "phase", "paused");
	assert_info("migration", "why", "it does not answer");
	server_says(UB_MIGRATION_IN_STEP, 0, "");
	assert_info("migration", "phase", "in-step");
	assert_info("migration", "why", NULL);
	client_say(VERB("migrate-complete"));
	assert_ok();
	server_hears_control(UB_MIGRATE_COMPLETE);
	server_says(UB_MIGRATION_CUTOVER, 0, "");
	assert_int_equal(ub_state_read("seven", &read), 0);
	assert_true(read.is_migrating && !read.has_moved);
	assert_string_equal(read.backend, "nbd");
	server_writes_side(cookie);
	assert_int_equal(ub_state_read("seven", &read), 0);
	assert_true(!read.is_migrating && read.has_moved);
	assert_string_equal(read.backend, "mem");
	server_says(UB_MIGRATION_MOVED, 0, "");
	assert_string_equal(keeper.side->o->kind, "mem");
	assert_null(keeper.side->o->nbd);
	assert_true(keeper.side->store_fd >= 0 && keeper.side->caps == 5);
	assert_string_equal(keeper.side->identity, "the destination");
	assert_true(keeper.side->limits.size_bytes == SIZE &&
		    keeper.side->limits.logical_block_bytes == 4096);
	assert_true(keeper.side->limits.physical_block_bytes == 4096 &&
		    keeper.side->limits.max_io_bytes == 4096);
	assert_noted("migration", NULL);
	assert_noted("recipe.kind", "mem");
	assert_noted("backend", "mem");
	assert_false(side_is_there());
	assert_info("migration", NULL, NULL);
	assert_info("last_migration", "result", "moved");
	assert_int_equal(keeper.job.migration.last.pause_us, 1500);
	pump_until_cleared();
	drop_fds();
}

static void and_back_again(void **state)
{
	uint64_t cookie;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		cookie = begin_copying(MIGRATE(MEM));
		server_writes_side(cookie);
		server_says(UB_MIGRATION_MOVED, 0, "");
		assert_string_equal(keeper.side->o->kind, "mem");
		drop_fds();
		cookie = begin_copying(MIGRATE(NBD));
		assert_int_equal(got_fds[UB_FD_DESTINATION], -1);
		unit_assert_says(keeper.job.migration.label, "nbd://there/x");
		server_writes_side(cookie);
		server_says(UB_MIGRATION_MOVED, 0, "");
		assert_string_equal(keeper.side->o->nbd->address.uri, "nbd://there/x");
		assert_int_equal(keeper.side->store_fd, -1);
		drop_fds();
	}
}

/* ---- as it should not ---------------------------------------------------- */

static void what_cannot_be_is_refused(void **state)
{
	static const struct {
		const char *line, *name, *says;
	} cases[] = {
		{ MIGRATE("\"wait\":true"), "EINVAL", "kind is mem or nbd" },
		{ MIGRATE("\"destination\":{\"kind\":\"null\"}"), "EINVAL", "kind is mem or nbd" },
		{ MIGRATE("\"destination\":{\"kind\":\"mem\",\"size_bytes\":4096}"), "ERANGE",
		  "smaller than the device" },
		{ MIGRATE("\"destination\":{\"kind\":\"mem\",\"size_bytes\":1049088}"), "EINVAL",
		  "block size 4096" },
		{ MIGRATE("\"destination\":{\"kind\":\"mem\",\"size_bytes\":\"1G\"}"), "EINVAL",
		  "number" },
		{ MIGRATE("\"destination\":{\"kind\":\"nbd\"}"), "EINVAL", "which NBD export" },
		{ MIGRATE("\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{}\"}"), "EINVAL",
		  "which server" },
		{ MIGRATE("\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{\\\"transport\\\":"
			  "\\\"tcp\\\"}\"}"),
		  "EINVAL", "which server" },
		{ MIGRATE("\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{\\\"transport\\\":"
			  "\\\"socket\\\"}\"}"),
		  "EOPNOTSUPP", "ready made" },
		{ MIGRATE("\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{}\",\"command_hex\":[]}"),
		  "EINVAL", "command_hex" },
		{ MIGRATE("\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{}\",\"command_hex\":["
			  "\"zz\"],\"dir_hex\":\"2f\"}"),
		  "EINVAL", "command_hex" },
		{ MIGRATE(MEM ",\"wait\":1"), "EINVAL", "wait" },
		{ MIGRATE(MEM ",\"rate_bytes\":-1"), "ERANGE", "rate_bytes" },
		{ MIGRATE(MEM ",\"mirror_timeout_ms\":1"), "ERANGE", "mirror_timeout_ms" },
		{ VERB("migrate-complete"), "ENOENT", "not being migrated" },
		{ VERB("migrate-cancel"), "ENOENT", "not being migrated" },
		{ VERB("migrate-rate"), "ENOENT", "not being migrated" },
	};

	(void)state;
	for (unsigned i = 0; i < UB_ARRAY_SIZE(cases); i++) {
		client_say(cases[i].line);
		assert_refused(cases[i].name, cases[i].says);
		assert_false(ub_migrate_is_on(&keeper));
	}
	keeper.recovery.has_failed = true;
	client_say(MIGRATE(MEM));
	assert_refused("EIO", "failed");
	keeper.recovery.has_failed = false;
	ub_life_enter(&keeper, UB_RECOVERING);
	client_say(MIGRATE(MEM));
	assert_refused("EAGAIN", "not live");
	ub_life_enter(&keeper, UB_LIVE);
	keeper.job.resize.must_settle = true;
	client_say(MIGRATE(MEM));
	assert_refused("EBUSY", "size");
	keeper.job.resize.must_settle = false;
	assert_noted("migration", NULL);
	assert_false(side_is_there());
	assert_true(server_has_nothing());
}

static void one_at_a_time_and_nothing_else_beside_it(void **state)
{
	(void)state;
	begin_copying(MIGRATE(MEM));
	drop_fds();
	client_say(MIGRATE(NBD));
	assert_refused("EBUSY", "memory of 1 MiB already: cancel that first, or wait");
	client_say(VERB("resize"));
	assert_refused("EBUSY", "being migrated");
	client_say(VERB("detach"));
	assert_refused("EBUSY", "being migrated");
	assert_true(server_has_nothing());
	client_say("{\"version\":1,\"verb\":\"migrate-rate\",\"rate_bytes\":77}\n");
	assert_ok();
	server_hears_control(UB_MIGRATE_RATE);
	assert_true(((struct ub_msg_migrate_control *)inbox)->rate_bytes == 77);
	client_say(VERB("migrate-rate"));
	assert_refused("EINVAL", "rate_bytes");
	/* A growing export waits. */
	keeper.job.resize.is_asked = true;
	keeper.job.resize.has_caller = false;
	assert_int_equal(ub_job_resize.tend(&keeper), -1);
	assert_true(keeper.job.resize.is_asked);
	keeper.job.resize.is_asked = false;
}

static void one_that_fails_leaves_the_device_as_it_was(void **state)
{
	(void)state;
	begin_copying(MIGRATE(MEM));
	drop_fds();
	server_says_as(keeper.job.migration.id + 1, UB_MIGRATION_FAILED, EIO, "another's", "");
	assert_true(ub_migrate_is_on(&keeper));
	server_says(UB_MIGRATION_FAILED, ENOSPC, "no memory is left");
	assert_false(ub_migrate_is_on(&keeper));
	assert_info("last_migration", "result", "failed");
	assert_info("last_migration", "why", "no memory is left");
	assert_info("last_migration", "pause_ms", NULL);
	assert_string_equal(keeper.side->o->kind, "nbd");
	assert_string_equal(keeper.side->identity, "the source");
	assert_noted("migration", NULL);
	assert_false(side_is_there());
	assert_true(keeper.other->store_fd == -1);
	begin(MIGRATE(NBD)); /* and another one can begin */
	drop_fds();
}

static void one_is_cancelled(void **state)
{
	(void)state;
	begin_copying(MIGRATE(MEM));
	drop_fds();
	client_say(VERB("migrate-cancel"));
	assert_null(client_hear());
	server_hears_control(UB_MIGRATE_CANCEL);
	assert_true(ub_migrate_is_on(&keeper));
	server_says(UB_MIGRATION_FAILED, ECANCELED, "cancelled");
	assert_ok();
	assert_info("last_migration", "result", "cancelled");
	/* Too late. */
	server_writes_side(begin_copying(MIGRATE(MEM)));
	drop_fds();
	client_say(VERB("migrate-cancel"));
	server_hears_control(UB_MIGRATE_CANCEL);
	server_says(UB_MIGRATION_MOVED, 0, "");
	assert_refused("EALREADY", "too late");
	assert_string_equal(keeper.side->o->kind, "mem");
}

static void a_signal_ends_it_before_the_device_goes(void **state)
{
	(void)state;
	assert_true(ub_migrate_give_up(&keeper));
	begin_copying(MIGRATE(MEM));
	drop_fds();
	assert_false(ub_migrate_give_up(&keeper));
	server_hears_control(UB_MIGRATE_CANCEL);
	assert_false(ub_migrate_give_up(&keeper));
	assert_true(server_has_nothing());
	server_says(UB_MIGRATION_FAILED, ECANCELED, "");
	assert_true(ub_migrate_give_up(&keeper));
}

/* ---- a /run that is full ------------------------------------------------- */

static void what_cannot_be_written_down_does_not_begin(void **state)
{
	(void)state;
	notes_fail(true);
	client_say(MIGRATE(MEM));
	assert_refused("EISDIR", "state.json");
	assert_true(server_has_nothing());
	assert_false(ub_migrate_is_on(&keeper));
	notes_fail(false);
	begin(MIGRATE(MEM));
	drop_fds();
	notes_fail(true);
	server_says(UB_MIGRATION_READY, 0, "");
	server_hears_control(UB_MIGRATE_CANCEL); /* and no GO */
	assert_true(server_has_nothing());
	server_says(UB_MIGRATION_FAILED, ECANCELED, "");
	assert_info("last_migration", "result", "failed");
	unit_assert_says(keeper.job.migration.last.why, "state.json");
	notes_fail(false);
	keeper.job.migration.note_due_ms = 1;
	pump();
	assert_noted("migration", NULL);
	assert_false(side_is_there());
}

/* What has moved has moved: state.json with NAME/side says so until it can be written. */
static void a_full_run_directory_after_the_cutover(void **state)
{
	uint64_t cookie = begin_copying(MIGRATE(MEM));
	struct ub_state read;

	(void)state;
	server_writes_side(cookie);
	drop_fds();
	notes_fail(true);
	server_says(UB_MIGRATION_MOVED, 0, "");
	assert_string_equal(keeper.side->o->kind, "mem");
	assert_true(side() == cookie);
	assert_int_equal(ub_state_read("seven", &read), 0);
	assert_true(read.has_moved);
	notes_fail(false);
	keeper.job.migration.note_due_ms = 1;
	pump();
	assert_false(side_is_there());
	assert_int_equal(ub_state_read("seven", &read), 0);
	assert_false(read.has_moved);
	assert_string_equal(read.backend, "mem");
}

/* ---- deaths -------------------------------------------------------------- */

static void server_dies(void)
{
	keeper.server->gone = true;
	ub_jobs_raise(&keeper, UB_EVENT_RECOVERING);
	close(server_fd);
	ub_server_forget(keeper.server);
	give_server(&keeper);
}

static void a_dead_servers_migration_begins_anew(void **state)
{
	uint64_t first = begin_copying(MIGRATE(MEM)), second;

	(void)state;
	server_dies();
	assert_info("migration", "phase", "connecting");
	assert_string_equal(keeper.side->o->kind, "nbd");
	pump();
	server_writes_side(first); /* of the dead one, late */
	drop_fds();
	assert_true(side() == 0);
	second = server_hears_migrate()->cookie;
	assert_true(second != first);
	assert_true(got_fds[UB_FD_DESTINATION] >= 0);
	assert_noted("migration.recipe", NULL);
	server_says(UB_MIGRATION_CONNECTING, 0, "");
	server_says(UB_MIGRATION_READY, 0, "");
	server_hears_control(UB_MIGRATE_GO);
	drop_fds();
	/* And one that is cancelled does not. */
	client_say(VERB("migrate-cancel"));
	server_dies();
	assert_ok();
	pump();
	assert_true(server_has_nothing());
}

static void a_server_that_died_behind_the_cutover_has_moved_it(void **state)
{
	(void)state;
	server_writes_side(begin_copying(MIGRATE(MEM)));
	drop_fds();
	server_dies();
	assert_string_equal(keeper.side->o->kind, "mem");
	assert_info("last_migration", "result", "moved");
	assert_info("last_migration", "pause_ms", NULL);
	pump();
	assert_noted("migration", NULL);
	assert_false(side_is_there());
	assert_true(server_has_nothing());
}

static void a_device_that_fails_ends_it(void **state)
{
	(void)state;
	begin_copying(MIGRATE(MEM));
	drop_fds();
	server_dies();
	keeper.recovery.has_failed = true;
	pump();
	assert_info("last_migration", "result", "failed");
	assert_true(server_has_nothing());
}

/* Servers that die of it are not to be the end of the device. */
static void one_that_kills_its_servers_is_given_up(void **state)
{
	(void)state;
	begin_copying(MIGRATE(MEM));
	drop_fds();
	server_dies();
	pump();
	server_hears_migrate();
	drop_fds();
	keeper.recovery.nr_deaths = 4;
	server_dies();
	pump();
	assert_info("last_migration", "result", "failed");
	unit_assert_says(keeper.job.migration.last.why, "servers died one after the other");
	assert_true(server_has_nothing());
	begin(MIGRATE(MEM)); /* whoever asks for it again gets it */
	drop_fds();
}

static void connections_are_held_whichever_their_side(void **state)
{
	(void)state;
	server_links(UB_MSG_LINK, 1, false);
	assert_int_equal(keeper.links.nr, 1);
	begin_copying(MIGRATE(MEM));
	server_links(UB_MSG_LINK, 3, true);
	server_links(UB_MSG_LINK, 4, true);
	server_links(UB_MSG_UNLINK, 4, true);
	assert_int_equal(keeper.links.nr, 2);
	server_says(UB_MIGRATION_CUTOVER, 0, "");
	server_links(UB_MSG_LINK, 5, false);
	server_writes_side(keeper.job.migration.cookie);
	drop_fds();
	server_says(UB_MIGRATION_MOVED, 0, "");
	assert_int_equal(keeper.links.nr, 3);
	server_links(UB_MSG_UNLINK, 1, false);
	server_links(UB_MSG_UNLINK, 5, false);
	assert_int_equal(keeper.links.nr, 1);
	server_links(UB_MSG_UNLINK, 5, false);
	assert_int_equal(keeper.links.nr, 1);
}

/* It insists on a message that ends with the options, and knows those of its time alone. */
static void a_server_of_version_3_gets_what_it_knows(void **state)
{
	static const char asked[] =
		"\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{\\\"transport\\\":\\\"uri\\\","
		"\\\"uri\\\":\\\"nbd://there/x\\\",\\\"fence\\\":\\\"close\\\"}\"}";
	char line[512];
	const struct ub_msg_migrate *msg;

	(void)state;
	snprintf(line, sizeof(line), "{\"version\":1,\"verb\":\"migrate\",%s}\n", asked);
	keeper.server->version = UB_MESSAGE_V3;
	client_say(line);
	pump();
	assert_ok();
	msg = server_hears_migrate();
	assert_int_equal(msg->header.len_bytes, sizeof(*msg) + msg->options_bytes);
	assert_null(strstr(msg->options, "fence"));
	unit_assert_says(msg->options, "nbd://there/x");
	drop_fds();
	server_says(UB_MIGRATION_FAILED, EIO, "no");
	keeper.server->version = UB_MESSAGE_VERSION;
	client_say(line);
	pump();
	assert_ok();
	msg = server_hears_migrate();
	assert_null(strstr(msg->options, "fence"));
	unit_assert_says(ub_message_string(&msg->header, sizeof(*msg), 1),
			 "{\"options\":{\"fence\":\"close\"}}");
	drop_fds();
}

/* What a dead server had sent there is in the ledger: it is the next one's mirror that waits. */
static void the_next_attempt_is_sent_at_once(void **state)
{
	(void)state;
	begin_copying(MIGRATE(NBD));
	drop_fds();
	server_links(UB_MSG_LINK, 9, true);
	server_dies();
	pump();
	server_hears_migrate();
	drop_fds();
}

/* ---- [ COMMAND ] --------------------------------------------------------- */

/* sleep 1000, in / */
#define COMMAND \
	"\"destination\":{\"kind\":\"nbd\",\"nbd\":\"{\\\"label\\\":\\\"[ sleep " \
	"]\\\"}\",\"command_hex\":[\"736c656570\",\"31303030\"]," \
	"\"dir_hex\":\"2f\"}"

static bool runs(pid_t pid)
{
	return pid > 0 && kill(pid, 0) == 0;
}

static void a_command_is_the_devices_once_it_has_moved(void **state)
{
	uint64_t cookie = begin_copying(MIGRATE(COMMAND));
	pid_t first = keeper.other->command.pid, second;
	json_t *pid = noted("migration.destination.command.pid");
	char path[108];

	(void)state;
	assert_true(runs(first));
	assert_int_equal(json_integer_value(pid), first);
	json_decref(pid);
	snprintf(path, sizeof(path), "%s", keeper.other->command.path);
	assert_int_equal(access(path, F_OK), 0);
	assert_string_equal(keeper.other->o->nbd->address.path, path);
	server_writes_side(cookie);
	drop_fds();
	server_says(UB_MIGRATION_MOVED, 0, "");
	assert_int_equal(keeper.side->command.pid, first);
	assert_noted("recipe.command.socket", path);
	/*
	 * Then the next one has a socket of its own, and this one ends when the device has left it.
	 */
	cookie = begin_copying(MIGRATE(COMMAND));
	second = keeper.other->command.pid;
	assert_true(runs(first) && runs(second) && second != first);
	assert_string_not_equal(keeper.other->command.path, path);
	server_writes_side(cookie);
	drop_fds();
	server_says(UB_MIGRATION_MOVED, 0, "");
	pump_until_cleared();
	assert_true(!runs(first) && runs(second));
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(keeper.side->command.pid, second);
}

static void a_command_ends_with_a_migration_that_failed(void **state)
{
	pid_t pid;

	(void)state;
	begin(MIGRATE(COMMAND));
	drop_fds();
	pid = keeper.other->command.pid;
	server_says(UB_MIGRATION_FAILED, EIO, "no");
	pump_until_cleared();
	assert_false(runs(pid));
}

static void a_command_that_died_is_started_for_the_next_attempt(void **state)
{
	pid_t pid;

	(void)state;
	begin_copying(MIGRATE(COMMAND));
	drop_fds();
	pid = keeper.other->command.pid;
	server_dies();
	pump();
	server_hears_migrate();
	drop_fds();
	assert_int_equal(keeper.other->command.pid, pid);
	kill(pid, SIGKILL);
	for (unsigned i = 0; i < 500 && keeper.other->command.pid; i++)
		ub_loop_once(&keeper.loop, 10);
	server_dies();
	pump();
	server_hears_migrate();
	drop_fds();
	assert_true(runs(keeper.other->command.pid) && keeper.other->command.pid != pid);
}

/* ---- another keeper ------------------------------------------------------ */

/* What a keeper that comes later makes of state.json. */
static void adopt(struct ub_keeper *k)
{
	struct ub_err err = { 0 };
	struct ub_state state;
	json_t *json;

	ub_keeper_init(k, &opts, ub_keeper_jobs, ub_keeper_verbs);
	k->rundir = keeper.rundir;
	assert_int_equal(ub_state_read_all("seven", &state, &json), 0);
	assert_int_equal(ub_migrate_adopt(k, json, &state, &err), 0);
	json_decref(json);
}

static void another_keeper_begins_it_anew(void **state)
{
	uint64_t cookie = begin_copying(MIGRATE(COMMAND ",\"wait\":true,\"rate_bytes\":5"));
	pid_t pid = keeper.other->command.pid;
	static struct ub_keeper next;

	(void)state;
	adopt(&next);
	assert_true(ub_migrate_is_on(&next));
	assert_int_equal(next.job.migration.attempt, UB_ATTEMPT_NONE);
	assert_true(next.job.migration.waits && next.job.migration.rate_bytes == 5);
	assert_string_equal(next.other->o->nbd->address.path, keeper.other->command.path);
	assert_int_equal(next.other->command.pid, pid);
	assert_string_equal(next.job.migration.label, "[ sleep ]");
	assert_false(ub_migrate_has_raced(&next));
	server_writes_side(cookie);
	drop_fds();
	assert_true(ub_migrate_has_raced(&next));
	ub_loop_remove(&next.loop, next.other->command.pid_fd);
	ub_job_migrate.event(&next, UB_EVENT_LET_GO);
	next.other->command.argv = NULL; /* it is still the first one's */
	ub_close(&next.other->command.pid_fd);
	ub_close(&next.other->command.timer_fd);
	ub_job_migrate.event(&next, UB_EVENT_ENDING);
}

static void another_keeper_knows_that_it_has_moved(void **state)
{
	static struct ub_keeper next;

	(void)state;
	server_writes_side(begin_copying(MIGRATE(MEM)));
	drop_fds();
	adopt(&next);
	assert_false(ub_migrate_is_on(&next));
	assert_true(ub_migrate_has_leftovers(&next));
	assert_string_equal(next.other->recipe->opts.side.kind, "nbd");
	ub_job_migrate.event(&next, UB_EVENT_ENDING);
}

static void a_keeper_that_gets_it_back_knows_it_too(void **state)
{
	uint64_t cookie;

	(void)state;
	begin_copying(MIGRATE(MEM));
	ub_jobs_raise(&keeper, UB_EVENT_LET_GO);
	ub_migrate_adopt_again(&keeper);
	assert_true(ub_migrate_is_on(&keeper) && keeper.job.migration.attempt < UB_ATTEMPT_SENT);
	assert_string_equal(keeper.side->o->kind, "nbd");
	ub_jobs_raise(&keeper, UB_EVENT_ADOPTED);
	drop_fds();
	pump();
	cookie = server_hears_migrate()->cookie;
	server_says(UB_MIGRATION_READY, 0, "");
	ub_jobs_raise(&keeper, UB_EVENT_LET_GO);
	server_writes_side(cookie);
	drop_fds();
	ub_migrate_adopt_again(&keeper);
	assert_false(ub_migrate_is_on(&keeper));
	assert_string_equal(keeper.side->o->kind, "mem");
}

/* The fact is written between the look at it and the server that is taken back. */
static void a_cutover_while_the_device_is_taken_back(void **state)
{
	uint64_t cookie;

	(void)state;
	cookie = begin_copying(MIGRATE(MEM));
	ub_jobs_raise(&keeper, UB_EVENT_LET_GO);
	ub_migrate_adopt_again(&keeper);
	assert_string_equal(keeper.side->o->kind, "nbd");
	server_writes_side(cookie);
	drop_fds();
	assert_true(ub_migrate_has_raced(&keeper));
	ub_jobs_raise(&keeper, UB_EVENT_LET_GO);
	ub_migrate_adopt_again(&keeper);
	assert_false(ub_migrate_is_on(&keeper));
	assert_string_equal(keeper.side->o->kind, "mem");
}

#define KEEPER_TEST(test) cmocka_unit_test_setup_teardown(test, keeper_setup, keeper_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		KEEPER_TEST(a_device_is_moved_to_memory),
		KEEPER_TEST(and_back_again),
		KEEPER_TEST(what_cannot_be_is_refused),
		KEEPER_TEST(one_at_a_time_and_nothing_else_beside_it),
		KEEPER_TEST(one_that_fails_leaves_the_device_as_it_was),
		KEEPER_TEST(one_is_cancelled),
		KEEPER_TEST(a_signal_ends_it_before_the_device_goes),
		KEEPER_TEST(what_cannot_be_written_down_does_not_begin),
		KEEPER_TEST(a_full_run_directory_after_the_cutover),
		KEEPER_TEST(a_dead_servers_migration_begins_anew),
		KEEPER_TEST(a_server_that_died_behind_the_cutover_has_moved_it),
		KEEPER_TEST(a_device_that_fails_ends_it),
		KEEPER_TEST(one_that_kills_its_servers_is_given_up),
		KEEPER_TEST(connections_are_held_whichever_their_side),
		KEEPER_TEST(a_server_of_version_3_gets_what_it_knows),
		KEEPER_TEST(the_next_attempt_is_sent_at_once),
		KEEPER_TEST(a_command_is_the_devices_once_it_has_moved),
		KEEPER_TEST(a_command_ends_with_a_migration_that_failed),
		KEEPER_TEST(a_command_that_died_is_started_for_the_next_attempt),
		KEEPER_TEST(another_keeper_begins_it_anew),
		KEEPER_TEST(another_keeper_knows_that_it_has_moved),
		KEEPER_TEST(a_keeper_that_gets_it_back_knows_it_too),
		KEEPER_TEST(a_cutover_while_the_device_is_taken_back),
	};

	/* The keeper starts commands by way of its own program. */
	if (argc > 1 && strcmp(argv[1], UB_COMMAND_VERB) == 0)
		return ub_command_main(argc - 1, argv + 1);
	return cmocka_run_group_tests_name("migrate", tests, NULL, NULL);
}
