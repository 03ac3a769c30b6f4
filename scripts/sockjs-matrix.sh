#!/usr/bin/env bash
# scripts/sockjs-matrix.sh RELAY: every SockJS client with every STOMP client and every transport,
# in Chromium and in Node, and through nginx to two nodes. Prints the tables and writes them into
# docs/sockjs.md. Needs Maven Central once, for sockjs-client 0.3.4.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/need.sh node npm
scripts/install-test-tools.sh
RELAY=$PWD/$1 exec node system-tests/sockjs-clients/matrix.mjs
