//! Faults of the host and the configuration.

use super::bed::{Bed, Fault, Listener, Mounted, mode, prove};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[test]
fn faults_of_the_host_are_named() {
    prove(FAULTS, Bed::healthy);
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "a process on the port",
        plant: |bed| {
            let port = bed.port;
            bed.keep(Listener::on("127.0.0.1", port, &[]));
        },
        check: "ports",
        severity: "problem",
        says: "is taken by perl (PID",
        remedy: "k1ops doctor --fix",
        code: 3,
    },
    Fault {
        name: "a process on the port, on IPv6 and all addresses",
        plant: |bed| {
            let port = bed.port;
            bed.keep(Listener::on("::", port, &[]));
        },
        check: "ports",
        severity: "problem",
        says: "is taken by perl (PID",
        remedy: "kill ",
        code: 3,
    },
    Fault {
        name: "a port that only a variable sets is taken",
        plant: |bed| {
            let port = super::bed::free_port();
            bed.keep(Listener::on("127.0.0.1", port, &[]));
            bed.set("K1OPS_PORTS_CONDUCTOR", &port.to_string());
        },
        check: "ports",
        severity: "problem",
        says: "is taken by perl (PID",
        remedy: "export K1OPS_PORTS_CONDUCTOR=",
        code: 3,
    },
    Fault {
        name: "a server in another network namespace",
        plant: |bed| {
            let port = bed.port;
            bed.keep(Listener::on("0.0.0.0", port, &["unshare", "-n"]));
        },
        check: "ports",
        severity: "note",
        says: "in another network namespace",
        remedy: "nsenter -t ",
        code: 0,
    },
    Fault {
        name: "an unknown key",
        plant: |bed| bed.whole_config("tier = 'jar'\n[ports]\nconducter = 1\n"),
        check: "configuration",
        severity: "problem",
        says: "unknown key `ports.conducter`",
        remedy: "The nearest known key is `ports.conductor`",
        code: 2,
    },
    Fault {
        name: "a file that is no TOML",
        plant: |bed| bed.whole_config("tier = 'jar\n"),
        check: "configuration",
        severity: "problem",
        says: "is not valid TOML",
        remedy: "Correct line 1",
        code: 2,
    },
    Fault {
        name: "an unknown variable",
        plant: |bed| bed.set("K1OPS_STAK", "x"),
        check: "configuration",
        severity: "problem",
        says: "environment variable K1OPS_STAK is not a known setting",
        remedy: "K1OPS_STACK",
        code: 2,
    },
    Fault {
        name: "a Java that is too old",
        plant: |bed| {
            let java = old_java(bed);
            bed.set("K1OPS_SERVER_JAVA", &java.display().to_string());
        },
        check: "java",
        severity: "problem",
        says: "but Java 21 or later is needed",
        remedy: "install openjdk-21-jre-headless",
        code: 3,
    },
    Fault {
        name: "a Java that is not there",
        plant: |bed| bed.set("K1OPS_SERVER_JAVA", "/nowhere/java"),
        check: "java",
        severity: "problem",
        says: "server.java names /nowhere/java, where no Java is",
        remedy: "JAVA_HOME",
        code: 3,
    },
    Fault {
        name: "a JAR with a flipped byte",
        plant: flip_a_byte,
        check: "jar",
        severity: "problem",
        says: "is not the JAR of Conductor 3.32.1: its SHA-256 is",
        remedy: "sha256sum ",
        code: 4,
    },
    Fault {
        name: "a JAR that is not there",
        plant: |bed| bed.set("K1OPS_SERVER_JAR", "/nowhere.jar"),
        check: "jar",
        severity: "problem",
        says: "server.jar names /nowhere.jar, which is not there",
        remedy: "unset K1OPS_SERVER_JAR",
        code: 3,
    },
    Fault {
        name: "a damaged JAR in the cache",
        plant: |bed| {
            let jars = bed.path().join("cache/jars");
            std::fs::create_dir_all(&jars).unwrap();
            std::fs::write(jars.join("conductor-server-3.32.1-boot.jar"), "PK").unwrap();
            without_a_jar(bed);
        },
        check: "jar",
        severity: "problem",
        says: "is not the JAR of Conductor 3.32.1",
        remedy: "rm ",
        code: 4,
    },
    Fault {
        name: "a mirror whose name is not known",
        plant: |bed| {
            without_a_jar(bed);
            bed.set(
                "K1OPS_SERVER_MIRRORS",
                "https://no-such-host.invalid/maven2",
            );
        },
        check: "network",
        severity: "problem",
        says: "the name no-such-host.invalid is not known here",
        remedy: "getent hosts no-such-host.invalid",
        code: 3,
    },
    Fault {
        name: "a proxy that is down",
        plant: |bed| {
            without_a_jar(bed);
            bed.set("https_proxy", "http://127.0.0.1:3128");
        },
        check: "network",
        severity: "problem",
        says: "of https_proxy cannot be reached",
        remedy: "unset https_proxy",
        code: 3,
    },
    Fault {
        name: "a heap that the host has no memory for",
        plant: |bed| bed.set("K1OPS_SERVER_HEAP", "9999g"),
        check: "memory",
        severity: "problem",
        says: "of memory, and the host has",
        remedy: "export K1OPS_SERVER_HEAP=",
        code: 3,
    },
    Fault {
        name: "a heap that is no size",
        plant: |bed| bed.set("K1OPS_SERVER_HEAP", "lots"),
        check: "memory",
        severity: "problem",
        says: "which is no size that the JVM takes",
        remedy: "export K1OPS_SERVER_HEAP=1g",
        code: 2,
    },
    Fault {
        name: "a disk that is almost full",
        plant: |bed| {
            let mounted = small_disk(bed, "size=64m");
            std::fs::write(mounted.join("filler"), vec![1; 60 << 20]).unwrap();
        },
        check: "disk",
        severity: "problem",
        says: "is almost full",
        remedy: "du -xh",
        code: 3,
    },
    Fault {
        name: "a disk without inodes",
        plant: |bed| {
            let mounted = small_disk(bed, "size=999m,nr_inodes=20");
            for number in 0..19 {
                let _ = std::fs::write(mounted.join(number.to_string()), "");
            }
        },
        check: "disk",
        severity: "problem",
        says: "of 20 inodes left",
        remedy: "du -x --inodes",
        code: 3,
    },
    Fault {
        name: "room for few more backups",
        plant: |bed| {
            let mounted = small_disk(bed, "size=400m");
            let made = super::bed::archive(bed, chrono::Utc::now(), 90 << 20);
            let to = mounted.join(made.file_name().unwrap());
            std::fs::copy(&made, to).unwrap();
        },
        check: "disk",
        severity: "warning",
        says: "the repository has room for 3 more backups",
        remedy: "k1ops list",
        code: 0,
    },
    Fault {
        name: "a damaged database",
        plant: |bed| {
            let file = bed.own("data/conductor.db");
            let mut bytes = std::fs::read(&file).unwrap();
            let end = bytes.len().min(9000);
            bytes[4000..end].fill(b'x');
            std::fs::write(file, bytes).unwrap();
        },
        check: "sqlite",
        severity: "problem",
        says: "conductor.db is damaged",
        remedy: "k1ops restore latest",
        code: 4,
    },
    Fault {
        name: "K1 tables of a newer k1ops",
        plant: |bed| {
            let file = bed.own("data/k1.db");
            let connection = k1ops::adapters::sqlite::open_existing(&file).unwrap();
            connection
                .execute_batch(
                    "INSERT INTO k1_schema_migrations(version, name, checksum, applied_at)
                     SELECT 99, 'later', checksum, applied_at FROM k1_schema_migrations LIMIT 1",
                )
                .unwrap();
        },
        check: "schema",
        severity: "problem",
        says: "has schema version 99, which is newer",
        remedy: "Upgrade k1ops",
        code: 3,
    },
    Fault {
        name: "a stranded workflow",
        plant: |bed| {
            let file = bed.own("data/conductor.db");
            let connection = k1ops::adapters::sqlite::open_existing(&file).unwrap();
            connection
                .execute_batch(
                    "INSERT INTO workflow VALUES ('lost', '{\"status\":\"RUNNING\"}');
                     INSERT INTO workflow_pending VALUES ('lost');",
                )
                .unwrap();
        },
        check: "stranded",
        severity: "problem",
        says: "1 of 2 running workflows are stranded",
        remedy: "k1ops start",
        code: 1,
    },
];

