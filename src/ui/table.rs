//! Tables for people: aligned columns that fit the terminal.

use comfy_table::{CellAlignment, ContentArrangement, presets};

/// A table with headings; numbers are right-aligned.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(headings.iter().map(|h| h.to_uppercase()));
        Self(table)
    }

    /// Right-aligns the columns with these positions.
    #[must_use]
    pub fn numbers(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0
            .add_row(cells.into_iter().map(Into::into).collect::<Vec<String>>());
    }

    /// The table as text, a line each, no trailing space.
    #[must_use]
    pub fn render(&self) -> String {
        self.0
            .lines()
            .fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}
