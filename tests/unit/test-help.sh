#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The man pages, --help and the completion know the same options and verbs.
set -euo pipefail

bridge=./ublk-bridge
srcdir=${srcdir:-.}
man=$srcdir/man/ublk-bridge.pod
failed=0

complain() {
	echo "$*"
	failed=1
}

# options_of VERB: long options as --help has them
options_of() { "$bridge" "$1" --help | grep -oE '^ +(-[a-zA-Z], )?--[a-z-]+' |
	grep -oE -- '--[a-z-]+' | sort -u; }

# argp's own, of every program
common='--help --usage --version'

for verb in attach detach list status info set resize migrate fenced recover upgrade stats metrics \
	features; do
	[ -n "$(options_of "$verb")" ] || complain "$verb --help has no options"
	for option in $(options_of "$verb"); do
		[[ " $common " == *" $option "* ]] || grep -qF "B<$option>" "$man" ||
			complain "the man page does not know $verb's $option"
	done
done
all=$(for verb in attach detach list status info set resize migrate fenced recover upgrade stats \
	metrics \
	features; do options_of "$verb"; done)
while read -r option; do
	grep -qxF -- "$option" <<<"$all" || complain \
		"the man page has $option, and no verb's --help has"
done < <(grep -oE '^=item .*B<--[a-z-]+' "$man" | grep -oE -- 'B<--[a-z-]+' | cut -c 3- | sort -u)
# what the completion offers for an option that has a few values
for values in 'log-level error warning notice debug' 'data-path auto copy get-data user-copy' \
	'tls off allow require' \
	'fence time close'; do
	read -r option words <<<"$values"
	grep -qF -- "--$option) echo $words ;;" "$srcdir/contrib/ublk-bridge.bash" ||
		complain "the completion of --$option is not: $words"
done
# each option of attach stands in its own group
[ "$("$bridge" attach --help | sed -n '/^ What the device/,/^$/p' | grep -oE -- '--[a-z-]+' |
	tr '\n' ' ')" = '--backend --mem --prealloc ' ] ||
	complain "attach --help has other options under what the device is made of"
# The help of the program: one screen of 24 lines and 80 columns with the prompt behind it; the
# verbs first, all of them, and each has a help, a place in the man page, and one in the completion.
help=$("$bridge" --help)
[ "$(wc -l <<<"$help")" -le 23 ] || complain "--help has more lines than a screen"
[ "$(wc -L <<<"$help")" -le 80 ] || complain "--help has lines of more than 80 columns"
for verb in attach detach list status info set resize migrate fenced recover upgrade stats metrics \
	features; do
	grep -qE "^  $verb +[a-z]" <<<"$help" || complain "--help does not have the verb $verb"
	grep -qE "^=head2 $verb( |$)" "$man" || complain "the man page does not describe $verb"
	grep -qE "(^|[^a-z-])$verb([^a-z-]|$)" "$srcdir/contrib/ublk-bridge.bash" ||
		complain "the completion does not know $verb"
	[ "$("$bridge" help "$verb")" = "$("$bridge" "$verb" --help)" ] ||
		complain "help $verb is not what $verb --help says"
	[ "$("$bridge" "$verb" -h)" = "$("$bridge" "$verb" --help)" ] ||
		complain "$verb -h is not what $verb --help says"
done
# the verbs of the control socket, and what the page about it describes
page=$srcdir/man/ublk-bridge-control.pod
known=$(sed -n '/ub_keeper_verbs\[\]/,/^};/s/^\t{ "\([a-z-]*\)".*/\1/p' \
	"$srcdir/src/keeper/tables.c" | sort)
described=$(sed -n '/^=head1 VERBS/,/^=head1 EXAMPLES/s/^=head2 //p' "$page" | sort)
[ -n "$known" ] || complain "the control socket has no verbs"
[ "$known" = "$described" ] ||
	complain "the control socket's verbs are ${known//$'\n'/ }, and its man page has $(
		)${described//$'\n'/ }"
exit $failed
