//! The roles that a database needs: read from a server, and as the statement that creates those that
//! another one lacks. It knows nothing of passwords, and makes nobody a superuser.

use super::failed;
use crate::adapters::postgres::{Session, quote_identifier, quote_literal};
use crate::archive::{LeftOut, Role};
use crate::error::Result;
use std::collections::BTreeMap;

/// Roles that own something in the database, have settings in it, or are named in a grant or a policy
/// of it, and all groups that these are in.
///
/// The server keeps no note of what the first superuser, number 10, owns. What extensions made is not
/// dumped, and needs no owner.
const NEEDED: &str = "
    WITH RECURSIVE here AS (
        SELECT oid, datdba FROM pg_catalog.pg_database WHERE datname = current_database()),
    owned AS (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS class, oid, relowner AS owner
        FROM pg_catalog.pg_class WHERE relkind NOT IN ('t', 'i', 'I')
        UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, proowner
        FROM pg_catalog.pg_proc
        UNION ALL SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid, nspowner
        FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, oid, typowner
        FROM pg_catalog.pg_type),
    first AS (
        SELECT 10::oid AS oid WHERE EXISTS (
            SELECT FROM owned o WHERE o.owner = 10 AND o.oid >= 16384
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.class
                              AND d.objid = o.oid AND d.deptype IN ('e', 'i')))),
    named AS (
        SELECT s.refobjid AS oid FROM pg_catalog.pg_shdepend s, here
        WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
          AND (s.dbid = here.oid
               OR s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
                  AND s.objid = here.oid)
        UNION SELECT datdba FROM here
        UNION SELECT oid FROM first
        UNION SELECT s.setrole FROM pg_catalog.pg_db_role_setting s, here
        WHERE s.setdatabase = here.oid
        UNION SELECT m.roleid FROM named n JOIN pg_catalog.pg_auth_members m ON m.member = n.oid
        JOIN pg_catalog.pg_roles g ON g.oid = m.roleid AND NOT g.rolsuper),
    needed AS (
        SELECT r.* FROM pg_catalog.pg_roles r
        WHERE r.rolname !~ '^pg_' AND r.oid IN (SELECT oid FROM named))";

/// Reads the roles.
pub(super) async fn read(session: &Session, major: u32) -> Result<Vec<Role>> {
    let sql = format!(
        "{NEEDED}
         SELECT n.rolname::text,
                concat_ws(' ', CASE WHEN n.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                    CASE WHEN n.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
                    CASE WHEN n.rolcreatedb THEN 'CREATEDB' END,
                    CASE WHEN n.rolcreaterole THEN 'CREATEROLE' END,
                    CASE WHEN n.rolreplication THEN 'REPLICATION' END,
                    CASE WHEN n.rolbypassrls THEN 'BYPASSRLS' END,
                    CASE WHEN n.rolconnlimit >= 0
                         THEN 'CONNECTION LIMIT ' || n.rolconnlimit END,
                    'VALID UNTIL ' || quote_literal(n.rolvaliduntil::text)),
                ARRAY(SELECT format('ALTER ROLE %I SET %I TO ', n.rolname, split_part(c, '=', 1))
                          || {}
                      FROM pg_catalog.pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c
                      WHERE s.setrole = n.oid AND s.setdatabase = 0)
                || ARRAY(SELECT format('COMMENT ON ROLE %I IS %L', n.rolname, t)
                         FROM shobj_description(n.oid, 'pg_authid') t WHERE t IS NOT NULL)
         FROM needed n ORDER BY 1",
        setting_value("c")
    );
    let doing = "reading the roles";
    let rows = session
        .query(&sql, &[])
        .await
        .map_err(|e| failed(doing, &e))?;
    let mut roles: Vec<Role> = rows
        .iter()
        .map(|row| Role {
            name: row.get(0),
            attributes: row.get(1),
            member_of: Vec::new(),
            member_with: BTreeMap::new(),
            setup: row.get(2),
        })
        .collect();
    for row in memberships(session, major).await? {
        let (member, group): (&str, &str) = (row.get(0), row.get(1));
        if let Some(role) = roles.iter_mut().find(|role| role.name == member) {
            role.member_of.push(group.to_owned());
            if let Some(with) = row.get(2) {
                role.member_with.insert(group.to_owned(), with);
            }
        }
    }
    Ok(roles)
}

