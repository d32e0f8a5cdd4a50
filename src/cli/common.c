/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the verbs share. Control plane; knows no verb. */
#include "cli/common.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <ublk-bridge/ublk-abi.h>

#include "base/cleanup.h"
#include "base/log.h"

#define COMMON_MAX_OPTIONS  96
#define COMMON_MAX_CHILDREN 4
#define COMMON_WORD_BYTES   40

int ub_cli_error(const struct ub_err *err, int status)
{
	/* Usage errors that argp found itself are printed by argp. */
	if (err->code)
		ub_log(UB_LOG_ERROR, "%s", err->text);
	return status;
}

int ub_cli_find_status(const struct ub_err *err)
{
	return err->code == EINVAL || err->code == ERANGE ? UB_EXIT_USAGE : UB_EXIT_FAILED;
}

int ub_cli_parse_device(int key, const char *arg, const char *what, const char **device,
			struct ub_err *err)
{
	if (key == ARGP_KEY_NO_ARGS)
		return -ub_err_set(err, EINVAL,
				   "%s which device? Give a number, /dev/ublkbN or a --name", what);
	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	if (*device)
		return -ub_err_set(err, EINVAL, "%.*s takes one device, not also '%s'",
				   (int)strcspn(what, " "), what, arg);
	*device = arg;
	return 0;
}

/* ---- words that are nearly right ----------------------------------------- */

static unsigned common_least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Letters that are missing, too many, others, or that have changed their places. */
static unsigned common_distance(const char *a, const char *b)
{
	size_t len_a = strlen(a), len_b = strlen(b);
	unsigned rows[3][COMMON_WORD_BYTES + 1];

	if (len_a > COMMON_WORD_BYTES || len_b > COMMON_WORD_BYTES)
		return UINT32_MAX;
	for (unsigned j = 0; j <= len_b; j++)
		rows[0][j] = j;
	for (unsigned i = 1; i <= len_a; i++) {
		unsigned *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];

		now[0] = i;
		for (unsigned j = 1; j <= len_b; j++) {
			unsigned other = a[i - 1] != b[j - 1];

			now[j] = common_least(common_least(now[j - 1], last[j]) + 1,
					      last[j - 1] + other);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = common_least(now[j], before[j - 2] + 1);
		}
	}
	return rows[len_a % 3][len_b];
}

const char *ub_cli_nearest(const char *word, const char *const words[])
{
	const char *nearest = NULL;
	size_t len = strlen(word);
	unsigned least = (unsigned)len / 3;

	if (len < 2)
		return NULL;
	for (unsigned i = 0; words[i]; i++) {
		unsigned distance =
			strncmp(words[i], word, len) == 0 ? 0 : common_distance(word, words[i]);

		if (distance < least || (distance == least && !nearest)) {
			nearest = words[i];
			least = distance;
		}
	}
	return nearest;
}

/* ---- options ------------------------------------------------------------- */

/* Words of other tools, and what stands for them here. */
static const struct {
	const char *theirs, *ours;
} common_synonyms[] = {
	{ "size", "mem" },	    { "memory", "mem" },  { "socket", "unix" },
	{ "host", "tcp" },	    { "port", "tcp" },	  { "export-name", "export" },
	{ "background", "daemon" }, { "fork", "daemon" }, { "device", "id" },
	{ "output", "columns" },
};

static const struct {
	char theirs;
	const char *ours;
} common_short_synonyms[] = {
	{ 'c', "id" },	 { 'x', "export" }, { 'N', "export" },
	{ 'n', "name" }, { 's', "mem" },    { 'b', "block-size" },
	{ 'a', "all" },	 { 'j', "json" },   { 'w', "watch" },
};

struct common_options {
	const struct argp_option *list[COMMON_MAX_OPTIONS];
	unsigned nr;
};

static void common_collect(const struct argp *argp, struct common_options *o)
{
	for (const struct argp_option *option = argp->options;
	     option && (option->name || option->key || option->doc); option++) {
		if (o->nr < COMMON_MAX_OPTIONS && (option->name || option->key))
			o->list[o->nr++] = option;
	}
	for (const struct argp_child *child = argp->children; child && child->argp; child++)
		common_collect(child->argp, o);
}

