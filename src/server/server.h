/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The server: the process that serves a device's I/O. It never sends START, STOP or DEL. */
#ifndef UB_SERVER_SERVER_H
#define UB_SERVER_SERVER_H

/* The hidden first argument with which the keeper executes this binary as a server. */
#define UB_SERVER_VERB "--server"
/* Its name in /proc/PID/comm. */
#define UB_SERVER_COMM "ublk-server"
/* Where the server finds its socket to the keeper. */
#define UB_SERVER_SOCKET_FD 3

/* The server's main(): returns the exit status when the device is gone. */
int ub_server_main(void);

#endif
