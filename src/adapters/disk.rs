//! File systems: how much is on them, and whether they can be written to.

use crate::error::{Context, Result};
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file system that holds a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// What tells it from every other.
    pub device: u64,
    /// The nearest folder on it that is there.
    pub path: PathBuf,
    /// Bytes in all.
    pub total: u64,
    /// Bytes that a user without privileges may still write.
    pub free: u64,
    /// Files it can hold; 0 where it has no such limit.
    pub inodes: u64,
    /// Files that can still be made.
    pub inodes_free: u64,
    /// Nothing can be written.
    pub read_only: bool,
}

impl FileSystem {
    /// The one that holds `path`, or would if it were there.
    pub fn of(path: &Path) -> Result<Self> {
        let there = path
            .ancestors()
            .find(|p| p.exists())
            .unwrap_or(Path::new("/"));
        let cannot = || format!("the file system of {} cannot be read", there.display());
        let stat = statvfs(there).context(cannot)?;
        Ok(Self {
            device: std::fs::metadata(there).context(cannot)?.dev(),
            path: there.to_path_buf(),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_favail,
            read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }

    /// Percent of the bytes that are free.
    #[must_use]
    pub fn percent_free(&self) -> u64 {
        percent(self.free, self.total)
    }

    /// Percent of the files that can still be made; 100 where there is no limit.
    #[must_use]
    pub fn percent_inodes_free(&self) -> u64 {
        percent(self.inodes_free, self.inodes)
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(100)
}

/// Whether this user may make files in `folder`.
#[must_use]
pub fn may_write(folder: &Path) -> bool {
    rustix::fs::access(
        folder,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .is_ok()
}
