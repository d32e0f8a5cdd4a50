/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The statistics page as JSON. Reads the page and asks nobody; any thread, control plane. */
#ifndef UB_KEEPER_STATS_H
#define UB_KEEPER_STATS_H

#include <jansson.h>
#include <stdbool.h>

#include <ublk-bridge/page.h>

#include "keeper/control.h"

/*
 * Upper bounds of the coarse buckets, each twice the one before: 2^10 ns (1 us) to 2^37 ns (137 s).
 */
#define UB_STATS_FIRST_BUCKET_BITS 10
#define UB_STATS_LAST_BUCKET_BITS  37

/*
 * All queues together, as ublk-bridge(8) specifies it. nr_queues: as the page was made for; what
 * the server wrote is not asked. now_ns: of the monotonic clock. buckets: each latency has its
 * coarse buckets, too: pairs of an upper bound in ns and how many were shorter. The caller's to
 * json_decref().
 */
json_t *ub_stats_to_json(const struct ub_stats_page *page, unsigned nr_queues, uint64_t now_ns,
			 bool buckets);

#endif
