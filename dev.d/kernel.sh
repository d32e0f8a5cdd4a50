# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# The guests' kernels: downloads Debian's packaged 6.12 and 7.x, unpacks them in the cache and
# builds a small initramfs for each. The machine's own apt state is not touched: apt is given its
# own folders, and the machine's own Debian source with the suite's name exchanged.

# what the initramfs loads, in this order, after what modules.dep says they need
BOOT_MODULES=(virtio_pci virtio_console 9pnet_virtio 9p overlay)
# unpacked for a quick modprobe in the guest, beside all that they need
PLAIN_MODULES=(ublk_drv virtio_blk virtio_net virtio_rng ext4 xfs btrfs vfat nls_ascii nls_cp437
	nls_iso8859-1 nls_utf8 nbd loop brd null_blk dm-mod dm-snapshot dm-thin-pool dm-crypt
	dm-flakey dm-delay raid1 raid456 zram crc32c_generic crc32c-intel libcrc32c crc32c-cryptoapi
	fuse unix vsock tun)

# kernel_suite SERIES: Debian's suite that has it
kernel_suite() {
	case $1 in
	6.12) echo bookworm-backports ;;
	7) echo trixie-backports ;;
	*) return 1 ;;
	esac
}

kernel_dir() { printf '%s/kernels/%s' "$CACHE" "$1"; }

# kernel_release SERIES: as uname -r says it in the guest
kernel_release() { cat "$(kernel_dir "$1")/release"; }

kernel_is_cached() { [ -e "$(kernel_dir "$1")/release" ]; }

