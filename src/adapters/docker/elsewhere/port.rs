//! A port that a container publishes on the engine's host, brought here through the engine: a program in the container
//! connects to the port inside. So neither the host's firewall nor its SSH server has to let anything else through.

use crate::error::{Context, Error, Result};
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::query_parameters::ListContainersOptions;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use std::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Seconds that the engine may take to answer.
const ANSWER: u64 = 45;

/// Connects to a port of its own host by `bash` or `nc`, one of which each image has. Not by 127.0.0.1: there,
/// `PostgreSQL` may let in whoever comes. The one that reads ends the one that writes, and the other way round.
const JOIN: &str = r#"
if command -v bash >/dev/null; then exec bash -c '
    exec 3<>"/dev/tcp/$HOSTNAME/$0" 4<&0 || exit 1
    { cat <&4 >&3; kill $$; } >/dev/null 2>&1 &
    exec cat <&3' "$0"
fi
exec nc "$HOSTNAME" "$0""#;

/// Joins a connection with the container that publishes `published`, until either ends it.
pub(super) async fn join(socket: &Path, published: u16, near: TcpStream) -> Result<()> {
    let path = socket.to_string_lossy();
    let cannot = || format!("port {published} of the engine's host is not reached");
    let docker = Docker::connect_with_unix(&path, ANSWER, API_DEFAULT_VERSION).context(cannot)?;
    let docker = docker.negotiate_version().await.context(cannot)?;
    let (container, inner) = holder(&docker, published).await?;
    let options = bollard::models::ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(
            ["sh", "-c", JOIN, &inner.to_string()]
                .map(str::to_owned)
                .into(),
        ),
        ..Default::default()
    };
    let exec = docker
        .create_exec(&container, options)
        .await
        .context(cannot)?;
    let started = docker.start_exec(&exec.id, None).await.context(cannot)?;
    let StartExecResults::Attached {
        mut output,
        mut input,
    } = started
    else {
        return Err(Error::failed(cannot()));
    };
    let (mut reading, mut writing) = near.into_split();
    let there = async {
        let copied = tokio::io::copy(&mut reading, &mut input).await;
        let _ = input.shutdown().await;
        copied.map(drop).context(cannot)
    };
    let back = async {
        while let Some(part) = output.next().await {
            match part.context(cannot)? {
                LogOutput::StdErr { message } => {
                    let said = String::from_utf8_lossy(&message);
                    tracing::debug!("port {published} over there: {said}");
                }
                part => writing
                    .write_all(&part.into_bytes())
                    .await
                    .context(cannot)?,
            }
        }
        writing.shutdown().await.context(cannot)
    };
    // The answer to the last words is still to come when there are no more of them.
    tokio::pin!(there, back);
    tokio::select! {
        ended = &mut back => ended,
        ended = &mut there => { ended?; back.await }
    }
}

/// The container that publishes a port, and the port inside.
async fn holder(docker: &Docker, published: u16) -> Result<(String, u16)> {
    let containers = docker
        .list_containers(None::<ListContainersOptions>)
        .await
        .context(|| "the containers of the engine cannot be listed")?;
    for container in containers {
        let mut ports = container.ports.unwrap_or_default().into_iter();
        let port = ports.find(|port| port.public_port == Some(published));
        if let (Some(port), Some(id)) = (port, container.id) {
            return Ok((id, port.private_port));
        }
    }
    Err(Error::missing(format!(
        "no container publishes port {published} on the engine's host"
    ))
    .hint("Start the stack over there."))
}
