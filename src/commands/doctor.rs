//! `k1ops doctor`.

use super::Context;
use crate::adapters::process::{Identity, Signal};
use crate::config::{Loaded, Profile};
use crate::doctor::{
    Bundled, Contents, Examination, Finding, Fix, Patient, Report, Scrubber, Severity, State,
    run as run_checks, write_bundle,
};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::exit_code::ExitCode;
use crate::ui::{self, Entry, Remark, Section, Table, Tone, Ui};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a process that is asked to end is waited for.
const ENDING: Duration = Duration::from_secs(10);

/// Find out what is wrong, why, and what to do about it
///
/// Looks at ports, Docker, Java, the JAR, the databases, Conductor, disks, memory, clocks,
/// permissions, passwords, backups and their schedule, all at once. It changes nothing unless asked
/// to with --fix or --kill.
///
/// Exits 0 if there is no problem, and otherwise with the code of the worst: 4 if data is not what
/// it should be, 2 if the configuration is wrong, 3 if something is missing or in use, 1 for the
/// rest. Warnings alone exit 0, or 1 with --strict.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct DoctorArgs {
    /// Mend what can be mended safely: write free ports into k1ops.toml, make secrets private
    #[arg(long)]
    fix: bool,
    /// With --fix or --kill, show what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
    /// End this process, if it holds a port that the stack wants
    #[arg(long, value_name = "PID")]
    kill: Option<u32>,
    /// Write a support archive (.tar.gz) with secrets removed
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Say where each value of the configuration came from (--config without a file does the same)
    #[arg(long, conflicts_with_all = ["fix", "kill", "bundle"])]
    pub(super) origins: bool,
    /// Hold the stack to this profile: production is tried out by attacks that have to fail
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Profile>,
    /// Exit 1 also if there are only warnings
    #[arg(long)]
    strict: bool,
}

impl DoctorArgs {
    /// Whether it mends anything.
    pub(super) fn changes(&self) -> bool {
        (self.fix || self.kill.is_some()) && !self.dry_run
    }
}

/// What `--json` answers.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// What `--fix` and `--kill` did; with `--dry-run`, what they would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<Bundled>,
}

#[derive(Debug, Default, Serialize)]
struct Done {
    dry_run: bool,
    fixes: Vec<Fix>,
    ended: Option<u32>,
}

/// Runs the checks, mends what it was asked to, and shows the report.
pub(super) async fn run(args: DoctorArgs, context: Context) -> Result<ExitCode> {
    let Context {
        ui,
        loaded,
        unreadable,
        interrupt,
    } = context;
    if args.origins {
        return show_origins(&ui, &loaded);
    }
    let mut patient =
        Arc::new(Patient::new(loaded, unreadable.map(Arc::new))?.held_to(args.profile));
    let looking = async { Ok(run_checks(patient.clone()).await) };
    let mut report = interrupt.guard(looking).await?;
    let mut done = None;
    if args.fix || args.kill.is_some() {
        let events = ui.events();
        let plan = Done {
            dry_run: args.dry_run,
            fixes: fixes(&report, args.fix),
            ended: args.kill,
        };
        carry_out(&plan, &report, &events).await?;
        if !plan.dry_run {
            let loaded = after(patient.loaded.clone(), &plan.fixes);
            let unreadable = patient.unreadable.clone();
            patient = Arc::new(Patient::new(loaded, unreadable)?.held_to(args.profile));
            let looking = async { Ok(run_checks(patient.clone()).await) };
            report = interrupt.guard(looking).await?;
        }
        done = Some(plan);
    }
    let mut bundle = None;
    if let Some(path) = &args.bundle {
        let mut shown = String::new();
        show(
            &report,
            &Ui::new(false, ui::Verbosity::Verbose, ui::ColorChoice::Never, false),
            &mut shown,
        );
        let contents = Contents {
            report: &report,
            shown,
        };
        bundle = Some(write_bundle(&patient, &contents, path).await?);
    }
    let answer = Answer {
        report: &report,
        done,
        bundle,
    };
    ui.result(&answer, |ui, text| {
        show(&report, ui, text);
        if let Some(bundle) = &answer.bundle {
            let size = ui::bytes(bundle.size);
            text.push_str(&format!(
                "\nwritten: {} ({size}, {} files); secrets were taken out, look through it all the \
                 same\n",
                bundle.path.display(),
                bundle.members.len()
            ));
        }
    })?;
    let only_warnings = report.tally.warnings > 0 && report.code() == ExitCode::Done;
    Ok(if args.strict && only_warnings {
        ExitCode::Failed
    } else {
        report.code()
    })
}

