#!/usr/bin/env bash
# scripts/need.sh PROGRAM...: says what to install where one of them is missing.
set -euo pipefail

status=0
for program in "$@"; do
    command -v "$program" >/dev/null && continue
    status=1
    case $program in
    cargo) echo "cargo is missing: install Rust 1.95 or later from https://rustup.rs" >&2 ;;
    cc) echo "a C compiler is missing: apt-get install gcc libc6-dev" >&2 ;;
    valgrind) echo "valgrind is missing: apt-get install valgrind" >&2 ;;
    c++) echo "a C++ compiler is missing: apt-get install g++" >&2 ;;
    java | mvn) echo "$program is missing: apt-get install openjdk-17-jdk-headless maven" >&2 ;;
    node | npm) echo "$program is missing: install Node.js 20 or later, with npm" >&2 ;;
    *) echo "$program is missing" >&2 ;;
    esac
done
if [ "$status" -eq 0 ] && [ "$1" = node ]; then
    major=$(node -p 'process.versions.node.split(".")[0]')
    if [ "$major" -lt 20 ]; then
        echo "Node.js $(node --version) is too old: 20 or later is needed" >&2
        status=1
    fi
fi
exit "$status"
