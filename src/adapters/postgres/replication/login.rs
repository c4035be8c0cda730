//! Startup in replication mode and the login, with the advice that each refusal deserves.

use super::transport::{self, Connected};
use super::wire::{ServerError, Wire, WireError};
use crate::adapters::postgres::Address;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use std::io;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

/// Connects and logs in; the whole of it must be done within the address's time limit.
pub(super) async fn log_in(address: &Address, events: &Events) -> Result<Wire> {
    let limit = address.config().get_connect_timeout().copied();
    let limit = limit.unwrap_or(Duration::from_secs(10));
    let work = async {
        let connected = transport::connect(address).await?;
        start(address, connected, events).await
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        let late = format!("no complete login within {seconds} seconds");
        Err(transport::unreachable(address, io::Error::other(late)))
    })
}

async fn start(address: &Address, connected: Connected, events: &Events) -> Result<Wire> {
    let Connected {
        stream,
        encrypted,
        end_point,
    } = connected;
    let mut login = Login {
        wire: Wire::new(stream, events.clone()),
        address,
        encrypted,
        end_point,
        proven: false,
        bound: false,
    };
    match login.run().await {
        Ok(()) => Ok(login.wire),
        Err(Refused::Ours(error)) => Err(error),
        Err(Refused::Wire(WireError::Server(said))) => Err(explain(address, &said)),
        Err(Refused::Wire(WireError::Lost(cause))) => Err(transport::unreachable(address, cause)),
        Err(Refused::Wire(error)) => {
            Err(error.during(&format!("logging in at {}", address.shown())))
        }
    }
}

/// Why there is no login.
enum Refused {
    Wire(WireError),
    Ours(Error),
}

impl<E: Into<WireError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Wire(error.into())
    }
}

struct Login<'a> {
    wire: Wire,
    address: &'a Address,
    encrypted: bool,
    end_point: Option<Vec<u8>>,
    /// Whether the server has proven that it knows the password too.
    proven: bool,
    /// Whether the login is bound to this TLS connection.
    bound: bool,
}

impl Login<'_> {
    async fn run(&mut self) -> Result<(), Refused> {
        let user = self.address.user().to_owned();
        let parameters = [
            ("user", user.as_str()),
            ("replication", "true"),
            ("application_name", "k1ops"),
            ("client_encoding", "UTF8"),
        ];
        self.wire
            .send(|buffer| frontend::startup_message(parameters, buffer))
            .await?;
        let mut scram = None;
        loop {
            match self.wire.receive().await? {
                Message::AuthenticationOk => {
                    // A server that began to prove itself must have ended, too.
                    if scram.is_some() && !self.proven || self.must_bind() && !self.bound {
                        return Err(Refused::Wire(out_of_order()));
                    }
                }
                Message::BackendKeyData(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    if !self.encrypted {
                        return Err(Refused::Ours(self.unsafe_password()));
                    }
                    let password = self.password()?;
                    self.answer(&password).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = self.password()?;
                    let hash = md5_hash(user.as_bytes(), &password, body.salt());
                    self.answer(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => {
                    scram = Some(self.begin_scram(&body).await?);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(out_of_order)?;
                    scram.update(body.data()).map_err(|e| protocol(&e))?;
                    let message = scram.message().to_vec();
                    self.wire
                        .send(|buffer| frontend::sasl_response(&message, buffer))
                        .await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram.as_mut().ok_or_else(out_of_order)?;
                    scram.finish(body.data()).map_err(|e| protocol(&e))?;
                    self.proven = true;
                }
                _ => return Err(Refused::Ours(self.unknown_method())),
            }
        }
    }

    async fn answer(&mut self, password: &[u8]) -> Result<(), WireError> {
        self.wire
            .send(|buffer| frontend::password_message(password, buffer))
            .await
    }

    async fn begin_scram(
        &mut self,
        body: &AuthenticationSaslBody,
    ) -> Result<sasl::ScramSha256, Refused> {
        let (mut plain, mut bound) = (false, false);
        let mut mechanisms = body.mechanisms();
        while let Some(mechanism) = mechanisms.next()? {
            plain |= mechanism == sasl::SCRAM_SHA_256;
            bound |= mechanism == sasl::SCRAM_SHA_256_PLUS;
        }
        let wish = self.address.config().get_channel_binding();
        let end_point = self
            .end_point
            .clone()
            .filter(|_| wish != ChannelBinding::Disable);
        let (mechanism, binding) = match end_point {
            Some(digest) if bound => (
                sasl::SCRAM_SHA_256_PLUS,
                sasl::ChannelBinding::tls_server_end_point(digest),
            ),
            _ if self.must_bind() || !plain => {
                return Err(Refused::Ours(self.unknown_method()));
            }
            // Says that the client could have bound the login, so that the server notices if
            // somebody in between took the offer away.
            Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        self.bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
        let scram = sasl::ScramSha256::new(&self.password()?, binding);
        let message = scram.message().to_vec();
        self.wire
            .send(|buffer| frontend::sasl_initial_response(mechanism, &message, buffer))
            .await?;
        Ok(scram)
    }

    fn must_bind(&self) -> bool {
        self.address.config().get_channel_binding() == ChannelBinding::Require
    }

    fn password(&self) -> Result<Vec<u8>, Refused> {
        let password = self.address.config().get_password();
        password.map(<[u8]>::to_vec).ok_or_else(|| {
            let message = format!(
                "PostgreSQL at {} asks for a password, and none is configured",
                self.address.shown()
            );
            Refused::Ours(Error::usage(message).hint("Put it into database.password_file."))
        })
    }

    fn unsafe_password(&self) -> Error {
        Error::refused(format!(
            "PostgreSQL at {} asks for the password in clear text over a connection that is not encrypted",
            self.address.shown()
        ))
        .hint("Use scram-sha-256 in pg_hba.conf, or add sslmode=require to database.url.")
    }

    fn unknown_method(&self) -> Error {
        Error::usage(format!(
            "PostgreSQL at {} asks for a login method that k1ops does not have",
            self.address.shown()
        ))
        .hint("Use scram-sha-256 for replication connections in pg_hba.conf.")
    }
}

fn out_of_order() -> WireError {
    WireError::unexpected("its part of the login in order")
}

fn protocol(error: &io::Error) -> WireError {
    WireError::Protocol(error.to_string())
}

/// What to do about a refused replication login.
fn explain(address: &Address, said: &ServerError) -> Error {
    let place = address.shown();
    let user = address.user();
    let refused = |kind| {
        let message = format!("PostgreSQL at {place} refused a replication connection: {said}");
        Error::new(kind, message)
    };
    match said.code.as_str() {
        // Translations keep the file's name.
        "28000" if said.message.contains("pg_hba.conf") => refused(ErrorKind::Missing).hint(format!(
            "Add a line such as `host replication {user} samenet scram-sha-256` to the server's pg_hba.conf and reload it; `all` does not cover replication."
        )),
        "28P01" | "28000" => refused(ErrorKind::Usage)
            .hint("Correct user or password in database.url or database.password_file."),
        "42501" => refused(ErrorKind::Missing).hint(format!(
            "Grant it as a superuser: ALTER ROLE {} REPLICATION.",
            crate::adapters::postgres::quote_identifier(user)
        )),
        "53300" if said.message.contains("max_wal_senders") => refused(ErrorKind::Missing).hint(
            "Set max_wal_senders to 2 or more in postgresql.conf and restart the server, or end another replication connection.",
        ),
        _ => refused(ErrorKind::Missing)
            .hint("Try again when the server is ready; its own log says more."),
    }
}
