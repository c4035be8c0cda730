//! The formats of an answer. Each takes row after row and gives text; none holds more than a few
//! rows.

use super::view::{self, View, views};
use crate::error::{Context as _, Result};
use crate::store::query::{Cell, Column, Question};
use crate::ui::{Ui, printable, terminal_width};
use std::collections::HashMap;

/// How many rows share the widths of a table's columns.
const PAGE: usize = 1000;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Table,
    /// One object
    Json,
    /// One object a line
    Jsonl,
    /// Comma-separated values with a line of headings
    Csv,
    /// A table for documents
    Markdown,
}

/// What is answered, for the frame around the rows.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// Where it comes from.
    pub(super) store: String,
    /// The question; `None` for a statement of the user's.
    pub(super) question: Option<Question>,
    /// What rows are called in JSON.
    pub(super) rows: &'static str,
    /// Whether filters have left rows out.
    pub(super) narrowed: bool,
}

/// Turns rows into text.
pub(super) struct Printer {
    format: Format,
    frame: Frame,
    names: Vec<String>,
    views: Vec<View>,
    page: Vec<Vec<Cell>>,
    count: u64,
    ui: Ui,
}

impl Printer {
    pub(super) fn new(format: Format, frame: Frame, columns: &[Column], ui: &Ui) -> Self {
        Self {
            format,
            names: distinct(columns),
            views: views(frame.question, columns),
            frame,
            page: Vec::new(),
            count: 0,
            ui: ui.clone(),
        }
    }

    /// What comes before the rows.
    pub(super) fn begin(&self) -> Result<String> {
        Ok(match self.format {
            Format::Table | Format::Jsonl => String::new(),
            Format::Csv => csv_line(self.names.iter().map(String::as_str))?,
            Format::Json => {
                let mut text = format!("{{\n  \"store\": {},\n", quoted(&self.frame.store));
                if self.frame.question.is_none() {
                    let names: Vec<String> = self.names.iter().map(|n| quoted(n)).collect();
                    text.push_str(&format!("  \"columns\": [{}],\n", names.join(", ")));
                }
                text + &format!("  {}: [", quoted(self.frame.rows))
            }
            Format::Markdown => {
                let headings = self.names.iter().map(|name| in_markdown(name));
                format!(
                    "| {} |\n|{}\n",
                    headings.collect::<Vec<_>>().join(" | "),
                    " --- |".repeat(self.names.len())
                )
            }
        })
    }

    /// A row, or nothing yet.
    pub(super) fn row(&mut self, row: Vec<Cell>) -> Result<String> {
        self.count += 1;
        Ok(match self.format {
            Format::Table => {
                self.page.push(row);
                if self.page.len() < PAGE {
                    return Ok(String::new());
                }
                self.table()
            }
            Format::Csv => csv_line(row.iter().map(view::plain).collect::<Vec<_>>().iter())?,
            Format::Json => {
                let comma = if self.count > 1 { "," } else { "" };
                format!("{comma}\n    {}", self.object(&row))
            }
            Format::Jsonl => self.object(&row) + "\n",
            Format::Markdown => {
                let cells = row.iter().map(|cell| in_markdown(&view::plain(cell)));
                format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
            }
        })
    }

    /// What comes after the rows.
    pub(super) fn end(&mut self, truncated: bool) -> String {
        match self.format {
            Format::Table if self.count == 0 => self.nothing(),
            Format::Table if !self.page.is_empty() => self.table(),
            Format::Json => {
                let close = if self.count > 0 { "\n  ]" } else { "]" };
                format!("{close},\n  \"truncated\": {truncated}\n}}\n")
            }
            _ => String::new(),
        }
    }

    fn nothing(&self) -> String {
        if self.frame.question.is_none() {
            return "No rows.\n".to_owned();
        }
        let which = if self.frame.narrowed {
            " that match"
        } else {
            ""
        };
        format!(
            "No {}{which} are recorded in {}.\n",
            self.frame.rows, self.frame.store
        )
    }

    fn table(&mut self) -> String {
        let rows = std::mem::take(&mut self.page);
        view::table(&self.views, &rows, terminal_width(), |shown| {
            match shown.tone {
                Some(tone) => self.ui.paint(tone, &shown.text),
                None => shown.text.clone(),
            }
        })
    }

