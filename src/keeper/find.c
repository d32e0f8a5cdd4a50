/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which device is meant. Short-lived verbs. */
#include "keeper/find.h"

#include <errno.h>
#include <string.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/size.h"
#include "keeper/cookie.h"
#include "ublk/ctrl.h"

int ub_device_find(const char *device, uint32_t *dev_id, uint64_t *cookie, struct ub_err *err)
{
	static const char prefix[] = "/dev/ublkb";
	const char *number = device;
	struct ub_state state;
	uint64_t value = 0;

	*cookie = 0;
	if (strncmp(device, prefix, strlen(prefix)) == 0)
		number = device + strlen(prefix);
	if (number != device || strspn(device, "0123456789") == strlen(device)) {
		int ret = ub_number_parse(number, device, 0, UBLK_MAX_DEV_ID, &value, err);

		*dev_id = (uint32_t)value;
		return ret;
	}
	if (ub_name_check(device, err) != 0)
		return ub_err_set(err, EINVAL,
				  "'%s' is no device: give a number, /dev/ublkbN or a --name", device);
	if (ub_state_read(device, &state) != 0)
		return ub_err_set(err, ENOENT, "no device is named '%s': see 'ublk-bridge list'", device);
	*dev_id = state.dev_id;
	*cookie = state.cookie;
	return 0;
}

int ub_device_find_state(const char *device, struct ub_state *state, struct ublksrv_ctrl_dev_info *info,
			 struct ub_err *err)
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
		return ub_err_set(err, ENODEV, "there is no device %u: see 'ublk-bridge list'", dev_id);
	if (ret)
		return ret;
	if (!ub_cookie_is_ours(known.ublksrv_flags))
		return ub_err_set(err, EPERM, "/dev/ublkb%u is another program's: see 'ublk-bridge list'", dev_id);
	if (ub_state_find(known.ublksrv_flags, state) != 0)
		return ub_err_set(err, ENOENT, "/dev/ublkb%u: its run directory is lost: see 'ublk-bridge list'", dev_id);
	if (info)
		*info = known;
	return 0;
}
