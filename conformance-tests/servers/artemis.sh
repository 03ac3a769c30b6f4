#!/usr/bin/env bash
# ActiveMQ Artemis to compare with: own ports on loopback, everything in one folder.
#
#   conformance-tests/servers/artemis.sh start DIR    prints what DIR/env then holds: STOMP_URL,
#                                                     WEB_STOMP_URL, PID
#   conformance-tests/servers/artemis.sh stop DIR     ends it; the folder stays
#
# The first start builds it with Maven. Every login is let in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. conformance-tests/servers/lib.sh

arguments() { printf '%s\n' "$1" "$2"; }

ready() { port_open "$2"; }

environment() {
    echo "STOMP_URL=tcp://127.0.0.1:$1"
    echo "WEB_STOMP_URL=ws://127.0.0.1:$1/stomp"
}

case ${1-} in
start) [ $# -eq 2 ] && start artemis Artemis "$2" && exit ;;
stop) [ $# -eq 2 ] && stop "$2" && exit ;;
esac
sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
exit 2
