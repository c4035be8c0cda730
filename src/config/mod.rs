//! What the user set: `k1ops.toml`, `K1OPS_*` and flags, resolved into one typed value.
//!
//! Flags beat the environment, which beats the file, which beats the defaults. The typed structs
//! here are the only list of keys: defaults, environment names and "did you mean" all come from it.

mod agents;
mod copies;
mod edit;
mod gateway;
mod layers;
mod monitoring;
mod plain;
mod redact;
mod servers;

pub use agents::Agent;
pub use copies::RepositoryCopy;
pub use edit::with_value;
pub use gateway::Gateway;
pub use layers::{Explained, FILE_NAME, Loaded, Origin, Overrides, load};
pub use monitoring::{Monitoring, Switch};
pub use redact::{Hidden, Secret, redact_url};
pub use servers::{Database, Redis};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which way of running the stack is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TierChoice {
    /// The best the host has: docker, then jar, then direct.
    #[default]
    Auto,
    /// Tier 1: Compose with PostgreSQL, Redis and optionally Elasticsearch.
    Docker,
    /// Tier 2: the Conductor JAR on this host.
    Jar,
    /// Tier 3: agents run without Conductor.
    Direct,
}

/// Everything that can be configured, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The stack's name.
    pub stack: String,
    /// Which tier to start.
    pub tier: TierChoice,
    /// Ports, all on 127.0.0.1.
    pub ports: Ports,
    /// The Conductor server.
    pub server: Server,
    /// Where Conductor and K1 keep their data, if not in the stack's own store.
    pub database: Database,
    /// A Redis that is not the stack's own.
    pub redis: Redis,
    /// The Docker tier.
    pub docker: Docker,
    /// Where archives are kept.
    pub repository: Repository,
    /// Who can read archives.
    pub encryption: Encryption,
    /// How backups are made, and how long they are kept.
    pub backup: Backup,
    /// What happens by itself.
    pub schedule: Schedule,
    /// Who is told how scheduled runs end.
    pub notify: Notify,
    /// What a monitoring system is told.
    pub metrics: Metrics,
    /// The time zone of schedules and of the days, weeks and months of retention: an IANA name such
    /// as `Europe/Berlin`, or `local` for this host's.
    pub timezone: String,
    /// What workers may run, by name.
    pub agents: std::collections::BTreeMap<String, Agent>,
}

/// Host ports of the stack's services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// Conductor's API.
    pub conductor: u16,
    /// `PostgreSQL` (docker tier).
    pub postgres: u16,
    /// Redis (docker tier).
    pub redis: u16,
    /// Elasticsearch (docker tier, if enabled).
    pub elasticsearch: u16,
    /// Prometheus (docker tier, if enabled).
    pub prometheus: u16,
    /// Grafana (docker tier, if enabled).
    pub grafana: u16,
}

/// The Conductor server, in whichever tier it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Conductor's version.
    pub version: String,
    /// A boot JAR to use as it is; empty: find or fetch one.
    pub jar: PathBuf,
    /// The boot JAR's SHA-256 in hex; empty: the known one of `version`.
    pub jar_sha256: String,
    /// Base URLs that serve the JAR in Maven's layout, tried in order.
    pub mirrors: Vec<String>,
    /// A Java home or `java` binary to use; empty: find the newest that fits.
    pub java: PathBuf,
    /// The JVM's maximum heap, as for `-Xmx`.
    pub heap: String,
    /// Seconds to wait for honest health; 0: the tier's own default (docker 90, jar 60).
    pub health_timeout: u64,
    /// Seconds a server may take to stop before it is killed.
    pub stop_timeout: u64,
    /// Start faster from the second start on, by an extracted JAR and an AOT cache.
    pub fast_start: bool,
    /// Further Conductor properties, passed through.
    pub properties: std::collections::BTreeMap<String, String>,
}

/// How much the Docker tier is shut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// For one host and its user: own passwords, every port on 127.0.0.1.
    #[default]
    Standard,
    /// The same, and nothing is said to `PostgreSQL` or Redis without TLS.
    Production,
}

