/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fence against a model of all that it is about: a kernel that issues changes, a process of
 * ours that follows the rules of base/fence.h and dies between any two stores, a keeper, and
 * servers that execute what was never answered whenever they like. Time is arithmetic.
 *
 * A write is *newer* than another one if it was issued after that was given back, however. Each
 * unit of the disk says which write it is of. The model fails when one that is acknowledged there
 * is newer than that; when something waits for no reason, or for ever; and when records are left
 * over.
 *
 * UB_FENCE_STEPS: how many steps. UB_FENCE_SEED: one world alone, and it tells what happens (a
 * failure prints its seed).
 */
#include "unit.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>

#include "ublk-bridge/io.h"

/* Every store that others may see comes by here: the process may die before it. */
static void death_may_come(memory_order order);

#undef atomic_store_explicit
#undef atomic_fetch_or_explicit
#undef atomic_fetch_add_explicit
#define atomic_store_explicit(p, v, order)     (death_may_come(order), (void)(*(p) = (v)))
#define atomic_fetch_or_explicit(p, v, order)  (death_may_come(order), (void)(*(p) |= (v)))
#define atomic_fetch_add_explicit(p, v, order) (death_may_come(order), (*(p) += (v)) - (v))

#include "base/fence-table.c" // NOLINT(bugprone-suspicious-include)

#include "base/fence.c" // NOLINT(bugprone-suspicious-include)

enum {
	UNIT = 1024,
	NR_UNITS = 64,
	MAX_LEN = 12,	   /* of a request, in units */
	MAX_BLOCK = 8,	   /* of a server, in units */
	MAX_WRITES = 4096, /* in a world's life */
	MAX_REQUESTS = 16, /* that the kernel has given out */
	MAX_MERGED = 4,	   /* writes in one of them */
	MAX_QUEUES = 3,
	MAX_SLOTS = 6,
	MAX_LINKS = 48,
	MAX_COPIES = 128,
	MAX_LIVES = 512,
	MAX_OPEN = 3,
	STEPS_OF_A_WORLD = 1500,
	MANY_RANGES = 96, /* more than there will be: none are merged */
	BOUND_MS = 24,	  /* so long a server takes, at most, for what it has in hand */
	MAX_TIMEOUT_MS = 3 * BOUND_MS,
};

#define UNDECIDED UINT64_MAX

/* What a process of ours may get wrong: for the proof that the model sees it. */
enum habit {
	GOOD,
	SENDS_BEFORE_RECORD,
	GIVES_BACK_BEFORE_DONE,
	CLAIMS_LATE,
	FORGETS_TO_ASK,
	RESENDS_BEFORE_RANGE,
	PROVES_WITH_LATER_NUMBER,
	RESETS_TOO_EARLY,
	NR_HABITS,
};

/* One write, zeroes or discard. Stamps count events; 0: not yet. */
struct write {
	uint32_t issued, given; /* given back */
	uint8_t start, len, op;
	/* For its own range: it was about to be given back, or another one may have claimed it. */
	bool may_wait;
};

/* What the kernel sends: one write, or some that adjoin. */
struct request {
	bool is_used;
	int slot; /* -1: it has not arrived */
	uint8_t op, start, len, nr;
	uint16_t writes[MAX_MERGED];
};

/* Writes of blocks; writes of parts of a block, beside and over each other; some of all. */
enum load { LOAD_BLOCKS, LOAD_SMALL, LOAD_MIXED, NR_LOADS };

enum slot_state { SLOT_FREE, SLOT_WAITS, SLOT_SENT };

struct slot {
	enum slot_state state;
	int request, link;
	struct ub_ledger_sent *rec;
	uint32_t owner;
	bool is_again, needs_done;
	uint64_t since_ms;
};

enum link_state { LINK_UNUSED, LINK_OPEN, LINK_LOST, LINK_RESET };

/* A connection as it is in truth. */
struct link {
	enum link_state state;
	enum ub_ledger_conn_kind kind;
	int conn; /* in the ledger */
	int32_t pid;
	uint32_t id;
	unsigned life;
	bool is_closed;	   /* by the other end */
	bool is_read;	   /* the other end has all of it, or has dropped it */
	bool is_counted;   /* an event of the ledger stands for it */
	bool is_kept;	   /* by the keeper */
	uint32_t reset;	   /* stamps */
	uint64_t proof_ms; /* 0: no sign of life yet that began after the reset */
};

/* A change on its way, or in the hands of a server. */
struct copy {
	bool is_used, is_executed, is_dropped, has_read;
	bool is_slow; /* not answered before its connection is lost */
	uint8_t op, start, len;
	int link, slot;
	uint32_t seq, begun;
	uint64_t execute_ms;
	uint16_t content[MAX_LEN];
	uint16_t around[MAX_LEN + 2 * MAX_BLOCK]; /* what it has read of its blocks */
};

struct life {
	bool is_dead, is_frozen;
};

struct model {
	uint64_t seed;
	bool tells;
	enum habit habit;
	uint64_t now_ms;
	uint32_t stamp;
	jmp_buf out, death;
	char failure[256];

	/* above */
	struct write writes[MAX_WRITES];
	unsigned nr_writes;
	struct request requests[MAX_REQUESTS];
	unsigned nr_requests, most_requests;
	enum load load;
	bool is_kernel; /* else what asks lives in our process, and dies with it */

	/* our process */
	bool is_alive, is_blind;
	int32_t pid;
	struct ub_fence fence;
	struct slot slots[MAX_QUEUES * MAX_SLOTS];
	unsigned nr_queues, nr_slots; /* slots of a queue */
	bool has_connecting;
	uint32_t connecting_seq, connecting_begun, connecting_life;
	uint32_t next_id;
	uint64_t timeout_ms;
	bool trusts_close;
	uint32_t block_bytes; /* as the server says */
	unsigned death_in;    /* stores; 0: not now */
	unsigned peace;	      /* one in so many troubles comes */
	bool is_calm;	      /* none comes */

	/* the page */
	struct ub_ledger *page;
	char *before; /* the page at the last store that orders */
	size_t page_bytes;
	unsigned side;
	bool has_merged;
	bool is_loose; /* it has died in the middle of a merge, perhaps */

	bool has_keeper;
	uint64_t word; /* to be said; 0: none */

	/* the servers, and the disk */
	struct link links[MAX_LINKS];
	struct copy copies[MAX_COPIES];
	struct life lives[MAX_LIVES];
	unsigned life;	/* the one that a new connection reaches */
	unsigned block; /* units */
	uint16_t disk[NR_UNITS];
	uint32_t newest[NR_UNITS]; /* when the newest acknowledged write of it was issued */

	unsigned nr_acks, nr_waits, nr_late, nr_claims, nr_deaths, nr_merges;
};

static struct model *the_model;

#define tell(m, ...) \
	do { \
		if ((m)->tells) { \
			fprintf(stderr, "%6" PRIu64 " ", (m)->now_ms); \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr); \
		} \
	} while (0)

static void tell_page(struct model *m)
{
	for (unsigned i = 0; i < m->page->nr_ranges; i++) {
		const struct ub_ledger_range *r = ub_ledger_range(m->page, m->side, i);

		if (r->state != UB_RANGE_FREE)
			tell(m,
			     "range %u: %g+%g, op %u, conn %u, clock %" PRIu64 ", event %" PRIu64
			     ", owner %u, flags %x, state %u",
			     i, (double)r->start / UNIT, (double)(r->end - r->start) / UNIT, r->op,
			     r->conn, r->clock_ms, r->event, r->owner, r->flags, r->state);
	}
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		const struct copy *c = &m->copies[i];

		if (c->is_used)
			tell(m, "copy %u: %u+%u, op %u, link %d, executed %d, dropped %d", i,
			     c->start, c->len, c->op, c->link, c->is_executed, c->is_dropped);
	}
}

