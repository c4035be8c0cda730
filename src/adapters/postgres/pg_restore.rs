//! `pg_restore`, used for one thing: to turn a dump in its own format into a plain script.

use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A `pg_restore` of this host.
#[derive(Debug)]
pub struct PgRestore(PathBuf);

/// The script that it writes. [`Script::finish`] says whether it is whole.
#[derive(Debug)]
pub struct Script {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl PgRestore {
    /// Finds one beside the configured `pg_dump`, in the usual folders, newest first, or on `PATH`.
    /// A newer one reads what any older `pg_dump` wrote.
    pub fn find(pg_dump: &Path) -> Result<Self> {
        let mut folders = Vec::new();
        if !pg_dump.as_os_str().is_empty() {
            folders.push(pg_dump.to_owned());
            folders.extend(pg_dump.parent().map(Path::to_owned));
        }
        for major in (12..=20).rev() {
            folders.push(format!("/usr/lib/postgresql/{major}/bin").into());
            folders.push(format!("/usr/pgsql-{major}/bin").into());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        folders.extend(std::env::split_paths(&path));
        let found = folders
            .into_iter()
            .map(|folder| folder.join("pg_restore"))
            .find(|program| program.is_file());
        found.map(Self).ok_or_else(|| {
            Error::missing("pg_restore was not found, which reads dumps in its own format")
                .hint("Install it (on Debian and Ubuntu: apt-get install postgresql-client), or set database.pg_dump.")
        })
    }

    /// Runs it on `dump`.
    pub fn script(&self, dump: File) -> Result<Script> {
        let cannot = || format!("{} cannot be run", self.0.display());
        let mut child = Command::new(&self.0)
            .args(["--file=-", "--no-password"])
            .env("LC_ALL", "C.UTF-8")
            .stdin(dump)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(cannot)?;
        let output = child.stdout.take().ok_or_else(|| Error::failed(cannot()))?;
        Ok(Script {
            child,
            output: BufReader::with_capacity(1 << 20, output),
        })
    }
}

impl Script {
    /// Fails if the dump could not be read whole. Call it when the script was read to its end.
    pub fn finish(mut self) -> Result<()> {
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            errors
                .read_to_string(&mut said)
                .context(|| "what pg_restore says cannot be read")?;
        }
        let status = self
            .child
            .wait()
            .context(|| "pg_restore cannot be waited for")?;
        if status.success() {
            return Ok(());
        }
        Err(
            Error::bad_data(format!("the dump is not whole: {}", said.trim()))
                .hint("Nothing was changed. Use another backup."),
        )
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It has ended already, unless the script was not read to its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.output.read(buf)
    }
}

impl BufRead for Script {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.output.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.output.consume(amount);
    }
}
