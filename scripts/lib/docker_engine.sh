# shellcheck shell=bash
# A Docker engine: the one that answers, or the distribution's. Where no init system could start it,
# it is started here, and stopping ends exactly that one.

K1OPS_DOCKERD_PID="$K1OPS_CACHE/testbed/dockerd.pid"
K1OPS_DOCKERD_LOG="$K1OPS_CACHE/logs/dockerd.log"

# Plain HTTP to the socket is a tenth of the price of `docker version`; a DOCKER_HOST or a context
# that points elsewhere is the client's business.
engine_answers() {
    if [ -z "${DOCKER_HOST:-}${DOCKER_CONTEXT:-}" ] && [ ! -e "$HOME/.docker/config.json" ]; then
        [ -S /var/run/docker.sock ] || return 1
    fi
    timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# True for a dockerd that this script started and that still runs (and not for whatever has its
# number now).
own_engine_runs() {
    local pid
    pid="$(cat "$K1OPS_DOCKERD_PID" 2>/dev/null)" || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]
}

ensure_engine() {
    engine_answers && return
    need_commands "Installing the Docker engine" docker:docker.io dockerd:docker.io iptables
    hash -r
    if [ -d /run/systemd/system ]; then
        logged "Starting the Docker engine" as_root systemctl start docker
    elif ! own_engine_runs; then
        start_engine
    fi
    wait_for_engine
}

start_engine() {
    say "Starting the Docker engine"
    mkdir -p "$(dirname "$K1OPS_DOCKERD_PID")"
    # One that was killed leaves these behind and would refuse to start because of them.
    as_root rm -f "$K1OPS_DOCKERD_PID" /var/run/docker.pid
    # A session of its own, and no descriptor of ours: it outlives this script and its terminal.
    as_root setsid --fork dockerd --pidfile "$K1OPS_DOCKERD_PID" \
        >"$K1OPS_DOCKERD_LOG" 2>&1 {K1OPS_LOCK}>&-
}

wait_for_engine() {
    local deadline=$((SECONDS + 60))
    until engine_answers; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 20 "$K1OPS_DOCKERD_LOG" 2>/dev/null | sed 's/^/    /' >&2 || true
            if as_root docker version >/dev/null 2>&1; then
                die "the Docker engine answers only to root" \
                    "Run this as root, or add yourself to the group 'docker' and log in again."
            fi
            die "the Docker engine does not answer after 60 s; its log is $K1OPS_DOCKERD_LOG"
        fi
        sleep 0.2
    done
}

# Ends the engine that ensure_engine started, with its containers; another one is left alone.
stop_engine() {
    local pid deadline=$((SECONDS + 60))
    if ! own_engine_runs; then
        say "no Docker engine of the test bed runs"
        return
    fi
    say "Stopping the Docker engine"
    pid="$(cat "$K1OPS_DOCKERD_PID")"
    as_root kill -TERM "$pid"
    while [ -d "/proc/$pid" ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then die "dockerd ($pid) does not end"; fi
        sleep 0.2
    done
    as_root rm -f "$K1OPS_DOCKERD_PID"
}
