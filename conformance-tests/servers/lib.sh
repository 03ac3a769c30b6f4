# shellcheck shell=bash
# What the servers to compare with share: a Java program of its own folder, built by Maven, that is
# started with free loopback ports and its data in a folder of its own, and ended by its pid.
# The caller's folder is the repository's.
. scripts/lib.sh

servers=conformance-tests/servers

# build NAME: where a source is newer than what was built from it.
build() {
    scripts/need.sh java mvn
    local folder=$servers/$1
    if [ ! -e "$folder/target/built" ] ||
        [ -n "$(find "$folder/pom.xml" "$folder/src" -newer "$folder/target/built")" ]; then
        (cd "$folder" && mvn -q -B -Dstyle.color=never process-classes) >&2
        touch "$folder/target/built"
    fi
}

up_or_dead() { ready "$1" "$2" || gone "$3"; }

# start NAME CLASS DIR: calls `arguments DIR PORT` for the words behind the class, `ready DIR PORT`
# until that is true, and `environment PORT` for what DIR/env is to hold beside PID.
start() {
    local name=$1 class=$2 dir=$3 port pid try words
    build "$name" || exit 1
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    if [ -e "$dir/env" ]; then
        echo "$dir/env exists: $class was started there and not stopped" >&2
        exit 1
    fi
    for try in 1 2 3; do
        port=$(free_port)
        mapfile -t words < <(arguments "$dir" "$port")
        STOMP_RELAY_SERVER_DIR=$dir setsid java -Xmx512m -Djava.io.tmpdir="$dir" \
            -cp "$servers/$name/target/classes:$servers/$name/target/lib/*" "$class" "${words[@]}" \
            </dev/null >"$dir/log" 2>&1 &
        pid=$!
        echo "$pid" >"$dir/pid"
        if wait_until 60 up_or_dead "$dir" "$port" "$pid" && alive "$pid"; then
            { environment "$port" && echo "PID=$pid"; } >"$dir/env"
            cat "$dir/env"
            return 0
        fi
        stop "$dir"
    done
    echo "$class did not start in $try tries; the end of its output:" >&2
    tail -n 20 "$dir/log" >&2
    exit 1
}

# stop DIR: ends what was started there, and nothing else.
stop() {
    local dir=$1 pid
    [ -d "$dir" ] || return 0
    dir=$(cd "$dir" && pwd)
    pid=$(cat "$dir/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && ours "$pid" "STOMP_RELAY_SERVER_DIR=$dir"; then
        stop_pid "$pid" 20
    fi
    rm -f "$dir/pid" "$dir/env"
}
