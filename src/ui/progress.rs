//! Progress on standard error: bars on a terminal, a line every few seconds elsewhere.

use super::format;
use crate::event::Unit;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where no terminal shows a bar, a step that goes on says so this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The bars that are shown. Cheap to clone.
#[derive(Clone)]
pub(super) struct Progress(Arc<Inner>);

struct Inner {
    shown: bool,
    bars: Option<MultiProgress>,
    steps: Mutex<HashMap<String, Step>>,
}

struct Step {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    pub(super) fn new(shown: bool) -> Self {
        let bars = (shown && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self(Arc::new(Inner {
            shown,
            bars,
            steps: Mutex::default(),
        }))
    }

    pub(super) fn started(&self, step: &str) {
        if !self.0.shown {
            return;
        }
        let bar = self.0.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner().with_message(step.to_owned()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        self.steps().insert(
            step.to_owned(),
            Step {
                bar,
                last_line: Instant::now(),
            },
        );
    }

    pub(super) fn progress(&self, step: &str, done: u64, total: Option<u64>, unit: Unit) {
        if !self.0.shown {
            return;
        }
        if !self.steps().contains_key(step) {
            self.started(step);
        }
        let mut steps = self.steps();
        let Some(state) = steps.get_mut(step) else {
            return;
        };
        if let Some(bar) = &state.bar {
            if let Some(total) = total.filter(|_| bar.length().is_none()) {
                bar.set_style(style(unit));
                bar.set_length(total);
            }
            bar.set_position(done);
        } else if state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            drop(steps);
            self.line(&format!("… {step}: {}", sofar(done, total, unit)));
        }
    }

    pub(super) fn finished(&self, step: &str) {
        if let Some(Step { bar: Some(bar), .. }) = self.steps().remove(step) {
            bar.finish_and_clear();
        }
    }

    /// Takes down all bars, as before a result or an error.
    pub(super) fn clear(&self) {
        for (_, step) in self.steps().drain() {
            if let Some(bar) = step.bar {
                bar.finish_and_clear();
            }
        }
    }

    /// Writes a line above the bars.
    pub(super) fn line(&self, line: &str) {
        let print = || {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        };
        match &self.0.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// A writer whose lines do not tear the bars.
    pub(super) fn writer(&self) -> impl Write + use<> {
        LogWriter(self.clone())
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<String, Step>> {
        self.0.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => {
            "{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
        }
        Unit::Items => "{spinner} {msg} [{bar:30}] {human_pos}/{human_len}",
        Unit::Seconds => "{spinner} {msg} [{bar:30}] {pos} s of {len} s",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

fn sofar(done: u64, total: Option<u64>, unit: Unit) -> String {
    let show = |n: u64| match unit {
        Unit::Bytes => format::bytes(n),
        Unit::Items => format::count(n),
        Unit::Seconds => format!("{n} s"),
    };
    total.map_or_else(
        || show(done),
        |total| format!("{} of {}", show(done), show(total)),
    )
}

struct LogWriter(Progress);

impl Write for LogWriter {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.line(String::from_utf8_lossy(buf).trim_end());
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
