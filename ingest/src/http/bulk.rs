//! `POST /elastic/_bulk` and `/elastic/{index}/_bulk`: Elasticsearch's bulk interface, as shippers speak it.
//!
//! An index is a topic that an `http` source fills. `index` and `create` append the document; `update` and `delete` are
//! refused, for a log takes nothing back. Each item has its own answer: one that is no JSON object, or whose topic takes no
//! pushes, is refused by itself, and the others of the request are one commit. The answer is given once that is done, so
//! an item that was answered with 201 is in the log.
//!
//! *A rate limit* turns a request down whole, with 429: were single items turned down, a client that repeats the request with its
//! key would be told of the first answer, and they would be lost.
//!
//! *Repeats*: with an `Idempotency-Key`, or when every item has an `_id`, a request that comes again byte for byte is taken
//! once, as long as keys are remembered. Otherwise the guarantee is at least once.
//!
//! *Where*: below `/elastic`, for `/` is the pages'. Clients take a path with the address: `http://127.0.0.1:8080/elastic`.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::*;
use crate::json;
use crate::shaper::{Found, Place};

/// Version that is told to clients: of the interface that is spoken, not of anything that runs here.
const VERSION: &str = "8.17.0";
/// Without this header clients refuse to talk.
const PRODUCT: &str = "x-elastic-product";

/// What a client asks first.
pub(super) async fn hello() -> Response {
    let body = json!({
        "name": "tarn", "cluster_name": "tarn", "cluster_uuid": "_na_",
        "version": {"number": VERSION, "build_flavor": "default", "lucene_version": "9.12.0",
            "minimum_wire_compatibility_version": "7.17.0", "minimum_index_compatibility_version": "7.0.0"},
        "tagline": "You Know, for Search",
    });
    with_product(json_response(StatusCode::OK, body.to_string()))
}

pub(super) async fn bulk(state: State<Arc<Door>>, headers: HeaderMap, body: Body) -> Response {
    with_product(take(&state.0, None, &headers, body).await.unwrap_or_else(refused))
}

pub(super) async fn bulk_of(
    state: State<Arc<Door>>,
    Path(index): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    with_product(take(&state.0, Some(index), &headers, body).await.unwrap_or_else(refused))
}

fn with_product(mut response: Response) -> Response {
    response.headers_mut().insert(PRODUCT, HeaderValue::from_static("Elasticsearch"));
    response
}

/// A refusal in the words of the interface; `Retry-After` stays.
fn refused(refusal: Refusal) -> Response {
    let status = refusal.status;
    let reason = match &refusal.hint {
        Some(hint) => format!("{}; {hint}", refusal.message),
        None => refusal.message.clone(),
    };
    let kind = if status == StatusCode::TOO_MANY_REQUESTS {
        "es_rejected_execution_exception"
    } else {
        "illegal_argument_exception"
    };
    let body = json!({"error": {"type": kind, "reason": reason}, "status": status.as_u16()}).to_string();
    let mut response = refusal.into_response();
    *response.body_mut() = Body::from(body);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

/// What was asked for one document.
#[derive(Debug, Deserialize)]
struct Target<'a> {
    #[serde(rename = "_index", default)]
    index: Option<String>,
    #[serde(rename = "_id", default, borrow)]
    id: Option<&'a RawValue>,
}

