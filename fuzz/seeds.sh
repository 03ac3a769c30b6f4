#!/usr/bin/env bash
# fuzz/seeds.sh: writes fuzz/corpus anew from the conformance transcripts. Of inputs that reach
# the same code the smallest stays. Needs the programs that fuzz/run.sh builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=target/fuzz-run
triple=$(rustc -vV | sed -n 's/^host: //p')
binaries=target/fuzz/$triple/release
rm -rf "$out/seeds" "$out/merged"
cargo run --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --example seeds -- "$out/seeds"
for all in "$out"/seeds/*; do
    target=${all##*/}
    merged=$out/merged/$target
    mkdir -p "$merged"
    "$binaries/$target" -set_cover_merge=1 "$merged" "$all" >"$out/$target.merge.log" 2>&1
    rm -rf "fuzz/corpus/$target"
    mkdir -p "fuzz/corpus/$target"
    # The fuzzer names what it keeps by its hash; a case's name says more.
    for seed in "$all"/*; do
        hash=$(sha1sum <"$seed" | cut -d' ' -f1)
        if [ -e "$merged/$hash" ]; then
            mv "$seed" "fuzz/corpus/$target/"
            rm "$merged/$hash"
        fi
    done
    echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs, $(du -sb "fuzz/corpus/$target" | cut -f1) bytes"
done
