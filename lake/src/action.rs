//! The lines of Delta's log, as far as Tarn reads and writes them.
//!
//! Source of the format: the Delta transaction log protocol, "Actions". Fields that are not named here are passed over when
//! read; an action that would change what the table *is* cannot hide among them, because it needs a protocol version that
//! [`Protocol::check`] refuses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tarn_model::{Error, Result};

/// What `commitInfo.engineInfo` of our commits starts with.
pub(crate) const ENGINE: &str = "tarn/";

/// One line of a commit, or one row of a checkpoint: one of its fields is set.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit_info: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta_data: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) txn: Option<Txn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) add: Option<Add>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remove: Option<Remove>,
}

impl Line {
    /// The line that says who committed what.
    pub(crate) fn of_commit_info(info: &CommitInfo) -> Result<Line> {
        let raw = serde_json::value::to_raw_value(info)
            .map_err(|e| crate::error::internal("writing a commit's info", e))?;
        Ok(Line { commit_info: Some(raw), ..Line::default() })
    }

    /// Who committed what. Its form is free, so what another engine wrote into it is never a reason to fail.
    pub(crate) fn info(&self) -> Option<CommitInfo> {
        self.commit_info.as_ref().map(|raw| serde_json::from_str(raw.get()).unwrap_or_default())
    }
}

/// Who committed what, for people; and, under `tarn`, what decides whether a commit is ours and whole.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommitInfo {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation_parameters: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) engine_info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) is_blind_append: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tarn: Option<Signature>,
}

/// The mark of a commit that Tarn wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signature {
    /// Random, one a commit: finding it in the log proves that the commit landed.
    pub(crate) commit: String,
    /// Random, one an opened lake: tells a writer from another one.
    pub(crate) writer: String,
    /// Number of lines in the commit: a commit torn at a line's end is noticed.
    pub(crate) lines: usize,
    /// [`crate::Commit::marks`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) marks: BTreeMap<String, i64>,
}

/// What a reader and a writer must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub(crate) min_reader_version: i32,
    pub(crate) min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) writer_features: Option<Vec<String>>,
}

impl Protocol {
    /// Reader 1, writer 2: what every engine can read.
    pub(crate) const OURS: Protocol = Protocol {
        min_reader_version: 1,
        min_writer_version: 2,
        reader_features: None,
        writer_features: None,
    };

    /// Refuses a table that needs more than reader 1 and writer 2.
    pub(crate) fn check(&self) -> Result<()> {
        if self.min_reader_version == 1 && (1..=2).contains(&self.min_writer_version) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the table needs protocol reader {} and writer {}: reader_features=`{}` writer_features=`{}`",
            self.min_reader_version,
            self.min_writer_version,
            self.reader_features.as_deref().unwrap_or_default().join(","),
            self.writer_features.as_deref().unwrap_or_default().join(","),
        ))
        .with_hint(
            "tarn reads and writes tables of reader 1 and writer 2; drop the table's features with the engine that added \
             them, or copy its rows into a new table",
        ))
    }
}

/// What the table is: schema, partition columns, properties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) format: Format,
    pub(crate) schema_string: String,
    #[serde(default)]
    pub(crate) partition_columns: Vec<String>,
    #[serde(default)]
    pub(crate) configuration: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_time: Option<i64>,
}

/// The format of the data files: always Parquet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) provider: String,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
}

impl Default for Format {
    fn default() -> Format {
        Format { provider: "parquet".into(), options: BTreeMap::new() }
    }
}

/// Progress of one app id. `lastUpdated` is never written, so that no engine lets it expire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Txn {
    pub(crate) app_id: String,
    pub(crate) version: i64,
}

/// A data file that came.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    /// Relative to the table's folder, percent-encoded as in a URL.
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) partition_values: BTreeMap<String, Option<String>>,
    pub(crate) size: i64,
    #[serde(default)]
    pub(crate) modification_time: i64,
    #[serde(default)]
    pub(crate) data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<String>,
    /// Never written, and refused when read.
    #[serde(default, skip_serializing)]
    pub(crate) deletion_vector: Option<serde::de::IgnoredAny>,
}

/// A data file that went.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub(crate) data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<i64>,
}

/// `_delta_log/_last_checkpoint`, as far as it is used.
#[derive(Debug, Deserialize)]
pub(crate) struct LastCheckpoint {
    pub(crate) version: u64,
}

/// A path as it stands in an action → as it stands in the store, relative to the table's folder.
pub(crate) fn decode_path(encoded: &str) -> Result<String> {
    if encoded.contains("://") || encoded.starts_with('/') || encoded.starts_with("file:") {
        return Err(Error::invalid(format!(
            "the table refers to a file outside of its folder: path=`{encoded}`"
        ))
        .with_hint("shallow clones are not supported: make a full copy of the table"));
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map_err(|e| {
        Error::corrupt(format!("a path in the table's log is not UTF-8: path=`{encoded}`")).with_source(e)
    })
}

/// A path in the store → as it stands in an action.
pub(crate) fn encode_path(path: &str) -> String {
    percent_encode(path, |byte| byte.is_ascii_alphanumeric() || b"-_.~/=".contains(&byte))
}

/// Percent-encodes every byte that is not `plain`.
pub(crate) fn percent_encode(text: &str, plain: impl Fn(u8) -> bool) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_log() {
        for path in ["a.parquet", "k=a%3Ab/x y.parquet", "k=ä/%25.parquet", "k=100%/p"] {
            assert_eq!(decode_path(&encode_path(path)).unwrap(), path);
        }
        assert_eq!(encode_path("k=a%3Ab/p"), "k=a%253Ab/p");
    }

    #[test]
    fn a_file_outside_of_the_table_is_refused() {
        for path in ["/abs/p", "s3://bucket/p", "file:/p"] {
            assert!(decode_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn newer_protocols_are_refused() {
        assert!(Protocol::OURS.check().is_ok());
        let features = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: Some(vec!["deletionVectors".into()]),
            writer_features: None,
        };
        let error = features.check().unwrap_err();
        assert!(error.to_string().contains("deletionVectors"));
    }
}
