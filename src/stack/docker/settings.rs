//! The `.env` file beside the Compose file: everything in the stack's containers that can differ
//! from one host to the next, and no secret.

use super::image::ServerImage;
use super::monitoring;
use super::names::{Names, Service};
use crate::config::{Config, Ports, Profile, Switch};
use std::collections::BTreeMap;
use std::time::Duration;

/// Memory that the server's container may use beyond the heap: metaspace, code, threads, buffers.
const BEYOND_HEAP: u64 = 1 << 30;

/// The property that says how many connections of the database a server takes.
const POOL_KEY: &str = "spring.datasource.hikari.maximum-pool-size";

/// The Compose file of every stack, and what is laid over it for several servers, in production and for
/// a gateway.
const COMPOSE: &str = "docker-compose.yaml";
const SERVERS: &str = "docker-compose.servers.yaml";
const PRODUCTION: &str = "docker-compose.production.yaml";
const GATEWAY: &str = "docker-compose.gateway.yaml";

/// What the Compose file is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Those that the configuration asks for.
    #[must_use]
    pub fn of(config: &Config, image: &ServerImage) -> Self {
        let mut values = BTreeMap::new();
        let mut set = |name: &str, value: String| values.insert(name.to_owned(), value);
        set("COMPOSE_PROJECT_NAME", config.docker.prefix.clone());
        set("K1_PREFIX", config.docker.prefix.clone());
        for service in Service::WITH_VOLUME {
            if let Some(name) = port_name(service) {
                set(name, port_of(&config.ports, service).to_string());
            }
        }
        set("K1_POSTGRES_IMAGE", config.docker.postgres_image.clone());
        set("K1_REDIS_IMAGE", config.docker.redis_image.clone());
        if config.docker.servers > 1 {
            set("K1_SERVERS", config.docker.servers.to_string());
            set("K1_BALANCER_IMAGE", config.docker.balancer_image.clone());
            let pool = config.server.properties.get(POOL_KEY);
            if let Some(pool) = pool {
                set("K1_SERVER_CONNECTIONS", pool.clone());
            }
        }
        set(
            "K1_ELASTICSEARCH_IMAGE",
            config.docker.elasticsearch_image.clone(),
        );
        let names = Names::new(config.docker.prefix.clone());
        for service in Service::WITH_VOLUME {
            set(volume_name(service), names.volume(service));
        }
        if config.docker.profile == Profile::Production {
            set("K1_PROFILE", "production".to_owned());
            if config.docker.gateway.is_configured() {
                set("K1_GATEWAY_IMAGE", config.docker.gateway.image.clone());
            }
        }
        if config.docker.monitoring.run == Switch::On {
            values.extend(monitoring::settings(config));
        }
        let mut set = |name: &str, value: String| values.insert(name.to_owned(), value);
        if config.docker.elasticsearch {
            set("COMPOSE_PROFILES", "elasticsearch".to_owned());
        }
        set("K1_SERVER_IMAGE", image.tag.clone());
        set("K1_JAVA_IMAGE", image.java_image.clone());
        set("K1_JAR_SHA256", image.jar_sha256.clone());
        set("K1_SERVER_UID", image.user.uid.to_string());
        set("K1_SERVER_GID", image.user.gid.to_string());
        set(
            "K1_CLASS_ARCHIVE",
            u8::from(image.class_archive).to_string(),
        );
        set("K1_SERVER_HEAP", config.server.heap.clone());
        set("K1_SERVER_STOP", format!("{}s", config.server.stop_timeout));
        if let Some(heap) = bytes_of(&config.server.heap) {
            set("K1_SERVER_MEMORY", (heap + BEYOND_HEAP).to_string());
        }
        let mut settings = Self(values);
        let files = settings.compose_files();
        if files.len() > 1 {
            // For whoever runs Compose by hand.
            let files = files.join(":");
            settings.0.insert("COMPOSE_FILE".to_owned(), files);
        }
        settings
    }

    /// Those of an `.env` file. Lines that are not `NAME=VALUE` are comments.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let values = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| {
                let value = value.trim().trim_matches(['"', '\'']);
                (name.trim().to_owned(), value.to_owned())
            })
            .collect();
        Self(values)
    }

    /// The text of the `.env` file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# What docker-compose.yaml is told. Written by k1ops from k1ops.toml; change it there.\n\
             # What you change here is kept, and then k1ops.toml no longer reaches it.\n",
        );
        for (name, value) in &self.0 {
            text.push_str(&format!("{name}={value}\n"));
        }
        text
    }

    /// One value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The volume that a service keeps its data (or its log) in: the one of the names, or the one
    /// that a restore has put in its place.
    #[must_use]
    pub fn volume(&self, service: Service) -> Option<&str> {
        self.get(volume_name(service))
    }

    /// The same, but with the volumes that `live` names: only a restore changes them.
    #[must_use]
    pub fn with_volumes_of(mut self, live: &Self) -> Self {
        for service in Service::WITH_VOLUME {
            if let Some(volume) = live.volume(service) {
                let name = volume_name(service).to_owned();
                self.0.insert(name, volume.to_owned());
            }
        }
        self
    }

    /// Has Compose make a service's container anew when what it is told in secret files has changed:
    /// what is in a secret's file is nothing that Compose looks at.
    pub fn set_digest(&mut self, service: Service, digest: &str) {
        if let Some((name, _)) = digest_names(service) {
            let short = digest.chars().take(16).collect();
            self.0.insert(name.to_owned(), short);
        }
    }

    /// Whether a container with this environment was made for what the service is told now.
    #[must_use]
    pub fn is_told_to(&self, service: Service, environment: &BTreeMap<String, String>) -> bool {
        let Some((here, there)) = digest_names(service) else {
            return true;
        };
        let told = environment.get(there).map_or("", String::as_str);
        self.get(here).unwrap_or_default() == told
    }

    /// Whether `PostgreSQL` and Redis speak TLS and nothing else.
    #[must_use]
    pub fn is_production(&self) -> bool {
        self.get("K1_PROFILE") == Some("production")
    }

    /// The Compose files, each over those before it.
    #[must_use]
    pub fn compose_files(&self) -> Vec<&'static str> {
        let mut files = vec![COMPOSE];
        if self.servers() > 1 {
            files.push(SERVERS);
        }
        if self.is_production() {
            files.push(PRODUCTION);
        }
        if self.has_gateway() {
            files.push(GATEWAY);
        }
        files.extend(monitoring::compose_files(self));
        files
    }

    /// How long a server may take to stop.
    #[must_use]
    pub fn server_grace(&self) -> Duration {
        let seconds = self.get("K1_SERVER_STOP").map(|s| s.trim_end_matches('s'));
        Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(30))
    }

    /// How many Conductor servers there are to be.
    #[must_use]
    pub fn servers(&self) -> u8 {
        let servers = self.get("K1_SERVERS").and_then(|n| n.parse().ok());
        servers.unwrap_or(1).max(1)
    }

    /// The image of a service.
    #[must_use]
    pub fn image(&self, service: Service) -> Option<&str> {
        self.get(match service {
            Service::Postgres => "K1_POSTGRES_IMAGE",
            Service::Redis => "K1_REDIS_IMAGE",
            Service::Elasticsearch => "K1_ELASTICSEARCH_IMAGE",
            Service::Server => "K1_SERVER_IMAGE",
            Service::Balancer => "K1_BALANCER_IMAGE",
            Service::Gateway => "K1_GATEWAY_IMAGE",
            Service::PostgresExporter => "K1_POSTGRES_EXPORTER_IMAGE",
            Service::RedisExporter => "K1_REDIS_EXPORTER_IMAGE",
            Service::NodeExporter => "K1_NODE_EXPORTER_IMAGE",
            Service::Prometheus => "K1_PROMETHEUS_IMAGE",
            Service::Grafana => "K1_GRAFANA_IMAGE",
        })
    }

    /// Whether Conductor is behind a gateway that asks for a login.
    #[must_use]
    pub fn has_gateway(&self) -> bool {
        self.image(Service::Gateway).is_some()
    }

    /// Whether the stack is watched.
    #[must_use]
    pub fn has_monitoring(&self) -> bool {
        self.image(Service::Prometheus).is_some()
    }

    /// The service that answers for Conductor within the stack's network: the server itself, or what
    /// stands before several.
    #[must_use]
    pub fn upstream(&self) -> Service {
        if self.servers() > 1 {
            Service::Balancer
        } else {
            Service::Server
        }
    }

    /// The service that Conductor is reached through from this host.
    #[must_use]
    pub fn front(&self) -> Service {
        if self.has_gateway() {
            Service::Gateway
        } else {
            self.upstream()
        }
    }

    /// The text of an `.env` file, changed in nothing but the volume of `service`.
    #[must_use]
    pub fn text_with_volume(text: &str, service: Service, volume: &str) -> String {
        let wanted = format!("{}={volume}", volume_name(service));
        let is_it = |line: &str| {
            line.split_once('=')
                .is_some_and(|(name, _)| name.trim() == volume_name(service))
        };
        let mut lines: Vec<&str> = text.lines().filter(|line| !is_it(line)).collect();
        let at = text.lines().position(is_it).unwrap_or(lines.len());
        lines.insert(at.min(lines.len()), &wanted);
        lines.join("\n") + "\n"
    }

    /// The port of 127.0.0.1 that leads to a service, if one does.
    #[must_use]
    pub fn port(&self, service: Service) -> Option<u16> {
        let is_conductor = matches!(
            service,
            Service::Server | Service::Balancer | Service::Gateway
        );
        if is_conductor && service != self.front() {
            return None;
        }
        self.get(port_name(service)?)?.parse().ok()
    }

    /// Whether Elasticsearch runs as well.
    #[must_use]
    pub fn has_elasticsearch(&self) -> bool {
        self.get("COMPOSE_PROFILES")
            .is_some_and(|profiles| profiles.split(',').any(|p| p == "elasticsearch"))
    }

    /// The services that run.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        Service::ALL
            .into_iter()
            .filter(|&service| match service {
                Service::Elasticsearch => self.has_elasticsearch(),
                Service::Balancer => self.servers() > 1,
                Service::Gateway => self.has_gateway(),
                Service::Postgres | Service::Redis | Service::Server => true,
                watching => self.image(watching).is_some(),
            })
            .collect()
    }
}