/// The fixes that the findings offer, each once.
fn fixes(report: &Report, wanted: bool) -> Vec<Fix> {
    let mut fixes = Vec::new();
    for fix in report
        .findings
        .iter()
        .filter_map(|finding| finding.fix.as_ref())
    {
        if wanted && !fixes.contains(fix) {
            fixes.push(fix.clone());
        }
    }
    fixes
}

async fn carry_out(plan: &Done, report: &Report, events: &Events) -> Result<()> {
    if let Some(pid) = plan.ended {
        end(pid, report, plan.dry_run, events).await?;
    }
    for fix in &plan.fixes {
        if plan.dry_run {
            events.note(format!("would {}", fix.describe()));
        } else {
            fix.apply()?;
            events.finished(fix.describe(), "");
        }
    }
    if plan.fixes.is_empty() && plan.ended.is_none() {
        events.note("nothing that was found can be mended by --fix");
    }
    Ok(())
}

/// Ends a process that the user named, and only one that is in the stack's way.
async fn end(pid: u32, report: &Report, dry_run: bool, events: &Events) -> Result<()> {
    let named = format!("PID {pid}: ");
    let in_the_way = report
        .findings
        .iter()
        .filter(|finding| finding.check == "ports" && finding.severity == Severity::Problem)
        .any(|finding| finding.evidence.iter().any(|seen| seen.starts_with(&named)));
    if !in_the_way {
        return Err(Error::refused(format!(
            "process {pid} holds no port that this stack wants, or is the stack's own"
        ))
        .hint("`k1ops doctor` names the processes that are in the way."));
    }
    let Some(process) = Identity::of(pid) else {
        return Ok(());
    };
    if dry_run {
        events.note(format!("would end process {pid} (SIGTERM)"));
        return Ok(());
    }
    process.signal(Signal::TERM)?;
    if process.ended_within(ENDING).await {
        events.finished(format!("end process {pid}"), "");
        return Ok(());
    }
    Err(Error::failed(format!(
        "process {pid} has not ended within {} s",
        ENDING.as_secs()
    ))
    .hint(format!("If it must go: kill -9 {pid}")))
}

/// The configuration as it is read from now on.
fn after(mut loaded: Loaded, fixes: &[Fix]) -> Loaded {
    for fix in fixes {
        if let Fix::SetPort { file, name, port } = fix {
            let ports = &mut loaded.config.ports;
            match name.as_str() {
                "conductor" => ports.conductor = *port,
                "postgres" => ports.postgres = *port,
                "redis" => ports.redis = *port,
                "elasticsearch" => ports.elasticsearch = *port,
                "prometheus" => ports.prometheus = *port,
                "grafana" => ports.grafana = *port,
                _ => {}
            }
            loaded.file = Some(file.clone());
        }
    }
    loaded
}

fn show_origins(ui: &Ui, loaded: &Loaded) -> Result<ExitCode> {
    let scrubber = Scrubber::new([]);
    let mut explained = loaded.explained()?;
    for one in &mut explained {
        one.value = if Scrubber::is_secret(&one.key) {
            "\"***\"".to_owned()
        } else {
            scrubber.clean(&one.value)
        };
    }
    let value = serde_json::json!({
        "file": loaded.file,
        "base": loaded.base,
        "values": explained,
    });
    ui.result(&value, |ui, text| {
        let mut table = Table::new(&["key", "value", "from"]);
        for one in &explained {
            let from = one.origin.describe();
            let tone = if from == "the default" {
                Tone::Dim
            } else {
                Tone::Good
            };
            table.row([one.key.clone(), one.value.clone(), ui.paint(tone, &from)]);
        }
        text.push_str(&table.render());
        text.push_str(
            "\nFlags beat variables (K1OPS_...), which beat the file, which beats the defaults.\n",
        );
    })?;
    Ok(ExitCode::Done)
}

