/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The mounts that a back end needs. */
#include "server/mounts.h"

#include <stdlib.h>

#include "backend/backend.h"
#include "server/isolate.h"

void ub_mounts_drop(const struct ub_backend_config *cfg)
{
	char *paths[UB_BACKEND_MAX_PATHS + 1] = { NULL };
	unsigned nr = ub_backend_get_paths(cfg, paths, UB_BACKEND_MAX_PATHS);

	for (unsigned i = 0; i < nr; i++) {
		char *path = realpath(paths[i], NULL);

		/* Not there yet, perhaps: as it is written, then. */
		if (path) {
			free(paths[i]);
			paths[i] = path;
		}
	}
	ub_isolate_drop_mounts(paths);
	for (unsigned i = 0; i < nr; i++)
		free(paths[i]);
}
