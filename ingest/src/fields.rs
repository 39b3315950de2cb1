//! The fields of one record, while formats and interceptors work on them.
//!
//! *Layout*: all texts lie behind one another in one buffer that is used again for each record; a field is two ranges of
//! it. So there is no allocation per field, and none per record once the buffer has grown.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json;

/// Fields in their order.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    text: String,
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
struct Item {
    name: Range<usize>,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Null,
    /// A string.
    Text(Range<usize>),
    /// A number, a truth value, an object or a list, as it is written in JSON.
    Json(Range<usize>),
}

impl Fields {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.items.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    fn keep(&mut self, text: &str) -> Range<usize> {
        let from = self.text.len();
        self.text.push_str(text);
        from..self.text.len()
    }

    /// Adds a string, whether there is such a field or not.
    pub(crate) fn push(&mut self, name: &str, text: &str) {
        let (name, text) = (self.keep(name), self.keep(text));
        self.items.push(Item { name, value: Value::Text(text) });
    }

    /// Adds a string that `write` appends.
    pub(crate) fn push_with(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        let name = self.keep(name);
        let from = self.text.len();
        write(&mut self.text);
        self.items.push(Item { name, value: Value::Text(from..self.text.len()) });
    }

    pub(crate) fn push_null(&mut self, name: &str) {
        let name = self.keep(name);
        self.items.push(Item { name, value: Value::Null });
    }

    /// Adds a value that is written in JSON.
    pub(crate) fn push_json(&mut self, name: &str, json: &str) {
        let (name, json) = (self.keep(name), self.keep(json));
        self.items.push(Item { name, value: Value::Json(json) });
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.items.iter().position(|item| &self.text[item.name.clone()] == name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What a field says: a string's content, another value as it is written; nothing for null and for a field that is not
    /// there. Of several fields of one name the first.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        match &self.items[self.find(name)?].value {
            Value::Null => None,
            Value::Text(text) | Value::Json(text) => Some(&self.text[text.clone()]),
        }
    }

    /// Gives a field a string for a value; adds it when it is not there.
    pub(crate) fn set(&mut self, name: &str, text: &str) {
        match self.find(name) {
            Some(at) => self.items[at].value = Value::Text(self.keep(text)),
            None => self.push(name, text),
        }
    }

    /// Gives a field what `change` makes of its text; nothing happens when there is none.
    pub(crate) fn change(&mut self, name: &str, change: impl FnOnce(&str) -> Option<String>) {
        if let Some(text) = self.get(name)
            && let Some(text) = change(text)
        {
            self.set(name, &text);
        }
    }

    /// Gives each field of `others` the value that it has there; adds those that are not there.
    pub(crate) fn take(&mut self, others: &Fields) {
        for item in &others.items {
            let name = &others.text[item.name.clone()];
            let mut keep = |range: &Range<usize>| self.keep(&others.text[range.clone()]);
            let value = match &item.value {
                Value::Null => Value::Null,
                Value::Text(text) => Value::Text(keep(text)),
                Value::Json(json) => Value::Json(keep(json)),
            };
            match self.find(name) {
                Some(at) => self.items[at].value = value,
                None => {
                    let name = self.keep(name);
                    self.items.push(Item { name, value });
                }
            }
        }
    }

    /// Leaves only fields whose name `wanted` likes.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        let text = &self.text;
        self.items.retain(|item| wanted(&text[item.name.clone()]));
    }

    /// Gives a field another name; one that has that name already goes.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if from == to {
            return;
        }
        let Some(at) = self.find(from) else { return };
        let name = self.keep(to);
        self.items[at].name = name.clone();
        let text = &self.text;
        self.items.retain(|item| item.name == name || &text[item.name.clone()] != to);
    }

    /// Takes the fields of a JSON object.
    pub(crate) fn read(&mut self, object: &[u8]) -> serde_json::Result<()> {
        self.clear();
        let mut parser = serde_json::Deserializer::from_slice(object);
        parser.deserialize_map(Reader(self))?;
        parser.end()
    }

    /// Appends them as a JSON object.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, item) in self.items.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            json::write_string(out, &self.text[item.name.clone()]);
            out.push(b':');
            match &item.value {
                Value::Null => out.extend_from_slice(b"null"),
                Value::Text(text) => json::write_string(out, &self.text[text.clone()]),
                Value::Json(json) => out.extend_from_slice(self.text[json.clone()].as_bytes()),
            }
        }
        out.push(b'}');
    }
}

struct Reader<'f>(&'f mut Fields);

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let raw = map.next_value::<&RawValue>()?.get();
            match raw.as_bytes().first() {
                Some(b'n') => self.0.push_null(&name),
                Some(b'"') if !raw.contains('\\') => self.0.push(&name, &raw[1..raw.len() - 1]),
                // What is no text (half of a surrogate pair) stays as it is written, for the tables to tell.
                Some(b'"') => match serde_json::from_str::<String>(raw) {
                    Ok(text) => self.0.push(&name, &text),
                    Err(_) => self.0.push_json(&name, raw),
                },
                _ => self.0.push_json(&name, raw),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_object_comes_out_as_it_went_in_but_for_space() {
        let mut fields = Fields::default();
        fields
            .read(br#" {"a": 1.50, "b":"x\ty", "c":null, "d":{"e":[1, 2]}, "f":"\ud800", "a":"again"} "#)
            .unwrap();
        let same = r#"{"a":1.50,"b":"x\ty","c":null,"d":{"e":[1, 2]},"f":"\ud800","a":"again"}"#;
        assert_eq!(written(&fields), same);
        assert_eq!((fields.get("a"), fields.get("b"), fields.get("c")), (Some("1.50"), Some("x\ty"), None));
        for broken in ["", "[1]", "{\"a\":1", "{\"a\":1} x", "1"] {
            assert!(fields.read(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn fields_are_set_renamed_and_taken_away_in_place() {
        let mut fields = Fields::default();
        for (name, text) in [("a", "1"), ("b", "2"), ("c", "3")] {
            fields.push(name, text);
        }
        fields.set("b", "two");
        fields.set("d", "4");
        fields.rename("a", "c");
        fields.rename("none", "b");
        assert_eq!(written(&fields), r#"{"c":"1","b":"two","d":"4"}"#);
        fields.retain(|name| name != "b");
        fields.change("d", |text| Some(format!("{text}{text}")));
        let mut others = Fields::default();
        others.read(br#"{"d":4.0,"e":null,"f":"x"}"#).unwrap();
        fields.take(&others);
        assert_eq!(written(&fields), r#"{"c":"1","d":4.0,"e":null,"f":"x"}"#);
        fields.retain(|name| name == "c" || name == "d");
        fields.set("d", "44");
        fields.change("b", |_| Some("not there".into()));
        assert_eq!(written(&fields), r#"{"c":"1","d":"44"}"#);
        assert_eq!(fields.len(), 2);
        fields.clear();
        assert_eq!(written(&fields), "{}");
    }
}
