/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What keeper and server say to each other: one message a datagram on a SOCK_SEQPACKET socket, with
 * descriptors beside it where noted.
 *
 * Both are one binary's two faces, but an upgraded keeper may meet an older server, and the
 * reverse. Each HELLO names the version that its sender speaks, and both speak the lower one on
 * that connection (version 3 has a HELLO without one). So that a new member costs no new version:
 *  - a fixed message may be longer than its reader knows: what is behind is ignored. It may be
 *    shorter, but not than in version 3: what is missing reads as zeroes. Members are appended
 *    only, and 0 is what they meant before;
 *  - a message that ends in strings may have more of them than its reader knows. Behind those of
 *    version 3 there is one at most, a JSON object of whatever else there is to say ("extras");
 *    none is an empty object;
 *  - descriptors have names (a bit each): those that a reader does not know are closed.
 *
 * Version 3 has exact sizes and four descriptors, and insists on both: ub_message_fit() and
 * ub_message_pack_fds(). CONFIG, SERVE and their answers never meet another version: a server is
 * executed from its keeper's own binary.
 *
 *      keeper                             server
 *        │ ◄──────────────── HELLO ────────│  it was executed
 *        │── CONFIG + store or socket ────►│  opens the back end
 *        │ ◄──────────────── LIMITS ───────│
 *        │  ADD_DEV, SET_PARAMS            │
 *        │── SERVE + the descriptors ─────►│  makes queues, buffers and threads
 *        │ ◄──────────────── READY ────────│
 *        │── TAKE ────────────────────────►│  opens /dev/ublkcN, fetches
 *        │ ◄──────────────── FETCHING ─────│
 *        │  START_DEV                      │
 *        │  first look, partitions         │
 *        │── LIVE ────────────────────────►│  from now on it serves without a keeper too
 *        │ ◄──────────────── LIVE ─────────│
 *        │ ◄─────────── LINK + a socket ───│  a connection whose server may still have writes
 *        │ ◄─────────── UNLINK ────────────│  it is closed
 *        │── SOCKET + socket ─────────────►│  the command was started again
 *        │── SET ─────────────────────────►│  changes what can be changed
 *        │ ◄────────────────── SET ────────│  done, or why not; in the order of the SETs
 *        │── YIELD ───────────────────────►│  finishes what it has, and ends: the standby goes on
 *        │ ◄────────────── YIELDED ────────│  that takes too long: it serves on as before
 *        │ ◄────────────── RANGES ─────────│  a lost connection's changes may still be executed
 *        │── FENCED ──────────────────────►│  somebody knows that they cannot
 *        │── RESIZE ──────────────────────►│  gets another size: before the kernel's when it grows,
 *        │                                 │  after it when it shrinks
 *        │ ◄─────────────── RESIZED ───────│  I/O comes up to the new end, and no more is in flight
 *        │                                 │  behind it; or why not
 *        │ ◄──────────────── GROWN ────────│  the export is larger than the device
 *        │── CANCEL ──────────────────────►│  fails all I/O: a forced detach
 *        │── EXIT ────────────────────────►│  ends, whatever it holds (not for a live device)
 *        │ ◄──────────────── FAILED, LOG ──│  at any time
 *
 * A standby is a server that waits for TAKE: its CONFIG says what the device was made from
 * (identity), it opens nothing that is not there any more, and its SERVE names the server whose
 * place it shall take. Then
 *
 *        │── HOLD ────────────────────────►│  (Linux 6.12) holds the rings of the server before it,
 *        │                                 │  as the keeper does
 *        │  START_USER_RECOVERY            │
 *        │── TAKE ────────────────────────►│  opens /dev/ublkcN, fetches
 *        │ ◄──────────────── FETCHING ─────│
 *        │  END_USER_RECOVERY              │
 *        │── LIVE ────────────────────────►│
 *
 * When the driver has aborted every tag (a STOP by whomever), the server ends with status 0.
 *
 * On server.sock a server takes, after a HELLO from each side: CANCEL and HEALTH from a verb, each
 * answered with a message of its own type; ADOPT from a keeper, while it has none, answered with
 * ADOPTED, and as many LINKs as that says: this connection is the keeper's from then on. A standby
 * that has lost its keeper listens there once the server before it is dead.
 */
