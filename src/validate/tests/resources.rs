//! Test 6: the whole orchestration, and what the stack used since it was started.

use super::super::rig::Rig;
use super::super::{Finding, Sample, timeline};
use super::expect_completed;
use crate::error::Result;

/// Two gigabytes.
const MOST_MEMORY: u64 = 2_000_000_000;
/// Of all CPUs, on the average.
const MOST_CPU: f64 = 0.8;

pub(super) async fn run(rig: &mut Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let plan = rig.plan.clone();
    let view = rig.run_to_end(&plan, 0.2).await?;
    finding.tasks = timeline::bars(&view);
    expect_completed(&view, &mut finding);
    let count = view.tasks.len();
    finding.expect(count == plan.tasks.len(), || {
        format!("{count} of {} tasks were done", plan.tasks.len())
    });
    judge(&rig.samples(), &mut finding);
    Ok(finding)
}

fn judge(samples: &[Sample], finding: &mut Finding) {
    let peak = samples.iter().map(|s| s.memory_bytes).max().unwrap_or(0);
    let sum: f64 = samples.iter().map(|sample| sample.cpu).sum();
    #[allow(clippy::cast_precision_loss, reason = "some thousand samples")]
    let average = sum / samples.len().max(1) as f64;
    let most = samples.iter().map(|sample| sample.cpu).fold(0.0, f64::max);
    finding.figure("samples", samples.len());
    finding.figure("peak_memory_bytes", peak);
    finding.figure("average_cpu", average);
    finding.figure("peak_cpu", most);
    // What was not seen was not judged.
    finding.expect(samples.len() >= 3 && peak > 0, || {
        format!("only {} samples were taken", samples.len())
    });
    finding.expect(peak < MOST_MEMORY, || {
        format!("the stack used {:.2} GB of memory", bytes_in_gb(peak))
    });
    finding.expect(average < MOST_CPU, || {
        format!("the stack used {:.0} % of the CPUs", average * 100.0)
    });
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn bytes_in_gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_and_nothing_at_all_are_faults() {
        let sample = |memory_bytes, cpu| Sample {
            at: chrono::Utc::now(),
            memory_bytes,
            cpu,
            processes: 1,
        };
        for (samples, faults) in [
            (
                vec![sample(1_000, 0.9), sample(1_000, 0.1), sample(9, 0.1)],
                0,
            ),
            (
                vec![
                    sample(1_000, 0.1),
                    sample(2_000_000_000, 0.1),
                    sample(9, 0.1),
                ],
                1,
            ),
            (vec![sample(1_000, 0.9); 3], 1),
            (vec![], 1),
        ] {
            let mut finding = Finding::default();
            judge(&samples, &mut finding);
            assert_eq!(finding.faults.len(), faults, "{:?}", finding.faults);
        }
    }
}
