//! Builds what makes later starts fast: extracts the JAR and trains a server on a scratch database.
//! It runs in a process of its own, at the lowest priority, while the stack is in use already.

use super::boot_jar::BootJar;
use super::cache::Cache;
use super::fast_start::FastStart;
use super::java::{self, Java, Places};
use super::server::{ANSWER, Runtime, clear_folder, end};
use crate::adapters::fs::{self, Lock};
use crate::adapters::port;
use crate::adapters::process::{Detached, Identity, own_program};
use crate::conductor::{Client, health, properties};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The whole of it takes about a minute on an idle machine; after this it is given up.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long the training server may take to write the archive when it ends.
const WRITING: Duration = Duration::from_secs(15 * 60);
/// Bytes that the extracted JAR, the archive and its making need on the disk.
const DISK: u64 = 1_500 << 20;
/// Bytes of memory that a second server and the making of the archive need.
const MEMORY: u64 = 1_500 << 20;
/// The lowest priority.
const LOWEST: i32 = 19;
/// What the first minutes of a server's life ask for.
const EXERCISES: &[&str] = &[
    "/actuator/prometheus",
    "/api/metadata/workflow",
    "/api/workflow/search?start=0&size=10&freeText=*",
    "/api/tasks/poll/batch/k1ops_training?count=1&timeout=10&workerid=k1ops",
];

/// What is to be prepared.
#[derive(Debug, Clone)]
pub struct Preparation {
    /// The cache that it goes into.
    pub cache: Cache,
    /// The JAR.
    pub jar: BootJar,
    /// The Java.
    pub java: Java,
    /// The heap that the server is started with.
    pub heap: String,
    /// Where the training server's log goes.
    pub log: PathBuf,
}

impl Preparation {
    /// The place that it fills.
    #[must_use]
    pub fn place(&self) -> FastStart {
        FastStart::of(&self.cache, &self.jar, &self.java, &self.heap)
    }