/* As getopt_long(3): the whole name, or a beginning of it. NULL: no such option. */
static const struct argp_option *common_find(const struct common_options *o, const char *name,
					     size_t len)
{
	const struct argp_option *found = NULL;

	for (unsigned i = 0; i < o->nr; i++) {
		const char *known = o->list[i]->name;

		if (!known || strncmp(known, name, len) != 0)
			continue;
		if (!known[len])
			return o->list[i];
		found = o->list[i];
	}
	return found;
}

static const struct argp_option *common_find_short(const struct common_options *o, char key)
{
	for (unsigned i = 0; i < o->nr; i++) {
		if (o->list[i]->key == key)
			return o->list[i];
	}
	return NULL;
}

static bool common_is_argps(const char *name, size_t len)
{
	static const char *const known[] = { "help", "usage", "version", "program-name" };

	for (unsigned i = 0; len && i < UB_ARRAY_SIZE(known); i++) {
		if (strncmp(known[i], name, len) == 0)
			return true;
	}
	return false;
}

static int common_unknown(const struct common_options *o, const char *verb, const char *option,
			  const char *meant, struct ub_err *err)
{
	if (meant && common_find(o, meant, strlen(meant)))
		return ub_err_set(err, EINVAL,
				  "unknown option '%.80s'. Did you mean '--%s'? See '%s --help'",
				  option, meant, verb);
	return ub_err_set(err, EINVAL, "unknown option '%.80s': see '%s --help'", option, verb);
}

/* --NAME or --NAME=VALUE. *option: what it is; NULL: argp's own. 0 or -EINVAL with *err. */
static int common_check_long(const struct common_options *o, const char *verb, const char *word,
			     const struct argp_option **option, struct ub_err *err)
{
	const char *names[COMMON_MAX_OPTIONS + 1], *meant = NULL;
	size_t len = strcspn(word + 2, "=");
	char name[COMMON_WORD_BYTES], shown[COMMON_WORD_BYTES + 2];
	unsigned nr = 0;

	*option = common_find(o, word + 2, len);
	if (*option || common_is_argps(word + 2, len))
		return 0;
	snprintf(name, sizeof(name), "%.*s", (int)(len < sizeof(name) ? len : sizeof(name) - 1),
		 word + 2);
	snprintf(shown, sizeof(shown), "--%s", name);
	for (unsigned i = 0; i < UB_ARRAY_SIZE(common_synonyms); i++) {
		if (strcmp(name, common_synonyms[i].theirs) == 0)
			meant = common_synonyms[i].ours;
	}
	for (unsigned i = 0; i < o->nr; i++) {
		if (o->list[i]->name && !(o->list[i]->flags & OPTION_HIDDEN))
			names[nr++] = o->list[i]->name;
	}
	names[nr] = NULL;
	if (!meant || !common_find(o, meant, strlen(meant)))
		meant = ub_cli_nearest(name, names);
	return common_unknown(o, verb, shown, meant, err);
}

/* -abc, or -aVALUE. *option: the last of them. */
static int common_check_short(const struct common_options *o, const char *verb, const char *word,
			      const struct argp_option **option, bool *has_value,
			      struct ub_err *err)
{
	for (const char *key = word + 1; *key; key++) {
		const char *meant = NULL;
		char shown[3] = { '-', *key, '\0' };

		*option = common_find_short(o, *key);
		if (*option && (*option)->arg) {
			*has_value = key[1];
			return 0;
		}
		if (*option || strchr("?hV", *key))
			continue;
		for (unsigned i = 0; i < UB_ARRAY_SIZE(common_short_synonyms); i++) {
			if (common_short_synonyms[i].theirs == *key)
				meant = common_short_synonyms[i].ours;
		}
		return common_unknown(o, verb, shown, meant, err);
	}
	return 0;
}

/* Goes through the words as argp will. 0 or -EINVAL with *err: an option that there is not. */
static int common_check_options(const struct argp *argp, int argc, char **argv, struct ub_err *err)
{
	struct common_options o = { .nr = 0 };

	common_collect(argp, &o);
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		const struct argp_option *option = NULL;
		bool has_value = strchr(argv[i], '=');
		int ret = 0;

		if (argv[i][0] != '-' || !argv[i][1])
			continue;
		if (argv[i][1] == '-')
			ret = common_check_long(&o, argv[0], argv[i], &option, err);
		else
			ret = common_check_short(&o, argv[0], argv[i], &option, &has_value, err);
		if (ret)
			return ret;
		if (!option || !option->arg)
			continue;
		if (strstr(option->arg, "...")) /* the rest of the line is a command's */
			return 0;
		i += !has_value && !(option->flags & OPTION_ARG_OPTIONAL);
	}
	return 0;
}

