//! What uploads that were killed left in a store: parts that nobody sees and that are paid for.
//!
//! S3 can list them. Azure Blob Storage forgets them by itself after a week, and Google Cloud
//! Storage by a rule of the bucket's.

use super::signed::Question;
use super::{Bucket, wait};
use crate::error::{Context, Result};
use object_store::multipart::MultipartStore;
use serde::Deserialize;

/// Pages of a listing that are read, of a thousand uploads each.
const MOST_PAGES: usize = 100;

/// An upload that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The name that the object would have had.
    pub name: String,
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
}

impl Bucket {
    /// Uploads into this folder that were begun and not finished, where the store can tell.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>> {
        if self.0.s3.is_none() {
            return Ok(Vec::new());
        }
        let this = self.clone();
        wait(async move { this.list_unfinished().await })?.context(|| {
            format!(
                "the unfinished uploads in {} cannot be listed",
                self.address()
            )
        })
    }

    /// Removes an upload that nobody will finish.
    pub fn abandon(&self, upload: &Unfinished) -> Result<()> {
        let Some((store, _)) = self.0.s3.clone() else {
            return Ok(());
        };
        let (key, id) = (self.key(&upload.name), upload.id.clone());
        match wait(async move { store.abort_multipart(&key, &id).await })? {
            // Somebody else was faster.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.explain_object(
                &upload.name,
                "has an unfinished upload that cannot be removed",
                &error,
            )),
        }
    }

    async fn list_unfinished(&self) -> Result<Vec<Unfinished>> {
        let folder = self.0.folder.to_string();
        let folder = if folder.is_empty() {
            folder
        } else {
            format!("{folder}/")
        };
        let mut found = Vec::new();
        let mut query = vec![("uploads", String::new()), ("prefix", folder.clone())];
        for _ in 0..MOST_PAGES {
            let page = self.page(&query).await?;
            found.extend(page.uploads.into_iter().filter_map(|upload| {
                let name = upload.key.strip_prefix(&folder)?.to_owned();
                let id = upload.upload_id;
                (!name.contains('/')).then_some(Unfinished { name, id })
            }));
            let (Some(key), true) = (page.next_key_marker, page.is_truncated) else {
                break;
            };
            query.truncate(2);
            query.push(("key-marker", key));
            query.extend(
                page.next_upload_id_marker
                    .map(|id| ("upload-id-marker", id)),
            );
        }
        Ok(found)
    }

    /// One page of the listing.
    async fn page(&self, query: &[(&'static str, String)]) -> Result<Page> {
        let question = Question {
            query: query.to_vec(),
            ..Question::default()
        };
        let text = self.ask_s3(question).await?;
        let text = text.context(|| "the store does not list them")?;
        quick_xml::de::from_str(&text).context(|| "the store's answer cannot be read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_with_and_without_uploads() {
        let none = r#"<?xml version="1.0"?><ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"#;
        let page: Page = quick_xml::de::from_str(none).unwrap();
        assert!(page.uploads.is_empty() && !page.is_truncated);
        let two = r"<ListMultipartUploadsResult><NextKeyMarker>k</NextKeyMarker><IsTruncated>true</IsTruncated><Upload><Key>a/b</Key><UploadId>1</UploadId><Owner><ID>x</ID></Owner></Upload><Upload><Key>c</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
        let page: Page = quick_xml::de::from_str(two).unwrap();
        assert_eq!(page.uploads.len(), 2);
        assert_eq!(page.uploads[0].key, "a/b");
        assert_eq!(page.next_key_marker.as_deref(), Some("k"));
    }
}
