//! Runs the server: starts it detached, waits for honest health, stops it.

use super::boot_jar::BootJar;
use super::causes;
use super::java::Java;
use crate::adapters::postgres::Session;
use crate::adapters::process::{Detached, Identity, Signal};
use crate::adapters::{fs, log_file, port};
use crate::conductor::health::{self, Health};
use crate::conductor::{Client, properties};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::stack::state::{ServerState, StartMode, Store};
use crate::stack::{Stack, Tier};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// How often a starting server is asked; a refused connection costs next to nothing.
const POLL: Duration = Duration::from_millis(100);
/// How long one answer may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// How long a Redis by URL may take to greet.
const GREETING: Duration = Duration::from_secs(10);
/// How long a server that failed to start may take to stop.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Logs of earlier runs that are kept.
const KEPT_LOGS: u32 = 4;
/// Lines of the log that an error shows.
const SHOWN_LINES: usize = 12;
/// Lines of the log that the cause is looked for in.
const CAUSE_LINES: usize = 400;

/// The JVM's arguments in front of `-jar`, and the JAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// How the code is loaded.
    pub mode: StartMode,
    /// Further options of the JVM.
    pub options: Vec<OsString>,
    /// The JAR to run.
    pub jar: PathBuf,
}

impl Launch {
    /// The boot JAR as it is.
    #[must_use]
    pub fn plain(jar: &BootJar) -> Self {
        Self {
            mode: StartMode::Plain,
            options: Vec::new(),
            jar: jar.path.clone(),
        }
    }
}

/// What a server is to run on, apart from its store.
#[derive(Debug)]
pub struct Runtime<'a> {
    /// The Java.
    pub java: &'a Java,
    /// How to load the code.
    pub launch: &'a Launch,
    /// The heap, as for `-Xmx`.
    pub heap: &'a str,
    /// Its temporary folder, which also becomes its working folder.
    pub temporary: &'a Path,
    /// Its log.
    pub log: &'a Path,
    /// How far to lower its priority.
    pub nice: i32,
    /// Whether it ends with k1ops.
    pub tied: bool,
}

impl Runtime<'_> {
    /// The program to start. Properties and password go through the environment: a command line is
    /// visible to every user of the host.
    pub fn detached(
        &self,
        properties: &properties::Properties,
        password: Option<String>,
    ) -> Result<Detached> {
        let json = serde_json::to_string(properties)
            .context(|| "the server's properties cannot be written as JSON")?;
        // Above environment variables and configuration files, so that none of the host's can move
        // the server to another port or database.
        let mut environment = vec![("SPRING_APPLICATION_JSON".to_owned(), json)];
        if let Some(password) = password {
            environment.push(("SPRING_DATASOURCE_PASSWORD".to_owned(), password));
        }
        let mut temporary = OsString::from("-Djava.io.tmpdir=");
        temporary.push(self.temporary);
        let mut arguments = vec![
            OsString::from(format!("-Xmx{}", self.heap)),
            temporary,
            // Conductor stores times without a zone; one zone everywhere keeps them comparable.
            "-Duser.timezone=UTC".into(),
        ];
        arguments.extend(self.launch.options.iter().cloned());
        arguments.extend(["-jar".into(), self.launch.jar.clone().into()]);
        Ok(Detached {
            program: self.java.binary.clone(),
            arguments,
            environment,
            folder: self.temporary.to_path_buf(),
            log: self.log.to_path_buf(),
            nice: self.nice,
            tied: self.tied,
        })
    }
}

/// A server that was just started, and what its start made.
#[derive(Debug)]
pub struct Starting {
    /// What is remembered of it.
    pub state: ServerState,
    child: Child,
    made_database: bool,
}

/// Fails, naming the holder, if the port is taken.
pub fn check_port(wanted: u16) -> Result<()> {
    if port::is_free(wanted) {
        return Ok(());
    }
    let holder = port::owner(wanted).map_or_else(
        || "another process".to_owned(),
        |owner| format!("{} (PID {})", owner.name, owner.pid),
    );
    let error = Error::missing(format!("port {wanted} is taken by {holder}"));
    Err(match port::free_near(wanted) {
        Some(free) => error.hint(format!(
            "Port {free} is free: set `conductor = {free}` under [ports] in k1ops.toml, or \
             K1OPS_PORTS_CONDUCTOR={free}."
        )),
        None => error.hint("Set another ports.conductor."),
    })
}

