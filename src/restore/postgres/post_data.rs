//! What follows the rows: indexes and keys in parallel, the costliest first, then what needs them.
//!
//! Order: indexes, primary and unique keys; then everything else in `pg_dump`'s own order; then
//! foreign keys; then comments and labels, which may be on any of them. Triggers thus come after
//! the rows and do not fire.

use super::locks::{Locks, Use};
use super::script::statements;
use super::{Options, failed, open};
use crate::adapters::postgres::{Address, Session};
use crate::archive::PostgresSource;
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Executes the post-data section.
pub(super) async fn all(
    source: &PostgresSource,
    address: &Address,
    script: &str,
    options: &Options,
    events: &Events,
) -> Result<()> {
    let plan = Plan::of(script, &costs(source));
    let step = "building indexes and constraints".to_owned();
    events.started(&step);
    let total = plan.keys.len() + plan.foreign_keys.len();
    in_parallel(plan.keys, &plan.preamble, address, options, events, &step).await?;
    let session = open(address).await?;
    in_order(&session, &plan.preamble, &plan.rest).await?;
    in_parallel(
        plan.foreign_keys,
        &plan.preamble,
        address,
        options,
        events,
        &step,
    )
    .await?;
    in_order(&session, "", &plan.comments).await?;
    events.finished(step, format!("{total} built"));
    Ok(())
}

/// Rows of each table, by its name as SQL takes it: the best guess of what an index costs.
fn costs(source: &PostgresSource) -> HashMap<String, u64> {
    let cost = |table: &crate::archive::PostgresTable| {
        (
            plain_name(&format!("{}.{}", table.schema, table.name)),
            table.digest.rows,
        )
    };
    source.tables.iter().map(cost).collect()
}

/// The statements of a script, by when they may run.
#[derive(Debug, Default)]
struct Plan {
    preamble: String,
    keys: Vec<Job>,
    rest: Vec<String>,
    foreign_keys: Vec<Job>,
    comments: Vec<String>,
}

/// A statement that may run beside others.
#[derive(Debug)]
struct Job {
    sql: String,
    uses: Vec<(String, Use)>,
    cost: u64,
}

impl Plan {
    fn of(script: &str, costs: &HashMap<String, u64>) -> Self {
        let mut plan = Self::default();
        let mut storage: HashMap<String, String> = HashMap::new();
        for statement in statements(script) {
            if let Some((name, _)) = default_storage(statement) {
                storage.insert(name.to_owned(), format!("{statement};"));
                plan.rest.push(statement.to_owned());
                continue;
            }
            let begins = |words: &str| statement.starts_with(words);
            if begins("SET ") || begins("SELECT pg_catalog.set_config(") {
                plan.preamble.push_str(&format!("{statement};"));
            } else if let Some(uses) = key(statement) {
                let cost = uses.iter().filter_map(|(table, _)| costs.get(table)).sum();
                let settings: String = storage.values().map(String::as_str).collect();
                let sql = format!("{settings}{statement}");
                let list = if uses.len() > 1 {
                    &mut plan.foreign_keys
                } else {
                    &mut plan.keys
                };
                list.push(Job { sql, uses, cost });
            } else if begins("COMMENT ON ") || begins("SECURITY LABEL ") {
                plan.comments.push(statement.to_owned());
            } else {
                plan.rest.push(statement.to_owned());
            }
        }
        for list in [&mut plan.keys, &mut plan.foreign_keys] {
            list.sort_by_key(|job| std::cmp::Reverse(job.cost));
        }
        plan
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

/// Whether a word is a whole name: quotes are closed in it.
pub(super) fn whole(name: &str) -> bool {
    name.matches('"').count().is_multiple_of(2)
}

/// A name without quotes, as a key: two names that differ only in quotes are the same here, which
/// can at worst make two statements wait for each other.
pub(super) fn plain_name(name: &str) -> String {
    name.replace('"', "")
}

async fn in_order(session: &Session, preamble: &str, list: &[String]) -> Result<()> {
    session
        .batch_execute(preamble)
        .await
        .map_err(|e| failed("preparing a connection", &e))?;
    for statement in list {
        execute(session, statement).await?;
    }
    Ok(())
}

async fn execute(session: &Session, statement: &str) -> Result<()> {
    session.batch_execute(statement).await.map_err(|e| {
        let shown: String = statement
            .split_whitespace()
            .take(8)
            .collect::<Vec<_>>()
            .join(" ");
        failed(&format!("executing {shown:?}"), &e)
    })
}

async fn in_parallel(
    jobs: Vec<Job>,
    preamble: &str,
    address: &Address,
    options: &Options,
    events: &Events,
    step: &str,
) -> Result<()> {
    let total = jobs.len() as u64;
    let workers = options.jobs.clamp(1, jobs.len().max(1));
    let board = Arc::new(Board {
        state: Mutex::new((jobs, Locks::default())),
        changed: Notify::new(),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (board, address, preamble) = (board.clone(), address.clone(), preamble.to_owned());
        let (events, step) = (events.clone(), step.to_owned());
        running.spawn(async move {
            let session = open(&address).await?;
            session
                .batch_execute(&preamble)
                .await
                .map_err(|e| failed("preparing a connection", &e))?;
            session
                .batch_execute("SET maintenance_work_mem = '256MB'")
                .await
                .map_err(|e| failed("preparing a connection", &e))?;
            while let Some(job) = board.next().await {
                let done = execute(&session, &job.sql).await;
                let left = board.done(&job);
                done?;
                events.progress(&step, total - left, Some(total), Unit::Items);
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(result) = running.join_next().await {
        result.context(|| "an index-building task died")??;
    }
    Ok(())
}

/// What is left to do, and the tables in use.
struct Board {
    state: Mutex<(Vec<Job>, Locks)>,
    changed: Notify,
}

impl Board {
    /// The costliest statement whose tables are free; waits for one; `None` when none is left.
    async fn next(&self) -> Option<Job> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let (jobs, locks) = &mut *state;
                if jobs.is_empty() {
                    return None;
                }
                if let Some(at) = jobs.iter().position(|job| locks.try_take(&job.uses)) {
                    return Some(jobs.remove(at));
                }
            }
            changed.await;
        }
    }

    /// Gives a statement's tables back; answers how many statements are left.
    fn done(&self, job: &Job) -> u64 {
        let left = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.1.give_back(&job.uses);
            state.0.len() as u64
        };
        self.changed.notify_waiters();
        left
    }
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
        let costs = HashMap::from([("public.task".to_owned(), 5)]);
        let plan = Plan::of(script, &costs);
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
}
