//! Values that must not be shown: passwords, and URLs that carry one.

use serde::{Deserialize, Serialize};

/// A string whose `Debug` and `Display` hide any password in it. Serialising it hides it too, so a
/// configuration that is printed or archived carries no secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for handing it to what needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", redact_url(&self.0))
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&redact_url(&self.0))
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&redact_url(&self.0))
    }
}

/// A value that is secret as a whole, such as an address whose path is its key: the value itself, or
/// `file:PATH` for one that is in a file. Shown, it is hidden; the name of a file is not.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value as it was written, for handing it to what needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The file that the value is in, if it is in one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.0.strip_prefix("file:")
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.is_empty() || self.file().is_some();
        f.write_str(if shown { &self.0 } else { "***" })
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `url` with the password replaced by `***`, in the user part and in `password=` parameters. What
/// is neither a URL nor empty is hidden whole, since it can't be told what in it is secret.
#[must_use]
pub fn redact_url(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let (rest, query) = rest
        .split_once('?')
        .map_or((rest, None), |(r, q)| (r, Some(q)));
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user
                .split_once(':')
                .map_or(user.to_owned(), |(name, _)| format!("{name}:***"));
            format!("{user}@{host}")
        }
        None => rest.to_owned(),
    };
    match query {
        None => format!("{scheme}://{rest}"),
        Some(query) => {
            let shown: Vec<String> = query
                .split('&')
                .map(|pair| match pair.split_once('=') {
                    Some((key, _)) if key.contains("password") => format!("{key}=***"),
                    _ => pair.to_owned(),
                })
                .collect();
            format!("{scheme}://{rest}?{}", shown.join("&"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        assert_eq!(redact_url("postgres://u:p@h:1/d"), "postgres://u:***@h:1/d");
        assert_eq!(
            redact_url("postgres://u:p@w@h:1/d"),
            "postgres://u:***@h:1/d"
        );
        assert_eq!(
            redact_url("postgres://u@h/d?sslmode=x&password=p"),
            "postgres://u@h/d?sslmode=x&password=***"
        );
        assert_eq!(redact_url("host=h password=p"), "***");
        assert_eq!(
            format!("{:?}", Secret::new("postgres://u:p@h/d")),
            "\"postgres://u:***@h/d\""
        );
    }
}
