/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libnbd, loaded when an NBD export is opened and not before.
 *
 * It brings some forty megabytes of libraries with it (TLS, XML, Unicode tables), and keeper and
 * server lock what they have mapped: a device in memory, and every keeper, go without. The names
 * are libnbd's without their prefix, the types are its header's, so that a call reads as libnbd(3)
 * says.
 */
#ifndef UB_BACKEND_NBD_LIBRARY_H
#define UB_BACKEND_NBD_LIBRARY_H

#include <libnbd.h>

#include "base/err.h"

/* clang-format off */
#define NBD_LIBRARY_CALLS(X)                                                                       \
	X(add_meta_context) X(aio_block_status) X(can_meta_context)                                \
	X(aio_connect_socket) X(aio_connect_tcp) X(aio_connect_unix) X(aio_connect_uri)            \
	X(aio_connect_vsock) X(aio_disconnect) X(aio_flush) X(aio_get_direction) X(aio_get_fd)     \
	X(aio_is_closed) X(aio_is_connecting) X(aio_is_dead) X(aio_is_negotiating) X(aio_is_ready) \
	X(aio_notify_read) X(aio_notify_write) X(aio_pread) X(aio_pread_structured) X(aio_pwrite)  \
	X(aio_trim) X(aio_zero) X(can_flush) X(can_fua) X(can_multi_conn) X(can_trim) X(can_zero)  \
	X(close) X(create) X(get_block_size) X(get_canonical_export_name) X(get_errno)             \
	X(get_error) X(get_export_description) X(get_size) X(get_structured_replies_negotiated)    \
	X(get_tls_negotiated) X(get_version) X(is_read_only) X(is_rotational) X(set_debug)         \
	X(set_export_name) X(set_full_info) X(set_pread_initialize)                                \
	X(set_request_block_size) X(set_request_structured_replies) X(set_tls)                     \
	X(set_tls_certificates) X(set_tls_psk_file) X(set_tls_username) X(set_tls_verify_peer)     \
	X(set_uri_allow_local_file) X(supports_tls) X(supports_uri)
/* clang-format on */

struct nbd_library {
/* NOLINTNEXTLINE(bugprone-macro-parentheses) */
#define NBD_LIBRARY_MEMBER(name) __typeof__(nbd_##name) *name;
	NBD_LIBRARY_CALLS(NBD_LIBRARY_MEMBER)
#undef NBD_LIBRARY_MEMBER
	/* libnbd 1.22; NULL: an older one */
	int (*set_tls_hostname)(struct nbd_handle *h, const char *name);
};

/* Good after nbd_library_load(). Any thread. */
extern struct nbd_library nbd;

/* Loads it, once. Control plane. 0 or -errno with *err, which names the package. */
int nbd_library_load(struct ub_err *err);

/*
 * Locks libnbd and what it brought in memory, but for the Unicode tables, which are thirty
 * megabytes that nothing here looks at. After the first connection, when all that it loads is
 * there. Best effort.
 */
void nbd_library_lock(void);

#endif
