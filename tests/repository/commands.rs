//! The commands, on archives that are elsewhere.

use crate::scratch::{Scratch, dump, fill};
use crate::servers::{Counter, MAKES, Make, Server};
use k1ops::event::Events;
use k1ops::store::{NewWorkflow, Place, Store};
use std::time::Instant;

/// Both databases as text.
fn dumps(scratch: &Scratch) -> [String; 2] {
    ["conductor", "k1"].map(|name| dump(&scratch.db(name)))
}

/// A stack with some K1 rows, and forty megabytes of Conductor's that do not compress.
pub fn filled(scratch: &Scratch) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let place = Place::Sqlite(scratch.db("k1"));
        let store = Store::open(&place, &Events::silent()).await.unwrap();
        for number in 0..20 {
            let workflow = NewWorkflow::new(format!("exec-{number}"));
            store.record_workflow(workflow).await.unwrap();
        }
    });
    let db = k1ops::adapters::sqlite::open_or_create(&scratch.db("conductor")).unwrap();
    db.execute_batch("CREATE TABLE workflow(id INTEGER PRIMARY KEY, body BLOB)")
        .unwrap();
    let mut dice = fastrand::Rng::with_seed(7);
    let mut body = vec![0; 1 << 20];
    for _ in 0..40 {
        dice.fill(&mut body);
        db.execute("INSERT INTO workflow(body) VALUES (?1)", [&body])
            .unwrap();
    }
}

#[test]
fn a_stack_goes_elsewhere_and_comes_back() {
    for make in MAKES {
        println!("on {make:?}");
        let server = Server::start(make);
        let scratch = server.stack();
        filled(&scratch);
        let before = dumps(&scratch);
        let said = scratch.run(&["backup", "--json"]).done().json();
        let archive = said["archive"].as_str().unwrap();
        assert!(
            archive.starts_with("s3://k1-archives/of/k1/k1-k1-"),
            "{archive}"
        );
        assert!(said["size"].as_u64().unwrap() > 40 << 20);
        assert!(!scratch.backups().exists(), "there is no copy here");
        assert_eq!(server.uploads(), [""; 0]);

        let listed = scratch.run(&["list", "--json"]).done().json();
        assert_eq!(listed["archives"][0]["state"], "good");
        assert_eq!(listed["archives"][0]["path"], archive);
        scratch.run(&["verify", "--quick"]).done();
        scratch.run(&["verify", archive]).done();
        let live = scratch.run(&["query", "workflows", "--json"]).done().json();
        let from = ["query", "workflows", "--json", "--from", "latest"];
        let archived = scratch.run(&from).done().json();
        assert_eq!(archived["workflows"], live["workflows"]);
        assert!(scratch.run(&["status", "--json"]).out.contains(archive));

        std::fs::remove_dir_all(scratch.data()).unwrap();
        let said = scratch
            .run(&["restore", "latest", "--yes", "--json"])
            .done();
        assert_eq!(said.json()["parts"][0]["what"], "sqlite conductor");
        assert_eq!(dumps(&scratch), before);

        // What is replaced goes there first, too.
        scratch.run(&["restore", "latest", "--yes"]).done();
        let safe = |name: &String| name.contains("-safety");
        assert_eq!(server.objects().iter().filter(|name| safe(name)).count(), 1);
        scratch.run(&["backup"]).done();
        scratch.run(&["verify"]).done();
        let pruned = ["prune", "--keep-last", "1", "--keep-safety", "0", "--yes"];
        scratch.run(&pruned).done();
        assert_eq!(server.objects().iter().filter(|name| safe(name)).count(), 0);
    }
}

