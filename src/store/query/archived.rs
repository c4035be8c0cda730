//! The K1 tables of an archive, in a private `SQLite` file that lasts as long as the question.
//!
//! Only these tables are read: an `SQLite` database page by page as it was, rows of a `PostgreSQL`
//! database as its `COPY` wrote them. Both are streamed. The stack is not touched.

use crate::adapters::fs::create_private_file;
use crate::adapters::sqlite;
use crate::archive::{Archive, PostgresTable, SqliteSource};
use crate::error::{Context, Error, Result};
use crate::event::{Events, Unit};
use crate::interrupt::Interrupt;
use crate::store::sqlite::create_tables;
use crate::store::{Place, Store};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use tempfile::TempDir;

const STEP: &str = "reading the K1 tables of the archive";

/// A store that was read from an archive. Dropping it removes the file.
#[derive(Debug)]
pub struct Archived {
    place: Place,
    _folder: TempDir,
}

impl Archived {
    /// Reads the K1 tables of `archive`.
    pub async fn load(archive: &Archive, events: &Events, interrupt: &Interrupt) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("k1ops-query-")
            .tempdir()
            .context(|| "a folder for the archive's tables cannot be made")?;
        let path = folder.path().join("k1.db");
        let loading = Loading {
            archive: archive.clone(),
            events: events.clone(),
            interrupt: interrupt.clone(),
        };
        let place = Place::Sqlite(path.clone());
        events.started(STEP);
        tokio::task::spawn_blocking(move || loading.run(&path))
            .await
            .context(|| "reading the archive broke off")??;
        // Brings the tables of an older k1ops up to date, and makes the indexes.
        Store::open(&place, &Events::silent()).await?;
        events.progress(STEP, 1, Some(1), Unit::Items);
        Ok(Self {
            place,
            _folder: folder,
        })
    }

    /// Where the tables are.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }
}

struct Loading {
    archive: Archive,
    events: Events,
    interrupt: Interrupt,
}

impl Loading {
    fn run(&self, path: &Path) -> Result<()> {
        let manifest = self.archive.manifest();
        let tables: Vec<&PostgresTable> = manifest
            .postgres()
            .into_iter()
            .flat_map(|postgres| &postgres.tables)
            .filter(|t| t.schema == "public" && TABLES.iter().any(|(name, _)| *name == t.name))
            .collect();
        if !tables.is_empty() {
            return self.rows(path, &tables);
        }
        if let Some(source) = manifest.sqlite().find(|source| source.name == "k1") {
            return self.pages(path, source);
        }
        let physical = manifest.physical().next().is_some();
        let error = Error::missing(format!(
            "archive {} has no K1 tables that can be read without restoring it",
            self.archive.path().display()
        ));
        Err(error.hint(if physical {
            "It holds a PostgreSQL cluster's files: restore them into another place, and ask there."
        } else {
            "Ask another archive; `k1ops list` shows what each holds."
        }))
    }

    fn pages(&self, path: &Path, source: &SqliteSource) -> Result<()> {
        let cannot = || format!("{} cannot be written", path.display());
        let mut file = create_private_file(path)?;
        let total = Some(source.page_size * source.pages);
        let mut done = 0;
        self.archive
            .each_piece(&source.folder, &self.interrupt, |piece| {
                done += piece.len() as u64;
                self.events.progress(STEP, done, total, Unit::Bytes);
                file.write_all(piece).context(cannot)
            })
    }

    fn rows(&self, path: &Path, tables: &[&PostgresTable]) -> Result<()> {
        drop(create_private_file(path)?);
        let db = sqlite::open_existing(path)?;
        let cannot = || format!("{} cannot be written", path.display());
        // The file is thrown away: nothing in it has to survive anything.
        db.execute_batch(
            "PRAGMA foreign_keys = off; PRAGMA journal_mode = off; PRAGMA synchronous = off;",
        )
        .context(cannot)?;
        create_tables(&db, &path.display().to_string())?;
        db.execute_batch("BEGIN").context(cannot)?;
        let total = Some(tables.iter().map(|table| table.digest.rows).sum());
        let mut done = 0;
        // In the order of the schema, so that a row comes after what it refers to.
        for (name, columns) in TABLES {
            if let Some(table) = tables.iter().find(|table| table.name == *name) {
                self.table(&db, table, columns, &mut done, total)?;
            }
        }
        db.execute_batch("COMMIT").context(cannot)
    }

    fn table(
        &self,
        db: &Connection,
        table: &PostgresTable,
        columns: &[(&str, Form)],
        done: &mut u64,
        total: Option<u64>,
    ) -> Result<()> {
        let layout = layout(table, columns);
        let names: Vec<&str> = layout.iter().flatten().map(|(name, _)| *name).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let sql = format!(
            "INSERT INTO {} ({}) VALUES ({marks})",
            table.name,
            names.join(", ")
        );
        let mut insert = db
            .prepare(&sql)
            .context(|| format!("rows of {} cannot be taken", table.name))?;
        for member in self.archive.manifest().members_in(&table.folder) {
            let mut reader = BufReader::with_capacity(256 << 10, self.archive.reader(member)?);
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = reader
                    .read_until(b'\n', &mut line)
                    .map_err(|e| self.archive.cannot_read(member, e))?;
                if read == 0 {
                    break;
                }
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                let wrong = |what: &str| self.archive.damaged(member, what);
                let values = row(&line, &layout).map_err(|what| wrong(&what))?;
                insert
                    .execute(params_from_iter(values))
                    .map_err(|e| wrong(&format!("a row of {} is refused: {e}", table.name)))?;
                *done += 1;
                if done.is_multiple_of(10_000) {
                    self.interrupt.check()?;
                    self.events.progress(STEP, *done, total, Unit::Items);
                }
            }
        }
        Ok(())
    }
}

