/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another size for a device that is live: the order of things is in resize.h. The keeper's main
 * thread.
 */
#include "keeper/job/resize.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "backend/store.h"
#include "base/log.h"
#include "base/size.h"
#include "base/step.h"
#include "base/text.h"
#include "helper/helper.h"
#include "keeper/job/args.h"
#include "keeper/job/verbs.h"
#include "keeper/keeper.h"
#include "keeper/kernel.h"
#include "keeper/note.h"
#include "keeper/standby.h"
#include "run/ask-server.h"

#define RESIZE_SERVER_MS 45000 /* an export that is asked, and connections that are made again */
/* for I/O that is in flight behind a new end; it goes on after that */
#define RESIZE_SETTLE_MS  5000
#define RESIZE_AGAIN_MS	  1000
#define RESIZE_HOLDERS_MS 10000
#define RESIZE_TURN_MS	  200
#define RESIZE_DIED_OF_IT UINT64_MAX /* in place of a time to settle: the server has */
#define RESIZE_FEATURE	  10	     /* UBLK_F_UPDATE_SIZE's bit */
#define SECTOR_BYTES	  512

/* NOLINTNEXTLINE: it holds */
_Static_assert(UBLK_F_UPDATE_SIZE == 1ULL << RESIZE_FEATURE, "the bit of the feature");

/* ---- asking the server --------------------------------------------------- */

static bool resize_must_go(void *arg)
{
	const struct ub_keeper *k = arg;

	return k->server->gone || k->signals.nr > 1 || k->job.detach.is_forced;
}

/* *size: what is asked for, and the size that the server has then. 0 or -errno with *err. */
static int resize_ask_server(struct ub_keeper *k, uint64_t *size, uint32_t flags,
			     uint64_t timeout_ms, struct ub_err *err)
{
	struct ub_msg_resize msg = { .header = { .type = UB_MSG_RESIZE,
						 .len_bytes = sizeof(msg) } };
	struct ub_keeper_resize *r = &k->job.resize;
	uint64_t deadline = ub_now_ms() + timeout_ms;
	int ret;

	if (!r->id) /* the keeper before this one may have asked, too */
		r->id = (uint32_t)ub_now_ms();
	msg.id = ++r->id;
	msg.flags = flags;
	msg.size_bytes = *size;
	r->is_answered = false;
	ret = ub_message_send(k->server->fd, &msg.header, NULL, 0, MSG_DONTWAIT);
	if (ret)
		return ub_err_errno(err, -ret, "the server cannot be told");
	while (!r->is_answered) {
		if (k->server->gone)
			return ub_err_set(err, EIO, "the server died while the size was changed");
		if (resize_must_go(k))
			return ub_err_set(err, EINTR, "the device is being taken away");
		if (ub_now_ms() >= deadline)
			return ub_err_set(err, ETIMEDOUT, "the server did not answer within %llu s",
					  (unsigned long long)timeout_ms / 1000);
		ub_loop_once(&k->loop, RESIZE_TURN_MS);
	}
	if (r->answer.code)
		return ub_err_set(err, (int)r->answer.code, "%.400s", r->answer.text);
	*size = r->answer.size_bytes;
	return 0;
}

static void resize_answered(struct ub_keeper *k, const struct ub_msg_resized *answer)
{
	struct ub_keeper_resize *r = &k->job.resize;

	if (answer->id != r->id)
		return; /* of a question that was given up, or another keeper's */
	r->answer = *answer;
	r->answer.text[sizeof(r->answer.text) - 1] = '\0';
	r->is_answered = true;
}

static uint32_t resize_flags(const struct ub_keeper *k)
{
	return k->side->o->prealloc ? UB_RESIZE_PREALLOC : 0;
}

/* The server gives up what it has behind the device's end. */
static void resize_settle(struct ub_keeper *k)
{
	struct ub_keeper_resize *r = &k->job.resize;
	uint64_t size = k->side->limits.size_bytes;
	struct ub_err err = { 0 };

	r->must_settle = resize_ask_server(k, &size, 0, RESIZE_SETTLE_MS, &err) != 0;
	/*
	 * A server that died has a successor, which is told the right size. Of one that cannot,
	 * nothing is left over.
	 */
	if (r->must_settle && err.code == EOPNOTSUPP)
		r->must_settle = false;
	r->settle_not_before_ms = 0;
	if (!r->must_settle)
		return;
	r->settle_not_before_ms =
		k->server->gone ? RESIZE_DIED_OF_IT : ub_now_ms() + RESIZE_AGAIN_MS;
	ub_log(UB_LOG_DEBUG, "/dev/ublkb%u: what the server has behind the device's end: %s",
	       k->device.info.dev_id, err.text);
}

