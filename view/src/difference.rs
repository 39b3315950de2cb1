//! What two answers of a view differ in, group by group.
//!
//! *Invariants*: values are compared as what they are and not by their text, so NULL is not `NULL`; a column that has another type in
//! the other answer is compared by its text. Where several rows have the same keys, rows that are equal are paired off first, and
//! each row counts as a group: no row is left out.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
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
    /// Values of the keys that stand in several rows of an answer, so that they do not tell its groups apart.
    pub repeated: u64,
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
    /// Compares two answers by the columns `keys`, and in the columns that both have. Where they have none, nothing of one is in the
    /// other.
    pub fn between(before: &[RecordBatch], after: &[RecordBatch], keys: &[String]) -> Result<Difference> {
        let schema = |rows: &[RecordBatch]| rows.first().map(RecordBatch::schema);
        let shared = Compared::in_both(schema(before), schema(after));
        let (mut key, mut values): (Vec<Compared>, Vec<Compared>) =
            shared.into_iter().partition(|column| keys.contains(&column.name));
        if key.is_empty() {
            key = std::mem::take(&mut values);
        }
        let mut difference = Difference {
            keys: key.iter().map(|column| column.name.clone()).collect(),
            ..Difference::default()
        };
        if key.is_empty() {
            let count = |rows: &[RecordBatch]| rows.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
            (difference.gone, difference.added) = (count(before), count(after));
            return Ok(difference);
        }
        let (key, values) = (Encoder::of(key)?, Encoder::of(values)?);
        let (old, mut new) = (groups(before, &key, &values)?, groups(after, &key, &values)?);
        let show = |rows: &[RecordBatch], row: &Row| -> Result<(String, String)> {
            Ok((key.text(&rows[row.batch], row.at)?, values.text(&rows[row.batch], row.at)?))
        };
        let shown = |was: Option<&Row>, is: Option<&Row>| -> Result<Example> {
            let was = was.map(|was| show(before, was)).transpose()?;
            let is = is.map(|is| show(after, is)).transpose()?;
            let group = was.as_ref().or(is.as_ref()).map(|(group, _)| group.clone()).unwrap_or_default();
            Ok(Example { group, before: was.map(|(_, values)| values), after: is.map(|(_, values)| values) })
        };
        for (group, was) in &old {
            let is = new.remove(group).unwrap_or_default();
            difference.take(was, &is, &shown)?;
        }
        for is in new.values() {
            difference.take(&[], is, &shown)?;
        }
        Ok(difference)
    }

    /// Counts the rows that have the same keys, each side in the order of their values.
    fn take(&mut self, was: &[Row], is: &[Row], shown: &Showing<'_>) -> Result<()> {
        self.repeated += u64::from(was.len() > 1 || is.len() > 1);
        let (mut old, mut new) = (was.iter().peekable(), is.iter().peekable());
        let (mut gone, mut added) = (Vec::new(), Vec::new());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(was), Some(is)) => was.values.cmp(&is.values),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match order {
                Ordering::Less => gone.extend(old.next()),
                Ordering::Greater => added.extend(new.next()),
                Ordering::Equal => {
                    self.same += 1;
                    old.next();
                    new.next();
                }
            }
        }
        for at in 0..gone.len().max(added.len()) {
            let (was, is) = (gone.get(at).copied(), added.get(at).copied());
            *match (was, is) {
                (Some(_), Some(_)) => &mut self.changed,
                (Some(_), None) => &mut self.gone,
                (None, _) => &mut self.added,
            } += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(shown(was, is)?);
            }
        }
        Ok(())
    }
}

/// Shows what was and what is.
type Showing<'s> = dyn Fn(Option<&Row>, Option<&Row>) -> Result<Example> + 's;

/// A column that both answers have.
struct Compared {
    name: String,
    /// As what it is compared.
    data_type: DataType,
}

