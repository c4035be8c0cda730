//! This host: memory, processors, kernel settings, time zone, proxies, names.

use std::net::SocketAddr;
use std::time::Duration;

/// Memory of the host, or of the control group that this process is confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that a new program can have without swapping.
    pub available: u64,
}

/// Memory, as far as it can be told.
#[must_use]
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kib * 1024)
    };
    let mut memory = Memory {
        total: field("MemTotal")?,
        available: field("MemAvailable")?,
    };
    if let Some(limit) = group_limit() {
        memory.total = memory.total.min(limit);
        memory.available = memory.available.min(limit);
    }
    Some(memory)
}

/// What the control group allows, in the files of version 2 and then 1.
fn group_limit() -> Option<u64> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    files
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// Processors that this process may use.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many processors other work of this host would use now if it got them, on average over some
/// 20 ms, for which this blocks. None where the kernel does not say.
#[must_use]
pub fn busy_processors() -> usize {
    const LOOKS: usize = 10;
    const PAUSE: Duration = Duration::from_millis(2);
    let runnable = || -> Option<usize> {
        // "0.20 0.18 0.12 3/614 11206": three tasks run or wait for a processor, this one among them.
        let text = std::fs::read_to_string("/proc/loadavg").ok()?;
        let (now, _) = text.split_whitespace().nth(3)?.split_once('/')?;
        Some(now.parse::<usize>().ok()?.saturating_sub(1))
    };
    let looks = (0..LOOKS).map(|_| {
        std::thread::sleep(PAUSE);
        runnable().unwrap_or_default()
    });
    (looks.sum::<usize>() + LOOKS / 2) / LOOKS
}

/// The name of the user whose rights this process has, or the number where there is none.
#[must_use]
pub fn user_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    uzers::get_user_by_uid(uid).map_or_else(
        || uid.to_string(),
        |user| user.name().to_string_lossy().into_owned(),
    )
}

/// A kernel setting such as `vm.max_map_count`.
#[must_use]
pub fn kernel_setting(name: &str) -> Option<u64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The proxy for `https`, as programs read it from the environment.
#[must_use]
pub fn https_proxy() -> Option<(&'static str, String)> {
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok()?)))
        .filter(|(_, value)| !value.is_empty())
}

/// The addresses of a name, which may take `timeout`. The reason otherwise.
pub async fn resolve(name: &str, port: u16, timeout: Duration) -> Result<Vec<SocketAddr>, String> {
    let looking = tokio::net::lookup_host((name, port));
    match tokio::time::timeout(timeout, looking).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:.1} s", timeout.as_secs_f64())),
    }
}

/// Whether something takes connections at one of `addresses`; the reason otherwise.
pub async fn connects(addresses: &[SocketAddr], timeout: Duration) -> Result<(), String> {
    let connecting = tokio::net::TcpStream::connect(addresses);
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:.1} s", timeout.as_secs_f64())),
    }
}
