//! The database itself: its encoding, locale and owner, its settings and grants, read from a server,
//! and as the statement that creates one like it. It must not know what is in the database.

use super::{failed, roles};
use crate::adapters::postgres::{Session, quote_identifier, quote_literal};
use crate::archive::{LocaleProvider, PostgresSource};
use crate::error::{Error, Result};

/// The database itself.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) server_version: String,
    pub(super) lsn: String,
    pub(super) owner: String,
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    pub(super) locale: Option<LocaleProvider>,
    pub(super) database_sql: Vec<String>,
}

/// Reads them.
pub(super) async fn read(session: &Session, major: u32) -> Result<Facts> {
    let doing = "reading the database's settings";
    let (provider, locale, rules) = match major {
        17.. => ("datlocprovider::text", "datlocale", "daticurules"),
        16 => ("datlocprovider::text", "daticulocale", "daticurules"),
        15 => ("datlocprovider::text", "daticulocale", "NULL"),
        _ => ("'c'", "NULL", "NULL"),
    };
    let sql = format!(
        "SELECT current_setting('server_version'),
                CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text
                     ELSE pg_current_wal_lsn()::text END,
                pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text,
                datcollate::text, datctype::text,
                {provider}, {locale}::text, {rules}::text
         FROM pg_catalog.pg_database WHERE datname = current_database()"
    );
    let row = session
        .query_one(&sql, &[])
        .await
        .map_err(|e| failed(doing, &e))?;
    let version: String = row.get(0);
    Ok(Facts {
        server_version: version.split(' ').next().unwrap_or_default().to_owned(),
        lsn: row.get::<_, Option<String>>(1).unwrap_or_default(),
        owner: row.get(2),
        encoding: row.get(3),
        collate: row.get(4),
        ctype: row.get(5),
        locale: Some(LocaleProvider {
            provider: provider_name(row.get(6))?.to_owned(),
            locale: row.get(7),
            rules: row.get(8),
        }),
        database_sql: read_database_sql(session).await?,
    })
}

/// Settings, grants and comment of the database itself, which no section of `pg_dump` has.
async fn read_database_sql(session: &Session) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT CASE WHEN r.rolname IS NULL THEN 'ALTER DATABASE :database:'
                ELSE format('ALTER ROLE %I IN DATABASE :database:', r.rolname) END
                || format(' SET %I TO ', split_part(c, '=', 1)) || {}
         FROM pg_catalog.pg_db_role_setting s
         JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
         CROSS JOIN unnest(s.setconfig) c
         WHERE d.datname = current_database()
         UNION ALL
         SELECT 'REVOKE ALL ON DATABASE :database: FROM PUBLIC'
         FROM pg_catalog.pg_database d
         WHERE d.datname = current_database() AND d.datacl IS NOT NULL
         UNION ALL
         SELECT format('GRANT %s ON DATABASE :database: TO %s%s', a.privilege_type,
                CASE a.grantee WHEN 0 THEN 'PUBLIC'
                     ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
         FROM pg_catalog.pg_database d CROSS JOIN aclexplode(d.datacl) a
         WHERE d.datname = current_database()
         UNION ALL
         SELECT 'COMMENT ON DATABASE :database: IS ' || quote_literal(t)
         FROM pg_catalog.pg_database d
         CROSS JOIN shobj_description(d.oid, 'pg_database') t
         WHERE d.datname = current_database() AND t IS NOT NULL",
        roles::setting_value("c")
    );
    let rows = session
        .query(&sql, &[])
        .await
        .map_err(|e| failed("reading the database's grants", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The provider that the catalog's letter means, as SQL names it.
fn provider_name(letter: &str) -> Result<&'static str> {
    match letter {
        "c" => Ok("libc"),
        "i" => Ok("icu"),
        "b" => Ok("builtin"),
        other => Err(Error::failed(format!(
            "the database has its locale from provider {other:?}, which this k1ops does not know"
        ))
        .hint("Back up with a newer k1ops, or with the server's own pg_dump.")),
    }
}

/// For people without this tool: the script that creates an empty database like `source`, and sets it
/// up; `psql` puts in the name that its variable `database` has.
pub(super) fn script(source: &PostgresSource) -> String {
    let name = ":\"database\"";
    let mut script = create(source, name, source.server_major) + ";\n";
    for statement in &source.database_sql {
        script.push_str(&statement.replacen(":database:", name, 1));
        script.push_str(";\n");
    }
    script
}

/// The statement that creates an empty database like `source` on a server of version `major`; `name`
/// is SQL already.
#[must_use]
pub fn create(source: &PostgresSource, name: &str, major: u32) -> String {
    let mut sql = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {} OWNER {}",
        quote_literal(&source.encoding),
        quote_literal(&source.collate),
        quote_literal(&source.ctype),
        quote_identifier(&source.owner),
    );
    // A server whose own databases have another provider would take that one.
    let (provider, locale, rules) = match &source.locale {
        Some(from) => (from.provider.as_str(), &from.locale, &from.rules),
        None if source.server_major < 15 => ("libc", &None, &None),
        None => return sql,
    };
    if major < 15 {
        return sql;
    }
    sql.push_str(&format!(" LOCALE_PROVIDER {provider}"));
    let option = match provider {
        "icu" => "ICU_LOCALE",
        _ => "BUILTIN_LOCALE",
    };
    if let Some(locale) = locale {
        sql.push_str(&format!(" {option} {}", quote_literal(locale)));
    }
    if let Some(rules) = rules {
        sql.push_str(&format!(" ICU_RULES {}", quote_literal(rules)));
    }
    sql
}
