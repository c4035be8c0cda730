//! The schedule as a block of lines in the user's crontab. Everything outside of the block is
//! somebody else's, and stays as it is to the byte.

use super::{By, Job};
use crate::error::{Error, Result};

/// The longest command that every cron takes, in bytes.
const LONGEST: usize = 998;

/// The lines of `job`, marks included.
pub(super) fn block(job: &Job) -> Result<String> {
    let jitter = job.jitter.as_secs();
    let late = format!(" --jitter {jitter}s");
    let fire = job.command(By::Cron);
    let hourly = format!("{} * * * *", job.check_minute());
    let lines = [
        begin(job),
        line(job, &job.calendar.as_cron(), &fire, &late)?,
        // cron does not catch up on what it missed while the host was down.
        line(job, "@reboot", &fire, " --missed")?,
        line(job, &hourly, &job.check(), "")?,
        end(job),
    ];
    Ok(lines.join("\n") + "\n")
}

fn line(job: &Job, when: &str, command: &[String], flags: &str) -> Result<String> {
    let words: Vec<String> = command.iter().map(|w| quoted(w)).collect();
    let command = format!(
        "cd {} && umask 077 && env PATH={} {}{flags} >>{} 2>&1",
        quoted(&job.base.display().to_string()),
        quoted(&job.path),
        words.join(" "),
        quoted(&job.log.display().to_string()),
    );
    if command.len() > LONGEST {
        return Err(Error::usage(format!(
            "the crontab's line would be {} bytes long, and cron takes {LONGEST}",
            command.len()
        ))
        .hint("Move the stack to a folder with a shorter path, or use a systemd timer."));
    }
    // To cron, a percent sign is the end of the line.
    Ok(format!("{when} {}", command.replace('%', "\\%")))
}

fn begin(job: &Job) -> String {
    format!(
        "# BEGIN k1ops schedule: stack {} in {} (change it with `k1ops schedule install`)",
        job.stack,
        job.base.display()
    )
}

fn end(job: &Job) -> String {
    format!(
        "# END k1ops schedule: stack {} in {}",
        job.stack,
        job.base.display()
    )
}

/// Where the block of `job` is in a crontab, its last line's end included.
pub(super) fn find(job: &Job, crontab: &[u8]) -> Result<Option<std::ops::Range<usize>>> {
    let place = |mark: &str, from: usize| {
        let mut at = from;
        for line in crontab[from..].split_inclusive(|byte| *byte == b'\n') {
            if line.strip_suffix(b"\n").unwrap_or(line) == mark.as_bytes() {
                return Some(at..at + line.len());
            }
            at += line.len();
        }
        None
    };
    let Some(first) = place(&begin(job), 0) else {
        return Ok(None);
    };
    match place(&end(job), first.end) {
        Some(last) => Ok(Some(first.start..last.end)),
        None => Err(Error::refused(format!(
            "the crontab has the line {:?} without its end",
            begin(job)
        ))
        .hint("Look at it with `crontab -e`, take out what k1ops wrote, and try again.")),
    }
}

/// The crontab with `block` in the place of the old one, or at the end.
pub(super) fn with_block(job: &Job, crontab: &[u8], block: &str) -> Result<Vec<u8>> {
    let mut new = crontab.to_vec();
    if let Some(place) = find(job, crontab)? {
        new.splice(place, block.bytes());
        return Ok(new);
    }
    new.extend_from_slice(block.as_bytes());
    Ok(new)
}

/// The crontab without the block.
pub(super) fn without_block(job: &Job, crontab: &[u8]) -> Result<Vec<u8>> {
    let mut new = crontab.to_vec();
    if let Some(place) = find(job, crontab)? {
        new.drain(place);
    }
    Ok(new)
}

/// A word of a shell command.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
