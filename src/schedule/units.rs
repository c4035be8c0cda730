//! The schedule as a systemd timer and the service that it starts.

use super::{By, Job};
use sha2::{Digest, Sha256};

/// A unit file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What keeps the service from doing more than a backup must. A drill runs a JVM, which makes
/// machine code, and a backup reads what other users own.
const SYSTEM_HARDENING: &str = "\
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_SYS_NICE
";
/// A user's own systemd may not build namespaces for it.
const HARDENING: &str = "\
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
";

/// The name of the units without their ending. Two stacks of one name are told apart by their folder.
fn name(job: &Job) -> String {
    let hash = Sha256::digest(job.base.display().to_string());
    format!("k1ops-{}-{}", job.stack, &hex::encode(hash)[..6])
}

/// The first line of the units, by which they are known to be ours.
pub(super) fn mark(job: &Job) -> String {
    format!(
        "# k1ops schedule: stack {} in {} (change it with `k1ops schedule install`)",
        job.stack,
        job.base.display()
    )
}

/// The names of the timers: of the runs, and of the look whether there is a good backup.
pub(super) fn timer_names(job: &Job) -> [String; 2] {
    let name = name(job);
    [format!("{name}.timer"), format!("{name}-check.timer")]
}

/// The timers, each followed by its service.
pub(super) fn units(job: &Job, of_system: bool) -> [Unit; 4] {
    let [fire, check] = timer_names(job);
    let service_of = |timer: &str| timer.replace(".timer", ".service");
    let hourly = format!("*-*-* *:{:02}:00", job.check_minute());
    [
        Unit {
            text: timer(
                job,
                &format!(
                    "OnCalendar={}\nPersistent=yes\nRandomizedDelaySec={}",
                    job.calendar.as_on_calendar(job.zone),
                    job.jitter.as_secs()
                ),
                &format!(
                    "\n[X-K1ops]\nCron={}\nTimeZone={}\n",
                    job.calendar.as_cron(),
                    job.zone.name()
                ),
            ),
            name: fire.clone(),
        },
        Unit {
            text: service(job, &job.command(By::Systemd), of_system),
            name: service_of(&fire),
        },
        Unit {
            text: timer(job, &format!("OnCalendar={hourly}"), ""),
            name: check.clone(),
        },
        Unit {
            text: service(job, &job.check(), of_system),
            name: service_of(&check),
        },
    ]
}

fn timer(job: &Job, when: &str, more: &str) -> String {
    format!(
        "{mark}
[Unit]
Description=Backups of the K1 stack {stack} by the clock

[Timer]
{when}
AccuracySec=1
{more}
[Install]
WantedBy=timers.target
",
        mark = mark(job),
        stack = job.stack,
    )
}

fn service(job: &Job, command: &[String], of_system: bool) -> String {
    let words: Vec<String> = command.iter().map(|w| word(w)).collect();
    let writable: Vec<String> = job
        .writes_to
        .iter()
        .map(|folder| word(&format!("-{}", folder.display())))
        .collect();
    let system = if of_system {
        // The cache of JARs, for a drill.
        format!(
            "{SYSTEM_HARDENING}ReadWritePaths={} -%C/k1ops -%h/.cache\n",
            writable.join(" ")
        )
    } else {
        String::new()
    };
    format!(
        "{mark}
[Unit]
Description=Backups of the K1 stack {stack}
After=network-online.target docker.service
Wants=network-online.target

[Service]
Type=oneshot
WorkingDirectory={base}
ExecStart={command}
Environment={path}
UMask=0077
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
TimeoutStopSec=5min
{HARDENING}{system}",
        mark = mark(job),
        stack = job.stack,
        base = job.base.display().to_string().replace('%', "%%"),
        command = words.join(" "),
        path = word(&format!("PATH={}", job.path)),
    )
}

/// A word of a unit's setting.
fn word(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if escaped.chars().all(plain) {
        escaped
    } else {
        format!("\"{escaped}\"")
    }
}
