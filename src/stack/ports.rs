//! Ports for a stack that is not to meet another one.

use crate::config::Ports;
use crate::error::{Context, Result};
use std::net::TcpListener;

/// Ports on 127.0.0.1 that nobody listens on now.
pub fn free_ports() -> Result<Ports> {
    let cannot = || "no free port can be found on 127.0.0.1";
    // All are held until all are known, so that they differ.
    let mut held = Vec::new();
    let mut ports = [0; 4];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context(cannot)?;
        *port = listener.local_addr().context(cannot)?.port();
        held.push(listener);
    }
    let [conductor, postgres, redis, elasticsearch] = ports;
    Ok(Ports {
        conductor,
        postgres,
        redis,
        elasticsearch,
    })
}