impl Compared {
    fn in_both(old: Option<SchemaRef>, new: Option<SchemaRef>) -> Vec<Compared> {
        let (Some(one), other) = (old.clone().or_else(|| new.clone()), old.and(new)) else {
            return Vec::new();
        };
        let fields = one.fields().iter().filter_map(|field| {
            let data_type = field.data_type().clone();
            let is_one = match &other {
                Some(other) => other.field_with_name(field.name()).ok()?.data_type() == &data_type,
                None => true,
            };
            let is_one = is_one && RowConverter::supports_fields(&[SortField::new(data_type.clone())]);
            let data_type = if is_one { data_type } else { DataType::Utf8 };
            Some(Compared { name: field.name().clone(), data_type })
        });
        fields.collect()
    }
}

/// Makes bytes of rows that are equal where the rows are.
struct Encoder {
    columns: Vec<Compared>,
    converter: RowConverter,
}

impl Encoder {
    fn of(columns: Vec<Compared>) -> Result<Encoder> {
        let fields = columns.iter().map(|column| SortField::new(column.data_type.clone())).collect();
        let converter = RowConverter::new(fields).map_err(incomparable)?;
        Ok(Encoder { columns, converter })
    }

    fn rows(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns = self.columns.iter().map(|compared| {
            let column = column(batch, compared)?;
            if column.data_type() == &compared.data_type { Ok(Arc::clone(column)) } else { texts(column) }
        });
        self.converter.convert_columns(&columns.collect::<Result<Vec<_>>>()?).map_err(incomparable)
    }

    /// A row as it is shown.
    fn text(&self, batch: &RecordBatch, at: usize) -> Result<String> {
        let options = FormatOptions::default().with_null("NULL");
        let shown = self.columns.iter().map(|compared| {
            let column = column(batch, compared)?;
            let shown = ArrayFormatter::try_new(column.as_ref(), &options).map_err(incomparable)?;
            Ok(shown.value(at).to_string())
        });
        Ok(shown.collect::<Result<Vec<_>>>()?.join(", "))
    }
}

fn column<'b>(batch: &'b RecordBatch, compared: &Compared) -> Result<&'b ArrayRef> {
    batch
        .column_by_name(&compared.name)
        .ok_or_else(|| Error::internal("a batch lacks a column of its answer"))
}

