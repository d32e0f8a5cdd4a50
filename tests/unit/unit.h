/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every unit test includes: cmocka with what it wants before it, and a few helpers. */
#ifndef UB_TESTS_UNIT_H
#define UB_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#include <cmocka.h>
#pragma GCC diagnostic pop

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* The same numbers in each run, so that a failure comes again (xorshift64*). */
static inline uint64_t unit_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 0x2545f4914f6cdd1dULL;
}

/* A message must say what it is about. */
static inline void unit_assert_says(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' does not say '%s'", text, part);
}

/* True when fn(arg) ends in abort(): an assertion of ours holds. In a child, without its noise. */
static inline bool unit_aborts(void (*fn)(void *arg), void *arg)
{
	static const struct rlimit no_core;
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		fn(arg);
		_exit(0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
	       WTERMSIG(status) == SIGABRT;
}

/* This process's memory in use. */
static inline uint64_t unit_resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	unsigned long long pages = 0;

	if (!file || fscanf(file, "%*u %llu", &pages) != 1)
		fail_msg("/proc/self/statm cannot be read");
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/*
 * Skips the test where reading memory that was never written takes memory, as some kernels made for
 * small virtual machines have it (they have no page of zeroes to share): what it looks for cannot
 * be seen there.
 */
static inline void unit_need_zero_page(void)
{
	const size_t bytes = 16 << 20, page = (size_t)sysconf(_SC_PAGESIZE);
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const volatile char *memory = map;
	uint64_t before = unit_resident_bytes(), after;

	assert_true(map != MAP_FAILED);
	for (size_t at = 0; at < bytes; at += page)
		(void)memory[at];
	after = unit_resident_bytes();
	munmap(map, bytes);
	if (after > before + bytes / 2) {
		print_message("skipped: this kernel gives a page to whoever reads memory that was "
			      "never written\n");
		skip();
	}
}

/* How many descriptors this process has: for finding those that leak. */
static inline unsigned unit_nr_fds(void)
{
	unsigned nr = 0;

	for (int fd = 0; fd < 256; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

#endif
