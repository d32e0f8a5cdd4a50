/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge attach: reads the options and becomes the keeper. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "cli/hints.h"
#include "cli/nbd-options.h"
#include "keeper/main.h"
#include "run/rundir.h"
#include "ublk/params.h"

#include <ublk-bridge/ublk-abi.h>

#define ATTACH_DEFAULT_SIZE	 (16ULL << 20)
#define ATTACH_DEFAULT_TIMEOUT_S 60
#define ATTACH_MAX_TIMEOUT_S	 86400

enum {
	OPT_MEM = 256,
	OPT_BACKEND,
	OPT_ID,
	OPT_NAME,
	OPT_QUEUES,
	OPT_DEPTH,
	OPT_MAX_IO,
	OPT_BLOCK_SIZE,
	OPT_DATA_PATH,
	OPT_SCHEDULER,
	OPT_PREALLOC,
	OPT_TIMEOUT,
	OPT_CORE,
	OPT_NO_RECOVERY,
	OPT_NO_STATS,
};

static const struct argp_option attach_options[] = {
	{ NULL, 0, NULL, 0, "What the device is made of:", 1 },
	{ "mem", OPT_MEM, "SIZE", 0, "Memory of this size, sparse, all zeroes (default: 16M)", 1 },
	{ "prealloc", OPT_PREALLOC, NULL, 0, "Take all of the memory at once, or refuse", 1 },
	{ "backend", OPT_BACKEND, "KIND:SIZE", 0,
	  "A back end by its name: mem, or null (which keeps nothing, for measuring)", 1 },
	{ NULL, 0, NULL, 0, "The device:", 5 },
	{ "id", OPT_ID, "N", 0, "Become /dev/ublkbN (default: the first that is free)", 5 },
	{ "name", OPT_NAME, "NAME", 0, "A name for the other verbs (default: ublkN)", 5 },
	{ "read-only", 'r', NULL, 0, "Refuse writes", 5 },
	{ "block-size", OPT_BLOCK_SIZE, "BYTES", 0, "Logical block: 512, 1024, 2048 or 4096", 5 },
	{ "queues", OPT_QUEUES, "N", 0,
	  "Queues, one thread each: 1 to the number of CPUs (default: 1)", 5 },
	{ "depth", OPT_DEPTH, "N", 0, "I/Os in flight a queue: 1 to 4096 (default: 128)", 5 },
	{ "max-io", OPT_MAX_IO, "SIZE", 0, "Largest I/O: 4K to 32M", 5 },
	{ "data-path", OPT_DATA_PATH, "MODE", 0,
	  "How bytes travel: auto, copy, get-data or user-copy (default: auto)", 5 },
	{ "scheduler", OPT_SCHEDULER, "NAME", 0,
	  "The kernel's I/O scheduler for it, or 'keep' (default: none)", 5 },
	{ NULL, 0, NULL, 0, "The process:", 6 },
	{ "daemon", 'd', NULL, 0, "Serve in the background: return when the device takes I/O", 6 },
	{ "timeout", OPT_TIMEOUT, "SECONDS", 0,
	  "How long opening, starting and stopping may last (default: 60)", 6 },
	{ "no-recovery", OPT_NO_RECOVERY, NULL, 0,
	  "Remove the device, and fail its I/O, when the server process dies", 6 },
	{ "core", OPT_CORE, NULL, 0, "Let a crash of the server dump core", 6 },
	{ "no-stats", OPT_NO_STATS, NULL, 0,
	  "Measure no latencies: what is counted is still counted", 6 },
	{ "verbose", 'v', NULL, 0, "Say more on stderr", 6 },
	{ 0 },
};

struct attach_args {
	struct ub_attach_options out;
	struct ub_err err; /* the first usage error */
	unsigned nr_backends;
	char kind[16];
	struct ub_cli_nbd nbd;
};

static int attach_backend(struct attach_args *a, const char *arg)
{
	const char *colon = strchr(arg, ':'), *options;
	char size[32];
	int ret;

	if (!colon || colon == arg || (size_t)(colon - arg) >= sizeof(a->kind))
		return ub_err_set(&a->err, EINVAL,
				  "--backend: '%s' is not KIND:SIZE, such as null:1G", arg);
	memcpy(a->kind, arg, (size_t)(colon - arg));
	options = strchr(colon + 1, ':');
	snprintf(size, sizeof(size), "%.*s", options ? (int)(options - colon - 1) : 31, colon + 1);
	a->out.side.kind = a->kind;
	a->out.side.options = options ? options + 1 : "";
	a->nr_backends++;
	ret = ub_size_parse(size, "--backend", &a->out.side.size_bytes, &a->err);
	if (ret == 0 && !ub_backend_find(a->kind, &a->err))
		return -EINVAL;
	return ret;
}

