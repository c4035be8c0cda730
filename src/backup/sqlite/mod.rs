//! An `SQLite` database, page by page in one read transaction, while others read and write it.
//!
//! A read transaction of a database in WAL mode sees one moment of it for as long as it lasts, and
//! holds up nobody. Inside it, `sqlite_dbpage` gives the pages and ordinary queries give the digests
//! of the tables: both of the same moment, with no temporary copy.

mod copy;
mod digest;
mod pages;

pub use digest::{digest_tables, encode_row};

use crate::adapters::sqlite;
use crate::archive::{Effort, NewMember, SqliteSource, Writer};
use crate::error::{Context, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use copy::Copy;
use pages::Pages;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// A moment of a database, held until it is dropped.
#[derive(Debug)]
pub struct Snapshot {
    name: String,
    path: PathBuf,
    connection: Connection,
}

impl Snapshot {
    /// Takes hold of the database as it is now. `name` is what it goes under in the archive.
    pub fn begin(name: &str, path: &Path) -> Result<Self> {
        let connection = sqlite::open_read_only(path)?;
        // A transaction sees the moment of its first read, not of its beginning.
        connection
            .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")
            .map_err(sqlite::because(|| {
                format!("SQLite database {} cannot be read", path.display())
            }))?;
        Ok(Self {
            name: name.to_owned(),
            path: path.to_path_buf(),
            connection,
        })
    }

    /// Writes the database into the archive.
    pub async fn take(
        self,
        writer: &Writer,
        scratch: &Path,
        events: &Events,
        interrupt: &Interrupt,
    ) -> Result<SqliteSource> {
        let taker = Taker {
            folder: format!("sqlite/{}", self.name),
            step: format!("backing up {}", self.path.display()),
            snapshot: self,
            scratch: scratch.to_path_buf(),
            writer: writer.clone(),
            events: events.clone(),
            interrupt: interrupt.clone(),
        };
        tokio::task::spawn_blocking(move || taker.run())
            .await
            .context(|| "the thread that reads SQLite died")?
    }
}

/// What the blocking thread needs.
struct Taker {
    folder: String,
    step: String,
    snapshot: Snapshot,
    scratch: PathBuf,
    writer: Writer,
    events: Events,
    interrupt: Interrupt,
}

impl Taker {
    fn run(self) -> Result<SqliteSource> {
        self.events.started(&self.step);
        let connection = &self.snapshot.connection;
        let source = if has_page_table(connection) {
            self.stream(Pages::of_transaction(connection)?, connection)?
        } else {
            self.stream_copy()?
        };
        let rows: u64 = source.tables.iter().map(|t| t.digest.rows).sum();
        self.events.finished(
            &self.step,
            format!("{} tables, {rows} rows", source.tables.len()),
        );
        Ok(source)
    }

    /// For a library that was built without `sqlite_dbpage`.
    fn stream_copy(&self) -> Result<SqliteSource> {
        self.events.note(format!(
            "this build of SQLite has no page table: {} is copied beside the archive first",
            self.snapshot.path.display()
        ));
        let copy = Copy::of(&self.snapshot.connection, &self.scratch, &self.interrupt)?;
        let pages = Pages::of_file(copy.connection(), copy.path())?;
        self.stream(pages, copy.connection())
    }

    /// Streams `pages`; the digests come from `connection`, which sees the same moment.
    fn stream(&self, mut pages: Pages<'_>, connection: &Connection) -> Result<SqliteSource> {
        let (page_size, count) = (pages.size(), pages.count());
        let runtime = tokio::runtime::Handle::current();
        let mut parts = 0_u32;
        let mut done = 0_u64;
        while let Some(raw) = pages.next_part(
            self.writer.buffer(),
            self.writer.part_size(),
            &self.interrupt,
        )? {
            done += raw.len() as u64;
            let path = format!("{}/{parts:06}.pages", self.folder);
            runtime.block_on(self.writer.add(NewMember {
                path,
                raw,
                rows: None,
                effort: Effort::Usual,
            }))?;
            parts += 1;
            let total = Some(page_size * count);
            self.events.progress(&self.step, done, total, Unit::Bytes);
        }
        Ok(SqliteSource {
            name: self.snapshot.name.clone(),
            folder: self.folder.clone(),
            page_size,
            pages: count,
            sqlite_version: rusqlite::version().to_owned(),
            parts,
            tables: digest_tables(connection, &self.interrupt)?,
        })
    }
}

fn has_page_table(connection: &Connection) -> bool {
    let known = "SELECT count(*) FROM pragma_module_list WHERE name = 'sqlite_dbpage'";
    connection
        .query_row(known, [], |row| row.get::<_, i64>(0))
        .is_ok_and(|count| count > 0)
}
