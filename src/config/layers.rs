//! Lays defaults, file, environment and flags over each other and remembers where each value came
//! from.

use super::{Agent, Config, TierChoice};
use crate::error::{Context, Error, ErrorKind, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file's name, looked for in the current folder and above.
pub const FILE_NAME: &str = "k1ops.toml";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from", content = "name")]
pub enum Origin {
    /// Built in.
    Default,
    /// The file.
    File(PathBuf),
    /// The environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag(String),
}

/// What flags set, before they are laid over the rest.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--stack`.
    pub stack: Option<String>,
    /// `--tier`.
    pub tier: Option<TierChoice>,
    /// `--identity`.
    pub identity: Option<PathBuf>,
}

/// A resolved configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where each came from, by dotted key.
    pub origins: BTreeMap<String, Origin>,
    /// The folder that relative paths and the stack's own folder belong to.
    pub base: PathBuf,
    /// The stack's name in the file, before `--stack` or `K1OPS_STACK`.
    pub home_stack: String,
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
}

impl Loaded {
    /// The file that was read, or that would be made.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        let named = self.file.clone();
        named.unwrap_or_else(|| self.base.join(FILE_NAME))
    }

    /// The defaults alone, in the place that [`load`] would find: what can still be looked at where
    /// the configuration cannot be read.
    pub fn defaults(
        overrides: &Overrides,
        environment: &BTreeMap<String, String>,
        folder: &Path,
    ) -> Result<Self> {
        let layers = Layers::from_defaults()?;
        let config = layers.typed()?;
        let file = file_of(overrides, environment, folder);
        let base = file.as_deref().and_then(Path::parent).unwrap_or(folder);
        Ok(Self {
            home_stack: config.stack.clone(),
            config,
            origins: layers.origins,
            base: base.to_path_buf(),
            file: file.filter(|file| file.is_file()),
        })
    }

    /// Every key with its value as TOML writes it and where it came from. Secrets are hidden.
    pub fn explained(&self) -> Result<Vec<Explained>> {
        let values = toml::Table::try_from(&self.config)
            .context(|| "the configuration cannot be written as TOML")?;
        Ok(self
            .origins
            .iter()
            .map(|(key, origin)| Explained {
                key: key.clone(),
                value: lookup(&values, key).map_or_else(String::new, ToString::to_string),
                variable: environment_name(key),
                origin: origin.clone(),
            })
            .collect())
    }
}

/// One key of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The dotted key.
    pub key: String,
    /// Its value as TOML writes it.
    pub value: String,
    /// The environment variable that sets it.
    pub variable: String,
    /// Where the value came from.
    pub origin: Origin,
}

/// Resolves the configuration from `overrides`, `environment` and the file that is found from
/// `folder` upwards.
///
/// Usage errors name the key, the file or variable it came from, and the nearest known key.
pub fn load(
    overrides: &Overrides,
    environment: &BTreeMap<String, String>,
    folder: &Path,
) -> Result<Loaded> {
    let mut layers = Layers::from_defaults()?;
    let file = file_of(overrides, environment, folder);
    if let Some(file) = &file {
        layers.lay_file(file)?;
    }
    let home_stack = layers
        .values
        .get("stack")
        .and_then(|v| v.as_str())
        .unwrap_or("k1")
        .to_owned();
    layers.lay_environment(environment)?;
    layers.lay_flags(overrides)?;
    let base = file
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(folder)
        .to_path_buf();
    let config = layers.typed()?;
    check_name(&config.stack)?;
    super::plain::check(&config)?;
    Ok(Loaded {
        config,
        origins: layers.origins,
        base,
        home_stack,
        file,
    })
}

/// The configuration file that is meant: named by a flag or a variable, or the nearest one.
fn file_of(
    overrides: &Overrides,
    environment: &BTreeMap<String, String>,
    folder: &Path,
) -> Option<PathBuf> {
    overrides
        .file
        .clone()
        .or_else(|| environment.get("K1OPS_CONFIG").map(PathBuf::from))
        .map(|file| folder.join(file))
        .or_else(|| find_upwards(folder))
}

