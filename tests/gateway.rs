//! A gateway with a login before Conductor, with a real issuer of tokens and a real engine: who
//! has no token of that issuer for this gateway is refused, in whichever way it is tried; k1ops and its
//! workers are let in; and nothing that is secret shows anywhere.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
#[path = "bench/issuer.rs"]
mod issuer;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bench::{Bench, assert_code, assert_says, docker, docker_out, text};
use issuer::Issuer;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const API: &str = "/api/metadata/taskdefs";

fn bench(issuer: &Issuer) -> Bench {
    let settings = format!(
        "[docker.gateway]\nissuer = '{}'\nclient_id = 'k1ops'\nclient_secret = 'file:client.secret'\n\
         audience = 'conductor'\nauthority = 'issuer.pem'\n\
         [agents.greet]\nshell = 'sleep 1'\n",
        issuer.url()
    );
    let bench = Bench::with(&settings);
    let put =
        |name: &str, text: &str| std::fs::write(bench.folder.path().join(name), text).unwrap();
    put("issuer.pem", &issuer.authority);
    put("client.secret", issuer::SECRET);
    private(&bench.folder.path().join("client.secret"));
    let tasks = "[[tasks]]\nid = 't1'\nagent = 'greet'\n\
                 [[tasks]]\nid = 't2'\nagent = 'greet'\ndepends_on = ['t1']\n\
                 [[tasks]]\nid = 't3'\nagent = 'greet'\ndepends_on = ['t2']\n\
                 [[tasks]]\nid = 't4'\nagent = 'greet'\ndepends_on = ['t3']\n";
    put(
        "plan.toml",
        &format!("name = 'greeting'\nversion = 1\n{tasks}"),
    );
    bench
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A client that is not k1ops, on the gateway's port.
struct Stranger<'a> {
    bench: &'a Bench,
}

impl Stranger<'_> {
    /// The status that is answered, and what with.
    fn ask(&self, scheme: &str, path: &str, arguments: &[&str]) -> (u16, String) {
        let url = format!("{scheme}://127.0.0.1:{}{path}", self.bench.port);
        let authority = self.bench.docker_folder().join("secrets/ca.crt");
        let output = Command::new("curl")
            .args([
                "-sS",
                "--noproxy",
                "*",
                "--max-time",
                "20",
                "-w",
                "\n%{http_code}",
            ])
            .arg("--cacert")
            .arg(authority)
            .args(arguments)
            .arg(url)
            .output()
            .unwrap();
        let said = text(&output);
        let out = String::from_utf8(output.stdout).unwrap();
        let (body, code) = out.trim_end().rsplit_once('\n').unwrap_or(("", out.trim()));
        let code = code.parse().unwrap_or_else(|_| panic!("{path}: {said}"));
        (code, body.to_owned())
    }

    fn with(&self, token: &str) -> u16 {
        let header = format!("Authorization: Bearer {token}");
        self.ask("https", API, &["-H", &header]).0
    }
}

#[test]
fn behind_a_gateway_nobody_reaches_conductor_without_a_login() {
    let issuer = Issuer::start();
    let bench = bench(&issuer);
    assert_code(&bench.run(&["init"]), 0);
    let hardened = bench.run(&["harden", "--yes"]);
    assert_code(&hardened, 0);
    assert_says(&hardened, "the gateway");
    issuer.wait();
    assert_code(&bench.run(&["start"]), 0);
    let again = bench.json(&["start"], 0);
    assert_eq!(again["outcome"], "already_running");
    let status = bench.json(&["status"], 0);
    assert_eq!(status["docker"]["health"]["state"], "up", "{status:#}");
    let url = status["docker"]["url"].as_str().unwrap();
    assert_eq!(url, format!("https://127.0.0.1:{}", bench.port));

    the_right_token_opens(&bench, &issuer);
    attacks_are_refused(&bench, &issuer);
    forged_tokens_are_refused(&bench, &issuer);
    a_person_logs_in(&bench, &issuer);
    work_is_done_with_tokens_that_end(&bench);
    let archive = bench.json(&["backup"], 0)["archive"].clone();
    assert_eq!(bench.json(&["drill"], 0)["tier"], "docker");
    nothing_secret_shows(&bench, &issuer, archive.as_str().unwrap());
    the_doctor_tries_it(&bench, &issuer);

    let taken_back = bench.run(&["harden", "--undo", "--yes"]);
    assert_code(&taken_back, 0);
    assert!(
        docker(&["inspect", &bench.container("gateway")])
            .stdout
            .starts_with(b"[]")
    );
    let stranger = Stranger { bench: &bench };
    assert_eq!(stranger.ask("http", API, &[]).0, 200);
    assert!(!bench.docker_folder().join("secrets/gateway.cfg").exists());
}