__attribute__((format(printf, 2, 3), noreturn)) static void model_fail(struct model *m,
								       const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(m->failure, sizeof(m->failure), fmt, args);
	va_end(args);
	tell(m, "FAILED: %s", m->failure);
	tell_page(m);
	longjmp(m->out, 1);
}

static unsigned draw(struct model *m, unsigned below)
{
	return (unsigned)((unit_random(&m->seed) >> 16) % below);
}

static bool is_one_in(struct model *m, unsigned n)
{
	return draw(m, n) == 0;
}

/* A random index of [0, nr) for which is_fit() says yes; -1: there is none. */
static int pick(struct model *m, unsigned nr, bool (*is_fit)(const struct model *, unsigned))
{
	unsigned first = draw(m, nr);

	for (unsigned i = 0; i < nr; i++) {
		if (is_fit(m, (first + i) % nr))
			return (int)((first + i) % nr);
	}
	return -1;
}

/* ---- deaths of ours ------------------------------------------------------ */

/* Stores before the one that would have ordered them: each may have come, or not. */
static void tear(struct model *m, void *memory, size_t len)
{
	if (draw(m, 2))
		memcpy(memory, m->before + ((char *)memory - (char *)m->page), len);
}

#define TEAR(m, member) tear(m, &(member), sizeof(member))

static void tear_page(struct model *m)
{
	for (unsigned i = 0; i < m->page->nr_conns; i++) {
		struct ub_ledger_conn *c = ub_ledger_conn(m->page, m->side, i);

		TEAR(m, c->kind);
		TEAR(m, c->pid);
		TEAR(m, c->id);
		TEAR(m, c->flags);
		TEAR(m, c->reset_ms);
	}
	for (unsigned i = 0; i < m->page->nr_ranges; i++) {
		struct ub_ledger_range *r = ub_ledger_range(m->page, m->side, i);

		TEAR(m, r->start);
		TEAR(m, r->end);
		TEAR(m, r->clock_ms);
		TEAR(m, r->event);
		TEAR(m, r->owner);
		TEAR(m, r->conn);
		TEAR(m, r->op);
		TEAR(m, r->flags);
	}
	for (unsigned i = 0; i < m->nr_queues * m->nr_slots; i++) {
		struct ub_ledger_sent *s =
			ub_ledger_sent(m->page, m->side, i / m->nr_slots, i % m->nr_slots);

		TEAR(m, s->start);
		TEAR(m, s->end);
		TEAR(m, s->conn);
		TEAR(m, s->op);
	}
}

static bool page_is_full(const struct model *m)
{
	for (unsigned i = 0; i < m->page->nr_ranges; i++) {
		if (ub_ledger_range(m->page, m->side, i)->state == UB_RANGE_FREE)
			return false;
	}
	return true;
}

static void death_may_come(memory_order order)
{
	struct model *m = the_model;

	if (!m || !m->death_in || !m->is_alive)
		return;
	if (--m->death_in == 0) {
		m->is_loose |= page_is_full(m);
		tear_page(m);
		longjmp(m->death, 1);
	}
	if (order != memory_order_relaxed)
		memcpy(m->before, m->page, m->page_bytes);
}

/* Between two calls, too. */
static void between(void)
{
	death_may_come(memory_order_release);
}

static void process_will_die(struct model *m, unsigned soon)
{
	if (m->death_in || m->is_calm)
		return;
	memcpy(m->before, m->page, m->page_bytes);
	m->death_in = 1 + draw(m, soon);
}

/* ---- the disk ------------------------------------------------------------ */

static unsigned block_floor(const struct model *m, unsigned unit)
{
	return unit / m->block * m->block;
}

static unsigned block_ceil(const struct model *m, unsigned unit)
{
	return (unit + m->block - 1) / m->block * m->block;
}

static void disk_check(struct model *m, unsigned unit, const char *what)
{
	const struct write *w = &m->writes[m->disk[unit]];

	if (w->given && w->given < m->newest[unit])
		model_fail(m, "%s: unit %u holds write %u, and a newer one was acknowledged", what,
			   unit, m->disk[unit]);
}

static void disk_set(struct model *m, unsigned unit, uint16_t write)
{
	m->disk[unit] = write;
	disk_check(m, unit, "an old copy has landed");
}

static bool copies_share_blocks(const struct model *m, const struct copy *a, const struct copy *b)
{
	return block_floor(m, a->start) < block_ceil(m, b->start + b->len) &&
	       block_floor(m, b->start) < block_ceil(m, a->start + a->len);
}

/* One life of a server has a lock: what has read a block that another one writes reads it again. */
static void copy_lock(struct model *m, const struct copy *c)
{
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		struct copy *o = &m->copies[i];

		if (o->is_used && o != c && o->has_read && !o->is_executed &&
		    m->links[o->link].life == m->links[c->link].life &&
		    copies_share_blocks(m, o, c))
			o->has_read = false;
	}
}

static void copy_read(struct model *m, struct copy *c)
{
	unsigned first = block_floor(m, c->start), last = block_ceil(m, c->start + c->len);

	copy_lock(m, c);
	c->has_read = true;
	for (unsigned u = first; u < last; u++)
		c->around[u - first] = m->disk[u];
}

static void copy_execute(struct model *m, struct copy *c)
{
	unsigned first = block_floor(m, c->start), last = block_ceil(m, c->start + c->len);

	tell(m, "copy %td of %u+%u lands (write %u)", c - m->copies, c->start, c->len,
	     c->content[0]);
	copy_lock(m, c);
	c->is_executed = true;
	if (m->links[c->link].state != LINK_OPEN)
		m->nr_late++;
	for (unsigned u = first; u < last; u++) {
		if (u >= c->start && u < (unsigned)c->start + c->len)
			disk_set(m, u, c->content[u - c->start]);
		else if (c->has_read)
			disk_set(m, u, c->around[u - first]);
	}
}

static bool copy_is_live(const struct model *m, unsigned i)
{
	const struct copy *c = &m->copies[i];

	return c->is_used && !c->is_executed && !c->is_dropped;
}

/* What its server has decided to do, up to now. */
static void copies_run(struct model *m, uint64_t until_ms)
{
	for (;;) {
		struct copy *first = NULL;

		for (unsigned i = 0; i < MAX_COPIES; i++) {
			struct copy *c = &m->copies[i];

			if (copy_is_live(m, i) && c->execute_ms <= until_ms &&
			    (!first || c->execute_ms < first->execute_ms))
				first = c;
		}
		if (!first)
			return;
		if (m->now_ms < first->execute_ms)
			m->now_ms = first->execute_ms;
		copy_execute(m, first);
	}
}

static void pass_time(struct model *m, uint64_t ms)
{
	uint64_t until_ms = m->now_ms + ms;

	copies_run(m, until_ms);
	m->now_ms = until_ms;
}

/* ---- links --------------------------------------------------------------- */

static void link_drop_copies(struct model *m, unsigned link, unsigned one_in)
{
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		if (copy_is_live(m, i) && m->copies[i].link == (int)link && is_one_in(m, one_in))
			m->copies[i].is_dropped = true;
	}
}

/* In truth: nothing more of it arrives. */
static void link_reset(struct model *m, unsigned link)
{
	struct link *l = &m->links[link];

	l->state = LINK_RESET;
	l->is_kept = false;
	l->reset = ++m->stamp;
	link_drop_copies(m, link, 8);
	tell(m, "link %u (conn %d) is reset", link, l->conn);
}

