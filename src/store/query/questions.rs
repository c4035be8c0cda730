//! The questions: their columns, what each filter means for them, and their order.

use super::grouped::GroupPlan;
use super::sql::{Conditions, Dialect, Query, order_term, select};
use super::{Ask, Column, Kind, Question};
use crate::error::{Error, Result};
use uuid::Uuid;

/// How a question is answered.
pub(super) enum Plan {
    /// By one statement.
    Rows(Query),
    /// By groups, each looked at again.
    Groups(Box<GroupPlan>),
}

/// The name of the rows in JSON.
#[must_use]
pub fn rows_name(question: Question) -> &'static str {
    match question {
        Question::Summary | Question::Workflows => "workflows",
        Question::Gates { .. } => "gates",
        Question::Metrics => "metrics",
        Question::Agents => "agents",
        Question::Tasks { .. } => "tasks",
    }
}

/// The columns of a question's answer.
#[must_use]
pub fn columns(question: Question) -> Vec<Column> {
    let dialect = Dialect::Postgres;
    match question {
        Question::Metrics => GroupPlan::columns(&metrics(dialect)),
        Question::Agents => GroupPlan::columns(&agents(dialect)),
        _ => subject(question, dialect)
            .columns
            .into_iter()
            .map(|(column, _)| column)
            .collect(),
    }
}

/// The names that an answer may be sorted by.
#[must_use]
pub fn sortable(question: Question) -> Vec<String> {
    let sorted = |kind| !matches!(kind, Kind::Json | Kind::Trend);
    let names = match question {
        Question::Metrics => GroupPlan::sortable(&metrics(Dialect::Postgres)),
        Question::Agents => GroupPlan::sortable(&agents(Dialect::Postgres)),
        _ => columns(question),
    };
    names
        .into_iter()
        .filter(|column| sorted(column.kind))
        .map(|column| column.name.into_owned())
        .collect()
}

/// What a question is asked of, and which columns the filters mean.
pub(super) struct Subject {
    pub(super) columns: Vec<(Column, String)>,
    pub(super) from: String,
    /// The column that `--since` and `--until` mean.
    pub(super) time: &'static str,
    /// The column with the workflow's id.
    pub(super) workflow: &'static str,
    pub(super) task: Task,
    pub(super) status: Option<String>,
    /// The order unless another is asked for: columns, descending.
    pub(super) order: &'static [(&'static str, bool)],
}

