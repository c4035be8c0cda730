//! `k1ops wal`.

use super::Context;
use crate::adapters::postgres::replication::Replication;
use crate::error::{Context as _, Error, Result};
use crate::event::Events;
use crate::exit_code::ExitCode;
use crate::repository::{LogElsewhere, Repository};
use crate::stack::Stack;
use crate::stack::docker::Role;
use crate::wal::{self, Store, StreamOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// How often the log is sent on to a repository that is elsewhere.
const SENDING: Duration = Duration::from_secs(5);

/// How long the end of the log is given to get there.
const LAST_SENDING: Duration = Duration::from_secs(90);

/// Keep the write-ahead log of PostgreSQL in the repository
///
/// With it, a physical backup can be brought to any moment after it: `k1ops restore --to TIME`.
#[derive(Debug, clap::Args)]
pub struct WalArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Receive the log as it is written, until interrupted
    ///
    /// The server keeps for a replication slot whatever is not on disk here yet. Killed in any way,
    /// the next run goes on where this one stopped. Lost connections are made again.
    Stream(SlotArgs),
    /// Store a file that the server has done with
    ///
    /// Set `archive_command = 'k1ops --config FILE wal push %p'`.
    Push {
        /// The file, as %p names it
        path: PathBuf,
    },
    /// Give the server a file that it asks for
    ///
    /// Set `restore_command = 'k1ops --config FILE wal fetch %f %p'`.
    Fetch {
        /// The file's name, as %f gives it
        name: String,
        /// Where to put it, as %p names it
        target: PathBuf,
        /// The cluster's identifier, instead of what the data directory says that this runs in
        #[arg(long, value_name = "NUMBER")]
        system: Option<String>,
        /// The repository's folder, instead of the configured one
        #[arg(long, value_name = "FOLDER")]
        repository: Option<PathBuf>,
    },
    /// Remove the replication slot, when the log is not to be received any more
    ///
    /// A slot that nobody reads from makes the server keep its log until its disk is full.
    DropSlot(SlotArgs),
}

#[derive(Debug, clap::Args)]
struct SlotArgs {
    /// Use this replication slot instead of `k1ops_STACK`
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
}

