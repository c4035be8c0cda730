//! One fault, and all that must hold after it.

use crate::content::{self, Content};
use crate::dice::Dice;
use crate::fault::{Disturbed, Job, Kind, inject};
use crate::ground::{Ended, Ground, Server, Store, group_members};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a case came to.
pub struct Outcome {
    pub kind: Kind,
    pub job: Job,
    pub store: &'static str,
    pub hit: bool,
    pub lost: Option<String>,
    pub false_good: Option<String>,
    pub other: Option<String>,
    /// What was done and said, for whoever looks into it.
    pub story: String,
}

/// What went wrong, by how bad it is.
enum Wrong {
    Lost(String),
    FalseGood(String),
    Other(String),
}

type Held = Result<(), Wrong>;

fn other(what: impl Into<String>) -> Wrong {
    Wrong::Other(what.into())
}

/// Lets one fault strike, and checks.
pub fn play(ground: &mut Ground, dice: &mut Dice) -> Outcome {
    let (kind, job) = loop {
        let job = dice.pick(&[
            Job::Backup,
            Job::Backup,
            Job::Restore,
            Job::Restore,
            Job::Restore,
            Job::Undo,
            Job::Verify,
            Job::Discard,
        ]);
        let kind = dice.pick(&Kind::ALL);
        if kind.fits(job, ground) {
            break (kind, job);
        }
    };
    let mut outcome = Outcome {
        kind,
        job,
        store: ground.name(),
        hit: false,
        lost: None,
        false_good: None,
        other: None,
        story: String::new(),
    };
    match strike(ground, dice, &mut outcome) {
        Ok(()) => {}
        Err(Wrong::Lost(what)) => outcome.lost = Some(what),
        Err(Wrong::FalseGood(what)) => outcome.false_good = Some(what),
        Err(Wrong::Other(what)) => outcome.other = Some(what),
    }
    outcome
}

fn strike(ground: &mut Ground, dice: &mut Dice, outcome: &mut Outcome) -> Held {
    let (kind, job) = (outcome.kind, outcome.job);
    if ground.known.is_empty() {
        let now = ground.content();
        calm(ground, &["backup", "--json"], "the first backup")?;
        learn(ground, &now)?;
    }
    // What an undo brings back, and a discard deletes.
    let mut kept = None;
    if matches!(job, Job::Undo | Job::Discard) {
        kept = Some(ground.content());
        let name = some_archive(ground, dice);
        calm(
            ground,
            &["restore", &name, "--yes", "--no-safety"],
            "the restore before",
        )?;
    }
    ground.change();
    let old = ground.content();
    let mut archive = some_archive(ground, dice);
    let mut new = match job {
        Job::Restore => Some(ground.known[&archive].clone()),
        Job::Undo => kept,
        _ => None,
    };
    let damage = (kind == Kind::DamagedArchive).then(|| damage(&ground.backups(), &archive, dice));
    if let Some(damage) = &damage {
        archive.clone_from(&damage.name);
        new = None;
    }
    let arguments = arguments(job, &archive, dice);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let disturbed = inject(kind, job, ground, &arguments, dice);
    outcome.hit = disturbed.hit;
    outcome.story = story(&arguments, &disturbed);
    if matches!(kind, Kind::ServerCrash | Kind::ContainerKilled) && disturbed.hit {
        ground.server().start_again();
    }
    wait_for_server(ground);
    check_end(ground, kind, job, &disturbed)?;
    check_group(disturbed.group)?;
    if let Some(damage) = damage {
        check_damaged(ground, &damage, &disturbed.ended)?;
        std::fs::remove_file(ground.backups().join(&damage.name)).unwrap();
    }
    if disturbed.ended.code() == Some(130) && ground.content() != old {
        return Err(Wrong::Lost(
            "exit 130, but the data is not as before".to_owned(),
        ));
    }
    // Archives that are listed now were taken of the old data: a backup's, or a safety archive.
    // A second run may have backed up what the first had put in place.
    let either = new.clone();
    check_archives(ground, &old, either.as_ref())?;
    finish(ground, dice, job, &old, new.as_ref(), &disturbed)?;
    if !disturbed.hit && disturbed.ended.code() == Some(0) && kind != Kind::DamagedArchive {
        ground.pace.insert(job.name(), disturbed.ended.took);
    }
    tidy(ground, dice)
}

