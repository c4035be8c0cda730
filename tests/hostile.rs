//! Archives that somebody made on purpose: paths that lead outside, links, devices, sizes that do
//! not fit, bombs. Each is refused with exit code 4, and nothing is written anywhere. And any bytes
//! at all, given to everything that reads a file which somebody else could have made.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod scratch;

use k1ops::adapters::postgres::Address;
use k1ops::archive::backup_manifest::{BackupManifest, parse_lsn};
use k1ops::archive::{Archive, Codec, Depth, Header, Manifest, Source, verify};
use k1ops::config::Secret;
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::repository::Name;
use k1ops::restore::Part;
use k1ops::restore::journal::Journal;
use proptest::prelude::*;
use scratch::Scratch;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tar::EntryType;

/// A file of a tar that is put together by hand.
#[derive(Clone)]
struct Piece {
    path: String,
    content: Vec<u8>,
    kind: EntryType,
}

/// A real archive, taken apart.
struct Parts {
    manifest: Manifest,
    pieces: Vec<Piece>,
    /// Offsets are those of the pieces; otherwise they stay as the manifest has them.
    place: bool,
}

impl Parts {
    fn of(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let manifest = Archive::open(path).unwrap().manifest().clone();
        let piece = |m: &k1ops::archive::Member| {
            let at = usize::try_from(m.offset).unwrap();
            Piece {
                path: m.path.clone(),
                content: bytes[at..at + usize::try_from(m.size).unwrap()].to_vec(),
                kind: EntryType::Regular,
            }
        };
        Self {
            pieces: manifest.members.iter().map(piece).collect(),
            manifest,
            place: true,
        }
    }

    /// The index of the first part of a database.
    fn pages(&self) -> usize {
        let is = |m: &k1ops::archive::Member| m.path.starts_with("sqlite/");
        self.manifest.members.iter().position(is).unwrap()
    }

    /// Gives a member another content, which the manifest knows.
    fn replace(&mut self, index: usize, content: Vec<u8>) {
        let member = &mut self.manifest.members[index];
        member.size = content.len() as u64;
        member.sha256 = hex::encode(Sha256::digest(&content));
        self.pieces[index].content = content;
    }

    fn rename(&mut self, index: usize, path: &str) {
        path.clone_into(&mut self.manifest.members[index].path);
        path.clone_into(&mut self.pieces[index].path);
    }

    fn bytes(mut self) -> Vec<u8> {
        let mut tar = Vec::new();
        let mtime = self.manifest.header.started_at.timestamp();
        let mtime = u64::try_from(mtime).unwrap();
        for (index, piece) in self.pieces.iter().enumerate() {
            if self.place {
                self.manifest.members[index].offset = tar.len() as u64 + 512;
            }
            append(&mut tar, piece, mtime);
        }
        let manifest = Piece {
            path: "manifest.json".to_owned(),
            content: self.manifest.seal().unwrap(),
            kind: EntryType::Regular,
        };
        append(&mut tar, &manifest, mtime);
        tar.extend([0; 1024]);
        tar
    }
}

