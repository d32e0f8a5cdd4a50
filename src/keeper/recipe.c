/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device's recipe, written and read. Control plane. */
#include "keeper/recipe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/limits.h"
#include "base/cleanup.h"
#include "base/process.h"
#include "base/text.h"

/* Each field of struct ub_limits, by name. */
#define RECIPE_LIMIT(field) \
	{ \
#field, offsetof(struct ub_limits, field), \
			sizeof(((struct ub_limits *)NULL)->field) \
	}

static const struct {
	const char *name;
	size_t offset, bytes;
} recipe_limits[] = {
	RECIPE_LIMIT(size_bytes),
	RECIPE_LIMIT(logical_block_bytes),
	RECIPE_LIMIT(physical_block_bytes),
	RECIPE_LIMIT(optimal_io_bytes),
	RECIPE_LIMIT(max_io_bytes),
	RECIPE_LIMIT(discard_granularity_bytes),
	RECIPE_LIMIT(max_discard_bytes),
	RECIPE_LIMIT(max_zeroes_bytes),
	RECIPE_LIMIT(read_only),
	RECIPE_LIMIT(rotational),
	RECIPE_LIMIT(can_flush),
	RECIPE_LIMIT(can_fua),
	RECIPE_LIMIT(can_trim),
	RECIPE_LIMIT(can_zero),
	RECIPE_LIMIT(multi_conn),
	RECIPE_LIMIT(nr_queues),
};

static json_t *recipe_limits_to_json(const struct ub_limits *limits)
{
	json_t *json = json_object();

	for (unsigned i = 0; i < UB_ARRAY_SIZE(recipe_limits); i++) {
		uint64_t value = 0;

		memcpy(&value, (const char *)limits + recipe_limits[i].offset,
		       recipe_limits[i].bytes);
		json_object_set_new(json, recipe_limits[i].name, json_integer((json_int_t)value));
	}
	return json;
}

static int recipe_limits_from_json(const json_t *json, struct ub_limits *limits, struct ub_err *err)
{
	*limits = (struct ub_limits){ 0 };
	for (unsigned i = 0; i < UB_ARRAY_SIZE(recipe_limits); i++) {
		const json_t *number = json_object_get(json, recipe_limits[i].name);
		uint64_t value = (uint64_t)json_integer_value(number);

		if (!json_is_integer(number))
			return ub_err_set(err, EBADMSG, "state.json does not say the device's %s",
					  recipe_limits[i].name);
		memcpy((char *)limits + recipe_limits[i].offset, &value, recipe_limits[i].bytes);
	}
	return ub_limits_check(limits, err);
}

static json_t *recipe_bytes(const char *text)
{
	cleanup_free char *hex = ub_text_to_hex(text);

	return hex ? json_string(hex) : json_null();
}

static json_t *recipe_command_to_json(const struct ub_command *c)
{
	json_t *words = json_array();

	if (!c->argv) {
		json_decref(words);
		return json_null();
	}
	/* Names of files need not be UTF-8. */
	for (unsigned i = 0; c->argv[i]; i++)
		json_array_append_new(words, recipe_bytes(c->argv[i]));
	return json_pack("{s:o, s:b, s:b, s:o, s:i, s:s, s:i, s:I}", "words_hex", words,
			 "is_connected", c->is_connected, "restarts", c->restarts, "dir_hex",
			 recipe_bytes(c->dir), "oom_score", c->oom_score, "socket", c->path, "pid",
			 (int)c->pid, "started", (json_int_t)ub_process_started(c->pid));
}

/* Tells one memory store from another, whoever holds it. 0: there is none. */
static json_int_t recipe_store(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 ? (json_int_t)st.st_ino : 0;
}

