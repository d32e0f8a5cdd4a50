# SPDX-License-Identifier: LGPL-2.1-or-later
# Completion of ublk-bridge for fish: what --help says, and the devices that there are.

set -g __ublk_bridge_verbs attach detach list status info set resize migrate fenced recover \
	upgrade stats metrics features help

# The verb of the line; attach where none is named.
function __ublk_bridge_verb
	for word in (commandline -opc)[2..-1]
		if contains -- $word $__ublk_bridge_verbs
			echo $word
			return
		end
		string match -qr -- '^(-|\[)' $word; and break
	end
	echo attach
end

function __ublk_bridge_devices
	set -l nodes /dev/ublkb*
	string match -r -- '^/dev/ublkb[0-9]+$' $nodes
	# names are for root, as the run directory is
	set -l dir /run/ublk-bridge
	set -q UBLK_BRIDGE_RUNDIR; and set dir $UBLK_BRIDGE_RUNDIR
	set -l states $dir/*/state.json
	for state in $states
		basename (dirname $state)
	end
end

function __ublk_bridge_options
	ublk-bridge (__ublk_bridge_verb) --help 2>/dev/null |
		string replace -rf -- '^ +(?:-[a-zA-Z?], )?(--[a-z-]+).*' '$1'
end

function __ublk_bridge_takes_devices
	contains -- (__ublk_bridge_verb) detach list status info set resize migrate fenced recover \
		upgrade stats
end

complete -c ublk-bridge -n 'test (count (commandline -opc)) = 1' -a '$__ublk_bridge_verbs' -f
complete -c ublk-bridge -n 'test (__ublk_bridge_verb) = help' -a '$__ublk_bridge_verbs' -f
complete -c ublk-bridge -n __ublk_bridge_takes_devices -a '(__ublk_bridge_devices)' -f
complete -c ublk-bridge -n 'string match -q -- "-*" (commandline -ct)' \
	-a '(__ublk_bridge_options)' -f
complete -c ublk-bridge -l data-path -xa 'auto copy get-data user-copy'
complete -c ublk-bridge -l tls -xa 'off allow require'
complete -c ublk-bridge -l fence -xa 'time close'
complete -c ublk-bridge -l log-level -xa 'error warning notice debug'
complete -c ublk-bridge -l scheduler -xa 'none keep mq-deadline bfq kyber'
complete -c ublk-bridge -l block-size -xa '512 1024 2048 4096'
complete -c ublk-bridge -s o -l columns -xa 'DEVICE NAME STATE SIZE RO BACKEND QUEUES DEPTH \
	DATA-PATH KEEPER SERVER KERNEL SOURCE'
complete -c ublk-bridge -l unix -rF
complete -c ublk-bridge -l tls-psk-file -rF
complete -c ublk-bridge -l tls-certificates -xa '(__fish_complete_directories)'
