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
/// Knows strings, quoted names, dollar quotes, comments, parentheses (a rule's statements stand in
/// them) and bodies in `BEGIN ATOMIC`.
pub(super) fn statements(script: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut at, mut nesting) = (0, 0, Nesting::default());
    let bytes = script.as_bytes();
    while at < bytes.len() {
        let end = after_token(bytes, at);
        nesting.take(&bytes[at..end]);
        if bytes[at] == b';' && nesting.is_closed() {
            push(&mut statements, &script[start..at]);
            start = end;
        }
        at = end;
    }
    push(&mut statements, &script[start..]);
    statements
}

/// Whether `text` ends where a statement does.
pub(super) fn ends_a_statement(text: &str) -> bool {
    let (mut at, mut nesting, mut last) = (0, Nesting::default(), b' ');
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let end = after_token(bytes, at);
        let token = &bytes[at..end];
        nesting.take(token);
        if !says_nothing(token) {
            last = token[0];
        }
        at = end;
    }
    last == b';' && nesting.is_closed() && !text.trim_end().ends_with("*/")
}

/// The words of a statement; blanks and parentheses in quoted names and strings part nothing.
pub(super) fn words(statement: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in statement.chars() {
        if quote.is_none() && (letter.is_whitespace() || letter == '(') {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        match quote {
            Some(open) if open == letter => quote = None,
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            _ => {}
        }
        word.push(letter);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The view, function or procedure that a statement with these words makes. `pg_dump` makes them after the
/// rows only if they need a primary key.
pub(super) fn makes<'a>(words: &[&'a str]) -> Option<&'a str> {
    let (["CREATE", "OR", "REPLACE", what @ ..] | ["CREATE", what @ ..]) = words else {
        return None;
    };
    match what {
        ["MATERIALIZED", "VIEW", name, ..] | ["VIEW" | "FUNCTION" | "PROCEDURE", name, ..] => {
            Some(name)
        }
        _ => None,
    }
}

/// Whether a statement has this name in it, written as `pg_dump` writes it everywhere.
pub(super) fn names(statement: &str, name: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"');
    statement.match_indices(name).any(|(at, _)| {
        !statement[..at].ends_with(in_name) && !statement[at + name.len()..].starts_with(in_name)
    })
}

/// What is open at some place of a script; a semicolon in it ends no statement.
#[derive(Debug, Default)]
struct Nesting {
    parentheses: u32,
    /// Bodies in `BEGIN ATOMIC`, and each `CASE` in one: all of them end with `END`.
    blocks: u32,
    /// The last word was `BEGIN`, which alone opens nothing: it may begin a transaction or be a name.
    begin: bool,
}

impl Nesting {
    fn take(&mut self, token: &[u8]) {
        if says_nothing(token) {
            return;
        }
        let is = |word: &str| token.eq_ignore_ascii_case(word.as_bytes());
        let after_begin = std::mem::replace(&mut self.begin, is("BEGIN"));
        match token {
            b"(" => self.parentheses += 1,
            b")" => self.parentheses = self.parentheses.saturating_sub(1),
            // What is opened in parentheses is closed in them.
            _ if self.parentheses > 0 => {}
            _ if after_begin && is("ATOMIC") => self.blocks += 1,
            _ if self.blocks > 0 && is("CASE") => self.blocks += 1,
            _ if self.blocks > 0 && is("END") => self.blocks -= 1,
            _ => {}
        }
    }

    fn is_closed(&self) -> bool {
        self.parentheses == 0 && self.blocks == 0
    }
}

/// A blank or a comment.
fn says_nothing(token: &[u8]) -> bool {
    token[0].is_ascii_whitespace() || token.starts_with(b"--") || token.starts_with(b"/*")
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
        byte if in_word(byte) => {
            let length = bytes[at..].iter().position(|b| !in_word(*b) && *b != b'$');
            length.map_or(bytes.len(), |length| at + length)
        }
        _ => at + 1,
    }
}

/// Whether a letter may begin a name, or stand in one.
fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
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
        .position(|b| !in_word(*b))
        .map_or(bytes.len(), |n| at + 1 + n);
    if bytes.get(name_ends) != Some(&b'$') {
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
    fn a_body_of_statements_is_one_with_what_surrounds_it() {
        let body = "CREATE FUNCTION public.f(begin integer) RETURNS text\n    LANGUAGE sql\n    \
            BEGIN ATOMIC\n SELECT CASE WHEN (a = 1) THEN 'END;' ELSE CASE b WHEN 2 THEN x ELSE y END \
            END AS weekend,\n (CASE a WHEN 1 THEN \"end\" END);\n BEGIN ATOMIC SELECT 1; END;\nEND";
        let script = format!("{body};\nBEGIN;\nSELECT 1;\nEND;\nSELECT tag$a$, 2;\nSELECT 3;\n");
        let expected = [
            body,
            "BEGIN",
            "SELECT 1",
            "END",
            "SELECT tag$a$, 2",
            "SELECT 3",
        ];
        assert_eq!(statements(&script), expected);
        for (at, _) in script.match_indices('\n').take(body.lines().count() - 1) {
            assert!(!ends_a_statement(&script[..=at]), "{}", &script[..=at]);
        }
        assert!(ends_a_statement(&format!("{body};\n")));
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
