//! The reference page of the config file, docs/config.md, made from the types' docs.

use std::fmt::Write;

use serde_json::Value;

use super::Config;
use super::shape::{Keys, Shape, Text, Variant};

const HEAD: &str = "\
# The config file

<!-- Made from the docs of the types in model/src/config.rs; `TARN_BLESS=1 cargo test -p tarn-model` writes it anew. -->

One TOML file says what a pipeline is. `tarn check FILE` reports everything that is wrong with it at once, each problem
with line, column and field; `tarn run FILE` runs it. Complete examples are in [configs/](../configs).

- **Unknown keys are errors**, and name the nearest known one.
- **Relative paths** are relative to the config file: `data_dir`, the paths of sources, `sqlite:` and `file:` URLs, and
  `${file:PATH}`.
- **References** may stand in every string: `${NAME}` is an environment variable, `${NAME:-default}` the same with a value
  for when it is unset or empty, `${file:PATH}` the content of a file without its last line break; `$${` is `${` itself.
  Where a number or a truth value is wanted, a string with a reference does too: `partitions = \"${PARTITIONS:-4}\"`. What
  was put in is never shown in messages.
- **Lengths of time** are written `250ms`, `10s`, `5m`, `2h` or `7d`; **sizes** `1024`, `512KiB`, `64MiB`, `1GiB`, or `KB`,
  `MB`, `GB` of 1000.

";

