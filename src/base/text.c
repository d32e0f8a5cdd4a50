/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text that comes from somebody else: a server's names, a file's content. */
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Bytes of the character that begins there; 0: it is none that may be shown. */
static size_t text_character(const unsigned char *p)
{
	/* The least value of a character of so many bytes: a shorter form of it is not allowed. */
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t len = p[0] < 0x80 ? 1 :
		     p[0] < 0xc0 ? 0 :
		     p[0] < 0xe0 ? 2 :
		     p[0] < 0xf0 ? 3 :
		     p[0] < 0xf8 ? 4 :
				   0;
	uint32_t value;

	if (len < 2)
		return p[0] >= 0x20 && p[0] != 0x7f ? len : 0;
	value = p[0] & (0x7fU >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0; /* the text's end, too */
		value = value << 6 | (p[i] & 0x3f);
	}
	if (value < least[len] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
		return 0;
	return value < 0xa0 ? 0 : len; /* control characters of ISO 6429 */
}

void ub_text_clean(char *text)
{
	while (*text) {
		size_t len = text_character((const unsigned char *)text);

		if (!len)
			*text = '?';
		text += len ? len : 1;
	}
}

char *ub_text_to_hex(const char *text)
{
	size_t len = strlen(text);
	char *hex = malloc(2 * len + 1);

	for (size_t i = 0; i < len && hex; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)text[i]);
	if (hex)
		hex[2 * len] = '\0';
	return hex;
}

char *ub_text_from_hex(const char *hex)
{
	size_t len = strlen(hex);
	char *text =
		len % 2 == 0 && strspn(hex, "0123456789abcdef") == len ? malloc(len / 2 + 1) : NULL;
	unsigned byte = 0;

	for (size_t i = 0; i < len / 2 && text; i++) {
		sscanf(hex + 2 * i, "%2x", &byte);
		text[i] = (char)byte;
	}
	if (text)
		text[len / 2] = '\0';
	return text;
}

ssize_t ub_text_read_file(const char *path, char *buf, size_t len)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return n;
}

void ub_text_list_add(struct ub_text_list *list, const char *format, ...)
{
	size_t left = sizeof(list->text) - list->len;
	va_list args;
	int n = 0;

	if (list->len)
		n = snprintf(list->text + list->len, left, "; ");
	if ((size_t)n < left) {
		va_start(args, format);
		n += vsnprintf(list->text + list->len + n, left - (size_t)n, format, args);
		va_end(args);
	}
	if (n > 0)
		list->len += (size_t)n < left ? (size_t)n : left - 1;
}
