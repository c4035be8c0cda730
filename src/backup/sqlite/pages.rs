//! The pages of a database, a part at a time.

use crate::adapters::sqlite::because;
use crate::error::{Context, Error, Result};
use crate::interrupt::Interrupt;
use rusqlite::{CachedStatement, Connection};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Pages of one moment, in order.
pub(super) struct Pages<'a> {
    origin: Origin<'a>,
    size: usize,
    count: u64,
    next: u64,
}

enum Origin<'a> {
    /// The page table, inside the connection's transaction.
    Table(CachedStatement<'a>),
    /// A file that nobody writes.
    File(File),
}

impl<'a> Pages<'a> {
    /// The pages of the transaction that `connection` is in.
    pub(super) fn of_transaction(connection: &'a Connection) -> Result<Self> {
        // Looked up by number: the table answers an equality at once, and a range by scanning.
        let statement = connection
            .prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")
            .context(|| "SQLite's page table cannot be read")?;
        Ok(Self {
            origin: Origin::Table(statement),
            size: number(connection, "page_size")?,
            count: number(connection, "page_count")?,
            next: 1,
        })
    }

    /// The pages of the closed file at `path`, whose settings `connection` has read.
    pub(super) fn of_file(connection: &Connection, path: &Path) -> Result<Self> {
        let file = File::open(path).context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self {
            origin: Origin::File(file),
            size: number(connection, "page_size")?,
            count: number(connection, "page_count")?,
            next: 1,
        })
    }

    /// Bytes in a page.
    pub(super) fn size(&self) -> u64 {
        self.size as u64
    }

    /// How many pages there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The next pages, at most about `most` bytes of them, in `part`, which is empty; `None` after
    /// the last.
    pub(super) fn next_part(
        &mut self,
        mut part: Vec<u8>,
        most: usize,
        interrupt: &Interrupt,
    ) -> Result<Option<Vec<u8>>> {
        interrupt.check()?;
        let left = self.count + 1 - self.next;
        let pages = (most / self.size).max(1) as u64;
        let pages = pages.min(left);
        if pages == 0 {
            return Ok(None);
        }
        for _ in 0..pages {
            self.read_next(&mut part)?;
        }
        Ok(Some(part))
    }

    fn read_next(&mut self, part: &mut Vec<u8>) -> Result<()> {
        let page = self.next;
        let cannot = || format!("page {page} of the database cannot be read");
        let before = part.len();
        match &mut self.origin {
            Origin::Table(statement) => {
                let number = i64::try_from(page).context(cannot)?;
                let mut rows = statement.query([number]).map_err(because(cannot))?;
                if let Some(row) = rows.next().map_err(because(cannot))? {
                    let data = row.get_ref(0).context(cannot)?;
                    part.extend_from_slice(data.as_blob().context(cannot)?);
                }
            }
            Origin::File(file) => {
                part.resize(before + self.size, 0);
                let offset = (page - 1) * self.size as u64;
                file.read_exact_at(&mut part[before..], offset)
                    .context(cannot)?;
            }
        }
        if part.len() - before != self.size {
            return Err(Error::bad_data(cannot()).hint(
                "The live database is damaged: `PRAGMA integrity_check` says how, and a restore of an older backup puts it right.",
            ));
        }
        self.next += 1;
        Ok(())
    }
}

fn number<T: TryFrom<i64>>(connection: &Connection, pragma: &str) -> Result<T>
where
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let value: i64 = connection
        .pragma_query_value(None, pragma, |row| row.get(0))
        .context(|| format!("SQLite does not tell its {pragma}"))?;
    T::try_from(value).context(|| format!("SQLite's {pragma} is not what it should be"))
}
