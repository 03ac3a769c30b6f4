#!/usr/bin/env bash
# The relay (embedded broker, release build), RabbitMQ Web STOMP and the floors under the same
# loads, in turns, on this machine. Prints a table and puts it into docs/performance.md.
#
#   scripts/bench.sh [quick]    three rounds; quick: one short round, about two minutes
#
#   ROUNDS=N     so many rounds
#   ONLY=REGEX   only the works whose names match
#   OUT=FILE     instead of docs/performance.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
usage_end=9
. scripts/bench-lib.sh

out=${OUT:-docs/performance.md}
results=target/bench/results.jsonl
: >"$results"

start_floor() { # name arguments...
    local name=$1 port
    shift
    port=$(free_port)
    "$bench" floor --listen "127.0.0.1:$port" "$@" </dev/null >/dev/null &
    started[$name]=$!
    wait_until 10 port_open "$port" || exit 1
    url[$name]=ws://127.0.0.1:$port/ pid[$name]=${started[$name]}
}

# With those of the servers that $on names.
on="relay floor floor-coalesced rabbitmq"
saturated() { # WORK MODE WARM_UP ARGUMENTS...
    local work=$1 mode=$2 warm_up=$3 name
    shift 3
    for name in $on; do
        measure "$name" "$work" "$mode" --deliveries "$(by_kind 300000 30000)" \
            --time "$(by_kind 3 2)" --warm-up "$warm_up" "$@"
    done
}
paced() { # WORK MODE SECONDS WARM_UP ARGUMENTS...: as many deliveries as come in that time
    local work=$1 mode=$2 time=$3 warm_up=$4 name
    shift 4
    for name in $on; do
        measure "$name" "$work" "$mode" --deliveries 1 --warm-up "$warm_up" --time "$time" "$@"
    done
}

idle_rows() {
    local work="idle session" settle
    settle=$(by_kind 5 2)
    measure relay "$work" idle --connections 4000 --settle "$settle" --burst 1000 --large 60000
    measure floor "$work" idle --connections 4000 --settle "$settle"
    # A burst to a thousand of its sessions takes RabbitMQ a minute.
    measure rabbitmq "$work" idle --connections "$(by_kind 300 100)" --settle "$settle" \
        --burst "$(by_kind 1000 200)" --large 60000
    work="heart-beats of 8,000 sessions"
    measure relay "$work" idle --connections 8000 --hold "$(by_kind 30 10)"
    measure floor "$work" idle --connections 8000 --hold "$(by_kind 30 10)"
}

connect_rows() {
    local work="connect, log in, subscribe"
    measure relay "$work" connect --connections "$(by_kind 5000 2000)"
    measure floor "$work" connect --connections "$(by_kind 5000 2000)"
    measure rabbitmq "$work" connect --connections "$(by_kind 1000 200)"
}

one_round() {
    start_relay embedded:
    start_floor floor
    start_floor floor-coalesced --coalesce
    start_rabbitmq
    idle_rows
    connect_rows
    on="relay floor floor-coalesced rabbitmq"
    saturated "fan-out 1 to 100, window 200" fanout 20000 --subscribers 100
    saturated "fan-out 1 to 1,000, window 200" fanout 20000 --subscribers 1000
    on="relay floor rabbitmq"
    paced "fan-out 100/s to 100" fanout "$(by_kind 30 3)" 1000 --subscribers 100 --rate 100
    saturated "100 pairs, window 1" pairs 5000 --pairs 100 --window 1
    paced "one pair, 200/s" pairs "$(by_kind 15 3)" 100 --pairs 1 --rate 200
    saturated "queue, 4 to 4, client-individual" queue 5000
    if [ "$kind" = full ]; then
        on=relay
        saturated "fan-out 1 to 100, 50,000 elsewhere" fanout 20000 --subscribers 100 \
            --elsewhere 50000
        # Long enough for those who read slowly to be cut, if they are.
        paced "fan-out 1 to 4,500, 500 read 1 KB/s" fanout 60 100000 --subscribers 4500 \
            --slow 500 --window 50
    fi
    stop_servers
}

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds"
    one_round
done
report bench relay,floor,floor-coalesced,rabbitmq | publish "$out"
[ "${#failures[@]}" -eq 0 ]
