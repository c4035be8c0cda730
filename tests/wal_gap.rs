//! A piece of the write-ahead log that the server recycled before it was received: it is told, the log goes on
//! behind it, and a backup makes it good.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/logged_stack.rs"]
mod logged_stack;
mod support;

use cluster::succeed;
use logged_stack::{Stack, eventually, now};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// The slot of the stack.
const SLOT: &str = "k1ops_k1";

/// A stack whose server keeps no more of its log than it must.
fn stack_that_forgets() -> Stack {
    Stack::new("max_wal_size=32MB\nmin_wal_size=32MB\nwal_keep_size=0")
}

/// Without its slot, the server owes nobody anything.
fn drop_slot(stack: &Stack) {
    eventually("the slot is free", || {
        let output = stack.k1ops(&["wal", "drop-slot"]).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    });
}

/// Makes the server recycle everything that it has written until now.
fn recycle(stack: &Stack) {
    succeed(
        &mut stack
            .live
            .pgbench(&["--initialize", "--quiet", "--scale=10"]),
    );
    for _ in 0..2 {
        stack.live.sql("SELECT pg_switch_wal()");
        stack.live.sql("CHECKPOINT");
    }
}

/// Waits until the log comes in again, and answers what was lost before.
fn wait_until_it_goes_on(stack: &Stack) -> Value {
    eventually("the log comes in again", || {
        let wal = stack.json(&["status"], 1)["wal"].clone();
        let young = wal["rpo_seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds < 5.0);
        if young && wal["lost"].is_object() {
            Ok(wal["lost"].clone())
        } else {
            let log = stack.log();
            let end: Vec<&str> = log.lines().rev().take(9).collect();
            Err(format!("{wal}, newest first: {end:#?}"))
        }
    })
}

/// A session of the replication protocol, spoken by hand.
struct ByHand(TcpStream);

impl ByHand {
    fn open(port: u16) -> Self {
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let words = b"\x00\x03\x00\x00user\0postgres\0replication\0true\0\0";
        let length = u32::try_from(words.len() + 4).unwrap();
        server.write_all(&length.to_be_bytes()).unwrap();
        server.write_all(words).unwrap();
        let mut session = Self(server);
        session.read_until(b'Z');
        session
    }

    /// The contents of the next message of this kind.
    fn read_until(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes(head[1..].try_into().unwrap());
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.0.read_exact(&mut body).unwrap();
            if head[0] == kind {
                return body;
            }
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// Asks for the log from `position`, which is recycled, and says in the same breath that everything before it
/// is safe: the server then believes that first, and sets its slot back.
fn set_back(port: u16, position: u64) {
    let mut session = ByHand::open(port);
    let (high, low) = (position >> 32, position & 0xFFFF_FFFF);
    let ask = format!("START_REPLICATION SLOT \"{SLOT}\" PHYSICAL {high:X}/{low:X} TIMELINE 1\0");
    let safe = position.to_be_bytes();
    let said = [b"r", &safe[..], &safe, &[0; 8], &[0; 8], b"\0"].concat();
    let both = [message(b'Q', ask.as_bytes()), message(b'd', &said)].concat();
    session.0.write_all(&both).unwrap();
    let error = session.read_until(b'E');
    assert!(String::from_utf8_lossy(&error).contains("58P01"));
}

#[test]
fn a_slot_that_begins_in_what_is_gone_is_made_anew() {
    let stack = stack_that_forgets();
    let streamer = stack.stream_by_slot();
    stack.json(&["backup", "--physical"], 0);
    drop(streamer);
    drop_slot(&stack);
    recycle(&stack);
    let make = format!("SELECT pg_create_physical_replication_slot('{SLOT}', true)");
    stack.live.sql(&make);
    let segments = stack.segments();
    let newest = segments.last().unwrap().file_stem().unwrap();
    let number = u64::from_str_radix(&newest.to_str().unwrap()[16..], 16).unwrap();
    set_back(stack.live.port, (number + 1) << 24);

    let streamer = stack.stream();
    stack
        .live
        .sql("CREATE TABLE after_the_gap AS SELECT 1 AS i");
    let lost = wait_until_it_goes_on(&stack);
    assert!(stack.log().contains(lost["segment"].as_str().unwrap()));
    assert!(stack.log().contains("made the replication slot"));
    drop(streamer);
}

#[test]
fn what_the_server_recycled_is_a_gap_that_is_told_until_a_backup_is_behind_it() {
    let stack = stack_that_forgets();
    let streamer = stack.stream_by_slot();
    stack.json(&["backup", "--physical"], 0);
    drop(streamer);
    drop_slot(&stack);
    assert_eq!(stack.json(&["wal", "drop-slot"], 0)["removed"], false);
    recycle(&stack);
    let streamer = stack.stream();
    eventually("the gap is told", || {
        let log = stack.log();
        if log.contains("there is a gap") {
            Ok(())
        } else {
            Err(log)
        }
    });
    stack
        .live
        .sql("CREATE TABLE after_the_gap AS SELECT 1 AS i");
    let moment = now(&stack.live);
    let lost = wait_until_it_goes_on(&stack);
    stack.live.sql("SELECT pg_switch_wal()");
    let said = eventually("verify finds the gap", || {
        let output = stack.k1ops(&["verify"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(4) {
            Ok(said)
        } else {
            Err(said)
        }
    });
    assert!(said.contains("gap: "), "{said}");
    assert!(stack.log().contains(lost["segment"].as_str().unwrap()));
    // One by each receiver: asking for what is gone has not spoilt the slot.
    let made = stack.log().matches("made the replication slot").count();
    assert_eq!(made, 2, "{}", stack.log());
    let said = stack.says(&["restore", "--to", &moment, "--dry-run"], 4);
    assert!(said.contains("the write-ahead log has a gap"), "{said}");
    let found = stack.k1ops(&["doctor", "--json"]).output().unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("the write-ahead log has a gap"), "{found}");

    stack.json(&["backup", "--physical"], 0);
    assert!(stack.json(&["status"], 1)["wal"]["lost"].is_null());
    stack
        .live
        .sql("CREATE TABLE after_the_backup AS SELECT 1 AS i");
    let moment = now(&stack.live);
    stack.wait_for(&moment);

    // Nor is it told again when the connection is lost: what is behind it is received already.
    let receivers = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
    assert_eq!(stack.live.sql(receivers), "1");
    stack
        .live
        .sql("CREATE TABLE after_the_connection AS SELECT 1 AS i");
    stack.wait_for(&now(&stack.live));
    assert!(stack.json(&["status"], 1)["wal"]["lost"].is_null());
    drop(streamer);
}
