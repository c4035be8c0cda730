//! A terminal in a scratch folder: the steps of a page run in it, in their order, in one shell.

use crate::alike;
use crate::cluster::{give_to_postgres, succeed};
use crate::page::{Page, Step};
use regex::Regex;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// Stands between what one step printed and what the next one does.
const END_OF_STEP: char = '\u{1e}';

/// A host of a reader's: `/srv` is a scratch folder, port 8080 a free one.
pub struct Host {
    folder: TempDir,
    /// What the page says, and what it is here.
    names: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    /// Folders of programs, k1ops' first.
    programs: Vec<PathBuf>,
    server_user: bool,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = k1ops::adapters::port::any_free().unwrap().to_string();
        let mut host = Self {
            variables: vec![("K1OPS_PORTS_CONDUCTOR".to_owned(), port.clone())],
            names: Vec::new(),
            programs: vec![PathBuf::from(env!("CARGO_BIN_EXE_k1ops")).with_file_name("")],
            server_user: false,
            folder,
        };
        host.named("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
        let root = host.root().display().to_string();
        host.named("/srv", &root);
        // A host without Docker, whatever this one has.
        host.named("/var/run/docker.sock", "/nowhere/docker.sock");
        host
    }

    /// Where the page's `/srv` is.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The page says one thing for what here is another.
    pub fn named(&mut self, shown: &str, real: &str) {
        self.names.push((shown.to_owned(), real.to_owned()));
    }

    pub fn variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The page calls programs of this folder too.
    pub fn programs(&mut self, folder: &Path) {
        self.programs.push(folder.to_path_buf());
    }

    /// The page is for the user that PostgreSQL runs as.
    pub fn of_the_server_user(&mut self) {
        give_to_postgres(self.root());
        // Where the sources lie, that user may not look.
        let folder = self.root().join(".bin");
        std::fs::create_dir(&folder).unwrap();
        // By a process of its own: a child of ours that was forked meanwhile would hold a file open that
        // we write, and nobody could run it.
        succeed(
            Command::new("cp")
                .arg("-p")
                .arg(env!("CARGO_BIN_EXE_k1ops"))
                .arg(&folder),
        );
        self.programs.insert(0, folder);
        self.server_user = rustix::process::geteuid().is_root();
    }

    /// Runs the page and compares. With `SNAPSHOTS=overwrite`, writes what was printed into it.
    pub fn run(&self, page: &Page) {
        // Each starts servers that take every CPU: one after the other is as fast, and no server
        // starves.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, broken_off) = self.play(&page.steps);
        let overwrite = std::env::var("SNAPSHOTS").is_ok_and(|action| action == "overwrite");
        let (mut wrong, mut corrections) = (Vec::new(), Vec::new());
        for (step, (printed, code)) in page.steps.iter().zip(&ends) {
            if *code != step.code {
                wrong.push(step.exited(*code, printed));
            } else if let Some(shown) = &step.shown
                && let Err(difference) = alike::compare(printed, &shown.text)
            {
                wrong.push(step.at(&page.name, &difference));
                corrections.push((step, printed.as_str()));
            }
        }
        if overwrite {
            page.rewrite(&corrections);
            wrong.retain(|said| said.starts_with("line "));
        }
        assert!(
            wrong.is_empty() && ends.len() == page.steps.len(),
            "docs/{}: {} of {} steps ran\n{}\n{broken_off}\nIf this is how it should be: SNAPSHOTS=overwrite cargo test --test book",
            page.name,
            ends.len(),
            page.steps.len(),
            wrong.join("\n")
        );
    }

