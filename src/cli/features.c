/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge features: what this build and this kernel can do. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include <ublk-bridge/backend.h>

#include "backend/nbd/library.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/common.h"
#include "ublk/ctrl.h"
#include "ublk/datapath.h"

#include "config.h"

enum { OPT_JSON = 256 };

static const struct argp_option features_options[] = {
	{ "json", OPT_JSON, NULL, 0, "Print one object", 0 },
	{ 0 },
};

struct features_args {
	bool json;
	struct ub_err err;
};

static error_t features_parse(int key, char *arg, struct argp_state *state)
{
	struct features_args *a = state->input;

	if (key == OPT_JSON)
		a->json = true;
	else if (key == ARGP_KEY_ARG)
		return -ub_err_set(&a->err, EINVAL, "features takes no argument, such as '%s'",
				   arg);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static bool features_has_path(uint64_t features, enum ub_data_path path)
{
	return (features & ub_data_path_flag(path)) == ub_data_path_flag(path);
}

/* What the libnbd that is found can do; false: none is. */
struct features_nbd {
	const char *version;
	bool tls, uri, vsock;
};

static bool features_ask_nbd(struct features_nbd *nbd_has)
{
	cleanup_fd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct nbd_handle *handle;
	struct ub_err ignored;

	if (nbd_library_load(&ignored) != 0)
		return false;
	handle = nbd.create();
	nbd_has->version = handle ? nbd.get_version(handle) : "unknown";
	nbd_has->tls = handle && nbd.supports_tls(handle) == 1;
	nbd_has->uri = handle && nbd.supports_uri(handle) == 1;
	nbd_has->vsock = fd >= 0;
	if (handle)
		nbd.close(handle);
	return true;
}

static const char *features_yes(bool value)
{
	return value ? "yes" : "no";
}

static void features_print(uint64_t features, const char *release)
{
	struct features_nbd nbd_has;

	printf("ublk-bridge %s, built with liburing %s\n", PACKAGE_VERSION, UB_LIBURING_VERSION);
	printf("back ends:");
	for (unsigned i = 0; ub_backends[i]; i++)
		printf(" %s", ub_backends[i]->name);
	if (features_ask_nbd(&nbd_has))
		printf("\nlibnbd %s: TLS %s, URI %s, vsock %s", nbd_has.version,
		       features_yes(nbd_has.tls), features_yes(nbd_has.uri),
		       features_yes(nbd_has.vsock));
	else
		printf("\nlibnbd: cannot be loaded, so NBD exports cannot be served");
	printf("\ndata paths:");
	for (unsigned i = UB_DATA_PATH_COPY; i < UB_NR_DATA_PATHS; i++)
		printf(" %s", features_has_path(features, i) ? ub_data_path_name(i) : "");
	printf("\nkernel %s, ublk features 0x%llx:\n", release, (unsigned long long)features);
	for (unsigned bit = 0; bit < 64; bit++) {
		if (ub_ctrl_feature_name(bit))
			printf("  %-24s %-3s (since Linux %s)\n", ub_ctrl_feature_name(bit),
			       features >> bit & 1 ? "yes" : "no", ub_ctrl_feature_since(bit));
		else if (features >> bit & 1)
			printf("  bit %-20u yes (newer than this ublk-bridge)\n", bit);
	}
}

static void features_print_json(uint64_t features, const char *release)
{
	json_t *bits = json_object(), *paths = json_array(), *kinds = json_array(), *all;
	struct features_nbd nbd_has;

	for (unsigned bit = 0; ub_ctrl_feature_name(bit); bit++)
		json_object_set_new(bits, ub_ctrl_feature_name(bit),
				    json_boolean(features >> bit & 1));
	for (unsigned i = UB_DATA_PATH_COPY; i < UB_NR_DATA_PATHS; i++) {
		if (features_has_path(features, i))
			json_array_append_new(paths, json_string(ub_data_path_name(i)));
	}
	for (unsigned i = 0; ub_backends[i]; i++)
		json_array_append_new(kinds, json_string(ub_backends[i]->name));
	all = json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:o}", "version", PACKAGE_VERSION,
			"liburing", UB_LIBURING_VERSION, "kernel", release, "ublk_features",
			(json_int_t)features, "ublk", bits, "data_paths", paths, "backends", kinds);
	json_object_set_new(all, "libnbd",
			    features_ask_nbd(&nbd_has) ?
				    json_pack("{s:s, s:b, s:b, s:b}", "version", nbd_has.version,
					      "tls", (int)nbd_has.tls, "uri", (int)nbd_has.uri,
					      "vsock", (int)nbd_has.vsock) :
				    json_null());
	json_dumpf(all, stdout, JSON_INDENT(2));
	printf("\n");
	json_decref(all);
}

int ub_cli_features(int argc, char **argv)
{
	static const struct argp argp = {
		.options = features_options,
		.parser = features_parse,
		.doc = "Say what this build and this kernel's ublk can do."
		       "\vExit status: 0 done, 1 failed, 2 wrong usage.",
	};
	struct features_args a = { 0 };
	struct utsname uts;
	struct ub_ctrl ctrl;
	uint64_t features;
	int ret;

	if (ub_cli_parse(&argp, argc, argv, &a, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_USAGE);
	if (ub_ctrl_open(&ctrl, &a.err) != 0)
		return ub_cli_error(&a.err, UB_EXIT_FAILED);
	ret = ub_ctrl_get_features(&ctrl, &features, &a.err);
	ub_ctrl_close(&ctrl);
	if (ret)
		return ub_cli_error(&a.err, UB_EXIT_FAILED);
	uname(&uts);
	if (a.json)
		features_print_json(features, uts.release);
	else
		features_print(features, uts.release);
	return UB_EXIT_DONE;
}
