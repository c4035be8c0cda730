//! A service run for a moment on a volume that is not the live one, without network: the proof that
//! what is in the volume is what the service can work with.

use super::image::ensure_pulled;
use super::{Deployment, Service, snapshot};
use crate::adapters::docker::{Engine, Said, Trial, TrialOf};
use crate::error::{Error, Result};
use crate::event::Events;
use std::time::{Duration, Instant};

/// How long a service may take to come up; a database may have much log to go through.
const UP: Duration = Duration::from_secs(600);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(250);
/// How long it may take to stop.
const GRACE: Duration = Duration::from_secs(120);
/// How long reading everything may be silent.
const SILENT: Duration = Duration::from_secs(3600);

/// Makes sure that the image which a service's volume is filled and tried with is there.
pub async fn ensure_image(
    engine: &Engine,
    deployment: &Deployment,
    service: Service,
    events: &Events,
) -> Result<()> {
    // The server's own image need not have been built yet; any other will do to fill its logs.
    let image = image_of(deployment, service).or_else(|| image_of(deployment, Service::Postgres));
    ensure_pulled(engine, &image.unwrap_or_default(), false, events).await
}

fn image_of(deployment: &Deployment, service: Service) -> Option<String> {
    if matches!(
        service,
        Service::Server | Service::Balancer | Service::Gateway
    ) {
        return None;
    }
    deployment.settings.image(service).map(str::to_owned)
}

/// Runs `PostgreSQL` on `volume`, lets it recover, and has every row of every database read, with
/// the checksums of its pages checked on the way.
pub async fn postgres(
    engine: &Engine,
    deployment: &Deployment,
    volume: &str,
    events: &Events,
) -> Result<()> {
    let place = "/var/lib/postgresql/data";
    let trial = Trying {
        engine,
        volume,
        service: Service::Postgres,
        image: image_of(deployment, Service::Postgres).unwrap_or_default(),
        place,
        command: ["postgres", "-c", "listen_addresses="]
            .map(str::to_owned)
            .to_vec(),
        environment: vec![format!("PGDATA={place}")],
    };
    let user = "postgres";
    let ready = ["pg_isready", "--quiet"];
    let all = [
        "sh",
        "-c",
        "pg_dumpall --username=conductor --no-role-passwords > /dev/null",
    ];
    trial
        .run(events, user, &ready, async |container| {
            trial
                .must(container, user, &all, "cannot be read whole")
                .await
        })
        .await
}

/// Runs Redis on `volume`, in which `dump.rdb` is, and has it write its append-only file from that:
/// a Redis that finds none where it looks for one begins empty.
pub async fn redis(
    engine: &Engine,
    deployment: &Deployment,
    volume: &str,
    events: &Events,
) -> Result<()> {
    let trial = Trying {
        engine,
        volume,
        service: Service::Redis,
        image: image_of(deployment, Service::Redis).unwrap_or_default(),
        place: "/data",
        command: ["redis-server", "--dir", "/data", "--appendonly", "no"]
            .map(str::to_owned)
            .to_vec(),
        environment: Vec::new(),
    };
    let ready = ["sh", "-c", "redis-cli ping | grep -qx PONG"];
    let append = [
        "sh",
        "-c",
        "redis-cli config set appendonly yes | grep -qx OK",
    ];
    let written = [
        "sh",
        "-c",
        "until redis-cli info persistence | tr -d '\\r' > /tmp/k1ops-info; \
             grep -qx aof_rewrite_in_progress:0 /tmp/k1ops-info \
             && grep -qx aof_rewrite_scheduled:0 /tmp/k1ops-info; do sleep 0.1; done; \
         grep -qx aof_last_bgrewrite_status:ok /tmp/k1ops-info",
    ];
    trial
        .run(events, "root", &ready, async |container| {
            let what = "does not write its append-only file";
            trial.must(container, "root", &append, what).await?;
            trial.must(container, "root", &written, what).await
        })
        .await
}

/// Runs Elasticsearch on `volume`, in which a snapshot is, and has it put the indices back.
pub async fn elasticsearch(
    engine: &Engine,
    deployment: &Deployment,
    volume: &str,
    events: &Events,
) -> Result<()> {
    let trial = Trying {
        engine,
        volume,
        service: Service::Elasticsearch,
        image: image_of(deployment, Service::Elasticsearch).unwrap_or_default(),
        place: "/usr/share/elasticsearch/data",
        command: Vec::new(),
        environment: [
            "discovery.type=single-node",
            "xpack.security.enabled=false",
            "ES_JAVA_OPTS=-Xms512m -Xmx512m",
            &format!("cluster.name={}", deployment.names.prefix()),
            &format!("path.repo={}", snapshot::ELASTICSEARCH_FOLDER),
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    let ready = [
        "sh",
        "-c",
        "curl -fsS 'http://127.0.0.1:9200/_cluster/health?wait_for_status=yellow&timeout=3s' >/dev/null",
    ];
    trial
        .run(events, "root", &ready, async |container| {
            let documents = snapshot::restore_elasticsearch(engine, container).await?;
            events.note(format!("Elasticsearch has {documents} documents again"));
            Ok(())
        })
        .await
}

struct Trying<'a> {
    engine: &'a Engine,
    volume: &'a str,
    service: Service,
    image: String,
    place: &'a str,
    command: Vec<String>,
    environment: Vec<String>,
}

impl Trying<'_> {
    /// Starts it, waits until `ready` succeeds, does what is to be done, and stops it.
    async fn run(
        &self,
        events: &Events,
        user: &str,
        ready: &[&str],
        work: impl AsyncFnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        let step = format!("trying {} on volume {}", self.service.key(), self.volume);
        events.started(&step);
        let begun = Instant::now();
        let trial = self
            .engine
            .try_on(&TrialOf {
                volume: self.volume,
                place: self.place,
                image: &self.image,
                command: self.command.clone(),
                environment: self.environment.clone(),
            })
            .await?;
        let worked = match self.wait(&trial, user, ready).await {
            Ok(()) => work(&trial.container).await,
            Err(error) => Err(error),
        };
        let ended = trial.end(GRACE).await;
        worked?;
        ended?;
        events.finished(step, format!("{:.1} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn wait(&self, trial: &Trial, user: &str, ready: &[&str]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let container = self.engine.container(&trial.container).await?;
            if !container.is_some_and(|container| container.is_running()) {
                return Err(self.failed(&trial.container, "does not start").await);
            }
            // It may have ended since; then the next look says so.
            let asked = self.ask(&trial.container, user, ready).await;
            if asked.is_ok_and(|said| said.code == 0) {
                return Ok(());
            }
            if begun.elapsed() > UP {
                return Err(self.failed(&trial.container, "does not get ready").await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask(&self, container: &str, user: &str, command: &[&str]) -> Result<Said> {
        self.engine
            .run_inside(container, user, command, b"", SILENT)
            .await
    }

    async fn must(&self, container: &str, user: &str, command: &[&str], what: &str) -> Result<()> {
        let said = self.ask(container, user, command).await?;
        if said.code == 0 {
            return Ok(());
        }
        let error = self.failed(container, what).await;
        Err(error.because(Error::failed(said.stderr.trim().to_owned())))
    }

    async fn failed(&self, container: &str, what: &str) -> Error {
        let words = self.engine.last_words(container, 12).await;
        let words = words.unwrap_or_default().join("\n    ");
        Error::bad_data(format!(
            "{} {what} on the restored volume {}",
            self.service.key(),
            self.volume
        ))
        .because(format!("its last lines:\n    {words}"))
        .hint("Nothing was replaced. Use another archive; `k1ops list` shows which there are.")
    }
}
