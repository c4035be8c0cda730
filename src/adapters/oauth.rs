//! Tokens of an OAuth 2 issuer for a program: client credentials, at the endpoint that the issuer's own
//! description names. A token is kept in memory only, and anew before it ends.

use super::http;
use crate::config::Hidden;
use crate::error::{Context, Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long the issuer may take to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// A token whose end the issuer does not tell is used for so long.
const UNTOLD: u64 = 60;
/// A token is asked for anew when this share of its life is left,
const SHARE_LEFT: u32 = 5;
/// but never earlier than this before its end.
const MOST_LEFT: Duration = Duration::from_secs(60);
/// The most that is read of an answer.
const MOST_READ: usize = 1 << 20;

/// Who asks for tokens, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The issuer's address.
    pub issuer: String,
    /// The client's name at the issuer.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Hidden,
    /// Whom the token is to be for; empty: whom the issuer thinks fit.
    pub audience: String,
    /// What is asked for besides; empty: nothing.
    pub scope: String,
    /// The certificate authorities (PEM) that the issuer is verified with, besides this host's.
    pub authority: Option<String>,
}

/// Tokens for one client, the present one in memory.
#[derive(Debug)]
pub struct Tokens {
    asker: Asker,
    http: reqwest::Client,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    endpoint: Option<Endpoint>,
    token: Option<Token>,
}

#[derive(Debug, Clone)]
struct Token {
    value: Hidden,
    renew_at: Instant,
}

/// Where tokens are had, by the issuer's own description.
#[derive(Debug, Clone, Deserialize)]
struct Endpoint {
    issuer: String,
    #[serde(rename = "token_endpoint")]
    url: String,
    #[serde(default, rename = "token_endpoint_auth_methods_supported")]
    methods: Vec<String>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

#[derive(Deserialize, Default)]
struct Refused {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    /// Those of `asker`. Nothing is asked yet.
    pub fn of(asker: Asker) -> Result<Self> {
        let http = http::secret_client(asker.authority.as_deref(), ANSWER)?;
        Ok(Self {
            asker,
            http,
            present: Mutex::default(),
        })
    }

    /// A token that serves for a while yet.
    pub async fn token(&self) -> Result<Hidden> {
        let mut present = self.present.lock().await;
        if let Some(token) = &present.token
            && Instant::now() < token.renew_at
        {
            return Ok(token.value.clone());
        }
        let endpoint = match &present.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.discover().await?,
        };
        let token = self.ask(&endpoint).await?;
        let value = token.value.clone();
        *present = Present {
            endpoint: Some(endpoint),
            token: Some(token),
        };
        Ok(value)
    }

    /// Another token than `refused`, which somebody did not take.
    pub async fn instead_of(&self, refused: &Hidden) -> Result<Hidden> {
        let mut present = self.present.lock().await;
        present.token.take_if(|token| token.value == *refused);
        drop(present);
        self.token().await
    }

    async fn discover(&self) -> Result<Endpoint> {
        let issuer = self.asker.issuer.trim_end_matches('/');
        let url = format!("{issuer}/.well-known/openid-configuration");
        let (status, text) = self.send(self.http.get(&url)).await?;
        if !status.is_success() {
            return Err(self.wrong(&format!("answers {status} to its description")));
        }
        let endpoint: Endpoint = self.parse(&text)?;
        // Who answers for another issuer would be given that one's secret.
        if endpoint.issuer.trim_end_matches('/') != issuer {
            return Err(self.wrong(&format!("says that it is {:?}", endpoint.issuer)));
        }
        let is_https = endpoint.url.starts_with("https://");
        if !is_https {
            return Err(self.wrong("has a token endpoint that is not https"));
        }
        Ok(endpoint)
    }

