//! What the processes of a stack use, sampled while the tests run.

use crate::adapters::host;
use crate::stack::docker::Service;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);
/// Clock ticks a second, as Linux shows them to every program.
const TICKS: f64 = 100.0;

/// What was used at one moment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: DateTime<Utc>,
    /// Resident memory of all processes in bytes. What they share is counted once for each.
    pub memory_bytes: u64,
    /// CPU time since the last sample, as a share of all CPUs, from 0 to 1.
    pub cpu: f64,
    /// Processes.
    pub processes: usize,
}

/// Samples until it is stopped.
#[derive(Debug)]
pub(super) struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    task: JoinHandle<()>,
}

impl Sampler {
    /// Samples what belongs to the stack in `folder`: its server and worker with all that they
    /// started, and the processes in its containers.
    pub(super) fn start(folder: &Path, containers: Vec<String>) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (kept, folder) = (samples.clone(), folder.to_path_buf());
        let task = tokio::spawn(async move {
            let mut before: Option<(Instant, HashMap<u32, u64>)> = None;
            loop {
                let (folder, containers) = (folder.clone(), containers.clone());
                let look = move || look(&folder, &containers);
                let Ok(found) = tokio::task::spawn_blocking(look).await else {
                    return;
                };
                let sample = sample(&found, before.as_ref());
                let ticks = found.into_iter().map(|(pid, p)| (pid, p.ticks)).collect();
                before = Some((Instant::now(), ticks));
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(sample);
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { samples, task }
    }

    /// What was sampled so far.
    pub(super) fn so_far(&self) -> Vec<Sample> {
        self.samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone, Copy)]
struct Process {
    parent: u32,
    ticks: u64,
    resident: u64,
}

fn sample(found: &BTreeMap<u32, Process>, before: Option<&(Instant, HashMap<u32, u64>)>) -> Sample {
    let cpu = before.map_or(0.0, |(at, ticks)| {
        let used = found.iter().map(|(pid, process)| {
            // A new process used all of its time since then.
            let earlier = ticks.get(pid).copied().unwrap_or(0);
            process.ticks.saturating_sub(earlier)
        });
        #[allow(clippy::cast_precision_loss, reason = "ticks of half a second")]
        let used = used.sum::<u64>() as f64 / TICKS;
        let cpus = host::processors();
        #[allow(clippy::cast_precision_loss, reason = "a number of CPUs")]
        let cpus = cpus as f64;
        used / at.elapsed().as_secs_f64() / cpus
    });
    Sample {
        at: Utc::now(),
        memory_bytes: found.values().map(|process| process.resident).sum(),
        cpu,
        processes: found.len(),
    }
}

/// The stack's processes.
fn look(folder: &Path, containers: &[String]) -> BTreeMap<u32, Process> {
    let all = processes();
    let mut own: Vec<u32> = all
        .keys()
        .copied()
        .filter(|&pid| belongs(pid, folder, containers))
        .collect();
    let mut found = BTreeMap::new();
    while let Some(pid) = own.pop() {
        let Some(process) = all.get(&pid) else {
            continue;
        };
        if found.insert(pid, *process).is_none() {
            let children = all.iter().filter(|(_, child)| child.parent == pid);
            own.extend(children.map(|(pid, _)| *pid));
        }
    }
    found
}

/// A process that works in the stack's folder, or in one of its containers.
fn belongs(pid: u32, folder: &Path, containers: &[String]) -> bool {
    let at: Option<PathBuf> = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    if at.is_some_and(|at| at.starts_with(folder)) && pid != std::process::id() {
        return true;
    }
    !containers.is_empty()
        && std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|text| containers.iter().any(|id| text.contains(id.as_str())))
}

fn processes() -> BTreeMap<u32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, process(pid)?)))
        .collect()
}

fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Process {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)?,
        resident: number(21)? * page,
    })
}

/// The services whose containers are watched.
pub(super) const SERVICES: [Service; 3] = [Service::Postgres, Service::Redis, Service::Server];
