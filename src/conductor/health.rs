//! Honest health: a server is well when it answers from its database, not when its port is open.

use super::Client;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The endpoint that tells of the components, the database among them.
const ACTUATOR: &str = "/actuator/health";
/// A request that cannot be answered without the database.
const READS_DATABASE: &str = "/api/metadata/taskdefs";

/// Whether a server is well, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Health {
    /// It answers, from its database.
    Up,
    /// Nothing answers at its address.
    Silent {
        /// What was met instead.
        reason: String,
    },
    /// It answers, but is not well.
    Down {
        /// What it says.
        reason: String,
    },
}

impl Health {
    /// Whether the server is well.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self == Self::Up
    }

    /// Why it is not.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::Silent { reason } | Self::Down { reason } => Some(reason),
        }
    }
}

/// Asks the server. Each of the two requests may take `timeout`.
pub async fn check(client: &Client, timeout: Duration) -> Health {
    let components = match client.probe(ACTUATOR, timeout).await {
        Ok((status, body)) => components(status, &body),
        Err(error) => {
            let mut reason = error.to_string();
            if let Some(cause) = error.causes().last() {
                reason.push_str(&format!(" ({cause})"));
            }
            return Health::Silent { reason };
        }
    };
    if let Err(reason) = components {
        return Health::Down { reason };
    }
    match client.probe(READS_DATABASE, timeout).await {
        Ok((200, _)) => Health::Up,
        Ok((status, _)) => Health::Down {
            reason: format!("{READS_DATABASE} answers {status} instead of 200"),
        },
        Err(error) => Health::Down {
            reason: error.to_string(),
        },
    }
}

/// Reads `/actuator/health`: everything must be up, and the database must be among it.
fn components(status: u16, body: &str) -> Result<(), String> {
    let body: serde_json::Value = serde_json::from_str(body)
        .map_err(|_| format!("{ACTUATOR} answers {status} without JSON"))?;
    let is_up = |value: &serde_json::Value| value["status"] == "UP";
    let none = serde_json::Map::new();
    let components = body["components"].as_object().unwrap_or(&none);
    let down: Vec<String> = components
        .iter()
        .filter(|(_, component)| !is_up(component))
        .map(|(name, component)| {
            let error = component["details"]["error"]
                .as_str()
                .unwrap_or("no reason given");
            format!(
                "{name} is {} ({error})",
                component["status"].as_str().unwrap_or("not up")
            )
        })
        .collect();
    if !down.is_empty() {
        return Err(down.join("; "));
    }
    if status != 200 || !is_up(&body) {
        return Err(format!("{ACTUATOR} answers {status} and is not UP"));
    }
    if components.contains_key("db") {
        Ok(())
    } else {
        Err(format!("{ACTUATOR} says nothing of the database"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_database_that_is_up_counts_as_well() {
        let up = r#"{"status":"UP","components":{"db":{"status":"UP"},"ping":{"status":"UP"}}}"#;
        assert_eq!(components(200, up), Ok(()));
        let down = r#"{"status":"DOWN","components":{"ping":{"status":"UP"},
            "db":{"status":"DOWN","details":{"error":"no connection"}}}}"#;
        assert_eq!(
            components(503, down),
            Err("db is DOWN (no connection)".into())
        );
        for (status, body) in [
            (200, r#"{"status":"UP"}"#),
            (
                200,
                r#"{"status":"UP","components":{"ping":{"status":"UP"}}}"#,
            ),
            (200, r#"{"healthy":true}"#),
            (404, "<html>"),
            (500, up),
        ] {
            assert!(components(status, body).is_err(), "{status} {body}");
        }
    }
}
