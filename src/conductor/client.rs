//! Requests to one server, with errors that say what the server said.

use crate::error::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// One server's API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// A client for the server at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Result<Self> {
        let http = crate::adapters::http::local_client(Duration::from_secs(30))?;
        Ok(Self {
            http,
            base: base.into().trim_end_matches('/').to_owned(),
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

    /// PUT `body` to `path`; answers the text of the response.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<String> {
        self.send(self.http.put(self.url(path)).json(body), path)
            .await
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
        let answer = self
            .http
            .get(self.url(path))
            .timeout(timeout)
            .send()
            .await
            .context(cannot)?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.context(cannot)?))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<String> {
        let cannot = || format!("Conductor at {} does not answer {path}", self.base);
        let answer = request.send().await.context(cannot)?;
        let status = answer.status();
        let text = answer.text().await.context(cannot)?;
        if status.is_success() {
            return Ok(text);
        }
        let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let said = said["message"].as_str().unwrap_or(text.trim()).to_owned();
        Err(Error::failed(format!(
            "Conductor at {} refused {path}: {status}: {said}",
            self.base
        )))
    }
}
