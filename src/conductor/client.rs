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

    /// The same; `None` where no server answers, or a balancer says that its server did not. Whether it
    /// was done is then not known.
    pub(super) async fn post_if_heard(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Option<String>> {
        let sent = self.http.post(self.url(path)).json(body).send().await;
        let Ok(answer) = sent else { return Ok(None) };
        let status = answer.status();
        let Ok(text) = answer.text().await else {
            return Ok(None);
        };
        if (502..=504).contains(&status.as_u16()) {
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

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<String> {
        let cannot = || format!("Conductor at {} does not answer {path}", self.base);
        let answer = request.send().await.context(cannot)?;
        let status = answer.status();
        let text = answer.text().await.context(cannot)?;
        self.accepted(path, status, text)
    }

    fn accepted(&self, path: &str, status: reqwest::StatusCode, text: String) -> Result<String> {
        if status.is_success() {
            return Ok(text);
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
