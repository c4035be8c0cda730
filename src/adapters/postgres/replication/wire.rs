//! Messages over one connection: framing, and what may arrive at any time. It does not know what
//! the messages are for.

use crate::error::{Error, Result};
use crate::event::Events;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Message};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A message's length is not trusted: none that belongs here is larger.
const LARGEST_MESSAGE: u32 = 64 << 20;

/// What is asked of the operating system at once.
const READ_AHEAD: usize = 256 << 10;

/// A byte stream to the server: TCP, a local socket, or TLS over either.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// What the server says when it refuses something.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerError {
    pub(super) severity: String,
    pub(super) code: String,
    pub(super) message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl ServerError {
    fn read(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut error = Self::default();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // The severity in English, whatever the server's language.
                b'V' => error.severity = value,
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        Ok(error)
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        for extra in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, " ({extra})")?;
        }
        Ok(())
    }
}

/// Why a conversation ended.
#[derive(Debug)]
pub(super) enum WireError {
    /// The server refused, with a reason.
    Server(Box<ServerError>),
    /// The connection broke, or was closed without a word.
    Lost(io::Error),
    /// The server said something that does not belong here.
    Protocol(String),
}

impl WireError {
    pub(super) fn unexpected(expected: &str) -> Self {
        Self::Protocol(format!("the server did not send {expected}"))
    }

    /// The error of an action that has no advice of its own to give.
    pub(super) fn during(self, doing: &str) -> Error {
        match self {
            Self::Server(error) => Error::failed(format!("{doing} failed: {error}")),
            Self::Lost(error) => Error::failed(format!("{doing} failed: the connection was lost"))
                .because(error)
                .hint("Run it again; if it stays so, the server's log says why it closed the connection."),
            Self::Protocol(what) => Error::failed(format!("{doing} failed: {what}"))
                .hint("Check that database.url leads to a PostgreSQL server itself and not to a pooler."),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// One connection.
pub(super) struct Wire {
    stream: Box<dyn Transport>,
    input: BytesMut,
    events: Events,
    server_version: String,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("server_version", &self.server_version)
            .finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Transport>, events: Events) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(READ_AHEAD),
            events,
            server_version: String::new(),
        }
    }

    /// What the server told of its version, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub(super) fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Sends the messages that `write` puts into the buffer.
    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), WireError> {
        let mut output = BytesMut::new();
        write(&mut output)?;
        self.stream.write_all(&output).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next message. Errors of the server are errors here; its warnings become events.
    pub(super) async fn receive(&mut self) -> Result<Message, WireError> {
        loop {
            self.check_length()?;
            self.take_both_as_out();
            let parsed = Message::parse(&mut self.input)
                .map_err(|error| WireError::Protocol(error.to_string()))?;
            match parsed {
                Some(Message::ErrorResponse(body)) => {
                    let error = ServerError::read(body.fields())?;
                    return Err(WireError::Server(Box::new(error)));
                }
                Some(Message::NoticeResponse(body)) => {
                    let notice = ServerError::read(body.fields())?;
                    if notice.severity == "WARNING" {
                        self.events.warning(format!("the server says: {notice}"));
                    }
                }
                Some(Message::ParameterStatus(body)) => {
                    if body.name()? == "server_version" {
                        body.value()?.clone_into(&mut self.server_version);
                    }
                }
                Some(Message::NotificationResponse(_)) => {}
                Some(message) => return Ok(message),
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> Result<(), WireError> {
        self.input.reserve(READ_AHEAD);
        if self.stream.read_buf(&mut self.input).await? == 0 {
            return Err(WireError::Lost(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )));
        }
        Ok(())
    }

    /// A stream in both directions is answered as one out of the server is, by another letter, which the
    /// crate does not know.
    fn take_both_as_out(&mut self) {
        if let Some(tag @ b'W') = self.input.first_mut() {
            *tag = b'H';
        }
    }

    fn check_length(&self) -> Result<(), WireError> {
        let Some(length) = self.input.get(1..5) else {
            return Ok(());
        };
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        if length > LARGEST_MESSAGE {
            let what = format!("the server announced a message of {length} bytes");
            return Err(WireError::Protocol(what));
        }
        Ok(())
    }
}

/// The columns of a row, as text.
pub(super) fn texts(row: &DataRowBody) -> Result<Vec<Option<String>>, WireError> {
    let buffer = row.buffer();
    let mut ranges = row.ranges();
    let mut values = Vec::new();
    while let Some(range) = ranges.next()? {
        let text = range
            .and_then(|range| buffer.get(range))
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        values.push(text);
    }
    Ok(values)
}
