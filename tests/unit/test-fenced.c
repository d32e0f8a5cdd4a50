/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The word that an old server can write no more: by the verb, and by a command that is run when
 * there is something to wait for. The commands are real ones.
 */
#include "unit.h"

#include <errno.h>
#include <jansson.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "helper/helper.h"
#include "keeper/job/fenced.h"
#include "keeper/keeper.h"
#include "keeper/note.h"
#include "keeper/tables.h"
#include "keeper/recipe.h"
#include "keeper/job/verbs.h"

#define NR_SLOTS 8
#define SIZE	 (1ULL << 20)

static struct nbd_options nbd;
static struct ub_attach_options opts;
static struct ub_keeper keeper;
static struct ub_stats_page *page;
static int server_fd; /* the other end of the keeper's */
static char dir[64];
static char said[4096]; /* what was logged */

static bool remember(enum ub_log_level level, const char *line)
{
	size_t len = strlen(said);

	(void)level;
	snprintf(said + len, sizeof(said) - len, "%s\n", line);
	return true;
}

static int keeper_setup(void **state)
{
	int pair[2];

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/ub-fenced-XXXXXX");
	assert_non_null(mkdtemp(dir));
	setenv("FENCED_DIR", dir, 1);
	said[0] = '\0';
	ub_log_to_sink(remember);
	ub_log_set_level(UB_LOG_NOTICE);
	nbd_options_init(&nbd);
	nbd.address.transport = NBD_URI;
	nbd.address.uri = strdup("nbds://me:secret@[::1]/disk");
	opts = (struct ub_attach_options){ .side = { .kind = "nbd", .nbd = &nbd, .fd = -1 } };
	ub_keeper_init(&keeper, &opts, ub_keeper_jobs, ub_keeper_verbs);
	ub_life_enter(&keeper, UB_LIVE);
	keeper.device.info.dev_id = 7;
	keeper.side->limits.size_bytes = SIZE;
	strcpy(keeper.rundir.name, "seven");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	keeper.server->fd = pair[0];
	keeper.server->pid = 4711;
	keeper.server->version = UB_MESSAGE_VERSION;
	server_fd = pair[1];
	page = aligned_alloc(64, (ub_stats_bytes(1) + 63) & ~(size_t)63);
	memset(page, 0, ub_stats_bytes(1));
	keeper.shared.stats = page;
	keeper.shared.ledger = calloc(1, ub_ledger_bytes(1, NR_SLOTS));
	ub_ledger_init(keeper.shared.ledger, 1, NR_SLOTS);
	return 0;
}

static int keeper_teardown(void **state)
{
	char path[96];

	(void)state;
	snprintf(path, sizeof(path), "%s/out", dir);
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(keeper.job.fenced.pid, 0);
	close(keeper.server->fd);
	close(server_fd);
	free(keeper.shared.ledger);
	free(page);
	nbd_options_destroy(&nbd);
	for (unsigned i = 0; i < UB_LOOP_MAX; i++)
		assert_int_equal(keeper.loop.sources[i].fd, -1);
	return 0;
}

static void set_command(const char *command)
{
	free(nbd.fence_command);
	nbd.fence_command = strdup(command);
}

/* So many ranges of 4 KiB, and so many events. */
static void set_ranges(unsigned side, unsigned nr, uint64_t events)
{
	for (unsigned i = 0; i < 4; i++) {
		struct ub_ledger_range *r = ub_ledger_range(keeper.shared.ledger, side, i);

		r->start = i * 8192ULL;
		r->end = r->start + 4096;
		r->state = i < nr ? UB_RANGE : UB_RANGE_FREE;
	}
	ub_ledger_side(keeper.shared.ledger, side)->nr_live = nr;
	ub_ledger_side(keeper.shared.ledger, side)->events = events;
}

/* The server is told this, and nothing else. */
static void assert_told(unsigned sides, uint64_t event)
{
	uint64_t inbox[UB_MESSAGE_MAX_BYTES / sizeof(uint64_t)];
	const struct ub_msg_fenced *msg = (const struct ub_msg_fenced *)inbox;
	int fds[UB_MESSAGE_MAX_FDS];

	assert_int_equal(ub_message_receive(server_fd, inbox, fds, MSG_DONTWAIT), 0);
	assert_int_equal(msg->header.type, UB_MSG_FENCED);
	assert_int_equal(msg->sides, sides);
	assert_true(msg->event == event);
}

