//! One moment of the whole log: topic → boundary.
//!
//! Its text form is what an answer carries in its header and what `AS OF` takes: `clicks:0=17,1=4;orders:0=9`. Topics
//! stand in order, an absent partition is at 0.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::boundary::Boundary;
use crate::error::{Error, Result};

/// Topic → boundary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OffsetVector {
    topics: BTreeMap<String, Boundary>,
}

impl OffsetVector {
    /// The moment before any record.
    pub fn new() -> OffsetVector {
        OffsetVector::default()
    }

    /// The boundary of `topic`; empty when it is absent.
    pub fn topic(&self, topic: &str) -> Boundary {
        self.topics.get(topic).cloned().unwrap_or_default()
    }

    /// Sets the boundary of `topic`.
    pub fn set(&mut self, topic: impl Into<String>, boundary: Boundary) {
        self.topics.insert(topic.into(), boundary);
    }

    /// The topics with their boundaries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Boundary)> {
        self.topics.iter().map(|(topic, boundary)| (topic.as_str(), boundary))
    }
}

impl fmt::Display for OffsetVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (topic, boundary)) in self.topics.iter().enumerate() {
            let semicolon = if i == 0 { "" } else { ";" };
            write!(f, "{semicolon}{topic}:{boundary}")?;
        }
        Ok(())
    }
}

impl FromStr for OffsetVector {
    type Err = Error;

    fn from_str(text: &str) -> Result<OffsetVector> {
        let wrong = |part: &str| {
            Error::invalid(format!("`{part}` is not part of an offset vector")).with_hint(
                "a vector looks like `clicks:0=17,1=4;orders:0=9`: topic, then partition=next offset",
            )
        };
        let mut vector = OffsetVector::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (topic, entries) = part.split_once(':').ok_or_else(|| wrong(part))?;
            if vector.topics.contains_key(topic.trim()) {
                return Err(Error::invalid(format!("topic `{}` stands twice in the vector", topic.trim())));
            }
            let mut boundary = Boundary::new();
            for entry in entries.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                let (partition, next) = entry.split_once('=').ok_or_else(|| wrong(entry))?;
                let partition = partition.trim().parse::<i32>().map_err(|_| wrong(entry))?;
                let next = next.trim().parse::<i64>().map_err(|_| wrong(entry))?;
                if partition < 0 || next < 0 {
                    return Err(wrong(entry));
                }
                boundary.set(partition, next);
            }
            vector.set(topic.trim(), boundary);
        }
        Ok(vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let text = "clicks:0=17,1=4;orders:0=9";
        let vector: OffsetVector = text.parse().expect("a vector");
        assert_eq!(vector.topic("clicks").next(1), 4);
        assert_eq!(vector.topic("nothing").next(0), 0);
        assert_eq!(vector.to_string(), text);
        assert_eq!("".parse::<OffsetVector>().expect("empty"), OffsetVector::new());
    }

    #[test]
    fn nonsense_is_refused_with_the_part_that_is_wrong() {
        for text in ["clicks", "clicks:0", "clicks:a=1", "clicks:0=-1", "a:0=1;a:0=2"] {
            assert!(text.parse::<OffsetVector>().is_err(), "{text}");
        }
    }
}