/* A name of its own, that no other way to name a device reads as. */
static int attach_check_name(struct attach_args *a, const char *name)
{
	size_t prefix = strncmp(name, "ublk", 4) == 0 ? 4 : 0, digits;

	if (prefix && (name[4] == 'b' || name[4] == 'c'))
		prefix++;
	digits = strspn(name + prefix, "0123456789");
	if (prefix == 4 && digits && !name[prefix + digits])
		return ub_err_set(&a->err, EINVAL,
				  "--name: '%s' is what a device is called that was given no name: "
				  "choose another",
				  name);
	if (prefix && digits && (!name[prefix + digits] || name[prefix + digits] == 'p'))
		return ub_err_set(&a->err, EINVAL,
				  "--name: '%s' reads as another device's: choose another", name);
	return ub_name_check(name, &a->err);
}

static int attach_number(struct attach_args *a, const char *arg, const char *what, uint64_t min,
			 uint64_t max, unsigned *value)
{
	uint64_t number = 0;
	int ret = ub_number_parse(arg, what, min, max, &number, &a->err);

	*value = (unsigned)number;
	return ret;
}

static int attach_bytes(struct attach_args *a, const char *arg, const char *what, uint32_t min,
			uint32_t max, uint32_t *value)
{
	char low[32], high[32];
	uint64_t bytes;
	int ret = ub_size_parse(arg, what, &bytes, &a->err);

	if (ret)
		return ret;
	if (bytes < min || bytes > max)
		return ub_err_set(&a->err, ERANGE, "%s: %s is out of range: give one from %s to %s",
				  what, arg, ub_size_format(min, low, sizeof(low)),
				  ub_size_format(max, high, sizeof(high)));
	*value = (uint32_t)bytes;
	return 0;
}

static int attach_block_size(struct attach_args *a, const char *arg)
{
	int ret = attach_bytes(a, arg, "--block-size", 512, 4096, &a->out.side.logical_block_bytes);

	if (ret == 0 && (a->out.side.logical_block_bytes & (a->out.side.logical_block_bytes - 1)))
		return ub_err_set(&a->err, EINVAL,
				  "--block-size: %s is not a power of two: it is 512, 1024, 2048 "
				  "or 4096",
				  arg);
	return ret;
}

static int attach_positional(struct attach_args *a, const char *arg, const struct argp_state *state)
{
	const char *next = state->next < state->argc ? state->argv[state->next] : NULL;

	if (ub_cli_is_uri(arg))
		return ub_cli_nbd_take_uri(&a->nbd, arg);
	return ub_cli_hint(arg, next, a->nr_backends + a->nbd.nr_named > 0, ub_cli_verbs, &a->err);
}

static int attach_device_option(struct attach_args *a, int key, char *arg)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	unsigned value;
	int ret;

	switch (key) {
	case OPT_ID:
		ret = attach_number(a, arg, "--id", 0, UBLK_MAX_DEV_ID, &value);
		a->out.id = value;
		return ret;
	case OPT_NAME:
		a->out.name = arg;
		return attach_check_name(a, arg);
	case OPT_QUEUES:
		ret = attach_number(a, arg, "--queues", 1, cpus > 0 ? (uint64_t)cpus : 1,
				    &a->out.nr_queues);
		/* which machine it is out of range for */
		if (ret == -ERANGE)
			return ub_err_set(&a->err, ERANGE,
					  "--queues: %s is out of range: give one from 1 to %ld, "
					  "the number of CPUs",
					  arg, cpus > 0 ? cpus : 1);
		return ret;
	case OPT_DEPTH:
		return attach_number(a, arg, "--depth", 1, UBLK_MAX_QUEUE_DEPTH, &a->out.depth);
	case OPT_MAX_IO:
		return attach_bytes(a, arg, "--max-io", UB_MIN_IO_BYTES, UB_MAX_IO_BYTES,
				    &a->out.max_io_bytes);
	case OPT_BLOCK_SIZE:
		return attach_block_size(a, arg);
	case OPT_DATA_PATH:
		return ub_data_path_parse(arg, &a->out.data_path, &a->err);
	case OPT_SCHEDULER:
		a->out.scheduler = arg;
		return *arg && strlen(arg) < 32 ?
			       0 :
			       ub_err_set(&a->err, EINVAL, "--scheduler: '%s' is no name", arg);
	default:
		return attach_number(a, arg, "--timeout", 1, ATTACH_MAX_TIMEOUT_S,
				     &a->out.timeout_s);
	}
}