/* ---- the kernel ---------------------------------------------------------- */

static uint64_t resize_kernel_size(const struct ub_keeper *k)
{
	char path[64], text[32];

	snprintf(path, sizeof(path), "/sys/block/ublkb%u/size", k->device.info.dev_id);
	return ub_text_read_file(path, text, sizeof(text)) > 0 ?
		       strtoull(text, NULL, 10) * SECTOR_BYTES :
		       0;
}

/*
 * For a keeper that comes later: the kernel's size is the device's, whatever was written down. True
 * if that is another one.
 */
static bool resize_look(struct ub_keeper *k)
{
	uint64_t size = resize_kernel_size(k);

	if (size == 0 || size == k->side->limits.size_bytes ||
	    size % k->side->limits.logical_block_bytes)
		return false;
	k->side->limits.size_bytes = size;
	return true;
}

static int resize_update_kernel(struct ub_keeper *k, uint64_t size, struct ub_err *err)
{
	int ret = ub_step("update-size", err);

	if (ret)
		return ret;
	ret = ub_kernel_long_cmd(k, &k->job.resize.cmd, UBLK_U_CMD_UPDATE_SIZE, size / SECTOR_BYTES,
				 "UPDATE_SIZE", (int64_t)k->opts->timeout_s * 1000, NULL);
	/* One that was given up may have been done all the same. */
	if (ret && resize_kernel_size(k) != size)
		return ub_err_errno(err, -ret, "UPDATE_SIZE");
	return ub_step("size-updated", err);
}

/* The device has it now: whoever serves it next is to know. */
static void resize_remember(struct ub_keeper *k, uint64_t size)
{
	char was[32], is[32];

	ub_log(UB_LOG_NOTICE, "/dev/ublkb%u: %s become %s (%llu bytes)", k->device.info.dev_id,
	       ub_size_format(k->side->limits.size_bytes, was, sizeof(was)),
	       ub_size_format(size, is, sizeof(is)), (unsigned long long)size);
	k->side->limits.size_bytes = size;
	ub_standby_renew(k);
	ub_note(k);
}

/* ---- the verb ------------------------------------------------------------ */

static int resize_check_kernel(const struct ub_keeper *k, struct ub_err *err)
{
	struct utsname uts;

	if (k->device.features & UBLK_F_UPDATE_SIZE)
		return 0;
	uname(&uts);
	return ub_err_set(err, EOPNOTSUPP,
			  "this kernel (%s) cannot change the size of a device: Linux %s or later "
			  "can; or detach the device and "
			  "attach it anew",
			  uts.release, ub_ctrl_feature_since(RESIZE_FEATURE));
}

int ub_resize_check_options(const struct ub_keeper *k, struct ub_err *err)
{
	if (!k->side->o->nbd || !k->side->o->nbd->auto_resize || resize_check_kernel(k, err) == 0)
		return 0;
	return ub_err_wrap(err, "--auto-resize");
}

static int resize_check(struct ub_keeper *k, uint64_t size, struct ub_err *err)
{
	uint32_t block = k->side->limits.logical_block_bytes;
	char why[200];

	if (k->recovery.has_failed)
		return ub_err_set(err, EIO, "the device has failed: detach it, and attach it anew");
	if (k->server->gone || k->server->fd < 0 || k->life == UB_RECOVERING)
		return ub_err_set(err, EAGAIN, "the device is being recovered: try again");
	if (size % block)
		return ub_err_set(err, EINVAL,
				  "a size of %llu bytes is not a multiple of the block size %u",
				  (unsigned long long)size, block);
	if (size > INT64_MAX)
		return ub_err_set(err, EFBIG, "a device has less than 8 EiB");
	if (ub_rundir_is_offline(k->rundir.name, why, sizeof(why)))
		return ub_err_set(err, EAGAIN,
				  "%s: its size is not changed before it is online again", why);
	if (k->job.resize.must_settle)
		return ub_err_set(err, EAGAIN,
				  "I/O behind the present end is still in flight: try again");
	return 0;
}