fn port_name(service: Service) -> Option<&'static str> {
    match service {
        Service::Postgres => Some("K1_POSTGRES_PORT"),
        Service::Redis => Some("K1_REDIS_PORT"),
        Service::Elasticsearch => Some("K1_ELASTICSEARCH_PORT"),
        Service::Server | Service::Balancer | Service::Gateway => Some("K1_CONDUCTOR_PORT"),
        Service::Prometheus => Some("K1_PROMETHEUS_PORT"),
        Service::Grafana => Some("K1_GRAFANA_PORT"),
        Service::PostgresExporter | Service::RedisExporter | Service::NodeExporter => None,
    }
}

/// What a service's digest is called in `.env`, and in its container.
fn digest_names(service: Service) -> Option<(&'static str, &'static str)> {
    match service {
        Service::Postgres => Some(("K1_POSTGRES_DIGEST", "K1_DIGEST")),
        Service::Redis => Some(("K1_REDIS_DIGEST", "K1_DIGEST")),
        Service::Server => Some(("K1_CONFIG_DIGEST", "CONDUCTOR_CONFIG_DIGEST")),
        Service::Balancer => Some(("K1_BALANCER_DIGEST", "K1_DIGEST")),
        Service::Gateway => Some(("K1_GATEWAY_DIGEST", "K1_DIGEST")),
        Service::PostgresExporter => Some(("K1_POSTGRES_EXPORTER_DIGEST", "K1_DIGEST")),
        Service::RedisExporter => Some(("K1_REDIS_EXPORTER_DIGEST", "K1_DIGEST")),
        Service::Prometheus => Some(("K1_PROMETHEUS_DIGEST", "K1_DIGEST")),
        Service::Grafana => Some(("K1_GRAFANA_DIGEST", "K1_DIGEST")),
        Service::Elasticsearch | Service::NodeExporter => None,
    }
}

