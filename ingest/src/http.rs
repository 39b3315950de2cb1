//! `http`: `POST /v1/ingest/{topic}`, one request one append.
//!
//! A pushed record cannot be asked for again, so the answer is the contract: it is given once the log has committed. All
//! of a body is taken or none of it. With an `Idempotency-Key` a repeat gets the first answer and writes nothing; without
//! one the guarantee is at least once.
//!
//! *Bodies*: NDJSON, or one JSON array, told apart by the first byte that is no space; lines of another format; one record; the
//! fields of a form ([`body`]). `Content-Encoding: gzip` or `zstd`. Values are stored as the bytes that came. What
//! Elasticsearch's clients send is taken too ([`bulk`]); what both have in common is [`Received`].
//!
//! | answer | when |
//! |---|---|
//! | 200 | committed: `{"records", "ranges": [{"topic", "partition", "from", "to"}], "repeated"}` |
//! | 400 | the body is not what it should be; nothing was written |
//! | 404 | no `http` source fills this topic |
//! | 413 | the body, or one record of it, is too large |
//! | 415 | a `Content-Encoding` that is not known |
//! | 422 | the idempotency key came before with another body |
//! | 429 | too many bytes under way, or the source's rate limit owes time; `Retry-After` |
//! | 503 | the log is not available, or the source is paused; `Retry-After` |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde_json::json;
use tarn_log::{Append, Appended, Idempotency, Log, RecordRef, TopicInfo};
use tarn_model::clock::{self, Clock};
use tarn_model::config::{BodyKind, FileFormat, HttpConfig, SourceConfig, SourceKind};
use tarn_model::{Error, Kind, Result};
use tokio::sync::{Semaphore, SemaphorePermit};
use xxhash_rust::xxh3::xxh3_128;

use crate::monitor::{Monitor, tell};
use crate::shaper::{Shaper, Sink};
use crate::stop::Stop;
use crate::throttle::Throttle;

mod body;
mod bulk;
mod form;
#[cfg(test)]
mod tests;

/// Header by which a client makes its request safe to repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LONGEST_KEY_BYTES: usize = 256;
/// Bodies that may be under way at once, counted in largest ones.
const LARGEST_BODIES_AT_ONCE: usize = 4;
/// Bodies above this size are taken apart off the async threads.
const LARGE_BODY_BYTES: usize = 256 << 10;
/// A client that sends a body slower than this is let go.
const LONGEST_UPLOAD: Duration = Duration::from_secs(60);
const LONGEST_CLOSE: Duration = Duration::from_secs(5);
/// What a client is asked to wait when nobody knows how long it takes.
const RETRY_AFTER_S: u64 = 1;
const RETRY_PAUSED_AFTER_S: u64 = 10;

/// The topics that take pushes.
#[derive(Debug)]
pub(crate) struct Door {
    log: Log,
    clock: Arc<dyn Clock>,
    entrances: BTreeMap<String, Entrance>,
    max_request_bytes: usize,
    /// One permit a KiB of body under way.
    room: Semaphore,
    room_kib: u32,
    closed: AtomicBool,
}

/// One topic that takes pushes.
#[derive(Debug, Clone)]
struct Entrance {
    config: Arc<SourceConfig>,
    http: HttpConfig,
    /// Shapers that no request uses; as many as there were requests at once.
    shapers: Arc<Mutex<Vec<Shaper>>>,
    monitor: Arc<Monitor>,
    throttle: Option<Arc<Throttle>>,
    stop: Arc<Stop>,
}

impl Entrance {
    fn new(
        config: &SourceConfig,
        monitor: Arc<Monitor>,
        throttle: Option<Throttle>,
        stop: Arc<Stop>,
    ) -> Result<Entrance> {
        let http = match &config.kind {
            SourceKind::Http(http) => http.clone(),
            _ => HttpConfig::default(),
        };
        let (config, shapers) = (Arc::new(config.clone()), Arc::default());
        let throttle = throttle.map(Arc::new);
        let entrance = Entrance { config, http, shapers, monitor, throttle, stop };
        entrance.shapers.lock().push(entrance.new_shaper()?);
        Ok(entrance)
    }

    /// Whether its records are JSON objects, as they come or made of a form.
    fn takes_objects(&self) -> bool {
        self.http.format == FileFormat::Ndjson
    }