impl WalArgs {
    /// Whether it changes more than the log itself.
    pub(super) fn changes(&self) -> bool {
        matches!(self.action, Action::DropSlot(_))
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Done<'a> {
    file: &'a str,
    #[serde(flatten)]
    more: serde_json::Value,
}

/// Does what was asked for.
pub(super) async fn run(args: &WalArgs, context: &Context) -> Result<ExitCode> {
    match &args.action {
        Action::Stream(slot) => stream(slot, context).await,
        Action::Push { path } => push(path, context),
        Action::Fetch {
            name,
            target,
            system,
            repository,
        } => {
            let (folder, elsewhere) = if let Some(folder) = repository {
                (folder.clone(), None)
            } else {
                let stack = context.stack()?;
                (stack.log_folder(), Repository::of(&stack)?.log_elsewhere()?)
            };
            let from = Kept { folder, elsewhere };
            fetch(name, target, system.as_deref(), &from, context)
        }
        Action::DropSlot(slot) => drop_slot(slot, context).await,
    }
}

async fn stream(args: &SlotArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    require_postgres(&stack)?;
    let options = StreamOptions {
        address: stack.database_as(Role::Backup)?,
        repository: stack.log_folder(),
        slot: slot(args, &stack.name),
        stack: stack.name.clone(),
    };
    let elsewhere = elsewhere(&stack, context);
    let (stop, stopped) = oneshot::channel();
    let name = options.stack.clone();
    let sending = elsewhere.map(|log| tokio::spawn(send_on(log, name, context.events(), stopped)));
    let streamed = wal::stream(&options, &context.events(), &context.interrupt).await;
    if let Some(sending) = sending {
        // Its answer is what the last attempt came to, which it has told.
        let _ = stop.send(());
        let _ = tokio::time::timeout(LAST_SENDING, sending).await;
    }
    streamed?;
    Ok(ExitCode::Done)
}

/// Where the log is sent on to. Receiving it is worth something where that cannot be.
fn elsewhere(stack: &Stack, context: &Context) -> Option<LogElsewhere> {
    let found = Repository::of(stack).and_then(|repository| repository.log_elsewhere());
    found.unwrap_or_else(|error| {
        let hint = error.hint_text().unwrap_or_default().to_owned();
        let events = context.events();
        events.warning_with_hint(format!("the log stays on this host: {error}"), hint);
        None
    })
}

/// Sends the log on until it is told to stop, and then once more.
async fn send_on(
    mut log: LogElsewhere,
    stack: String,
    events: Events,
    mut stopped: oneshot::Receiver<()>,
) {
    let place = log.place().display().to_string();
    let (mut is_behind, mut is_last) = (false, false);
    loop {
        let name = stack.clone();
        let sending = tokio::task::spawn_blocking(move || (log.send(&name), log));
        let Ok((sent, back)) = sending.await else {
            return;
        };
        log = back;
        match sent {
            Ok(_) if is_behind => {
                is_behind = false;
                events.note(format!("all of the log is in {place} again"));
            }
            Ok(_) => {}
            Err(error) if !is_behind => {
                is_behind = true;
                let hint = "It is kept here, and sent when that works again.";
                events.warning_with_hint(format!("the log cannot be sent on: {error}"), hint);
            }
            Err(error) => tracing::debug!("the log cannot be sent on: {error}"),
        }
        if is_last {
            return;
        }
        tokio::select! {
            _ = &mut stopped => is_last = true,
            () = tokio::time::sleep(SENDING) => {}
        }
    }
}

async fn drop_slot(args: &SlotArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    require_postgres(&stack)?;
    let slot = slot(args, &stack.name);
    let mut server =
        Replication::open(&stack.database_as(Role::Backup)?, &context.events()).await?;
    let there = server.slot(&slot).await?.is_some();
    if there {
        server.drop_slot(&slot).await?;
    }
    let done = Done {
        file: &slot,
        more: serde_json::json!({ "removed": there }),
    };
    context.ui.result(&done, |_, text| {
        text.push_str(&if there {
            format!("removed the replication slot {slot}\n")
        } else {
            format!("there is no replication slot {slot}\n")
        });
    })?;
    Ok(ExitCode::Done)
}

fn slot(args: &SlotArgs, stack: &str) -> String {
    let own = || wal::slot_name(stack);
    args.slot.clone().unwrap_or_else(own)
}

fn require_postgres(stack: &Stack) -> Result<()> {
    if stack.uses_database_url() {
        return Ok(());
    }
    let what = format!("stack {} keeps its data in SQLite files", stack.name);
    Err(Error::usage(what).hint("Only PostgreSQL has a write-ahead log that can be received."))
}

fn push(path: &Path, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::usage(format!("{} names no file", path.display())))?;
    let contents = std::fs::read(path).context(|| format!("{} cannot be read", path.display()))?;
    let put = wal::push(&stack.log_folder(), &stack.name, path, name, &contents)?;
    // The server forgets it when this says that it is safe.
    if let Some(mut log) = Repository::of(&stack)?.log_elsewhere()? {
        log.send(&stack.name)?;
    }
    let done = Done {
        file: name,
        more: serde_json::json!({ "stored": put }),
    };
    context.ui.result(&done, |_, _| {})?;
    Ok(ExitCode::Done)
}

/// Where the log is looked for: here, and then there.
struct Kept {
    folder: PathBuf,
    elsewhere: Option<LogElsewhere>,
}

impl Kept {
    /// A part of a segment does for as long as there is not more of it anywhere.
    fn find(&self, system: &str, name: &str, context: &Context) -> Result<Option<Vec<u8>>> {
        let store = Store::find(&self.folder, system)?;
        let Some(log) = &self.elsewhere else {
            return store.map_or(Ok(None), |store| store.fetch(name));
        };
        let whole = store.as_ref().map(|store| store.fetch_whole(name));
        if let Some(whole) = whole.transpose()?.flatten() {
            return Ok(Some(whole));
        }
        let error = match log.fetch_file(system, name) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match store.map_or(Ok(None), |store| store.fetch(name))? {
            Some(part) => {
                let said = format!("of {name} only what is here can be given: {error}");
                let hint = "Look whether the repository can be reached: more of it may be there.";
                context.events().warning_with_hint(said, hint);
                Ok(Some(part))
            }
            None => Err(error),
        }
    }
}

fn fetch(
    name: &str,
    target: &Path,
    system: Option<&str>,
    from: &Kept,
    context: &Context,
) -> Result<ExitCode> {
    let system = match system {
        Some(system) => system.to_owned(),
        None => wal::system_of(Path::new("."))?,
    };
    let contents = from.find(&system, name, context)?;
    // The server asks for what may come next, and takes this for the end of the log.
    let contents = contents.ok_or_else(|| {
        Error::missing(format!(
            "{name} of cluster {system} is not in {}",
            from.folder.display()
        ))
    })?;
    crate::adapters::fs::write_atomically(target, &contents)?;
    let done = Done {
        file: name,
        more: serde_json::json!({ "bytes": contents.len() }),
    };
    context.ui.result(&done, |_, _| {})?;
    Ok(ExitCode::Done)
}
