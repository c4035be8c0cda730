//! One value changed in the text of a `k1ops.toml`, with the user's comments and layout kept. Who
//! writes the text back, and where, is not known here.

use crate::error::{Error, Result};
use std::path::Path;
use toml_edit::{DocumentMut, Item, Table, Value};

/// The text of `file` with `key` in `table` set to `value`, and nothing else changed.
pub fn with_value(
    text: &str,
    table: &str,
    key: &str,
    value: impl Into<Value>,
    file: &Path,
) -> Result<String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        Error::usage(format!(
            "configuration file {} is not valid TOML: {}",
            file.display(),
            error.message()
        ))
    })?;
    let entries = document
        .entry(table)
        .or_insert_with(|| Item::Table(Table::new()));
    let entries = entries
        .as_table_like_mut()
        .ok_or_else(|| Error::usage(format!("`{table}` in {} is not a table", file.display())))?;
    let mut item = toml_edit::value(value);
    // What stands behind the old value, a comment perhaps, stays.
    if let Some(old) = entries.get(key).and_then(Item::as_value)
        && let Some(new) = item.as_value_mut()
    {
        *new.decor_mut() = old.decor().clone();
    }
    match entries.get_mut(key) {
        Some(old) => *old = item,
        None => {
            entries.insert(key, item);
        }
    }
    Ok(document.to_string())
}
