/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging that never blocks its caller.
 *
 * Any thread logs. The writing thread alone touches stderr or syslog; the lock around the buffer is
 * held for a copy, never for a write. Knows nobody.
 */
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/journal.h"
#include "base/text.h"

#define LOG_NR_LINES	128
#define LOG_STACK_BYTES (256U << 10)

struct log_line {
	enum ub_log_level level;
	char text[UB_LOG_LINE_BYTES];
};

static struct {
	_Atomic int level;
	_Atomic bool to_syslog, to_journal, has_device;
	char device[32], name[80]; /* written once, before has_device */
	_Atomic unsigned nr_dropped;
	bool (*_Atomic sink)(enum ub_log_level level, const char *line);
	bool has_thread; /* set before other threads exist */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned head, nr; /* under the lock */
	bool writing;
	struct log_line lines[LOG_NR_LINES];
} logger = {
	.level = UB_LOG_NOTICE,
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.changed = PTHREAD_COND_INITIALIZER,
};

void ub_log_set_level(enum ub_log_level level)
{
	atomic_store_explicit(&logger.level, (int)level, memory_order_relaxed);
}

enum ub_log_level ub_log_get_level(void)
{
	return (enum ub_log_level)atomic_load_explicit(&logger.level, memory_order_relaxed);
}

static const char *const log_level_names[] = {
	[UB_LOG_ERROR] = "error",
	[UB_LOG_WARNING] = "warning",
	[UB_LOG_NOTICE] = "notice",
	[UB_LOG_DEBUG] = "debug",
};

const char *ub_log_level_name(enum ub_log_level level)
{
	return log_level_names[level];
}

int ub_log_level_parse(const char *name, enum ub_log_level *level)
{
	for (unsigned i = 0; i < UB_ARRAY_SIZE(log_level_names); i++) {
		if (strcmp(name, log_level_names[i]) == 0) {
			*level = i;
			return 0;
		}
	}
	return -EINVAL;
}

/* Whether the text names the device, and not another whose number begins like it. */
static bool log_names_device(const char *text)
{
	size_t len = strlen(logger.device);

	for (const char *at = strstr(text, logger.device); at;
	     at = strstr(at + len, logger.device)) {
		if (!isdigit((unsigned char)at[len]))
			return true;
	}
	return false;
}

static void log_write(enum ub_log_level level, const char *text)
{
	static const int priorities[] = { LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_DEBUG };
	bool has_device = atomic_load_explicit(&logger.has_device, memory_order_acquire);
	char line[UB_LOG_LINE_BYTES + sizeof(logger.device) + 32];
	static const char program[] = "ublk-bridge: ";
	int len = snprintf(line, sizeof(line), "%s%s", program, text);

	if (has_device && !log_names_device(text))
		len = snprintf(line, sizeof(line), "%s%s: %s", program, logger.device, text);
	if (atomic_load(&logger.to_journal) &&
	    ub_journal_send(priorities[level], line + strlen(program),
			    has_device ? logger.device : NULL,
			    has_device && logger.name[0] ? logger.name : NULL))
		return;
	if (atomic_load(&logger.to_syslog)) {
		syslog(priorities[level], "%s", line + strlen(program));
	} else {
		/*
		 * One write a line, so that lines of two processes never mix. Lost: nobody to tell.
		 */
		line[len] = '\n';
		ssize_t ignored = write(STDERR_FILENO, line, (size_t)len + 1);

		(void)ignored;
	}
}

bool ub_log_limit_pass(struct ub_log_limit *limit, uint64_t now_ms, unsigned *dropped,
		       bool *is_first)
{
	*dropped = 0;
	*is_first = false;
	if (!limit->began_ms || now_ms - limit->began_ms >= UB_LOG_LIMIT_MS) {
		*dropped = limit->nr_dropped;
		*limit = (struct ub_log_limit){ .began_ms = now_ms };
	}
	if (limit->nr < UB_LOG_LIMIT_LINES) {
		limit->nr++;
		return true;
	}
	*is_first = limit->nr_dropped++ == 0;
	return false;
}

