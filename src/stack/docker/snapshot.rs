//! Redis and Elasticsearch hold still: each writes a snapshot of itself, by its own means, into its
//! own volume. Where snapshots go from there is not known here.

use crate::adapters::docker::Engine;
use crate::error::{Context, Error, Result};
use crate::interrupt::Interrupt;
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a snapshot may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// How often to look whether it is done.
const POLL: Duration = Duration::from_millis(100);

/// The repository of snapshots that backups make, and remove again.
const REPOSITORY: &str = "k1ops";
/// Where its files are; the Compose file says the same as `path.repo`.
pub const ELASTICSEARCH_FOLDER: &str = "/usr/share/elasticsearch/data/k1ops-snapshots";

/// Runs `redis-cli` with the password that the server was given, which no list of processes shows.
const REDIS_CLI: &str = "REDISCLI_AUTH=\"$(sed -n 's/^requirepass //p' /run/secrets/redis.conf)\"; \
     export REDISCLI_AUTH; \
     [ ! -f /run/secrets/ca.crt ] || set -- --tls --cacert /run/secrets/ca.crt \"$@\"; \
     exec redis-cli --raw \"$@\"";

/// Has Redis write a snapshot, and answers its file.
pub async fn redis(engine: &Engine, container: &str, interrupt: &Interrupt) -> Result<String> {
    let ask = |words: &'static [&'static str]| redis_cli(engine, container, words);
    let begun = Instant::now();
    // One may be under way, begun before now: what is wanted is one that begins now.
    while info(
        &ask(&["info", "persistence"]).await?,
        "rdb_bgsave_in_progress",
    ) == Some("1")
    {
        wait(begun, interrupt).await?;
    }
    let before = saves(&ask(&["info", "persistence"]).await?);
    ask(&["bgsave"]).await?;
    loop {
        let now = ask(&["info", "persistence"]).await?;
        let busy = info(&now, "rdb_bgsave_in_progress") == Some("1");
        if !busy && saves(&now) > before {
            break;
        }
        if !busy && info(&now, "rdb_last_bgsave_status") == Some("err") {
            return Err(Error::failed("Redis could not write its snapshot")
                .hint("`k1ops logs redis` says why; a full disk is the usual cause."));
        }
        wait(begun, interrupt).await?;
    }
    let folder = second_line(&ask(&["config", "get", "dir"]).await?);
    let file = second_line(&ask(&["config", "get", "dbfilename"]).await?);
    Ok(format!("{folder}/{file}"))
}

async fn redis_cli(engine: &Engine, container: &str, words: &[&str]) -> Result<String> {
    let command = [&["sh", "-c", REDIS_CLI, "redis-cli"], words].concat();
    let patience = Duration::from_secs(60);
    let answer = engine.run_inside(container, "root", &command, b"", patience);
    let answer = answer.await?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    if answer.code == 0 && !said.starts_with("ERR") && !said.starts_with("NOAUTH") {
        return Ok(said);
    }
    Err(
        Error::failed(format!("Redis in {container} does not {}", words.join(" "))).because(
            Error::failed(format!("{said}{}", answer.stderr).trim().to_owned()),
        ),
    )
}

