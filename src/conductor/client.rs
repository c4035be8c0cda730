//! Requests to one server, with errors that say what the server said.

use crate::adapters::http;
use crate::adapters::oauth::Tokens;
use crate::error::{Context, Error, Result};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// How long a request may take.
const ANSWER: Duration = Duration::from_secs(30);

/// One server's API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    tokens: Option<Arc<Tokens>>,
}

impl Client {
    /// A client for the server at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Result<Self> {
        Ok(Self {
            http: http::local_client(ANSWER)?,
            base: base.into().trim_end_matches('/').to_owned(),
            tokens: None,
        })
    }

    /// A client for the server behind a gateway at `base`, an `https` address, that is verified against
    /// `authority` (PEM) and lets in who shows one of `tokens`.
    pub fn behind_gateway(
        base: impl Into<String>,
        authority: Option<&str>,
        tokens: Arc<Tokens>,
    ) -> Result<Self> {
        Ok(Self {
            http: http::local_secret_client(authority, ANSWER)?,
            base: base.into().trim_end_matches('/').to_owned(),
            tokens: Some(tokens),
        })
    }

    /// The server's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET `path`, whose answer is JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let text = self.send(self.http.get(self.url(path)), path).await?;
        self.parse(path, &text)
    }

    /// POST `body` to `path`; answers the text of the response.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<String> {
        self.send(self.http.post(self.url(path)).json(body), path)
            .await
    }

    /// The same; `None` where no server answers, or a balancer says that its server did not. Whether it
    /// was done is then not known.
    pub(super) async fn post_if_heard(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<String>> {
        let request = self.http.post(self.url(path)).json(body);
        let Ok(answer) = self.answer(request).await? else {
            return Ok(None);
        };
        let status = answer.status();
        let Ok(text) = answer.text().await else {
            return Ok(None);
        };
        if (502..=504).contains(&status.as_u16()) {
            return Ok(None);
        }
        self.accepted(path, status, text).map(Some)
    }

    /// The same; `None` where Conductor itself says that it does not know what `body` names. The same word
    /// of anybody before it, such as a balancer without servers, is an error as any other.
    pub(super) async fn post_if_known(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<String>> {
        let request = self.http.post(self.url(path)).json(body);
        let (status, text) = self.heard(request, path).await?;
        if status == StatusCode::NOT_FOUND && is_of_conductor(&text) {
            return Ok(None);
        }
        self.accepted(path, status, text).map(Some)
    }

    /// PUT `body` to `path`; answers the text of the response.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<String> {
        self.send(self.http.put(self.url(path)).json(body), path)
            .await
    }

    /// DELETE `path`; answers the text of the response.
    pub async fn delete(&self, path: &str) -> Result<String> {
        self.send(self.http.delete(self.url(path)), path).await
    }

    /// Reads `text` as JSON.
    pub fn parse<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T> {
        serde_json::from_str(text).context(|| {
            format!(
                "Conductor at {} answered {path} with unexpected JSON",
                self.base
            )
        })
    }

    /// The status and text of GET `path`, whatever the status is.
    pub async fn probe(&self, path: &str, timeout: Duration) -> Result<(u16, String)> {
        let cannot = || format!("Conductor at {} does not answer", self.base);
        let request = self.http.get(self.url(path)).timeout(timeout);
        let answer = self.answer(request).await?.context(cannot)?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.context(cannot)?))
    }

    /// The status of GET `path` for who shows `token`, or none, in place of the client's own.
    pub async fn status_for(
        &self,
        path: &str,
        token: Option<&str>,
        timeout: Duration,
    ) -> Result<u16> {
        let mut request = self.http.get(self.url(path)).timeout(timeout);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await;
        let cannot = || format!("Conductor at {} does not answer", self.base);
        Ok(answer.context(cannot)?.status().as_u16())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The path of `segments` below `/api` with `query`, all of it escaped, so that a name with a
    /// space or a slash in it stays one name.
    pub(super) fn path(segments: &[&str], query: &[(&str, &str)]) -> Result<String> {
        let cannot = || format!("{} is not a path", segments.join("/"));
        let mut url = reqwest::Url::parse("http://conductor/api").context(cannot)?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url.query().map_or_else(
            || url.path().to_owned(),
            |query| format!("{}?{query}", url.path()),
        ))
    }

    /// What is answered, to who shows a token where one is asked for. One that is not taken any more,
    /// since the issuer's keys or the clocks have changed, is got anew, once. Fails if there is no token;
    /// the inner error is that of a server that does not answer.
    async fn answer(&self, request: RequestBuilder) -> Result<reqwest::Result<Response>> {
        let Some(tokens) = &self.tokens else {
            return Ok(request.send().await);
        };
        let again = request.try_clone();
        // Boxed: it is rare, and larger than all the rest of a request.
        let token = Box::pin(tokens.token()).await?;
        let sent = request.bearer_auth(token.expose()).send().await;
        let is_refused = sent
            .as_ref()
            .is_ok_and(|answer| is_refused(answer.status()));
        let Some(again) = again.filter(|_| is_refused) else {
            return Ok(sent);
        };
        let token = Box::pin(tokens.instead_of(&token)).await?;
        Ok(again.bearer_auth(token.expose()).send().await)
    }

    async fn send(&self, request: RequestBuilder, path: &str) -> Result<String> {
        let (status, text) = self.heard(request, path).await?;
        self.accepted(path, status, text)
    }

    async fn heard(&self, request: RequestBuilder, path: &str) -> Result<(StatusCode, String)> {
        let cannot = || format!("Conductor at {} does not answer {path}", self.base);
        let answer = self.answer(request).await?.context(cannot)?;
        let status = answer.status();
        Ok((status, answer.text().await.context(cannot)?))
    }

    fn accepted(&self, path: &str, status: StatusCode, text: String) -> Result<String> {
        if status.is_success() {
            return Ok(text);
        }
        if is_refused(status) {
            return Err(self.shut_out(status));
        }
        let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let mut why = said["message"].as_str().unwrap_or(text.trim()).to_owned();
        // "Validation failed, check below errors for detail." says nothing without them.
        for error in said["validationErrors"].as_array().into_iter().flatten() {
            why.push_str(&format!(
                " {}: {}",
                error["path"].as_str().unwrap_or_default(),
                error["message"].as_str().unwrap_or_default()
            ));
        }
        Err(Error::failed(format!(
            "Conductor at {} refused {path}: {status}: {why}",
            self.base
        )))
    }

    /// Conductor itself has no login: whoever says this stands before it.
    fn shut_out(&self, status: StatusCode) -> Error {
        let error = Error::failed(format!(
            "the gateway before Conductor at {} lets k1ops not in: {status}",
            self.base
        ));
        if self.tokens.is_none() {
            return error.hint("Set docker.gateway in k1ops.toml as it is where the stack runs.");
        }
        error.hint(
            "The issuer's token is not for this gateway: see docker.gateway.audience and .scope, and \
             `k1ops logs gateway`.",
        )
    }
}

