//! `k1ops wal`.

use super::Context;
use crate::adapters::postgres::replication::Replication;
use crate::error::{Context as _, Error, Result};
use crate::exit_code::ExitCode;
use crate::wal::{self, Store, StreamOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};

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
            let repository = match repository {
                Some(folder) => folder.clone(),
                None => context.stack()?.repository(),
            };
            fetch(name, target, system.as_deref(), &repository, context)
        }
        Action::DropSlot(slot) => drop_slot(slot, context).await,
    }
}

async fn stream(args: &SlotArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    require_postgres(&stack)?;
    let options = StreamOptions {
        address: stack.database_address()?,
        repository: stack.repository(),
        slot: slot(args, &stack.name),
        stack: stack.name,
    };
    wal::stream(&options, &context.events(), &context.interrupt).await?;
    Ok(ExitCode::Done)
}

async fn drop_slot(args: &SlotArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    require_postgres(&stack)?;
    let slot = slot(args, &stack.name);
    let mut server = Replication::open(&stack.database_address()?, &context.events()).await?;
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

fn require_postgres(stack: &crate::stack::Stack) -> Result<()> {
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
    let put = wal::push(&stack.repository(), &stack.name, path, name, &contents)?;
    let done = Done {
        file: name,
        more: serde_json::json!({ "stored": put }),
    };
    context.ui.result(&done, |_, _| {})?;
    Ok(ExitCode::Done)
}

fn fetch(
    name: &str,
    target: &Path,
    system: Option<&str>,
    repository: &Path,
    context: &Context,
) -> Result<ExitCode> {
    let system = match system {
        Some(system) => system.to_owned(),
        None => wal::system_of(Path::new("."))?,
    };
    let store = Store::find(repository, &system)?;
    let contents = store.map(|store| store.fetch(name)).transpose()?.flatten();
    // The server asks for what may come next, and takes this for the end of the log.
    let contents = contents.ok_or_else(|| {
        Error::missing(format!(
            "{name} of cluster {system} is not in {}",
            repository.display()
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
