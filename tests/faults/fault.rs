//! The faults: each takes a run of k1ops and disturbs it, and answers whether it really struck.
//!
//! A new kind is one more variant with its weight in
//! [`Kind::ALL`], its arm in [`Kind::fits`], and its arm in [`inject`]; what is checked afterwards
//! is the same for all.

use crate::dice::Dice;
use crate::ground::{Ended, Ground, Running, Server, Store};
use crate::proxy::Weather;
use k1ops::restore::crash::{STEPS, VARIABLE};
use rustix::process::Signal;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// What is done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    KillAtStep,
    KillTwice,
    Interrupt,
    ServerProcessKilled,
    ServerCrash,
    ContainerKilled,
    DiskFull,
    IoError,
    StreamEnds,
    Outage,
    SlowNetwork,
    ClockJump,
    DamagedArchive,
    TwoAtOnce,
}

/// What k1ops is asked to do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    Backup,
    Restore,
    Undo,
    Verify,
    Discard,
}

impl Job {
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Undo => "undo",
            Self::Verify => "verify",
            Self::Discard => "discard",
        }
    }

    /// It replaces the live data.
    pub fn replaces(self) -> bool {
        matches!(self, Self::Restore | Self::Undo)
    }
}

impl Kind {
    /// All, those that find the most as often as they deserve.
    pub const ALL: [Self; 20] = [
        Self::Kill,
        Self::Kill,
        Self::Kill,
        Self::KillAtStep,
        Self::KillAtStep,
        Self::KillTwice,
        Self::Interrupt,
        Self::ServerProcessKilled,
        Self::ServerCrash,
        Self::ContainerKilled,
        Self::ContainerKilled,
        Self::DiskFull,
        Self::IoError,
        Self::IoError,
        Self::StreamEnds,
        Self::Outage,
        Self::SlowNetwork,
        Self::ClockJump,
        Self::DamagedArchive,
        Self::TwoAtOnce,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillAtStep => "kill at a step",
            Self::KillTwice => "kill, then kill the recovery",
            Self::Interrupt => "SIGINT or SIGTERM",
            Self::ServerProcessKilled => "kill -9 of a server process",
            Self::ServerCrash => "PostgreSQL crashes",
            Self::ContainerKilled => "PostgreSQL's container is killed",
            Self::DiskFull => "disk full",
            Self::IoError => "I/O error",
            Self::StreamEnds => "stream looks ended",
            Self::Outage => "connection cut",
            Self::SlowNetwork => "slow network",
            Self::ClockJump => "clock jumps",
            Self::DamagedArchive => "truncated or damaged archive",
            Self::TwoAtOnce => "two runs at once",
        }
    }

    /// Whether it can strike this job on this ground.
    pub fn fits(self, job: Job, ground: &Ground) -> bool {
        let server = matches!(ground.store, Store::Postgres { .. });
        let in_container = server && matches!(ground.server(), Server::Container(_));
        match self {
            Self::KillAtStep | Self::KillTwice => job.replaces(),
            Self::ServerProcessKilled | Self::ServerCrash => {
                server && !in_container && job != Job::Verify
            }
            Self::ContainerKilled => in_container && job != Job::Verify,
            Self::StreamEnds | Self::Outage | Self::SlowNetwork => server && job != Job::Verify,
            Self::DamagedArchive => matches!(job, Job::Restore | Job::Verify),
            _ => true,
        }
    }
}

/// A run that was disturbed.
pub struct Disturbed {
    pub ended: Ended,
    /// The fault struck while the run was at work.
    pub hit: bool,
    /// The process group of the run.
    pub group: u32,
    /// What exactly was done.
    pub what: String,
    /// A second run, where there was one.
    pub other: Option<Ended>,
}

