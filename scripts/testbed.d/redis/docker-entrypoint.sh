#!/bin/sh
# Behaves like the entry point of the official Redis image: options alone mean redis-server, root
# gives /data to `redis` and becomes it, and files are private.
set -e

case "$1" in -* | *.conf) set -- redis-server "$@" ;; esac

if [ "$1" = redis-server ] && [ "$(id -u)" -eq 0 ]; then
    find . ! -user redis -exec chown redis {} +
    exec setpriv --reuid=redis --regid=redis --init-groups env HOME=/home/redis "$0" "$@"
fi

if [ "$1" = redis-server ]; then
    # The official server is compiled without protected mode. A configuration file speaks for
    # itself here; one that sets a password is not touched by protected mode anyway.
    case "$2" in
        '' | --*) shift && set -- redis-server --protected-mode no "$@" ;;
    esac
fi

if [ "$(umask)" = 0022 ]; then umask 0077; fi
exec "$@"