static error_t common_parse_help(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key != 'h')
		return ARGP_ERR_UNKNOWN;
	argp_state_help(state, stdout, ARGP_HELP_STD_HELP);
	return 0;
}

int ub_cli_parse(const struct argp *argp, int argc, char **argv, void *input, struct ub_err *err)
{
	static const struct argp_option options[] = { { NULL, 'h', NULL, OPTION_HIDDEN, NULL, -1 },
						      { 0 } };
	static const struct argp help = { .options = options, .parser = common_parse_help };
	struct argp_child children[COMMON_MAX_CHILDREN + 2] = { { 0 } };
	struct argp with_help = *argp;
	unsigned nr = 0;

	for (; argp->children && argp->children[nr].argp && nr < COMMON_MAX_CHILDREN; nr++)
		children[nr] = argp->children[nr];
	children[nr].argp = &help;
	with_help.children = children;
	if (common_check_options(argp, argc, argv, err) != 0)
		return EINVAL;
	return argp_parse(&with_help, argc, argv, 0, NULL, input);
}

/* ---- printing ------------------------------------------------------------ */

const char *ub_cli_colour(enum ub_cli_colour colour)
{
	static const char *const codes[] = {
		[UB_CLI_PLAIN] = "\033[0m",   [UB_CLI_GREEN] = "\033[32m",
		[UB_CLI_YELLOW] = "\033[33m", [UB_CLI_RED] = "\033[31m",
		[UB_CLI_BOLD] = "\033[1m",
	};
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

	if (!isatty(STDOUT_FILENO) || (no_color && *no_color) || !term || strcmp(term, "dumb") == 0)
		return "";
	return codes[colour];
}

unsigned ub_cli_columns(void)
{
	struct winsize size;

	if (!isatty(STDOUT_FILENO))
		return 0;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

size_t ub_cli_width(const char *text)
{
	size_t columns = 0;

	for (; *text; text++)
		columns += ((unsigned char)*text & 0xc0) != 0x80;
	return columns;
}

void ub_cli_cut(char *text, size_t columns)
{
	for (; *text; text++) {
		if (((unsigned char)*text & 0xc0) == 0x80)
			continue;
		if (columns-- == 0) {
			*text = '\0';
			return;
		}
	}
}

const char *ub_cli_duration(uint64_t ms, char *buf, size_t len)
{
	unsigned long long s = ms / 1000, min = s / 60, h = min / 60;

	if (ms < 1000)
		snprintf(buf, len, "%llu ms", (unsigned long long)ms);
	else if (s < 60 && ms % 1000 >= 100)
		snprintf(buf, len, "%llu.%llu s", s, (unsigned long long)ms % 1000 / 100);
	else if (s < 60)
		snprintf(buf, len, "%llu s", s);
	else if (min < 60)
		snprintf(buf, len, s % 60 ? "%llu min %llu s" : "%llu min", min, s % 60);
	else if (h < 48)
		snprintf(buf, len, min % 60 ? "%llu h %llu min" : "%llu h", h, min % 60);
	else
		snprintf(buf, len, h % 24 ? "%llu d %llu h" : "%llu d", h / 24, h % 24);
	return buf;
}

void ub_cli_print_json(const json_t *json)
{
	/* A double has 15 digits that mean something. */
	json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
	printf("\n");
}

/* ---- the kernel ---------------------------------------------------------- */

bool ub_cli_sysfs(uint32_t id, const char *name, uint64_t *value)
{
	char path[64];
	FILE *file;
	bool found;

	snprintf(path, sizeof(path), "/sys/block/ublkb%u/%s", id, name);
	file = fopen(path, "re");
	if (!file)
		return false;
	found = fscanf(file, "%" SCNu64, value) == 1;
	fclose(file);
	return found;
}

const char *ub_cli_data_path(uint64_t flags)
{
	if (flags & (UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG))
		return "zero-copy";
	if (flags & UBLK_F_USER_COPY)
		return "user-copy";
	return flags & UBLK_F_NEED_GET_DATA ? "get-data" : "copy";
}
