//! Walks a JSON object: the only place that parses records as JSON.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Failure;

/// Calls `field` with each field of the object `text`: its place in the object, its name, and its value as JSON text
/// without space around it. Stops at the first error. The text has been checked as JSON as far as `field` was called.
pub(super) fn each_field<'a>(
    text: &'a str,
    field: impl FnMut(usize, Cow<'a, str>, &'a str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut failure = None;
    let walked = deserializer.deserialize_map(Object { field, failure: &mut failure });
    match (walked.and_then(|()| deserializer.end()), failure) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(failure)) => Err(failure),
        (Err(error), None) => Err(Failure::record(describe(text, &error))),
    }
}

/// The parser's words, with the place counted in the record: "column" would be taken for a table's.
fn describe(text: &str, error: &serde_json::Error) -> String {
    let full = error.to_string();
    let what = full.rsplit_once(" at line ").map_or(full.as_str(), |(what, _)| what);
    let line_start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let kind = if text.trim_start().starts_with('{') { "valid JSON" } else { "a JSON object" };
    format!("the record is not {kind}: {what} at byte {}", line_start + error.column())
}

struct Object<'f, F> {
    field: F,
    failure: &'f mut Option<Failure>,
}

impl<'de, F> Visitor<'de> for Object<'_, F>
where
    F: FnMut(usize, Cow<'de, str>, &'de str) -> Result<(), Failure>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut nth = 0;
        while let Some(name) = map.next_key_seed(Name)? {
            let value: &'de RawValue = map.next_value()?;
            if let Err(failure) = (self.field)(nth, name, value.get()) {
                *self.failure = Some(failure);
                return Err(A::Error::custom("stopped"));
            }
            nth += 1;
        }
        Ok(())
    }
}

/// A name, borrowed unless it has escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
