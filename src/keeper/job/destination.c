/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The destination of a migration, as it was asked for. */
#include "keeper/job/destination.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "base/text.h"
#include "keeper/job/args.h"
#include "keeper/keeper.h"
#include "keeper/recipe.h"

/* A text of bytes in hexadecimal digits, none of them 0. */
static bool destination_is_hex(const json_t *json)
{
	const char *hex = json_string_value(json);
	cleanup_free char *text = hex ? ub_text_from_hex(hex) : NULL;

	return text != NULL;
}

/* The command as a recipe has it; none: null. *json is the caller's. */
static int destination_command(const struct ub_keeper *k, const json_t *destination, json_t **json,
			       struct ub_err *err)
{
	json_t *words = json_object_get(destination, "command_hex"),
	       *dir = json_object_get(destination, "dir_hex");
	bool restarts = false;
	size_t nr = json_array_size(words);
	int ret = ub_args_flag(destination, "restart_command", &restarts, err);

	*json = NULL;
	if (ret)
		return ret;
	if (!words) {
		*json = json_null();
		return restarts ? ub_err_set(err, EINVAL,
					     "restart_command: there is no command to be started") :
				  0;
	}
	for (size_t i = 0; i < nr; i++) {
		if (!destination_is_hex(json_array_get(words, i)))
			nr = 0;
	}
	if (nr == 0 || !destination_is_hex(dir))
		return ub_err_set(err, EINVAL,
				  "command_hex, dir_hex: they are a list of words and a directory, "
				  "in hexadecimal digits");
	*json = json_pack("{s:O, s:b, s:b, s:O, s:i, s:s, s:i, s:I}", "words_hex", words,
			  "is_connected", 0, "restarts", restarts, "dir_hex", dir, "oom_score",
			  k->oom_score, "socket", "", "pid", 0, "started", (json_int_t)0);
	return *json ? 0 : ub_err_errno(err, ENOMEM, "the command");
}

/*
 * What was asked for, over what the device has. nbd: for o->nbd; nbd_options_destroy() in either
 * case.
 */
static int destination_nbd(struct ub_keeper *k, const json_t *destination,
			   struct ub_side_options *o, struct nbd_options *nbd, struct ub_err *err)
{
	const char *text = json_string_value(json_object_get(destination, "nbd"));
	bool has_command = json_object_get(destination, "command_hex") != NULL;
	int ret;

	if (!text)
		return ub_err_set(err, EINVAL, "destination: which NBD export, its nbd must say");
	nbd_options_destroy(nbd);
	ret = nbd_options_from_json(nbd, text, err);
	if (ret)
		return ret;
	o->nbd = nbd;
	if (nbd->address.transport == NBD_SOCKET)
		return ub_err_set(err, EOPNOTSUPP,
				  "a connection that is handed over ready made (--fd, --command) "
				  "cannot be made again: a device is not migrated there");
	if (has_command)
		nbd->address.transport =
			NBD_UNIX; /* the keeper's, which it says when it is there */
	if (nbd->address.transport == NBD_NOWHERE ||
	    (nbd->address.transport == NBD_URI && !nbd->address.uri) ||
	    (nbd->address.transport == NBD_TCP && (!nbd->address.host || !nbd->address.port)) ||
	    (nbd->address.transport == NBD_UNIX && !nbd->address.path && !has_command))
		return ub_err_set(err, EINVAL, "destination: its nbd does not say which server");
	/*
	 * What was given up on the way there may still be written, and here over what came later.
	 */
	if (!has_command && k->side->o->nbd && nbd_options_are_one_export(k->side->o->nbd, nbd))
		return ub_err_set(err, EINVAL,
				  "the device is there already: it cannot be migrated to the "
				  "export "
				  "that it is served from");
	if (nbd->auto_resize && !(k->device.features & UBLK_F_UPDATE_SIZE))
		return ub_err_set(err, EOPNOTSUPP,
				  "--auto-resize: this kernel cannot change the size of a device");
	return nbd_options_check(nbd, err);
}

static int destination_mem(const struct ub_keeper *k, const json_t *destination,
			   struct ub_side_options *o, struct ub_err *err)
{
	char is[32], was[32];
	int ret;

	o->size_bytes = k->side->limits.size_bytes;
	ret = ub_args_u64(destination, "size_bytes", 1, INT64_MAX, &o->size_bytes, err);
	if (ret == 0)
		ret = ub_args_flag(destination, "prealloc", &o->prealloc, err);
	if (ret)
		return ret;
	if (o->size_bytes < k->side->limits.size_bytes)
		return ub_err_set(err, ERANGE,
				  "%s of memory is smaller than the device, which has %s",
				  ub_size_format(o->size_bytes, is, sizeof(is)),
				  ub_size_format(k->side->limits.size_bytes, was, sizeof(was)));
	if (o->size_bytes % k->side->limits.logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "a size of %llu bytes is not a multiple of the block size %u",
				  (unsigned long long)o->size_bytes,
				  k->side->limits.logical_block_bytes);
	if (json_object_get(destination, "command_hex"))
		return ub_err_set(err, EINVAL, "command_hex: memory has no command");
	return 0;
}

int ub_destination_read(struct ub_keeper *k, json_t *json, struct ub_err *err)
{
	struct ub_recipe *recipe = calloc(1, sizeof(*recipe));

	if (!recipe)
		return ub_err_errno(err, ENOMEM, "the destination");
	ub_side_take_recipe(k->other, recipe);
	return ub_recipe_read(json, recipe, err);
}

/* Makes the other side's recipe of it, as state.json would have it. */
int ub_destination_parse(struct ub_keeper *k, const json_t *destination, struct ub_err *err)
{
	const char *kind = json_string_value(json_object_get(destination, "kind"));
	struct ub_side_options o = { .options = "", .fd = -1 };
	struct ub_side asked = UB_SIDE_NONE;
	struct nbd_options nbd;
	json_t *json = NULL, *command = NULL;
	int ret;

	nbd_options_init(&nbd);
	o.logical_block_bytes = k->side->limits.logical_block_bytes;
	if (kind && strcmp(kind, "mem") == 0) {
		o.kind = "mem";
		ret = destination_mem(k, destination, &o, err);
	} else if (kind && strcmp(kind, "nbd") == 0) {
		o.kind = "nbd";
		ret = destination_nbd(k, destination, &o, &nbd, err);
	} else {
		ret = ub_err_set(err, EINVAL, "destination: its kind is mem or nbd");
	}
	if (ret == 0)
		ret = destination_command(k, destination, &command, err);
	if (ret == 0) {
		asked.o = &o;
		json = ub_recipe_make(k, &asked);
		if (!json || json_object_set(json, "command", command) < 0)
			ret = ub_err_errno(err, ENOMEM, "the destination");
	}
	if (ret == 0)
		ret = ub_destination_read(k, json, err);
	json_decref(command);
	json_decref(json);
	nbd_options_destroy(&nbd);
	return ret;
}