    /// Starts the preparation in the background, unless there is nothing to do or the host has no
    /// room for it. Says why not.
    pub fn begin(&self) -> Result<Option<&'static str>> {
        let place = self.place();
        if place.is_complete() {
            return Ok(Some("it is prepared already"));
        }
        if place.is_bad() {
            return Ok(Some(
                "a fast start failed before; `k1ops start --prepare` tries again",
            ));
        }
        if let Some(reason) = self.no_room()? {
            return Ok(Some(reason));
        }
        let mut arguments: Vec<OsString> = vec!["__prepare-fast-start".into()];
        for (flag, value) in [
            ("--cache", self.cache.root().as_os_str()),
            ("--jar", self.jar.path.as_os_str()),
            ("--sha256", self.jar.sha256.as_ref()),
            ("--conductor", self.jar.version.as_ref()),
            ("--java", self.java.binary.as_os_str()),
            ("--heap", self.heap.as_ref()),
            ("--log", self.log.as_os_str()),
        ] {
            arguments.extend([flag.into(), value.to_owned()]);
        }
        let detached = Detached {
            program: own_program(),
            arguments,
            environment: Vec::new(),
            folder: PathBuf::from("/"),
            log: self.log.clone(),
            nice: LOWEST,
            tied: false,
        };
        detached.spawn()?.go()?;
        Ok(None)
    }

    fn no_room(&self) -> Result<Option<&'static str>> {
        if fs::free_space(self.cache.root())? < DISK {
            return Ok(Some("the cache's disk has no room for it"));
        }
        let mut system =
            sysinfo::System::new().context(|| "the host's memory cannot be looked at")?;
        system.refresh_memory();
        Ok((system.available_memory() < MEMORY).then_some("the host has too little free memory"))
    }

    /// Builds whatever is missing. Nothing is used before it is complete, and what is left of an
    /// earlier, broken preparation is removed.
    pub async fn build(&self, events: &Events, interrupt: &Interrupt) -> Result<FastStart> {
        let place = self.place();
        fs::create_private_folder(place.folder())?;
        let lock = place.folder().join("prepare.lock");
        let _lock = Lock::exclusive(&lock, "k1ops preparing fast starts")?;
        place.forgive()?;
        self.tidy(&place).await?;
        let work = async {
            if !place.is_extracted() {
                self.extract(&place, events).await?;
            }
            if !place.is_complete() {
                self.train(&place, events).await?;
            }
            Ok(())
        };
        let bounded = async {
            tokio::time::timeout(PATIENCE, work)
                .await
                .unwrap_or_else(|_| Err(Error::failed("preparing fast starts takes too long")))
        };
        let result = interrupt.guard(bounded).await;
        let tidied = self.tidy(&place).await;
        result.and(tidied)?;
        Ok(place)
    }

    /// The same, after another run that prepares now has ended.
    pub async fn build_after_others(&self, events: &Events, interrupt: &Interrupt) -> Result<()> {
        loop {
            match self.build(events, interrupt).await {
                Err(error) if error.kind() == ErrorKind::Locked => {
                    interrupt
                        .guard(wait_for_others(&self.place(), events))
                        .await?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    return Err(
                        error.hint("The server runs; only preparing fast starts was left off.")
                    );
                }
                done => return done.map(drop),
            }
        }
    }

    async fn extract(&self, place: &FastStart, events: &Events) -> Result<()> {
        let step = "extracting the JAR";
        events.started(step);
        let beside = place.folder().join("extracting");
        remove_folder(&beside)?;
        remove_folder(&place.app())?;
        let output = tokio::process::Command::new(&self.java.binary)
            .args(["-Djarmode=tools", "-jar"])
            .arg(&self.jar.path)
            .args(["extract", "--destination"])
            .arg(&beside)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context(|| format!("{} cannot be run", self.java.binary.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::failed("the JAR cannot be extracted").because(said));
        }
        fs::rename_durably(&beside, &place.app())?;
        place.note_extracted()?;
        events.finished(step, "");
        Ok(())
    }

    /// Runs a server on a scratch database until it is healthy, and lets it write the archive as it
    /// ends.
    async fn train(&self, place: &FastStart, events: &Events) -> Result<()> {
        let scratch = scratch(place);
        clear_folder(&scratch)?;
        let archive = scratch.join("archive");
        let port = port::any_free().ok_or_else(|| Error::missing("no port is free"))?;
        let launch = place.training(&archive);
        let runtime = Runtime {
            java: &self.java,
            launch: &launch,
            heap: &self.heap,
            temporary: &scratch,
            log: &self.log,
            // In the background it inherits the lowest priority from this process.
            nice: 0,
            tied: true,
        };
        let mut settings = properties::basics("127.0.0.1", port);
        settings.extend(properties::sqlite(&scratch.join("training.db")));
        let waiting = runtime.detached(&settings, None)?.spawn()?;
        let process = waiting.identity().clone();
        note_training(place, &process)?;
        let mut child = waiting.go()?;
        // Someone must wait for it, or it would stay as a zombie.
        let reaper = tokio::task::spawn_blocking(move || child.wait());
        self.exercise(&process, port, events).await?;
        let step = "writing the archive of loaded classes";
        events.started(step);
        end(&process, WRITING).await?;
        let _ = reaper.await;
        let written = std::fs::metadata(&archive).map_or(0, |meta| meta.len());
        if written == 0 {
            return Err(Error::failed("the training run wrote no archive")
                .hint(format!("See {}.", self.log.display())));
        }
        fs::rename_durably(&archive, &place.archive())?;
        place.note_trained(&self.java.binary)?;
        events.finished(step, "");
        Ok(())
    }

    async fn exercise(&self, process: &Identity, port: u16, events: &Events) -> Result<()> {
        let step = "training";
        let client = Client::new(format!("http://127.0.0.1:{port}"))?;
        let begun = Instant::now();
        events.started(step);
        while !health::check(&client, ANSWER).await.is_up() {
            if !process.is_alive() {
                return Err(Error::failed("the training server died")
                    .hint(format!("See {}.", self.log.display())));
            }
            events.progress(step, begun.elapsed().as_secs(), None, Unit::Seconds);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for path in EXERCISES {
            // Whatever it answers, its code was loaded.
            let _ = client.probe(path, ANSWER).await;
        }
        events.finished(step, "");
        Ok(())
    }

    /// Ends a training server that still runs, and removes what training left.
    async fn tidy(&self, place: &FastStart) -> Result<()> {
        let noted = std::fs::read(training_note(place)).ok();
        if let Some(process) = noted.and_then(|text| serde_json::from_slice::<Identity>(&text).ok())
        {
            end(&process, Duration::ZERO).await?;
        }
        remove_folder(&place.folder().join("extracting"))?;
        remove_folder(&scratch(place))
    }
}

/// A preparation, as one process asks another for it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The cache's folder.
    pub cache: PathBuf,
    /// The JAR, verified by whoever asks.
    pub jar: PathBuf,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Conductor's version.
    pub conductor: String,
    /// The `java`.
    pub java: PathBuf,
    /// The heap.
    pub heap: String,
    /// Where the training server's log goes.
    pub log: PathBuf,
}

/// Prepares what another run of k1ops asked for.
pub async fn prepare_requested(
    request: Request,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<()> {
    let needed = java::needed_by(&request.conductor);
    let preparation = Preparation {
        cache: Cache::at(request.cache),
        jar: BootJar {
            path: request.jar,
            version: request.conductor,
            sha256: request.sha256,
        },
        java: java::find(&request.java, &Places::default(), needed).await?,
        heap: request.heap,
        log: request.log,
    };
    preparation.build(events, interrupt).await.map(drop)
}

/// Waits until no other run prepares, for at most as long as one may take.
async fn wait_for_others(place: &FastStart, events: &Events) -> Result<()> {
    let lock = place.folder().join("prepare.lock");
    let deadline = Instant::now() + PATIENCE;
    let mut said = false;
    loop {
        match Lock::exclusive(&lock, "k1ops start --prepare") {
            Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                if !said {
                    events.note(format!("waiting: {error}"));
                    said = true;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            taken => return taken.map(drop),
        }
    }
}

fn scratch(place: &FastStart) -> PathBuf {
    place.folder().join("training")
}

fn training_note(place: &FastStart) -> PathBuf {
    scratch(place).join("process.json")
}

fn note_training(place: &FastStart, process: &Identity) -> Result<()> {
    let text = serde_json::to_vec(process).context(|| "a process cannot be written as JSON")?;
    fs::write_atomically(&training_note(place), &text)
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("folder {} cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}
