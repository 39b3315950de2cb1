//! What is done to the fields of each record, one interceptor after another.
//!
//! An interceptor that cannot do its work (a time that is none) makes the record a dead letter, with the bytes that came.
//! One that finds nothing to work on (no such field) lets the record pass.

use std::sync::Arc;

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, TimeZone};
use chrono_tz::Tz;
use regex::Regex;
use ring::hmac;
use tarn_model::config::{InterceptorConfig, RecordQuery, TimestampConfig};
use tarn_model::{Error, Result};

use super::{Identity, Place};
use crate::fields::Fields;
use crate::format::Groups;

/// Interceptors in their order.
#[derive(Debug)]
pub(super) struct Chain {
    interceptors: Vec<Interceptor>,
}

#[derive(Debug)]
enum Interceptor {
    Time(Box<Timestamp>),
    /// Sets a field.
    Set {
        field: String,
        text: String,
        overwrite: bool,
    },
    Header {
        header: String,
        field: String,
    },
    Uuid {
        field: String,
        overwrite: bool,
    },
    Keep(Vec<String>),
    Remove(Vec<String>),
    Rename(Vec<(String, String)>),
    Filter {
        field: String,
        regex: Regex,
        drop: bool,
    },
    Extract {
        field: String,
        groups: Box<Groups>,
        required: bool,
    },
    Replace {
        field: String,
        regex: Regex,
        with: String,
    },
    Mask {
        fields: Vec<String>,
        keep_last: usize,
    },
    Hash {
        fields: Vec<String>,
        key: Box<hmac::Key>,
    },
    Sample(f64),
    Sql {
        query: Arc<dyn RecordQuery>,
        /// What it made last.
        out: Vec<u8>,
        made: Fields,
    },
}

impl Chain {
    pub(super) fn new(configs: &[InterceptorConfig]) -> Result<Chain> {
        let mut interceptors = Vec::new();
        for config in configs {
            interceptors.push(match config {
                InterceptorConfig::Timestamp(timestamp) => {
                    Interceptor::Time(Box::new(Timestamp::new(timestamp)?))
                }
                InterceptorConfig::Host(host) => Interceptor::Set {
                    field: host.field.clone(),
                    text: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                    overwrite: host.overwrite,
                },
                InterceptorConfig::Static(fixed) => {
                    interceptors.extend(fixed.fields.iter().map(|(field, text)| Interceptor::Set {
                        field: field.clone(),
                        text: text.clone(),
                        overwrite: fixed.overwrite,
                    }));
                    continue;
                }
                InterceptorConfig::Header(header) => Interceptor::Header {
                    header: header.header.clone(),
                    field: header.field.clone().unwrap_or_else(|| header.header.clone()),
                },
                InterceptorConfig::Uuid(uuid) => {
                    Interceptor::Uuid { field: uuid.field.clone(), overwrite: uuid.overwrite }
                }
                InterceptorConfig::Keep(list) => Interceptor::Keep(list.fields.clone()),
                InterceptorConfig::Remove(list) => Interceptor::Remove(list.fields.clone()),
                InterceptorConfig::Rename(rename) => {
                    Interceptor::Rename(rename.fields.clone().into_iter().collect())
                }
                InterceptorConfig::Filter(filter) => Interceptor::Filter {
                    field: filter.field.clone(),
                    regex: compiled(&filter.regex)?,
                    drop: filter.drop,
                },
                InterceptorConfig::Extract(extract) => Interceptor::Extract {
                    field: extract.field.clone(),
                    groups: Box::new(Groups::new(&extract.regex)?),
                    required: extract.required,
                },
                InterceptorConfig::Replace(replace) => Interceptor::Replace {
                    field: replace.field.clone(),
                    regex: compiled(&replace.regex)?,
                    with: replace.with.clone(),
                },
                InterceptorConfig::Mask(mask) => Interceptor::Mask {
                    fields: mask.fields.clone(),
                    keep_last: usize::try_from(mask.keep_last).unwrap_or(usize::MAX),
                },
                InterceptorConfig::Hash(hash) => Interceptor::Hash {
                    fields: hash.fields.clone(),
                    key: Box::new(hmac::Key::new(hmac::HMAC_SHA256, hash.secret.reveal().as_bytes())),
                },
                InterceptorConfig::Sample(sample) => Interceptor::Sample(sample.share),
                InterceptorConfig::Sql(sql) => {
                    let query = sql.compiled.get().cloned();
                    let query = query.ok_or_else(|| Error::internal("a query was not compiled"))?;
                    Interceptor::Sql { query, out: Vec::new(), made: Fields::default() }
                }
            });
        }
        Ok(Chain { interceptors })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interceptors.is_empty()
    }

