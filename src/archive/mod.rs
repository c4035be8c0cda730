//! The archive: one backup in one file, an ordinary tar whose manifest comes last.
//!
//! `docs/archive-format.md` specifies the format. This module knows bytes, members and checksums;
//! it does not know where data comes from or goes to, nor where archives are kept.

pub mod backup_manifest;
mod buffers;
mod codec;
mod manifest;
mod parts;
mod pgdata;
mod reader;
mod rows;
mod sealed;
mod tape;
mod tar_guard;
pub mod tree;
mod verify;
mod writer;

pub use codec::{Codec, CodecSettings, Effort};
pub use manifest::{
    ColumnList, ConfigSource, FORMAT, FromStandby, Header, LargeObjects, LeftOut, LocaleProvider,
    Manifest, Member, PhysicalArchive, PhysicalSource, PostgresSource, PostgresTable, Role, Source,
    SqliteSource, SqliteTable, VolumeContent, VolumeSource,
};
pub use parts::{PartsReader, part_path};
pub use pgdata::{Entry, PgDataCheck, walk};
pub use reader::{Archive, MemberReader, SMALL_MEMBER};
pub use rows::RowDigest;
pub use sealed::{
    Keys, Lock, Opened, OwnKey, SEALED_EXTENSION, Seal, Sealing, is_sealed, seal_whole,
};
pub use verify::{Depth, Verified, verify, verify_part};
pub use writer::{NewMember, Writer};

/// The extension of a finished archive.
pub const EXTENSION: &str = "tar";

/// What is appended to an archive's name while it is being written.
pub const PARTIAL_SUFFIX: &str = ".partial";
