//! There is room, in bytes and in files, wherever the stack writes; and for how many more backups.

use super::{at_files, size_of, word};
use crate::adapters::disk::FileSystem;
use crate::adapters::docker::is_elsewhere;
use crate::adapters::published;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient, Severity};
use crate::error::{ErrorKind, Result};
use crate::repository::{Entry, Purpose};
use crate::stack::Tier;
use crate::stack::jar::cache::Cache;
use chrono::TimeDelta;
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// Less than this, and databases stop.
const TOO_LITTLE: u64 = 100 * MIB;
/// Less than this many percent is little, unless there are gigabytes.
const LITTLE_PERCENT: u64 = 10;
const PLENTY: u64 = 5 << 30;
/// Room for fewer backups than this is worth a look.
const BACKUPS: u64 = 5;

pub(super) struct Disk;

impl Check for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn group(&self) -> Group {
        Group::Host
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move {
            let mut root = None;
            // A folder of another host says nothing of the disks of this one.
            if !is_elsewhere()
                && patient.tier().await == Tier::Docker
                && let Some(engine) = patient.engine_soon().await
            {
                root = published::about(engine.host()).await?.root;
            }
            at_files(patient, move |patient| look(patient, root)).await
        })
    }
}

/// A place that the stack writes to, and what for.
type Place = (&'static str, PathBuf);

fn look(patient: &Patient, docker: Option<PathBuf>) -> Result<Examined> {
    let mut places: Vec<Place> = vec![("the stack", patient.stack.folder.clone())];
    let archives = patient.stack.repository_folder();
    places.splice(0..0, archives.map(|folder| ("archives", folder)));
    places.extend(docker.map(|root| ("Docker", root)));
    places.extend(Cache::open().map(|cache| ("the cache", cache.root().to_path_buf())));
    let mut systems: Vec<(FileSystem, Vec<Place>)> = Vec::new();
    for place in places {
        let system = FileSystem::of(&place.1)?;
        match systems.iter_mut().find(|(s, _)| s.device == system.device) {
            Some((_, known)) => known.push(place),
            None => systems.push((system, vec![place])),
        }
    }
    let mut examined = Examined::default();
    for (system, places) in &systems {
        let uses: Vec<&str> = places.iter().map(|(what, _)| *what).collect();
        let uses = uses.join(", ");
        let before = examined.findings.len();
        if let Some(finding) = short_of_bytes(system, &uses) {
            examined.find(finding.remedy(format!(
                "du -xh -d 2 {} | sort -h | tail",
                word(&system.path)
            )));
        }
        if let Some(finding) = short_of_files(system, &uses) {
            examined.find(finding);
        }
        if places.iter().any(|(what, _)| *what == "archives") {
            forecast(patient, system, &mut examined)?;
        }
        if examined.findings.len() == before {
            examined.say(format!(
                "{} free for {uses} ({} %)",
                size_of(system.free),
                system.percent_free()
            ));
        }
    }
    Ok(examined)
}

fn short_of_bytes(system: &FileSystem, uses: &str) -> Option<Finding> {
    let percent = system.percent_free();
    let little = percent < LITTLE_PERCENT && system.free < PLENTY;
    let severity = if system.free < TOO_LITTLE && percent < 2 * LITTLE_PERCENT {
        Severity::Problem
    } else if little {
        Severity::Warning
    } else {
        return None;
    };
    let title = format!(
        "the disk for {uses} is almost full: {} of {} are free",
        size_of(system.free),
        size_of(system.total)
    );
    Some(
        Finding::problem(ErrorKind::Missing, title)
            .as_severe_as(severity)
            .seen(format!("file system of {}", system.path.display()))
            .because("a database that cannot write stops, and a backup that does not fit fails")
            .advise("Make room, or move the archives with repository.path."),
    )
}

fn short_of_files(system: &FileSystem, uses: &str) -> Option<Finding> {
    let percent = system.percent_inodes_free();
    let severity = match percent {
        0 => Severity::Problem,
        1..5 => Severity::Warning,
        _ => return None,
    };
    let title = format!(
        "the disk for {uses} has {} of {} inodes left",
        system.inodes_free, system.inodes
    );
    Some(
        Finding::problem(ErrorKind::Missing, title)
            .as_severe_as(severity)
            .seen(format!("file system of {}", system.path.display()))
            .because("no more files can be made, however many bytes are free")
            .advise("Remove small files that are not needed.")
            .remedy(format!(
                "du -x --inodes -d 2 {} | sort -n | tail",
                word(&system.path)
            )),
    )
}

/// How many more backups fit, going by those that were taken.
fn forecast(patient: &Patient, system: &FileSystem, examined: &mut Examined) -> Result<()> {
    let good: Vec<&Entry> = patient
        .archives()?
        .iter()
        .filter(|entry| entry.state.is_good() && entry.purpose == Purpose::Backup)
        .collect();
    let Some(size) = good
        .iter()
        .take(5)
        .map(|entry| entry.size)
        .max()
        .filter(|&s| s > 0)
    else {
        return Ok(());
    };
    let more = system.free / size;
    let apart = apart(&good);
    let until = apart.and_then(|apart| {
        let days = apart.num_minutes().checked_mul(i64::try_from(more).ok()?)? / 1440;
        (days < 3650).then(|| format!("; at the usual pace it is full in {days} days"))
    });
    let room = format!(
        "room for {more} more backups of {}{}",
        size_of(size),
        until.unwrap_or_default()
    );
    if more >= BACKUPS {
        examined.say(room);
        return Ok(());
    }
    let kind = ErrorKind::Missing;
    let title = format!("the repository has {room}");
    examined.find(
        Finding::problem(kind, title)
            .as_severe_as(if more == 0 {
                Severity::Problem
            } else {
                Severity::Warning
            })
            .seen(format!(
                "{} are free at {}",
                size_of(system.free),
                system.path.display()
            ))
            .because("going by the largest of the last five backups")
            .advise("Remove archives that are not needed, or set repository.path to a larger disk.")
            .remedy("k1ops list"),
    );
    Ok(())
}

/// How far apart the last backups are, on average.
fn apart(good: &[&Entry]) -> Option<TimeDelta> {
    let times: Vec<_> = good
        .iter()
        .take(10)
        .filter_map(|entry| entry.time)
        .collect();
    let between = i32::try_from(times.len().checked_sub(1)?)
        .ok()
        .filter(|&n| n > 0)?;
    let span = *times.first()? - *times.last()?;
    Some(span / between).filter(|apart| *apart > TimeDelta::zero())
}
