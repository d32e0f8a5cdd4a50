/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which device is meant. Short-lived verbs. */
#include "run/find.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/size.h"
#include "run/cookie.h"
#include "run/state.h"
#include "ublk/ctrl.h"

#define FIND_NAMES "give /dev/ublkbN, its number, or a name from 'ublk-bridge list'"

static bool find_is_number(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text);
}

/*
 * "ublkb0", or "ublkb0p1": its disk's number, and that it is one. False: the word is no such name.
 */
static bool find_parse_disk(const char *name, const char **number, bool *is_partition)
{
	static const char prefix[] = "ublkb";
	size_t digits;

	if (strncmp(name, prefix, strlen(prefix)) != 0)
		return false;
	*number = name + strlen(prefix);
	digits = strspn(*number, "0123456789");
	*is_partition = digits && (*number)[digits] == 'p' && find_is_number(*number + digits + 1);
	return digits && (!(*number)[digits] || *is_partition);
}

/*
 * The name that the kernel has for a block device, and for the disk that it is a part of; "": it
 * has none.
 */
static void find_disk_of(dev_t number, char *disk, size_t len, bool *is_partition)
{
	char path[64], link[PATH_MAX], *end;
	const char *name = link;
	ssize_t n;

	*disk = '\0';
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(number), minor(number));
	n = readlink(path, link, sizeof(link) - 1);
	if (n <= 0)
		return;
	link[n] = '\0';
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(number),
		 minor(number));
	*is_partition = access(path, F_OK) == 0;
	end = strrchr(link, '/');
	if (end && *is_partition) {
		*end = '\0';
		end = strrchr(link, '/');
	}
	if (end)
		name = end + 1;
	if (strlen(name) < len)
		memcpy(disk, name, strlen(name) + 1);
}

static int find_number(const char *number, const char *device, uint32_t *dev_id, struct ub_err *err)
{
	uint64_t value = 0;
	int ret = ub_number_parse(number, device, 0, UBLK_MAX_DEV_ID, &value, err);

	*dev_id = (uint32_t)value;
	return ret;
}

static int find_is_partition(const char *device, const char *number, struct ub_err *err)
{
	return ub_err_set(err, EINVAL, "%s is a partition. The device is /dev/ublkb%.*s", device,
			  (int)strspn(number, "0123456789"), number);
}

/*
 * A path that is not simply /dev/ublkbN: a link of udev's, /dev/block/259:0, or another device
 * altogether.
 */
static int find_path(const char *device, uint32_t *dev_id, struct ub_err *err)
{
	bool is_partition = false, ignored;
	char disk[NAME_MAX + 1];
	const char *number;
	struct stat st;

	if (stat(device, &st) < 0)
		return ub_err_set(err, EINVAL, "'%s' is no device: %s: " FIND_NAMES, device,
				  strerror(errno));
	if (!S_ISBLK(st.st_mode))
		return ub_err_set(err, EINVAL, "%s is no block device: " FIND_NAMES, device);
	find_disk_of(st.st_rdev, disk, sizeof(disk), &is_partition);
	if (!find_parse_disk(disk, &number, &ignored))
		return ub_err_set(err, EINVAL, "%s is not a ublk device: " FIND_NAMES, device);
	return is_partition ? find_is_partition(device, number, err) :
			      find_number(number, device, dev_id, err);
}

int ub_device_find(const char *device, uint32_t *dev_id, uint64_t *cookie, struct ub_err *err)
{
	static const char prefix[] = "/dev/";
	bool is_path = *device == '/', is_partition = false;
	const char *name =
		strncmp(device, prefix, strlen(prefix)) == 0 ? device + strlen(prefix) : device;
	const char *number = device;
	struct ub_state state;
	int ret = ub_rundir_check_rights(err);

	*cookie = 0;
	if (ret)
		return ret;
	if (find_parse_disk(name, &number, &is_partition) && is_partition)
		return find_is_partition(device, number, err);
	if (find_is_number(number))
		return find_number(number, device, dev_id, err);
	if (is_path)
		return find_path(device, dev_id, err);
	if (ub_name_check(device, err) != 0)
		return ub_err_set(err, EINVAL, "'%s' is no device: " FIND_NAMES, device);
	if (ub_state_read(device, &state) != 0)
		return ub_err_set(err, ENOENT, "no device is named '%s': see 'ublk-bridge list'",
				  device);
	*dev_id = state.dev_id;
	*cookie = state.cookie;
	return 0;
}

int ub_device_find_state(const char *device, struct ub_state *state,
			 struct ublksrv_ctrl_dev_info *info, struct ub_err *err)
{
	struct ublksrv_ctrl_dev_info known = { 0 };
	struct ub_ctrl ctrl = { 0 };
	uint64_t cookie = 0;
	uint32_t dev_id = 0;
	int ret = ub_device_find(device, &dev_id, &cookie, err);

	if (ret)
		return ret;
	ret = ub_ctrl_open(&ctrl, err);
	if (ret == 0)
		ret = ub_ctrl_get_info(&ctrl, dev_id, &known, err);
	ub_ctrl_close(&ctrl);
	if (ret == -ENODEV || (ret == 0 && cookie && known.ublksrv_flags != cookie))
		return ub_err_set(err, ENODEV, "there is no device %u: see 'ublk-bridge list'",
				  dev_id);
	if (ret)
		return ret;
	if (!ub_cookie_is_ours(known.ublksrv_flags))
		return ub_err_set(err, EPERM,
				  "/dev/ublkb%u is another program's: see 'ublk-bridge list'",
				  dev_id);
	if (ub_state_find(known.ublksrv_flags, state) != 0)
		return ub_err_set(err, ENOENT,
				  "/dev/ublkb%u: its run directory is lost: see 'ublk-bridge list'",
				  dev_id);
	if (info)
		*info = known;
	return 0;
}