fn append(tar: &mut Vec<u8>, piece: &Piece, mtime: u64) {
    let mut header = tar::Header::new_ustar();
    let name = &mut header.as_old_mut().name;
    // Names that the library would refuse to write.
    let length = piece.path.len().min(name.len());
    name[..length].copy_from_slice(&piece.path.as_bytes()[..length]);
    header.set_size(piece.content.len() as u64);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_entry_type(piece.kind);
    if matches!(piece.kind, EntryType::Symlink | EntryType::Link) {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(&piece.content);
    tar.resize(tar.len().div_ceil(512) * 512, 0);
}

type Trick = Box<dyn Fn(&mut Parts)>;

#[allow(clippy::too_many_lines, reason = "it is a table")]
fn tricks() -> Vec<(&'static str, Trick)> {
    let mut tricks: Vec<(&'static str, Trick)> = Vec::new();
    for path in [
        "../evil",
        "/tmp/k1ops-evil",
        "sqlite/../../evil",
        "sqlite/./evil",
        "sqlite//evil",
        "sqlite\\evil",
        "",
        "..",
    ] {
        tricks.push((path, Box::new(move |p| p.rename(p.pages(), path))));
    }
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Directory,
        EntryType::GNUSparse,
        EntryType::XHeader,
    ] {
        tricks.push((
            "a special file",
            Box::new(move |p| {
                let at = p.pages();
                p.pieces[at].kind = kind;
            }),
        ));
    }
    tricks.push((
        "a name twice",
        Box::new(|p| {
            let (at, path) = (p.pages(), p.pieces[0].path.clone());
            p.rename(at, &path);
        }),
    ));
    tricks.push((
        "a very long name",
        Box::new(|p| {
            let name = format!("sqlite/conductor/{}", "x".repeat(5000));
            p.rename(p.pages(), &name);
        }),
    ));
    tricks.push((
        "a size beyond the file",
        Box::new(|p| {
            let at = p.pages();
            p.manifest.members[at].size = u64::MAX - 1024;
        }),
    ));
    tricks.push((
        "an offset that overflows",
        Box::new(|p| {
            p.place = false;
            let at = p.pages();
            p.manifest.members[at].offset = u64::MAX - 8;
        }),
    ));
    tricks.push((
        "raw sizes whose sum overflows",
        Box::new(|p| {
            for member in &mut p.manifest.members {
                member.raw_size = u64::MAX;
            }
        }),
    ));
    tricks.push((
        "a huge raw size",
        Box::new(|p| {
            let at = p.pages();
            p.manifest.members[at].raw_size = 1 << 60;
        }),
    ));
    tricks.push((
        "pages whose size overflows",
        Box::new(|p| {
            for source in &mut p.manifest.sources {
                if let Source::Sqlite(sqlite) = source {
                    sqlite.pages = u64::MAX / 2;
                }
            }
        }),
    ));
    tricks.push((
        "rows whose sum overflows",
        Box::new(|p| {
            for source in &mut p.manifest.sources {
                if let Source::Sqlite(sqlite) = source {
                    sqlite
                        .tables
                        .iter_mut()
                        .for_each(|t| t.digest.rows = u64::MAX);
                }
            }
        }),
    ));
    for codec in [Codec::Zstd, Codec::Gzip] {
        tricks.push((
            "a bomb",
            Box::new(move |p| {
                let at = p.pages();
                p.manifest.members[at].codec = codec;
                let path = format!("sqlite/conductor/000000.pages{}", codec.suffix());
                p.rename(at, &path);
                p.replace(at, bomb(codec));
            }),
        ));
    }
    tricks.push((
        "a database with a path for a name",
        Box::new(|p| {
            for source in &mut p.manifest.sources {
                if let Source::Sqlite(sqlite) = source {
                    "../../evil".clone_into(&mut sqlite.name);
                }
            }
        }),
    ));
    tricks
}

/// Much nothing, in a few kilobytes.
fn bomb(codec: Codec) -> Vec<u8> {
    let zeros = std::io::Read::take(std::io::repeat(0), 1 << 28);
    let mut zeros = std::io::BufReader::with_capacity(1 << 20, zeros);
    if codec == Codec::Gzip {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::copy(&mut zeros, &mut gzip).unwrap();
        return gzip.finish().unwrap();
    }
    zstd::encode_all(zeros, 1).unwrap()
}

#[test]
fn what_was_made_on_purpose_is_refused_and_nothing_is_written() {
    let scratch = Scratch::filled();
    let good = scratch.backup();
    let outside = tempfile::tempdir().unwrap();
    let place = outside.path().join("made.tar");
    // The machinery makes an archive that is accepted, if nothing is done to it.
    std::fs::write(&place, Parts::of(&good).bytes()).unwrap();
    let shown = place.to_str().unwrap().to_owned();
    scratch.run(&["verify", &shown]).done();
    scratch.run(&["undo", "--discard", "--yes"]).done();
    let before = scratch.hashes();
    for (what, trick) in tricks() {
        let mut parts = Parts::of(&good);
        trick(&mut parts);
        std::fs::write(&place, parts.bytes()).unwrap();
        // In little memory: a bomb or a size that is believed would end it.
        let limited = |arguments: &[&str]| {
            let output = std::process::Command::new("sh")
                .args(["-c", "ulimit -v 1500000; exec \"$@\"", "sh"])
                .arg(env!("CARGO_BIN_EXE_k1ops"))
                .args(arguments)
                .current_dir(scratch.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        };
        let named = what.contains("path for a name");
        let (code, said) = limited(&["verify", &shown]);
        // What a name means only a restore asks.
        assert!(
            code == Some(4) || named && code == Some(0),
            "{what}: {code:?} {said}"
        );
        let (code, said) = limited(&["restore", &shown, "--yes"]);
        assert_eq!(code, Some(4), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert_eq!(scratch.hashes(), before, "{what}");
        let files = std::fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(files, 1, "{what}");
        assert!(!Path::new("/tmp/k1ops-evil").exists(), "{what}");
    }
}

/// A small real archive, as bytes.
fn sample() -> &'static (PathBuf, Vec<u8>, Manifest) {
    static SAMPLE: OnceLock<(PathBuf, Vec<u8>, Manifest)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let scratch = Scratch::new();
        scratch::fill(&scratch.db("k1"), 3);
        let path = scratch.backup();
        let bytes = std::fs::read(&path).unwrap();
        let manifest = Archive::open(&path).unwrap().manifest().clone();
        (path, bytes, manifest)
    })
}

