//! A hook for tests: the named steps at which an upgrade can be told to die, as by `kill -9`.

use crate::restore;

/// Every step, in the order in which an upgrade that fails comes to them.
pub const STEPS: [&str; 10] = [
    "upgrade-noted",
    "upgrade-stopped",
    "upgrade-saved",
    "upgrade-saved-noted",
    "upgrade-configured",
    "upgrade-started",
    "upgrade-back-noted",
    "upgrade-configured-back",
    "upgrade-data-back",
    "upgrade-returned-noted",
];

/// Dies here if it is told to.
pub(super) fn point(step: &str) {
    debug_assert!(STEPS.contains(&step), "{step} is not in the list");
    restore::crash::die_if_told(step);
}
