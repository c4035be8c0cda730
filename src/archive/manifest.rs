//! What is in an archive: `format.json` (first member) and `manifest.json` (last member).

use super::{Codec, RowDigest};
use crate::error::{Context, Error, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The archive format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// `format.json`: what can be said before anything is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format's version.
    pub format: u32,
    /// The tool that wrote it, such as `k1ops 0.1.0`.
    pub tool: String,
    /// The stack's name.
    pub stack: String,
    /// When the backup began.
    pub started_at: DateTime<Utc>,
}

/// `manifest.json`: everything that was backed up. An archive without it is no backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The same as in `format.json`.
    #[serde(flatten)]
    pub header: Header,
    /// When everything was written.
    pub finished_at: DateTime<Utc>,
    /// The tier that the stack ran on, if it ran.
    pub tier: Option<String>,
    /// The Conductor version that the stack is configured for.
    pub conductor_version: String,
    /// In tier 1: the images that the services run, by service. A registry's digest where there is
    /// one, else the image's own ID.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// What was backed up.
    pub sources: Vec<Source>,
    /// What was not, and why.
    pub left_out: Vec<LeftOut>,
    /// Every member before this one, in the order of the file.
    pub members: Vec<Member>,
}

/// A thing that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// One member of the tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its path in the tar.
    pub path: String,
    /// Where its content begins in the file, in bytes.
    pub offset: u64,
    /// The size of its content as stored, in bytes.
    pub size: u64,
    /// SHA-256 of its content as stored, in hex.
    pub sha256: String,
    /// How it is compressed.
    pub codec: Codec,
    /// Its size when uncompressed, in bytes.
    pub raw_size: u64,
    /// Of a member that holds rows in `COPY`'s text format: their digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowDigest>,
}

/// A thing that was backed up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Source {
    /// A `PostgreSQL` database, under `postgres/`.
    Postgres(Box<PostgresSource>),
    /// An `SQLite` database, under `sqlite/NAME/`.
    Sqlite(SqliteSource),
    /// A `PostgreSQL` cluster's files, taken while it ran, under `volumes/NAME/`.
    Physical(PhysicalSource),
    /// The files of another volume, under `volumes/NAME/`.
    Volume(VolumeSource),
    /// The stack's configuration without secrets, under `config/`.
    Config(ConfigSource),
}

/// A logical backup of one database in one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostgresSource {
    /// The database's name.
    pub database: String,
    /// The server's version, such as `15.18`.
    pub server_version: String,
    /// The server's major version.
    pub server_major: u32,
    /// The write-ahead log position of the snapshot.
    pub lsn: String,
    /// The database's owner.
    pub owner: String,
    /// Encoding, such as `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// Where the sort order comes from; older archives do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<LocaleProvider>,
    /// `ALTER DATABASE ... SET`, `GRANT ... ON DATABASE` and `COMMENT ON DATABASE`, with the name
    /// written as `:database:`.
    pub database_sql: Vec<String>,
    /// Roles that own something, are granted something or have settings in the database, and the
    /// groups that these are in.
    pub roles: Vec<Role>,
    /// Tables, in the order of their data's folders.
    pub tables: Vec<PostgresTable>,
    /// How many sequences were set.
    pub sequences: u64,
    /// Large objects.
    #[serde(default)]
    pub large_objects: LargeObjects,
    /// Of a server that was a standby: what it had of its primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<FromStandby>,
}

/// Where a database has its sort order from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocaleProvider {
    /// `libc`, whose locales are `LC_COLLATE` and `LC_CTYPE`, `icu` or `builtin`.
    pub provider: String,
    /// The provider's own locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// More rules for ICU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

/// What a standby had of its primary when a backup read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromStandby {
    /// The cluster's identifier, which the two share.
    pub system_identifier: String,
    /// What it had replayed when it began to be read, such as `0/3000028`. Everything that was committed
    /// before is in the backup.
    pub replayed_lsn: String,
    /// Where the primary was when the backup began; `None` if it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_lsn: Option<String>,
    /// How many bytes the standby was behind at that moment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_bytes: Option<u64>,
    /// and how many milliseconds it took to replay them, before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caught_up_ms: Option<u64>,
}

/// The large objects of a database, as lines of `lo_put` under `postgres/large-objects/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObjects {
    /// How many there are.
    pub count: u64,
    /// How many parts there are.
    pub parts: u32,
    /// The digest of the lines.
    pub digest: RowDigest,
}

/// A role that the database's objects need. Passwords are not backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// `CREATE ROLE`'s attributes, such as `NOSUPERUSER LOGIN`.
    pub attributes: String,
    /// Roles of this list, and predefined ones, that it is a member of.
    pub member_of: Vec<String>,
    /// By group, how it is a member, if not as usual: what follows `WITH`, such as `ADMIN OPTION`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub member_with: BTreeMap<String, String>,
    /// `ALTER ROLE ... SET` and `COMMENT ON ROLE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
}