#ifndef UBLK_BRIDGE_MESSAGE_H
#define UBLK_BRIDGE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "backend.h"

/* ---- how a server is executed --------------------------------------------- */

/* The hidden first argument with which the keeper executes this binary as a server. */
#define UB_SERVER_VERB "--server"
/* Its name in /proc/PID/comm. */
#define UB_SERVER_COMM "ublk-server"
/* Where the server finds its socket to the keeper. */
#define UB_SERVER_SOCKET_FD 3

#define UB_MESSAGE_FRAME      3 /* in each header, for ever: programs of version 3 take no other */
#define UB_MESSAGE_VERSION    4 /* the newest that this program speaks */
#define UB_MESSAGE_V3	      3 /* what whoever does not say it speaks */
#define UB_MESSAGE_MAX_FDS    8
#define UB_MESSAGE_V3_FDS     4
#define UB_MESSAGE_MAX_BYTES  32768
#define UB_MESSAGE_ROOM_BYTES 1024 /* behind a message that was received: zeroes */

enum ub_message_type {
	UB_MSG_HELLO = 1,
	UB_MSG_CONFIG, /* descriptors: the store of mem, or a connected socket of nbd */
	UB_MSG_LIMITS,
	UB_MSG_SERVE, /* descriptors: struct ub_msg_serve */
	UB_MSG_FETCHING,
	UB_MSG_LIVE,
	UB_MSG_CANCEL,
	UB_MSG_EXIT,
	UB_MSG_FAILED,
	UB_MSG_LOG,
	UB_MSG_HEALTH,
	/* descriptors: the next connected socket, of a command that was started again */
	UB_MSG_SOCKET,
	UB_MSG_READY,
	UB_MSG_TAKE,
	UB_MSG_LINK, /* descriptors: the connection's socket */
	UB_MSG_UNLINK,
	UB_MSG_ADOPT,
	UB_MSG_ADOPTED, /* descriptors: as SERVE's, and the store */
	UB_MSG_SET,	/* the answer is a text */
	UB_MSG_YIELD,
	UB_MSG_TAKING, /* it is about to fetch */
	UB_MSG_RESIZE,
	UB_MSG_RESIZED,
	UB_MSG_GROWN,
	UB_MSG_MIGRATE,	  /* descriptors: struct ub_msg_migrate */
	UB_MSG_MIGRATION, /* the server's: a migration has come to another phase */
	UB_MSG_MIGRATE_CONTROL,
	/* to a standby that is ready: the rings of the server before it, until that is gone */
	UB_MSG_HOLD,
	/* What follows is of version 4: whoever speaks 3 is not told. */
	UB_MSG_FENCED,
	UB_MSG_RANGES,
	UB_MSG_YIELDED, /* a YIELD was refused, or I/O stands still for it from now on */
};

struct ub_msg_header {
	uint16_t type;	    /* enum ub_message_type */
	uint16_t frame;	    /* UB_MESSAGE_FRAME */
	uint32_t len_bytes; /* with this header */
};

struct ub_msg_hello {
	struct ub_msg_header header; /* all of it in version 3 */
	uint32_t version;
	uint32_t reserved; /* 0 */
};

struct ub_msg_config {
	struct ub_msg_header header;
	uint64_t size_bytes;
	uint32_t logical_block_bytes;
	uint32_t nr_queues;
	uint8_t read_only;
	uint8_t has_fd;
	uint8_t core_dump; /* --core */
	uint8_t log_level;
	uint32_t options_bytes; /* of options, with its 0 */
	char kind[16];
	char options[]; /* strings: options, identity ("": none), extras */
};

struct ub_msg_limits {
	struct ub_msg_header header;
	struct ub_limits limits;
	uint32_t caps;
	uint32_t reserved;
	char identity[]; /* strings: what a standby needs to know of what was opened, extras */
};

