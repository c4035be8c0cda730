//! Some tables, or all of some schemas, instead of a whole database. Their definitions may need
//! types and functions from anywhere, so the whole schema is made first; then the other tables are
//! dropped again, and of what follows the rows only that is executed which needs nothing that went.

use super::script::{statements, without_psql_commands, words};
use super::{execute_script, failed};
use crate::adapters::postgres::{Session, quote_literal};
use crate::archive::{Archive, LargeObjects, PostgresSource, PostgresTable};
use crate::error::{Error, Result};
use crate::event::Events;
use std::collections::HashSet;

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
        execute_script(session, "dropping other tables", &self.drop_others()).await?;
        let rows = session
            .query(RELATIONS, &[])
            .await
            .map_err(|e| failed("listing what is selected", &e))?;
        let mut left = Left(rows.iter().map(|row| row.get(0)).collect());
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

/// Tables and views that are there, by their names as a script's are compared with them.
const RELATIONS: &str = "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')";

/// What is left after others were dropped: relations, and the indexes that were made on them.
struct Left(HashSet<String>);

impl Left {
    /// The statements that need nothing but what is left, and how many others there are.
    fn of_post_data(&mut self, script: &str) -> (String, usize) {
        let (mut kept, mut others) = (String::new(), 0);
        for statement in statements(script) {
            if self.wants(statement) {
                kept.push_str(statement);
                kept.push_str(";\n");
            } else {
                others += 1;
            }
        }
        (kept, others)
    }

    fn wants(&mut self, statement: &str) -> bool {
        let words = words(statement);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word)? + 1;
            let name = words.get(at).filter(|w| **w != "ONLY");
            name.or_else(|| words.get(at + 1)).map(|w| unquoted(w))
        };
        let is_left = |name: Option<String>| name.is_some_and(|name| self.0.contains(&name));
        match words.as_slice() {
            ["SET", ..] | ["SELECT", "pg_catalog.set_config", ..] => true,
            ["ALTER", "TABLE", ..] => {
                let table = after("TABLE");
                let wants = is_left(table.clone())
                    && (!words.contains(&"REFERENCES") || is_left(after("REFERENCES")));
                if wants && let Some(key) = after("CONSTRAINT") {
                    self.add_index(table.as_deref(), &key);
                }
                wants
            }
            ["ALTER", "INDEX", index, "ATTACH", "PARTITION", part] => {
                is_left(Some(unquoted(index))) && is_left(Some(unquoted(part)))
            }
            ["CREATE", "INDEX", name, ..] | ["CREATE", "UNIQUE", "INDEX", name, ..] => {
                let table = after("ON");
                let wants = is_left(table.clone());
                if wants {
                    self.add_index(table.as_deref(), &unquoted(name));
                }
                wants
            }
            ["CREATE", ..] => is_left(after("ON")),
            ["COMMENT", "ON", "INDEX", name, ..]
            | ["REFRESH", "MATERIALIZED", "VIEW", name, ..] => is_left(Some(unquoted(name))),
            _ => false,
        }
    }

    /// An index is in the schema of its table.
    fn add_index(&mut self, table: Option<&str>, index: &str) {
        if let Some((schema, _)) = table.and_then(|table| table.split_once('.')) {
            self.0.insert(format!("{schema}.{index}"));
        }
    }
}

/// A name as the catalog has it. A doubled quote stands for one.
fn unquoted(name: &str) -> String {
    name.replace("\"\"", "\0")
        .replace('"', "")
        .replace('\0', "\"")
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
    fn only_what_needs_nothing_that_went_follows_the_rows() {
        let names = ["public.task", "s.any", "s.other", "public.Odd (name"];
        let mut left = Left(names.map(str::to_owned).into());
        for (statement, wanted) in [
            ("SET default_tablespace = ''", true),
            (
                "SELECT pg_catalog.set_config('search_path', '', false)",
                true,
            ),
            ("CREATE INDEX i ON public.task USING btree (id)", true),
            ("CREATE UNIQUE INDEX j ON ONLY s.any USING btree (id)", true),
            ("CREATE INDEX i2 ON public.tasks USING btree (id)", false),
            (
                "CREATE INDEX k ON public.\"Odd (name\" USING btree (id)",
                true,
            ),
            ("ALTER INDEX s.j ATTACH PARTITION public.i", true),
            ("ALTER INDEX s.j ATTACH PARTITION public.i2", false),
            ("COMMENT ON INDEX public.k IS 'x'", true),
            ("COMMENT ON INDEX public.i2 IS 'x'", false),
            (
                "ALTER TABLE ONLY public.task\n    ADD CONSTRAINT p PRIMARY KEY (id)",
                true,
            ),
            ("ALTER INDEX s.j ATTACH PARTITION public.p", true),
            (
                "ALTER TABLE ONLY public.task ADD CONSTRAINT f FOREIGN KEY (w) REFERENCES public.other(id)",
                false,
            ),
            (
                "ALTER TABLE ONLY public.task ADD CONSTRAINT f FOREIGN KEY (w) REFERENCES s.other(id)",
                true,
            ),
            (
                "CREATE TRIGGER t BEFORE INSERT ON public.task FOR EACH ROW EXECUTE FUNCTION f()",
                true,
            ),
            ("CREATE PUBLICATION p WITH (publish = 'insert')", false),
            ("REFRESH MATERIALIZED VIEW s.any", true),
            ("REFRESH MATERIALIZED VIEW s.gone", false),
        ] {
            assert_eq!(left.wants(statement), wanted, "{statement}");
        }
    }

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
            let _ = Left(HashSet::new()).of_post_data(&script);
        }
    }
}
