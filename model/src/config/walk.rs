//! Walks a parsed TOML file along the types' shape: unknown and missing keys, wrong types, unknown words, references to
//! the environment.
//!
//! What fits is taken over; in place of what does not fit stands something that does, so that the checks of meaning
//! (`check.rs`) can run over the rest and everything is reported at once.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Report, nearest};
use super::replace::{Surroundings, replace};
use super::shape::{Key, Keys, Shape, Text, Variant, one_of};
use super::units::{ByteSize, Span};

/// A config file in the types' shape.
#[derive(Debug)]
pub(super) struct Walked {
    /// The whole file, fit to be deserialised.
    pub(super) value: Value,
    /// Fields whose value came from elsewhere, with the text that the file has: their value is not shown.
    pub(super) replaced: BTreeMap<String, String>,
}

/// Walks `root`, which may be anything, along `shape`.
pub(super) fn walk(
    root: &DeTable<'_>,
    shape: &Shape,
    from: Surroundings<'_>,
    report: &mut Report<'_>,
) -> Walked {
    let top = match shape {
        Shape::Keys(keys) => keys,
        _ => unreachable!("a config file is a table"),
    };
    let mut walker = Walker { top, from, report, replaced: BTreeMap::new() };
    let value = walker.keys(root, 0..0, "", &[top], None);
    Walked { value, replaced: walker.replaced }
}

struct Walker<'a, 'r> {
    top: &'a Keys,
    from: Surroundings<'a>,
    report: &'a mut Report<'r>,
    replaced: BTreeMap<String, String>,
}

impl Walker<'_, '_> {
    fn value(&mut self, value: &Spanned<DeValue<'_>>, shape: &Shape, field: &str) -> Value {
        self.report.place(field, value.span());
        match (shape, value.get_ref()) {
            (Shape::Keys(keys), DeValue::Table(table)) => {
                self.keys(table, value.span(), field, &[keys], None)
            }
            (Shape::Tagged { common, variants }, DeValue::Table(table)) => {
                self.tagged(table, value.span(), field, common, variants)
            }
            (Shape::Map(item), DeValue::Table(table)) => {
                let entries = table.iter().map(|(key, value)| {
                    let name = key.get_ref().to_string();
                    let item = self.value(value, item, &join(field, &name));
                    (name, item)
                });
                Value::Object(entries.collect())
            }
            (Shape::List(item), DeValue::Array(items)) => {
                let items = items
                    .iter()
                    .enumerate()
                    .map(|(i, value)| self.value(value, item, &format!("{field}[{i}]")));
                Value::Array(items.collect())
            }
            (Shape::Either(shapes), found) => match shapes.iter().find(|one| kind_fits(one, found)) {
                Some(one) => self.value(value, one, field),
                None => self.misfit(found, shape, field),
            },
            (_, DeValue::String(text)) => self.text(text, shape, field),
            (Shape::Integer { least, most }, DeValue::Integer(number)) => {
                let digits = number.as_str().replace('_', "");
                match i128::from_str_radix(&digits, number.radix()) {
                    Ok(number) => self.integer(number, *least, *most, field),
                    Err(_) => self.misfit(value.get_ref(), shape, field),
                }
            }
            // `segment_size = 1024` needs no quotes.
            (Shape::Text(Text::Size), DeValue::Integer(number)) if number.radix() == 10 => {
                self.text(&number.as_str().replace('_', ""), shape, field)
            }
            (Shape::Number, DeValue::Float(number)) => self.number(number.as_str(), shape, field),
            (Shape::Number, DeValue::Integer(number)) if number.radix() == 10 => {
                self.number(number.as_str(), shape, field)
            }
            (Shape::Boolean, DeValue::Boolean(flag)) => Value::Bool(*flag),
            (_, found) => self.misfit(found, shape, field),
        }
    }

