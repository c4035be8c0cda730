//! Questions to S3 that the library does not offer: signed by it, and sent by us.

use super::Bucket;
use crate::error::{Context, Error, Result};
use object_store::path::Path as Key;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// How long the address of a request works.
const VALID: Duration = Duration::from_secs(300);

/// One request.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) key: Key,
    pub(super) query: Vec<(&'static str, String)>,
    /// Headers that are signed.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
}

impl Bucket {
    /// Asks an S3 server; the text of its answer, or its refusal.
    pub(super) async fn ask_s3(&self, question: Question) -> Result<Answer> {
        let Some((s3, client)) = &self.0.s3 else {
            return Err(Error::failed(format!("{} is not S3", self.address())));
        };
        let mut options = SignedUrlOptions::new().with_query(question.query);
        for (name, value) in &question.headers {
            options = options.with_signed_header(name.clone(), value.clone());
        }
        let url = s3
            .signed_url_opts(question.method.clone(), &question.key, VALID, &options)
            .await
            .context(|| "the request cannot be signed")?;
        let answer = client
            .request(question.method, url)
            .headers(question.headers.into_iter().collect::<HeaderMap>())
            .body(question.body)
            .send()
            .await;
        // The address is as good as a password for some minutes: it must not be in an error.
        let answer = answer
            .map_err(reqwest::Error::without_url)
            .context(|| "the store does not answer")?;
        let status = answer.status();
        let text = answer.text().await.map_err(reqwest::Error::without_url);
        let text = text.context(|| "the store's answer breaks off")?;
        if status.is_success() {
            return Ok(Ok(text));
        }
        let said = quick_xml::de::from_str(&text);
        Ok(Err(said.unwrap_or_else(|_| Refusal {
            code: status.to_string(),
            message: String::new(),
        })))
    }
}

/// What a server says.
pub(super) type Answer = std::result::Result<String, Refusal>;

/// Why a server does not do what it was asked.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Refusal {
    /// Such as `NoSuchBucket`.
    pub(super) code: String,
    #[serde(default)]
    message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}
