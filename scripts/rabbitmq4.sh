#!/usr/bin/env bash
# The relay's tests with RabbitMQ against RabbitMQ of later Debians. Each is made by debootstrap in a
# folder below target/rabbitmq4, once, from the mirror that apt uses here. Needs root.
#
#   scripts/rabbitmq4.sh [SUITE...]    sid (4.3 and later), trixie (4.0, which is told to refuse
#                                      transient queues that are not exclusive); both by default
#
#   FRESH=1         make the folders anew
#   TESTS='A B'     these tests of system-tests instead of all that have to do with RabbitMQ
#   FILTER='WORDS'  further words for the test programs, as the names of tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

folder=target/rabbitmq4
scratch=

# What compares with the plugin, which there subscribes to topics with queues that the config
# refuses: it answers "Processing error".
skipped_in() { # suite
    case $1 in
    trixie)
        for test in plugin_and_relay_show_the_same_message topics_both_ways_with_the_plugin \
            amqp_headers_of_every_type properties_of_amqp_are_headers_both_ways \
            as_its_sender_says_and_as_the_plugin_does; do
            echo "--skip $test"
        done
        ;;
    esac
}

config_of() { # suite
    case $1 in
    trixie) echo "deprecated_features.permit.transient_nonexcl_queues = false" ;;
    esac
}

# inside SUITE COMMAND...: runs it with that Debian's RabbitMQ. It has mounts and processes of its
# own, so that none is left behind, however it ends.
inside() {
    local suite=$1 root=$PWD/$folder/$1
    shift
    cp /etc/hosts "$root/etc/hosts"
    mkdir -p "$root$scratch"
    # shellcheck disable=SC2016
    TMPDIR=$scratch RABBITMQ_ROOT=$root RABBITMQ_MORE_CONFIG=$(config_of "$suite") \
        unshare --mount --pid --fork --kill-child --mount-proc --propagation private bash -c '
            set -e
            mount -t proc proc "$RABBITMQ_ROOT/proc"
            mount --rbind /dev "$RABBITMQ_ROOT/dev"
            mount --bind "$TMPDIR" "$RABBITMQ_ROOT$TMPDIR"
            ulimit -n "$(ulimit -Hn)"
            "$@"' bash "$@"
    local status=$?
    rm -rf "${root:?}${scratch:?}"
    return "$status"
}

make_folder() { # suite
    local root=$folder/$1 mirror
    [ -z "${FRESH:-}" ] || rm -rf "$root"
    [ ! -d "$root" ] || return 0
    command -v debootstrap >/dev/null || apt-get install -y --no-install-recommends debootstrap
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
        grep -v security | head -n 1)
    [ -n "$mirror" ] || { echo "apt has no source of Debian's packages here" >&2 && return 1; }
    echo "making a Debian $1 with RabbitMQ in $root, two minutes"
    rm -rf "$root.new"
    mkdir -p "$folder"
    debootstrap --variant=minbase --include=rabbitmq-server "$1" "$root.new" "$mirror" \
        >"$folder/$1.log" 2>&1 || { tail -n 5 "$folder/$1.log" >&2 && return 1; }
    rm -rf "$root.new/var/cache/apt" "$root.new/var/lib/apt/lists"
    mv "$root.new" "$root"
}

version() { # suite
    # shellcheck disable=SC2016
    chroot "$folder/$1" dpkg-query -W -f '${Version}' rabbitmq-server
}

finish() {
    trap '' INT TERM HUP
    [ -z "$scratch" ] || rm -rf "$scratch"
}

[ "$(id -u)" = 0 ] || { echo "debootstrap, chroot and mount need root" >&2 && exit 1; }
scripts/need.sh cargo cc
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
scratch=$(mktemp -d /tmp/rabbitmq4.XXXXXX)

suites=("$@")
[ $# -gt 0 ] || suites=(sid trixie)
words=()
for test in ${TESTS:-rabbitmq rabbitmq-faults relay conformance bad_input}; do words+=(--test "$test"); done
for suite in "${suites[@]}"; do make_folder "$suite"; done
# What the tests start is not built by them.
cargo build --workspace --bins --locked
cargo test --workspace --locked "${words[@]}" --no-run
mkdir -p target/test-logs
failed=()
for suite in "${suites[@]}"; do
    name="RabbitMQ $(version "$suite") ($suite)"
    echo "== $name"
    # Where RabbitMQ's own plugins differ is listed for 3.10.8 alone.
    # shellcheck disable=SC2046,SC2086
    inside "$suite" cargo test --workspace --locked --no-fail-fast "${words[@]}" -- \
        --skip rabbitmq_plugins $(skipped_in "$suite") ${FILTER:-} \
        2>&1 | tee "target/test-logs/rabbitmq4-$suite.log" || failed+=("$name")
done
[ "${#failed[@]}" -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" && exit 1; }
echo "all passed with: ${suites[*]}"
