//! The engine that the stack's volumes are on, noted down by whoever makes them. Another engine, such as the local one
//! where `DOCKER_HOST` was forgotten, would be given an empty database, and the next backup would be one of nothing.

use super::{Deployment, Service};
use crate::adapters::docker::Engine;
use crate::adapters::fs;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::stack::Stack;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An engine, as it is noted down.
#[derive(Debug, Serialize, Deserialize)]
struct Home {
    /// What it calls itself, the same as long as its data lives.
    id: String,
    /// What people call it.
    name: String,
}

/// Fails if the stack's database is on another engine.
pub(super) async fn check(stack: &Stack, engine: &Engine, deployment: &Deployment) -> Result<()> {
    let file = file(stack);
    let Some(text) = fs::read_if_there(&file)? else {
        return Ok(());
    };
    let unreadable = || format!("{} cannot be read", file.display());
    let home: Home = serde_json::from_slice(&text).context_kind(ErrorKind::BadData, unreadable)?;
    let is_same = engine.id().is_none_or(|id| id == home.id);
    let volume = deployment.volume(Service::Postgres);
    if is_same || engine.volume(&volume).await?.is_some() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the data of stack {} is on {}, and this is {}, where there is no volume {volume}",
        stack.name,
        home.name,
        engine.name()
    ))
    .hint(format!(
        "Set DOCKER_HOST, or docker.context in k1ops.toml, to that engine. To begin with nothing on this one: rm {}",
        file.display()
    )))
}

/// Notes down that the stack's volumes are on this engine.
pub(super) fn note(stack: &Stack, engine: &Engine) -> Result<()> {
    let Some(id) = engine.id() else {
        return Ok(());
    };
    let home = Home {
        id: id.to_owned(),
        name: engine.name(),
    };
    let mut text = serde_json::to_vec_pretty(&home).context(|| "a note cannot be made")?;
    text.push(b'\n');
    fs::write_atomically(&file(stack), &text)
}

/// The stack has no data on any engine.
pub(super) fn forget(stack: &Stack) -> Result<()> {
    fs::remove_if_there(&file(stack))
}

fn file(stack: &Stack) -> PathBuf {
    stack.docker_folder().join("engine.json")
}
