//! What archives, backups and restores note in JSON, and the texts in it. A manifest is sealed
//! first, so that what is behind its checksum is reached.

#![no_main]

use k1ops::archive::backup_manifest::{BackupManifest, parse_lsn};
use k1ops::archive::{Header, Manifest};
use k1ops::repository::Name;
use k1ops::restore::Part;
use k1ops::restore::journal::Journal;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|bytes: &[u8]| {
    let _ = (
        Manifest::unseal(bytes),
        Header::parse(bytes),
        BackupManifest::parse(bytes),
    );
    let _ = serde_json::from_slice::<Journal>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = (Name::parse(text), parse_lsn(text), text.parse::<Part>());
    let sum: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let sealed = format!("{{\"sha256\":\"{sum}\",\"manifest\":{text}}}");
    if let Ok(manifest) = Manifest::unseal(sealed.as_bytes()) {
        // What can be read can be written, and read again as the same.
        let again = Manifest::unseal(&manifest.seal().unwrap()).unwrap();
        assert_eq!(again.seal().unwrap(), manifest.seal().unwrap());
    }
});
