//! One crew of connections for everything whose order matters only within its table: loading rows,
//! building indexes and keys, reading the rows back.
//!
//! A table's indexes are built as soon as its rows are in, while others are still being loaded: the
//! restore then takes little longer than its costliest index does, and building and comparing find
//! the rows still in memory.

use super::check;
use super::load::{Loader, Part};
use super::locks::{Locks, Use};
use super::post_data::{self, Job, table_key};
use super::{Options, failed, open};
use crate::adapters::postgres::{Address, Session};
use crate::archive::PostgresTable;
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What is to be done, each list in the order in which it should be begun.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) parts: VecDeque<Part>,
    pub(super) builds: Vec<Job>,
    /// Tables that are compared together.
    pub(super) compares: Vec<Vec<PostgresTable>>,
}

impl Tasks {
    /// The largest tables are compared first.
    pub(super) fn new(
        parts: VecDeque<Part>,
        builds: Vec<Job>,
        mut compares: Vec<Vec<PostgresTable>>,
    ) -> Self {
        let rows = |tables: &Vec<PostgresTable>| tables.iter().map(|t| t.digest.rows).sum::<u64>();
        compares.sort_by_key(|tables| std::cmp::Reverse(rows(tables)));
        Self {
            parts,
            builds,
            compares,
        }
    }
}

/// Does all tasks. `preamble` is what `pg_dump` sets before its statements.
pub(super) async fn work(
    tasks: Tasks,
    loader: Option<Loader>,
    preamble: &str,
    address: &Address,
    options: &Options,
    events: &Events,
) -> Result<()> {
    let count = tasks.parts.len() + tasks.builds.len() + tasks.compares.len();
    let crew = Arc::new(Crew {
        building: Progress::new("building indexes and constraints", tasks.builds.len()),
        comparing: Progress::new(
            "comparing every row with the manifest",
            tasks.compares.len(),
        ),
        state: Mutex::new(State::new(tasks)),
        changed: Notify::new(),
        loader,
        events: events.clone(),
    });
    let mut running = JoinSet::new();
    for _ in 0..options.jobs.clamp(1, count.max(1)) {
        let (crew, address, preamble) = (crew.clone(), address.clone(), preamble.to_owned());
        running.spawn(async move {
            let session = open(&address).await?;
            session
                .batch_execute(&preamble)
                .await
                .map_err(|e| failed("preparing a connection", &e))?;
            while let Some(task) = crew.next().await {
                let done = crew.perform(&session, &task).await;
                crew.done(&task);
                done?;
            }
            Ok::<_, Error>(())
        });
    }
    // The first failure ends the others: dropping the set aborts them.
    while let Some(result) = running.join_next().await {
        result.context(|| "a restoring task died")??;
    }
    crew.building.finish(events, "built");
    crew.comparing.finish(events, "tables are equal");
    Ok(())
}

struct Crew {
    state: Mutex<State>,
    changed: Notify,
    loader: Option<Loader>,
    building: Progress,
    comparing: Progress,
    events: Events,
}

enum Task {
    Load(Part),
    Build(Job),
    Compare(Vec<PostgresTable>),
}

impl Crew {
    /// The next task that can be begun; waits for one; `None` when none is left.
    async fn next(&self) -> Option<Task> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.tasks.is_empty() {
                    return None;
                }
                if let Some(task) = state.take() {
                    return Some(task);
                }
            }
            changed.await;
        }
    }

    async fn perform(&self, session: &Session, task: &Task) -> Result<()> {
        match task {
            Task::Load(part) => match &self.loader {
                Some(loader) => loader.load(session, part).await,
                None => Ok(()),
            },
            Task::Build(job) => {
                post_data::execute(session, &job.sql).await?;
                self.building.step(&self.events);
                Ok(())
            }
            Task::Compare(tables) => {
                check::compare(session, tables).await?;
                self.comparing.step(&self.events);
                Ok(())
            }
        }
    }

    /// Gives back what a task held.
    fn done(&self, task: &Task) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match task {
                Task::Load(part) => state.loaded(&part.fills),
                Task::Build(job) => state.locks.give_back(&job.uses),
                Task::Compare(tables) => state.locks.give_back(&reads(tables)),
            }
        }
        self.changed.notify_waiters();
    }
}

struct State {
    tasks: Tasks,
    locks: Locks,
    /// Tables and how many of their parts are not in yet.
    loading: HashMap<String, usize>,
}

impl Tasks {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.builds.is_empty() && self.compares.is_empty()
    }
}

