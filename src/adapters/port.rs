//! TCP ports of this host: which are free, who listens on the others, and on which addresses.

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process, all_processes};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its process ID.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its process ID.
    pub pid: u32,
    /// Its name, such as `nginx`.
    pub name: String,
    /// Its whole command line.
    pub command: String,
    /// The folder it works in, as far as that may be seen.
    pub folder: Option<PathBuf>,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// The address: a wildcard, loopback, or one of the host's own.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The user's name, or the number where it has none. Everybody may see this much.
    pub user: String,
    /// The process; none where this user may not see it.
    pub holder: Option<Holder>,
}

impl Listening {
    /// Whoever reaches the host reaches this socket.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        !self.address.is_loopback()
    }

    /// For example `127.0.0.1:8080`, `[::]:8080`.
    #[must_use]
    pub fn place(&self) -> String {
        std::net::SocketAddr::new(self.address, self.port).to_string()
    }
}

/// Every socket that listens on one of some ports, in this network namespace.
#[must_use]
pub fn listening_on(ports: &[u16]) -> Vec<Listening> {
    let entries = [procfs::net::tcp(), procfs::net::tcp6()];
    let wanted: Vec<TcpNetEntry> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| listens(entry, ports))
        .collect();
    let holders = holders_of(&wanted.iter().map(|entry| entry.inode).collect());
    let mut found: Vec<Listening> = wanted
        .into_iter()
        .map(|entry| Listening {
            address: plain(entry.local_address.ip()),
            port: entry.local_address.port(),
            user: user_name(entry.uid),
            holder: holders.get(&entry.inode).cloned(),
        })
        .collect();
    found.sort_by_key(|one| (one.port, one.address));
    found
}

/// Processes that listen on one of some ports in *another* network namespace, with the port. They
/// are in nobody's way here, but explain why nothing answers on a port that "is surely open".
///
/// Namespaces of processes that this user may not look into stay unseen.
#[must_use]
pub fn listening_elsewhere(ports: &[u16]) -> Vec<(u16, Holder)> {
    let own = namespace_of("self");
    let mut seen = BTreeSet::from([own]);
    let mut found = Vec::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let namespace = namespace_of(&process.pid.to_string());
        if namespace.is_none() || !seen.insert(namespace.clone()) {
            continue;
        }
        let tables = [process.tcp(), process.tcp6()];
        for entry in tables.into_iter().flatten().flatten() {
            if listens(&entry, ports)
                && let Some(holder) =
                    holders_of(&BTreeSet::from([entry.inode])).remove(&entry.inode)
            {
                found.push((entry.local_address.port(), holder));
            }
        }
    }
    found
}

/// Whether this process may look into those of other users.
#[must_use]
pub fn sees_everybody() -> bool {
    rustix::process::geteuid().is_root()
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
    free_near_but(port, &[])
}

/// The same, and none of `taken`, which somebody is going to use.
#[must_use]
pub fn free_near_but(port: u16, taken: &[u16]) -> Option<u16> {
    (port.saturating_add(1)..=port.saturating_add(200))
        .find(|near| *near != port && !taken.contains(near) && is_free(*near))
        .or_else(any_free)
}

/// A free port that this process has not been given before, and that the kernel gives to nobody:
/// it is still free when whoever is to listen on it has started.
///
/// A port of the kernel's own range would be free now and, a moment later, the near end of
/// somebody's connection.
#[must_use]
pub fn any_free() -> Option<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let kernels = kernel_gives();
    let candidates = (LOWEST_GIVEN..=u16::MAX).filter(|port| !kernels.contains(port));
    let ports: Vec<u16> = candidates.collect();
    let count = u32::try_from(ports.len()).ok()?;
    // Processes that look at the same time begin at different places.
    let first = std::process::id().wrapping_mul(PORTS_A_PROCESS);
    (0..count).find_map(|_| {
        let next = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = ports.get(usize::try_from(next % count).ok()?).copied()?;
        is_free(port).then_some(port)
    })
}

/// Below are the ports that services are known by.
const LOWEST_GIVEN: u16 = 15_000;

/// As many as one process is expected to ask for.
const PORTS_A_PROCESS: u32 = 61;

/// The ports that the kernel gives to connections, and to those that ask for any port.
fn kernel_gives() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut bounds = text.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) => low..=high,
        _ => 32_768..=60_999,
    }
}

fn listens(entry: &TcpNetEntry, ports: &[u16]) -> bool {
    entry.state == TcpState::Listen && ports.contains(&entry.local_address.port())
}

/// An IPv4 address that is written as IPv6 is still the IPv4 address.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn namespace_of(process: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

/// The processes that hold these sockets.
fn holders_of(inodes: &BTreeSet<u64>) -> BTreeMap<u64, Holder> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    for process in all_processes().into_iter().flatten().flatten() {
        for descriptor in process.fd().into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = descriptor.target
                && inodes.contains(&inode)
                // A socket that was inherited is its oldest holder's.
                && !found.contains_key(&inode)
            {
                found.insert(inode, described(&process));
            }
        }
        if found.len() == inodes.len() {
            break;
        }
    }
    found
}

fn described(process: &Process) -> Holder {
    let name = process.stat().map(|stat| stat.comm).unwrap_or_default();
    let command = process.cmdline().unwrap_or_default().join(" ");
    Holder {
        pid: u32::try_from(process.pid).unwrap_or_default(),
        command: if command.is_empty() {
            name.clone()
        } else {
            command
        },
        name,
        folder: process.cwd().ok(),
    }
}

/// The user's name, or the number where it has none.
#[must_use]
pub fn user_name(uid: u32) -> String {
    uzers::get_user_by_uid(uid).map_or_else(
        || uid.to_string(),
        |user| user.name().to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_owner_and_a_free_one_nearby() {
        // None of the kernel's: it may give one that was just closed to the next who asks.
        let port = any_free().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
        assert_eq!(owner(port).unwrap().pid, std::process::id());
        assert_ne!(free_near(port).unwrap(), port);
        drop(listener);
        assert!(is_free(port));
        assert_eq!(owner(port), None);
    }

    #[test]
    fn a_port_is_given_once_and_is_none_of_the_kernels() {
        let given: Vec<u16> = (0..200).map(|_| any_free().unwrap()).collect();
        let different: BTreeSet<u16> = given.iter().copied().collect();
        assert_eq!(different.len(), given.len());
        assert!(!given.iter().any(|port| kernel_gives().contains(port)));
        assert!(given.iter().all(|port| is_free(*port)));
    }

    #[test]
    fn both_families_and_wildcards_are_told_apart() {
        let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let six = TcpListener::bind("[::]:0").unwrap();
        let ports = [&four, &six].map(|l| l.local_addr().unwrap().port());
        let found = listening_on(&ports);
        assert_eq!(found.len(), 2, "{found:?}");
        let at = |port| found.iter().find(|l| l.port == port).unwrap();
        assert!(!at(ports[0]).is_open_to_others());
        assert!(at(ports[1]).is_open_to_others());
        assert_eq!(at(ports[1]).place(), format!("[::]:{}", ports[1]));
        let holder = at(ports[0]).holder.clone().unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty());
    }
}
