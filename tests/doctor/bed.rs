//! A stack that is well, in a folder of its own, for planting faults on it.

use k1ops::archive::{CodecSettings, FORMAT, Header, Manifest, Writer};
use k1ops::config::Compression;
use k1ops::event::Events;
use k1ops::store::{Place, Store};
use serde_json::Value;
use std::any::Any;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A fault, how it is planted, and how the doctor must name it.
pub struct Fault {
    /// What is wrong, for people.
    pub name: &'static str,
    pub plant: fn(&mut Bed),
    pub check: &'static str,
    pub severity: &'static str,
    /// What the title must say.
    pub says: &'static str,
    /// What a remedy must be.
    pub remedy: &'static str,
    /// The exit code.
    pub code: i32,
}

/// The exit code of some problem: which one depends on the host too.
pub const ANY_PROBLEM: i32 = -1;

/// Plants each fault on a bed of its own, and fails with all that was not named as it must be.
pub fn prove(faults: &[Fault], make: impl Fn() -> Bed) {
    let mut wrong = Vec::new();
    for fault in faults {
        let mut bed = make();
        let before = bed.doctor();
        if before.named(fault).is_some() {
            wrong.push(format!("{}: named before it was planted", fault.name));
        }
        (fault.plant)(&mut bed);
        let after = bed.doctor();
        match after.named(fault) {
            None => wrong.push(format!("{}: not named in\n{}", fault.name, after.titles())),
            Some(found) if found["severity"] != fault.severity => {
                wrong.push(format!("{}: is a {}", fault.name, found["severity"]));
            }
            Some(found) if !remedies(found).contains(fault.remedy) => {
                wrong.push(format!("{}: its remedy is {}", fault.name, remedies(found)));
            }
            Some(_) if fault.code == ANY_PROBLEM && after.code == Some(0) => {
                wrong.push(format!("{}: exits 0", fault.name));
            }
            Some(_) if fault.code != ANY_PROBLEM && after.code != Some(fault.code) => {
                let (name, code, wanted) = (fault.name, after.code, fault.code);
                let titles = after.titles();
                wrong.push(format!(
                    "{name}: exit code {code:?} and not {wanted}\n{titles}"
                ));
            }
            Some(found) => println!("named: {}: {}", fault.name, found["title"]),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn remedies(finding: &Value) -> String {
    format!("{} {}", finding["remedy"], finding["advice"])
}

/// What the doctor answered.
pub struct Answer {
    pub code: Option<i32>,
    pub json: Value,
    pub err: String,
}

impl Answer {
    pub fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().unwrap()
    }

    pub fn find(&self, check: &str, says: &str) -> Option<&Value> {
        self.findings().iter().find(|finding| {
            finding["check"] == check && finding["title"].as_str().unwrap().contains(says)
        })
    }

    fn named(&self, fault: &Fault) -> Option<&Value> {
        self.find(fault.check, fault.says)
    }

    #[track_caller]
    pub fn must_find(&self, check: &str, says: &str) -> &Value {
        self.find(check, says)
            .unwrap_or_else(|| panic!("{check}: {says:?} is not in\n{}", self.titles()))
    }

    #[track_caller]
    pub fn must_not_find(&self, check: &str, says: &str) {
        if let Some(found) = self.find(check, says) {
            panic!("{found:#}");
        }
    }

    pub fn titles(&self) -> String {
        let titles = self.findings().iter().map(|f| {
            format!(
                "  {} {}: {}\n    {}",
                f["severity"], f["check"], f["title"], f["evidence"]
            )
        });
        titles.collect::<Vec<_>>().join("\n")
    }
}

/// A stack in a folder, and what was made to plant faults, which goes away with it.
pub struct Bed {
    folder: TempDir,
    pub port: u16,
    variables: Vec<(String, String)>,
    alone: bool,
    kept: Vec<Box<dyn Any>>,
}

impl Bed {
    /// A stack of the JAR tier with both databases and a backup, and nothing wrong with it.
    pub fn healthy() -> Self {
        let bed = Self::empty();
        let from = template().path().join(".conductor");
        succeed(Command::new("cp").arg("-a").arg(from).arg(bed.path()));
        bed
    }

    /// A folder with a configuration only.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // What others of the host may see is looked at, so they have to be let in.
        mode(folder.path(), 0o755);
        let bed = Self {
            folder,
            port: free_port(),
            variables: Vec::new(),
            alone: false,
            kept: Vec::new(),
        };
        bed.config("");
        bed
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn own(&self, name: &str) -> PathBuf {
        self.path().join(".conductor").join(name)
    }

    /// Writes the configuration of a healthy stack with `more` at its end.
    pub fn config(&self, more: &str) {
        let text = format!("tier = 'jar'\n[ports]\nconductor = {}\n{more}", self.port);
        self.whole_config(&text);
    }

    pub fn whole_config(&self, text: &str) {
        let file = self.path().join("k1ops.toml");
        std::fs::write(&file, text).unwrap();
        mode(&file, 0o600);
    }

    /// A variable for every run from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn unset(&mut self, name: &str) {
        self.variables.retain(|(set, _)| set != name);
    }

    /// Runs from now on where no other host can be reached, nor even looked up.
    pub fn cut_off(&mut self) {
        self.alone = true;
    }

    /// Keeps something as long as the bed.
    pub fn keep(&mut self, thing: impl Any) {
        self.kept.push(Box::new(thing));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = if self.alone {
            let mut command = Command::new("unshare");
            command.args(["-r", "-n", env!("CARGO_BIN_EXE_k1ops")]);
            command
        } else {
            Command::new(env!("CARGO_BIN_EXE_k1ops"))
        };
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("K1OPS_") || name.to_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.path())
            .env(
                "K1OPS_CACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn doctor(&self) -> Answer {
        self.doctor_with(&[])
    }

    #[track_caller]
    pub fn doctor_with(&self, arguments: &[&str]) -> Answer {
        let output = self.run(&[&["doctor", "--json"], arguments].concat());
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
        Answer {
            code: output.status.code(),
            json,
            err,
        }
    }

    /// A program on `PATH` before all others.
    pub fn program(&mut self, name: &str, text: &str) {
        let folder = self.path().join("programs");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        mode(&file, 0o755);
        let path = std::env::var("PATH").unwrap();
        self.unset("PATH");
        self.set("PATH", &format!("{}:{path}", folder.display()));
    }
}

/// The stack that all beds are copies of, made once.
fn template() -> &'static TempDir {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let bed = Bed::empty();
        let conductor = k1ops::adapters::sqlite::open_or_create(&bed.own("data/conductor.db"));
        conductor
            .unwrap()
            .execute_batch(
                "CREATE TABLE workflow(workflow_id TEXT, json_data TEXT);
                 CREATE TABLE workflow_pending(workflow_id TEXT);
                 CREATE TABLE queue_message(queue_name TEXT, message_id TEXT);
                 INSERT INTO workflow VALUES ('moving', '{\"status\":\"RUNNING\"}');
                 INSERT INTO workflow_pending VALUES ('moving');
                 INSERT INTO queue_message VALUES ('_deciderQueue', 'moving');",
            )
            .unwrap();
        let place = Place::Sqlite(bed.own("data/k1.db"));
        runtime().block_on(async {
            Store::open(&place, &Events::silent()).await.unwrap();
        });
        bed.done(&["backup"]);
        let first = bed.doctor();
        assert_eq!(first.code, Some(0), "{}", first.titles());
        assert_eq!(first.json["tally"]["warnings"], 0, "{}", first.titles());
        bed.folder
    })
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// A sound archive of stack `k1` that was begun at `at`, with about `size` bytes in it.
pub fn archive(bed: &Bed, at: chrono::DateTime<chrono::Utc>, size: usize) -> PathBuf {
    let folder = bed.own("backups");
    std::fs::create_dir_all(&folder).unwrap();
    let place = folder.join(format!("k1-k1-{}.tar", at.format("%Y%m%dT%H%M%SZ")));
    let header = Header {
        format: FORMAT,
        tool: "k1ops test".into(),
        stack: "k1".into(),
        started_at: at,
    };
    // Zeros would be compressed to nothing.
    let mut seed = 7_u32;
    let raw: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(size)
    .collect();
    runtime().block_on(async {
        let settings = CodecSettings::of(Compression::Zstd, 0);
        let writer = Writer::create(&place, header.clone(), settings, 1).unwrap();
        writer
            .add(k1ops::archive::NewMember {
                path: "config/filler".into(),
                raw,
                rows: None,
                effort: k1ops::archive::Effort::None,
            })
            .await
            .unwrap();
        writer
            .finish(Manifest {
                header,
                finished_at: at,
                tier: None,
                conductor_version: "3.32.1".into(),
                sources: vec![],
                left_out: vec![],
                images: std::collections::BTreeMap::new(),
                members: vec![],
            })
            .await
            .unwrap();
    });
    place
}