/// A table's columns as `COPY` takes them, quoted; empty where all are meant.
pub type ColumnList = Vec<String>;

/// A table whose rows are in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The folder of its parts: `postgres/data/00001-public.task`.
    pub folder: String,
    /// Columns, in `COPY`'s order.
    pub columns: ColumnList,
    /// An extension's own condition for what belongs to the user's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// How many parts there are.
    pub parts: u32,
    /// All rows' digest at the snapshot.
    pub digest: RowDigest,
}

/// An `SQLite` database, page by page in one read transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteSource {
    /// What it holds: `conductor` or `k1`.
    pub name: String,
    /// The folder of its parts: `sqlite/conductor`.
    pub folder: String,
    /// Bytes in a page.
    pub page_size: u64,
    /// Pages.
    pub pages: u64,
    /// The library's version.
    pub sqlite_version: String,
    /// How many parts there are.
    pub parts: u32,
    /// Every ordinary table's digest in the same transaction.
    pub tables: Vec<SqliteTable>,
}

/// An `SQLite` table's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteTable {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub digest: RowDigest,
}

/// A physical backup of a whole `PostgreSQL` cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalSource {
    /// The volume that the data directory is in.
    pub volume: String,
    /// The folder of its archives and of the server's `backup_manifest`: `volumes/VOLUME`.
    pub folder: String,
    /// The server's version, such as `15.18`.
    pub server_version: String,
    /// The server's major version; only the same one can start on these files.
    pub server_major: u32,
    /// The cluster's identifier, as `initdb` gave it.
    pub system_identifier: String,
    /// The timeline at the end.
    pub timeline: u32,
    /// Where the write-ahead log that is needed begins.
    pub start_lsn: String,
    /// Where it ends; from here on the files are consistent.
    pub end_lsn: String,
    /// Bytes in a segment of the write-ahead log.
    pub wal_segment_size: u64,
    /// The tar streams: `base`, and one for each tablespace.
    pub archives: Vec<PhysicalArchive>,
    /// Files that the server's manifest names.
    pub files: u64,
    /// Of a server that was a standby: what it had of its primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Box<FromStandby>>,
}

/// A tar stream of a physical backup, in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalArchive {
    /// `base`, or the tablespace's object identifier. Also the name of the folder of its parts.
    pub name: String,
    /// Of a tablespace: its folder on the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// How many parts there are.
    pub parts: u32,
    /// Bytes of the tar stream.
    pub size: u64,
}

impl PhysicalSource {
    /// The name of the archive with the data directory.
    pub const BASE: &str = "base";

    /// What the data directory of a server by URL goes under: no volume gives it a name.
    pub const SERVER: &str = "postgres";

    /// The folder of an archive's parts.
    #[must_use]
    pub fn parts_folder(&self, archive: &PhysicalArchive) -> String {
        format!("{}/{}", self.folder, archive.name)
    }

    /// The member that holds the server's manifest.
    #[must_use]
    pub fn manifest_path(&self) -> String {
        format!("{}/backup_manifest", self.folder)
    }

    /// Bytes of all tar streams.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.archives.iter().map(|a| a.size).sum()
    }
}

/// The files of a volume, as one tar stream in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSource {
    /// The volume's name.
    pub volume: String,
    /// The service that it belongs to, as the Compose file calls it.
    pub service: String,
    /// What the stream holds.
    pub content: VolumeContent,
    /// The folder of its parts: `volumes/VOLUME`.
    pub folder: String,
    /// How many parts there are.
    pub parts: u32,
    /// Bytes of the tar stream.
    pub size: u64,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// The entries in it, folders included, and their digest.
    pub entries: RowDigest,
}

/// What the tar stream of a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeContent {
    /// The volume's files.
    Files,
    /// The snapshot that Redis took of itself: `dump.rdb`.
    RedisSnapshot,
    /// A snapshot repository of Elasticsearch with one snapshot.
    ElasticsearchSnapshot,
}

/// The stack's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSource {
    /// Its member.
    pub path: String,
}

/// The manifest with a checksum of its own bytes, so that a flipped bit in it is found too.
#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    sha256: String,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

impl Header {
    /// Reads `format.json` and refuses a format that is newer than this tool.
    pub fn parse(json: &[u8]) -> Result<Self> {
        /// Only what every future format keeps.
        #[derive(Deserialize)]
        struct Any {
            format: u32,
            tool: Option<String>,
        }
        let any: Any = serde_json::from_slice(json)
            .map_err(|e| Error::bad_data("format.json cannot be read").because(e))?;
        if any.format > FORMAT {
            let tool = any.tool.unwrap_or_else(|| "a newer tool".to_owned());
            return Err(Error::bad_data(format!(
                "the archive has format {}, written by {tool}; this k1ops reads up to format {FORMAT}",
                any.format
            ))
            .hint("Use the k1ops that wrote it, or a newer one."));
        }
        serde_json::from_slice(json)
            .map_err(|e| Error::bad_data("format.json cannot be read").because(e))
    }
}

