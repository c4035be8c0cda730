//! The server's own `pg_dump`: found by version, run without a secret on its command line, and
//! believed only with exit code 0 *and* its end marker.

use super::Address;
use crate::adapters::docker::{Engine, Said};
use crate::error::{Context, Error, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// `pg_dump` writes this at the end of a complete plain dump.
const END_MARKER: &str = "-- PostgreSQL database dump complete";

/// How long a `pg_dump` may say nothing.
const SILENT: Duration = Duration::from_secs(600);

/// Which part of the schema to dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What must be there before the data: schemas, types, tables, functions.
    PreData,
    /// What is cheaper or possible only with the data: indexes, constraints, triggers.
    PostData,
}

impl Section {
    /// Its name on `pg_dump`'s command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::PostData => "post-data",
        }
    }
}

/// What `pg_dump` wrote.
#[derive(Debug)]
pub struct Dumped {
    /// The script.
    pub sql: String,
    /// What it warned of, although it succeeded: as a rule something that it left out.
    pub warnings: Vec<String>,
}

/// A `pg_dump` that fits a server.
#[derive(Debug, Clone)]
pub struct PgDump {
    program: Program,
}

#[derive(Debug, Clone)]
enum Program {
    OfHost(PathBuf),
    Inside(Inside),
}

/// The container that a server runs in, which has the `pg_dump` that belongs to it.
#[derive(Debug, Clone)]
pub struct Inside {
    /// The engine.
    pub engine: Engine,
    /// The container's name.
    pub container: String,
}

impl PgDump {
    /// Finds a `pg_dump` of the server's `major` version: at `configured` (the program or its
    /// folder) if that is set, else in the usual folders and on `PATH`.
    ///
    /// A newer one would write settings that an older server rejects, an older one refuses to run.
    pub async fn find(major: u32, configured: &Path) -> Result<Self> {
        let mut passed_over = Vec::new();
        for program in candidates(major, configured) {
            match version(&program).await {
                Some(found) if found == major => {
                    return Ok(Self {
                        program: Program::OfHost(program),
                    });
                }
                Some(found) => passed_over.push(format!("{} is {found}", program.display())),
                None => passed_over.push(format!("{} does not run", program.display())),
            }
        }
        let found = if passed_over.is_empty() {
            "none".to_owned()
        } else {
            passed_over.join(", ")
        };
        Err(Error::missing(format!("no pg_dump of version {major}, the server's, was found: {found}"))
            .hint(format!(
                "Install it (on Debian and Ubuntu: apt-get install postgresql-client-{major}), or set database.pg_dump."
            )))
    }

    /// The one in the server's own container.
    #[must_use]
    pub fn inside(inside: Inside) -> Self {
        Self {
            program: Program::Inside(inside),
        }
    }

    /// The schema section as plain SQL in UTF-8, seen through an exported snapshot.
    pub async fn section(
        &self,
        address: &Address,
        snapshot: &str,
        section: Section,
    ) -> Result<Dumped> {
        let what = format!("pg_dump of the {} schema", section.name());
        let arguments = [
            "--no-password".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--lock-wait-timeout=60s".to_owned(),
            format!("--section={}", section.name()),
            format!("--snapshot={snapshot}"),
        ];
        let output = match &self.program {
            Program::OfHost(program) => of_host(program, address, &arguments).await?,
            Program::Inside(inside) => inside.run(address, &arguments).await?,
        };
        if output.code != 0 {
            let said = output.stderr.trim();
            let error = Error::failed(format!("{what} failed (exit code {}): {said}", output.code));
            return Err(if said.contains("conflict with recovery") {
                error.hint("Set hot_standby_feedback = on on the standby, and max_standby_streaming_delay to the length of a backup.")
            } else {
                error
            });
        }
        let text = String::from_utf8(output.stdout).context(|| format!("{what} is not UTF-8"))?;
        // A dump that died early can look complete to a pipe; the marker cannot be mistaken.
        if !text
            .trim_end()
            .lines()
            .rev()
            .take(5)
            .any(|line| line == END_MARKER)
        {
            return Err(Error::failed(format!("{what} ended before its end marker"))
                .hint("Run the backup again; if it stays so, look into the server's log."));
        }
        Ok(Dumped {
            sql: text,
            warnings: warnings(&output.stderr),
        })
    }
}

/// What `pg_dump` warns of, each line without its own name.
fn warnings(said: &str) -> Vec<String> {
    let warning = |line: &str| {
        line.split_once("warning: ")
            .map(|(_, what)| what.to_owned())
    };
    said.lines().filter_map(warning).collect()
}

async fn of_host(program: &Path, address: &Address, arguments: &[String]) -> Result<Said> {
    let output = Command::new(program)
        .args(arguments)
        .envs(address.libpq_environment())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context(|| format!("{} cannot be run", program.display()))?;
    Ok(Said {
        code: output.status.code().map_or(-1, i64::from),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Inside {
    /// The server trusts whoever is in its container, so no password goes there.
    async fn run(&self, address: &Address, arguments: &[String]) -> Result<Said> {
        let mut command = vec![
            "pg_dump",
            "--username",
            address.user(),
            "--dbname",
            address.database(),
        ];
        command.extend(arguments.iter().map(String::as_str));
        self.engine
            .run_inside(&self.container, "postgres", &command, b"", SILENT)
            .await
    }
}

fn candidates(major: u32, configured: &Path) -> Vec<PathBuf> {
    if !configured.as_os_str().is_empty() {
        let in_folder = configured.join("pg_dump");
        return vec![if in_folder.is_file() {
            in_folder
        } else {
            configured.to_path_buf()
        }];
    }
    let usual = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        format!("/usr/local/opt/postgresql@{major}/bin"),
        format!("/opt/homebrew/opt/postgresql@{major}/bin"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    usual
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("pg_dump"))
        .filter(|program| program.is_file())
        .collect()
}

async fn version(program: &Path) -> Option<u32> {
    let run = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(10), run)
        .await
        .ok()?
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// The major version in a line such as `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_version(line: &str) -> Option<u32> {
    let word = line.split_once("(PostgreSQL) ")?.1;
    let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(parse_version("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn warnings_are_told_from_what_belongs_to_them() {
        let said = "pg_dump: warning: subscriptions not dumped because current user is not a superuser\n\
            pg_dump: detail: x\npg_dump: hint: y\n";
        let expected = ["subscriptions not dumped because current user is not a superuser"];
        assert_eq!(warnings(said), expected);
    }

    #[tokio::test]
    async fn a_missing_version_is_said_with_what_was_found() {
        let error = PgDump::find(1, Path::new("/bin/true")).await.unwrap_err();
        assert!(
            error.to_string().contains("/bin/true does not run"),
            "{error}"
        );
        assert!(error.hint_text().unwrap().contains("postgresql-client-1"));
    }
}
