//! What may stand in a config file, read off the types' JSON schema.
//!
//! *Why*: serde stops at the first problem, knows no lines, and does not mix `flatten` with `deny_unknown_fields`. The
//! same types tell schemars all of it, so the walk over a file (`walk.rs`) and the reference page (`reference.rs`) both
//! follow this shape, and neither can drift from the types.

use schemars::JsonSchema;
use serde_json::{Map, Value};

/// What a value may be.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// A table with these keys.
    Keys(Keys),
    /// A table whose key `type` says which keys it has besides the common ones.
    Tagged { common: Keys, variants: Vec<Variant> },
    /// A table with any keys, all values alike.
    Map(Box<Shape>),
    /// A list, all items alike.
    List(Box<Shape>),
    /// A string.
    Text(Text),
    /// One of these strings.
    Choice(Vec<Choice>),
    /// A whole number in this range.
    Integer { least: i128, most: i128 },
    /// A number, with or without a point.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Any of these.
    Either(Vec<Shape>),
}

/// The keys of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    pub(super) doc: String,
    pub(super) keys: Vec<Key>,
}

/// One key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) required: bool,
    pub(super) default: Option<Value>,
    pub(super) shape: Shape,
}

/// One type of a tagged table.
#[derive(Debug, Clone)]
pub(super) struct Variant {
    pub(super) tag: String,
    pub(super) own: Keys,
}

/// One allowed string.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) doc: String,
}

/// What a string means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Plain,
    Span,
    Size,
}