    /// A table whose keys are all of `known`.
    fn keys(
        &mut self,
        table: &DeTable<'_>,
        header: Range<usize>,
        field: &str,
        known: &[&Keys],
        variants: Option<(&str, &[Variant])>,
    ) -> Value {
        let all = || known.iter().flat_map(|keys| keys.keys.iter());
        let mut out = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let inner = join(field, name);
            if name == "type" && variants.is_some() {
                continue;
            }
            match all().find(|key| key.name == name) {
                Some(known) => _ = out.insert(name.to_owned(), self.value(value, &known.shape, &inner)),
                None => {
                    let message = self.unknown(name, field, all(), variants);
                    self.report.wrong_at(&inner, key.span(), message);
                }
            }
        }
        for key in
            all().filter(|key| key.required && !out.contains_key(&key.name)).cloned().collect::<Vec<_>>()
        {
            let message = format!("this key is missing: {}", key.shape.words());
            self.report.wrong_at(&join(field, &key.name), header.clone(), message);
            out.insert(key.name, key.shape.stand_in());
        }
        Value::Object(out)
    }

    /// A table whose `type` says which keys it has.
    fn tagged(
        &mut self,
        table: &DeTable<'_>,
        header: Range<usize>,
        field: &str,
        common: &Keys,
        variants: &[Variant],
    ) -> Value {
        let tags = || variants.iter().map(|variant| variant.tag.as_str());
        let tag_field = join(field, "type");
        let choice = Shape::Choice(
            tags().map(|tag| super::shape::Choice { value: tag.to_owned(), doc: String::new() }).collect(),
        );
        let tag = match table.get("type") {
            Some(tag) => {
                let chosen = self.value(tag, &choice, &tag_field);
                if self.report.is_wrong(&tag_field) { None } else { chosen.as_str().map(str::to_owned) }
            }
            None => {
                self.report.wrong_at(
                    &tag_field,
                    header.clone(),
                    format!("this key is missing: {}", choice.words()),
                );
                None
            }
        };
        let variant = variants.iter().find(|variant| Some(&variant.tag) == tag.as_ref());
        if let Some(variant) = variant {
            let mut out =
                self.keys(table, header, field, &[common, &variant.own], Some((&variant.tag, variants)));
            out.as_object_mut().map(|keys| keys.insert("type".into(), variant.tag.clone().into()));
            return out;
        }
        // Without a type only the common keys can be judged.
        let mut shown = DeTable::new();
        for (key, value) in table.iter().filter(|(key, _)| common.get(key.get_ref()).is_some()) {
            shown.insert(key.clone(), value.clone());
        }
        let seen = self.keys(&shown, header, field, &[common], None);
        let mut out = Shape::Tagged { common: common.clone(), variants: variants.to_vec() }.stand_in();
        if let (Some(out), Value::Object(seen)) = (out.as_object_mut(), seen) {
            out.extend(seen);
        }
        out
    }

    fn unknown<'k>(
        &self,
        name: &str,
        field: &str,
        known: impl Iterator<Item = &'k Key> + Clone,
        variants: Option<(&str, &[Variant])>,
    ) -> String {
        if let Some((tag, variants)) = variants
            && let Some(other) = variants.iter().find(|variant| variant.own.get(name).is_some())
        {
            let what = if field.contains(".interceptor[") { "interceptors" } else { "sources" };
            return format!("unknown key: `{}` {what} have it, `{tag}` {what} have not", other.tag);
        }
        if let Some(near) = nearest(name, known.clone().map(|key| key.name.as_str())) {
            return format!("unknown key, did you mean `{near}`?");
        }
        if !field.is_empty() && self.top.get(name).is_some() {
            return format!("unknown key here: `{name}` stands before the first `[section]` of the file");
        }
        match known.map(|key| key.name.as_str()).collect::<Vec<_>>().as_slice() {
            [] => "unknown key: none is known here".into(),
            names => {
                format!("unknown key, known are {}", one_of(names.iter().copied()).replace(" or ", " and "))
            }
        }
    }

    fn text(&mut self, text: &str, shape: &Shape, field: &str) -> Value {
        let replacement = match replace(text, self.from) {
            Ok(replacement) => replacement,
            Err(problems) => {
                self.report.wrong(field, problems.join("; "));
                return shape.stand_in();
            }
        };
        let was_replaced = replacement.is_some();
        if was_replaced {
            self.replaced.insert(field.to_owned(), text.to_owned());
        }
        let value = replacement.as_deref().unwrap_or(text);
        let fits = match shape {
            Shape::Text(Text::Plain) => Ok(()),
            Shape::Text(Text::Span) => value.parse::<Span>().map(drop),
            Shape::Text(Text::Size) => value.parse::<ByteSize>().map(drop),
            Shape::Choice(choices) => {
                let values = || choices.iter().map(|choice| choice.value.as_str());
                match nearest(value, values()) {
                    _ if values().any(|known| known == value) => Ok(()),
                    Some(near) => Err(format!("`{value}` is not known, did you mean `{near}`?")),
                    None => Err(format!("`{value}` is not known: write {}", one_of(values()))),
                }
            }
            // Only what comes from elsewhere may be a string where the file itself has none.
            Shape::Integer { least, most } if was_replaced => match value.parse() {
                Ok(number) => return self.integer(number, *least, *most, field),
                Err(_) => Err(String::new()),
            },
            Shape::Number if was_replaced => return self.number(value, shape, field),
            Shape::Boolean if was_replaced => match value {
                "true" | "false" => return Value::Bool(value == "true"),
                _ => Err(String::new()),
            },
            _ => Err(format!("this is a string, but {} is wanted", shape.words())),
        };
        match fits {
            Ok(()) => Value::String(value.to_owned()),
            Err(_) if was_replaced => {
                self.report.wrong(field, format!("what stands for `{text}` is not {}", shape.words()));
                shape.stand_in()
            }
            Err(message) => {
                self.report.wrong(field, message);
                shape.stand_in()
            }
        }
    }

    /// `inf` and `nan`, which TOML knows, are no numbers here.
    fn number(&mut self, text: &str, shape: &Shape, field: &str) -> Value {
        let number = text.replace('_', "").parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        number.map(Value::Number).unwrap_or_else(|| {
            self.report.wrong(field, format!("this is not {}", shape.words()));
            shape.stand_in()
        })
    }

    fn integer(&mut self, number: i128, least: i128, most: i128, field: &str) -> Value {
        if number < least || number > most {
            self.report.wrong(field, format!("this number is outside {least} to {most}"));
        }
        match (i64::try_from(number.clamp(least, most)), u64::try_from(number)) {
            (Ok(number), _) => Value::from(number),
            (Err(_), Ok(number)) => Value::from(number),
            (Err(_), Err(_)) => Value::from(0),
        }
    }

    fn misfit(&mut self, found: &DeValue<'_>, shape: &Shape, field: &str) -> Value {
        let name = field.rsplit('.').next().unwrap_or(field);
        let message = match (shape, found) {
            (Shape::List(_), DeValue::Table(_)) => {
                format!(
                    "this is one table, but there can be several: write `[[{name}]]` instead of `[{name}]`"
                )
            }
            (Shape::Keys(_), DeValue::Array(_)) => {
                format!("there is only one `{name}`: write `[{name}]` instead of `[[{name}]]`")
            }
            _ => format!("this is {}, but {} is wanted", found_words(found), shape.words()),
        };
        self.report.wrong(field, message);
        shape.stand_in()
    }
}

fn kind_fits(shape: &Shape, found: &DeValue<'_>) -> bool {
    match shape {
        Shape::Keys(_) | Shape::Tagged { .. } | Shape::Map(_) => found.is_table(),
        Shape::List(_) => found.is_array(),
        Shape::Text(_) | Shape::Choice(_) => found.is_str(),
        Shape::Integer { .. } => found.is_integer(),
        Shape::Number => found.is_integer() || found.is_float(),
        Shape::Boolean => found.is_bool(),
        Shape::Either(shapes) => shapes.iter().any(|shape| kind_fits(shape, found)),
    }
}

fn found_words(found: &DeValue<'_>) -> &'static str {
    match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn join(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}
