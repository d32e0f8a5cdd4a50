/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verb `set`: checked here, done by the server, kept here. The keeper's main thread. */
#include "keeper/job/set.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "keeper/job/verbs.h"
#include "keeper/keeper.h"
#include "keeper/standby.h"

#define SETTINGS_MAX_MS (100LL * 24 * 3600 * 1000) /* as long as a duration of the command line */

void ub_set_show(const struct ub_keeper *k, json_t *object)
{
	const struct nbd_options *o = k->side->o->nbd;

	if (o) {
		json_object_set_new(object, "outage_limit_ms",
				    o->outage_limit_ms == NBD_NO_LIMIT ?
					    json_null() :
					    json_integer((json_int_t)o->outage_limit_ms));
		json_object_set_new(object, "stall_timeout_ms",
				    json_integer((json_int_t)o->stall_timeout_ms));
		json_object_set_new(object, "fence_timeout_ms",
				    json_integer((json_int_t)o->fence_timeout_ms));
	}
	json_object_set_new(object, "log_level",
			    json_string(ub_log_level_name(ub_log_get_level())));
}

/* ---- what is asked for --------------------------------------------------- */

static int settings_take_ms(const json_t *value, const char *what, long long min_ms, uint64_t *ms,
			    struct ub_err *err)
{
	json_int_t number = json_integer_value(value);

	if (!json_is_integer(value))
		return ub_err_set(err, EINVAL, "%s: it is a number of milliseconds", what);
	if (number < min_ms || number > SETTINGS_MAX_MS)
		return ub_err_set(err, ERANGE, "%s: it is between %lld and %lld milliseconds", what,
				  min_ms, SETTINGS_MAX_MS);
	*ms = (uint64_t)number;
	return 0;
}

static int settings_take_level(const json_t *value, uint32_t *level, struct ub_err *err)
{
	const char *name = json_string_value(value);
	enum ub_log_level found;

	if (!name || ub_log_level_parse(name, &found) != 0)
		return ub_err_set(err, EINVAL,
				  "log_level: it is one of error, warning, notice and debug");
	*level = found;
	return 0;
}

static int settings_parse(const json_t *args, struct ub_settings *s, struct ub_err *err)
{
	const json_t *limit = json_object_get(args, "outage_limit_ms");
	const json_t *timeout = json_object_get(args, "stall_timeout_ms");
	const json_t *fence = json_object_get(args, "fence_timeout_ms");
	const json_t *level = json_object_get(args, "log_level");
	int ret = 0;

	*s = (struct ub_settings){ .which = (limit ? UB_SET_OUTAGE_LIMIT : 0) |
					    (timeout ? UB_SET_STALL_TIMEOUT : 0) |
					    (fence ? UB_SET_FENCE_TIMEOUT : 0) |
					    (level ? UB_SET_LOG_LEVEL : 0) };
	if (!s->which)
		return ub_err_set(err, EINVAL,
				  "nothing is to be set: there are outage_limit_ms, "
				  "stall_timeout_ms, "
				  "fence_timeout_ms and log_level");
	if (json_is_null(limit))
		s->outage_limit_ms = NBD_NO_LIMIT;
	else if (limit)
		ret = settings_take_ms(limit, "outage_limit_ms", 0, &s->outage_limit_ms, err);
	if (ret == 0 && timeout)
		ret = settings_take_ms(timeout, "stall_timeout_ms", NBD_MIN_STALL_MS,
				       &s->stall_timeout_ms, err);
	if (ret == 0 && fence)
		ret = settings_take_ms(fence, "fence_timeout_ms", 0, &s->fence_timeout_ms, err);
	return ret == 0 && level ? settings_take_level(level, &s->log_level, err) : ret;
}