/// Runs `arguments` and lets `kind` strike.
pub fn inject(
    kind: Kind,
    job: Job,
    ground: &Ground,
    arguments: &[&str],
    dice: &mut Dice,
) -> Disturbed {
    let pace = ground
        .pace
        .get(job.name())
        .copied()
        .unwrap_or(Duration::from_millis(500));
    let moment = dice.part_of(pace + pace / 20);
    let plain = || ground.command(arguments);
    let at = format!("after {} ms of {}", moment.as_millis(), pace.as_millis());
    match kind {
        Kind::Kill => at_moment(ground.start(plain(), "run"), moment, at, |run| {
            run.signal(Signal::KILL);
            true
        }),
        Kind::Interrupt => {
            let signal = dice.pick(&[Signal::INT, Signal::TERM]);
            at_moment(ground.start(plain(), "run"), moment, at, |run| {
                run.signal(signal);
                true
            })
        }
        Kind::KillAtStep | Kind::KillTwice => {
            let mut disturbed = kill_at_step(ground, plain(), dice);
            if kind == Kind::KillTwice && disturbed.hit {
                let moment = dice.part_of(pace / 2);
                let mut recovery = ground.start(ground.command(&["backup", "--json"]), "recovery");
                disturbed.hit = recovery.works_for(moment);
                if disturbed.hit {
                    recovery.signal(Signal::KILL);
                }
                recovery.end();
                disturbed.what += &format!(", its recovery after {} ms", moment.as_millis());
            }
            disturbed
        }
        Kind::ServerProcessKilled => {
            let chosen = dice.below(100);
            at_moment(ground.start(plain(), "run"), moment, at, |_| {
                kill_backend(ground, chosen)
            })
        }
        Kind::ServerCrash => at_moment(ground.start(plain(), "run"), moment, at, |_| {
            ground.cluster().crash();
            true
        }),
        Kind::ContainerKilled => at_moment(
            ground.start(plain(), "run"),
            moment,
            at,
            |_| matches!(ground.server(), Server::Container(container) if container.kill()),
        ),
        Kind::DiskFull | Kind::IoError | Kind::ClockJump => with_shim(kind, ground, plain(), dice),
        Kind::StreamEnds | Kind::Outage | Kind::SlowNetwork => {
            with_weather(kind, job, ground, plain(), dice)
        }
        Kind::DamagedArchive => {
            let run = ground.start(plain(), "run");
            let group = run.child.id();
            Disturbed {
                ended: run.end(),
                hit: true,
                group,
                what: String::new(),
                other: None,
            }
        }
        Kind::TwoAtOnce => two_at_once(ground, plain(), moment, &at, dice),
    }
}

fn at_moment(
    mut run: Running,
    moment: Duration,
    what: String,
    strike: impl FnOnce(&Running) -> bool,
) -> Disturbed {
    let group = run.child.id();
    let hit = run.works_for(moment) && strike(&run);
    Disturbed {
        ended: run.end(),
        hit,
        group,
        what,
        other: None,
    }
}

fn kill_at_step(ground: &Ground, mut command: Command, dice: &mut Dice) -> Disturbed {
    // Steps around a server that is stopped belong to stacks whose server runs.
    let steps: Vec<&str> = STEPS
        .into_iter()
        .filter(|s| !matches!(*s, "stop-noted" | "stopped" | "abandoned-half"))
        .collect();
    let mut step = dice.pick(&steps).to_owned();
    if matches!(ground.store, Store::Sqlite) && dice.one_in(2) {
        step += ":2";
    }
    command.env(VARIABLE, &step);
    let run = ground.start(command, "run");
    let group = run.child.id();
    let ended = run.end();
    let hit = ended.signal() == Some(6);
    Disturbed {
        ended,
        hit,
        group,
        what: step,
        other: None,
    }
}

/// Kills one of the server processes that work for k1ops.
fn kill_backend(ground: &Ground, chosen: u64) -> bool {
    let pid_file = ground.cluster().data.join("postmaster.pid");
    let text = std::fs::read_to_string(pid_file).unwrap();
    let postmaster: u32 = text.lines().next().unwrap().parse().unwrap();
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let backends: Vec<i32> = std::fs::read_to_string(children)
        .unwrap()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .filter(|pid| {
            let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.contains("127.0.0.1(")
        })
        .collect();
    if backends.is_empty() {
        return false;
    }
    let index = usize::try_from(chosen).unwrap() % backends.len();
    let pid = rustix::process::Pid::from_raw(backends[index]).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).is_ok()
}

