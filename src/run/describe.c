/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a device is made of, in words. */
#include "run/describe.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "backend/nbd/options.h"
#include "base/cleanup.h"
#include "base/size.h"
#include "base/text.h"
#include "run/state.h"

static void describe_command(const json_t *command, char *buf, size_t len)
{
	const json_t *words = json_object_get(command, "words_hex");
	size_t used = (size_t)snprintf(buf, len, "[");

	for (size_t i = 0; i < json_array_size(words) && used + 8 < len; i++) {
		const char *hex = json_string_value(json_array_get(words, i));
		cleanup_free char *word = hex ? ub_text_from_hex(hex) : NULL;
		int n;

		if (word)
			ub_text_clean(word);
		n = snprintf(buf + used, len - used - 7, " %s", word ? word : "?");
		if (n >= (int)(len - used - 7)) { /* cut, and so the rest is */
			used = len - 8;
			used += (size_t)snprintf(buf + used, len - used, "...");
			break;
		}
		used += (size_t)n;
	}
	snprintf(buf + used, len - used, " ]");
}

static void describe_recipe(const json_t *recipe, char *buf, size_t len)
{
	const char *kind = json_string_value(json_object_get(recipe, "kind"));
	const char *nbd = json_string_value(json_object_get(recipe, "nbd"));
	const json_t *command = json_object_get(recipe, "command");
	json_int_t size = json_integer_value(
		json_object_get(json_object_get(recipe, "limits"), "size_bytes"));
	struct nbd_options options;
	char text[32];

	*buf = '\0';
	nbd_options_init(&options);
	if (json_is_object(command))
		describe_command(command, buf, len);
	else if (nbd && nbd_options_add_json(&options, nbd, &(struct ub_err){ 0 }) == 0)
		nbd_options_describe(&options, buf, len);
	else if (kind && strcmp(kind, "mem") == 0)
		snprintf(buf, len, "%s of memory",
			 ub_size_format((uint64_t)size, text, sizeof(text)));
	else if (kind)
		snprintf(buf, len, "%s", kind);
	nbd_options_destroy(&options);
}

const char *ub_describe_device(const char *name, char *buf, size_t len)
{
	struct ub_state state;
	const json_t *recipe;
	json_t *json;

	*buf = '\0';
	if (ub_state_read_all(name, &state, &json) == 0) {
		recipe = state.has_moved ?
				 json_object_get(json_object_get(json, "migration"), "recipe") :
				 json_object_get(json, "recipe");
		describe_recipe(recipe, buf, len);
	}
	json_decref(json);
	return buf;
}
