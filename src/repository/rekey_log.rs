//! The write-ahead log that lies beside archives elsewhere, encrypted anew like these: whoever has only the old
//! key is to read nothing more, and whoever has only the new one everything.

use super::log_elsewhere::{SEALED, folder_of};
use super::{Entry, Repository};
use crate::archive::{Seal, is_sealed};
use crate::error::{Context, ErrorKind, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use crate::wal::Store;
use std::collections::BTreeSet;

impl Repository {
    /// The files of the log of `stack`, of which `entries` are the archives, that are not encrypted for the configured
    /// keys, below the repository's place.
    pub(super) fn log_for_others(
        &self,
        stack: &str,
        entries: &[Entry],
        recipients: &[String],
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if !self.is_elsewhere() || self.sealing.seals_by_passphrase() {
            return Ok(found);
        }
        for system in self.systems_of(stack, entries)? {
            let folder = folder_of(&system);
            for name in self.shelf.files(&folder)? {
                let name = format!("{folder}/{name}");
                if !self.is_for(&name, recipients)? {
                    found.push(name);
                }
            }
        }
        Ok(found)
    }

    /// The clusters whose log may be there: those of which there are backups, and those received on this host.
    fn systems_of(&self, stack: &str, entries: &[Entry]) -> Result<BTreeSet<String>> {
        let bases = entries.iter().flat_map(|entry| &entry.bases);
        let mut systems: BTreeSet<String> =
            bases.map(|base| base.system_identifier.clone()).collect();
        let stores = Store::all(self.log_folder(), Some(stack))?;
        systems.extend(stores.iter().map(|store| store.system().to_owned()));
        Ok(systems)
    }

    fn is_for(&self, name: &str, recipients: &[String]) -> Result<bool> {
        let (bytes, size) = self.shelf.open(name)?;
        let cannot = || format!("{} cannot be read", self.place().join(name).display());
        if !is_sealed(&*bytes, size).context(cannot)? {
            return Ok(false);
        }
        Ok(Seal::of(&bytes, size)?.recipients == recipients)
    }

    /// Encrypts these files anew; answers how many no key here opens. Each is there in one form or the other at
    /// every moment.
    pub(super) fn rekey_log(
        &self,
        names: &[String],
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<u64> {
        let mut left = 0;
        if names.is_empty() {
            return Ok(left);
        }
        let (step, total) = ("encrypting the write-ahead log", names.len() as u64);
        events.started(step);
        for (done, name) in (0..).zip(names) {
            interrupt.check()?;
            events.progress(step, done, Some(total), Unit::Items);
            let (bytes, size) = self.shelf.open(name)?;
            let content = match self.sealing.unseal(&self.place().join(name), bytes, size) {
                Err(error) if error.kind() == ErrorKind::Missing => {
                    left += 1;
                    continue;
                }
                other => other?,
            };
            let sealed = self.sealing.seal(&content)?;
            if name.ends_with(SEALED) {
                self.shelf.write_note(name, &sealed)?;
            } else {
                self.shelf.write_note(&format!("{name}{SEALED}"), &sealed)?;
                self.shelf.remove_note(name)?;
            }
        }
        events.finished(step, format!("{} files", total - left));
        Ok(left)
    }
}
