//! A folder on an SFTP server (protocol version 3, as OpenSSH speaks it), as the object store that the rest of this
//! module stands on.
//!
//! As on a `WebDAV` server, a file is sent beside its place and moved there. A name that must be free is taken by a
//! hard link, which fails where something is; one that is replaced, by a rename that replaces. A file has no tag:
//! size and time stand for one, and that a note is still the one that was seen is looked at just before.

use super::ssh::{Target, generic};
use super::streams::{Streams, folders_above};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use object_store::path::Path as Key;
use object_store::{
    Attributes, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta,
    PutMode, PutPayload, Result,
};
use openssh_sftp_client::error::SftpErrorKind;
use openssh_sftp_client::file::{File, TokioCompatFile};
use openssh_sftp_client::metadata::MetaData;
use openssh_sftp_client::{Error as Failure, Sftp as Session};
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;

/// What it is called in errors.
pub(super) const STORE: &str = "SFTP";

/// How long a server may take for one thing. `ssh` notices a host that is gone, and not a server there that does
/// nothing any more.
const LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 120 });

/// How long it may take for what it was sent to be on its disk: all that is under way, over a slow line.
const TO_DISK: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 900 });

/// For what limits each of its steps: nobody knows how long all of a large file takes.
const STEPWISE: Duration = Duration::MAX;

/// How much is asked for at a time, of what is under way at once.
const READ: u64 = 64 << 10;

/// How much is written at a time.
const WRITE: usize = 64 << 10;

/// Reads under way at the same time.
const UNDER_WAY: usize = 32;

/// An SFTP server. Cheap to clone; connected with the first question, and again when that was cut.
#[derive(Debug, Clone)]
pub(super) struct Sftp {
    target: Target,
    /// Where keys begin: `/`, or empty for the folder of the user.
    root: &'static str,
    live: Arc<Mutex<Option<Arc<Session>>>>,
}

