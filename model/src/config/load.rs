//! Reads a config file: parse, walk along the types, replace references, check the meaning.
//!
//! ```text
//! text --parse--> TOML tree with places --walk--> JSON in the types' shape --serde--> Config --check--> Config, absolute
//! ```
//!
//! Every step reports all that it finds, and the later ones run over what the earlier could take over; only broken TOML
//! syntax ends it early, for nothing behind it can be trusted.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::check::check;
use super::problem::{Problems, Report};
use super::replace::Surroundings;
use super::shape::Shape;
use super::walk::walk;
use super::{Config, Secret, SourceKind};

type Variable<'a> = dyn Fn(&str) -> Option<String> + 'a;
type Queries<'a> = dyn Fn(&mut Config) -> Vec<(String, String)> + 'a;

/// How a config file is read.
#[allow(missing_debug_implementations, reason = "holds a closure")]
pub struct Loader<'a> {
    variable: Box<Variable<'a>>,
    queries: Box<Queries<'a>>,
    insecure: bool,
}

impl Default for Loader<'_> {
    fn default() -> Self {
        let variable = Box::new(|name: &str| std::env::var(name).ok());
        Loader { variable, queries: Box::new(|_| Vec::new()), insecure: false }
    }
}

impl<'a> Loader<'a> {
    /// Reads with the process's environment, and lets only loopback addresses pass.
    pub fn new() -> Loader<'a> {
        Loader::default()
    }

    /// Whether addresses that other machines can reach may stand in the config: nothing asks them who they are.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Loader<'a> {
        self.insecure = insecure;
        self
    }

    /// Where `${NAME}` comes from, instead of the process's environment.
    #[must_use]
    pub fn variables(mut self, variable: impl Fn(&str) -> Option<String> + 'a) -> Loader<'a> {
        self.variable = Box::new(variable);
        self
    }

    /// Compiles the SQL in a config, and tells what is wrong with it: fields, with messages. Only who has an engine can.
    #[must_use]
    pub fn queries(mut self, queries: impl Fn(&mut Config) -> Vec<(String, String)> + 'a) -> Loader<'a> {
        self.queries = Box::new(queries);
        self
    }

    /// Reads the file at `path`. Blocking.
    pub fn load(&self, path: &Path) -> Result<Config, Problems> {
        match std::fs::read_to_string(path) {
            Ok(text) => self.parse(path, &text),
            Err(error) => {
                let mut report = Report::new(path, "");
                report.wrong("", format!("cannot read the config file: {error}"));
                Err(report.finish().expect("a problem was just added"))
            }
        }
    }

    /// Reads `text` as if it stood in the file `path`. Blocking: `${file:PATH}` reads files.
    pub fn parse(&self, path: &Path, text: &str) -> Result<Config, Problems> {
        let mut report = Report::new(path, text);
        let config = self.parse_into(path, text, &mut report);
        match (report.finish(), config) {
            (None, Some(config)) => Ok(config),
            (Some(problems), _) => Err(problems),
            (None, None) => unreachable!("what cannot be read has a problem"),
        }
    }

    fn parse_into(&self, path: &Path, text: &str, report: &mut Report<'_>) -> Option<Config> {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            report.wrong_at("", error.span().unwrap_or(0..0), error.message());
        }
        if !errors.is_empty() {
            return None;
        }
        let folder = folder_of(path);
        let from = Surroundings { variable: &*self.variable, folder: &folder };
        let walked = walk(root.get_ref(), &Shape::of::<Config>(), from, report);
        let mut config: Config = match serde_json::from_value(walked.value) {
            Ok(config) => config,
            Err(error) => {
                // The walk checks all that serde checks, so this says that shape and types disagree.
                let detail = if walked.replaced.is_empty() { format!(": {error}") } else { String::new() };
                report.wrong("", format!("the config does not fit its types{detail}"));
                return None;
            }
        };
        check(&config, &walked.replaced, self.insecure, report);
        for (field, message) in (self.queries)(&mut config) {
            let is_secret = walked.replaced.contains_key(&field);
            report.wrong(&field, if is_secret { "this query is wrong".to_owned() } else { message });
        }
        make_absolute(&mut config, &folder);
        Some(config)
    }
}

impl Config {
    /// Reads the config file at `path` with the process's environment; what comes out is valid and its paths are
    /// absolute. Blocking.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        Loader::new().load(path)
    }
}

/// The folder that relative paths of a config file are relative to.
fn folder_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().map(Path::to_owned).unwrap_or(absolute)
}

fn make_absolute(config: &mut Config, folder: &Path) {
    config.data_dir = absolute(folder, &config.data_dir);
    if let Some(path) = file_url_path(&config.lake.url) {
        config.lake.url = format!("file:{}", absolute(folder, Path::new(path)).display());
    }
    for source in &mut config.sources {
        match &mut source.kind {
            SourceKind::Spooldir(spool) => {
                spool.path = absolute(folder, &spool.path);
                spool.done_path = spool.done_path.as_deref().map(|path| absolute(folder, path));
            }
            SourceKind::Taildir(tail) => tail.path = absolute(folder, &tail.path),
            SourceKind::Database(database) => database.url = absolute_url(&database.url, folder),
            SourceKind::Http(_)
            | SourceKind::Syslog(_)
            | SourceKind::Netcat(_)
            | SourceKind::Exec(_)
            | SourceKind::Generator(_) => {}
            SourceKind::Mqtt(mqtt) => mqtt.tls_ca = mqtt.tls_ca.as_deref().map(|path| absolute(folder, path)),
            SourceKind::Kafka(kafka) => {
                kafka.tls_ca = kafka.tls_ca.as_deref().map(|path| absolute(folder, path));
            }
        }
    }
    for import in &mut config.imports {
        import.url = absolute_url(&import.url, folder);
    }
}

/// The URL of a database, the path of SQLite's absolute.
fn absolute_url(url: &Secret, folder: &Path) -> Secret {
    match url.reveal().strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Secret::new(format!("sqlite:{}", absolute(folder, Path::new(path)).display()))
        }
        None => url.clone(),
    }
}

/// The path of `file:PATH` and `file:///PATH`.
pub(super) fn file_url_path(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("file:")?;
    Some(rest.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(rest))
}

/// `path` under `folder`, without `.` and doubled slashes.
fn absolute(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path).components().collect()
}