    fn new_shaper(&self) -> Result<Shaper> {
        if self.takes_objects() {
            return Shaper::of_objects(&self.config);
        }
        Shaper::of_lines(&self.config, self.http.format, &self.http.lines)
    }

    /// Turns a request down while the source is paused or its rate limit owes time, before its body is read.
    fn admit(&self) -> std::result::Result<(), Refusal> {
        self.refuse_while_paused()?;
        match self.throttle.as_ref().map(|throttle| throttle.debt()) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(debt) => Err(self.too_fast(debt)),
        }
    }

    fn refuse_while_paused(&self) -> std::result::Result<(), Refusal> {
        if !self.stop.is_paused() {
            return Ok(());
        }
        let message = format!("the source `{}` is paused", self.config.name);
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message);
        let hint = format!("`tarn source resume {}` lets it go on", self.config.name);
        Err(Refusal { retry_after_s: RETRY_PAUSED_AFTER_S, ..refusal.with_hint(hint) })
    }

    /// Charges a request's records, unless others were quicker, or the source was paused while they came.
    fn charge(&self, charge: Charge) -> std::result::Result<(), Refusal> {
        self.refuse_while_paused()?;
        let Some(throttle) = &self.throttle else { return Ok(()) };
        throttle.try_take(charge.records, charge.bytes).map_err(|debt| self.too_fast(debt))
    }

    /// Nothing came of a request that was charged.
    fn refund(&self, charge: Charge) {
        if let Some(throttle) = &self.throttle {
            throttle.give_back(charge.records, charge.bytes);
        }
    }

    fn too_fast(&self, debt: Duration) -> Refusal {
        let seconds = debt.as_secs() + u64::from(debt.subsec_nanos() > 0);
        let message = format!("the source `{}` takes no more for the moment", self.config.name);
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, message);
        let hint = "wait as long as `Retry-After` says, or raise the source's `rate_limit`";
        Refusal { retry_after_s: seconds.max(1), ..refusal.with_hint(hint) }
    }

    /// A shaper that knows the topics as they are now; whoever takes it gives it back to `shapers`.
    fn shaper(&self, log: &Log, topic: &Arc<TopicInfo>) -> Result<Shaper> {
        let idle = self.shapers.lock().pop();
        let mut shaper = idle.map_or_else(|| self.new_shaper(), Ok)?;
        let named = |name: &str| {
            log.topic(name).ok_or_else(|| Error::unavailable(format!("the topic `{name}` was deleted")))
        };
        shaper.begin_with(topic.clone(), named)?;
        Ok(shaper)
    }
}

/// What the records of a request became.
#[derive(Debug, Default)]
struct Pushed {
    append: Append,
    dropped: u64,
}

impl Sink for Pushed {
    fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        self.append.push(topic, record)
    }

    fn dropped(&mut self) {
        self.dropped += 1;
    }
}

/// What is taken from a source's rate limit.
#[derive(Debug, Clone, Copy, Default)]
struct Charge {
    records: u64,
    bytes: u64,
}

/// A request that is turned down.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
    hint: Option<String>,
    retry_after_s: u64,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), hint: None, retry_after_s: RETRY_AFTER_S }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"error": self.message, "hint": self.hint}).to_string();
        let mut response = json_response(self.status, body);
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        response
    }
}