/// Starts the stack's server and remembers it. The caller holds the server lock.
pub async fn start(stack: &Stack, jar: &BootJar, java: &Java, launch: &Launch) -> Result<Starting> {
    let settings = Settings::of(stack).await?;
    let temporary = stack.folder.join("run").join("tmp");
    clear_folder(&temporary)?;
    let log = stack.server_log();
    log_file::rotate(&log, KEPT_LOGS)?;
    let runtime = Runtime {
        java,
        launch,
        heap: &stack.config.server.heap,
        temporary: &temporary,
        log: &log,
        nice: 0,
        tied: false,
    };
    let waiting = runtime
        .detached(&settings.properties, settings.password)?
        .spawn()?;
    let state = ServerState {
        tier: Tier::Jar,
        process: waiting.identity().clone(),
        port: stack.config.ports.conductor,
        conductor_version: jar.version.clone(),
        jar: launch.jar.clone(),
        java_version: java.version.clone(),
        java: java.binary.clone(),
        mode: launch.mode,
        started_at: chrono::Utc::now(),
        store: settings.store,
    };
    state.write(stack)?;
    let child = waiting.go()?;
    Ok(Starting {
        state,
        child,
        made_database: settings.made_database,
    })
}

/// What the stack's configuration means for the server.
struct Settings {
    properties: properties::Properties,
    password: Option<String>,
    store: Store,
    made_database: bool,
}

impl Settings {
    async fn of(stack: &Stack) -> Result<Self> {
        let mut properties = properties::basics("127.0.0.1", stack.config.ports.conductor);
        check_redis(stack)?;
        let mut settings = if stack.uses_database_url() {
            Self::postgres(stack).await?
        } else {
            Self::sqlite(stack)?
        };
        properties.append(&mut settings.properties);
        properties.extend(own_properties(stack)?);
        settings.properties = properties;
        Ok(settings)
    }

    fn sqlite(stack: &Stack) -> Result<Self> {
        let path = std::path::absolute(stack.conductor_db())
            .context(|| "the current folder cannot be read")?;
        if path.to_string_lossy().contains('?') {
            return Err(Error::usage(format!(
                "{} cannot hold the database: its name has a question mark",
                path.display()
            ))
            .hint("Move the stack to a folder whose name has none."));
        }
        fs::create_private_folder(fs::folder_of(&path))?;
        Ok(Self {
            properties: properties::sqlite(&path),
            password: None,
            made_database: !path.exists(),
            store: Store::Sqlite { path },
        })
    }

    async fn postgres(stack: &Stack) -> Result<Self> {
        let address = stack.database_address()?;
        // A wrong address or password is told at once, not after half a minute of the JVM's.
        drop(Session::open(&address).await?);
        let mut url = address.jdbc_url();
        for (name, value) in address.libpq_environment() {
            match name {
                "PGSSLMODE" => url.push_str(&format!("?sslmode={value}")),
                "PGSSLROOTCERT" => url.push_str(&format!("&sslrootcert={value}")),
                _ => {}
            }
        }
        let mut properties = properties::postgres(&url, address.user());
        if let Some(redis) = stack.redis_address()? {
            redis.greet(GREETING).await?;
            let lock = properties::lock_in_redis(&redis.server(), redis.user(), redis.password());
            properties.extend(lock);
            let several = properties::ONE_OF_SEVERAL;
            properties.extend(several.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        Ok(Self {
            properties,
            password: address.password(),
            store: Store::Postgres {
                url: address.shown().to_owned(),
            },
            made_database: false,
        })
    }
}

/// Fails if a Redis is named where there is nothing to share.
fn check_redis(stack: &Stack) -> Result<()> {
    if stack.config.redis.url.is_empty() || stack.uses_database_url() {
        return Ok(());
    }
    Err(
        Error::usage("redis.url is set, and the stack's SQLite database is for one server").hint(
            "Set database.url to the PostgreSQL that the servers share, or remove redis.url.",
        ),
    )
}

/// The user's further properties. What k1ops itself must know has its own key, and is refused here
/// rather than overridden in silence.
fn own_properties(stack: &Stack) -> Result<properties::Properties> {
    let keys = [
        ("server.port", "ports.conductor"),
        ("spring.datasource.url", "database.url"),
        ("spring.datasource.username", "database.url"),
        ("spring.datasource.password", "database.password_file"),
    ];
    let own = &stack.config.server.properties;
    match keys
        .iter()
        .find(|(property, _)| own.contains_key(*property))
    {
        Some((property, key)) => Err(Error::usage(format!(
            "`{property}` cannot be set in server.properties"
        ))
        .hint(format!("Set `{key}` instead."))),
        None => Ok(own.clone()),
    }
}

impl Starting {
    /// Waits for honest health. Fails at once when the process dies, and after `timeout` anyway.
    pub async fn wait(
        &mut self,
        timeout: Duration,
        log: &Path,
        events: &Events,
    ) -> Result<(), Failure> {
        let client = Client::new(self.state.url())?;
        let step = "waiting for the server";
        let begun = Instant::now();
        events.started(step);
        loop {
            let health = health::check(&client, ANSWER).await;
            if health.is_up() {
                events.finished(
                    step,
                    format!("healthy after {:.1} s", begun.elapsed().as_secs_f64()),
                );
                return Ok(());
            }
            if let Some(status) = self.ended() {
                return Err(died(&status, log));
            }
            if begun.elapsed() >= timeout {
                return Err(not_healthy(timeout, &health, log).into());
            }
            events.progress(
                step,
                begun.elapsed().as_secs(),
                Some(timeout.as_secs()),
                Unit::Seconds,
            );
            tokio::time::sleep(POLL).await;
        }
    }

    fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(status.to_string()),
            _ => None,
        }
    }

