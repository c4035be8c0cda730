//! SQL that is the same for both databases, but for a few expressions.

use super::{Column, Kind};
use chrono::{DateTime, Utc};

/// Which database is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    /// A K1 table or view.
    pub(super) fn table(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("public.{name}"),
            Self::Sqlite => name.to_owned(),
        }
    }

    /// The seconds from one moment to another, counted in whole microseconds.
    pub(super) fn seconds(self, from: &str, to: &str) -> String {
        match self {
            Self::Postgres => format!("EXTRACT(EPOCH FROM ({to} - {from}))::float8"),
            Self::Sqlite => format!(
                "((strftime('%s', substr({to}, 1, 19)) - strftime('%s', substr({from}, 1, 19)))
                    * 1000000 + CAST(substr({to}, 21, 6) AS INTEGER)
                    - CAST(substr({from}, 21, 6) AS INTEGER)) / 1000000.0"
            ),
        }
    }

    /// An expression as the type that its kind is read as.
    pub(super) fn read(self, kind: Kind, expression: &str) -> String {
        let Self::Postgres = self else {
            return expression.to_owned();
        };
        match kind {
            Kind::Text | Kind::Id | Kind::Json => format!("({expression})::text"),
            Kind::Count | Kind::Bytes => format!("({expression})::bigint"),
            Kind::Number | Kind::Share | Kind::Seconds => format!("({expression})::float8"),
            Kind::Time => format!("({expression})::timestamp"),
            Kind::Flag | Kind::Trend | Kind::Any => expression.to_owned(),
        }
    }

    /// An expression to sort by. Text sorts by its bytes in both.
    fn order(self, kind: Kind, expression: &str) -> String {
        match (self, kind) {
            (Self::Postgres, Kind::Text | Kind::Json) => {
                format!("({expression})::text COLLATE \"C\"")
            }
            _ => expression.to_owned(),
        }
    }

    fn placeholder(self, number: usize, postgres_type: &str) -> String {
        match self {
            Self::Postgres => format!("${number}::text::{postgres_type}"),
            Self::Sqlite if postgres_type == "bigint" => format!("CAST(?{number} AS INTEGER)"),
            Self::Sqlite => format!("?{number}"),
        }
    }

    fn moment(self, moment: DateTime<Utc>) -> String {
        match self {
            Self::Postgres => moment.format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
            Self::Sqlite => moment.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        }
    }
}

/// The conditions of a query and their values, which are all passed as text.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    pub(super) dialect: Dialect,
    pub(super) clauses: Vec<String>,
    pub(super) values: Vec<String>,
}

impl Conditions {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            clauses: Vec::new(),
            values: Vec::new(),
        }
    }

    /// A placeholder for a value.
    pub(super) fn bind(&mut self, value: &str, postgres_type: &str) -> String {
        self.values.push(value.to_owned());
        self.dialect.placeholder(self.values.len(), postgres_type)
    }

    /// A placeholder for a moment.
    pub(super) fn bind_moment(&mut self, moment: DateTime<Utc>) -> String {
        let text = self.dialect.moment(moment);
        self.bind(&text, "timestamp")
    }

    /// `column` is this text, or nothing.
    pub(super) fn is(&mut self, column: &str, text: Option<&str>) {
        let clause = match text {
            Some(text) => format!("{column} = {}", self.bind(text, "text")),
            None => format!("{column} IS NULL"),
        };
        self.clauses.push(clause);
    }

    /// `WHERE` with all clauses, or nothing.
    pub(super) fn shown(&self) -> String {
        if self.clauses.is_empty() {
            String::new()
        } else {
            format!("\nWHERE {}", self.clauses.join("\n    AND "))
        }
    }
}

/// A statement with its values and the columns that it answers.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) values: Vec<String>,
    pub(super) columns: Vec<Column>,
}

/// A term of `ORDER BY`; what is nothing comes last either way.
pub(super) fn order_term(
    dialect: Dialect,
    kind: Kind,
    expression: &str,
    descending: bool,
) -> String {
    let direction = if descending { "DESC" } else { "ASC" };
    format!("{} {direction} NULLS LAST", dialect.order(kind, expression))
}

/// `SELECT` columns, each an expression.
pub(super) fn select(
    dialect: Dialect,
    columns: &[(Column, String)],
    from: &str,
    conditions: &Conditions,
    tail: &str,
) -> Query {
    let list: Vec<String> = columns
        .iter()
        .map(|(column, expression)| {
            format!(
                "{} AS {}",
                dialect.read(column.kind, expression),
                column.name
            )
        })
        .collect();
    Query {
        text: format!(
            "SELECT {}\nFROM {from}{}{tail}",
            list.join(", "),
            conditions.shown()
        ),
        values: conditions.values.clone(),
        columns: columns.iter().map(|(column, _)| column.clone()).collect(),
    }
}
