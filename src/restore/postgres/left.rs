//! Which of the statements that follow the rows still have what they need when only some of the tables are
//! there. Must not know which tables were wanted, nor how the others were dropped.

use super::script::{makes, names, statements, words};
use std::collections::HashSet;

/// What is left after others were dropped.
#[derive(Default)]
pub(super) struct Left {
    /// Relations, functions, and the indexes that were made since, as the catalog names them.
    there: HashSet<String>,
    /// Relations and functions that are not there any more, as a script names them.
    gone: Vec<String>,
    /// What was made that has no name of its own: `TRIGGER name ON table`.
    made: HashSet<String>,
}

impl Left {
    pub(super) fn new(there: HashSet<String>, gone: Vec<String>) -> Self {
        Self {
            there,
            gone,
            made: HashSet::new(),
        }
    }

    /// The statements that need nothing but what is left, and how many others there are.
    pub(super) fn of_post_data(&mut self, script: &str) -> (String, usize) {
        let (mut kept, mut others) = (String::new(), 0);
        for statement in statements(script) {
            if self.wants(statement) {
                kept.push_str(statement);
                kept.push_str(";\n");
            } else {
                others += 1;
            }
        }
        (kept, others)
    }

    fn wants(&mut self, statement: &str) -> bool {
        let words = words(statement);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let ["SET", ..] | ["SELECT", "pg_catalog.set_config", ..] = words.as_slice() {
            return true;
        }
        let wants = self.is_about_what_is_there(&words)
            && !self.gone.iter().any(|name| names(statement, name));
        if wants {
            self.note(&words);
        } else if let Some(name) = makes(&words) {
            self.gone.push(name.to_owned());
        }
        wants
    }

    /// Whether what a statement with these words is about is there. What else it names is not asked here.
    fn is_about_what_is_there(&self, words: &[&str]) -> bool {
        match words {
            ["ALTER", "TABLE", "ONLY", table, what @ ..] | ["ALTER", "TABLE", table, what @ ..] => {
                self.is_there(table) && self.can_be_altered(table, what)
            }
            ["ALTER", "INDEX", index, "ATTACH", "PARTITION", part] => {
                self.is_there(index) && self.is_there(part)
            }
            ["CREATE", ..] => {
                makes(words).is_some() || table_of(words).is_some_and(|table| self.is_there(table))
            }
            ["ALTER", "STATISTICS", name, ..] | ["COMMENT", "ON", "STATISTICS", name, ..] => {
                self.made.contains(&format!("STATISTICS {name}"))
            }
            [
                "COMMENT",
                "ON",
                kind @ ("CONSTRAINT" | "TRIGGER" | "POLICY" | "RULE"),
                name,
                "ON",
                table,
                ..,
            ] => self.made.contains(&format!("{kind} {name} ON {table}")),
            ["COMMENT", "ON", "COLUMN", column, ..] => {
                split_last(column).is_some_and(|(table, _)| self.is_there(table))
            }
            ["COMMENT", "ON", "MATERIALIZED", "VIEW", name, ..]
            | [
                "COMMENT",
                "ON",
                "INDEX" | "VIEW" | "FUNCTION" | "PROCEDURE",
                name,
                ..,
            ]
            | ["ALTER" | "REFRESH", "MATERIALIZED", "VIEW", name, ..]
            | [
                "ALTER",
                "INDEX" | "VIEW" | "FUNCTION" | "PROCEDURE",
                name,
                ..,
            ] => self.is_there(name),
            ["GRANT" | "REVOKE", ..] => match after(words, "ON") {
                [kind @ ("TABLE" | "FUNCTION" | "PROCEDURE"), ..] => {
                    after(words, kind).first().is_some_and(|n| self.is_there(n))
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether what an `ALTER TABLE` needs besides its table is there.
    fn can_be_altered(&self, table: &str, what: &[&str]) -> bool {
        match what {
            ["ADD", "CONSTRAINT", _, "FOREIGN", ..] => after(what, "REFERENCES")
                .first()
                .is_some_and(|other| self.is_there(other)),
            ["CLUSTER", "ON", index] | ["REPLICA", "IDENTITY", "USING", "INDEX", index] => {
                self.is_there(&beside(table, index))
            }
            [.., "RULE", name] => self.made.contains(&format!("RULE {name} ON {table}")),
            // A partition has its triggers from its parent.
            [.., "TRIGGER", name] => {
                let trigger = format!("TRIGGER {name} ON ");
                self.made.iter().any(|made| made.starts_with(&trigger))
            }
            _ => true,
        }
    }

    /// Notes what a statement that will be executed makes.
    fn note(&mut self, words: &[&str]) {
        match words {
            [
                "ALTER",
                "TABLE",
                "ONLY",
                table,
                "ADD",
                "CONSTRAINT",
                name,
                ..,
            ]
            | ["ALTER", "TABLE", table, "ADD", "CONSTRAINT", name, ..] => {
                self.made.insert(format!("CONSTRAINT {name} ON {table}"));
                self.there.insert(unquoted(&beside(table, name)));
            }
            ["CREATE", "STATISTICS", name, ..] => {
                self.made.insert(format!("STATISTICS {name}"));
            }
            ["CREATE", "INDEX", name, ..] | ["CREATE", "UNIQUE", "INDEX", name, ..] => {
                if let Some(table) = table_of(words) {
                    self.there.insert(unquoted(&beside(table, name)));
                }
            }
            ["CREATE", kind @ ("TRIGGER" | "POLICY" | "RULE"), name, ..]
            | ["CREATE", "CONSTRAINT", kind @ "TRIGGER", name, ..] => {
                if let Some(table) = table_of(words) {
                    self.made.insert(format!("{kind} {name} ON {table}"));
                }
            }
            _ => self.there.extend(makes(words).map(unquoted)),
        }
    }

    fn is_there(&self, name: &str) -> bool {
        self.there.contains(&unquoted(name))
    }
}

/// The table that something is created on.
fn table_of<'a>(words: &[&'a str]) -> Option<&'a str> {
    match words {
        ["CREATE", "RULE", _, "AS", "ON", _, "TO", table, ..] => Some(table),
        // `ON` precedes the columns, in which another FROM may stand.
        ["CREATE", "STATISTICS", ..] => {
            let from = words.iter().rposition(|word| *word == "FROM")?;
            words.get(from + 1).copied()
        }
        _ => match after(words, "ON") {
            ["ONLY", table, ..] | [table, ..] => Some(table),
            [] => None,
        },
    }
}

/// What follows a word.
fn after<'w, 'a>(words: &'w [&'a str], word: &str) -> &'w [&'a str] {
    let at = words.iter().position(|w| *w == word);
    at.map_or(&[], |at| &words[at + 1..])
}