/* Our process has seen a sign of life that began at this stamp: T counts, for the servers, too. */
static void links_prove(struct model *m, uint32_t begun)
{
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		struct link *l = &m->links[i];

		if (l->state != LINK_RESET || l->reset > begun || l->proof_ms)
			continue;
		l->proof_ms = m->now_ms;
		tell(m, "link %u (conn %d) has its proof", i, l->conn);
		for (unsigned k = 0; k < MAX_COPIES; k++) {
			struct copy *c = &m->copies[k];

			if (!copy_is_live(m, k) || c->link != (int)i)
				continue;
			if (is_one_in(m, 8))
				c->is_dropped = true;
			else if (is_one_in(m, 4))
				c->execute_ms = m->now_ms + draw(m, BOUND_MS);
			else
				c->execute_ms = m->now_ms + BOUND_MS - 1 - draw(m, 3);
			if (is_one_in(m, 2) && !c->is_dropped && !c->has_read)
				copy_read(m, c);
		}
	}
}

/* Whether a range in the page may be of this copy. */
static bool copy_has_range(const struct model *m, const struct copy *c)
{
	for (unsigned i = 0; i < m->page->nr_ranges; i++) {
		const struct ub_ledger_range *r = ub_ledger_range(m->page, m->side, i);

		if (r->state != UB_RANGE_FREE && r->start <= (uint64_t)c->start * UNIT &&
		    r->end >= (uint64_t)(c->start + c->len) * UNIT)
			return true;
	}
	return false;
}

/* What is over, and has left nothing in the page. */
static void links_forget(struct model *m)
{
	bool is_needed[MAX_LINKS] = { false };

	for (unsigned i = 0; i < MAX_COPIES; i++) {
		struct copy *c = &m->copies[i];
		const struct link *l = &m->links[c->link];

		if (!c->is_used)
			continue;
		if (m->is_alive && l->state == LINK_RESET && l->is_counted && !copy_is_live(m, i) &&
		    !copy_has_range(m, c))
			c->is_used = false;
		else
			is_needed[c->link] = true;
	}
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		if (m->links[i].state == LINK_RESET && m->links[i].proof_ms && !is_needed[i])
			m->links[i].state = LINK_UNUSED;
	}
}

static int find_link(const struct model *m, int32_t pid, uint32_t id)
{
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		if (m->links[i].state != LINK_UNUSED && m->links[i].pid == pid &&
		    m->links[i].id == id)
			return (int)i;
	}
	return -1;
}

static bool link_is_open(const struct model *m, unsigned i)
{
	return m->links[i].state == LINK_OPEN && m->links[i].pid == m->pid;
}

static bool link_is_lost(const struct model *m, unsigned i)
{
	const struct link *l = &m->links[i];

	return l->state == LINK_LOST && l->pid == m->pid && (l->kind != UB_CONN_UNIX || l->is_read);
}

static bool link_is_unread(const struct model *m, unsigned i)
{
	const struct link *l = &m->links[i];

	return (l->state == LINK_OPEN || l->state == LINK_LOST) && l->kind == UB_CONN_UNIX &&
	       !l->is_read && !m->lives[l->life].is_frozen;
}

/* ---- what lies above ----------------------------------------------------- */

static bool request_is_free(const struct model *m, unsigned i)
{
	return !m->requests[i].is_used;
}

static bool request_is_new(const struct model *m, unsigned i)
{
	return m->requests[i].is_used && m->requests[i].slot < 0;
}

/* Most go to a few places that are busy. */
static void draw_write(struct model *m, struct write *w)
{
	static const uint8_t ops[] = { UB_OP_WRITE, UB_OP_WRITE, UB_OP_WRITE, UB_OP_WRITE_ZEROES,
				       UB_OP_DISCARD };

	w->op = m->load == LOAD_MIXED ? ops[draw(m, sizeof(ops))] : UB_OP_WRITE;
	w->len = (uint8_t)(1 + draw(m, is_one_in(m, 2) ? MAX_LEN : 4));
	w->start = (uint8_t)draw(m, NR_UNITS - w->len + 1U);
	if (is_one_in(m, m->load == LOAD_MIXED ? 2 : 8))
		return;
	w->start %= 8;
	if (m->load == LOAD_SMALL || is_one_in(m, 4))
		return;
	w->start = (uint8_t)(w->start / 4 * 4);
	w->len = 4;
}

static void kernel_issue(struct model *m)
{
	int i = pick(m, MAX_REQUESTS, request_is_free);
	struct request *r;
	struct write *w;

	if (i < 0 || m->nr_requests >= m->most_requests || m->nr_writes == MAX_WRITES ||
	    (!m->is_kernel && !m->is_alive))
		return;
	w = &m->writes[m->nr_writes];
	w->issued = ++m->stamp;
	draw_write(m, w);
	r = &m->requests[i];
	*r = (struct request){
		.is_used = true, .slot = -1, .op = w->op, .start = w->start, .len = w->len, .nr = 1
	};
	r->writes[0] = (uint16_t)m->nr_writes++;
	m->nr_requests++;
	tell(m, "write %u: op %u, %u+%u", r->writes[0], w->op, w->start, w->len);
}

/* The kernel makes one of two, as it may do before it sends them again. */
static void kernel_merge(struct model *m)
{
	int a = pick(m, MAX_REQUESTS, request_is_new);

	for (unsigned b = 0; a >= 0 && b < MAX_REQUESTS; b++) {
		struct request *x = &m->requests[a], *y = &m->requests[b];

		if (!request_is_new(m, b) || x == y || x->op != y->op ||
		    x->start + x->len != y->start || x->len + y->len > MAX_LEN ||
		    x->nr + y->nr > MAX_MERGED)
			continue;
		memcpy(&x->writes[x->nr], y->writes, y->nr * sizeof(y->writes[0]));
		x->nr = (uint8_t)(x->nr + y->nr);
		x->len = (uint8_t)(x->len + y->len);
		y->is_used = false;
		m->nr_requests--;
		tell(m, "merged: write %u is %u+%u now", x->writes[0], x->start, x->len);
		return;
	}
}

static void request_may_wait(struct model *m, const struct request *r)
{
	for (unsigned i = 0; i < r->nr; i++)
		m->writes[r->writes[i]].may_wait = true;
}

static void request_given_back(struct model *m, struct request *r, bool is_good)
{
	tell(m, "write %u is given back, %s", r->writes[0], is_good ? "good" : "bad");
	m->stamp++;
	for (unsigned i = 0; i < r->nr; i++) {
		struct write *w = &m->writes[r->writes[i]];

		w->given = m->stamp;
		for (unsigned u = w->start; is_good && u < (unsigned)w->start + w->len; u++) {
			if (w->issued > m->newest[u])
				m->newest[u] = w->issued;
			disk_check(m, u, "an acknowledged write is not there");
		}
		m->nr_acks += is_good;
	}
	r->is_used = false;
	m->nr_requests--;
}

/* ---- our process --------------------------------------------------------- */

static bool slot_is_free(const struct model *m, unsigned i)
{
	return m->slots[i].state == SLOT_FREE;
}

static bool slot_waits(const struct model *m, unsigned i)
{
	return m->slots[i].state == SLOT_WAITS;
}

static unsigned nr_all_slots(const struct model *m)
{
	return m->nr_queues * m->nr_slots;
}

static bool shares_blocks(const struct model *m, const struct request *r, uint64_t start,
			  uint64_t end)
{
	uint64_t block = (uint64_t)m->block * UNIT;

	return r->start * (uint64_t)UNIT < (end - 1) / block * block + block &&
	       start / block * block < (r->start + r->len) * (uint64_t)UNIT;
}