/// A process of its own that listens until it is dropped.
pub struct Listener(pub Child);

impl Listener {
    /// On `address:port`, run behind `wrapper`, if there is one.
    pub fn on(address: &str, port: u16, wrapper: &[&str]) -> Self {
        let program = format!(
            "use IO::Socket::IP; my $s = IO::Socket::IP->new(Listen => 1, LocalHost => '{address}', \
             LocalPort => {port}, ReuseAddr => 1) or die $!; $| = 1; print \"up\\n\"; sleep 600"
        );
        let mut words: Vec<&str> = wrapper.to_vec();
        words.extend(["perl", "-e", &program]);
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 2];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        Self(child)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file system of its own, mounted until it is dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn on(folder: &Path, options: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        succeed(as_root(&["mount", "-t", "tmpfs", "-o", options, "none"]).arg(folder));
        Self(folder.to_owned())
    }

    pub fn remount(&self, options: &str) {
        succeed(as_root(&["mount", "-o", &format!("remount,{options}")]).arg(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = as_root(&["umount"]).arg(&self.0).status();
    }
}

/// A command as root: this user, or `sudo` without a password.
pub fn as_root(words: &[&str]) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("-n").args(words);
    command
}

#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub fn free_port() -> u16 {
    k1ops::adapters::port::any_free().unwrap()
}

/// One whose next neighbour is given to nobody else either: that is where k1ops moves to.
pub fn free_port_with_its_neighbour() -> u16 {
    let pairs = std::iter::repeat_with(|| (free_port(), free_port())).take(1000);
    let mut pairs = pairs.filter(|(port, next)| *next == *port + 1);
    pairs.next().unwrap().0
}