    fn object(&self, row: &[Cell]) -> String {
        let fields = self.names.iter().zip(row);
        let fields = fields.map(|(name, cell)| format!("{}: {}", quoted(name), json(cell)));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
    }
}

/// A statement of the user's may answer two columns of one name; an object has each name once.
fn distinct(columns: &[Column]) -> Vec<String> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut name = |column: &Column| {
        let mut name = column.name.clone().into_owned();
        while let Some(times) = seen.get_mut(&name) {
            *times += 1;
            name = format!("{}_{times}", column.name);
        }
        seen.insert(name.clone(), 1);
        name
    };
    columns.iter().map(&mut name).collect()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn json(cell: &Cell) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Integer(_) | Cell::Flag(_) => view::plain(cell),
        Cell::Number(n) => view::json_number(*n).unwrap_or_else(|| quoted(&n.to_string())),
        // As it is, if it is JSON of one line: reading it would cost digits of large numbers.
        Cell::Json(text) | Cell::Decimal(text) => {
            match serde_json::from_str::<&serde_json::value::RawValue>(text) {
                Ok(_) if !text.contains(['\n', '\r']) => text.clone(),
                Ok(raw) => serde_json::from_str::<serde_json::Value>(raw.get())
                    .map_or_else(|_| quoted(text), |value| value.to_string()),
                Err(_) => quoted(text),
            }
        }
        Cell::Text(_) | Cell::Time(_) => quoted(&view::plain(cell)),
        Cell::Trend(values) => {
            let one = |n: &Option<f64>| n.and_then(view::json_number).unwrap_or("null".to_owned());
            format!(
                "[{}]",
                values.iter().map(one).collect::<Vec<_>>().join(", ")
            )
        }
    }
}

fn csv_line<T: AsRef<[u8]>>(fields: impl IntoIterator<Item = T>) -> Result<String> {
    let cannot = || "the answer cannot be written as CSV";
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(fields).context(cannot)?;
    let bytes = writer.into_inner().context(cannot)?;
    String::from_utf8(bytes).context(cannot)
}

/// Text for a cell of a Markdown table: what would end the cell or begin a tag is escaped.
fn in_markdown(text: &str) -> String {
    let text = text
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace("\r\n", "\n")
        .replace('\n', "\u{0}");
    // A line break is the one control character that Markdown can show.
    text.split('\u{0}')
        .map(printable)
        .collect::<Vec<_>>()
        .join("<br>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::Kind;

    #[test]
    fn markdown_cells_stay_in_their_cell() {
        assert_eq!(in_markdown("a|b"), "a\\|b");
        assert_eq!(in_markdown("a\\|b"), "a\\\\\\|b");
        assert_eq!(in_markdown("one\ntwo\r\nthree"), "one<br>two<br>three");
        assert_eq!(in_markdown("<script>&"), "&lt;script>&amp;");
        assert_eq!(in_markdown("\u{1b}[31m"), "\\u{1b}[31m");
    }

    #[test]
    fn csv_leaves_values_as_they_are() {
        let line = csv_line(["=1+1", "a,b", "say \"x\"", "one\ntwo", "\u{1b}[2J", ""]).unwrap();
        assert_eq!(
            line,
            "=1+1,\"a,b\",\"say \"\"x\"\"\",\"one\ntwo\",\u{1b}[2J,\n"
        );
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(line.as_bytes());
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(&record[3], "one\ntwo");
    }

    #[test]
    fn json_keeps_digits_and_is_always_json() {
        let decimal = "123456789012345678901234567890.123456789";
        assert_eq!(json(&Cell::Decimal(decimal.into())), decimal);
        assert_eq!(json(&Cell::Number(f64::NAN)), "\"NaN\"");
        assert_eq!(json(&Cell::Json("{\n\"a\": 1}".into())), "{\"a\":1}");
        assert_eq!(json(&Cell::Json("{broken".into())), "\"{broken\"");
        assert_eq!(json(&Cell::Text("\u{1b}\"".into())), "\"\\u001b\\\"\"");
        let trend = Cell::Trend(vec![Some(1.5), None]);
        assert_eq!(json(&trend), "[1.5, null]");
    }

    #[test]
    fn names_are_made_distinct() {
        let column = |name: &str| Column {
            name: name.to_owned().into(),
            kind: Kind::Any,
        };
        let names = distinct(&["a", "a", "a_2", "a"].map(column));
        assert_eq!(names, ["a", "a_2", "a_2_2", "a_3"]);
    }
}