int ub_verb_set(struct ub_keeper *k, struct ub_control_caller caller, const json_t *args,
		json_t *reply, struct ub_err *err)
{
	struct ub_msg_set msg = { .header = { .type = UB_MSG_SET, .len_bytes = sizeof(msg) } };
	struct ub_keeper_settings *ks = &k->job.settings;
	int ret = settings_parse(args, &msg.settings, err);

	(void)reply;
	if (ret)
		return ret;
	if (!k->was_live || k->server->gone || k->server->fd < 0)
		return ub_err_set(err, EAGAIN, "the device is not live: try again");
	if ((msg.settings.which & UB_SET_FENCE_TIMEOUT) && k->server->version <= UB_MESSAGE_V3)
		return ub_err_set(err, EOPNOTSUPP,
				  "fence_timeout_ms: the device's server is of a version that "
				  "cannot change it: "
				  "upgrade the device");
	/* Callers that have gone without their answers count until the server has given them. */
	if (ks->nr_asked == UB_CONTROL_MAX_CLIENTS)
		return ub_err_set(err, EBUSY, "the server has %u settings to answer: try again",
				  ks->nr_asked);
	ub_message_fit(&msg.header, k->server->version, UB_V3_BYTES_SET);
	ret = ub_message_send(k->server->fd, &msg.header, NULL, 0, MSG_DONTWAIT);
	if (ret)
		return ub_err_errno(err, -ret, "the server cannot be told");
	ks->asked[ks->nr_asked++] = (struct ub_setting_asked){ caller, msg.settings };
	return 1;
}

/* ---- what becomes of it -------------------------------------------------- */

static struct ub_setting_asked settings_take_oldest(struct ub_keeper_settings *ks)
{
	struct ub_setting_asked oldest = ks->asked[0];

	ks->nr_asked--;
	memmove(ks->asked, ks->asked + 1, ks->nr_asked * sizeof(*ks->asked));
	return oldest;
}

static void settings_keep(struct ub_keeper *k, const struct ub_settings *s)
{
	struct nbd_options *o = k->side->o->nbd;

	if (o && (s->which & UB_SET_OUTAGE_LIMIT))
		o->outage_limit_ms = s->outage_limit_ms;
	if (o && (s->which & UB_SET_STALL_TIMEOUT))
		o->stall_timeout_ms = s->stall_timeout_ms;
	if (o && (s->which & UB_SET_FENCE_TIMEOUT))
		o->fence_timeout_ms = s->fence_timeout_ms;
	if (s->which & UB_SET_LOG_LEVEL)
		ub_log_set_level(s->log_level);
}

static void settings_answered(struct ub_keeper *k, struct ub_msg_text *answer)
{
	struct ub_setting_asked asked;
	struct ub_err err = { 0 };
	json_t *reply = NULL;

	if (!k->job.settings.nr_asked)
		return;
	asked = settings_take_oldest(&k->job.settings);
	answer->text[sizeof(answer->text) - 1] = '\0';
	if (answer->value) {
		ub_err_set(&err, (int)answer->value, "%.400s", answer->text);
	} else {
		settings_keep(k, &asked.settings);
		ub_standby_renew(k); /* it was told the old ones */
		reply = json_object();
		ub_set_show(k, reply);
	}
	ub_control_answer(&k->control, asked.caller, reply, &err);
}

static void settings_server_gone(struct ub_keeper *k)
{
	struct ub_err err = { 0 };

	ub_err_set(&err, EIO,
		   "the server is gone: it is not known whether it has taken the setting");
	while (k->job.settings.nr_asked)
		ub_control_answer(&k->control, settings_take_oldest(&k->job.settings).caller, NULL,
				  &err);
}

/* ---- the job ------------------------------------------------------------- */

static bool settings_hear(struct ub_keeper *k, struct ub_msg_header *msg)
{
	if (msg->type != UB_MSG_SET)
		return false;
	if (msg->len_bytes >= UB_V3_BYTES_TEXT)
		settings_answered(k, (struct ub_msg_text *)msg);
	return true;
}

static void settings_event(struct ub_keeper *k, enum ub_event event)
{
	if (event == UB_EVENT_SERVER_DIED || event == UB_EVENT_LET_GO)
		settings_server_gone(k);
}

const struct ub_job ub_job_set = { "set", NULL, settings_event, settings_hear };
