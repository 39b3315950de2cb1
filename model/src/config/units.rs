//! Lengths of time and sizes, as people write them: `250ms`, `7d`, `64MiB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: `250ms`, `10s`, `5m`, `2h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// This many milliseconds.
    pub fn from_millis(millis: u64) -> Span {
        Span(Duration::from_millis(millis))
    }

    /// This many days.
    pub fn from_days(days: u64) -> Span {
        Span(Duration::from_secs(days * 86_400))
    }

    /// In milliseconds, at most [`i64::MAX`].
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        humantime::parse_duration(text).map(Span).map_err(|_| {
            format!("`{text}` is not a length of time: write `250ms`, `10s`, `5m`, `2h` or `7d`")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let units = [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
        ];
        match units.iter().find(|(unit, _)| nanos >= *unit && nanos.is_multiple_of(*unit)) {
            Some((unit, suffix)) => write!(f, "{}{suffix}", nanos / unit),
            None if nanos.is_multiple_of(1_000_000) => write!(f, "{}ms", nanos / 1_000_000),
            None => write!(f, "{}ns", nanos),
        }
    }
}

/// A number of bytes: `1024`, `512KiB`, `64MiB`, `1GiB`, and `KB`, `MB`, `GB` of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// This many times 1024 × 1024 bytes.
    pub fn mib(mib: u64) -> ByteSize {
        ByteSize(mib << 20)
    }

    /// As a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let trimmed = text.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| trimmed.strip_suffix(suffix).map(|number| (number.trim(), *unit)))
            .unwrap_or((trimmed, 1));
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .map(ByteSize)
            .ok_or_else(|| format!("`{text}` is not a size: write `1024`, `512KiB`, `64MiB` or `1GiB`"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS[..4].iter().rev().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match fits {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

macro_rules! as_text {
    ($type:ident, $about:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "format": $about, "pattern": $pattern})
            }
        }
    };
}

as_text!(Span, "length of time", "^[0-9]");
as_text!(ByteSize, "size", "^[0-9]");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_as_people_write_them() {
        for (text, bytes) in
            [("1024", 1024), ("512KiB", 512 << 10), ("64 MiB", 64 << 20), ("2MB", 2_000_000), ("7B", 7)]
        {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize::mib(64).to_string(), "64MiB");
        for text in ["250ms", "0ms", "10s", "90s", "5m", "36h", "7d", "1500ns"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()).as_deref(), Ok(text));
        }
        assert!("10 parsecs".parse::<Span>().is_err());
        assert!("1XB".parse::<ByteSize>().is_err());
    }
}
