#!/bin/bash
# Behaves like the entry point of the official Elasticsearch image: root becomes uid 1000 in group
# 0, ES_JAVA_OPTS go to the JVM, and files may be read by the group.
set -e
umask 0002

if [ "$(id -u)" -eq 0 ]; then
    if [ -n "$TAKE_FILE_OWNERSHIP" ]; then
        chown -R 1000:0 /usr/share/elasticsearch/{data,logs}
    fi
    exec setpriv --reuid=1000 --regid=0 --clear-groups \
        env HOME=/usr/share/elasticsearch "$0" "$@"
fi

case "$1" in '' | eswrapper | elasticsearch) ;; *) exec "$@" ;; esac

# shellcheck disable=SC2086 # several options in one variable, as there
exec java -Des.networkaddress.cache.ttl=60 -Dlog4j2.disable.jmx=true -Xms512m -Xmx512m \
    -Dlog4j.configurationFile=/usr/share/elasticsearch/config/log4j2.properties \
    $ES_JAVA_OPTS \
    -cp '/usr/share/elasticsearch/launcher:/usr/share/elasticsearch/lib/*' Elasticsearch
