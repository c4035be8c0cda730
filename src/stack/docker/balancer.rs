//! What stands before several servers, told over its own socket to send a server no more requests. Why,
//! and what becomes of that server, is not known here.

use super::{Deployment, Service};
use crate::adapters::docker::{Container, Engine};
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long requests that are under way may take to end.
const UNDER_WAY: Duration = Duration::from_secs(30);
/// How long it may take to notice that a server has gone, or that one has come.
const NOTICE: Duration = Duration::from_secs(30);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(100);

/// The servers' section in its configuration.
const SERVERS: &str = "conductor";
/// In its words: a server that is up.
const RUNNING: &str = "2";
/// In its words: the bit of a server that is sent nothing more.
const DRAINED: u32 = 0x08;
/// In its words: the bit of a server that the name service does not know.
const UNKNOWN: u32 = 0x20;

/// The balancer of a stack.
pub(super) struct Balancer<'a> {
    engine: &'a Engine,
    container: String,
}

/// A server as the balancer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    address: String,
    is_up: bool,
    is_drained: bool,
    is_unknown: bool,
}

impl<'a> Balancer<'a> {
    pub(super) fn of(deployment: &Deployment, engine: &'a Engine) -> Self {
        Self {
            engine,
            container: deployment.names.container(Service::Balancer),
        }
    }

    /// Has it send this server nothing more, and waits until it has answered what it was sent. Answers
    /// its place, which is free again after [`Balancer::free`]; none if the balancer does not know it.
    pub(super) async fn drain(&self, server: &Container) -> Result<Option<String>> {
        let Some(place) = self.place_of(server).await? else {
            return Ok(None);
        };
        self.ask(&format!("set server {SERVERS}/{} state drain", place.name))
            .await?;
        let begun = Instant::now();
        while requests(&self.ask("show stat").await?, &place.name) != Some(0) {
            if begun.elapsed() > UNDER_WAY {
                tracing::info!(server = server.name, "a request takes too long to wait for");
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Some(place.name))
    }

    /// Makes a place free for the next server, once the one that had it is known to have gone.
    pub(super) async fn free(&self, place: &str) -> Result<()> {
        let begun = Instant::now();
        let is_held = |places: &[Place]| places.iter().any(|p| p.name == place && !p.is_unknown);
        while is_held(&self.places().await?) && begun.elapsed() < NOTICE {
            tokio::time::sleep(POLL).await;
        }
        self.make_ready(place).await
    }

    /// Makes every place free that a server was to be taken from.
    pub(super) async fn free_all(&self) -> Result<()> {
        for place in self.places().await?.iter().filter(|p| p.is_drained) {
            self.make_ready(&place.name).await?;
        }
        Ok(())
    }

    /// Whether it sends requests to at least so many servers.
    pub(super) async fn uses(&self, servers: u8) -> Result<bool> {
        let places = self.places().await?;
        let used = places.iter().filter(|p| p.is_up && !p.is_drained);
        Ok(used.count() >= usize::from(servers))
    }

    async fn make_ready(&self, place: &str) -> Result<()> {
        let words = format!("set server {SERVERS}/{place} state ready");
        self.ask(&words).await.map(drop)
    }

    /// Waits until it sends requests to this server.
    pub(super) async fn until_used(&self, server: &Container) -> Result<()> {
        let begun = Instant::now();
        loop {
            let place = self.place_of(server).await?;
            if place.is_some_and(|place| place.is_up) {
                return Ok(());
            }
            if begun.elapsed() > NOTICE {
                let name = &server.name;
                return Err(
                    Error::failed(format!("the balancer sends {name} no requests")).hint(format!(
                        "`docker logs {}` says what it found wrong with it.",
                        self.container
                    )),
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn place_of(&self, server: &Container) -> Result<Option<Place>> {
        let places = self.places().await?;
        let is_it = |place: &Place| !place.is_unknown && server.addresses.contains(&place.address);
        Ok(places.into_iter().find(is_it))
    }

    async fn places(&self) -> Result<Vec<Place>> {
        let said = self.ask(&format!("show servers state {SERVERS}")).await?;
        Ok(places(&said))
    }

    async fn ask(&self, words: &str) -> Result<String> {
        let command = ["sh", "/usr/local/etc/haproxy/ask.sh", words];
        let asking = self
            .engine
            .run_inside(&self.container, "", &command, b"", ANSWER);
        let said = asking.await?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.code == 0 {
            return Ok(text);
        }
        let name = &self.container;
        Err(
            Error::failed(format!("the balancer in {name} does not answer `{words}`"))
                .because(format!("{text}{}", said.stderr).trim().to_owned()),
        )
    }
}

/// Of `show servers state`: a line a server, with fields in an order that a version number promises.
fn places(said: &str) -> Vec<Place> {
    let fields = |line: &str| -> Option<Place> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, section, _, name, address, state, admin, ..] = fields[..] else {
            return None;
        };
        let admin: u32 = admin.parse().ok()?;
        (section == SERVERS).then(|| Place {
            name: name.to_owned(),
            address: address.to_owned(),
            is_up: state == RUNNING,
            is_drained: admin & DRAINED != 0,
            is_unknown: admin & UNKNOWN != 0,
        })
    };
    said.lines().filter_map(fields).collect()
}

/// Of `show stat`: how many requests a server has under way.
fn requests(said: &str, server: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| {
        let rest = line.strip_prefix(SERVERS)?.strip_prefix(',')?;
        rest.strip_prefix(server)?.strip_prefix(',')
    })?;
    // The queue and its longest, then the requests under way.
    line.split(',').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_balancer_says_is_read() {
        let state = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state ...\n\
            4 conductor 1 conductor-1 172.18.0.5 2 0 1 1 23 6 3 7 6 0 0 0 conductor-server 8080 - 0 0 - - 0\n\
            4 conductor 2 conductor-2 - 0 32 1 1 3 5 0 0 14 0 0 0 conductor-server 8080 - 0 0 - - 0\n";
        let all = places(state);
        assert_eq!(all.len(), 2);
        assert!(all[0].is_up && !all[0].is_unknown && !all[0].is_drained);
        assert_eq!(all[0].address, "172.18.0.5");
        assert!(!all[1].is_up && all[1].is_unknown);
        let stat = "# pxname,svname,qcur,qmax,scur,smax\n\
            conductor,conductor-1,0,0,3,9,\nconductor,conductor-11,0,0,5,9,\n";
        assert_eq!(requests(stat, "conductor-1"), Some(3));
        assert_eq!(requests(stat, "conductor-2"), None);
    }
}