fn the_right_token_opens(bench: &Bench, issuer: &Issuer) {
    let stranger = Stranger { bench };
    let token = issuer.token("k1ops", issuer::SECRET);
    assert_eq!(stranger.with(&token), 200);
}

fn attacks_are_refused(bench: &Bench, issuer: &Issuer) {
    let stranger = Stranger { bench };
    let ports = docker_out(&["port", &bench.container("server")]);
    assert_eq!(ports.trim(), "", "Conductor's own port is published");
    let (code, body) = stranger.ask("http", API, &[]);
    assert_eq!(code, 400, "plain HTTP: {body}");
    for (what, arguments) in [
        ("no token", vec![]),
        ("a wrong token", vec!["-H", "Authorization: Bearer k1ops"]),
        ("a password", vec!["-u", "k1ops:hush-k1ops-7f3a91"]),
        (
            "a made-up session",
            vec!["-H", "Cookie: __Host-k1=eyJhIjoxfQ|1|x"],
        ),
        (
            "headers of a proxy",
            vec![
                "-H",
                "X-Forwarded-User: ada",
                "-H",
                "X-Forwarded-Email: ada@example.org",
            ],
        ),
        (
            "headers of a proxy for another path",
            vec![
                "-H",
                "X-Forwarded-Uri: /ping",
                "-H",
                "X-Original-URL: /ping",
            ],
        ),
        ("another method", vec!["-X", "OPTIONS"]),
        (
            "writing",
            vec![
                "-X",
                "POST",
                "-H",
                "Content-Type: application/json",
                "-d",
                "[]",
            ],
        ),
    ] {
        let (code, body) = stranger.ask("https", API, &arguments);
        assert!(code == 401 || code == 403, "{what}: {code} {body}");
    }
    // Ways round the paths that are asked for a login.
    for path in [
        "//api/metadata/taskdefs",
        "/ping/../api/metadata/taskdefs",
        "/oauth2/../api/metadata/taskdefs",
        "/%61pi/metadata/taskdefs",
        "/API/metadata/taskdefs",
        "/api;x/metadata/taskdefs",
        "/actuator/health",
        "/swagger-ui/index.html",
        "/",
    ] {
        let (code, body) = stranger.ask("https", path, &["--path-as-is"]);
        assert!(
            [301, 302, 400, 401, 403, 404].contains(&code),
            "{path}: {code} {body}"
        );
        assert!(
            !body.contains("\"UP\"") && !body.contains("ownerEmail"),
            "{path}: {body}"
        );
    }
    // A person is sent to the issuer, and nowhere else.
    let (code, _) = stranger.ask("https", "/", &["-o", "/dev/null", "-w", "\n%{http_code}"]);
    assert_eq!(code, 302);
    let (_, headers) = stranger.ask("https", "/", &["-D", "-", "-o", "/dev/null"]);
    let to = format!("{}/", issuer.url());
    let location = headers
        .lines()
        .find(|l| l.to_lowercase().starts_with("location: "));
    assert!(location.unwrap()[10..].starts_with(&to), "{headers}");
    // Whoever puts himself between has a certificate of his own.
    let output = Command::new("curl")
        .args([
            "-sS",
            "--noproxy",
            "*",
            &format!("https://127.0.0.1:{}{API}", bench.port),
        ])
        .output()
        .unwrap();
    assert_says(&output, "certificate");
}

/// A token put together by hand.
fn made(header: &Value, claims: &Value, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let told = format!("{}.{}", part(header), part(claims));
    let signature = BASE64.encode(sign(&told));
    format!("{told}.{signature}")
}

