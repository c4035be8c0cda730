//! The Debian package: installed, upgraded, removed and purged in a container, with data that
//! outlives all of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod bench;

use bench::{docker, docker_out, testbed};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What happens in the container, as root of a system that has nothing of k1ops. Prints a line for
/// each thing that was looked at.
const LIFE: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >/dev/null
apt-get -q -y install --no-install-recommends /packages/old.deb sqlite3 >/dev/null
k1ops --version
test "$(getent passwd k1ops | cut -d: -f6,7)" = /var/lib/k1ops:/usr/sbin/nologin && echo 'a user without a shell'
test "$(stat -c '%U %G %a' /var/lib/k1ops)" = 'k1ops k1ops 750' && echo 'a folder of its own'
for page in k1ops k1ops-backup k1ops-restore k1ops-doctor k1ops-repo-rekey; do
    dpkg -L k1ops | grep -qx "/usr/share/man/man1/$page.1.gz"
done && echo 'manual pages'
bash -c '. /usr/share/bash-completion/completions/k1ops && complete -p k1ops' >/dev/null && echo 'completions'
as_k1ops() { (cd /var/lib/k1ops && setpriv --reuid k1ops --regid k1ops --init-groups "$@"); }
as_k1ops sh -ec "umask 077; echo \"tier = 'jar'\" > k1ops.toml; mkdir -p .conductor/data
    sqlite3 .conductor/data/conductor.db 'CREATE TABLE kept (what TEXT); INSERT INTO kept VALUES (1), (2)'"
as_k1ops k1ops -q backup
kept() { as_k1ops k1ops list --json && as_k1ops k1ops -q verify latest && echo "kept after $1"; }
kept installation
apt-get -q -y install /packages/new.deb >/dev/null
k1ops --version
dpkg -s k1ops | grep '^Version'
kept upgrade
apt-get -q -y remove k1ops >/dev/null
test ! -e /usr/bin/k1ops && test -s /var/lib/k1ops/.conductor/data/conductor.db && echo 'removed, data kept'
apt-get -q -y purge k1ops 2>&1 | grep 'is kept'
test -s /var/lib/k1ops/.conductor/data/conductor.db && echo 'purged, data kept'
apt-get -q -y install --no-install-recommends /packages/new.deb >/dev/null
kept purge
"#;

#[test]
fn a_package_is_installed_upgraded_and_removed_and_data_stays() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(root.join("scripts/package"))
        .arg("--test")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.deb");
    std::fs::copy(the_deb(root), &old).unwrap();
    let new = folder.path().join("new.deb");
    newer(&old, &new, folder.path());

    let image = testbed("JAVA_IMAGE");
    let mount = format!("{}:/packages:ro", folder.path().display());
    let run = Command::new("timeout")
        .args(["1200", "docker", "run", "--rm", "-u", "0", "-v", &mount])
        .args(["--entrypoint", "sh", &image, "-c", LIFE])
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&run.stdout);
    let err = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{out}\n{err}");
    for line in [
        "a user without a shell",
        "a folder of its own",
        "manual pages",
        "completions",
        "kept after installation",
        "Version: 99.0.0-1",
        "kept after upgrade",
        "removed, data kept",
        "/var/lib/k1ops is kept",
        "purged, data kept",
        "kept after purge",
    ] {
        assert!(out.contains(line), "{line:?} is not in {out}\n{err}");
    }
    in_an_image(root, &old);
}

/// The image of k1ops itself runs as a user of its own, and has what a backup of PostgreSQL needs.
fn in_an_image(root: &Path, deb: &Path) {
    let context = tempfile::tempdir().unwrap();
    std::fs::copy(deb, context.path().join("k1ops.deb")).unwrap();
    let recipe = root.join("deploy/Dockerfile");
    std::fs::copy(recipe, context.path().join("Dockerfile")).unwrap();
    let base = format!("BASE={}", testbed("JAVA_IMAGE"));
    let image = format!("k1ops-test-image-{}", std::process::id());
    let context = context.path().to_str().unwrap();
    docker(&["build", "-q", "-t", &image, "--build-arg", &base, context]);
    let run = ["run", "--rm", "--init", "--network", "none"];
    let version = docker_out(&[&run[..], &[&image, "--version"]].concat());
    let inside = "id -un; command -v pg_dump; k1ops -q list";
    let inside = docker_out(&[&run[..], &["--entrypoint", "sh", &image, "-c", inside]].concat());
    docker(&["rmi", "-f", &image]);
    assert!(version.starts_with("k1ops "), "{version}");
    assert_eq!(inside.lines().next(), Some("k1ops"), "{inside}");
    assert!(inside.contains("/pg_dump"), "{inside}");
}

fn the_deb(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let made = std::fs::read_dir(target.join("package")).unwrap();
    let mut made = made.map(|entry| entry.unwrap().path());
    made.find(|path| path.extension().is_some_and(|e| e == "deb"))
        .unwrap()
}

/// The same package as a later version.
fn newer(old: &Path, new: &Path, scratch: &Path) {
    let script = r#"dpkg-deb -R "$1" "$3/tree" && sed -i 's/^Version: .*/Version: 99.0.0-1/' "$3/tree/DEBIAN/control" &&
        dpkg-deb -Zgzip -z1 --root-owner-group -b "$3/tree" "$2" && rm -r "$3/tree""#;
    let run = Command::new("sh")
        .args(["-c", script, "sh"])
        .args([old, new, scratch])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
}