static void assert_told_nothing(void)
{
	char byte;

	assert_true(recv(server_fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN);
}

/* Until the command that runs has ended. */
static void await_end(void)
{
	uint64_t deadline = ub_now_ms() + 20000;

	assert_int_not_equal(keeper.job.fenced.pid, 0);
	while (keeper.job.fenced.pid) {
		assert_true(ub_now_ms() < deadline);
		ub_loop_once(&keeper.loop, 100);
	}
}

/* ---- the verb ------------------------------------------------------------ */

static int ask(json_t **reply, struct ub_err *err)
{
	const struct ub_control_caller caller = { 0 };

	memset(err, 0, sizeof(*err));
	*reply = json_object();
	return ub_verb_fenced(&keeper, caller, NULL, *reply, err);
}

static void assert_refused(int code, const char *says)
{
	struct ub_err err;
	json_t *reply;

	assert_int_equal(ask(&reply, &err), -code);
	unit_assert_says(err.text, says);
	json_decref(reply);
	assert_told_nothing();
}

static void the_verb_is_about_all_that_there_is(void **state)
{
	struct ub_err err;
	json_t *reply;

	(void)state;
	set_ranges(0, 3, 17);
	set_ranges(1, 1, 5);
	assert_int_equal(ask(&reply, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(reply, "ranges")), 4);
	assert_int_equal(json_integer_value(json_object_get(reply, "bytes")), 4 * 4096);
	json_decref(reply);
	assert_told(1 << 0, 17);
	assert_told(1 << 1, 5);
	assert_told_nothing();
	set_ranges(0, 0, 17);
	set_ranges(1, 0, 5);
	assert_int_equal(ask(&reply, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(reply, "ranges")), 0);
	json_decref(reply);
	assert_told(1 << 0, 17);
	assert_told(1 << 1, 5);
}

static void the_verb_says_why_not(void **state)
{
	(void)state;
	keeper.was_live = false;
	keeper.life = UB_ATTACHING;
	assert_refused(EAGAIN, "try again");
	ub_life_enter(&keeper, UB_LIVE);
	keeper.server->gone = true;
	assert_refused(EAGAIN, "try again");
	keeper.server->gone = false;
	keeper.server->version = UB_MESSAGE_V3;
	assert_refused(EOPNOTSUPP, "upgrade the device");
	opts = (struct ub_attach_options){ .side.kind = "mem" };
	assert_refused(EOPNOTSUPP, "one is of mem");
}

/* A server may die before it has heard of it: the next one is told. */
static void the_next_server_is_told(void **state)
{
	struct ub_err err;
	json_t *reply;

	(void)state;
	set_ranges(0, 2, 3);
	assert_int_equal(ask(&reply, &err), 0);
	json_decref(reply);
	assert_told(1 << 0, 3);
	assert_told(1 << 1, 0);
	assert_int_equal(ub_job_fenced.tend(&keeper), -1);
	assert_told_nothing();
	keeper.server->gone = true;
	ub_job_fenced.tend(&keeper);
	assert_told_nothing();
	keeper.server->gone = false;
	keeper.server->pid++;
	set_ranges(0, 2, 4);
	ub_job_fenced.tend(&keeper);
	assert_told(1 << 0, 3); /* what has come since, nobody has said anything of */
	ub_job_fenced.tend(&keeper);
	assert_told_nothing();
	/* Nor one that has nothing any more. */
	keeper.server->pid++;
	set_ranges(0, 0, 4);
	ub_job_fenced.tend(&keeper);
	assert_told_nothing();
}

/* ---- the command --------------------------------------------------------- */

static void a_command_is_run_and_believed(void **state)
{
	char path[96], text[512] = "";
	FILE *file;

	(void)state;
	set_command("echo it is off; echo >&2 really; set >\"$FENCED_DIR/out\"");
	assert_true(ub_job_fenced.tend(&keeper) > 0); /* a server may have had no room to say so */
	assert_int_equal(keeper.job.fenced.pid, 0);
	set_ranges(0, 2, 7);
	ub_job_fenced.tend(&keeper);
	set_ranges(0, 3, 8);	     /* after it has begun: it is about what was before */
	ub_job_fenced.tend(&keeper); /* one at a time */
	await_end();
	assert_told(1 << 0, 7);
	assert_told_nothing();
	unit_assert_says(said, "nbds://me:***@[::1]/disk: the fence command is run");
	unit_assert_says(said, "/dev/ublkb7: fence command: it is off");
	unit_assert_says(said, "fence command: really");
	unit_assert_says(said, "can write no more");
	snprintf(path, sizeof(path), "%s/out", dir);
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(text, sizeof(text), file)) {
		static const char *const wants[] = { "DEVICE='/dev/ublkb7'", "NAME='seven'",
						     "SERVER='nbds://me:***@[::1]/disk'",
						     "HOST='::1'", "PORT='10809'" };
		static unsigned found;

		for (unsigned i = 0; i < UB_ARRAY_SIZE(wants); i++)
			found += strncmp(text, "UBLK_BRIDGE_", 12) == 0 &&
				 strncmp(text + 12, wants[i], strlen(wants[i])) == 0;
		text[0] = found == UB_ARRAY_SIZE(wants) ? '!' : '\0';
		if (text[0])
			break;
	}
	fclose(file);
	assert_int_equal(text[0], '!');
	/* And then about the rest. */
	ub_job_fenced.tend(&keeper);
	await_end();
	assert_told(1 << 0, 8);
	ub_job_fenced.tend(&keeper);
	assert_int_equal(keeper.job.fenced.pid, 0); /* the server is at it */
}