/* Whether there is something in the page that it may wait for; and whether that is exact. */
static bool page_has_reason(struct model *m, const struct request *r)
{
	bool has_reason = false;

	m->has_merged = false;
	for (unsigned i = 0; i < m->page->nr_ranges; i++) {
		const struct ub_ledger_range *g = ub_ledger_range(m->page, m->side, i);

		if (g->state == UB_RANGE_FREE)
			continue;
		m->has_merged |= (g->flags & UB_RANGE_BLIND) || page_is_full(m) ||
				 ((g->flags & UB_RANGE_MERGED) && m->page->nr_ranges < MANY_RANGES);
		has_reason |= g->end == UINT64_MAX || shares_blocks(m, r, g->start, g->end);
	}
	return has_reason;
}

static bool request_is_of_copy(const struct request *r, const struct copy *c)
{
	return r->start == c->start && r->len == c->len && r->op == c->op &&
	       c->content[0] == r->writes[0];
}

static bool request_is_beside_another(const struct model *m, const struct request *r)
{
	for (unsigned i = 0; i < MAX_REQUESTS; i++) {
		const struct request *o = &m->requests[i];

		if (o->is_used && o != r &&
		    shares_blocks(m, r, (uint64_t)o->start * UNIT,
				  (uint64_t)(o->start + o->len) * UNIT))
			return true;
	}
	return false;
}

/* What waits must have a reason that the model knows of, too. */
static void slot_check_wait(struct model *m, const struct slot *s)
{
	const struct request *r = &m->requests[s->request];
	bool has_copy = false, has_other = false, may_wait = false;

	m->nr_waits++;
	if (!page_has_reason(m, r))
		model_fail(m, "write %u waits, and no range is near", r->writes[0]);
	if (m->has_merged || m->is_loose)
		return;
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		const struct copy *c = &m->copies[i];

		if (!c->is_used || link_is_open(m, (unsigned)c->link) ||
		    !shares_blocks(m, r, (uint64_t)c->start * UNIT,
				   (uint64_t)(c->start + c->len) * UNIT))
			continue;
		has_copy = true;
		has_other |= !request_is_of_copy(r, c);
	}
	for (unsigned i = 0; i < r->nr; i++)
		may_wait |= m->writes[r->writes[i]].may_wait;
	if (!has_copy)
		model_fail(m, "write %u waits for nothing that was ever sent", r->writes[0]);
	if (!has_other && !may_wait && m->is_kernel && !request_is_beside_another(m, r))
		model_fail(m, "write %u waits for itself alone", r->writes[0]);
}

static struct copy *copy_make(struct model *m)
{
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		if (!m->copies[i].is_used)
			return &m->copies[i];
	}
	return NULL;
}

static void slot_send(struct model *m, struct slot *s, unsigned link)
{
	const struct request *r = &m->requests[s->request];
	struct link *l = &m->links[link];
	struct copy *c = copy_make(m);
	unsigned at = 0;

	if (!c)
		return;
	/* It is there before it is sent: what has a record may not be sent any more. */
	*c = (struct copy){ .is_used = true,
			    .op = r->op,
			    .start = r->start,
			    .len = r->len,
			    .link = (int)link,
			    .slot = (int)(s - m->slots),
			    .seq = m->fence.seq,
			    .begun = ++m->stamp,
			    .execute_ms = UNDECIDED,
			    .is_dropped = true,
			    .is_slow = is_one_in(m, 3) };
	for (unsigned i = 0; i < r->nr; i++) {
		for (unsigned k = 0; k < m->writes[r->writes[i]].len; k++)
			c->content[at++] = r->writes[i];
	}
	assert_int_equal(at, r->len);
	if (m->habit == SENDS_BEFORE_RECORD)
		c->is_dropped = false;
	between();
	if (!m->is_blind)
		ub_fence_send(s->rec, l->conn, r->op, (uint64_t)r->start * UNIT,
			      (uint64_t)r->len * UNIT);
	between();
	c->is_dropped = l->is_closed || m->lives[l->life].is_dead;
	l->is_read = false;
	tell(m, "write %u is sent as copy %td over link %u (conn %d)", r->writes[0], c - m->copies,
	     link, l->conn);
	s->state = SLOT_SENT;
	s->link = (int)link;
}

static void slot_claim(struct model *m, struct slot *s)
{
	const struct request *r = &m->requests[s->request];

	if (!m->fence.nr_claimable)
		return;
	for (unsigned i = 0; i < MAX_REQUESTS; i++) { /* it may take what is theirs */
		const struct request *o = &m->requests[i];

		if (o->is_used && o != r && o->start >= r->start &&
		    o->start + o->len <= r->start + r->len)
			request_may_wait(m, o);
	}
	if (ub_fence_claim(&m->fence, s->owner, r->op, (uint64_t)r->start * UNIT,
			   (uint64_t)r->len * UNIT)) {
		s->needs_done = true;
		m->nr_claims++;
		tell(m, "write %u has claimed", r->writes[0]);
	}
}

static void slot_try(struct model *m, struct slot *s)
{
	const struct request *r = &m->requests[s->request];
	int link;

	if (m->habit == CLAIMS_LATE && is_one_in(m, 2))
		slot_claim(m, s);
	if (m->fence.nr_live && m->habit != FORGETS_TO_ASK &&
	    !ub_fence_may_pass(&m->fence, s->owner, s->is_again, (uint64_t)r->start * UNIT,
			       (uint64_t)r->len * UNIT)) {
		slot_check_wait(m, s);
		return;
	}
	link = pick(m, MAX_LINKS, link_is_open);
	if (link >= 0)
		slot_send(m, s, (unsigned)link);
}

static void step_arrive(struct model *m)
{
	int i = pick(m, MAX_REQUESTS, request_is_new), k = pick(m, nr_all_slots(m), slot_is_free);
	struct slot *s;

	if (!m->is_alive || i < 0 || k < 0)
		return;
	s = &m->slots[k];
	s->state = SLOT_WAITS;
	s->request = i;
	s->is_again = false;
	s->needs_done = false;
	m->requests[i].slot = k;
	tell(m, "write %u arrives in slot %d", m->requests[i].writes[0], k);
	if (m->habit != CLAIMS_LATE && !m->is_blind)
		slot_claim(m, s);
	slot_try(m, s);
}

static void step_try(struct model *m)
{
	int k = pick(m, nr_all_slots(m), slot_waits);

	if (m->is_alive && k >= 0)
		slot_try(m, &m->slots[k]);
}

static void slot_complete(struct model *m, struct slot *s, bool is_good)
{
	struct request *r = &m->requests[s->request];

	if ((s->needs_done || !is_good) && is_one_in(m, 2 * m->peace))
		process_will_die(m, 3);
	if (s->needs_done && m->habit != GIVES_BACK_BEFORE_DONE) {
		request_may_wait(m, r);
		ub_fence_done(&m->fence, s->owner);
	}
	between();
	s->state = SLOT_FREE;
	request_given_back(m, r, is_good);
	if (s->needs_done && m->habit == GIVES_BACK_BEFORE_DONE) {
		if (is_one_in(m, 4))
			process_will_die(m, 1);
		between();
		ub_fence_done(&m->fence, s->owner);
	}
}

static void process_prove(struct model *m, uint32_t seq, uint32_t begun)
{
	if (m->habit == PROVES_WITH_LATER_NUMBER)
		seq = m->fence.seq;
	links_prove(m, begun);
	if (m->fence.nr_unproven)
		ub_fence_prove(&m->fence, seq, m->now_ms);
	between();
}

