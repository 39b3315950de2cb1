//! Bodies: unpacked within the limit, taken apart into records.

use std::io::{Cursor, Read};
use std::sync::Arc;

use memchr::memchr;
use serde_json::value::RawValue;
use tarn_log::TopicInfo;

use super::{HeaderMap, Pushed, Refusal, StatusCode, form, header};
use crate::json;
use crate::shaper::{Found, Place, Shaper};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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

/// Takes one body apart, record by record.
pub(super) struct Taking<'a> {
    pub(super) pushed: Pushed,
    pub(super) shaper: &'a mut Shaper,
    pub(super) topic: &'a Arc<TopicInfo>,
    pub(super) key_field: Option<&'a str>,
    pub(super) timestamp_ms: i64,
    /// With their number, the origin of its records.
    pub(super) seed: u128,
    pub(super) count: u64,
}

impl Taking<'_> {
    /// NDJSON or a JSON array; or says which line is wrong.
    pub(super) fn objects(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let text = text_of(body)?;
        if text.trim_start().starts_with('[') {
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
                let message = format!("line {}: {}", error.line(), without_line(&error));
                Refusal::new(StatusCode::BAD_REQUEST, message)
                    .with_hint("the body is a JSON array of objects; nothing of this request was stored")
            })?;
            for (i, element) in elements.iter().enumerate() {
                self.object(element.get(), &|| {
                    let at = element.get().as_ptr().addr() - text.as_ptr().addr();
                    format!("line {}, element {}", line_at(text.as_bytes(), at), i + 1)
                })?;
            }
            return Ok(());
        }
        let mut lines = Lines::of(text);
        while let Some(object) = lines.next_filled() {
            let line = lines.number();
            self.object(object, &|| format!("line {line}"))?;
        }
        Ok(())
    }

    /// Lines of the source's format; one that does not fit is a dead letter.
    pub(super) fn lines(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let mut rest = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            self.bytes(line, Some(number))?;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        Ok(())
    }

    /// The body is one record: a JSON object, or in the source's format.
    pub(super) fn whole(&mut self, body: &[u8], is_object: bool) -> Result<(), Refusal> {
        if is_object {
            let text = text_of(body)?.trim();
            return if text.is_empty() { Ok(()) } else { self.object(text, &|| "the body".to_owned()) };
        }
        if body.is_empty() { Ok(()) } else { self.bytes(body, None) }
    }

    /// The fields of a form.
    pub(super) fn form(&mut self, body: &[u8]) -> Result<(), Refusal> {
        match form::object_of(body) {
            Ok(None) => Ok(()),
            Ok(Some(object)) => self.object(&object, &|| "the form".to_owned()),
            Err(what) => Err(Refusal::new(StatusCode::BAD_REQUEST, what)
                .with_hint("the body is `name=value&name=value`, percent-encoded; nothing of it was stored")),
        }
    }

    fn object(&mut self, object: &str, place: &dyn Fn() -> String) -> Result<(), Refusal> {
        // Without a key field the object is only checked: no field has this name's value taken.
        let key = json::field(object.as_bytes(), self.key_field.unwrap_or_default()).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("{}: {}", place(), without_line(&error)))
                .with_hint("each record is a JSON object; nothing of this request was stored")
        })?;
        let key = key.as_deref().filter(|_| self.key_field.is_some());
        self.fits(object.len() + key.map_or(0, str::len), place)?;
        self.push(&Found { key, ..Found::value(object.as_bytes()) }, None)
    }

    fn bytes(&mut self, value: &[u8], line: Option<u64>) -> Result<(), Refusal> {
        self.fits(value.len(), &|| line.map_or("the body".to_owned(), |line| format!("line {line}")))?;
        self.push(&Found::value(value), line)
    }

    fn fits(&self, bytes: usize, place: &dyn Fn() -> String) -> Result<(), Refusal> {
        let most = self.topic.max_record_bytes;
        if bytes <= most {
            return Ok(());
        }
        let message = format!("{} is larger than the largest record, {most} bytes", place());
        Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
            .with_hint("raise `log.max_record_size`, or send less in one record"))
    }

    fn push(&mut self, found: &Found<'_>, line: Option<u64>) -> Result<(), Refusal> {
        let place = Place { line, origin: (self.seed, self.count), ..Place::default() };
        self.count += 1;
        let pushed = self.shaper.push(&mut self.pushed, self.timestamp_ms, &place, found);
        pushed.map(drop).map_err(|error| super::refusal_of(&error))
    }
}

fn text_of(body: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = line_at(body, error.valid_up_to());
        Refusal::new(StatusCode::BAD_REQUEST, format!("line {line} is not valid UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The lines of a body, without spaces around them.
pub(super) struct Lines<'a> {
    rest: &'a str,
    number: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Lines<'a> {
        Lines { rest: text, number: 0 }
    }

    /// The number of the last line, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn next_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let (line, rest) = match memchr(b'\n', self.rest.as_bytes()) {
            Some(at) => (&self.rest[..at], &self.rest[at + 1..]),
            None => (self.rest, ""),
        };
        self.rest = rest;
        Some(line.trim_matches([' ', '\t', '\r']))
    }

    /// The next line that is not blank.
    pub(super) fn next_filled(&mut self) -> Option<&'a str> {
        loop {
            let line = self.next_line()?;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
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
