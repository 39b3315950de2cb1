//! The settings of a session: those that clients set when they begin, each with the values that hold here.
//!
//! *Invariants*: a setting changes nothing but its session; one that would have to change an answer and does not is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use tarn_model::{Error, OffsetVector, Result};

use crate::error::nearest;

/// What PostgreSQL this looks like.
pub(crate) const SERVER_VERSION: &str = "14.0 (Tarn)";

/// Which values a setting takes.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Any,
    /// One of these, whatever the case.
    Only(&'static [&'static str]),
    /// Not to be set.
    Fixed,
    /// A number of milliseconds, or a time with its unit.
    Time,
    /// A date style that begins with this.
    Begins(&'static str),
    /// Schemas of which one is `public`.
    SearchPath,
    Vector,
}

const UTC: &[&str] =
    &["utc", "etc/utc", "gmt", "etc/gmt", "z", "zulu", "universal", "0", "+00", "+00:00", "<+00>+00"];
const LEVELS: &[&str] = &["read uncommitted", "read committed", "repeatable read", "serializable"];

/// By name: the default, and what else it may be.
const KNOWN: &[(&str, &str, Rule)] = &[
    ("application_name", "", Rule::Any),
    ("bytea_output", "hex", Rule::Only(&["hex"])),
    ("client_encoding", "UTF8", Rule::Only(&["utf8", "utf-8", "unicode"])),
    ("client_min_messages", "notice", Rule::Any),
    ("datestyle", "ISO, MDY", Rule::Begins("iso")),
    ("default_table_access_method", "heap", Rule::Fixed),
    ("default_tablespace", "", Rule::Any),
    ("default_transaction_isolation", "read committed", Rule::Only(LEVELS)),
    ("default_transaction_read_only", "on", Rule::Any),
    ("escape_string_warning", "on", Rule::Any),
    ("extra_float_digits", "1", Rule::Any),
    ("idle_in_transaction_session_timeout", "0", Rule::Any),
    ("in_hot_standby", "off", Rule::Fixed),
    ("integer_datetimes", "on", Rule::Fixed),
    ("intervalstyle", "postgres", Rule::Only(&["postgres"])),
    ("is_superuser", "off", Rule::Fixed),
    ("jit", "off", Rule::Any),
    ("lock_timeout", "0", Rule::Any),
    ("max_identifier_length", "63", Rule::Fixed),
    ("max_index_keys", "32", Rule::Fixed),
    ("row_security", "on", Rule::Any),
    ("search_path", "\"$user\", public", Rule::SearchPath),
    ("server_encoding", "UTF8", Rule::Fixed),
    ("server_version", SERVER_VERSION, Rule::Fixed),
    ("server_version_num", "140000", Rule::Fixed),
    ("session_authorization", "", Rule::Fixed),
    ("standard_conforming_strings", "on", Rule::Only(&["on", "true", "1"])),
    ("statement_timeout", "0", Rule::Time),
    ("tarn.as_of", "", Rule::Vector),
    ("tarn.vector", "", Rule::Fixed),
    ("timezone", "UTC", Rule::Only(UTC)),
    ("transaction_isolation", "read committed", Rule::Only(LEVELS)),
    ("transaction_read_only", "on", Rule::Any),
];

/// Those that a client is told at once, and again when they change, spelled as clients know them.
const TOLD: &[(&str, &str)] = &[
    ("application_name", "application_name"),
    ("client_encoding", "client_encoding"),
    ("datestyle", "DateStyle"),
    ("default_transaction_read_only", "default_transaction_read_only"),
    ("in_hot_standby", "in_hot_standby"),
    ("integer_datetimes", "integer_datetimes"),
    ("intervalstyle", "IntervalStyle"),
    ("is_superuser", "is_superuser"),
    ("server_encoding", "server_encoding"),
    ("server_version", "server_version"),
    ("session_authorization", "session_authorization"),
    ("standard_conforming_strings", "standard_conforming_strings"),
    ("timezone", "TimeZone"),
];

