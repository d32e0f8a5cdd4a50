/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the test program has beyond the one that ships. */
#ifndef UB_TESTS_TOOLS_H
#define UB_TESTS_TOOLS_H

#include <ublk-bridge/backend.h>

extern const struct ub_backend_ops ub_backend_faulty;

/* Obeys $UB_STEP: see steps.c. */
void ub_test_steps_install(void);

/* "--ctrl VERB ID": another program's use of ublk. An exit status. */
int ub_test_ctrl(int argc, char **argv);

#endif
