//! What follows the rows, by when it may run.
//!
//! Order: full-text indexes of large tables before the rows (see [`super::full_text`]); indexes,
//! primary and unique keys, each as soon as its table's rows are in; then everything else in
//! `pg_dump`'s own order; then foreign keys; then comments and labels, which may be on any of them;
//! event triggers last. Triggers thus come after whatever would make them fire. Views and functions that need a primary key
//! are made by everything else, and so are the indexes that name them.

use super::locks::Use;
use super::script::{makes, names, statements, words};
use super::{failed, full_text};
use crate::adapters::postgres::Session;
use crate::archive::{Archive, PostgresSource, PostgresTable};
use crate::error::Result;
use std::collections::HashMap;

/// Bytes of each table's rows: what an index costs depends on them.
pub(super) fn sizes(archive: &Archive, source: &PostgresSource) -> HashMap<String, u64> {
    let mut folders: HashMap<&str, u64> = HashMap::new();
    for member in archive.manifest().members_in("postgres/data") {
        if let Some((folder, _)) = member.path.rsplit_once('/') {
            *folders.entry(folder).or_default() += member.raw_size;
        }
    }
    let size = |table: &PostgresTable| folders.get(table.folder.as_str()).copied().unwrap_or(0);
    source
        .tables
        .iter()
        .map(|table| (table_key(table), size(table)))
        .collect()
}

/// How a table is named in [`Job::uses`].
pub(super) fn table_key(table: &PostgresTable) -> String {
    plain_name(&format!("{}.{}", table.schema, table.name))
}

/// A guess of what a statement costs: an inverted index takes apart every value, and one over an
/// expression has to work the values out as well.
fn cost(statement: &str, bytes: u64) -> u64 {
    match statement.split_once(" USING gin (") {
        Some((_, expression)) if expression.contains('(') => bytes * 32,
        Some(_) => bytes * 4,
        None => bytes,
    }
}

/// The statements of a script, by when they may run.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) preamble: String,
    /// Statements that come before the rows.
    pub(super) before_rows: Vec<String>,
    pub(super) keys: Vec<Job>,
    pub(super) rest: Vec<String>,
    pub(super) foreign_keys: Vec<Job>,
    pub(super) comments: Vec<String>,
    /// With what is said of them.
    pub(super) event_triggers: Vec<String>,
}

/// A statement that may run beside others.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) sql: String,
    pub(super) uses: Vec<(String, Use)>,
    pub(super) cost: u64,
}

impl Plan {
    /// `sizes`: see [`sizes`].
    pub(super) fn of(script: &str, sizes: &HashMap<String, u64>) -> Self {
        let mut plan = Self::default();
        let mut storage: HashMap<String, String> = HashMap::new();
        let mut made: Vec<String> = Vec::new();
        for statement in statements(script) {
            if let Some((name, _)) = default_storage(statement) {
                storage.insert(name.to_owned(), format!("{statement};"));
                plan.rest.push(statement.to_owned());
                continue;
            }
            let begins = |words: &str| statement.starts_with(words);
            if begins("SET ") || begins("SELECT pg_catalog.set_config(") {
                plan.preamble.push_str(&format!("{statement};"));
            } else if let Some(uses) = key(statement)
                && !made.iter().any(|name| names(statement, name))
            {
                let bytes = uses.iter().filter_map(|(table, _)| sizes.get(table)).sum();
                let cost = cost(statement, bytes);
                let settings: String = storage.values().map(String::as_str).collect();
                let mut sql = format!("{settings}{statement}");
                if let Some(settle) = full_text::settle_instead(statement, bytes) {
                    plan.before_rows.push(std::mem::replace(&mut sql, settle));
                }
                let list = if uses.len() > 1 {
                    &mut plan.foreign_keys
                } else {
                    &mut plan.keys
                };
                list.push(Job { sql, uses, cost });
            } else if is_event_trigger(statement) {
                plan.event_triggers.push(statement.to_owned());
            } else if begins("COMMENT ON ") || begins("SECURITY LABEL ") {
                plan.comments.push(statement.to_owned());
            } else {
                let words = words(statement);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                made.extend(makes(&words).map(str::to_owned));
                plan.rest.push(statement.to_owned());
            }
        }
        for list in [&mut plan.keys, &mut plan.foreign_keys] {
            list.sort_by_key(|job| std::cmp::Reverse(job.cost));
        }
        plan
    }

