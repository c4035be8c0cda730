//! Sequences' values, as `setval` statements. Sequences are outside transactions, so their values
//! are at least those of the snapshot.

use super::failed;
use crate::adapters::postgres::{Session, quote_identifier, quote_literal};
use crate::error::Result;

/// Sequences asked for in one query.
const BATCH: usize = 200;

/// Statements that set all sequences.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    pub(super) count: u64,
    pub(super) sql: String,
}

pub(super) async fn read(session: &Session) -> Result<Sequences> {
    let doing = "reading the sequences";
    let names = session
        .query(
            "SELECT n.nspname::text, c.relname::text
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'S' AND c.relpersistence <> 't'
               AND (c.relpersistence <> 'u' OR NOT pg_is_in_recovery())
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                 AND d.objid = c.oid AND d.deptype = 'e')
             ORDER BY 1, 2",
            &[],
        )
        .await
        .map_err(|e| failed(doing, &e))?;
    let names: Vec<String> = names
        .iter()
        .map(|row| {
            format!(
                "{}.{}",
                quote_identifier(row.get(0)),
                quote_identifier(row.get(1))
            )
        })
        .collect();
    let mut sequences = Sequences::default();
    for batch in names.chunks(BATCH) {
        let one = |name: &String| {
            let literal = quote_literal(name);
            format!("SELECT {literal}::text, last_value, is_called FROM {name}")
        };
        let sql = batch
            .iter()
            .map(one)
            .collect::<Vec<_>>()
            .join(" UNION ALL ");
        for row in session
            .query(&sql, &[])
            .await
            .map_err(|e| failed(doing, &e))?
        {
            let (name, value, called): (String, i64, bool) = (row.get(0), row.get(1), row.get(2));
            let name = quote_literal(&name);
            sequences.sql.push_str(&format!(
                "SELECT pg_catalog.setval({name}, {value}, {called});\n"
            ));
            sequences.count += 1;
        }
    }
    Ok(sequences)
}