    pub(super) fn needs_fields(&self) -> bool {
        self.interceptors.iter().any(|interceptor| !matches!(interceptor, Interceptor::Sample(_)))
    }

    /// Whether a record stays, for a chain that only samples.
    pub(super) fn samples(&self, identity: &Identity<'_>) -> bool {
        self.interceptors.iter().enumerate().all(|(i, interceptor)| match interceptor {
            Interceptor::Sample(share) => identity.is_in(*share, i as u64 + 1),
            _ => true,
        })
    }

    /// Works on `fields`; the record's time, or `None` when it is dropped. The error says why it is a dead letter.
    pub(super) fn apply(
        &mut self,
        fields: &mut Fields,
        mut timestamp_ms: i64,
        place: &Place<'_>,
        identity: &Identity<'_>,
    ) -> std::result::Result<Option<i64>, String> {
        for (i, interceptor) in self.interceptors.iter_mut().enumerate() {
            match interceptor {
                Interceptor::Time(timestamp) => timestamp_ms = timestamp.of(fields)?.unwrap_or(timestamp_ms),
                Interceptor::Set { field, text, overwrite } => {
                    if *overwrite || !fields.has(field) {
                        fields.set(field, text);
                    }
                }
                Interceptor::Header { header, field } => {
                    if let Some(text) = place.says(header) {
                        fields.set(field, &text);
                    }
                }
                Interceptor::Uuid { field, overwrite } => {
                    if *overwrite || !fields.has(field) {
                        let bytes = identity.hash(0).to_be_bytes();
                        // Version 8: bits of one's own choice.
                        fields.set(field, &uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string());
                    }
                }
                Interceptor::Keep(names) => fields.retain(|name| names.iter().any(|kept| kept == name)),
                Interceptor::Remove(names) => {
                    fields.retain(|name| !names.iter().any(|removed| removed == name))
                }
                Interceptor::Rename(names) => names.iter().for_each(|(from, to)| fields.rename(from, to)),
                Interceptor::Filter { field, regex, drop } => {
                    if fields.get(field).is_some_and(|text| regex.is_match(text)) == *drop {
                        return Ok(None);
                    }
                }
                Interceptor::Extract { field, groups, required } => {
                    let mut found: Vec<(String, String)> = Vec::new();
                    let fits = fields.get(field).is_some_and(|text| {
                        groups.each(text, |name, text| found.push((name.to_owned(), text.to_owned())))
                    });
                    if !fits && *required {
                        return Err(format!(
                            "the field `{field}` does not fit the regular expression of `extract`"
                        ));
                    }
                    for (name, text) in found {
                        fields.set(&name, &text);
                    }
                }
                Interceptor::Replace { field, regex, with } => fields.change(field, |text| {
                    regex.is_match(text).then(|| regex.replace_all(text, with.as_str()).into_owned())
                }),
                Interceptor::Mask { fields: names, keep_last } => {
                    for name in names {
                        fields.change(name, |text| Some(masked(text, *keep_last)));
                    }
                }
                Interceptor::Hash { fields: names, key } => {
                    for name in names {
                        fields.change(name, |text| Some(hashed(text, key)));
                    }
                }
                Interceptor::Sql { query, out, made } => {
                    let texts: Vec<Option<&str>> =
                        query.inputs().iter().map(|name| fields.get(name)).collect();
                    if !query.run(&texts, out).map_err(|what| format!("`sql` failed: {what}"))? {
                        return Ok(None);
                    }
                    made.read(out).map_err(|error| format!("`sql` made no JSON object: {error}"))?;
                    if query.keeps_fields() {
                        fields.take(made);
                    } else {
                        std::mem::swap(fields, made);
                    }
                }
                Interceptor::Sample(share) => {
                    if !identity.is_in(*share, i as u64 + 1) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(timestamp_ms))
    }
}

fn compiled(regex: &str) -> Result<Regex> {
    Regex::new(regex)
        .map_err(|error| Error::invalid("an interceptor has no regular expression").with_source(error))
}

/// Stars, and the last characters if at least as many are stars.
fn masked(text: &str, keep_last: usize) -> String {
    let count = text.chars().count();
    let kept = if keep_last * 2 <= count { keep_last } else { 0 };
    let stars = count - kept;
    "*".repeat(stars).chars().chain(text.chars().skip(stars)).collect()
}

/// The first half of HMAC-SHA-256 in hex.
fn hashed(text: &str, key: &hmac::Key) -> String {
    let tag = hmac::sign(key, text.as_bytes());
    tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// How a field says when.
#[derive(Debug)]
struct Timestamp {
    field: String,
    format: TimeFormat,
    zone: Tz,
}

#[derive(Debug)]
enum TimeFormat {
    Rfc3339,
    /// Units in a second.
    Unix {
        scale: i64,
    },
    Pattern(String),
}

impl Timestamp {
    fn new(config: &TimestampConfig) -> Result<Timestamp> {
        let zone = config.timezone.as_deref().unwrap_or("UTC");
        let zone = zone.parse().map_err(|_| Error::invalid(format!("`timezone` is no zone: `{zone}`")))?;
        let format = match config.format.as_str() {
            "rfc3339" => TimeFormat::Rfc3339,
            "unix" => TimeFormat::Unix { scale: 1 },
            "unix_ms" => TimeFormat::Unix { scale: 1000 },
            pattern => TimeFormat::Pattern(pattern.to_owned()),
        };
        Ok(Timestamp { field: config.field.clone(), format, zone })
    }

    /// Milliseconds since 1970 UTC; nothing when the field says nothing.
    fn of(&self, fields: &Fields) -> std::result::Result<Option<i64>, String> {
        let Some(text) = fields.get(&self.field) else { return Ok(None) };
        let text = text.trim();
        let time =
            match &self.format {
                TimeFormat::Unix { scale } => unix(text, *scale),
                TimeFormat::Rfc3339 => DateTime::parse_from_rfc3339(text)
                    .ok()
                    .or_else(|| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok())
                    .map(|time| time.timestamp_millis())
                    .or_else(|| {
                        let patterns = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
                        let local = patterns.iter().find_map(|p| NaiveDateTime::parse_from_str(text, p).ok());
                        self.in_zone(local.or_else(|| {
                            NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)
                        })?)
                    }),
                TimeFormat::Pattern(pattern) => match DateTime::parse_from_str(text, pattern) {
                    Ok(time) => Some(time.timestamp_millis()),
                    Err(_) => NaiveDateTime::parse_from_str(text, pattern)
                        .ok()
                        .or_else(|| NaiveDate::parse_from_str(text, pattern).ok()?.and_hms_opt(0, 0, 0))
                        .and_then(|local| self.in_zone(local)),
                },
            };
        time.map(Some).ok_or_else(|| {
            let format = match &self.format {
                TimeFormat::Rfc3339 => "rfc3339",
                TimeFormat::Unix { scale: 1 } => "unix",
                TimeFormat::Unix { .. } => "unix_ms",
                TimeFormat::Pattern(pattern) => pattern,
            };
            format!("the field `{}` is no time of the format `{format}`: `{text}`", self.field)
        })
    }

    /// A time that the zone skips, or has twice, is not guessed.
    fn in_zone(&self, local: NaiveDateTime) -> Option<i64> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(time) => Some(time.timestamp_millis()),
            LocalResult::Ambiguous(..) | LocalResult::None => None,
        }
    }
}

/// A number of seconds (or their thousandths), with a fraction or without, in whole milliseconds.
fn unix(text: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms = whole.parse::<i64>().ok()?.checked_mul(1000 / scale)?;
    if scale != 1 {
        return Some(ms);
    }
    let thousandths =
        fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    if whole.starts_with('-') { ms.checked_sub(thousandths) } else { ms.checked_add(thousandths) }
}
