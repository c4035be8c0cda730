//! What users are told about the command line: the whole of `--help` in one snapshot, and the table
//! of exit codes.
//!
//! After a change that is meant, accept the new text with
//! `INSTA_UPDATE=always cargo test --test help`, and read the difference before committing it.

#![allow(clippy::expect_used, reason = "tests may stop at the first surprise")]

use clap::{Command, CommandFactory};
use k1ops::cli::Cli;
use k1ops::error::ErrorKind;
use k1ops::exit_code::ExitCode;
use std::collections::BTreeSet;

const GLOBAL: &str = "Global options:";

/// The long help of `command` and of every visible command below it, in order. The global options
/// are the same everywhere and are written out once, at the root.
fn whole_help(command: &mut Command, name: &str, text: &mut String) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let help = lines.join("\n");
    let root = !name.contains(' ');
    let (own, global) = help.split_once(GLOBAL).expect("global options");
    if root {
        text.push_str(&format!("$ {name} --help\n{}\n\n", help.trim_end()));
    } else {
        assert!(
            text.contains(global.trim_end()),
            "{name} has its own global options"
        );
        text.push_str(&format!("$ {name} --help\n{own}{GLOBAL} as above\n\n"));
    }
    for below in command.get_subcommands_mut() {
        if !below.is_hide_set() {
            let name = format!("{name} {}", below.get_name());
            whole_help(below, &name, text);
        }
    }
}

#[test]
fn the_whole_help() {
    // A fixed width, whatever the terminal that the tests run in.
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::new();
    whole_help(&mut command, "k1ops", &mut text);
    insta::assert_snapshot!(text);
}

#[test]
fn every_argument_and_command_is_explained() {
    fn check(command: &Command, unexplained: &mut Vec<String>) {
        let name = command.get_name();
        if command.get_about().is_none() {
            unexplained.push(name.to_owned());
        }
        for argument in command.get_arguments() {
            if argument.get_help().is_none() && !argument.is_hide_set() {
                unexplained.push(format!("{name}: {}", argument.get_id()));
            }
        }
        for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            check(below, unexplained);
        }
    }
    let mut unexplained = Vec::new();
    let mut command = Cli::command();
    command.build();
    check(&command, &mut unexplained);
    assert_eq!(unexplained, Vec::<String>::new());
}

#[test]
fn the_documented_exit_codes_are_those_of_the_code() {
    let kinds = [
        ErrorKind::Failed,
        ErrorKind::Usage,
        ErrorKind::Missing,
        ErrorKind::BadData,
        ErrorKind::Locked,
        ErrorKind::Refused,
        ErrorKind::Behind,
        ErrorKind::Interrupted,
    ];
    let mut real: BTreeSet<u8> = kinds.map(|kind| ExitCode::from(kind).number()).into();
    real.insert(ExitCode::Done.number());
    let page = include_str!("../docs/exit-codes.md");
    let documented: BTreeSet<u8> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(documented, real);
    let help = Cli::command().get_after_help().unwrap().to_string();
    for code in real {
        assert!(help.contains(&format!(" {code} ")), "{code} in --help");
    }
}
