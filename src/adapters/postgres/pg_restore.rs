//! `pg_restore`, used for one thing: to turn a dump in its own format into a plain script.

use crate::adapters::last_words::LastWords;
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
    said: Option<LastWords>,
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
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (output, errors) = pipes.ok_or_else(|| Error::failed(cannot()))?;
        let said = LastWords::of(errors).context(cannot)?;
        Ok(Script {
            child,
            output: BufReader::with_capacity(1 << 20, output),
            said: Some(said),
        })
    }
}

impl Script {
    /// Fails if the dump could not be read whole. Call it when the script was read to its end.
    pub fn finish(mut self) -> Result<()> {
        let said = self.said.take().map(LastWords::heard).unwrap_or_default();
        let status = self
            .child
            .wait()
            .context(|| "pg_restore cannot be waited for")?;
        if status.success() {
            return Ok(());
        }
        Err(Error::bad_data(format!("the dump is not whole: {said}"))
            .hint("Nothing was changed. Use another backup."))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    /// A double says more than a pipe holds, as the real one does of a dump with thousands of things that
    /// it does not know.
    #[test]
    fn however_much_it_says_it_comes_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("pg_restore");
        let text = "#!/bin/sh\nhead -c 200000 /dev/zero | tr '\\0' w >&2\necho 'SELECT 1;'\n\
                    echo >&2\necho the last word >&2\nexit 1\n";
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut script = PgRestore(program)
            .script(File::open("/dev/null").unwrap())
            .unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            script.read_to_string(&mut text).unwrap();
            let _ = told.send((text, script.finish()));
        });
        let (text, end) = heard
            .recv_timeout(Duration::from_secs(60))
            .expect("pg_restore waits for ever");
        assert_eq!(text, "SELECT 1;\n");
        let error = end.unwrap_err().to_string();
        assert!(error.ends_with("the last word"), "{error}");
        assert!(error.len() < 8000, "{}", error.len());
    }
}
