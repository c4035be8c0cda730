#!/bin/sh
# ask.sh WORDS...: tells the balancer something over its own socket and prints what it answers.
# Images of HAProxy have either `nc` or `bash`.
set -eu

if command -v nc >/dev/null 2>&1; then
  printf '%s\n' "$*" | nc 127.0.0.1 9999
else
  # shellcheck disable=SC2016 # for the other shell to expand
  exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/9999 && printf "%s\n" "$1" >&3 && cat <&3' ask "$*"
fi
