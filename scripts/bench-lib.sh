# shellcheck shell=bash disable=SC2154
# What the scripts that measure share: servers to measure, one run, the page with the figures.
# Before it is sourced: `usage_end`, the last line of the script's own head comment, and its
# arguments as they came. It sets `kind` (full or quick), `rounds`, `scratch`, `results`.
. scripts/lib.sh

kind=${1:-full}
case $kind in
full) rounds=${ROUNDS:-3} ;;
quick) rounds=${ROUNDS:-1} ;;
*) sed -n "2,${usage_end}s/^# \{0,1\}//p" "$0" >&2 && exit 2 ;;
esac
# by_kind FULL QUICK
by_kind() { if [ "$kind" = full ]; then echo "$1"; else echo "$2"; fi; }

only=${ONLY:-.}
bench=target/release/stomp-bench
relay=target/release/stomp-relay
scratch=$(mktemp -d "${TMPDIR:-/tmp}/stomp-bench.XXXXXX")
failures=()
# By label: where it is, the processes whose CPU counts, more words for stomp-bench. By server:
# the process to be stopped.
declare -A url pid extra started

scripts/need.sh cargo cc
cargo build --release --locked -p stomp-relay -p stomp-bench --bin stomp-relay --bin stomp-bench
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || scripts/install-test-tools.sh
mkdir -p target/bench
ulimit -n "$(ulimit -Hn)"
began=$SECONDS
load_before=$(cut -d' ' -f1-3 /proc/loadavg)

stop_servers() {
    local name
    for name in "${!started[@]}"; do
        [ -z "${started[$name]}" ] || stop_pid "${started[$name]}" 10
        started[$name]=
    done
    [ ! -d "$scratch/spring" ] || conformance-tests/servers/spring.sh stop "$scratch/spring"
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

# value NAME FILE: of a file of NAME=VALUE lines.
value() { sed -n "s/^$1=//p" "$2"; }

# Login by JWT, rules, limits and metrics: nothing is switched off but the number of sessions
# that one user may have, since all of them are one user's here.
write_config() { # port admin broker
    head -c 32 /dev/urandom | base64 >"$scratch/secret"
    cat >"$scratch/relay.toml" <<TOML
listen = "127.0.0.1:$1"

[admin]
listen = "127.0.0.1:$2"

[broker]
url = "$3"

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

start_relay() { # broker
    local port admin token
    port=$(free_port) admin=$(free_port)
    write_config "$port" "$admin" "$1"
    token=$("$relay" token --config "$scratch/relay.toml" --user bench --ttl 1d)
    rm -f "$scratch"/relay.db* "$scratch"/stomp-relay-broker.db*
    STOMP_RELAY_LOG=warn "$relay" --config "$scratch/relay.toml" \
        </dev/null >"$scratch/relay.out" 2>"$scratch/relay.log" &
    started[relay]=$!
    wait_until 20 port_open "$port" || { cat "$scratch/relay.log" >&2 && exit 1; }
    url[relay]=ws://127.0.0.1:$port/ws pid[relay]=${started[relay]}
    export STOMP_BENCH_HTTP_HEADER="Authorization: Bearer $token"
}

start_rabbitmq() {
    scripts/rabbitmq.sh start "$scratch/rabbitmq" >/dev/null
    url[rabbitmq]=ws://127.0.0.1:$(value WEB_STOMP_PORT "$scratch/rabbitmq/env")/ws
    pid[rabbitmq]=$(value RABBITMQ_PID "$scratch/rabbitmq/env")
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

machine() { # target
    local dirty='' server
    [ -z "$(git status --porcelain --untracked-files=no)" ] || dirty=", with changes"
    server=$(sed -n 's/^.*{rabbit, *"\([^"]*\)".*$/\1/p' /usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/rabbit-*/ebin/rabbit.app 2>/dev/null || true)
    [ -n "$server" ] || server=$(basename /usr/lib/rabbitmq/lib/rabbitmq_server-* | sed 's/.*-//')
    echo "| | |"
    echo "|---|---|"
    echo "| date, commit | $(date -u +%F), $(git rev-parse --short HEAD)$dirty |"
    echo "| machine | $(nproc) CPUs, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) |"
    echo "| system | Linux $(uname -r), $(. /etc/os-release && echo "$PRETTY_NAME"), loopback |"
    echo "| versions | $(rustc --version | cut -d' ' -f1-2), RabbitMQ $server |"
    echo "| run | \`make $1$(by_kind '' -quick)\`: $rounds round(s), $((SECONDS - began)) s; load average before it $load_before |"
}

# report TARGET LABELS: the figures so far.
report() {
    machine "$1"
    echo
    "$bench" table --labels "$2" "$results"
    local failure
    for failure in "${failures[@]}"; do echo "- did not run: $failure"; done
}

# publish FILE: puts standard input between the page's marks. What is written by hand around the
# figures stays.
publish() {
    tee "$scratch/report"
    if [ -f "$1" ]; then
        awk -v file="$scratch/report" '
            /^<!-- figures -->$/ { print; while ((getline line < file) > 0) print line; skip = 1 }
            /^<!-- end of figures -->$/ { skip = 0 }
            !skip { print }
            skip && /^<!-- figures -->$/ { next }' "$1" >"$scratch/out"
    else
        { echo "<!-- figures -->" && cat "$scratch/report" && echo "<!-- end of figures -->"; } \
            >"$scratch/out"
    fi
    cp "$scratch/out" "$1"
}