static bool copy_is_answered(const struct model *m, unsigned i)
{
	const struct copy *c = &m->copies[i];

	return c->is_used && c->is_executed && link_is_open(m, (unsigned)c->link) &&
	       !m->links[c->link].is_closed;
}

static void step_answer(struct model *m)
{
	int i = pick(m, MAX_COPIES, copy_is_answered);
	struct slot *s;
	struct copy c;

	if (!m->is_alive || i < 0)
		return;
	c = m->copies[i];
	s = &m->slots[c.slot];
	if (!m->is_blind)
		ub_fence_answer(s->rec);
	between();
	m->copies[i].is_used = false;
	process_prove(m, c.seq, c.begun);
	slot_complete(m, s, true);
}

/* An error: the server has executed it, or never will. */
static void step_answer_badly(struct model *m)
{
	int i = pick(m, MAX_COPIES, copy_is_live);
	struct slot *s;
	struct copy c;

	if (!m->is_alive || i < 0)
		return;
	c = m->copies[i];
	if (!link_is_open(m, (unsigned)c.link) || m->links[c.link].is_closed ||
	    m->lives[m->links[c.link].life].is_frozen)
		return;
	s = &m->slots[c.slot];
	m->copies[i].is_dropped = true;
	if (!m->is_blind)
		ub_fence_answer(s->rec);
	between();
	m->copies[i].is_used = false;
	process_prove(m, c.seq, c.begun);
	slot_complete(m, s, false);
}

static void step_cancel(struct model *m)
{
	int k = pick(m, nr_all_slots(m), slot_waits);

	if (m->is_alive && k >= 0)
		slot_complete(m, &m->slots[k], false);
}

/* ---- its connections ----------------------------------------------------- */

static void link_reset_by_process(struct model *m, unsigned link)
{
	link_reset(m, link);
	between();
	if (m->habit != RESETS_TOO_EARLY)
		ub_fence_reset(&m->fence, m->links[link].conn, m->now_ms);
}

static void link_lose(struct model *m, unsigned link)
{
	struct link *l = &m->links[link];

	if (is_one_in(m, 4 * m->peace))
		process_will_die(m, is_one_in(m, 2) ? 6 : 12);
	tell(m, "link %u (conn %d) is lost%s", link, l->conn, l->is_closed ? ", closed" : "");
	ub_fence_lose(&m->fence, l->conn, l->is_closed);
	l->is_counted = true;
	for (unsigned i = 0; i < nr_all_slots(m); i++) {
		struct slot *s = &m->slots[i];

		if (s->state != SLOT_SENT || s->link != (int)link)
			continue;
		between();
		if (m->habit == RESENDS_BEFORE_RANGE)
			ub_fence_answer(s->rec);
		else
			ub_fence_give_up(&m->fence, s->rec, s->owner);
		s->state = SLOT_WAITS;
		s->is_again = true;
		s->needs_done = true;
	}
	l->state = LINK_LOST;
	between();
	if (m->habit == RESETS_TOO_EARLY)
		ub_fence_reset(&m->fence, l->conn, m->now_ms);
	else if (l->kind == UB_CONN_OTHER || (l->kind == UB_CONN_TCP && is_one_in(m, 2)))
		link_reset_by_process(m, link);
}

static bool link_is_done_for(const struct model *m, unsigned i)
{
	return link_is_open(m, i) && (m->links[i].is_closed || m->links[i].life != m->life);
}

static bool link_is_stalled(const struct model *m, unsigned i)
{
	for (unsigned k = 0; link_is_open(m, i) && k < MAX_COPIES; k++) {
		if (copy_is_live(m, k) && m->copies[k].link == (int)i && m->copies[k].is_slow)
			return true;
	}
	return false;
}

static void step_lose(struct model *m)
{
	int link = pick(m, MAX_LINKS, link_is_done_for);

	if (link < 0)
		link = pick(m, MAX_LINKS, is_one_in(m, 8) ? link_is_open : link_is_stalled);
	if (m->is_alive && !m->is_blind && link >= 0)
		link_lose(m, (unsigned)link);
}

static void step_reset(struct model *m)
{
	int link = pick(m, MAX_LINKS, link_is_lost);

	if (m->is_alive && link >= 0)
		link_reset_by_process(m, (unsigned)link);
}

static bool link_is_idle(const struct model *m, unsigned i)
{
	if (!link_is_open(m, i))
		return false;
	for (unsigned k = 0; k < nr_all_slots(m); k++) {
		if (m->slots[k].state == SLOT_SENT && m->slots[k].link == (int)i)
			return false;
	}
	return true;
}

static void step_close(struct model *m)
{
	int link = pick(m, MAX_LINKS, link_is_idle);

	if (!m->is_alive || m->is_blind || link < 0)
		return;
	ub_fence_close(&m->fence, m->links[link].conn);
	m->links[link].state = LINK_UNUSED;
	tell(m, "link %d (conn %d) is closed", link, m->links[link].conn);
}

static void connect_finish(struct model *m)
{
	static const enum ub_ledger_conn_kind kinds[] = { UB_CONN_TCP, UB_CONN_UNIX, UB_CONN_UNIX,
							  UB_CONN_OTHER };
	enum ub_ledger_conn_kind kind = kinds[draw(m, 4)];
	unsigned i = 0;
	int conn = 0;

	if (m->connecting_life != m->life || m->lives[m->life].is_frozen)
		return;
	m->has_connecting = false;
	for (; i < MAX_LINKS && m->links[i].state != LINK_UNUSED; i++)
		;
	if (i == MAX_LINKS)
		return;
	if (!m->is_blind) {
		process_prove(m, m->connecting_seq, m->connecting_begun);
		conn = ub_fence_open(&m->fence, kind, ++m->next_id);
	}
	if (conn < 0)
		return;
	m->links[i] = (struct link){ .state = LINK_OPEN,
				     .kind = kind,
				     .conn = conn,
				     .pid = m->pid,
				     .id = m->next_id,
				     .life = m->life,
				     .is_read = true,
				     .is_kept = m->has_keeper && !m->is_blind };
	tell(m, "link %u (conn %d, kind %d) to life %u", i, conn, (int)kind, m->life);
}

/* Against two lives of a server that serve at once no fence helps: the manual page says -C 1. */
static void process_leave_old_lives(struct model *m)
{
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		if (link_is_open(m, i) && m->links[i].life != m->life)
			link_lose(m, i);
	}
}

static void step_connect(struct model *m)
{
	unsigned nr = 0;

	if (!m->is_alive)
		return;
	for (unsigned i = 0; i < MAX_LINKS; i++)
		nr += link_is_open(m, i);
	if (nr >= MAX_OPEN)
		return;
	if (!m->is_blind)
		process_leave_old_lives(m);
	if (m->has_connecting && m->connecting_life == m->life) {
		connect_finish(m);
		return;
	}
	m->has_connecting = true;
	m->connecting_seq = m->fence.seq;
	m->connecting_begun = ++m->stamp;
	m->connecting_life = m->life;
}

/* A read: nothing but a sign of life. */
static void step_probe(struct model *m)
{
	int link = pick(m, MAX_LINKS, link_is_open);

	if (!m->is_alive || m->is_blind || link < 0 || m->links[link].is_closed ||
	    m->lives[m->links[link].life].is_frozen || m->lives[m->links[link].life].is_dead)
		return;
	process_prove(m, m->fence.seq, ++m->stamp);
}

static void step_look(struct model *m)
{
	unsigned nr;

	if (!m->is_alive || m->is_blind)
		return;
	nr = ub_fence_look(&m->fence, m->now_ms, NULL);
	if (nr)
		tell(m, "%u ranges are over", nr);
	for (unsigned k = 0; nr && k < nr_all_slots(m); k++) {
		if (slot_waits(m, k))
			slot_try(m, &m->slots[k]);
	}
}

