//! Faults that let others in.

use super::bed::{Bed, Fault, mode, prove};

#[test]
fn faults_that_let_others_in_are_named() {
    prove(FAULTS, Bed::healthy);
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "an archive that everybody may read",
        plant: |bed| {
            mode(&bed.own(""), 0o755);
            mode(&bed.own("backups"), 0o755);
            for entry in std::fs::read_dir(bed.own("backups")).unwrap() {
                mode(&entry.unwrap().path(), 0o644);
            }
        },
        check: "permissions",
        severity: "warning",
        says: "everybody on this host may read it",
        remedy: "chmod 600 ",
        code: 0,
    },
    Fault {
        name: "a secret that everybody may read",
        plant: |bed| {
            secrets(
                bed,
                &"a-long-password-of-its-own".repeat(2),
                "another-long-password",
            );
            mode(&bed.own(""), 0o755);
            mode(&bed.own("docker"), 0o755);
            mode(&bed.own("docker/secrets"), 0o755);
            mode(&bed.own("docker/secrets/postgres_password"), 0o644);
        },
        check: "permissions",
        severity: "problem",
        says: "postgres_password holds a password, and everybody on this host may read it",
        remedy: "chmod 600 ",
        code: 1,
    },
    Fault {
        name: "a secret that only its folder protects",
        plant: |bed| {
            secrets(bed, "a-long-password-of-its-own", "another-long-password");
            mode(&bed.own("docker/secrets/redis.conf"), 0o664);
        },
        check: "permissions",
        severity: "warning",
        says: "redis.conf holds a password, and whoever gets past its folder may change it",
        remedy: "chmod 600 ",
        code: 0,
    },
    Fault {
        name: "the usual password of Redis",
        plant: |bed| secrets(bed, "a-long-password-of-its-own", "redis"),
        check: "passwords",
        severity: "warning",
        says: "the password of Redis is the user's name",
        remedy: "openssl rand",
        code: 0,
    },
    Fault {
        name: "the usual password of PostgreSQL",
        plant: |bed| secrets(bed, "changeme", "another-long-password"),
        check: "passwords",
        severity: "warning",
        says: "the password of PostgreSQL is one of those that everybody tries first",
        remedy: "openssl rand",
        code: 0,
    },
];

/// The secrets of tier 1, as a start makes them.
fn secrets(bed: &mut Bed, postgres: &str, redis: &str) {
    let folder = bed.own("docker/secrets");
    std::fs::create_dir_all(&folder).unwrap();
    mode(&folder, 0o700);
    let put = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        mode(&file, 0o600);
    };
    put("postgres_password", postgres);
    put("redis.conf", &format!("requirepass {redis}\n"));
}