/// The next run just works, and what is there then is old or new.
fn finish(
    ground: &mut Ground,
    dice: &mut Dice,
    job: Job,
    old: &Content,
    new: Option<&Content>,
    disturbed: &Disturbed,
) -> Held {
    calm(ground, &["backup", "--json"], "the next run")?;
    let now = ground.content();
    let done = disturbed.ended.code() == Some(0);
    let is_new = new == Some(&now);
    if now != *old && !is_new {
        return Err(Wrong::Lost(format!(
            "neither old nor new:\n{now:?}\nold {old:?}\nnew {new:?}"
        )));
    }
    if done && job.replaces() && new.is_some() && !is_new {
        return Err(Wrong::Lost(
            "exit 0, but the new data is not there".to_owned(),
        ));
    }
    learn(ground, &now)?;
    let unfinished = ground.unfinished();
    if !unfinished.is_empty() {
        return Err(other(format!(
            "left behind after the next run: {unfinished:?}"
        )));
    }
    let said = ground.run(&["status"]);
    if said.err.contains("died") {
        return Err(other(format!("still unfinished: {}", said.err)));
    }
    if dice.one_in(4) {
        let name = some_archive(ground, dice);
        ground.change();
        calm(
            ground,
            &["restore", &name, "--yes", "--no-safety"],
            "the restore after",
        )?;
        if ground.content() != ground.known[&name] {
            return Err(Wrong::FalseGood(format!(
                "{name} restores to something else"
            )));
        }
    }
    Ok(())
}

fn arguments(job: Job, archive: &str, dice: &mut Dice) -> Vec<String> {
    let mut words = match job {
        Job::Backup => vec!["backup", "--json"],
        Job::Restore => vec!["restore", archive, "--yes", "--json"],
        Job::Undo => vec!["undo", "--yes", "--json"],
        Job::Verify => vec!["verify", archive, "--json"],
        Job::Discard => vec!["undo", "--discard", "--yes", "--json"],
    };
    if job == Job::Restore && dice.one_in(2) {
        words.push("--no-safety");
    }
    words.into_iter().map(str::to_owned).collect()
}

fn some_archive(ground: &Ground, dice: &mut Dice) -> String {
    let names: Vec<&String> = ground.known.keys().collect();
    dice.pick(&names).clone()
}

fn story(arguments: &[&str], disturbed: &Disturbed) -> String {
    let mut text = format!(
        "{arguments:?}, {}: {:?} after {} ms\n{}",
        disturbed.what,
        disturbed.ended.status,
        disturbed.ended.took.as_millis(),
        disturbed.ended.err
    );
    if let Some(other) = &disturbed.other {
        text += &format!("\nthe other: {:?}\n{}", other.status, other.err);
    }
    text
}

/// A run that must end well.
fn calm(ground: &mut Ground, arguments: &[&str], what: &str) -> Held {
    let ended = ground.run(arguments);
    if ended.code() == Some(0) {
        ground
            .pace
            .entry(pace_name(arguments))
            .or_insert(ended.took);
        return Ok(());
    }
    Err(other(format!(
        "{what} {arguments:?} fails: {:?}\n{}{}",
        ended.status, ended.out, ended.err
    )))
}

fn pace_name(arguments: &[&str]) -> &'static str {
    if arguments[0] == "backup" {
        "backup"
    } else {
        "restore"
    }
}

