//! A plain script of `pg_dump` into a new database: statements one by one, and the rows that stand
//! between them as `COPY` streams. `psql` is not needed, and none of its commands is obeyed: what a
//! script may do is what the database lets its role do.

use super::script::{ends_a_statement, statements};
use super::{failed, open};
use crate::adapters::postgres::{Address, Session, admin, quote_identifier};
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use std::io::BufRead;

/// `pg_dump` writes this at the end of a complete plain dump.
pub const END_MARKER: &str = "PostgreSQL database dump complete";

/// The longest statement; `pg_dump` writes rows between them, not in them.
const LONGEST: usize = 64 << 20;

/// Rows are sent in pieces of about this size.
const PIECE: usize = 256 << 10;

/// What was run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ran {
    /// Tables that rows were copied into.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
}

/// Runs the script in the new database `database` of the server of `address`. On failure the
/// database is dropped again.
pub async fn run_beside(
    script: impl BufRead + Send,
    address: &Address,
    database: &str,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Ran> {
    let work = async {
        let session = admin::maintenance(address, &[]).await?;
        let name = quote_identifier(database);
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0");
        let doing = format!("creating database {database:?}");
        session
            .batch_execute(&sql)
            .await
            .map_err(|e| failed(&doing, &e))?;
        let session = open(&address.with_database(database)).await?;
        Box::pin(run(script, &session, events)).await
    };
    let result = interrupt.guard(work).await;
    if result.is_err() {
        admin::drop_database(address, database).await?;
    }
    result
}

async fn run(script: impl BufRead, session: &Session, events: &Events) -> Result<Ran> {
    let step = "running the script";
    events.started(step);
    let mut lines = Lines {
        script,
        line: Vec::new(),
        number: 0,
        read: 0,
    };
    let (mut ran, mut statement) = (Ran::default(), String::new());
    while lines.next()? {
        let text = lines.text()?;
        if text.starts_with('\\') && statements(&statement).is_empty() {
            obey(text, lines.number)?;
            continue;
        }
        statement.push_str(text);
        if statement.len() > LONGEST {
            return Err(lines.wrong("a statement that is too long"));
        }
        if !ends_a_statement(&statement) {
            continue;
        }
        if is_copy(&statement) {
            ran.rows += copy(&mut lines, &statement, session).await?;
            ran.tables += 1;
        } else {
            execute(session, &statement, lines.number).await?;
        }
        statement.clear();
        events.progress(step, lines.read, None, Unit::Bytes);
    }
    // Comments may follow the last statement; half a statement may not.
    if !statements(&statement).is_empty() {
        return Err(lines.wrong("a statement without its end"));
    }
    events.finished(step, format!("{} rows", ran.rows));
    Ok(ran)
}

/// The commands to `psql` that `pg_dump` writes mean nothing without `psql`; others are refused.
fn obey(line: &str, number: u64) -> Result<()> {
    let command = line.split_whitespace().next().unwrap_or_default();
    if matches!(command, "\\restrict" | "\\unrestrict") {
        return Ok(());
    }
    Err(Error::refused(format!(
        "line {number} of the script is the psql command {command}"
    ))
    .hint("A dump of one database has none; dump it again without --create, or run the script with psql yourself if you trust it."))
}

fn is_copy(statement: &str) -> bool {
    statements(statement).first().is_some_and(|text| {
        text.starts_with("COPY ") && text.to_ascii_lowercase().ends_with(" from stdin")
    })
}

async fn execute(session: &Session, statement: &str, line: u64) -> Result<()> {
    // The result sets of SELECT pg_catalog.setval(...) are of no interest.
    session.batch_execute(statement).await.map_err(|error| {
        failed(&format!("the statement that ends in line {line}"), &error).hint(
            "The live data is as before. A role or an extension that the script needs may be missing.",
        )
    })
}

/// Hands over the lines up to `\.`.
async fn copy<R: BufRead>(lines: &mut Lines<R>, statement: &str, session: &Session) -> Result<u64> {
    let sql = statements(statement).first().copied().unwrap_or_default();
    let doing = format!("the COPY that ends before line {}", lines.number);
    let sink = session
        .copy_in::<_, Bytes>(sql)
        .await
        .map_err(|e| failed(&doing, &e))?;
    let mut sink = std::pin::pin!(sink);
    let mut piece = BytesMut::with_capacity(PIECE * 2);
    loop {
        if !lines.next()? {
            // The sink is dropped unfinished, and the server takes nothing.
            return Err(lines.wrong("rows without their end"));
        }
        let end = lines.line == b"\\.\n";
        if !end {
            piece.extend_from_slice(&lines.line);
        }
        if end || piece.len() >= PIECE {
            let bytes = piece.split().freeze();
            sink.send(bytes).await.map_err(|e| failed(&doing, &e))?;
        }
        if end {
            return sink.finish().await.map_err(|e| failed(&doing, &e));
        }
    }
}

struct Lines<R> {
    script: R,
    line: Vec<u8>,
    number: u64,
    read: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<bool> {
        self.line.clear();
        let read = self
            .script
            .read_until(b'\n', &mut self.line)
            .context(|| "the script cannot be read")?;
        self.number += 1;
        self.read += read as u64;
        Ok(read > 0)
    }

    fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.line).map_err(|_| self.wrong("text that is not UTF-8"))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::bad_data(format!("the script has {what} at line {}", self.number))
            .hint("Nothing was replaced. Use another dump.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_pg_dump_itself_writes_is_passed_over() {
        obey("\\restrict abc\n", 1).unwrap();
        obey("\\unrestrict abc\n", 9).unwrap();
        for command in [
            "\\! rm -rf /\n",
            "\\connect x\n",
            "\\i /etc/passwd\n",
            "\\\n",
        ] {
            obey(command, 3).unwrap_err();
        }
        assert!(is_copy(
            "--\n-- x\n--\n\nCOPY public.t (a, b) FROM stdin;\n"
        ));
        assert!(!is_copy(
            "CREATE TABLE t (a text DEFAULT 'COPY x FROM stdin');\n"
        ));
    }
}