json_t *ub_recipe_make(const struct ub_keeper *k, const struct ub_side *side)
{
	static const struct ub_limits unknown;
	const struct ub_side_options *o = side->o;
	const struct ub_limits *limits = side->identity ? &side->limits : &unknown;
	cleanup_free char *nbd = NULL, *nbd_more = NULL;
	uint64_t size_bytes = side->identity ? limits->size_bytes : o->size_bytes;

	if (o->nbd && nbd_options_to_two_json(o->nbd, &nbd, &nbd_more) != 0)
		return NULL;
	return json_pack("{s:s, s:s, s:s*, s:s*, s:I, s:b, s:i, s:i, s:b, s:b, s:s, s:s, s:i, s:o, "
			 "s:o, s:i, s:s, s:I, s:b, s:b}",
			 "kind", o->kind, "options", o->options, "nbd", nbd, "nbd_more", nbd_more,
			 "size_bytes", (json_int_t)(o->nbd ? 0 : size_bytes), "prealloc",
			 o->prealloc, "block_bytes", (int)o->logical_block_bytes, "queues",
			 (int)k->opts->nr_queues, "read_only", k->opts->read_only, "core_dump",
			 k->opts->core_dump, "data_path", ub_data_path_name(k->device.data_path),
			 "scheduler", k->opts->scheduler, "timeout_s", (int)k->opts->timeout_s,
			 "command", recipe_command_to_json(&side->command), "limits",
			 recipe_limits_to_json(limits), "caps",
			 side->identity ? (int)side->caps : 0, "identity",
			 side->identity ? side->identity : "", "store",
			 recipe_store(side->store_fd), "recovers", k->recovery.is_on, "has_failed",
			 k->recovery.has_failed);
}

static int recipe_read_command(struct ub_recipe *r, const json_t *json, struct ub_err *err)
{
	struct ub_side_options *o = &r->opts.side;
	const json_t *words = json_object_get(json, "words_hex");
	size_t nr = json_array_size(words);

	if (!json_is_object(json))
		return 0;
	r->command = calloc(nr + 1, sizeof(*r->command));
	if (!r->command)
		return ub_err_errno(err, ENOMEM, "the command's words");
	for (size_t i = 0; i < nr; i++) {
		const char *hex = json_string_value(json_array_get(words, i));

		r->command[i] = hex ? ub_text_from_hex(hex) : NULL;
		if (!r->command[i])
			return ub_err_set(err, EBADMSG,
					  "state.json: the command is no list of words");
	}
	if (nr == 0)
		return ub_err_set(err, EBADMSG, "state.json: the command has no words");
	o->command = r->command;
	o->command_is_connected = json_is_true(json_object_get(json, "is_connected"));
	o->restart_command = json_is_true(json_object_get(json, "restarts"));
	return 0;
}

int ub_recipe_read(json_t *json, struct ub_recipe *r, struct ub_err *err)
{
	struct ub_attach_options *o = &r->opts;
	struct ub_side_options *s = &o->side;
	const char *path, *nbd = NULL, *nbd_more = NULL;
	int block, queues, read_only, core, timeout, recovers, prealloc = 0;
	json_int_t size;
	json_error_t why;
	json_t *command;

	*r = (struct ub_recipe){ .json = json_incref(json) };
	nbd_options_init(&r->nbd);
	*o = (struct ub_attach_options){ .id = -1, .side.fd = -1, .daemon = true };
	if (json_unpack_ex(json, &why, 0,
			   "{s:s, s:s, s?s, s?s, s:I, s?b, s:i, s:i, s:b, s:b, s:s, s:s, s:i, s:o, "
			   "s:b}",
			   "kind", &s->kind, "options", &s->options, "nbd", &nbd, "nbd_more",
			   &nbd_more, "size_bytes", &size, "prealloc", &prealloc, "block_bytes",
			   &block, "queues", &queues, "read_only", &read_only, "core_dump", &core,
			   "data_path", &path, "scheduler", &o->scheduler, "timeout_s", &timeout,
			   "command", &command, "recovers", &recovers) < 0)
		return ub_err_set(err, EBADMSG, "state.json cannot be understood: %s", why.text);
	if (queues < 0 || queues > UINT16_MAX || block < 0 || size < 0 || timeout < 0)
		return ub_err_set(err, EBADMSG,
				  "state.json cannot be understood: a number is out of its range");
	s->size_bytes = (uint64_t)size;
	s->logical_block_bytes = (uint32_t)block;
	o->nr_queues = (unsigned)queues;
	o->read_only = read_only;
	s->prealloc = prealloc;
	o->core_dump = core;
	o->timeout_s = (unsigned)timeout;
	o->no_recovery = !recovers;
	if (ub_data_path_parse(path, &o->data_path, err) != 0 || o->data_path == UB_DATA_PATH_AUTO)
		return ub_err_set(err, EBADMSG, "state.json: '%.20s' is no data path", path);
	if (nbd) {
		s->nbd = &r->nbd;
		nbd_options_destroy(&r->nbd);
		if (nbd_options_from_json(&r->nbd, nbd, err) != 0)
			return -err->code;
		if (nbd_more && nbd_options_add_json(&r->nbd, nbd_more, err) != 0)
			return -err->code;
	}
	return recipe_read_command(r, command, err);
}

