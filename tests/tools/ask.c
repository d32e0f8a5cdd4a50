/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Speaks to a control socket, ublk-bridge-control(7).
 *   ask SOCKET LINE…             sends each line and prints the answer to it; 1 when there is none
 *   ask --flood SOCKET           until SIGTERM: connections, requests and nonsense as fast as they
 *                                go; prints how many answers came
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ASK_PATIENCE_MS 60000
#define ASK_NR_CLIENTS	32

static int ask_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int ask_line(int fd, const char *line)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char byte;

	if (send(fd, line, strlen(line), MSG_NOSIGNAL) < 0 || send(fd, "\n", 1, MSG_NOSIGNAL) < 0) {
		perror("ask: send");
		return 1;
	}
	do {
		if (poll(&poll_fd, 1, ASK_PATIENCE_MS) != 1 || recv(fd, &byte, 1, 0) != 1) {
			fprintf(stderr, "ask: no answer\n");
			return 1;
		}
		putchar(byte);
	} while (byte != '\n');
	return 0;
}

static volatile sig_atomic_t ask_must_end;

static void ask_end(int signal)
{
	(void)signal;
	ask_must_end = 1;
}

#define INFO "{\"version\":1,\"verb\":\"info\"}\n"

static int ask_flood(const char *path)
{
	static const char *const lines[] = {
		(INFO INFO INFO),
		"{\"version\":1,\"verb\":\"set\",\"log_level\":\"notice\"}\n",
		"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
		"{\"version\":1,\"verb\":\"in",
		"\xff\xfe\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
	};
	static const struct timeval patience = { .tv_usec = 2000 };
	int fds[ASK_NR_CLIENTS];
	char answers[65536];
	unsigned long nr_connections = 0, nr_answers = 0;

	signal(SIGTERM, ask_end);
	memset(fds, -1, sizeof(fds));
	for (unsigned i = 0; !ask_must_end; i++) {
		unsigned at = i % ASK_NR_CLIENTS;
		const char *line = lines[i % 5];
		ssize_t n;

		if (fds[at] < 0) {
			fds[at] = ask_connect(path);
			nr_connections += fds[at] >= 0;
			if (fds[at] >= 0)
				setsockopt(fds[at], SOL_SOCKET, SO_RCVTIMEO, &patience,
					   sizeof(patience));
		}
		if (fds[at] < 0)
			continue;
		n = send(fds[at], line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0)
			/* or as SO_RCVTIMEO says */
			n = recv(fds[at], answers, sizeof(answers), i % 7 ? MSG_DONTWAIT : 0);
		for (ssize_t byte = 0; byte < n; byte++)
			nr_answers += answers[byte] == '\n';
		if (n == 0 || (n < 0 && errno != EAGAIN) || i % 11 == 0) {
			close(fds[at]);
			fds[at] = -1;
		}
	}
	printf("%lu connections, %lu answers\n", nr_connections, nr_answers);
	return !nr_connections || !nr_answers;
}

int main(int argc, char **argv)
{
	int fd, ret = 0;

	if (argc == 3 && strcmp(argv[1], "--flood") == 0)
		return ask_flood(argv[2]);
	if (argc < 3)
		return 2;
	fd = ask_connect(argv[1]);
	if (fd < 0) {
		perror("ask: connect");
		return 1;
	}
	for (int i = 2; i < argc && ret == 0; i++)
		ret = ask_line(fd, argv[i]);
	return ret;
}
