//! No password of the stack is one that everybody tries first.

use super::{secrets_in, word};
use crate::doctor::{Check, Examined, Finding, Group, Looking, Patient};
use crate::error::Result;
use crate::stack::docker::Secrets;
use std::path::PathBuf;
use std::sync::Arc;

/// What is in every list of passwords, and in every guide.
const USUAL: [&str; 22] = [
    "postgres",
    "postgresql",
    "conductor",
    "conductor123",
    "redis",
    "password",
    "passw0rd",
    "password123",
    "changeme",
    "change_me",
    "admin",
    "admin123",
    "root",
    "secret",
    "test",
    "example",
    "letmein",
    "qwerty",
    "123456",
    "12345678",
    "k1",
    "default",
];
/// A shorter one can be tried out.
const SHORTEST: usize = 12;

pub(super) struct Passwords;

impl Check for Passwords {
    fn name(&self) -> &'static str {
        "passwords"
    }

    fn group(&self) -> Group {
        Group::Security
    }

    fn examine(&self, patient: Arc<Patient>) -> Looking {
        Box::pin(async move { look(&patient).await })
    }
}

async fn look(patient: &Patient) -> Result<Examined> {
    let mut examined = Examined::default();
    let mut looked_at = 0;
    if patient.stack.uses_database_url()
        && let Ok(address) = patient.database()
    {
        looked_at += 1;
        let place = database_place(patient);
        match address.password() {
            Some(password) => {
                let weak = weak(&password, address.user());
                if let Some(why) = weak {
                    let sql = format!(
                        "psql -h {} -p {} -U {} -c '\\password'",
                        address.host(),
                        address.port(),
                        address.user()
                    );
                    examined.find(told("PostgreSQL", &place, why, &sql));
                }
            }
            None if patient.session_if_any().await.is_some() => examined.find(
                Finding::warning(format!(
                    "PostgreSQL lets {} in without a password",
                    address.user()
                ))
                .seen(format!("{} has none", address.shown()))
                .because("pg_hba.conf trusts whoever comes from here: every user of this host")
                .advise("Let pg_hba.conf ask for scram-sha-256, and give the user a password.")
                .remedy(format!(
                    "psql -h {} -p {} -U {} -c '\\password'",
                    address.host(),
                    address.port(),
                    address.user()
                )),
            ),
            None => {}
        }
    }
    let folder = patient.stack.docker_folder();
    if let Some(secrets) = secrets_in(&folder)? {
        looked_at += 1;
        if !patient.stack.is_in_docker()?
            && let Some(why) = weak(secrets.postgres.expose(), "conductor")
        {
            let file = Secrets::postgres_file(&folder);
            examined.find(told("PostgreSQL", &word(&file), why, "k1ops start"));
        }
        for (role, password) in &secrets.roles {
            if let Some(why) = weak(password.expose(), role.name()) {
                let file = word(&role.password_file(&folder));
                let remedy = "k1ops harden --rotate-passwords";
                examined.find(told("PostgreSQL", &file, why, remedy));
            }
        }
        if let Some(why) = weak(secrets.redis.expose(), "redis") {
            let file = word(&folder.join("secrets/redis.conf"));
            examined.find(told(
                "Redis",
                &file,
                why,
                &format!("k1ops stop && rm {file} && k1ops start"),
            ));
        }
    }
    if looked_at == 0 {
        return Ok(Examined::skipped("this stack has no passwords yet"));
    }
    if examined.findings.is_empty() {
        examined.say("none is a usual or a short one");
    }
    Ok(examined)
}

/// Where the database's password is written.
fn database_place(patient: &Patient) -> String {
    let file = &patient.stack.config.database.password_file;
    if file.as_os_str().is_empty() {
        return "database.url".to_owned();
    }
    let file: PathBuf = patient.stack.base.join(file);
    word(&file)
}

fn told(whose: &str, place: &str, why: &str, remedy: &str) -> Finding {
    Finding::warning(format!("the password of {whose} {why}"))
        .seen(format!("it is written in {place}"))
        .because("whoever reaches the port can try it out")
        .advise("Give it a new one in both places: in the server, and where it is written.")
        .remedy("openssl rand -hex 24    # a new password")
        .remedy(remedy)
}

/// Why a password is weak. It is never shown.
fn weak(password: &str, user: &str) -> Option<&'static str> {
    let plain = password.to_lowercase();
    if plain.is_empty() {
        Some("is empty")
    } else if plain == user.to_lowercase() {
        Some("is the user's name")
    } else if USUAL.contains(&plain.as_str()) {
        Some("is one of those that everybody tries first")
    } else if password.chars().count() < SHORTEST {
        Some("is shorter than 12 characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_and_short_passwords_are_weak() {
        assert!(weak("conductor", "x").unwrap().contains("everybody"));
        assert!(weak("k1app", "K1App").unwrap().contains("user's name"));
        assert!(weak("fj3kd9", "x").unwrap().contains("shorter"));
        assert!(weak("", "x").unwrap().contains("empty"));
        assert!(weak("0123456789abcdef0123456789abcdef", "x").is_none());
    }
}
