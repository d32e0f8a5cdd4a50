#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# How an NBD server is named wrongly, and what is said of it. Nothing here needs a server.
# kernels: 7
. "$(dirname "$0")/lib.sh"

: >"$TEST_DIR/file"
chmod 000 "$TEST_DIR/file"
while IFS='|' read -r regex arguments; do
	read -r -a words <<<"$arguments"
	attach_fails 2 "$regex" "${words[@]}"
done <<END
is no NBD URI. To serve what is there: ublk-bridge \[ nbdkit curl http://host/ ]|http://host/
Did you mean nbd://host:10809/data .$|host:10809/data
Did you mean nbd://host:10809 .$|nbd:host:10809
no socket is named|nbd+unix:///
does not begin with /|nbd+unix:///?socket=sock
does not begin with /|nbds://host/?tls-certificates=pki
the URI names the export already|--export x nbd://host
the URI asks for TLS|--tls off nbds://host
cannot verify|--tls allow nbd://host
not used: add --tls require|--tls-username me nbd://host
none of off, allow and require|--tls maybe nbd://host
--tls-certificates: .*No such file|--tls-certificates /nonesuch nbds://host
no directory|--tls-certificates /etc/hostname nbds://host
--tls-psk-file: .*No such file|--tls-psk-file /nonesuch nbds://host
not HOST or HOST:PORT|--tcp host:
99999 is no port|--tcp host:99999
takes two words|--vsock 3
not a whole number|--vsock here 10809
out of range|-C 0 nbd://host
out of range|-C 65 nbd://host
not a duration|--outage-limit soon nbd://host
not a duration|--outage-limit -1 nbd://host
not a duration|--wait 1x nbd://host
too long|--wait 9999999h nbd://host
too short|--stall-timeout 1ms nbd://host
two back ends|--mem 1M nbd://host
two back ends|nbd://host nbd://other
two back ends|--unix /sock nbd://host
two back ends|--unix /sock [ nbdkit memory 1M ]
--connections needs an NBD server|-C 4 --mem 1M
--wait needs an NBD server|--wait 3s
no command to be started|--restart-command nbd://host
Bad file descriptor|--fd 77
END
exec 9</dev/null
attach_fails 2 'Socket operation|not a connected' --fd 9
attach_fails 2 "no command" [ ]
attach_fails 2 'is not UTF-8' --export $'caf\xe9' nbd://host
attach_fails 2 'is not UTF-8' --unix "$TEST_DIR/"$'\xff'
attach_fails 2 "without a '\]'" [ nbdkit
attach_fails 1 'cannot connect' --timeout 20 nbd://host.invalid
attach_fails 1 'cannot connect' --unix "$TEST_DIR/nothing"
attach_fails 1 'cannot connect' --vsock 9 9