/// A certificate of the user's own for `PostgreSQL` and Redis, in place of those that k1ops makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GivenTls {
    /// The authority's certificate (PEM); empty: k1ops is its own authority.
    pub authority: PathBuf,
    /// The server certificate (PEM), for `postgres`, `redis`, `localhost` and 127.0.0.1, and for
    /// `gateway` if there is one.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// The Docker tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// How much it is shut; `k1ops harden` changes it.
    pub profile: Profile,
    /// Prefix of container, volume and network names.
    pub prefix: String,
    /// `PostgreSQL`'s image.
    pub postgres_image: String,
    /// Redis's image.
    pub redis_image: String,
    /// Elasticsearch's image.
    pub elasticsearch_image: String,
    /// The Java runtime image that the server image is built from.
    pub java_image: String,
    /// Run Elasticsearch as well.
    pub elasticsearch: bool,
    /// Conductor servers; 0: as many as there are, and one at first.
    pub servers: u8,
    /// The image of the balancer before several servers (`HAProxy`).
    pub balancer_image: String,
    /// The Docker context of the engine, as `docker context ls` lists it; empty: as `DOCKER_HOST` or the current
    /// context say.
    pub context: String,
    /// The Compose command, such as `docker-compose`; empty: `docker compose`, else that one.
    pub compose: String,
    /// A certificate of the user's own (production).
    pub tls: GivenTls,
    /// The login before Conductor (production).
    pub gateway: Gateway,
    /// What watches the stack.
    pub monitoring: Monitoring,
}

/// Where archives are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repository {
    /// A folder; empty: `backups` in the stack's folder.
    pub path: PathBuf,
    /// A folder in an object store instead: `s3://BUCKET/FOLDER`, `az://CONTAINER/FOLDER`,
    /// `gs://BUCKET/FOLDER`, by `WebDAV` `https://HOST/FOLDER`, or `sftp://USER@HOST/FOLDER`.
    pub url: Secret,
    /// The object store's address, such as `https://minio.example.org`; empty: the provider's own.
    pub endpoint: String,
    /// The object store's region; empty: what the environment says, or the provider's default.
    pub region: String,
    /// A file of mode 0600 with the store's credentials, in lines such as `AWS_ACCESS_KEY_ID=…`;
    /// they go before those of the environment.
    pub credentials: PathBuf,
    /// The most that is written a second, such as `20 MB/s`; empty: as fast as it goes.
    pub bandwidth: String,
    /// For how long nobody can delete or replace an archive, such as `30 days`; empty: not locked. S3 with
    /// Object Lock only.
    pub locked_for: String,
    /// Against whom.
    pub lock_mode: LockMode,
    /// Further repositories, which every backup is copied to.
    pub copies: Vec<RepositoryCopy>,
}

/// Who can read archives. Without recipients and passphrase, everybody who has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Encryption {
    /// Public keys of `age` (`age1…`); any of their owners can read.
    pub recipients: Vec<String>,
    /// A file with more of them, one a line.
    pub recipients_file: PathBuf,
    /// A passphrase instead, as it is or as `file:PATH`.
    pub passphrase: Hidden,
    /// A file with private keys, which whoever restores needs, and whoever writes does not.
    pub identity: PathBuf,
}

/// How backups are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// Compression of the archive's members.
    pub compression: Compression,
    /// Compression level; 0: the algorithm's default here (zstd 3, gzip 6).
    pub level: i32,
    /// Connections and compression threads; 0: one for each idle CPU.
    pub jobs: usize,
    /// Seconds that `database.standby` may take to replay what the primary has when a backup begins;
    /// longer, and the primary is read.
    pub standby_lag: u64,
    /// Which archives `k1ops prune` keeps.
    pub keep: Keep,
    /// What a newer archive must have passed before an older one may be deleted.
    pub proof: ProofKind,
    /// Alarm instead of pruning when the newest archive's size or row count is below this share of
    /// the usual one, in percent; 0: never.
    pub shrink_alarm: u8,
}

/// Which archives are kept: the newest of each of so many hours, days, weeks, months and years.
/// What any rule keeps is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest archives, whenever they were made.
    pub last: u32,
    /// Hours with an archive.
    pub hourly: u32,
    /// Days with an archive.
    pub daily: u32,
    /// ISO weeks with an archive.
    pub weekly: u32,
    /// Months with an archive.
    pub monthly: u32,
    /// Years with an archive.
    pub yearly: u32,
    /// Everything this much older than the newest archive, such as `14d`; empty: no such rule.
    pub within: String,
    /// The newest safety archives of restores.
    pub safety: u32,
}

/// What proves an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofKind {
    /// `k1ops verify` read all of it.
    #[default]
    Verify,
    /// `k1ops drill` restored it and ran a server on it.
    Drill,
}

/// Against whom an archive is locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// All but those who have a right of their own for that.
    #[default]
    Governance,
    /// Everybody, the owner of the account too.
    Compliance,
}