/* The descriptors of SERVE and ADOPTED, in this order. LEDGER: not of version 3. */
enum ub_serve_fd {
	UB_FD_STATS,
	UB_FD_LISTEN,
	UB_FD_ARENA,
	UB_FD_STORE,
	UB_FD_LEDGER,
	UB_NR_SERVE_FDS
};
_Static_assert(UB_NR_SERVE_FDS <= UB_MESSAGE_MAX_FDS, "as many as a message carries");

enum {
	UB_SERVE_NO_STATS = 1 << 0, /* no clock and no histograms: --no-stats */
};

struct ub_msg_serve {
	struct ub_msg_header header;
	uint32_t dev_id;
	uint32_t nr_queues;
	uint32_t depth;
	uint32_t max_io_bytes;
	uint32_t data_path; /* enum ub_data_path */
	/* a standby's: the server's whose place it shall take; 0: the first server */
	int32_t served_pid;
	/* a bit for each of enum ub_serve_fd; those that are there come in this order */
	uint32_t has_fd;
	uint8_t scans_partitions; /* the driver may, inside START */
	uint8_t reserved[3];
	uint32_t flags;	     /* UB_SERVE_* */
	uint32_t mask_bytes; /* of each queue's CPU mask, cut behind the last CPU */
	uint8_t masks[];     /* one a queue; then a string: extras */
};

struct ub_msg_link {
	struct ub_msg_header header;
	uint32_t id;
	uint8_t is_destination; /* of a migration: nobody waits for it but the next migration */
	uint8_t reserved[3];
};

/* How far a server is that a keeper adopts. */
enum ub_adopted { UB_ADOPTED_LIVE, UB_ADOPTED_FETCHING, UB_ADOPTED_STANDBY };

struct ub_msg_adopted {
	struct ub_msg_header header;
	uint32_t state;	   /* enum ub_adopted */
	int32_t pid;	   /* the server's */
	uint32_t reserved; /* 0 */
	uint32_t has_fd;   /* as in SERVE */
	/* Not of version 3: */
	uint32_t nr_links;  /* so many LINKs follow at once: the connections that there are */
	uint32_t reserved4; /* 0 */
};

/* To a server that is to make place for its standby. Version 3 has no tail: as with zeroes. */
struct ub_msg_yield {
	struct ub_msg_header header;
	uint32_t wait_ms; /* for what it has in hand; 0: as long as the server sees fit */
	uint32_t flags;	  /* 0 */
};

/*
 * First, with code 0: what comes is held from now on. Then, perhaps: what it has in hand takes
 * longer than that: nothing was cut, and the device is served as before.
 */
struct ub_msg_yielded {
	struct ub_msg_header header;
	uint32_t code;	   /* an errno; 0: it has begun */
	uint32_t reserved; /* 0 */
	uint64_t age_ms;   /* of the oldest request; 0: not known */
	char text[512];	   /* why */
};

/* The word of somebody who knows: ranges (ledger.h) whose event is not above this one are over. */
struct ub_msg_fenced {
	struct ub_msg_header header;
	uint32_t sides;	   /* a bit for each of the ledger's */
	uint32_t reserved; /* 0 */
	uint64_t event;
};

struct ub_msg_set {
	struct ub_msg_header header;
	struct ub_settings settings; /* in version 3 without fence_timeout_ms */
};

struct ub_msg_resize {
	struct ub_msg_header header;
	uint32_t id;	/* the answer has it, too */
	uint32_t flags; /* UB_RESIZE_* */
	/* 0: as large as what stands behind it, and never smaller than it is */
	uint64_t size_bytes;
};

struct ub_msg_resized {
	struct ub_msg_header header;
	uint32_t id;
	uint32_t code;	     /* an errno; 0: done */
	uint64_t size_bytes; /* that it has now */
	char text[512];	     /* why not */
};

/*
 * A migration, as the server goes through it. Each phase is told by MIGRATION; PAUSED and COPYING
 * may come again and again, and a server that loses its keeper before MOVED lets go of the
 * destination. The keeper starts it again then.
 */
