//! Questions that are answered by groups: the database aggregates, sorts and limits them; then each
//! group that is left is looked at again for its percentiles and its trend.
//!
//! Percentiles are read from an index that holds a group's values in order, by skipping to the
//! position; the trend from one that holds them by time, span by span. Neither sorts anything, nor
//! holds a group's values in memory. Percentiles are interpolated as `percentile_cont` does.

use super::questions::{Grouping, Names, Task, conditions, limit, order};
use super::sql::{Conditions, Dialect, Query, select};
use super::{Ask, Cell, Column, Connection, Kind, post};
use crate::error::Result;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::try_join;
use std::vec::IntoIter;

/// Into how many equal spans of time a trend is divided.
const SPANS: i32 = 16;

/// What is looked for in every group, besides the trend.
const PERCENTILES: [f64; 2] = [0.5, 0.95];

/// The statement that finds the groups, and what is needed to look at one of them.
pub(super) struct GroupPlan {
    groups: Query,
    grouping: Grouping,
    conditions: Conditions,
}

impl GroupPlan {
    pub(super) fn new(grouping: Grouping, ask: &Ask, dialect: Dialect) -> Result<Self> {
        let conditions = conditions(&grouping.subject, ask, dialect)?;
        let columns = aggregated(&grouping);
        let by: Vec<&str> = grouping.keys.iter().map(|(_, key)| *key).collect();
        let order = order(&columns, grouping.subject.order, ask, dialect)?;
        let tail = format!(
            "\nGROUP BY {}\nORDER BY {order}{}",
            by.join(", "),
            limit(ask.limit)
        );
        let groups = select(
            dialect,
            &columns,
            &grouping.subject.from,
            &conditions,
            &tail,
        );
        Ok(Self {
            groups,
            grouping,
            conditions,
        })
    }

    /// The columns that the database can sort by.
    pub(super) fn sortable(grouping: &Grouping) -> Vec<Column> {
        aggregated(grouping)
            .into_iter()
            .map(|(column, _)| column)
            .collect()
    }

    /// The columns of the answer.
    pub(super) fn columns(grouping: &Grouping) -> Vec<Column> {
        let Names { p50, p95, .. } = grouping.names;
        let found = Self::sortable(grouping);
        let (before, after) = found.split_at(before_percentiles(grouping));
        let mut columns = before.to_vec();
        columns.push(Column::new(p50, grouping.kind));
        columns.push(Column::new(p95, grouping.kind));
        columns.extend_from_slice(after);
        columns.extend(grouping.newest.iter().map(|(column, _)| column.clone()));
        columns.push(Column::new("trend", Kind::Trend));
        columns
    }
}

/// How many columns come before the percentiles: all up to the average.
fn before_percentiles(grouping: &Grouping) -> usize {
    grouping.keys.len() + grouping.counts.len() + 3
}

/// What the database aggregates for every group.
fn aggregated(grouping: &Grouping) -> Vec<(Column, String)> {
    let (value, time, names) = (&grouping.value, grouping.subject.time, grouping.names);
    let mut columns: Vec<(Column, String)> = grouping
        .keys
        .iter()
        .map(|(column, key)| (column.clone(), (*key).to_owned()))
        .collect();
    let mut add = |name, kind, expression| columns.push((Column::new(name, kind), expression));
    add(names.rows, Kind::Count, "count(*)".to_owned());
    for (column, expression) in &grouping.counts {
        columns.push((column.clone(), expression.clone()));
    }
    let mut add = |name, kind, expression| columns.push((Column::new(name, kind), expression));
    add(names.count, Kind::Count, format!("count({value})"));
    add(names.average, grouping.kind, format!("avg({value})"));
    add(names.min, grouping.kind, format!("min({value})"));
    add(names.max, grouping.kind, format!("max({value})"));
    add(names.first, Kind::Time, format!("min({time})"));
    add(names.last, Kind::Time, format!("max({time})"));
    columns
}

