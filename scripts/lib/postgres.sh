# shellcheck shell=bash
# PostgreSQL's programs, and a scratch server of one's own: on a free port, in a folder of its own,
# under an unprivileged user, gone when its owner is.

K1OPS_POSTGRES_MAJOR=15
K1OPS_POSTGRES_USER=postgres

# Prints the folder of the server's programs: 15, or the distribution's own where it has no 15.
postgres_bin() {
    local dir
    dir="/usr/lib/postgresql/$K1OPS_POSTGRES_MAJOR/bin"
    if [ ! -x "$dir/postgres" ]; then
        dir="$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)"
    fi
    [ -n "$dir" ] && [ -x "$dir/postgres" ] && printf '%s\n' "$dir"
}

ensure_postgres_client() {
    need_commands "Installing the PostgreSQL client" pg_dump:postgresql-client psql:postgresql-client
}

ensure_postgres_server() {
    local package="postgresql-$K1OPS_POSTGRES_MAJOR"
    [ -x "/usr/lib/postgresql/$K1OPS_POSTGRES_MAJOR/bin/postgres" ] && return
    if ! package_exists "$package"; then
        if postgres_bin >/dev/null; then return; fi
        say "this distribution has no PostgreSQL $K1OPS_POSTGRES_MAJOR; testing with its own version"
        package=postgresql
    fi
    # Debian starts a cluster on port 5432 with the package. The tests make their own.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' |
            as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    install_packages "Installing PostgreSQL" "$package"
}

# PostgreSQL refuses to run as root; the package brings a user for it.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid=postgres --regid=postgres --init-groups --no-new-privs \
            env HOME=/tmp "$@"
    else
        "$@"
    fi
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

random_free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if port_is_free "$port"; then
            printf '%s\n' "$port"
            return
        fi
    done
}

# start_scratch_postgres DIR: sets SCRATCH_POSTGRES_URL (a superuser's).
# shellcheck disable=SC2034 # the caller uses it
start_scratch_postgres() {
    local dir="$1" bin password port attempt
    bin="$(postgres_bin)"
    password="$(head -c 18 /dev/urandom | od -An -tx1 | tr -d ' \n')"
    mkdir -p "$dir"
    chmod 0711 "$dir"
    mkdir -p "$dir/socket"
    (umask 077 && printf '%s\n' "$password" >"$dir/password")
    if [ "$(id -u)" -eq 0 ]; then chown -R postgres: "$dir/socket" "$dir/password"; fi
    install -d -m 0700 "$dir/data"
    if [ "$(id -u)" -eq 0 ]; then chown postgres: "$dir/data"; fi
    as_postgres "$bin/initdb" -D "$dir/data" --username="$K1OPS_POSTGRES_USER" \
        --pwfile="$dir/password" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-host=scram-sha-256 --auth-local=scram-sha-256 >"$dir/initdb.log" 2>&1 || {
        cat "$dir/initdb.log" >&2
        die "initdb failed"
    }
    rm -f "$dir/password"
    as_postgres tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir/socket'
max_connections = 200
CONF
    # Between the look and the start somebody else may take the port.
    for attempt in 1 2 3 4 5; do
        port="$(random_free_port)"
        if as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/socket/server.log" -w -t 60 \
            -o "-p $port" start >/dev/null 2>&1; then
            SCRATCH_POSTGRES_URL="postgres://$K1OPS_POSTGRES_USER:$password@127.0.0.1:$port/postgres"
            return 0
        fi
        say "PostgreSQL did not start on port $port (try $attempt)"
    done
    tail -n 20 "$dir/socket/server.log" >&2
    die "the scratch PostgreSQL does not start"
}

# stop_scratch_postgres DIR: does nothing where none runs.
stop_scratch_postgres() {
    local dir="$1" bin
    [ -f "$dir/data/postmaster.pid" ] || return 0
    bin="$(postgres_bin)"
    as_postgres "$bin/pg_ctl" -D "$dir/data" -m fast -w -t 30 stop >/dev/null 2>&1 ||
        as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate -w -t 30 stop >/dev/null 2>&1 || true
}