/// A setting's value as SQL, from the text `NAME=VALUE` that the expression `text` is. Lists are kept
/// as SQL already.
pub(super) fn setting_value(text: &str) -> String {
    format!(
        "CASE WHEN split_part({text}, '=', 1) IN ('search_path', 'temp_tablespaces',
              'local_preload_libraries', 'session_preload_libraries')
              AND substr({text}, strpos({text}, '=') + 1) <> ''
         THEN substr({text}, strpos({text}, '=') + 1)
         ELSE quote_literal(substr({text}, strpos({text}, '=') + 1)) END"
    )
}

/// Member, group, and how it is a member. Since version 16 several roles may have granted the same.
async fn memberships(session: &Session, major: u32) -> Result<Vec<tokio_postgres::Row>> {
    let with = if major >= 16 {
        "format('ADMIN %s, INHERIT %s, SET %s', bool_or(m.admin_option)::text,
                bool_or(m.inherit_option)::text, bool_or(m.set_option)::text)"
    } else {
        "CASE WHEN bool_or(m.admin_option) THEN 'ADMIN OPTION' END"
    };
    let sql = format!(
        "{NEEDED}
         SELECT n.rolname::text, g.rolname::text, {with}
         FROM needed n JOIN pg_catalog.pg_auth_members m ON m.member = n.oid
         JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
         WHERE NOT g.rolsuper GROUP BY 1, 2 ORDER BY 1, 2"
    );
    session
        .query(&sql, &[])
        .await
        .map_err(|e| failed("reading the roles' memberships", &e))
}

/// What of the roles is not in the archive. The first superuser is one on every server.
pub(super) async fn read_left_out(session: &Session) -> Result<Vec<LeftOut>> {
    let sql = format!(
        "{NEEDED}
         SELECT format('SUPERUSER of role %s', rolname) FROM needed WHERE rolsuper AND oid <> 10
         UNION ALL
         SELECT format('membership of role %s in role %s', n.rolname, g.rolname)
         FROM needed n JOIN pg_catalog.pg_auth_members m ON m.member = n.oid
         JOIN pg_catalog.pg_roles g ON g.oid = m.roleid WHERE g.rolsuper ORDER BY 1"
    );
    let rows = session
        .query(&sql, &[])
        .await
        .map_err(|e| failed("reading what is left out of the roles", &e))?;
    let superuser = rows.iter().map(|row| LeftOut {
        what: row.get(0),
        why: "nobody becomes a superuser by a restore".to_owned(),
    });
    let passwords = LeftOut {
        what: "passwords of database roles".to_owned(),
        why: "secrets do not go into an archive".to_owned(),
    };
    Ok(superuser.chain([passwords]).collect())
}

/// One statement that creates the roles that are not there, or none of them if one cannot be made.
/// Roles that are there are not touched. Groups come before their members; a predefined one that the
/// server does not know is passed over, and so is one that is a superuser there.
#[must_use]
pub fn sql(roles: &[Role]) -> String {
    let (mut creates, mut grants) = (String::new(), String::new());
    for role in roles {
        let (name, literal) = (quote_identifier(&role.name), quote_literal(&role.name));
        creates.push_str(&format!(
            "IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN\n\
             CREATE ROLE {name} {};\n",
            role.attributes
        ));
        for statement in &role.setup {
            creates.push_str(&format!("{statement};\n"));
        }
        creates.push_str(&format!("made := made || {literal}::text;\nEND IF;\n"));
        for group in &role.member_of {
            let with = role.member_with.get(group);
            let with = with.map_or_else(String::new, |with| format!(" WITH {with}"));
            grants.push_str(&format!(
                "IF {literal} = ANY (made) AND EXISTS (SELECT FROM pg_catalog.pg_roles\n\
                 WHERE rolname = {} AND NOT rolsuper) THEN\n\
                 GRANT {} TO {name}{with};\nEND IF;\n",
                quote_literal(group),
                quote_identifier(group)
            ));
        }
    }
    let body = format!("DECLARE made text[] := '{{}}';\nBEGIN\n{creates}{grants}END");
    format!("DO {};\n", quote_literal(&body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_an_older_archive_are_read_and_created_before_they_are_granted() {
        let old = r#"[{"name": "a", "attributes": "LOGIN", "member_of": ["z"]},
                      {"name": "z", "attributes": "NOLOGIN", "member_of": []}]"#;
        let roles: Vec<Role> = serde_json::from_str(old).unwrap();
        let sql = sql(&roles);
        let at = |text: &str| sql.find(text).unwrap();
        assert!(at("CREATE ROLE \"z\"") < at("GRANT \"z\" TO \"a\";"));
    }
}
