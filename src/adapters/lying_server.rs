//! A test double: an HTTP server on 127.0.0.1 that misbehaves on demand, standing in for networks
//! and mirrors that break, which no real server does when asked to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How one request is answered. When the script is at its end, requests are answered wholly.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// As a good server would, ranges included.
    Whole,
    /// So, but the connection is cut after this many bytes of the body.
    CutAfter(usize),
    /// The connection is closed without an answer.
    Refuse,
    /// With this status and no file.
    Status(u16),
    /// Wholly, whatever range was asked for.
    IgnoreRange,
    /// With the beginning of the file, claimed to be a range.
    WrongRange,
    /// With another file, which has another entity tag.
    Changed(Vec<u8>),
}

pub(crate) struct LyingServer {
    port: u16,
    requests: Arc<Mutex<Vec<Option<String>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl LyingServer {
    /// Serves `content` under every path but those that end in a checksum's name.
    pub(crate) async fn start(content: Vec<u8>, answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let mut answers = VecDeque::from(answers);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = read_head(&mut stream).await;
                if head.contains(".sha256 ") || head.contains(".sha1 ") {
                    send(&mut stream, "404 Not Found", "", b"", 0).await;
                    continue;
                }
                let range = header(&head, "range");
                seen.lock().unwrap().push(range.clone());
                let answer = answers.pop_front().unwrap_or(Answer::Whole);
                serve(&mut stream, &content, answer, range).await;
            }
        });
        Self {
            port,
            requests,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// The `Range` header of each request so far.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for LyingServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: &mut TcpStream, content: &[u8], answer: Answer, range: Option<String>) {
    let start = range
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .unwrap_or(0usize);
    let (tag, partial) = ("ETag: \"one\"\r\n", "206 Partial Content");
    let ranged = |start: usize| {
        let last = content.len() - 1;
        format!(
            "{tag}Content-Range: bytes {start}-{last}/{}\r\n",
            content.len()
        )
    };
    let good = |cut: usize| match start {
        0 => ("200 OK", tag.to_owned(), content.to_vec(), cut),
        start => (partial, ranged(start), content[start..].to_vec(), cut),
    };
    let (status, headers, body, cut) = match answer {
        Answer::Whole => good(usize::MAX),
        Answer::CutAfter(bytes) => good(bytes),
        Answer::Refuse => return,
        Answer::Status(code) => {
            let status = format!("{code} No");
            return send(stream, &status, "", b"", 0).await;
        }
        Answer::IgnoreRange => ("200 OK", tag.to_owned(), content.to_vec(), usize::MAX),
        Answer::WrongRange => (partial, ranged(0), content.to_vec(), usize::MAX),
        Answer::Changed(other) => ("200 OK", "ETag: \"two\"\r\n".into(), other, usize::MAX),
    };
    send(stream, status, &headers, &body, cut).await;
}

async fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8], cut: usize) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body[..length.min(cut)]).await;
    let _ = stream.shutdown().await;
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}
