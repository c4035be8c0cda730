//! The folder that archives go to is there, or can be made, and can be written to; and each copy of it
//! can be reached and has every backup.

use super::{at_files, quoted, word};
use crate::adapters::disk::{FileSystem, may_write};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::{ErrorKind, Result};
use crate::repository::{CopyStatus, Repository};
use std::sync::Arc;

/// How many archives that are missing are named.
const FEW: usize = 3;

pub(super) struct RepositoryReachable;

impl Check for RepositoryReachable {
    fn name(&self) -> &'static str {
        "repository"
    }

    fn group(&self) -> Group {
        Group::Backups
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        at_files(patient, |patient| {
            let mut examined = look(patient)?;
            look_at_copies(patient, &mut examined);
            Ok(examined)
        })
    }
}

fn look(patient: &Patient) -> Result<Examined> {
    let Some(folder) = patient.stack.repository_folder() else {
        return Ok(look_elsewhere(patient));
    };
    let shown = folder.display();
    let problem = |title: String| Finding::problem(ErrorKind::Missing, title);
    if let Some(file) = folder
        .ancestors()
        .find(|f| f.exists())
        .filter(|f| !f.is_dir())
    {
        return Ok(problem(format!("repository {shown} is no folder"))
            .seen(format!("{} is a file", file.display()))
            .because("archives are kept in a folder")
            .advise("Remove or rename the file, or set repository.path to another folder.")
            .remedy(format!("mv {0} {0}.old", word(file)))
            .into());
    }
    let configured = !patient.stack.config.repository.path.as_os_str().is_empty();
    let system = FileSystem::of(&folder)?;
    if system.read_only {
        return Ok(
            problem(format!("repository {shown} is on a read-only file system"))
                .because("it was mounted so, or the kernel made it so after an error of the disk")
                .remedy("dmesg | grep -i 'remounting filesystem read-only'")
                .remedy(format!("sudo mount -o remount,rw {}", word(&system.path)))
                .into(),
        );
    }
    if !may_write(&system.path) {
        return Ok(problem(format!("repository {shown} cannot be written to"))
            .seen(format!("no permission in {}", system.path.display()))
            .because("the folder belongs to another user")
            .remedy(format!("sudo chown $(id -un) {}", word(&system.path)))
            .into());
    }
    // A relative path belongs to the stack and is made by the first backup; an absolute one that is
    // not there looks like a disk that is not mounted.
    if configured && !folder.exists() && patient.stack.config.repository.path.is_absolute() {
        return Ok(Finding::warning(format!("repository {shown} is not there"))
            .because("if it is on a disk or a share of its own, that is not mounted now")
            .advise("Mount it, or make the folder if it is meant to be on this disk.")
            .remedy(format!("mkdir -m 700 -p {}", word(&folder)))
            .into());
    }
    Ok(Examined::well(format!("{shown} can be written to")))
}

/// The copies, one after the other. What is wrong with the first repository is said already.
fn look_at_copies(patient: &Patient, examined: &mut Examined) {
    let stack = &patient.stack;
    if stack.config.repository.copies.is_empty() {
        return;
    }
    let repository = match Repository::of(stack) {
        Ok(repository) => repository,
        Err(error) => return examined.find(Finding::of(&error)),
    };
    for copy in repository.copy_status(&stack.name).unwrap_or_default() {
        look_at_copy(&copy, examined);
    }
}

fn look_at_copy(copy: &CopyStatus, examined: &mut Examined) {
    let (name, place) = (&copy.name, copy.place.display());
    if let Some(error) = &copy.error {
        let title = format!("the copy {name} of the repository cannot be used");
        let mut finding = Finding::problem(ErrorKind::Missing, title)
            .seen(format!("{place}: {error}"))
            .because("new backups are not copied there, and may be in one place only");
        finding.advice.clone_from(&copy.hint);
        examined.find(finding.remedy("k1ops repo copy"));
        return;
    }
    if !copy.missing.is_empty() {
        let all = copy.missing.len() + copy.held.len() + copy.differing.len();
        let title = format!(
            "the copy {name} lacks {} of {all} backups",
            copy.missing.len()
        );
        let missing = copy.missing.iter().take(FEW);
        let finding = Finding::problem(ErrorKind::Behind, title)
            .because("it could not be reached when they were made, or is new");
        let finding = missing.fold(finding, |finding, step| finding.seen(step.name.clone()));
        examined.find(finding.remedy("k1ops repo copy"));
    }
    if let Some(first) = copy.differing.first() {
        let title = format!(
            "{} archives are not the same in the copy {name}",
            copy.differing.len()
        );
        examined.find(
            Finding::problem(ErrorKind::BadData, title)
                .seen(first.clone())
                .because("one of the two was damaged or replaced, or encrypted anew")
                .advise(format!(
                    "Find out which is right; after a rekey, delete the old one in {place}."
                ))
                .remedy(format!("k1ops verify {}", quoted(first)))
                .remedy(format!("k1ops verify {} --from-copy {name}", quoted(first))),
        );
    }
    if !copy.is_behind() {
        examined.say(format!("copy {name} has all {} backups", copy.held.len()));
    }
}

/// An object store is asked whether it answers, and whether these credentials may look.
fn look_elsewhere(patient: &Patient) -> Examined {
    let opened = Repository::of(&patient.stack);
    let found = opened.and_then(|repository| Ok((repository.list()?.len(), repository)));
    match found {
        Ok((count, repository)) => {
            let shown = repository.place().display();
            Examined::well(format!("{shown} answers and holds {count} archives"))
        }
        Err(error) => {
            let shown = patient.stack.repository();
            let title = format!("repository {} cannot be used", shown.display());
            let mut finding = Finding::problem(ErrorKind::Missing, title).seen(error.to_string());
            if let Some(cause) = error.causes().first() {
                finding = finding.because(cause.clone());
            }
            let finding = match error.hint_text() {
                Some(hint) => finding.advise(hint.to_owned()),
                None => finding,
            };
            finding.into()
        }
    }
}
