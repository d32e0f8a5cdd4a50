/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text that comes from somebody else, or is put together. Any thread; knows nobody. */
#ifndef UB_BASE_TEXT_H
#define UB_BASE_TEXT_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Makes it fit for a terminal, a log and JSON, in place: each control character, and each byte that
 * is no part of valid UTF-8 (RFC 3629), becomes a question mark. So does a character that was cut
 * at the end.
 */
void ub_text_clean(char *text);

/*
 * Bytes that need not be valid text, as hexadecimal digits, and back. The caller's to free(); NULL:
 * no memory, or (back) no such digits.
 */
char *ub_text_to_hex(const char *text);
char *ub_text_from_hex(const char *hex);

/*
 * The beginning of a small file of /proc or /sys: at most len - 1 bytes, and a 0 behind them. How
 * many bytes, or -errno.
 */
ssize_t ub_text_read_file(const char *path, char *buf, size_t len);

/*
 * All that is the matter, in one line: "this; that". Empty at first; what does not fit any more is
 * cut.
 */
struct ub_text_list {
	char text[400];
	size_t len; /* 0: there is nothing */
};
__attribute__((format(printf, 2, 3))) void ub_text_list_add(struct ub_text_list *list,
							    const char *format, ...);

#endif
