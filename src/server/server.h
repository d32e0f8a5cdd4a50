/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The server: the process that serves a device's I/O. It never sends START, STOP or DEL. */
#ifndef UB_SERVER_SERVER_H
#define UB_SERVER_SERVER_H

/* The server's main(): returns the exit status when the device is gone. */
int ub_server_main(void);

#endif
