#!/usr/bin/env bash
# class-archive.sh 1: runs the server once, on an SQLite file that is thrown away, so that the JVM
# writes down the classes it loaded. A server that will not do so leaves no archive and no harm.
set -euo pipefail
[ "${1:-1}" = 1 ] || exit 0

scratch=$(mktemp -d)
# Its log as well: it would be in the volume, and belong to another user than the server's.
trap 'rm -rf "$scratch" /app/logs/*' EXIT
major=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/.*java.specification.version = \([0-9]*\).*/\1/p')
if [ "${major:-0}" -ge 25 ]; then
  archive=/app/conductor.aot record=-XX:AOTCacheOutput=/app/conductor.aot
else
  archive=/app/conductor.jsa record=-XX:ArchiveClassesAtExit=/app/conductor.jsa
fi

cat >"$scratch/train.properties" <<END
conductor.db.type=sqlite
conductor.queue.type=sqlite
conductor.indexing.enabled=true
conductor.indexing.type=sqlite
conductor.elasticsearch.version=0
conductor.workflow-execution-lock.type=local_only
spring.datasource.url=jdbc:sqlite:$scratch/train.db?busy_timeout=15000&journal_mode=WAL
spring.datasource.hikari.maximum-pool-size=1
loadSample=false
conductor.integrations.ai.enabled=false
management.health.elasticsearch.enabled=false
server.port=18080
server.address=127.0.0.1
END

cd "$scratch"
CONDUCTOR_CONFIG_FILE=$scratch/train.properties \
  java -Xmx1g -Djava.io.tmpdir="$scratch" -Duser.home="$scratch" "$record" -jar /app/conductor-server.jar --logging.config=file:/app/bin/log4j2.xml >"$scratch/log" 2>&1 &
server=$!
deadline=$((SECONDS + 900))
until curl -fsS -m 5 -o /dev/null http://127.0.0.1:18080/api/metadata/taskdefs 2>/dev/null; do
  if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$server" 2>/dev/null; then
    echo "no class archive: the server did not come up; its last words:"
    tail -n 20 "$scratch/log"
    kill -KILL "$server" 2>/dev/null || true
    exit 0
  fi
  sleep 1
done
curl -fsS -m 5 -o /dev/null http://127.0.0.1:18080/actuator/health || true
kill -TERM "$server"
wait "$server" || true
if [ -s "$archive" ]; then
  chmod 0644 "$archive"
  echo "class archive: $(du -h "$archive" | cut -f 1) for Java $major"
else
  echo "no class archive: the JVM wrote none"
  rm -f "$archive"
fi