/// The page.
pub fn reference() -> String {
    let Shape::Keys(top) = Shape::of::<Config>() else { unreachable!("a config file is a table") };
    let mut page = HEAD.to_owned();
    let (plain, sections): (Vec<_>, Vec<_>) =
        top.keys.into_iter().partition(|key| matches!(key.shape, Shape::Text(_)));
    page += "## Before the first section\n\n";
    keys(&mut page, &Keys { doc: String::new(), keys: plain });
    // The order in which a reader meets them, not the alphabet's.
    let order = ["log", "lake", "serving", "topic", "source", "table", "import", "view", "dashboard"];
    let mut sections = sections;
    sections.sort_by_key(|key| order.iter().position(|name| *name == key.name));
    for section in &sections {
        let (title, shape) = match &section.shape {
            Shape::List(item) => (format!("[[{}]]", section.name), item.as_ref()),
            shape => (format!("[{}]", section.name), shape),
        };
        _ = writeln!(page, "## `{title}`\n");
        match shape {
            Shape::Keys(keys) => section_of(&mut page, &section.name, keys),
            Shape::Tagged { common, variants } => tagged(&mut page, common, variants),
            _ => unreachable!("a section is a table"),
        }
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// A section's keys, and those of the lists of tables in it under headings of their own.
fn section_of(page: &mut String, name: &str, section: &Keys) {
    doc(page, &section.doc);
    keys(page, section);
    for key in &section.keys {
        if let Shape::List(item) = &key.shape
            && let Shape::Keys(inner) = item.as_ref()
        {
            let name = format!("{name}.{}", key.name);
            _ = writeln!(page, "### `[[{name}]]`\n");
            section_of(page, &name, inner);
        }
    }
}

fn doc(page: &mut String, doc: &str) {
    // The docs begin with the section's own name, which is the heading already.
    let text = match doc.split_once("`: ") {
        Some((name, text)) if name.starts_with("`[") || name.starts_with("`type") => text,
        _ => doc,
    };
    if !text.is_empty() {
        _ = writeln!(page, "{}\n", capital(text));
    }
}

fn tagged(page: &mut String, common: &Keys, variants: &[Variant]) {
    doc(page, &common.doc);
    let types = variants.iter().map(|variant| format!("`{}`", variant.tag)).collect::<Vec<_>>().join(", ");
    _ = writeln!(page, "Every source has `type`, one of {types}, and these keys:\n");
    keys(page, common);
    variants_of(page, variants);
    // Tables within a source, each told once whichever types have it.
    let all = common.keys.iter().chain(variants.iter().flat_map(|variant| variant.own.keys.iter()));
    let mut told: Vec<&str> = Vec::new();
    for key in all {
        if told.contains(&key.name.as_str()) {
            continue;
        }
        match &key.shape {
            Shape::Keys(inner) => {
                _ = writeln!(page, "### `[source.{}]`\n", key.name);
                section_of(page, &format!("source.{}", key.name), inner);
            }
            Shape::List(item) => match item.as_ref() {
                Shape::Keys(inner) => {
                    _ = writeln!(page, "### `[[source.{}]]`\n", key.name);
                    section_of(page, &format!("source.{}", key.name), inner);
                }
                Shape::Tagged { common, variants } => {
                    _ = writeln!(page, "### `[[source.{}]]`\n", key.name);
                    doc(page, &common.doc);
                    page.push_str("Every one has `type`, and the keys of its type.\n\n");
                    variants_of(page, variants);
                }
                _ => continue,
            },
            _ => continue,
        }
        told.push(&key.name);
    }
}

fn variants_of(page: &mut String, variants: &[Variant]) {
    for variant in variants {
        _ = writeln!(page, "### `type = \"{}\"`\n", variant.tag);
        doc(page, &variant.own.doc);
        if variant.own.keys.is_empty() {
            page.push_str("It has no keys of its own.\n\n");
        } else {
            keys(page, &variant.own);
        }
    }
}

fn keys(page: &mut String, keys: &Keys) {
    page.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in &keys.keys {
        let default = match &key.default {
            _ if key.required => "**required**".into(),
            Some(Value::Object(_)) | None => String::new(),
            Some(default) => format!("`{}`", toml_text(default)),
        };
        let meaning = without_default(&key.doc, key.default.as_ref()).replace('|', "\\|");
        _ = writeln!(page, "| `{}` | {} | {default} | {meaning} |", key.name, value(&key.shape));
    }
    page.push('\n');
    for key in &keys.keys {
        if let Shape::Choice(choices) = &key.shape {
            _ = writeln!(page, "`{}` is one of:\n", key.name);
            for choice in choices {
                _ = writeln!(page, "- `{}`: {}", choice.value, choice.doc);
            }
            page.push('\n');
        }
    }
}

fn value(shape: &Shape) -> String {
    match shape {
        Shape::Text(Text::Plain) => "string".into(),
        Shape::Text(Text::Span) => "length of time".into(),
        Shape::Text(Text::Size) => "size".into(),
        Shape::Choice(_) => "see below".into(),
        Shape::Integer { .. } => "whole number".into(),
        Shape::Number => "number".into(),
        Shape::Boolean => "`true` or `false`".into(),
        Shape::List(item) => format!("list of {}s", value(item)),
        Shape::Map(item) => format!("table of {}s", value(item)),
        Shape::Keys(_) | Shape::Tagged { .. } => "table".into(),
        Shape::Either(shapes) => shapes.iter().map(value).collect::<Vec<_>>().join(" or "),
    }
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The doc without the sentence that repeats the default's column.
fn without_default(doc: &str, default: Option<&Value>) -> String {
    match stated_default(doc) {
        Some((sentence, _)) if default.is_some() => {
            doc.replace(sentence, "").replace("  ", " ").trim().to_owned()
        }
        _ => doc.to_owned(),
    }
}

/// `` Default: `x`. `` in a doc: the sentence, and `x`.
fn stated_default(doc: &str) -> Option<(&str, &str)> {
    let start = doc.find("Default: `")?;
    let value = &doc[start + "Default: `".len()..];
    let (value, _) = value.split_once("`.")?;
    let end = start + "Default: `".len() + value.len() + 2;
    Some((&doc[start..end], value))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::shape::Key;

    #[test]
    fn the_page_in_docs_is_the_one_that_the_types_give() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
        let page = reference();
        if std::env::var_os("TARN_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("docs/");
            std::fs::write(&path, &page).expect("docs/config.md");
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == page, "docs/config.md is stale; run `TARN_BLESS=1 cargo test -p tarn-model`");
    }

    #[test]
    fn every_key_has_a_doc_that_states_its_true_default() {
        fn visit(keys: &Keys, seen: &mut usize) {
            for key in &keys.keys {
                check(key);
                *seen += 1;
                match &key.shape {
                    Shape::Keys(inner) => visit(inner, seen),
                    Shape::List(item) => match item.as_ref() {
                        Shape::Keys(inner) => visit(inner, seen),
                        Shape::Tagged { common, variants } => {
                            visit(common, seen);
                            variants.iter().for_each(|variant| visit(&variant.own, seen));
                        }
                        _ => {}
                    },
                    _ => {}
                }
            }
        }
        fn check(key: &Key) {
            assert!(!key.doc.is_empty(), "{} has no doc", key.name);
            let default = match &key.default {
                Some(Value::String(text)) => text.clone(),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                Some(Value::Array(items)) if !items.is_empty() => toml_text(&Value::Array(items.clone())),
                _ => return,
            };
            let stated = stated_default(&key.doc).map(|(_, value)| value);
            assert_eq!(stated, Some(default.as_str()), "the doc of {} states another default", key.name);
        }
        let Shape::Keys(top) = Shape::of::<Config>() else { panic!("a table") };
        let mut seen = 0;
        visit(&top, &mut seen);
        assert!(seen > 50, "only {seen} keys were found");
    }
}