impl Manifest {
    /// The bytes of `manifest.json`.
    pub fn seal(&self) -> Result<Vec<u8>> {
        let cannot = || "the manifest cannot be written as JSON";
        let text = serde_json::to_string_pretty(self).context(cannot)?;
        let manifest: Box<RawValue> = RawValue::from_string(text).context(cannot)?;
        let sha256 = hex::encode(Sha256::digest(manifest.get()));
        let mut bytes = serde_json::to_vec(&Sealed {
            sha256,
            manifest: &manifest,
        })
        .context(cannot)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads `manifest.json` and checks its own checksum.
    pub fn unseal(json: &[u8]) -> Result<Self> {
        let damaged = |what: &str| {
            Error::bad_data(format!("the archive's manifest {what}"))
                .hint("Use another archive; `k1ops list` shows which there are.")
        };
        let sealed: Sealed<'_> =
            serde_json::from_slice(json).map_err(|e| damaged("cannot be read").because(e))?;
        if hex::encode(Sha256::digest(sealed.manifest.get())) != sealed.sha256 {
            return Err(damaged("does not match its own checksum"));
        }
        let manifest: Self = serde_json::from_str(sealed.manifest.get())
            .map_err(|e| damaged("is not of a form that this k1ops knows").because(e))?;
        if manifest.counts_fit().is_none() {
            return Err(damaged("counts more than there can be"));
        }
        Ok(manifest)
    }

    /// Whether every sum that is made of the manifest's numbers fits; somebody else may have
    /// written them.
    fn counts_fit(&self) -> Option<()> {
        fn sum(numbers: impl Iterator<Item = u64>) -> Option<u64> {
            let mut sum = 0_u64;
            for number in numbers {
                sum = sum.checked_add(number)?;
            }
            Some(sum)
        }
        sum(self.members.iter().map(|m| m.raw_size))?;
        sum(self.members.iter().filter_map(|m| Some(m.rows?.rows)))?;
        let mut rows = 0_u64;
        let mut pages = 0_u64;
        for source in &self.sources {
            let more = match source {
                Source::Postgres(p) => sum(p.tables.iter().map(|t| t.digest.rows))?,
                Source::Sqlite(s) => {
                    let size = s.page_size.checked_mul(s.pages)?;
                    // Room for the margin that is left free on a disk.
                    pages = pages.checked_add(size)?;
                    pages.checked_add(1 << 40)?;
                    sum(s.tables.iter().map(|t| t.digest.rows))?
                }
                Source::Physical(p) => {
                    sum(p.archives.iter().map(|a| a.size))?;
                    0
                }
                Source::Volume(_) | Source::Config(_) => 0,
            };
            rows = rows.checked_add(more)?;
        }
        Some(())
    }

    /// The `PostgreSQL` database, if there is one.
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresSource> {
        self.sources.iter().find_map(|source| match source {
            Source::Postgres(postgres) => Some(&**postgres),
            _ => None,
        })
    }

    /// The `SQLite` databases.
    pub fn sqlite(&self) -> impl Iterator<Item = &SqliteSource> {
        self.sources.iter().filter_map(|source| match source {
            Source::Sqlite(sqlite) => Some(sqlite),
            _ => None,
        })
    }

    /// The physical backups.
    pub fn physical(&self) -> impl Iterator<Item = &PhysicalSource> {
        self.sources.iter().filter_map(|source| match source {
            Source::Physical(physical) => Some(physical),
            _ => None,
        })
    }

    /// Whether the database is there only as the data directory of its server, not as rows.
    #[must_use]
    pub fn is_physical(&self) -> bool {
        self.postgres().is_none() && self.physical().next().is_some()
    }

    /// The volumes that are there as files.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeSource> {
        self.sources.iter().filter_map(|source| match source {
            Source::Volume(volume) => Some(volume),
            _ => None,
        })
    }

    /// The members of a folder, in the order of the file.
    pub fn members_in<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |m| {
            m.path
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// All rows of all sources.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let of = |source: &Source| match source {
            Source::Postgres(p) => p.tables.iter().map(|t| t.digest.rows).sum(),
            Source::Sqlite(s) => s.tables.iter().map(|t| t.digest.rows).sum(),
            Source::Physical(_) | Source::Volume(_) | Source::Config(_) => 0,
        };
        self.sources.iter().map(of).sum()
    }
}
