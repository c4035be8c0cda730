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
use k1ops::archive::{
    Archive, Codec, CodecSettings, Depth, Header, Manifest, RowDigest, Source, VolumeContent,
    VolumeSource, verify,
};
use k1ops::config::Secret;
use k1ops::error::ErrorKind;
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::repository::Name;
use k1ops::restore::Part;
use k1ops::restore::journal::Journal;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
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
        // A forged manifest may begin before 1970, which a tar header cannot say.
        let mtime = u64::try_from(self.manifest.header.started_at.timestamp()).unwrap_or_default();
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

/// A bomb or a size that is believed would end it.
fn in_little_memory(scratch: &Scratch, arguments: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new("timeout")
        .args(["600", "sh", "-c", "ulimit -v 1500000; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_k1ops"))
        .args(arguments)
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
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
        let named = what.contains("path for a name");
        let (code, said) = in_little_memory(&scratch, &["verify", &shown]);
        // What a name means only a restore asks.
        assert!(
            code == Some(4) || named && code == Some(0),
            "{what}: {code:?} {said}"
        );
        let (code, said) = in_little_memory(&scratch, &["restore", &shown, "--yes"]);
        assert_eq!(code, Some(4), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert_eq!(scratch.hashes(), before, "{what}");
        let files = std::fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(files, 1, "{what}");
        assert!(!Path::new("/tmp/k1ops-evil").exists(), "{what}");
    }
}

type Stream = Box<dyn Fn(&mut dyn std::io::Write) -> std::io::Result<()>>;

fn tar_header(kind: EntryType, name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(1);
    header.set_mtime(1);
    header.set_cksum();
    header
}

/// Streams of a volume that must not be believed.
fn streams() -> Vec<(&'static str, Stream)> {
    let one = |kind, name: &'static str, link: Option<&'static str>| -> Stream {
        Box::new(move |to| {
            let mut header = tar_header(kind, name, 0);
            if let Some(link) = link {
                header.set_link_name_literal(link)?;
                header.set_cksum();
            }
            to.write_all(header.as_bytes())?;
            to.write_all(&[0; 1024])
        })
    };
    let many = |kind: EntryType, size: u64| -> Stream {
        Box::new(move |to| {
            to.write_all(tar_header(kind, "a", size).as_bytes())?;
            let block = vec![b'x'; 1 << 20];
            for _ in 0..size >> 20 {
                to.write_all(&block)?;
            }
            to.write_all(&[0; 1024])
        })
    };
    vec![
        (
            "a path that leads up",
            one(EntryType::Regular, "../evil", None),
        ),
        (
            "an absolute path",
            one(EntryType::Regular, "/tmp/k1ops-evil", None),
        ),
        (
            "a link to elsewhere",
            one(EntryType::Link, "a", Some("../../evil")),
        ),
        ("a device", one(EntryType::Block, "a", None)),
        ("a name of gigabytes", many(EntryType::GNULongName, 3 << 30)),
        (
            "an extended header of gigabytes",
            many(EntryType::XHeader, 3 << 30),
        ),
        (
            "a file that the manifest does not know",
            many(EntryType::Regular, 64 << 20),
        ),
        (
            "a sparse file that never ends",
            Box::new(|to| {
                let mut header = tar_header(EntryType::GNUSparse, "a", 0);
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(1 << 62);
                let end = &mut gnu.sparse[0].offset;
                end.copy_from_slice(b"\x80\0\0\0\x40\0\0\0\0\0\0\0");
                gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
                header.set_cksum();
                to.write_all(header.as_bytes())?;
                to.write_all(&[0; 1024])
            }),
        ),
        (
            "something behind the end",
            Box::new(|to| {
                to.write_all(&[0; 1024])?;
                to.write_all(tar_header(EntryType::Regular, "hidden", 0).as_bytes())
            }),
        ),
    ]
}

/// Cuts a stream into parts of an archive with one volume.
struct PartsOf<'a> {
    runtime: &'a tokio::runtime::Runtime,
    writer: &'a k1ops::archive::Writer,
    raw: Vec<u8>,
    parts: u32,
    size: u64,
}

impl PartsOf<'_> {
    fn send(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        let path = k1ops::archive::part_path("volumes/v", self.parts);
        self.parts += 1;
        self.size += raw.len() as u64;
        let member = k1ops::archive::NewMember {
            path,
            raw,
            rows: None,
            effort: k1ops::archive::Effort::Usual,
        };
        self.runtime.block_on(self.writer.add(member)).unwrap();
    }
}

impl std::io::Write for PartsOf<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= 8 << 20 {
            self.send();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_volume_that_was_made_on_purpose_is_refused_in_little_memory() {
    let scratch = Scratch::new();
    scratch::fill(&scratch.db("k1"), 3);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let mut manifest = sample().2.clone();
    manifest.members.clear();
    for (what, stream) in streams() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("made.tar");
        let codec = CodecSettings {
            codec: Codec::Zstd,
            level: 1,
        };
        let header = manifest.header.clone();
        let writer = k1ops::archive::Writer::create(&place, header, codec, 2).unwrap();
        let mut parts = PartsOf {
            runtime: &runtime,
            writer: &writer,
            raw: vec![],
            parts: 0,
            size: 0,
        };
        stream(&mut parts).unwrap();
        parts.send();
        let (count, size) = (parts.parts, parts.size);
        let mut made = manifest.clone();
        made.sources = vec![Source::Volume(VolumeSource {
            volume: "v".into(),
            service: "redis".into(),
            content: VolumeContent::Files,
            folder: "volumes/v".into(),
            parts: count,
            size,
            bytes: 1 << 20,
            entries: RowDigest::default(),
        })];
        runtime.block_on(writer.finish(made)).unwrap();
        let (code, said) = in_little_memory(&scratch, &["verify", place.to_str().unwrap()]);
        assert_eq!(code, Some(4), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
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
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

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
        let _ = examine(&with_manifest(bytes, manifest, changed));
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

/// The same archive under another manifest.
fn with_manifest(bytes: &[u8], manifest: &Manifest, changed: Manifest) -> Vec<u8> {
    let mut parts = parts_of(bytes, manifest);
    parts.manifest = changed;
    parts.place = false;
    parts.bytes()
}

#[test]
fn a_backup_of_any_year_is_listed_and_read() {
    let (_, bytes, manifest) = sample();
    for started_at in [
        chrono::DateTime::<chrono::Utc>::MIN_UTC,
        "0000-01-01T00:00:00Z".parse().unwrap(),
        "1969-12-31T23:59:59Z".parse().unwrap(),
        chrono::DateTime::<chrono::Utc>::MAX_UTC,
    ] {
        let mut changed = manifest.clone();
        changed.header.started_at = started_at;
        let scratch = Scratch::new();
        std::fs::create_dir_all(scratch.backups()).unwrap();
        let place = scratch.backups().join(sample().0.file_name().unwrap());
        std::fs::write(&place, with_manifest(bytes, manifest, changed)).unwrap();
        let place = place.to_str().unwrap();
        for args in [&["list"][..], &["verify", place], &["prune", "--dry-run"]] {
            let (code, said) = in_little_memory(&scratch, args);
            assert_ne!(code, Some(101), "{started_at}: {args:?}: {said}");
            assert!(!said.contains("panicked"), "{started_at}: {args:?}: {said}");
        }
    }
}

fn config(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k1ops.toml"), text).unwrap();
    let overrides = k1ops::config::Overrides {
        file: None,
        stack: None,
        tier: None,
        identity: None,
    };
    let _ = k1ops::config::load(
        &overrides,
        &std::collections::BTreeMap::new(),
        folder.path(),
    );
}