    async fn ask(&self, endpoint: &Endpoint) -> Result<Token> {
        let asker = &self.asker;
        let mut form = vec![("grant_type", "client_credentials")];
        let more = [("audience", &asker.audience), ("scope", &asker.scope)];
        form.extend(
            more.into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name, value.as_str())),
        );
        let methods = &endpoint.methods;
        let takes = |method: &str| methods.iter().any(|one| one == method);
        let in_body = takes("client_secret_post") && !takes("client_secret_basic");
        if in_body {
            form.push(("client_id", &asker.client_id));
            form.push(("client_secret", asker.client_secret.expose()));
        }
        let mut request = self
            .http
            .post(&endpoint.url)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(encoded(&form));
        if !in_body {
            request = request.header("Authorization", self.basic()?);
        }
        let asked_at = Instant::now();
        let (status, text) = self.send(request).await?;
        if !status.is_success() {
            return Err(self.refused(status, &text));
        }
        let granted: Granted = self.parse(&text)?;
        let life = Duration::from_secs(granted.expires_in.unwrap_or(UNTOLD));
        let left = (life / SHARE_LEFT).min(MOST_LEFT);
        Ok(Token {
            value: Hidden::new(granted.access_token),
            renew_at: asked_at + life.saturating_sub(left),
        })
    }

    /// Both parts are escaped as a form's are, by RFC 6749 (2.3.1).
    fn basic(&self) -> Result<reqwest::header::HeaderValue> {
        let escaped = |text: &str| {
            let pair = encoded(&[("", text)]);
            pair.trim_start_matches('=').to_owned()
        };
        let id = escaped(&self.asker.client_id);
        let secret = escaped(self.asker.client_secret.expose());
        let value = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
        let mut header = reqwest::header::HeaderValue::from_str(&value)
            .context(|| "the client's name and secret do not fit into a header")?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, String)> {
        let cannot = || format!("issuer {} does not answer", self.asker.issuer);
        let mut answer = request.send().await.context(cannot)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.context(cannot)? {
            bytes.extend_from_slice(&part);
            if bytes.len() > MOST_READ {
                return Err(self.wrong("answers with more than a megabyte"));
            }
        }
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What the parser says could repeat a token, so it is not told.
    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|_| self.wrong("answers with what is not expected"))
    }

    fn refused(&self, status: StatusCode, text: &str) -> Error {
        let said: Refused = serde_json::from_str(text).unwrap_or_default();
        let mut why = format!("{status} {}", said.error);
        if !said.error_description.is_empty() {
            why.push_str(&format!(" ({})", said.error_description));
        }
        Error::failed(format!(
            "issuer {} gives client {} no token: {}",
            self.asker.issuer,
            self.asker.client_id,
            why.trim()
        ))
        .hint(
            "Check docker.gateway.client_id and .client_secret, and that the issuer lets this client \
             have tokens by client credentials.",
        )
    }

    fn wrong(&self, what: &str) -> Error {
        Error::failed(format!("issuer {} {what}", self.asker.issuer))
            .hint("Check docker.gateway.issuer: it is the address before /.well-known.")
    }
}

fn encoded(form: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://form/").ok();
    if let Some(url) = &mut url {
        url.query_pairs_mut().extend_pairs(form);
    }
    url.as_ref()
        .and_then(reqwest::Url::query)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_escaped_and_not_shown() {
        assert_eq!(
            encoded(&[("a", "x y"), ("b", "ü&=")]),
            "a=x+y&b=%C3%BC%26%3D"
        );
        let tokens = Tokens::of(Asker {
            issuer: "https://id.example.org".into(),
            client_id: "a:b".into(),
            client_secret: Hidden::new("p w%"),
            audience: String::new(),
            scope: String::new(),
            authority: None,
        })
        .unwrap();
        let header = tokens.basic().unwrap();
        let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        let decoded = STANDARD.decode(encoded).unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), "a%3Ab:p+w%25");
        assert!(!format!("{tokens:?} {header:?}").contains("p w%"));
        let said = tokens.refused(StatusCode::UNAUTHORIZED, r#"{"error":"invalid_client"}"#);
        assert!(
            said.to_string().contains("401 Unauthorized invalid_client"),
            "{said}"
        );
    }
}
