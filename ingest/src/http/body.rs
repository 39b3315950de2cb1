//! Bodies: unpacked within the limit, taken apart into records.

use std::io::Cursor;
use std::sync::Arc;

use memchr::memchr;
use serde_json::value::RawValue;
use tarn_log::TopicInfo;

use super::{HeaderMap, Pushed, Read, Refusal, StatusCode, header};
use crate::json;
use crate::shaper::{Found, Place, Shaper};

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
    Zstd,
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Encoding, Refusal> {
        let Some(name) = headers.get(header::CONTENT_ENCODING) else { return Ok(Encoding::Plain) };
        match name.to_str().map(str::to_ascii_lowercase).as_deref() {
            Ok("identity") => Ok(Encoding::Plain),
            Ok("gzip" | "x-gzip") => Ok(Encoding::Gzip),
            Ok("zstd") => Ok(Encoding::Zstd),
            _ => Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the `Content-Encoding` is not known")
                .with_hint("send the body plain, or as `gzip` or `zstd`")),
        }
    }

    pub(super) fn unpack(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
        let damaged =
            |error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be unpacked: {error}"));
        let reader: Box<dyn Read> = match self {
            Encoding::Plain => Box::new(Cursor::new(bytes)),
            Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(bytes)),
            Encoding::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(bytes).map_err(damaged)?),
        };
        let mut unpacked = Vec::new();
        reader.take(limit as u64 + 1).read_to_end(&mut unpacked).map_err(damaged)?;
        if unpacked.len() > limit {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {limit} bytes when it is unpacked"),
            ));
        }
        Ok(unpacked)
    }
}

/// Pushes every record of a body, or says which line is wrong.
pub(super) fn push_all(
    pushed: &mut Pushed,
    shaper: &mut Shaper,
    topic: &Arc<TopicInfo>,
    key_field: Option<&str>,
    timestamp_ms: i64,
    seed: u128,
    body: &[u8],
) -> Result<(), Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = line_at(body, error.valid_up_to());
        Refusal::new(StatusCode::BAD_REQUEST, format!("line {line} is not valid UTF-8"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut count = 0;
    let mut push = |object: &str, place: &dyn Fn() -> String| {
        // Without a key field the object is only checked: no field has this name's value taken.
        let key = json::field(object.as_bytes(), key_field.unwrap_or_default()).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("{}: {}", place(), without_line(&error)))
                .with_hint("each record is a JSON object; nothing of this request was stored")
        })?;
        let key = key.as_deref().filter(|_| key_field.is_some());
        if object.len() + key.map_or(0, str::len) > topic.max_record_bytes {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{} is larger than the largest record, {} bytes", place(), topic.max_record_bytes),
            )
            .with_hint("raise `log.max_record_size`, or send less in one record"));
        }
        let place = Place { origin: (seed, count), ..Place::default() };
        count += 1;
        let found = Found { key, ..Found::value(object.as_bytes()) };
        shaper.push(pushed, timestamp_ms, &place, &found).map(drop).map_err(|error| super::refusal_of(&error))
    };
    if text.trim_start().starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("line {}: {}", error.line(), without_line(&error)))
                .with_hint("the body is a JSON array of objects; nothing of this request was stored")
        })?;
        for (i, element) in elements.iter().enumerate() {
            push(element.get(), &|| {
                let at = element.get().as_ptr().addr() - text.as_ptr().addr();
                format!("line {}, element {}", line_at(text.as_bytes(), at), i + 1)
            })?;
        }
        return Ok(());
    }
    let (mut rest, mut line) = (text, 0_u64);
    while !rest.is_empty() {
        line += 1;
        let end = memchr(b'\n', rest.as_bytes());
        let (object, after) = match end {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, ""),
        };
        rest = after;
        let object = object.trim_matches([' ', '\t', '\r']);
        if !object.is_empty() {
            push(object, &|| format!("line {line}"))?;
        }
    }
    Ok(())
}

fn line_at(bytes: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &bytes[..at]).count() + 1
}

/// The parser's message; it counts lines within one record, which nobody asked for.
pub(super) fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("{message} at column {}", error.column()),
        None => text,
    }
}
