//! The little JSON that collectors write and look into themselves.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Appends `text` as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Appends a whole number.
pub(crate) fn write_int(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The text of the field `name` of a JSON object: a string's content, another value as it is written, nothing for
/// `null` or when there is no such field. The rest of the object is checked but not built.
pub(crate) fn field<'a>(object: &'a [u8], name: &str) -> serde_json::Result<Option<Cow<'a, str>>> {
    let mut parser = serde_json::Deserializer::from_slice(object);
    let found = Field(name).deserialize(&mut parser)?;
    parser.end()?;
    found.map(text_of).transpose().map(Option::flatten)
}

fn text_of(raw: &RawValue) -> serde_json::Result<Option<Cow<'_, str>>> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => {
            let inner = &text[1..text.len() - 1];
            if inner.contains('\\') {
                serde_json::from_str(text).map(|t| Some(Cow::Owned(t)))
            } else {
                Ok(Some(inner.into()))
            }
        }
        Some(b'n') => Ok(None),
        _ => Ok(Some(text.into())),
    }
}

/// Finds one field of an object; the last one wins when it stands twice, as it does for the tables.
struct Field<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(self.0))? {
            if is_it {
                found = Some(map.next_value::<&RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Compares a field's name without allocating.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_the_text_of_its_field() {
        for (object, key) in [
            (r#"{"a":1,"k":"x"}"#, Some("x")),
            (r#"{"k":"tab\there"}"#, Some("tab\there")),
            (r#"{"k":12.50}"#, Some("12.50")),
            (r#"{"k":null}"#, None),
            (r#"{"a":{"k":1}}"#, None),
            (r#" {"k":"old","k":"new"} "#, Some("new")),
            (r#"{"k":[1, 2]}"#, Some("[1, 2]")),
        ] {
            assert_eq!(field(object.as_bytes(), "k").expect(object).as_deref(), key, "{object}");
        }
        for broken in [r#"{"k":1"#, "[1]", "1", "", r#"{"k":1} x"#] {
            assert!(field(broken.as_bytes(), "k").is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn a_written_string_reads_back(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