/// What happens by itself, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// A cron expression of five fields, or hourly, daily, weekly, monthly or yearly.
    pub at: String,
    /// By how much a run may be late on purpose, so that not all hosts do the same at once.
    pub jitter: String,
    /// Read each backup back as a whole, which is what proves it.
    pub verify: bool,
    /// Delete what no rule keeps, once the new backup is proven.
    pub prune: bool,
    /// How often a run ends with a drill, written as `at` is; `never`: not at all.
    pub drill: String,
}

/// What a monitoring system is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A file for node exporter's textfile collector, written after each start, backup, scheduled run and hourly
    /// check; empty: none.
    pub textfile: PathBuf,
}

/// Who is told how scheduled runs end. Each secret is a value, or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// A URL that takes a JSON object.
    pub webhook: Hidden,
    /// An incoming webhook of Slack, or of what understands the same (Mattermost, Rocket.Chat).
    pub slack: Hidden,
    /// The URL of a topic of ntfy.
    pub ntfy: Hidden,
    /// A token for ntfy.
    pub ntfy_token: Hidden,
    /// A ping URL of healthchecks.io or its like, which alarms when no ping comes.
    pub healthchecks: Hidden,
    /// Tell also when a run is good again after one that was not.
    pub recovery: bool,
    /// Tell when there is no good backup for so many hours; 0: never.
    pub no_backup_hours: u32,
    /// E-mail.
    pub email: Email,
}

/// E-mail by SMTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Email {
    /// Who gets it; empty: nobody.
    pub to: Vec<String>,
    /// Who it is from.
    pub from: String,
    /// The server's name.
    pub server: String,
    /// The server's port; 0: what is usual for `security`.
    pub port: u16,
    /// How the connection is protected.
    pub security: EmailSecurity,
    /// The user, if the server asks for one.
    pub user: String,
    /// The password.
    pub password: Hidden,
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailSecurity {
    /// TLS from the first byte (port 465).
    #[default]
    Tls,
    /// TLS after a greeting, and nothing without (port 587).
    Starttls,
    /// None: for a server on this host (port 25).
    None,
}

/// Compression of the archive's members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard.
    #[default]
    Zstd,
    /// gzip.
    Gzip,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stack: "k1".to_owned(),
            tier: TierChoice::Auto,
            ports: Ports::default(),
            server: Server::default(),
            database: Database::default(),
            redis: Redis::default(),
            docker: Docker::default(),
            repository: Repository::default(),
            encryption: Encryption::default(),
            backup: Backup::default(),
            schedule: Schedule::default(),
            notify: Notify::default(),
            metrics: Metrics::default(),
            timezone: "local".to_owned(),
            agents: std::collections::BTreeMap::new(),
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            conductor: 8080,
            postgres: 5432,
            redis: 6379,
            elasticsearch: 9200,
            prometheus: 9090,
            grafana: 3000,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            version: "3.32.1".to_owned(),
            jar: PathBuf::new(),
            jar_sha256: String::new(),
            mirrors: Vec::new(),
            java: PathBuf::new(),
            heap: "1g".to_owned(),
            health_timeout: 0,
            stop_timeout: 30,
            fast_start: true,
            properties: std::collections::BTreeMap::new(),
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            prefix: "conductor".to_owned(),
            postgres_image: "postgres:15-alpine".to_owned(),
            redis_image: "redis:7-alpine".to_owned(),
            elasticsearch_image: "docker.elastic.co/elasticsearch/elasticsearch:7.17.15".to_owned(),
            java_image: "eclipse-temurin:21-jre".to_owned(),
            elasticsearch: false,
            servers: 0,
            balancer_image: "haproxy:3.0-alpine".to_owned(),
            context: String::new(),
            compose: String::new(),
            tls: GivenTls::default(),
            gateway: Gateway::default(),
            monitoring: Monitoring::default(),
        }
    }
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd,
            level: 0,
            jobs: 0,
            standby_lag: 60,
            keep: Keep::default(),
            proof: ProofKind::default(),
            shrink_alarm: 50,
        }
    }
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            webhook: Hidden::default(),
            slack: Hidden::default(),
            ntfy: Hidden::default(),
            ntfy_token: Hidden::default(),
            healthchecks: Hidden::default(),
            recovery: true,
            no_backup_hours: 26,
            email: Email::default(),
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            at: "15 3 * * *".to_owned(),
            jitter: "10m".to_owned(),
            verify: true,
            prune: true,
            drill: "weekly".to_owned(),
        }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            last: 3,
            hourly: 0,
            daily: 7,
            weekly: 5,
            monthly: 12,
            yearly: 3,
            within: String::new(),
            safety: 3,
        }
    }
}
