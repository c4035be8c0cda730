#!/bin/sh
# One script for all agents of the example. The first argument says what it does; what it finds goes
# to the report, what it makes to the result. Every result is a digest over the task and what it was
# made from, so that a task that was lost, done out of order or on the wrong input shows later on.
set -eu

metric() { printf '{"metric":"%s","value":%s,"unit":"%s"}\n' "$1" "$2" "$3" >>"$K1_REPORT"; }

digest() { sha256sum | cut -d' ' -f1; }

# Most of an agent's time is spent waiting for others: a model, a build, a network.
sleep "${WAIT:-0}"

case "$1" in
scan)
    secrets=$(grep -rlE -e '-----BEGIN [A-Z ]*PRIVATE KEY-----' . --exclude-dir=.conductor | wc -l)
    writable=$(find . -path ./.conductor -prune -o -type f -perm -0002 -print | wc -l)
    metric secrets "$secrets" files
    metric world_writable "$writable" files
    ;;
measure)
    metric files "$(find . -path ./.conductor -prune -o -type f -print | wc -l)" files
    metric lines "$(find . -path ./.conductor -prune -o -type f -exec cat {} + | wc -l)" lines
    ;;
make) metric inputs "$(printf '%s' "${FROM:-}" | wc -w)" results ;;
check)
    # Everything that this task was made from must be the digest of a task that was done.
    good=0 all=0
    for part in ${FROM:-}; do
        all=$((all + 1))
        if [ "$(printf '%s' "$part" | tr -d '0-9a-f' | wc -c)" -eq 0 ] && [ "${#part}" -eq 64 ]; then
            good=$((good + 1))
        fi
    done
    metric checked "$all" results
    metric sound_share "$(awk "BEGIN { print $all ? $good / $all : 1 }")" ratio
    ;;
*)
    echo "no such work: $1" >&2
    exit 64
    ;;
esac

made=$(printf '%s %s' "$K1_TASK_ID" "${FROM:-}" | digest)
printf '{"digest":"%s"}\n' "$made" >"$K1_RESULT"
echo "$K1_TASK_ID made $made"
