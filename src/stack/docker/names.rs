//! What the parts of the Docker tier are called. Everything is derived from one prefix, so that two
//! stacks fit on one host.

use crate::config::Config;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A service of the Compose file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// `PostgreSQL`.
    Postgres,
    /// Redis.
    Redis,
    /// Elasticsearch, if it is on.
    Elasticsearch,
    /// Conductor, in one container or several.
    Server,
    /// What stands before several servers.
    Balancer,
    /// What asks for a login before Conductor.
    Gateway,
    /// What tells Prometheus about `PostgreSQL`.
    PostgresExporter,
    /// What tells Prometheus about Redis.
    RedisExporter,
    /// What tells Prometheus about backups.
    NodeExporter,
    /// Prometheus, if the stack is watched.
    Prometheus,
    /// Grafana, before Prometheus.
    Grafana,
}

impl Service {
    /// All of them, each after those that it needs.
    pub const ALL: [Self; 11] = [
        Self::Postgres,
        Self::Redis,
        Self::Elasticsearch,
        Self::Server,
        Self::Balancer,
        Self::Gateway,
        Self::PostgresExporter,
        Self::RedisExporter,
        Self::NodeExporter,
        Self::Prometheus,
        Self::Grafana,
    ];

    /// Those that watch the others. What they keep is in no backup.
    pub const MONITORING: [Self; 5] = [
        Self::PostgresExporter,
        Self::RedisExporter,
        Self::NodeExporter,
        Self::Prometheus,
        Self::Grafana,
    ];

    /// Those that keep something in a volume.
    pub const WITH_VOLUME: [Self; 4] = [
        Self::Postgres,
        Self::Redis,
        Self::Elasticsearch,
        Self::Server,
    ];

    /// Its name in the Compose file.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Elasticsearch => "elasticsearch",
            Self::Server => "conductor-server",
            Self::Balancer => "balancer",
            Self::Gateway => "gateway",
            Self::PostgresExporter => "postgres-exporter",
            Self::RedisExporter => "redis-exporter",
            Self::NodeExporter => "node-exporter",
            Self::Prometheus => "prometheus",
            Self::Grafana => "grafana",
        }
    }

    /// The end of its container's name, which is also what `k1ops logs` calls it.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::Server => "server",
            other => other.key(),
        }
    }

    /// The service that a user means by `word`.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|service| [service.key(), service.short()].contains(&word))
    }

    /// The port that it listens on inside its container.
    #[must_use]
    pub fn inner_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::Elasticsearch => 9200,
            Self::Server | Self::Balancer => 8080,
            Self::Gateway => 8443,
            Self::PostgresExporter => 9187,
            Self::RedisExporter => 9121,
            Self::NodeExporter => 9100,
            Self::Prometheus => 9090,
            Self::Grafana => 3000,
        }
    }

    /// Its address on this host, if `port` leads to it and it speaks HTTP.
    #[must_use]
    pub fn url(self, port: u16) -> String {
        let scheme = if self == Self::Gateway {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{port}")
    }

    /// The setting that names its port on the host, for hints.
    #[must_use]
    pub fn port_key(self) -> &'static str {
        match self {
            Self::Postgres => "ports.postgres",
            Self::Redis => "ports.redis",
            Self::Elasticsearch => "ports.elasticsearch",
            Self::Server | Self::Balancer | Self::Gateway => "ports.conductor",
            // What the exporters tell leads to Prometheus alone.
            Self::PostgresExporter
            | Self::RedisExporter
            | Self::NodeExporter
            | Self::Prometheus => "ports.prometheus",
            Self::Grafana => "ports.grafana",
        }
    }

    /// How long it may take to stop. `PostgreSQL` writes a checkpoint; a killed one has to recover.
    #[must_use]
    pub fn grace(self, config: &Config) -> Duration {
        Duration::from_secs(match self {
            Self::Postgres => 120,
            Self::Redis | Self::Balancer | Self::Gateway | Self::Prometheus | Self::Grafana => 30,
            Self::PostgresExporter | Self::RedisExporter | Self::NodeExporter => 10,
            Self::Elasticsearch => 60,
            Self::Server => config.server.stop_timeout,
        })
    }
}

/// The names that belong to one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Those of `prefix`.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// The prefix, which is the Compose project's name as well.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A service's container. Of several servers each has a name of its own: ask the deployment.
    #[must_use]
    pub fn container(&self, service: Service) -> String {
        format!("{}-{}", self.prefix, service.short())
    }

    /// The volume that a service first keeps its data (or its log) in; a restore may put another
    /// one in its place, so ask the deployment which one is live.
    #[must_use]
    pub fn volume(&self, service: Service) -> String {
        let what = match service {
            Service::Postgres => "postgres_data",
            Service::Redis => "redis_data",
            Service::Elasticsearch => "elasticsearch_data",
            // Balancer and gateway keep nothing. What is behind them keeps this.
            Service::Server | Service::Balancer | Service::Gateway => "logs",
            // Exporters keep nothing either. Prometheus keeps what they told.
            Service::PostgresExporter
            | Service::RedisExporter
            | Service::NodeExporter
            | Service::Prometheus => "prometheus_data",
            Service::Grafana => "grafana_data",
        };
        format!("{}_{what}", self.prefix)
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> String {
        format!("{}-network", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_guide() {
        let names = Names::new("conductor");
        assert_eq!(names.container(Service::Postgres), "conductor-postgres");
        assert_eq!(names.container(Service::Server), "conductor-server");
        assert_eq!(names.volume(Service::Postgres), "conductor_postgres_data");
        assert_eq!(names.volume(Service::Server), "conductor_logs");
        assert_eq!(names.network(), "conductor-network");
        assert_eq!(Service::named("server"), Some(Service::Server));
        assert_eq!(Service::named("conductor-server"), Some(Service::Server));
        assert_eq!(Service::named("x"), None);
    }

    /// The Compose file writes the same names in its own way; the two must not part.
    #[test]
    fn the_compose_file_uses_these_names() {
        let compose: String = [
            "docker-compose.yaml",
            "docker-compose.servers.yaml",
            "docker-compose.gateway.yaml",
            "docker-compose.monitoring.yaml",
            "docker-compose.grafana.yaml",
        ]
        .map(|name| super::super::files::embedded(name).unwrap().to_vec())
        .map(|text| String::from_utf8(text).unwrap())
        .concat()
        .replace("${K1_PREFIX:-conductor}", "p");
        let names = Names::new("p");
        for service in Service::ALL {
            assert!(compose.contains(&format!("\n  {}:\n", service.key())));
            let container = format!("container_name: {}\n", names.container(service));
            assert!(compose.contains(&container), "{container}");
            if Service::MONITORING.contains(&service) {
                let volume = format!("name: {}\n", names.volume(service));
                assert!(compose.contains(&volume), "{volume}");
            } else {
                let volume = Names::new("conductor").volume(service);
                let volume = format!("_VOLUME:-{volume}}}\n");
                assert!(compose.contains(&volume), "{volume}");
            }
            // Published, or asked by the exporter's own health check.
            let port = service.inner_port();
            let is_there = [format!(":{port}\"\n"), format!("127.0.0.1:{port}/")];
            assert!(is_there.iter().any(|port| compose.contains(port)), "{port}");
        }
        assert!(compose.contains(&format!("name: {}\n", names.network())));
    }
}
