//! Any file as an archive: opened, and verified as a whole if that is possible. Headers are mended
//! first, so that what is behind their checksums is reached.

#![no_main]

use k1ops::archive::{Archive, Depth, verify};
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            mend(block);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.tar");
    std::fs::write(&path, &bytes).unwrap();
    let Ok(archive) = Archive::open(&path) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let _ = runtime.block_on(verify(&archive, Depth::Full, 1, &events, &interrupt));
});

/// Gives a tar header the checksum that it should have.
fn mend(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
