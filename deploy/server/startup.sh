#!/usr/bin/env bash
# Waits for what Conductor needs, says with what it starts, and becomes Conductor.
#
# Everything Conductor is told is in $CONDUCTOR_CONFIG_FILE, which only this user may read.
set -euo pipefail

config=${CONDUCTOR_CONFIG_FILE:-/run/secrets/conductor.properties}

# Several servers share the log volume: each takes the first name that no other holds, until it ends.
for number in '' -2 -3 -4 -5 -6 -7 -8; do
  name=conductor-server$number
  exec {held}>"/app/logs/.$name.lock"
  if flock -n "$held"; then break; fi
  exec {held}>&-
done
log=/app/logs/$name.log

say() { printf '%s startup: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" | tee -a "$log"; }

fail() {
  say "ERROR: $*"
  exit 1
}

property() { sed -n "s|^${1//./\\.}=||p" "$config" | tail -n 1; }

# wait_for NAME SECONDS COMMAND...: until COMMAND succeeds; its last words if it never does.
wait_for() {
  local name=$1 limit=$2 said
  shift 2
  local deadline=$((SECONDS + limit))
  say "waiting up to $limit s for $name"
  until said=$(timeout 5 "$@" 2>&1); do
    if [ "$SECONDS" -ge "$deadline" ]; then
      fail "$name did not answer within $limit s: ${said:-no answer}"
    fi
    sleep 1
  done
  say "$name answers"
}

postgres_answers() {
  if [ -n "$authority" ]; then
    export PGSSLMODE=verify-full PGSSLROOTCERT="$authority"
  fi
  PGPASSWORD=$(property spring.datasource.password) PGCONNECT_TIMEOUT=4 \
    psql -X -q -A -t -h "$pg_host" -p "$pg_port" -U "$(property spring.datasource.username)" \
    -d "$pg_name" -c 'select 1'
}

redis_answers() {
  local -a tls=()
  if [ -n "$authority" ]; then tls=(--tls --cacert "$authority"); fi
  REDISCLI_AUTH=$(property conductor.redis-lock.serverPassword) \
    redis-cli "${tls[@]}" -h "$redis_host" -p "$redis_port" ping | grep -x PONG
}

elasticsearch_answers() {
  curl -fsS -m 4 "$(property conductor.elasticsearch.url)/_cluster/health?wait_for_status=yellow&timeout=3s"
}
# The JVM trusts what it always did, and this authority: its own list is copied and added to.
trust_authority() {
  local home own=/tmp/k1-trust
  home=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.home = //p')
  rm -f "$own"
  if [ -f "$home/lib/security/cacerts" ]; then
    cp "$home/lib/security/cacerts" "$own"
    chmod 0600 "$own"
  fi
  # `changeit` is what every Java protects its list with; there is no secret in it.
  keytool -importcert -noprompt -alias k1-authority -file "$authority" \
    -keystore "$own" -storepass changeit >/tmp/k1-trust.said 2>&1 ||
    fail "the certificate authority $authority cannot be trusted: $(tail -n 2 /tmp/k1-trust.said)"
  flags+=("-Djavax.net.ssl.trustStore=$own" -Djavax.net.ssl.trustStorePassword=changeit)
}

export -f property postgres_answers redis_answers elasticsearch_answers

[ -r "$config" ] || fail "$config is not readable for $(id -u):$(id -g)"

# jdbc:postgresql://HOST:PORT/NAME?...
database=$(property spring.datasource.url)
if [[ $database =~ ^jdbc:postgresql://([^:/]+):([0-9]+)/([^?]+) ]]; then
  export pg_host=${BASH_REMATCH[1]} pg_port=${BASH_REMATCH[2]} pg_name=${BASH_REMATCH[3]}
else
  fail "spring.datasource.url is not a PostgreSQL address"
fi
export config authority=${CONDUCTOR_AUTHORITY:-}

say "user $(id -u):$(id -g), $(java -version 2>&1 | head -n 1), heap ${JAVA_HEAP:=1g}; configuration:"
grep -v -e '^#' -e '^$' "$config" |
  sed -E 's/^([^=]*([Pp]assword|[Ss]ecret|[Tt]oken|[Kk]ey)[^=]*)=.*/\1=***/; s#(://[^:/@]+:)[^@]+@#\1***@#; s/([?&]password=)[^&]*/\1***/' |
  while IFS= read -r line; do say "  $line"; done

wait_for PostgreSQL 60 bash -c postgres_answers
redis=$(property conductor.redis-lock.serverAddress)
if [[ $redis =~ ^rediss?://([^:/]+):([0-9]+) ]]; then
  export redis_host=${BASH_REMATCH[1]} redis_port=${BASH_REMATCH[2]}
  wait_for Redis 30 bash -c redis_answers
fi
if [ "$(property conductor.indexing.type)" = elasticsearch ]; then
  wait_for Elasticsearch 120 bash -c elasticsearch_answers
fi

flags=("-Xmx$JAVA_HEAP" -XX:+ExitOnOutOfMemoryError -Djava.io.tmpdir=/tmp -Duser.home=/tmp)
# The JVM ignores an archive that does not fit, so a changed JDK costs time and nothing else.
if [ -f /app/conductor.aot ]; then
  flags+=(-XX:AOTCache=/app/conductor.aot)
elif [ -f /app/conductor.jsa ]; then
  flags+=(-XX:SharedArchiveFile=/app/conductor.jsa)
fi
if [ -n "$authority" ]; then trust_authority; fi
say "starting Conductor"
cd /app
exec java "${flags[@]}" "-Dconductor.log=$name" -jar /app/conductor-server.jar --logging.config=file:/app/bin/log4j2.xml
