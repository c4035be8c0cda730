#!/bin/sh
# Behaves like the entry point of the official HAProxy image: options alone mean haproxy, which runs
# in the foreground as a master with a worker, so that a new configuration can be loaded.
set -e

case "$1" in -*) set -- haproxy "$@" ;; esac
if [ "$1" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi
exec "$@"