fn texts(column: &ArrayRef) -> Result<ArrayRef> {
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(column.as_ref(), &options).map_err(incomparable)?;
    let nulls = column.logical_nulls();
    let is_valid = |at: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(at));
    let texts = (0..column.len()).map(|at| is_valid(at).then(|| shown.value(at).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

fn incomparable(error: arrow::error::ArrowError) -> Error {
    Error::internal("a column cannot be compared").with_source(error)
}

/// One row of an answer.
struct Row {
    /// Bytes of all that is no key.
    values: Box<[u8]>,
    batch: usize,
    at: usize,
}

fn bytes(row: arrow::row::Row<'_>) -> Box<[u8]> {
    let bytes: &[u8] = row.as_ref();
    bytes.into()
}

/// The rows by the bytes of their keys, those with the same keys by their values.
fn groups(rows: &[RecordBatch], key: &Encoder, values: &Encoder) -> Result<BTreeMap<Box<[u8]>, Vec<Row>>> {
    let mut groups: BTreeMap<Box<[u8]>, Vec<Row>> = BTreeMap::new();
    for (batch, rows) in rows.iter().enumerate() {
        let keys = key.rows(rows)?;
        // No columns make no rows.
        let others = if values.columns.is_empty() { None } else { Some(values.rows(rows)?) };
        for at in 0..rows.num_rows() {
            let values = others.as_ref().map(|others| bytes(others.row(at))).unwrap_or_default();
            groups.entry(bytes(keys.row(at))).or_default().push(Row { values, batch, at });
        }
    }
    for rows in groups.values_mut() {
        rows.sort_by(|a, b| a.values.cmp(&b.values));
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
        assert_eq!((difference.repeated, whole.repeated), (0, 0));
        let empty = Difference::between(&[], &after, &["k".to_owned()]).expect("comparable");
        assert_eq!((empty.added, empty.gone), (4, 0));
    }

    fn counts(of: &Difference) -> [u64; 5] {
        [of.same, of.added, of.gone, of.changed, of.repeated]
    }

    fn texts(columns: &[(&str, &[Option<&str>])]) -> Vec<RecordBatch> {
        let columns = columns.iter().map(|(name, values)| {
            let values: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
            (*name, values)
        });
        vec![RecordBatch::try_from_iter(columns).expect("rows")]
    }

    #[test]
    fn rows_that_share_their_keys_are_all_counted() {
        let keys = ["city".to_owned()];
        let by_both: Vec<(String, i64)> = (0..300).map(|at| (format!("c{}", at % 3), at / 3)).collect();
        let by_both: Vec<(&str, i64)> = by_both.iter().map(|(city, n)| (city.as_str(), *n)).collect();
        let named = |rows: &[(&str, i64)]| {
            let batch = self::rows(rows).remove(0);
            let names = ["city", "n"].into_iter().zip(batch.columns().iter().cloned());
            vec![RecordBatch::try_from_iter(names).expect("rows")]
        };
        let (before, after) = (named(&by_both), named(&[("c0", 7), ("c1", -1), ("c2", -1)]));
        let difference = Difference::between(&before, &after, &keys).expect("comparable");
        assert_eq!(counts(&difference), [1, 0, 297, 2, 3]);
        let back = Difference::between(&after, &before, &keys).expect("comparable");
        assert_eq!(counts(&back), [1, 297, 0, 2, 3]);
        // 24 groups of which only one key is selected.
        let keys: Vec<(&str, i64)> = (0..24).map(|at| (["a", "b", "c", "d", "e", "f"][at % 6], 1)).collect();
        let answer = self::rows(&keys);
        let same = Difference::between(&answer, &answer, &["k".to_owned()]).expect("comparable");
        assert_eq!(counts(&same), [24, 0, 0, 0, 6]);
        // In several batches, in another order.
        let parted = [self::rows(&keys[12..]).remove(0), self::rows(&keys[..12]).remove(0)];
        let same = Difference::between(&answer, &parted, &[]).expect("comparable");
        assert_eq!((same.same, same.added + same.gone + same.changed), (24, 0));
    }

    #[test]
    fn values_are_told_apart_that_look_alike() {
        let (null, text) = (texts(&[("k", &[None])]), texts(&[("k", &[Some("NULL")])]));
        let keys = ["k".to_owned(), "l".to_owned()];
        let difference = Difference::between(&null, &text, &keys).expect("comparable");
        assert_eq!(counts(&difference), [0, 1, 1, 0, 0]);
        let one = texts(&[("k", &[Some("a, b")]), ("l", &[Some("c")])]);
        let other = texts(&[("k", &[Some("a")]), ("l", &[Some("b, c")])]);
        let difference = Difference::between(&one, &other, &keys).expect("comparable");
        assert_eq!(counts(&difference), [0, 1, 1, 0, 0]);
        assert_eq!(difference.examples[0].group, "a, b, c");
        // A key that was a text and is a number now says the same.
        let text = texts(&[("k", &[Some("7"), None])]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None]));
        let number = vec![RecordBatch::try_from_iter([("k", numbers)]).expect("rows")];
        let difference = Difference::between(&text, &number, &keys).expect("comparable");
        assert_eq!(counts(&difference), [2, 0, 0, 0, 0]);
        let difference = Difference::between(&text, &self::rows(&[("7", 1)]), &keys).expect("comparable");
        assert_eq!(counts(&difference), [1, 0, 1, 0, 0]);
        let nothing = Difference::between(&text, &texts(&[("m", &[None])]), &keys).expect("comparable");
        assert_eq!(counts(&nothing), [0, 1, 2, 0, 0]);
    }
}
