/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a device is made of, in words, as its run directory says it. Control plane. */
#ifndef UB_RUN_DESCRIBE_H
#define UB_RUN_DESCRIBE_H

#include <stddef.h>

/*
 * What the device of this run directory is made of now, in a few words and without secrets:
 * "nbd://host/export", "[ nbdkit file disk.img ]", "64 MiB of memory". Any process. buf; "": the
 * directory does not say.
 */
const char *ub_describe_device(const char *name, char *buf, size_t len);

#endif