/// A stack's name becomes part of file and container names, so it is kept plain.
fn check_name(name: &str) -> Result<()> {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    if plain && first && name.len() <= 40 {
        return Ok(());
    }
    Err(Error::usage(format!("stack name {name:?} is not usable"))
        .hint("Use 1 to 40 letters, digits, '-' or '_', beginning with a letter or digit."))
}

fn find_upwards(folder: &Path) -> Option<PathBuf> {
    folder
        .ancestors()
        .map(|f| f.join(FILE_NAME))
        .find(|f| f.is_file())
}

struct Layers {
    values: toml::Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn from_defaults() -> Result<Self> {
        let values = toml::Table::try_from(Config::default())
            .context(|| "the built-in defaults cannot be read")?;
        let mut origins = BTreeMap::new();
        for key in keys_of(&values, "") {
            origins.insert(key, Origin::Default);
        }
        Ok(Self { values, origins })
    }

    fn lay_file(&mut self, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).context_kind(ErrorKind::Usage, || {
            format!("configuration file {} cannot be read", file.display())
        })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            Error::usage(format!(
                "configuration file {} is not valid TOML: {}",
                file.display(),
                error.message()
            ))
            .hint(place_of(&text, error.span()))
        })?;
        for key in keys_of(&table, "") {
            self.require_known(&key, &format!("in {}", file.display()))?;
            if let Some(value) = lookup(&table, &key) {
                self.put(&key, value.clone(), Origin::File(file.to_path_buf()))?;
            }
        }
        Ok(())
    }

    fn lay_environment(&mut self, environment: &BTreeMap<String, String>) -> Result<()> {
        let names: BTreeMap<String, String> = self
            .origins
            .keys()
            .map(|key| (environment_name(key), key.clone()))
            .collect();
        for (name, text) in environment {
            if !name.starts_with("K1OPS_") || is_reserved(name) {
                continue;
            }
            let Some(key) = names.get(name) else {
                let nearest = nearest(name, names.keys());
                return Err(Error::usage(format!(
                    "environment variable {name} is not a known setting"
                ))
                .hint(format!(
                    "The nearest known one is {nearest}; unset {name} or correct it."
                )));
            };
            let value = parse_like(lookup(&self.values, key), text).ok_or_else(|| {
                Error::usage(format!(
                    "environment variable {name} has a value of the wrong type"
                ))
                .hint(format!(
                    "It sets `{key}`, whose default is {}.",
                    shown(lookup(&self.values, key))
                ))
            })?;
            self.put(key, value, Origin::Environment(name.clone()))?;
        }
        Ok(())
    }

    fn lay_flags(&mut self, overrides: &Overrides) -> Result<()> {
        if let Some(stack) = &overrides.stack {
            self.put(
                "stack",
                stack.clone().into(),
                Origin::Flag("--stack".into()),
            )?;
        }
        if let Some(tier) = overrides.tier {
            let value = toml::Value::try_from(tier).context(|| "--tier cannot be read")?;
            self.put("tier", value, Origin::Flag("--tier".into()))?;
        }
        if let Some(file) = &overrides.identity {
            // Here, not beside the configuration.
            let file = std::path::absolute(file).context(|| "--identity cannot be followed")?;
            let value = toml::Value::try_from(file).context(|| "--identity cannot be read")?;
            self.put(
                "encryption.identity",
                value,
                Origin::Flag("--identity".into()),
            )?;
        }
        Ok(())
    }

    fn require_known(&self, key: &str, place: &str) -> Result<()> {
        let in_map = key.strip_prefix("server.properties.").is_some();
        if in_map || self.origins.contains_key(key) {
            return Ok(());
        }
        if let Some((name, own)) = key.strip_prefix("agents.").and_then(|k| k.split_once('.')) {
            return known_of_agent(name, own, place);
        }
        let nearest = nearest(key, self.origins.keys());
        Err(Error::usage(format!("unknown key `{key}` {place}"))
            .hint(format!("The nearest known key is `{nearest}`.")))
    }

    fn put(&mut self, key: &str, value: toml::Value, origin: Origin) -> Result<()> {
        let (table, last) = key.strip_prefix("server.properties.").map_or_else(
            || key.rsplit_once('.').unwrap_or(("", key)),
            |property| ("server.properties", property),
        );
        let mut place = &mut self.values;
        for part in table.split('.').filter(|part| !part.is_empty()) {
            place = place
                .entry(part)
                .or_insert_with(|| toml::Table::new().into())
                .as_table_mut()
                .ok_or_else(|| Error::usage(format!("`{part}` must be a table")))?;
        }
        place.insert(last.to_owned(), value);
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    fn typed(&self) -> Result<Config> {
        // Key by key first, so that the message can say where the wrong value came from.
        toml::Value::Table(self.values.clone())
            .try_into()
            .map_err(|error: toml::de::Error| {
                let culprits: Vec<String> = self
                    .origins
                    .iter()
                    .filter(|(_, origin)| **origin != Origin::Default)
                    .map(|(key, origin)| format!("`{key}` from {}", origin.describe()))
                    .collect();
                Error::usage(format!(
                    "configuration has a wrong value: {}",
                    error.message()
                ))
                .hint(format!(
                    "Values not at their default: {}.",
                    culprits.join(", ")
                ))
            })
    }
}

