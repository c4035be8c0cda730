//! The volume of tier 1's `PostgreSQL` was made by the major version that its image is.

use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::stack::Tier;
use crate::stack::docker::Service;
use std::path::Path;
use std::sync::Arc;

const PGDATA: &str = "/var/lib/postgresql/data";

pub(super) struct Volume;

impl Check for Volume {
    fn name(&self) -> &'static str {
        "volume"
    }

    fn group(&self) -> Group {
        Group::Database
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    if patient.tier().await != Tier::Docker {
        return Ok(Examined::skipped(
            "only tier 1 keeps its database in a volume",
        ));
    }
    if patient.service_runs(Service::Postgres).await {
        // To look into a volume takes a container; a server that runs has found it to fit.
        return Ok(Examined::well("the server that runs has taken its volume"));
    }
    let Some(engine) = patient.engine_soon().await else {
        return Ok(Examined::skipped("there is no engine to ask"));
    };
    let deployment = patient.deployment()?;
    let name = deployment.volume(Service::Postgres);
    if engine.volume(&name).await?.is_none() {
        return Ok(Examined::skipped(format!("there is no volume {name} yet")));
    }
    let image = &patient.stack.config.docker.postgres_image;
    let wanted = engine.image(image).await?;
    let Some(wanted) = wanted.and_then(|image| image.env.get("PG_MAJOR").cloned()) else {
        return Ok(Examined::skipped(format!(
            "image {image} is not here, or names no version"
        )));
    };
    let (place, file) = (Path::new(PGDATA), Path::new("PG_VERSION"));
    let found = engine.read_small_file(&name, image, place, file).await?;
    let Some(found) = found else {
        return Ok(Examined::well(format!("{name} holds no database yet")));
    };
    let found = String::from_utf8_lossy(&found).trim().to_owned();
    if found == wanted {
        return Ok(Examined::well(format!(
            "{name} is of PostgreSQL {found}, as the image is"
        )));
    }
    Ok(Finding::problem(
        ErrorKind::BadData,
        format!("volume {name} is of PostgreSQL {found}, and image {image} is PostgreSQL {wanted}"),
    )
    .because("a major version does not read the files of another one")
    .advise(format!(
        "Go back to an image of PostgreSQL {found}; to move on, back up with it, and restore into a \
         new volume."
    ))
    .remedy(format!("export K1OPS_DOCKER_POSTGRES_IMAGE=postgres:{found}-alpine"))
    .into())
}