enum ub_migration_phase {
	UB_MIGRATION_NONE,
	UB_MIGRATION_CONNECTING, /* the destination is being opened and compared */
	/* it is: waits for GO, before which the keeper writes down what the destination is */
	UB_MIGRATION_READY,
	UB_MIGRATION_COPYING,
	UB_MIGRATION_PAUSED,  /* the destination is out of step: it does not answer, or too late */
	UB_MIGRATION_IN_STEP, /* both sides agree: waits for COMPLETE where it was told to */
	UB_MIGRATION_CUTOVER, /* the queues pause, both sides are flushed */
	/* the destination is what the device is made of; the source has been let go */
	UB_MIGRATION_MOVED,
	/*
	 * the device is on its source, as before; also what a cancelled one ends with (ECANCELED)
	 */
	UB_MIGRATION_FAILED,
	UB_NR_MIGRATION_PHASES,
};

enum {
	UB_MIGRATE_WAIT = 1 << 0, /* holds IN_STEP until COMPLETE */
};

/*
 * UB_FD_SIDE: NAME/side in the run directory. Eight bytes at its beginning: once they are the
 * migration's cookie, the destination is authoritative. The server writes them while no I/O is in
 * flight, before the first one that depends on it.
 */
enum ub_migrate_fd { UB_FD_SIDE, UB_FD_MOUNTS, UB_FD_DESTINATION, UB_NR_MIGRATE_FDS };
_Static_assert(UB_NR_MIGRATE_FDS <= UB_MESSAGE_MAX_FDS, "as many as a message carries");

struct ub_msg_migrate {
	struct ub_msg_header header;
	uint32_t id;
	uint32_t flags; /* UB_MIGRATE_* */
	uint64_t cookie;
	uint64_t rate_bytes;	    /* of copying, a second; 0: no limit */
	uint64_t mirror_timeout_ms; /* a destination that takes longer for a write is out of step */
	uint64_t size_bytes;	    /* mem: the store's */
	/* a bit for each of enum ub_migrate_fd. MOUNTS: a mount namespace to look names up in */
	uint32_t has_fd;
	uint32_t options_bytes; /* with its 0 */
	char kind[16];
	char options[]; /* strings: options, extras: "options": ub_backend_config.more_options */
};

struct ub_msg_migration {
	struct ub_msg_header header;
	uint32_t id;
	uint32_t phase; /* enum ub_migration_phase */
	uint32_t code;	/* FAILED, PAUSED: an errno */
	uint32_t caps;	/* READY: the destination's, with limits and identity */
	struct ub_limits limits;
	uint64_t pause_us; /* MOVED: how long no I/O was given to either side */
	char text[512];	   /* FAILED, PAUSED: why */
	char identity[];   /* strings: identity, extras */
};

enum ub_migrate_control { UB_MIGRATE_GO, UB_MIGRATE_COMPLETE, UB_MIGRATE_CANCEL, UB_MIGRATE_RATE };

struct ub_msg_migrate_control {
	struct ub_msg_header header;
	uint32_t id;	     /* the migration's */
	uint32_t what;	     /* enum ub_migrate_control */
	uint64_t rate_bytes; /* RATE */
};

struct ub_msg_text {
	struct ub_msg_header header;
	/* LOG: the level; FAILED: the errno; HEALTH: enum ub_health; SET: the errno, 0: done */
	uint32_t value;
	char text[508];
};

/*
 * The sizes of version 3: what a message has at least, and, to whoever speaks that version,
 * exactly; of those that end in strings or masks, without these. They never change.
 */
enum ub_message_v3_bytes {
	UB_V3_BYTES_HELLO = 8, /* as all that have nothing but a header */
	UB_V3_BYTES_CONFIG = 48,
	UB_V3_BYTES_LIMITS = 64,
	UB_V3_BYTES_SERVE = 48,
	UB_V3_BYTES_LINK = 16,
	UB_V3_BYTES_ADOPTED = 24,
	UB_V3_BYTES_SET = 32,
	UB_V3_BYTES_RESIZE = 24,
	UB_V3_BYTES_RESIZED = 536,
	UB_V3_BYTES_MIGRATE = 72,
	UB_V3_BYTES_MIGRATION = 592,
	UB_V3_BYTES_MIGRATE_CONTROL = 24,
	UB_V3_BYTES_TEXT = 520,
};

