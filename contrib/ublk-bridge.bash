# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Completion of ublk-bridge for bash: what --help says, and the devices that there are.

_ublk_bridge() {
	local current=${COMP_WORDS[COMP_CWORD]} verb=attach word
	COMPREPLY=()
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		attach | detach | list | status | info | set | resize | migrate | fenced | recover | \
			upgrade | stats | metrics | features) verb=$word && break ;;
		esac
	done
	case $current in
	--data-path=*) mapfile -t COMPREPLY < <(compgen -W "auto copy get-data user-copy" \
		-- "${current#*=}") ;;
	--tls=*) mapfile -t COMPREPLY < <(compgen -W "off allow require" -- "${current#*=}") ;;
	--fence=*) mapfile -t COMPREPLY < <(compgen -W "time close" -- "${current#*=}") ;;
	--log-level=*) mapfile -t COMPREPLY < <(compgen -W "error warning notice debug" \
		-- "${current#*=}") ;;
	--scheduler=*) mapfile -t COMPREPLY < <(compgen -W "none keep mq-deadline bfq kyber" \
		-- "${current#*=}") ;;
	-*)
		local options
		options=$("${COMP_WORDS[0]}" "$verb" --help 2>/dev/null |
			grep -oE -- '--[a-z-]+=?' | sort -u)
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
		[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
		;;
	*)
		case $verb in
		detach | list | status | info | set | resize | migrate | fenced | recover | upgrade | stats)
			local devices
			devices=$(compgen -G '/dev/ublkb*[0-9]' | grep -v p)
			mapfile -t COMPREPLY < <(compgen -W "$devices" -- "$current")
			;;
		attach) [ "$COMP_CWORD" -gt 1 ] ||
			mapfile -t COMPREPLY < <(compgen -W "attach detach list status info set
				resize migrate fenced recover upgrade stats metrics features" \
				-- "$current") ;;
		esac
		;;
	esac
}
complete -F _ublk_bridge ublk-bridge
