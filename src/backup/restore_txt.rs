//! `RESTORE.txt`: how to get everything back without this tool. Its indented lines are one shell
//! script, which a test runs as it stands.

use super::plan::{BackupPlan, PlannedSource};
use crate::archive::PhysicalSource;
use crate::stack::docker::Service;

/// Its member.
pub(super) const MEMBER: &str = "RESTORE.txt";

/// The text for what `plan` puts into the archive.
pub(super) fn text(plan: &BackupPlan) -> String {
    let unpack = plan.codec.codec.program();
    let suffix = plan.codec.codec.suffix();
    let mut text = introduction(plan, unpack);
    for source in &plan.sources {
        match source {
            PlannedSource::Sqlite { name, .. } => text.push_str(&sqlite(name, unpack, suffix)),
            PlannedSource::Postgres { .. } => text.push_str(&postgres(unpack, suffix)),
            PlannedSource::Volume { service, .. } => {
                text.push_str(&volume(
                    &plan.names.volume(*service),
                    *service,
                    unpack,
                    suffix,
                ));
            }
            PlannedSource::Physical { .. } => text.push_str(&physical(unpack, suffix)),
            PlannedSource::Config { path } => text.push_str(&config(path)),
        }
    }
    text
}

fn introduction(plan: &BackupPlan, unpack: &str) -> String {
    let program = unpack.split(' ').next().unwrap_or(unpack);
    format!(
        "\
How to restore this backup by hand
==================================

This is a backup of the K1 Conductor stack \"{stack}\", begun at {time}.
The easy way is `k1ops restore FILE`. This is the way without k1ops: it takes tar, {program},
and sqlite3 or psql. Unpack the archive into an empty folder, go there, and run the indented
lines; they stop at the first error. manifest.json holds the SHA-256 of every member and the
number of rows of every table.

    set -eu
",
        stack = plan.stack,
        time = plan.started_at.format("%Y-%m-%d %H:%M:%S UTC"),
    )
}

fn sqlite(name: &str, unpack: &str, suffix: &str) -> String {
    format!(
        "
The SQLite database \"{name}\": its pages, one part after the other. Stop whatever uses the old
database, and move {name}.db, {name}.db-wal and {name}.db-shm away, before you put this one in
their place.

    {unpack} sqlite/{name}/*.pages{suffix} > {name}.db
    sqlite3 {name}.db 'PRAGMA integrity_check'
"
    )
}

/// What the rows were written with, and nothing of the database's own settings that would end a session
/// or refuse what it writes.
const OPTIONS: &str = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c DateStyle=ISO,YMD -c IntervalStyle=postgres -c TimeZone=UTC \
    -c array_nulls=on -c standard_conforming_strings=on -c row_security=off \
    -c xmloption=content";

fn postgres(unpack: &str, suffix: &str) -> String {
    format!(
        "
The PostgreSQL database, into a new database. PGHOST, PGPORT, PGUSER and PGPASSWORD say on which
server and as whom (a superuser, so that owners and extensions can be restored); TARGET names the
new database. postgres/database.sql creates it with its encoding, locale, owner, settings and grants;
postgres/load.tsv lists every part of every table with the COPY command that loads it. Roles that
are there already are left as they are; passwords of roles are not in a backup. The two exports have
the rows read as they were written, whatever the server, the database or your terminal are set to.
Create the tablespaces that SET default_tablespace names in the schema beforehand, if there are any.

    TARGET=${{TARGET:-restored}}
    export PGCLIENTENCODING=UTF8
    export PGOPTIONS='{OPTIONS}'
    psql -X -q -v ON_ERROR_STOP=1 -d postgres -f postgres/roles.sql
    psql -X -q -v ON_ERROR_STOP=1 -v database=\"$TARGET\" -d postgres -f postgres/database.sql
    {unpack} postgres/schema-pre-data.sql{suffix} | psql -X -q -v ON_ERROR_STOP=1 -d \"$TARGET\"
    {unpack} postgres/load.tsv{suffix} | while IFS='\t' read -r part copy; do
      {unpack} \"$part\" | psql -X -q -v ON_ERROR_STOP=1 -d \"$TARGET\" -c \"$copy\"
    done
    for part in postgres/large-object-definitions/*.sql{suffix} postgres/large-objects/*.sql{suffix}; do
      if [ -e \"$part\" ]; then {unpack} \"$part\" | psql -X -q -o /dev/null -v ON_ERROR_STOP=1 -d \"$TARGET\"; fi
    done
    {unpack} postgres/sequences.sql{suffix} | psql -X -q -o /dev/null -v ON_ERROR_STOP=1 -d \"$TARGET\"
    {unpack} postgres/schema-post-data.sql{suffix} | psql -X -q -v ON_ERROR_STOP=1 -d \"$TARGET\"
"
    )
}

fn volume(name: &str, service: Service, unpack: &str, suffix: &str) -> String {
    let what = match service {
        Service::Postgres => {
            "the whole PostgreSQL cluster, as a server of the same major version starts on it. It \
             holds\nthe database above once more: use one of the two, not both."
        }
        Service::Redis => {
            "dump.rdb, the snapshot that Redis took of itself. A Redis with appendonly reads it\n\
             only if it is put in place while appendonly is off."
        }
        Service::Elasticsearch => {
            "a repository of type fs with one snapshot, for Elasticsearch's\n_snapshot API."
        }
        _ => "the server's logs.",
    };
    format!(
        "
The volume {name}: {what}
Run as root, so that owners are kept; then copy the folder into the volume or use it as it is.

    mkdir -p restored/{name}
    if [ -d volumes/{name}/base ]; then parts=volumes/{name}/base; else parts=volumes/{name}; fi
    if [ -d \"$parts\" ]; then {unpack} \"$parts\"/*.tar{suffix} | tar -x -p -C restored/{name}; fi
"
    )
}

fn physical(unpack: &str, suffix: &str) -> String {
    let volume = PhysicalSource::SERVER;
    format!(
        "
The data directory of the PostgreSQL server, with the write-ahead log that it recovers from when a
server of the same major version starts on it. It must belong to the server's user, who alone may
read it. Each tablespace lies in volumes/{volume}/OID; unpack it likewise, and name its folder in
the file tablespace_map of the data directory.

    mkdir -m 0700 pgdata
    {unpack} volumes/{volume}/base/*.tar{suffix} | tar -xf - -C pgdata
    {unpack} volumes/{volume}/backup_manifest{suffix} > pgdata/backup_manifest
"
    )
}

fn config(path: &str) -> String {
    format!(
        "
The configuration is in {path}. Secrets in it are written as ***: put them back before you use
it.
"
    )
}
