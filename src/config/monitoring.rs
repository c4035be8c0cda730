//! `[docker.monitoring]`: what watches the stack, and whether it runs.

use serde::{Deserialize, Serialize};

/// Whether something runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// As the last start left it; not, at first.
    #[default]
    Auto,
    /// It runs.
    On,
    /// It does not.
    Off,
}

/// Prometheus, what it asks, and Grafana (docker tier).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitoring {
    /// Whether it runs; `k1ops start --with-monitoring` switches it on.
    pub run: Switch,
    /// How long Prometheus keeps what it saw, as Prometheus writes times.
    pub keep: String,
    /// The image of Prometheus.
    pub prometheus_image: String,
    /// The image of what tells Prometheus about `PostgreSQL`.
    pub postgres_exporter_image: String,
    /// The image of what tells Prometheus about Redis.
    pub redis_exporter_image: String,
    /// The image of what tells Prometheus about backups, from the file that k1ops writes.
    pub node_exporter_image: String,
    /// The image of Grafana; empty: none runs.
    pub grafana_image: String,
}

impl Monitoring {
    /// The images, by their keys below `docker`; Grafana's only if there is one.
    #[must_use]
    pub fn images(&self) -> Vec<(&'static str, &str)> {
        let mut images = vec![
            (
                "monitoring.prometheus_image",
                self.prometheus_image.as_str(),
            ),
            (
                "monitoring.postgres_exporter_image",
                &self.postgres_exporter_image,
            ),
            (
                "monitoring.redis_exporter_image",
                &self.redis_exporter_image,
            ),
            ("monitoring.node_exporter_image", &self.node_exporter_image),
        ];
        if !self.grafana_image.is_empty() {
            images.push(("monitoring.grafana_image", &self.grafana_image));
        }
        images
    }
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            run: Switch::Auto,
            keep: "15d".to_owned(),
            prometheus_image: "prom/prometheus:v3.5.0".to_owned(),
            postgres_exporter_image: "prometheuscommunity/postgres-exporter:v0.18.1".to_owned(),
            redis_exporter_image: "oliver006/redis_exporter:v1.74.0-alpine".to_owned(),
            node_exporter_image: "prom/node-exporter:v1.9.1".to_owned(),
            grafana_image: "grafana/grafana:12.2.0".to_owned(),
        }
    }
}