/// Snapshots since the server started; a failed one does not count.
fn saves(info_text: &str) -> u64 {
    info(info_text, "rdb_saves")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

fn info<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn second_line(text: &str) -> String {
    text.lines().nth(1).unwrap_or_default().trim().to_owned()
}

async fn wait(begun: Instant, interrupt: &Interrupt) -> Result<()> {
    interrupt.check()?;
    if begun.elapsed() > LIMIT {
        return Err(Error::failed("a snapshot takes too long")
            .hint("Try again when the host is less busy."));
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

/// A snapshot of Elasticsearch that lies in its volume.
#[derive(Debug)]
pub struct Elasticsearch {
    /// Where it lies in the container.
    pub folder: &'static str,
    name: String,
}

/// Has Elasticsearch take a snapshot of all its indices.
pub async fn elasticsearch(
    engine: &Engine,
    container: &str,
    interrupt: &Interrupt,
) -> Result<Elasticsearch> {
    remove_all(engine, container).await?;
    register(engine, container).await?;
    let name = format!("backup-{}", chrono::Utc::now().timestamp());
    let path = format!("/_snapshot/{REPOSITORY}/{name}");
    let body = r#"{"indices":"*","include_global_state":true}"#;
    request(engine, container, "PUT", &path, body).await?;
    let begun = Instant::now();
    loop {
        let answer = request(engine, container, "GET", &path, "").await?;
        match answer["snapshots"][0]["state"].as_str() {
            Some("SUCCESS") => break,
            Some("IN_PROGRESS") => wait(begun, interrupt).await?,
            other => {
                return Err(Error::failed(format!(
                    "the snapshot of Elasticsearch ended as {}",
                    other.unwrap_or("nothing")
                ))
                .hint("`k1ops logs elasticsearch` says why."));
            }
        }
    }
    Ok(Elasticsearch {
        folder: ELASTICSEARCH_FOLDER,
        name,
    })
}

impl Elasticsearch {
    /// Removes it from the volume.
    pub async fn remove(&self, engine: &Engine, container: &str) -> Result<()> {
        let path = format!("/_snapshot/{REPOSITORY}/{}", self.name);
        request(engine, container, "DELETE", &path, "")
            .await
            .map(drop)
    }
}

/// Puts all indices of the one snapshot that lies in the volume back; answers the documents in it.
pub async fn restore_elasticsearch(engine: &Engine, container: &str) -> Result<u64> {
    register(engine, container).await?;
    let path = format!("/_snapshot/{REPOSITORY}/_all");
    let all = request(engine, container, "GET", &path, "").await?;
    let Some(name) = all["snapshots"][0]["snapshot"].as_str() else {
        return Err(Error::bad_data(
            "the volume holds no snapshot of Elasticsearch",
        ));
    };
    let path = format!("/_snapshot/{REPOSITORY}/{name}/_restore?wait_for_completion=true");
    let body = r#"{"indices":"*,-.geoip*","include_global_state":true}"#;
    let answer = request(engine, container, "POST", &path, body).await?;
    let shards = &answer["snapshot"]["shards"];
    if shards["failed"].as_u64() != Some(0) || shards["total"] != shards["successful"] {
        return Err(Error::bad_data(format!(
            "Elasticsearch could not restore all shards: {shards}"
        )));
    }
    request(engine, container, "POST", "/_refresh", "").await?;
    let count = request(engine, container, "GET", "/_count", "").await?;
    remove_all(engine, container).await?;
    Ok(count["count"].as_u64().unwrap_or(0))
}

/// What a backup or restore that died has left.
async fn remove_all(engine: &Engine, container: &str) -> Result<()> {
    register(engine, container).await?;
    let path = format!("/_snapshot/{REPOSITORY}/_all");
    let all = request(engine, container, "GET", &path, "").await?;
    for snapshot in all["snapshots"].as_array().into_iter().flatten() {
        if let Some(name) = snapshot["snapshot"].as_str() {
            let path = format!("/_snapshot/{REPOSITORY}/{name}");
            request(engine, container, "DELETE", &path, "").await?;
        }
    }
    Ok(())
}

async fn register(engine: &Engine, container: &str) -> Result<()> {
    let body = format!(
        r#"{{"type":"fs","settings":{{"location":"{ELASTICSEARCH_FOLDER}","compress":false}}}}"#
    );
    let path = format!("/_snapshot/{REPOSITORY}?verify=false");
    request(engine, container, "PUT", &path, &body)
        .await
        .map(drop)
}

/// One request to Elasticsearch from inside its container, where no port has to lead to it.
async fn request(
    engine: &Engine,
    container: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Value> {
    let url = format!("http://127.0.0.1:9200{path}");
    let command = [
        "curl",
        "-sS",
        "-m",
        "1800",
        "-X",
        method,
        &url,
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        "@-",
    ];
    let answer = engine
        .run_inside(container, "root", &command, body.as_bytes(), LIMIT)
        .await?;
    let what = || format!("Elasticsearch in {container} does not {method} {path}");
    if answer.code != 0 {
        return Err(Error::failed(what()).because(Error::failed(answer.stderr.trim().to_owned())));
    }
    let answer: Value = serde_json::from_slice(&answer.stdout).context(what)?;
    if answer["error"].is_null() {
        return Ok(answer);
    }
    let reason = answer["error"]["reason"]
        .as_str()
        .unwrap_or("it does not say why");
    Err(Error::failed(what()).because(Error::failed(reason.to_owned())))
}
