#!/usr/bin/env bash
# Prints figures of a RabbitMQ that scripts/rabbitmq.sh has started, one `name number` a line.
#
#   scripts/rabbitmq-counts.sh DIR PIDS    PIDS: of what is in front of it and its own, by commas
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
own=${2##*,}

mib() { awk '/^VmRSS/ { printf "%.1f\n", $2 / 1024 }' "/proc/$1/status"; }

# Before the tool asks it, which takes memory too.
echo "rabbitmq_mib $(mib "$own")"
[ "$own" = "$2" ] || echo "front_mib $(mib "${2%%,*}")"
"$(dirname "${BASH_SOURCE[0]}")/rabbitmq.sh" ctl "$1" eval '
    io:format("rabbitmq_connections ~b~nrabbitmq_channels ~b~nrabbitmq_queues ~b~n",
        [length(rabbit_connection_tracking:list()), length(rabbit_channel:list()),
         length(rabbit_amqqueue:list())]).' | grep '^rabbitmq_'
