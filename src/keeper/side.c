/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a device is made of. The keeper's main thread. */
#include "keeper/side.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/store.h"
#include "base/cleanup.h"
#include "base/size.h"
#include "base/text.h"
#include "keeper/keeper.h"
#include "keeper/recipe.h"

int ub_side_make_store(struct ub_side *side, struct ub_err *err)
{
	int fd;

	if (strcmp(side->o->kind, "mem") != 0)
		return 0;
	fd = ub_store_create(side->o->size_bytes, side->o->prealloc, err);
	if (fd < 0)
		return fd;
	side->store_fd = fd;
	return 0;
}

/* ---- [ COMMAND ] --------------------------------------------------------- */

void ub_side_give_socket(void *arg)
{
	struct ub_keeper *k = arg;
	struct ub_msg_header header = { .type = UB_MSG_SOCKET, .len_bytes = sizeof(header) };
	int *fd = &k->side->command.socket_fd;

	/* While there is no server it waits for the next one. */
	if (k->server->fd < 0 || k->server->gone || k->life == UB_RECOVERING || *fd < 0)
		return;
	ub_message_send(k->server->fd, &header, fd, 1, MSG_DONTWAIT);
	ub_close(fd);
}

int ub_side_set_command(struct ub_keeper *k, struct ub_side *side, struct ub_err *err)
{
	struct ub_command *c = &side->command;

	c->loop = &k->loop;
	c->is_daemon = k->opts->daemon;
	c->reconnected = ub_side_give_socket;
	c->arg = k;
	if (side->recipe)
		return ub_recipe_apply_command(side->recipe, c, err);
	c->argv = side->o->command;
	c->is_connected = side->o->command_is_connected;
	c->restarts = side->o->restart_command;
	return 0;
}

int ub_side_start_command(struct ub_keeper *k, struct ub_side *side, struct ub_err *err)
{
	struct ub_command *c = &side->command;
	int ret = ub_side_set_command(k, side, err);

	if (ret || !c->argv)
		return ret;
	ret = ub_command_start(c, err);
	if (ret)
		return ret;
	if (c->is_connected) {
		side->store_fd = ub_steal_fd(&c->socket_fd);
		return 0;
	}
	free(side->o->nbd->address.path);
	side->o->nbd->address.path = strdup(c->path);
	return side->o->nbd->address.path ? 0 : ub_err_errno(err, ENOMEM, "the command's socket");
}

/* ---- which is which ------------------------------------------------------ */

void ub_side_take_recipe(struct ub_side *side, struct ub_recipe *recipe)
{
	side->recipe = recipe;
	side->o = &recipe->opts.side;
}

void ub_side_swap(struct ub_keeper *k)
{
	struct ub_side *side = k->side;

	k->side = k->other;
	k->other = side;
	k->side->command.is_in_use = true;
	k->other->command.restarts = false; /* it ends with its last connection, perhaps */
}

void ub_side_clear(struct ub_side *side)
{
	ub_command_end(&side->command);
	ub_close(&side->store_fd);
	free(side->identity);
	if (side->recipe)
		ub_recipe_destroy(side->recipe);
	free(side->recipe);
	*side = (struct ub_side)UB_SIDE_NONE;
}

const char *ub_side_describe(const struct ub_side *side, char *buf, size_t len)
{
	char size[32];

	if (side->o->nbd)
		nbd_options_describe(side->o->nbd, buf, len);
	else
		snprintf(buf, len, "memory of %s",
			 ub_size_format(side->o->size_bytes, size, sizeof(size)));
	ub_text_clean(buf);
	return buf;
}
