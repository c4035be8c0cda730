//! Log files: their last lines, what is appended to them, and room for new ones.

use crate::error::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As much of a log's end as is ever looked at.
const TAIL: u64 = 4 << 20;

/// The last `lines` lines; a log that is not there is empty.
pub fn last_lines(path: &Path, lines: usize) -> Result<String> {
    let cannot = || format!("log {} cannot be read", path.display());
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e).context(cannot),
    };
    let length = file.metadata().context(cannot)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .context(cannot)?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).context(cannot)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    Ok(all[all.len().saturating_sub(lines)..].concat())
}

/// Moves a log out of the way of a new one: `x.log` becomes `x.log.1`, and so on up to `kept`.
pub fn rotate(path: &Path, kept: u32) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let numbered = |n: u32| -> PathBuf {
        if n == 0 {
            return path.to_path_buf();
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        name.into()
    };
    for n in (0..kept).rev() {
        let (from, to) = (numbered(n), numbered(n + 1));
        if from.exists() {
            std::fs::rename(&from, &to)
                .context(|| format!("log {} cannot be renamed", from.display()))?;
        }
    }
    Ok(())
}

/// Reads what is appended to a log, also after it was rotated.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl Follower {
    /// Follows from the present end on.
    pub fn at_end(path: &Path) -> Result<Self> {
        let mut follower = Self {
            path: path.to_path_buf(),
            open: None,
        };
        follower.reopen()?;
        if let Some((file, _)) = &mut follower.open {
            file.seek(SeekFrom::End(0))
                .context(|| format!("log {} cannot be read", path.display()))?;
        }
        Ok(follower)
    }

    /// What was appended since the last call.
    pub fn read(&mut self) -> Result<String> {
        let cannot = || format!("log {} cannot be read", self.path.display());
        let mut bytes = Vec::new();
        if let Some((file, _)) = &mut self.open {
            file.read_to_end(&mut bytes).context(cannot)?;
        }
        let now = std::fs::metadata(&self.path).ok().map(|meta| meta.ino());
        if now != self.open.as_ref().map(|(_, inode)| *inode) {
            self.reopen()?;
            if let Some((file, _)) = &mut self.open {
                file.read_to_end(&mut bytes)
                    .context(|| format!("log {} cannot be read", self.path.display()))?;
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn reopen(&mut self) -> Result<()> {
        self.open = match File::open(&self.path) {
            Ok(file) => {
                let inode = file
                    .metadata()
                    .context(|| format!("log {} cannot be read", self.path.display()))?
                    .ino();
                Some((file, inode))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                return Err(e).context(|| format!("log {} cannot be read", self.path.display()));
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_and_a_missing_log_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        assert_eq!(last_lines(&path, 2).unwrap(), "");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(&path, 2).unwrap(), "two\nthree\n");
        assert_eq!(last_lines(&path, 9).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_follower_goes_on_through_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        std::fs::write(&path, "old\n").unwrap();
        let mut follower = Follower::at_end(&path).unwrap();
        assert_eq!(follower.read().unwrap(), "");
        let mut file = File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"new\n").unwrap();
        assert_eq!(follower.read().unwrap(), "new\n");
        rotate(&path, 2).unwrap();
        assert_eq!(follower.read().unwrap(), "");
        std::fs::write(&path, "next run\n").unwrap();
        assert_eq!(follower.read().unwrap(), "next run\n");
        rotate(&path, 2).unwrap();
        std::fs::write(&path, "3").unwrap();
        rotate(&path, 2).unwrap();
        assert_eq!(
            last_lines(&folder.path().join("x.log.2"), 1).unwrap(),
            "next run\n"
        );
        assert!(!folder.path().join("x.log.3").exists());
    }
}
