use std::time::Instant;

use serde_json::{Value, json};

use super::*;

/// 2026-11-22T12:00:00Z.
const NOW_MS: i64 = 1_795_348_800_000;

fn format(format: FileFormat, regex: Option<&str>) -> Format {
    let lines = LineConfig { regex: regex.map(str::to_owned), ..LineConfig::default() };
    Format::new(format, &lines).unwrap().unwrap()
}

fn parsed(format: &mut Format, line: &str) -> std::result::Result<Value, String> {
    let mut fields = Fields::default();
    format.parse(line, NOW_MS, &mut fields)?;
    let mut out = Vec::new();
    fields.write(&mut out);
    Ok(serde_json::from_slice(&out).unwrap())
}

#[track_caller]
fn refused(format: &mut Format, line: &str, why: &str) {
    let told = parsed(format, line).expect_err(line);
    assert!(told.contains(why), "`{line}`: {told}");
}

#[test]
fn named_groups_that_took_part_are_the_fields() {
    let mut format =
        format(FileFormat::Regex, Some(r"^(?<level>\w+):(?: \[(?<thread>\w+)\])? (?<message>.*)$"));
    let fields = json!({"level": "WARN", "thread": "main", "message": "lost \"it\" ä"});
    assert_eq!(parsed(&mut format, "WARN: [main] lost \"it\" ä").unwrap(), fields);
    assert_eq!(parsed(&mut format, "INFO: up").unwrap(), json!({"level": "INFO", "message": "up"}));
    refused(&mut format, "nothing here", "does not fit");
}

#[test]
fn the_parts_of_a_grok_pattern_are_the_fields_numbers_as_numbers() {
    let lines = LineConfig {
        grok: Some(r"^%{TIMESTAMP_ISO8601:time} %{LOGLEVEL:level} (?:%{ID:what}|%{IP:what}) %{INT:n:int} %{NUMBER:ms:float}(?<rest>.*)$".into()),
        patterns: std::collections::BTreeMap::from([("ID".into(), r"A-%{INT}".into())]),
        ..LineConfig::default()
    };
    let mut format = Format::new(FileFormat::Grok, &lines).unwrap().unwrap();
    assert_eq!(
        parsed(&mut format, "2026-11-22T10:00:00Z warn A-7 +42 1.50e1 ms").unwrap(),
        json!({"time": "2026-11-22T10:00:00Z", "level": "warn", "what": "A-7", "n": 42, "ms": 15, "rest": " ms"})
    );
    assert_eq!(parsed(&mut format, "2026-11-22 10:00:00 INFO ::1 -0 .5").unwrap()["what"], "::1");
    refused(
        &mut format,
        "2026-11-22 10:00:00 INFO ::1 99999999999999999999 1",
        "has no whole number for `n`",
    );
    refused(&mut format, "nothing here", "does not fit");
}

#[test]
fn the_line_itself_can_be_a_field_too() {
    let lines = LineConfig { raw_field: Some("line".into()), ..LineConfig::default() };
    let mut format = Format::new(FileFormat::Logfmt, &lines).unwrap().unwrap();
    assert_eq!(parsed(&mut format, "a=1  b").unwrap(), json!({"a": "1", "b": "true", "line": "a=1  b"}));
}

const COMBINED: &str = r#"203.0.113.9 - ada [22/Nov/2026:10:00:00 +0100] "GET /a?b=1 HTTP/1.1" 200 512 "https://x.org/" "curl/8.5 \"q\"""#;