/// The name of something in the schema of `table`.
fn beside(table: &str, name: &str) -> String {
    split_last(table).map_or_else(|| name.to_owned(), |(schema, _)| format!("{schema}.{name}"))
}

/// A name at its last dot that is not in quotes.
fn split_last(name: &str) -> Option<(&str, &str)> {
    let dots = name.match_indices('.').map(|(at, _)| at);
    let outside = |at: &usize| name[..*at].matches('"').count().is_multiple_of(2);
    let at = dots.rev().find(outside)?;
    Some((&name[..at], &name[at + 1..]))
}

/// A name as the catalog has it. A doubled quote stands for one.
pub(super) fn unquoted(name: &str) -> String {
    name.replace("\"\"", "\0")
        .replace('"', "")
        .replace('\0', "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says of each statement, in their order, whether it is wanted.
    fn check(statements: &[(&str, bool)]) {
        let there = ["public.task", "s.any", "s.other", "public.Odd (name"];
        let gone = vec!["public.other".to_owned(), "public.gone_f".to_owned()];
        let mut left = Left::new(there.map(str::to_owned).into(), gone);
        for (statement, wanted) in statements {
            assert_eq!(left.wants(statement), *wanted, "{statement}");
        }
    }

    #[test]
    fn only_what_needs_nothing_that_went_follows_the_rows() {
        check(&[
            ("SET default_tablespace = ''", true),
            (
                "SELECT pg_catalog.set_config('search_path', '', false)",
                true,
            ),
            ("CREATE INDEX i ON public.task USING btree (id)", true),
            ("CREATE UNIQUE INDEX j ON ONLY s.any USING btree (id)", true),
            ("CREATE INDEX i2 ON public.tasks USING btree (id)", false),
            (
                "CREATE INDEX k ON public.\"Odd (name\" USING btree (id)",
                true,
            ),
            ("ALTER INDEX s.j ATTACH PARTITION public.i", true),
            ("ALTER INDEX s.j ATTACH PARTITION public.i2", false),
            ("COMMENT ON INDEX public.k IS 'x'", true),
            ("COMMENT ON INDEX public.i2 IS 'x'", false),
            (
                "ALTER TABLE ONLY public.task\n    ADD CONSTRAINT p PRIMARY KEY (id)",
                true,
            ),
            ("ALTER INDEX s.j ATTACH PARTITION public.p", true),
            (
                "ALTER TABLE ONLY public.task ADD CONSTRAINT f FOREIGN KEY (w) REFERENCES public.other(id)",
                false,
            ),
            (
                "ALTER TABLE ONLY public.task ADD CONSTRAINT f FOREIGN KEY (w) REFERENCES s.other(id)",
                true,
            ),
            (
                "CREATE TRIGGER t BEFORE INSERT ON public.task FOR EACH ROW EXECUTE FUNCTION f()",
                true,
            ),
            ("CREATE PUBLICATION p WITH (publish = 'insert')", false),
            ("REFRESH MATERIALIZED VIEW s.any", true),
            ("REFRESH MATERIALIZED VIEW s.gone", false),
        ]);
    }

    #[test]
    fn what_is_a_tables_own_goes_with_it() {
        check(&[
            (
                "ALTER TABLE ONLY public.task ADD CONSTRAINT p PRIMARY KEY (id)",
                true,
            ),
            (
                "CREATE TRIGGER t BEFORE INSERT ON public.task FOR EACH ROW EXECUTE FUNCTION f()",
                true,
            ),
            (
                "CREATE RULE \"r ON\" AS\n    ON INSERT TO public.\"Odd (name\"\n   WHERE (new.a > 1) DO INSTEAD NOTHING",
                true,
            ),
            (
                "COMMENT ON RULE \"r ON\" ON public.\"Odd (name\" IS 'x'",
                true,
            ),
            (
                "ALTER TABLE public.\"Odd (name\" DISABLE RULE \"r ON\"",
                true,
            ),
            (
                "CREATE RULE s AS\n    ON DELETE TO public.task DO ALSO DELETE FROM public.other",
                false,
            ),
            ("COMMENT ON RULE s ON public.task IS 'x'", false),
            (
                "CREATE RULE s AS\n    ON DELETE TO public.other DO ALSO DELETE FROM public.task",
                false,
            ),
            (
                "CREATE STATISTICS s.st (ndistinct) ON a, lower(b), EXTRACT(year FROM c) FROM public.\"Odd (name\"",
                true,
            ),
            ("ALTER STATISTICS s.st OWNER TO me", true),
            ("COMMENT ON STATISTICS s.st IS 'x'", true),
            (
                "CREATE STATISTICS s.other (ndistinct) ON a, b FROM public.tasks",
                false,
            ),
            ("COMMENT ON STATISTICS s.other IS 'x'", false),
            ("COMMENT ON TRIGGER t ON public.task IS 'x'", true),
            ("COMMENT ON TRIGGER u ON public.task IS 'x'", false),
            ("ALTER TABLE s.any ENABLE ALWAYS TRIGGER t", true),
            ("ALTER TABLE s.any DISABLE TRIGGER u", false),
            (
                "CREATE CONSTRAINT TRIGGER u AFTER UPDATE OF a, b ON public.task NOT DEFERRABLE FOR EACH ROW EXECUTE FUNCTION public.gone_f()",
                false,
            ),
            ("COMMENT ON CONSTRAINT p ON public.task IS 'x'", true),
            ("COMMENT ON CONSTRAINT q ON public.task IS 'x'", false),
            (
                "CREATE POLICY \"a \"\"b\" ON public.task USING (true)",
                true,
            ),
            ("COMMENT ON POLICY \"a \"\"b\" ON public.task IS 'x'", true),
            (
                "CREATE POLICY c ON public.task USING ((a IN ( SELECT other.a FROM public.other)))",
                false,
            ),
            ("COMMENT ON POLICY c ON public.task IS 'x'", false),
            ("ALTER TABLE public.task CLUSTER ON p", true),
            (
                "ALTER TABLE ONLY public.task REPLICA IDENTITY USING INDEX nothing",
                false,
            ),
            (
                "CREATE MATERIALIZED VIEW s.\"m v\" AS SELECT a FROM public.task GROUP BY id",
                true,
            ),
            ("ALTER TABLE s.\"m v\" OWNER TO me", true),
            ("COMMENT ON COLUMN s.\"m v\".\"a.b\" IS 'x'", true),
            ("GRANT SELECT(a) ON TABLE s.\"m v\" TO PUBLIC", true),
            ("CREATE INDEX mi ON s.\"m v\" USING btree (a)", true),
            (
                "CREATE MATERIALIZED VIEW s.n AS SELECT a FROM public.other GROUP BY id",
                false,
            ),
            ("CREATE MATERIALIZED VIEW s.o AS SELECT a FROM s.n", false),
            ("GRANT SELECT ON TABLE s.o TO PUBLIC", false),
            ("CREATE INDEX oi ON s.o USING btree (a)", false),
            (
                "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.f()",
                false,
            ),
        ]);
    }
}
