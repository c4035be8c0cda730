//! A double of a PostgreSQL server: it hands everything to a real one, but misbehaves at a given
//! point of the stream. It stands for networks and servers that die, which real ones do too seldom.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// How it misbehaves.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The connection is cut after so many bytes of backup data.
    CutAfter(usize),
    /// After so many bytes of backup data the stream ends as if it were complete, but nothing says
    /// where the backup ended.
    EndAfter(usize),
    /// After so many bytes of backup data nothing more comes, but the connection stays.
    StallAfter(usize),
    /// The whole stream, but the manifest never comes: COPY ends before it.
    NoManifest,
    /// The whole stream and the manifest, but the end position never comes.
    NoEndPosition,
}

/// A listening double, joined when it is dropped.
pub struct Double {
    pub port: u16,
    /// Told when nothing more comes.
    pub stalled: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Double {
    /// A double for one connection to the real server on `port`.
    pub fn of(port: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let (reached, stalled) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let upward = std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            // Either side may end the conversation.
            let _ = misbehave(&server, &client, fault);
            if matches!(fault, Fault::StallAfter(_)) {
                let _ = reached.send(());
            } else {
                let _ = client.shutdown(Shutdown::Both);
            }
            // It ends when the client has gone.
            upward.join().unwrap();
            let _ = server.shutdown(Shutdown::Both);
        });
        Self {
            port: own,
            stalled,
            thread: Some(thread),
        }
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let thread = self.thread.take().unwrap();
        if !std::thread::panicking() {
            thread.join().unwrap();
        }
    }
}

fn misbehave(mut server: &TcpStream, mut client: &TcpStream, fault: Fault) -> std::io::Result<()> {
    let (mut sent, mut copy_ended) = (0, false);
    loop {
        let mut head = [0; 5];
        server.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
        let mut body = vec![0; length];
        server.read_exact(&mut body)?;
        let data = head[0] == b'd';
        match fault {
            Fault::CutAfter(limit) if data && sent + length > limit => {
                client.write_all(&head)?;
                return client.write_all(&body[..length / 2]);
            }
            Fault::StallAfter(limit) if data && sent + length > limit => return Ok(()),
            Fault::EndAfter(limit) if data && sent + length > limit => return end(client),
            Fault::NoManifest if data && body[0] == b'm' => return end(client),
            // Rows after the COPY are the end position.
            Fault::NoEndPosition if head[0] == b'D' && copy_ended => continue,
            _ => {}
        }
        sent += if data { length } else { 0 };
        copy_ended |= head[0] == b'c';
        client.write_all(&head)?;
        client.write_all(&body)?;
    }
}

/// `CopyDone`, `CommandComplete`, `ReadyForQuery`: what a complete backup ends with, too.
fn end(mut client: &TcpStream) -> std::io::Result<()> {
    client.write_all(b"c\0\0\0\x04")?;
    client.write_all(b"C\0\0\0\x10BASE_BACKUP\0")?;
    client.write_all(b"Z\0\0\0\x05I")
}
