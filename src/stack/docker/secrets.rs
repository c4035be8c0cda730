//! The passwords of the Docker tier: made once, kept in files that only their owner may read, and
//! handed to the containers as Compose secrets.

use super::roles::Role;
use crate::adapters::fs;
use crate::config::Secret;
use crate::error::{Context, Error, Result};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The folder's name beside the Compose file.
pub(super) const FOLDER: &str = "secrets";

/// The stack's passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Of the database user `conductor`.
    pub postgres: Secret,
    /// Of Redis.
    pub redis: Secret,
    /// Of the roles with few rights, in production.
    pub roles: BTreeMap<Role, Secret>,
}

impl Secrets {
    /// The file that holds the database's password, below the folder of the Compose file.
    #[must_use]
    pub fn postgres_file(folder: &Path) -> PathBuf {
        Role::Administrator.password_file(folder)
    }

    fn redis_file(folder: &Path) -> PathBuf {
        folder.join(FOLDER).join("redis.conf")
    }

    /// The file that Conductor is configured by; it carries both passwords.
    #[must_use]
    pub fn properties_file(folder: &Path) -> PathBuf {
        folder.join(FOLDER).join("conductor.properties")
    }

    /// The passwords of the stack whose Compose file is in `folder`, made if they are not there yet;
    /// those of the roles only `with_roles`.
    ///
    /// A password that is there never changes: the database was made with it.
    pub fn ensure(folder: &Path, with_roles: bool) -> Result<Self> {
        Self::of(folder, with_roles, true)
    }

    /// The same, with those that are not there made in memory only.
    pub fn planned(folder: &Path, with_roles: bool) -> Result<Self> {
        Self::of(folder, with_roles, false)
    }

    fn of(folder: &Path, with_roles: bool, keep: bool) -> Result<Self> {
        let postgres = password(&Self::postgres_file(folder), keep)?;
        let redis_file = Self::redis_file(folder);
        let redis = if let Some(text) = fs::read_text_if_there(&redis_file)? {
            redis_password(&text).ok_or_else(|| {
                Error::bad_data(format!("{} sets no requirepass", redis_file.display()))
                    .hint("Add a line `requirepass PASSWORD`, or remove the file to have it made.")
            })?
        } else {
            let password = generated();
            if keep {
                fs::write_atomically(&redis_file, redis_conf(&password).as_bytes())?;
            }
            password
        };
        let mut roles = BTreeMap::new();
        for role in Role::LIMITED.into_iter().filter(|_| with_roles) {
            roles.insert(role, password(&role.password_file(folder), keep)?);
        }
        Ok(Self {
            postgres,
            redis: Secret::new(redis),
            roles,
        })
    }

    /// New ones, which are not written anywhere yet.
    #[must_use]
    pub fn generated() -> Self {
        Self {
            postgres: Secret::new(generated()),
            redis: Secret::new(generated()),
            roles: Role::LIMITED
                .into_iter()
                .map(|role| (role, Secret::new(generated())))
                .collect(),
        }
    }

    /// Puts these in the place of those that are in `folder`; what else Redis is told stays.
    ///
    /// The next start has the database take over its new password.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let redis_file = Self::redis_file(folder);
        let told = fs::read_text_if_there(&redis_file)?.unwrap_or_default();
        let told = if redis_password(&told).is_some() {
            with_redis_password(&told, self.redis.expose())
        } else {
            redis_conf(self.redis.expose())
        };
        let postgres = self.postgres.expose().as_bytes();
        fs::write_atomically(&Self::postgres_file(folder), postgres)?;
        for (role, password) in &self.roles {
            let password = password.expose().as_bytes();
            fs::write_atomically(&role.password_file(folder), password)?;
        }
        fs::write_atomically(&redis_file, told.as_bytes())
    }

    /// The files that hold nothing but passwords, also those that are not there.
    pub fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
        let roles = Role::LIMITED.map(|role| role.password_file(folder));
        [Self::postgres_file(folder), Self::redis_file(folder)]
            .into_iter()
            .chain(roles)
    }

    /// Whether there are any yet.
    #[must_use]
    pub fn exist(folder: &Path) -> bool {
        Self::postgres_file(folder).exists()
    }
}

