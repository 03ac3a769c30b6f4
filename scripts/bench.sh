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
. scripts/lib.sh

kind=${1:-full}
case $kind in
full) rounds=${ROUNDS:-3} ;;
quick) rounds=${ROUNDS:-1} ;;
*) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
# by_kind FULL QUICK
by_kind() { if [ "$kind" = full ]; then echo "$1"; else echo "$2"; fi; }

out=${OUT:-docs/performance.md}
only=${ONLY:-.}
bench=target/release/stomp-bench
relay=target/release/stomp-relay
results=target/bench/results.jsonl
scratch=$(mktemp -d "${TMPDIR:-/tmp}/stomp-bench.XXXXXX")
failures=()
declare -A url pid extra started

scripts/need.sh cargo cc
cargo build --release --locked -p stomp-relay -p stomp-bench --bin stomp-relay --bin stomp-bench
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || scripts/install-test-tools.sh
mkdir -p target/bench
: >"$results"
ulimit -n "$(ulimit -Hn)"
began=$SECONDS
load_before=$(cut -d' ' -f1-3 /proc/loadavg)

stop_servers() {
    local name
    for name in relay floor floor-coalesced; do
        [ -z "${started[$name]:-}" ] || stop_pid "${started[$name]}" 10
        started[$name]=
    done
    [ ! -d "$scratch/rabbitmq" ] || scripts/rabbitmq.sh stop "$scratch/rabbitmq"
}
finish() {
    trap '' INT TERM HUP
    stop_servers
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Login by JWT, rules, limits and metrics: nothing is switched off but the number of sessions
# that one user may have, since all of them are one user's here.
write_config() { # port admin
    head -c 32 /dev/urandom | base64 >"$scratch/secret"
    cat >"$scratch/relay.toml" <<TOML
listen = "127.0.0.1:$1"

[admin]
listen = "127.0.0.1:$2"

[store]
url = "sqlite:$scratch/relay.db"

[auth]
chain = ["jwt"]

[auth.jwt]
issuer = "bench"

[[auth.jwt.keys]]
alg = "HS256"
secret_file = "$scratch/secret"

[[rule]]
frame = "SEND"
destination = "/topic/admin.**"
allow = "role:admin"

[[rule]]
frame = "*"
destination = "/topic/**"
allow = "authenticated"

[[rule]]
frame = "*"
destination = "/queue/**"
allow = "authenticated"

[limits]
sessions_per_user = 100000
TOML
}

start_relay() {
    local port admin token
    port=$(free_port) admin=$(free_port)
    write_config "$port" "$admin"
    token=$("$relay" token --config "$scratch/relay.toml" --user bench --ttl 1d)
    rm -f "$scratch"/relay.db* "$scratch"/stomp-relay-broker.db*
    STOMP_RELAY_LOG=warn "$relay" --config "$scratch/relay.toml" \
        </dev/null >"$scratch/relay.out" 2>"$scratch/relay.log" &
    started[relay]=$!
    wait_until 20 port_open "$port" || { cat "$scratch/relay.log" >&2 && exit 1; }
    url[relay]=ws://127.0.0.1:$port/ws pid[relay]=${started[relay]}
    export STOMP_BENCH_HTTP_HEADER="Authorization: Bearer $token"
}

start_floor() { # name arguments...
    local name=$1 port
    shift
    port=$(free_port)
    "$bench" floor --listen "127.0.0.1:$port" "$@" </dev/null >/dev/null &
    started[$name]=$!
    wait_until 10 port_open "$port" || exit 1
    url[$name]=ws://127.0.0.1:$port/ pid[$name]=${started[$name]}
}

start_rabbitmq() {
    scripts/rabbitmq.sh start "$scratch/rabbitmq" >/dev/null
    local web server
    web=$(sed -n 's/^WEB_STOMP_PORT=//p' "$scratch/rabbitmq/env")
    server=$(sed -n 's/^RABBITMQ_PID=//p' "$scratch/rabbitmq/env")
    url[rabbitmq]=ws://127.0.0.1:$web/ws pid[rabbitmq]=$server
    extra[rabbitmq]="--login guest --passcode guest"
}

# measure NAME WORK MODE ARGUMENTS...: one run, one line of JSON.
measure() {
    local name=$1 work=$2 mode=$3 line=
    shift 3
    [[ "$work" =~ $only ]] || return 0
    # shellcheck disable=SC2086
    if line=$("$bench" "$mode" "${url[$name]}" --pid "${pid[$name]}" --json \
        --label "$name" --row "$work" ${extra[$name]:-} "$@" 2>"$scratch/error"); then
        echo "$line" >>"$results"
        printf '  %4s s  %-34s %-16s done\n' $((SECONDS - began)) "$work" "$name"
    else
        failures+=("$work, $name: $(tail -n 1 "$scratch/error")")
        printf '  %4s s  %-34s %-16s FAILED: %s\n' $((SECONDS - began)) "$work" "$name" \
            "$(tail -n 1 "$scratch/error")"
    fi
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
    start_relay
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

machine() {
    local dirty= server
    [ -z "$(git status --porcelain --untracked-files=no)" ] || dirty=", with changes"
    server=$(sed -n 's/^.*{rabbit, *"\([^"]*\)".*$/\1/p' /usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/rabbit-*/ebin/rabbit.app 2>/dev/null || true)
    [ -n "$server" ] || server=$(basename /usr/lib/rabbitmq/lib/rabbitmq_server-* | sed 's/.*-//')
    echo "| | |"
    echo "|---|---|"
    echo "| date, commit | $(date -u +%F), $(git rev-parse --short HEAD)$dirty |"
    echo "| machine | $(nproc) CPUs, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) |"
    echo "| system | Linux $(uname -r), $(. /etc/os-release && echo "$PRETTY_NAME"), loopback |"
    echo "| versions | $(rustc --version | cut -d' ' -f1-2), RabbitMQ $server |"
    echo "| run | \`make bench$(by_kind '' -quick)\`: $rounds round(s), $((SECONDS - began)) s; load average before it $load_before |"
}

report() {
    machine
    echo
    "$bench" table --labels relay,floor,floor-coalesced,rabbitmq "$results"
    local failure
    for failure in "${failures[@]}"; do echo "- did not run: $failure"; done
}

for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds"
    one_round
done
report >"$scratch/report"
cat "$scratch/report"
if [ -f "$out" ]; then
    # What is written by hand around the figures stays.
    awk -v file="$scratch/report" '
        /^<!-- figures -->$/ { print; while ((getline line < file) > 0) print line; skip = 1 }
        /^<!-- end of figures -->$/ { skip = 0 }
        !skip { print }
        skip && /^<!-- figures -->$/ { next }' "$out" >"$scratch/out"
else
    { echo "<!-- figures -->" && cat "$scratch/report" && echo "<!-- end of figures -->"; } \
        >"$scratch/out"
fi
cp "$scratch/out" "$out"
[ "${#failures[@]}" -eq 0 ]
