/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connecting, negotiating and comparing. The main thread or the connector. */
#include "backend/nbd/session.h"

#include <errno.h>
#include <linux/tcp.h> /* netinet/tcp.h has not all of tcp_info */
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/names.h"
#include "backend/nbd/library.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/size.h"
#include "base/socket.h"
#include "base/text.h"

#define SESSION_KEEPALIVE_IDLE_S  10
#define SESSION_KEEPALIVE_EVERY_S 5
#define SESSION_KEEPALIVE_PROBES  3
/* the kernel's own bound, unless somebody changed it */
#define SESSION_TCP_WMEM_BYTES	(4U << 20)
#define SESSION_USER_TIMEOUT_MS 30000	    /* at least; never below the stall timeout */
#define SESSION_MAX_PAYLOAD	(32U << 20) /* the protocol's, where a server says nothing */
/* of one trim or zero: the protocol's lengths have 32 bits */
#define SESSION_MAX_EXTENT (1U << 30)
#define SESSION_MAX_BLOCK  4096

/* ---- connecting ---------------------------------------------------------- */

const char *nbd_session_reason(void)
{
	static _Thread_local char words[400];
	const char *text = nbd.get_error();

	/* libnbd begins its messages with the name of the call. */
	if (text && strncmp(text, "nbd_", 4) == 0 && strstr(text, ": "))
		text = strstr(text, ": ") + 2;
	return text ? nbd_reason_in_words(text, words, sizeof(words)) : "libnbd gives no reason";
}

static int session_error(const char *what, struct ub_err *err)
{
	int code = nbd.get_errno();

	return ub_err_set(err, code ? code : EIO, "%s: %s", what, nbd_session_reason());
}

static int session_prepare(struct nbd_handle *h, const struct nbd_address *a,
			   bool wants_structured_replies)
{
	static const int tls[] = {
		[NBD_TLS_UNSET] = LIBNBD_TLS_DISABLE,
		[NBD_TLS_OFF] = LIBNBD_TLS_DISABLE,
		[NBD_TLS_ALLOW] = LIBNBD_TLS_ALLOW,
		[NBD_TLS_REQUIRE] = LIBNBD_TLS_REQUIRE,
	};
	/*
	 * LIBNBD_DEBUG=1 in our environment is for other programs: the server has nowhere to print.
	 */
	int ret = nbd.set_debug(h, false);

	ret |= nbd.set_full_info(h, true);
	ret |= nbd.set_request_block_size(h, true);
	ret |= nbd.set_request_structured_replies(h, wants_structured_replies);
	/* a migration asks what is allocated */
	ret |= nbd.add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION);
	ret |= nbd.set_pread_initialize(h, false); /* what was read is counted: cmd.h */
	ret |= nbd.set_uri_allow_local_file(h, true);
	if (a->export_name)
		ret |= nbd.set_export_name(h, a->export_name);
	if (a->tls != NBD_TLS_UNSET)
		ret |= nbd.set_tls(h, tls[a->tls]);
	ret |= nbd.set_tls_verify_peer(h, a->tls_verify);
	if (a->tls_certificates)
		ret |= nbd.set_tls_certificates(h, a->tls_certificates);
	if (a->tls_psk_file)
		ret |= nbd.set_tls_psk_file(h, a->tls_psk_file);
	if (a->tls_username)
		ret |= nbd.set_tls_username(h, a->tls_username);
	return ret;
}

static int session_connect(struct nbd_handle *h, const struct nbd_address *a, int socket_fd)
{
	switch (a->transport) {
	case NBD_URI:
		return nbd.aio_connect_uri(h, a->uri);
	case NBD_TCP:
		return nbd.aio_connect_tcp(h, a->host, a->port);
	case NBD_UNIX:
		return nbd.aio_connect_unix(h, a->path);
	case NBD_VSOCK:
		return nbd.aio_connect_vsock(h, a->vsock_cid, a->vsock_port);
	default:
		return nbd.aio_connect_socket(h, socket_fd);
	}
}

