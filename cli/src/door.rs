//! The HTTP door of the running process, found through `process.json` in its data folder.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::TryStreamExt as _;
use reqwest::{Client, Method, Response};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tarn_model::config::Config;
use tarn_model::status::{RunStatus, Status};
use tarn_model::{Error, Kind, OffsetVector, Place};
use tarn_table::verify::TableReport;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::rows::Rows;

/// Header in which an answer says what it saw.
const VECTOR: &str = "tarn-vector";
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// Rows were sent already, so no error can be: it stands in the process's own words.
const BROKEN_OFF: &str = "the process's log says why: it was stopped, or the statement reached `serving.statement_timeout` or `serving.statement_memory`";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a running process says of itself, in `<data_dir>/process.json`.
#[derive(Debug, Deserialize)]
struct Process {
    pid: i32,
    http: String,
    /// Where it speaks Kafka's protocol.
    #[serde(default)]
    kafka: Option<String>,
}

/// Where Kafka's protocol is spoken for a config now.
#[derive(Debug)]
pub(crate) enum KafkaDoor {
    /// At this address.
    At(String),
    /// A process runs, and does not speak it.
    Silent,
    /// No process runs.
    Nobody,
}

impl KafkaDoor {
    pub(crate) fn find(config: &Config) -> KafkaDoor {
        let process = std::fs::read(process_file(config)).ok();
        let process = process.and_then(|text| serde_json::from_slice::<Process>(&text).ok());
        match process.filter(|process| is_alive(process.pid)) {
            Some(Process { kafka: Some(address), .. }) => KafkaDoor::At(reachable(&address)),
            Some(_) => KafkaDoor::Silent,
            None => KafkaDoor::Nobody,
        }
    }
}

/// The way to a running process.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    client: Client,
    address: String,
}

impl Door {
    /// The process that runs this config; `None` when none does.
    pub(crate) async fn find(config: &Config) -> anyhow::Result<Option<Door>> {
        let path = process_file(config);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        // A process that was killed leaves its file, perhaps while it wrote it.
        let Ok(process) = serde_json::from_slice::<Process>(&text) else { return Ok(None) };
        if !is_alive(process.pid) {
            return Ok(None);
        }
        let address = reachable(&process.http);
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Door::at(&address).map(Some),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Ok(Err(error)) => {
                Err(error).with_context(|| format!("cannot reach process {} at {address}", process.pid))
            }
            Err(_) => Err(anyhow!("process {} does not answer at {address}", process.pid)),
        }
    }

    /// The door at an address.
    pub(crate) fn at(address: &str) -> anyhow::Result<Door> {
        // It is this machine's own process: no proxy stands between.
        let client = Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Door { client, address: address.to_owned() })
    }

    /// `127.0.0.1:8080`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        self.json(Method::GET, "/v1/status", None).await
    }

    pub(crate) async fn verify(&self) -> anyhow::Result<Vec<TableReport>> {
        self.json(Method::POST, "/v1/verify", None).await
    }

    /// Import tables have new rows: `POST /v1/imports/show`.
    pub(crate) async fn imported(&self) -> anyhow::Result<Value> {
        self.json(Method::POST, "/v1/imports/show", None).await
    }

    /// `POST /v1/table/{name}/{action}` with `options` as its query.
    pub(crate) async fn table(
        &self,
        name: &str,
        action: &str,
        options: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        let request = self.request(Method::POST, &format!("/v1/table/{name}/{action}")).query(options);
        let answer = accepted(request.send().await.context("the running process went away")?).await?;
        let text = answer.text().await.context("the answer broke off")?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Tables with what was replayed of their dead letters.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<Value> {
        self.json(Method::GET, "/v1/dead-letters", None).await
    }

    /// `POST /v1/dead-letters/{table}/replay` with `options` as its query.
    pub(crate) async fn replay_dead_letters(
        &self,
        table: &str,
        options: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        let path = format!("/v1/dead-letters/{table}/replay");
        let request = self.request(Method::POST, &path).query(options);
        let answer = accepted(request.send().await.context("the running process went away")?).await?;
        let text = answer.text().await.context("the answer broke off")?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// `POST /v1/source/{name}/{action}`.
    pub(crate) async fn source(&self, name: &str, action: &str) -> anyhow::Result<Value> {
        self.json(Method::POST, &source_path(name, action)?, None).await
    }

    /// The runs of a source, the newest first.
    pub(crate) async fn source_history(&self, name: &str) -> anyhow::Result<Vec<RunStatus>> {
        self.json(Method::GET, &source_path(name, "history")?, None).await
    }

    /// `POST /v1/view/{name}/{action}` with `options` as its query.
    pub(crate) async fn view(
        &self,
        name: &str,
        action: &str,
        options: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        let request = self.request(Method::POST, &format!("/v1/view/{name}/{action}")).query(options);
        let answer = accepted(request.send().await.context("the running process went away")?).await?;
        let text = answer.text().await.context("the answer broke off")?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Runs a statement; the rows stream.
    pub(crate) async fn sql(&self, sql: &str, as_of: Option<&OffsetVector>) -> anyhow::Result<Rows> {
        let mut body = json!({"sql": sql});
        if let Some(vector) = as_of {
            body["as_of"] = json!(vector.to_string());
        }
        let request = self.request(Method::POST, "/v1/sql").header("accept", ARROW).json(&body);
        let answer = accepted(request.send().await.context("the running process went away")?).await?;
        let vector =
            answer.headers().get(VECTOR).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let broken = |error: reqwest::Error| {
            anyhow::Error::from(
                Error::unavailable("the answer broke off").with_source(error).with_hint(BROKEN_OFF),
            )
        };
        let chunks = answer.bytes_stream().map_err(broken);
        Rows::from_ipc(vector, chunks).await
    }

    /// A query's whole answer, again whenever it changes, as server-sent events.
    pub(crate) async fn subscribe(&self, sql: &str) -> anyhow::Result<Response> {
        let request = self.request(Method::GET, "/v1/subscribe").query(&[("sql", sql), ("whole", "true")]);
        accepted(request.send().await.context("the running process went away")?).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = accepted(request.send().await.context("the running process went away")?).await?;
        let text = answer.text().await.context("the answer broke off")?;
        serde_json::from_str(&text)
            .with_context(|| format!("the process at {} answers {path} in another language", self.address))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }
}

/// A source may have any name.
fn source_path(name: &str, action: &str) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse("http://tarn/v1/source").context("a path")?;
    url.path_segments_mut().map_err(|()| anyhow!("a path"))?.extend([name, action]);
    Ok(url.path().to_owned())
}

/// Where a running process says who it is.
pub(crate) fn process_file(config: &Config) -> PathBuf {
    config.data_dir.join("process.json")
}

/// The answer, or the error that it tells.
async fn accepted(answer: Response) -> anyhow::Result<Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let kind = if status.is_client_error() { Kind::Invalid } else { Kind::Unavailable };
    let text = answer.text().await.unwrap_or_default();
    Err(told_error(kind, &text).unwrap_or_else(|| anyhow!("the running process answered {status}")))
}