fn examine(bytes: &[u8]) -> Result<(), ErrorKind> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.tar");
    std::fs::write(&path, bytes).unwrap();
    let archive = Archive::open(&path).map_err(|e| e.kind())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (events, interrupt) = (Events::silent(), Interrupt::default());
    let verified = runtime.block_on(verify(&archive, Depth::Full, 1, &events, &interrupt));
    verified.map(|_| ()).map_err(|e| e.kind())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_archive_with_anything_changed_is_bad_data_and_no_panic(
        at in 0usize..1_000_000, with in proptest::collection::vec(any::<u8>(), 1..600), cut in any::<bool>(),
    ) {
        let mut bytes = sample().1.clone();
        let at = at % bytes.len();
        let end = (at + with.len()).min(bytes.len());
        if cut {
            bytes.drain(at..end);
        } else {
            bytes[at..end].copy_from_slice(&with[..end - at]);
        }
        if bytes != sample().1 {
            prop_assert_eq!(examine(&bytes), Err(ErrorKind::BadData));
        }
    }

    #[test]
    fn a_sealed_manifest_with_any_number_in_it_is_read_or_refused(
        which in 0usize..10_000, number in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 0u64..1000],
    ) {
        let (_, bytes, manifest) = sample();
        let json = serde_json::to_string(manifest).unwrap();
        let digits: Vec<_> = json.match_indices(|c: char| c.is_ascii_digit()).map(|(i, _)| i).collect();
        let at = digits[which % digits.len()];
        let end = json[at..].find(|c: char| !c.is_ascii_digit()).map_or(json.len(), |n| at + n);
        let changed = format!("{}{number}{}", &json[..at], &json[end..]);
        let sealed = format!(
            "{{\"sha256\":\"{}\",\"manifest\":{changed}}}", hex::encode(Sha256::digest(&changed))
        );
        let Ok(changed) = Manifest::unseal(sealed.as_bytes()) else { return Ok(()) };
        let mut parts = parts_of(bytes, manifest);
        parts.manifest = changed;
        parts.place = false;
        let _ = examine(&parts.bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), text in ".{0,200}") {
        let _ = examine(&bytes);
        let _ = (Manifest::unseal(&bytes), Header::parse(&bytes), BackupManifest::parse(&bytes));
        let _ = serde_json::from_slice::<Journal>(&bytes);
        let _ = (Name::parse(&text), parse_lsn(&text), text.parse::<Part>());
        let _ = Address::parse(&Secret::new(&text), None);
        let _ = Address::parse(&Secret::new(format!("postgres://{text}")), None);
        config(&text);
    }

    #[test]
    fn words_of_the_formats_in_any_order_are_read_or_refused(
        words in proptest::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "=", "\n", "'", "[database]", "url", "tier", "\"sha256\"",
            "\"manifest\"", "\"format\"", "1", "-1", "1e999", "18446744073709551616", "null", "true",
            "\"phase\"", "\"done\"", "\"action\"", "\"undo\"", "\"Files\"", "\"WAL-Ranges\"", "../", "k1",
        ]), 0..60),
    ) {
        let text = words.concat();
        let bytes = text.as_bytes();
        let _ = (Manifest::unseal(bytes), Header::parse(bytes), BackupManifest::parse(bytes));
        let _ = serde_json::from_slice::<Journal>(bytes);
        config(&text);
    }
}

fn parts_of(bytes: &[u8], manifest: &Manifest) -> Parts {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.tar");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(manifest, Archive::open(&path).unwrap().manifest());
    Parts::of(&path)
}

fn config(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
    let overrides = k1ops::config::Overrides {
        file: None,
        stack: None,
        tier: None,
    };
    let _ = k1ops::config::load(
        &overrides,
        &std::collections::BTreeMap::new(),
        folder.path(),
    );
}
