//! Where tablespaces go. They lie outside the data directory, so nobody but the user can say.

use super::Options;
use crate::archive::{Archive, PhysicalSource};
use crate::error::{Context, Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The folder of each archive of `source` by the archive's name.
pub(super) fn targets(
    archive: &Archive,
    source: &PhysicalSource,
    place: &Path,
    options: &Options,
) -> Result<HashMap<String, PathBuf>> {
    let place = absolute(place)?;
    let mut targets = HashMap::new();
    for of in &source.archives {
        let target = match &of.location {
            None => place.clone(),
            Some(location) => {
                let target = options.tablespaces.get(location).ok_or_else(|| {
                    Error::refused(format!(
                        "the backup has a tablespace at {location}, outside of its data directory"
                    ))
                    .hint("Say which empty folder it gets; every tablespace needs one.")
                })?;
                absolute(target)?
            }
        };
        // The server's own list of tablespaces is a line each.
        if target
            .to_str()
            .is_none_or(|t| t.contains(['\n', '\r', '\\']))
        {
            return Err(
                Error::usage(format!("{} cannot hold a tablespace", target.display()))
                    .hint("Use a path in UTF-8 without backslashes and line breaks."),
            );
        }
        let nested = |other: &PathBuf| other.starts_with(&target) || target.starts_with(other);
        if targets.values().any(nested) {
            return Err(Error::usage(format!(
                "{} and another folder of the restore lie in each other",
                target.display()
            ))
            .hint("Give the data directory and each tablespace a folder of its own."));
        }
        targets.insert(of.name.clone(), target);
    }
    if !targets.contains_key(PhysicalSource::BASE) {
        return Err(archive.bad("is damaged: it has no data directory"));
    }
    Ok(targets)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("{} is no path", path.display()))
}

/// The list that the server makes its links from when it starts on the backup.
pub(super) fn map(targets: &HashMap<String, PathBuf>) -> String {
    let mut lines: Vec<String> = targets
        .iter()
        .filter(|(name, _)| *name != PhysicalSource::BASE)
        .map(|(name, target)| format!("{name} {}\n", target.display()))
        .collect();
    lines.sort();
    lines.concat()
}
