//! The common and the combined log format of NCSA, Apache and nginx.
//!
//! ```text
//! host ident user [day/month/year:hour:minute:second zone] "request" status size "referer" "agent"
//! ```
//! `-` is null. In quotes, `\"` and `\\` are what they stand for, as Apache writes them; other escapes (`\x16`) stay, for
//! they are bytes that need be no text. A request that is no `METHOD path protocol` has `request` alone.

use std::borrow::Cow;

use memchr::memchr2;

use super::time;
use crate::fields::Fields;

pub(super) fn parse(line: &str, combined: bool, fields: &mut Fields) -> Result<(), String> {
    let line = line.trim_end_matches([' ', '\t', '\r']);
    let mut rest = line;
    for name in ["host", "ident", "user"] {
        let (word, after) = rest.split_once(' ').ok_or_else(|| format!("ends before the field `{name}`"))?;
        if word.is_empty() {
            return Err(format!("has nothing where the field `{name}` should be"));
        }
        // A user's name may hold spaces; the time begins with a bracket.
        let (word, after) = match name {
            "user" if !after.starts_with('[') => {
                let end = rest.find(" [").ok_or("has no `[` where the field `time` should be")?;
                (&rest[..end], &rest[end + 1..])
            }
            _ => (word, after),
        };
        or_null(fields, name, word);
        rest = after;
    }
    let time = rest.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    let (time, after) = time.ok_or("has no `[time]` after the user")?;
    let mut wrong = false;
    fields.push_with("time", |out| wrong = time::write_access(time, out).is_none());
    if wrong {
        return Err(format!("has the time `{time}`, not one like `22/Nov/2026:10:00:00 +0100`"));
    }
    let (request, after) = quoted(after).ok_or("has no request in quotes after the time")?;
    request_of(&request, fields);
    rest = after.strip_prefix(' ').ok_or("ends before the field `status`")?;
    for name in ["status", "size"] {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if word != "-" && (word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(format!("has `{word}` where the number `{name}` should be"));
        }
        or_null(fields, name, word);
        rest = after;
    }
    if combined {
        for name in ["referer", "agent"] {
            let (text, after) = quoted(rest).ok_or_else(|| format!("has no `{name}` in quotes"))?;
            or_null(fields, name, &text);
            rest = after.strip_prefix(' ').unwrap_or(after);
        }
    }
    if !rest.is_empty() {
        return Err(format!("has more behind its last field: `{}`", head(rest)));
    }
    Ok(())
}

fn or_null(fields: &mut Fields, name: &str, text: &str) {
    if text == "-" { fields.push_null(name) } else { fields.push(name, text) }
}

fn request_of(request: &str, fields: &mut Fields) {
    or_null(fields, "request", request);
    let mut parts = request.split(' ');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
    match parts {
        [Some(method), Some(path), Some(protocol), None] if protocol.starts_with("HTTP/") => {
            fields.push("method", method);
            fields.push("path", path);
            fields.push("protocol", protocol);
        }
        _ => ["method", "path", "protocol"].iter().for_each(|name| fields.push_null(name)),
    }
}

/// A text in quotes at the start of `text`, and what comes after it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inner = text.strip_prefix('"')?;
    let bytes = inner.as_bytes();
    let (mut at, mut escaped) = (0, false);
    loop {
        at += memchr2(b'"', b'\\', &bytes[at..])?;
        if bytes[at] == b'"' {
            break;
        }
        escaped |= matches!(bytes.get(at + 1), Some(b'"' | b'\\'));
        at += 2;
        if at > bytes.len() {
            return None;
        }
    }
    let (quoted, after) = (&inner[..at], &inner[at + 1..]);
    if !escaped {
        return Some((Cow::Borrowed(quoted), after));
    }
    let mut plain = String::with_capacity(quoted.len());
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(next @ ('"' | '\\'))) => {
                plain.push(*next);
                chars.next();
            }
            _ => plain.push(c),
        }
    }
    Some((Cow::Owned(plain), after))
}

/// The first characters of a text, for a message.
pub(super) fn head(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(at, _)| &text[..at])
}