/// The groups that were found, each looked at when its turn comes.
pub(super) struct Groups<'a> {
    connection: Connection<'a>,
    statements: post::Statements,
    plan: Box<GroupPlan>,
    found: IntoIter<Vec<Cell>>,
}

impl std::fmt::Debug for Groups<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

impl<'a> Groups<'a> {
    pub(super) async fn open(connection: Connection<'a>, plan: Box<GroupPlan>) -> Result<Self> {
        let found = connection.fetch(plan.groups.clone()).await?;
        Ok(Self {
            connection,
            statements: post::Statements::default(),
            plan,
            found: found.into_iter(),
        })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<Cell>>> {
        let Some(mut row) = self.found.next() else {
            return Ok(None);
        };
        let group = Group::of(&row, &self.plan.grouping);
        let (p50, p95, trend, newest) = try_join!(
            self.percentile(&group, PERCENTILES[0]),
            self.percentile(&group, PERCENTILES[1]),
            self.trend(&group),
            self.newest(&group),
        )?;
        let at = before_percentiles(&self.plan.grouping);
        if let Some(Cell::Number(average)) = row.get_mut(at - 1) {
            *average = twelve_digits(*average);
        }
        row.splice(at..at, [p50, p95]);
        row.extend(newest);
        row.push(trend);
        Ok(Some(row))
    }

    async fn fetch(&self, query: Query) -> Result<Vec<Vec<Cell>>> {
        self.connection.fetch_again(query, &self.statements).await
    }

    /// How the database would find the groups, a percentile of the first, and its trend.
    pub(super) async fn plans(mut self) -> Result<Vec<Vec<String>>> {
        let mut queries = vec![self.plan.groups.clone()];
        if let Some(row) = self.found.next() {
            let group = Group::of(&row, &self.plan.grouping);
            let position = Position::of(PERCENTILES[0], group.count);
            queries.extend(position.map(|position| self.percentile_query(&group, &position)));
            queries.extend(self.trend_query(&group));
        }
        let mut plans = Vec::new();
        for query in queries {
            plans.push(self.connection.explain(query).await?);
        }
        Ok(plans)
    }

    async fn percentile(&self, group: &Group, share: f64) -> Result<Cell> {
        let Some(position) = Position::of(share, group.count) else {
            return Ok(Cell::Null);
        };
        let query = self.percentile_query(group, &position);
        let found = numbers(self.fetch(query).await?);
        Ok(position.between(&found).map_or(Cell::Null, Cell::Number))
    }

    fn percentile_query(&self, group: &Group, position: &Position) -> Query {
        let grouping = &self.plan.grouping;
        let value = &grouping.value;
        let mut conditions = group.conditions(&self.plan);
        conditions.clauses.push(format!("{value} IS NOT NULL"));
        let offset = conditions.bind(&position.offset.to_string(), "bigint");
        let direction = if position.from_the_end { "DESC" } else { "ASC" };
        let shown = conditions.shown();
        let Conditions {
            dialect, values, ..
        } = conditions;
        let read = dialect.read(grouping.kind, "value");
        // Only the two values that are found are converted, and none of those that are skipped.
        let text = format!(
            "SELECT {read} AS value FROM (SELECT {value} AS value FROM {}{shown}\nORDER BY {value} \
            {direction} LIMIT 2 OFFSET {offset}) AS found",
            grouping.subject.from
        );
        Query {
            text,
            values,
            columns: vec![Column::new("value", grouping.kind)],
        }
    }

    async fn trend(&self, group: &Group) -> Result<Cell> {
        let Some(query) = self.trend_query(group) else {
            return Ok(Cell::Null);
        };
        let rows = self.fetch(query).await?;
        let spans = rows.into_iter().map(|row| match row.last() {
            Some(Cell::Number(n)) => Some(twelve_digits(*n)),
            _ => None,
        });
        Ok(Cell::Trend(spans.collect()))
    }

    fn trend_query(&self, group: &Group) -> Option<Query> {
        let (first, last) = (group.first?, group.last?);
        if group.count == 0 {
            return None;
        }
        let grouping = &self.plan.grouping;
        let time = grouping.subject.time;
        let mut conditions = group.conditions(&self.plan);
        let own = conditions.shown();
        let dialect = conditions.dialect;
        let average = dialect.read(grouping.kind, &format!("avg({})", grouping.value));
        let edges: Vec<String> = edges(first, last)
            .into_iter()
            .map(|edge| conditions.bind_moment(edge))
            .collect();
        let spans: Vec<String> = edges
            .windows(2)
            .enumerate()
            .map(|(span, pair)| {
                let from = &grouping.subject.from;
                let (begin, end) = (&pair[0], &pair[1]);
                let and = if own.is_empty() { "\nWHERE" } else { " AND" };
                format!(
                    "SELECT {span} AS span, {average} AS average FROM {from}{own}{and} \
                    {time} >= {begin} AND {time} < {end}"
                )
            })
            .collect();
        Some(Query {
            text: format!("{}\nORDER BY 1", spans.join("\nUNION ALL\n")),
            values: conditions.values,
            columns: vec![
                Column::new("span", Kind::Count),
                Column::new("average", grouping.kind),
            ],
        })
    }

    async fn newest(&self, group: &Group) -> Result<Option<Cell>> {
        let grouping = &self.plan.grouping;
        let Some((column, expression)) = &grouping.newest else {
            return Ok(None);
        };
        let time = grouping.subject.time;
        let mut conditions = group.conditions(&self.plan);
        match group.last {
            Some(last) => {
                let last = conditions.bind_moment(last);
                conditions.clauses.push(format!("{time} = {last}"));
            }
            None => conditions.clauses.push(format!("{time} IS NULL")),
        }
        let column = (column.clone(), format!("max({expression})"));
        let from = &grouping.subject.from;
        let query = select(conditions.dialect, &[column], from, &conditions, "");
        let found = self.fetch(query).await?.into_iter().flatten().next();
        Ok(Some(found.unwrap_or(Cell::Null)))
    }
}

/// What the first statement said of a group.
struct Group {
    keys: Vec<Option<String>>,
    count: u64,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
}

impl Group {
    fn of(row: &[Cell], grouping: &Grouping) -> Self {
        let text = |cell: &Cell| match cell {
            Cell::Text(text) => Some(text.clone()),
            _ => None,
        };
        let moment = |cell: Option<&Cell>| match cell {
            Some(Cell::Time(moment)) => Some(*moment),
            _ => None,
        };
        let count = match row.get(before_percentiles(grouping) - 2) {
            Some(Cell::Integer(n)) => u64::try_from(*n).unwrap_or_default(),
            _ => 0,
        };
        Self {
            keys: row.iter().take(grouping.keys.len()).map(text).collect(),
            count,
            first: moment(row.get(row.len().wrapping_sub(2))),
            last: moment(row.last()),
        }
    }

