//! The result of all checks: a pure value, sorted, with the exit code that it leads to.

use super::finding::{Finding, Group, Severity};
use crate::error::ErrorKind;
use crate::exit_code::ExitCode;
use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All that it looks at is well.
    Well,
    /// It found something.
    Found,
    /// There was nothing to look at.
    Skipped,
}

/// One check and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct Examination {
    /// The check's name.
    pub check: &'static str,
    /// What it is about.
    pub group: Group,
    /// How it ended.
    pub state: State,
    /// What it says is well, or why it was skipped.
    pub said: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// How many findings there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Something does not work.
    pub problems: usize,
    /// Something is at risk.
    pub warnings: usize,
    /// Good to know.
    pub notes: usize,
    /// Checks that found nothing.
    pub well: usize,
    /// Checks that had nothing to look at.
    pub skipped: usize,
}

/// What all the checks found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The stack's name.
    pub stack: String,
    /// The tier that runs or would be started, in words.
    pub tier: String,
    /// How long it took in all.
    pub seconds: f64,
    /// How many of each there are.
    pub tally: Tally,
    /// What the command exits with.
    pub exit_code: u8,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Every check, by group.
    pub checks: Vec<Examination>,
}

impl Report {
    /// A report of what was found, sorted: groups by the worst that is in them, then worst first.
    #[must_use]
    pub fn new(
        stack: String,
        tier: String,
        seconds: f64,
        mut checks: Vec<Examination>,
        mut findings: Vec<Finding>,
    ) -> Self {
        let worst = |group: Group| {
            findings
                .iter()
                .filter(|finding| finding.group == group)
                .map(|finding| finding.severity)
                .max()
        };
        let ranks: Vec<(Group, Option<Severity>)> =
            findings.iter().map(|f| (f.group, worst(f.group))).collect();
        let rank = |group: Group| {
            ranks
                .iter()
                .find(|(of, _)| *of == group)
                .and_then(|(_, worst)| *worst)
        };
        findings.sort_by(|a, b| {
            let key = |f: &Finding| {
                (
                    std::cmp::Reverse(rank(f.group)),
                    f.group,
                    std::cmp::Reverse(f.severity),
                )
            };
            key(a).cmp(&key(b))
        });
        checks.sort_by_key(|check| (check.group, check.check));
        let of = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let ended = |state| checks.iter().filter(|c| c.state == state).count();
        let tally = Tally {
            problems: of(Severity::Problem),
            warnings: of(Severity::Warning),
            notes: of(Severity::Note),
            well: ended(State::Well),
            skipped: ended(State::Skipped),
        };
        Self {
            stack,
            tier,
            seconds,
            exit_code: code(&findings).number(),
            tally,
            findings,
            checks,
        }
    }

    /// What the command exits with.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        code(&self.findings)
    }
}

/// Only problems count. Of several, the one that is hardest to take back picks the code: data that
/// is not what it should be, then a wrong configuration, then what is missing, then the rest, and last
/// a copy that is behind.
fn code(findings: &[Finding]) -> ExitCode {
    let order = [
        ErrorKind::BadData,
        ErrorKind::Usage,
        ErrorKind::Missing,
        ErrorKind::Locked,
    ];
    let kinds: Vec<ErrorKind> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Problem)
        .map(|finding| finding.kind.unwrap_or(ErrorKind::Failed))
        .collect();
    match order.into_iter().find(|kind| kinds.contains(kind)) {
        Some(kind) => ExitCode::from(kind),
        None if kinds.is_empty() => ExitCode::Done,
        None if kinds.iter().all(|kind| *kind == ErrorKind::Behind) => ExitCode::Behind,
        None => ExitCode::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>) -> Report {
        Report::new("k1".into(), String::new(), 0.0, Vec::new(), findings)
    }

    fn in_group(mut finding: Finding, group: Group) -> Finding {
        finding.group = group;
        finding
    }

    #[test]
    fn the_worst_group_comes_first_and_in_it_the_worst_finding() {
        let report = report(vec![
            in_group(Finding::note("a"), Group::Ports),
            in_group(Finding::warning("b"), Group::Host),
            in_group(Finding::note("c"), Group::Backups),
            in_group(Finding::problem(ErrorKind::Missing, "d"), Group::Backups),
        ]);
        let titles: Vec<&str> = report.findings.iter().map(|f| f.title.as_str()).collect();
        assert_eq!(titles, ["d", "c", "b", "a"]);
        assert_eq!(report.tally.problems, 1);
        assert_eq!(report.tally.notes, 2);
    }

    #[test]
    fn the_exit_code_is_that_of_the_hardest_problem() {
        let problem = |kind| Finding::problem(kind, "x");
        for (kinds, code) in [
            (vec![], ExitCode::Done),
            (vec![ErrorKind::Failed], ExitCode::Failed),
            (vec![ErrorKind::Refused], ExitCode::Failed),
            (vec![ErrorKind::Behind], ExitCode::Behind),
            (vec![ErrorKind::Behind, ErrorKind::Failed], ExitCode::Failed),
            (
                vec![ErrorKind::Missing, ErrorKind::Failed],
                ExitCode::Missing,
            ),
            (vec![ErrorKind::Missing, ErrorKind::Usage], ExitCode::Usage),
            (
                vec![ErrorKind::Usage, ErrorKind::BadData],
                ExitCode::BadData,
            ),
        ] {
            let report = report(kinds.into_iter().map(problem).collect());
            assert_eq!(report.code(), code);
            assert_eq!(report.exit_code, code.number());
        }
        let mild = report(vec![Finding::warning("x"), Finding::note("y")]);
        assert_eq!(mild.code(), ExitCode::Done);
    }
}