/* An older libnbd passes over the URI's parameter, too, and would then take any certificate. */
static int session_set_hostname(struct nbd_handle *h, const struct nbd_address *a,
				struct ub_err *err)
{
	size_t len;
	bool is_in_uri = a->transport == NBD_URI && nbd_uri_parameter(a->uri, "tls-hostname", &len);

	if (!a->tls_hostname && !is_in_uri)
		return 0;
	if (!nbd.set_tls_hostname)
		return ub_err_set(err, ENOTSUP,
				  "%stls-hostname: libnbd %s cannot do that: 1.22 or later can",
				  a->tls_hostname ? "--" : "", nbd.get_version(h));
	if (!a->tls_hostname)
		return 0;
	return nbd.set_tls_hostname(h, a->tls_hostname) < 0 ? session_error("--tls-hostname", err) :
							      0;
}

struct nbd_handle *nbd_session_start(const struct nbd_address *a, bool wants_structured_replies,
				     int socket_fd, struct ub_err *err)
{
	struct nbd_handle *h = nbd.create();

	if (!h || session_prepare(h, a, wants_structured_replies) != 0) {
		session_error("cannot prepare a connection", err);
		if (socket_fd >= 0)
			close(socket_fd);
	} else if (session_set_hostname(h, a, err) != 0) {
		if (socket_fd >= 0)
			close(socket_fd);
	} else {
		struct ub_names back;
		int ret;

		ub_names_enter(&back); /* for the host's name, and the socket's */
		ret = session_connect(h, a, socket_fd);
		ub_names_leave(&back);
		if (ret == 0)
			return h;
		session_error("cannot connect", err);
	}
	if (h)
		nbd.close(h);
	return NULL;
}

int nbd_session_fd(struct nbd_handle *handle)
{
	return nbd.aio_get_fd(handle);
}

void nbd_session_close(struct nbd_handle *handle, bool is_polite)
{
	if (is_polite)
		nbd.aio_disconnect(handle, 0);
	nbd.close(handle);
}