#[test]
fn an_access_log_has_its_fields_with_the_time_in_rfc_3339() {
    let mut combined = format(FileFormat::Combined, None);
    assert_eq!(
        parsed(&mut combined, COMBINED).unwrap(),
        json!({"host": "203.0.113.9", "ident": null, "user": "ada", "time": "2026-11-22T10:00:00+01:00",
            "request": "GET /a?b=1 HTTP/1.1", "method": "GET", "path": "/a?b=1", "protocol": "HTTP/1.1",
            "status": "200", "size": "512", "referer": "https://x.org/", "agent": "curl/8.5 \"q\""})
    );
    let odd = r#"::1 - a b [01/Jan/2026:00:00:59 -0330] "\x16\x03" 400 - "-" "-""#;
    let fields = parsed(&mut combined, odd).unwrap();
    assert_eq!(
        (&fields["user"], &fields["request"], &fields["method"]),
        (&json!("a b"), &json!("\\x16\\x03"), &Value::Null)
    );
    assert_eq!(
        (&fields["size"], &fields["agent"], &fields["time"]),
        (&Value::Null, &Value::Null, &json!("2026-01-01T00:00:59-03:30"))
    );
    let mut common = format(FileFormat::Common, None);
    let fields = parsed(&mut common, r#"h - - [22/Nov/2026:10:00:00 +0000] "GET / HTTP/1.0" 304 0"#).unwrap();
    assert_eq!((&fields["status"], &fields["protocol"]), (&json!("304"), &json!("HTTP/1.0")));
}

#[test]
fn an_access_log_line_that_does_not_fit_says_where() {
    let mut combined = format(FileFormat::Combined, None);
    refused(&mut combined, "", "`host`");
    refused(&mut combined, "1.1.1.1 - -", "`user`");
    refused(&mut combined, &COMBINED.replace("22/Nov", "32/Nov"), "32/Nov/2026");
    refused(&mut combined, &COMBINED.replace("Nov", "Nev"), "the time");
    refused(&mut combined, &COMBINED.replace(" 200 ", " ok "), "`status`");
    refused(&mut combined, &COMBINED.replace("\"https://x.org/\"", "x"), "`referer`");
    refused(&mut combined, &COMBINED[..COMBINED.len() - 1], "`agent`");
    refused(&mut combined, &format!("{COMBINED} more"), "more");
    refused(&mut format(FileFormat::Common, None), COMBINED, "behind its last field");
}

#[test]
fn logfmt_takes_pairs_quotes_and_keys_alone() {
    let mut logfmt = format(FileFormat::Logfmt, None);
    let line = r#"level=info msg="it is \"up\"\n" empty= ready dur=1.5ms path=/a=b"#;
    let fields = json!({"level": "info", "msg": "it is \"up\"\n", "empty": "", "ready": "true", "dur": "1.5ms", "path": "/a=b"});
    assert_eq!(parsed(&mut logfmt, line).unwrap(), fields);
    refused(&mut logfmt, "plain words only", "no `key=value`");
    refused(&mut logfmt, "a=1 =2", "at character 5");
    refused(&mut logfmt, r#"a="open"#, "closing quote");
    refused(&mut logfmt, r#"a="open\"#, "closing quote");
    refused(&mut logfmt, r#"a="x"y b=1"#, "behind the closing quote");
}

#[test]
fn syslog_of_both_rfcs_and_of_files() {
    let mut syslog = format(FileFormat::Syslog, None);
    assert_eq!(
        parsed(&mut syslog, "<34>Oct 11 22:14:15 mymachine su[77]: 'su root' failed").unwrap(),
        json!({"priority": "34", "facility": "auth", "severity": "crit", "time": "2026-10-11T22:14:15", "host": "mymachine",
            "app": "su", "pid": "77", "message": "'su root' failed"})
    );
    assert_eq!(
        parsed(&mut syslog, "Jun  4 15:16:01 combo sshd(pam_unix)[19939]: check pass; user unknown ")
            .unwrap(),
        json!({"time": "2026-06-04T15:16:01", "host": "combo", "app": "sshd(pam_unix)", "pid": "19939",
            "message": "check pass; user unknown "})
    );
    assert_eq!(
        parsed(&mut syslog, "Jul 27 14:42:00 combo last message repeated 3 times").unwrap(),
        json!({"time": "2026-07-27T14:42:00", "host": "combo", "message": "last message repeated 3 times"})
    );
    let five = r#"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [x@1 iut="3" ip="a" ip="b\]\"\\"][y@2] "#;
    assert_eq!(
        parsed(&mut syslog, &format!("{five}\u{feff}An ä")).unwrap(),
        json!({"priority": "165", "facility": "local4", "severity": "notice", "time": "2003-10-11T22:14:15.003Z",
            "host": "mymachine.example.com", "app": "evntslog", "msgid": "ID47",
            "data": {"x@1": {"iut": "3", "ip": ["a", "b]\"\\"]}, "y@2": {}}, "message": "An ä"})
    );
    let bare = json!({"priority": "0", "facility": "kern", "severity": "emerg"});
    assert_eq!(parsed(&mut syslog, "<0>1 - - - - - -").unwrap(), bare);
    let fields = parsed(&mut syslog, "2026-11-22T10:00:00.5+01:00 h app: m").unwrap();
    assert_eq!((&fields["time"], &fields["app"]), (&json!("2026-11-22T10:00:00.5+01:00"), &json!("app")));
    assert_eq!(parsed(&mut syslog, "<13>hello\0").unwrap()["message"], "hello");
}

#[test]
fn a_syslog_time_without_a_year_lies_in_the_last_twelve_months_and_a_day() {
    let mut syslog = format(FileFormat::Syslog, None);
    for (day, year) in [
        ("Nov 23 11:00:00", 2026),
        ("Nov 24 11:00:00", 2025),
        ("Dec 31 23:59:59", 2025),
        ("Feb 29 00:00:00", 2024),
    ] {
        let time = parsed(&mut syslog, &format!("{day} h a: m")).unwrap()["time"].clone();
        assert!(time.as_str().unwrap().starts_with(&format!("{year}-")), "{day}: {time}");
    }
}

#[test]
fn a_syslog_message_that_does_not_fit_says_why() {
    let mut syslog = format(FileFormat::Syslog, None);
    refused(&mut syslog, "hello", "neither");
    refused(&mut syslog, "<192>x", "0 to 191");
    refused(&mut syslog, "<1x>x", "0 to 191");
    refused(&mut syslog, "Feb 30 10:00:00 h a: m", "no day `Feb 30`");
    refused(&mut syslog, "<34>1 yesterday h a - - - m", "RFC 3339");
    refused(&mut syslog, "<34>1 - h a", "ends before");
    refused(&mut syslog, "<34>1 - h a - - [x k=\"v] m", "closing quote");
    refused(&mut syslog, "<34>1 - h a - - nothing m", "structured data");
}

proptest::proptest! {
    #[test]
    fn no_line_makes_a_format_panic(line in "(<[0-9]{1,3}>)?(1 )?[ -~ä\"\\\\\\[\\]=]{0,80}") {
        for kind in [FileFormat::Common, FileFormat::Combined, FileFormat::Logfmt, FileFormat::Syslog] {
            let _ = parsed(&mut format(kind, None), &line);
        }
    }

    #[test]
    fn what_is_written_as_logfmt_reads_back(pairs in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{0,20}"), 1..6)) {
        let line: Vec<String> = pairs.iter().map(|(k, v)| {
            format!("{k}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""))
        }).collect();
        let mut fields = Fields::default();
        format(FileFormat::Logfmt, None).parse(&line.join(" "), NOW_MS, &mut fields).unwrap();
        proptest::prop_assert_eq!(fields.len(), pairs.len());
        let first = &pairs[0];
        proptest::prop_assert_eq!(fields.get(&first.0), Some(first.1.as_str()));
    }
}

/// `cargo test --release -p tarn-ingest speed_of_the_combined_format -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed_of_the_combined_format() {
    const ROWS: u32 = 1_000_000;
    let mut combined = format(FileFormat::Combined, None);
    let pattern = r#"^(?<host>\S+) (?<ident>\S+) (?<user>\S+) \[(?<time>[^\]]+)\] "(?<request>(?<method>\S+) (?<path>\S+) (?<protocol>\S+))" (?<status>\d+) (?<size>\S+) "(?<referer>[^"]*)" "(?<agent>(?:[^"\\]|\\.)*)"$"#;
    let mut regex = format(FileFormat::Regex, Some(pattern));
    let (mut fields, mut out) = (Fields::default(), Vec::new());
    for (name, format) in [("combined", &mut combined), ("regex", &mut regex)] {
        let since = Instant::now();
        for _ in 0..ROWS {
            format.parse(COMBINED, NOW_MS, &mut fields).unwrap();
            out.clear();
            fields.write(&mut out);
        }
        let rate = f64::from(ROWS) / since.elapsed().as_secs_f64();
        println!("{name}: {rate:.0} rows/s, {:.0} MB/s", rate * COMBINED.len() as f64 / 1e6);
    }
}