impl Door {
    pub(crate) fn new(log: Log, clock: Arc<dyn Clock>, max_request_bytes: usize) -> Door {
        let room_kib = u32::try_from(kib(max_request_bytes) * LARGEST_BODIES_AT_ONCE).unwrap_or(u32::MAX);
        let room =
            Semaphore::new(usize::try_from(room_kib).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS));
        let (entrances, closed) = (BTreeMap::new(), AtomicBool::new(false));
        Door { log, clock, entrances, max_request_bytes, room, room_kib, closed }
    }

    /// Lets records for `topic` in.
    pub(crate) fn open(
        &mut self,
        config: &SourceConfig,
        monitor: Arc<Monitor>,
        throttle: Option<Throttle>,
        stop: Arc<Stop>,
    ) -> Result<()> {
        let topic = &config.topic;
        match self.entrances.insert(topic.clone(), Entrance::new(config, monitor, throttle, stop)?) {
            None => Ok(()),
            Some(_) => Err(Error::invalid(format!("two `http` sources fill the topic `{topic}`"))
                .with_hint("one is enough: any number of clients may post to it")),
        }
    }

    pub(crate) fn router(self: Arc<Door>) -> Router {
        Router::new()
            .route("/v1/ingest/{topic}", post(ingest))
            .route("/elastic", get(bulk::hello))
            .route("/elastic/", get(bulk::hello))
            .route("/elastic/_bulk", post(bulk::bulk).put(bulk::bulk))
            .route("/elastic/{index}/_bulk", post(bulk::bulk_of).put(bulk::bulk_of))
            .with_state(self)
    }

    /// Turns new requests down and waits for those under way, though not for ever.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = tokio::time::timeout(LONGEST_CLOSE, self.room.acquire_many(self.room_kib)).await;
        for entrance in self.entrances.values() {
            entrance.monitor.state(crate::monitor::State::Stopped);
        }
    }

    #[cfg(test)]
    pub(crate) fn take_all_room(&self) -> SemaphorePermit<'_> {
        self.room.try_acquire_many(self.room_kib).unwrap()
    }

    fn entrance(&self, topic: &str) -> std::result::Result<&Entrance, Refusal> {
        self.entrances.get(topic).ok_or_else(|| {
            let refusal =
                Refusal::new(StatusCode::NOT_FOUND, format!("no `http` source fills the topic `{topic}`"));
            let nearest = self
                .entrances
                .keys()
                .max_by(|a, b| strsim::jaro_winkler(a, topic).total_cmp(&strsim::jaro_winkler(b, topic)));
            refusal.with_hint(match nearest {
                Some(name) => format!(
                    "did you mean `{name}`? topics that take pushes have a source of `type = \"http\"`"
                ),
                None => "add a `[[source]]` of `type = \"http\"` with this topic".to_owned(),
            })
        })
    }

    /// Takes in a request: the whole body, within the limit, with room kept for it until the answer.
    async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> std::result::Result<(Received, SemaphorePermit<'_>), Refusal> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "tarn is stopping"));
        }
        let key = idempotency_key(headers)?;
        let packing = body::Encoding::of(headers)?;
        let too_large = || {
            let limit = self.max_request_bytes;
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
                .with_hint("send less at once, or raise `serving.max_request_size`")
        };
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|announced| announced > self.max_request_bytes) {
            return Err(too_large());
        }
        let room = if packing == body::Encoding::Plain { announced } else { None };
        let needed = kib(room.unwrap_or(self.max_request_bytes));
        let permit = self.room.try_acquire_many(u32::try_from(needed).unwrap_or(u32::MAX)).map_err(|_| {
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many bytes are under way").with_hint("try again")
        })?;
        let reading = axum::body::to_bytes(body, self.max_request_bytes);
        let bytes = match tokio::time::timeout(LONGEST_UPLOAD, reading).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if is_length_limit(&error) => return Err(too_large()),
            Ok(Err(error)) => {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")));
            }
            Err(_) => {
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive"));
            }
        };
        Ok((Received { bytes, packing, key }, permit))
    }

    /// Takes a body apart with `build`, which is given what it holds when it is unpacked; off the async threads when that is
    /// much.
    async fn build<T: Send + 'static>(
        self: &Arc<Door>,
        received: Received,
        build: impl FnOnce(&Door, Received) -> std::result::Result<T, Refusal> + Send + 'static,
    ) -> std::result::Result<T, Refusal> {
        let is_work = received.packing != body::Encoding::Plain || received.bytes.len() > LARGE_BODY_BYTES;
        let door = self.clone();
        let build = move || {
            let received = received.unpacked(door.max_request_bytes)?;
            build(&door, received)
        };
        if !is_work {
            return build();
        }
        let built = tokio::task::spawn_blocking(build).await;
        built.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
    }

    /// Commits, on a task of its own: a client that goes away does not break that off.
    async fn commit(&self, append: Append) -> Result<Appended> {
        let log = self.log.clone();
        let appended = tokio::spawn(async move { log.append(append).await }).await;
        appended.map_err(|error| Error::unavailable("the append broke off").with_source(error))?
    }
}

/// A request's body, and what its headers say of it.
#[derive(Debug)]
struct Received {
    bytes: Bytes,
    packing: body::Encoding,
    /// By which it is known again.
    key: Option<String>,
}