/// Whether a gateway says that it wants another token.
fn is_refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Whether an error is told as Conductor does, by which of its instances and what for.
fn is_of_conductor(text: &str) -> bool {
    let said: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    said["message"].is_string() && said["instance"].is_string() && said["retryable"].is_boolean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::lying_server::{Answer, LyingServer};

    /// An answer that a balancer without servers refuses is not lost.
    #[tokio::test]
    async fn what_others_do_not_know_is_an_error() {
        let server = LyingServer::start(Vec::new(), vec![Answer::Status(404)]).await;
        let client = Client::new(server.url("")).unwrap();
        client.post_if_known("/api/tasks", &1).await.unwrap_err();
        for text in [
            "",
            "404 page not found",
            r#"{"status":404,"error":"Not Found"}"#,
        ] {
            assert!(!is_of_conductor(text), "{text}");
        }
    }

    #[test]
    fn names_stay_one_segment() {
        let path = Client::path(
            &["workflow", "a b/c?d"],
            &[("query", "status IN (RUNNING)")],
        );
        assert_eq!(
            path.unwrap(),
            "/api/workflow/a%20b%2Fc%3Fd?query=status+IN+%28RUNNING%29"
        );
        assert_eq!(Client::path(&["tasks"], &[]).unwrap(), "/api/tasks");
    }
}
