//! How large a database is, and which folder its server keeps it in.

use super::{Address, Session, server_message};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Bytes that the database takes on its server's disk, indexes and dead rows included.
pub async fn database_size(address: &Address) -> Result<u64> {
    let session = Session::open(address).await?;
    let row = session
        .query_one("SELECT pg_database_size(current_database())", &[])
        .await
        .map_err(|e| {
            Error::failed(format!(
                "the size of the database cannot be read: {}",
                server_message(&e)
            ))
        })?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}

/// The server's data directory, if the server is on this host and says where it is. A server behind
/// a forwarded port may say a path of another host, so the folder must look like one of its kind.
pub async fn local_data_directory(address: &Address) -> Option<PathBuf> {
    let host = address.host();
    let local = host.starts_with('/') || matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
    if !local {
        return None;
    }
    let session = super::admin::maintenance(address, &[]).await.ok()?;
    // Only a superuser, or a member of pg_read_all_settings, is told.
    let row = session.query_one("SHOW data_directory", &[]).await.ok()?;
    let folder = PathBuf::from(row.get::<_, String>(0));
    folder.join("PG_VERSION").is_file().then_some(folder)
}
