#!/usr/bin/env bash
# What RabbitMQ costs behind the relay (release build), and with its own Web STOMP, under the same
# loads, in turns, on this machine. CPU is that of all processes together. Prints a table and puts
# it into docs/rabbitmq-cost.md. Where Java and Maven are installed, Spring's broker relay too.
#
#   scripts/bench-rabbitmq.sh [quick]    three rounds; quick: one short round, about two minutes
#
#   ROUNDS=N     so many rounds
#   ONLY=REGEX   only the works whose names match
#   SPRING=0     without Spring (quick: SPRING=1 for with it)
#   OUT=FILE     instead of docs/rabbitmq-cost.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
usage_end=11
. scripts/bench-lib.sh

out=${OUT:-docs/rabbitmq-cost.md}
results=target/bench/rabbitmq-results.jsonl
: >"$results"
with_spring=${SPRING:-$(by_kind 1 0)}
if [ "$with_spring" = 1 ] && ! { command -v java && command -v mvn; } >/dev/null; then
    echo "no Java or no Maven: without Spring" >&2
    with_spring=0
fi

# Each server gets a RabbitMQ that nobody has used: it gives memory back late.
start() { # label
    start_rabbitmq
    local env=$scratch/rabbitmq/env
    case $1 in
    relay)
        start_relay "$(value AMQP_URL "$env")"
        pid[relay]+=,${pid[rabbitmq]}
        ;;
    web-stomp)
        url[web-stomp]=${url[rabbitmq]} pid[web-stomp]=${pid[rabbitmq]}
        extra[web-stomp]=${extra[rabbitmq]}
        ;;
    spring)
        conformance-tests/servers/spring.sh start "$scratch/spring" "$(value STOMP_PORT "$env")" \
            >/dev/null
        url[spring]=$(value WEB_STOMP_URL "$scratch/spring/env")
        pid[spring]=$(value PID "$scratch/spring/env"),${pid[rabbitmq]}
        extra[spring]=${extra[rabbitmq]}
        ;;
    esac
    look="'$PWD/scripts/rabbitmq-counts.sh' '$scratch/rabbitmq' ${pid[$1]}"
}

saturated() { # LABEL WORK WARM_UP ARGUMENTS...
    local label=$1 work=$2 warm_up=$3
    shift 3
    measure "$label" "$work" fanout --deliveries "$(by_kind 300000 50000)" \
        --time "$(by_kind 5 2)" --warm-up "$warm_up" --look "$look" "$@"
}

# The same messages a second for all, so that what waits in queues is the same too.
paced() { # LABEL WORK ARGUMENTS...
    local label=$1 work=$2
    shift 2
    measure "$label" "$work" fanout --deliveries 1 --warm-up 2000 --time "$(by_kind 20 3)" "$@"
}

# Nobody reads these queues. Each work has new ones.
published() { # LABEL WORK ARGUMENTS...
    local label=$1 work=$2
    shift 2
    measure "$label" "$work" publish --publishers 100 --queues 10 --window 10 \
        --deliveries "$(by_kind 100000 20000)" --time "$(by_kind 5 2)" --warm-up 5000 \
        --look "$look" "$@"
}

block() { # label
    start "$1"
    # A JVM is slow until it has done much.
    local warm_up=20000
    [ "$1" != spring ] || warm_up=60000
    saturated "$1" "fan-out 1 to 100, window 200" "$warm_up" --subscribers 100
    saturated "$1" "fan-out 1 to 1,000, window 200" "$warm_up" --subscribers 1000
    paced "$1" "fan-out 50/s to 100" --subscribers 100 --rate 50
    published "$1" "publish to /queue, receipts" --destination "/queue/plain"
    published "$1" "publish to /queue, receipts, persistent" --destination "/queue/kept" \
        --send-header persistent:true
    stop_servers
    rm -rf "$scratch/rabbitmq" "$scratch/spring"
}

labels=relay,web-stomp
[ "$with_spring" = 0 ] || labels+=,spring
for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds"
    for label in ${labels//,/ }; do block "$label"; done
done
report bench-rabbitmq "$labels" | publish "$out"
[ "${#failures[@]}" -eq 0 ]
