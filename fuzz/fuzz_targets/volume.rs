//! Any bytes as the tar stream of a volume, and as one of a physical backup. Headers are mended
//! first, so that what is behind their checksums is reached.

#![no_main]

use k1ops::archive::{tree, walk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    if let Ok(tree) = tree::read_within(&mut &*bytes, 1 << 20) {
        assert!(tree.bytes <= 1 << 20);
    }
    let _ = walk(&mut &*bytes, |entry, _| {
        let mut parts = entry.path.components();
        assert!(parts.all(|part| matches!(part, std::path::Component::Normal(_))));
        Ok(())
    });
});
