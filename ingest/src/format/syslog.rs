//! Syslog messages: RFC 5424, and what RFC 3164 found in use.
//!
//! ```text
//! <34>1 2026-11-22T10:00:00.003Z host app pid msgid [id key="value"] message        RFC 5424
//! <34>Nov 22 10:00:00 host app[pid]: message                                         RFC 3164
//! Nov 22 10:00:00 host app[pid]: message                                             the same, in a file
//! 2026-11-22T10:00:00.003456+01:00 host app[pid]: message                            as rsyslog writes files
//! <13>message                                                                        as some devices send
//! ```
//! Fields that a message lacks (`-` in RFC 5424) are left out. `time` of RFC 3164 has no year and no zone: it is the year
//! in which the time is not more than a day after the message was read, and the table's `timezone` says the zone.

use chrono::{DateTime, Datelike, NaiveDate};

use super::access::head;
use super::time;
use crate::fields::Fields;
use crate::json;

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// How far a clock may be ahead of ours.
const AHEAD_MS: i64 = 24 * 3600 * 1000;

/// Takes `line` apart; `now_ms` is when it was read.
pub(crate) fn parse(line: &str, now_ms: i64, fields: &mut Fields) -> Result<(), String> {
    let line = line.trim_end_matches(['\0', '\r', '\n']);
    let (has_priority, rest) = match line.strip_prefix('<') {
        Some(after) => (true, priority(after, fields)?),
        None => (false, line),
    };
    if has_priority && let Some(rest) = rest.strip_prefix("1 ") {
        return structured(rest, fields);
    }
    match date(rest, now_ms, fields)? {
        Some(rest) => {
            let (host, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            if !host.is_empty() {
                fields.push("host", host);
            }
            tagged(rest, fields);
        }
        None if has_priority => fields.push("message", rest),
        None => return Err("begins neither with a priority `<n>` nor with a time".into()),
    }
    Ok(())
}

/// `34>`: the priority, and what is in it.
fn priority<'a>(text: &'a str, fields: &mut Fields) -> Result<&'a str, String> {
    let wrong = || format!("has no priority of 0 to 191 in `<>`: `<{}`", head(text));
    let (number, rest) = text.split_once('>').ok_or_else(wrong)?;
    let priority =
        time::digits(number.as_bytes(), 191).filter(|_| number.len() <= 3).ok_or_else(wrong)? as usize;
    fields.push("priority", number);
    fields.push("facility", FACILITIES[priority / 8]);
    fields.push("severity", SEVERITIES[priority % 8]);
    Ok(rest)
}

/// The time at the start of `text`, if one is there, and what comes after it.
fn date<'a>(text: &'a str, now_ms: i64, fields: &mut Fields) -> Result<Option<&'a str>, String> {
    let bytes = text.as_bytes();
    if bytes.len() >= 15 && bytes[3] == b' ' && bytes[6] == b' ' && time::is_clock(&bytes[7..15]) {
        let Some(month) = time::month(&bytes[..3]) else { return Ok(None) };
        let day = if bytes[4] == b' ' { &bytes[5..6] } else { &bytes[4..6] };
        let Some(day) = time::digits(day, 31) else { return Ok(None) };
        let year =
            year_of(u32::from(month), day, now_ms).ok_or_else(|| format!("has no day `{}`", &text[..6]))?;
        fields.push_with("time", |out| {
            out.push_str(itoa::Buffer::new().format(year));
            out.push('-');
            time::push_two(out, u32::from(month));
            out.push('-');
            time::push_two(out, day);
            out.push('T');
            out.push_str(&text[7..15]);
        });
        let rest = &text[15..];
        return Ok(Some(rest.strip_prefix(' ').unwrap_or(rest)));
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if is_rfc3339(word) {
        fields.push("time", word);
        return Ok(Some(rest));
    }
    Ok(None)
}

/// The latest year in which the day is there and not more than a day ahead.
fn year_of(month: u32, day: u32, now_ms: i64) -> Option<i32> {
    let latest = DateTime::from_timestamp_millis(now_ms.saturating_add(AHEAD_MS))?.date_naive();
    // A 29 February is at most eight years back.
    (0..9)
        .map(|back| latest.year() - back)
        .find(|year| NaiveDate::from_ymd_opt(*year, month, day).is_some_and(|date| date <= latest))
}