/// Opens the secret files to the containers of an engine whose users are not this host's: there no
/// owner fits. The folder keeps everybody else of this host out.
pub fn open_to_mapped_users(folder: &Path) -> Result<()> {
    let folder = folder.join(FOLDER);
    let cannot = || format!("the files in {} cannot be opened", folder.display());
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).context(cannot)?;
    for entry in std::fs::read_dir(&folder).context(cannot)? {
        let path = entry.context(cannot)?.path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).context(cannot)?;
    }
    Ok(())
}

/// What is in a password's file; a new one if there is none, which is written if it is to be kept.
fn password(file: &Path, keep: bool) -> Result<Secret> {
    let Some(text) = fs::read_text_if_there(file)? else {
        let password = generated();
        if keep {
            fs::write_atomically(file, password.as_bytes())?;
        }
        return Ok(Secret::new(password));
    };
    let password = text.trim();
    if password.is_empty() {
        return Err(Error::bad_data(format!("{} is empty", file.display()))
            .hint("Write the database's password into it."));
    }
    Ok(Secret::new(password))
}

/// 244 random bits, in characters that need no quoting anywhere.
pub(super) fn generated() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn redis_password(conf: &str) -> Option<String> {
    conf.lines()
        .find_map(|line| line.strip_prefix("requirepass "))
        .map(|password| password.trim().to_owned())
}

fn with_redis_password(conf: &str, password: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("requirepass ") {
            format!("requirepass {password}\n")
        } else {
            format!("{line}\n")
        }
    };
    conf.lines().map(line).collect()
}

fn redis_conf(password: &str) -> String {
    format!(
        "# Redis of a K1 Conductor stack. It holds locks; what must last is in PostgreSQL.\n\
         requirepass {password}\n\
         dir /data\n\
         appendonly yes\n\
         appendfsync everysec\n\
         save 300 1\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_passwords_replace_the_old_ones_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let first = Secrets::ensure(folder.path(), true).unwrap();
        let conf = Secrets::redis_file(folder.path());
        let mine = std::fs::read_to_string(&conf).unwrap() + "maxclients 7\n";
        std::fs::write(&conf, &mine).unwrap();
        let second = Secrets::generated();
        second.write(folder.path()).unwrap();
        assert_eq!(Secrets::ensure(folder.path(), true).unwrap(), second);
        let now = std::fs::read_to_string(&conf).unwrap();
        assert_eq!(
            now,
            mine.replace(first.redis.expose(), second.redis.expose())
        );
    }

    #[test]
    fn planning_writes_no_password_and_keeps_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = Secrets::ensure(folder.path(), false).unwrap();
        let planned = Secrets::planned(folder.path(), true).unwrap();
        assert_eq!(planned.postgres, first.postgres);
        assert_eq!(planned.roles.len(), 3);
        let is_there = |role: Role| role.password_file(folder.path()).exists();
        assert!(!Role::LIMITED.into_iter().any(is_there));
        planned.write(folder.path()).unwrap();
        assert_eq!(Secrets::ensure(folder.path(), true).unwrap(), planned);
    }

    #[test]
    fn passwords_are_made_once_kept_private_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!Secrets::exist(folder.path()));
        let first = Secrets::ensure(folder.path(), true).unwrap();
        assert_eq!(Secrets::ensure(folder.path(), true).unwrap(), first);
        assert_ne!(first.postgres, first.redis);
        assert!(!format!("{first:?}").contains(first.postgres.expose()));
        assert_eq!(Secrets::files(folder.path()).count(), 5);
        for file in Secrets::files(folder.path()) {
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let secrets = folder.path().join(FOLDER);
        let without = Secrets::ensure(folder.path(), false).unwrap();
        assert!(
            without.roles.is_empty(),
            "a stack that is not hardened has none"
        );
        let mode = std::fs::metadata(secrets).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
