//! What every repository promises, whatever it stands on.

use crate::azure::Azure;
use crate::dav::Dav;
use crate::scratch::Scratch;
use crate::servers::{MAKES, Make, Server};
use crate::sftp::Sftp;
use chrono::{DateTime, TimeDelta, Utc};
use k1ops::archive::{
    CodecSettings, Depth, Effort, FORMAT, Header, Manifest, NewMember, Writer, verify,
};
use k1ops::config::{self, Compression, Keep, Overrides, ProofKind};
use k1ops::error::{ErrorKind, Result};
use k1ops::event::Events;
use k1ops::interrupt::Interrupt;
use k1ops::repository::{LATEST, PruneOptions, Purpose, Repository, State};
use k1ops::stack::Stack;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a repository stands on.
#[derive(Debug, Clone, Copy)]
enum Place {
    Folder,
    S3(Make),
    Azure,
    WebDav,
    Sftp,
}

/// A repository and what it needs to be there.
struct Bed {
    repository: Repository,
    stack: Stack,
    on: Place,
    _scratch: Scratch,
    _server: Option<Box<dyn Any>>,
}

impl Bed {
    fn on(place: Place) -> Self {
        let (scratch, server): (Scratch, Option<Box<dyn Any>>) = match place {
            Place::Folder => (Scratch::new(), None),
            Place::S3(make) => {
                let server = Server::start(make);
                (server.stack(), Some(Box::new(server)))
            }
            Place::Azure => {
                let server = Azure::start();
                (server.stack(), Some(Box::new(server)))
            }
            Place::WebDav => {
                let server = Dav::start();
                (server.stack(), Some(Box::new(server)))
            }
            Place::Sftp => {
                let server = Sftp::start();
                (server.stack(), Some(Box::new(server)))
            }
        };
        let overrides = Overrides::default();
        let loaded = config::load(&overrides, &BTreeMap::new(), scratch.path()).unwrap();
        let stack = Stack::open(&loaded).unwrap();
        Self {
            repository: Repository::of(&stack).unwrap(),
            stack,
            on: place,
            _scratch: scratch,
            _server: server,
        }
    }

    fn place(&self, days_ago: i64) -> PathBuf {
        let repository = &self.repository;
        repository
            .new_place("k1", day(days_ago), Purpose::Backup)
            .unwrap()
    }

    /// An archive with three megabytes that do not compress, and more if asked for.
    async fn write(&self, days_ago: i64, parts: u32) -> Result<PathBuf> {
        let place = self.place(days_ago);
        let writer = self.begin(&place, day(days_ago))?;
        fill(&writer, parts).await;
        writer.finish(manifest(writer.header())).await?;
        Ok(place)
    }

    fn begin(&self, place: &Path, started_at: DateTime<Utc>) -> Result<Writer> {
        let header = Header {
            format: FORMAT,
            tool: "k1ops test".into(),
            stack: "k1".into(),
            started_at,
        };
        let sink = self.repository.begin(place)?;
        let settings = CodecSettings::of(Compression::Zstd, 0);
        Writer::begin(sink, place, header, settings, 2)
    }

    fn states(&self) -> Vec<State> {
        let entries = self.repository.list().unwrap();
        entries.into_iter().map(|entry| entry.state).collect()
    }
}

fn day(days_ago: i64) -> DateTime<Utc> {
    let now = Utc::now() - TimeDelta::days(days_ago);
    DateTime::from_timestamp(now.timestamp(), 0).unwrap()
}

fn manifest(header: &Header) -> Manifest {
    Manifest {
        header: header.clone(),
        finished_at: Utc::now(),
        tier: None,
        conductor_version: "3.32.1".into(),
        images: BTreeMap::new(),
        sources: Vec::new(),
        left_out: Vec::new(),
        members: Vec::new(),
    }
}

async fn fill(writer: &Writer, parts: u32) {
    for number in 0..parts {
        let mut dice = fastrand::Rng::with_seed(u64::from(number));
        let mut raw = vec![0; 3 << 20];
        dice.fill(&mut raw);
        let member = NewMember {
            path: format!("volumes/x/{number:06}.tar"),
            raw,
            rows: None,
            effort: Effort::Usual,
        };
        writer.add(member).await.unwrap();
    }
    writer.settle().await.unwrap();
}

fn everywhere(promise: impl AsyncFn(Bed)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers =
        MAKES
            .into_iter()
            .map(Place::S3)
            .chain([Place::Azure, Place::WebDav, Place::Sftp]);
    for place in std::iter::once(Place::Folder).chain(servers) {
        println!("on {place:?}");
        runtime.block_on(promise(Bed::on(place)));
    }
}

