#!/usr/bin/env bash
# Spring's brokers to compare with: own ports on loopback, everything in one folder.
#
#   conformance-tests/servers/spring.sh start DIR [STOMP_PORT]    prints what DIR/env then holds:
#                                                                 WEB_STOMP_URL, SOCKJS_URL, PID
#   conformance-tests/servers/spring.sh stop DIR                  ends it; the folder stays
#
# With STOMP_PORT the broker relay in front of the RabbitMQ there, otherwise the simple broker.
# The first start builds it with Maven. Every login is let in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. conformance-tests/servers/lib.sh

rabbitmq=${3:-0}

arguments() {
    printf '%s\n' "--server.address=127.0.0.1" "--server.port=$2" "--rabbitmq=$rabbitmq"
}

# The port is open before RabbitMQ is reached.
ready() {
    port_open "$2" &&
        { [ "$rabbitmq" = 0 ] || grep -q 'BrokerAvailabilityEvent.available=true' "$1/log"; }
}

environment() {
    echo "WEB_STOMP_URL=ws://127.0.0.1:$1/ws"
    echo "SOCKJS_URL=http://127.0.0.1:$1/sockjs"
}

case ${1-} in
start) [ $# -ge 2 ] && [ $# -le 3 ] && start spring compared.Spring "$2" && exit ;;
stop) [ $# -eq 2 ] && stop "$2" && exit ;;
esac
sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
exit 2
