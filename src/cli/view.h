/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device as it is seen from outside: what the kernel, its run directory and its server say. For
 * the verbs that show devices. Control plane; no keeper is waited for, a server for half a second.
 */
#ifndef UB_CLI_VIEW_H
#define UB_CLI_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/err.h"
#include "run/ranges.h"
#include "run/rundir.h"

struct ub_ctrl;

struct ub_cli_view {
	struct ublksrv_ctrl_dev_info info;
	uint64_t size_bytes; /* 0: it has no disk */
	bool read_only;
	struct ub_state state;
	bool has_state, has_keeper;
	/* A run directory without a device: only state.name, has_keeper and why are filled in. */
	bool is_stale;
	bool is_lost; /* nobody has what was in its memory any more */
	bool has_health;
	unsigned health;  /* enum ub_health */
	char why[512];	  /* how its health is, or what is wrong with the run directory */
	char source[256]; /* what it is made of; "": nobody knows */
	bool has_ranges;  /* an NBD device's, where it could be looked at */
	struct ub_ranges ranges;
};

struct ub_cli_views {
	struct ub_cli_view *list; /* the devices by their numbers, then what is stale by its name */
	unsigned nr;
};

/*
 * All there are; or, with `names` (NULL-terminated, as ub_device_find() takes them), those alone,
 * in the same order. 0 or -errno with *err. ub_cli_views_free() in either case.
 */
int ub_cli_views_get(const char *const names[], struct ub_cli_views *views, struct ub_err *err);
void ub_cli_views_free(struct ub_cli_views *views);

/* One device, by its number. False: it is gone by now. */
bool ub_cli_view_get(struct ub_ctrl *ctrl, uint32_t id, struct ub_cli_view *view);

/* "/dev/ublkb0"; "-" of what is stale. Returns buf. */
const char *ub_cli_view_device(const struct ub_cli_view *view, char *buf, size_t len);
/*
 * What counts most, in a word: "online", "migrating", "degraded", "offline", "failed", "orphan" (no
 * keeper), "recovering", "starting", "silent", "dead", "lost" (its run directory), "stale"; another
 * program's: as the kernel says.
 */
const char *ub_cli_view_state(const struct ub_cli_view *view);
/* Whether it serves as it should; else there is something that somebody should look at. */
bool ub_cli_view_is_healthy(const struct ub_cli_view *view);
/* "live" and the like: the kernel's word. */
const char *ub_cli_view_kernel_state(const struct ub_cli_view *view);
/* "online" and the like: the server's word; NULL: it cannot be asked. */
const char *ub_cli_view_health(const struct ub_cli_view *view);
/* What an operator can do about it; NULL: all is well. */
const char *ub_cli_view_remedy(const struct ub_cli_view *view);

/* All of it, as `list --json` has it. The caller's to json_decref(). */
json_t *ub_cli_view_to_json(const struct ub_cli_view *view);

/* Below its line: why it is not online, what lost connections may still do, what can be done. */
void ub_cli_view_print_remarks(const struct ub_cli_view *view);

#endif
