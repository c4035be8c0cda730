//! Keys, and what an OpenSSH client is told of a server of the test's own.

use std::path::Path;
use std::process::Command;

/// A key without a passphrase, and `.pub` beside it.
pub fn make_key(file: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(file)
        .status();
    assert!(made.unwrap().success());
}

/// Writes `ssh_config`: a client expects the key `host` of the server at `port`, and shows the key `user`.
pub fn configure(folder: &Path, port: u16, host: &str, user: &str) {
    let at = |name: &str| folder.join(name).display().to_string();
    let key = std::fs::read_to_string(at(&format!("{host}.pub"))).unwrap();
    let known = format!("[127.0.0.1]:{port} {key}");
    std::fs::write(at("known_hosts"), known).unwrap();
    let config = format!(
        "IdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\n\
         GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n",
        at(user),
        at("known_hosts")
    );
    std::fs::write(at("ssh_config"), config).unwrap();
}
