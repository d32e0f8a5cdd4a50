/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An error of the control plane: a message with context, and the errno behind it.
 *
 * Never used on the data path. Filled where the failure is, wrapped on the way up, printed once.
 */
#ifndef UB_BASE_ERR_H
#define UB_BASE_ERR_H

/* Exit statuses, as the man page promises them. */
enum {
	UB_EXIT_DONE = 0,
	UB_EXIT_FAILED = 1,
	UB_EXIT_USAGE = 2,
	UB_EXIT_BUSY = 3,
	UB_EXIT_UNHEALTHY = 4, /* status: the device is there, and not as it should be */
};

struct ub_err {
	int code;	/* positive errno; 0: none */
	char text[480]; /* WHAT: WHY, with the remedy; no newline */
};

/* Sets the message and returns -code (code > 0). */
int ub_err_set(struct ub_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As ub_err_set(), with ": " and strerror(code) behind the message. */
int ub_err_errno(struct ub_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "message: " before what is there. Returns -err->code. */
int ub_err_wrap(struct ub_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