/// One item of a request, as it will be answered.
struct Item {
    action: &'static str,
    index: String,
    /// As JSON.
    id: Option<String>,
    /// Why it was refused: status, type and reason.
    refused: Option<(u16, &'static str, String)>,
}

/// A request as it was built.
struct Built {
    pushed: Pushed,
    items: Vec<Item>,
    /// Sources whose records are among them, with what they take.
    sources: HashMap<String, Charge>,
}

async fn take(
    door: &Arc<Door>,
    index: Option<String>,
    headers: &HeaderMap,
    body: Body,
) -> std::result::Result<Response, Refusal> {
    if let Some(entrance) = index.as_ref().and_then(|index| door.entrances.get(index)) {
        entrance.admit()?;
    }
    let (received, _room) = door.receive(headers, body).await?;
    let since = door.clock.now_ms();
    let built = door.build(received, move |door, received| build(door, index.as_deref(), received)).await?;
    let Built { pushed, items, sources } = built;
    if !pushed.append.is_empty() {
        let entrances =
            || sources.iter().filter_map(|(topic, taken)| Some((door.entrances.get(topic)?, *taken)));
        for (number, (entrance, taken)) in entrances().enumerate() {
            if let Err(refusal) = entrance.charge(taken) {
                entrances().take(number).for_each(|(entrance, taken)| entrance.refund(taken));
                return Err(refusal);
            }
        }
        let appended = door.commit(pushed.append).await;
        for (entrance, taken) in entrances() {
            match &appended {
                Ok(appended) if !appended.repeated => entrance.monitor.committed(taken.records),
                _ => entrance.refund(taken),
            }
        }
        appended.map_err(|error| refusal_of(&error))?;
    }
    Ok(json_response(StatusCode::OK, answer(&items, door.clock.now_ms() - since)))
}

fn build(door: &Door, index: Option<&str>, received: Received) -> std::result::Result<Built, Refusal> {
    let text = std::str::from_utf8(&received.bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not UTF-8: {error}")))?;
    let mut taking = Taking {
        door,
        now_ms: door.clock.now_ms(),
        seed: received.seed(),
        shapers: HashMap::new(),
        built: Built { pushed: Pushed::default(), items: Vec::new(), sources: HashMap::new() },
    };
    let taken = taking.all(text, index);
    let Taking { shapers, mut built, .. } = taking;
    for (topic, (shaper, dropped)) in shapers {
        if let Some(entrance) = door.entrances.get(&topic) {
            built.pushed.append.dropped(&entrance.config.name, dropped);
            entrance.shapers.lock().push(shaper);
        }
    }
    taken?;
    let all_named = built.items.iter().all(|item| item.id.is_some());
    let named = || all_named.then(|| format!("_bulk/{:032x}", xxh3_128(&received.bytes)));
    let key = received.key.clone().or_else(named);
    let topic = built.items.iter().find(|item| item.refused.is_none()).map(|item| item.index.clone());
    if let (Some(key), Some(topic), false) = (key, topic, built.pushed.append.is_empty()) {
        built.pushed.append.idempotency(received.idempotency(&topic, key));
    }
    Ok(built)
}

struct Taking<'a> {
    door: &'a Door,
    now_ms: i64,
    seed: u128,
    /// By topic, with how many records it dropped.
    shapers: HashMap<String, (Shaper, u64)>,
    built: Built,
}

impl Taking<'_> {
    fn all(&mut self, text: &str, index: Option<&str>) -> std::result::Result<(), Refusal> {
        let mut lines = body::Lines::of(text);
        while let Some(line) = lines.next_filled() {
            let number = lines.number();
            let malformed = |what: &str| {
                let message = format!("Malformed action/metadata line [{number}], {what}");
                Refusal::new(StatusCode::BAD_REQUEST, message)
            };
            let actions: HashMap<String, Target<'_>> =
                serde_json::from_str(line).map_err(|error| malformed(&error.to_string()))?;
            let mut actions = actions.into_iter();
            let (Some((action, target)), None) = (actions.next(), actions.next()) else {
                return Err(malformed("expected one action"));
            };
            let action = match action.as_str() {
                "index" => "index",
                "create" => "create",
                "update" => "update",
                "delete" => "delete",
                other => return Err(malformed(&format!("expected `index` or `create` but found [{other}]"))),
            };
            let Some(index) = target.index.as_deref().or(index) else {
                return Err(malformed("_index is missing"));
            };
            let document = match action {
                "delete" => None,
                _ => Some(lines.next_line().ok_or_else(|| malformed("its document is missing"))?),
            };
            let refused = self.document(index, action, document).err();
            let id = target.id.map(|id| id.get().to_owned()).filter(|id| id != "null");
            self.built.items.push(Item { action, index: index.to_owned(), id, refused });
        }
        if self.built.items.is_empty() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "request body is required"));
        }
        Ok(())
    }

    /// Takes one document, or says why not.
    fn document(
        &mut self,
        index: &str,
        action: &str,
        document: Option<&str>,
    ) -> std::result::Result<(), (u16, &'static str, String)> {
        let Some(document) = document.filter(|_| action != "update") else {
            let reason = format!("`{action}` is not taken: a topic only grows");
            return Err((400, "illegal_argument_exception", reason));
        };
        let Some(entrance) = self.door.entrances.get(index) else {
            let refusal = self.door.entrance(index).err();
            let reason = refusal.map_or_else(String::new, |refusal| refusal.message);
            return Err((404, "index_not_found_exception", reason));
        };
        if !entrance.takes_objects() {
            let reason = format!("the `http` source of `{index}` takes another format than JSON objects");
            return Err((400, "illegal_argument_exception", reason));
        }
        let unavailable = |error: &Error| (503, "unavailable_shards_exception", tell(error));
        let topic = self.door.log.topic(index);
        let topic = topic
            .ok_or_else(|| (404, "index_not_found_exception", format!("the topic `{index}` was deleted")))?;
        let key_field = entrance.config.key.as_deref();
        let key = json::field(document.as_bytes(), key_field.unwrap_or_default())
            .map_err(|error| (400, "document_parsing_exception", body::without_line(&error)))?;
        let key = key.as_deref().filter(|_| key_field.is_some());
        if document.len() + key.map_or(0, str::len) > topic.max_record_bytes {
            let reason =
                format!("the document is larger than the largest record, {} bytes", topic.max_record_bytes);
            return Err((413, "illegal_argument_exception", reason));
        }
        if !self.shapers.contains_key(index) {
            let shaper = entrance.shaper(&self.door.log, &topic).map_err(|error| unavailable(&error))?;
            self.shapers.insert(index.to_owned(), (shaper, 0));
        }
        let Some((shaper, dropped)) = self.shapers.get_mut(index) else { return Ok(()) };
        let place = Place { origin: (self.seed, self.built.items.len() as u64), ..Place::default() };
        let found = Found { key, ..Found::value(document.as_bytes()) };
        let before = (self.built.pushed.dropped, self.built.pushed.append.bytes());
        let count = shaper
            .push(&mut self.built.pushed, self.now_ms, &place, &found)
            .map_err(|error| unavailable(&error))?;
        *dropped += self.built.pushed.dropped - before.0;
        entrance.monitor.read(document.len() as u64);
        let taken = self.built.sources.entry(index.to_owned()).or_default();
        taken.records += count;
        taken.bytes += (self.built.pushed.append.bytes() - before.1) as u64;
        Ok(())
    }
}

/// The answer for all items, in their order.
fn answer(items: &[Item], took_ms: i64) -> String {
    let errors = items.iter().any(|item| item.refused.is_some());
    let mut text = format!("{{\"took\":{},\"errors\":{errors},\"items\":[", took_ms.max(0));
    for (i, item) in items.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let index = serde_json::Value::from(item.index.as_str());
        let id = item.id.as_deref().unwrap_or("null");
        _ = match &item.refused {
            None => write!(
                text,
                "{comma}{{\"{}\":{{\"_index\":{index},\"_id\":{id},\"_version\":1,\"result\":\"created\",\"status\":201}}}}",
                item.action
            ),
            Some((status, kind, reason)) => {
                let error = json!({"type": kind, "reason": reason});
                write!(
                    text,
                    "{comma}{{\"{}\":{{\"_index\":{index},\"_id\":{id},\"status\":{status},\"error\":{error}}}}}",
                    item.action
                )
            }
        };
    }
    text.push_str("]}");
    text
}