/*
 * Says through sink, or as the writing thread does (NULL), how many lines were lost since the last
 * time.
 */
static void log_report_dropped(bool (*sink)(enum ub_log_level level, const char *line))
{
	unsigned dropped =
		atomic_load(&logger.nr_dropped) ? atomic_exchange(&logger.nr_dropped, 0) : 0;
	char text[64];

	if (!dropped)
		return;
	snprintf(text, sizeof(text), "%u log lines were dropped", dropped);
	if (!sink)
		log_write(UB_LOG_WARNING, text);
	else if (!sink(UB_LOG_WARNING, text))
		atomic_fetch_add(&logger.nr_dropped, dropped);
}

static void *log_main(void *arg)
{
	static struct log_line line;

	(void)arg;
	pthread_mutex_lock(&logger.lock);
	for (;;) {
		while (!logger.nr)
			pthread_cond_wait(&logger.changed, &logger.lock);
		line = logger.lines[logger.head];
		logger.head = (logger.head + 1) % LOG_NR_LINES;
		logger.nr--;
		logger.writing = true;
		pthread_mutex_unlock(&logger.lock);
		log_report_dropped(NULL);
		log_write(line.level, line.text);
		pthread_mutex_lock(&logger.lock);
		logger.writing = false;
		pthread_cond_broadcast(&logger.changed);
	}
	return NULL;
}

static void log_enqueue(enum ub_log_level level, const char *text)
{
	pthread_mutex_lock(&logger.lock);
	if (logger.nr == LOG_NR_LINES) {
		atomic_fetch_add(&logger.nr_dropped, 1);
	} else {
		struct log_line *line = &logger.lines[(logger.head + logger.nr) % LOG_NR_LINES];

		line->level = level;
		strcpy(line->text, text); /* both are UB_LOG_LINE_BYTES long */
		logger.nr++;
		pthread_cond_broadcast(&logger.changed);
	}
	pthread_mutex_unlock(&logger.lock);
}

void ub_log(enum ub_log_level level, const char *fmt, ...)
{
	bool (*sink)(enum ub_log_level, const char *);
	char text[UB_LOG_LINE_BYTES];
	va_list ap;

	if ((int)level > atomic_load_explicit(&logger.level, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ub_text_clean(text); /* a server's name in it may be anything */
	sink = atomic_load(&logger.sink);
	if (sink) {
		if (!sink(level, text))
			atomic_fetch_add(&logger.nr_dropped, 1);
		else
			log_report_dropped(sink);
	} else if (logger.has_thread) {
		log_enqueue(level, text);
	} else {
		log_write(level, text);
	}
}

void ub_log_to_sink(bool (*sink)(enum ub_log_level level, const char *line))
{
	atomic_store(&logger.sink, sink);
}

void ub_log_set_device(const char *device, const char *name)
{
	snprintf(logger.device, sizeof(logger.device), "%s", device);
	snprintf(logger.name, sizeof(logger.name), "%s", name);
	atomic_store_explicit(&logger.has_device, true, memory_order_release);
}

void ub_log_to_journal(void)
{
	if (ub_journal_is_stderr() && ub_journal_open())
		atomic_store(&logger.to_journal, true);
}

void ub_log_to_syslog(void)
{
	if (ub_journal_open())
		atomic_store(&logger.to_journal, true);
	openlog("ublk-bridge", LOG_PID, LOG_DAEMON);
	atomic_store(&logger.to_syslog, true);
}

int ub_log_start_thread(void)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, before;
	int ret;

	sigfillset(&all);
	pthread_attr_init(&attr);
	/* The keeper locks its memory, and a stack of the default size would be 8 MiB of it. */
	pthread_attr_setstacksize(&attr, LOG_STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(&thread, &attr, log_main, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (ret)
		return -ret;
	pthread_detach(thread);
	logger.has_thread = true;
	return 0;
}

void ub_log_flush(void)
{
	struct timespec until;

	if (!logger.has_thread)
		return;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 500000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&logger.lock);
	while ((logger.nr || logger.writing) &&
	       pthread_cond_timedwait(&logger.changed, &logger.lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&logger.lock);
}
