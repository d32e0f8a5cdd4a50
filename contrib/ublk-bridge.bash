# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Completion of ublk-bridge for bash: what --help says, and the devices that there are.

# Names and nodes of devices. Names are for root, as the run directory is.
_ublk_bridge_devices() {
	local node name
	for node in /dev/ublkb*; do
		[[ ! $node =~ ^/dev/ublkb[0-9]+$ ]] || printf '%s\n' "$node"
	done
	for name in "${UBLK_BRIDGE_RUNDIR:-/run/ublk-bridge}"/*/; do
		[ ! -e "$name/state.json" ] || basename "$name"
	done 2>/dev/null
}

# The values of an option; nothing is printed of one that takes none, or any.
_ublk_bridge_values() {
	case $1 in
	--data-path) echo auto copy get-data user-copy ;;
	--tls) echo off allow require ;;
	--fence) echo time close ;;
	--log-level) echo error warning notice debug ;;
	--scheduler) echo none keep mq-deadline bfq kyber ;;
	--block-size) echo 512 1024 2048 4096 ;;
	-o | --columns) echo DEVICE NAME STATE SIZE RO BACKEND QUEUES DEPTH DATA-PATH KEEPER \
		SERVER KERNEL SOURCE ;;
	esac
}

_ublk_bridge() {
	local current=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]} verb='' word
	local verbs='attach detach list status info set resize migrate fenced recover upgrade stats
		metrics features help' options
	COMPREPLY=()
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		attach | detach | list | status | info | set | resize | migrate | fenced | \
			recover | upgrade | stats | metrics | features | help)
			verb=$word && break
			;;
		-* | = | [) break ;; # options of attach, which need not be named
		esac
	done
	# bash makes words of their own of "=" and what stands behind it
	if [[ $current = = ]]; then
		current='' last=${COMP_WORDS[COMP_CWORD - 1]}
	elif [[ $last = = ]]; then
		last=${COMP_WORDS[COMP_CWORD - 2]}
	elif [[ $current = --*=* ]]; then
		last=${current%%=*} current=${current#*=}
	fi
	options=$(_ublk_bridge_values "$last")
	if [ -n "$options" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
		return
	fi
	case $last in
	--unix | --tls-psk-file | --fence-command)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		return
		;;
	--tls-certificates)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -d -- "$current")
		return
		;;
	esac
	if [[ $current = -* ]]; then
		# an option stands first in its line, or behind a short one
		options=$("${COMP_WORDS[0]}" "${verb:-attach}" --help 2>/dev/null |
			sed -nE 's/^ +(-[a-zA-Z?], )?(--[a-z-]+)(\[?=)?.*/\2\3/p' | tr -d '[')
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
		[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
		return
	fi
	case $verb in
	detach | list | status | info | set | resize | migrate | fenced | recover | upgrade | stats)
		mapfile -t COMPREPLY < <(compgen -W "$(_ublk_bridge_devices)" -- "$current")
		;;
	help) mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$current") ;;
	'')
		[ "$COMP_CWORD" -gt 1 ] ||
			mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$current")
		;;
	esac
}
complete -o default -F _ublk_bridge ublk-bridge