/*
 * Sends a message of header->len_bytes; its frame is filled in. flags: MSG_DONTWAIT or 0.
 * The descriptors stay the caller's. 0 or -errno. Any thread.
 */
int ub_message_send(int sock, struct ub_msg_header *header, const int *fds, unsigned nr_fds,
		    int flags);

/* Before a message is sent that has grown: to whoever speaks version 3 it is as long as it was. */
static inline void ub_message_fit(struct ub_msg_header *header, unsigned version,
				  enum ub_message_v3_bytes v3_bytes)
{
	if (version <= UB_MESSAGE_V3 && header->len_bytes > (uint32_t)v3_bytes)
		header->len_bytes = v3_bytes;
}

/*
 * Puts those of all[nr_all] that are not -1 into packed[]; a bit in *mask says which. How many.
 * Version 3 knows the first UB_MESSAGE_V3_FDS names.
 */
unsigned ub_message_pack_fds(const int all[], unsigned nr_all, unsigned version,
			     int packed[UB_MESSAGE_MAX_FDS], uint32_t *mask);
/* The reverse, in place, of what was received; those that mask does not expect are closed. */
void ub_message_unpack_fds(int fds[UB_MESSAGE_MAX_FDS], uint32_t mask);

/* One with nothing but its type. */
int ub_message_send_type(int sock, enum ub_message_type type);

/*
 * HELLO, with the version that this program speaks; and the one to be spoken with whoever sent this
 * HELLO.
 */
int ub_message_send_hello(int sock);
unsigned ub_message_hello_version(const struct ub_msg_header *hello);

/*
 * Of a message that was received, the string number i (from 0) of those that begin offset bytes
 * behind its beginning. NULL: there are not so many, or it has no end.
 */
const char *ub_message_string(const struct ub_msg_header *header, size_t offset, unsigned i);

/*
 * Receives one message into buf (8-byte aligned, UB_MESSAGE_MAX_BYTES), and its descriptors (the
 * caller's from now on, -1 where there is none). As many zeroes as there is room for follow it,
 * UB_MESSAGE_ROOM_BYTES at the most: a fixed message that is shorter than this program knows it can
 * be read to its end. 0, -ENOTCONN: the other side is gone, -EPROTO: not a message, -EAGAIN with
 * MSG_DONTWAIT, or another errno.
 */
int ub_message_receive(int sock, void *buf, int fds[UB_MESSAGE_MAX_FDS], int flags);

/* Of what has grown, where that begins. */
_Static_assert(sizeof(struct ub_msg_header) == UB_V3_BYTES_HELLO, "as in version 3");
_Static_assert(sizeof(struct ub_msg_config) == UB_V3_BYTES_CONFIG, "as in version 3");
_Static_assert(sizeof(struct ub_msg_limits) == UB_V3_BYTES_LIMITS, "as in version 3");
_Static_assert(sizeof(struct ub_msg_serve) == UB_V3_BYTES_SERVE, "as in version 3");
_Static_assert(sizeof(struct ub_msg_link) == UB_V3_BYTES_LINK, "as in version 3");
_Static_assert(offsetof(struct ub_msg_adopted, nr_links) == UB_V3_BYTES_ADOPTED, "as in version 3");
_Static_assert(offsetof(struct ub_msg_set, settings.fence_timeout_ms) == UB_V3_BYTES_SET,
	       "as in version 3");
_Static_assert(sizeof(struct ub_msg_resize) == UB_V3_BYTES_RESIZE, "as in version 3");
_Static_assert(sizeof(struct ub_msg_resized) == UB_V3_BYTES_RESIZED, "as in version 3");
_Static_assert(sizeof(struct ub_msg_migrate) == UB_V3_BYTES_MIGRATE, "as in version 3");
_Static_assert(sizeof(struct ub_msg_migration) == UB_V3_BYTES_MIGRATION, "as in version 3");
_Static_assert(sizeof(struct ub_msg_migrate_control) == UB_V3_BYTES_MIGRATE_CONTROL,
	       "as in version 3");
_Static_assert(sizeof(struct ub_msg_text) == UB_V3_BYTES_TEXT, "as in version 3");

#endif