#[test]
fn an_archive_is_seen_when_it_is_whole_and_not_before() {
    everywhere(async |bed| {
        let repository = &bed.repository;
        assert!(repository.list().unwrap().is_empty());
        let error = repository.find(LATEST, "k1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);

        let access = repository.write_access("a test").await.unwrap();
        let place = bed.place(1);
        let writer = bed.begin(&place, day(1)).unwrap();
        fill(&writer, 10).await;
        let being_written = State::Incomplete {
            being_written: true,
        };
        assert!(bed.states().iter().all(|state| *state == being_written));
        assert!(repository.open(&place).is_err());
        writer.finish(manifest(writer.header())).await.unwrap();
        drop(writer);
        access.check().unwrap();
        assert_eq!(bed.states(), [State::Good]);
        assert_eq!(repository.find(LATEST, "k1").unwrap(), place);
        let name = place.file_stem().unwrap().to_str().unwrap();
        assert_eq!(repository.find(name, "k1").unwrap(), place);
        assert_eq!(
            repository.find(place.to_str().unwrap(), "k1").unwrap(),
            place
        );

        let archive = repository.open(&place).unwrap();
        assert!(archive.size() > 30 << 20);
        let (events, interrupt) = (Events::silent(), Interrupt::default());
        for depth in [Depth::Quick, Depth::Full] {
            verify(&archive, depth, 2, &events, &interrupt)
                .await
                .unwrap();
        }
        // The name is taken, whoever asks.
        let error = bed.begin(&place, day(1)).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::BadData, "{error}");
        assert_eq!(repository.open(&place).unwrap().size(), archive.size());
    });
}

#[test]
fn what_is_given_up_leaves_nothing_and_what_died_is_removed() {
    everywhere(async |bed| {
        let repository = &bed.repository;
        let place = bed.place(1);
        let writer = bed.begin(&place, day(1)).unwrap();
        fill(&writer, 5).await;
        drop(writer);
        assert!(bed.states().is_empty());

        // A process that is killed tidies nothing up.
        let mut sink = repository.begin(&place).unwrap();
        std::io::Write::write_all(&mut sink, &vec![7; 20 << 20]).unwrap();
        std::mem::forget(sink);
        let died = State::Incomplete {
            being_written: false,
        };
        // Azure does not name what was not committed, and drops it after a week.
        let left = match bed.on {
            Place::Azure => Vec::new(),
            _ => vec![died],
        };
        assert_eq!(bed.states(), left);
        let good = bed.write(2, 1).await.unwrap();
        assert_eq!(repository.find(LATEST, "k1").unwrap(), good);
        let access = repository.write_access("a test").await.unwrap();
        let removed = repository.remove_leftovers(&access).unwrap();
        assert_eq!(removed.len(), left.len(), "{removed:?}");
        assert_eq!(bed.states(), [State::Good]);
    });
}

#[test]
fn there_is_one_writer_and_it_is_named() {
    everywhere(async |bed| {
        let first = bed.repository.write_access("the first").await.unwrap();
        let error = bed.repository.write_access("the second").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains("the first"), "{error}");
        drop(first);
        bed.repository.write_access("the third").await.unwrap();
    });
}

#[test]
fn proofs_are_kept_beside_archives_and_pruning_heeds_them() {
    everywhere(async |bed| {
        let repository = &bed.repository;
        for days_ago in [3, 2, 1] {
            bed.write(days_ago, 1).await.unwrap();
        }
        let options = PruneOptions {
            keep: Keep {
                last: 1,
                daily: 0,
                weekly: 0,
                monthly: 0,
                yearly: 0,
                ..Keep::default()
            },
            ..PruneOptions::of(&bed.stack)
        };
        let access = repository.write_access("a test").await.unwrap();
        let goes = || {
            let plan = repository.plan_prune(&options, Some(&access)).unwrap();
            plan.goes().count()
        };
        assert_eq!(goes(), 0, "nothing newer is proven");
        let newest = repository.find(LATEST, "k1").unwrap();
        let archive = repository.open(&newest).unwrap();
        repository.note_proof(&archive, ProofKind::Verify).unwrap();
        assert_eq!(goes(), 2);
        let plan = repository.plan_prune(&options, Some(&access)).unwrap();
        let (events, interrupt) = (Events::silent(), Interrupt::default());
        repository
            .execute_prune(&plan, &options, &access, &events, &interrupt)
            .unwrap();
        let left = repository.list().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, newest);
        assert!(repository.proof(&left[0]).unwrap().verified_at.is_some());
    });
}
