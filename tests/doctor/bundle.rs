//! The support archive: secrets are planted wherever they may get to, and none may be in it.

use super::bed::{Bed, mode, mode_of};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Every secret that is planted. Each is looked for in every member, and in the raw bytes.
const PLANTED: &[&str] = &[
    "url-PW-7f3a/x",
    "filePW-81cd-long",
    "envPW-92ef",
    "propPW-a3b1",
    "logPW-b4c2",
    "logUrlPW-c5d3",
    "bearer-d6e4f8aa12",
    "basicZTdmOTpwdw",
    "postgresPW-e7f5",
    "redisPW-f806",
    "composePW-0917",
    "stateToken-1a28",
    "keyMIIEpAIBAAKCAQEA",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "AKIAABCDEFGHIJKLMNOP",
    "commentPW-2b39",
];

fn plant(bed: &mut Bed) {
    bed.config(
        "# the old one: password = 'commentPW-2b39'\n[database]\nurl = \
         'postgres://app:url-PW-7f3a%2Fx@127.0.0.1:1/d?password=envPW-92ef'\npassword_file = \
         'db-password'\n[server.properties]\n'conductor.x.password' = 'propPW-a3b1'\n",
    );
    let put = |path: &Path, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        mode(path, 0o600);
    };
    put(&bed.path().join("db-password"), "filePW-81cd-long\n");
    put(
        &bed.own("docker/secrets/postgres_password"),
        "postgresPW-e7f5",
    );
    put(
        &bed.own("docker/secrets/redis.conf"),
        "requirepass redisPW-f806\n",
    );
    put(
        &bed.own("docker/secrets/conductor.properties"),
        "spring.datasource.password=postgresPW-e7f5\n",
    );
    put(
        &bed.own("docker/.env"),
        "K1_PREFIX=conductor\nEXTRA_SECRET=composePW-0917\n",
    );
    put(
        &bed.own("docker/docker-compose.yaml"),
        "services:\n  x:\n    environment:\n      API_TOKEN: composePW-0917\n",
    );
    put(
        &bed.own("logs/conductor-server.log"),
        "started\njdbc:postgresql://h/d?user=u&password=logPW-b4c2\n\
         postgres://app:logUrlPW-c5d3@h/d refused\n\
         known by value: filePW-81cd-long and url-PW-7f3a/x and url-PW-7f3a%2Fx, redisPW-f806\n\
         Authorization: Bearer bearer-d6e4f8aa12\nauthorization: Basic basicZTdmOTpwdw\n\
         -----BEGIN PRIVATE KEY-----\nkeyMIIEpAIBAAKCAQEA\n-----END PRIVATE KEY-----\n\
         jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl\n\
         uses AKIAABCDEFGHIJKLMNOP\nkept: task 7 of workflow w-1 completed\n",
    );
    put(
        &bed.own("run/server.json"),
        r#"{"token": "stateToken-1a28"}"#,
    );
    bed.set("K1OPS_DATABASE_PASSWORD_FILE", "db-password");
    bed.set("PGPASSWORD", "envPW-92ef");
    bed.set("HTTPS_PROXY", "http://me:envPW-92ef@127.0.0.1:1");
    bed.set("DOCKER_AUTH_TOKEN", "envPW-92ef");
}

fn members(path: &Path) -> BTreeMap<String, String> {
    let gz = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    let mut tar = tar::Archive::new(gz);
    let mut members = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        members.insert(name, text);
    }
    members
}

#[test]
fn no_planted_secret_is_in_the_support_archive() {
    let mut bed = Bed::healthy();
    plant(&mut bed);
    // Its state file is none, which stops every other command: the bundle is for just such stacks.
    let said = bed.run(&["doctor", "--bundle", "help.tar.gz"]);
    let path = bed.path().join("help.tar.gz");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("written: help.tar.gz"), "{text}{said:?}");
    assert_eq!(mode_of(&path), 0o600);
    let members = members(&path);
    for (name, text) in &members {
        for secret in PLANTED {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
            let encoded = secret.replace('/', "%2F");
            assert!(!text.contains(&encoded), "{encoded} is in {name}");
        }
    }
    for said in [
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    ] {
        assert!(
            PLANTED.iter().all(|secret| !said.contains(secret)),
            "{said}"
        );
    }
    let of = |name: &str| &members[&format!("k1ops-doctor/{name}")];
    assert!(of("logs/conductor-server.log").contains("kept: task 7 of workflow w-1 completed"));
    assert!(of("k1ops.toml").contains("tier = 'jar'"));
    assert!(of("config.txt").contains("server.heap"));
    assert!(of("environment.txt").contains("PATH="));
    assert!(of("report.txt").contains("problem"));
    assert!(!members.keys().any(|name| name.contains("secrets")));
    let report: serde_json::Value = serde_json::from_str(of("report.json")).unwrap();
    assert!(!report["findings"].as_array().unwrap().is_empty());
    assert!(of("README.txt").contains("logs/conductor-server.log"));
    // What is there is not overwritten.
    let again = bed.run(&["doctor", "--bundle", "help.tar.gz"]);
    assert_eq!(again.status.code(), Some(6));
}
