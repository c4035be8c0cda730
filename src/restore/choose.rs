//! Which parts of an archive a restore takes, by what the stack uses and what was asked for.

use super::plan::{Part, PlannedPart};
use super::swap::server_of;
use super::volume::VolumeOf;
use crate::adapters::docker::Engine;
use crate::adapters::postgres::{Address, admin};
use crate::archive::{Archive, LeftOut, Source};
use crate::backup::sqlite_files;
use crate::error::{Error, Result};
use crate::repository::describe;
use crate::stack::Stack;
use crate::stack::docker::{Deployment, Service};
use std::path::Path;

/// The command that takes one member out of an archive.
fn taking_out(archive: &Path, member: &str) -> String {
    let path = archive.display();
    if archive.extension().is_some_and(|end| end == "age") {
        format!("age -d -i KEY {path} | tar xf - {member}")
    } else {
        format!("tar xf {path} {member}")
    }
}

/// Chooses parts, and says why the others are not taken.
pub(super) async fn choose(
    stack: &Stack,
    archive: &Archive,
    only: &[Part],
) -> Result<(Vec<PlannedPart>, Vec<LeftOut>)> {
    let (mut parts, mut not_restored) = (Vec::new(), Vec::new());
    for source in &archive.manifest().sources {
        if let Source::Config(config) = source {
            not_restored.push(LeftOut {
                what: describe(source),
                why: format!(
                    "k1ops.toml is yours; take it out with: {}",
                    taking_out(archive.path(), &config.path)
                ),
            });
        } else if !only.is_empty() && !only.iter().any(|part| part.takes(source)) {
            not_restored.push(LeftOut {
                what: describe(source),
                why: "not among what --only names".to_owned(),
            });
        } else if let Some(why) = passed_over(stack, archive, source, only).await? {
            not_restored.push(LeftOut {
                what: describe(source),
                why,
            });
        } else {
            parts.push(planned(stack, archive, source).await?);
        }
    }
    if parts.is_empty() && archive.manifest().is_physical() {
        let error = archive.bad("holds the data directory of a server and no rows of a database");
        return Err(error.hint(
            "It is restored into a folder: add --into FOLDER, and start PostgreSQL on that.",
        ));
    }
    if parts.is_empty() {
        let error = archive.bad("holds nothing of what is to be restored");
        return Err(error.hint("`k1ops list` shows what each archive holds."));
    }
    check_kind(stack, archive, &parts, only)?;
    check_twice(&parts)?;
    Ok((parts, not_restored))
}

async fn planned(stack: &Stack, archive: &Archive, source: &Source) -> Result<PlannedPart> {
    let what = describe(source);
    match source {
        Source::Postgres(postgres) => {
            if !stack.uses_database_url() {
                return Err(wrong_kind(
                    stack,
                    archive,
                    "a PostgreSQL database",
                    "in SQLite files",
                )
                .hint("Set database.url to the server that it belongs to, or restore only the rest with --only sqlite."));
            }
            let address = stack.database_address()?;
            let live = address.database().to_owned();
            Ok(PlannedPart::Postgres {
                what,
                server: server_of(&address),
                replaces: is_there(stack, &address, &live).await?,
                live,
                rows: postgres.tables.iter().map(|t| t.digest.rows).sum(),
            })
        }
        Source::Sqlite(sqlite) => {
            let live = sqlite_files(stack)
                .into_iter()
                .find_map(|(name, path)| (name == sqlite.name).then_some(path))
                .ok_or_else(|| {
                    archive.bad(format!(
                        "holds an unknown SQLite database {:?}",
                        sqlite.name
                    ))
                })?;
            Ok(PlannedPart::Sqlite {
                what,
                replaces: live.exists(),
                live,
                rows: sqlite.tables.iter().map(|t| t.digest.rows).sum(),
                bytes: sqlite.page_size * sqlite.pages,
                source: sqlite.clone(),
            })
        }
        Source::Physical(cluster) => {
            planned_volume(stack, what, VolumeOf::Cluster(cluster.clone())).await
        }
        Source::Volume(volume) => {
            planned_volume(stack, what, VolumeOf::Files(volume.clone())).await
        }
        Source::Config(_) => Err(archive.bad("holds a configuration that cannot be restored")),
    }
}

