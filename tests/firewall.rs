//! The rules that `k1ops harden --firewall` shows, in force: what is another host to this one (a network
//! namespace) tries to come in, and a container tries to get out. The network is one of Docker's with a stack's
//! name; a stack's own servers are not needed for that.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers as well"
)]

mod bench;
mod patience;

use bench::{Bench, assert_code, assert_says, docker, docker_out, free_port, testbed};
use patience::until;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// This host and the other one, in a block that is for examples and is routed nowhere.
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";

fn command_as_root(program: &str, arguments: &[&str]) -> Command {
    let id = Command::new("id").arg("-u").output().unwrap();
    let mut command = if id.stdout.trim_ascii() == b"0" {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    };
    command.args(arguments);
    command
}

fn as_root(program: &str, arguments: &[&str]) -> Output {
    command_as_root(program, arguments).output().unwrap()
}

#[track_caller]
fn done_as_root(program: &str, arguments: &[&str]) {
    assert_code(&as_root(program, arguments), 0);
}

/// Another host, with a cable to this one, where something listens.
struct Other {
    name: String,
    port: u16,
    /// Of the rules.
    table: String,
}

impl Other {
    fn new(prefix: &str) -> Self {
        // A device has at most 15 letters.
        let name = format!("k1fw{}", std::process::id());
        let other = Self {
            table: format!("k1ops_{prefix}"),
            port: free_port(),
            name,
        };
        let (name, here, there) = (&other.name, other.device('a'), other.device('b'));
        done_as_root("ip", &["netns", "add", name]);
        let pair = ["link", "add", &here, "type", "veth", "peer", "name", &there];
        done_as_root("ip", &pair);
        done_as_root("ip", &["link", "set", &there, "netns", name]);
        let address = |host: &str| format!("{host}/30");
        done_as_root("ip", &["addr", "add", &address(HERE), "dev", &here]);
        done_as_root("ip", &["link", "set", &here, "up"]);
        let inside = |arguments: &[&str]| {
            done_as_root("ip", &[&["-n", name.as_str()], arguments].concat());
        };
        inside(&["addr", "add", &address(THERE), "dev", &there]);
        inside(&["link", "set", &there, "up"]);
        inside(&["route", "add", "default", "via", HERE]);
        let listen = [
            "netns",
            "exec",
            name,
            "redis-server",
            "--port",
            &other.port.to_string(),
            "--bind",
            THERE,
            "--protected-mode",
            "no",
            "--save",
            "",
            "--daemonize",
            "yes",
        ];
        done_as_root("ip", &listen);
        other
    }

    fn device(&self, end: char) -> String {
        format!("{}{end}", self.name)
    }

    /// Whether the other host gets a connection.
    fn reaches(&self, address: &str, port: u16) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        let command = [
            "netns", "exec", &self.name, "timeout", "3", "bash", "-c", &connect,
        ];
        as_root("ip", &command).status.success()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        as_root("nft", &["delete", "table", "inet", &self.table]);
        let there = as_root("ip", &["netns", "pids", &self.name]).stdout;
        for pid in String::from_utf8_lossy(&there).split_whitespace() {
            as_root("kill", &[pid]);
        }
        as_root("ip", &["link", "del", &self.device('a')]);
        as_root("ip", &["netns", "del", &self.name]);
    }
}

/// What each may do: who comes in from the other host, and whom the container gets.
#[derive(Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a way of its own, open or not"
)]
struct Seen {
    other_to_container: bool,
    host_to_container: bool,
    host_to_port: bool,
    container_to_other: bool,
    container_to_host: bool,
}

/// A container of a stack's network, with a port as a stack's database has one.
struct Container {
    name: String,
    address: String,
    port: u16,
}

impl Container {
    fn start(bench: &Bench) -> Self {
        let (name, network) = (bench.container("redis"), bench.container("network"));
        docker_out(&["network", "create", &network]);
        let port = bench.others[1];
        let published = format!("127.0.0.1:{port}:6379");
        docker_out(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            &network,
            "-p",
            &published,
            &testbed("REDIS_IMAGE"),
            "redis-server",
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
        ]);
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = docker_out(&["inspect", "--format", format, &name]);
        let address = address.trim().to_owned();
        Self {
            name,
            address,
            port,
        }
    }

    fn reaches(&self, address: &str, port: u16) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        let command = ["exec", &self.name, "timeout", "3", "bash", "-c", &connect];
        docker(&command).status.success()
    }

    fn look(&self, other: &Other, on_host: u16) -> Seen {
        Seen {
            other_to_container: other.reaches(&self.address, 6379),
            host_to_container: connects(&self.address, 6379),
            host_to_port: connects("127.0.0.1", self.port),
            container_to_other: self.reaches(THERE, other.port),
            container_to_host: self.reaches(HERE, on_host),
        }
    }
}

fn connects(address: &str, port: u16) -> bool {
    let address = (address.parse::<std::net::IpAddr>().unwrap(), port).into();
    TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok()
}

#[test]
fn who_is_not_of_the_stack_comes_in_no_more_and_nobody_gets_out() {
    let bench = Bench::new();
    let early = bench.run(&["harden", "--firewall"]);
    assert_code(&early, 3);
    assert_says(&early, "k1ops start");
    let container = Container::start(&bench);
    let other = Other::new(&bench.prefix);
    let on_host = free_port();
    let _listens = TcpListener::bind((HERE, on_host)).unwrap();
    until("redis does not listen", || {
        connects(&container.address, 6379)
    });
    until("the other host does not listen", || {
        connects(THERE, other.port)
    });
    let all = Seen {
        other_to_container: true,
        host_to_container: true,
        host_to_port: true,
        container_to_other: true,
        container_to_host: true,
    };
    assert_eq!(container.look(&other, on_host), all, "without any rules");

    let wrong = bench.run(&["harden", "--firewall", "--allow-out", "10.0.0.0/8; flush"]);
    assert_code(&wrong, 2);
    let shown = bench.run(&["harden", "--firewall"]);
    assert_code(&shown, 0);
    assert_eq!(container.look(&other, on_host), all, "shown is not applied");
    load(&shown.stdout);
    let shut = Seen {
        host_to_container: true,
        host_to_port: true,
        other_to_container: false,
        container_to_other: false,
        container_to_host: false,
    };
    assert_eq!(container.look(&other, on_host), shut);

    let named = bench.run(&["harden", "--firewall", "--allow-out", THERE]);
    assert_code(&named, 0);
    load(&named.stdout);
    let with_one = Seen {
        container_to_other: true,
        ..shut
    };
    assert_eq!(container.look(&other, on_host), with_one);
    done_as_root("nft", &["delete", "table", "inet", &other.table]);
    assert_eq!(container.look(&other, on_host), all, "taken away");
}

fn load(rules: &[u8]) {
    let mut child = command_as_root("nft", &["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(rules).unwrap();
    assert_code(&child.wait_with_output().unwrap(), 0);
}
