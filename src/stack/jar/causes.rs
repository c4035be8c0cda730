//! Why a server died, read from the last lines of its log.

use crate::error::ErrorKind;

/// A likely cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// What is the case.
    pub what: &'static str,
    /// What to do.
    pub hint: &'static str,
    /// The kind of error it makes.
    pub kind: ErrorKind,
    /// Whether it lies in the code that was loaded.
    pub in_code: bool,
}

struct Pattern {
    /// Any of these, in any case of letters.
    any: &'static [&'static str],
    cause: Cause,
}

/// Earlier patterns are the more telling ones: a full disk also makes the database fail.
const PATTERNS: &[Pattern] = &[
    Pattern {
        any: &["unsupportedclassversionerror"],
        cause: Cause {
            what: "this Java is too old for the server",
            hint: "Install a newer Java, or name one in server.java.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "invalid maximum heap size",
            "invalid initial heap size",
            "maximum heap size of",
            "too small maximum heap",
            "exceeds the maximum representable size",
            "unrecognized vm option",
        ],
        cause: Cause {
            what: "the JVM does not accept its memory settings",
            hint: "Correct server.heap, for example \"1g\" or \"512m\".",
            kind: ErrorKind::Usage,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "unable to access jarfile",
            "zip end header not found",
            "invalid or corrupt jarfile",
            "error in opening zip file",
            "zipexception",
        ],
        cause: Cause {
            what: "the server's JAR cannot be read",
            hint: "Remove the JAR, so that it is fetched again, or correct server.jar.",
            kind: ErrorKind::BadData,
            in_code: true,
        },
    },
    Pattern {
        any: &[
            "no space left on device",
            "sqlite_full",
            "database or disk is full",
            "disk full",
        ],
        cause: Cause {
            what: "the disk is full",
            hint: "Make room and start again; `k1ops status` says where the data is.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "address already in use",
            "port is already in use",
            "port already in use",
            "was already in use",
        ],
        cause: Cause {
            what: "the port was taken while the server started",
            hint: "Set another ports.conductor, or stop what listens there.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "file is not a database",
            "sqlite_corrupt",
            "database disk image is malformed",
            "sqlite_notadb",
        ],
        cause: Cause {
            what: "the SQLite database is damaged",
            hint: "Restore a backup with `k1ops restore`.",
            kind: ErrorKind::BadData,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "found failed migration",
            "flywayvalidateexception",
            "validate failed: migrations",
        ],
        cause: Cause {
            what: "the database was written by another version of Conductor, or its migration broke off",
            hint: "Set server.version to the version that wrote it, or restore a backup.",
            kind: ErrorKind::BadData,
            in_code: false,
        },
    },
    Pattern {
        any: &["sqlite_busy", "sqlite_locked", "database is locked"],
        cause: Cause {
            what: "another process holds the SQLite database",
            hint: "Stop the process that has the database open and start again.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "sqlite_readonly",
            "sqlite_cantopen",
            "attempt to write a readonly database",
            "unable to open database",
        ],
        cause: Cause {
            what: "the SQLite database cannot be written",
            hint: "Check who owns the stack's data folder and that its disk is writable.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "password authentication failed",
            "no password was provided",
            "access denied",
            "no pg_hba.conf entry",
        ],
        cause: Cause {
            what: "the database refused the login",
            hint: "Correct user or password in database.url or database.password_file.",
            kind: ErrorKind::Usage,
            in_code: false,
        },
    },
    Pattern {
        any: &["permission denied for", "must be owner of"],
        cause: Cause {
            what: "the database user may not create or change Conductor's tables",
            hint: "Grant the user of database.url CREATE on its database and schema.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "refused. check that the hostname",
            "connection refused",
            "connectexception",
        ],
        cause: Cause {
            what: "the database does not answer",
            hint: "Check that it runs and that host and port in database.url are right.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
    Pattern {
        any: &[
            "outofmemoryerror",
            "could not reserve enough space",
            "insufficient memory for the java runtime",
            "cannot allocate memory",
        ],
        cause: Cause {
            what: "the server ran out of memory",
            hint: "Set a larger server.heap, or a smaller one if the host has no more memory.",
            kind: ErrorKind::Missing,
            in_code: false,
        },
    },
];

/// The likely cause that `log` tells of.
#[must_use]
pub fn likely(log: &str) -> Option<Cause> {
    let log = log.to_lowercase();
    PATTERNS
        .iter()
        .find(|pattern| pattern.any.iter().any(|text| log.contains(text)))
        .map(|pattern| pattern.cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_tell_their_cause() {
        for (line, word) in [
            (
                "java.lang.UnsupportedClassVersionError: x (class file version 65.0)",
                "too old",
            ),
            ("Invalid maximum heap size: -Xmxlots", "memory settings"),
            ("Error: Unable to access jarfile /x.jar", "JAR"),
            (
                "Caused by: java.net.BindException: Address already in use",
                "port",
            ),
            (
                "[SQLITE_NOTADB] File opened that is not a database file (file is not a database)",
                "damaged",
            ),
            (
                "[SQLITE_BUSY] The database file is locked (database is locked)",
                "another process",
            ),
            (
                "FATAL: password authentication failed for user \"k1\"",
                "login",
            ),
            (
                "Connection to 127.0.0.1:1 refused. Check that the hostname and port are correct",
                "does not answer",
            ),
            ("java.lang.OutOfMemoryError: Java heap space", "memory"),
            (
                "java.io.IOException: No space left on device\n[SQLITE_CORRUPT]",
                "full",
            ),
        ] {
            let cause = likely(line).unwrap();
            assert!(cause.what.contains(word), "{line}: {}", cause.what);
        }
        assert_eq!(likely("Connection to the moon established"), None);
        assert_eq!(likely(""), None);
    }
}
