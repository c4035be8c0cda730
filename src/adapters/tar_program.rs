//! GNU tar, where a folder of this host is to be read or written whole: it keeps what Docker's
//! archive API drops, extended attributes, ACLs and the holes of sparse files.

use crate::adapters::last_words::LastWordsAsync;
use crate::error::{Context, Error, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// What both directions keep.
const KEEP: [&str; 4] = [
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--numeric-owner",
];

/// Whether this host has it. Other programs of that name know other options.
pub async fn is_here() -> bool {
    let asked = Command::new("tar")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    asked
        .await
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("GNU tar"))
}

/// Everything in `folder`, `./` first and then by name.
pub fn read(folder: &Path) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
    let child = Command::new("tar")
        .args(["--create", "--file=-", "--format=posix", "--sparse"])
        // Times of reading differ from one reading to the next.
        .arg("--pax-option=delete=atime,delete=ctime")
        .args(["--sort=name", "--warning=no-file-ignored"])
        .args(KEEP)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let shown = folder.display().to_string();
    let child = child.context(|| format!("tar cannot be run to read {shown}"))?;
    Ok(futures_util::stream::unfold(
        Some(Tar::of(child)),
        move |tar| {
            let shown = shown.clone();
            async move {
                let mut tar = tar?;
                match piece(&mut tar.child).await {
                    Ok(piece) if !piece.is_empty() => Some((Ok(piece), Some(tar))),
                    Ok(_) => match tar.ended(&format!("{shown} cannot be read")).await {
                        // 1 says that a file changed while it was read.
                        Ok(0 | 1) => None,
                        Ok(code) => {
                            Some((Err(Error::failed(format!("tar ended with {code}"))), None))
                        }
                        Err(error) => Some((Err(error), None)),
                    },
                    Err(error) => Some((Err(error), None)),
                }
            }
        },
    ))
}

async fn piece(child: &mut Child) -> Result<Bytes> {
    let Some(output) = &mut child.stdout else {
        return Ok(Bytes::new());
    };
    let mut piece = bytes::BytesMut::with_capacity(PIECE);
    output
        .read_buf(&mut piece)
        .await
        .context(|| "what tar says cannot be read")?;
    Ok(piece.freeze())
}

/// Unpacks `tar` into `folder`, which must be empty: nothing in it may lead elsewhere.
pub async fn write(
    folder: &Path,
    tar: impl Stream<Item = std::io::Result<Bytes>> + Send,
) -> Result<()> {
    let cannot = format!("{} cannot be filled", folder.display());
    let mut child = Command::new("tar")
        .args([
            "--extract",
            "--file=-",
            "--same-owner",
            "--same-permissions",
        ])
        .args(KEEP)
        .arg("--directory")
        .arg(folder)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context(|| "tar cannot be run")?;
    let mut input = child.stdin.take();
    let program = Tar::of(child);
    let mut tar = std::pin::pin!(tar);
    while let Some(piece) = tar.next().await {
        let piece = piece.context(|| cannot.clone())?;
        if let Some(pipe) = &mut input
            && pipe.write_all(&piece).await.is_err()
        {
            // It says why below.
            break;
        }
    }
    drop(input);
    match program.ended(&cannot).await? {
        0 => Ok(()),
        code => Err(Error::failed(cannot).because(Error::failed(format!("tar ended with {code}")))),
    }
}

/// It runs, and somebody listens to it.
struct Tar {
    child: Child,
    said: Option<LastWordsAsync>,
}

impl Tar {
    fn of(mut child: Child) -> Self {
        let said = child.stderr.take().map(LastWordsAsync::of);
        Self { child, said }
    }

    /// Its exit code, if that is 0 or 1; otherwise what it said last.
    async fn ended(mut self, cannot: &str) -> Result<i32> {
        let status = self.child.wait().await;
        let status = status.context(|| "tar cannot be waited for")?;
        let code = status.code().unwrap_or(-1);
        if matches!(code, 0 | 1) {
            return Ok(code);
        }
        let said = match self.said.take() {
            Some(said) => said.heard().await,
            None => String::new(),
        };
        let last = said.lines().next_back().unwrap_or("it was killed");
        Err(Error::failed(cannot).because(Error::failed(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn as_input(
        tar: impl Stream<Item = Result<Bytes>> + Send,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
        tar.map(|piece| piece.map_err(std::io::Error::other))
    }

    /// Of each file it says that its time is in the future: together more than a pipe holds.
    #[tokio::test]
    async fn however_much_it_says_it_comes_to_its_end() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let in_2040 = SystemTime::UNIX_EPOCH + Duration::from_secs(70 * 365 * 86400);
        for number in 0..3000 {
            let file = std::fs::File::create(from.path().join(number.to_string())).unwrap();
            file.set_modified(in_2040).unwrap();
        }
        let filled = write(to.path(), as_input(read(from.path()).unwrap()));
        let filled = tokio::time::timeout(Duration::from_secs(60), filled).await;
        filled.expect("tar waits for ever").unwrap();
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 3000);
    }

    #[tokio::test]
    async fn what_it_says_last_is_why_it_failed() {
        let to = tempfile::tempdir().unwrap();
        let no_tar = futures_util::stream::iter([Ok(Bytes::from(vec![b'x'; 10_240]))]);
        let error = write(to.path(), no_tar).await.unwrap_err();
        let why = error.causes().pop().unwrap_or_default();
        assert!(why.starts_with("tar: "), "{error:?}");
    }
}
