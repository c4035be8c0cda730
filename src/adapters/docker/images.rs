//! Images: whether they are there, fetching one, building one from a folder.

use super::Engine;
use crate::error::{Error, Result};
use crate::event::{Events, Unit};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// A pull or a build that says nothing for this long has stopped for good.
const STALLED: Duration = Duration::from_secs(300);
/// How often a silent build is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How many lines of a build that failed are kept to be shown.
const KEPT_LINES: usize = 25;

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Where it was pulled from, by digest.
    pub digests: Vec<String>,
    /// Its environment.
    pub env: HashMap<String, String>,
}

/// What an image is built from.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// Files by their name in the context.
    pub files: Vec<(String, PathBuf)>,
    /// `--build-arg`s.
    pub args: HashMap<String, String>,
    /// `--label`s.
    pub labels: HashMap<String, String>,
    /// The image's name and tag.
    pub tag: String,
}

impl Engine {
    /// The image of this name, if the engine has it.
    pub async fn image(&self, name: &str) -> Result<Option<Image>> {
        let what = format!("inspect image {name}");
        let found = self
            .ask_maybe(&what, self.docker.inspect_image(name))
            .await?;
        Ok(found.map(|image| Image {
            id: image.id.unwrap_or_default(),
            digests: image.repo_digests.unwrap_or_default(),
            env: image
                .config
                .and_then(|config| config.env)
                .unwrap_or_default()
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }))
    }

    /// Removes an image's name, and the image if it has no other.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let what = format!("remove image {name}");
        let request = self
            .docker
            .remove_image(name, None::<query::RemoveImageOptions>, None);
        self.ask_maybe(&what, request).await?;
        Ok(())
    }

    /// Fetches an image from its registry, with progress over all its layers.
    pub async fn pull(&self, name: &str, events: &Events) -> Result<()> {
        let step = format!("pulling {name}");
        events.started(&step);
        let (image, tag) = split_tag(name);
        let mut options = query::CreateImageOptionsBuilder::default().from_image(image);
        if let Some(tag) = tag {
            options = options.tag(tag);
        }
        let mut stream = self.docker.create_image(Some(options.build()), None, None);
        let mut layers: HashMap<String, (u64, u64)> = HashMap::new();
        while let Some(info) = self.next(&format!("pull {name}"), &mut stream).await? {
            if let Some(error) = info.error_detail {
                return Err(cannot_pull(name, &error.message.unwrap_or_default()));
            }
            let detail = info.progress_detail.unwrap_or_default();
            if let (Some(id), Some(done), Some(total)) = (info.id, detail.current, detail.total) {
                layers.insert(
                    id,
                    (
                        u64::try_from(done).unwrap_or(0),
                        u64::try_from(total).unwrap_or(0),
                    ),
                );
                let done = layers.values().map(|(done, _)| done).sum();
                events.progress(&step, done, None, Unit::Bytes);
            }
        }
        events.finished(&step, "");
        Ok(())
    }

    /// Builds an image. The context is streamed, so that a large file in it costs no memory.
    pub async fn build(&self, context: BuildContext, events: &Events) -> Result<()> {
        let step = format!("building {}", context.tag);
        events.started(&step);
        let options = query::BuildImageOptionsBuilder::default()
            .t(&context.tag)
            .buildargs(&context.args)
            .labels(&context.labels)
            .rm(true)
            .forcerm(true)
            .build();
        let body = bollard::body_try_stream(streamed(context.files));
        let mut stream = std::pin::pin!(self.docker.build_image(options, None, Some(body)));
        let mut build = Build::new(&step);
        let mut silent = Duration::ZERO;
        loop {
            events.progress(&step, build.at, build.of, Unit::Items);
            // Some steps are silent for half a minute; the user still wants to see where it is.
            let Ok(next) = tokio::time::timeout(LOOK, stream.next()).await else {
                silent += LOOK;
                if silent >= STALLED {
                    return Err(build.failed("it says nothing any more"));
                }
                continue;
            };
            silent = Duration::ZERO;
            let Some(info) = next else { break };
            let info = info.map_err(|error| self.build_error(&build, error))?;
            if let Some(error) = info.error_detail {
                return Err(build.failed(&error.message.unwrap_or_default()));
            }
            build.read(info.stream.as_deref().unwrap_or_default());
        }
        events.finished(&step, "");
        Ok(())
    }

    fn build_error(&self, build: &Build, error: bollard::errors::Error) -> Error {
        use bollard::errors::Error as Theirs;
        match error {
            Theirs::DockerStreamError { error: said }
            | Theirs::DockerResponseServerError { message: said, .. } => build.failed(&said),
            other => self.refused(&build.step, other),
        }
    }

    async fn next<T>(
        &self,
        what: &str,
        stream: &mut (impl Stream<Item = std::result::Result<T, bollard::errors::Error>> + Unpin),
    ) -> Result<Option<T>> {
        match tokio::time::timeout(STALLED, stream.next()).await {
            Ok(Some(Ok(item))) => Ok(Some(item)),
            Ok(Some(Err(error))) => Err(self.refused(what, error)),
            Ok(None) => Ok(None),
            Err(_) => Err(super::hangs(&self.endpoint)),
        }
    }
}

