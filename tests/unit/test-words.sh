#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A word that is neither verb nor URI gets what was meant by it: status 2, one line, no device.
set -euo pipefail

bridge=$PWD/ublk-bridge
failed=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
: >disk.img
: >'odd name'
mkdir stop

# means TEXT WORDS…: the one line on stderr has TEXT
means() {
	local text=$1 said status=0
	shift
	said=$("$bridge" "$@" 2>&1 </dev/null) || status=$?
	if [ $status != 2 ] || [[ $said != "ublk-bridge: "*"$text"* || $said == *$'\n'* ]]; then
		echo "\"$*\" ends with $status and says: $said"
		echo "  and not: $text"
		failed=1
	fi
}

# what is there
means "'disk.img' is a file. To serve it: ublk-bridge [ nbdkit file disk.img ]" disk.img
means "To serve it: ublk-bridge [ nbdkit file ./disk.img ]" -d ./disk.img
means "'odd name' is a file" 'odd name'
means "'./nosuch': No such file or directory" ./nosuch
means "'nosuch.img': there is no such file" nosuch.img
means "'/tmp' is a directory" /tmp
if command -v python3 >/dev/null; then
	python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("nbd.sock")'
	means "'nbd.sock' is a socket. To connect to it: ublk-bridge --unix nbd.sock" -d nbd.sock
fi
means "'/dev/ublkb0' is a device. To take it away: ublk-bridge detach /dev/ublkb0" -d /dev/ublkb0
means "to have that device made, give --id 5" nbd://host/data /dev/ublkb5

# an address
means "Did you mean nbd://localhost:10809/data ?" localhost:10809/data
means "Did you mean nbd://localhost:10809 ?" localhost:10809
means "Did you mean nbd://localhost/data ?" localhost/data
means "Did you mean nbd://localhost:10809 ?" -d localhost 10809
means "Did you mean nbd://localhost ?" localhost
means "Did you mean nbd://10.0.0.1 ?" 10.0.0.1
means "Did you mean nbd://storage:10809 ?" storage 10809
means "Did you mean nbd://localhost:10809/data ?" nbd:localhost:10809:exportname=data
means "Did you mean nbd+unix:///?socket=/run/s ?" nbd:unix:/run/s
means "Did you mean nbd+unix:///e?socket=/run/s ?" nbd:unix:/run/s:exportname=e
means "ublk-bridge [ nbdkit curl https://host/x.iso ]" https://host/x.iso
means "'ftp://host/x' is no NBD URI, such as nbd://HOST/EXPORT" ftp://host/x

# a size
means "'64M' is a size. Did you mean --mem 64M ?" 64M
means "Did you mean --mem 64M ?" mem 64M
means "give --mem SIZE" mem

# brackets
means "leave a blank on both sides" '[nbdkit' file disk.img ']'
means "leave a blank on both sides" nbdkit]
means "leave the quotes out" '[ nbdkit file disk.img ]'
means "']' without a '['" ']'

# a verb, of another tool or misspelt; a folder of its name is none of it
for pair in stop:detach disconnect:detach rm:detach remove:detach delete:detach umount:detach \
	show:info ls:list connect:attach move:migrate grow:resize restart:recover update:upgrade \
	top:stats \
	det:detach dettach:detach lsit:list statsu:status resizee:resize migrat:migrate; do
	means "unknown command '${pair%:*}'. Did you mean '${pair#*:}'?" "${pair%:*}"
done
means "Did you mean 'detach'? Commands: attach, detach, list, status, info, " stop data --force
means "'xyzzy' is neither a command nor an NBD URI" xyzzy
means "unknown command 'lst'. Did you mean 'list'?" help lst

# an option
means "unknown option '--size'. Did you mean '--mem'? See 'ublk-bridge attach --help'" --size 64M
means "unknown option '--nmae'. Did you mean '--name'?" --mem 1M --nmae x
means "unknown option '--forec'. Did you mean '--force'? See 'ublk-bridge detach" detach 0 --forec
means "unknown option '-n'. Did you mean '--name'?" -d -n two
means "unknown option '--qqq': see 'ublk-bridge info --help'" info --qqq
exit $failed
