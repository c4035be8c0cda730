//! Whether what a command printed is what the page shows.
//!
//! What differs from run to run and from host to host is taken out of both by the patterns here, in their
//! order; all else has to be the same. `...` on a line of its own stands for any lines, `[..]` for
//! anything within a line, as in the crate `snapbox`, which compares.

use regex::{Captures, Regex};
use snapbox::{Assert, Data};
use std::sync::LazyLock;

/// What may differ, and what stands in its place while two texts are compared. `docs/introduction.md`
/// tells readers of them.
const PATTERNS: [(&str, &str); 28] = [
    // Progress: how many lines of it there are depends on how fast the host is.
    (r"(?m)^… .*\n", ""),
    (
        r"(?m)^[\w-]+: (SCHEDULED|IN_PROGRESS|COMPLETED|FAILED)\n",
        "",
    ),
    (
        r"\b(k1ops-demo|k1ops-validate|drill)-\w{6}\b",
        "[SCRATCH FOLDER]",
    ),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "[ID]"),
    (r"\b[0-9a-f]{64}\b", "[SHA-256]"),
    (r"\bage1[0-9a-z]{8,58}…?", "[PUBLIC KEY]"),
    (r"(?i)\d{8}t\d{6}z(-\d+)?", "[TIME]"),
    (
        r"\b\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?( ?UTC|Z|[+-]\d\d(:\d\d)?)?",
        "[TIME]",
    ),
    (
        r"\b\d{4}-W\d\d\b|\b(monthly|yearly) \d{4}(-\d\d)?\b",
        "[TIME]",
    ),
    (
        r"\b\d+(\.\d+)? (B|KiB|MiB|GiB|TiB|kB|MB|GB)(/s)?(\b|$)",
        "[SIZE]",
    ),
    (
        r"\b(\d+h |\d+m |\d+ min )*\d+(\.\d+)? ?(ms|s|min|m|h|d|hours?|minutes?|seconds?)\b",
        "[DURATION]",
    ),
    // Who did it, in the audit log.
    (r"(?m)^ +\[TIME\] +\S+ ", " [TIME] [WHO] "),
    (r"\bPID \d+", "PID [PID]"),
    (r"(?m)^PID +\d+", "PID [PID]"),
    (r"(?m)^process \d+", "process [PID]"),
    (r"\bJava +\d+(\.\d+)*", "Java [VERSION]"),
    (r"/usr/lib/jvm/[^/ ]+", "[JAVA HOME]"),
    (
        r"\bPostgreSQL \d+(\.\d+)?( \([^)]*\))?",
        "PostgreSQL [VERSION]",
    ),
    (
        r"\b(plain|extracted JAR( and (AOT cache|class archive))?)[,)]",
        "[WAY TO START]",
    ),
    (r"\b[0-9A-F]{24}\b", "[SEGMENT]"),
    (r"\b[\d,]+ (files|segments|bytes)\b", "[COUNT]"),
    (r"\bbase/\d+/\d+\b", "[FILE]"),
    (r"\b\d+ at once\b", "[CPUS] at once"),
    (r"[▁▂▃▄▅▆▇█]( *[▁▂▃▄▅▆▇█])*", "[TREND]"),
    // What a figure is worth in columns, and how a path is broken.
    (r" {2,}", " "),
    (r"─{2,}", "──"),
    (r"(?m) +$", ""),
    (r"\n+\z", "\n"),
];

/// Takes out of a text what may differ.
pub fn settled(text: &str) -> String {
    static COMPILED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let compile = |(pattern, by): &(&str, &'static str)| (Regex::new(pattern).unwrap(), *by);
        PATTERNS.iter().map(compile).collect()
    });
    COMPILED
        .iter()
        .fold(text.to_owned(), |text, (pattern, by)| {
            pattern
                .replace_all(&text, |_: &Captures<'_>| (*by).to_owned())
                .into_owned()
        })
}

/// Compares; answers the difference.
pub fn compare(printed: &str, shown: &str) -> Result<(), String> {
    let (printed, shown) = (settled(printed), settled(shown));
    Assert::new()
        .normalize_paths(false)
        .action_env("K1OPS_BOOK_NEVER_SET")
        .try_eq(None, Data::text(printed), Data::text(shown))
        .map_err(|difference| difference.to_string())
}

#[cfg(test)]
mod judging {
    use super::*;

    const SHOWN: &str = "backed up to /srv/k1/.conductor/backups/k1-k1-20261123T190000Z.tar\n  36 rows, 494.83 KiB in \
        28.00 KiB of archive, 0.04 s (11.47 MiB/s)\n  sqlite k1: 5 tables, 10 rows\n";

    #[test]
    fn what_differs_from_run_to_run_is_alike() {
        let printed = "… backing up: 5 s\nbacked up to /srv/k1/.conductor/backups/k1-k1-20270101T000000Z.tar\n  36 rows, 1.2 MiB \
            in 9 B of archive, 1m 04s (3 B/s)\n  sqlite k1:  5 tables, 10 rows\n";
        assert_eq!(compare(printed, SHOWN), Ok(()));
        assert_eq!(compare(printed, "backed up to [..]\n...\n"), Ok(()));
        let kept = |time: &str| format!("database conductor_k1ops_kept_{time} on db\n");
        let (then, now) = (kept("20261123t190000z"), kept("20270101t000000z"));
        assert_eq!(compare(&now, &then), Ok(()));
    }

    #[test]
    fn everything_else_is_not() {
        for (from, to) in [
            ("10 rows", "9 rows"),
            ("5 tables", "6 tables"),
            ("backed up", "restored"),
            ("/srv/k1", "/srv/k2"),
            (".tar", ".tar.age"),
            ("KiB", "rows"),
            ("  sqlite k1: 5 tables, 10 rows\n", ""),
        ] {
            let printed = SHOWN.replace(from, to);
            assert_ne!(printed, SHOWN);
            assert!(compare(&printed, SHOWN).is_err(), "{from} and {to}");
        }
        assert!(compare(&format!("{SHOWN}warning: it is lost\n"), SHOWN).is_err());
        assert!(compare("something else\n", "backed up to [..]\n...\n").is_err());
        assert!(compare("", SHOWN).is_err());
    }
}
