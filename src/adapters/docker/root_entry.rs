//! The folder that a tar stream begins with. Docker unpacks what is in it and passes over the folder itself, whose
//! owner, mode and time belong to a volume as much as those of its files: it is set by a stream of its own, in which it
//! has a name.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::io::Result;

/// The first entry and what extends it take no more than this.
const AT_MOST: usize = 64 << 10;
/// Two blocks of zeros end an archive.
const END: [u8; 1024] = [0; 1024];

/// An archive of the stream's first entry alone, under the path `name`, if that is the folder `./`; and the stream as
/// it was.
pub(super) async fn first_folder<S>(
    tar: S,
    name: &str,
) -> Result<(
    Option<Bytes>,
    impl Stream<Item = Result<Bytes>> + Send + use<S>,
)>
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    let mut tar = Box::pin(tar);
    let mut head = Vec::new();
    while !has_entry(&head) && head.len() < AT_MOST {
        let Some(part) = tar.next().await else {
            break;
        };
        head.extend_from_slice(&part?);
    }
    let folder = renamed(&head, name);
    let again = stream::once(std::future::ready(Ok(Bytes::from(head)))).chain(tar);
    Ok((folder, again))
}

/// Whether the head of the first entry is all there.
fn has_entry(head: &[u8]) -> bool {
    let first = tar::Archive::new(head)
        .entries()
        .map(|mut all| all.next().is_some_and(|entry| entry.is_ok()));
    first.unwrap_or(false)
}

/// The first entry of an archive of which `head` is the beginning, if it is the root of all that follows.
fn renamed(head: &[u8], name: &str) -> Option<Bytes> {
    let mut archive = tar::Archive::new(head);
    let entry = archive.entries().ok()?.next()?.ok()?;
    let is_root = entry.header().entry_type().is_dir() && &*entry.path_bytes() == b"./";
    if !is_root {
        return None;
    }
    let end = usize::try_from(entry.raw_file_position()).ok()?;
    let start = usize::try_from(entry.raw_header_position()).ok()?;
    // What extends the header, such as parts of a second, comes before it.
    let mut bytes = head.get(..start)?.to_vec();
    let mut header = entry.header().clone();
    let renamed = header.set_path(name).map(|()| header.set_cksum());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&END);
    (end == start + header.as_bytes().len() && renamed.is_ok()).then(|| Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(first: &str, extended: bool) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        if extended {
            let times = [("mtime", &b"1700000000.123456789"[..])];
            archive.append_pax_extensions(times).unwrap();
        }
        for (name, kind) in [
            (first, tar::EntryType::Directory),
            ("./a", tar::EntryType::Regular),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o750);
            header.set_uid(999);
            header.set_size(0);
            archive
                .append_data(&mut header, name, std::io::empty())
                .unwrap();
        }
        archive.into_inner().unwrap()
    }

    async fn split(bytes: &[u8]) -> (Option<Bytes>, Vec<u8>) {
        let parts: Vec<_> = bytes
            .chunks(100)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        let split = first_folder(stream::iter(parts), "volume/inside/").await;
        let (root, again) = split.unwrap();
        let again: Vec<Bytes> = again.map(Result::unwrap).collect().await;
        (root, again.concat())
    }

    #[tokio::test]
    async fn the_root_gets_a_name_and_keeps_all_else() {
        for extended in [false, true] {
            let bytes = archive("./", extended);
            let (root, again) = split(&bytes).await;
            assert_eq!(again, bytes);
            let root = root.unwrap();
            let mut archive = tar::Archive::new(&root[..]);
            let entries: Vec<_> = archive
                .entries()
                .unwrap()
                .map(|entry| {
                    let mut entry = entry.unwrap();
                    let extensions = entry.pax_extensions().unwrap();
                    let extensions = extensions.map_or(0, Iterator::count);
                    let header = entry.header();
                    let (mode, uid) = (header.mode().unwrap(), header.uid().unwrap());
                    let path = entry.path().unwrap().display().to_string();
                    (path, mode, uid, extensions)
                })
                .collect();
            let expected = (
                "volume/inside/".to_owned(),
                0o750,
                999,
                usize::from(extended),
            );
            assert_eq!(entries, [expected]);
        }
    }

    #[tokio::test]
    async fn anything_else_passes_as_it_is() {
        for bytes in [
            archive("./folder/", false),
            archive("other/", true),
            vec![7; 300],
        ] {
            let (root, again) = split(&bytes).await;
            assert!(root.is_none());
            assert_eq!(again, bytes);
        }
    }
}
