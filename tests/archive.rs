//! The archive format, against its own reader, the system's tar, and every kind of damage.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use k1ops::archive::{
    Archive, CodecSettings, Depth, Effort, FORMAT, Header, LargeObjects, Manifest, NewMember,
    RowDigest, Writer,
};
use k1ops::archive::{PostgresSource, PostgresTable, Source, verify};
use k1ops::config::Compression;
use k1ops::error::{ErrorKind, Result};
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Command;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

fn header() -> Header {
    Header {
        format: FORMAT,
        tool: "k1ops test".into(),
        stack: "k1".into(),
        started_at: chrono::DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
    }
}

fn manifest(sources: Vec<Source>) -> Manifest {
    Manifest {
        header: header(),
        finished_at: chrono::Utc::now(),
        tier: None,
        conductor_version: "3.32.1".into(),
        images: std::collections::BTreeMap::new(),
        sources,
        left_out: vec![],
        members: vec![],
    }
}

fn table(parts: u32, digest: RowDigest) -> Source {
    Source::Postgres(Box::new(PostgresSource {
        database: "d".into(),
        server_version: "15.0".into(),
        server_major: 15,
        lsn: "0/0".into(),
        owner: "o".into(),
        encoding: "UTF8".into(),
        collate: "C".into(),
        ctype: "C".into(),
        locale: None,
        database_sql: vec![],
        roles: vec![],
        tables: vec![PostgresTable {
            schema: "public".into(),
            name: "t".into(),
            folder: "postgres/data/00001-public.t".into(),
            columns: vec![],
            condition: None,
            parts,
            digest,
        }],
        sequences: 0,
        large_objects: LargeObjects::default(),
        standby: None,
    }))
}

/// An archive of `parts` parts of a table's rows.
async fn write(place: &Path, compression: Compression, parts: u32) -> Manifest {
    let writer = Writer::create(place, header(), CodecSettings::of(compression, 0), 2).unwrap();
    let mut total = RowDigest::default();
    for part in 0..parts {
        let raw: Vec<u8> = (0..300)
            .flat_map(|i| format!("{part}\t{i}\tvalue\n").into_bytes())
            .collect();
        let mut rows = RowDigest::default();
        rows.add_lines(&raw);
        total = total.merge(rows);
        let path = format!("postgres/data/00001-public.t/{part:06}.copy");
        writer
            .add(NewMember {
                path,
                raw,
                rows: Some(rows),
                effort: Effort::Usual,
            })
            .await
            .unwrap();
    }
    writer
        .finish(manifest(vec![table(parts, total)]))
        .await
        .unwrap()
}

fn check(path: &Path, depth: Depth) -> Result<()> {
    runtime().block_on(async {
        let archive = Archive::open(path)?;
        verify(&archive, depth, 2, &Events::silent(), &Interrupt::default())
            .await
            .map(|_| ())
    })
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k1-k1-20261123T190000Z.tar");
    (folder, path)
}

#[test]
fn parts_are_handed_out_by_number_however_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    runtime().block_on(async {
        let settings = CodecSettings::of(Compression::Zstd, 0);
        let writer = Writer::create(&path, header(), settings, 2).unwrap();
        for number in [2, 0, 1] {
            let member = NewMember {
                path: format!("sqlite/x/{number:06}.pages"),
                raw: vec![b'0' + number; 3],
                rows: None,
                effort: Effort::Usual,
            };
            writer.add(member).await.unwrap();
            writer.settle().await.unwrap();
        }
        writer.finish(manifest(Vec::new())).await.unwrap();
    });
    let archive = Archive::open(&path).unwrap();
    let mut all = Vec::new();
    let mut take = |piece: &[u8]| {
        all.extend_from_slice(piece);
        Ok(())
    };
    archive
        .each_piece("sqlite/x", &Interrupt::default(), &mut take)
        .unwrap();
    assert_eq!(all, b"000111222");
}

#[test]
fn an_archive_is_an_ordinary_tar_with_its_manifest_last_and_private() {
    use std::os::unix::fs::PermissionsExt;
    for compression in [Compression::Zstd, Compression::Gzip] {
        let (folder, path) = scratch();
        let written = runtime().block_on(write(&path, compression, 5));
        check(&path, Depth::Full).unwrap();
        assert_eq!(*Archive::open(&path).unwrap().manifest(), written);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no .partial is left"
        );
        let listed = Command::new("tar").arg("tf").arg(&path).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let names: Vec<&str> = listed.lines().collect();
        assert_eq!(
            (names[0], names[names.len() - 1]),
            ("format.json", "manifest.json")
        );
        assert_eq!(names.len(), 7);
    }
}

