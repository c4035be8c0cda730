//! Tablespaces that a dump names: used where the server has them. What lay in one that it lacks goes
//! into the database's own, since a tablespace is a folder of one host and no part of a database.

use super::failed;
use super::script::statements;
use crate::adapters::postgres::Session;
use crate::error::Result;
use crate::event::Events;
use std::collections::BTreeSet;

/// How `pg_dump` says where the next tables and indexes lie.
const SET: &str = "SET default_tablespace = ";

/// The script, with no tablespace that the server of `session` lacks; says once which ones those are.
pub(super) async fn without_missing(
    session: &Session,
    script: &str,
    said: &mut BTreeSet<String>,
    events: &Events,
) -> Result<String> {
    let rows = session
        .query(
            "SELECT quote_ident(spcname) FROM pg_catalog.pg_tablespace",
            &[],
        )
        .await
        .map_err(|e| failed("reading the tablespaces", &e))?;
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let (text, missing) = replaced(script, &there);
    for name in missing {
        if said.insert(name.clone()) {
            events.warning_with_hint(
                format!(
                    "the server has no tablespace {name}: what was in it goes into the database's own"
                ),
                "To have it back there, create the tablespace and restore again, or move the tables with \
                 ALTER TABLE ... SET TABLESPACE.",
            );
        }
    }
    Ok(text)
}

/// The script, and the tablespaces that were taken out of it. Only whole statements are looked at, not
/// what stands in strings.
fn replaced(script: &str, there: &BTreeSet<String>) -> (String, BTreeSet<String>) {
    let (mut text, mut missing, mut end) = (String::new(), BTreeSet::new(), 0);
    for statement in statements(script) {
        let Some(name) = statement.strip_prefix(SET) else {
            continue;
        };
        if name == "''" || there.contains(name) {
            continue;
        }
        missing.insert(name.to_owned());
        // The statement is a piece of the script.
        let begin = statement.as_ptr().addr() - script.as_ptr().addr();
        text.push_str(&script[end..begin]);
        text.push_str(SET);
        text.push_str("''");
        end = begin + statement.len();
    }
    text.push_str(&script[end..]);
    (text, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_that_name_a_missing_one_are_changed() {
        let script = "SET default_tablespace = '';\nSET default_tablespace = fast;\n\
            SELECT '\nSET default_tablespace = \"a b\";\n';\n-- x\nSET default_tablespace = \"a b\";\n";
        let there = BTreeSet::from(["fast".to_owned()]);
        let (text, missing) = replaced(script, &there);
        assert_eq!(missing, BTreeSet::from(["\"a b\"".to_owned()]));
        let (head, _) = script.rsplit_once("\"a b\"").unwrap();
        assert_eq!(text, format!("{head}'';\n"));
        let there = BTreeSet::from(["fast".to_owned(), "\"a b\"".to_owned()]);
        assert_eq!(replaced(script, &there).0, script);
    }
}
