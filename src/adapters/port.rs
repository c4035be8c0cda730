//! TCP ports of this host: which are free, and who holds the others.

use std::net::{Ipv4Addr, TcpListener};

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its process ID.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// Whether a server could listen on 127.0.0.1:`port` now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Who listens on `port`, as far as this user may see it.
#[must_use]
pub fn owner(port: u16) -> Option<Owner> {
    let process = listeners::get_process_by_port(port, listeners::Protocol::TCP).ok()?;
    Some(Owner {
        pid: process.pid,
        name: process.name,
    })
}

/// The first free port above `port`, or any free one.
#[must_use]
pub fn free_near(port: u16) -> Option<u16> {
    (port.saturating_add(1)..=port.saturating_add(200))
        .find(|&near| near != port && is_free(near))
        .or_else(any_free)
}

/// Any free port.
#[must_use]
pub fn any_free() -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    listener.local_addr().ok().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_owner_and_a_free_one_nearby() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        assert_eq!(owner(port).unwrap().pid, std::process::id());
        assert_ne!(free_near(port).unwrap(), port);
        drop(listener);
        assert!(is_free(port));
        assert_eq!(owner(port), None);
    }
}
