//! A PostgreSQL in a container of its own, for a fault that only an engine knows: the container is
//! killed with everything in it, and started again as it is. Only where `K1OPS_FAULTS_IMAGE` names
//! an image that `docker` can run.

use crate::cluster::{program, succeed};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STARTING: Duration = Duration::from_secs(90);

/// A running container, removed together with this value.
pub struct Container {
    pub name: String,
    pub port: u16,
}

/// The image to run, if there is one.
pub fn image() -> Option<String> {
    std::env::var("K1OPS_FAULTS_IMAGE")
        .ok()
        .filter(|image| !image.is_empty())
}

fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Container {
    pub fn create(image: &str) -> Self {
        let name = format!("k1ops-faults-{}-{}", std::process::id(), free_port());
        let port = free_port();
        let published = format!("127.0.0.1:{port}:5432");
        let run = ["run", "--detach", "--name", &name, "--publish", &published];
        let trust = ["--env", "POSTGRES_HOST_AUTH_METHOD=trust", image];
        succeed(&mut docker(&[&run[..], &trust].concat()));
        let container = Self { name, port };
        container.wait();
        container
    }

    /// `kill -9` of all that is in it.
    pub fn kill(&self) -> bool {
        docker(&["kill", "--signal", "KILL", &self.name])
            .output()
            .unwrap()
            .status
            .success()
    }

    pub fn start_again(&self) {
        succeed(&mut docker(&["start", &self.name]));
        self.wait();
    }

    /// An image answers over its network only when its first set-up is done.
    fn wait(&self) {
        let until = Instant::now() + STARTING;
        let port = self.port.to_string();
        let answers = || {
            Command::new(program("psql"))
                .args([
                    "-XAtq",
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "postgres",
                    "-c",
                    "SELECT 1",
                    "-p",
                    &port,
                ])
                .stdin(Stdio::null())
                .output()
                .unwrap()
                .status
                .success()
        };
        while !answers() {
            assert!(
                Instant::now() < until,
                "container {} does not answer",
                self.name
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", "--volumes", &self.name]).output();
    }
}

fn free_port() -> u16 {
    k1ops::adapters::port::any_free().unwrap()
}