fn is_rfc3339(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[10] == b'T'
        && time::digits(&bytes[..4], 9999).is_some()
        && time::is_clock(&bytes[11..19])
}

/// `app[pid]: message`; a text without a tag is all message.
fn tagged(text: &str, fields: &mut Fields) {
    let end = text.find([' ', ':', '[']).unwrap_or(text.len());
    let (app, rest) = text.split_at(end);
    if !app.is_empty() {
        if let Some(rest) = rest.strip_prefix(':') {
            fields.push("app", app);
            fields.push("message", rest.strip_prefix(' ').unwrap_or(rest));
            return;
        }
        if let Some((pid, rest)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            && !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && (rest.is_empty() || rest.starts_with([':', ' ']))
        {
            fields.push("app", app);
            fields.push("pid", pid);
            let rest = rest.strip_prefix(':').unwrap_or(rest);
            fields.push("message", rest.strip_prefix(' ').unwrap_or(rest));
            return;
        }
    }
    fields.push("message", text);
}

/// What stands behind the version in RFC 5424.
fn structured(text: &str, fields: &mut Fields) -> Result<(), String> {
    let mut rest = text;
    for name in ["time", "host", "app", "pid", "msgid"] {
        let (word, after) =
            rest.split_once(' ').ok_or_else(|| format!("ends before the structured data, at `{name}`"))?;
        if word.is_empty() {
            return Err(format!("has nothing where `{name}` should be"));
        }
        if name == "time" && word != "-" && !is_rfc3339(word) {
            return Err(format!("has the time `{}`, not one of RFC 3339", head(word)));
        }
        if word != "-" {
            fields.push(name, word);
        }
        rest = after;
    }
    let rest = match rest.strip_prefix('-') {
        Some(rest) => rest,
        None => {
            let mut data = Vec::new();
            let rest = elements(rest, &mut data)?;
            fields.push_json("data", &String::from_utf8_lossy(&data));
            rest
        }
    };
    match rest.strip_prefix(' ') {
        Some(message) => fields.push("message", message.strip_prefix('\u{feff}').unwrap_or(message)),
        None if rest.is_empty() => {}
        None => return Err(format!("has no space behind its structured data: `{}`", head(rest))),
    }
    Ok(())
}

/// `[id key="value" ...][id ...]` as `{"id":{"key":"value"}}`, in `out`; values of a key that stands several times are a list.
fn elements<'a>(text: &'a str, out: &mut Vec<u8>) -> Result<&'a str, String> {
    let mut rest = text;
    out.push(b'{');
    if !rest.starts_with('[') {
        return Err(format!("has `{}` where structured data should be", head(rest)));
    }
    while let Some(element) = rest.strip_prefix('[') {
        let end = element.find([' ', ']']).ok_or("has structured data without an end")?;
        if end == 0 {
            return Err("has structured data without a name".into());
        }
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_string(out, &element[..end]);
        out.extend_from_slice(b":{");
        let mut parameters: Vec<(&str, Vec<String>)> = Vec::new();
        rest = &element[end..];
        while let Some(parameter) = rest.strip_prefix(' ') {
            let (name, after) = parameter.split_once("=\"").ok_or("has structured data without `=\"`")?;
            let (value, after) = value(after).ok_or("has structured data without a closing quote")?;
            match parameters.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => parameters.push((name, vec![value])),
            }
            rest = after;
        }
        for (i, (name, values)) in parameters.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            json::write_string(out, name);
            out.push(b':');
            if let [only] = values.as_slice() {
                json::write_string(out, only);
                continue;
            }
            for (i, value) in values.iter().enumerate() {
                out.push(if i == 0 { b'[' } else { b',' });
                json::write_string(out, value);
            }
            out.push(b']');
        }
        out.push(b'}');
        rest = rest.strip_prefix(']').ok_or("has structured data without a `]`")?;
    }
    out.push(b'}');
    Ok(rest)
}

/// A value up to its closing quote; `\"`, `\\` and `\]` are what they stand for.
fn value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.peek() {
                Some((_, next @ ('"' | '\\' | ']'))) => {
                    value.push(*next);
                    chars.next();
                }
                _ => value.push(c),
            },
            _ => value.push(c),
        }
    }
    None
}
