//! What a program said last on its standard error, read while it runs: a pipe that nobody reads is full at
//! some time, and the program waits for ever. What it says means nothing here.

use std::io::Read;
use std::process::ChildStderr;
use std::thread::JoinHandle;
use tokio::io::AsyncReadExt;

/// As much of it is kept.
const KEPT: usize = 4 << 10;

/// As much is read at a time.
const PIECE: usize = 4 << 10;

/// The last words of a program of the standard library.
#[derive(Debug)]
pub struct LastWords(JoinHandle<Vec<u8>>);

impl LastWords {
    /// Listens until the pipe is closed.
    pub fn of(mut errors: ChildStderr) -> std::io::Result<Self> {
        let listen = move || {
            let (mut said, mut piece) = (Vec::new(), [0; PIECE]);
            while let Ok(length @ 1..) = errors.read(&mut piece) {
                keep(&mut said, &piece[..length]);
            }
            said
        };
        let thread = std::thread::Builder::new().name("last-words".to_owned());
        thread.spawn(listen).map(Self)
    }

    /// What it said last, when it has closed the pipe.
    #[must_use]
    pub fn heard(self) -> String {
        text(&self.0.join().unwrap_or_default())
    }
}

/// The last words of a program that is waited for by tasks.
#[derive(Debug)]
pub struct LastWordsAsync(tokio::task::JoinHandle<Vec<u8>>);

impl LastWordsAsync {
    /// Listens until the pipe is closed.
    #[must_use]
    pub fn of(mut errors: tokio::process::ChildStderr) -> Self {
        Self(tokio::spawn(async move {
            let (mut said, mut piece) = (Vec::new(), [0; PIECE]);
            while let Ok(length @ 1..) = errors.read(&mut piece).await {
                keep(&mut said, &piece[..length]);
            }
            said
        }))
    }

    /// What it said last, when it has closed the pipe.
    pub async fn heard(self) -> String {
        text(&self.0.await.unwrap_or_default())
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    said.drain(..said.len().saturating_sub(KEPT));
}

fn text(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim().to_owned()
}
