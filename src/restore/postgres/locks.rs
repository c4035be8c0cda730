//! Which statements may run at the same time: the table locks that they take, so that no worker
//! waits inside the server while other work is left.

use std::collections::HashMap;

/// How a statement uses a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// With others of its kind: `CREATE INDEX`.
    Shared,
    /// Alone: `ALTER TABLE`.
    Alone,
}

/// Tables in use.
#[derive(Debug, Default)]
pub(super) struct Locks(HashMap<String, Held>);

#[derive(Debug, Default)]
struct Held {
    shared: usize,
    alone: bool,
}

impl Locks {
    /// Takes all of `wanted`, or nothing.
    pub(super) fn try_take(&mut self, wanted: &[(String, Use)]) -> bool {
        let free = wanted
            .iter()
            .all(|(table, how)| match (self.0.get(table), how) {
                (None, _) => true,
                (Some(held), Use::Shared) => !held.alone,
                (Some(held), Use::Alone) => !held.alone && held.shared == 0,
            });
        if free {
            for (table, how) in wanted {
                let held = self.0.entry(table.clone()).or_default();
                match how {
                    Use::Shared => held.shared += 1,
                    Use::Alone => held.alone = true,
                }
            }
        }
        free
    }

    /// Gives back what [`Locks::try_take`] took.
    pub(super) fn give_back(&mut self, taken: &[(String, Use)]) {
        for (table, how) in taken {
            if let Some(held) = self.0.get_mut(table) {
                match how {
                    Use::Shared => held.shared -= 1,
                    Use::Alone => held.alone = false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_share_a_table_and_constraints_do_not() {
        let mut locks = Locks::default();
        let index = [("t".to_owned(), Use::Shared)];
        let key = [("t".to_owned(), Use::Alone), ("u".to_owned(), Use::Alone)];
        assert!(locks.try_take(&index) && locks.try_take(&index));
        assert!(!locks.try_take(&key));
        locks.give_back(&index);
        locks.give_back(&index);
        assert!(locks.try_take(&key));
        assert!(!locks.try_take(&[("u".to_owned(), Use::Shared)]));
    }
}
