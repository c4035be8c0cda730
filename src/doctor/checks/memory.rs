//! The host has memory and processors enough for the server.

use crate::adapters::host;
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::stack::Tier;
use std::sync::Arc;

/// What a server uses besides its heap, as measured: code, metaspace, threads.
const BEYOND_HEAP: u64 = 350 << 20;
/// What PostgreSQL and Redis use at rest, as measured.
const SERVICES: u64 = 100 << 20;
/// What Elasticsearch is given.
const ELASTICSEARCH: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

pub(super) struct Memory;

impl Check for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn group(&self) -> Group {
        Group::Host
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let heap = &patient.stack.config.server.heap;
    let Some(heap_bytes) = bytes_of(heap) else {
        return Ok(Finding::problem(
            ErrorKind::Usage,
            format!("server.heap is {heap:?}, which is no size that the JVM takes"),
        )
        .advise("Write it as for -Xmx, such as 1g or 768m.")
        .remedy("export K1OPS_SERVER_HEAP=1g")
        .into());
    };
    let Some(memory) = host::memory() else {
        return Ok(Examined::skipped("this host does not say how much it has"));
    };
    let tier = patient.tier().await;
    if tier == Tier::Direct {
        return Ok(Examined::skipped("tier 3 runs no server"));
    }
    let mut needed = heap_bytes.saturating_add(BEYOND_HEAP);
    if tier == Tier::Docker {
        let servers = patient.deployment()?.settings.servers();
        let servers = servers.max(patient.stack.config.docker.servers);
        needed = needed.saturating_mul(servers.into());
        needed = needed.saturating_add(SERVICES);
        if patient.stack.config.docker.elasticsearch {
            needed = needed.saturating_add(ELASTICSEARCH);
        }
    }
    let (total, available) = (memory.total / MIB, memory.available / MIB);
    let need = needed / MIB;
    let fits = (memory.total.saturating_sub(BEYOND_HEAP * 2) / 2 / MIB).max(512);
    let mut examined = Examined::default();
    if needed > memory.total {
        examined.find(
            Finding::problem(
                ErrorKind::Missing,
                format!("the stack needs {need} MiB of memory, and the host has {total} MiB"),
            )
            .seen(format!("server.heap is {heap}"))
            .because("the kernel would kill the server, or a database, when the heap is used")
            .advise("Lower server.heap, or use a host with more memory.")
            .remedy(format!("export K1OPS_SERVER_HEAP={fits}m")),
        );
    } else if needed > memory.available && patient.conductor().await.is_none() {
        examined.find(
            Finding::warning(format!(
                "the stack needs {need} MiB of memory, and {available} MiB are available"
            ))
            .seen(format!("server.heap is {heap}; the host has {total} MiB"))
            .because("other programs use the rest")
            .advise("Lower server.heap, or end what else uses memory.")
            .remedy("ps -eo pid,user,rss,comm --sort=-rss | head"),
        );
    } else {
        examined.say(format!(
            "{available} of {total} MiB available, {need} needed"
        ));
    }
    let processors = host::processors();
    if processors < 2 {
        examined.find(
            Finding::note("the host has one processor")
                .because("the server starts slowly, and backups compress on one core"),
        );
    } else {
        examined.say(format!("{processors} processors"));
    }
    Ok(examined)
}

/// A size as the JVM writes it: `1g`, `512m`, `65536`.
fn bytes_of(heap: &str) -> Option<u64> {
    let heap = heap.trim();
    let (digits, unit) = match heap.char_indices().next_back()? {
        (at, 'k' | 'K') => (&heap[..at], 1 << 10),
        (at, 'm' | 'M') => (&heap[..at], 1 << 20),
        (at, 'g' | 'G') => (&heap[..at], 1 << 30),
        (at, 't' | 'T') => (&heap[..at], 1 << 40),
        _ => (heap, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
