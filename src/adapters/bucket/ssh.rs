//! A connection to an SFTP server, through the `ssh` of the host: its configuration, its agents, its known hosts
//! and its way through other hosts are the user's own, and k1ops sees no key.

use super::connect::pauses;
use object_store::{Error, Result};
use openssh_sftp_client::{Sftp as Session, SftpAuxiliaryData, SftpOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex as Shared, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// How long a server may take to let us in.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server says that no second try will change.
const FINAL: [&str; 7] = [
    "Permission denied",
    "Host key verification failed",
    "Could not resolve hostname",
    "Too many authentication failures",
    "Bad configuration option",
    "Can't open user config file",
    "subsystem request failed",
];

/// Who is asked, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) user: Option<String>,
    pub(super) port: Option<u16>,
    /// Instead of `~/.ssh/config`.
    pub(super) config: Option<PathBuf>,
}

impl Target {
    fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        // Nobody is there to be asked; and a host that is gone is noticed.
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=20",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "ClearAllForwardings=yes",
            "RequestTTY=no",
        ] {
            command.arg("-o").arg(option);
        }
        if let Some(config) = &self.config {
            command.arg("-F").arg(config);
        }
        if let Some(user) = &self.user {
            command.arg("-l").arg(user);
        }
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        command.args(["-s", "--", &self.host, "sftp"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us: what is under way is ended in order.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Connects; for a while, if the server is not there.
    pub(super) async fn connect(&self) -> Result<Session> {
        let mut pauses = pauses();
        loop {
            let said = match self.connect_once().await {
                Ok(session) => return Ok(session),
                Err(said) => said,
            };
            if FINAL.iter().any(|sign| said.contains(sign)) {
                let path = self.host.clone();
                return Err(if said.contains("resolve") {
                    generic(said)
                } else {
                    Error::PermissionDenied {
                        path,
                        source: said.into(),
                    }
                });
            }
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(generic(said)),
            }
        }
    }

    /// What went wrong is what `ssh` says, if it says anything.
    async fn connect_once(&self) -> std::result::Result<Session, String> {
        let mut child = self
            .command()
            .spawn()
            .map_err(|error| format!("ssh cannot be run: {error}; install the OpenSSH client"))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err("ssh has no pipes".to_owned());
        };
        let said = Arc::new(Shared::new(String::new()));
        let listening = tokio::spawn(listen(errors, said.clone()));
        // The process lives as long as the session.
        let kept: SftpAuxiliaryData =
            SftpAuxiliaryData::Boxed(Box::new(Shared::<Child>::new(child)));
        let session = Session::new_with_auxiliary(input, output, SftpOptions::new(), kept);
        match timeout(PATIENCE, session).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => {
                // The end of its words comes with its own.
                let _ = timeout(Duration::from_secs(2), listening).await;
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(if said.is_empty() {
                    error.to_string()
                } else {
                    said
                })
            }
            Err(_) => Err(format!("{} does not answer", self.host)),
        }
    }
}

/// Keeps the last lines that `ssh` has to say.
async fn listen(errors: ChildStderr, said: Arc<Shared<String>>) {
    let mut lines = BufReader::new(errors).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!("ssh: {line}");
        let line = line.trim();
        // Its frame of `@` around a warning says nothing.
        if line.is_empty() || line.starts_with('@') {
            continue;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < 2000 {
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.push_str(line);
        }
    }
}

pub(super) fn generic(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: super::sftp::STORE,
        source: error.into(),
    }
}