int nbd_session_events(struct nbd_handle *handle, short *events)
{
	unsigned direction = nbd.aio_get_direction(handle);

	*events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
			  (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	return nbd.aio_get_fd(handle);
}

int nbd_session_continue(struct nbd_handle *handle, short revents, struct ub_err *err)
{
	unsigned direction = nbd.aio_get_direction(handle);
	struct ub_names back;
	int ret = 0;

	ub_names_enter(&back); /* for certificates and keys */
	/* A refused connection says POLLERR and POLLHUP: whichever call is due reads why. */
	if ((revents & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
		ret = nbd.aio_notify_read(handle);
	else if ((revents & (POLLOUT | POLLHUP | POLLERR)) &&
		 (direction & LIBNBD_AIO_DIRECTION_WRITE))
		ret = nbd.aio_notify_write(handle);
	ub_names_leave(&back);
	if (ret < 0)
		return session_error("cannot connect", err);
	if (nbd.aio_is_ready(handle))
		return 1;
	if (nbd.aio_is_dead(handle))
		return session_error("cannot connect", err);
	if (nbd.aio_is_closed(handle))
		return ub_err_set(err, ECONNRESET,
				  "cannot connect: the server closed the connection");
	if (!nbd.aio_is_connecting(handle) && !nbd.aio_is_negotiating(handle))
		return ub_err_set(err, EPROTO, "cannot connect: the negotiation came to no end");
	return 0;
}

/*
 * What is being sent holds pages until the server has it. On a small machine the bound that the
 * kernel has for a socket by itself (tcp_wmem in tcp(7)) would let requests that are sent half take
 * all that others need.
 */
static void session_bound_sending(int fd, uint64_t bytes)
{
	const int half = (int)(bytes / 2); /* socket(7): it is doubled */

	if (bytes < SESSION_TCP_WMEM_BYTES &&
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof(half)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &half, sizeof(half));
}

bool nbd_session_tune(int fd, uint64_t stall_timeout_ms, uint64_t send_bytes)
{
	static const int on = 1, idle = SESSION_KEEPALIVE_IDLE_S, every = SESSION_KEEPALIVE_EVERY_S,
			 probes = SESSION_KEEPALIVE_PROBES;
	unsigned timeout = SESSION_USER_TIMEOUT_MS;
	int domain = 0;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    (domain != AF_INET && domain != AF_INET6))
		return false;
	if (stall_timeout_ms > timeout)
		timeout = stall_timeout_ms < INT32_MAX ? (unsigned)stall_timeout_ms : INT32_MAX;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
	session_bound_sending(fd, send_bytes);
	/*
	 * A last close by our death is a reset: what the server has not got by then it will not
	 * get.
	 */
	ub_socket_set_linger(fd, true);
	return true;
}

uint64_t nbd_session_latency_ns(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    info.tcpi_min_rtt == UINT32_MAX)
		return 0;
	return (uint64_t)info.tcpi_min_rtt * 1000;
}

/* ---- the export ---------------------------------------------------------- */

/* Takes over a string of libnbd's; not being told is no error. */
static void session_text(char *text, char *out)
{
	snprintf(out, NBD_NAME_BYTES, "%s", text ? text : "");
	free(text);
}

int nbd_session_export(struct nbd_handle *h, struct nbd_export *e, struct ub_err *err)
{
	int64_t size = nbd.get_size(h), min, preferred, max;

	memset(e, 0, sizeof(*e));
	if (size < 0)
		return session_error("the export's size", err);
	min = nbd.get_block_size(h, LIBNBD_SIZE_MINIMUM);
	preferred = nbd.get_block_size(h, LIBNBD_SIZE_PREFERRED);
	max = nbd.get_block_size(h, LIBNBD_SIZE_MAXIMUM);
	e->size_bytes = (uint64_t)size;
	e->min_block_bytes = min > 0 && min <= UINT32_MAX ? (uint32_t)min : 1;
	e->preferred_block_bytes =
		preferred > 0 && preferred <= UINT32_MAX ? (uint32_t)preferred : 0;
	e->max_payload_bytes =
		max > 0 && max < SESSION_MAX_PAYLOAD ? (uint32_t)max : SESSION_MAX_PAYLOAD;
	e->read_only = nbd.is_read_only(h) == 1;
	e->rotational = nbd.is_rotational(h) == 1;
	e->can_flush = nbd.can_flush(h) == 1;
	e->can_fua = nbd.can_fua(h) == 1;
	e->can_trim = nbd.can_trim(h) == 1;
	e->can_zero = nbd.can_zero(h) == 1;
	e->multi_conn = nbd.can_multi_conn(h) == 1;
	e->has_tls = nbd.get_tls_negotiated(h) == 1;
	e->has_structured_replies = nbd.get_structured_replies_negotiated(h) == 1;
	e->can_status = nbd.can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
	session_text(nbd.get_canonical_export_name(h), e->name);
	session_text(nbd.get_export_description(h), e->description);
	return 0;
}

static bool session_is_block(uint32_t bytes)
{
	return bytes && (bytes & (bytes - 1)) == 0;
}

static int export_block(const struct nbd_export *e, uint32_t wanted, uint32_t *block,
			struct ub_err *err)
{
	uint32_t least = e->min_block_bytes < 512 ? 512 : e->min_block_bytes;

	if (!session_is_block(e->min_block_bytes))
		return ub_err_set(err, EPROTO,
				  "the server's minimum block of %u bytes is not a power of two",
				  e->min_block_bytes);
	if (least > SESSION_MAX_BLOCK)
		return ub_err_set(err, ENOTSUP,
				  "the server's minimum block is %u bytes, and a device's is 4096 "
				  "at the most: "
				  "let the server make up for it (nbdkit --filter=blocksize "
				  "minblock=...)",
				  e->min_block_bytes);
	*block = wanted ? wanted : least;
	if (*block < least)
		return ub_err_set(err, EINVAL,
				  "--block-size %u is finer than the server's minimum block of %u "
				  "bytes",
				  wanted, e->min_block_bytes);
	return 0;
}

/* What a server says need not be UTF-8, and JSON must be: in hexadecimal, then. */
static json_t *export_text_to_json(const char *text)
{
	cleanup_free char *hex = ub_text_to_hex(text);

	return hex ? json_string(hex) : NULL;
}

static void export_text_from_json(char *text, const char *hex)
{
	cleanup_free char *bytes = ub_text_from_hex(hex);

	memset(text, 0, NBD_NAME_BYTES);
	snprintf(text, NBD_NAME_BYTES, "%s", bytes ? bytes : "");
}

json_t *nbd_export_to_json(const struct nbd_export *e)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:o, "
			 "s:o}",
			 "size_bytes", (json_int_t)e->size_bytes, "min_block_bytes",
			 (json_int_t)e->min_block_bytes, "preferred_block_bytes",
			 (json_int_t)e->preferred_block_bytes, "max_payload_bytes",
			 (json_int_t)e->max_payload_bytes, "read_only", e->read_only, "rotational",
			 e->rotational, "can_flush", e->can_flush, "can_fua", e->can_fua,
			 "can_trim", e->can_trim, "can_zero", e->can_zero, "multi_conn",
			 e->multi_conn, "has_tls", e->has_tls, "has_structured_replies",
			 e->has_structured_replies, "name_hex", export_text_to_json(e->name),
			 "description_hex", export_text_to_json(e->description));
}

