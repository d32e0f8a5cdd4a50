/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What may be done to reach an NBD export: defaults, and all of it as JSON. Control plane. */
#include "backend/nbd/options.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* ---- the members, as JSON has them --------------------------------------- */

static const char *const option_fence[] = {
	[NBD_FENCE_TIME] = "time",
	[NBD_FENCE_CLOSE] = "close",
};

#define OPTION_AT(field) offsetof(struct nbd_options, field)

/* is_more: a program that does not know it serves the export all the same. */
static const struct {
	const char *key;
	size_t offset;
	bool is_more;
} option_strings[] = {
	{ "uri", OPTION_AT(address.uri), false },
	{ "host", OPTION_AT(address.host), false },
	{ "port", OPTION_AT(address.port), false },
	{ "path", OPTION_AT(address.path), false },
	{ "export", OPTION_AT(address.export_name), false },
	{ "tls-certificates", OPTION_AT(address.tls_certificates), false },
	{ "tls-psk-file", OPTION_AT(address.tls_psk_file), false },
	{ "tls-username", OPTION_AT(address.tls_username), false },
	{ "tls-hostname", OPTION_AT(address.tls_hostname), false },
	{ "label", OPTION_AT(address.label), false },
	{ "fence-command", OPTION_AT(fence_command), true },
};

/* enum: an index of `names`. */
static const struct {
	const char *key;
	size_t offset;
	const char *const *names;
	unsigned nr_names;
	enum { OPTION_ENUM, OPTION_BOOL, OPTION_U32, OPTION_U64 } type;
	bool is_more;
} option_values[] = {
	{ "transport", OPTION_AT(address.transport), nbd_transport_names, NBD_NR_TRANSPORTS,
	  OPTION_ENUM, false },
	{ "tls", OPTION_AT(address.tls), nbd_tls_names, NBD_NR_TLS, OPTION_ENUM, false },
	{ "tls-verify", OPTION_AT(address.tls_verify), NULL, 0, OPTION_BOOL, false },
	{ "vsock-cid", OPTION_AT(address.vsock_cid), NULL, 0, OPTION_U32, false },
	{ "vsock-port", OPTION_AT(address.vsock_port), NULL, 0, OPTION_U32, false },
	{ "connections", OPTION_AT(nr_connections), NULL, 0, OPTION_U32, false },
	{ "outage-limit-ms", OPTION_AT(outage_limit_ms), NULL, 0, OPTION_U64, false },
	{ "stall-timeout-ms", OPTION_AT(stall_timeout_ms), NULL, 0, OPTION_U64, false },
	{ "fence", OPTION_AT(fence_policy), option_fence, UB_ARRAY_SIZE(option_fence), OPTION_ENUM,
	  true },
	{ "fence-timeout-ms", OPTION_AT(fence_timeout_ms), NULL, 0, OPTION_U64, false },
	{ "wait-ms", OPTION_AT(wait_ms), NULL, 0, OPTION_U64, false },
	{ "auto-resize", OPTION_AT(auto_resize), NULL, 0, OPTION_BOOL, false },
	{ "restarts", OPTION_AT(restarts), NULL, 0, OPTION_BOOL, false },
};

_Static_assert(sizeof(enum nbd_transport) == sizeof(uint32_t) &&
		       sizeof(enum nbd_tls) == sizeof(uint32_t) &&
		       sizeof(enum nbd_fence) == sizeof(uint32_t),
	       "enums are read and written as 32 bits");

void nbd_options_init(struct nbd_options *o)
{
	*o = (struct nbd_options){
		.outage_limit_ms = NBD_NO_LIMIT,
		.stall_timeout_ms = NBD_DEFAULT_STALL_MS,
		.fence_timeout_ms = NBD_DEFAULT_FENCE_MS,
	};
	nbd_address_init(&o->address);
}

static char **option_string(struct nbd_options *o, size_t offset)
{
	return (char **)((char *)o + offset);
}

void nbd_options_destroy(struct nbd_options *o)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		free(*option_string(o, option_strings[i].offset));
		*option_string(o, option_strings[i].offset) = NULL;
	}
}

/* ---- JSON ---------------------------------------------------------------- */

static uint64_t value_get(const struct nbd_options *o, unsigned i)
{
	const void *at = (const char *)o + option_values[i].offset;
	uint32_t word;
	uint64_t value;

	switch (option_values[i].type) {
	case OPTION_BOOL:
		return *(const bool *)at;
	case OPTION_U64:
		memcpy(&value, at, sizeof(value));
		return value;
	default:
		memcpy(&word, at, sizeof(word));
		return word;
	}
}

static void value_set(struct nbd_options *o, unsigned i, uint64_t value)
{
	void *at = (char *)o + option_values[i].offset;
	uint32_t word = (uint32_t)value;

	switch (option_values[i].type) {
	case OPTION_BOOL:
		*(bool *)at = value != 0;
		break;
	case OPTION_U64:
		memcpy(at, &value, sizeof(value));
		break;
	default:
		memcpy(at, &word, sizeof(word));
	}
}

static json_t *value_to_json(unsigned i, uint64_t value)
{
	if (option_values[i].type == OPTION_ENUM)
		return json_string(option_values[i].names[value]);
	if (option_values[i].type == OPTION_BOOL)
		return json_boolean(value);
	return json_integer((json_int_t)value); /* "no limit" is -1 there */
}