/* Somebody who has mounted it would lose what lies behind the new end. */
static int resize_check_holders(struct ub_keeper *k, uint64_t size, struct ub_err *err)
{
	char id[16], said[512], text[32];
	int ret;

	if (k->job.resize.is_forced)
		return 0;
	snprintf(id, sizeof(id), "%u", k->device.info.dev_id);
	ret = ub_helper_run(&k->loop, (const char *const[]){ "holders", id, NULL },
			    "looking for holders", said, sizeof(said), RESIZE_HOLDERS_MS,
			    resize_must_go, k);
	if (ret == UB_EXIT_DONE)
		return 0;
	if (ret == UB_EXIT_BUSY)
		return ub_err_set(err, EBUSY,
				  "/dev/ublkb%u is in use: %.300s. Shrinking it to %s destroys "
				  "what is behind that; --force does it all the same",
				  k->device.info.dev_id, said,
				  ub_size_format(size, text, sizeof(text)));
	return ub_err_set(err, EIO, "it cannot be told who holds /dev/ublkb%u: %s",
			  k->device.info.dev_id, ret < 0 ? strerror(-ret) : said);
}

/* Nobody holds it; but memory that was written to is gone when the device has become smaller. */
static int resize_check_memory(const struct ub_keeper *k, uint64_t size, struct ub_err *err)
{
	char text[32];

	if (k->job.resize.is_forced || strcmp(k->side->o->kind, "mem") != 0 ||
	    k->side->store_fd < 0)
		return 0;
	/*
	 * Holes were never written, or discarded since. What is still in the page cache was written
	 * back by the last close.
	 */
	if (!ub_store_has_data(k->side->store_fd, size, k->side->limits.size_bytes))
		return 0;
	return ub_err_set(err, EBUSY,
			  "/dev/ublkb%u has data behind %s. Shrinking it destroys that: discard it "
			  "first (blkdiscard), or use --force",
			  k->device.info.dev_id, ub_size_format(size, text, sizeof(text)));
}

static int resize_shrink(struct ub_keeper *k, uint64_t size, struct ub_err *err)
{
	int ret = resize_check_holders(k, size, err);

	if (ret == 0)
		ret = resize_check_memory(k, size, err);
	if (ret == 0)
		ret = resize_update_kernel(k, size, err);
	if (ret)
		return ret;
	k->job.resize.must_settle = true;
	resize_remember(k, size);
	if (!k->server->gone)
		resize_settle(k);
	return 0;
}

static int resize_grow(struct ub_keeper *k, uint64_t size, struct ub_err *err)
{
	int ret;

	ret = resize_ask_server(k, &size, resize_flags(k), RESIZE_SERVER_MS, err);
	if (ret == 0 && size == k->side->limits.size_bytes)
		return 0;
	if (ret == 0)
		ret = resize_update_kernel(k, size, err);
	if (ret)
		k->job.resize.must_settle = true; /* it may be larger by now, or become so */
	else
		resize_remember(k, size);
	return ret;
}

static int resize_do(struct ub_keeper *k, struct ub_err *err)
{
	uint64_t size = k->job.resize.size_bytes;
	int ret = resize_check_kernel(k, err);

	if (ret == 0)
		ret = resize_check(k, size, err);
	if (ret == 0)
		ret = ub_step("resize", err);
	if (ret || size == k->side->limits.size_bytes)
		return ret;
	return size && size < k->side->limits.size_bytes ? resize_shrink(k, size, err) :
							   resize_grow(k, size, err);
}

static void resize_answer(struct ub_keeper *k, uint64_t was_bytes, const struct ub_err *err)
{
	struct ub_keeper_resize *r = &k->job.resize;

	r->is_asked = false;
	if (r->has_caller)
		ub_control_answer(&k->control, r->caller,
				  err->code ? NULL :
					      json_pack("{s:I, s:I}", "size_bytes",
							(json_int_t)k->side->limits.size_bytes,
							"was_bytes", (json_int_t)was_bytes),
				  err);
	else if (err->code)
		ub_log(UB_LOG_WARNING, "/dev/ublkb%u keeps its size: %s", k->device.info.dev_id,
		       err->text);
}