int nbd_export_from_json(struct nbd_export *e, json_t *json, struct ub_err *err)
{
	json_int_t size, min, preferred, max;
	int read_only, rotational, flush, fua, trim, zero, multi_conn, tls, structured;
	const char *name, *description;
	json_error_t why;

	if (json_unpack_ex(json, &why, 0,
			   "{s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:s, "
			   "s:s}",
			   "size_bytes", &size, "min_block_bytes", &min, "preferred_block_bytes",
			   &preferred, "max_payload_bytes", &max, "read_only", &read_only,
			   "rotational", &rotational, "can_flush", &flush, "can_fua", &fua,
			   "can_trim", &trim, "can_zero", &zero, "multi_conn", &multi_conn,
			   "has_tls", &tls, "has_structured_replies", &structured, "name_hex",
			   &name, "description_hex", &description) < 0)
		return ub_err_set(err, EBADMSG, "what is known of the export: %s", why.text);
	*e = (struct nbd_export){
		.size_bytes = (uint64_t)size,
		.min_block_bytes = (uint32_t)min,
		.preferred_block_bytes = (uint32_t)preferred,
		.max_payload_bytes = (uint32_t)max,
		.read_only = read_only,
		.rotational = rotational,
		.can_flush = flush,
		.can_fua = fua,
		.can_trim = trim,
		.can_zero = zero,
		.multi_conn = multi_conn,
		.has_tls = tls,
		.has_structured_replies = structured,
	};
	export_text_from_json(e->name, name);
	export_text_from_json(e->description, description);
	return 0;
}

int nbd_export_limits(const struct nbd_export *e, uint32_t block_bytes, struct ub_limits *l,
		      struct ub_err *err)
{
	uint32_t preferred =
		session_is_block(e->preferred_block_bytes) ? e->preferred_block_bytes : 4096;
	int ret;

