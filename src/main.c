/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ublk-bridge: the program that ships, with the back ends it offers. */
#include "backend/backend.h"
#include "cli/cli.h"

const struct ub_backend_ops *const ub_backends[] = {
	&ub_backend_error, &ub_backend_mem, &ub_backend_nbd, &ub_backend_null, NULL,
};

int main(int argc, char **argv)
{
	return ub_main(argc, argv);
}
