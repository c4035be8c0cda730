//! The archive format: an ordinary tar with a manifest last (docs/archive-format.md).
