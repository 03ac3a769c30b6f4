# shellcheck shell=bash
# What the scripts share: free ports, waiting, and ending what was started here, and only that.

# Ports below the range the kernel gives to outgoing connections, so that none takes one between
# our choice and the server's bind.
free_port() {
    local port try
    for try in {1..200}; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return 0
        fi
    done
    echo "no free port found in $try tries" >&2
    return 1
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

alive() {
    local state
    state=$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null) && [ "$state" != Z ]
}

# wait_until SECONDS COMMAND...: asks ten times a second.
wait_until() {
    local tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

gone() { ! alive "$1"; }

# stop_pid PID SECONDS: asks, waits, then insists. The pid is one that we wrote down ourselves;
# the caller checks that it still is that program (see ours).
stop_pid() {
    alive "$1" || return 0
    kill -TERM "$1" 2>/dev/null || return 0
    wait_until "$2" gone "$1" || kill -KILL "$1" 2>/dev/null || true
}

# ours PID MARK: true where the process carries MARK (NAME=VALUE) in its environment. A pid may
# have been given to somebody else since it was written down.
ours() { grep -qzxF -- "$2" "/proc/$1/environ" 2>/dev/null; }

# pids_with MARK: every process that inherited MARK. The caller has not exported it, or its own
# helpers would be among them.
pids_with() {
    grep -lzxF -- "$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true
}

# run_in_front COMMAND...: runs it so that Ctrl-C reaches it alone and its exit code is ours.
# With a terminal it gets a process group of its own in the terminal's foreground; otherwise make
# would die of the same SIGINT and report a failure where the program ended well.
run_in_front() {
    local status=0
    if [ -t 0 ] && [ -t 1 ]; then
        trap '' TSTP
        set -m
        "$@" || status=$?
        set +m
    else
        local pid
        "$@" &
        pid=$!
        # shellcheck disable=SC2064
        trap "kill -TERM $pid 2>/dev/null" INT TERM HUP
        while alive "$pid"; do
            status=0
            wait "$pid" || status=$?
        done
        wait "$pid" 2>/dev/null || true
        trap - INT TERM HUP
    fi
    return "$status"
}
