# shellcheck shell=bash
# Steps that a person can follow: one line each, with the noise of slow commands kept in a log that
# is shown when something fails. Sourced by every script; knows nothing about what the steps do.

set -euo pipefail
shopt -s inherit_errexit

# Nothing here may wait for a person, so nothing gets a terminal to ask on.
exec </dev/null

# HOME is missing under cron and in some CI runners; everything below keeps its caches under it.
export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"

# shellcheck disable=SC2034 # for the scripts that source this file
K1OPS_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
K1OPS_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/k1ops"
K1OPS_TOOLS="$K1OPS_CACHE/tools"
K1OPS_STEP_NAME="$(basename "$0")"
K1OPS_LOG="${K1OPS_LOG:-$K1OPS_CACHE/logs/$K1OPS_STEP_NAME.log}"
mkdir -p "$K1OPS_CACHE/logs" "$K1OPS_TOOLS/bin"

export PATH="$K1OPS_TOOLS/bin:$PATH"

say() { printf '%s: %s\n' "$K1OPS_STEP_NAME" "$*" >&2; }

die() {
    printf '%s: error: %s\n' "$K1OPS_STEP_NAME" "$1" >&2
    if [ $# -gt 1 ]; then printf '  hint: %s\n' "$2" >&2; fi
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# attempt TEXT COMMAND...: one line now, the command's output into the log, its end on failure.
# For commands; inside a function, `set -e` would be off wherever the result is asked for.
attempt() {
    local text="$1" from status=0
    shift
    say "$text"
    printf '\n== %s %s: %s\n' "$(date -u +%FT%TZ)" "$text" "$*" >>"$K1OPS_LOG"
    from="$(stat -c %s "$K1OPS_LOG")"
    "$@" >>"$K1OPS_LOG" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then show_failure "$text" "$from" "$status"; fi
    return "$status"
}

# logged TEXT COMMAND...: the same for a command or a function, and the end of the script if it
# fails. Not to be called where its result is asked for (`if`, `||`).
logged() {
    local text="$1" from status
    shift
    say "$text"
    printf '\n== %s %s: %s\n' "$(date -u +%FT%TZ)" "$text" "$*" >>"$K1OPS_LOG"
    from="$(stat -c %s "$K1OPS_LOG")"
    set +e
    (
        set -e
        "$@"
    ) >>"$K1OPS_LOG" 2>&1
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        show_failure "$text" "$from" "$status"
        exit "$status"
    fi
}

show_failure() {
    tail -c "+$(($2 + 1))" "$K1OPS_LOG" | tail -n 40 | sed 's/^/    /' >&2
    say "failed (exit code $3): $1; the whole log is in $K1OPS_LOG"
}

# Runs a command as root: directly, or through sudo where the caller is someone else.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "'$1' must run as root" "Run this as root, or install sudo."
    fi
}

# only_one NAME: two of the same script on one machine wait for each other instead of both
# installing. Held until the script ends; a daemon started meanwhile must close $K1OPS_LOCK.
only_one() {
    exec {K1OPS_LOCK}>"$K1OPS_CACHE/$1.lock"
    if ! flock --nonblock "$K1OPS_LOCK"; then
        say "waiting for another $1 to finish"
        flock "$K1OPS_LOCK"
    fi
}
