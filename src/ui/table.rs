//! Tables for people: aligned columns that fit the terminal.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Width, presets};

/// What stands for the rest of a value that is cut off.
const CUT: &str = "…";

/// The space after each column of a table whose values are cut.
const GAP: u16 = 2;

/// A table with headings; numbers are right-aligned.
#[derive(Debug)]
pub struct Table(comfy_table::Table, Fit);

/// What becomes of a value that is too long for its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Wrap,
    Cut,
}

/// How many columns the terminal has, if standard output is one.
#[must_use]
pub fn terminal_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(headings.iter().map(|h| h.to_uppercase()));
        Self(table, Fit::Wrap)
    }

    /// Cuts values instead of wrapping them, a line a row. `widths` are those of the columns; none
    /// where nothing limits them.
    #[must_use]
    pub fn cut(mut self, widths: Option<&[u16]>) -> Self {
        self.1 = Fit::Cut;
        self.0.set_truncation_indicator(CUT);
        // Words are not kept together: as much of a value is shown as fits.
        self.0.set_delimiter('\0');
        if let Some(mut heading) = self.0.header().cloned() {
            heading.max_height(1);
            self.0.set_header(heading);
        }
        if widths.is_none() {
            self.0.set_content_arrangement(ContentArrangement::Disabled);
        }
        for (position, column) in self.0.column_iter_mut().enumerate() {
            column.set_padding((0, GAP));
            if let Some(width) = widths.and_then(|widths| widths.get(position)) {
                let width = Width::Fixed(width.saturating_add(GAP));
                column.set_constraint(ColumnConstraint::Absolute(width));
            }
        }
        self
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
        let mut row = Row::from(cells.into_iter().map(Into::into).collect::<Vec<String>>());
        if self.1 == Fit::Cut {
            row.max_height(1);
        }
        self.0.add_row(row);
    }

    /// The table as text, a line each, no trailing space.
    #[must_use]
    pub fn render(&self) -> String {
        self.0
            .lines()
            .fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}