/// The settings of one session.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// The defaults, for this user.
    pub(crate) fn new(user: &str) -> Settings {
        let values = KNOWN.iter().map(|(name, default, _)| (*name, (*default).to_owned()));
        let mut settings = Settings { values: values.collect() };
        settings.values.insert("session_authorization", user.to_owned());
        settings
    }

    /// The value of a setting.
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        let value = self.values.get(name.to_lowercase().as_str());
        value.map(String::as_str).ok_or_else(|| unknown(name))
    }

    /// All, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// What a client is told when it begins.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&'static str, &str)> {
        TOLD.iter().map(|(name, spelled)| (*spelled, self.values[name].as_str()))
    }

    /// Sets a setting, or puts it back to its default; gives the name and value that a client is to be told.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) -> Result<Option<(&'static str, String)>> {
        let lower = name.to_lowercase();
        let Some((known, default, rule)) = KNOWN.iter().find(|(known, ..)| *known == lower) else {
            return Err(unknown(name));
        };
        let value = value.unwrap_or(default);
        let value = if value == *default { value.to_owned() } else { accepted(known, *rule, value)? };
        if *known == "session_authorization" {
            return Ok(None);
        }
        self.values.insert(known, value.clone());
        Ok(TOLD.iter().find(|(told, _)| told == known).map(|(_, spelled)| (*spelled, value)))
    }

    /// Keeps what the last statement saw.
    pub(crate) fn saw(&mut self, vector: &OffsetVector) {
        self.values.insert("tarn.vector", vector.to_string());
    }

    /// The time that the client gives a statement.
    pub(crate) fn statement_timeout(&self) -> Option<Duration> {
        self.values
            .get("statement_timeout")
            .and_then(|value| milliseconds(value))
            .filter(|time| !time.is_zero())
    }

    /// The vector at which the client wants to see everything.
    pub(crate) fn as_of(&self) -> Option<OffsetVector> {
        self.values.get("tarn.as_of").filter(|value| !value.is_empty()).and_then(|value| value.parse().ok())
    }
}

fn accepted(name: &str, rule: Rule, value: &str) -> Result<String> {
    let lower = value.trim().to_lowercase();
    let fits = match rule {
        Rule::Any => true,
        Rule::Only(values) => values.contains(&lower.as_str()),
        Rule::Fixed => false,
        Rule::Time => milliseconds(value).is_some(),
        Rule::Begins(begin) => lower.starts_with(begin),
        Rule::SearchPath => {
            let mut schemas = lower.split(',').map(|schema| schema.trim().trim_matches('"'));
            schemas.clone().any(|schema| schema == "public")
                && schemas.all(|schema| matches!(schema, "public" | "$user" | "pg_catalog"))
        }
        Rule::Vector => {
            value.parse::<OffsetVector>()?;
            true
        }
    };
    if !fits {
        let error = Error::invalid(format!("`{name}` cannot be `{value}` here")).with_sqlstate(match rule {
            Rule::Fixed => "55P02",
            _ => "22023",
        });
        return Err(match rule {
            Rule::Only(UTC) => error
                .with_hint("times are in UTC; `ts AT TIME ZONE 'Europe/Oslo'` shows them in another zone"),
            Rule::Only(values) => error.with_hint(format!("it can be: {}", values.join(", "))),
            Rule::SearchPath => {
                error.with_hint("write the schema before the table's name: `lake.t`, `live.t`")
            }
            _ => error,
        });
    }
    Ok(match rule {
        Rule::Only(UTC) => "UTC".to_owned(),
        Rule::Only(["utf8", ..]) => "UTF8".to_owned(),
        Rule::Begins(_) => "ISO, MDY".to_owned(),
        Rule::Only(_) => lower,
        _ => value.to_owned(),
    })
}

fn milliseconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    let unit = value.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = value[..value.len() - unit.len()].parse().ok()?;
    let factor = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_millis)
}

fn unknown(name: &str) -> Error {
    let error = Error::invalid(format!("there is no setting `{name}`")).with_sqlstate("42704");
    match nearest(name, KNOWN.iter().map(|(name, ..)| *name)) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error.with_hint("SHOW ALL lists those that there are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_holds_or_is_refused() {
        let mut settings = Settings::new("ann");
        assert_eq!(
            settings.set("TimeZone", Some("Etc/UTC")).expect("set"),
            Some(("TimeZone", "UTC".to_owned()))
        );
        assert_eq!(
            settings.set("timezone", Some("Europe/Oslo")).expect_err("refused").sqlstate(),
            Some("22023")
        );
        assert_eq!(settings.set("server_version", Some("9")).expect_err("refused").sqlstate(), Some("55P02"));
        let error = settings.set("statment_timeout", Some("1")).expect_err("refused");
        assert_eq!(error.hint(), Some("did you mean `statement_timeout`?"));
        settings.set("statement_timeout", Some("2s")).expect("set");
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(2)));
        settings.set("statement_timeout", None).expect("reset");
        assert_eq!(settings.statement_timeout(), None);
        assert!(settings.set("search_path", Some("lake")).is_err());
        settings.set("search_path", Some("public, pg_catalog")).expect("set");
        assert!(settings.set("tarn.as_of", Some("nonsense")).is_err());
        assert_eq!(settings.get("session_authorization").expect("known"), "ann");
    }
}
