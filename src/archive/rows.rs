//! A digest of a table's rows that does not depend on their order: how many there are, and the sum
//! modulo 2^128 of each row's XXH3-128. It detects a lost, added or changed row; it is no defence
//! against somebody who forges rows on purpose.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

/// Row count and order-free checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDigest {
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' hashes, as 32 hexadecimal digits in JSON.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub checksum: u128,
}

impl RowDigest {
    /// Adds one row in its canonical form.
    pub fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        self.checksum = self.checksum.wrapping_add(xxh3_128(row));
    }

    /// Adds all rows of `text` in `COPY`'s text format: each row ends with a newline, and a newline
    /// inside a value is written as `\n`. Answers what follows the last newline.
    pub fn add_lines<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', text) {
            self.add(&text[start..end]);
            start = end + 1;
        }
        &text[start..]
    }

    /// The digest of the rows of both.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            checksum: self.checksum.wrapping_add(other.checksum),
        }
    }
}

impl std::iter::Sum for RowDigest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), Self::merge)
    }
}

fn to_hex<S: Serializer>(checksum: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{checksum:032x}"))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    let text = String::deserialize(deserializer)?;
    u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(rows: &[Vec<u8>]) -> RowDigest {
        let mut digest = RowDigest::default();
        for row in rows {
            digest.add(row);
        }
        digest
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter_but_content_does(
            rows in proptest::collection::vec(proptest::collection::vec(32u8..127, 0..20), 1..30),
            cut in 0usize..30,
            victim in 0usize..30,
        ) {
            let whole = digest(&rows);
            let cut = cut.min(rows.len());
            let parts: RowDigest = [digest(&rows[cut..]), digest(&rows[..cut])].into_iter().sum();
            prop_assert_eq!(whole, parts);
            let text: Vec<u8> = rows.iter().flat_map(|r| [r.as_slice(), b"\n"].concat()).collect();
            let mut lines = RowDigest::default();
            prop_assert!(lines.add_lines(&text).is_empty());
            prop_assert_eq!(whole, lines);
            let mut changed = rows.clone();
            let victim = victim % rows.len();
            changed[victim].push(b'x');
            prop_assert_ne!(whole, digest(&changed));
            changed.remove(victim);
            prop_assert_ne!(whole, digest(&changed));
        }
    }
}
