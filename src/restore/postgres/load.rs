//! Rows from an archive into tables, part after part.

use super::failed;
use super::post_data::{plain_name, table_key};
use crate::adapters::postgres::Session;
use crate::archive::{Archive, Member, PostgresSource, PostgresTable};
use crate::backup::postgres::{Roots, large_objects};
use crate::error::Result;
use crate::event::{Events, Unit};
use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Bytes that are handed to the server at once.
const PIECE: usize = 256 << 10;

/// Makes the large objects and fills them.
pub(super) async fn large_objects(archive: &Archive, session: &Session) -> Result<()> {
    for folder in [large_objects::DEFINITIONS, large_objects::FOLDER] {
        for member in archive.manifest().members_in(folder) {
            let path = member
                .path
                .strip_suffix(member.codec.suffix())
                .unwrap_or(&member.path);
            let sql = archive.read_text(path)?;
            let sql = create_missing(&sql) + &sql;
            session
                .batch_execute(&sql)
                .await
                .map_err(|e| failed("restoring large objects", &e))?;
        }
    }
    Ok(())
}

/// An archive may have content for objects that nothing in it makes: `pg_dump` 17 no longer does where older
/// ones do, and the first archives of such servers lack it. Then they are made, and belong to whoever restores.
fn create_missing(sql: &str) -> String {
    let mut oids: Vec<u32> = sql
        .lines()
        .filter_map(|line| {
            let arguments = line.strip_prefix("SELECT pg_catalog.lo_put(")?;
            arguments.split(',').next()?.parse().ok()
        })
        .collect();
    oids.dedup();
    let create = |oid: &u32| {
        format!(
            "SELECT pg_catalog.lo_create({oid}) WHERE NOT EXISTS \
             (SELECT FROM pg_catalog.pg_largeobject_metadata WHERE oid = {oid});\n"
        )
    };
    oids.iter().map(create).collect()
}

/// A part of a table's rows.
pub(super) struct Part {
    pub(super) member: Member,
    /// Schema and name, as they are.
    pub(super) table: String,
    /// The tables that its rows may go to, and those above them, as keys.
    pub(super) fills: Arc<[String]>,
    /// The statement that takes it in.
    pub(super) copy: Arc<str>,
}

/// All parts: those of tables whose indexes cost most come first, since these can be begun only
/// then; then those of the largest tables.
pub(super) fn parts(
    archive: &Archive,
    source: &PostgresSource,
    roots: &Roots,
    indexing: &HashMap<String, u64>,
) -> VecDeque<Part> {
    let mut by_folder: HashMap<&str, Vec<&Member>> = HashMap::new();
    for member in archive.manifest().members_in("postgres/data") {
        if let Some((folder, _)) = member.path.rsplit_once('/') {
            by_folder.entry(folder).or_default().push(member);
        }
    }
    let size = |members: &[&Member]| members.iter().map(|m| m.raw_size).sum::<u64>();
    let mut tables: Vec<_> = source
        .tables
        .iter()
        .filter_map(|table| Some((table, by_folder.remove(table.folder.as_str())?)))
        .collect();
    let cost = |table: &PostgresTable| indexing.get(&table_key(table)).copied();
    tables.sort_by_key(|(table, members)| std::cmp::Reverse((cost(table), size(members))));
    let mut parts = VecDeque::new();
    for (table, members) in tables {
        let copy: Arc<str> = roots.copy_in(table).into();
        let fills: Arc<[String]> = match roots.of(&table.schema, &table.name) {
            Some(root) => root.members.iter().map(|name| plain_name(name)).collect(),
            None => [table_key(table)].into(),
        };
        for member in members {
            let table = format!("{}.{}", table.schema, table.name);
            parts.push_back(Part {
                member: member.clone(),
                table,
                fills: fills.clone(),
                copy: copy.clone(),
            });
        }
    }
    parts
}

/// Loads parts and says how far it is.
pub(super) struct Loader {
    archive: Archive,
    total: u64,
    done: AtomicU64,
    events: Events,
    step: String,
}

impl Loader {
    pub(super) fn new(
        archive: &Archive,
        parts: &VecDeque<Part>,
        events: &Events,
        step: &str,
    ) -> Self {
        Self {
            archive: archive.clone(),
            total: parts.iter().map(|p| p.member.raw_size).sum(),
            done: AtomicU64::new(0),
            events: events.clone(),
            step: step.to_owned(),
        }
    }

    pub(super) async fn load(&self, session: &Session, part: &Part) -> Result<()> {
        let doing = format!("loading table {}", part.table);
        let sink = session
            .copy_in::<_, Bytes>(&*part.copy)
            .await
            .map_err(|e| failed(&doing, &e))?;
        pin_mut!(sink);
        let mut pieces = self.decode(&part.member)?;
        while let Some(piece) = pieces.recv().await {
            // An error here leaves the sink unfinished, and the server takes nothing of the part.
            sink.feed(piece?).await.map_err(|e| failed(&doing, &e))?;
        }
        let rows = sink.finish().await.map_err(|e| failed(&doing, &e))?;
        let expected = part.member.rows.map_or(0, |r| r.rows);
        if rows != expected {
            return Err(self.archive.damaged(
                &part.member,
                &format!("the server took {rows} rows, the manifest says {expected}"),
            ));
        }
        let done = self.done.fetch_add(part.member.raw_size, Ordering::Relaxed);
        let done = done + part.member.raw_size;
        self.events
            .progress(&self.step, done, Some(self.total), Unit::Bytes);
        Ok(())
    }

    /// Decompresses a member on a thread of its own, a few pieces ahead of the server.
    fn decode(&self, member: &Member) -> Result<mpsc::Receiver<Result<Bytes>>> {
        let (pieces, received) = mpsc::channel(4);
        let mut reader = self.archive.reader(member)?;
        let (archive, member) = (self.archive.clone(), member.clone());
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let piece = match fill(&mut reader, &mut piece) {
                    Ok(0) => return,
                    Ok(length) => {
                        piece.truncate(length);
                        Ok(Bytes::from(piece))
                    }
                    Err(error) => Err(archive.cannot_read(&member, error)),
                };
                let last = piece.is_err();
                if pieces.blocking_send(piece).is_err() || last {
                    return;
                }
            }
        });
        Ok(received)
    }
}

/// Reads until `buffer` is full or the end is reached.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_an_object_that_nothing_makes_has_it_made_once() {
        let put = |oid: u32, at: u32| format!("SELECT pg_catalog.lo_put({oid}, {at}, '\\x00');\n");
        let sql = put(7, 0) + &put(7, 524_288) + &put(4_000_000_000, 0);
        let made = create_missing(&sql);
        assert_eq!(made.lines().count(), 2, "{made}");
        assert!(made.starts_with("SELECT pg_catalog.lo_create(7) WHERE NOT EXISTS"));
        assert!(made.contains("lo_create(4000000000)"));
        assert_eq!(create_missing("GRANT SELECT ON LARGE OBJECT 7 TO a;\n"), "");
    }
}
