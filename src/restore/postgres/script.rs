//! Scripts that `pg_dump` wrote, taken apart into statements.

/// The script without `\restrict` and `\unrestrict`, which newer versions of `pg_dump` write around
/// it for `psql`: a line each, the first before any statement, the second after all of them.
pub(super) fn without_psql_commands(script: &str) -> &str {
    let mut rest = script;
    if let Some(at) = rest.find("\\restrict ")
        && only_comments(&rest[..at])
    {
        rest = rest[at..].split_once('\n').map_or("", |(_, after)| after);
    }
    match rest.rfind("\\unrestrict ") {
        Some(at) if rest[at..].trim_end().lines().count() == 1 => &rest[..at],
        _ => rest,
    }
}

fn only_comments(text: &str) -> bool {
    text.lines()
        .all(|line| line.trim().is_empty() || line.starts_with("--"))
}

/// What the script sets about backslashes in its strings, which `pg_dump` has from the database. Who
/// executes a script in one go has to set it beforehand: all of it is parsed before any of it is
/// executed.
pub(super) fn strings_of(script: &str) -> &str {
    let begins = "SET standard_conforming_strings = ";
    // It stands at the head, where no string is before it.
    let at = script.find(begins).map_or("", |at| &script[at..]);
    at.split_once(';').map_or("", |(statement, _)| statement)
}

/// The statements of a script, each without its semicolon and without what surrounds it.
///
/// Knows strings, quoted names, dollar quotes, comments and parentheses (a rule's statements stand
/// in them). Function bodies in `BEGIN ATOMIC` are not known; they occur in pre-data only, which
/// is executed as a whole.
pub(super) fn statements(script: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut at, mut depth) = (0, 0, 0_u32);
    let bytes = script.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b';' if depth == 0 => {
                push(&mut statements, &script[start..at]);
                at += 1;
                start = at;
            }
            b'(' => {
                depth += 1;
                at += 1;
            }
            b')' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at = after_token(bytes, at),
        }
    }
    push(&mut statements, &script[start..]);
    statements
}

/// Whether `text` ends where a statement does. A body in `BEGIN ATOMIC` has statements of its own and
/// ends with `END`.
pub(super) fn ends_a_statement(text: &str) -> bool {
    let (mut at, mut depth, mut last) = (0, 0_u32, b' ');
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let byte = bytes[at];
        let next = match byte {
            b'(' | b')' => at + 1,
            _ => after_token(bytes, at),
        };
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let comment = bytes[at..].starts_with(b"--") || bytes[at..].starts_with(b"/*");
        if !byte.is_ascii_whitespace() && !comment {
            last = byte;
        }
        at = next;
    }
    if last != b';' || depth != 0 || text.trim_end().ends_with("*/") {
        return false;
    }
    let upper = text.to_ascii_uppercase();
    !upper.contains("BEGIN ATOMIC") || upper.trim_end().ends_with("END;")
}

fn push<'a>(statements: &mut Vec<&'a str>, text: &'a str) {
    let mut text = text.trim_start();
    // pg_dump heads each statement with a comment.
    while let Some(comment) = text.strip_prefix("--") {
        text = comment
            .split_once('\n')
            .map_or("", |(_, after)| after)
            .trim_start();
    }
    let text = text.trim_end();
    if !text.is_empty() {
        statements.push(text);
    }
}

/// Where the token at `at` ends.
fn after_token(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        b'\'' => {
            let escapes = at > 0 && matches!(bytes[at - 1], b'E' | b'e');
            after_quoted(bytes, at, b'\'', escapes)
        }
        b'"' => after_quoted(bytes, at, b'"', false),
        b'-' if bytes[at..].starts_with(b"--") => {
            memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n + 1)
        }
        b'/' if bytes[at..].starts_with(b"/*") => after_comment(bytes, at),
        b'$' => after_dollar_quoted(bytes, at),
        _ => at + 1,
    }
}

fn after_quoted(bytes: &[u8], at: usize, quote: u8, escapes: bool) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if escapes => at += 2,
            // A doubled quote ends one string and begins another: the same in effect.
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn after_comment(bytes: &[u8], at: usize) -> usize {
    let (mut at, mut depth) = (at + 2, 1);
    while at < bytes.len() && depth > 0 {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
    }
    at
}

fn after_dollar_quoted(bytes: &[u8], at: usize) -> usize {
    let name_ends = bytes[at + 1..]
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80))
        .map_or(bytes.len(), |n| at + 1 + n);
    let inside_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if bytes.get(name_ends) != Some(&b'$') || inside_name {
        return at + 1;
    }
    let tag = &bytes[at..=name_ends];
    let body = name_ends + 1;
    memchr::memmem::find(&bytes[body..], tag).map_or(bytes.len(), |n| body + n + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_postgres_ends_them() {
        let script = "--\n-- Name: a; Type: INDEX\n--\n\nCREATE INDEX a ON t (b);\n\
            COMMENT ON INDEX a IS 'it''s; --\n';\n\
            SELECT E'\\';';\nSELECT \"x;y\", $1;\n\
            CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b);\n\
            DO $body$ BEGIN; $x$;$x$ END; $body$;\n/* ; /* ; */ ; */ SELECT 1\n";
        let found = statements(script);
        assert_eq!(found[0], "CREATE INDEX a ON t (b)");
        assert_eq!(found[1], "COMMENT ON INDEX a IS 'it''s; --\n'");
        assert_eq!(found[2], "SELECT E'\\';'");
        assert_eq!(found[3], "SELECT \"x;y\", $1");
        assert!(found[4].ends_with("DELETE FROM b)"));
        assert!(found[5].ends_with("$body$"));
        assert!(found[6].ends_with("SELECT 1"));
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn half_a_statement_is_told_from_a_whole_one() {
        for whole in [
            "SELECT 1;\n",
            "--\n-- Name: x\n--\n\nCREATE TABLE t (a int);\n",
            "SELECT 'a;\n';\n",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n SELECT 1;\nEND;\n",
        ] {
            assert!(ends_a_statement(whole), "{whole}");
        }
        for half in [
            "",
            "-- a comment;\n",
            "SELECT 'a;\n",
            "SELECT $$ a;\n",
            "CREATE TABLE t (a int;\n",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n SELECT 1;\n",
        ] {
            assert!(!ends_a_statement(half), "{half}");
        }
    }

    #[test]
    fn psql_commands_around_a_dump_are_taken_off_and_nothing_else() {
        let dump =
            "--\n-- dump\n--\n\n\\restrict abc\n\nSELECT '\\restrict x';\n\n\\unrestrict abc\n\n";
        assert_eq!(without_psql_commands(dump).trim(), "SELECT '\\restrict x';");
        assert_eq!(without_psql_commands("SELECT 1;"), "SELECT 1;");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken_apart_without_failing(text in ".{0,200}") {
            let _ = statements(&text);
            let _ = without_psql_commands(&text);
        }
    }
}