# debian_sources: each Debian source of this machine as "file-safe" deb822 stanzas without a
# suite, separated by empty lines; both ways of writing sources are read
debian_sources() {
	local file etc=${UB_APT_ETC:-/etc/apt}
	for file in "$etc"/sources.list.d/*.sources; do
		[ -r "$file" ] && sources_from_deb822 "$file"
	done
	for file in "$etc"/sources.list "$etc"/sources.list.d/*.list; do
		[ -r "$file" ] && sources_from_list "$file"
	done
	return 0
}

DEBIAN_SUITE='^(buster|bullseye|bookworm|trixie|forky|duke|sid|unstable|testing|stable|oldstable)$'

# sources_from_deb822 FILE
sources_from_deb822() {
	awk -v suite="$DEBIAN_SUITE" '
	function flush_stanza(   i, n, word, ours) {
		n = split(field["suites"], word, /[ \t\n]+/)
		for (i = 1; i <= n; i++)
			if (word[i] ~ suite)
				ours = 1
		if (ours && field["types"] ~ /(^|[ \t])deb([ \t]|$)/ && field["enabled"] !~ /^no/ &&
		    field["components"] ~ /(^|[ \t])main([ \t]|$)/) {
			print "URIs: " field["uris"]
			if ("signed-by" in field)
				print "Signed-By: " field["signed-by"]
			print ""
		}
		delete field
		name = ""
	}
	/^#/ { next }
	/^[ \t]*$/ { flush_stanza(); next }
	/^[ \t]/ { if (name != "") field[name] = field[name] "\n" $0; next }
	{
		at = index($0, ":")
		name = tolower(substr($0, 1, at - 1))
		field[name] = substr($0, at + 1)
		sub(/^[ \t]+/, "", field[name])
	}
	END { flush_stanza() }' "$1"
}

# sources_from_list FILE
sources_from_list() {
	local line options gap='[[:space:]]+' word='([^[:space:]]+)'
	while read -r line; do
		options=
		if [[ $line =~ ^deb[[:space:]]+\[([^]]*)\][[:space:]]+(.*)$ ]]; then
			options=${BASH_REMATCH[1]}
			line="deb ${BASH_REMATCH[2]}"
		fi
		[[ $line =~ ^deb$gap$word$gap([^[:space:]/]+)[[:space:]](.*)$ ]] ||
			continue
		[[ ${BASH_REMATCH[2]} =~ $DEBIAN_SUITE && " ${line#* } " == *" main "* ]] ||
			continue
		[[ $line =~ ^deb[[:space:]]+([^[:space:]]+) ]] &&
			printf 'URIs: %s\n' "${BASH_REMATCH[1]}"
		[[ $options =~ signed-by=([^[:space:]]+) ]] &&
			printf 'Signed-By: %s\n' "${BASH_REMATCH[1]//,/ }"
		echo
	done <"$1"
}

# private_apt TOOL ARGUMENTS…: apt-get or apt-cache on folders of our own, below $APT_DIR
private_apt() {
	local tool=$1
	shift
	"$tool" -qq -o Dir::State="$APT_DIR/state" -o Dir::State::Lists="$APT_DIR/lists" \
		-o Dir::State::status=/dev/null -o Dir::Cache="$APT_DIR/cache" \
		-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$APT_DIR/sources" \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o APT::Architecture=amd64 -o APT::Architectures::=amd64 \
		-o Acquire::Check-Valid-Until=false -o Acquire::Languages=none \
		-o APT::Sandbox::User="$(id -un)" -o APT::Get::List-Cleanup=false "$@"
}

# apt_knows_suite STANZA SUITE: the lists of SUITE, from this source, are in $APT_DIR
apt_knows_suite() {
	rm -rf "$APT_DIR"
	mkdir -p "$APT_DIR"/{state,lists/partial,cache/archives/partial,sources}
	printf 'Types: deb\nSuites: %s\nComponents: main\n%s\n' "$2" "$1" \
		>"$APT_DIR/sources/kernel.sources"
	private_apt apt-get update >"$APT_DIR/log" 2>&1 &&
		[ -n "$(private_apt apt-cache show linux-image-amd64 2>/dev/null)" ]
}

# apt_find_suite SUITE: the first of the machine's sources that has it
apt_find_suite() {
	local stanza
	while IFS= read -r -d '' stanza; do
		apt_knows_suite "$stanza" "$1" && return 0
	done < <(debian_sources | awk -v RS= -v ORS='\0' '{ print }')
	[ ! -s "$APT_DIR/log" ] || tail -n 5 "$APT_DIR/log" >&2
	say "no Debian source of this machine (/etc/apt) has $1"
	return 1
}

# depends_of PACKAGE: the kernel packages that it depends on
depends_of() {
	private_apt apt-cache show "$1" | sed -n 's/^Depends: //p' | sed 's/[,|]/\n/g' |
		grep -oE '^ *linux-(image|binary|modules)-[0-9][^ ]*' | tr -d ' '
}

# kernel_packages: names the packages with the image and its modules, by walking the dependencies
kernel_packages() {
	local queue=(linux-image-amd64) seen=' ' package
	while [ ${#queue[@]} -gt 0 ]; do
		package=${queue[0]}
		queue=("${queue[@]:1}")
		[[ $seen != *" $package "* ]] || continue
		seen+="$package "
		[ "$package" = linux-image-amd64 ] || echo "$package"
		mapfile -t -O "${#queue[@]}" queue < <(depends_of "$package")
	done
}

# kernel_download SERIES DIR: the .deb files into DIR/debs, unpacked in DIR/root
kernel_download() {
	local packages deb
	mapfile -t packages < <(kernel_packages)
	[[ " ${packages[*]}" == *" linux-"*"-$1."* ]] || {
		say "$(kernel_suite "$1") has no $1 kernel any more: ${packages[*]:-nothing}"
		return 1
	}
	say "downloading ${packages[*]}"
	mkdir "$2/debs" "$2/root"
	(cd "$2/debs" && private_apt apt-get download "${packages[@]}") || return 1
	for deb in "$2"/debs/*.deb; do
		dpkg -x "$deb" "$2/root" || return 1
	done
	rm -rf "$2/debs"
}

# quiet_depmod ROOT RELEASE: some packages leave out lists that depmod then misses aloud, in vain
quiet_depmod() {
	depmod -b "$1" "$2" 2> >(grep -v 'WARNING: could not open modules' >&2)
}

# kernel_arrange DIR: DIR/vmlinuz, DIR/modules/lib/modules/RELEASE with its modules.dep, DIR/release
kernel_arrange() {
	local dir=$1 image release tree
	for tree in "$dir"/root/usr/lib/modules/* "$dir"/root/lib/modules/*; do
		[ -d "$tree/kernel" ] && break
	done
	release=${tree##*/}
	for image in "$dir/root/boot/vmlinuz-$release" "$tree/vmlinuz"; do
		[ -e "$image" ] && break
	done
	mv "$image" "$dir/vmlinuz" || return 1
	mkdir -p "$dir/modules/lib/modules"
	mv "$tree" "$dir/modules/lib/modules/" && rm -rf "$dir/root" || return 1
	quiet_depmod "$dir/modules" "$release" || return 1
	plain_modules "$dir/modules/lib/modules/$release" "${BOOT_MODULES[@]}" "${PLAIN_MODULES[@]}"
	quiet_depmod "$dir/modules" "$release" || return 1
	echo "$release" >"$dir/release"
}