    /// Puts everything back as it was before the start.
    pub async fn undo(mut self, stack: &Stack) -> Result<()> {
        let process = self.state.process.clone();
        // The child is ours: unless somebody waits for it, it stays as a zombie.
        let reaper = tokio::task::spawn_blocking(move || self.child.wait());
        end(&process, GIVE_UP).await?;
        let _ = reaper.await;
        ServerState::forget(stack)?;
        clear_folder(&stack.folder.join("run").join("tmp"))?;
        if self.made_database
            && let Store::Sqlite { path } = &self.state.store
        {
            remove_database(path)?;
        }
        Ok(())
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// By itself, when asked to.
    Graceful,
    /// By force, since it did not within its time.
    Killed,
}

/// Ends a process: asks, waits `timeout`, then kills.
pub async fn end(process: &Identity, timeout: Duration) -> Result<Ending> {
    if !process.signal(Signal::TERM)? || process.ended_within(timeout).await {
        return Ok(Ending::Graceful);
    }
    process.signal(Signal::KILL)?;
    // Nothing survives SIGKILL but a process that waits for a broken disk.
    if process.ended_within(Duration::from_secs(30)).await {
        return Ok(Ending::Killed);
    }
    Err(Error::failed(format!(
        "process {} does not end, not even when killed",
        process.pid
    ))
    .hint("It waits for the kernel, most likely for a disk; look at the kernel's log."))
}

/// Removes an `SQLite` database with its companions.
fn remove_database(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        fs::remove_if_there(Path::new(&file))?;
    }
    Ok(())
}

/// Makes a folder empty; what servers leave in their temporary folder is of no use to the next.
pub(crate) fn clear_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("folder {} cannot be emptied", folder.display()))
        }
        _ => fs::create_private_folder(folder),
    }
}

/// Why a server did not come up.
#[derive(Debug)]
pub struct Failure {
    /// The error.
    pub error: Error,
    /// Whether it may be the fault of how the code was loaded.
    pub blames_code: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            blames_code: false,
        }
    }
}

fn died(status: &str, log: &Path) -> Failure {
    let text = log_file::last_lines(log, CAUSE_LINES).unwrap_or_default();
    Failure {
        error: explain(format!("the server died while it started ({status})"), log),
        blames_code: causes::likely(&text).is_none_or(|cause| cause.in_code),
    }
}

fn not_healthy(timeout: Duration, health: &Health, log: &Path) -> Error {
    let reason = health.reason().unwrap_or("it is healthy now");
    let error = explain(
        format!(
            "the server was not healthy within {} s: {reason}",
            timeout.as_secs()
        ),
        log,
    );
    if error.kind() == ErrorKind::Failed {
        return error.hint(format!(
            "Give it more time with --health-timeout or server.health_timeout; its log is {}.",
            log.display()
        ));
    }
    error
}

/// An error with the likely cause and the last lines of the log.
fn explain(what: String, log: &Path) -> Error {
    let text = log_file::last_lines(log, CAUSE_LINES).unwrap_or_default();
    let shown = log_file::last_lines(log, SHOWN_LINES).unwrap_or_default();
    let cause = causes::likely(&text);
    let (kind, message, hint) = match cause {
        Some(cause) => (
            cause.kind,
            format!("{what}: {}", cause.what),
            cause.hint.to_owned(),
        ),
        None => (
            ErrorKind::Failed,
            what,
            format!("Its log is {}.", log.display()),
        ),
    };
    let shown = if shown.trim().is_empty() {
        format!("{} is empty", log.display())
    } else {
        format!("the last lines of {}:\n{}", log.display(), shown.trim_end())
    };
    Error::new(kind, message).because(shown).hint(hint)
}
