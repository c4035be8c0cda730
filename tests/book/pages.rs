//! Each page with commands, run on a host of its own.

use crate::cluster::{Cluster, program};
use crate::page::{Page, Step};
use crate::session::Host;
use clap::CommandFactory;
use k1ops::cli::Cli;

#[test]
fn first_hour() {
    Host::new().run(&Page::read("first-hour.md"));
}

#[test]
fn commands() {
    let (host, _cluster) = with_postgres();
    host.run(&Page::read("commands.md"));
}

#[test]
fn every_command_is_on_the_page_of_all_commands() {
    let page = Page::read("commands.md");
    for command in Cli::command().get_subcommands() {
        if command.is_hide_set() {
            continue;
        }
        let name = command.get_name();
        let heading = format!("### `k1ops {name}`");
        assert!(page.text.lines().any(|line| line == heading), "{heading}");
        let run = format!("k1ops {name}");
        let runs = |step: &&Step| step.shown.is_some() && step.command.starts_with(&run);
        assert!(
            page.steps.iter().any(|step| runs(&step)),
            "`{run}` is not run"
        );
    }
}

#[test]
fn from_scripts() {
    let (host, _cluster) = with_postgres();
    host.run(&Page::read("from-scripts.md"));
}

#[test]
fn host_lost() {
    Host::new().run(&Page::read("runbooks/host-lost.md"));
}

#[test]
fn database_corrupted() {
    let (mut host, _cluster) = with_postgres();
    if rustix::process::geteuid().is_root() {
        let other = "setpriv --reuid=postgres --regid=postgres --clear-groups";
        host.variable("AS_SERVER", other);
    }
    host.run(&Page::read("runbooks/database-corrupted.md"));
}

#[test]
fn wrong_delete() {
    let (mut host, _cluster) = with_postgres();
    host.of_the_server_user();
    let port = k1ops::adapters::port::any_free().unwrap();
    host.named("-p 5433", &format!("-p {port}"));
    host.run(&Page::read("runbooks/wrong-delete.md"));
}

#[test]
fn bad_upgrade() {
    Host::new().run(&Page::read("runbooks/bad-upgrade.md"));
}

#[test]
fn lost_key() {
    Host::new().run(&Page::read("runbooks/lost-key.md"));
}

/// A host beside a PostgreSQL that the page calls `db.example.org:5432`.
fn with_postgres() -> (Host, Cluster) {
    let cluster = Cluster::create("unix_socket_directories = ''", "");
    // So that `pg_ctl` alone starts it again.
    let port = cluster.port.to_string();
    let settings = cluster.data.join("postgresql.auto.conf");
    std::fs::write(&settings, format!("port = {port}\n")).unwrap();
    let mut host = Host::new();
    host.named("db.example.org:5432", &format!("127.0.0.1:{port}"));
    host.variable("PGHOST", "127.0.0.1");
    host.variable("PGPORT", &port);
    host.variable("PGUSER", "postgres");
    host.variable("PGDATA", &cluster.data.display().to_string());
    let programs = program("pg_ctl");
    host.programs(programs.parent().unwrap());
    (host, cluster)
}
