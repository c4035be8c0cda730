//! The configuration can be read, and nothing in it is overruled unawares.

use super::word;
use crate::config::Origin;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use std::sync::Arc;

pub(super) struct Configuration;

impl Check for Configuration {
    fn name(&self) -> &'static str {
        "configuration"
    }

    fn group(&self) -> Group {
        Group::Configuration
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { Ok(look(&patient)) })
    }
}

fn look(patient: &Patient) -> Examined {
    if let Some(error) = &patient.unreadable {
        return Finding::of(error)
            .because("everything below was looked at with the default settings")
            .remedy(format!("${{EDITOR:-vi}} {}", word(&patient.config_file())))
            .into();
    }
    let origins = patient.loaded.origins.values();
    let set = origins.filter(|origin| **origin != Origin::Default).count();
    Examined::well(match &patient.loaded.file {
        Some(file) => format!("{} and {set} values set", file.display()),
        None if set == 0 => "the defaults, no k1ops.toml".to_owned(),
        None => format!("no k1ops.toml, {set} values set by variables or flags"),
    })
}
