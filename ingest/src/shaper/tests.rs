use std::collections::BTreeMap;

use serde_json::{Value, json};
use tarn_model::config::{InterceptorConfig, SourceKind};

use super::*;
use crate::fixture::Fixture;

/// A record as a topic takes it.
struct Made {
    topic: String,
    timestamp_ms: i64,
    key: Option<String>,
    value: Vec<u8>,
    headers: BTreeMap<String, String>,
}

/// What became of what was found.
#[derive(Default)]
struct Seen {
    records: Vec<Made>,
    dropped: u64,
}

impl Sink for Seen {
    fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.records.push(Made {
            topic: topic.name.clone(),
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(text),
            value: record.value.unwrap_or_default().to_vec(),
            headers: record.headers.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect(),
        });
        Ok(())
    }

    fn dropped(&mut self) {
        self.dropped += 1;
    }
}

impl Seen {
    fn values(&self) -> Vec<Value> {
        self.records.iter().map(|record| serde_json::from_slice(&record.value).unwrap()).collect()
    }

    fn topics(&self) -> Vec<&str> {
        self.records.iter().map(|record| record.topic.as_str()).collect()
    }

    fn error(&self) -> &str {
        self.records[0].headers.get(ERROR_HEADER).map_or("", String::as_str)
    }
}

const SOURCE: &str = "[[source]]\nname = \"s\"\ntopic = \"t\"\ntype = \"taildir\"\npath = \"DIR/*\"\n";
const NOW_MS: i64 = 1_795_348_800_000;

/// A query that upper-cases `a`, drops records whose `a` is `x`, and fails at `!`.
#[derive(Debug)]
struct Upper {
    inputs: Vec<String>,
    keeps: bool,
}

impl tarn_model::config::RecordQuery for Upper {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn keeps_fields(&self) -> bool {
        self.keeps
    }

    fn run(&self, texts: &[Option<&str>], out: &mut Vec<u8>) -> std::result::Result<bool, String> {
        match texts[0] {
            Some("x") => return Ok(false),
            Some("!") => return Err("no such letter".into()),
            text => *out = json!({"a": text.map(str::to_uppercase), "n": 1}).to_string().into_bytes(),
        }
        Ok(true)
    }
}

