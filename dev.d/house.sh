#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ./dev lint: how the house is built. The map of includes (dev.d/map), circles of calls between
# source files, and the sizes that a reader can bear.

HOUSE_FILE_LINES=600     # of a file in src/
HOUSE_FUNCTION_LINES=60  # of a function's body
HOUSE_KEEPER_MEMBERS=20  # of struct ub_keeper
HOUSE_KEEPER_BOOLS=22    # in the structs of the keeper, its servers and its jobs
HOUSE_KEEPER_WAITS=15    # places that run the keeper's poll loop
HOUSE_PATHS='\b(src|include|tests|dev\.d|docs|contrib|man)/[A-Za-z0-9_./-]+\.(c|h|sh|md|pod)\b'
HOUSE_WORDS="README.md:1300 HACKING.md:2800"

# house_map: includes that the map does not allow
house_map() {
	(cd "$PROJECT/src" && git ls-files '*.c' '*.h' | perl -e '
		my (%may, $bad, $room);
		open(my $map, "<", shift) or die "the map: $!\n";
		while (<$map>) {
			next if /^#/ || !/\S/;
			my ($word, @rooms) = split;
			$room = $word if $word ne "+";
			$may{$room}{$_} = 1 for @rooms;
		}
		for my $file (<STDIN>) {
			chomp $file;
			next if !-e $file;
			$room = $may{$file} ? $file : $file =~ s{/[^/]*$}{}r;
			if (!$may{$room}) {
				print "src/$file: the room is not on the map\n";
				$bad = 1;
				next;
			}
			open(my $in, "<", $file) or die "$file: $!\n";
			while (<$in>) {
				next unless m{^\s*#\s*include "([^"]+)"};
				my $header = $1;
				my $of = $header =~ s{/[^/]*$}{}r;
				next if $header eq "config.h" || $of eq $room;
				next if $may{$room}{$of} || $may{$room}{$header};
				print "src/$file:$.: \"$header\" is not on its map\n";
				$bad = 1;
			}
		}
		exit($bad // 0)' "$DEV_D/map")
}

# house_sizes: files and functions that are too long
house_sizes() {
	# shellcheck disable=SC2016 # perl's variables
	(cd "$PROJECT" && git ls-files 'src/*.c' 'src/*.h' 'include/*.h' |
		xargs perl -ne '
		BEGIN { ($lines, $body) = splice(@ARGV, 0, 2) }
		$from = $. if /^\{$/;
		if (/^\}$/ && $from) {
			$long = $. - $from - 1;
			print "$ARGV:$from: a function of $long lines\n" if $long > $body;
			$bad = 1 if $long > $body;
			$from = 0;
		}
		if (eof) {
			print "$ARGV: $. lines\n" if $. > $lines;
			$bad = 1 if $. > $lines;
			close ARGV;
		}
		END { exit($bad // 0) }' "$HOUSE_FILE_LINES" "$HOUSE_FUNCTION_LINES")
}

# house_circles: source files that call each other in a circle, by the symbols of their objects
house_circles() {
	local dir
	dir=$(build_dir)
	(cd "$dir" && find src -name '*.o' ! -name 'main.o' -print0 | xargs -0 nm -A -g |
		perl -ne '
		/^(\S+?)\.o:\S*\s+([A-Za-z])\s+(\S+)$/ or next;
		my ($file, $type, $name) = ($1, $2, $3);
		if ($type eq "U") { push @{$uses{$file}}, $name } else { $home{$name} = $file }
		END {
			for my $file (keys %uses) {
				for my $name (@{$uses{$file}}) {
					my $to = $home{$name};
					$calls{$file}{$to}{$name} = 1 if $to && $to ne $file;
				}
			}
			visit($_) for sort grep { !$index{$_} } keys %calls;
			exit($bad // 0);
		}
		# strongly connected parts, as Tarjan found out how to find them
		sub visit {
			my $at = shift;
			$index{$at} = $low{$at} = ++$nr;
			push @stack, $at;
			$on{$at} = 1;
			for my $to (sort keys %{$calls{$at}}) {
				visit($to) unless $index{$to};
				$low{$at} = $low{$to} if $on{$to} && $low{$to} < $low{$at};
			}
			return if $low{$at} != $index{$at};
			my @part;
			do { push @part, pop @stack; $on{$part[-1]} = 0 } until $part[-1] eq $at;
			return if @part == 1;
			$bad = 1;
			print "a circle of ", scalar(@part), " files:\n";
			my %in = map { $_ => 1 } @part;
			for my $file (sort @part) {
				for my $to (grep { $in{$_} } sort keys %{$calls{$file}}) {
					my @names = sort keys %{$calls{$file}{$to}};
					print "\t$file.c calls $to.c: @names\n";
				}
			}
		}')
}

# house_count WHAT LIMIT NUMBER
house_count() {
	echo "$1: $3 (at most $2)"
	[ "$3" -le "$2" ]
}

# house_keeper: members, booleans and waits of the keeper
house_keeper() {
	local status=0 keeper=$PROJECT/src/keeper files
	files=$(find "$keeper" -name '*.[ch]')
	house_count "members of struct ub_keeper" "$HOUSE_KEEPER_MEMBERS" \
		"$(sed -n '/^struct ub_keeper {/,/^};/p' "$keeper/keeper.h" |
			grep -c '^\s[^*/].*;')" || status=1
	# shellcheck disable=SC2086 # names without blanks
	house_count "booleans of the keeper and its jobs" "$HOUSE_KEEPER_BOOLS" "$(cat $files |
		perl -ne '$in = 1 if /^struct ub_(keeper\w*|server|recovery|kernel\w*) \{$/;
			$in = 0 if /^\};/;
			$n += 1 + tr/,// if $in && /^\t+bool [^(]*;/;
			END { print $n + 0 }')" || status=1
	# shellcheck disable=SC2086
	house_count "places that run the keeper's loop" "$HOUSE_KEEPER_WAITS" \
		"$(cat $files | grep -c 'ub_loop_once(')" || status=1
	return $status
}

# house_documents: documents that are too long, and files that they name and that there are not
house_documents() {
	local status=0 word file name
	for word in $HOUSE_WORDS; do
		file=${word%:*}
		house_count "words of $file" "${word#*:}" "$(wc -w <"$PROJECT/$file")" || status=1
	done
	for file in README.md HACKING.md docs/*.md tests/guest/README.md; do
		while read -r name; do
			case $name in *[A-Z][A-Z]*) continue ;; esac # a pattern: VERB.c
			[ -e "$PROJECT/$name" ] || {
				echo "$file names $name, which there is not"
				status=1
			}
		done < <(grep -oE "$HOUSE_PATHS" "$PROJECT/$file" | sort -u)
	done
	return $status
}

# lint_house: all of that; says what is wrong
lint_house() {
	local status=0 part
	for part in map sizes circles keeper documents; do
		"house_$part" || status=1
	done
	return $status
}
