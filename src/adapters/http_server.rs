//! A small HTTP server that answers `GET` with text.

use crate::error::{Context, ErrorKind, Result};
use crate::interrupt::Interrupt;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; more wait.
const CONNECTIONS: usize = 16;
/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);
/// How long one connection may last.
const CONNECTION: Duration = Duration::from_secs(60);

/// What is answered.
#[derive(Debug, Clone)]
pub struct Page {
    /// The status.
    pub status: StatusCode,
    /// The type of the text.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

impl Page {
    /// Plain text.
    #[must_use]
    pub fn plain(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            text: text.into(),
        }
    }
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
    /// Listens. Fails with [`ErrorKind::Missing`] if the address is taken or not of this host.
    pub async fn listen(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.context_kind(ErrorKind::Missing, || format!("{address} cannot be used"))?;
        Ok(Self(listener))
    }

    /// Where it listens, with the port that it was given.
    pub fn address(&self) -> Result<SocketAddr> {
        self.0.local_addr().context(|| "an address cannot be read")
    }

    /// Answers each path with the page that `page` makes of it, until it is interrupted.
    pub async fn serve<F, P>(self, page: F, interrupt: &Interrupt) -> Result<()>
    where
        F: Fn(String) -> P + Send + Sync + Clone + 'static,
        P: Future<Output = Page> + Send,
    {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = interrupt.raised() => return Ok(()),
                accepted = self.0.accept() => accepted,
            };
            // A client that has gone already is no reason to end; too many open files may pass.
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = room.clone().acquire_owned().await else {
                return Ok(());
            };
            let page = page.clone();
            tokio::spawn(async move {
                let answering = service_fn(|request| answer(request, page.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS)
                    .serve_connection(TokioIo::new(stream), answering);
                let _ = tokio::time::timeout(CONNECTION, connection).await;
                drop(place);
            });
        }
    }
}

async fn answer<F, P>(
    request: Request<Incoming>,
    page: F,
) -> std::result::Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(String) -> P,
    P: Future<Output = Page>,
{
    let page = if matches!(*request.method(), Method::GET | Method::HEAD) {
        page(request.uri().path().to_owned()).await
    } else {
        Page::plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n")
    };
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() = page.status;
    let kind = hyper::header::HeaderValue::from_static(page.content_type);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