impl Received {
    fn unpacked(self, limit: usize) -> std::result::Result<Received, Refusal> {
        let bytes = match self.packing {
            body::Encoding::Plain => self.bytes,
            packed => packed.unpack(&self.bytes, limit)?.into(),
        };
        Ok(Received { bytes, packing: body::Encoding::Plain, ..self })
    }

    /// With its place in the request the origin of a record: one that is repeated under its key has the same.
    fn seed(&self) -> u128 {
        self.key.as_ref().map_or_else(|| clock::new_id().as_u128(), |key| xxh3_128(key.as_bytes()))
    }

    fn idempotency(&self, topic: &str, key: String) -> Idempotency {
        Idempotency { topic: topic.to_owned(), key, body_hash: xxh3_128(&self.bytes) }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024).max(1)
}

async fn ingest(
    State(door): State<Arc<Door>>,
    Path(topic): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<Response, Refusal> {
    let entrance = door.entrance(&topic)?;
    entrance.admit()?;
    let (received, _room) = door.receive(&headers, body).await?;
    entrance.monitor.read(received.bytes.len() as u64);
    let building = entrance.clone();
    let built = door.build(received, move |door, received| build(door, &building, &topic, received)).await?;
    let Pushed { append, dropped } = built;
    if append.is_empty() {
        return Ok(answer(&Appended {
            ranges: Vec::new(),
            records: 0,
            repeated: false,
            producer: None,
            append_time_ms: None,
        }));
    }
    let charge = Charge { records: append.records(), bytes: append.bytes() as u64 };
    entrance.charge(charge)?;
    let appended = door.commit(append).await;
    match appended {
        Ok(appended) => {
            if appended.repeated {
                entrance.refund(charge);
            } else {
                entrance.monitor.committed(appended.records);
                entrance.monitor.dropped(dropped);
            }
            Ok(answer(&appended))
        }
        Err(error) => {
            entrance.refund(charge);
            entrance.monitor.waiting(&error);
            Err(refusal_of(&error))
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> std::result::Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=LONGEST_KEY_BYTES).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("an idempotency key has 1 to {LONGEST_KEY_BYTES} visible ASCII characters"),
        )),
    }
}

fn build(
    door: &Door,
    entrance: &Entrance,
    topic: &str,
    received: Received,
) -> std::result::Result<Pushed, Refusal> {
    let info = door
        .log
        .topic(topic)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("the topic `{topic}` was deleted")))?;
    let mut shaper = entrance.shaper(&door.log, &info).map_err(|error| refusal_of(&error))?;
    let key_field = entrance.config.key.as_deref();
    let mut taking = body::Taking {
        pushed: Pushed::default(),
        shaper: &mut shaper,
        topic: &info,
        key_field,
        timestamp_ms: door.clock.now_ms(),
        seed: received.seed(),
        count: 0,
    };
    let taken = match (entrance.http.body, entrance.takes_objects()) {
        (BodyKind::Form, _) => taking.form(&received.bytes),
        (BodyKind::Whole, objects) => taking.whole(&received.bytes, objects),
        (BodyKind::Records, true) => taking.objects(&received.bytes),
        (BodyKind::Records, false) => taking.lines(&received.bytes),
    };
    let mut pushed = taking.pushed;
    entrance.shapers.lock().push(shaper);
    taken?;
    pushed.append.dropped(&entrance.config.name, pushed.dropped);
    if let Some(key) = received.key.clone()
        && !pushed.append.is_empty()
    {
        pushed.append.idempotency(received.idempotency(topic, key));
    }
    Ok(pushed)
}

fn answer(appended: &Appended) -> Response {
    let ranges: Vec<_> = appended
        .ranges
        .iter()
        .map(|(topic, partition, range)| {
            json!({"topic": topic, "partition": partition, "from": range.from, "to": range.to})
        })
        .collect();
    let body = json!({"records": appended.records, "ranges": ranges, "repeated": appended.repeated});
    json_response(StatusCode::OK, body.to_string())
}

fn refusal_of(error: &Error) -> Refusal {
    let status = match error.kind() {
        Kind::Conflict => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Unavailable | Kind::Fenced => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, tell(error))
}

fn json_response(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
