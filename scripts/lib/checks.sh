# shellcheck shell=bash
# Runs the checks of the test command one after the other, each to its end even if an earlier one
# failed, and counts. The command that runs is a process group of its own, so that an interrupted
# run leaves nothing behind.

FAILED_CHECKS=()
CHECK_GROUP=

# check NAME COMMAND...
check() {
    local name="$1" status=0 started=$SECONDS
    shift
    say "$name"
    in_own_group "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        FAILED_CHECKS+=("$name")
        say "$name: failed (exit code $status)"
    else
        say "$name: ok ($((SECONDS - started)) s)"
    fi
}

in_own_group() {
    local status=0
    set -m
    "$@" &
    CHECK_GROUP=$!
    set +m
    wait "$CHECK_GROUP" || status=$?
    CHECK_GROUP=
    return "$status"
}

# For the exit trap.
end_running_check() {
    if [ -n "$CHECK_GROUP" ]; then
        kill -TERM -- "-$CHECK_GROUP" 2>/dev/null || true
        wait "$CHECK_GROUP" 2>/dev/null || true
    fi
}

# count_tests FILE WORD: the sum of a column of cargo test's result lines.
count_tests() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" |
        sed -n "s/^test result:.*[.;] \([0-9][0-9]*\) $2;.*/\1/p" |
        awk '{ sum += $1 } END { print sum + 0 }'
}