impl Keys {
    pub(super) fn get(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Shape {
    /// The shape of `T`.
    pub(super) fn of<T: JsonSchema>() -> Shape {
        let root = schemars::schema_for!(T).to_value();
        shape_of(&root, &root)
    }

    /// What it is, in words: "a list of strings".
    pub(super) fn words(&self) -> String {
        match self {
            Shape::Keys(_) | Shape::Tagged { .. } | Shape::Map(_) => "a table".into(),
            Shape::List(item) => match item.words().split_once(' ') {
                Some((_, noun)) => format!("a list of {noun}s"),
                None => "a list".into(),
            },
            Shape::Text(Text::Plain) => "a string".into(),
            Shape::Text(Text::Span) => "a length of time such as \"10s\"".into(),
            Shape::Text(Text::Size) => "a size such as \"64MiB\"".into(),
            Shape::Choice(choices) => one_of(choices.iter().map(|choice| choice.value.as_str())),
            Shape::Integer { .. } => "a whole number".into(),
            Shape::Number => "a number".into(),
            Shape::Boolean => "true or false".into(),
            Shape::Either(shapes) => shapes.iter().map(Shape::words).collect::<Vec<_>>().join(", or "),
        }
    }

    /// A value of this shape, to go on with where the file has none that fits.
    pub(super) fn stand_in(&self) -> Value {
        match self {
            Shape::Keys(keys) => stand_in_of(keys),
            // The variant without keys of its own is the one about which nothing else can be wrong.
            Shape::Tagged { common, variants } => {
                let mut table = stand_in_of(common);
                let plain = variants.iter().min_by_key(|variant| variant.own.keys.len());
                if let (Some(fields), Some(variant)) = (table.as_object_mut(), plain) {
                    fields.insert("type".into(), variant.tag.clone().into());
                }
                table
            }
            Shape::Map(_) => Value::Object(Map::new()),
            Shape::List(_) => Value::Array(Vec::new()),
            Shape::Text(Text::Plain) => "".into(),
            Shape::Text(Text::Span) => "1s".into(),
            Shape::Text(Text::Size) => "1MiB".into(),
            Shape::Choice(choices) => {
                choices.first().map_or(Value::Null, |choice| choice.value.clone().into())
            }
            Shape::Integer { least, .. } => Value::from(i64::try_from((*least).max(1)).unwrap_or(1)),
            Shape::Number => Value::from(0.0),
            Shape::Boolean => Value::Bool(false),
            Shape::Either(shapes) => shapes.first().map_or(Value::Null, Shape::stand_in),
        }
    }
}

/// `` `a`, `b` or `c` ``
pub(super) fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

fn stand_in_of(keys: &Keys) -> Value {
    let required = keys.keys.iter().filter(|key| key.required);
    Value::Object(required.map(|key| (key.name.clone(), key.shape.stand_in())).collect())
}

fn shape_of(schema: &Value, root: &Value) -> Shape {
    let schema = &resolve(schema, root);
    if let Some(alternatives) = alternatives(schema) {
        return shape_of_alternatives(schema, &alternatives, root);
    }
    match type_of(schema) {
        "object" => match schema.get("additionalProperties") {
            Some(items @ Value::Object(_)) => Shape::Map(Box::new(shape_of(items, root))),
            _ => Shape::Keys(keys_of(schema, root)),
        },
        "array" => {
            Shape::List(Box::new(schema.get("items").map_or(Shape::Text(Text::Plain), |s| shape_of(s, root))))
        }
        "integer" => {
            let (least, most) = match schema.get("format").and_then(Value::as_str) {
                Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
                Some("uint" | "uint64") => (0, i128::from(u64::MAX)),
                _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
            };
            Shape::Integer { least, most }
        }
        "number" => Shape::Number,
        "boolean" => Shape::Boolean,
        _ if schema.get("enum").is_some() || schema.get("const").is_some() => {
            Shape::Choice(choices_of(schema))
        }
        _ => Shape::Text(match schema.get("format").and_then(Value::as_str) {
            Some("length of time") => Text::Span,
            Some("size") => Text::Size,
            _ => Text::Plain,
        }),
    }
}

fn shape_of_alternatives(schema: &Value, alternatives: &[Value], root: &Value) -> Shape {
    // `Option<T>` of a referenced or inline T: TOML has no null.
    let kept: Vec<Value> = alternatives.iter().filter(|one| type_of(one) != "null").cloned().collect();
    if let [only] = kept.as_slice() {
        return shape_of(only, root);
    }
    if kept.iter().all(|one| one.get("const").is_some() || one.get("enum").is_some()) {
        return Shape::Choice(kept.iter().flat_map(choices_of).collect());
    }
    let tags: Option<Vec<&str>> =
        kept.iter().map(|one| one.pointer("/properties/type/const")?.as_str()).collect();
    match tags {
        Some(tags) => {
            let variants = tags.iter().zip(&kept).map(|(tag, one)| {
                let mut own = keys_of(&resolve(one, root), root);
                own.keys.retain(|key| key.name != "type");
                own.doc = text(one, "description");
                Variant { tag: (*tag).to_owned(), own }
            });
            Shape::Tagged { variants: variants.collect(), common: keys_of(schema, root) }
        }
        None => Shape::Either(kept.iter().map(|one| shape_of(one, root)).collect()),
    }
}

fn keys_of(schema: &Value, root: &Value) -> Keys {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut keys: Vec<Key> = properties
        .map(|(name, property)| Key {
            name: name.clone(),
            doc: text(property, "description"),
            required: required.contains(&name.as_str()),
            default: property.get("default").filter(|default| !default.is_null()).cloned(),
            shape: shape_of(property, root),
        })
        .collect();
    keys.sort_by_key(|key| !key.required);
    Keys { doc: text(schema, "description"), keys }
}

/// The schema with its `$ref` followed; what stands beside the reference wins, but properties are united.
fn resolve(schema: &Value, root: &Value) -> Value {
    let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return schema.clone() };
    let target = root.pointer(reference.trim_start_matches('#')).cloned().unwrap_or_default();
    let (Value::Object(mut merged), Value::Object(beside)) = (resolve(&target, root), schema.clone()) else {
        return schema.clone();
    };
    for (name, value) in beside {
        match (merged.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (_, value) if name != "$ref" => _ = merged.insert(name, value),
            _ => {}
        }
    }
    Value::Object(merged)
}

fn alternatives(schema: &Value) -> Option<Vec<Value>> {
    schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array().cloned()
}

fn choices_of(schema: &Value) -> Vec<Choice> {
    let doc = text(schema, "description");
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let values = listed.chain(schema.get("const")).filter_map(Value::as_str);
    values.map(|value| Choice { value: value.to_owned(), doc: doc.clone() }).collect()
}

fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(one)) => one,
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).find(|t| *t != "null").unwrap_or("")
        }
        _ => "",
    }
}

/// A doc, its line breaks undone.
fn text(schema: &Value, field: &str) -> String {
    schema.get(field).and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
}
