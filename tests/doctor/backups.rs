//! Faults of archives, schedule and repository.

use super::bed::{ANY_PROBLEM, Bed, Fault, Mounted, archive, mode, prove};
use chrono::{TimeDelta, Utc};
use std::path::PathBuf;

#[test]
fn faults_of_backups_are_named() {
    prove(FAULTS, Bed::healthy);
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "no backup at all",
        plant: |bed| std::fs::remove_dir_all(bed.own("backups")).unwrap(),
        check: "backups",
        severity: "warning",
        says: "this stack has data and no good backup",
        remedy: "k1ops backup",
        code: 0,
    },
    Fault {
        name: "the last backup is two days old",
        plant: |bed| only_archive(bed, TimeDelta::hours(49)),
        check: "backups",
        severity: "warning",
        says: "the last good backup is 2 days old",
        remedy: "k1ops backup",
        code: 0,
    },
    Fault {
        name: "nobody takes backups any more",
        plant: |bed| only_archive(bed, TimeDelta::days(40)),
        check: "backups",
        severity: "problem",
        says: "the last good backup is 40 days old",
        remedy: "k1ops backup",
        code: 1,
    },
    Fault {
        name: "a truncated archive",
        plant: |bed| {
            let path = the_archive(bed);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
        check: "backups",
        severity: "problem",
        says: "cannot be restored",
        remedy: "k1ops verify ",
        code: 4,
    },
    Fault {
        name: "a backup that died",
        plant: |bed| {
            let name = bed.own("backups/k1-k1-20200101T000000Z.tar.partial");
            std::fs::write(name, "half").unwrap();
        },
        check: "backups",
        severity: "note",
        says: "a backup died and left k1-k1-20200101T000000Z.tar.partial",
        remedy: "k1ops backup",
        code: 0,
    },
    Fault {
        name: "a backup that is suddenly small",
        plant: |bed| {
            for days in 1..5 {
                archive(bed, Utc::now() - TimeDelta::days(days), 3 << 20);
            }
        },
        check: "backups",
        severity: "warning",
        says: "and those before it were 3 MiB",
        remedy: "k1ops query summary",
        code: 0,
    },
    Fault {
        name: "an archive of the future",
        plant: |bed| {
            archive(bed, Utc::now() + TimeDelta::days(2), 1000);
        },
        check: "clock",
        severity: "warning",
        says: "the newest archive is from the future",
        remedy: "timedatectl",
        code: 0,
    },
    Fault {
        name: "a drill that failed",
        plant: |bed| {
            std::fs::create_dir_all(bed.own("run")).unwrap();
            let at = Utc::now().to_rfc3339();
            let record = format!(r#"{{"at":"{at}","passed":false,"archive":"a.tar"}}"#);
            std::fs::write(bed.own("run/drill.json"), record).unwrap();
        },
        check: "drill",
        severity: "problem",
        says: "the last drill has failed",
        remedy: "k1ops drill",
        code: 4,
    },
    Fault {
        name: "a drill that is long ago",
        plant: |bed| {
            std::fs::create_dir_all(bed.own("run")).unwrap();
            let at = (Utc::now() - TimeDelta::days(90)).to_rfc3339();
            let record = format!(r#"{{"at":"{at}","passed":true}}"#);
            std::fs::write(bed.own("run/drill.json"), record).unwrap();
        },
        check: "drill",
        severity: "warning",
        says: "the last drill was 90 days ago",
        remedy: "k1ops drill",
        code: 0,
    },
    Fault {
        name: "a schedule that does not fire",
        plant: |bed| {
            only_archive(bed, TimeDelta::hours(20));
            crontab(bed, "0 * * * *", env!("CARGO_BIN_EXE_k1ops"));
        },
        check: "schedule",
        severity: "problem",
        says: "did not happen",
        remedy: " backup",
        // Where no cron runs, that is a problem of its own, and its code weighs more.
        code: ANY_PROBLEM,
    },
    Fault {
        name: "a schedule that calls a k1ops that was removed",
        plant: |bed| crontab(bed, "@daily", "/nowhere/bin/k1ops"),
        check: "schedule",
        severity: "problem",
        says: "the schedule calls /nowhere/bin/k1ops, which is not there",
        remedy: "crontab -l | sed",
        code: 3,
    },
    Fault {
        name: "a timer that is not switched on",
        plant: |bed| {
            let units = bed.path().join("home/.config/systemd/user");
            std::fs::create_dir_all(&units).unwrap();
            let timer = "[Timer]\nOnCalendar=daily\n";
            std::fs::write(units.join("k1ops-backup.timer"), timer).unwrap();
            let service = format!(
                "[Service]\nExecStart={} --config {}/k1ops.toml backup\n",
                env!("CARGO_BIN_EXE_k1ops"),
                bed.path().display()
            );
            std::fs::write(units.join("k1ops-backup.service"), service).unwrap();
            let home = bed.path().join("home").display().to_string();
            bed.set("HOME", &home);
        },
        check: "schedule",
        severity: "problem",
        says: "the timer k1ops-backup.timer is installed and not switched on",
        remedy: "systemctl --user enable --now k1ops-backup.timer",
        code: 3,
    },
    Fault {
        name: "a repository that is a file",
        plant: |bed| {
            std::fs::write(bed.path().join("file"), "").unwrap();
            bed.set("K1OPS_REPOSITORY_PATH", "file/archives");
        },
        check: "repository",
        severity: "problem",
        says: "is no folder",
        remedy: "mv ",
        code: 3,
    },
    Fault {
        name: "a repository on a read-only disk",
        plant: |bed| {
            let folder = bed.path().join("fixed");
            let mounted = Mounted::on(&folder, "size=900m");
            mounted.remount("ro");
            bed.keep(mounted);
            bed.set("K1OPS_REPOSITORY_PATH", &folder.display().to_string());
        },
        check: "repository",
        severity: "problem",
        says: "is on a read-only file system",
        remedy: "remount,rw",
        code: 3,
    },
    Fault {
        name: "a repository whose disk is not mounted",
        plant: |bed| bed.set("K1OPS_REPOSITORY_PATH", "/mnt/k1ops-not-mounted/archives"),
        check: "repository",
        severity: "warning",
        says: "is not there",
        remedy: "mkdir -m 700 -p /mnt/k1ops-not-mounted/archives",
        code: 0,
    },
    Fault {
        name: "a copy whose disk is not mounted",
        plant: |bed| {
            bed.config("[[repository.copies]]\nname = 'usb'\npath = '/mnt/k1ops-usb/k1'\n");
        },
        check: "repository",
        severity: "problem",
        says: "the copy usb of the repository cannot be used",
        remedy: "k1ops repo copy",
        code: 3,
    },
    Fault {
        name: "a copy that is behind",
        plant: |bed| {
            std::fs::create_dir(bed.path().join("usb")).unwrap();
            bed.config("[[repository.copies]]\nname = 'usb'\npath = 'usb'\n");
        },
        check: "repository",
        severity: "problem",
        says: "the copy usb lacks 1 of 1 backups",
        remedy: "k1ops repo copy",
        code: 7,
    },
    Fault {
        name: "an archive that is another in a copy",
        plant: |bed| {
            let name = the_archive(bed).file_name().unwrap().to_owned();
            let usb = bed.path().join("usb");
            std::fs::create_dir(&usb).unwrap();
            let other = archive(bed, Utc::now() - TimeDelta::days(1), 1000);
            std::fs::rename(other, usb.join(name)).unwrap();
            bed.config("[[repository.copies]]\nname = 'usb'\npath = 'usb'\n");
        },
        check: "repository",
        severity: "problem",
        says: "1 archives are not the same in the copy usb",
        remedy: "--from-copy usb",
        code: 4,
    },
    Fault {
        name: "a restore that was killed",
        plant: |bed| {
            let variable = k1ops::restore::crash::VARIABLE;
            let killed = bed
                .command(&["restore", "latest", "--yes"])
                .env(variable, "checked")
                .output()
                .unwrap();
            assert_eq!(killed.status.code(), None, "it was to be killed");
        },
        check: "restore",
        severity: "problem",
        says: "died",
        remedy: "k1ops start",
        code: 1,
    },
];

fn the_archive(bed: &Bed) -> PathBuf {
    let entries = std::fs::read_dir(bed.own("backups")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let archive = paths.find(|path| path.extension().is_some_and(|end| end == "tar"));
    archive.unwrap()
}

/// One archive, and it is this old.
fn only_archive(bed: &mut Bed, age: TimeDelta) {
    std::fs::remove_file(the_archive(bed)).unwrap();
    archive(bed, Utc::now() - age, 1000);
}

/// A crontab that is not the user's own.
fn crontab(bed: &mut Bed, when: &str, program: &str) {
    let file = bed.path().join("crontab.txt");
    let line = format!(
        "{when} cd {} && {program} backup -q\n",
        bed.path().display()
    );
    std::fs::write(&file, line).unwrap();
    mode(&file, 0o600);
    bed.program("crontab", &format!("exec cat {}", file.display()));
}
