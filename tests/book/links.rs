//! That every page is in the table of contents, and every link leads to a page or a heading of it.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Every page below `docs`, by its path in there.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![docs()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                let name = path.strip_prefix(docs()).unwrap().to_path_buf();
                pages.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    pages
}

fn links(text: &str) -> Vec<String> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
        .filter_map(|event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                Some(dest_url.into_string())
            }
            _ => None,
        })
        .collect()
}

/// The addresses of a page's headings, as mdBook and GitHub make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut anchors, mut heading) = (BTreeSet::new(), None::<String>);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                anchors.extend(heading.take().map(|words| anchor(&words)));
            }
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            _ => {}
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// A path without `.` and `..`; nothing if it leads out of the book.
fn within(page: &Path, link: &str) -> Option<PathBuf> {
    let mut path = page.parent().unwrap().to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                path.pop().then_some(())?;
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

/// What is wrong with a link of a page.
fn wrong(pages: &BTreeMap<PathBuf, String>, page: &Path, link: &str) -> Option<&'static str> {
    if link.starts_with("https://") || link.starts_with("http://") {
        return None;
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        page.to_path_buf()
    } else {
        match within(page, file) {
            Some(target) => target,
            None => return Some("leads out of the book"),
        }
    };
    match pages.get(&target) {
        None => Some("leads to no page"),
        Some(text) if !heading.is_empty() && !anchors(text).contains(heading) => {
            Some("leads to no heading")
        }
        Some(_) => None,
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut found = Vec::new();
    for (page, text) in &pages {
        for link in links(text) {
            if let Some(what) = wrong(&pages, page, &link) {
                found.push(format!("docs/{}: {link} {what}", page.display()));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let mut pages = pages();
    let contents = pages.remove(Path::new("SUMMARY.md")).unwrap();
    let mut listed: Vec<PathBuf> = links(&contents).into_iter().map(PathBuf::from).collect();
    listed.sort();
    let all: Vec<PathBuf> = pages.into_keys().collect();
    assert_eq!(listed, all);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let pages = pages();
    let at = Path::new("runbooks/host-lost.md");
    for (link, what) in [
        ("no-such-page.md", "leads to no page"),
        ("../repositories.md#no-such-heading", "leads to no heading"),
        ("../../README.md", "leads out of the book"),
        ("#no-such-heading", "leads to no heading"),
    ] {
        assert_eq!(wrong(&pages, at, link), Some(what), "{link}");
    }
    assert_eq!(wrong(&pages, at, "../repositories.md#copies"), None);
    assert_eq!(
        anchor("What `doctor` checks, now"),
        "what-doctor-checks-now"
    );
}