    /// The question's own conditions, and that a row belongs to this group.
    fn conditions(&self, plan: &GroupPlan) -> Conditions {
        let mut conditions = plan.conditions.clone();
        for ((_, key), value) in plan.grouping.keys.iter().zip(&self.keys) {
            // A filter by task has said so already.
            let asked = matches!(plan.grouping.subject.task, Task::Column(task) if task == *key)
                && conditions
                    .clauses
                    .iter()
                    .any(|c| c.starts_with(&format!("{key} = ")));
            if !asked {
                conditions.is(key, value.as_deref());
            }
        }
        conditions
    }
}

/// The moments between the spans: the first, and one microsecond after the last.
fn edges(first: DateTime<Utc>, last: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let end = last + TimeDelta::microseconds(1);
    let length = (end - first).num_microseconds().unwrap_or(i64::MAX).max(1);
    let spans = i64::from(SPANS).min(length);
    (0..=spans)
        .map(|span| {
            let into = i128::from(length) * i128::from(span) / i128::from(spans);
            first + TimeDelta::microseconds(i64::try_from(into).unwrap_or(i64::MAX))
        })
        .collect()
}

/// Where a percentile lies among values in order.
#[derive(Debug, PartialEq)]
struct Position {
    /// How many to skip, from the nearer end.
    offset: u64,
    from_the_end: bool,
    /// How far it lies between the two values there.
    fraction: f64,
}

impl Position {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "PostgreSQL computes the position in a double too"
    )]
    fn of(share: f64, count: u64) -> Option<Self> {
        let last = count.checked_sub(1)?;
        let exact = share * last as f64;
        let below = (exact.floor() as u64).min(last);
        let from_the_end = below > last / 2 && below < last;
        Some(Self {
            offset: if from_the_end {
                last - 1 - below
            } else {
                below
            },
            from_the_end,
            fraction: exact - exact.floor(),
        })
    }

    /// The value between the two that were found at the offset.
    #[allow(
        clippy::float_cmp,
        reason = "a fraction of exactly zero needs no second value"
    )]
    fn between(&self, found: &[f64]) -> Option<f64> {
        let (low, high) = match (found, self.from_the_end) {
            ([only], _) => (*only, *only),
            ([low, high, ..], false) | ([high, low, ..], true) => (*low, *high),
            ([], _) => return None,
        };
        if self.fraction == 0.0 {
            return Some(low);
        }
        Some(low + self.fraction * (high - low))
    }
}

