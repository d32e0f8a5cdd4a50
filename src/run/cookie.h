/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mark in a device's ublksrv_flags, which the driver keeps for its server and never reads: it
 * says that the device is ours, and tells it from a later one with the same number. Any thread.
 */
#ifndef UB_RUN_COOKIE_H
#define UB_RUN_COOKIE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/random.h>
#include <time.h>

#define UB_COOKIE_MARK 0x7562ULL /* "ub", in the top 16 bits; the rest is random */

static inline uint64_t ub_cookie_make(void)
{
	uint64_t random = 0;

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		random = (uint64_t)time(NULL) << 20 ^ (uint64_t)clock();
	return UB_COOKIE_MARK << 48 | random >> 16;
}

static inline bool ub_cookie_is_ours(uint64_t cookie)
{
	return cookie >> 48 == UB_COOKIE_MARK;
}

#endif