/// How a value is written in `SQLite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Moment,
    Number,
    Integer,
    Flag,
}

type Columns = &'static [(&'static str, Form)];

/// The columns of the K1 tables, in the order of their definition.
const TABLES: [(&str, Columns); 4] = [
    (
        "k1_workflow_metadata",
        &[
            ("workflow_id", Form::Text),
            ("conductor_execution_id", Form::Text),
            ("created_at", Form::Moment),
            ("updated_at", Form::Moment),
            ("user_id", Form::Text),
            ("source", Form::Text),
            ("tags", Form::Text),
            ("custom_metadata", Form::Text),
        ],
    ),
    (
        "k1_execution_metrics",
        &[
            ("metric_id", Form::Text),
            ("workflow_id", Form::Text),
            ("task_id", Form::Text),
            ("metric_name", Form::Text),
            ("metric_value", Form::Number),
            ("metric_unit", Form::Text),
            ("recorded_at", Form::Moment),
            ("tags", Form::Text),
        ],
    ),
    (
        "k1_quality_gates",
        &[
            ("gate_id", Form::Text),
            ("workflow_id", Form::Text),
            ("task_id", Form::Text),
            ("gate_name", Form::Text),
            ("gate_threshold", Form::Number),
            ("actual_value", Form::Number),
            ("passed", Form::Flag),
            ("critical", Form::Flag),
            ("checked_at", Form::Moment),
            ("details", Form::Text),
        ],
    ),
    (
        "k1_agent_executions",
        &[
            ("execution_id", Form::Text),
            ("workflow_id", Form::Text),
            ("task_id", Form::Text),
            ("agent_type", Form::Text),
            ("started_at", Form::Moment),
            ("completed_at", Form::Moment),
            ("status", Form::Text),
            ("exit_code", Form::Integer),
            ("stdout_log", Form::Text),
            ("stderr_log", Form::Text),
            ("result_file_path", Form::Text),
            ("metrics", Form::Text),
        ],
    ),
];

/// The columns in the order of the archive's rows; `None` for one that the K1 tables do not have.
fn layout<'a>(table: &PostgresTable, columns: &[(&'a str, Form)]) -> Vec<Option<(&'a str, Form)>> {
    if table.columns.is_empty() {
        return columns.iter().copied().map(Some).collect();
    }
    let known = |quoted: &String| {
        let name = quoted.trim_matches('"');
        columns.iter().copied().find(|(column, _)| *column == name)
    };
    table.columns.iter().map(known).collect()
}

/// A line of `COPY`'s text format as values; columns that are not known are left out.
fn row(line: &[u8], layout: &[Option<(&str, Form)>]) -> Result<Vec<Value>, String> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    if fields.len() != layout.len() {
        return Err(format!(
            "a row has {} values, and not {}",
            fields.len(),
            layout.len()
        ));
    }
    let known = fields.iter().zip(layout);
    known
        .filter_map(|(field, column)| column.map(|(name, form)| (field, name, form)))
        .map(|(field, name, form)| {
            value(field, form).ok_or_else(|| format!("{name} has a value that is none"))
        })
        .collect()
}

fn value(field: &[u8], form: Form) -> Option<Value> {
    if field == b"\\N" {
        return Some(Value::Null);
    }
    let text = String::from_utf8(unescaped(field)).ok()?;
    Some(match form {
        Form::Text => Value::Text(text),
        Form::Integer => Value::Integer(text.parse().ok()?),
        Form::Flag => Value::Integer(i64::from(text == "t")),
        // SQLite keeps no NaN.
        Form::Number => match text.parse::<f64>().ok()? {
            n if n.is_nan() => Value::Null,
            n => Value::Real(n),
        },
        Form::Moment => moment(&text),
    })
}

/// `2026-01-02 03:04:05.6` as the K1 tables write it in `SQLite`; nothing for infinity and for
/// years that have not four digits.
fn moment(text: &str) -> Value {
    let parsed = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    parsed.map_or(Value::Null, |moment| {
        Value::Text(moment.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
    })
}

/// A field without the backslashes that `COPY` puts before what would end it.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = field.iter().copied();
    let mut out = Vec::with_capacity(field.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 0x08,
                Some(b'f') => 0x0c,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 0x0b,
                Some(other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_text_is_read_as_it_was_written() {
        let layout = [
            Some(("a", Form::Text)),
            None,
            Some(("b", Form::Moment)),
            Some(("c", Form::Flag)),
            Some(("d", Form::Number)),
        ];
        let line = b"tab\\tnewline\\nback\\\\slash\\b\\f\\r\\v \xc3\xbc\tignored\t2026-01-02 03:04:05.6\tt\t0.1";
        assert_eq!(
            row(line, &layout).unwrap(),
            [
                Value::Text("tab\tnewline\nback\\slash\u{8}\u{c}\r\u{b} ü".into()),
                Value::Text("2026-01-02T03:04:05.600000Z".into()),
                Value::Integer(1),
                Value::Real(0.1),
            ]
        );
        let nothing = row(b"\\N\t\\N\tinfinity\tf\tNaN", &layout).unwrap();
        assert_eq!(nothing[0], Value::Null);
        assert_eq!(nothing[1], Value::Null);
        assert_eq!(nothing[3], Value::Null);
        assert!(row(b"too\tfew", &layout).is_err());
        assert!(row(b"\xff\t\\N\t\\N\tt\t1", &layout).is_err());
        // A backslash before N with something after it is text.
        assert_eq!(value(b"\\\\N", Form::Text), Some(Value::Text("\\N".into())));
    }
}
