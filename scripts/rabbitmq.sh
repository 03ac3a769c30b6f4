#!/usr/bin/env bash
# A private RabbitMQ: own ports on loopback, own data, own epmd, everything in one folder.
# Works as root and as any other user, and never touches the distribution's service.
#
#   scripts/rabbitmq.sh start DIR    prints what DIR/env then holds: AMQP_URL, ports, PID
#   scripts/rabbitmq.sh stop DIR     ends it; the folder stays
#   scripts/rabbitmq.sh ctl DIR ...  rabbitmqctl
#
# STOMP and Web STOMP are on. The account is guest/guest. With RABBITMQ_ROOT it is that of a
# Debian in that folder, see scripts/rabbitmq4.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

find_server() {
    local path
    for path in /usr/lib/rabbitmq/bin/rabbitmq-server /opt/rabbitmq/sbin/rabbitmq-server; do
        [ -x "${RABBITMQ_ROOT:-}$path" ] && echo "$path" && return 0
    done
    echo "RabbitMQ is not installed; on Debian: apt-get install rabbitmq-server" >&2
    return 1
}

# A program of that RabbitMQ.
program=(env)
[ -z "${RABBITMQ_ROOT:-}" ] || program=(chroot "$RABBITMQ_ROOT")

write_config() { # dir amqp stomp web
    cat >"$1/rabbitmq.conf" <<CONF
listeners.tcp.default = 127.0.0.1:$2
stomp.listeners.tcp.1 = 127.0.0.1:$3
web_stomp.tcp.ip = 127.0.0.1
web_stomp.tcp.port = $4
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
log.file.level = warning
CONF
    echo '[rabbitmq_stomp,rabbitmq_web_stomp].' >"$1/enabled_plugins"
    : >"$1/rabbitmq-env.conf"
}

# epmd is started here and not by RabbitMQ, so that we know its pid. The name resolves nowhere
# but here, and distribution listens on loopback.
launch() ( # dir server amqp dist epmd
    dir=$1 server=$2 amqp=$3 dist=$4 epmd=$5
    export STOMP_RELAY_SERVER_DIR=$dir HOME=$dir ERL_EPMD_PORT=$epmd ERL_EPMD_ADDRESS=127.0.0.1
    unset NOTIFY_SOCKET
    setsid "${program[@]}" epmd -port "$epmd" -address 127.0.0.1 </dev/null >"$dir/log/epmd" 2>&1 &
    echo $! >"$dir/epmd.pid"
    wait_until 10 port_open "$epmd" || return 1
    # RABBITMQ_ALLOW_INPUT makes the start script become the Erlang VM: one process, one pid.
    RABBITMQ_NODENAME="relay-$amqp@localhost" \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$amqp RABBITMQ_DIST_PORT=$dist \
        RABBITMQ_MNESIA_BASE=$dir/data RABBITMQ_LOG_BASE=$dir/log \
        RABBITMQ_CONFIG_FILE=$dir/rabbitmq RABBITMQ_CONF_ENV_FILE=$dir/rabbitmq-env.conf \
        RABBITMQ_ADVANCED_CONFIG_FILE=$dir/advanced.config \
        RABBITMQ_GENERATED_CONFIG_DIR=$dir/config \
        RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins \
        RABBITMQ_PLUGINS_EXPAND_DIR=$dir/plugins RABBITMQ_PID_FILE=$dir/vm.pid \
        RABBITMQ_ALLOW_INPUT=1 RABBITMQ_SERVER_START_ARGS=-noinput \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +sbwt none" \
        setsid "${program[@]}" "$server" </dev/null >"$dir/log/stdout" 2>&1 &
    echo $! >"$dir/pid"
)

# Web STOMP's listener is the last to come up.
up_or_dead() { { port_open "$1" && port_open "$2" && port_open "$3"; } || gone "$4"; }

start() {
    local dir=$1 server amqp dist epmd stomp web pid try
    server=$(find_server)
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    if [ -e "$dir/env" ]; then
        echo "$dir/env exists: a RabbitMQ was started there and not stopped" >&2
        exit 1
    fi
    # A port can be taken by somebody else between choice and bind, hence more than one try.
    for try in 1 2 3; do
        rm -rf "$dir/data" "$dir/log" "$dir/config"
        mkdir -p "$dir/data" "$dir/log" "$dir/config"
        amqp=$(free_port) dist=$(free_port) epmd=$(free_port) stomp=$(free_port) web=$(free_port)
        write_config "$dir" "$amqp" "$stomp" "$web"
        launch "$dir" "$server" "$amqp" "$dist" "$epmd" || true
        pid=$(cat "$dir/pid" 2>/dev/null || echo 0)
        if wait_until 60 up_or_dead "$amqp" "$stomp" "$web" "$pid" && alive "$pid"; then
            cat >"$dir/env" <<ENV
AMQP_URL=amqp://guest:guest@127.0.0.1:$amqp
AMQP_PORT=$amqp
STOMP_PORT=$stomp
WEB_STOMP_PORT=$web
RABBITMQ_NODENAME=relay-$amqp@localhost
RABBITMQ_PID=$pid
EPMD_PORT=$epmd
ENV
            cat "$dir/env"
            return 0
        fi
        stop "$dir"
    done
    echo "RabbitMQ did not start in $try tries; the end of its output:" >&2
    tail -n 20 "$dir/log/stdout" >&2
    exit 1
}

stop() {
    local dir=$1 file pid
    [ -d "$dir" ] || return 0
    dir=$(cd "$dir" && pwd)
    for file in pid epmd.pid; do
        pid=$(cat "$dir/$file" 2>/dev/null || true)
        if [ -n "$pid" ] && ours "$pid" "STOMP_RELAY_SERVER_DIR=$dir"; then
            stop_pid "$pid" 20
        fi
        rm -f "$dir/$file"
    done
    # What is left carries the folder's name too: port programs of a VM that was killed.
    for pid in $(pids_with "STOMP_RELAY_SERVER_DIR=$dir"); do
        kill -KILL "$pid" 2>/dev/null || true
    done
    rm -f "$dir/env"
}

ctl() { # dir arguments...
    local dir name epmd
    dir=$(cd "$1" && pwd)
    name=$(sed -n 's/^RABBITMQ_NODENAME=//p' "$dir/env")
    epmd=$(sed -n 's/^EPMD_PORT=//p' "$dir/env")
    shift
    HOME=$dir ERL_EPMD_PORT=$epmd RABBITMQ_NODENAME=$name \
        RABBITMQ_CONF_ENV_FILE=$dir/rabbitmq-env.conf "${program[@]}" "${server%/*}/rabbitmqctl" -q "$@"
}

[ $# -ge 2 ] || usage
case $1 in
start) [ $# -eq 2 ] && start "$2" ;;
stop) [ $# -eq 2 ] && stop "$2" ;;
ctl) server=$(find_server) && shift && ctl "$@" ;;
*) usage ;;
esac
