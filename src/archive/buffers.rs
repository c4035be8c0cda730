//! The large buffers of one archive that is being written: each is used again and again, so that
//! what they take together is known, and does not grow with what is backed up. Freed and
//! allocated anew by one thread after another, they would leave holes in the allocator's arenas.

use std::sync::{Mutex, PoisonError};

/// Buffers of one size.
#[derive(Debug)]
pub(super) struct Buffers {
    size: usize,
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Up to `most` buffers of `size` bytes are kept. None is made before it is needed.
    pub(super) fn new(size: usize, most: usize) -> Self {
        Self {
            size,
            most,
            free: Mutex::default(),
        }
    }

    /// An empty buffer with room for `size` bytes.
    pub(super) fn take(&self) -> Vec<u8> {
        let kept = self.kept().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(self.size))
    }

    /// Takes a buffer back, whatever is in it. One of another size is freed: a row that is larger
    /// than a part has made it grow, or it never was one of these.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() != self.size {
            return;
        }
        buffer.clear();
        let mut kept = self.kept();
        if kept.len() < self.most {
            kept.push(buffer);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_one_that_grew_is_not() {
        let buffers = Buffers::new(100, 1);
        let mut one = buffers.take();
        one.extend_from_slice(&[7; 100]);
        let place = one.as_ptr();
        buffers.give_back(one);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));

        let mut grown = again;
        grown.extend_from_slice(&[7; 101]);
        buffers.give_back(grown);
        assert_eq!(buffers.take().capacity(), 100);

        buffers.give_back(Vec::with_capacity(100));
        buffers.give_back(Vec::with_capacity(100));
        assert_eq!(buffers.kept().len(), 1);
    }
}
