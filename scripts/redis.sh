#!/usr/bin/env bash
# A private Redis: own port on loopback, own folder, nothing kept on disk but its log.
#
#   scripts/redis.sh start DIR    prints what DIR/env then holds: REDIS_URL, REDIS_PORT, REDIS_PID
#   scripts/redis.sh stop DIR     ends it; the folder stays
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

up_or_dead() { port_open "$1" || gone "$2"; }

start() {
    local dir=$1 port pid try
    if ! command -v redis-server >/dev/null; then
        echo "Redis is not installed; on Debian: apt-get install redis-server" >&2
        exit 1
    fi
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    if [ -e "$dir/env" ]; then
        echo "$dir/env exists: a Redis was started there and not stopped" >&2
        exit 1
    fi
    for try in 1 2 3; do
        port=$(free_port)
        # A process title would be written over the environment, by which stop knows its own.
        STOMP_RELAY_SERVER_DIR=$dir setsid redis-server --set-proc-title no --port "$port" --bind 127.0.0.1 \
            --dir "$dir" --save '' --appendonly no --daemonize no \
            </dev/null >"$dir/redis.log" 2>&1 &
        pid=$!
        echo "$pid" >"$dir/pid"
        if wait_until 20 up_or_dead "$port" "$pid" && alive "$pid"; then
            cat >"$dir/env" <<ENV
REDIS_URL=redis://127.0.0.1:$port
REDIS_PORT=$port
REDIS_PID=$pid
ENV
            cat "$dir/env"
            return 0
        fi
        stop "$dir"
    done
    echo "Redis did not start in $try tries; the end of its output:" >&2
    tail -n 20 "$dir/redis.log" >&2
    exit 1
}

stop() {
    local dir=$1 pid
    [ -d "$dir" ] || return 0
    dir=$(cd "$dir" && pwd)
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && ours "$pid" "STOMP_RELAY_SERVER_DIR=$dir"; then
        stop_pid "$pid" 10
    fi
    rm -f "$dir/pid" "$dir/env"
}

[ $# -eq 2 ] || usage
case $1 in
start) start "$2" ;;
stop) stop "$2" ;;
*) usage ;;
esac
