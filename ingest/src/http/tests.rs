use axum::body::to_bytes;
use axum::http::Request;
use serde_json::Value;
use tower::ServiceExt;

use crate::fixture::{Fixture, gzip, ndjson};
use crate::{Collectors, RunMode};

use super::*;

const PUSH: &str = r#"
[serving]
max_request_size = "64KiB"

[log]
max_record_size = "1MiB"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "events"

[[source]]
name = "keyed"
type = "http"
topic = "orders"
key = "id"
"#;

struct Pushes {
    fixture: Fixture,
    collectors: Collectors,
}

impl Pushes {
    fn new() -> Pushes {
        let fixture = Fixture::new();
        let collectors = fixture.start(PUSH, RunMode::Continuous);
        Pushes { fixture, collectors }
    }

    fn post(&self, topic: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (u16, Value, HeaderMap) {
        let mut request = Request::post(format!("/v1/ingest/{topic}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let router = self.collectors.router();
        self.fixture.runtime.block_on(async move {
            let response = router.oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let bytes = to_bytes(body, 1 << 20).await.unwrap();
            (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap(), parts.headers)
        })
    }
}

#[test]
fn ndjson_and_arrays_are_committed_before_the_answer_as_the_bytes_that_came() {
    let pushes = Pushes::new();
    let (status, answer, _) = pushes.post("events", &[], "\n{\"a\": 1.0}\r\n\n {\"a\":2}");
    assert_eq!((status, &answer["records"], &answer["repeated"]), (200, &2.into(), &false.into()));
    let ranges = answer["ranges"].as_array().unwrap();
    let pushed: i64 = ranges.iter().map(|r| r["to"].as_i64().unwrap() - r["from"].as_i64().unwrap()).sum();
    assert_eq!((pushed, &ranges[0]["topic"]), (2, &"events".into()));
    assert_eq!(pushes.fixture.count("events"), 2);
    let (status, ..) = pushes.post("events", &[], " [ {\"a\": 3.50, \"b\":[1]},\n{\"a\":4} ]");
    assert_eq!(status, 200);
    let mut texts = pushes.fixture.texts("events");
    texts.sort();
    assert_eq!(texts, ["{\"a\": 1.0}", "{\"a\": 3.50, \"b\":[1]}", "{\"a\":2}", "{\"a\":4}"]);
    assert_eq!(pushes.collectors.status()[0].records, 4);
    let (status, answer, _) = pushes.post("events", &[], "");
    assert_eq!((status, &answer["records"]), (200, &0.into()));
}

#[test]
fn a_malformed_body_is_refused_whole_with_its_line() {
    let pushes = Pushes::new();
    for (body, says) in [
        (&b"{\"a\":1}\n{\"a\":\n{\"a\":3}"[..], "line 2: EOF while parsing"),
        (b"{\"a\":1}\n\n[1]", "line 3: invalid type: sequence, expected a JSON object"),
        (b"{\"a\":1} {\"a\":2}", "line 1: trailing characters"),
        (b"{\"a\":1}\n{\"a\":\"\xff\"}", "line 2 is not valid UTF-8"),
        (b"[{\"a\":1},\n{\"a\":}]", "line 2: expected value"),
        (b"[{\"a\":1},\n 7]", "line 2, element 2: invalid type: integer"),
        (b"word", "line 1: expected value"),
    ] {
        let (status, answer, _) = pushes.post("events", &[], body.to_vec());
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(says), "{answer} for {says}");
    }
    assert_eq!(pushes.fixture.count("events"), 0, "all or nothing");
}

#[test]
fn a_repeat_gets_the_first_answer_and_another_body_is_refused() {
    let pushes = Pushes::new();
    let key = [("Idempotency-Key", "a")];
    let (_, first, _) = pushes.post("events", &key, ndjson(0, 3));
    let (status, again, _) = pushes.post("events", &key, ndjson(0, 3));
    assert_eq!((status, &again["repeated"], &again["ranges"]), (200, &true.into(), &first["ranges"]));
    assert_eq!(pushes.fixture.count("events"), 3);
    assert_eq!(pushes.collectors.status()[0].records, 3, "a repeat is not counted");
    assert_eq!(pushes.post("events", &key, ndjson(1, 3)).0, 422);
    assert_eq!(pushes.post("orders", &key, "{\"id\":1}").0, 200, "a key belongs to a topic");
    let long = "k".repeat(257);
    assert_eq!(pushes.post("events", &[("Idempotency-Key", &long)], ndjson(0, 1)).0, 400);
}

#[test]
fn concurrent_repeats_commit_once() {
    let pushes = Pushes::new();
    let router = pushes.collectors.router();
    let answers: Vec<u16> = pushes.fixture.runtime.block_on(async {
        let requests = (0..16).map(|_| {
            let request = Request::post("/v1/ingest/events").header("Idempotency-Key", "b");
            let request = request.body(Body::from(ndjson(0, 10))).unwrap();
            tokio::spawn(router.clone().oneshot(request))
        });
        let mut answers = Vec::new();
        for answer in requests.collect::<Vec<_>>() {
            answers.push(answer.await.unwrap().unwrap().status().as_u16());
        }
        answers
    });
    // Those that found no room for their body were told to try again.
    assert!(
        answers.contains(&200) && answers.iter().all(|status| [200, 429].contains(status)),
        "{answers:?}"
    );
    assert_eq!(pushes.fixture.count("events"), 10);
}

#[test]
fn what_cannot_be_taken_says_why() {
    let pushes = Pushes::new();
    let (status, answer, _) = pushes.post("evnts", &[], "{}");
    assert_eq!(status, 404);
    assert!(answer["hint"].as_str().unwrap().contains("`events`"), "{answer}");
    assert_eq!(pushes.post("events", &[], ndjson(0, 5000)).0, 413);
    assert_eq!(pushes.post("events", &[("Content-Encoding", "br")], "x").0, 415);
    let bomb = gzip(&vec![b' '; 1 << 20]);
    assert_eq!(pushes.post("events", &[("Content-Encoding", "gzip")], bomb).0, 413);
    let (status, answer, _) =
        pushes.post("events", &[("Content-Encoding", "gzip")], gzip(ndjson(0, 7).as_bytes()));
    assert_eq!((status, &answer["records"]), (200, &7.into()));
    assert_eq!(pushes.post("events", &[("Content-Encoding", "gzip")], "no gzip").0, 400);
}

#[test]
fn a_key_field_becomes_the_key() {
    let pushes = Pushes::new();
    pushes.post("orders", &[], "{\"id\":7}\n{\"id\":\"x\"}\n{}");
    let keys: Vec<_> = pushes.fixture.records("orders").into_iter().map(|record| record.key).collect();
    assert_eq!(keys, [Some("7".to_owned()), Some("x".to_owned()), None]);
}

#[test]
fn a_stopped_log_or_process_is_503_with_retry_after() {
    let pushes = Pushes::new();
    pushes.fixture.runtime.block_on(pushes.fixture.log().close()).unwrap();
    let (status, _, headers) = pushes.post("events", &[], ndjson(0, 1));
    assert_eq!((status, headers.get(header::RETRY_AFTER).is_some()), (503, true));
    pushes.fixture.stop(&pushes.collectors);
    assert_eq!(pushes.post("events", &[], ndjson(0, 1)).0, 503);
    assert_eq!(pushes.collectors.status()[0].state, "stopped");
}

impl Pushes {
    fn bulk(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (u16, Value, HeaderMap) {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request.body(body.into()).unwrap())
    }

    fn answer(&self, request: Request<Body>) -> (u16, Value, HeaderMap) {
        let router = self.collectors.router();
        self.fixture.runtime.block_on(async move {
            let response = router.oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let bytes = to_bytes(body, 1 << 20).await.unwrap();
            (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap(), parts.headers)
        })
    }
}

const BULK: &str = r#"{"index":{"_index":"events","_id":"1"}}
{"n":1}
{"create":{"_index":"orders","_id":7}}
{"id":"a","n":2}
{"index":{"_index":"events","_id":"3"}}
{"n":
{"delete":{"_index":"events","_id":"4"}}
{"index":{"_index":"nowhere","_id":"5"}}
{"n":5}
{"update":{"_index":"events","_id":"6"}}
{"doc":{"n":6}}
"#;

#[test]
fn each_item_of_a_bulk_request_has_its_own_answer() {
    let pushes = Pushes::new();
    let (status, answer, headers) = pushes.bulk("/elastic/_bulk", &[], BULK);
    assert_eq!((status, headers["x-elastic-product"].to_str().unwrap()), (200, "Elasticsearch"));
    assert_eq!(answer["errors"], true);
    let items = answer["items"].as_array().unwrap();
    let statuses: Vec<_> = items
        .iter()
        .flat_map(|item| item.as_object().unwrap())
        .map(|(action, item)| (action.as_str(), item["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        statuses,
        [("index", 201), ("create", 201), ("index", 400), ("delete", 400), ("index", 404), ("update", 400)]
    );
    assert_eq!((&items[1]["create"]["_id"], &items[0]["index"]["_id"]), (&json!(7), &json!("1")));
    assert_eq!(items[4]["index"]["error"]["type"], "index_not_found_exception");
    assert_eq!(pushes.fixture.texts("events"), [r#"{"n":1}"#]);
    assert_eq!(pushes.fixture.records("orders")[0].key.as_deref(), Some("a"));
    // The same request once more, as a client sends it whose answer was lost: every item has an id.
    let (_, again, _) = pushes.bulk("/elastic/_bulk", &[], BULK);
    assert_eq!(again["items"], answer["items"]);
    assert_eq!((pushes.fixture.count("events"), pushes.fixture.count("orders")), (1, 1), "taken twice");
}

#[test]
fn a_bulk_request_may_name_its_index_in_the_path_and_be_packed() {
    let pushes = Pushes::new();
    let body = "{\"index\":{}}\n{\"n\":1}\n\n{\"create\":{}}\n{\"n\":2}";
    let (status, answer, _) =
        pushes.bulk("/elastic/events/_bulk", &[("content-encoding", "gzip")], gzip(body.as_bytes()));
    assert_eq!((status, &answer["errors"]), (200, &json!(false)));
    assert_eq!(pushes.fixture.texts("events"), [r#"{"n":1}"#, r#"{"n":2}"#]);
    pushes.bulk("/elastic/events/_bulk", &[], body);
    assert_eq!(pushes.fixture.count("events"), 4, "items without an id are others each time");
    pushes.bulk("/elastic/events/_bulk", &[("idempotency-key", "k")], body);
    pushes.bulk("/elastic/events/_bulk", &[("idempotency-key", "k")], body);
    assert_eq!(pushes.fixture.count("events"), 6, "a key makes a repeat one");
}

#[test]
fn a_bulk_request_that_is_none_is_refused_whole() {
    let pushes = Pushes::new();
    for (body, why) in [
        ("", "required"),
        ("{\"index\":{}}\n{\"n\":1}\n", "_index is missing"),
        ("{\"index\":{\"_index\":\"events\"}}", "its document is missing"),
        ("{\"n\":1}\n{\"n\":1}\n", "Malformed action/metadata line [1]"),
        (
            "{\"index\":{\"_index\":\"events\"}}\n{\"n\":1}\n{\"drop\":{\"_index\":\"events\"}}\n{}\n",
            "found [drop]",
        ),
    ] {
        let (status, answer, _) = pushes.bulk("/elastic/_bulk", &[], body);
        let reason = answer["error"]["reason"].as_str().unwrap();
        assert!(status == 400 && reason.contains(why), "{body}: {status} {reason}");
    }
    assert_eq!(pushes.fixture.count("events"), 0);
    let (status, answer, headers) = pushes.bulk("/elastic/_bulk", &[], "x".repeat(65 << 10));
    assert_eq!((status, &answer["status"]), (413, &json!(413)));
    assert_eq!(headers["x-elastic-product"], "Elasticsearch");
    let hello = Request::get("/elastic").body(Body::empty()).unwrap();
    assert_eq!(pushes.answer(hello).1["tagline"], "You Know, for Search");
}

#[test]
fn a_push_that_finds_no_room_is_told_when_to_come_again() {
    let pushes = Pushes::new();
    let _all = pushes.collectors.hold_the_door();
    for path in ["/v1/ingest/events", "/elastic/events/_bulk"] {
        let (status, _, headers) = pushes.bulk(path, &[], "{}\n");
        assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "1"), "{path}");
    }
}

const SHAPED: &str = r#"
[[source]]
name = "push"
type = "http"
topic = "events"
[[source.interceptor]]
type = "filter"
field = "level"
regex = "DEBUG"
drop = true
[[source.interceptor]]
type = "timestamp"
field = "at"
[[source.route]]
topic = "errors"
field = "level"
values = ["ERROR"]
"#;

#[test]
fn pushed_records_pass_interceptors_and_routes() {
    let fixture = Fixture::new();
    let collectors = fixture.start(SHAPED, RunMode::Continuous);
    let pushes = Pushes { fixture, collectors };
    let body = r#"{"level":"DEBUG"}
{"level":"ERROR","at":"2026-11-22T10:00:00Z"}
{"level":"INFO","at":"never"}
{"level":"INFO"}"#;
    let (status, answer, _) = pushes.post("events", &[("idempotency-key", "k")], body);
    assert_eq!((status, &answer["records"]), (200, &json!(3)));
    pushes.post("events", &[("idempotency-key", "k")], body);
    assert_eq!(pushes.fixture.texts("errors"), [r#"{"level":"ERROR","at":"2026-11-22T10:00:00Z"}"#]);
    let events = pushes.fixture.records("events");
    assert_eq!(events.len(), 2);
    assert!(events[0].header("tarn.error").contains("`never`"), "{:?}", events[0]);
    assert_eq!(pushes.collectors.status()[0].dropped, 1);
    assert_eq!(pushes.fixture.log().dropped().unwrap(), [("push".to_owned(), 1)]);
}

const OTHER_BODIES: &str = r#"
[serving]
max_request_size = "64KiB"

[[source]]
name = "hooks"
type = "http"
topic = "hooks"
body = "form"
key = "name"

[[source]]
name = "access"
type = "http"
topic = "access"
format = "combined"

[[source]]
name = "documents"
type = "http"
topic = "documents"
body = "whole"
format = "lines"

[[source]]
name = "pretty"
type = "http"
topic = "pretty"
body = "whole"
[[source.interceptor]]
type = "remove"
fields = ["secret"]
"#;

#[test]
fn forms_lines_of_a_format_and_whole_bodies_are_records_packed_or_not() {
    let fixture = Fixture::new();
    let collectors = fixture.start(OTHER_BODIES, RunMode::Continuous);
    let pushes = Pushes { fixture, collectors };
    let post = |topic: &str, headers: &[(&str, &str)], body: &[u8]| {
        let (status, answer, _) = pushes.post(topic, headers, body.to_vec());
        (status, answer["records"].as_u64(), answer["error"].as_str().unwrap_or_default().to_owned())
    };
    let taken = |records| (200, Some(records), String::new());
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(post("hooks", &form, b"name=J%C3%BCrgen&tag=a&tag=b+c"), taken(1));
    assert_eq!(post("hooks", &form, b""), taken(0));
    let (status, _, error) = post("hooks", &form, b"name=%zz");
    assert_eq!((status, error.contains("field 1 of the form")), (400, true), "{error}");
    let record = &pushes.fixture.records("hooks")[0];
    assert_eq!(
        (record.text().as_str(), record.key.as_deref()),
        (r#"{"name":"Jürgen","tag":["a","b c"]}"#, Some("Jürgen"))
    );

    let line = "10.0.0.1 - - [22/Nov/2026:10:00:00 +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"-\"";
    let lines = format!("{line}\r\nnone\n\n{line}");
    assert_eq!(post("access", &[("content-encoding", "gzip")], &gzip(lines.as_bytes())), taken(3));
    let dead = pushes.fixture.records("access").into_iter().find(|record| record.text() == "none").unwrap();
    assert_eq!((dead.header("line"), dead.header("tarn.error").is_empty()), ("2", false));

    let packed = zstd::encode_all(&b"<a>\n\xff</a>\n"[..], 1).unwrap();
    assert_eq!(post("documents", &[("content-encoding", "zstd")], &packed), taken(1));
    assert_eq!(
        pushes.fixture.records("documents")[0].value,
        b"<a>\n\xff</a>\n",
        "not a byte of it is another one"
    );
    assert_eq!(post("documents", &[], &vec![b'x'; 65 << 10]).0, 413);
    assert_eq!(
        post("documents", &[("content-encoding", "zstd")], &zstd::encode_all(&[0; 100_000][..], 1).unwrap())
            .0,
        413
    );

    assert_eq!(post("pretty", &[], b"{\n  \"a\": 1,\n  \"secret\": 2\n}\n"), taken(1));
    assert_eq!(pushes.fixture.texts("pretty"), ["{\"a\":1}"]);
    assert_eq!(post("pretty", &[], b"{\"a\":1}\n{\"a\":2}").0, 400, "two are not one");
    let key = [("idempotency-key", "k")];
    assert_eq!(post("documents", &key, b"once"), taken(1));
    assert_eq!(post("documents", &key, b"once"), taken(1));
    assert_eq!(post("documents", &key, b"other").0, 422);
    assert_eq!(pushes.fixture.count("documents"), 2);
    // A bulk request wants JSON objects.
    let request =
        Request::post("/elastic/access/_bulk").body(Body::from("{\"index\":{}}\n{\"a\":1}\n")).unwrap();
    let router = pushes.collectors.router();
    let answer = pushes.fixture.runtime.block_on(async move {
        let body = router.oneshot(request).await.unwrap().into_body();
        serde_json::from_slice::<Value>(&to_bytes(body, 1 << 20).await.unwrap()).unwrap()
    });
    assert_eq!(answer["items"][0]["index"]["status"], 400);
    pushes.fixture.stop(&pushes.collectors);
}

const LIMITED: &str = r#"
[[source]]
name = "push"
type = "http"
topic = "events"
[source.rate_limit]
records_per_second = 1

[[source]]
name = "free"
type = "http"
topic = "orders"
"#;

#[test]
fn a_source_beyond_its_rate_answers_429_with_the_time_to_wait_and_writes_nothing() {
    let fixture = Fixture::new();
    let collectors = fixture.start(LIMITED, RunMode::Continuous);
    let pushes = Pushes { fixture, collectors };
    // A repeat takes nothing: it is not charged.
    for _ in 0..5 {
        assert_eq!(pushes.post("events", &[("idempotency-key", "k")], ndjson(0, 1)).0, 200);
    }
    // A body is taken whole, and an hour is owed.
    let bulk: String = (0..3600).map(|n| format!("{{\"index\":{{}}}}\n{{\"n\":{n}}}\n")).collect();
    assert_eq!(pushes.bulk("/elastic/events/_bulk", &[], bulk).0, 200);
    let both = r#"{"index":{"_index":"orders"}}
{"n":1}
{"index":{"_index":"events"}}
{"n":2}
"#;
    for (path, body) in [
        ("/v1/ingest/events", "{}"),
        ("/elastic/events/_bulk", "{\"index\":{}}\n{}\n"),
        ("/elastic/_bulk", both),
    ] {
        let (status, answer, headers) = pushes.bulk(path, &[], body);
        assert_eq!(status, 429, "{path}: {answer}");
        let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((3000..=3601).contains(&seconds), "{path}: {seconds}");
        assert!(answer["error"].to_string().contains("`push` takes no more"), "{answer}");
    }
    assert_eq!((pushes.fixture.count("events"), pushes.fixture.count("orders")), (3601, 0));
    assert_eq!(pushes.post("orders", &[], ndjson(0, 1)).0, 200, "another source has a rate of its own");
}