/// `name:tag` apart; a colon that belongs to a registry's port, or a digest, is no tag.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    if name.contains('@') {
        return (name, None);
    }
    match name.rsplit_once(':') {
        Some((image, tag)) if !tag.contains('/') => (image, Some(tag)),
        _ => (name, Some("latest")),
    }
}

/// `Step 3/15 : RUN ...` is step 3 of 15.
fn step_of(line: &str) -> Option<(u64, Option<u64>)> {
    let line = line
        .strip_prefix("Step ")
        .or_else(|| line.strip_prefix("STEP "))?;
    let (done, rest) = line.split_once('/')?;
    let total = rest.split([' ', ':']).next()?;
    Some((done.parse().ok()?, total.parse().ok()))
}

fn cannot_pull(name: &str, why: &str) -> Error {
    Error::missing(format!("image {name} cannot be pulled: {}", why.trim()))
        .hint("See whether the registry can be reached, or name another image in k1ops.toml.")
}

/// How far a build has got, and the last of what it said.
struct Build {
    step: String,
    at: u64,
    of: Option<u64>,
    said: VecDeque<String>,
}

impl Build {
    fn new(step: &str) -> Self {
        Self {
            step: step.to_owned(),
            at: 0,
            of: None,
            said: VecDeque::with_capacity(KEPT_LINES),
        }
    }

    fn read(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            tracing::debug!("build: {line}");
            if let Some((at, of)) = step_of(line) {
                (self.at, self.of) = (at, of);
            }
            if self.said.len() == KEPT_LINES {
                self.said.pop_front();
            }
            self.said.push_back(line.trim_end().to_owned());
        }
    }

    fn failed(&self, why: &str) -> Error {
        let error = Error::failed(format!("{} failed: {}", self.step, why.trim())).hint(
            "Read the build's last lines above; what it is built from is in `docker/server` of the \
             stack's folder.",
        );
        if self.said.is_empty() {
            return error;
        }
        let lines: Vec<&str> = self.said.iter().map(String::as_str).collect();
        error.because(lines.join("\n    "))
    }
}

/// The build context as the parts of a tar, made on a thread as fast as they are taken.
fn streamed(
    files: Vec<(String, PathBuf)>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let (sender, mut receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe(sender.clone());
        let result = write_context(&files, &mut pipe);
        if let Err(error) = result {
            // Whoever went away does not want to hear it.
            let _ = sender.blocking_send(Err(error));
        }
    });
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}

fn write_context(files: &[(String, PathBuf)], pipe: &mut Pipe) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 18, pipe));
    for (name, path) in files {
        append(&mut tar, name, path)?;
    }
    tar.into_inner()?.flush()
}

/// Times and owners are left out: with them, the builder would never find anything in its cache.
fn append<W: Write>(tar: &mut tar::Builder<W>, name: &str, path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(file.metadata()?.len());
    let is_script = Path::new(name).extension().is_some_and(|end| end == "sh");
    header.set_mode(if is_script { 0o755 } else { 0o644 });
    tar.append_data(&mut header, name, file)
}

struct Pipe(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(buf)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_where_the_tag_begins() {
        assert_eq!(split_tag("redis:7-alpine"), ("redis", Some("7-alpine")));
        assert_eq!(
            split_tag("host:5000/a/b"),
            ("host:5000/a/b", Some("latest"))
        );
        assert_eq!(split_tag("a@sha256:12"), ("a@sha256:12", None));
    }

    #[test]
    fn the_builders_steps_are_read() {
        assert_eq!(step_of("Step 3/15 : RUN x"), Some((3, Some(15))));
        assert_eq!(step_of("STEP 3/15: RUN x"), Some((3, Some(15))));
        assert_eq!(step_of(" ---> Running"), None);
    }
}