#[test]
fn an_unfinished_archive_leaves_nothing_behind() {
    let (folder, path) = scratch();
    runtime().block_on(async {
        let settings = CodecSettings::of(Compression::Zstd, 0);
        let writer = Writer::create(&path, header(), settings, 1).unwrap();
        let part = NewMember {
            path: "a".into(),
            raw: vec![1; 1000],
            rows: None,
            effort: Effort::Usual,
        };
        writer.add(part).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(writer);
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_truncation_is_refused() {
    let (folder, path) = scratch();
    runtime().block_on(write(&path, Compression::Zstd, 3));
    let whole = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut.tar");
    for length in (0..whole.len())
        .step_by(97)
        .chain([whole.len() - 1, whole.len() - 512])
    {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let error = check(&cut, Depth::Quick).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData, "{length}: {error}");
        assert!(error.to_string().contains("cut.tar"), "{error}");
        assert!(error.hint_text().is_some());
    }
}

#[test]
fn foreign_and_newer_files_are_named_as_such() {
    let (folder, path) = scratch();
    let said = |bytes: &[u8]| {
        let file = folder.path().join("x.tar");
        std::fs::write(&file, bytes).unwrap();
        let error = Archive::open(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
        error.to_string()
    };
    assert!(said(b"").contains("empty"));
    assert!(said(b"-- PostgreSQL dump").contains("too short"));
    assert!(said(&[7; 4096]).contains("not written by k1ops"));
    runtime().block_on(write(&path, Compression::Zstd, 1));
    let mut newer = std::fs::read(&path).unwrap();
    let at = newer
        .windows(10)
        .position(|w| w == b"\"format\":1")
        .unwrap();
    newer[at + 9] = b'9';
    assert!(said(&newer).contains("has format 9"), "{}", said(&newer));
}

#[test]
fn a_part_that_is_missing_or_a_wrong_count_is_refused() {
    let (_folder, path) = scratch();
    runtime().block_on(async {
        let settings = CodecSettings::of(Compression::Zstd, 0);
        let writer = Writer::create(&path, header(), settings, 1).unwrap();
        let mut rows = RowDigest::default();
        rows.add_lines(b"a\n");
        let path = "postgres/data/00001-public.t/000000.copy".to_owned();
        writer
            .add(NewMember {
                path,
                raw: b"a\n".to_vec(),
                rows: Some(rows),
                effort: Effort::Usual,
            })
            .await
            .unwrap();
        writer.finish(manifest(vec![table(2, rows)])).await.unwrap();
    });
    let error = check(&path, Depth::Quick).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("parts of table public.t are missing"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_flipped_bit_is_found(at in 0usize..10_000_000) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let (_folder, path) = scratch();
            runtime().block_on(write(&path, Compression::Zstd, 3));
            std::fs::read(&path).unwrap()
        });
        let (_folder, path) = scratch();
        let mut flipped = whole.clone();
        let bit = at % (flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        let error = check(&path, Depth::Full).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::BadData);
    }
}

/// Blocks that look like headers, with checksums that are right.
fn tar_blocks() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(b"0125LKxgSD\0".to_vec());
    let block = (
        kinds,
        "[a-z./]{0,20}",
        prop_oneof![0u64..2000, any::<u64>()],
        any::<bool>(),
    );
    prop::collection::vec(block, 0..8).prop_map(|blocks| {
        let mut bytes = Vec::new();
        for (kind, name, size, gnu) in blocks {
            let mut header = if gnu {
                tar::Header::new_gnu()
            } else {
                tar::Header::new_ustar()
            };
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(size);
            header.as_old_mut().linkflag = [kind];
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            let content = usize::try_from(size.min(2048)).unwrap();
            bytes.extend(std::iter::repeat_n(b'7', content.div_ceil(512) * 512));
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_tar_stream_is_read_or_refused_and_leads_nowhere(bytes in tar_blocks()) {
        if let Ok(tree) = k1ops::archive::tree::read_within(&mut &*bytes, 1 << 16) {
            prop_assert!(tree.bytes <= 1 << 16);
        }
        let _ = k1ops::archive::walk(&mut &*bytes, |entry, _| {
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            assert!(entry.path.components().all(plain), "{}", entry.path.display());
            Ok(())
        });
    }
}
