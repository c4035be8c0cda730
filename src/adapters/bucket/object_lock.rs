//! Objects that nobody can delete or replace for a time, where a store offers that: S3 Object Lock.
//!
//! The bucket has to be made with it. Each object is locked when it has its name, and whether it is locked is then
//! asked of the store: one that passes over the request is found out.

use super::signed::Question;
use super::{Bucket, wait};
use crate::adapters::storage::Sink;
use crate::error::{Context, Error, Result};
use base64::Engine;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use object_store::signer::Method;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::io::Write;

/// For how long new objects are locked, and against whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// How long, from when it is written.
    pub span: TimeDelta,
    /// Against everybody (`COMPLIANCE`), or all but those with a right of their own for that (`GOVERNANCE`).
    pub compliance: bool,
}

/// How S3 says that an object has no lock.
const NOT_LOCKED: &str = "NoSuchObjectLockConfiguration";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Retention {
    retain_until_date: Option<DateTime<Utc>>,
}

impl Bucket {
    /// Until when an object is locked, if it is.
    pub fn locked_until(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        if self.0.lock.is_none() {
            return Ok(None);
        }
        let cannot = || format!("{} cannot be asked for its lock", self.address_of(name));
        let question = self.retention(Method::GET, name);
        let this = self.clone();
        match wait(async move { this.ask_s3(question).await })?.context(cannot)? {
            Ok(text) => {
                let found: Retention = quick_xml::de::from_str(&text).map_err(|_| {
                    // Whatever it is, it may be as long as the object.
                    Error::failed(cannot())
                        .because("the store's answer is not one to this question")
                })?;
                Ok(found.retain_until_date)
            }
            Err(refusal) if refusal.code == NOT_LOCKED => Ok(None),
            Err(refusal) => Err(Error::failed(cannot()).because(refusal)),
        }
    }

    /// Locks an object, and looks whether that holds.
    fn lock(&self, name: &str, lock: ObjectLock) -> Result<()> {
        let until = Utc::now() + lock.span;
        let mode = if lock.compliance {
            "COMPLIANCE"
        } else {
            "GOVERNANCE"
        };
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            until.to_rfc3339_opts(SecondsFormat::Secs, true)
        );
        let question = Question {
            headers: vec![
                (CONTENT_TYPE, HeaderValue::from_static("application/xml")),
                checksum(body.as_bytes())?,
            ],
            body: body.into_bytes(),
            ..self.retention(Method::PUT, name)
        };
        let this = self.clone();
        let unlocked = || {
            format!(
                "{} is written and whole, and is not locked",
                self.address_of(name)
            )
        };
        let hint = "The bucket has to be made with Object Lock, and these credentials need \
                    s3:PutObjectRetention and s3:GetObjectRetention. Without it, take away \
                    repository.locked_for.";
        wait(async move { this.ask_s3(question).await })?
            .context(unlocked)?
            .map_err(|refusal| Error::failed(unlocked()).because(refusal).hint(hint))?;
        match self.locked_until(name) {
            Ok(Some(found)) if found >= until - TimeDelta::seconds(1) => Ok(()),
            Ok(_) => Err(Error::failed(unlocked())
                .because("the store took the lock, and says that there is none")
                .hint(hint)),
            Err(error) => Err(Error::failed(unlocked()).because(error).hint(hint)),
        }
    }

    fn retention(&self, method: Method, name: &str) -> Question {
        Question {
            method,
            key: self.key(name),
            query: vec![("retention", String::new())],
            ..Question::default()
        }
    }
}

/// S3 takes a lock only with a checksum of the request.
fn checksum(body: &[u8]) -> Result<(HeaderName, HeaderValue)> {
    let text = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(body));
    let value = HeaderValue::from_str(&text).context(|| "a checksum cannot be written")?;
    Ok((HeaderName::from_static("x-amz-checksum-sha256"), value))
}

/// A new object that is locked as soon as it has its name.
pub(super) struct Locking {
    pub(super) sink: Box<dyn Sink>,
    pub(super) bucket: Bucket,
    pub(super) name: String,
    pub(super) lock: ObjectLock,
}

impl Write for Locking {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.sink.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

impl Sink for Locking {
    fn publish(self: Box<Self>) -> Result<()> {
        let Self {
            sink,
            bucket,
            name,
            lock,
        } = *self;
        sink.publish()?;
        bucket.lock(&name, lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let text = "<?xml version=\"1.0\"?><Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Mode>COMPLIANCE</Mode><RetainUntilDate>2027-01-01T00:00:00Z</RetainUntilDate></Retention>";
        let found: Retention = quick_xml::de::from_str(text).unwrap();
        assert_eq!(
            found.retain_until_date.unwrap().to_rfc3339(),
            "2027-01-01T00:00:00+00:00"
        );
    }
}