# modules_with_needs TREE MODULE…: paths below TREE, what is needed first, each once; built-in
# and unknown names are left out
modules_with_needs() {
	local tree=$1
	shift
	awk -v wanted="$*" '
	function basename_of(path) {
		sub(/.*\//, "", path)
		sub(/\.ko.*/, "", path)
		gsub(/-/, "_", path)
		return path
	}
	{
		path = $1
		sub(/:$/, "", path)
		at[basename_of(path)] = path
		$1 = ""
		needs[path] = $0
	}
	END {
		n = split(wanted, want, " ")
		for (i = 1; i <= n; i++) {
			gsub(/-/, "_", want[i])
			if (!(want[i] in at))
				continue
			m = split(needs[at[want[i]]], need, " ")
			for (j = m; j > 0; j--)   # modules.dep names the nearest first
				if (!done[need[j]]++)
					print need[j]
			if (!done[at[want[i]]]++)
				print at[want[i]]
		}
	}' "$tree/modules.dep"
}

# plain_modules TREE MODULE…: decompresses them where they are
plain_modules() {
	local tree=$1 path
	shift
	while read -r path; do
		case $path in
		*.xz) xz -d "$tree/$path" ;;
		*.zst) zstd -q -d --rm "$tree/$path" ;;
		esac
	done < <(modules_with_needs "$tree" "$@")
}

# kernel_fetch SERIES: makes the cached folder; it gets its name only when it is whole
kernel_fetch() {
	local series=$1 dir part
	dir=$(kernel_dir "$series")
	part=$dir.part
	need xz:xz-utils zstd:zstd depmod:kmod
	rm -rf "$part"
	mkdir -p "$part"
	APT_DIR=$part/apt
	apt_find_suite "$(kernel_suite "$series")" || return 1
	kernel_download "$series" "$part" || return 1
	kernel_arrange "$part" || return 1
	rm -rf "$APT_DIR" "$dir"
	mv "$part" "$dir"
}

# initrd_path SERIES: its name tells what it was made of, so a change makes a new one
initrd_path() {
	local sum
	sum=$(cat "$DEV_D/guest-init" "$DEV_D/kernel.sh" "$(command -v busybox)" | cksum)
	printf '%s/initrd.%s' "$(kernel_dir "$1")" "${sum%% *}"
}

# initrd_build SERIES FILE
initrd_build() {
	local tree work path
	tree=$(kernel_dir "$1")/modules/lib/modules/$(kernel_release "$1")
	work=$(mktemp -d)
	mkdir -p "$work"/{bin,modules,proc,sys,dev,ro,rw,new}
	cp "$(command -v busybox)" "$work/bin/busybox"
	cp "$DEV_D/guest-init" "$work/init"
	chmod +x "$work/init"
	while read -r path; do
		cp "$tree/$path" "$work/modules/" && echo "${path##*/}" >>"$work/modules/order"
	done < <(modules_with_needs "$tree" "${BOOT_MODULES[@]}")
	rm -f "$(kernel_dir "$1")"/initrd.*
	(cd "$work" && find . | cpio -o -H newc --quiet -R 0:0) >"$2.part" && mv "$2.part" "$2"
	rm -rf "$work"
}

# kernel_ready SERIES: has the kernel and its initramfs in the cache, or returns 1
kernel_ready() {
	local series=$1 lock
	kernel_suite "$series" >/dev/null || die "no such kernel: $series (there are 6.12 and 7)"
	[ "$(uname -m)" = x86_64 ] || {
		say "guests are known for x86_64 only"
		return 1
	}
	need qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio
	mkdir -p "$CACHE/kernels"
	exec {lock}>"$CACHE/kernels/lock"
	flock "$lock"
	if ! kernel_is_cached "$series"; then
		step "getting Debian's $series kernel into $CACHE" kernel_fetch "$series" ||
			return 1
	fi
	[ -e "$(initrd_path "$series")" ] ||
		step "building the $series initramfs" initrd_build "$series" \
			"$(initrd_path "$series")"
	exec {lock}>&-
}

kernel_main() {
	local series
	[ $# -gt 0 ] || set -- 6.12 7
	for series; do
		kernel_ready "$series" || die "the $series kernel cannot be had"
		say "$series: $(kernel_release "$series") in $(kernel_dir "$series")"
	done
}
