/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which way the bytes travel between the kernel's request and the server's memory. Fixed at ADD_DEV
 * for the device's life. The choice is made here and nowhere else.
 *
 *                what FETCH/COMMIT name      WRITE                        READ
 *   COPY         the tag's buffer            is there when FETCH is done  copied by COMMIT
 *   GET_DATA     READ: where the data is     NEED_GET_DATA names where    copied by COMMIT
 *   USER_COPY    nothing                     pread() of /dev/ublkcN       pwrite() of /dev/ublkcN
 *
 * COPY may never name the store itself: the address in COMMIT is also where the tag's next WRITE
 * goes.
 */
#ifndef UB_UBLK_DATAPATH_H
#define UB_UBLK_DATAPATH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum ub_data_path {
	UB_DATA_PATH_AUTO,
	UB_DATA_PATH_COPY,
	UB_DATA_PATH_GET_DATA,
	UB_DATA_PATH_USER_COPY,
	UB_NR_DATA_PATHS,
};

/* "auto", "copy", "get-data", "user-copy". */
const char *ub_data_path_name(enum ub_data_path path);
int ub_data_path_parse(const char *name, enum ub_data_path *path, struct ub_err *err);

/*
 * Turns AUTO into a choice, and refuses what the kernel lacks.
 * features: of GET_FEATURES; backend_caps: UB_CAP_*. 0 or -EOPNOTSUPP with *err.
 */
int ub_data_path_choose(enum ub_data_path *path, uint64_t features, uint32_t backend_caps,
			struct ub_err *err);

/*
 * Whether the tag buffers are the exception, because the back end names its store: their memory is
 * given back after each use. path: not AUTO; backend_caps: UB_CAP_*. Any thread.
 */
bool ub_data_path_spares_bufs(enum ub_data_path path, uint32_t backend_caps);

/* The UBLK_F_* flag that ADD_DEV wants for it. */
uint64_t ub_data_path_flag(enum ub_data_path path);

#endif
