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