fn show(report: &Report, ui: &Ui, text: &mut String) {
    let mut sections: Vec<Section> = Vec::new();
    for finding in &report.findings {
        let title = finding.group.title();
        if sections.last().is_none_or(|section| section.title != title) {
            sections.push(Section {
                title: title.to_owned(),
                entries: Vec::new(),
            });
        }
        if let Some(section) = sections.last_mut() {
            section.entries.push(entry(finding));
        }
    }
    ui.sections(&sections, text);
    well(report, ui, text);
    text.push('\n');
    text.push_str(&summary(report, ui));
}

fn entry(finding: &Finding) -> Entry {
    let (tone, mark) = match finding.severity {
        Severity::Problem => (Tone::Bad, "✗"),
        Severity::Warning => (Tone::Warn, "!"),
        Severity::Note => (Tone::Dim, "·"),
    };
    let mut remarks = Vec::new();
    let seen = finding.evidence.iter();
    remarks.extend(seen.map(|seen| Remark::Text("seen", seen.clone())));
    remarks.extend(
        finding
            .cause
            .clone()
            .map(|cause| Remark::Text("why", cause)),
    );
    remarks.extend(finding.advice.clone().map(|todo| Remark::Text("do", todo)));
    let fix = finding.fix.as_ref().map(Fix::describe);
    remarks.extend(fix.map(|fix| Remark::Text("--fix", format!("would {fix}"))));
    let commands = finding.remedy.iter();
    remarks.extend(commands.map(|command| Remark::Command("run", command.clone())));
    Entry {
        tone,
        mark,
        name: "",
        title: finding.title.clone(),
        remarks,
    }
}

/// What is well: in full where nothing else is to be said or the user wants to know, in a line
/// otherwise.
fn well(report: &Report, ui: &Ui, text: &mut String) {
    let in_full = ui.is_verbose() || report.findings.is_empty();
    let of = |state: State| {
        report
            .checks
            .iter()
            .filter(move |check| check.state == state)
    };
    if in_full {
        let mut entries: Vec<Entry> = of(State::Well)
            .map(|check| line("✓", Tone::Good, check))
            .collect();
        if ui.is_verbose() {
            entries.extend(of(State::Skipped).map(|check| line("-", Tone::Dim, check)));
        }
        if !entries.is_empty() {
            let title = "Well".to_owned();
            ui.sections(&[Section { title, entries }], text);
        }
        return;
    }
    let names: Vec<&str> = of(State::Well).map(|check| check.check).collect();
    if !names.is_empty() {
        text.push('\n');
        text.push_str(&ui.paragraph("well  ", &names.join(", ")));
    }
}

fn line(mark: &'static str, tone: Tone, check: &Examination) -> Entry {
    Entry {
        tone,
        mark,
        name: check.check,
        title: check.said.join("; "),
        remarks: Vec::new(),
    }
}

fn summary(report: &Report, ui: &Ui) -> String {
    let tally = &report.tally;
    let mut parts = Vec::new();
    let mut count = |n: usize, one: &str, tone: Tone| {
        if n > 0 {
            let plural = if n == 1 { "" } else { "s" };
            parts.push(ui.paint(tone, &format!("{n} {one}{plural}")));
        }
    };
    count(tally.problems, "problem", Tone::Bad);
    count(tally.warnings, "warning", Tone::Warn);
    count(tally.notes, "note", Tone::Dim);
    if parts.is_empty() {
        parts.push(ui.paint(Tone::Good, "all is well"));
    }
    format!(
        "{}\nstack {}, {}; {} checks in {}\n",
        parts.join(", "),
        report.stack,
        report.tier,
        report.checks.len() - tally.skipped,
        ui::duration(Duration::from_secs_f64(report.seconds))
    )
}
