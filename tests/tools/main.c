/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program as tests run it: what ships, a back end that misbehaves on demand, and failing steps.
 */
#include <string.h>

#include "backend/backend.h"
#include "cli/cli.h"
#include "tools.h"

const struct ub_backend_ops *const ub_backends[] = {
	&ub_backend_error, &ub_backend_mem,    &ub_backend_nbd,
	&ub_backend_null,  &ub_backend_faulty, NULL,
};

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--ctrl") == 0)
		return ub_test_ctrl(argc, argv);
	ub_test_steps_install();
	return ub_main(argc, argv);
}