	memset(l, 0, sizeof(*l));
	ret = export_block(e, block_bytes, &l->logical_block_bytes, err);
	if (ret)
		return ret;
	if (e->size_bytes < l->logical_block_bytes)
		return ub_err_set(err, EINVAL,
				  "the export has %llu bytes, and that is not one block of %u: a "
				  "device "
				  "cannot be made of it",
				  (unsigned long long)e->size_bytes, l->logical_block_bytes);
	l->size_bytes = e->size_bytes / l->logical_block_bytes * l->logical_block_bytes;
	if (l->size_bytes != e->size_bytes)
		ub_log(UB_LOG_WARNING,
		       "the export's last %llu bytes are beyond the device: its size of %llu is no "
		       "multiple "
		       "of the block of %u",
		       (unsigned long long)(e->size_bytes - l->size_bytes),
		       (unsigned long long)e->size_bytes, l->logical_block_bytes);
	l->physical_block_bytes = preferred > SESSION_MAX_BLOCK ? SESSION_MAX_BLOCK : preferred;
	if (l->physical_block_bytes < l->logical_block_bytes)
		l->physical_block_bytes = l->logical_block_bytes;
	l->optimal_io_bytes = e->preferred_block_bytes > l->physical_block_bytes &&
					      e->preferred_block_bytes <= SESSION_MAX_PAYLOAD &&
					      session_is_block(e->preferred_block_bytes) ?
				      e->preferred_block_bytes :
				      0;
	l->max_io_bytes = e->max_payload_bytes / SESSION_MAX_BLOCK * SESSION_MAX_BLOCK;
	if (l->max_io_bytes < SESSION_MAX_BLOCK)
		l->max_io_bytes = SESSION_MAX_BLOCK; /* the engine splits what is still too large */
	l->read_only = e->read_only;
	l->rotational = e->rotational;
	l->can_flush = e->can_flush;
	l->can_fua = e->can_fua;
	l->can_trim = e->can_trim && !e->read_only;
	l->can_zero = e->can_zero && !e->read_only;
	l->max_discard_bytes = l->can_trim ? SESSION_MAX_EXTENT : 0;
	l->max_zeroes_bytes = l->can_zero ? SESSION_MAX_EXTENT : 0;
	l->multi_conn = e->multi_conn;
	if (!e->read_only && !e->can_flush)
		ub_log(UB_LOG_WARNING, "the server has no flush command: what it acknowledged may "
				       "be lost when it fails, and "
				       "fsync cannot help");
	return 0;
}

/* ---- comparing ----------------------------------------------------------- */

static void differ_if_lost(struct ub_text_list *d, bool had, bool has, const char *what)
{
	if (had && !has)
		ub_text_list_add(d, "%s", what);
}

static void differ_text(struct ub_text_list *d, const char *what, const char *first,
			const char *now)
{
	/* A server that says nothing of it says nothing against it. */
	if (!*first || !*now || strcmp(first, now) == 0)
		return;
	ub_text_list_add(d, "its %s is '%.50s' and was '%.50s'", what, now, first);
}

int nbd_export_compare(const struct nbd_export *first, const struct nbd_export *now,
		       const struct ub_limits *limits, unsigned nr_connections, struct ub_err *err)
{
	struct ub_text_list d = { .len = 0 };
	char is[32], was[32];

	if (now->size_bytes < limits->size_bytes)
		ub_text_list_add(&d, "it has %s (%llu bytes) and the device %s",
				 ub_size_format(now->size_bytes, is, sizeof(is)),
				 (unsigned long long)now->size_bytes,
				 ub_size_format(limits->size_bytes, was, sizeof(was)));
	if (now->min_block_bytes > limits->logical_block_bytes)
		ub_text_list_add(&d, "its minimum block is %u bytes and the device's %u",
				 now->min_block_bytes, limits->logical_block_bytes);
	differ_if_lost(&d, !limits->read_only, !now->read_only, "it is read only");
	differ_if_lost(&d, limits->can_flush, now->can_flush, "it has no flush");
	differ_if_lost(&d, limits->can_fua, now->can_fua, "it has no FUA");
	differ_if_lost(&d, !limits->read_only && limits->can_trim, now->can_trim, "it has no trim");
	differ_if_lost(&d, !limits->read_only && limits->can_zero, now->can_zero,
		       "it has no write-zeroes");
	differ_if_lost(&d, nr_connections > 1, now->multi_conn,
		       "it is not safe for several connections");
	differ_if_lost(&d, first->has_tls, now->has_tls, "it has no TLS");
	differ_text(&d, "name", first->name, now->name);
	differ_text(&d, "description", first->description, now->description);
	if (!d.len)
		return 0;
	return ub_err_set(err, ESTALE, "another export answers: %s", d.text);
}