    /// What building all indexes of each table costs.
    pub(super) fn indexing(&self) -> HashMap<String, u64> {
        let mut costs = HashMap::new();
        for job in &self.keys {
            for (table, _) in &job.uses {
                *costs.entry(table.clone()).or_default() += job.cost;
            }
        }
        costs
    }
}

/// `SET default_tablespace` and the like stand in the middle of a script and hold for what follows.
fn default_storage(statement: &str) -> Option<(&str, &str)> {
    let (name, value) = statement.strip_prefix("SET ")?.split_once(" = ")?;
    name.starts_with("default_").then_some((name, value))
}

/// The tables that an index or a key uses: one, or two for a foreign key; `None` for anything else.
fn key(statement: &str) -> Option<Vec<(String, Use)>> {
    let words: Vec<&str> = statement.split_whitespace().collect();
    match words.as_slice() {
        ["CREATE", "INDEX", rest @ ..] | ["CREATE", "UNIQUE", "INDEX", rest @ ..] => {
            let on = rest.iter().position(|w| *w == "ON")?;
            let table = rest[on + 1..].iter().find(|w| **w != "ONLY")?;
            // A name with a blank in it is cut here: then the statement is not run beside others.
            whole(table).then(|| vec![(plain_name(table), Use::Shared)])
        }
        [
            "ALTER",
            "TABLE",
            "ONLY",
            table,
            "ADD",
            "CONSTRAINT",
            _,
            kind,
            ..,
        ] if whole(table) => {
            let table = plain_name(table);
            match *kind {
                "PRIMARY" | "UNIQUE" | "EXCLUDE" => Some(vec![(table, Use::Alone)]),
                "FOREIGN" => {
                    let at = words.iter().position(|w| *w == "REFERENCES")?;
                    let other = words.get(at + 1)?.split('(').next()?;
                    whole(other).then(|| vec![(table, Use::Alone), (plain_name(other), Use::Alone)])
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a statement makes, alters or describes an event trigger: those fire at any other statement that
/// alters the schema, but not at these.
fn is_event_trigger(statement: &str) -> bool {
    let words: Vec<&str> = statement.split_whitespace().take(7).collect();
    matches!(
        words.as_slice(),
        ["CREATE" | "ALTER", "EVENT", "TRIGGER", ..]
            | ["COMMENT", "ON", "EVENT", "TRIGGER", ..]
            | ["SECURITY", "LABEL", "FOR", _, "ON", "EVENT", "TRIGGER"]
    )
}

/// Whether a word is a whole name: quotes are closed in it.
fn whole(name: &str) -> bool {
    name.matches('"').count().is_multiple_of(2)
}

/// A name without quotes, as a key: two names that differ only in quotes are the same here, which
/// can at worst make two statements wait for each other.
pub(super) fn plain_name(name: &str) -> String {
    name.replace('"', "")
}

/// Executes statements one after the other.
pub(super) async fn in_order(session: &Session, preamble: &str, list: &[String]) -> Result<()> {
    session
        .batch_execute(preamble)
        .await
        .map_err(|e| failed("preparing a connection", &e))?;
    for statement in list {
        execute(session, statement).await?;
    }
    Ok(())
}

/// Executes one statement; an error names it.
pub(super) async fn execute(session: &Session, statement: &str) -> Result<()> {
    session.batch_execute(statement).await.map_err(|e| {
        let shown: String = statement
            .split_whitespace()
            .take(8)
            .collect::<Vec<_>>()
            .join(" ");
        failed(&format!("executing {shown:?}"), &e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_put_where_they_may_run() {
        let script = "SET client_encoding = 'UTF8';\nSET default_tablespace = '';\n\
            ALTER TABLE ONLY public.task ADD CONSTRAINT task_pkey PRIMARY KEY (id);\n\
            CREATE UNIQUE INDEX a ON public.task USING btree (x) WHERE ((y)::text = 'a;b'::text);\n\
            CREATE INDEX c ON ONLY public.\"My Table\" USING btree (x);\n\
            ALTER TABLE ONLY public.log ADD CONSTRAINT f FOREIGN KEY (t) REFERENCES public.task(id);\n\
            CREATE TRIGGER tr BEFORE INSERT ON public.task FOR EACH ROW EXECUTE FUNCTION f();\n\
            COMMENT ON INDEX public.a IS 'x';\n";
        let sizes = HashMap::from([("public.task".to_owned(), 5)]);
        let plan = Plan::of(script, &sizes);
        assert_eq!(plan.preamble, "SET client_encoding = 'UTF8';");
        assert_eq!(plan.keys.len(), 2);
        assert!(plan.keys[0].sql.starts_with("SET default_tablespace = '';"));
        assert_eq!(plan.keys[0].cost, 5);
        assert_eq!(plan.foreign_keys[0].uses.len(), 2);
        assert!(
            plan.rest
                .iter()
                .any(|s| s.starts_with("CREATE INDEX c ON ONLY"))
        );
        assert!(plan.rest.iter().any(|s| s.starts_with("CREATE TRIGGER")));
        assert_eq!(plan.comments.len(), 1);
    }

    #[test]
    fn an_event_trigger_is_the_last_that_is_made() {
        let own = [
            "CREATE EVENT TRIGGER e ON ddl_command_end\n   EXECUTE FUNCTION public.f()",
            "ALTER EVENT TRIGGER e OWNER TO someone",
            "ALTER EVENT TRIGGER e ENABLE ALWAYS",
            "COMMENT ON EVENT TRIGGER e IS 'x'",
            "SECURITY LABEL FOR a ON EVENT TRIGGER e IS 'x'",
        ];
        let script = format!("{};\nCOMMENT ON TABLE public.t IS 'x';\n", own.join(";\n"));
        let plan = Plan::of(&script, &HashMap::new());
        assert_eq!(plan.event_triggers, own);
        assert_eq!(plan.comments, ["COMMENT ON TABLE public.t IS 'x'"]);
        assert!(plan.rest.is_empty());
    }

    #[test]
    fn what_names_something_that_is_made_late_follows_it() {
        let script = "CREATE MATERIALIZED VIEW public.m AS\n SELECT a FROM public.t GROUP BY id WITH NO DATA;\n\
            CREATE OR REPLACE VIEW public.\"v \"\"w\" AS SELECT 1;\n\
            CREATE FUNCTION public.f(a integer) RETURNS integer BEGIN ATOMIC SELECT 1; END;\n\
            CREATE UNIQUE INDEX a ON public.m USING btree (id);\n\
            CREATE INDEX b ON public.t USING btree (public.f(x));\n\
            ALTER TABLE ONLY public.t ADD CONSTRAINT c EXCLUDE USING btree (public.f(x) WITH =);\n\
            CREATE INDEX d ON public.mood USING btree (public.ff(x), a_public.f(x));\n\
            ALTER TABLE ONLY public.t ADD CONSTRAINT k PRIMARY KEY (id);\n";
        let plan = Plan::of(script, &HashMap::new());
        let keys: Vec<&str> = plan.keys.iter().map(|job| job.sql.as_str()).collect();
        assert_eq!(plan.rest.len(), 6, "{keys:?}");
        assert!(plan.rest[3].starts_with("CREATE UNIQUE INDEX a"));
        assert!(keys[0].starts_with("CREATE INDEX d"));
        assert!(keys[1].ends_with("PRIMARY KEY (id)"));
        assert!(names("SELECT public.\"v \"\"w\"", "public.\"v \"\"w\""));
    }
}
