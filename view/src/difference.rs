//! What two answers of a view differ in, group by group.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;
use tarn_model::{Error, Result};

/// Groups that are shown one by one.
const EXAMPLES: usize = 10;

/// How an answer differs from an earlier one.
#[derive(Debug, Default, Serialize)]
pub struct Difference {
    /// Columns that tell groups apart; empty when whole rows are compared.
    pub keys: Vec<String>,
    /// Groups that are in both and equal in all columns that both have.
    pub same: u64,
    /// Groups that only the later one has.
    pub added: u64,
    /// Groups that only the earlier one has.
    pub gone: u64,
    /// Groups that are in both and differ.
    pub changed: u64,
    /// Some of them.
    pub examples: Vec<Example>,
}

/// One group that differs.
#[derive(Debug, Serialize)]
pub struct Example {
    /// The values of the keys, or of the whole row.
    pub group: String,
    /// What it was; `None` for one that was added.
    pub before: Option<String>,
    /// What it is; `None` for one that is gone.
    pub after: Option<String>,
}

impl Difference {
    /// Compares two answers by the columns `keys`, and in the columns that both have.
    pub fn between(before: &[RecordBatch], after: &[RecordBatch], keys: &[String]) -> Result<Difference> {
        let names = |rows: &[RecordBatch]| -> Option<Vec<String>> {
            Some(rows.first()?.schema().fields().iter().map(|field| field.name().clone()).collect())
        };
        let (old, new) = (names(before), names(after));
        let shared: Vec<String> = match (&old, &new) {
            (Some(old), Some(new)) => old.iter().filter(|name| new.contains(name)).cloned().collect(),
            (one, other) => one.clone().or_else(|| other.clone()).unwrap_or_default(),
        };
        let mut keys: Vec<String> = keys.iter().filter(|key| shared.contains(key)).cloned().collect();
        if keys.is_empty() {
            keys.clone_from(&shared);
        }
        let values: Vec<String> = shared.into_iter().filter(|name| !keys.contains(name)).collect();
        let (old, mut new) = (groups(before, &keys, &values)?, groups(after, &keys, &values)?);
        let mut difference = Difference { keys, ..Difference::default() };
        for (group, was) in old {
            match new.remove(&group) {
                Some(is) if is == was => difference.same += 1,
                Some(is) => {
                    difference.changed += 1;
                    difference.example(group, Some(was), Some(is));
                }
                None => {
                    difference.gone += 1;
                    difference.example(group, Some(was), None);
                }
            }
        }
        for (group, is) in new {
            difference.added += 1;
            difference.example(group, None, Some(is));
        }
        Ok(difference)
    }

    fn example(&mut self, group: String, before: Option<String>, after: Option<String>) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example { group, before, after });
        }
    }
}

/// Key text → text of the values, row by row.
fn groups(rows: &[RecordBatch], keys: &[String], values: &[String]) -> Result<BTreeMap<String, String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut groups = BTreeMap::new();
    for batch in rows {
        let formatters = |names: &[String]| -> Result<Vec<_>> {
            let columns = names.iter().filter_map(|name| batch.column_by_name(name));
            columns
                .map(|column| {
                    ArrayFormatter::try_new(column.as_ref(), &options)
                        .map_err(|error| Error::internal("a column cannot be shown").with_source(error))
                })
                .collect()
        };
        let (keys, values) = (formatters(keys)?, formatters(values)?);
        for at in 0..batch.num_rows() {
            let text = |of: &[ArrayFormatter<'_>]| {
                of.iter().map(|column| column.value(at).to_string()).collect::<Vec<_>>().join(", ")
            };
            groups.insert(text(&keys), text(&values));
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn rows(of: &[(&str, i64)]) -> Vec<RecordBatch> {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(of.iter().map(|(key, _)| key)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(of.iter().map(|(_, value)| *value)));
        vec![RecordBatch::try_from_iter([("k", keys), ("n", values)]).expect("rows")]
    }

    #[test]
    fn groups_are_same_added_gone_or_changed() {
        let (before, after) =
            (rows(&[("a", 1), ("b", 2), ("c", 3)]), rows(&[("b", 2), ("c", 4), ("d", 5), ("e", 6)]));
        let difference = Difference::between(&before, &after, &["k".to_owned()]).expect("comparable");
        assert_eq!((difference.same, difference.added), (1, 2));
        assert_eq!((difference.gone, difference.changed), (1, 1));
        let changed = difference.examples.iter().find(|example| example.group == "c").expect("it changed");
        assert_eq!((changed.before.as_deref(), changed.after.as_deref()), (Some("3"), Some("4")));
        let whole = Difference::between(&before, &after, &[]).expect("comparable");
        assert_eq!((whole.same, whole.added, whole.gone, whole.changed), (1, 3, 2, 0));
        let empty = Difference::between(&[], &after, &["k".to_owned()]).expect("comparable");
        assert_eq!((empty.added, empty.gone), (4, 0));
    }
}
