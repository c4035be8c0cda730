//! What `--fix` does: only what is safe and can be taken back. A port in `k1ops.toml`, with the
//! user's comments and layout kept, and the permissions of files that hold secrets.

use crate::adapters::fs;
use crate::config;
use crate::error::{Context, ErrorKind, Result};
use serde::Serialize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Fix {
    /// Write a port into the configuration file.
    SetPort {
        /// The file, which need not be there yet.
        file: PathBuf,
        /// The name below `[ports]`.
        name: String,
        /// The port.
        port: u16,
    },
    /// Make a file private to its owner.
    SetMode {
        /// The file or folder.
        path: PathBuf,
        /// Its permissions from now on.
        mode: u32,
    },
}

impl Fix {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::SetPort { file, name, port } => {
                format!("write ports.{name} = {port} into {}", file.display())
            }
            Self::SetMode { path, mode } => format!("chmod {mode:o} {}", path.display()),
        }
    }

    /// Does it.
    pub fn apply(&self) -> Result<()> {
        match self {
            Self::SetPort { file, name, port } => {
                let before = read(file)?;
                let after = with_port(&before, name, *port, file)?;
                fs::replace(file, after.as_bytes(), 0o600)
            }
            Self::SetMode { path, mode } => {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))
                    .context(|| format!("the permissions of {} cannot be set", path.display()))
            }
        }
    }
}

/// The configuration's text with a port in it, and nothing else changed.
pub fn with_port(text: &str, name: &str, port: u16, file: &Path) -> Result<String> {
    config::with_value(text, "ports", name, i64::from(port), file)
}

fn read(file: &Path) -> Result<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).context_kind(ErrorKind::Usage, || {
            format!("{} cannot be read", file.display())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str) -> String {
        with_port(text, "conductor", 8081, Path::new("k1ops.toml")).unwrap()
    }

    #[test]
    fn comments_and_layout_stay() {
        let text = "# mine\ntier   =  'jar'  # yes\n\n[ports]  # ours\nredis = 7000\n\
                    conductor =   8080   # the API\n# end\n";
        assert_eq!(changed(text), text.replace("  8080 ", "  8081 "));
    }

    #[test]
    fn what_is_missing_is_added() {
        assert_eq!(changed(""), "[ports]\nconductor = 8081\n");
        assert_eq!(
            changed("stack = 'a'\n"),
            "stack = 'a'\n\n[ports]\nconductor = 8081\n"
        );
        assert_eq!(
            changed("ports = { redis = 1 }\n"),
            "ports = { redis = 1 , conductor = 8081 }\n"
        );
        assert_eq!(
            changed("ports.redis = 1\n"),
            "ports.redis = 1\nports.conductor = 8081\n"
        );
        assert!(with_port("ports = 3", "conductor", 1, Path::new("f")).is_err());
        assert!(with_port("ports = [", "conductor", 1, Path::new("f")).is_err());
    }

    #[test]
    fn permissions_of_the_file_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k1ops.toml");
        std::fs::write(&file, "[ports]\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let fix = Fix::SetPort {
            file: file.clone(),
            name: "redis".into(),
            port: 9,
        };
        fix.apply().unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "[ports]\nredis = 9\n"
        );
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
