//! What a check says: that all is well, or what is wrong, why, and what to do.

use super::fix::Fix;
use crate::error::{Error, ErrorKind};
use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// It works, but not for long, or not safely.
    Warning,
    /// Something does not work, or would not when it is needed.
    Problem,
}

/// What a check is about; the report is grouped by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// `k1ops.toml`, variables, flags.
    Configuration,
    /// Ports of this host.
    Ports,
    /// The engine, Compose, images, containers.
    Docker,
    /// Java, the JAR, Conductor.
    Conductor,
    /// The databases.
    Database,
    /// Memory, disks, kernel, clock.
    Host,
    /// Passwords, permissions, encryption.
    Security,
    /// Archives, schedule, repository.
    Backups,
    /// Names and proxies.
    Network,
}

impl Group {
    /// As a heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration",
            Self::Ports => "Ports",
            Self::Docker => "Docker",
            Self::Conductor => "Conductor",
            Self::Database => "Database",
            Self::Host => "Host",
            Self::Security => "Security",
            Self::Backups => "Backups",
            Self::Network => "Network",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The check that found it.
    pub check: &'static str,
    /// What it is about.
    pub group: Group,
    /// How much it matters.
    pub severity: Severity,
    /// What a command that meets it would exit with, for a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ErrorKind>,
    /// What is the case, in one line that names the object.
    pub title: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// Why it is so, or what it leads to.
    pub cause: Option<String>,
    /// What to do, as a sentence.
    pub advice: Option<String>,
    /// The same as commands to copy.
    pub remedy: Vec<String>,
    /// What `--fix` would do about it.
    pub fix: Option<Fix>,
}

impl Finding {
    fn new(severity: Severity, kind: Option<ErrorKind>, title: impl Into<String>) -> Self {
        Self {
            // Whoever runs the check signs what it found.
            check: "",
            group: Group::Host,
            severity,
            kind,
            title: title.into(),
            evidence: Vec::new(),
            cause: None,
            advice: None,
            remedy: Vec::new(),
            fix: None,
        }
    }

    /// Something does not work; `kind` is what a command that meets it would fail with.
    pub fn problem(kind: ErrorKind, title: impl Into<String>) -> Self {
        Self::new(Severity::Problem, Some(kind), title)
    }

    /// It works, but not for long, or not safely.
    pub fn warning(title: impl Into<String>) -> Self {
        Self::new(Severity::Warning, None, title)
    }

    /// Good to know.
    pub fn note(title: impl Into<String>) -> Self {
        Self::new(Severity::Note, None, title)
    }

    /// The problem that an error tells of, with its causes as evidence and its hint as advice.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let mut finding = Self::problem(error.kind(), error.to_string());
        finding.evidence = error.causes();
        finding.advice = error.hint_text().map(str::to_owned);
        finding
    }

    /// The same finding as less than a problem.
    #[must_use]
    pub fn as_severe_as(mut self, severity: Severity) -> Self {
        self.severity = severity;
        if severity < Severity::Problem {
            self.kind = None;
        }
        self
    }

    /// The same with something that was seen.
    #[must_use]
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// The same with the reason.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same with what to do, as a sentence.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same with a command that mends it.
    #[must_use]
    pub fn remedy(mut self, command: impl Into<String>) -> Self {
        self.remedy.push(command.into());
        self
    }

    /// The same with what `--fix` would do.
    #[must_use]
    pub fn fix(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }
}

/// What a check saw.
#[derive(Debug, Clone, Default)]
pub struct Examined {
    /// What is well, in a few words each.
    pub well: Vec<String>,
    /// What is not.
    pub findings: Vec<Finding>,
    /// Why there was nothing to look at.
    pub skipped: Option<String>,
}

impl Examined {
    /// All is well.
    pub fn well(what: impl Into<String>) -> Self {
        Self {
            well: vec![what.into()],
            ..Self::default()
        }
    }

    /// There is nothing to look at.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self {
            skipped: Some(why.into()),
            ..Self::default()
        }
    }

    /// Something is well.
    pub fn say(&mut self, what: impl Into<String>) {
        self.well.push(what.into());
    }

    /// Something is not.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }
}

impl From<Finding> for Examined {
    fn from(finding: Finding) -> Self {
        Self {
            findings: vec![finding],
            ..Self::default()
        }
    }
}
