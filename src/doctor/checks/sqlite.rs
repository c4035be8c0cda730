//! The `SQLite` files of tiers 2 and 3 are whole and can be written to.

use super::{at_files, size_of, word};
use crate::adapters::sqlite;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::ErrorKind;
use rustix::fs::Access;
use std::path::Path;
use std::sync::Arc;

/// A larger database takes too long to be read whole.
const READ_WHOLE: u64 = 64 << 20;

pub(super) struct Sqlite;

impl Check for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, |patient| Ok(look(patient)))
    }
}

fn look(patient: &Patient) -> Examined {
    if patient.stack.uses_database_url() {
        return Examined::skipped("this stack keeps its data in PostgreSQL");
    }
    let files = [patient.stack.conductor_db(), patient.stack.k1_db()];
    let there: Vec<_> = files.iter().filter(|file| file.exists()).collect();
    if there.is_empty() {
        return Examined::skipped("there is no database yet");
    }
    let mut examined = Examined::default();
    for file in there {
        let size = std::fs::metadata(file).map_or(0, |meta| meta.len());
        match wrong(file, size) {
            Some(reason) => examined.find(
                Finding::problem(
                    ErrorKind::BadData,
                    format!("database {} is damaged", file.display()),
                )
                .seen(reason)
                .because("the file was cut off, overwritten, or copied while it was written to")
                .advise("Restore the last good backup; the damaged file is kept for undo.")
                .remedy("k1ops stop")
                .remedy("k1ops restore latest --no-safety"),
            ),
            None if rustix::fs::access(file, Access::WRITE_OK).is_err() => examined.find(
                Finding::problem(
                    ErrorKind::Missing,
                    format!("database {} cannot be written to", file.display()),
                )
                .because("it belongs to another user, perhaps since k1ops was once run as root")
                .remedy(format!(
                    "sudo chown -R $(id -un) {}",
                    word(&patient.stack.folder)
                )),
            ),
            None => examined.say(format!("{} ({})", file.display(), size_of(size))),
        }
    }
    examined
}

/// What `SQLite` itself says is wrong.
fn wrong(file: &Path, size: u64) -> Option<String> {
    let asked = sqlite::open_read_only(file).map_err(|error| {
        let causes = error.causes().join("; ");
        format!("{error}: {causes}")
    });
    let connection = match asked {
        Ok(connection) => connection,
        Err(reason) => return Some(reason),
    };
    let question = if size <= READ_WHOLE {
        "PRAGMA quick_check(1)"
    } else {
        // The pages that everything else hangs on.
        "SELECT CASE WHEN count(*) >= 0 THEN 'ok' END FROM sqlite_master"
    };
    match connection.query_row(question, [], |row| row.get::<_, String>(0)) {
        Ok(said) if said == "ok" => None,
        Ok(said) => Some(said),
        // A database that is being written to by somebody who holds it whole is not damaged.
        Err(error) if sqlite::kind_of(&error) == ErrorKind::Locked => None,
        Err(error) => Some(error.to_string()),
    }
}
