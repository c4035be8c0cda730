//! The way by `ssh`, as Docker's own client goes it: the `ssh` of this host runs `docker system dial-stdio` over there,
//! so that keys, known hosts and jump hosts are as the user has them. All connections share one that lives as long as
//! this value. Where the server lets them, they go to the engine's socket itself, which saves a program over there for
//! each of them.

use super::{Endpoint, Place, Stream};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long a host may take to let us in.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it has.
const POLL: Duration = Duration::from_millis(50);
/// What is run over there.
const DIAL: &str = "docker system dial-stdio";
/// And what is asked there: which engine that is.
const WHERE: &str = "docker context inspect --format '{{.Endpoints.docker.Host}}'";

/// A connection that others share.
pub(super) struct Ssh {
    options: Vec<OsString>,
    /// A socket of this host that is forwarded to the engine's, if it is.
    forwarded: Option<PathBuf>,
    /// It ends when its input does, also if this process is killed.
    _master: Child,
}

impl Ssh {
    /// Connects, with the shared connection's socket in `folder`.
    pub(super) async fn open(endpoint: &Endpoint, folder: &Path) -> Result<Self> {
        let place = Place::of(endpoint)?;
        let control = folder.join("ssh");
        let options = options(&place, &control);
        let mut master = Command::new("ssh")
            .args(["-o", "ControlMaster=yes"])
            .args(&options)
            .arg(DIAL)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for us: what is under way is ended in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Error::missing("ssh cannot be run")
                    .because(error)
                    .hint("Install the OpenSSH client.")
            })?;
        let begun = std::time::Instant::now();
        while !control.exists() {
            if let Ok(Some(_)) = master.try_wait() {
                return Err(refused(endpoint, &said(&mut master).await));
            }
            if begun.elapsed() > PATIENCE {
                return Err(refused(endpoint, "it does not answer"));
            }
            tokio::time::sleep(POLL).await;
        }
        let mut ssh = Self {
            options,
            forwarded: None,
            _master: master,
        };
        ssh.forwarded = ssh.forward(&folder.join("engine.sock")).await;
        Ok(ssh)
    }

    /// Has `here` lead to the engine's socket, if that can be done.
    async fn forward(&self, here: &Path) -> Option<PathBuf> {
        let asked = self.over_there(&[], &[WHERE]).await?;
        let there = asked.trim().strip_prefix("unix://")?.to_owned();
        let mut forward = OsString::from(here);
        forward.push(format!(":{there}"));
        // What the user has set to be forwarded is not ours; this is, and the option would clear it too.
        let only: [OsString; 6] = [
            "-o".into(),
            "ClearAllForwardings=no".into(),
            "-O".into(),
            "forward".into(),
            "-L".into(),
            forward,
        ];
        self.over_there(&only, &[]).await?;
        let pinged = tokio::time::timeout(Duration::from_secs(10), ping(here)).await;
        matches!(pinged, Ok(Ok(true))).then(|| here.to_owned())
    }

    /// What the shared connection's `ssh` prints, if it ends well.
    async fn over_there(&self, options: &[OsString], command: &[&str]) -> Option<String> {
        let asking = Command::new("ssh")
            .args(["-o", "ControlMaster=no"])
            .args(options)
            .args(&self.options)
            .args(command)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        tracing::debug!(status = %output.status, "ssh: {}", said.trim());
        let ended_well = output.status.success();
        ended_well.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One more connection to the engine.
    pub(super) async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        if let Some(socket) = &self.forwarded {
            return Ok(Box::new(UnixStream::connect(socket).await?));
        }
        let mut child = Command::new("ssh")
            .args(["-o", "ControlMaster=no"])
            .args(&self.options)
            .arg(DIAL)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("ssh has no pipes"));
        };
        Ok(Box::new(Dialled {
            output,
            input: Some(input),
            _child: child,
        }))
    }
}

fn options(place: &Place, control: &Path) -> Vec<OsString> {
    let mut options: Vec<OsString> = Vec::new();
    // Nobody is there to be asked; and a host that is gone is noticed.
    for option in [
        "BatchMode=yes",
        "ConnectTimeout=20",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "ClearAllForwardings=yes",
        "RequestTTY=no",
        "ControlPersist=no",
    ] {
        options.extend(["-o".into(), option.into()]);
    }
    let control: PathBuf = control.to_owned();
    options.extend(["-S".into(), control.into()]);
    if let Some(user) = &place.user {
        options.extend(["-l".into(), user.into()]);
    }
    if let Some(port) = place.port {
        options.extend(["-p".into(), port.to_string().into()]);
    }
    options.extend(["--".into(), (&place.host).into()]);
    options
}

/// Whether an engine answers at a socket: a server that forbids to go there says so only now.
async fn ping(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.take(4000).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// The last words of a connection that was not made.
async fn said(master: &mut Child) -> String {
    let mut said = Vec::new();
    if let Some(errors) = &mut master.stderr {
        let mut errors = errors.take(4000);
        let reading = errors.read_to_end(&mut said);
        let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
    }
    let said = String::from_utf8_lossy(&said);
    // Its frame of `@` around a warning says nothing.
    let lines = said.lines().map(str::trim);
    let lines: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('@'))
        .collect();
    lines.join("; ")
}

fn refused(endpoint: &Endpoint, said: &str) -> Error {
    let Endpoint { host, named_by, .. } = endpoint;
    let hint = if said.contains("Host key verification failed") {
        "Compare the host's key with what its owner says, and add it to known_hosts."
    } else if said.contains("Permission denied") {
        "The key has to be in an agent or without a passphrase: nobody is asked for one."
    } else {
        "See whether `ssh HOST docker version` works, without a question."
    };
    Error::missing(format!(
        "Docker at {host} ({named_by}) is not reached: {said}"
    ))
    .hint(hint)
}

/// A connection, and the program that it goes through.
struct Dialled {
    output: ChildStdout,
    /// Until nothing more is to be said.
    input: Option<ChildStdin>,
    _child: Child,
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe is shut by letting go of it.
        self.input = None;
        Poll::Ready(Ok(()))
    }
}
