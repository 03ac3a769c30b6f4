#!/usr/bin/env bash
# Every check and test, in order, each with a heading. The last line is "N passed, N failed",
# summed over all runners; the exit code is 1 where anything failed.
#
# What a step starts is ended at the end of the step, also after a failure or Ctrl-C: it is known
# by the session it runs in and by a mark in its environment.
set -euo pipefail
shopt -s extglob
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

passed=0
failed=0
broken=()
session=
logs=target/test-logs
tap=$PWD/$logs/node.tap
mark="STOMP_RELAY_TEST_RUN=$$.$RANDOM$RANDOM"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/stomp-relay-test.XXXXXX")

# The pids of the running step's session, and all that carry its mark.
leftovers() {
    local dir stat rest pid
    {
        for dir in /proc/[0-9]*; do
            { read -r stat <"$dir/stat"; } 2>/dev/null || continue
            # After the name in brackets: state, parent, group, session.
            read -ra rest <<<"${stat##*) }"
            [ "${rest[3]}" != "${session:-none}" ] || echo "${dir#/proc/}"
        done
        pids_with "$mark"
    } | sort -un | while read -r pid; do
        if alive "$pid"; then echo "$pid"; fi
    done
}

none_left() { [ -z "$(leftovers)" ]; }

# signal NAME PIDS...: one may be gone already.
signal() {
    local name=$1 pid
    shift
    for pid in "$@"; do kill "-$name" "$pid" 2>/dev/null || true; done
}

end_leftovers() {
    local pids
    mapfile -t pids < <(leftovers)
    [ "${#pids[@]}" -gt 0 ] || return 0
    signal TERM "${pids[@]}"
    wait_until 15 none_left && return 0
    mapfile -t pids < <(leftovers)
    signal KILL "${pids[@]}"
}

# What failed and what it said, so that the end of the output is enough to go on from.
failures() {
    [ ! -e "$logs/cargo.log" ] || awk '
        /^---- .* stdout ----$/ { print ""; left = 40 }
        left > 0 { print substr($0, 1, 2000); left-- }' "$logs/cargo.log"
    [ ! -e "$logs/node-failures.log" ] || head -n 200 "$logs/node-failures.log"
}

finish() {
    local status=$?
    trap '' INT TERM HUP
    end_leftovers || true
    rm -rf "$scratch"
    if [ "$status" -gt 128 ]; then
        echo "interrupted"
    else
        for step in "${broken[@]}"; do echo "failed: $step (log: $logs)"; done
        [ "$failed" -eq 0 ] || failures
        echo "$passed passed, $failed failed"
        [ "$failed" -eq 0 ] || status=1
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# step TITLE LOG COMMAND...: output is shown as it comes and kept in the log.
status=0
step() {
    local title=$1 log=$logs/$2 began=$SECONDS
    shift 2
    printf '\n== %s\n' "$title"
    status=0
    : >"$log"
    # The log is a file and no pipe: a server that a dying test left behind would hold a pipe open.
    setsid env TMPDIR="$scratch" "$mark" "$@" </dev/null >"$log" 2>&1 &
    session=$!
    tail -n +1 -s 0.2 -f --pid="$session" "$log" &
    wait "$session" || status=$?
    wait $! 2>/dev/null || true
    end_leftovers
    session=
    printf '== %s: %s, %s s\n' "$title" "$([ "$status" -eq 0 ] && echo ok || echo FAILED)" $((SECONDS - began))
}

# count TITLE PASSED FAILED: a step that broke without a failed test counts as one failure.
count() {
    passed=$((passed + $2))
    failed=$((failed + $3))
    if [ "$status" -ne 0 ] || [ "$3" -gt 0 ]; then
        broken+=("$1")
        [ "$3" -gt 0 ] || failed=$((failed + 1))
    fi
}

check() { # TITLE LOG COMMAND...: a step that passes or fails as a whole and is no test
    step "$@"
    count "$1" 0 0
}

cargo_tests() {
    local numbers
    step "$@"
    numbers=$(awk '/^test result: / { for (i = 2; i <= NF; i++) {
            if ($i == "passed;") p += $(i - 1)
            if ($i == "failed;") f += $(i - 1) } }
        END { print p + 0, f + 0 }' "$logs/$2")
    # shellcheck disable=SC2086
    count "$1" $numbers
}

node_tests() {
    local numbers
    rm -f "$tap"
    step "$@"
    numbers=$(awk '/^# pass / { p += $3 } /^# (fail|cancelled) / { f += $3 }
        END { print p + 0, f + 0 }' "$tap" 2>/dev/null || echo 0 0)
    awk '/^ *not ok / { print ""; left = 40 } left > 0 { print substr($0, 1, 500); left-- }' \
        "$tap" >>"$logs/node-failures.log" 2>/dev/null || true
    # shellcheck disable=SC2086
    count "$1" $numbers
}

scripts/need.sh node npm cargo || { failed=1 && exit 1; }
scripts/install-test-tools.sh || { failed=1 && exit 1; }
mkdir -p "$logs"
rm -f "$logs"/*.log

check "formatting" fmt.log cargo fmt --all --check
check "shell scripts" shellcheck.log shellcheck -x scripts/*.sh .ci/run conformance-tests/clients/*.sh
check "lints" clippy.log cargo clippy --workspace --all-targets --locked -- -D warnings
cargo_tests "Rust tests (own RabbitMQ and Redis where they need them)" cargo.log \
    cargo test --workspace --locked --no-fail-fast
check "the message path's instructions, built" instructions-build.log \
    cargo build --release --locked -p benches
if [ "$status" -eq 0 ]; then
    check "the message path's instructions" instructions.log target/release/instructions
fi
# Browsers are tested with the relay that the Rust tests have built.
check "the demo page" demo.log make --no-print-directory demo
if [ "$status" -eq 0 ]; then
    node_tests "page, command line and browser tests (the one behind nginx waits 3 minutes)" node.log \
        env RELAY="$PWD/target/debug/stomp-relay" \
        node --test --test-concurrency=4 \
        --test-reporter=spec --test-reporter-destination=stdout \
        --test-reporter=tap --test-reporter-destination="$tap" \
        stomp-js-demo/test/!(transport).test.mjs
fi
check "the SockJS clients" sockjs-clients.log make --no-print-directory sockjs-clients
if [ "$status" -eq 0 ]; then
    # One file after the other: on a busy machine a client takes a slow transport for a broken one.
    node_tests "SockJS clients in Chromium and Node, also behind nginx" sockjs.log \
        env RELAY="$PWD/target/debug/stomp-relay" \
        node --test --test-concurrency=1 \
        --test-reporter=spec --test-reporter-destination=stdout \
        --test-reporter=tap --test-reporter-destination="$tap" \
        stomp-js-demo/test/transport.test.mjs system-tests/sockjs-clients/test/
fi
