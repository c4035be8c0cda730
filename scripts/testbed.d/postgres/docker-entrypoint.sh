#!/bin/bash
# Behaves like the entry point of the official PostgreSQL image in what a stack can notice: the
# variables, who owns what, the first start with its temporary server, the order of the scripts in
# /docker-entrypoint-initdb.d, and what pg_hba.conf says in the end.
set -Eeo pipefail

# value_of NAME DEFAULT: from the variable, or from the file that NAME_FILE names.
value_of() {
    local file_variable="$1_FILE"
    if [ -n "${!1}" ] && [ -n "${!file_variable}" ]; then
        echo "error: both $1 and $file_variable are set (but are exclusive)" >&2
        return 1
    elif [ -n "${!1}" ]; then
        printf '%s' "${!1}"
    elif [ -n "${!file_variable}" ]; then
        cat "${!file_variable}"
    else
        printf '%s' "$2"
    fi
}

# Secrets are read while this is still root: their files may be root's alone.
read_settings() {
    local name
    POSTGRES_PASSWORD="$(value_of POSTGRES_PASSWORD '')"
    POSTGRES_USER="$(value_of POSTGRES_USER postgres)"
    POSTGRES_DB="$(value_of POSTGRES_DB "$POSTGRES_USER")"
    POSTGRES_INITDB_ARGS="$(value_of POSTGRES_INITDB_ARGS '')"
    export POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB POSTGRES_INITDB_ARGS
    for name in PASSWORD USER DB INITDB_ARGS; do unset "POSTGRES_${name}_FILE"; done
}

prepare_folders() {
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA" || true
    mkdir -p /var/run/postgresql || true
    chmod 03775 /var/run/postgresql || true
    if [ "$(id -u)" -eq 0 ]; then
        find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres {} +
    fi
}

# sql DATABASE ARGUMENT...
sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc \
        --username "$POSTGRES_USER" --dbname "$@"
}

run_init_file() {
    case "$1" in
        *.sh)
            if [ -x "$1" ]; then
                echo "$0: running $1"
                "$1"
            else
                echo "$0: sourcing $1"
                # shellcheck disable=SC1090 # whatever was mounted
                . "$1"
            fi
            ;;
        *.sql) echo "$0: running $1" && sql "$POSTGRES_DB" -f "$1" ;;
        *.sql.gz) echo "$0: running $1" && gunzip -c "$1" | sql "$POSTGRES_DB" ;;
        *.sql.xz) echo "$0: running $1" && xzcat "$1" | sql "$POSTGRES_DB" ;;
        *.sql.zst) echo "$0: running $1" && zstd -dc "$1" | sql "$POSTGRES_DB" ;;
        *) echo "$0: ignoring $1" ;;
    esac
}

first_start() {
    local file method="$POSTGRES_HOST_AUTH_METHOD"
    local -a initdb_arguments
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$method" != trust ]; then
        echo 'Error: Database is uninitialized and superuser password is not specified.' >&2
        echo '       You must specify POSTGRES_PASSWORD to a non-empty value for the superuser.' >&2
        exit 1
    fi
    eval "initdb_arguments=($POSTGRES_INITDB_ARGS)"
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        "${initdb_arguments[@]}"
    [ -n "$method" ] || method="$(postgres -C password_encryption "${@:2}")"
    # As there: local, 127.0.0.1 and replication lines are initdb's own, this one is added.
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    # Reachable through its socket only, until everything below is done.
    export PGPASSWORD="${PGPASSWORD:-$POSTGRES_PASSWORD}"
    PGUSER="${PGUSER:-$POSTGRES_USER}" pg_ctl -D "$PGDATA" -w \
        -o "$(printf '%q ' "${@:2}" -c listen_addresses='' -p "${PGPORT:-5432}")" start
    if [ -z "$(sql postgres -At --set db="$POSTGRES_DB" \
        <<<"SELECT 1 FROM pg_database WHERE datname = :'db'")" ]; then
        sql postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db"'
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        run_init_file "$file"
    done
    PGUSER="${PGUSER:-postgres}" pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGPASSWORD
    printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

asks_only() {
    local argument
    for argument; do
        case "$argument" in '-?' | --help | --describe-config | -V | --version) return 0 ;; esac
    done
    return 1
}

case "$1" in -*) set -- postgres "$@" ;; esac
if [ "$1" = postgres ] && ! asks_only "$@"; then
    read_settings
    prepare_folders
    if [ "$(id -u)" -eq 0 ]; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups \
            env HOME=/var/lib/postgresql "$0" "$@"
    fi
    if [ -s "$PGDATA/PG_VERSION" ]; then
        printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
    else
        first_start "$@"
    fi
fi
exec "$@"
