/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ledger's geometry. Any thread; knows nobody. */
#include <ublk-bridge/ledger.h>

#include <errno.h>
#include <stdbool.h>

#define LEDGER_MAX_QUEUES   4096
#define LEDGER_MAX_SLOTS    8192
#define LEDGER_SPARE_RANGES 128 /* beyond two for each change that can be in flight */

_Static_assert(sizeof(struct ub_ledger) <= UB_LEDGER_HEAD_BYTES, "the head has room");
_Static_assert(sizeof(struct ub_ledger_side) <= UB_LEDGER_HEAD_BYTES, "a side's head has room");

static uint32_t ledger_nr_ranges(unsigned nr_queues, unsigned nr_slots)
{
	uint64_t nr = 2ULL * nr_queues * nr_slots + LEDGER_SPARE_RANGES;

	return nr < UB_LEDGER_MAX_RANGES ? (uint32_t)nr : UB_LEDGER_MAX_RANGES;
}

static uint64_t ledger_side_bytes(const struct ub_ledger *page)
{
	uint64_t bytes = page->head_bytes + (uint64_t)page->nr_conns * page->conn_bytes +
			 (uint64_t)page->nr_ranges * page->range_bytes +
			 (uint64_t)page->nr_queues * page->nr_slots * page->sent_bytes;

	return (bytes + UB_LEDGER_HEAD_BYTES - 1) / UB_LEDGER_HEAD_BYTES * UB_LEDGER_HEAD_BYTES;
}

void ub_ledger_init(struct ub_ledger *page, unsigned nr_queues, unsigned nr_slots)
{
	page->nr_queues = nr_queues;
	page->nr_slots = nr_slots;
	page->nr_ranges = ledger_nr_ranges(nr_queues, nr_slots);
	page->nr_conns = UB_LEDGER_CONNS;
	page->head_bytes = UB_LEDGER_HEAD_BYTES;
	page->conn_bytes = sizeof(struct ub_ledger_conn);
	page->range_bytes = sizeof(struct ub_ledger_range);
	page->sent_bytes = sizeof(struct ub_ledger_sent);
	page->side_bytes = ledger_side_bytes(page);
	page->version = UB_LEDGER_VERSION;
	page->magic = UB_LEDGER_MAGIC;
}

size_t ub_ledger_bytes(unsigned nr_queues, unsigned nr_slots)
{
	struct ub_ledger geometry = { 0 };

	if (nr_queues == 0 || nr_queues > LEDGER_MAX_QUEUES || nr_slots == 0 ||
	    nr_slots > LEDGER_MAX_SLOTS)
		return 0;
	ub_ledger_init(&geometry, nr_queues, nr_slots);
	return geometry.head_bytes + UB_LEDGER_SIDES * geometry.side_bytes;
}

/*
 * Records of this program's size fit into the places, and all counts are of a size that cannot
 * overflow a product.
 */
static bool ledger_has_room(const struct ub_ledger *p)
{
	return p->head_bytes >= UB_LEDGER_HEAD_BYTES && p->head_bytes % 64 == 0 &&
	       p->head_bytes <= UINT16_MAX && p->conn_bytes >= sizeof(struct ub_ledger_conn) &&
	       p->conn_bytes % 8 == 0 && p->conn_bytes <= UINT16_MAX &&
	       p->range_bytes >= sizeof(struct ub_ledger_range) && p->range_bytes % 8 == 0 &&
	       p->range_bytes <= UINT16_MAX && p->sent_bytes >= sizeof(struct ub_ledger_sent) &&
	       p->sent_bytes % 8 == 0 && p->sent_bytes <= UINT16_MAX && p->nr_conns >= 1 &&
	       p->nr_conns < UB_LEDGER_NO_CONN && p->nr_ranges >= 2 && p->nr_ranges <= 1U << 20;
}

int ub_ledger_check(const struct ub_ledger *page, size_t len_bytes, unsigned nr_queues,
		    unsigned nr_slots)
{
	if (len_bytes < UB_LEDGER_HEAD_BYTES || page->magic != UB_LEDGER_MAGIC ||
	    page->version < UB_LEDGER_VERSION || page->nr_queues != nr_queues ||
	    page->nr_slots != nr_slots || nr_queues > LEDGER_MAX_QUEUES ||
	    nr_slots > LEDGER_MAX_SLOTS || !ledger_has_room(page) ||
	    page->side_bytes < ledger_side_bytes(page) || page->side_bytes % 8 != 0 ||
	    page->head_bytes > len_bytes ||
	    page->side_bytes > (len_bytes - page->head_bytes) / UB_LEDGER_SIDES)
		return -EPROTO;
	return 0;
}