/// Why a source is not restored although nobody said so.
async fn passed_over(
    stack: &Stack,
    archive: &Archive,
    source: &Source,
    only: &[Part],
) -> Result<Option<String>> {
    let (Source::Volume(_) | Source::Physical(_)) = source else {
        return Ok(None);
    };
    if !stack.is_in_docker()? {
        if only.is_empty() {
            return Ok(Some(format!("stack {} has no volumes", stack.name)));
        }
        return Err(wrong_kind(stack, archive, "volumes", "outside of Docker")
            .hint("Start the stack on tier 1 first (k1ops start --tier docker), or unpack the volume as RESTORE.txt says."));
    }
    if !only.is_empty() {
        return Ok(None);
    }
    match source {
        Source::Physical(cluster) if archive.manifest().postgres().is_some() => Ok(Some(format!(
            "its database is restored from its rows; the whole cluster comes back with --only volume:{}",
            cluster.volume
        ))),
        Source::Volume(volume) if volume.service == Service::Server.key() => {
            let live = Deployment::of(stack)?.volume(Service::Server);
            let there = Engine::find().await?.volume(&live).await?.is_some();
            Ok(there.then(|| {
                format!(
                    "the present logs stay; those of the backup come back with --only volume:{}",
                    volume.volume
                )
            }))
        }
        _ => Ok(None),
    }
}

async fn planned_volume(stack: &Stack, what: String, source: VolumeOf) -> Result<PlannedPart> {
    let service = source.service().ok_or_else(|| {
        Error::bad_data(format!("{what} belongs to a service that is not known"))
            .hint("Use the k1ops that wrote the archive, or a newer one.")
    })?;
    let live = Deployment::of(stack)?.volume(service);
    Ok(PlannedPart::Volume {
        what,
        service,
        replaces: Engine::find().await?.volume(&live).await?.is_some(),
        live,
        bytes: source.bytes(),
        source: Box::new(source),
    })
}

/// Whether there is a database that is replaced. That of tier 1 need not run for it to be told.
pub(super) async fn is_there(stack: &Stack, address: &Address, live: &str) -> Result<bool> {
    if stack.is_in_docker()? {
        let engine = Engine::find().await?;
        let deployment = Deployment::of(stack)?;
        let container = deployment.container(&engine, Service::Postgres).await?;
        if !container.is_some_and(|container| container.is_running()) {
            let volume = deployment.volume(Service::Postgres);
            return Ok(engine.volume(&volume).await?.is_some());
        }
    }
    admin::database_exists(address, live).await
}

/// An archive of `SQLite` files alone is not what a stack on `PostgreSQL` is restored from, unless
/// that is asked for.
fn check_kind(
    stack: &Stack,
    archive: &Archive,
    parts: &[PlannedPart],
    only: &[Part],
) -> Result<()> {
    let has_postgres = parts
        .iter()
        .any(|part| matches!(part, PlannedPart::Postgres { .. }));
    if stack.uses_database_url() && !has_postgres && only.is_empty() {
        return Err(wrong_kind(
            stack,
            archive,
            "SQLite databases only",
            "in PostgreSQL",
        )
        .hint("Clear database.url to go back to SQLite, or restore the files anyway with --only sqlite."));
    }
    Ok(())
}

/// A database and the cluster that it is in cannot both come back.
fn check_twice(parts: &[PlannedPart]) -> Result<()> {
    let rows = parts
        .iter()
        .any(|part| matches!(part, PlannedPart::Postgres { .. }));
    let cluster = parts.iter().any(
        |part| matches!(part, PlannedPart::Volume { service, .. } if *service == Service::Postgres),
    );
    if rows && cluster {
        return Err(
            Error::usage("--only names the database and the volume that it is in")
                .hint("Name one of the two."),
        );
    }
    Ok(())
}

pub(super) fn wrong_kind(stack: &Stack, archive: &Archive, holds: &str, keeps: &str) -> Error {
    archive.bad(format!(
        "holds {holds}, but stack {} keeps its data {keeps}",
        stack.name
    ))
}
