#!/usr/bin/env bash
# scripts/run.sh RELAY: the relay in development mode with its data in ./data.
# The environment's BROKER and STORE, where set, take the place of the embedded ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

mkdir -p data
run_in_front "$1" --dev --store "${STORE:-sqlite:data/stomp-relay.db}" ${BROKER:+--broker "$BROKER"}
