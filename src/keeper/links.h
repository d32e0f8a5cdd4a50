/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connections of a server process, as its keeper holds them: when the server dies, what it had sent may still be
 * executed at the other ends. Before the next server sends anything, each of them must have closed its side.
 *
 * The keeper's main thread. Nothing is allocated.
 */
#ifndef UB_KEEPER_LINKS_H
#define UB_KEEPER_LINKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"

#define UB_LINKS_MAX 160 /* two of each connection that a back end may have, and some */

struct ub_links {
	unsigned nr;
	struct {
		uint32_t id;
		int fd;
		bool is_cut; /* it ended without a word from the other end: only time helps */
	} held[UB_LINKS_MAX];
	bool has_lost; /* there were more than that: the time must pass */
	uint64_t deadline_ms;
};

void ub_links_add(struct ub_links *f, uint32_t id, int fd); /* fd is the fence's from now on */
void ub_links_drop(struct ub_links *f, uint32_t id); /* not there: nothing happens */

/* The server is dead: closes our side of all of them. is_blind: there may be some that nobody knows of. */
void ub_links_begin(struct ub_links *f, uint64_t timeout_ms, bool is_blind);
/* True when no other end can execute anything any more, or the time is over. Waits for nothing. */
bool ub_links_passed(struct ub_links *f);
void ub_links_clear(struct ub_links *f);

#endif
