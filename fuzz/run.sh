#!/usr/bin/env bash
# fuzz/run.sh SECONDS [TARGET...]: fuzzes each target for so long, one after another. Exit code 1
# where an input was found that a target does not stand; the last lines say which.
#
# The fuzzer begins with fuzz/corpus and with what it found in earlier runs, which lies in
# target/fuzz-run. SANITIZER=address looks at memory too, at half the speed: this crate has no
# unsafe code, and the oracles are in the targets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

version=0.13.2
seconds=${1:-60}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(decoder session websocket destination)
out=target/fuzz-run
triple=$(rustc -vV | sed -n 's/^host: //p')
binaries=target/fuzz/$triple/release
# libFuzzer needs flags that a stable compiler takes only so.
export RUSTC_BOOTSTRAP=1

scripts/need.sh cargo cc c++
if ! command -v cargo-fuzz >/dev/null; then
    echo "== installing cargo-fuzz $version"
    cargo install cargo-fuzz --locked --version "$version"
fi
echo "== building"
cargo fuzz build --target-dir target/fuzz --sanitizer "${SANITIZER:-none}"

pid=
trap '[ -z "$pid" ] || stop_pid "$pid" 5' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# number LOG NAME: a figure of libFuzzer's last line that has it.
number() { grep -ao "$2: *[0-9]*" "$1" | tail -n 1 | grep -o '[0-9]*$' || echo 0; }

# progress LOG: what the fuzzer's last line says.
progress() {
    printf '%s inputs, %s edges covered, %s inputs kept' \
        "$(grep -ao '^#[0-9]*' "$1" | tail -n 1 | tr -d '#')" "$(number "$1" cov)" "$(number "$1" corp)"
}

found=()
for target in "${targets[@]}"; do
    log=$out/$target.log
    mkdir -p "$out/corpus/$target" "$out/findings" "fuzz/findings/$target"
    echo "== $target, $seconds s"
    began=$SECONDS
    "$binaries/$target" "$out/corpus/$target" "fuzz/corpus/$target" "fuzz/findings/$target" \
        -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -max_len=4096 \
        -dict=fuzz/stomp.dict -artifact_prefix="$out/findings/$target-" -print_final_stats=1 \
        >"$log" 2>&1 &
    pid=$!
    shown=$SECONDS
    while alive "$pid"; do
        sleep 1
        if [ $((SECONDS - shown)) -ge 10 ]; then
            shown=$SECONDS
            printf '%4s s: %s\n' $((SECONDS - began)) "$(progress "$log")"
        fi
    done
    status=0
    wait "$pid" || status=$?
    pid=
    if [ "$status" -eq 0 ]; then
        printf '%s: %s inputs tried in %s s, %s a second, %s edges covered; nothing found\n' \
            "$target" "$(number "$log" number_of_executed_units)" $((SECONDS - began)) \
            "$(number "$log" average_exec_per_sec)" "$(number "$log" cov)"
    else
        input=$(grep -ao "Test unit written to .*" "$log" | tail -n 1 | sed 's/.* to //' || true)
        why=$(grep -a -A1 -m1 'panicked at' "$log" || grep -a -m1 'ERROR: libFuzzer' "$log" || true)
        printf '%s: FOUND %s\n%s\n' "$target" "${input:-nothing to keep, see $log}" "$why"
        found+=("$target $input")
    fi
done

[ "${#found[@]}" -gt 0 ] || exit 0
echo
for finding in "${found[@]}"; do
    read -r target input <<<"$finding"
    echo "found: $target does not stand ${input:-what $out/$target.log tells}"
    [ -n "$input" ] || continue
    echo "  again: $binaries/$target $input"
    echo "  keep:  cp $input fuzz/findings/$target/NAME; cargo test --test fuzz_corpus"
done
exit 1