fn parts(token: &str) -> (Value, Value) {
    let mut parts = token
        .split('.')
        .map(|part| BASE64.decode(part).unwrap_or_default());
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

/// What `openssl` makes of `input`.
fn openssl(arguments: &[&str], input: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

fn forged_tokens_are_refused(bench: &Bench, issuer: &Issuer) {
    let stranger = Stranger { bench };
    let good = issuer.token("k1ops", issuer::SECRET);
    let (header, claims) = parts(&good);
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key.pem");
    let key = key.to_str().unwrap();
    openssl(&["genrsa", "-out", key, "2048"], "");
    let by_another_key = |told: &str| openssl(&["dgst", "-sha256", "-sign", key], told);
    let public = issuer.public_key();
    let by_public_key = |told: &str| {
        let secret = format!("hexkey:{}", hex::encode(&public));
        openssl(
            &[
                "dgst", "-sha256", "-mac", "HMAC", "-macopt", &secret, "-binary",
            ],
            told,
        )
    };
    let none = |_: &str| Vec::new();
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let with = |alg: &str| json!({"alg": alg, "typ": "JWT", "kid": header["kid"]});
    let (_, signature) = good.rsplit_once('.').unwrap();
    let signature = BASE64.decode(signature).unwrap();
    let kept = |_: &str| signature.clone();
    let later = changed("exp", json!(claims["exp"].as_i64().unwrap() + 9999));
    let mut own_key = with("RS256");
    own_key["jku"] = json!("https://127.0.0.1/keys");
    for (what, token) in [
        ("no algorithm", made(&with("none"), &claims, none)),
        (
            "no algorithm, written otherwise",
            made(&with("nOnE"), &claims, none),
        ),
        ("no signature", made(&header, &claims, none)),
        (
            "HMAC with the public key",
            made(&with("HS256"), &claims, by_public_key),
        ),
        (
            "another key under the same name",
            made(&header, &claims, by_another_key),
        ),
        (
            "another key that it names itself",
            made(&own_key, &claims, by_another_key),
        ),
        ("a later end", made(&header, &later, kept)),
        (
            "another audience put in",
            made(&header, &changed("aud", json!("conductor")), kept),
        ),
        (
            "another issuer",
            made(
                &header,
                &changed("iss", json!("https://evil.example.org")),
                by_another_key,
            ),
        ),
    ] {
        let code = stranger.with(&token);
        assert_eq!(code, 403, "{what}");
    }
    // The same by hand that is left as it was is let in: it is the change that is refused.
    assert_eq!(stranger.with(&good), 200);
    // The right issuer, for somebody else.
    assert_eq!(
        stranger.with(&issuer.token("stranger", "hush-stranger")),
        403
    );
    // One that was good, and has ended.
    let (brief, end) = let_in_before_its_end(&stranger, issuer);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (before, code) = (chrono::Utc::now().timestamp(), stranger.with(&brief));
        if code == 403 {
            assert!(
                chrono::Utc::now().timestamp() >= end,
                "refused before its end"
            );
            break;
        }
        assert!(
            before <= end + 1 && Instant::now() < deadline,
            "let in after its end"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A token that serves two seconds and was let in within them, and when they are over.
fn let_in_before_its_end(stranger: &Stranger<'_>, issuer: &Issuer) -> (String, i64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let brief = issuer.token("brief", issuer::BRIEF);
        let end = parts(&brief).1["exp"].as_i64().unwrap();
        let code = stranger.with(&brief);
        if code == 200 {
            return (brief, end);
        }
        // A busy host may have asked too late.
        assert!(
            chrono::Utc::now().timestamp() >= end && Instant::now() < deadline,
            "refused before its end: {code}"
        );
    }
}

/// In a browser: to the issuer's form, and back with a session.
fn a_person_logs_in(bench: &Bench, issuer: &Issuer) {
    let stranger = Stranger { bench };
    let place = tempfile::tempdir().unwrap();
    let jar = place.path().join("jar");
    let both = place.path().join("both.pem");
    let own = std::fs::read_to_string(bench.docker_folder().join("secrets/ca.crt")).unwrap();
    std::fs::write(&both, own + &issuer.authority).unwrap();
    let (jar, both) = (jar.to_str().unwrap(), both.to_str().unwrap());
    let browser = ["-L", "-b", jar, "-c", jar, "--cacert", both];
    let (code, page) = stranger.ask("https", "/api-docs-of-nobody", &browser);
    assert_eq!(code, 401, "an API is not sent to a form: {page}");
    let (code, page) = stranger.ask("https", "/somewhere", &browser);
    assert_eq!(code, 200, "{page}");
    let form = page
        .split("action=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    let form = form.replace("&amp;", "&");
    let log_in = |password: &str| {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--noproxy",
                "*",
                "-o",
                "/dev/null",
                "-w",
                "%{url_effective} %{http_code}",
            ])
            .args(browser)
            .args(["--data-urlencode", "username=ada", "--data-urlencode"])
            .args([&format!("password={password}"), &form])
            .output()
            .unwrap();
        text(&output)
    };
    let wrong = log_in("wrong");
    assert!(wrong.contains(&issuer.url()), "a wrong password: {wrong}");
    let (code, page) = stranger.ask("https", "/somewhere", &browser);
    let form_again = page
        .split("action=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    assert!(code == 200 && form_again.is_some(), "{page}");
    let form = form_again.unwrap().replace("&amp;", "&");
    let output = Command::new("curl")
        .args([
            "-sS",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "-w",
            "%{url_effective}",
        ])
        .args(browser)
        .args(["-d", "username=ada", "-d", "password=hush-ada", &form])
        .output()
        .unwrap();
    let at = text(&output);
    assert!(
        at.contains(&format!("https://127.0.0.1:{}/", bench.port)),
        "{at}"
    );
    let (code, body) = stranger.ask("https", API, &browser);
    assert_eq!(code, 200, "{body}");
    // Without the cookie it is all as before.
    assert_eq!(stranger.ask("https", API, &[]).0, 401);
}

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A worker whose tokens serve two seconds: it has to get new ones all the time.
fn work_is_done_with_tokens_that_end(bench: &Bench) {
    let worker = bench
        .command(&["worker", "--jobs", "1"])
        .env("K1OPS_DOCKER_GATEWAY_CLIENT_ID", "brief")
        .env("K1OPS_DOCKER_GATEWAY_CLIENT_SECRET", issuer::BRIEF)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut worker = Worker(worker);
    let done = bench.run(&["workflow", "run", "plan.toml", "--wait"]);
    assert_code(&done, 0);
    for name in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(name.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let is_own = line.contains("k1ops") && line.contains("worker");
        assert!(!is_own || !line.contains("hush-"), "{line}");
    }
    assert!(
        worker.0.try_wait().unwrap().is_none(),
        "the worker has ended"
    );
    // Who asks with a wrong secret is told so, and not with the secret.
    let wrong = bench
        .command(&["workflow", "list"])
        .env("K1OPS_DOCKER_GATEWAY_CLIENT_SECRET", "hush-wrong")
        .output()
        .unwrap();
    assert!(!wrong.status.success());
    assert_says(&wrong, "gives client k1ops no token: 401");
    assert!(!text(&wrong).contains("hush-wrong"), "{}", text(&wrong));
    // One whose tokens are for somebody else is told that.
    let other = bench
        .command(&["workflow", "list"])
        .env("K1OPS_DOCKER_GATEWAY_CLIENT_ID", "stranger")
        .env("K1OPS_DOCKER_GATEWAY_CLIENT_SECRET", "hush-stranger")
        .output()
        .unwrap();
    assert!(!other.status.success());
    assert_says(&other, "lets k1ops not in: 403");
}

fn nothing_secret_shows(bench: &Bench, issuer: &Issuer, archive: &str) {
    let bundle = bench.folder.path().join("help.tar.gz");
    bench.run(&["doctor", "--bundle", bundle.to_str().unwrap()]);
    let mut shown = Vec::new();
    for name in ["gateway", "server"].map(|name| bench.container(name)) {
        for what in ["inspect", "logs", "top"] {
            shown.push((
                format!("docker {what} {name}"),
                text(&docker(&[what, &name])),
            ));
        }
    }
    let unpacked = |how: &str, file: &str| {
        let output = Command::new("tar").args([how, file]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    shown.push((
        "the bundle".into(),
        unpacked("-xzOf", bundle.to_str().unwrap()),
    ));
    let archive = bench.folder.path().join(archive);
    shown.push((
        "the archive".into(),
        unpacked("-xOf", archive.to_str().unwrap()),
    ));
    let audit = bench.folder.path().join(".conductor/audit.jsonl");
    shown.push((
        "the audit log".into(),
        std::fs::read_to_string(audit).unwrap(),
    ));
    for arguments in [
        ["status", "--json"],
        ["doctor", "--config"],
        ["workflow", "list"],
    ] {
        let output = bench.command(&arguments).arg("-vv").output().unwrap();
        shown.push((arguments.join(" "), text(&output)));
    }
    let cfg = bench.docker_folder().join("secrets/gateway.cfg");
    let told = std::fs::read_to_string(cfg).unwrap();
    let cookie = told
        .lines()
        .find_map(|l| l.strip_prefix("cookie_secret = "));
    let key = std::fs::read_to_string(bench.docker_folder().join("secrets/gateway.key")).unwrap();
    // All tokens begin with the same header.
    let token = issuer.token("k1ops", issuer::SECRET);
    let secrets = [
        issuer::SECRET,
        issuer::BRIEF,
        cookie.unwrap().trim_matches('"'),
        key.lines().nth(1).unwrap(),
        token.split('.').next().unwrap(),
    ];
    for (place, text) in &shown {
        assert!(text.len() > 10, "{place} says nothing");
        for secret in secrets {
            assert!(!text.contains(secret), "{place} shows {secret}");
        }
    }
}

fn doctor(bench: &Bench) -> Value {
    let output = bench.run(&["doctor", "--profile", "production", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of<'a>(report: &'a Value, list: &str, check: &str) -> Vec<&'a Value> {
    let all = report[list].as_array().unwrap().iter();
    all.filter(|one| one["check"] == check).collect()
}

fn the_doctor_tries_it(bench: &Bench, issuer: &Issuer) {
    let report = doctor(bench);
    for check in [
        "api",
        "certificates",
        "permissions",
        "exposure",
        "conductor",
    ] {
        let found = of(&report, "findings", check);
        assert!(found.is_empty(), "{check}: {found:#?}");
    }
    let said = of(&report, "checks", "api")[0]["said"].to_string();
    for words in [
        "no token: 401",
        "a token without a signature: 403",
        "refuses plain HTTP",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // A gateway that lets everybody in is found.
    let cfg = bench.docker_folder().join("secrets/gateway.cfg");
    let told = std::fs::read_to_string(&cfg).unwrap();
    let restart = |text: &str| {
        std::fs::write(&cfg, text).unwrap();
        docker_out(&["restart", &bench.container("gateway")]);
        let stranger = Stranger { bench };
        let deadline = Instant::now() + Duration::from_secs(120);
        let token = issuer.token("k1ops", issuer::SECRET);
        let header = format!("Authorization: Bearer {token}");
        let quiet = [
            "-H",
            &header,
            "--retry",
            "60",
            "--retry-delay",
            "1",
            "--retry-all-errors",
        ];
        while stranger.ask("https", API, &quiet).0 != 200 {
            assert!(Instant::now() < deadline, "the gateway does not come back");
        }
    };
    restart(&(told.clone() + "skip_auth_routes = [\"^/api/\"]\n"));
    let report = doctor(bench);
    let found = of(&report, "findings", "api");
    let title = found[0]["title"].as_str().unwrap();
    assert!(title.contains("answers 200 to no token"), "{title}");
    restart(&told);
    assert!(of(&doctor(bench), "findings", "api").is_empty());
}

#[test]
fn a_gateway_that_nobody_can_pass_is_refused_before_anything_is_written() {
    let bench = Bench::with("");
    assert_code(&bench.run(&["init"]), 0);
    let with = |variables: &[(&str, &str)]| -> Output {
        let mut command = bench.command(&["harden", "--yes"]);
        for (name, value) in variables {
            command.env(format!("K1OPS_DOCKER_GATEWAY_{name}"), value);
        }
        command.output().unwrap()
    };
    let issuer = ("ISSUER", "https://id.example.org");
    for (variables, said) in [
        (
            vec![("ISSUER", "http://id.example.org")],
            "docker.gateway.issuer",
        ),
        (vec![issuer], "docker.gateway.client_id"),
        (
            vec![issuer, ("CLIENT_ID", "k1ops")],
            "docker.gateway.client_secret",
        ),
        (
            vec![
                issuer,
                ("CLIENT_ID", "k1ops"),
                ("CLIENT_SECRET", "file:none"),
            ],
            "docker.gateway.client_secret",
        ),
        (
            vec![
                issuer,
                ("CLIENT_ID", "k1ops"),
                ("CLIENT_SECRET", "x"),
                ("AUTHORITY", "none"),
            ],
            "docker.gateway.authority",
        ),
    ] {
        let refused = with(&variables);
        assert_code(&refused, 2);
        assert_says(&refused, said);
        assert!(
            !bench.docker_folder().join("secrets/ca.key").exists(),
            "{said}"
        );
    }
}
