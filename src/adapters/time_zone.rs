//! Time zones by name, and the one that this host is in.

use crate::error::{Error, Result};
use chrono_tz::Tz;

/// The word for the host's own time zone.
const LOCAL: &str = "local";

/// The time zone that `name` means: an IANA name, or `local`.
///
/// A host that does not say where it is, as containers do, is in UTC.
pub fn named(name: &str) -> Result<Tz> {
    if name == LOCAL {
        return Ok(of_host());
    }
    name.parse().map_err(|_| {
        Error::usage(format!("there is no time zone {name:?}")).hint(
            "Set `timezone` to a name such as Europe/Berlin or UTC, or to local for this host's.",
        )
    })
}

/// The host's time zone: what `TZ` names, or what `/etc/localtime` leads to.
#[must_use]
pub fn of_host() -> Tz {
    let told = std::env::var("TZ").ok();
    let told = told.and_then(|name| name.trim_start_matches(':').parse().ok());
    told.unwrap_or_else(of_system)
}

/// What `/etc/localtime` leads to, whatever this process was told: the clock that cron goes by.
#[must_use]
pub fn of_system() -> Tz {
    let name = iana_time_zone::get_timezone().ok();
    name.and_then(|name| name.parse().ok()).unwrap_or(Tz::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_names_and_others_are_refused() {
        assert_eq!(named("Europe/Berlin").unwrap(), Tz::Europe__Berlin);
        assert_eq!(named(LOCAL).unwrap(), of_host());
        let error = named("Mars/Base").unwrap_err();
        assert!(error.to_string().contains("Mars/Base"), "{error}");
    }
}
