#!/usr/bin/env bash
# Installs and builds the clients that are recorded, each in its own folder and from its lock file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
../../scripts/need.sh node npm python3 go java mvn

for folder in stompjs stompjs-2 webstomp rx-stomp stompit; do
    (cd "$folder" && npm ci --silent --no-audit --no-fund --ignore-scripts)
done

[ -x stomp.py/venv/bin/python ] || python3 -m venv stomp.py/venv
stomp.py/venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r stomp.py/requirements.txt

for folder in spring vertx; do
    (cd "$folder" && mvn -q -B -Dstyle.color=never process-classes)
done
(cd go-stomp && go build -o bin/story .)
