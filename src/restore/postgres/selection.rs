//! Some tables, or all of some schemas, instead of a whole database. Their definitions may need
//! types and functions from anywhere, so the whole schema is made first; then the other tables are
//! dropped again, and of what follows the rows only that is executed which needs no other table.

use super::post_data::{plain_name, whole};
use super::script::statements;
use crate::adapters::postgres::quote_literal;
use crate::archive::{LargeObjects, PostgresSource, PostgresTable};
use crate::error::{Error, Result};

/// Which tables; all of them where it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Schemas, with all that is in them.
    schemas: Vec<String>,
    /// Tables as `SCHEMA.TABLE`.
    tables: Vec<String>,
}

impl Selection {
    /// What `wanted` names in `source`: each is a `SCHEMA` or a `SCHEMA.TABLE`.
    pub fn of(source: &PostgresSource, wanted: &[String]) -> Result<Self> {
        let mut selection = Self::default();
        for name in wanted {
            if source.tables.iter().any(|t| qualified(t) == *name) {
                selection.tables.push(name.clone());
            } else if source.tables.iter().any(|t| t.schema == *name) {
                selection.schemas.push(name.clone());
            } else {
                return Err(unknown(source, name));
            }
        }
        Ok(selection)
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
            narrow.tables.retain(|t| self.takes(&qualified(t)));
            narrow.large_objects = LargeObjects::default();
        }
        narrow
    }

    fn takes(&self, name: &str) -> bool {
        let schema = |s: &String| {
            name.strip_prefix(s.as_str())
                .is_some_and(|r| r.starts_with('.'))
        };
        self.tables.iter().any(|t| t == name) || self.schemas.iter().any(schema)
    }

    /// Drops the tables that are not selected. Selected ones that are partitions or children of
    /// those are let go first, since they would be dropped with them.
    pub(super) fn drop_others(&self) -> String {
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
        format!(
            "DO $k1ops$ DECLARE r record; BEGIN
             FOR r IN SELECT c.oid::regclass AS child, p.oid::regclass AS parent, c.relispartition
                 FROM pg_catalog.pg_inherits i
                 JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                 JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
                 JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
                 JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND {child} AND NOT {parent}
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
             END LOOP; END $k1ops$"
        )
    }

    /// The statements of post-data that need nothing but what is selected, and how many others
    /// there are.
    pub(super) fn post_data(&self, script: &str) -> (String, usize) {
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

    fn wants(&self, statement: &str) -> bool {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let takes = |name: &str| {
            let name = name.split('(').next().unwrap_or_default();
            whole(name) && self.takes(&plain_name(name))
        };
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word)? + 1;
            let name = words.get(at).filter(|w| **w != "ONLY");
            name.or_else(|| words.get(at + 1)).copied()
        };
        match words.as_slice() {
            ["SET", ..] | ["SELECT", "pg_catalog.set_config", ..] => true,
            ["SELECT", call, ..] => call.starts_with("pg_catalog.set_config("),
            ["ALTER", "TABLE", ..] => {
                after("TABLE").is_some_and(takes) && after("REFERENCES").is_none_or(takes)
            }
            ["ALTER", "INDEX", index, "ATTACH", ..] => takes(index),
            ["CREATE", ..] => after("ON").is_some_and(takes),
            _ => false,
        }
    }
}

fn qualified(table: &PostgresTable) -> String {
    format!("{}.{}", table.schema, table.name)
}

fn unknown(source: &PostgresSource, name: &str) -> Error {
    let names = source.tables.iter().map(qualified);
    let schemas = source.tables.iter().map(|t| t.schema.clone());
    let nearest = names.chain(schemas).max_by(|a, b| {
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
    fn only_what_needs_no_other_table_follows_the_rows() {
        let selection = Selection {
            schemas: vec!["s".into()],
            tables: vec!["public.task".into()],
        };
        for (statement, wanted) in [
            ("SET default_tablespace = ''", true),
            (
                "SELECT pg_catalog.set_config('search_path', '', false)",
                true,
            ),
            ("CREATE INDEX i ON public.task USING btree (id)", true),
            ("CREATE UNIQUE INDEX i ON ONLY s.any USING btree (id)", true),
            ("CREATE INDEX i ON public.tasks USING btree (id)", false),
            (
                "ALTER TABLE ONLY public.task ADD CONSTRAINT p PRIMARY KEY (id)",
                true,
            ),
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
            ("COMMENT ON INDEX public.i IS 'x'", false),
        ] {
            assert_eq!(selection.wants(statement), wanted, "{statement}");
        }
    }
}