/* Those members of which `which` has a bit. All of them or nothing: NULL. */
enum { OPTIONS_NEEDED = 1 << 0, OPTIONS_MORE = 1 << 1 };

static char *options_to_json(const struct nbd_options *o, unsigned which)
{
	json_t *object = json_object();
	struct nbd_options defaults;
	char *text = NULL;
	int ret = 0;

	nbd_options_init(&defaults);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		const char *string = *(char *const *)((const char *)o + option_strings[i].offset);

		if (string && (which & (option_strings[i].is_more ? OPTIONS_MORE : OPTIONS_NEEDED)))
			ret |= json_object_set_new(object, option_strings[i].key,
						   json_string(string));
	}
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_values); i++) {
		if (value_get(o, i) != value_get(&defaults, i) &&
		    (which & (option_values[i].is_more ? OPTIONS_MORE : OPTIONS_NEEDED)))
			ret |= json_object_set_new(object, option_values[i].key,
						   value_to_json(i, value_get(o, i)));
	}
	if (ret == 0)
		text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return text;
}

char *nbd_options_to_json(const struct nbd_options *o)
{
	return options_to_json(o, OPTIONS_NEEDED | OPTIONS_MORE);
}

int nbd_options_to_two_json(const struct nbd_options *o, char **needed, char **more)
{
	*needed = options_to_json(o, OPTIONS_NEEDED);
	*more = options_to_json(o, OPTIONS_MORE);
	if (*needed && *more)
		return 0;
	free(*needed);
	free(*more);
	*needed = *more = NULL;
	return -ENOMEM;
}

static bool value_from_json(struct nbd_options *o, unsigned i, const json_t *json)
{
	const char *name = json_string_value(json);

	switch (option_values[i].type) {
	case OPTION_ENUM:
		for (unsigned n = 0; name && n < option_values[i].nr_names; n++) {
			if (strcmp(name, option_values[i].names[n]) == 0) {
				value_set(o, i, n);
				return true;
			}
		}
		return false;
	case OPTION_BOOL:
		value_set(o, i, json_is_true(json));
		return json_is_boolean(json);
	case OPTION_U32:
		value_set(o, i, (uint64_t)json_integer_value(json));
		return json_is_integer(json) && json_integer_value(json) >= 0 &&
		       json_integer_value(json) <= UINT32_MAX;
	default:
		value_set(o, i, (uint64_t)json_integer_value(json));
		return json_is_integer(json) && json_integer_value(json) >= -1;
	}
}

static bool member_from_json(struct nbd_options *o, const char *key, const json_t *json,
			     bool *is_known)
{
	*is_known = true;
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		char **string = option_string(o, option_strings[i].offset);

		if (strcmp(key, option_strings[i].key) != 0)
			continue;
		if (!json_is_string(json) || *string)
			return false; /* the parser has refused members that come twice */
		*string = strdup(json_string_value(json));
		return *string != NULL;
	}
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_values); i++) {
		if (strcmp(key, option_values[i].key) == 0)
			return value_from_json(o, i, json);
	}
	*is_known = false;
	return false;
}

static int options_read_json(struct nbd_options *o, const char *json, bool ignores_unknown,
			     struct ub_err *err)
{
	json_error_t why;
	json_t *object = json_loads(json, JSON_REJECT_DUPLICATES, &why), *value;
	const char *key;
	bool is_known;
	int ret = 0;

	if (!json_is_object(object)) {
		json_decref(object);
		return ub_err_set(err, EINVAL, "the NBD options are no JSON object: %s",
				  object ? "something else" : why.text);
	}
	json_object_foreach(object, key, value)
	{
		if (!member_from_json(o, key, value, &is_known) && (is_known || !ignores_unknown)) {
			ret = ub_err_set(err, EINVAL,
					 "the NBD options' member '%.40s' is not understood", key);
			break;
		}
	}
	json_decref(object);
	return ret;
}

int nbd_options_from_json(struct nbd_options *o, const char *json, struct ub_err *err)
{
	nbd_options_init(o);
	return options_read_json(o, json, false, err);
}

int nbd_options_add_json(struct nbd_options *o, const char *more, struct ub_err *err)
{
	return options_read_json(o, more, true, err);
}

/* ---- checking ------------------------------------------------------------ */

/*
 * JSON, which carries the options to the server, and NBD's export names are UTF-8. A name that
 * cannot be carried must be refused: without it the default export would be served.
 */
static int check_strings(const struct nbd_options *o, struct ub_err *err)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(option_strings); i++) {
		const char *string = *(char *const *)((const char *)o + option_strings[i].offset);
		json_t *json = string ? json_string(string) : NULL;

		if (string && !json)
			return ub_err_set(err, EILSEQ, "the NBD %s '%.200s' is not UTF-8",
					  option_strings[i].key, string);
		json_decref(json);
	}
	return 0;
}

int nbd_options_check(const struct nbd_options *o, struct ub_err *err)
{
	int ret = check_strings(o, err);

	return ret ? ret : nbd_address_check(&o->address, err);
}

const char *nbd_fence_name(enum nbd_fence policy)
{
	return option_fence[policy];
}
