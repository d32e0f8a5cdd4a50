/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was meant by a word that is neither verb nor URI. Control plane; looks at files only. */
#include "cli/hints.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "cli/common.h"

#define HINT_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define HINT_DIGITS  "0123456789"
/* long words are cut: a message has a line's room */
#define HINT_WORD "%.150s"

/* Words of other tools, and the verbs that do it here. */
static const struct {
	const char *theirs, *ours;
} hint_verbs[] = {
	{ "stop", "detach" },	  { "disconnect", "detach" }, { "rm", "detach" },
	{ "remove", "detach" },	  { "delete", "detach" },     { "del", "detach" },
	{ "close", "detach" },	  { "umount", "detach" },     { "unmount", "detach" },
	{ "kill", "detach" },	  { "start", "attach" },      { "connect", "attach" },
	{ "add", "attach" },	  { "create", "attach" },     { "open", "attach" },
	{ "mount", "attach" },	  { "serve", "attach" },      { "ls", "list" },
	{ "show", "info" },	  { "describe", "info" },     { "health", "status" },
	{ "move", "migrate" },	  { "mv", "migrate" },	      { "copy", "migrate" },
	{ "grow", "resize" },	  { "extend", "resize" },     { "shrink", "resize" },
	{ "restart", "recover" }, { "repair", "recover" },    { "update", "upgrade" },
	{ "top", "stats" },	  { "iostat", "stats" },      { "prometheus", "metrics" },
	{ "config", "set" },	  { "fence", "fenced" },      { "version", "--version" },
};

bool ub_cli_is_uri(const char *word)
{
	return strncasecmp(word, "nbd", 3) == 0 && strstr(word, "://");
}

/* 0: the word has none. */
static int hint_brackets(const char *word, struct ub_err *err)
{
	size_t len = strlen(word);

	if (word[0] == '[' && strchr(word, ' '))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "': the brackets and what is between them are "
				  "words: leave the quotes out, as in [ nbdkit file disk.img ]",
				  word);
	if (word[0] == '[' || (len > 1 && word[len - 1] == ']'))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "': a bracket is a word: leave a blank on both "
				  "sides, as in [ nbdkit file disk.img ]",
				  word);
	return strcmp(word, "]") == 0 ?
		       ub_err_set(err, EINVAL, "']' without a '[' before the command") :
		       0;
}

static int hint_block_device(const char *word, bool is_named, struct ub_err *err)
{
	const char *number = word + strlen("/dev/ublkb");

	if (strncmp(word, "/dev/ublkb", strlen("/dev/ublkb")) != 0)
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is a block device. To serve it: ublk-bridge [ "
				  "nbdkit file " HINT_WORD " ]",
				  word, word);
	if (is_named && *number && strspn(number, HINT_DIGITS) == strlen(number))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "': to have that device made, give --id %.10s",
				  word, number);
	return ub_err_set(err, EINVAL,
			  "'" HINT_WORD
			  "' is a device. To take it away: ublk-bridge detach " HINT_WORD,
			  word, word);
}

/* Something in a filesystem; 0: it is not there. */
static int hint_file(const char *word, bool is_named, struct ub_err *err)
{
	struct stat st;

	if (strncmp(word, "/dev/ublkb", strlen("/dev/ublkb")) == 0)
		return hint_block_device(word, is_named, err);
	if (stat(word, &st) < 0) {
		if (strchr("/.", word[0]) && strchr(word, '/'))
			return ub_err_errno(err, errno, "'" HINT_WORD "'", word), -EINVAL;
		return 0;
	}
	if (S_ISBLK(st.st_mode))
		return hint_block_device(word, is_named, err);
	if (S_ISSOCK(st.st_mode))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is a socket. To connect to it: ublk-bridge "
				  "--unix " HINT_WORD,
				  word, word);
	if (S_ISREG(st.st_mode))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is a file. To serve it: ublk-bridge [ nbdkit "
				  "file " HINT_WORD " ]",
				  word, word);
	return S_ISDIR(st.st_mode) && strchr(word, '/') ?
		       ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is a directory: give a file in it, as in [ "
				  "nbdkit file FILE ]",
				  word) :
		       0;
}

/* HOST, HOST:PORT, HOST/EXPORT and the like: as a URI is written. */
static bool hint_is_host(const char *word, const char *next)
{
	size_t host = strspn(word, HINT_LETTERS HINT_DIGITS "-._");
	const char *rest = word + host;

	if (host == 0)
		return false;
	if (*rest == ':') {
		size_t digits = strspn(rest + 1, HINT_DIGITS);

		return digits && (!rest[1 + digits] || rest[1 + digits] == '/');
	}
	if (*rest == '/')
		return true;
	if (*rest)
		return false;
	return strcmp(word, "localhost") == 0 || strchr(word, '.') ||
	       (next && *next && strspn(next, HINT_DIGITS) == strlen(next) &&
		!hint_is_host(next, NULL));
}