impl Sftp {
    /// The server that `target` names. Nothing is asked of it yet.
    pub(super) fn new(target: Target, root: &'static str) -> Self {
        Self {
            target,
            root,
            live: Arc::default(),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        PathBuf::from(format!("{}{key}", self.root))
    }

    async fn session(&self) -> Result<Arc<Session>> {
        let mut live = self.live.lock().await;
        if let Some(session) = &*live {
            return Ok(session.clone());
        }
        let session = Arc::new(self.target.connect().await?);
        *live = Some(session.clone());
        Ok(session)
    }

    /// The connection was cut: the next question makes another.
    async fn forget(&self, session: &Arc<Session>) {
        let mut live = self.live.lock().await;
        if live.as_ref().is_some_and(|of| Arc::ptr_eq(of, session)) {
            *live = None;
        }
    }

    /// Asks something once.
    async fn ask<T, F>(
        &self,
        key: &Key,
        limit: Duration,
        question: impl FnOnce(Arc<Session>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        let session = self.session().await?;
        let answer = within(limit, question(session.clone())).await;
        if answer.as_ref().is_err_and(was_cut) {
            self.forget(&session).await;
        }
        answer.map_err(|error| explained(key, error))
    }

    /// Asks something that may be asked again: once more over a new connection, if the old one was cut.
    async fn ask_again<T, F>(
        &self,
        key: &Key,
        limit: Duration,
        question: impl Fn(Arc<Session>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        let session = self.session().await?;
        match within(limit, question(session.clone())).await {
            Err(error) if was_cut(&error) => {
                self.forget(&session).await;
                self.ask(key, limit, question).await
            }
            answer => answer.map_err(|error| explained(key, error)),
        }
    }
}

#[async_trait]
impl Streams for Sftp {
    async fn make_folder(&self, key: &Key) -> Result<()> {
        for folder in folders_above(key) {
            let path = self.path(&folder);
            let made = self.ask_again(&folder, LIMIT, |session| {
                let path = path.clone();
                async move {
                    let mut files = session.fs();
                    match files.metadata(&path).await {
                        Ok(_) => Ok(()),
                        // Another may have made it meanwhile.
                        Err(_) => match files.create_dir(&path).await {
                            Err(error) if files.metadata(&path).await.is_err() => Err(error),
                            _ => Ok(()),
                        },
                    }
                }
            });
            made.await?;
        }
        Ok(())
    }

    async fn send_stream(&self, key: &Key, pieces: BoxStream<'static, Bytes>) -> Result<()> {
        let path = self.path(key);
        let send = async move |session: Arc<Session>| {
            let mut pieces = pieces;
            let mut options = session.options();
            let options = options.write(true).create(true).truncate(true);
            let file = within(LIMIT, options.open(&path)).await?;
            let mut file = Box::pin(TokioCompatFile::new(file));
            while let Some(piece) = pieces.next().await {
                for part in piece.chunks(WRITE) {
                    within(LIMIT, file.write_all(part)).await?;
                }
            }
            within(TO_DISK, file.flush()).await?;
            if session.support_fsync() {
                within(TO_DISK, file.as_mut().as_mut_file().sync_all()).await?;
            }
            within(LIMIT, file.shutdown()).await?;
            Ok(())
        };
        self.ask(key, STEPWISE, send).await
    }

    async fn put_in_place(&self, from: &Key, to: &Key, mode: &PutMode) -> Result<()> {
        let (source, place) = (self.path(from), self.path(to));
        let must_be_free = *mode == PutMode::Create;
        let put = async |session: Arc<Session>| {
            let mut files = session.fs();
            if !must_be_free {
                return files.rename(&source, &place).await.map(|()| true);
            }
            if files.metadata(&place).await.is_ok() {
                return Ok(false);
            }
            if !session.support_hardlink() {
                return files.rename(&source, &place).await.map(|()| true);
            }
            match files.hard_link(&source, &place).await {
                Ok(()) => files.remove_file(&source).await.map(|()| true),
                // Whoever came first has it; a file system without hard links has nobody there.
                Err(error) => match files.metadata(&place).await {
                    Ok(_) => Ok(false),
                    Err(_) if matches!(error, Failure::SftpError(..)) => {
                        files.rename(&source, &place).await.map(|()| true)
                    }
                    Err(_) => Err(error),
                },
            }
        };
        if self.ask(to, LIMIT, put).await? {
            return Ok(());
        }
        Err(Error::AlreadyExists {
            path: to.to_string(),
            source: "another has this name".into(),
        })
    }

    async fn send_small(&self, key: &Key, payload: &PutPayload) -> Result<()> {
        let pieces: Vec<Bytes> = payload.iter().cloned().collect();
        self.send_stream(key, futures_util::stream::iter(pieces).boxed())
            .await
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        self.ask_again(key, LIMIT, |session| {
            let path = path.clone();
            async move { session.fs().remove_file(&path).await }
        })
        .await
    }

    async fn look(&self, key: &Key) -> Result<ObjectMeta> {
        let path = self.path(key);
        let found = self
            .ask_again(key, LIMIT, |session| {
                let path = path.clone();
                async move { session.fs().metadata(&path).await }
            })
            .await?;
        match meta(key.clone(), &found) {
            Some(meta) => Ok(meta),
            None => Err(Error::NotFound {
                path: key.to_string(),
                source: "it is no file".into(),
            }),
        }
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<GetResult> {
        let found = self.look(key).await?;
        options.check_preconditions(&found)?;
        let range = asked_for(options.range.as_ref(), found.size);
        let bytes = if options.head || range.is_empty() {
            Bytes::new()
        } else {
            let path = self.path(key);
            let read = |session: Arc<Session>| read(session, path.clone(), range.clone());
            self.ask_again(key, STEPWISE, read).await?
        };
        Ok(GetResult {
            meta: found,
            range,
            payload: GetResultPayload::Stream(
                futures_util::stream::once(async { Ok(bytes) }).boxed(),
            ),
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    async fn files_in(&self, folder: &Key) -> Result<Vec<ObjectMeta>> {
        let path = self.path(folder);
        let listing = self.ask_again(folder, STEPWISE, |session| {
            let path = path.clone();
            async move {
                let mut files = session.fs();
                let folder = within(LIMIT, files.open_dir(&path)).await?;
                let mut entries = Box::pin(folder.read_dir());
                let mut found = Vec::new();
                while let Some(entry) = within(LIMIT, next(&mut entries)).await? {
                    found.push((entry.filename().to_path_buf(), entry.metadata()));
                }
                Ok(found)
            }
        });
        let object = |(name, found): (PathBuf, MetaData)| {
            let key = folder.clone().join(name.to_str()?);
            meta(key, &found)
        };
        Ok(listing.await?.into_iter().filter_map(object).collect())
    }
}

/// Reads a range with many requests under way, so that a far server is not waited for at each.
async fn read(
    session: Arc<Session>,
    path: PathBuf,
    range: Range<u64>,
) -> std::result::Result<Bytes, Failure> {
    let file = within(LIMIT, session.open(&path)).await?;
    let starts = (range.start..range.end).step_by(usize::try_from(READ).unwrap_or(1));
    let pieces = starts.map(|start| piece(file.clone(), start, (start + READ).min(range.end)));
    let mut pieces = std::pin::pin!(futures_util::stream::iter(pieces).buffered(UNDER_WAY));
    let mut all = BytesMut::new();
    while let Some(piece) = within(LIMIT, next(&mut pieces)).await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

async fn next<T, E: Into<Failure>>(
    items: &mut (impl Stream<Item = std::result::Result<T, E>> + Unpin),
) -> std::result::Result<Option<T>, Failure> {
    items.next().await.transpose().map_err(Into::into)
}

/// A server that takes longer is as good as gone.
async fn within<T, E: From<std::io::Error>>(
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("the server has not answered for {} s", limit.as_secs()),
        )
        .into()),
    }
}

async fn piece(mut file: File, mut start: u64, end: u64) -> std::result::Result<BytesMut, Failure> {
    let mut all = BytesMut::new();
    while start < end {
        let left = u32::try_from(end - start).unwrap_or(u32::MAX);
        file.seek(std::io::SeekFrom::Start(start)).await?;
        // A server may answer with less than was asked for.
        let Some(bytes) = file.read(left, BytesMut::new()).await? else {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        };
        start += bytes.len() as u64;
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

fn asked_for(range: Option<&GetRange>, size: u64) -> Range<u64> {
    match range {
        None => 0..size,
        Some(GetRange::Bounded(range)) => range.start.min(size)..range.end.min(size),
        Some(GetRange::Offset(start)) => (*start).min(size)..size,
        Some(GetRange::Suffix(length)) => size.saturating_sub(*length)..size,
    }
}

/// What is known of a file; none if it is something else.
fn meta(location: Key, found: &MetaData) -> Option<ObjectMeta> {
    if found.file_type().is_some_and(|of| !of.is_file()) {
        return None;
    }
    let size = found.len().unwrap_or_default();
    let modified = found
        .modified()
        .map(openssh_sftp_client::UnixTimeStamp::as_system_time);
    let modified = modified.map_or_else(Utc::now, DateTime::<Utc>::from);
    Some(ObjectMeta {
        location,
        last_modified: modified,
        size,
        e_tag: Some(format!("\"{size}-{}\"", modified.timestamp())),
        version: None,
    })
}

/// Whether the connection is gone, rather than the answer no.
fn was_cut(error: &Failure) -> bool {
    !matches!(
        error,
        Failure::SftpError(..) | Failure::UnsupportedExtension(_)
    )
}

fn explained(key: &Key, error: Failure) -> Error {
    let path = key.to_string();
    match error {
        Failure::SftpError(SftpErrorKind::NoSuchFile, _) => Error::NotFound {
            path,
            source: "no such file".into(),
        },
        Failure::SftpError(SftpErrorKind::PermDenied, _) => Error::PermissionDenied {
            path,
            source: "permission denied by the server".into(),
        },
        Failure::SftpError(_, said) => generic(format!("the server says: {said}")),
        error => generic(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_file() {
        assert_eq!(asked_for(None, 10), 0..10);
        assert_eq!(asked_for(Some(&GetRange::Bounded(2..20)), 10), 2..10);
        assert_eq!(asked_for(Some(&GetRange::Offset(12)), 10), 10..10);
        assert_eq!(asked_for(Some(&GetRange::Suffix(4)), 10), 6..10);
    }

    /// The system's own server, without the way there.
    struct Server(tokio::process::Child);

    impl Server {
        fn signal(&self, signal: rustix::process::Signal) {
            let pid = rustix::process::Pid::from_raw(self.0.id().unwrap().cast_signed()).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
        }

        /// Has it stop answering: at once, or when it has begun to write a file.
        async fn stop(&self, begun: Option<&std::path::Path>) {
            let is_empty = |file| std::fs::metadata(file).map_or(0, |of| of.len()) == 0;
            while begun.is_some_and(is_empty) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.signal(rustix::process::Signal::STOP);
        }
    }

    async fn connected() -> (Server, Sftp) {
        use std::process::Stdio;
        let program = "/usr/lib/openssh/sftp-server";
        assert!(
            std::path::Path::new(program).exists(),
            "{program} is not there: on Debian, apt-get install openssh-sftp-server"
        );
        let mut child = tokio::process::Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let session = Session::new(input, output, openssh_sftp_client::SftpOptions::new());
        let target = Target {
            host: "nowhere".to_owned(),
            user: None,
            port: None,
            // No second connection is made.
            config: Some("/nowhere/config".into()),
        };
        let sftp = Sftp::new(target, "/");
        *sftp.live.lock().await = Some(Arc::new(session.await.unwrap()));
        (Server(child), sftp)
    }

    #[tokio::test]
    async fn a_server_that_stops_answering_is_not_waited_for_for_ever() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 300_000]).unwrap();
        let key = Key::from_absolute_path(file.path()).unwrap();
        for question in ["look", "read", "send"] {
            let (server, sftp) = connected().await;
            sftp.get(&key, GetOptions::default()).await.unwrap();
            let pieces = futures_util::stream::repeat(Bytes::from(vec![7; 256 << 10]));
            let beside = Key::from(format!("{key}.new"));
            let sending = sftp.send_stream(&beside, pieces.take(2000).boxed());
            let asked = async {
                match question {
                    "look" => sftp.look(&key).await.map(drop),
                    "read" => {
                        let place = || file.path().to_path_buf();
                        let question = |session| read(session, place(), 0..300_000);
                        sftp.ask_again(&key, STEPWISE, question).await.map(drop)
                    }
                    _ => sending.await,
                }
            };
            let path = PathBuf::from(format!("/{beside}"));
            let begun = (question == "send").then_some(path.as_path());
            let limit = Duration::from_secs(30);
            let ((), answer) = tokio::join!(server.stop(begun), tokio::time::timeout(limit, asked));
            server.signal(rustix::process::Signal::CONT);
            answer
                .unwrap_or_else(|_| panic!("{question} waits for ever"))
                .expect_err(question);
            assert!(sftp.live.lock().await.is_none(), "{question}");
            let _ = std::fs::remove_file(path);
        }
    }
}