fn wait_for_server(ground: &Ground) {
    let Store::Postgres {
        server: Server::Process(cluster),
        ..
    } = &ground.store
    else {
        return;
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let ready = std::process::Command::new(crate::cluster::program("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &cluster.port.to_string()])
            .status()
            .unwrap();
        if ready.success() {
            return;
        }
        assert!(Instant::now() < deadline, "the server does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn check_end(ground: &Ground, kind: Kind, job: Job, disturbed: &Disturbed) -> Held {
    for ended in std::iter::once(&disturbed.ended).chain(&disturbed.other) {
        if ended.err.contains("panicked") || ended.code() == Some(101) {
            return Err(other("it panicked"));
        }
    }
    let killed = match kind {
        Kind::Kill => disturbed.hit,
        // The run died, whether or not its recovery was struck in time.
        Kind::KillAtStep | Kind::KillTwice => disturbed.ended.signal() == Some(6),
        _ => false,
    };
    let code = disturbed.ended.code();
    let fits = match code {
        None => killed,
        Some(0) => true,
        // A signal that comes before the handler is there ends the run as it ends any program.
        Some(130) => kind == Kind::Interrupt,
        Some(5) => kind == Kind::TwoAtOnce,
        Some(1..=4) => {
            disturbed.hit && !matches!(kind, Kind::Interrupt | Kind::TwoAtOnce | Kind::SlowNetwork)
        }
        Some(_) => false,
    };
    let early = kind == Kind::Interrupt && matches!(disturbed.ended.signal(), Some(2 | 15));
    if !fits && !early {
        return Err(other(format!(
            "exit {:?} is not one for this",
            disturbed.ended.status
        )));
    }
    if let Some(code) = disturbed.other.as_ref().map(Ended::code)
        && !matches!(code, Some(0 | 5))
    {
        return Err(other(format!("the other run ends with {code:?}")));
    }
    if matches!(code, Some(1..)) && !disturbed.ended.out.contains("\"exit_code\"") {
        return Err(other(format!(
            "no error object in {} of {}",
            job.name(),
            ground.name()
        )));
    }
    Ok(())
}

/// Nothing that the run started outlives it for long.
fn check_group(group: u32) -> Held {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let members = group_members(group);
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(other(format!("processes are left: {members:?}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Archives as `k1ops list` shows them: name, and whether it is good.
fn listed(ground: &Ground) -> Result<Vec<(String, bool)>, Wrong> {
    let ended = ground.run(&["list", "--json"]);
    let listing: serde_json::Value = serde_json::from_str(&ended.out)
        .map_err(|_| other(format!("list says {}{}", ended.out, ended.err)))?;
    let archives = listing["archives"].as_array().unwrap();
    Ok(archives
        .iter()
        .map(|a| (a["name"].as_str().unwrap().to_owned(), a["state"] == "good"))
        .collect())
}

/// Every archive that is listed as good is known, or verifies and holds all of `old` (or `new`).
fn check_archives(ground: &mut Ground, old: &Content, new: Option<&Content>) -> Held {
    let listed = listed(ground)?;
    for name in ground.known.keys() {
        if !listed.contains(&(name.clone(), true)) {
            return Err(Wrong::Lost(format!(
                "archive {name} is gone or no longer good"
            )));
        }
    }
    for (name, good) in listed {
        if !good && !name.ends_with(".partial") {
            return Err(other(format!(
                "{name} has an archive's name and is not good"
            )));
        }
        if !good || ground.known.contains_key(&name) {
            continue;
        }
        let path = ground.backups().join(&name);
        let said = ground.run(&["verify", &name]);
        if said.code() != Some(0) {
            return Err(Wrong::FalseGood(format!(
                "{name} does not verify: {}",
                said.err
            )));
        }
        let holds = content::of_archive(&path);
        if holds != *old && Some(&holds) != new {
            return Err(Wrong::FalseGood(format!(
                "{name} holds {holds:?}, not {old:?}"
            )));
        }
        ground.known.insert(name, holds);
    }
    Ok(())
}

/// Takes note of the archive that was just made.
fn learn(ground: &mut Ground, now: &Content) -> Held {
    let before = ground.known.len();
    check_archives(ground, now, None)?;
    if ground.known.len() == before {
        return Err(other("a backup was made, and no archive is new"));
    }
    Ok(())
}

/// A copy of an archive that is not what it was.
struct Damage {
    name: String,
    truncated: bool,
}

fn damage(folder: &Path, archive: &str, dice: &mut Dice) -> Damage {
    let mut bytes = std::fs::read(folder.join(archive)).unwrap();
    let truncated = dice.one_in(2);
    if truncated {
        let keep = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
        match dice.below(3) {
            0 => bytes.truncate(keep),
            // As a tar that ended there would look.
            1 => {
                bytes.truncate(keep / 512 * 512);
                bytes.extend([0; 1024]);
            }
            // The middle is missing, the end is there.
            _ => {
                let end = (keep / 512 * 512 + 512).min(bytes.len());
                bytes.drain(keep / 512 * 512..end);
            }
        }
    } else {
        let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
        bytes[at] ^= 1 << dice.below(8);
    }
    let name = "k1-k1-20200101T000000Z.tar".to_owned();
    std::fs::write(folder.join(&name), bytes).unwrap();
    Damage { name, truncated }
}

fn check_damaged(ground: &Ground, damage: &Damage, ended: &Ended) -> Held {
    if ended.code() != Some(4) {
        return Err(Wrong::FalseGood(format!(
            "a damaged archive: {:?}",
            ended.status
        )));
    }
    let good = listed(ground)?.contains(&(damage.name.clone(), true));
    if damage.truncated && good {
        return Err(Wrong::FalseGood(
            "an incomplete archive is listed as good".to_owned(),
        ));
    }
    Ok(())
}

/// Keeps the ground small.
fn tidy(ground: &mut Ground, dice: &mut Dice) -> Held {
    while ground.known.len() > 4 {
        let name = some_archive(ground, dice);
        std::fs::remove_file(ground.backups().join(&name)).unwrap();
        ground.known.remove(&name);
    }
    if ground.kept() > 6 {
        calm(ground, &["undo", "--discard", "--yes"], "the discard")?;
        if ground.kept() > 0 {
            return Err(other("a discard leaves something kept"));
        }
    }
    Ok(())
}
