# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# ./dev build: out-of-tree builds, configured when they are not yet.

# the last revision whose keeper and server speak version 3 of include/ublk-bridge/message.h
OLD_REVISION=8f3db5a

# build_dir [asan|old]: UB_BUILD_DIR moves them
build_dir() {
	case ${1:-} in
	asan | old) printf '%s-%s' "${UB_BUILD_DIR:-$PROJECT/build}" "$1" ;;
	*) printf '%s' "${UB_BUILD_DIR:-$PROJECT/build}" ;;
	esac
}

need_build_tools() {
	need gcc:gcc make:make autoconf:autoconf automake:automake libtoolize:libtool \
		pkg-config:pkg-config pod2man:perl '/usr/include/linux/ublk_cmd.h:linux-libc-dev' \
		/usr/include/ctype.h:libc6-dev /usr/include/liburing.h:liburing-dev \
		/usr/include/libnbd.h:libnbd-dev /usr/include/cmocka.h:libcmocka-dev \
		/usr/include/jansson.h:libjansson-dev \
		/usr/include/systemd/sd-journal.h:libsystemd-dev \
		'/usr/share/aclocal/ax_*.m4:autoconf-archive'
}

# what the guest tests use, found in the guest because its root is this machine's
need_test_tools() {
	need fio:fio mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs \
		mkfs.vfat:dosfstools \
		sfdisk:fdisk partx:util-linux modprobe:kmod nbdkit:nbdkit qemu-nbd:qemu-utils \
		qemu-storage-daemon:qemu-system-common certtool:gnutls-bin jq:jq \
		nbd-server:nbd-server \
		nbdcopy:libnbd-bin python3:python3 pgrep:procps setfattr:attr strace:strace \
		losetup:mount \
		dmsetup:dmsetup ip:iproute2 sqlite3:sqlite3
}

# build_autogen: when configure is missing or older than what it is made of
build_autogen() {
	[ -e "$PROJECT/configure.ac" ] || die "there is no configure.ac"
	if [ -x "$PROJECT/configure" ] && [ "$PROJECT/configure" -nt "$PROJECT/configure.ac" ] &&
		[ -e "$PROJECT/Makefile.in" ]; then
		return
	fi
	if [ -x "$PROJECT/autogen.sh" ]; then
		(cd "$PROJECT" && ./autogen.sh)
	else
		autoreconf -fi "$PROJECT"
	fi
}

# build_configure FLAVOUR DIR: when it never was, or configure is newer
build_configure() {
	local options=(--quiet --enable-werror)
	[ ! -e "$2/Makefile" ] || [ "$PROJECT/configure" -nt "$2/config.status" ] || return 0
	[ "$1" != asan ] || options+=(--enable-asan --enable-ubsan)
	(cd "$2" && "$PROJECT/configure" "${options[@]}")
}

# build_flavour plain|asan: its output is shown only when it fails or warns
build_flavour() {
	local dir lock
	dir=$(build_dir "$1")
	mkdir -p "$dir"
	exec {lock}>"$dir/.dev-lock"
	flock "$lock"
	{
		build_autogen && build_configure "$1" "$dir" &&
			make -C "$dir" -s --no-print-directory -j "$(nproc)" all
	} >"$dir/dev-build.log" 2>&1 || {
		tail -n 60 "$dir/dev-build.log" >&2
		exec {lock}>&-
		return 1
	}
	exec {lock}>&-
}

# has_old: this clone's history has the old revision (a release, or a shallow clone, has not)
has_old() { git -C "$PROJECT" cat-file -e "$OLD_REVISION^{commit}" 2>/dev/null; }

# build_old: the program as it was, from this clone's own history, once
build_old() {
	local dir lock
	dir=$(build_dir old)
	mkdir -p "$dir"
	exec {lock}>"$dir/.dev-lock"
	flock "$lock"
	if [ "$(cat "$dir/revision" 2>/dev/null)" != $OLD_REVISION ]; then
		{
			rm -rf "$dir/source" "$dir/revision" &&
				mkdir "$dir/source" &&
				git -C "$PROJECT" archive $OLD_REVISION | tar -x -C "$dir/source" &&
				(cd "$dir/source" && ./autogen.sh && ./configure --quiet) &&
				make -C "$dir/source" -s -j "$(nproc)" ublk-bridge &&
				mv "$dir/source/ublk-bridge" "$dir/" &&
				echo $OLD_REVISION >"$dir/revision"
		} >"$dir/dev-build.log" 2>&1 || {
			tail -n 60 "$dir/dev-build.log" >&2
			exec {lock}>&-
			return 1
		}
	fi
	exec {lock}>&-
}

build_main() {
	local flavour=plain
	[ "${1:-}" != --asan ] || flavour=asan
	need_build_tools
	step "building in $(build_dir $flavour)" build_flavour $flavour
}
