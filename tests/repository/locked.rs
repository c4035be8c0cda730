//! Archives that nobody can delete for a time: S3 Object Lock, looked at and attacked by another client.

use crate::scratch::{Scratch, fill};
use crate::servers::{MAKES, Make, Server};

fn stack(server: &Server) -> Scratch {
    let scratch = Scratch::new();
    let place = server.place(scratch.path());
    let config = format!(
        "tier = 'jar'\n[repository]\n{place}locked_for = '30 days'\nlock_mode = 'compliance'\n"
    );
    std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
    fill(&scratch.db("conductor"), 100);
    scratch
}

#[test]
fn an_archive_is_locked_and_withstands_deletion() {
    let server = Server::that_locks(Make::Versity);
    let scratch = stack(&server);
    let said = scratch.run(&["backup", "--json"]).done().json();
    let archive = said["archive"].as_str().unwrap();
    let key = archive.strip_prefix("s3://k1-archives/").unwrap();
    let lock = server.lines(&format!(
        "import datetime\n\
         r = s3.get_object_retention(Bucket=bucket, Key='{key}')['Retention']\n\
         left = r['RetainUntilDate'] - datetime.datetime.now(datetime.timezone.utc)\n\
         print(r['Mode'], round(left.total_seconds() / 86400))"
    ));
    assert_eq!(lock, ["COMPLIANCE 30"]);
    let refused = server.lines(&format!(
        "v = s3.list_object_versions(Bucket=bucket, Prefix='{key}')['Versions'][0]['VersionId']\n\
         try:\n    s3.delete_object(Bucket=bucket, Key='{key}', VersionId=v)\n    print('deleted')\n\
         except Exception as e:\n    print(e.response['Error']['Code'])"
    ));
    assert!(refused[0].contains("Denied"), "{refused:?}");

    // What is locked is not given up either, however old.
    scratch.run(&["backup"]).done();
    scratch.run(&["verify"]).done();
    let plan = scratch
        .run(&["prune", "--keep-last", "1", "--yes", "--json"])
        .done()
        .json();
    let old = &plan["archives"][1];
    assert_eq!(old["keep"], true, "{plan}");
    let reason = old["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("it is locked until "), "{reason}");
    let listed = scratch.run(&["list", "--json"]).done().json();
    assert_eq!(listed["archives"].as_array().unwrap().len(), 2);
}

/// One says that its bucket is not made for it; the other takes the lock, and cannot say that it is there.
#[test]
fn a_store_that_does_not_lock_is_told_and_the_archive_is_there() {
    for make in MAKES {
        println!("on {make:?}");
        let server = Server::start(make);
        let scratch = stack(&server);
        let said = scratch.run(&["backup"]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(
            said.err.contains("is written and whole, and is not locked")
                && said.err.contains("made with Object Lock"),
            "{}",
            said.err
        );
        let listed = scratch.run(&["list", "--json"]).done().json();
        assert_eq!(listed["archives"][0]["state"], "good");
    }
}

#[test]
fn what_cannot_lock_refuses_to_promise_it() {
    let scratch = Scratch::new();
    fill(&scratch.db("conductor"), 100);
    for (place, says) in [
        ("", "a folder cannot lock"),
        (
            "url = 'https://example.org/dav'\n",
            "cannot lock what is in it",
        ),
        (
            "url = 'sftp://example.org/dav'\n",
            "cannot lock what is in it",
        ),
    ] {
        let config = format!("tier = 'jar'\n[repository]\n{place}locked_for = '30 days'\n");
        std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
        scratch.run(&["backup"]).failed(2, says);
    }
    let config = "tier = 'jar'\n[repository]\nurl = 's3://b/x'\nlocked_for = 'a while'\n";
    std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
    scratch.run(&["backup"]).failed(2, "no span of time");
}
