//! A page of the book as a list of steps: the commands that it shows, with the output that it shows
//! for each, and the steps that it does not show.
//!
//! A block marked `console` is a terminal: `$ ` begins a command, `> ` goes on with it, `? N` says that
//! it exits with N, and the rest is what it prints; the notation is that of the crate `trycmd`. A comment
//! that begins with `<!-- run` holds lines of shell that readers do not see: the disaster itself, and
//! what makes the scene.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that the page does.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The line of its first command.
    pub line: usize,
    pub command: String,
    pub code: i32,
    /// What the page shows, and where; nothing for what readers do not see.
    pub shown: Option<Shown>,
}

#[derive(Debug, PartialEq)]
pub struct Shown {
    pub text: String,
    pub place: Range<usize>,
}

pub struct Page {
    pub name: String,
    path: PathBuf,
    pub text: String,
    pub steps: Vec<Step>,
}

impl Page {
    /// Reads a page of the book by its path in `docs`.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("docs")
            .join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        Self {
            name: name.to_owned(),
            steps: steps(&text),
            path,
            text,
        }
    }

    /// Writes what really was printed in place of what was shown, from the last step to the first.
    pub fn rewrite(&self, corrections: &[(&Step, &str)]) {
        let mut text = self.text.clone();
        for (step, printed) in corrections.iter().rev() {
            let place = step.shown.as_ref().unwrap().place.clone();
            text.replace_range(place, printed);
        }
        std::fs::write(&self.path, text).unwrap();
    }
}

/// Where the reader of a page is.
enum Place {
    Prose,
    /// In a terminal.
    Console,
    /// In the lines of a step that is not shown.
    Comment(Step),
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut place = Place::Prose;
    // Whether the last line belongs to a command, so that more of it or its exit code may follow.
    let mut in_command = false;
    let mut at = 0;
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim_end_matches('\n');
        let (begin, end) = (at, at + whole.len());
        at = end;
        place = match place {
            Place::Prose if line == "```console" => Place::Console,
            Place::Prose if line == "<!-- run" => Place::Comment(Step {
                line: number + 2,
                command: String::new(),
                code: 0,
                shown: None,
            }),
            Place::Prose => Place::Prose,
            Place::Comment(step) if line == "-->" => {
                steps.push(step);
                Place::Prose
            }
            Place::Comment(mut step) => {
                step.command.push_str(whole);
                Place::Comment(step)
            }
            Place::Console if line == "```" => Place::Prose,
            Place::Console => {
                in_command = terminal(&mut steps, in_command, number + 1, whole, begin..end);
                Place::Console
            }
        };
    }
    assert!(matches!(place, Place::Prose), "a block has no end");
    steps
}

/// One line of a terminal; answers whether it belongs to a command.
fn terminal(
    steps: &mut Vec<Step>,
    in_command: bool,
    line: usize,
    whole: &str,
    place: Range<usize>,
) -> bool {
    if let Some(command) = whole.strip_prefix("$ ") {
        steps.push(Step {
            line,
            command: command.to_owned(),
            code: 0,
            shown: Some(Shown {
                text: String::new(),
                place: place.end..place.end,
            }),
        });
        return true;
    }
    let step = steps.last_mut().expect("a command before its output");
    let shown = step.shown.as_mut().expect("a command before its output");
    if in_command && (whole == ">\n" || whole.starts_with("> ")) {
        step.command
            .push_str(whole[1..].strip_prefix(' ').unwrap_or(&whole[1..]));
        shown.place = place.end..place.end;
        return true;
    }
    if in_command && let Some(code) = whole.strip_prefix("? ") {
        step.code = code.trim().parse().expect("an exit code after `? `");
        shown.place = place.end..place.end;
        return false;
    }
    shown.text.push_str(whole);
    shown.place.end = place.end;
    false
}

#[cfg(test)]
mod reading {
    use super::*;

    const TEXT: &str = "# A page\n\n```console\n$ cat > file <<'END'\n> one\n>\n> two\n> END\n$ false\n? 1\n\
        it went\n  > wrong\n```\n\n<!-- run\nrm -rf .conductor\ntrue\n-->\n\n```\n$ this is no terminal\n```\n";

    #[test]
    fn a_page_is_the_list_of_what_it_does() {
        let steps = steps(TEXT);
        assert_eq!(steps.len(), 3);
        assert_eq!(steps[0].command, "cat > file <<'END'\none\n\ntwo\nEND\n");
        assert_eq!((steps[0].line, steps[0].code), (4, 0));
        assert_eq!(steps[0].shown.as_ref().unwrap().text, "");
        assert_eq!((steps[1].line, steps[1].code), (9, 1));
        let shown = steps[1].shown.as_ref().unwrap();
        assert_eq!(shown.text, "it went\n  > wrong\n");
        assert_eq!(&TEXT[shown.place.clone()], shown.text);
        assert_eq!(steps[2].command, "rm -rf .conductor\ntrue\n");
        assert_eq!((steps[2].line, &steps[2].shown), (16, &None));
    }
}