static bool hint_is_image(const char *word)
{
	static const char *const endings[] = { ".img",	".raw", ".qcow2", ".iso",
					       ".vmdk", ".vhd", ".bin",	  ".vdi" };
	const char *ending = strrchr(word, '.');

	for (unsigned i = 0; ending && i < UB_ARRAY_SIZE(endings); i++) {
		if (strcmp(ending, endings[i]) == 0)
			return true;
	}
	return false;
}

/* qemu's own way to write it: nbd:HOST:PORT[:exportname=E], nbd:unix:PATH[:exportname=E]. */
static int hint_qemu(const char *word, struct ub_err *err)
{
	static const char export[] = ":exportname=";
	const char *rest = word + strlen("nbd:"), *name = strstr(rest, export);
	int len = (int)(name ? (size_t)(name - rest) : strlen(rest));

	name = name ? name + strlen(export) : "";
	if (strncmp(rest, "unix:", 5) == 0)
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is no NBD URI. Did you mean "
				  "nbd+unix:///%.60s?socket=%.*s ?",
				  word, name, len > 105 ? 100 : len - 5, rest + 5);
	return ub_err_set(err, EINVAL,
			  "'" HINT_WORD "' is no NBD URI. Did you mean nbd://%.*s%s%.60s ?", word,
			  len > 100 ? 100 : len, rest, *name ? "/" : "", name);
}

static int hint_address(const char *word, const char *next, struct ub_err *err)
{
	bool has_port = next && *next && strspn(next, HINT_DIGITS) == strlen(next);

	if (strncasecmp(word, "nbd:", 4) == 0)
		return hint_qemu(word, err);
	if (strncasecmp(word, "http://", 7) == 0 || strncasecmp(word, "https://", 8) == 0)
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is no NBD URI. To serve what is there: "
				  "ublk-bridge [ nbdkit curl " HINT_WORD " ]",
				  word, word);
	if (strstr(word, "://"))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "' is no NBD URI, such as nbd://HOST/EXPORT", word);
	if (!hint_is_host(word, next))
		return 0;
	if (hint_is_image(word))
		return ub_err_set(err, EINVAL,
				  "'" HINT_WORD "': there is no such file, and it is no NBD URI "
				  "either, such as nbd://HOST/EXPORT",
				  word);
	return ub_err_set(err, EINVAL,
			  "'" HINT_WORD "' is no NBD URI. Did you mean nbd://" HINT_WORD "%s%.5s ?",
			  word, word, has_port && !strpbrk(word, ":/") ? ":" : "",
			  has_port && !strpbrk(word, ":/") ? next : "");
}

static int hint_size(const char *word, const char *next, struct ub_err *err)
{
	const char *size = strcmp(word, "mem") == 0 || strcmp(word, "memory") == 0 ? next : word;
	struct ub_err ignored;
	uint64_t bytes;

	if (!size || ub_size_parse(size, "", &bytes, &ignored) != 0)
		return size == next && size != word ?
			       ub_err_set(err, EINVAL, "'%s': give --mem SIZE, such as --mem 64M",
					  word) :
			       0;
	return ub_err_set(err, EINVAL, "'%.40s' is a size. Did you mean --mem %.40s ?", size, size);
}

static int hint_verb(const char *word, const char *const verbs[], struct ub_err *err)
{
	const char *meant = NULL;
	char all[200] = "";
	size_t used = 0;

	for (unsigned i = 0; i < UB_ARRAY_SIZE(hint_verbs); i++) {
		if (strcmp(word, hint_verbs[i].theirs) == 0)
			meant = hint_verbs[i].ours;
	}
	for (unsigned i = 0; verbs[i] && used < sizeof(all); i++)
		used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s", i ? ", " : "",
					 verbs[i]);
	if (!meant)
		meant = ub_cli_nearest(word, verbs);
	if (meant)
		return ub_err_set(err, EINVAL,
				  "unknown command '%.60s'. Did you mean '%s'? Commands: %s", word,
				  meant, all);
	return ub_err_set(err, EINVAL,
			  "'" HINT_WORD
			  "' is neither a command nor an NBD URI, such as nbd://HOST/EXPORT. "
			  "Commands: %s",
			  word, all);
}

int ub_cli_hint(const char *word, const char *next, bool is_named, const char *const verbs[],
		struct ub_err *err)
{
	int ret = hint_brackets(word, err);

	if (ret == 0)
		ret = hint_file(word, is_named, err);
	if (ret == 0)
		ret = hint_size(word, next, err);
	if (ret == 0)
		ret = hint_address(word, next, err);
	return ret ? ret : hint_verb(word, verbs, err);
}
