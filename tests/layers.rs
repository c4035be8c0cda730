//! Fails on an import that points upward, on clap outside the command line, on a file that asks to
//! be split, and on a module whose name says nothing. `src/lib.rs` has the table of layers.
//!
//! Every file of `src/` is parsed; `use` trees, paths in code, and the tokens of macros and
//! attributes are all looked at, so a path written out in full is found like an import.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise, their helpers too"
)]

use proc_macro2::{TokenStream, TokenTree};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// Every top-level module, and the top-level modules that it may use besides the foundation. The
/// edge may use everything and is not listed.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ui", &[]),
    (
        "demo",
        &[
            "stack",
            "backup",
            "restore",
            "repository",
            "archive",
            "store",
            "conductor",
            "adapters",
        ],
    ),
    (
        "doctor",
        &[
            "drill",
            "stack",
            "backup",
            "restore",
            "repository",
            "wal",
            "archive",
            "store",
            "conductor",
            "adapters",
        ],
    ),
    (
        "drill",
        &[
            "stack",
            "restore",
            "repository",
            "archive",
            "conductor",
            "adapters",
        ],
    ),
    ("audit", &["stack", "adapters"]),
    ("harden", &["stack", "adapters"]),
    (
        "upgrade",
        &[
            "drill",
            "backup",
            "restore",
            "repository",
            "stack",
            "adapters",
        ],
    ),
    (
        "metrics",
        &[
            "schedule",
            "drill",
            "repository",
            "wal",
            "stack",
            "adapters",
        ],
    ),
    ("notify", &["stack", "adapters"]),
    (
        "schedule",
        &[
            "notify",
            "drill",
            "stack",
            "backup",
            "restore",
            "repository",
            "archive",
            "conductor",
            "adapters",
        ],
    ),
    (
        "backup",
        &[
            "archive",
            "repository",
            "store",
            "stack",
            "conductor",
            "adapters",
        ],
    ),
    // Before it replaces data, a restore takes a safety archive of them.
    (
        "restore",
        &[
            "backup",
            "archive",
            "repository",
            "wal",
            "store",
            "stack",
            "conductor",
            "adapters",
        ],
    ),
    (
        "worker",
        &["agent", "store", "stack", "conductor", "adapters"],
    ),
    (
        "validate",
        &["plan", "store", "stack", "conductor", "adapters"],
    ),
    (
        "plan",
        &["worker", "agent", "store", "stack", "conductor", "adapters"],
    ),
    ("agent", &["store", "stack", "adapters"]),
    ("repository", &["wal", "archive", "stack", "adapters"]),
    ("wal", &["archive", "stack", "adapters"]),
    ("stack", &["conductor", "adapters"]),
    ("store", &["archive", "stack", "adapters"]),
    ("archive", &["adapters"]),
    ("conductor", &["adapters"]),
    ("adapters", &[]),
    ("config", &[]),
    ("event", &[]),
    ("error", &[]),
    ("exit_code", &[]),
    ("interrupt", &[]),
];
const FOUNDATION: &[&str] = &["config", "event", "error", "exit_code", "interrupt"];
const EDGE: &[&str] = &["cli", "commands"];
const MOST_LINES: usize = 600;
const NAMES_THAT_SAY_NOTHING: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "misc",
];

/// A use of another module or crate: the path, resolved to begin at the crate's root or a crate.
#[derive(Debug, PartialEq)]
struct Use {
    path: Vec<String>,
    line: usize,
}

