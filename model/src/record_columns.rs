//! Columns that hold parts of the record itself, beside the fields of its value: its key, its headers, its timestamp.
//!
//! *Invariant*: such a column takes nothing from the value; a field of the same name goes where fields without a column go.

use serde::{Deserialize, Serialize};

use crate::columns::{Column, ColumnType, Columns};
use crate::error::{Error, Result};

/// Which part of a record a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPart {
    /// Its key: as text, or as bytes when the column is BINARY; NULL when it has none.
    Key,
    /// Its headers as a JSON object of strings; NULL when there are none.
    Headers,
    /// Its timestamp, the same as `_timestamp`.
    Timestamp,
}

impl RecordPart {
    /// The types that a column of it may have; the first is the one that it has when nothing is said.
    pub fn types(self) -> &'static [ColumnType] {
        match self {
            RecordPart::Key => &[ColumnType::Varchar, ColumnType::Binary],
            RecordPart::Headers => &[ColumnType::Varchar],
            RecordPart::Timestamp => &[ColumnType::Timestamp],
        }
    }
}

/// The columns of a table that hold parts of its records, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordColumns {
    /// The key's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The headers'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    /// The timestamp's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

impl RecordColumns {
    /// The parts that have a column, with its name.
    pub fn iter(&self) -> impl Iterator<Item = (RecordPart, &str)> {
        let each = [
            (RecordPart::Key, &self.key),
            (RecordPart::Headers, &self.headers),
            (RecordPart::Timestamp, &self.timestamp),
        ];
        each.into_iter().filter_map(|(part, name)| Some((part, name.as_deref()?)))
    }

    /// Whether no part has a column.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The part that the column `name` holds.
    pub fn part_of(&self, name: &str) -> Option<RecordPart> {
        self.iter().find(|(_, column)| *column == name).map(|(part, _)| part)
    }

    /// `columns` with those of these that it lacks behind them.
    pub fn added_to(&self, columns: Columns) -> Result<Columns> {
        let mut all: Vec<Column> = columns.iter().cloned().collect();
        for (part, name) in self.iter() {
            let types = part.types();
            match columns.get(name) {
                Some(column) if types.contains(&column.column_type) => {}
                Some(column) => {
                    return Err(Error::invalid(format!(
                        "column `{name}` is {}, and cannot hold that part of a record",
                        column.column_type
                    ))
                    .with_hint(format!("declare it as {}, or give the part another column", types[0])));
                }
                None => all.push(Column { name: name.to_owned(), column_type: types[0], nullable: true }),
            }
        }
        Columns::new(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_are_not_declared_come_behind_those_that_are() {
        let parts = RecordColumns {
            key: Some("id".to_owned()),
            headers: Some("headers".to_owned()),
            timestamp: Some("at".to_owned()),
        };
        let columns = parts.added_to(Columns::parse("at TIMESTAMP NOT NULL, n INT").expect("columns"));
        let want = "at TIMESTAMP NOT NULL, n INT, id VARCHAR, headers VARCHAR";
        assert_eq!(columns.expect("all fit").to_string(), want);
        let wrong = parts.added_to(Columns::parse("id BIGINT").expect("columns"));
        assert!(wrong.expect_err("a key is no number").to_string().contains("`id` is BIGINT"));
    }
}
