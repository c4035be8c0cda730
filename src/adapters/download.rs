//! Downloads of big files over networks that break: resumed where they broke, tried again with
//! growing pauses, and never under their final name.

use super::fs::{free_space, remove_if_there};
use super::http::outside_client;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Unit};
use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Attempts in a row that bring nothing, after which a source is given up.
const FRUITLESS: usize = 5;

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct Download {
    client: Client,
    url: String,
    partial: PathBuf,
    step: String,
    pause: Duration,
}

/// What is known of a partial file, kept beside it. Without a validator it cannot be told whether
/// the rest would belong to the same file, so nothing is resumed.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    url: String,
    validator: String,
}

/// Why an attempt ended.
enum Broken {
    /// Trying again may help.
    ForNow(Error),
    /// It will not.
    ForGood(Error),
}

impl Download {
    /// Fetches `url` into `partial`, which an earlier, broken run may have begun. `step` is what
    /// the progress is called.
    pub fn new(url: &str, partial: &Path, step: &str) -> Result<Self> {
        Ok(Self {
            client: outside_client()?,
            url: url.to_owned(),
            partial: partial.to_path_buf(),
            step: step.to_owned(),
            pause: Duration::from_secs(1),
        })
    }

    /// The same, with another first pause before it is tried again.
    #[must_use]
    pub fn pausing(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Fetches the file. Afterwards the partial file is complete and synced, but not verified.
    pub async fn run(&self, events: &Events) -> Result<()> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.pause)
            .with_max_delay(self.pause * 16)
            .with_max_times(FRUITLESS)
            .with_jitter();
        let mut left = pauses.build();
        // What was there, was found wrong and is fetched again brings nobody further.
        let mut most = self.have();
        loop {
            let error = match self.attempt(events).await {
                Ok(()) => return Ok(()),
                Err(Broken::ForGood(error)) => return Err(error),
                Err(Broken::ForNow(error)) => error,
            };
            let have = self.have();
            if have > most {
                most = have;
                left = pauses.build();
            }
            let Some(pause) = left.next() else {
                return Err(error);
            };
            let cause = error.causes().pop().unwrap_or_default();
            events.note(format!("{error} ({cause}); trying again"));
            tokio::time::sleep(pause).await;
        }
    }

    /// Removes the partial file, as when it turns out to be the wrong one.
    pub fn discard(&self) -> Result<()> {
        remove_if_there(&self.partial)?;
        remove_if_there(&self.note_path())
    }

    /// Gives the complete, verified file its final name.
    pub fn publish(&self, path: &Path) -> Result<()> {
        super::fs::rename_durably(&self.partial, path)?;
        remove_if_there(&self.note_path())
    }

    async fn attempt(&self, events: &Events) -> Result<(), Broken> {
        let resume = self.resumable().map_err(Broken::ForGood)?;
        let mut request = self
            .client
            .get(&self.url)
            .header(ACCEPT_ENCODING, "identity");
        if let Some(validator) = &resume {
            request = request
                .header(RANGE, format!("bytes={}-", self.have()))
                .header(IF_RANGE, validator);
        }
        let answer = request.send().await.map_err(|e| self.broke(e))?;
        let begin = self.begin_of(&answer)?;
        let total = answer.content_length().map(|rest| begin + rest);
        self.require_space(total, begin).map_err(Broken::ForGood)?;
        let file = self
            .open(begin, answer.headers())
            .await
            .map_err(Broken::ForGood)?;
        self.receive(answer, file, begin, total, events).await
    }

    /// Where in the file the answer begins; refuses answers that are none.
    fn begin_of(&self, answer: &Response) -> Result<u64, Broken> {
        let status = answer.status();
        let refused = || Error::missing(format!("{} answers {status}", self.url));
        if status == StatusCode::PARTIAL_CONTENT {
            let have = self.have();
            if range_start(answer.headers()) == Some(have) {
                return Ok(have);
            }
        }
        if status == StatusCode::OK {
            return Ok(0);
        }
        if matches!(
            status,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
        ) {
            // What is here is not a beginning of what is there.
            self.discard().map_err(Broken::ForGood)?;
            return Err(Broken::ForNow(
                refused().because("another range was asked for"),
            ));
        }
        let busy = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        Err(if status.is_server_error() || busy.contains(&status) {
            Broken::ForNow(refused().because("the server is busy or out of order"))
        } else {
            Broken::ForGood(refused())
        })
    }

    async fn receive(
        &self,
        mut answer: Response,
        mut file: File,
        begin: u64,
        total: Option<u64>,
        events: &Events,
    ) -> Result<(), Broken> {
        let cannot = || format!("{} cannot be written", self.partial.display());
        let lost = |e: std::io::Error| Broken::ForGood(Error::failed(cannot()).because(e));
        let mut have = begin;
        let received = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => {
                    file.write_all(&chunk).await.map_err(lost)?;
                    have += chunk.len() as u64;
                    events.progress(&self.step, have, total, Unit::Bytes);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(self.broke(error)),
            }
        };
        // Also what came before a break is kept: the next attempt goes on behind it.
        file.flush().await.map_err(lost)?;
        file.sync_all().await.map_err(lost)?;
        received?;
        if total.is_some_and(|total| total != have) {
            let short = format!("{} ended after {have} bytes", self.url);
            return Err(Broken::ForNow(Error::missing(short)));
        }
        Ok(())
    }

    /// Opens the partial file to go on at `begin`, and notes what would let it be resumed.
    async fn open(&self, begin: u64, headers: &HeaderMap) -> Result<File> {
        let cannot = || format!("{} cannot be written", self.partial.display());
        if begin == 0 {
            self.discard()?;
            if let Some(validator) = validator(headers) {
                let note = Note {
                    url: self.url.clone(),
                    validator,
                };
                let text = serde_json::to_vec(&note).context(cannot)?;
                super::fs::write_atomically(&self.note_path(), &text)?;
            }
        }
        tokio::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.partial)
            .await
            .context(cannot)
    }

    fn require_space(&self, total: Option<u64>, begin: u64) -> Result<()> {
        let needed = total.unwrap_or(0).saturating_sub(begin);
        let free = free_space(&self.partial)?;
        if free >= needed {
            return Ok(());
        }
        Err(Error::missing(format!(
            "{} needs {needed} bytes more, but its disk has {free} left",
            self.partial.display()
        ))
        .hint("Make room, or set K1OPS_CACHE to a folder on another disk."))
    }

    /// The validator to resume with, if there is something to resume.
    fn resumable(&self) -> Result<Option<String>> {
        let note = std::fs::read(self.note_path())
            .ok()
            .and_then(|text| serde_json::from_slice::<Note>(&text).ok())
            .filter(|note| note.url == self.url && self.have() > 0);
        if note.is_none() {
            self.discard()?;
        }
        Ok(note.map(|note| note.validator))
    }

    fn have(&self) -> u64 {
        std::fs::metadata(&self.partial).map_or(0, |meta| meta.len())
    }

    fn note_path(&self) -> PathBuf {
        let mut path = self.partial.as_os_str().to_owned();
        path.push(".json");
        path.into()
    }

    fn broke(&self, error: reqwest::Error) -> Broken {
        let what = if error.is_connect() {
            format!("{} does not answer", self.url)
        } else {
            format!("the download of {} broke off", self.url)
        };
        Broken::ForNow(Error::new(ErrorKind::Missing, what).because(error.without_url()))
    }
}