/// The preloaded library, compiled once.
fn shim() -> &'static PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (library, fresh) = (
            folder.join("k1ops-shim.so"),
            folder.join(format!("shim-{}", std::process::id())),
        );
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-Wall", "-o"])
            .arg(&fresh)
            .arg(source);
        crate::cluster::succeed(&mut cc);
        std::fs::rename(&fresh, &library).unwrap();
        library
    })
}

fn with_shim(kind: Kind, ground: &Ground, mut command: Command, dice: &mut Dice) -> Disturbed {
    let mark = ground.folder.path().join("struck");
    let _ = std::fs::remove_file(&mark);
    // Most of a run's calls are few; writes and reads of data are many.
    let (call, most): (&str, u64) = match kind {
        Kind::ClockJump => ("clock", 60),
        Kind::DiskFull => ("write", 60),
        _ => dice.pick(&[
            ("write", 60),
            ("sync", 12),
            ("rename", 8),
            ("read", 60),
            ("open", 50),
            ("unlink", 6),
        ]),
    };
    let nth = 1 + dice.below(most);
    let shift = dice.pick(&[86_400_i64, -86_400, 400 * 86_400, -400 * 86_400, 3, -3]);
    let sticky = kind != Kind::IoError || dice.one_in(2);
    let errno = if kind == Kind::DiskFull { 28 } else { 5 };
    command
        .env("LD_PRELOAD", shim())
        .env("SHIM_CALL", call)
        .env("SHIM_PATH", "/.conductor/")
        .env("SHIM_NTH", nth.to_string())
        .env("SHIM_ERRNO", errno.to_string())
        .env("SHIM_STICKY", if sticky { "1" } else { "0" })
        .env("SHIM_SHIFT", shift.to_string())
        .env("SHIM_MARK", &mark);
    let run = ground.start(command, "run");
    let group = run.child.id();
    let ended = run.end();
    let hit = mark.exists();
    let what = format!("{call} {nth}, sticky {sticky}, errno {errno}, shift {shift}");
    Disturbed {
        ended,
        hit,
        group,
        what,
        other: None,
    }
}

fn with_weather(
    kind: Kind,
    job: Job,
    ground: &Ground,
    command: Command,
    dice: &mut Dice,
) -> Disturbed {
    let whole = match job {
        Job::Backup => 3_000_000,
        Job::Restore => 6_000_000,
        _ => 4_000,
    };
    let after = if dice.one_in(3) {
        dice.below(20_000)
    } else {
        dice.below(whole)
    };
    let weather = match kind {
        Kind::StreamEnds => Weather::Ends { after },
        Kind::Outage => Weather::Outage { after },
        _ => Weather::Slow,
    };
    ground.proxy().set(weather);
    let run = ground.start(command, "run");
    let group = run.child.id();
    let ended = run.end();
    let hit = ground.proxy().struck();
    ground.proxy().set(Weather::Fair);
    Disturbed {
        ended,
        hit,
        group,
        what: format!("{weather:?}"),
        other: None,
    }
}

fn two_at_once(
    ground: &Ground,
    command: Command,
    moment: Duration,
    at: &str,
    dice: &mut Dice,
) -> Disturbed {
    let mut first = ground.start(command, "run");
    let group = first.child.id();
    let hit = first.works_for(moment);
    let second = dice.pick(&[
        ["backup", "--json"].as_slice(),
        &["undo", "--discard", "--yes"],
    ]);
    let other = ground.start(ground.command(second), "other").end();
    let ended = first.end();
    let what = format!("{second:?} {at}");
    Disturbed {
        ended,
        hit,
        group,
        what,
        other: Some(other),
    }
}
