//! Reads back what was unpacked, compares it with the server's manifest, and syncs it, on several
//! threads.

use super::folder::{File, Made};
use crate::adapters::fs::sync_folder;
use crate::archive::PgDataCheck;
use crate::error::{Context, Error, Result};
use crate::interrupt::Interrupt;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a file is read into.
const PIECE: usize = 256 << 10;

/// A sync mostly waits for the disk, which takes several at once.
const THREADS_PER_JOB: usize = 4;

/// Settles every file and folder that was made.
pub(super) fn all(
    made: &Made,
    check: &PgDataCheck,
    jobs: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; PIECE];
        while let Some(file) = made.files.get(next.fetch_add(1, Ordering::Relaxed)) {
            interrupt.check()?;
            settle(file, check, &mut buffer)?;
        }
        Ok::<_, Error>(())
    };
    std::thread::scope(|scope| {
        let threads = jobs.clamp(1, 4) * THREADS_PER_JOB;
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| Error::failed("a comparing thread died"))?
        })
    })?;
    made.folders
        .iter()
        .try_for_each(|folder| sync_folder(folder))
}

fn settle(file: &File, check: &PgDataCheck, buffer: &mut [u8]) -> Result<()> {
    let cannot = || format!("{} cannot be read back", file.place.display());
    let mut handle = std::fs::File::open(&file.place).context(cannot)?;
    if let Some(expected) = check.expected(&file.name) {
        let mut comparison = expected.compare();
        loop {
            let read = handle.read(buffer).context(cannot)?;
            if read == 0 {
                break;
            }
            comparison.add(&buffer[..read]);
        }
        comparison
            .finish()
            .map_err(|what| check.bad(&file.name, &what))?;
    }
    handle
        .sync_all()
        .context(|| format!("{} cannot be synced", file.place.display()))
}
