#!/usr/bin/env bash
# scripts/run-rabbitmq.sh RELAY: the relay in development mode between a RabbitMQ and a Redis that
# are started for it and end with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

servers=$(mktemp -d "${TMPDIR:-/tmp}/stomp-relay-servers.XXXXXX")
cleanup() {
    trap '' INT TERM HUP
    echo "stopping RabbitMQ and Redis"
    scripts/redis.sh stop "$servers/redis" || true
    scripts/rabbitmq.sh stop "$servers/rabbitmq" || true
    rm -rf "$servers"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

echo "starting RabbitMQ and Redis in $servers"
scripts/redis.sh start "$servers/redis"
scripts/rabbitmq.sh start "$servers/rabbitmq"
AMQP_URL=$(sed -n 's/^AMQP_URL=//p' "$servers/rabbitmq/env")
REDIS_URL=$(sed -n 's/^REDIS_URL=//p' "$servers/redis/env")

run_in_front "$1" --dev --broker "$AMQP_URL" --store "$REDIS_URL"