/// The volume that a restore may put another one in the place of. What watches the stack has none.
fn volume_name(service: Service) -> &'static str {
    match service {
        Service::Postgres => "K1_POSTGRES_VOLUME",
        Service::Redis => "K1_REDIS_VOLUME",
        Service::Elasticsearch => "K1_ELASTICSEARCH_VOLUME",
        Service::Server | Service::Balancer | Service::Gateway => "K1_LOGS_VOLUME",
        Service::PostgresExporter
        | Service::RedisExporter
        | Service::NodeExporter
        | Service::Prometheus => "K1_PROMETHEUS_VOLUME",
        Service::Grafana => "K1_GRAFANA_VOLUME",
    }
}

fn port_of(ports: &Ports, service: Service) -> u16 {
    match service {
        Service::Postgres => ports.postgres,
        Service::Redis => ports.redis,
        Service::Elasticsearch => ports.elasticsearch,
        Service::Server | Service::Balancer | Service::Gateway => ports.conductor,
        Service::PostgresExporter
        | Service::RedisExporter
        | Service::NodeExporter
        | Service::Prometheus => ports.prometheus,
        Service::Grafana => ports.grafana,
    }
}

/// A size as the JVM writes it: `1g`, `512m`, `65536`.
fn bytes_of(heap: &str) -> Option<u64> {
    let heap = heap.trim();
    let (digits, unit) = match heap.char_indices().next_back()? {
        (at, 'k' | 'K') => (&heap[..at], 1 << 10),
        (at, 'm' | 'M') => (&heap[..at], 1 << 20),
        (at, 'g' | 'G') => (&heap[..at], 1 << 30),
        _ => (heap, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = Config::default();
        config.docker.prefix = "two".into();
        config.docker.elasticsearch = true;
        config.ports.redis = 7000;
        let settings = Settings::of(&config, &ServerImage::for_tests());
        let again = Settings::parse(&settings.render());
        assert_eq!(again, settings);
        assert_eq!(again.port(Service::Redis), Some(7000));
        assert_eq!(again.services().len(), 4);
        assert_eq!(again.get("K1_SERVER_MEMORY"), Some("2147483648"));
        config.docker.elasticsearch = false;
        let without = Settings::of(&config, &ServerImage::for_tests());
        assert_eq!(without.services().len(), 3);
    }

    #[test]
    fn of_several_servers_the_port_is_the_balancers() {
        let mut config = Config::default();
        let of = |config: &Config| Settings::of(config, &ServerImage::for_tests());
        for servers in [0, 1] {
            config.docker.servers = servers;
            let one = of(&config);
            assert_eq!(one.servers(), 1);
            assert_eq!(one.front(), Service::Server);
            assert_eq!(one.port(Service::Server), Some(8080));
            assert_eq!(one.port(Service::Balancer), None);
            assert_eq!(one.compose_files(), [COMPOSE]);
            assert_eq!(one.get("COMPOSE_FILE"), None);
        }
        config.docker.servers = 3;
        let three = Settings::parse(&of(&config).render());
        assert_eq!(three.servers(), 3);
        assert_eq!(three.front(), Service::Balancer);
        assert_eq!(three.port(Service::Server), None);
        assert_eq!(three.port(Service::Balancer), Some(8080));
        assert_eq!(three.services().last(), Some(&Service::Balancer));
        config.docker.profile = Profile::Production;
        let files = format!("{COMPOSE}:{SERVERS}:{PRODUCTION}");
        assert_eq!(of(&config).get("COMPOSE_FILE"), Some(&*files));
    }

    #[test]
    fn behind_a_gateway_the_port_is_the_gateways() {
        let mut config = Config::default();
        let of = |config: &Config| Settings::of(config, &ServerImage::for_tests());
        config.docker.gateway.issuer = "https://id.example.org".into();
        let open = of(&config);
        assert_eq!(open.front(), Service::Server, "only production has one");
        assert_eq!(open.get("COMPOSE_FILE"), None);
        config.docker.profile = Profile::Production;
        let shut = Settings::parse(&of(&config).render());
        assert_eq!(shut.front(), Service::Gateway);
        assert_eq!(shut.upstream(), Service::Server);
        assert_eq!(shut.port(Service::Server), None);
        assert_eq!(shut.port(Service::Gateway), Some(8080));
        let files = format!("{COMPOSE}:{PRODUCTION}:{GATEWAY}");
        assert_eq!(shut.get("COMPOSE_FILE"), Some(&*files));
    }

    #[test]
    fn a_volume_changes_and_nothing_else() {
        let text = "# mine\nK1_REDIS_VOLUME=a\nX=1\n";
        let changed = Settings::text_with_volume(text, Service::Redis, "b");
        assert_eq!(changed, "# mine\nK1_REDIS_VOLUME=b\nX=1\n");
        let again = Settings::text_with_volume(&changed, Service::Redis, "b");
        assert_eq!(again, changed);
        let added = Settings::text_with_volume("X=1\n", Service::Server, "c");
        assert_eq!(added, "X=1\nK1_LOGS_VOLUME=c\n");
        let live = Settings::parse(&changed);
        let config = Config::default();
        let settings = Settings::of(&config, &ServerImage::for_tests()).with_volumes_of(&live);
        assert_eq!(settings.volume(Service::Redis), Some("b"));
        let default = Some("conductor_postgres_data");
        assert_eq!(settings.volume(Service::Postgres), default);
    }

    #[test]
    fn heaps_are_read_as_the_jvm_does() {
        assert_eq!(bytes_of("1g"), Some(1 << 30));
        assert_eq!(bytes_of("512M"), Some(512 << 20));
        assert_eq!(bytes_of("65536"), Some(65536));
        assert_eq!(bytes_of("lots"), None);
        assert_eq!(bytes_of(""), None);
    }
}
