//! Some tables, or all of some schemas, instead of a whole database. Their definitions may need
//! types and functions from anywhere, so the whole schema is made first; then the other tables are
//! dropped again, and of what follows the rows only that is executed which needs nothing that went.

use super::left::{Left, unquoted};
use super::script::{names, statements, without_psql_commands, words};
use super::{execute_script, failed};
use crate::adapters::postgres::{Session, quote_literal};
use crate::archive::{Archive, LargeObjects, PostgresSource, PostgresTable};
use crate::error::{Error, Result};
use crate::event::Events;
use std::collections::{HashMap, HashSet};

/// Which tables; all of them where it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Schemas, with all that is in them.
    schemas: Vec<String>,
    /// Tables as `SCHEMA.TABLE`.
    tables: Vec<String>,
}

impl Selection {
    /// What `wanted` names in the archive: each is a `SCHEMA` or a `SCHEMA.TABLE`. A partitioned
    /// table brings its partitions.
    pub fn of(archive: &Archive, source: &PostgresSource, wanted: &[String]) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let pre_data = archive.read_text("postgres/schema-pre-data.sql")?;
        let partitions = partitions(without_psql_commands(&pre_data));
        Self::found(source, &partitions, wanted)
    }

    fn found(
        source: &PostgresSource,
        partitions: &[(String, String)],
        wanted: &[String],
    ) -> Result<Self> {
        let mut selection = Self::default();
        for name in wanted {
            let is_parent = partitions.iter().any(|(parent, _)| parent == name);
            if is_parent || source.tables.iter().any(|t| qualified(t) == *name) {
                selection.add_with_partitions(name, partitions);
            } else if source.tables.iter().any(|t| t.schema == *name) {
                selection.schemas.push(name.clone());
            } else {
                return Err(unknown(source, partitions, name));
            }
        }
        Ok(selection)
    }

    fn add_with_partitions(&mut self, name: &str, partitions: &[(String, String)]) {
        if self.tables.iter().any(|table| table == name) {
            return;
        }
        self.tables.push(name.to_owned());
        for (_, child) in partitions.iter().filter(|(parent, _)| parent == name) {
            self.add_with_partitions(child, partitions);
        }
    }

    /// It is all tables.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty()
    }

    /// The source with only what is selected.
    #[must_use]
    pub fn narrow(&self, source: &PostgresSource) -> PostgresSource {
        let mut narrow = source.clone();
        if !self.is_everything() {
            narrow.tables.retain(|t| {
                self.schemas.contains(&t.schema) || self.tables.contains(&qualified(t))
            });
            narrow.large_objects = LargeObjects::default();
        }
        narrow
    }

    /// Drops what is not selected, and answers what of `post_data` is still to be executed.
    pub(super) async fn limit(
        &self,
        session: &Session,
        post_data: &str,
        events: &Events,
    ) -> Result<String> {
        let before = list(session).await?;
        execute_script(session, "dropping other tables", &self.drop_others()).await?;
        let (there, gone) = drop_placeholders(session, post_data, before).await?;
        let mut left = Left::new(there, gone);
        let (kept, others) = left.of_post_data(post_data);
        if others > 0 {
            events.note(format!(
                "{others} indexes, keys and the like belong to other tables, or need them, and are left out"
            ));
        }
        Ok(kept)
    }

    /// Drops the tables that are not selected. Selected ones that are partitions or children of
    /// those are let go first, since they would be dropped with them.
    fn drop_others(&self) -> String {
        let list = |names: &[String]| {
            let quoted: Vec<String> = names.iter().map(|n| quote_literal(n)).collect();
            format!("ARRAY[{}]::text[]", quoted.join(", "))
        };
        let (tables, schemas) = (list(&self.tables), list(&self.schemas));
        let selected = |n: &str, c: &str| {
            format!(
                "({n}.nspname || '.' || {c}.relname = ANY ({tables}) OR {n}.nspname = ANY ({schemas}))"
            )
        };
        let (child, parent) = (selected("cn", "c"), selected("pn", "p"));
        let other = selected("n", "c");
        let block = format!(
            "DECLARE r record; BEGIN
             FOR r IN SELECT c.oid::regclass AS child, p.oid::regclass AS parent, c.relispartition
                 FROM pg_catalog.pg_inherits i
                 JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                 JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
                 JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
                 JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
                 WHERE c.relkind IN ('r', 'p', 'f') AND {child} AND NOT {parent}
             LOOP
                 IF r.relispartition THEN
                     EXECUTE pg_catalog.format('ALTER TABLE %s DETACH PARTITION %s', r.parent, r.child);
                 ELSE
                     EXECUTE pg_catalog.format('ALTER TABLE %s NO INHERIT %s', r.child, r.parent);
                 END IF;
             END LOOP;
             FOR r IN SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_'
                 AND n.nspname <> 'information_schema' AND NOT {other}
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid
                     AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e')
             LOOP
                 EXECUTE pg_catalog.format('DROP TABLE IF EXISTS %I.%I CASCADE', r.nspname, r.relname);
             END LOOP; END"
        );
        // A literal rather than dollar quotes, which a name from an archive could close.
        format!("DO {}", quote_literal(&block))
    }
}