fn numbers(rows: Vec<Vec<Cell>>) -> Vec<f64> {
    rows.into_iter()
        .flatten()
        .filter_map(|cell| match cell {
            Cell::Number(n) => Some(n),
            _ => None,
        })
        .collect()
}

/// An average to twelve digits: one database adds decimals, the other doubles, and what differs
/// comes after that.
fn twelve_digits(n: f64) -> f64 {
    format!("{n:.11e}").parse().unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `percentile_cont` over values in order.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small numbers"
    )]
    fn percentile_cont(values: &[f64], share: f64) -> f64 {
        let exact = share * (values.len() - 1) as f64;
        let (low, high) = (exact.floor() as usize, exact.ceil() as usize);
        values[low] + (exact - exact.floor()) * (values[high] - values[low])
    }

    proptest! {
        #[test]
        fn skipping_from_the_nearer_end_finds_the_percentile(
            mut values in proptest::collection::vec(-1e6_f64..1e6, 1..60),
            share in prop_oneof![Just(0.5), Just(0.95), 0.0..=1.0],
        ) {
            values.sort_by(f64::total_cmp);
            let position = Position::of(share, values.len() as u64).unwrap();
            let mut seen = values.clone();
            if position.from_the_end {
                seen.reverse();
            }
            let skip = usize::try_from(position.offset).unwrap();
            prop_assert!(skip <= values.len() / 2 + 1);
            let found: Vec<f64> = seen.into_iter().skip(skip).take(2).collect();
            let wanted = percentile_cont(&values, share);
            prop_assert!((position.between(&found).unwrap() - wanted).abs() < 1e-6);
        }

        #[test]
        fn spans_meet_and_hold_first_and_last(first in 0_i64..1 << 50, length in 0_i64..1 << 50) {
            let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
            let edges = edges(at(first), at(first + length));
            prop_assert_eq!(edges[0], at(first));
            prop_assert_eq!(edges[edges.len() - 1], at(first + length + 1));
            prop_assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(edges.len() <= 17);
        }
    }

    #[test]
    fn a_group_without_values_has_no_percentile() {
        assert_eq!(Position::of(0.5, 0), None);
        assert_eq!(Position::of(0.95, 1).unwrap().between(&[7.0]), Some(7.0));
    }
}
