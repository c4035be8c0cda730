//! Takes secrets out of text that is to be handed to others: those that are known, wherever they
//! stand, and everything that looks like one.

use regex::{Captures, Regex};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What stands in a secret's place.
const HIDDEN: &str = "***";
/// A known secret that is shorter is hidden only where it stands as one: `k1` is in every line.
const SHORTEST: usize = 4;

/// Names of settings whose value is a secret.
const NAMES: &str = "password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|requirepass|masterauth|pgpass";

/// Takes secrets out of text.
#[derive(Debug)]
pub struct Scrubber {
    known: Vec<String>,
    patterns: Vec<(Regex, &'static str)>,
    setting: Option<Regex>,
}

impl Scrubber {
    /// One that also knows these secrets by their value.
    pub fn new(known: impl IntoIterator<Item = String>) -> Self {
        let mut forms = BTreeSet::new();
        for secret in known {
            let secret = secret.trim().to_owned();
            if secret.chars().count() < SHORTEST {
                continue;
            }
            forms.insert(percent_encoded(&secret));
            forms.insert(percent_decoded(&secret));
            forms.insert(json_escaped(&secret));
            forms.insert(secret);
        }
        let mut known: Vec<String> = forms.into_iter().collect();
        // A secret that contains another one goes first.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let patterns = [
            (
                r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)",
                HIDDEN,
            ),
            // The password in a URL may itself hold a colon, a slash or an at sign. That a port and an
            // at sign far behind it are taken for one loses a path now and then, and no secret.
            (
                r#"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@"'<>]*):[^\s"'<>]*@"#,
                "${1}:***@",
            ),
            (
                r#"(?i)(authorization["']?\s*[:=]\s*["']?)(?:(?:basic|bearer|digest|negotiate)\s+)?[^\s"',;]+"#,
                "${1}***",
            ),
            (r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", "${1}***"),
            (r"(?im)^(\s*(?:requirepass|masterauth)\s+)\S+", "${1}***"),
            (
                r"(?i)(--?[\w-]*(?:password|passwd|secret|token)[\w-]*\s+)[^\s-]\S*",
                "${1}***",
            ),
            (
                r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
                HIDDEN,
            ),
            (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", HIDDEN),
        ];
        let setting = format!(
            r#"(?i)([\w.-]*(?:{NAMES})[\w.-]*)(["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&}}\]]+)"#
        );
        Self {
            known,
            patterns: patterns
                .into_iter()
                .filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, with)))
                .collect(),
            setting: Regex::new(&setting).ok(),
        }
    }

    /// The text without what is secret in it.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN);
            }
        }
        for (pattern, with) in &self.patterns {
            text = pattern.replace_all(&text, *with).into_owned();
        }
        let Some(setting) = &self.setting else {
            return text;
        };
        setting
            .replace_all(&text, |found: &Captures<'_>| hide_value(found))
            .into_owned()
    }

    /// Whether the value of a setting of this name is a secret.
    #[must_use]
    pub fn is_secret(name: &str) -> bool {
        let name = name.to_lowercase();
        let is_path = name.ends_with("file") || name.ends_with("path");
        !is_path
            && NAMES
                .split('|')
                .map(|word| word.replace("[_-]?", ""))
                .any(|word| name.replace(['_', '-'], "").contains(&word))
    }
}

/// The setting without its value; quotes stay, so that JSON and TOML stay readable. Where a secret
/// *is* is no secret.
fn hide_value(found: &Captures<'_>) -> String {
    let (name, between, value) = (&found[1], &found[2], &found[3]);
    if !Scrubber::is_secret(name) || is_harmless(value) {
        return found[0].to_owned();
    }
    let quote = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quote.to_string(),
        _ => String::new(),
    };
    format!("{name}{between}{quote}{HIDDEN}{quote}")
}

/// Nothing is set, or a type is named instead of a value.
fn is_harmless(value: &str) -> bool {
    matches!(
        value,
        "\"\"" | "''" | "null" | "true" | "false" | "{" | "[" | HIDDEN | "\"***\""
    )
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_go_wherever_they_stand() {
        let scrubber = Scrubber::new(["p@ss/w\"rd".to_owned(), "k1".to_owned()]);
        let text = r#"a p@ss/w"rd b p%40ss%2Fw%22rd c {"x":"p@ss/w\"rd"} k1ops"#;
        assert_eq!(scrubber.clean(text), r#"a *** b *** c {"x":"***"} k1ops"#);
        let of_url = Scrubber::new(["a%2Fbcd".to_owned()]);
        assert_eq!(of_url.clean("a/bcd a%2Fbcd a%zz"), "*** *** a%zz");
    }

    #[test]
    fn what_looks_like_a_secret_goes() {
        let scrubber = Scrubber::new([]);
        for (text, clean) in [
            (
                "postgres://u:hu:s/h@x@h:1/d?a=b",
                "postgres://u:***@h:1/d?a=b",
            ),
            (
                "jdbc:postgresql://h/d?user=u&password=hush&x=1",
                "jdbc:postgresql://h/d?user=u&password=***&x=1",
            ),
            ("PGPASSWORD=hush psql", "PGPASSWORD=*** psql"),
            (
                "spring.datasource.password=hush",
                "spring.datasource.password=***",
            ),
            (
                r#"{"dbPassword": "hu\"sh", "a": 1}"#,
                r#"{"dbPassword": "***", "a": 1}"#,
            ),
            ("api_key: 'hush'", "api_key: '***'"),
            ("requirepass hush", "requirepass ***"),
            ("Authorization: Basic aHVzaDpodXNo", "Authorization: ***"),
            ("got Bearer abcdefghijkl here", "got Bearer *** here"),
            ("tool --password hush --now", "tool --password *** --now"),
            ("jwt eyJhbGciOiJI.eyJzdWIi.sig end", "jwt *** end"),
            ("id AKIAABCDEFGHIJKLMNOP", "id ***"),
            (
                "a -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- b",
                "a *** b",
            ),
        ] {
            assert_eq!(scrubber.clean(text), clean);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let scrubber = Scrubber::new([]);
        for text in [
            "password_file = \"/etc/k1/password\"",
            "POSTGRES_PASSWORD_FILE: /run/secrets/postgres_password",
            "http://127.0.0.1:8080/api/x from user@example.org",
            "password = \"\"",
            "2026-11-24 10:00:00 task 7 completed",
        ] {
            assert_eq!(scrubber.clean(text), text);
        }
        assert!(Scrubber::is_secret("K1OPS_DATABASE_PASSWORD"));
        assert!(Scrubber::is_secret("aws.accessKey"));
        assert!(!Scrubber::is_secret("PASSWORD_FILE"));
    }
}
