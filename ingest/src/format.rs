//! Formats that take a line apart into fields.
//!
//! *Why here*: as with CSV, a line becomes a JSON object of strings when it is read, because only its source knows how it
//! is written; what the strings mean is for the tables to say. Times are the one exception: `22/Nov/2026:10:00:00 +0100` is
//! written as `2026-11-22T10:00:00+01:00`, the same instant and the same offset, for no table could know every way to
//! write a time.
//!
//! | format | by | a line that does not fit says |
//! |---|---|---|
//! | `regex`, `grok` | the regex crate, compiled once ([`tarn_model::grok`]) | that it does not, or which number is none |
//! | `common`, `combined` | hand ([`access`]), for these are the large ones | which field is missing or malformed |
//! | `logfmt` | hand ([`logfmt`]) | at which character |
//! | `syslog` | hand ([`syslog`]): RFC 3164 and RFC 5424, told apart by the version after the priority | what is missing |
//!
//! *Not here*: JSON lines, which pass as they are; CSV, whose rows may span lines (`rows`); Avro and Parquet (`columnar`).

use std::collections::BTreeMap;

use regex::{CaptureLocations, Regex};
use tarn_model::config::{FileFormat, LineConfig};
use tarn_model::grok::{self, FieldType};
use tarn_model::{Error, Result};

use crate::fields::Fields;

mod access;
mod logfmt;
pub(crate) mod syslog;
mod time;

/// A format, ready to be applied.
#[derive(Debug)]
pub(crate) struct Format {
    parser: Parser,
    raw_field: Option<String>,
}

#[derive(Debug)]
enum Parser {
    Groups(Box<Groups>),
    Access { combined: bool },
    Logfmt,
    Syslog,
}

/// A regular expression whose named groups are fields.
#[derive(Debug)]
pub(crate) struct Groups {
    regex: Regex,
    /// The named groups.
    names: Vec<Group>,
    /// Whether several groups are one field.
    repeats: bool,
    found: CaptureLocations,
}

/// A group of a regular expression, and the field that it is.
#[derive(Debug)]
struct Group {
    number: usize,
    field: String,
    field_type: FieldType,
}

impl Groups {
    pub(crate) fn new(regex: &str) -> Result<Groups> {
        Groups::with_fields(regex, &BTreeMap::new())
    }

    /// Groups that are not called as their fields are, are in `fields`.
    fn with_fields(regex: &str, fields: &BTreeMap<String, (String, FieldType)>) -> Result<Groups> {
        let regex = Regex::new(regex)
            .map_err(|error| Error::invalid("`regex` is no regular expression").with_source(error))?;
        let named = regex.capture_names().enumerate().filter_map(|(number, name)| {
            let name = name?;
            let known = fields.get(name).cloned();
            let (field, field_type) = known.unwrap_or_else(|| (name.to_owned(), FieldType::Text));
            Some(Group { number, field, field_type })
        });
        let names: Vec<Group> = named.collect();
        let repeats = names
            .iter()
            .enumerate()
            .any(|(i, group)| names[i + 1..].iter().any(|other| other.field == group.field));
        Ok(Groups { names, repeats, found: regex.capture_locations(), regex })
    }

    /// Shows each named group that took part to `take`. `false`: `text` does not fit.
    pub(crate) fn each(&mut self, text: &str, mut take: impl FnMut(&str, &str)) -> bool {
        if self.regex.captures_read(&mut self.found, text).is_none() {
            return false;
        }
        for group in &self.names {
            if let Some((from, to)) = self.found.get(group.number) {
                take(&group.field, &text[from..to]);
            }
        }
        true
    }

    /// The fields of `line`; of several of one name the last that took part.
    fn parse(&mut self, line: &str, fields: &mut Fields) -> std::result::Result<(), String> {
        if self.regex.captures_read(&mut self.found, line).is_none() {
            return Err("does not fit the regular expression".into());
        }
        for Group { number, field, field_type } in &self.names {
            let Some((from, to)) = self.found.get(*number) else { continue };
            let text = &line[from..to];
            if self.repeats && fields.has(field) {
                fields.retain(|name| name != field);
            }
            match field_type {
                FieldType::Text => fields.push(field, text),
                FieldType::Int => match text.parse::<i64>() {
                    Ok(number) => fields.push_json(field, itoa::Buffer::new().format(number)),
                    Err(_) => return Err(format!("has no whole number for `{field}`: `{text}`")),
                },
                FieldType::Float => match text.parse::<f64>().ok().filter(|number| number.is_finite()) {
                    Some(number) => fields.push_json(field, &number.to_string()),
                    None => return Err(format!("has no number for `{field}`: `{text}`")),
                },
            }
        }
        Ok(())
    }
}

impl Format {
    /// `None` for formats whose lines pass as they are.
    pub(crate) fn new(format: FileFormat, lines: &LineConfig) -> Result<Option<Format>> {
        let parser = match format {
            FileFormat::Csv
            | FileFormat::Ndjson
            | FileFormat::Lines
            | FileFormat::Avro
            | FileFormat::Parquet => return Ok(None),
            FileFormat::Regex => {
                let regex = lines.regex.as_deref();
                let regex = regex.ok_or_else(|| Error::invalid("`format = \"regex\"` needs `regex`"))?;
                Parser::Groups(Box::new(Groups::new(regex)?))
            }
            FileFormat::Grok => {
                let pattern = lines.grok.as_deref();
                let pattern = pattern.ok_or_else(|| Error::invalid("`format = \"grok\"` needs `grok`"))?;
                let grok = grok::compile(pattern, &lines.patterns)
                    .map_err(|error| Error::invalid(format!("`grok` is no pattern: {error}")))?;
                Parser::Groups(Box::new(Groups::with_fields(&grok.regex, &grok.fields)?))
            }
            FileFormat::Common => Parser::Access { combined: false },
            FileFormat::Combined => Parser::Access { combined: true },
            FileFormat::Logfmt => Parser::Logfmt,
            FileFormat::Syslog => Parser::Syslog,
        };
        Ok(Some(Format { parser, raw_field: lines.raw_field.clone() }))
    }

    /// Takes `line` apart; the error says why it does not fit. `now_ms` is when it was read.
    pub(crate) fn parse(
        &mut self,
        line: &str,
        now_ms: i64,
        fields: &mut Fields,
    ) -> std::result::Result<(), String> {
        fields.clear();
        match &mut self.parser {
            Parser::Groups(groups) => groups.parse(line, fields)?,
            Parser::Access { combined } => access::parse(line, *combined, fields)?,
            Parser::Logfmt => logfmt::parse(line, fields)?,
            Parser::Syslog => syslog::parse(line, now_ms, fields)?,
        }
        if let Some(name) = &self.raw_field {
            fields.set(name, line);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