impl State {
    fn new(tasks: Tasks) -> Self {
        let mut loading = HashMap::new();
        for name in tasks.parts.iter().flat_map(|part| part.fills.iter()) {
            *loading.entry(name.clone()).or_default() += 1;
        }
        Self {
            tasks,
            locks: Locks::default(),
            loading,
        }
    }

    /// Building comes first, since a costly index may take longer than all the rest; comparing
    /// last, since nothing waits for it.
    fn take(&mut self) -> Option<Task> {
        let Self {
            tasks,
            locks,
            loading,
        } = self;
        let mut free = |uses: &[(String, Use)]| {
            uses.iter().all(|(table, _)| !loading.contains_key(table)) && locks.try_take(uses)
        };
        if let Some(at) = tasks.builds.iter().position(|job| free(&job.uses)) {
            return Some(Task::Build(tasks.builds.remove(at)));
        }
        if let Some(part) = tasks.parts.pop_front() {
            return Some(Task::Load(part));
        }
        let at = tasks
            .compares
            .iter()
            .position(|tables| free(&reads(tables)))?;
        Some(Task::Compare(tasks.compares.remove(at)))
    }

    /// Takes a part off from what the tables wait for.
    fn loaded(&mut self, tables: &[String]) {
        for name in tables {
            if let Some(parts) = self.loading.get_mut(name) {
                *parts -= 1;
                if *parts == 0 {
                    self.loading.remove(name);
                }
            }
        }
    }
}

/// What reading tables back uses.
fn reads(tables: &[PostgresTable]) -> Vec<(String, Use)> {
    let shared = |table| (table_key(table), Use::Shared);
    tables.iter().map(shared).collect()
}

/// Counts finished tasks of one kind.
struct Progress {
    step: &'static str,
    done: Mutex<u64>,
    total: u64,
}

impl Progress {
    fn new(step: &'static str, total: usize) -> Self {
        Self {
            step,
            done: Mutex::new(0),
            total: total as u64,
        }
    }

    fn step(&self, events: &Events) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += 1;
        events.progress(self.step, *done, Some(self.total), Unit::Items);
    }

    fn finish(&self, events: &Events, what: &str) {
        if self.total > 0 {
            events.finished(self.step.to_owned(), format!("{} {what}", self.total));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Codec, Member};

    fn part(table: &str) -> Part {
        let member = Member {
            path: String::new(),
            offset: 0,
            size: 0,
            sha256: String::new(),
            codec: Codec::Zstd,
            raw_size: 0,
            rows: None,
        };
        Part {
            member,
            table: table.to_owned(),
            fills: [table.to_owned()].into(),
            copy: "".into(),
        }
    }

    fn build(table: &str, how: Use) -> Job {
        Job {
            sql: table.to_owned(),
            uses: vec![(table.to_owned(), how)],
            cost: 1,
        }
    }

    #[test]
    fn an_index_waits_for_its_own_rows_only_and_then_goes_first() {
        let mut state = State::new(Tasks {
            parts: [part("s.a"), part("s.a"), part("s.b")].into(),
            builds: vec![build("s.a", Use::Shared), build("s.a", Use::Alone)],
            compares: vec![],
        });
        assert!(matches!(state.take(), Some(Task::Load(p)) if p.table == "s.a"));
        assert!(matches!(state.take(), Some(Task::Load(p)) if p.table == "s.a"));
        state.loaded(&["s.a".to_owned()]);
        assert!(matches!(state.take(), Some(Task::Load(p)) if p.table == "s.b"));
        assert!(
            state.take().is_none(),
            "one part of s.a is still on its way"
        );
        state.loaded(&["s.a".to_owned()]);
        assert!(matches!(state.take(), Some(Task::Build(_))));
        assert!(state.take().is_none(), "a key needs the table alone");
        state.locks.give_back(&[("s.a".to_owned(), Use::Shared)]);
        assert!(matches!(state.take(), Some(Task::Build(_))));
        assert!(state.tasks.is_empty());
    }

    #[test]
    fn a_partition_waits_for_all_rows_that_may_come_through_its_root() {
        let mut other = part("s.a");
        other.fills = ["s.a".to_owned(), "s.b".to_owned()].into();
        let mut state = State::new(Tasks {
            parts: [other].into(),
            builds: vec![build("s.b", Use::Shared)],
            compares: vec![],
        });
        let Some(Task::Load(part)) = state.take() else {
            panic!("nothing can be built before the rows");
        };
        assert!(state.take().is_none());
        state.loaded(&part.fills);
        assert!(matches!(state.take(), Some(Task::Build(_))));
    }
}