static int resize_tend(struct ub_keeper *k)
{
	struct ub_keeper_resize *r = &k->job.resize;
	uint64_t was_bytes = k->side->limits.size_bytes;
	struct ub_err err = { 0 };

	if (k->server->gone || r->is_running || !k->was_live)
		return -1;
	r->is_running = true;
	if (r->must_settle && (r->is_asked || ub_now_ms() >= r->settle_not_before_ms))
		resize_settle(k);
	if (r->is_asked && (r->has_caller || !ub_migrate_is_on(k))) {
		resize_do(k, &err);
		resize_answer(k, was_bytes, &err);
	}
	r->is_running = false;
	return r->must_settle ? RESIZE_AGAIN_MS : -1;
}

int ub_verb_resize(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		   json_t *reply, struct ub_err *err)
{
	const json_t *size = json_object_get(args, "size_bytes");
	struct ub_keeper_resize *r = &k->job.resize;
	bool force = false;
	int ret;

	(void)reply;
	if (size && !json_is_integer(size))
		return ub_err_set(err, EINVAL, "size_bytes: it is a number of bytes");
	if (size && json_integer_value(size) <= 0)
		return ub_err_set(err, ERANGE, "size_bytes: a device has at least one block");
	ret = ub_args_flag(args, "force", &force, err);
	if (ret)
		return ret;
	if (!k->was_live || k->server->gone)
		return ub_err_set(err, EAGAIN, "the device is not live: try again");
	if (!size && !k->side->o->nbd)
		return ub_err_set(err, EINVAL,
				  "give the size: only an NBD device has one that can be asked "
				  "for, "
				  "and '%s' is one of %s",
				  k->rundir.name, k->side->o->kind);
	if (ub_migrate_is_on(k))
		return ub_err_set(err, EBUSY,
				  "the device is being migrated to %.200s: wait until that is "
				  "over, "
				  "or cancel it (migrate --cancel), before you change its size",
				  k->job.migration.label);
	if (r->is_running || (r->is_asked && r->has_caller))
		return ub_err_set(err, EBUSY, "its size is being changed already: try again");
	r->is_asked = r->has_caller = true;
	r->is_forced = force;
	r->caller = caller;
	r->size_bytes = (uint64_t)json_integer_value(size);
	return 1; /* resize_tend() answers */
}

static void resize_export_grown(struct ub_keeper *k)
{
	struct ub_keeper_resize *r = &k->job.resize;

	if (!k->side->o->nbd || !k->side->o->nbd->auto_resize || r->is_asked ||
	    !(k->device.features & UBLK_F_UPDATE_SIZE))
		return;
	r->is_asked = true;
	r->has_caller = r->is_forced = false;
	r->size_bytes = 0;
}

static void resize_new_server(struct ub_keeper *k)
{
	struct ub_keeper_resize *r = &k->job.resize;

	r->must_settle = k->device.features & UBLK_F_UPDATE_SIZE;
	/*
	 * If the server before it died of this, the device is not to fail of it: servers that live
	 * for RESIZE_AGAIN_MS are not counted as one death after the other.
	 */
	r->settle_not_before_ms = r->settle_not_before_ms == RESIZE_DIED_OF_IT ?
					  ub_now_ms() + RESIZE_AGAIN_MS + RESIZE_TURN_MS :
					  0;
}

/* ---- the job ------------------------------------------------------------- */

static bool resize_hear(struct ub_keeper *k, struct ub_msg_header *msg)
{
	if (msg->type == UB_MSG_GROWN)
		resize_export_grown(k);
	else if (msg->type != UB_MSG_RESIZED)
		return false;
	else if (msg->len_bytes >= UB_V3_BYTES_RESIZED)
		resize_answered(k, (struct ub_msg_resized *)msg);
	return true;
}

static void resize_event(struct ub_keeper *k, enum ub_event event)
{
	struct ub_keeper_resize *r = &k->job.resize;

	switch (event) {
	case UB_EVENT_SERVER_NEW:
		resize_new_server(k);
		break;
	case UB_EVENT_SIDE_CHANGED:
		/* The growth was the other export's. */
		if (r->is_asked && !r->has_caller)
			r->is_asked = false;
		resize_export_grown(k);
		break;
	case UB_EVENT_ADOPTED:
		/*
		 * The keeper before this one may have died when the size was another one, and not
		 * yet written down.
		 */
		if (resize_look(k))
			ub_standby_renew(k);
		resize_new_server(k);
		resize_export_grown(k); /* it may have, while nobody was there to be told */
		break;
	default:
		break;
	}
}

const struct ub_job ub_job_resize = { "resize", resize_tend, resize_event, resize_hear };