/* Never less than the servers take; and mostly not a millisecond more. */
static uint64_t draw_timeout(struct model *m)
{
	return BOUND_MS + (is_one_in(m, 3) ? draw(m, MAX_TIMEOUT_MS - BOUND_MS) : 0);
}

static void step_set_timeout(struct model *m)
{
	if (!m->is_alive || m->is_blind)
		return;
	m->timeout_ms = draw_timeout(m);
	ub_fence_set_timeout(&m->fence, m->timeout_ms);
}

/* ---- its deaths ---------------------------------------------------------- */

static void process_start(struct model *m, bool is_same)
{
	m->pid += !is_same;
	m->is_alive = true;
	m->is_blind = false;
	m->has_connecting = false;
	tell(m, "process %d begins", m->pid);
	ub_fence_init(&m->fence, m->page, m->side, m->block_bytes, m->pid);
	m->fence.trusts_close = m->trusts_close;
	for (unsigned i = 0; i < nr_all_slots(m); i++) {
		m->slots[i] = (struct slot){ .owner = i + 1 };
		m->slots[i].rec =
			ub_ledger_sent(m->page, m->side, i / m->nr_slots, i % m->nr_slots);
	}
	ub_fence_set_timeout(&m->fence, m->timeout_ms);
	ub_fence_inherit(&m->fence, m->is_kernel, m->now_ms);
	between();
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		if (m->links[i].state != LINK_UNUSED)
			m->links[i].is_counted = true;
	}
}

static void requests_come_again(struct model *m)
{
	for (unsigned i = 0; i < MAX_REQUESTS; i++) {
		struct request *r = &m->requests[i];

		if (!r->is_used)
			continue;
		if (m->is_kernel)
			r->slot = -1;
		else
			request_given_back(m, r, false);
	}
	while (m->is_kernel && is_one_in(m, 2))
		kernel_merge(m);
}

static void keeper_dies(struct model *m)
{
	m->has_keeper = false;
	tell(m, "the keeper is dead");
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		struct link *l = &m->links[i];

		if (l->is_kept && (l->state == LINK_OPEN || l->state == LINK_LOST) &&
		    !(m->is_alive && l->pid == m->pid))
			link_reset(m, i);
		l->is_kept = false;
	}
}

static void keeper_reset(struct model *m, struct ub_ledger_conn *c, int link)
{
	if (link >= 0)
		link_reset(m, (unsigned)link);
	c->reset_ms = m->now_ms;
	c->state = UB_CONN_RESET;
}

/* At once, all connections of the dead process. */
static void keeper_resets_all(struct model *m)
{
	for (unsigned i = 0; i < m->page->nr_conns && m->has_keeper; i++) {
		struct ub_ledger_conn *c = ub_ledger_conn(m->page, m->side, i);
		int link = find_link(m, c->pid, c->id);

		if (c->pid != m->pid || (c->state != UB_CONN_OPEN && c->state != UB_CONN_LOST))
			continue;
		if (link >= 0 && (m->links[link].state == LINK_RESET || !m->links[link].is_kept))
			link = -1;
		if (link >= 0 && c->state == UB_CONN_OPEN && m->links[link].is_closed)
			c->flags |= UB_CONN_CLOSED;
		if (link < 0 || m->links[link].kind != UB_CONN_UNIX || m->links[link].is_read) {
			keeper_reset(m, c, link);
		} else {
			m->links[link].state = LINK_LOST;
			c->state = UB_CONN_LOST;
		}
		if (is_one_in(m, 40))
			keeper_dies(m);
	}
}

static void process_died(struct model *m)
{
	tell(m, "process %d is dead", m->pid);
	m->is_alive = false;
	m->death_in = 0;
	m->nr_deaths++;
	for (unsigned i = 0; i < MAX_LINKS; i++) { /* what nobody else has is closed */
		struct link *l = &m->links[i];

		if (l->pid == m->pid && !l->is_kept &&
		    (l->state == LINK_OPEN || l->state == LINK_LOST))
			link_reset(m, i);
	}
	if (m->has_keeper)
		keeper_resets_all(m);
	requests_come_again(m);
}

static void step_die(struct model *m)
{
	if (m->is_alive)
		process_will_die(m, is_one_in(m, 2) ? 4 : 30);
}

static void step_start(struct model *m)
{
	if (m->is_alive)
		return;
	if (is_one_in(m, 3))
		process_will_die(m, is_one_in(m, 2) ? 10 : 40);
	process_start(m, false);
}

/* The back end of a destination that is given up, and the next one, in one process. */
static void step_reopen(struct model *m)
{
	if (!m->is_alive || m->is_kernel || m->is_blind)
		return;
	tell(m, "another back end in process %d", m->pid);
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		struct link *l = &m->links[i];

		if (l->pid != m->pid || (l->state != LINK_OPEN && l->state != LINK_LOST))
			continue;
		if (l->state == LINK_OPEN && is_one_in(m, 2))
			link_lose(m, i);
		if (l->state != LINK_RESET)
			link_reset(m, i);
	}
	for (unsigned i = 0; i < nr_all_slots(m); i++) {
		if (m->slots[i].state != SLOT_FREE)
			slot_complete(m, &m->slots[i], false);
	}
	requests_come_again(m);
	process_start(m, true);
}

/* ---- the keeper ---------------------------------------------------------- */

static void step_keeper_dies(struct model *m)
{
	if (m->has_keeper)
		keeper_dies(m);
}

/* What no process that lives has, and no keeper any more, has been closed: that was a reset. */
static void step_keeper_comes(struct model *m)
{
	if (m->has_keeper)
		return;
	m->has_keeper = true;
	tell(m, "a keeper is there");
	for (unsigned i = 0; i < m->page->nr_conns; i++) {
		struct ub_ledger_conn *c = ub_ledger_conn(m->page, m->side, i);

		if ((m->is_alive && c->pid == m->pid) ||
		    (c->state != UB_CONN_OPEN && c->state != UB_CONN_LOST))
			continue;
		c->reset_ms = m->now_ms;
		c->state = UB_CONN_RESET;
	}
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		if (link_is_open(m, i) || (m->is_alive && m->links[i].state == LINK_LOST))
			m->links[i].is_kept = !m->is_blind && is_one_in(m, 2);
	}
}

static void step_keeper_looks(struct model *m)
{
	for (unsigned i = 0; i < m->page->nr_conns && m->has_keeper; i++) {
		struct ub_ledger_conn *c = ub_ledger_conn(m->page, m->side, i);
		int link = find_link(m, c->pid, c->id);

		if (c->state == UB_CONN_LOST && link >= 0 && m->links[link].is_kept &&
		    m->links[link].is_read && !(m->is_alive && c->pid == m->pid))
			keeper_reset(m, c, link);
	}
}

/* Somebody sees to it that nothing more is executed of what was given up, and says so later. */
static void step_word(struct model *m)
{
	if (m->word) {
		if (m->is_alive && !m->is_blind) {
			tell(m, "the word, up to event %" PRIu64, m->word);
			ub_fence_word(&m->fence, m->word);
			m->word = 0;
		}
		return;
	}
	m->word = ub_ledger_side(m->page, m->side)->events;
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		struct copy *c = &m->copies[i];
		enum link_state state = m->links[c->link].state;

		/* What a process was just making a range of when it died has been given up, too. */
		if (c->is_used && (state == LINK_LOST || state == LINK_RESET) &&
		    (m->links[c->link].is_counted || copy_has_range(m, c)))
			c->is_dropped = true;
	}
}

