//! What struck, and what came of it: a table for people, one line of JSON for machines.

use crate::case::Outcome;
use std::collections::BTreeMap;

/// All cases so far.
#[derive(Default)]
pub struct Report {
    rows: BTreeMap<(&'static str, &'static str, &'static str), Counts>,
    /// In full, for whoever looks into them.
    pub failures: Vec<String>,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    hits: u64,
    misses: u64,
    lost: u64,
    false_good: u64,
    other: u64,
}

impl Report {
    /// Adds a case; answers whether something was wrong.
    pub fn add(&mut self, number: u64, outcome: &Outcome) -> bool {
        let key = (outcome.kind.name(), outcome.store, outcome.job.name());
        let counts = self.rows.entry(key).or_default();
        let add = |to: &mut u64, is: bool| *to += u64::from(is);
        add(&mut counts.hits, outcome.hit);
        add(&mut counts.misses, !outcome.hit);
        add(&mut counts.lost, outcome.lost.is_some());
        add(&mut counts.false_good, outcome.false_good.is_some());
        add(&mut counts.other, outcome.other.is_some());
        let wrong = [
            ("LOST", &outcome.lost),
            ("FALSE GOOD", &outcome.false_good),
            ("WRONG", &outcome.other),
        ];
        let mut failed = false;
        for (label, what) in wrong {
            if let Some(what) = what {
                failed = true;
                let text = format!("case {number} {key:?}: {label}: {what}\n{}", outcome.story);
                eprintln!("{text}\n");
                self.failures.push(text);
            }
        }
        let hits = self.hits();
        if outcome.hit && hits.is_multiple_of(50) {
            eprintln!(
                "{hits} faults, {} of them with something wrong",
                self.failures.len()
            );
        }
        failed
    }

    pub fn hits(&self) -> u64 {
        self.rows.values().map(|c| c.hits).sum()
    }

    fn sum(&self) -> Counts {
        self.rows.values().fold(Counts::default(), |a, b| Counts {
            hits: a.hits + b.hits,
            misses: a.misses + b.misses,
            lost: a.lost + b.lost,
            false_good: a.false_good + b.false_good,
            other: a.other + b.other,
        })
    }

    pub fn table(&self) -> String {
        let line = |name: &str, store: &str, job: &str, c: &Counts| {
            format!(
                "{name:<30} {store:<9} {job:<8} {:>6} {:>6} {:>5} {:>10} {:>6}\n",
                c.hits, c.misses, c.lost, c.false_good, c.other
            )
        };
        let mut text = format!(
            "{:<30} {:<9} {:<8} {:>6} {:>6} {:>5} {:>10} {:>6}\n",
            "fault", "data", "run", "struck", "missed", "lost", "false good", "wrong"
        );
        for ((name, store, job), counts) in &self.rows {
            text += &line(name, store, job, counts);
        }
        text + &line("all", "", "", &self.sum())
    }

    /// The same as one object.
    pub fn json(&self, seed: u64) -> String {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for ((name, ..), counts) in &self.rows {
            *kinds.entry(name).or_default() += counts.hits;
        }
        let all = self.sum();
        serde_json::json!({
            "faults": all.hits, "missed": all.misses, "lost": all.lost,
            "false_good": all.false_good, "otherwise_wrong": all.other,
            "seed": seed, "by_kind": kinds,
        })
        .to_string()
    }
}
