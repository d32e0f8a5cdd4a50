/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors with context for the control plane. Any thread; knows nobody. */
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void err_vset(struct ub_err *err, int code, const char *fmt, va_list ap)
{
	assert(code > 0);
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
}

int ub_err_set(struct ub_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(err, code, fmt, ap);
	va_end(ap);
	return -code;
}

int ub_err_errno(struct ub_err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	va_start(ap, fmt);
	err_vset(err, code, fmt, ap);
	va_end(ap);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(code));
	return -code;
}

int ub_err_wrap(struct ub_err *err, const char *fmt, ...)
{
	struct ub_err inner = *err;
	va_list ap;
	size_t used;

	va_start(ap, fmt);
	err_vset(err, inner.code ? inner.code : EIO, fmt, ap);
	va_end(ap);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", inner.text);
	return -err->code;
}