/// What is wrong in one file: `path` is relative to `src/`, `commands` are the command modules.
fn violations(path: &str, text: &str, commands: &[String]) -> Vec<String> {
    let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{path} cannot be parsed: {e}"));
    let module = module_of(path);
    let mut found = Finder::new(module.clone());
    found.visit_file(&file);
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        wrong.push(format!("{path} has {lines} lines and asks to be split"));
    }
    for name in module.iter().chain(&found.modules) {
        if NAMES_THAT_SAY_NOTHING.contains(&name.as_str()) {
            wrong.push(format!("{path}: a module named `{name}` says nothing"));
        }
    }
    for usage in &found.uses {
        if let Some(why) = forbidden(&module, &usage.path, commands) {
            wrong.push(format!(
                "{path}:{}: {}: {why}",
                usage.line,
                usage.path.join("::")
            ));
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

/// Why code in `module` may not use `path`; `None` if it may.
fn forbidden(module: &[String], path: &[String], commands: &[String]) -> Option<String> {
    // lib.rs and main.rs hold everything together.
    let here = module.first()?.as_str();
    let first = path.first()?.as_str();
    if first.starts_with("clap") {
        let allowed = match here {
            "cli" | "commands" | "ui" => true,
            "config" => path.get(1).is_some_and(|name| name == "ValueEnum"),
            _ => false,
        };
        return (!allowed).then(|| format!("{here} knows nothing of the command line"));
    }
    if first != "crate" {
        return None;
    }
    let there = path.get(1)?.as_str();
    if here == "commands" && there == "commands" {
        return between_commands(module, path, commands);
    }
    if there == here || FOUNDATION.contains(&there) || EDGE.contains(&here) {
        return None;
    }
    let known = |name: &str| EDGE.contains(&name) || MAY_USE.iter().any(|(m, _)| *m == name);
    let Some((_, may_use)) = MAY_USE.iter().find(|(m, _)| *m == here) else {
        return Some(format!(
            "{here} has no layer yet: give it one in tests/layers.rs"
        ));
    };
    // What is not a module is an item of the crate's root, of which there is only `run`.
    if !known(there) && there != "run" {
        return Some(format!(
            "{there} has no layer yet: give it one in tests/layers.rs"
        ));
    }
    (!may_use.contains(&there)).then(|| format!("{here} may not use {there}"))
}

/// A command may use what `commands/mod.rs` offers, and itself, but no other command.
fn between_commands(module: &[String], path: &[String], commands: &[String]) -> Option<String> {
    let (own, other) = (module.get(1)?, path.get(2)?);
    let is_command = commands.contains(other);
    (is_command && own != other).then(|| "a command may not use another command".to_owned())
}

/// `commands/query.rs` is `["commands", "query"]`, `ui/mod.rs` is `["ui"]`, `lib.rs` is empty.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").expect("a Rust file");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    let last = parts.last().map(String::as_str);
    if last == Some("mod") || matches!(path, "lib" | "main") {
        parts.pop();
    }
    parts
}

/// Collects the uses in a file.
struct Finder {
    /// Where in the module tree the visitor is, inline modules included.
    module: Vec<String>,
    uses: Vec<Use>,
    /// The names of inline modules.
    modules: Vec<String>,
}

impl Finder {
    fn new(module: Vec<String>) -> Self {
        Self {
            module,
            uses: Vec::new(),
            modules: Vec::new(),
        }
    }

    fn add(&mut self, path: &[String], line: usize) {
        let mut resolved = match path.first().map(String::as_str) {
            Some("self" | "super") => {
                let ups = path.iter().filter(|part| *part == "super").count();
                let kept = self.module.len().saturating_sub(ups);
                let mut base = vec!["crate".to_owned()];
                base.extend_from_slice(&self.module[..kept]);
                base
            }
            _ => Vec::new(),
        };
        let rest = path
            .iter()
            .filter(|part| *part != "super" && *part != "self");
        resolved.extend(rest.cloned());
        self.uses.push(Use {
            path: resolved,
            line,
        });
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.add(&with(&name.ident), line_of(&name.ident)),
            syn::UseTree::Rename(name) => self.add(&with(&name.ident), line_of(&name.ident)),
            syn::UseTree::Glob(glob) => {
                self.add(before, glob.star_token.spans[0].start().line);
            }
            syn::UseTree::Group(group) => {
                for item in &group.items {
                    self.tree(item, before);
                }
            }
        }
    }

    /// Paths in tokens that are not parsed: `a :: b :: c`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.finish(&mut path, line);
                        line = line_of(&ident);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.finish(&mut path, line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.finish(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.finish(&mut path, line);
    }

    fn finish(&mut self, path: &mut Vec<String>, line: usize) {
        if path.len() > 1 {
            self.add(path, line);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        self.modules.push(name.clone());
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
            self.add(&parts, line_of(&path.segments[0].ident));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }
}

fn line_of(ident: &syn::Ident) -> usize {
    ident.span().start().line
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn commands() -> Vec<String> {
    std::fs::read_dir(source_folder().join("commands"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .filter(|name| name != "mod")
        .collect()
}

#[test]
fn no_arrow_points_upward() {
    let (root, commands) = (source_folder(), commands());
    let files = files(&root);
    assert!(files.len() > 20, "the files are found");
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            violations(path, &std::fs::read_to_string(file).unwrap(), &commands)
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The check itself: what it must find, and what it must let pass.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn planted_violations_are_found() {
    let commands = ["query".to_owned(), "start".to_owned()];
    for (path, text, expected) in [
        ("store/mod.rs", "use crate::ui::Ui;", "store may not use ui"),
        (
            "store/mod.rs",
            "use crate::{error::Error, ui::{self, Ui}};",
            "store may not use ui",
        ),
        (
            "store/a.rs",
            "fn f() { crate::backup::run() }",
            "store may not use backup",
        ),
        (
            "store/a.rs",
            "fn f(x: crate::backup::Plan) {}",
            "store may not use backup",
        ),
        (
            "store/a.rs",
            "use super::super::repository as other;",
            "store may not use repository",
        ),
        (
            "store/a.rs",
            "mod inner { use super::super::super::ui; }",
            "store may not use ui",
        ),
        (
            "store/a.rs",
            "fn f() { say!(\"{}\", crate::ui::time(x)) }",
            "store may not use ui",
        ),
        (
            "store/a.rs",
            "#[serde(with = 1, x(crate::ui::time))] struct A;",
            "may not use ui",
        ),
        ("store/a.rs", "use crate::cli::*;", "store may not use cli"),
        (
            "stack/mod.rs",
            "pub use crate::commands::Context;",
            "stack may not use commands",
        ),
        (
            "adapters/fs.rs",
            "use crate::stack::Stack;",
            "adapters may not use stack",
        ),
        (
            "adapters/fs.rs",
            "use crate::store;",
            "adapters may not use store",
        ),
        (
            "ui/mod.rs",
            "use crate::adapters::fs;",
            "ui may not use adapters",
        ),
        ("error.rs", "use crate::ui;", "error may not use ui"),
        (
            "archive/mod.rs",
            "use crate::stack::Stack;",
            "archive may not use stack",
        ),
        (
            "conductor/a.rs",
            "use crate::stack::Stack;",
            "conductor may not use stack",
        ),
        (
            "backup/mod.rs",
            "use crate::restore::x;",
            "backup may not use restore",
        ),
        (
            "stack/a.rs",
            "use crate::demo::x;",
            "stack may not use demo",
        ),
        (
            "stack/a.rs",
            "use crate::doctor::x;",
            "stack may not use doctor",
        ),
        (
            "stack/a.rs",
            "use crate::unheard::x;",
            "unheard has no layer yet",
        ),
        (
            "unheard/a.rs",
            "use crate::ui::x;",
            "unheard has no layer yet",
        ),
        (
            "commands/query.rs",
            "use super::start::x;",
            "not use another command",
        ),
        (
            "commands/query.rs",
            "use crate::commands::start;",
            "not use another command",
        ),
        (
            "commands/query/a.rs",
            "use super::super::start::x;",
            "not use another command",
        ),
        (
            "store/a.rs",
            "#[derive(clap::Args)] struct A;",
            "knows nothing of the command line",
        ),
        (
            "store/a.rs",
            "use clap_complete::Shell;",
            "knows nothing of the command line",
        ),
        (
            "config/a.rs",
            "use clap::Parser;",
            "knows nothing of the command line",
        ),
        ("store/util.rs", "", "a module named `util` says nothing"),
        (
            "store/a.rs",
            "mod helpers {}",
            "a module named `helpers` says nothing",
        ),
        ("store/a.rs", &"\n".repeat(601), "asks to be split"),
    ] {
        let found = violations(path, text, &commands);
        assert!(!found.is_empty(), "{path}: {text}");
        let all = found.iter().all(|wrong| wrong.contains(expected));
        assert!(all, "{path}: {text}: {found:?}");
    }
    for (path, text) in [
        (
            "store/a.rs",
            "use super::model::x; use crate::error::Result; use crate::stack::Stack;",
        ),
        (
            "store/a.rs",
            "fn f() { crate::store::b::c(); self::d(); std::mem::take(x) }",
        ),
        (
            "store/a.rs",
            "/// See [`crate::ui`].\nfn f() { g!(\"crate::ui::x\") }",
        ),
        (
            "store/a.rs",
            "mod tests { use super::*; use super::super::model; }",
        ),
        (
            "commands/query.rs",
            "use super::Context; use crate::store::Store; use crate::cli::Cli;",
        ),
        (
            "commands/query/a.rs",
            "use super::b; use crate::commands::query::c;",
        ),
        (
            "commands/mod.rs",
            "mod query; use query::x; fn f() { start::run() }",
        ),
        (
            "config/mod.rs",
            "#[derive(Debug, clap::ValueEnum)] enum A {}",
        ),
        ("cli.rs", "use crate::commands; use clap::Parser;"),
        ("lib.rs", "pub use cli::run; use crate::demo::x;"),
        ("store/a.rs", &"\n".repeat(600)),
    ] {
        assert_eq!(
            violations(path, text, &commands),
            Vec::<String>::new(),
            "{path}: {text}"
        );
    }
}