/// What `--task` means.
pub(super) enum Task {
    /// This column.
    Column(&'static str),
    /// A workflow with a run of the task.
    RunIn,
}

pub(super) fn plan(ask: &Ask, dialect: Dialect) -> Result<Plan> {
    match ask.question {
        Question::Metrics => {
            GroupPlan::new(metrics(dialect), ask, dialect).map(|plan| Plan::Groups(Box::new(plan)))
        }
        Question::Agents => {
            GroupPlan::new(agents(dialect), ask, dialect).map(|plan| Plan::Groups(Box::new(plan)))
        }
        question => {
            let subject = subject(question, dialect);
            let mut conditions = conditions(&subject, ask, dialect)?;
            if let Question::Gates { passed, critical } = question {
                gate_conditions(&mut conditions, passed, critical);
            }
            let order = order(&subject.columns, subject.order, ask, dialect)?;
            let tail = format!("\nORDER BY {order}{}", limit(ask.limit));
            let query = select(dialect, &subject.columns, &subject.from, &conditions, &tail);
            Ok(Plan::Rows(query))
        }
    }
}

pub(super) fn limit(limit: Option<u64>) -> String {
    // SQLite takes no number above an i64.
    limit.map_or_else(String::new, |n| {
        format!("\nLIMIT {}", n.min(i64::MAX as u64))
    })
}

fn gate_conditions(conditions: &mut Conditions, passed: Option<bool>, critical: bool) {
    let yes = |column: &str, dialect| match dialect {
        Dialect::Postgres => column.to_owned(),
        Dialect::Sqlite => format!("{column} = 1"),
    };
    let no = |column: &str, dialect| match dialect {
        Dialect::Postgres => format!("NOT {column}"),
        Dialect::Sqlite => format!("{column} = 0"),
    };
    let dialect = conditions.dialect;
    conditions.clauses.extend(passed.map(|passed| {
        if passed {
            yes("g.passed", dialect)
        } else {
            no("g.passed", dialect)
        }
    }));
    if critical {
        conditions.clauses.push(yes("g.critical", dialect));
    }
}

/// What the filters let through.
pub(super) fn conditions(subject: &Subject, ask: &Ask, dialect: Dialect) -> Result<Conditions> {
    let mut conditions = Conditions::new(dialect);
    if let Some(since) = ask.since {
        let value = conditions.bind_moment(since);
        conditions
            .clauses
            .push(format!("{} >= {value}", subject.time));
    }
    if let Some(until) = ask.until {
        let value = conditions.bind_moment(until);
        conditions
            .clauses
            .push(format!("{} < {value}", subject.time));
    }
    if ask.workflow.is_some() || ask.source.is_some() {
        let clause = of_workflow(&mut conditions, subject, ask);
        conditions.clauses.push(clause);
    }
    if let Some(task) = &ask.task {
        match subject.task {
            Task::Column(column) => conditions.is(column, Some(task)),
            Task::RunIn => {
                let value = conditions.bind(task, "text");
                let runs = dialect.table("k1_agent_executions");
                conditions.clauses.push(format!(
                    "{} IN (SELECT workflow_id FROM {runs} WHERE task_id = {value})",
                    subject.workflow
                ));
            }
        }
    }
    if let Some(status) = &ask.status {
        let Some(column) = &subject.status else {
            return Err(Error::usage("these have no status to filter by"));
        };
        let value = conditions.bind(&status.to_uppercase(), "text");
        conditions.clauses.push(format!("{column} = {value}"));
    }
    Ok(conditions)
}

fn of_workflow(conditions: &mut Conditions, subject: &Subject, ask: &Ask) -> String {
    let mut inner = Vec::new();
    if let Some(wanted) = &ask.workflow {
        let execution = conditions.bind(wanted, "text");
        let mut any = vec![format!("conductor_execution_id = {execution}")];
        if let Ok(id) = wanted.parse::<Uuid>() {
            let id = conditions.bind(&id.to_string(), "uuid");
            any.push(format!("workflow_id = {id}"));
        }
        inner.push(format!("({})", any.join(" OR ")));
    }
    if let Some(source) = &ask.source {
        let source = conditions.bind(source, "text");
        inner.push(format!("source = {source}"));
    }
    format!(
        "{} IN (SELECT workflow_id FROM {} WHERE {})",
        subject.workflow,
        conditions.dialect.table("k1_workflow_metadata"),
        inner.join(" AND ")
    )
}

/// The order that is asked for, then the question's own, so that it is always the same.
pub(super) fn order(
    columns: &[(Column, String)],
    own: &[(&str, bool)],
    ask: &Ask,
    dialect: Dialect,
) -> Result<String> {
    let find = |name: &str| columns.iter().find(|(column, _)| column.name == name);
    let mut terms = Vec::new();
    if let Some(name) = &ask.sort {
        let by = sortable(ask.question);
        let Some((column, expression)) = find(name).filter(|_| by.contains(name)) else {
            return Err(
                Error::usage(format!("the answer cannot be sorted by {name:?}"))
                    .hint(format!("It can be sorted by {}.", by.join(", "))),
            );
        };
        // The largest and the newest are what one looks for.
        let descending = !matches!(column.kind, Kind::Text | Kind::Id);
        let descending = descending != ask.reverse;
        terms.push(order_term(dialect, column.kind, expression, descending));
    }
    for (name, descending) in own {
        if let Some((column, expression)) = find(name) {
            let descending = *descending != (ask.reverse && ask.sort.is_none());
            terms.push(order_term(dialect, column.kind, expression, descending));
        }
    }
    Ok(terms.join(", "))
}

fn column(name: &'static str, kind: Kind, expression: &str) -> (Column, String) {
    (Column::new(name, kind), expression.to_owned())
}

fn subject(question: Question, dialect: Dialect) -> Subject {
    match question {
        Question::Workflows => workflows(dialect),
        Question::Gates { .. } => gates(dialect),
        Question::Tasks { logs } => tasks(dialect, logs),
        _ => summary(dialect),
    }
}

fn summary(dialect: Dialect) -> Subject {
    Subject {
        columns: vec![
            column("workflow_id", Kind::Id, "v.workflow_id"),
            column(
                "conductor_execution_id",
                Kind::Text,
                "v.conductor_execution_id",
            ),
            column("created_at", Kind::Time, "v.created_at"),
            column("source", Kind::Text, "v.source"),
            column("total_tasks", Kind::Count, "v.total_tasks"),
            column("completed_tasks", Kind::Count, "v.completed_tasks"),
            column("failed_tasks", Kind::Count, "v.failed_tasks"),
            column("total_quality_gates", Kind::Count, "v.total_quality_gates"),
            column(
                "passed_quality_gates",
                Kind::Count,
                "v.passed_quality_gates",
            ),
            column("critical_failures", Kind::Count, "v.critical_failures"),
            column("workflow_started", Kind::Time, "v.workflow_started"),
            column("workflow_completed", Kind::Time, "v.workflow_completed"),
            column("duration_seconds", Kind::Seconds, "v.duration_seconds"),
        ],
        from: format!("{} v", dialect.table("k1_workflow_summary")),
        time: "v.created_at",
        workflow: "v.workflow_id",
        task: Task::RunIn,
        status: None,
        order: &[("created_at", true), ("workflow_id", false)],
    }
}

/// How a workflow stands follows from its agents: the worst that happened, then what still runs.
const STATUS: &str = "CASE WHEN e.failed > 0 THEN 'FAILED' WHEN e.running > 0 THEN 'RUNNING' \
    WHEN e.canceled > 0 THEN 'CANCELED' WHEN e.completed > 0 THEN 'COMPLETED' END";

fn workflows(dialect: Dialect) -> Subject {
    let runs = format!(
        "SELECT workflow_id, count(*) AS total,
            count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
            count(*) FILTER (WHERE status = 'RUNNING') AS running,
            count(*) FILTER (WHERE status = 'CANCELED') AS canceled,
            count(*) FILTER (WHERE status IN
                ('FAILED', 'FAILED_WITH_TERMINAL_ERROR', 'TIMED_OUT')) AS failed
        FROM {} GROUP BY workflow_id",
        dialect.table("k1_agent_executions")
    );
    Subject {
        columns: vec![
            column("workflow_id", Kind::Id, "w.workflow_id"),
            column(
                "conductor_execution_id",
                Kind::Text,
                "w.conductor_execution_id",
            ),
            column("status", Kind::Text, STATUS),
            column("source", Kind::Text, "w.source"),
            column("user_id", Kind::Text, "w.user_id"),
            column("created_at", Kind::Time, "w.created_at"),
            column("updated_at", Kind::Time, "w.updated_at"),
            column("tasks", Kind::Count, "coalesce(e.total, 0)"),
            column("running", Kind::Count, "coalesce(e.running, 0)"),
            column("tags", Kind::Json, "w.tags"),
            column("custom_metadata", Kind::Json, "w.custom_metadata"),
        ],
        from: format!(
            "{} w\nLEFT JOIN ({runs}) e ON e.workflow_id = w.workflow_id",
            dialect.table("k1_workflow_metadata")
        ),
        time: "w.created_at",
        workflow: "w.workflow_id",
        task: Task::RunIn,
        status: Some(STATUS.to_owned()),
        order: &[("created_at", true), ("workflow_id", false)],
    }
}

fn with_workflow(dialect: Dialect, table: &str, alias: &str) -> String {
    format!(
        "{} {alias}\nLEFT JOIN {} w ON w.workflow_id = {alias}.workflow_id",
        dialect.table(table),
        dialect.table("k1_workflow_metadata")
    )
}

fn gates(dialect: Dialect) -> Subject {
    Subject {
        columns: vec![
            column("gate_id", Kind::Id, "g.gate_id"),
            column("workflow_id", Kind::Id, "g.workflow_id"),
            column(
                "conductor_execution_id",
                Kind::Text,
                "w.conductor_execution_id",
            ),
            column("task_id", Kind::Text, "g.task_id"),
            column("gate_name", Kind::Text, "g.gate_name"),
            column("gate_threshold", Kind::Number, "g.gate_threshold"),
            column("actual_value", Kind::Number, "g.actual_value"),
            column("passed", Kind::Flag, "g.passed"),
            column("critical", Kind::Flag, "g.critical"),
            column("checked_at", Kind::Time, "g.checked_at"),
            column("details", Kind::Json, "g.details"),
        ],
        from: with_workflow(dialect, "k1_quality_gates", "g"),
        time: "g.checked_at",
        workflow: "g.workflow_id",
        task: Task::Column("g.task_id"),
        status: None,
        order: &[("checked_at", true), ("gate_id", false)],
    }
}

fn tasks(dialect: Dialect, logs: bool) -> Subject {
    let duration = dialect.seconds("e.started_at", "e.completed_at");
    let mut columns = vec![
        column("execution_id", Kind::Id, "e.execution_id"),
        column("workflow_id", Kind::Id, "e.workflow_id"),
        column(
            "conductor_execution_id",
            Kind::Text,
            "w.conductor_execution_id",
        ),
        column("task_id", Kind::Text, "e.task_id"),
        column("agent_type", Kind::Text, "e.agent_type"),
        column("status", Kind::Text, "e.status"),
        column("exit_code", Kind::Count, "e.exit_code"),
        column("started_at", Kind::Time, "e.started_at"),
        column("completed_at", Kind::Time, "e.completed_at"),
        column("duration_seconds", Kind::Seconds, &duration),
        column("result_file_path", Kind::Text, "e.result_file_path"),
        column("stdout_bytes", Kind::Bytes, "octet_length(e.stdout_log)"),
        column("stderr_bytes", Kind::Bytes, "octet_length(e.stderr_log)"),
        column("metrics", Kind::Json, "e.metrics"),
    ];
    if logs {
        columns.push(column("stdout_log", Kind::Text, "e.stdout_log"));
        columns.push(column("stderr_log", Kind::Text, "e.stderr_log"));
    }
    Subject {
        columns,
        from: with_workflow(dialect, "k1_agent_executions", "e"),
        time: "e.started_at",
        workflow: "e.workflow_id",
        task: Task::Column("e.task_id"),
        status: Some("e.status".to_owned()),
        order: &[("started_at", true), ("execution_id", false)],
    }
}

/// A question that is answered by groups.
pub(super) struct Grouping {
    pub(super) subject: Subject,
    /// The group's own columns, text or nothing, by which rows belong to it.
    pub(super) keys: Vec<(Column, &'static str)>,
    /// What is counted of each group besides its values.
    pub(super) counts: Vec<(Column, String)>,
    /// The value whose average, percentiles and trend are wanted.
    pub(super) value: String,
    /// What the value is.
    pub(super) kind: Kind,
    pub(super) names: Names,
    /// A text column of the newest row, which is looked up afterwards.
    pub(super) newest: Option<(Column, &'static str)>,
}

/// How the columns of a group are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) rows: &'static str,
    pub(super) count: &'static str,
    pub(super) average: &'static str,
    pub(super) p50: &'static str,
    pub(super) p95: &'static str,
    pub(super) min: &'static str,
    pub(super) max: &'static str,
    pub(super) first: &'static str,
    pub(super) last: &'static str,
}

fn metrics(dialect: Dialect) -> Grouping {
    Grouping {
        subject: Subject {
            columns: Vec::new(),
            from: format!("{} m", dialect.table("k1_execution_metrics")),
            time: "m.recorded_at",
            workflow: "m.workflow_id",
            task: Task::Column("m.task_id"),
            status: None,
            order: &[("metric_name", false), ("task_id", false)],
        },
        keys: vec![
            (Column::new("task_id", Kind::Text), "m.task_id"),
            (Column::new("metric_name", Kind::Text), "m.metric_name"),
        ],
        counts: Vec::new(),
        value: "m.metric_value".to_owned(),
        kind: Kind::Number,
        names: Names {
            rows: "rows",
            count: "count",
            average: "average",
            p50: "p50",
            p95: "p95",
            min: "min",
            max: "max",
            first: "first_recorded_at",
            last: "last_recorded_at",
        },
        newest: Some((Column::new("metric_unit", Kind::Text), "m.metric_unit")),
    }
}

fn agents(dialect: Dialect) -> Grouping {
    let counted = |condition: &str| format!("count(*) FILTER (WHERE {condition})");
    let completed = counted("e.status = 'COMPLETED'");
    let failed = counted("e.status IN ('FAILED', 'FAILED_WITH_TERMINAL_ERROR', 'TIMED_OUT')");
    let share = format!("{completed} * 1.0 / nullif({completed} + {failed}, 0)");
    Grouping {
        subject: Subject {
            columns: Vec::new(),
            from: format!("{} e", dialect.table("k1_agent_executions")),
            time: "e.started_at",
            workflow: "e.workflow_id",
            task: Task::Column("e.task_id"),
            status: Some("e.status".to_owned()),
            order: &[("executions", true), ("agent_type", false)],
        },
        keys: vec![(Column::new("agent_type", Kind::Text), "e.agent_type")],
        counts: vec![
            column("completed", Kind::Count, &completed),
            column("failed", Kind::Count, &failed),
            column("running", Kind::Count, &counted("e.status = 'RUNNING'")),
            column("success", Kind::Share, &share),
        ],
        value: dialect.seconds("e.started_at", "e.completed_at"),
        kind: Kind::Seconds,
        names: Names {
            rows: "executions",
            count: "finished",
            average: "average_seconds",
            p50: "p50_seconds",
            p95: "p95_seconds",
            min: "min_seconds",
            max: "max_seconds",
            first: "first_started_at",
            last: "last_started_at",
        },
        newest: None,
    }
}
