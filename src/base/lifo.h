/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mailbox: any thread puts something in, without a lock, and one thread takes all that there is.
 *
 * The list is its first item, a pointer that is NULL while nothing is there. Items are the
 * caller's, and linked by their member `next`, which is the mailbox's between push and take.
 */
#ifndef UB_BASE_LIFO_H
#define UB_BASE_LIFO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * Defines two functions for items of `type`:
 *
 * bool NAME_push(list, item): any thread. True when the list was empty: whoever takes has to be
 * woken. What was written to the item before is seen by the thread that takes it.
 *
 * type *NAME_take(list): everything, in the order in which it was pushed; NULL when there is
 * nothing. A push after it finds the list empty.
 */
/* NOLINTBEGIN(bugprone-macro-parentheses): a type has none */
#define UB_LIFO(NAME, type) \
	static inline bool NAME##_push(type *_Atomic *list, type *item) \
	{ \
		type *head = atomic_load_explicit(list, memory_order_relaxed); \
\
		do { \
			item->next = head; \
		} while (!atomic_compare_exchange_weak_explicit(list, &head, item, \
								memory_order_release, \
								memory_order_relaxed)); \
		return !head; \
	} \
\
	static inline type *NAME##_take(type *_Atomic *list) \
	{ \
		type *item = atomic_exchange_explicit(list, NULL, memory_order_acquire); \
		type *oldest = NULL; \
\
		while (item) { \
			type *next = item->next; \
\
			item->next = oldest; \
			oldest = item; \
			item = next; \
		} \
		return oldest; \
	} \
	_Static_assert(1, "a semicolon follows")
/* NOLINTEND(bugprone-macro-parentheses) */

#endif