/// Relations and functions, as the catalog names them and as a script does.
async fn list(session: &Session) -> Result<HashMap<String, String>> {
    let sql =
        "SELECT n.nspname || '.' || o.name, quote_ident(n.nspname) || '.' || quote_ident(o.name)
        FROM (SELECT relname, relnamespace FROM pg_catalog.pg_class
              WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
              UNION SELECT proname, pronamespace FROM pg_catalog.pg_proc) o(name, schema)
        JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
    let rows = session
        .query(sql, &[])
        .await
        .map_err(|e| failed("listing what is selected", &e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A view that needs a primary key has a placeholder before the rows, which shows nothing of any table: it is
/// dropped if what the view needs went. Answers what is left, and what went.
async fn drop_placeholders(
    session: &Session,
    post_data: &str,
    before: HashMap<String, String>,
) -> Result<(HashSet<String>, Vec<String>)> {
    let late: Vec<(String, &str)> = statements(post_data)
        .into_iter()
        .filter(|statement| statement.starts_with("CREATE OR REPLACE VIEW "))
        .filter_map(|statement| Some((words(statement).into_iter().nth(4)?, statement)))
        .collect();
    loop {
        let there = list(session).await?;
        let mut gone = before.clone();
        gone.retain(|name, _| !there.contains_key(name));
        let needs_more = |view: &str| gone.values().any(|name| names(view, name));
        let lost: Vec<&str> = late
            .iter()
            .filter(|(view, definition)| {
                there.contains_key(&unquoted(view)) && needs_more(definition)
            })
            .map(|(view, _)| view.as_str())
            .collect();
        if lost.is_empty() {
            return Ok((there.into_keys().collect(), gone.into_values().collect()));
        }
        let sql = format!("DROP VIEW {} CASCADE", lost.join(", "));
        execute_script(session, "dropping views of other tables", &sql).await?;
    }
}

/// Parents and their partitions.
fn partitions(pre_data: &str) -> Vec<(String, String)> {
    let attached = |statement: &str| {
        let words = words(statement);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [
                "ALTER",
                "TABLE",
                "ONLY",
                parent,
                "ATTACH",
                "PARTITION",
                child,
                ..,
            ] => Some((unquoted(parent), unquoted(child))),
            _ => None,
        }
    };
    statements(pre_data)
        .into_iter()
        .filter_map(attached)
        .collect()
}

fn qualified(table: &PostgresTable) -> String {
    format!("{}.{}", table.schema, table.name)
}

fn unknown(source: &PostgresSource, partitions: &[(String, String)], name: &str) -> Error {
    let names = source.tables.iter().map(qualified);
    let schemas = source.tables.iter().map(|t| t.schema.clone());
    let parents = partitions.iter().map(|(parent, _)| parent.clone());
    let nearest = names.chain(schemas).chain(parents).max_by(|a, b| {
        let like = |text: &str| strsim::jaro_winkler(text, name);
        like(a).total_cmp(&like(b))
    });
    let error = Error::usage(format!(
        "the archive has no schema and no table {name:?} in database {}",
        source.database
    ));
    match nearest {
        Some(nearest) => error.hint(format!("The nearest name is postgres:{nearest}.")),
        None => error.hint("Its database has no tables."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partitioned_table_is_known_by_what_is_attached_to_it() {
        let script = "--\n-- x\n--\n\nALTER TABLE ONLY public.\"P p\" ATTACH PARTITION s.\"a\"\"b\" FOR VALUES FROM (0) TO (9);\n";
        let expected = ("public.P p".to_owned(), "s.a\"b".to_owned());
        assert_eq!(partitions(script), [expected]);
    }

    proptest::proptest! {
        #[test]
        fn any_script_is_limited_without_failing(script in ".{0,200}") {
            let _ = partitions(&script);
            let _ = Left::default().of_post_data(&script);
        }
    }
}
