//! Which tiers a stack may be started on, and which one it was started on last.

use super::{Stack, Tier};
use crate::adapters::fs;
use crate::config::TierChoice;
use crate::error::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// A tier that the host cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The tier.
    pub tier: Tier,
    /// Why.
    pub reason: String,
}

impl Tier {
    /// The tiers to try, in order. A tier that is asked for by name is never replaced by another.
    #[must_use]
    pub fn order(choice: TierChoice) -> &'static [Self] {
        match choice {
            TierChoice::Auto => &[Self::Docker, Self::Jar, Self::Direct],
            TierChoice::Docker => &[Self::Docker],
            TierChoice::Jar => &[Self::Jar],
            TierChoice::Direct => &[Self::Direct],
        }
    }

    /// Whether a start on this tier that failed with `error` may go on with the next one.
    ///
    /// Tier 1 has many parts that can fail on a host where tier 2 does well. The JAR itself failing
    /// is another matter: running without it would hide why. A wrong configuration, an interrupt and
    /// another run are never got round.
    #[must_use]
    pub fn may_be_passed_over(self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Missing => true,
            ErrorKind::Failed | ErrorKind::BadData => self == Self::Docker,
            ErrorKind::Usage
            | ErrorKind::Locked
            | ErrorKind::Refused
            | ErrorKind::Behind
            | ErrorKind::Interrupted => false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Last {
    tier: Tier,
}

impl Stack {
    /// The tier that the stack ran on last: it says where the stack's data is.
    pub fn last_tier(&self) -> Result<Option<Tier>> {
        let path = self.tier_file();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).context(|| format!("{} cannot be read", path.display()));
            }
        };
        let last: Last = serde_json::from_slice(&text).map_err(|error| {
            Error::bad_data(format!("{} does not name a tier", path.display()))
                .hint("Remove the file and start the stack again.")
                .because(error)
        })?;
        Ok(Some(last.tier))
    }

    /// Remembers the tier that the stack runs on.
    pub fn remember_tier(&self, tier: Tier) -> Result<()> {
        if self.last_tier().ok().flatten() == Some(tier) {
            return Ok(());
        }
        let text = serde_json::to_vec(&Last { tier }).context(|| "the tier is not JSON")?;
        fs::write_atomically(&self.tier_file(), &text)
    }

    fn tier_file(&self) -> std::path::PathBuf {
        self.folder.join("run").join("tier.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tier_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let stack = Stack {
            name: "k1".into(),
            config: crate::config::Config::default(),
            base: folder.path().into(),
            folder: folder.path().join(".conductor"),
        };
        assert_eq!(stack.last_tier().unwrap(), None);
        stack.remember_tier(Tier::Docker).unwrap();
        assert_eq!(stack.last_tier().unwrap(), Some(Tier::Docker));
        stack.remember_tier(Tier::Jar).unwrap();
        assert_eq!(stack.last_tier().unwrap(), Some(Tier::Jar));
    }

    #[test]
    fn only_what_another_tier_can_do_better_is_passed_over() {
        assert!(Tier::Docker.may_be_passed_over(&Error::failed("the image does not build")));
        assert!(!Tier::Jar.may_be_passed_over(&Error::failed("the server died")));
        for error in [Error::usage("x"), Error::locked("x"), Error::refused("x")] {
            assert!(!Tier::Docker.may_be_passed_over(&error));
        }
    }
}