/* ---- servers ------------------------------------------------------------- */

static bool copy_may_run(const struct model *m, unsigned i)
{
	return copy_is_live(m, i) && m->copies[i].execute_ms == UNDECIDED &&
	       !m->lives[m->links[m->copies[i].link].life].is_frozen;
}

static bool copy_may_be_answered(const struct model *m, unsigned i)
{
	return copy_may_run(m, i) && !m->copies[i].is_slow &&
	       link_is_open(m, (unsigned)m->copies[i].link);
}

static void step_execute(struct model *m)
{
	int i = pick(m, MAX_COPIES, is_one_in(m, 60) ? copy_may_run : copy_may_be_answered);

	if (i < 0)
		return;
	if (is_one_in(m, 6) && !m->copies[i].has_read)
		copy_read(m, &m->copies[i]);
	else
		copy_execute(m, &m->copies[i]);
}

static void step_read(struct model *m)
{
	int link = pick(m, MAX_LINKS, link_is_unread);

	if (link >= 0)
		m->links[link].is_read = true;
}

static bool life_has_plans(const struct model *m, unsigned life)
{
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		if (copy_is_live(m, i) && m->links[m->copies[i].link].life == life &&
		    m->copies[i].execute_ms != UNDECIDED)
			return true;
	}
	return false;
}

static void step_freeze(struct model *m)
{
	if (!life_has_plans(m, m->life))
		m->lives[m->life].is_frozen = true;
}

static void step_thaw(struct model *m)
{
	m->lives[m->life].is_frozen = false;
}

/* The other end closes a connection. It has done all that came over it, or that is a lie. */
static void link_closes(struct model *m, unsigned link)
{
	for (unsigned i = 0; i < MAX_COPIES && m->trusts_close; i++) {
		if (!copy_is_live(m, i) || m->copies[i].link != (int)link)
			continue;
		if (is_one_in(m, 2))
			copy_execute(m, &m->copies[i]);
		else
			m->copies[i].is_dropped = true;
	}
	m->links[link].is_closed = true;
	m->links[link].is_read |= m->trusts_close;
}

static void step_server_closes(struct model *m)
{
	int link = pick(m, MAX_LINKS, link_is_open);

	if (link >= 0 && !m->lives[m->links[link].life].is_frozen)
		link_closes(m, (unsigned)link);
}

/* A new life answers at the address: the old one is dead, or unseen, and ends what it has. */
static void step_fail_over(struct model *m)
{
	bool dies = is_one_in(m, 2) || m->lives[m->life].is_frozen || m->trusts_close;

	if (m->life + 1 == MAX_LIVES || m->is_blind) /* that one would not leave the old one */
		return;
	tell(m, "life %u %s", m->life, dies ? "dies" : "lives on, unseen");
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		struct link *l = &m->links[i];

		if (l->state == LINK_UNUSED || l->life != m->life)
			continue;
		if (dies) {
			l->is_read = true;
			link_drop_copies(m, i, 1);
		}
		l->is_closed |= l->state == LINK_OPEN && is_one_in(m, 2);
	}
	m->lives[m->life].is_dead = dies;
	m->lives[m->life].is_frozen = false;
	m->life++;
}

static void step_wait(struct model *m)
{
	uint64_t ms = UINT64_MAX;

	if (m->is_alive && !m->is_blind)
		ms = ub_fence_next_ms(&m->fence, m->now_ms);
	pass_time(m, ms > BOUND_MS || is_one_in(m, 2) ? draw(m, BOUND_MS) : ms);
}

/* A destination becomes what the device is made of, when nothing is in flight. */
static void step_cut_over(struct model *m)
{
	if (m->is_alive && m->nr_requests == 0 && !m->is_kernel) {
		m->is_kernel = true;
		tell(m, "cut over");
	}
}

/* ---- a world ------------------------------------------------------------- */

static const struct {
	void (*fn)(struct model *);
	unsigned weight;
	bool is_trouble; /* there is less of it in some worlds */
} steps[] = {
	{ kernel_issue, 240, false },
	{ step_arrive, 240, false },
	{ step_try, 60, false },
	{ step_execute, 300, false },
	{ step_answer, 240, false },
	{ step_answer_badly, 8, true },
	{ step_cancel, 16, true },
	{ step_lose, 40, true },
	{ step_reset, 20, false },
	{ step_close, 4, true },
	{ step_connect, 80, false },
	{ step_probe, 10, false },
	{ step_look, 40, false },
	{ step_set_timeout, 2, true },
	{ step_die, 8, true },
	{ step_start, 80, false },
	{ step_reopen, 6, true },
	{ step_keeper_dies, 2, true },
	{ step_keeper_comes, 6, false },
	{ step_keeper_looks, 30, false },
	{ step_word, 6, true },
	{ step_read, 40, false },
	{ step_freeze, 8, true },
	{ step_thaw, 20, false },
	{ step_server_closes, 10, true },
	{ step_fail_over, 6, true },
	{ step_wait, 40, false },
	{ step_cut_over, 2, false },
	{ kernel_merge, 10, false },
};

static unsigned draw_step(struct model *m)
{
	unsigned total = 0, at = 0, chosen;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		total += steps[i].weight;
	chosen = draw(m, total);
	while (chosen >= steps[at].weight)
		chosen -= steps[at++].weight;
	return at;
}

__attribute__((noinline)) static void take_step(struct model *m)
{
	unsigned i = draw_step(m);

	if (!steps[i].is_trouble || is_one_in(m, m->peace))
		steps[i].fn(m);
}

/* Noinline: after a longjmp() no variable of this function is looked at. */
__attribute__((noinline)) static void model_step(struct model *m)
{
	if (setjmp(m->death) == 0)
		take_step(m);
	else
		process_died(m);
	pass_time(m, is_one_in(m, 2));
	if (is_one_in(m, 8))
		links_forget(m);
}

static void *zeroed(size_t bytes)
{
	void *memory = calloc(1, bytes);

	assert_non_null(memory);
	return memory;
}

/* A page of a few records, perhaps of a later program, whose records are larger. */
static void model_make_page(struct model *m)
{
	static const unsigned ranges[] = { 2, 3, 5, 12, MANY_RANGES };
	struct ub_ledger head = { 0 };

	m->nr_queues = 1 + draw(m, MAX_QUEUES);
	m->nr_slots = 1 + draw(m, MAX_SLOTS);
	ub_ledger_init(&head, m->nr_queues, m->nr_slots);
	head.nr_ranges = ranges[draw(m, 5)];
	head.nr_conns = 6 + draw(m, 20);
	head.conn_bytes += draw(m, 2) * 8;
	head.range_bytes += draw(m, 2) * 16;
	head.sent_bytes += draw(m, 2) * 8;
	head.side_bytes = head.head_bytes + (uint64_t)head.nr_conns * head.conn_bytes +
			  (uint64_t)head.nr_ranges * head.range_bytes +
			  (uint64_t)nr_all_slots(m) * head.sent_bytes;
	head.side_bytes = (head.side_bytes + UB_LEDGER_HEAD_BYTES - 1) / UB_LEDGER_HEAD_BYTES *
			  UB_LEDGER_HEAD_BYTES;
	m->page_bytes = head.head_bytes + UB_LEDGER_SIDES * head.side_bytes;
	m->page = zeroed(m->page_bytes);
	m->before = zeroed(m->page_bytes);
	memcpy(m->page, &head, sizeof(head));
	assert_int_equal(ub_ledger_check(m->page, m->page_bytes, m->nr_queues, m->nr_slots), 0);
	m->side = draw(m, UB_LEDGER_SIDES);
}

