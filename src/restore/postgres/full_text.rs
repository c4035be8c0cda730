//! Full-text indexes of large tables, which `PostgreSQL` builds in one process.
//!
//! Taking the texts apart costs more than everything else of a restore together. An index that is
//! there before the rows has this done by all loading connections at once: each puts what it finds
//! into the index's list of pending entries, and whoever fills the list moves it into the index.
//! With a short list that costs no more than building the index afterwards, and leaves an index
//! of the same size. It must not know how rows are loaded.

/// A smaller table's index is built in no time, in one go.
const LARGE: u64 = 8 << 20;

/// What an index expression may call, so that it cannot depend on rows that are not there yet.
const BUILT_IN: [&str; 6] = [
    "gin",
    "to_tsvector",
    "json_to_tsvector",
    "jsonb_to_tsvector",
    "setweight",
    "COALESCE",
];

/// What the loading connections set: when the pending entries are moved, and in what memory.
pub(super) const SETTINGS: &str = "
    SET gin_pending_list_limit = '8MB';
    SET work_mem = '64MB';
";

/// If `statement` makes an index that should be there before its table's rows, of which there are
/// `bytes`: the statement that moves the last pending entries into it when all rows are in.
pub(super) fn settle_instead(statement: &str, bytes: u64) -> Option<String> {
    let words: Vec<&str> = statement.split_whitespace().collect();
    let ["CREATE", "INDEX", index, "ON", table, "USING", "gin", ..] = words.as_slice() else {
        return None;
    };
    // Storage parameters may turn pending entries off; quoted names are left to the plain way.
    let plain = !index.contains('"') && !table.contains('"') && !statement.contains(" WITH (");
    let (_, expression) = statement.split_once(" USING ")?;
    let texts = expression.contains("to_tsvector(");
    if bytes < LARGE || !plain || !texts || !calls(expression).all(|f| BUILT_IN.contains(&f)) {
        return None;
    }
    let (schema, _) = table.split_once('.')?;
    Some(format!(
        "SELECT pg_catalog.gin_clean_pending_list('{schema}.{index}')"
    ))
}

/// The names of functions that an expression calls; what follows a blank or another parenthesis is
/// none.
fn calls(expression: &str) -> impl Iterator<Item = &str> {
    let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"');
    expression.match_indices('(').filter_map(move |(at, _)| {
        let before = expression[..at].trim_end();
        let begins = before.rfind(|c| !name(c)).map_or(0, |i| i + 1);
        Some(&before[begins..]).filter(|found| !found.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONDUCTORS: &str = "CREATE INDEX a_idx ON public.task_index USING gin \
        (jsonb_to_tsvector('english'::regconfig, json_data, '[\"all\"]'::jsonb))";

    #[test]
    fn only_a_large_table_and_only_built_in_functions() {
        let settle = "SELECT pg_catalog.gin_clean_pending_list('public.a_idx')";
        assert_eq!(settle_instead(CONDUCTORS, LARGE).as_deref(), Some(settle));
        assert_eq!(settle_instead(CONDUCTORS, LARGE - 1), None);
        let before = |statement: &str| settle_instead(statement, LARGE).is_some();
        assert!(before(
            "CREATE INDEX i ON s.t USING gin (to_tsvector('simple'::regconfig, (COALESCE(a, ''::text) || b)))"
        ));
        for statement in [
            "CREATE INDEX i ON s.t USING gin (json_data jsonb_path_ops)",
            "CREATE INDEX i ON s.t USING gin (to_tsvector('simple'::regconfig, public.look_up(a)))",
            "CREATE INDEX i ON s.t USING gin (to_tsvector('simple'::regconfig, look_up (a)))",
            "CREATE INDEX i ON s.t USING gin (to_tsvector('simple'::regconfig, a)) WITH (fastupdate='false')",
            "CREATE INDEX i ON s.\"T\" USING gin (to_tsvector('simple'::regconfig, a))",
            "CREATE INDEX i ON ONLY s.t USING gin (to_tsvector('simple'::regconfig, a))",
            "CREATE UNIQUE INDEX i ON s.t USING btree (a)",
        ] {
            assert!(!before(statement), "{statement}");
        }
    }
}