static void a_command_that_fails_is_run_again_and_not_at_once(void **state)
{
	(void)state;
	set_command("exit 3");
	set_ranges(0, 1, 1);
	ub_job_fenced.tend(&keeper);
	await_end();
	unit_assert_says(said, "ended with status 3");
	unit_assert_says(said, "run again in 1 s");
	assert_true(ub_job_fenced.tend(&keeper) > 0);
	assert_int_equal(keeper.job.fenced.pid, 0);
	keeper.job.fenced.not_before_ms = ub_now_ms();
	ub_job_fenced.tend(&keeper);
	await_end();
	unit_assert_says(said, "run again in 2 s");
	assert_true(ub_job_fenced.tend(&keeper) > 1000);
	assert_told_nothing();
	/* It is over without it, and the next time begins anew. */
	set_ranges(0, 0, 1);
	ub_job_fenced.tend(&keeper);
	set_ranges(0, 1, 2);
	set_command("kill -9 $$");
	ub_job_fenced.tend(&keeper);
	await_end();
	unit_assert_says(said, "was killed by signal 9");
	assert_int_equal(keeper.job.fenced.delay_ms, 1000);
	assert_told_nothing();
}

static void a_command_that_takes_too_long_is_killed(void **state)
{
	(void)state;
	set_command("sleep 1000 & echo begun; sleep 1000");
	set_ranges(0, 1, 1);
	ub_job_fenced.tend(&keeper);
	while (!strstr(said, "begun"))
		ub_loop_once(&keeper.loop, 100);
	keeper.job.fenced.deadline_ms = ub_now_ms();
	ub_job_fenced.tend(&keeper);
	await_end();
	unit_assert_says(said, "took longer than 60 s and was killed");
	/* Nor does one go on whose keeper ends. */
	keeper.job.fenced.not_before_ms = 0;
	ub_job_fenced.tend(&keeper);
	ub_jobs_raise(&keeper, UB_EVENT_LET_GO);
	await_end();
	ub_jobs_raise(&keeper, UB_EVENT_LET_GO);
	assert_told_nothing();
}

static void a_command_that_prints_a_lot_is_cut(void **state)
{
	unsigned nr = 0;

	(void)state;
	set_command("i=0; while [ $i -lt 200 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; "
		    "i=$((i+1)); done;"
		    "printf '%5000s' x; printf '\\033[2Jend'");
	set_ranges(0, 1, 1);
	ub_job_fenced.tend(&keeper);
	await_end();
	for (const char *at = said; (at = strstr(at, "fence command: x")); at++)
		nr++;
	assert_in_range(nr, 20, UB_LOG_LIMIT_LINES);
	assert_null(strchr(said, '\033'));
	assert_told(1 << 0, 1);
}