static void model_begin(struct model *m)
{
	static const unsigned blocks[] = { 1, 4, 8 }; /* of what the server says */
	unsigned says = blocks[draw(m, 3)];

	model_make_page(m);
	m->now_ms = 1000;
	m->peace = 1 + draw(m, 8);
	m->load = draw(m, NR_LOADS);
	m->most_requests = 2 + draw(m, is_one_in(m, 2) ? 3 : MAX_REQUESTS - 1);
	m->stamp = 1;
	m->writes[0].given = 1; /* what was there before all */
	m->nr_writes = 1;
	m->block_bytes = says == 1 ? draw(m, 2) * 512 : says * UNIT;
	m->block = says < 4 ? 4 : says;
	m->trusts_close = is_one_in(m, 3);
	m->is_kernel = !is_one_in(m, 3);
	m->timeout_ms = draw_timeout(m);
	m->has_keeper = true;
	m->pid = 100;
	if (m->is_kernel && is_one_in(m, 4)) {
		/* A server of before the ledger: it keeps no records. */
		m->page->is_blind = 1;
		m->is_alive = m->is_blind = true;
		for (unsigned i = 0; i < nr_all_slots(m); i++)
			m->slots[i] = (struct slot){ .owner = i + 1 };
	} else {
		process_start(m, false);
	}
	tell(m, "%u queues, %u slots, %u ranges, %u conns, blocks of %u, close %d, kernel %d",
	     m->nr_queues, m->nr_slots, m->page->nr_ranges, m->page->nr_conns, m->block,
	     m->trusts_close, m->is_kernel);
}

static unsigned nr_ranges_left(const struct model *m)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < m->page->nr_ranges; i++)
		nr += ub_ledger_range(m->page, m->side, i)->state != UB_RANGE_FREE;
	return nr;
}

/* Nothing goes wrong any more: all that waits goes on, and nothing is left over. */
static void calm_step(struct model *m)
{
	m->lives[m->life].is_frozen = false;
	step_keeper_comes(m);
	if (!m->is_alive)
		process_start(m, false);
	if (m->is_blind) {
		process_died(m);
		return;
	}
	process_leave_old_lives(m);
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		m->links[i].is_read = true;
		if (link_is_open(m, i) && m->links[i].is_closed)
			link_lose(m, i);
		if (link_is_lost(m, i))
			link_reset_by_process(m, i);
	}
	step_keeper_looks(m);
	step_connect(m);
	for (unsigned i = 0; i < MAX_COPIES; i++) {
		if (copy_may_run(m, i) && link_is_open(m, (unsigned)m->copies[i].link))
			copy_execute(m, &m->copies[i]);
	}
	step_look(m);
	if (m->fence.nr_unproven)
		step_probe(m);
	for (unsigned i = 0; i < 4; i++) {
		step_arrive(m);
		step_answer(m);
		step_try(m);
	}
}

static void model_calm(struct model *m)
{
	uint64_t since_ms;
	unsigned open = 0, used = 0;

	m->is_calm = true;
	m->death_in = 0;
	for (unsigned i = 0; i < 8; i++)
		calm_step(m);
	since_ms = m->now_ms;
	while (m->now_ms <= since_ms + m->timeout_ms) {
		pass_time(m, 1);
		links_forget(m);
		calm_step(m);
	}
	if (nr_ranges_left(m) || m->fence.nr_live)
		model_fail(m, "%u ranges have not ended (%u are counted)", nr_ranges_left(m),
			   m->fence.nr_live);
	for (unsigned i = 0; i < 100 && m->nr_requests; i++)
		calm_step(m);
	if (m->nr_requests)
		model_fail(m, "%u requests wait for ever", m->nr_requests);
	for (unsigned i = 0; i < MAX_LINKS; i++)
		open += link_is_open(m, i);
	for (unsigned i = 0; i < m->page->nr_conns; i++)
		used += ub_ledger_conn(m->page, m->side, i)->state != UB_CONN_FREE;
	if (open != used)
		model_fail(m, "%u connections are open, and %u have an entry", open, used);
	for (unsigned i = 0; i < nr_all_slots(m); i++) {
		if (m->slots[i].rec->state != UB_SENT_FREE)
			model_fail(m, "a record of slot %u is left", i);
	}
	for (unsigned u = 0; u < NR_UNITS; u++)
		disk_check(m, u, "at the end");
}

/* One world from its seed on. True: it has kept the rules; else m->failure says which one not. */
static bool model_run(struct model *m, uint64_t seed, enum habit habit, bool tells)
{
	memset(m, 0, sizeof(*m));
	m->seed = seed;
	m->habit = habit;
	m->tells = tells;
	the_model = m;
	if (setjmp(m->out) == 0) {
		model_begin(m);
		for (unsigned i = 0; i < STEPS_OF_A_WORLD; i++)
			model_step(m);
		model_calm(m);
	}
	the_model = NULL;
	free(m->page);
	free(m->before);
	return !m->failure[0];
}

static struct model *model_memory(void)
{
	return zeroed(sizeof(struct model));
}

static void nothing_old_lands_on_what_is_newer(void **state)
{
	const char *seed_text = getenv("UB_FENCE_SEED"), *steps_text = getenv("UB_FENCE_STEPS");
	unsigned long long nr = steps_text ? strtoull(steps_text, NULL, 0) : 3000000;
	uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : 1;
	unsigned acks = 0, waits = 0, late = 0, claims = 0, deaths = 0;
	struct model *m = model_memory();

	(void)state;
	for (unsigned long long done = 0; done < nr; done += STEPS_OF_A_WORLD, seed++) {
		uint64_t first = seed * 0x9e3779b97f4a7c15ULL;

		if (!model_run(m, first, GOOD, seed_text != NULL)) {
			print_error("%s (UB_FENCE_SEED=%" PRIu64 ")\n", m->failure, seed);
			free(m);
			fail();
		}
		acks += m->nr_acks;
		waits += m->nr_waits;
		late += m->nr_late;
		claims += m->nr_claims;
		deaths += m->nr_deaths;
		if (seed_text)
			break;
	}
	print_message("acknowledged %u, waited %u, landed late %u, claimed %u, died %u times\n",
		      acks, waits, late, claims, deaths);
	free(m);
}

static void a_process_that_breaks_a_rule_is_found_out(void **state)
{
	static const char *const habits[NR_HABITS] = {
		[SENDS_BEFORE_RECORD] = "sends before the record is there",
		[GIVES_BACK_BEFORE_DONE] = "gives back before the range is done",
		[CLAIMS_LATE] = "claims late",
		[FORGETS_TO_ASK] = "does not ask",
		[RESENDS_BEFORE_RANGE] = "sends again without a range",
		[PROVES_WITH_LATER_NUMBER] = "takes an old answer for a new one",
		[RESETS_TOO_EARLY] = "says reset too early",
	};
	struct model *m;

	(void)state;
	if (getenv("UB_FENCE_SEED") || getenv("UB_FENCE_STEPS"))
		skip();
	m = model_memory();
	for (enum habit habit = GOOD + 1; habit < NR_HABITS; habit++) {
		uint64_t seed = 1;

		while (seed < 20000 && model_run(m, seed * 0x9e3779b97f4a7c15ULL, habit, false))
			seed++;
		print_message("%s: world %" PRIu64 ": %s\n", habits[habit], seed, m->failure);
		assert_int_not_equal(m->failure[0], 0);
	}
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_old_lands_on_what_is_newer),
		cmocka_unit_test(a_process_that_breaks_a_rule_is_found_out),
	};

	return cmocka_run_group_tests_name("fence-model", tests, NULL, NULL);
}
