#!/usr/bin/env bash
# scripts/conformance-docs.sh RELAY: plays the conformance transcripts to RELAY (the built program)
# with both brokers, to RabbitMQ, to ActiveMQ Artemis and to Spring's brokers, and writes
# docs/conformance.md. All are started for it and end with it. Takes a quarter of an hour, in which
# answers are waited for that never come; what each run gave is left in target/conformance.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

[ $# -eq 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
relay=$(realpath "$1")
compared=conformance-tests/servers
tool=target/debug/stomp-conformance
runs=target/conformance
servers=$(mktemp -d "${TMPDIR:-/tmp}/stomp-relay-compared.XXXXXX")

cleanup() {
    trap '' INT TERM HUP
    stop_relay "$servers/relay" || true
    stop_relay "$servers/relay-rabbitmq" || true
    "$compared/spring.sh" stop "$servers/spring-relay" || true
    "$compared/spring.sh" stop "$servers/spring" || true
    "$compared/artemis.sh" stop "$servers/artemis" || true
    scripts/rabbitmq.sh stop "$servers/rabbitmq" || true
    rm -rf "$servers"
}

relay_up_or_dead() { { port_open "$1" && port_open "$2"; } || gone "$3"; }

# start_relay DIR ARGUMENTS...: in development mode, with nothing kept. DIR/env is as the other
# servers write it.
start_relay() {
    local dir=$1 http admin tcp pid
    shift
    mkdir -p "$dir"
    http=$(free_port) admin=$(free_port) tcp=$(free_port)
    (cd "$dir" && STOMP_RELAY_SERVER_DIR=$dir exec setsid "$relay" --dev --store memory: \
        --listen "127.0.0.1:$http" --admin-listen "127.0.0.1:$admin" \
        --tcp-listen "127.0.0.1:$tcp" "$@" </dev/null >"$dir/log" 2>&1) &
    pid=$!
    echo "$pid" >"$dir/pid"
    if ! wait_until 20 relay_up_or_dead "$http" "$tcp" "$pid" || ! alive "$pid"; then
        tail -n 20 "$dir/log" >&2
        return 1
    fi
    printf '%s\n' "STOMP_URL=tcp://127.0.0.1:$tcp" "WEB_STOMP_URL=ws://127.0.0.1:$http/ws" \
        "SOCKJS_URL=http://127.0.0.1:$http/ws" >"$dir/env"
}

stop_relay() {
    local pid
    pid=$(cat "$1/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && ours "$pid" "STOMP_RELAY_SERVER_DIR=$1"; then
        stop_pid "$pid" 20
    fi
    rm -f "$1/pid"
}

# value NAME DIR: of DIR/env.
value() { sed -n "s/^$1=//p" "$2/env"; }

# version PROJECT: of a server that Maven builds.
version() {
    sed -n '/<parent>/,/<\/parent>/s/.*<version>\(.*\)<.*/\1/p; s/.*<artemis.version>\(.*\)<.*/\1/p' \
        "$compared/$1/pom.xml"
}

# named PORT: what a STOMP server calls itself, as "Name 1.2.3".
named() {
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0' >&3
    while read -r -t 10 -u 3 line && [ -n "$line" ]; do
        [ "${line%%:*}" != server ] || tr / ' ' <<<"${line#*:}"
    done
    exec 3>&-
}

# play FILE LABEL URL ARGUMENTS...: exit code 1 says that the server differs, which is what is asked here.
play() {
    local file=$1 label=$2 url=$3 status=0
    shift 3
    echo "playing to $label at $url"
    "$tool" "$url" --label "$label" --level field --jobs 16 --format json "$@" \
        >"$runs/$file.json" || status=$?
    [ "$status" -le 1 ] || exit "$status"
}

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p "$runs"
rm -f "$runs"/*.json
cargo build --locked -p conformance-tests

scripts/rabbitmq.sh start "$servers/rabbitmq" >/dev/null
rabbitmq=$(value STOMP_PORT "$servers/rabbitmq")
start_relay "$servers/relay"
start_relay "$servers/relay-rabbitmq" --broker "$(value AMQP_URL "$servers/rabbitmq")"
"$compared/artemis.sh" start "$servers/artemis" >/dev/null
"$compared/spring.sh" start "$servers/spring" >/dev/null
"$compared/spring.sh" start "$servers/spring-relay" "$rabbitmq" >/dev/null

own="stomp-relay $("$relay" --version | cut -d' ' -f2)"
play relay-tcp "$own" "$(value STOMP_URL "$servers/relay")"
play relay-ws "$own" "$(value WEB_STOMP_URL "$servers/relay")"
play relay-sockjs "$own" "$(value SOCKJS_URL "$servers/relay")"
label=$(named "$rabbitmq")
play relay-rabbitmq-tcp "$own on $label" "$(value STOMP_URL "$servers/relay-rabbitmq")"
play relay-rabbitmq-ws "$own on $label" "$(value WEB_STOMP_URL "$servers/relay-rabbitmq")"
play relay-rabbitmq-sockjs "$own on $label" "$(value SOCKJS_URL "$servers/relay-rabbitmq")"
play rabbitmq-tcp "$label STOMP" "tcp://127.0.0.1:$rabbitmq"
play rabbitmq-ws "$label Web STOMP" "ws://127.0.0.1:$(value WEB_STOMP_PORT "$servers/rabbitmq")/ws"
label="ActiveMQ Artemis $(version artemis)"
play artemis-tcp "$label" "$(value STOMP_URL "$servers/artemis")"
play artemis-ws "$label" "$(value WEB_STOMP_URL "$servers/artemis")"
label="Spring Boot $(version spring)"
play spring-relay "$label, broker relay" "$(value WEB_STOMP_URL "$servers/spring-relay")"
# It has no receipts, and without them nearly nothing could be seen.
play spring-simple "$label, simple broker" "$(value WEB_STOMP_URL "$servers/spring")" \
    --profile spring

# note: what the page says before what `table` writes.
note() {
    cat <<'NOTE'

`make conformance-docs` starts these servers, plays to each, and writes this page.
[Its servers](../conformance-tests/servers/README.md) are as they come, but for what is said there:
Artemis and Spring let every login in, so nothing that is about a refused one passes.

All levels are played with the profile `spec`: an ERROR's text and the code of a WebSocket close are
the server's own, and cases about RabbitMQ's own destinations are left out. The relay passes those
too, with either broker: `system-tests/tests/conformance.rs` plays everything. Spring's simple broker
is played with `spring`, which pauses where others are asked for a RECEIPT: it sends none. What is
played over `http` is SockJS.

A failure says that a server differs from the specification, or at level `field` from what clients
find elsewhere. Why RabbitMQ differs is in
[rabbitmq.toml](../conformance-tests/expected/rabbitmq.toml), case by case; behind Spring's broker
relay it is often RabbitMQ that differs.
NOTE
}

page=docs/conformance.md
"$tool" table --out "$servers/table.md" \
    "$runs"/{relay-tcp,relay-ws,relay-sockjs}.json \
    "$runs"/{relay-rabbitmq-tcp,relay-rabbitmq-ws,relay-rabbitmq-sockjs,rabbitmq-tcp,rabbitmq-ws}.json \
    "$runs"/{artemis-tcp,artemis-ws,spring-relay,spring-simple}.json
{ head -n 1 "$servers/table.md" && note && tail -n +2 "$servers/table.md"; } >"$page"
echo "wrote $page"
