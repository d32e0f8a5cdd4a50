/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* systemd's journal through libsystemd, where there are both: sd_journal_sendv(3). */
#include "base/journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

/* sd-daemon.h and systemd.exec(5): JOURNAL_STREAM is the device and inode of the stream. */
bool ub_journal_is_stderr(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	uint64_t device, inode;
	struct stat st;

	return text && sscanf(text, "%" SCNu64 ":%" SCNu64, &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

#ifdef HAVE_LIBSYSTEMD

#include <dlfcn.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>

#define JOURNAL_SOCKET	    "/run/systemd/journal/socket"
#define JOURNAL_FIELD_BYTES 640 /* a line of the log, and the field's name */

static __typeof__(sd_journal_sendv) *journal_sendv;

bool ub_journal_open(void)
{
	void *library;

	if (journal_sendv)
		return true;
	if (access(JOURNAL_SOCKET, W_OK) < 0)
		return false;
	library = dlopen("libsystemd.so.0", RTLD_NOW | RTLD_LOCAL);
	if (library)
		*(void **)&journal_sendv = dlsym(library, "sd_journal_sendv");
	return journal_sendv != NULL;
}

void ub_journal_main_pid(pid_t pid)
{
	void *library =
		getenv("NOTIFY_SOCKET") ? dlopen("libsystemd.so.0", RTLD_NOW | RTLD_LOCAL) : NULL;
	__typeof__(sd_notify) *notify = NULL;
	char text[32];

	if (library)
		*(void **)&notify = dlsym(library, "sd_notify");
	snprintf(text, sizeof(text), "MAINPID=%d", pid);
	if (notify)
		notify(0, text);
}

static void journal_field(struct iovec *field, char *buf, const char *name, const char *value)
{
	int len = snprintf(buf, JOURNAL_FIELD_BYTES, "%s=%s", name, value);

	field->iov_base = buf;
	field->iov_len = len < JOURNAL_FIELD_BYTES ? (size_t)len : JOURNAL_FIELD_BYTES - 1;
}

bool ub_journal_send(int priority, const char *message, const char *device, const char *name)
{
	char bufs[5][JOURNAL_FIELD_BYTES], number[16];
	struct iovec fields[5];
	int nr = 0;

	/* libsystemd says that it has sent what nobody listens for. */
	if (!journal_sendv || access(JOURNAL_SOCKET, W_OK) < 0)
		return false;
	snprintf(number, sizeof(number), "%d", priority);
	journal_field(&fields[nr], bufs[nr], "MESSAGE", message);
	nr++;
	journal_field(&fields[nr], bufs[nr], "PRIORITY", number);
	nr++;
	journal_field(&fields[nr], bufs[nr], "SYSLOG_IDENTIFIER", "ublk-bridge");
	nr++;
	if (device) {
		journal_field(&fields[nr], bufs[nr], "DEVICE", device);
		nr++;
	}
	if (name) {
		journal_field(&fields[nr], bufs[nr], "DEVICE_NAME", name);
		nr++;
	}
	return journal_sendv(fields, nr) == 0;
}

#else

bool ub_journal_open(void)
{
	return false;
}

void ub_journal_main_pid(pid_t pid)
{
	(void)pid;
}

bool ub_journal_send(int priority, const char *message, const char *device, const char *name)
{
	(void)priority;
	(void)message;
	(void)device;
	(void)name;
	return false;
}

#endif