/* Which server a side is of must be certain: else the new one would be stopped. */
static void no_command_is_run_in_a_cutover(void **state)
{
	const struct ub_side_options other = { .kind = "nbd", .nbd = &nbd };

	(void)state;
	set_command("true");
	set_ranges(1, 1, 9);
	keeper.job.migration.phase = UB_MIGRATION_COPYING;
	keeper.job.migration.cookie =
		0; /* as NAME/side has it, here where there is none: it has moved */
	set_ranges(0, 1, 9);
	assert_in_range(ub_job_fenced.tend(&keeper), 1, 1000);
	assert_int_equal(keeper.job.fenced.pid, 0);
	keeper.job.migration.cookie = 5;
	set_ranges(0, 0, 9);
	ub_job_fenced.tend(&keeper); /* the other side is of somebody without a command */
	assert_int_equal(keeper.job.fenced.pid, 0);
	opts.side.nbd = NULL;
	keeper.other->o = &other;
	ub_job_fenced.tend(&keeper);
	await_end();
	assert_told(1 << 1, 9);
}

/* ---- where a server is --------------------------------------------------- */

static void addresses_are_found(void **state)
{
	static const struct {
		const char *uri, *host, *port; /* NULL: not known */
	} cases[] = {
		{ "nbd://host", "host", "10809" },
		{ "nbd://host/export:1", "host", "10809" },
		{ "nbds://host:123/e", "host", "123" },
		{ "nbds://a:b@c@host:123?x=y", "host", "123" },
		{ "nbd://[fe80::1%25eth0]:7", "fe80::1%25eth0", "7" },
		{ "nbd://[::1]", "::1", "10809" },
		{ "nbd://[::1", NULL, NULL },
		{ "nbd://", NULL, NULL },
		{ "nbd://:5", NULL, NULL },
		{ "nbd://host:", NULL, NULL },
		{ "nbd+unix:///e?socket=/s", NULL, NULL },
		{ "nbd+vsock://2:1", NULL, NULL },
	};
	char host[32], port[8];
	struct nbd_options o = { .address.transport = NBD_TCP };

	(void)state;
	for (size_t i = 0; i < UB_ARRAY_SIZE(cases); i++) {
		struct nbd_options of_uri = { .address.transport = NBD_URI,
					      .address.uri = (char *)(uintptr_t)cases[i].uri };
		bool is_known =
			nbd_options_get_address(&of_uri, host, sizeof(host), port, sizeof(port));

		if (is_known != (cases[i].host != NULL))
			fail_msg("%s", cases[i].uri);
		if (!is_known)
			continue;
		assert_string_equal(host, cases[i].host);
		assert_string_equal(port, cases[i].port);
	}
	o.address.host = (char *)(uintptr_t) "there";
	o.address.port = (char *)(uintptr_t) "nbd";
	assert_true(nbd_options_get_address(&o, host, sizeof(host), port, sizeof(port)));
	assert_string_equal(host, "there");
	assert_string_equal(port, "nbd");
	assert_false(nbd_options_get_address(&o, host, 5, port, sizeof(port))); /* no half a name */
	o.address.transport = NBD_UNIX;
	assert_false(nbd_options_get_address(&o, host, sizeof(host), port, sizeof(port)));
}

int main(int argc, char **argv)
{
#define KEEPER_TEST(fn) cmocka_unit_test_setup_teardown(fn, keeper_setup, keeper_teardown)
	const struct CMUnitTest tests[] = {
		KEEPER_TEST(the_verb_is_about_all_that_there_is),
		KEEPER_TEST(the_verb_says_why_not),
		KEEPER_TEST(the_next_server_is_told),
		KEEPER_TEST(a_command_is_run_and_believed),
		KEEPER_TEST(a_command_that_fails_is_run_again_and_not_at_once),
		KEEPER_TEST(a_command_that_takes_too_long_is_killed),
		KEEPER_TEST(a_command_that_prints_a_lot_is_cut),
		KEEPER_TEST(no_command_is_run_in_a_cutover),
		cmocka_unit_test(addresses_are_found),
	};

	/* It executes itself for the commands. */
	if (argc > 1 && strcmp(argv[1], UB_HELPER_VERB) == 0)
		return ub_helper_main(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