int ub_recipe_apply(const struct ub_recipe *r, struct ub_keeper *k, struct ub_err *err)
{
	int caps, failed, ret;
	const char *identity;
	json_t *limits;

	if (json_unpack(r->json, "{s:o, s:i, s:s, s:b}", "limits", &limits, "caps", &caps,
			"identity", &identity, "has_failed", &failed) < 0)
		return ub_err_set(err, EBADMSG,
				  "state.json does not say what the device is made of");
	ret = recipe_limits_from_json(limits, &k->side->limits, err);
	if (ret)
		return ret;
	k->side->caps = (uint32_t)caps;
	k->device.data_path = r->opts.data_path;
	k->recovery.is_on = !r->opts.no_recovery;
	k->recovery.has_failed = failed;
	k->side->identity = strdup(identity);
	if (!k->side->identity)
		return ub_err_errno(err, ENOMEM, "what the device is made of");
	return ub_recipe_apply_command(r, &k->side->command, err);
}

int ub_recipe_apply_command(const struct ub_recipe *r, struct ub_command *c, struct ub_err *err)
{
	const json_t *command = json_object_get(r->json, "command");
	const char *dir_hex, *socket;
	cleanup_free char *dir = NULL;
	int oom_score;

	if (!r->command)
		return 0;
	if (json_unpack((json_t *)(uintptr_t)command, "{s:s, s:i, s:s}", "dir_hex", &dir_hex,
			"oom_score", &oom_score, "socket", &socket) < 0 ||
	    !(dir = ub_text_from_hex(dir_hex)))
		return ub_err_set(err, EBADMSG,
				  "state.json does not say how the command was started");
	c->argv = r->command;
	c->is_connected = r->opts.side.command_is_connected;
	c->restarts = r->opts.side.restart_command;
	c->oom_score = oom_score;
	snprintf(c->dir, sizeof(c->dir), "%s", dir);
	snprintf(c->path, sizeof(c->path), "%s", socket);
	return 0;
}

pid_t ub_recipe_command_pid(const struct ub_recipe *r)
{
	const json_t *command = json_object_get(r->json, "command");
	pid_t pid = (pid_t)json_integer_value(json_object_get(command, "pid"));
	uint64_t started = (uint64_t)json_integer_value(json_object_get(command, "started"));

	return ub_process_is(pid, started) ? pid : 0;
}

void ub_recipe_destroy(struct ub_recipe *r)
{
	nbd_options_destroy(&r->nbd);
	for (unsigned i = 0; r->command && r->command[i]; i++)
		free(r->command[i]);
	free(r->command);
	json_decref(r->json);
	*r = (struct ub_recipe){ 0 };
}