/// The small file at `url`; `None` if there is none.
pub async fn small_text(url: &str) -> Result<Option<String>> {
    let cannot = || format!("{url} does not answer");
    let answer = outside_client()?
        .get(url)
        .timeout(Duration::from_secs(30))
        .send()
        .await
        .context_kind(ErrorKind::Missing, cannot)?;
    if !answer.status().is_success() {
        return Ok(None);
    }
    let text = answer
        .text()
        .await
        .context_kind(ErrorKind::Missing, cannot)?;
    Ok(Some(text).filter(|text| text.len() < 1024))
}

/// What tells that a file has not changed: a strong entity tag, or else its date.
fn validator(headers: &HeaderMap) -> Option<String> {
    let header = |name| headers.get(name)?.to_str().ok();
    header(ETAG)
        .filter(|tag| tag.starts_with('"'))
        .or_else(|| header(LAST_MODIFIED))
        .map(str::to_owned)
}

/// The first number in `bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::lying_server::{Answer, LyingServer};
    use std::sync::{Arc, Mutex};

    struct Fetched {
        result: Result<()>,
        partial: Option<Vec<u8>>,
        ranges: Vec<Option<String>>,
        progress: Vec<u64>,
    }

    fn content() -> Vec<u8> {
        (0..200_000u32).flat_map(u32::to_le_bytes).collect()
    }

    async fn fetch_into(folder: &Path, answers: Vec<Answer>) -> Fetched {
        let server = LyingServer::start(content(), answers).await;
        fetch_from(folder, &server).await
    }

    async fn fetch_from(folder: &Path, server: &LyingServer) -> Fetched {
        let partial = folder.join("x.jar.partial");
        let progress = Arc::new(Mutex::new(Vec::new()));
        let seen = progress.clone();
        let events = Events::new(move |event| {
            if let crate::event::Event::Progress { done, .. } = event {
                seen.lock().unwrap().push(done);
            }
        });
        let download = Download::new(&server.url("x.jar"), &partial, "fetching")
            .unwrap()
            .pausing(Duration::from_millis(1));
        let result = download.run(&events).await;
        Fetched {
            result,
            partial: std::fs::read(&partial).ok(),
            ranges: server.ranges(),
            progress: progress.lock().unwrap().clone(),
        }
    }

    #[tokio::test]
    async fn a_whole_answer_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let fetched = fetch_into(folder.path(), vec![Answer::Whole]).await;
        fetched.result.unwrap();
        assert_eq!(fetched.partial.unwrap(), content());
    }

    #[tokio::test]
    async fn a_cut_connection_is_resumed_where_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let answers = vec![
            Answer::CutAfter(300_000),
            Answer::Status(503),
            Answer::CutAfter(200_000),
            Answer::Refuse,
            Answer::Whole,
        ];
        let fetched = fetch_into(folder.path(), answers).await;
        fetched.result.unwrap();
        assert_eq!(fetched.partial.unwrap(), content());
        let resumed: Vec<&str> = fetched
            .ranges
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        assert_eq!(resumed.first(), Some(&"bytes=300000-"));
        assert_eq!(resumed.last(), Some(&"bytes=500000-"));
        assert_eq!(fetched.progress.last(), Some(&800_000));
    }

    #[tokio::test]
    async fn what_an_earlier_run_left_is_resumed_unless_the_file_changed() {
        let folder = tempfile::tempdir().unwrap();
        let server = LyingServer::start(content(), vec![Answer::CutAfter(100_000)]).await;
        // A run that ends in the pause after its first attempt, as by Ctrl-C.
        let (broke, mut broken) = tokio::sync::mpsc::unbounded_channel();
        let events = Events::new(move |event| {
            if let crate::event::Event::Note { message } = event {
                broke.send(message).unwrap();
            }
        });
        let partial = folder.path().join("x.jar.partial");
        let download = Download::new(&server.url("x.jar"), &partial, "fetching")
            .unwrap()
            .pausing(Duration::from_secs(600));
        tokio::select! {
            result = download.run(&events) => panic!("{result:?}"),
            _ = broken.recv() => {}
        }
        assert_eq!(std::fs::metadata(&partial).unwrap().len(), 100_000);
        let fetched = fetch_from(folder.path(), &server).await;
        fetched.result.unwrap();
        assert_eq!(fetched.partial.unwrap(), content());
        assert_eq!(fetched.ranges[1].as_deref(), Some("bytes=100000-"));

        let folder = tempfile::tempdir().unwrap();
        let answers = vec![Answer::CutAfter(100_000), Answer::Changed(b"new".to_vec())];
        let fetched = fetch_into(folder.path(), answers).await;
        fetched.result.unwrap();
        assert_eq!(fetched.partial.unwrap(), b"new");
    }

    #[tokio::test]
    async fn a_server_that_ignores_or_mistakes_ranges_is_read_from_the_start() {
        for lie in [Answer::IgnoreRange, Answer::WrongRange, Answer::Status(416)] {
            let folder = tempfile::tempdir().unwrap();
            let answers = vec![Answer::CutAfter(100_000), lie, Answer::Whole];
            let fetched = fetch_into(folder.path(), answers).await;
            fetched.result.unwrap();
            assert_eq!(fetched.partial.unwrap(), content());
        }
    }

    #[tokio::test]
    async fn a_source_that_brings_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let fetched = fetch_into(folder.path(), vec![Answer::Status(404)]).await;
        assert_eq!(fetched.ranges.len(), 1);
        let error = fetched.result.unwrap_err();
        assert!(
            error.to_string().ends_with("answers 404 Not Found"),
            "{error}"
        );
        let fetched = fetch_into(folder.path(), vec![Answer::Status(503); 20]).await;
        assert!(fetched.result.is_err());
        assert_eq!(fetched.ranges.len(), FRUITLESS + 1);
        assert_eq!(fetched.partial, None);
    }

    #[tokio::test]
    async fn the_same_beginning_over_and_over_is_no_progress() {
        for lie in [Answer::Status(416), Answer::WrongRange] {
            let folder = tempfile::tempdir().unwrap();
            let answers = vec![[Answer::CutAfter(100_000), lie]; 20].concat();
            let fetched = fetch_into(folder.path(), answers).await;
            let error = fetched.result.expect_err("it goes round");
            assert_eq!(fetched.ranges.len(), FRUITLESS + 1, "{error}");
        }
    }
}
