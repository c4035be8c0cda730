//! The configuration as it goes into an archive: complete, and without secrets.

use crate::config::{Config, redact_url};
use crate::error::{Context, Result};

/// Its member.
pub(super) const MEMBER: &str = "config/k1ops.toml";

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// The configuration in effect, as `k1ops.toml` takes it, with every secret hidden.
pub(super) fn without_secrets(config: &Config) -> Result<String> {
    let mut shown = config.clone();
    for (key, value) in &mut shown.server.properties {
        if is_secret(key) {
            HIDDEN.clone_into(value);
        } else if value.contains("://") {
            *value = redact_url(value);
        }
    }
    for mirror in &mut shown.server.mirrors {
        *mirror = redact_url(mirror);
    }
    // A `Secret` hides itself when it is serialised.
    let text = toml::to_string_pretty(&shown).context(|| "the configuration cannot be written")?;
    Ok(format!(
        "# The configuration in effect when the backup was taken.\n\
         # Secrets are written as {HIDDEN}: put them back before you use this file.\n\n{text}"
    ))
}

/// Whether a property of this name holds a secret. In doubt, it does.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let words = ["password", "passwd", "secret", "token", "credential", "key"];
    words.iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn no_secret_is_left_and_the_rest_is_readable_again() {
        let mut config = Config::default();
        config.database.url = Secret::new("postgres://u:hush@h/d");
        config.server.mirrors = vec!["https://me:hush@mirror/maven".into()];
        let mut property = |key: &str, value: &str| {
            config.server.properties.insert(key.into(), value.into());
        };
        property("conductor.redis.password", "hush");
        property("some.apiKey", "hush");
        property("conductor.redis-lock.serverAddress", "redis://:hush@r:6379");
        property("conductor.app.workers", "4");
        let text = without_secrets(&config).unwrap();
        assert!(!text.contains("hush"), "{text}");
        let back: Config = toml::from_str(&text).unwrap();
        assert_eq!(back.ports, config.ports);
        assert_eq!(back.server.properties["conductor.app.workers"], "4");
    }
}
