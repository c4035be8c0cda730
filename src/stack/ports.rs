//! Ports for a stack that is not to meet another one.

use crate::adapters::port;
use crate::config::Ports;
use crate::error::{Error, Result};

/// Ports on 127.0.0.1 that nobody listens on now.
pub fn free_ports() -> Result<Ports> {
    let free = || port::any_free().ok_or_else(|| Error::missing("no port is free on 127.0.0.1"));
    Ok(Ports {
        conductor: free()?,
        postgres: free()?,
        redis: free()?,
        elasticsearch: free()?,
        prometheus: free()?,
        grafana: free()?,
    })
}