/// `{"error": {"message": …, "hint": …, "causes": […]}}`, or `{"error": …, "hint": …}`, or plain text.
fn told_error(kind: Kind, text: &str) -> Option<anyhow::Error> {
    let told: Value = serde_json::from_str(text).unwrap_or_else(|_| json!({"error": text.trim()}));
    let inner = if told["error"].is_object() { &told["error"] } else { &told };
    let message = ["message", "error"].iter().find_map(|name| inner[*name].as_str())?;
    if message.is_empty() {
        return None;
    }
    let mut error = Error::new(kind, message);
    if let Some(hint) = inner["hint"].as_str() {
        error = error.with_hint(hint);
    }
    if let (Some(line), Some(column)) = (inner["line"].as_u64(), inner["column"].as_u64()) {
        error = error.with_place(Place { line, column });
    }
    let causes = inner["causes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(cause) = chain(causes) {
        error = error.with_source(cause);
    }
    Some(error.into())
}

/// Causes as a chain again, the outermost first.
fn chain<'c>(causes: impl DoubleEndedIterator<Item = &'c str>) -> Option<anyhow::Error> {
    causes.rev().fold(None, |inner: Option<anyhow::Error>, cause| {
        Some(match inner {
            Some(inner) => inner.context(cause.to_owned()),
            None => anyhow!("{cause}"),
        })
    })
}

/// Where to reach a server that listens on `address`: one that listens everywhere is reached here.
fn reachable(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()).to_string()
        }
        _ => address.to_owned(),
    }
}

fn is_alive(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return false };
    // A process of another user is alive, too.
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_three_ways() {
        let nested = r#"{"error": {"message": "a", "hint": "b", "causes": ["c", "d"]}}"#;
        let error = told_error(Kind::Invalid, nested).expect("an error");
        assert_eq!(error.chain().map(ToString::to_string).collect::<Vec<_>>(), ["a", "c", "d"]);
        assert_eq!(crate::failure::hint(&error), Some("b"));
        let flat = told_error(Kind::Invalid, r#"{"error": "a", "hint": null}"#).expect("an error");
        assert_eq!((flat.to_string().as_str(), crate::failure::hint(&flat)), ("a", None));
        assert_eq!(told_error(Kind::Invalid, "too large\n").expect("an error").to_string(), "too large");
        assert!(told_error(Kind::Invalid, "").is_none());
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_here() {
        assert_eq!(reachable("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(reachable("[::]:8080"), "127.0.0.1:8080");
        assert_eq!(reachable("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(reachable("localhost:1"), "localhost:1");
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_not_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        assert!(Door::find(&config).await.expect("no file").is_none());
        for text in ["", "{\"pid\": 999999999, \"http\": \"127.0.0.1:1\"}", "{\"pid\":"] {
            std::fs::write(process_file(&config), text).expect("written");
            assert!(Door::find(&config).await.expect("nobody").is_none(), "{text}");
        }
        // Alive, but nothing listens there: the id was given to another process since.
        let text = format!("{{\"pid\": {}, \"http\": \"127.0.0.1:1\"}}", std::process::id());
        std::fs::write(process_file(&config), text).expect("written");
        assert!(Door::find(&config).await.expect("nobody").is_none());
    }
}
