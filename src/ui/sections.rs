//! Findings for people: sections of entries, wrapped to the terminal, with commands that are never
//! wrapped, so that they can be copied.

use super::{Tone, Ui};

/// Narrower than this nothing reads well.
const NARROWEST: usize = 40;
/// Wider lines are hard to follow.
const WIDEST: usize = 120;
/// Columns before a label, and from there to the text behind it.
const INDENT: usize = 4;
const LABEL: usize = 6;
/// Columns of an entry's name.
const NAME: usize = 14;

/// A heading and what stands below it.
#[derive(Debug, Default)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What stands below it.
    pub entries: Vec<Entry>,
}

/// One thing, and what is to be said of it.
#[derive(Debug)]
pub struct Entry {
    /// Its colour.
    pub tone: Tone,
    /// A sign before it.
    pub mark: &'static str,
    /// A name before the title; titles of entries with names stand below each other.
    pub name: &'static str,
    /// The thing itself.
    pub title: String,
    /// Labelled remarks.
    pub remarks: Vec<Remark>,
}

/// A remark with its label.
#[derive(Debug)]
pub enum Remark {
    /// Text, which is wrapped.
    Text(&'static str, String),
    /// A command to copy, which is not.
    Command(&'static str, String),
}

impl Ui {
    /// How many columns standard output has.
    #[must_use]
    pub fn width(&self) -> usize {
        let told = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        let terminal = || {
            let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
            Some(usize::from(width.0))
        };
        terminal().or(told).unwrap_or(100).clamp(NARROWEST, WIDEST)
    }

    /// Sections as text.
    pub fn sections(&self, sections: &[Section], text: &mut String) {
        let width = self.width();
        for section in sections {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("{}\n", self.paint(Tone::Strong, &section.title)));
            for entry in &section.entries {
                self.entry(entry, width, text);
            }
        }
    }

    fn entry(&self, entry: &Entry, width: usize, text: &mut String) {
        let name = if entry.name.is_empty() { 0 } else { NAME };
        let lines = wrapped(&entry.title, width, INDENT + name);
        let mark = self.paint(entry.tone, entry.mark);
        for (at, line) in lines.iter().enumerate() {
            let before = if at == 0 {
                format!("  {mark} {:<name$}", entry.name)
            } else {
                " ".repeat(INDENT + name)
            };
            let line = match entry.tone {
                Tone::Bad | Tone::Warn => self.paint(Tone::Strong, line),
                _ => line.clone(),
            };
            text.push_str(&format!("{before}{line}\n"));
        }
        let mut last = "";
        for remark in &entry.remarks {
            let (label, lines) = match remark {
                Remark::Text(label, said) => (*label, wrapped(said, width, INDENT + LABEL)),
                Remark::Command(label, said) => (
                    *label,
                    said.lines()
                        .map(|line| self.paint(Tone::Good, line))
                        .collect(),
                ),
            };
            for (at, line) in lines.iter().enumerate() {
                let shown = if at == 0 && label != last { label } else { "" };
                let shown = self.paint(Tone::Dim, &format!("{shown:<LABEL$}"));
                text.push_str(&format!("{}{shown}{line}\n", " ".repeat(INDENT)));
            }
            last = label;
        }
    }

    /// Text that is wrapped to the terminal, behind `first` and then that many blanks.
    #[must_use]
    pub fn paragraph(&self, first: &str, said: &str) -> String {
        let indent = first.chars().count();
        let lines = wrapped(said, self.width(), indent);
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            let before = if at == 0 {
                self.paint(Tone::Dim, first)
            } else {
                " ".repeat(indent)
            };
            text.push_str(&format!("{before}{line}\n"));
        }
        text
    }
}

/// Lines that fit behind `indent` columns. A word that is too long, a path perhaps, stays whole.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let options = textwrap::Options::new(width.saturating_sub(indent).max(20))
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options)
        .into_iter()
        .map(std::borrow::Cow::into_owned)
        .collect()
}