/// A real Java 17 where the host has one; otherwise a stand-in whose release file says so, which is
/// all that is looked at.
pub fn old_java(bed: &Bed) -> PathBuf {
    let real = Path::new("/usr/lib/jvm/java-17-openjdk-amd64");
    if real.join("bin/java").is_file() {
        return real.to_owned();
    }
    let home = bed.path().join("java-17");
    std::fs::create_dir_all(home.join("bin")).unwrap();
    std::fs::write(home.join("bin/java"), "#!/bin/sh\n").unwrap();
    mode(&home.join("bin/java"), 0o755);
    std::fs::write(home.join("release"), "JAVA_VERSION=\"17.0.1\"\n").unwrap();
    home
}

/// The real JAR, of which one bit is another one.
fn flip_a_byte(bed: &mut Bed) {
    let report = bed.doctor();
    let checks = report.json["checks"].as_array().unwrap().clone();
    let jar = checks.iter().find(|check| check["check"] == "jar").unwrap();
    let said = jar["said"][0].as_str().unwrap();
    let path = said
        .split(" in ")
        .nth(1)
        .and_then(|rest| rest.strip_suffix(", checksum right"))
        .unwrap_or_else(|| panic!("the real JAR is needed: {said}"));
    let copy = bed.path().join("flipped.jar");
    std::fs::copy(path, &copy).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&copy)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 200_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 200_000_000).unwrap();
    bed.set("K1OPS_SERVER_JAR", "flipped.jar");
}

/// Neither the cache nor a local Maven repository has the JAR.
fn without_a_jar(bed: &mut Bed) {
    let cache = bed.path().join("cache").display().to_string();
    let home = bed.path().join("home").display().to_string();
    bed.set("K1OPS_CACHE", &cache);
    bed.set("HOME", &home);
    bed.set("MAVEN_OPTS", "");
    bed.set("MAVEN_ARGS", "");
    bed.cut_off();
}

/// A small disk for the archives.
fn small_disk(bed: &mut Bed, options: &str) -> PathBuf {
    let folder = bed.path().join("small");
    bed.keep(Mounted::on(&folder, options));
    bed.set("K1OPS_REPOSITORY_PATH", &folder.display().to_string());
    folder
}
