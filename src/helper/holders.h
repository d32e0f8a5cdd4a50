/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who holds a block device. Runs in a disposable helper, because reading /proc may take its time.
 */
#ifndef UB_HELPER_HOLDERS_H
#define UB_HELPER_HOLDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Writes who holds /dev/ublkb<dev_id> or one of its partitions, such as "mounted on /mnt; used as
 * swap; opened by fio (pid 77)", cut to len. False: nobody was found, and text is "". Looks at
 * mountinfo, swaps, sysfs and the links in /proc/PID/fd, and touches no file on the device.
 */
bool ub_holders_find(uint32_t dev_id, char *text, size_t len);

/*
 * Likewise of one that is busy for certain: "held by something that cannot be named", with a guess,
 * where nobody is found.
 */
void ub_holders_suspect(uint32_t dev_id, char *text, size_t len);

#endif
