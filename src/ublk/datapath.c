/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one place that decides which way the bytes travel. Control plane. */
#include "ublk/datapath.h"

#include <errno.h>
#include <string.h>

#include <ublk-bridge/backend.h>
#include <ublk-bridge/ublk-abi.h>

static const struct {
	const char *name;
	uint64_t flag;
	const char *since;
} data_paths[UB_NR_DATA_PATHS] = {
	[UB_DATA_PATH_AUTO] = { "auto", 0, NULL },
	[UB_DATA_PATH_COPY] = { "copy", 0, NULL },
	[UB_DATA_PATH_GET_DATA] = { "get-data", UBLK_F_NEED_GET_DATA, "6.0" },
	[UB_DATA_PATH_USER_COPY] = { "user-copy", UBLK_F_USER_COPY, "6.5" },
};

const char *ub_data_path_name(enum ub_data_path path)
{
	return data_paths[path].name;
}

int ub_data_path_parse(const char *name, enum ub_data_path *path, struct ub_err *err)
{
	for (unsigned i = 0; i < UB_NR_DATA_PATHS; i++) {
		if (strcmp(name, data_paths[i].name) == 0) {
			*path = i;
			return 0;
		}
	}
	return ub_err_set(err, EINVAL,
			  "--data-path: '%s' is unknown: it is auto, copy, get-data or user-copy",
			  name);
}

uint64_t ub_data_path_flag(enum ub_data_path path)
{
	return data_paths[path].flag;
}

bool ub_data_path_spares_bufs(enum ub_data_path path, uint32_t backend_caps)
{
	return path != UB_DATA_PATH_COPY && (backend_caps & UB_CAP_PLACE);
}

int ub_data_path_choose(enum ub_data_path *path, uint64_t features, uint32_t backend_caps,
			struct ub_err *err)
{
	if (*path == UB_DATA_PATH_AUTO) {
		/* HACKING.md, "The data path", has the measurements behind this. */
		if ((backend_caps & UB_CAP_PLACE) && (features & UBLK_F_NEED_GET_DATA))
			*path = UB_DATA_PATH_GET_DATA;
		else
			*path = UB_DATA_PATH_COPY;
	}
	if (~features & data_paths[*path].flag)
		return ub_err_set(err, EOPNOTSUPP,
				  "--data-path %s: this kernel's ublk lacks it (Linux %s has it): "
				  "use "
				  "--data-path copy",
				  data_paths[*path].name, data_paths[*path].since);
	return 0;
}