fn seal(scratch: &Scratch) {
    let identity = age::x25519::Identity::generate();
    let key = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    std::fs::write(scratch.path().join("key.txt"), key).unwrap();
    let config = scratch.path().join("k1ops.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let public = identity.to_public();
    let more = format!("[encryption]\nrecipients = ['{public}']\nidentity = 'key.txt'\n");
    std::fs::write(&config, text + &more).unwrap();
}

#[test]
fn looking_does_not_download_the_archive() {
    for make in MAKES {
        let server = Server::start(make);
        let counter = Counter::before(server.port());
        let scratch = Server::stack_by(counter.port);
        filled(&scratch);
        // One of the two is encrypted, which must make no difference.
        if make == Make::Versity {
            seal(&scratch);
        }
        let said = scratch.run(&["backup", "--json"]).done().json();
        let size = said["size"].as_u64().unwrap();
        counter.taken();
        for look in [
            &["list"][..],
            &["verify", "--quick"],
            &["query", "workflows", "--from", "latest"],
            &["query", "summary", "--from", "latest"],
            // The other of the two databases, and one table of it.
            &["restore", "latest", "--only", "k1", "--as", "k1.db"],
            &[
                "restore",
                "latest",
                "--only",
                "k1:k1_quality_gates",
                "--as",
                "table.db",
            ],
        ] {
            scratch.run(look).done();
            let taken = counter.taken();
            println!("{make:?}: {look:?}: {taken} of {size} bytes");
            assert!(taken < size / 20, "{look:?} took {taken} of {size}");
        }
        scratch.run(&["verify"]).done();
        let taken = counter.taken();
        assert!(taken > size && taken < size + size / 2, "{taken} of {size}");
    }
}

#[test]
fn a_refusal_says_what_to_do_and_no_secret() {
    let server = Server::start(Make::Versity);
    let scratch = server.stack();
    scratch.run(&["list"]).done();
    let keys = scratch.path().join("store.env");
    std::fs::write(
        &keys,
        "AWS_ACCESS_KEY_ID=k1-test-key\nAWS_SECRET_ACCESS_KEY=hunter3\n",
    )
    .unwrap();
    let said = scratch.run(&["list"]).failed(3, "Give the credentials");
    assert!(!said.err.contains("hunter"), "{}", said.err);
    assert!(said.err.contains("SignatureDoesNotMatch"), "{}", said.err);
    std::fs::write(&keys, "").unwrap();
    let none = scratch.with(&[("AWS_ACCESS_KEY_ID", "")], &["list"]);
    assert_ne!(none.code, Some(0));
    for shown in [&["doctor"][..], &["doctor", "--config"]] {
        let said = scratch.run(shown);
        assert!(!said.out.contains("hunter"), "{}", said.out);
    }
    drop(server);
    let config = std::fs::read_to_string(scratch.path().join("k1ops.toml")).unwrap();
    let config = config.replace("s3://", "s3://key:hunter2@");
    std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
    let said = scratch.run(&["list"]).failed(2, "more in it than a place");
    assert!(!said.err.contains("hunter2"), "{}", said.err);
}

#[test]
fn a_limit_holds_up_what_is_written() {
    let scratch = Scratch::new();
    fill(&scratch.db("k1"), 30);
    let db = k1ops::adapters::sqlite::open_or_create(&scratch.db("k1")).unwrap();
    let mut body = vec![0; 400_000];
    fastrand::Rng::with_seed(7).fill(&mut body);
    db.execute("INSERT INTO workflow(body) VALUES (?1)", [&body])
        .unwrap();
    let limited = "tier = 'jar'\n[repository]\nbandwidth = '400 kB/s'\n";
    std::fs::write(scratch.path().join("k1ops.toml"), limited).unwrap();
    let begun = Instant::now();
    let archive = scratch.backup();
    let took = begun.elapsed().as_millis();
    let size = u128::from(std::fs::metadata(&archive).unwrap().len());
    assert!(size > 400_000);
    // Sleeping is never too short, so that this holds however fast or slow the host is: all but the
    // quarter of a second's worth that may be saved up has been waited for.
    let least = (size - 100_000) * 1000 / 400_000;
    assert!(took >= least, "{size} bytes in {took} ms");
    scratch.run(&["verify", "latest"]).done();
}