#[test]
fn a_query_makes_of_each_record_one_or_none_or_a_dead_letter() {
    for (keeps, made) in [
        (true, [r#"{"b":7,"a":"Q","n":1}"#, r#"{"b":8,"a":null,"n":1}"#]),
        (false, [r#"{"a":"Q","n":1}"#, r#"{"a":null,"n":1}"#]),
    ] {
        let fixture = Fixture::new();
        let sql = "format = \"ndjson\"\n[[source.interceptor]]\ntype = \"sql\"\nquery = \"q\"\n";
        let mut config = fixture.config(&format!("{SOURCE}{sql}"));
        assert!(Shaper::of_objects(&config.sources[0]).is_err(), "nobody compiled it");
        let InterceptorConfig::Sql(sql) = &mut config.sources[0].interceptors[0] else { panic!("a query") };
        sql.compiled.set(Arc::new(Upper { inputs: vec!["a".into()], keeps }));
        let mut shaper = Shaper::of_objects(&config.sources[0]).unwrap();
        crate::collectors::create_topic(fixture.log(), &config, "t").unwrap();
        let named = |name: &str| Ok(fixture.log().topic(name).unwrap());
        shaper.begin_with(named("t").unwrap(), named).unwrap();
        let mut seen = Seen::default();
        for (line, value) in (1..).zip([r#"{"b":7,"a":"q"}"#, r#"{"a":"x"}"#, r#"{"a":"!"}"#, r#"{"b":8}"#]) {
            let place = Place::of_file("app.log", Some(line), (7, line));
            shaper.push(&mut seen, NOW_MS, &place, &Found::value(value.as_bytes())).unwrap();
        }
        let texts: Vec<_> =
            seen.records.iter().map(|r| String::from_utf8_lossy(&r.value).into_owned()).collect();
        assert_eq!(texts, [made[0], r#"{"a":"!"}"#, made[1]]);
        assert_eq!(
            (seen.dropped, &seen.records[1].headers[ERROR_HEADER]),
            (1, &"`sql` failed: no such letter".to_owned())
        );
    }
}

/// Shapes `lines`, the first of them line 1 of `app.log`.
fn shaped(config: &str, lines: &[&str]) -> Seen {
    let fixture = Fixture::new();
    let config = fixture.config(&format!("{SOURCE}{config}"));
    let source = &config.sources[0];
    let SourceKind::Taildir(tail) = &source.kind else { panic!("a taildir") };
    let mut shaper = Shaper::of_lines(source, tail.format, &tail.lines).unwrap();
    for topic in source.topics() {
        crate::collectors::create_topic(fixture.log(), &config, topic).unwrap();
    }
    let named = |name: &str| Ok(fixture.log().topic(name).unwrap());
    shaper.begin_with(named("t").unwrap(), named).unwrap();
    let mut seen = Seen::default();
    for (number, line) in (1..).zip(lines) {
        let place = Place::of_file("app.log", Some(number), (7, number));
        let pushed = seen.records.len();
        let count = shaper.push(&mut seen, NOW_MS, &place, &Found::value(line.as_bytes())).unwrap();
        assert_eq!(seen.records.len() - pushed, usize::try_from(count).unwrap());
    }
    seen
}

fn intercepted(interceptors: &str, objects: &[&str]) -> Seen {
    shaped(&format!("format = \"ndjson\"\n{interceptors}"), objects)
}

#[test]
fn values_pass_untouched_when_nothing_is_to_be_done() {
    let seen = shaped("format = \"ndjson\"\nkey = \"k\"", &["{ \"k\" : 1.50 }", "  ", "no JSON"]);
    let records: Vec<_> = seen.records.iter().map(|r| (r.key.as_deref(), r.value.as_slice())).collect();
    assert_eq!(records, [(Some("1.50"), &b"{ \"k\" : 1.50 }"[..]), (None, b"no JSON")]);
    assert_eq!(
        seen.records[1].headers,
        BTreeMap::from([("file".into(), "app.log".into()), ("line".into(), "3".into())])
    );
}

#[test]
fn a_line_that_does_not_fit_its_format_comes_as_it_is_with_the_reason() {
    let seen = shaped("format = \"logfmt\"\nkey = \"b\"", &["no pairs here", "a=1 b=2", ""]);
    assert_eq!(seen.records.len(), 2, "a blank line is none");
    assert_eq!(seen.records[0].value, b"no pairs here");
    assert_eq!(seen.error(), "the line has no `key=value`");
    assert_eq!(
        (seen.records[1].key.as_deref(), seen.records[1].value.as_slice()),
        (Some("2"), &br#"{"a":"1","b":"2"}"#[..])
    );
}

#[test]
fn the_head_of_a_long_blank_line_is_no_blank_line() {
    let fixture = Fixture::new();
    fixture.append_to("a.log", " ".repeat(2 << 20) + "x\n{}\n");
    fixture.drain(&format!("{SOURCE}format = \"ndjson\"").replace("DIR/*", "DIR/a.log")).unwrap();
    let records = fixture.records("t");
    assert_eq!((records.len(), records[0].header("tarn.oversize")), (2, (2 << 20 | 1).to_string().as_str()));
}

#[test]
fn interceptors_work_in_the_order_of_the_file() {
    let seen = intercepted(
        r#"
key = "who"
[[source.interceptor]]
type = "rename"
fields = { user = "who" }
[[source.interceptor]]
type = "extract"
field = "msg"
regex = 'took (?<ms>\d+) ms'
[[source.interceptor]]
type = "replace"
field = "msg"
regex = '(\d+) ms'
with = "${1}ms"
[[source.interceptor]]
type = "static"
fields = { env = "prod", who = "nobody" }
[[source.interceptor]]
type = "header"
header = "file"
[[source.interceptor]]
type = "remove"
fields = ["secret"]
"#,
        &[r#"{"user":"ada","msg":"took 12 ms","secret":"x","n":1.50}"#, r#"{"msg":"idle"}"#],
    );
    assert_eq!(
        seen.values(),
        [
            json!({"who": "ada", "msg": "took 12ms", "n": 1.5, "ms": "12", "env": "prod", "file": "app.log"}),
            json!({"msg": "idle", "env": "prod", "who": "nobody", "file": "app.log"}),
        ]
    );
    assert!(
        seen.records[0].value.windows(8).any(|part| part == b"\"n\":1.50"),
        "a number stays as it was written"
    );
    assert_eq!(seen.records[0].key.as_deref(), Some("ada"), "the key is of the fields that go into the log");
}

#[test]
fn a_time_is_the_records_time_and_one_that_is_none_is_a_dead_letter() {
    let times = |format: &str, zone: &str, text: &str| {
        let config = format!(
            "[[source.interceptor]]\ntype = \"timestamp\"\nfield = \"ts\"\nformat = '{format}'\ntimezone = \"{zone}\"\n"
        );
        let seen = intercepted(&config, &[&json!({"ts": text}).to_string()]);
        (seen.records[0].timestamp_ms, seen.error().to_owned())
    };
    let noon = 1_795_348_800_000;
    for (format, zone, text, ms) in [
        ("rfc3339", "UTC", "2026-11-22T13:00:00.250+01:00", noon + 250),
        ("rfc3339", "Europe/Berlin", "2026-11-22 13:00:00", noon),
        ("rfc3339", "UTC", "2026-11-22", noon - 12 * 3_600_000),
        ("unix", "UTC", "1795348800.0421", noon + 42),
        ("unix", "UTC", "-1.5", -1500),
        ("unix_ms", "UTC", "1795348800007", noon + 7),
        ("%d/%b/%Y:%H:%M:%S %z", "UTC", "22/Nov/2026:13:00:00 +0100", noon),
        ("%d.%m.%Y %H:%M", "Asia/Tokyo", "22.11.2026 21:00", noon),
    ] {
        assert_eq!(times(format, zone, text), (ms, String::new()), "{text}");
    }
    for (format, zone, text) in [
        ("rfc3339", "UTC", "yesterday"),
        ("rfc3339", "Europe/Berlin", "2026-10-25 02:30:00"),
        ("rfc3339", "Europe/Berlin", "2026-03-29 02:30:00"),
        ("unix", "UTC", "1e9"),
    ] {
        let (ms, error) = times(format, zone, text);
        assert_eq!(ms, NOW_MS);
        assert_eq!(error, format!("the field `ts` is no time of the format `{format}`: `{text}`"));
    }
}

#[test]
fn what_a_filter_drops_is_counted() {
    let lines = [r#"{"level":"DEBUG"}"#, r#"{"level":"ERROR"}"#, "{}", r#"{"level":null}"#];
    let filter = "[[source.interceptor]]\ntype = \"filter\"\nfield = \"level\"\nregex = '^(WARN|ERROR)$'\n";
    let seen = intercepted(filter, &lines);
    assert_eq!((seen.values(), seen.dropped), (vec![json!({"level": "ERROR"})], 3));
    let seen = intercepted(&format!("{filter}drop = true\n"), &lines);
    assert_eq!((seen.records.len(), seen.dropped), (3, 1));
}

#[test]
fn personal_data_is_masked_or_hashed() {
    let seen = intercepted(
        r#"
[[source.interceptor]]
type = "mask"
fields = ["card", "pin", "gone"]
keep_last = 4
[[source.interceptor]]
type = "hash"
fields = ["mail"]
secret = "pepper"
"#,
        &[
            r#"{"card":"4111111111111111","pin":"1234567","mail":"ada@example.org"}"#,
            r#"{"mail":"ada@example.org","pin":null}"#,
        ],
    );
    let values = seen.values();
    assert_eq!((&values[0]["card"], &values[0]["pin"]), (&json!("************1111"), &json!("*******")));
    // echo -n ada@example.org | openssl dgst -sha256 -hmac pepper
    assert_eq!(
        (&values[0]["mail"], &values[1]["mail"]),
        (&json!("eddcbc0c0fa8cbf6d4cfd93ecdb94625"), &json!("eddcbc0c0fa8cbf6d4cfd93ecdb94625"))
    );
    assert!(!String::from_utf8_lossy(&seen.records[0].value).contains("example"));
    assert_eq!(values[1]["pin"], Value::Null);
}

#[test]
fn an_identity_is_the_same_when_a_record_is_made_again() {
    let uuid = "[[source.interceptor]]\ntype = \"uuid\"\n";
    let lines = ["{\"a\":1}", "{\"a\":1}", "{\"id\":\"own\"}"];
    let ids =
        |seen: &Seen| seen.values().iter().map(|v| v["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let (once, again) = (ids(&intercepted(uuid, &lines)), ids(&intercepted(uuid, &lines)));
    assert_eq!(once, again);
    assert_ne!(once[0], once[1], "equal lines at other places are others");
    assert_eq!(once[2], "own", "what is there stays");
    assert_eq!(uuid::Uuid::parse_str(&once[0]).unwrap().get_version_num(), 8);
}

#[test]
fn a_line_stays_a_line_unless_fields_are_added() {
    let mask = "[[source.interceptor]]\ntype = \"replace\"\nfield = \"line\"\nregex = '\\d+'\nwith = '#'\n";
    let seen = shaped(mask, &["order 17", ""]);
    assert_eq!(seen.records.iter().map(|r| r.value.as_slice()).collect::<Vec<_>>(), [&b"order #"[..], b""]);
    let fixed = "[[source.interceptor]]\ntype = \"static\"\nfields = { env = \"prod\" }\n";
    assert_eq!(shaped(fixed, &["order 17"]).values(), [json!({"line": "order 17", "env": "prod"})]);
    let host = "[[source.interceptor]]\ntype = \"host\"\n";
    let host = shaped(host, &["x"]).values()[0]["host"].as_str().unwrap().to_owned();
    assert!(!host.is_empty());
}

#[test]
fn an_extraction_that_must_fit_and_does_not_is_a_dead_letter_with_the_bytes_that_came() {
    let config = "[[source.interceptor]]\ntype = \"static\"\nfields = { a = \"b\" }\n\
        [[source.interceptor]]\ntype = \"extract\"\nfield = \"line\"\nregex = 'id=(?<id>\\d+)'\nrequired = true\n";
    let seen = shaped(config, &["no number"]);
    assert_eq!(seen.records[0].value, b"no number");
    assert_eq!(seen.error(), "the field `line` does not fit the regular expression of `extract`");
    let seen = intercepted("[[source.interceptor]]\ntype = \"host\"\n", &["{\"a\":"]);
    assert_eq!(seen.records[0].value, b"{\"a\":");
    assert!(seen.error().starts_with("the record is not a JSON object"), "{}", seen.error());
}

#[test]
fn routes_multiplex_copy_and_fall_back_to_the_sources_topic() {
    let routes = r#"
[[source.route]]
topic = "archive"
copy = true
[[source.route]]
topic = "errors"
field = "level"
values = ["ERROR", "FATAL"]
[[source.route]]
topic = "shops"
field = "path"
regex = '^/shop/'
"#;
    let lines = [
        r#"{"level":"ERROR","path":"/shop/1"}"#,
        r#"{"level":"INFO","path":"/shop/1"}"#,
        r#"{"n":1}"#,
        "broken",
    ];
    let seen = intercepted(routes, &lines);
    assert_eq!(seen.topics(), ["archive", "errors", "archive", "shops", "t", "archive", "t"]);
    assert_eq!(seen.records[6].value, b"broken", "what cannot be looked into goes to the source's topic");
    assert!(seen.records[6].headers.contains_key(ERROR_HEADER));
    let by_header = "[[source.route]]\ntopic = \"apps\"\nheader = \"file\"\nvalues = [\"app.log\"]\n";
    assert_eq!(intercepted(by_header, &["not looked into"]).topics(), ["apps"]);
}

#[test]
fn a_sample_is_the_share_that_was_asked_for_and_the_same_each_time() {
    let lines: Vec<String> = (0..2000).map(|n| format!("{{\"n\":{n}}}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sample = "[[source.interceptor]]\ntype = \"sample\"\nshare = 0.25\n";
    let seen = intercepted(sample, &lines);
    assert_eq!(seen.records.len() as u64 + seen.dropped, 2000);
    assert!((400..600).contains(&seen.records.len()), "{}", seen.records.len());
    assert_eq!(seen.values(), intercepted(sample, &lines).values());
    let route = "[[source.route]]\ntopic = \"some\"\nsample = 0.25\ncopy = true\n";
    let seen = intercepted(route, &lines);
    let copies = seen.topics().iter().filter(|topic| **topic == "some").count();
    assert!((400..600).contains(&copies), "{copies}");
    assert_eq!(seen.topics().len() - copies, 2000, "every record goes to the source's topic");
}
