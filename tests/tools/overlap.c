/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and discards the same 64 KiB at the same time, from two threads, and looks whether what
 * was discarded comes back: overlap DEVICE ROUNDS. Either order is right, and each page may have
 * its own; but a page that reads as zeroes when both have ended is zeroes until somebody writes to
 * it.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define RANGE_BYTES  65536
#define PAGE_BYTES   4096
#define SECTOR_BYTES 512
#define NR_RANGES    64

static struct {
	int fd;
	uint64_t offset;
	pthread_barrier_t begin, end;
} overlap;

static void overlap_die(const char *what)
{
	perror(what);
	exit(2);
}

static void overlap_discard(void)
{
	uint64_t range[2] = { overlap.offset, RANGE_BYTES };

	if (ioctl(overlap.fd, BLKDISCARD, range) != 0)
		overlap_die("BLKDISCARD");
}

static void *overlap_thread(void *arg)
{
	for (;;) {
		pthread_barrier_wait(&overlap.begin);
		overlap_discard();
		pthread_barrier_wait(&overlap.end);
	}
	return arg;
}

static int overlap_is_zero(const char *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* After both: writes the last sector of each page that is zeroes; the others must stay so. */
static int overlap_check(char *page)
{
	int nr_back = 0;

	for (uint64_t at = overlap.offset; at < overlap.offset + RANGE_BYTES; at += PAGE_BYTES) {
		if (pread(overlap.fd, page, PAGE_BYTES, (off_t)at) != PAGE_BYTES)
			overlap_die("read");
		if (!overlap_is_zero(page, PAGE_BYTES))
			continue;
		memset(page, 0x11, SECTOR_BYTES);
		if (pwrite(overlap.fd, page, SECTOR_BYTES,
			   (off_t)(at + PAGE_BYTES - SECTOR_BYTES)) != SECTOR_BYTES)
			overlap_die("write");
		if (pread(overlap.fd, page, PAGE_BYTES, (off_t)at) != PAGE_BYTES)
			overlap_die("read");
		nr_back += !overlap_is_zero(page, PAGE_BYTES - SECTOR_BYTES);
	}
	return nr_back;
}

int main(int argc, char **argv)
{
	int rounds = argc == 3 ? atoi(argv[2]) : 0, nr_back = 0;
	void *data, *page;
	pthread_t thread;

	if (rounds <= 0) {
		fprintf(stderr, "overlap DEVICE ROUNDS\n");
		return 2;
	}
	overlap.fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	if (overlap.fd < 0)
		overlap_die(argv[1]);
	if (posix_memalign(&data, PAGE_BYTES, RANGE_BYTES) ||
	    posix_memalign(&page, PAGE_BYTES, PAGE_BYTES))
		return 2;
	memset(data, 0xaa, RANGE_BYTES);
	pthread_barrier_init(&overlap.begin, NULL, 2);
	pthread_barrier_init(&overlap.end, NULL, 2);
	if (pthread_create(&thread, NULL, overlap_thread, NULL) != 0)
		return 2;
	for (int i = 0; i < rounds; i++) {
		overlap.offset = (uint64_t)(i % NR_RANGES) * RANGE_BYTES;
		pthread_barrier_wait(&overlap.begin);
		if (pwrite(overlap.fd, data, RANGE_BYTES, (off_t)overlap.offset) != RANGE_BYTES)
			overlap_die("write");
		pthread_barrier_wait(&overlap.end);
		nr_back += overlap_check(page);
		overlap_discard();
	}
	printf("%d rounds: %d pages came back\n", rounds, nr_back);
	return nr_back != 0;
}
