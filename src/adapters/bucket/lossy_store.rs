//! A test double: an S3 store for a single object on 127.0.0.1 that does what it is told and loses its
//! answers on demand, standing in for networks that break just then, which no real store does when asked to.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// What becomes of the answer to a PUT that was done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    /// It is that the store is busy.
    Busy,
    /// The connection is closed without one.
    Answer,
}

#[derive(Default)]
struct Inner {
    content: Option<Vec<u8>>,
    writes: usize,
    losses: VecDeque<Loss>,
    hangs: bool,
    /// Connections that stay open without an answer.
    hung: Vec<TcpStream>,
}

pub(super) struct LossyStore {
    port: u16,
    inner: Arc<Mutex<Inner>>,
}

impl LossyStore {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner: Arc<Mutex<Inner>> = Arc::default();
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, inner }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The answers to the next PUTs are lost.
    pub(super) fn lose<const N: usize>(&self, losses: [Loss; N]) {
        self.inner().losses.extend(losses);
    }

    /// From now on nothing is done, nor answered.
    pub(super) fn hang(&self) {
        self.inner().hangs = true;
    }

    /// Answers again.
    pub(super) fn go_on(&self) {
        let mut inner = self.inner();
        inner.hangs = false;
        inner.hung.clear();
    }

    /// How many PUTs were done.
    pub(super) fn writes(&self) -> usize {
        self.inner().writes
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

fn serve(mut stream: TcpStream, inner: &Mutex<Inner>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut inner = inner.lock().unwrap();
    if inner.hangs {
        inner.hung.push(stream);
        return;
    }
    let tag = |inner: &Inner| format!("\"{}\"", inner.writes);
    let answer = match head.split(' ').next().unwrap() {
        "PUT" => {
            let taken = header("if-none-match").is_some() && inner.content.is_some();
            let other = header("if-match").is_some_and(|of| of != tag(&inner));
            if taken || other {
                plain("412 Precondition Failed", "")
            } else {
                inner.content = Some(body);
                inner.writes += 1;
                match inner.losses.pop_front() {
                    None => plain("200 OK", &format!("ETag: {}\r\n", tag(&inner))),
                    Some(Loss::Busy) => plain("503 Slow Down", ""),
                    Some(Loss::Answer) => return,
                }
            }
        }
        "DELETE" => {
            inner.content = None;
            plain("204 No Content", "")
        }
        method => match &inner.content {
            None => plain("404 Not Found", ""),
            Some(content) => {
                let modified = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
                let mut answer = format!(
                    "HTTP/1.1 200 OK\r\nETag: {}\r\nLast-Modified: {modified}\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    tag(&inner),
                    content.len()
                )
                .into_bytes();
                if method == "GET" {
                    answer.extend_from_slice(content);
                }
                answer
            }
        },
    };
    let _ = stream.write_all(&answer);
}

fn plain(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
        .into_bytes()
}
