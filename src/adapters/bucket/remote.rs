//! An object that is read where it is needed, by ranges.
//!
//! A reader that jumps costs little: it gets a small range around what it asked for. A reader that
//! goes on, forwards or backwards, gets ranges that double up to a limit, so that reading a whole
//! object is a few large requests.

use super::{Bucket, Object, wait};
use crate::adapters::storage::ReadAt;
use crate::error::{Error, Result};
use bytes::Bytes;
use object_store::{GetOptions, ObjectStore};
use std::sync::{Mutex, PoisonError};

/// What a jump fetches, in bytes.
const JUMP: u64 = 16 << 10;

/// The largest range, in bytes.
const STRIDE: u64 = 4 << 20;

/// What is kept in memory, in bytes.
const KEPT: u64 = 48 << 20;

/// An object that is read by ranges.
#[derive(Debug)]
pub struct Remote {
    bucket: Bucket,
    object: Object,
    windows: Mutex<Windows>,
}

impl Bucket {
    /// Opens an object for reading. Should it be replaced meanwhile, reads fail rather than mix the
    /// two.
    pub fn open_object(&self, name: &str) -> Result<Remote> {
        let object = self.head(name)?.ok_or_else(|| {
            Error::missing(format!("there is no {}", self.address_of(name)))
                .hint("`k1ops list` shows which archives there are.")
        })?;
        Ok(Remote {
            bucket: self.clone(),
            object,
            windows: Mutex::new(Windows::default()),
        })
    }
}

impl Remote {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.object.size
    }

    fn fetch(&self, start: u64, end: u64) -> std::io::Result<Bytes> {
        let options = GetOptions {
            range: Some((start..end).into()),
            if_match: self.object.tag.clone(),
            ..GetOptions::default()
        };
        let (bucket, key) = (self.bucket.clone(), self.bucket.key(&self.object.name));
        let got = wait(async move {
            let got = bucket.0.objects.get_opts(&key, options).await?;
            got.bytes().await
        });
        let failed = |error: Error| std::io::Error::other(error);
        let bytes = got.map_err(failed)?.map_err(|error| {
            let name = &self.object.name;
            failed(self.bucket.explain_object(name, "cannot be read", &error))
        })?;
        if bytes.len() as u64 == end - start {
            Ok(bytes)
        } else {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn windows(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Remote {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if offset >= self.size() || buffer.is_empty() {
            return Ok(0);
        }
        let (start, end) = {
            let mut windows = self.windows();
            if let Some(read) = windows.copy(buffer, offset) {
                return Ok(read);
            }
            windows.next(offset, buffer.len() as u64, self.size())
        };
        let bytes = self.fetch(start, end)?;
        let mut windows = self.windows();
        windows.keep(start, bytes);
        windows
            .copy(buffer, offset)
            .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// Ranges that were fetched, the one used last at the end.
#[derive(Debug, Default)]
struct Windows(Vec<(u64, Bytes)>);

impl Windows {
    fn copy(&mut self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let holds =
            |(start, bytes): &(u64, Bytes)| *start <= offset && offset - start < bytes.len() as u64;
        let at = self.0.iter().position(holds)?;
        let window = self.0.remove(at);
        let from = usize::try_from(offset - window.0).ok()?;
        let length = buffer.len().min(window.1.len() - from);
        buffer[..length].copy_from_slice(&window.1[from..from + length]);
        self.0.push(window);
        Some(length)
    }

    /// What to fetch for `length` bytes at `offset` of an object of `size` bytes.
    fn next(&self, offset: u64, length: u64, size: u64) -> (u64, u64) {
        let doubled = |bytes: &Bytes| (bytes.len() as u64 * 2).clamp(JUMP, STRIDE);
        let (mut start, mut end) = (offset, offset + length.clamp(JUMP, STRIDE));
        for (from, bytes) in &self.0 {
            if from + bytes.len() as u64 == offset {
                end = end.max(offset + doubled(bytes));
            } else if *from > offset && from - offset <= length {
                end = *from;
                start = offset.min(from.saturating_sub(doubled(bytes)));
                break;
            }
        }
        (start, end.min(size))
    }

    fn keep(&mut self, start: u64, bytes: Bytes) {
        self.0.push((start, bytes));
        let mut all: u64 = self.0.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        while all > KEPT && self.0.len() > 1 {
            all -= self.0.remove(0).1.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: u64, length: usize) -> (u64, Bytes) {
        (start, Bytes::from(vec![0; length]))
    }

    #[test]
    fn a_jump_is_small_and_going_on_doubles_either_way() {
        let size = 1 << 30;
        let none = Windows::default();
        assert_eq!(none.next(1000, 512, size), (1000, 1000 + JUMP));
        assert_eq!(none.next(size - 10, 512, size), (size - 10, size));
        let forwards = Windows(vec![window(0, 32 << 10)]);
        assert_eq!(forwards.next(32 << 10, 512, size), (32 << 10, 96 << 10));
        let backwards = Windows(vec![window(1 << 20, 32 << 10)]);
        let (start, end) = backwards.next((1 << 20) - 512, 512, size);
        assert_eq!((start, end), ((1 << 20) - (64 << 10), 1 << 20));
        let large = Windows(vec![window(0, 4 << 20)]);
        assert_eq!(large.next(4 << 20, 512, size), (4 << 20, 8 << 20));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes() {
        let mut windows = Windows::default();
        for number in 0..40 {
            windows.keep(number << 22, Bytes::from(vec![1; 4 << 20]));
        }
        let all: usize = windows.0.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(all as u64 <= KEPT);
        let mut byte = [0];
        assert_eq!(windows.copy(&mut byte, 39 << 22), Some(1));
        assert_eq!(windows.copy(&mut byte, 0), None);
    }
}
