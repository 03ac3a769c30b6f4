#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: RabbitMQ, Redis, nginx, Chromium,
# valgrind and shellcheck, from Debian. Services of the packages installed here are neither started now nor at
# the next boot; services that were there before are left as they are.
set -euo pipefail

missing=()
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
command -v redis-server >/dev/null || missing+=(redis-server)
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || missing+=(nginx)
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || missing+=(chromium)
command -v valgrind >/dev/null || missing+=(valgrind)
command -v shellcheck >/dev/null || missing+=(shellcheck)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "The tests need, and this machine lacks: ${missing[*]}" >&2
    exit 1
elif [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "The tests need what is not installed here. As root:" >&2
    echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "installing: ${missing[*]}"
"${as_root[@]}" bash -euo pipefail -s -- "${missing[@]}" <<'ROOT'
export DEBIAN_FRONTEND=noninteractive
# Debian asks this program before it starts a service; 101 means: do not.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@" </dev/null
if [ -d /run/systemd/system ]; then
    for package in "$@"; do
        case $package in
        rabbitmq-server | redis-server | nginx) systemctl disable --quiet "$package" || true ;;
        esac
    done
fi
ROOT