/// A key of one agent: every agent has the same ones.
fn known_of_agent(name: &str, key: &str, place: &str) -> Result<()> {
    check_name(name).map_err(|error| {
        Error::usage(format!("agent name {name:?} {place} is not usable"))
            .hint(error.hint_text().unwrap_or_default())
    })?;
    if Agent::knows(key) {
        return Ok(());
    }
    let keys: Vec<String> = Agent::keys().iter().map(|&key| key.to_owned()).collect();
    let nearest = nearest(key, keys.iter());
    Err(
        Error::usage(format!("unknown key `agents.{name}.{key}` {place}")).hint(format!(
            "The nearest known key is `agents.{name}.{nearest}`."
        )),
    )
}

impl Origin {
    /// In words: `the default`, a path, a variable or a flag.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Default => "the default".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Environment(name) | Self::Flag(name) => name.clone(),
        }
    }
}

/// Variables of ours that are not settings of the stack.
fn is_reserved(name: &str) -> bool {
    matches!(name, "K1OPS_CONFIG" | "K1OPS_LOG" | "K1OPS_CACHE")
        || name.starts_with("K1OPS_TEST_")
        || name.starts_with("K1OPS_TESTBED_")
}

fn environment_name(key: &str) -> String {
    format!("K1OPS_{}", key.replace('.', "_").to_uppercase())
}

fn keys_of(table: &toml::Table, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) => keys.extend(keys_of(inner, &key)),
            _ => keys.push(key),
        }
    }
    keys
}

fn lookup<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    if let Some(property) = key.strip_prefix("server.properties.") {
        let map = table.get("server")?.get("properties")?.as_table()?;
        return map.get(property).or_else(|| lookup_path(map, property));
    }
    lookup_path(table, key)
}

fn lookup_path<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = value.get(part)?;
    }
    Some(value)
}

fn parse_like(default: Option<&toml::Value>, text: &str) -> Option<toml::Value> {
    Some(match default {
        Some(toml::Value::Integer(_)) => toml::Value::Integer(text.parse().ok()?),
        Some(toml::Value::Boolean(_)) => toml::Value::Boolean(match text {
            "1" | "true" | "yes" | "on" => true,
            "0" | "false" | "no" | "off" => false,
            _ => return None,
        }),
        Some(toml::Value::Array(_)) => text
            .split(',')
            .filter(|s| !s.is_empty())
            .map(|s| s.trim().to_owned())
            .collect::<Vec<_>>()
            .into(),
        _ => text.to_owned().into(),
    })
}

fn shown(value: Option<&toml::Value>) -> String {
    value.map_or_else(|| "not set".to_owned(), ToString::to_string)
}

fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> &'a str {
    known
        .max_by(|a, b| strsim::jaro_winkler(a, word).total_cmp(&strsim::jaro_winkler(b, word)))
        .map_or("", String::as_str)
}

fn place_of(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let Some(span) = span else {
        return "Correct the file and try again.".to_owned();
    };
    let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
    format!("Correct line {line} and try again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn folder_with(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        folder
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_defaults() {
        let folder = folder_with("stack = 'file'\n[ports]\nconductor = 1\nredis = 2\n");
        let overrides = Overrides {
            stack: Some("flag".into()),
            ..Overrides::default()
        };
        let environment = env(&[("K1OPS_STACK", "env"), ("K1OPS_PORTS_CONDUCTOR", "3")]);
        let loaded = load(&overrides, &environment, folder.path()).unwrap();
        assert_eq!(loaded.config.stack, "flag");
        assert_eq!(loaded.home_stack, "file");
        assert_eq!(loaded.config.ports.conductor, 3);
        assert_eq!(loaded.config.ports.redis, 2);
        assert_eq!(loaded.config.ports.postgres, 5432);
        assert_eq!(
            loaded.origins["ports.conductor"],
            Origin::Environment("K1OPS_PORTS_CONDUCTOR".into())
        );
        assert_eq!(loaded.origins["ports.postgres"], Origin::Default);
    }

    #[test]
    fn the_file_is_found_from_a_folder_below() {
        let folder = folder_with("stack = 'above'");
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let loaded = load(&Overrides::default(), &env(&[]), &below).unwrap();
        assert_eq!(loaded.config.stack, "above");
        assert_eq!(loaded.base, folder.path());
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let folder = folder_with("[ports]\nconducter = 1\n");
        let error = load(&Overrides::default(), &env(&[]), folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("`ports.conducter`"), "{error}");
        assert!(error.hint_text().unwrap().contains("`ports.conductor`"));
        let empty = tempfile::tempdir().unwrap();
        let error = load(
            &Overrides::default(),
            &env(&[("K1OPS_STAK", "x")]),
            empty.path(),
        )
        .unwrap_err();
        assert!(error.hint_text().unwrap().contains("K1OPS_STACK"));
    }

    #[test]
    fn wrong_types_and_names_are_refused() {
        for text in [
            "[ports]\nconductor = 'x'\n",
            "ports = 3\n",
            "stack = '../evil'",
            "stack = [1",
            "[ports]\nredis = 99999",
        ] {
            let folder = folder_with(text);
            let error = load(&Overrides::default(), &env(&[]), folder.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn every_agent_has_the_same_keys() {
        let folder = folder_with(
            "[agents.a]\ncommand = ['true']\nenv = { X = '1' }\n[agents.b]\nshell = 'true'\n",
        );
        let environment = env(&[("K1OPS_AGENTS_B_SHELL", "false")]);
        let agents = load(&Overrides::default(), &environment, folder.path())
            .unwrap()
            .config
            .agents;
        assert_eq!(agents["a"].command, ["true"]);
        assert_eq!(agents["a"].env["X"], "1");
        assert_eq!(agents["a"].timeout, 600);
        assert_eq!(agents["b"].shell, "false");
        for (text, said) in [
            ("[agents.a]\ncomand = ['x']", "`agents.a.comand`"),
            ("[agents.'a b']\ncommand = ['x']", "agent name"),
            ("[agents.a.env.X]\ny = '1'", "`agents.a.env.X.y`"),
            ("[agents]\na = 1", "`agents.a`"),
        ] {
            let folder = folder_with(text);
            let error = load(&Overrides::default(), &env(&[]), folder.path()).unwrap_err();
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn free_properties_keep_their_dots() {
        let folder = folder_with("[server.properties]\n'a.b.c' = '1'\n");
        let loaded = load(&Overrides::default(), &env(&[]), folder.path()).unwrap();
        assert_eq!(loaded.config.server.properties["a.b.c"], "1");
    }
}