static error_t attach_parse(int key, char *arg, struct argp_state *state)
{
	struct attach_args *a = state->input;
	int ret = 0;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->nbd;
		break;
	case OPT_MEM:
		a->out.side.kind = "mem";
		a->nr_backends++;
		ret = ub_size_parse(arg, "--mem", &a->out.side.size_bytes, &a->err);
		break;
	case OPT_BACKEND:
		ret = attach_backend(a, arg);
		break;
	case OPT_PREALLOC:
		a->out.side.prealloc = true;
		break;
	case OPT_CORE:
		a->out.core_dump = true;
		break;
	case OPT_NO_RECOVERY:
		a->out.no_recovery = true;
		break;
	case OPT_NO_STATS:
		a->out.no_stats = true;
		break;
	case 'r':
		a->out.read_only = true;
		break;
	case 'd':
		a->out.daemon = true;
		break;
	case 'v':
		ub_log_set_level(UB_LOG_DEBUG);
		break;
	case OPT_ID:
	case OPT_NAME:
	case OPT_QUEUES:
	case OPT_DEPTH:
	case OPT_MAX_IO:
	case OPT_BLOCK_SIZE:
	case OPT_DATA_PATH:
	case OPT_SCHEDULER:
	case OPT_TIMEOUT:
		ret = attach_device_option(a, key, arg);
		break;
	case ARGP_KEY_ARG:
		ret = attach_positional(a, arg, state);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return -ret;
}

static void attach_use_nbd(struct attach_args *a)
{
	a->out.side.kind = "nbd";
	a->out.side.size_bytes = 0; /* the server's */
	a->out.side.nbd = &a->nbd.options;
	a->out.side.fd = a->nbd.fd;
	a->out.side.command = a->nbd.command;
	a->out.side.command_is_connected = a->nbd.kind == UB_COMMAND_CONNECTED;
	a->out.side.restart_command = a->nbd.restart_command;
}

static int attach_check(struct attach_args *a)
{
	uint32_t block = a->out.side.logical_block_bytes ? a->out.side.logical_block_bytes : 512;

	int ret = ub_cli_nbd_check(&a->nbd);

	if (a->nr_backends + a->nbd.nr_named > 1)
		return ub_err_set(&a->err, EINVAL,
				  "two back ends are named: give one NBD server, one --mem or one "
				  "--backend");
	if (ret)
		return ret;
	if (a->nbd.nr_named)
		attach_use_nbd(a);
	if (a->out.side.size_bytes % block)
		return ub_err_set(&a->err, EINVAL,
				  "a size of %llu bytes is not a multiple of the block size %u: "
				  "choose "
				  "another size or --block-size",
				  (unsigned long long)a->out.side.size_bytes, block);
	if (a->out.side.prealloc && strcmp(a->out.side.kind, "mem") != 0)
		return ub_err_set(&a->err, EINVAL, "--prealloc goes with memory only");
	if (a->out.max_io_bytes % block)
		return ub_err_set(&a->err, EINVAL,
				  "--max-io is not a multiple of the block size %u", block);
	return 0;
}

/* Memory because nothing else was asked for: whoever expected a usage message has to know. */
static void attach_tell_default(const struct attach_args *a)
{
	char size[32];

	if (a->nr_backends + a->nbd.nr_named)
		return;
	ub_log(UB_LOG_NOTICE,
	       "serving %s of memory, the default. To end it: %s. Help: ublk-bridge --help",
	       ub_size_format(a->out.side.size_bytes, size, sizeof(size)),
	       a->out.daemon ? "ublk-bridge detach" : "Ctrl-C");
}

int ub_cli_attach(int argc, char **argv)
{
	static const struct argp_child children[] = { { &ub_cli_nbd_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = {
		.options = attach_options,
		.parser = attach_parse,
		.args_doc = "[NBD-URI | [ COMMAND ARGS... ]]",
		.children = children,
		.doc = "Serve a block device, /dev/ublkbN, from userspace: memory, or an NBD "
		       "export."
		       "\v"
		       "SIZE is in bytes, or has one of K M G T P E behind it (powers of 1024)."
		       "  Exit status: 0 done, 1 failed, 2 wrong usage, 3 busy.  Other verbs: "
		       "ublk-bridge --help.",
	};
	struct attach_args a = {
		.out = { .side = { .kind = "mem",
				   .options = "",
				   .size_bytes = ATTACH_DEFAULT_SIZE,
				   .fd = -1 },
			 .id = -1,
			 .scheduler = "none",
			 .timeout_s = ATTACH_DEFAULT_TIMEOUT_S },
		.nbd = { .fd = -1, .err = &a.err },
	};
	int status;

	nbd_options_init(&a.nbd.options);
	if (ub_cli_nbd_take_command(&a.nbd, &argc, argv) != 0 ||
	    ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0 || attach_check(&a) != 0)
		status = ub_cli_error(&a.err, UB_EXIT_USAGE);
	else {
		attach_tell_default(&a);
		status = ub_attach_run(&a.out, NULL);
	}
	ub_cli_nbd_destroy(&a.nbd);
	return status;
}