    /// Runs the steps until one exits otherwise than it should: what each printed and its code, and
    /// what one printed that did not come to its end.
    fn play(&self, steps: &[Step]) -> (Vec<(String, i32)>, String) {
        // Outside of `/srv`, which a page may list.
        let desk = tempfile::tempdir().unwrap();
        let (script, printed) = (desk.path().join("page.sh"), desk.path().join("printed"));
        std::fs::write(&script, self.script(steps)).unwrap();
        let output = std::fs::File::create(&printed).unwrap();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "900"]);
        if self.server_user {
            give_to_postgres(desk.path());
            command.args([
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
            ]);
            command.env("HOME", self.root());
        }
        command.arg("bash").arg(&script);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("K1OPS_") {
                command.env_remove(name);
            }
        }
        command
            .env("PATH", self.path_variable())
            .env(
                "K1OPS_CACHE",
                concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"),
            )
            .env("K1OPS_SERVER_HEALTH_TIMEOUT", "400")
            // A host without Docker, whatever this one has.
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .env("COLUMNS", "100")
            .env("NO_COLOR", "1")
            .envs(self.variables.iter().cloned())
            .current_dir(self.root())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        let said = String::from_utf8_lossy(&std::fs::read(&printed).unwrap()).into_owned();
        self.ends(&said)
    }

    fn path_variable(&self) -> std::ffi::OsString {
        let others = std::env::var_os("PATH").unwrap();
        let folders = self.programs.iter().cloned();
        std::env::join_paths(folders.chain(std::env::split_paths(&others))).unwrap()
    }

    /// All steps in one shell, so that a folder that was entered stays entered.
    fn script(&self, steps: &[Step]) -> String {
        let mut script = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n".to_owned();
        for Step {
            command,
            code,
            shown,
            ..
        } in steps
        {
            let command = self.here(command);
            // What readers do not see is several commands, of which each has to end well.
            let (set, unset) = if shown.is_none() {
                ("set -e", "set +e")
            } else {
                (":", ":")
            };
            script.push_str(&format!(
                "{set}\n{{\n{command}}} </dev/null\ncode=$?\n{unset}\nprintf '\\036%s\\n' \"$code\"\n\
                 [ \"$code\" -eq {code} ] || exit 0\n"
            ));
        }
        script
    }

    fn ends(&self, said: &str) -> (Vec<(String, i32)>, String) {
        let mut ends = Vec::new();
        let mut rest = said;
        while let Some((printed, after)) = rest.split_once(END_OF_STEP) {
            let (code, next) = after.split_once('\n').unwrap();
            ends.push((self.as_shown(printed), code.parse().unwrap()));
            rest = next;
        }
        (ends, self.as_shown(rest))
    }

    /// A command of the page, for this host.
    fn here(&self, command: &str) -> String {
        let swap = |text: String, (shown, real): &(String, String)| swapped(&text, shown, real);
        self.names.iter().fold(command.to_owned(), swap)
    }

    /// What was printed here, as on the page's host. What is only progress is left out.
    fn as_shown(&self, printed: &str) -> String {
        let swap = |text: String, (shown, real): &(String, String)| swapped(&text, real, shown);
        let text = self.names.iter().fold(printed.to_owned(), swap);
        let kept = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("… "));
        let text: String = kept.collect();
        if text.is_empty() || text.ends_with('\n') {
            text
        } else {
            text + "\n"
        }
    }
}

/// Replaces a name wherever it stands as a whole.
fn swapped(text: &str, from: &str, to: &str) -> String {
    let pattern = format!(r"{}(?<after>[^\w]|$)", regex::escape(from));
    let pattern = Regex::new(&pattern).unwrap();
    pattern
        .replace_all(text, |found: &regex::Captures<'_>| {
            format!("{to}{}", &found["after"])
        })
        .into_owned()
}

impl Step {
    fn at(&self, page: &str, difference: &str) -> String {
        format!("docs/{page}:{}: {}{difference}", self.line, self.command)
    }

    fn exited(&self, code: i32, printed: &str) -> String {
        format!(
            "line {}: exit code {code} instead of {}: {}{printed}",
            self.line, self.code, self.command
        )
    }
}

impl Drop for Host {
    /// Stops what a page left running, also one that was broken off.
    fn drop(&mut self) {
        for folder in stacks(self.root()) {
            let _ = Command::new(env!("CARGO_BIN_EXE_k1ops"))
                .arg("stop")
                .current_dir(folder)
                .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
                .stdin(Stdio::null())
                .output();
        }
        let pid = std::fs::read_to_string(self.root().join("recovered/postmaster.pid"));
        if let Some(pid) = pid
            .ok()
            .and_then(|text| Some(text.lines().next()?.to_owned()))
        {
            let _ = Command::new("kill").args(["-QUIT", &pid]).status();
        }
    }
}

/// Folders in the scratch folder, two deep, whose stack has run a server.
fn stacks(root: &Path) -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut folders = below(root);
    folders.extend(folders.clone().iter().flat_map(|folder| below(folder)));
    folders.retain(|folder| folder.join(".conductor/run/server.json").is_file());
    folders
}
