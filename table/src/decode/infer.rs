//! Columns for records of which nothing is declared.
//!
//! *Method.* A field starts with every type; each value that is not null takes away those that do not hold it exactly.
//! What is left decides: the first of BOOLEAN, BIGINT, DOUBLE, DATE, TIMESTAMP, or else VARCHAR, which takes everything.
//!
//! Cells of CSV files are strings, so strings are typed too, but only where the text is what the value would print as:
//! `007` and `12E4` are names, not numbers.

use std::collections::{HashMap, HashSet};

use tarn_log::Records;
use tarn_model::columns::{Column, ColumnType, Columns, OFFSET, PARTITION, REST, TIMESTAMP, TOPIC};

use super::json::Raw;
use super::values::{self, Json, Zone};
use super::{ERROR_HEADER, LINE, OVERSIZE_HEADER, Record, json};

/// Columns that are inferred at most; further fields go to `_rest`.
const MOST_COLUMNS: usize = 1000;
/// Bytes of a name that becomes a column at most.
const LONGEST_NAME: usize = 255;

/// Columns for records of which nothing is declared, in the order in which fields first appear: the narrowest of BOOLEAN,
/// BIGINT, DOUBLE, DATE, TIMESTAMP, VARCHAR that takes every value seen. Nested values are VARCHAR holding JSON, and so is
/// a field that is always null. When most records are not JSON objects they are lines: the one column `line`.
///
/// Fields that get no column, and so go to `_rest`: names that differ from an earlier one by case only, names of system
/// columns, empty or very long names, those with a quote or control character, and all beyond the thousandth.
///
/// Without a sample there are no columns.
pub fn infer<'a>(samples: impl Iterator<Item = &'a Records>) -> Columns {
    let mut inference = Inference::default();
    for records in samples {
        for record in records.iter() {
            inference.see(&record);
        }
    }
    inference.columns()
}

/// Types that a field may still have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types(u8);

const BOOLEAN: Types = Types(1);
const BIGINT: Types = Types(1 << 1);
const DOUBLE: Types = Types(1 << 2);
const DATE: Types = Types(1 << 3);
const TIMESTAMP_: Types = Types(1 << 4);
const ALL: Types = Types(0b1_1111);
/// VARCHAR only.
const NONE: Types = Types(0);

impl Types {
    fn and(self, other: Types) -> Types {
        Types(self.0 & other.0)
    }

    fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    fn narrowest(self) -> ColumnType {
        let order = [
            (BOOLEAN, ColumnType::Boolean),
            (BIGINT, ColumnType::BigInt),
            (DOUBLE, ColumnType::Double),
            (DATE, ColumnType::Date),
            (TIMESTAMP_, ColumnType::Timestamp),
        ];
        let left = order.into_iter().find(|(types, _)| self.and(*types) != NONE);
        left.map_or(ColumnType::Varchar, |(_, column_type)| column_type)
    }
}

struct Seen {
    name: String,
    /// `None` while only nulls were seen.
    types: Option<Types>,
}

#[derive(Default)]
pub(super) struct Inference {
    objects: usize,
    others: usize,
    fields: Vec<Seen>,
    by_name: HashMap<String, usize>,
    lowercase: HashSet<String>,
}

impl Inference {
    /// Takes one more sample. Records that a collector could not read say nothing.
    pub(super) fn see(&mut self, record: &impl Record) {
        let unread = record.headers().any(|(name, _)| name == ERROR_HEADER || name == OVERSIZE_HEADER);
        let Some(value) = record.value().filter(|_| !unread) else { return };
        let Ok(text) = std::str::from_utf8(value) else { return };
        if json::each_field(text, |_, _, _| Ok(())).is_err() {
            self.others += 1;
            return;
        }
        self.objects += 1;
        // The walk has just succeeded.
        let _ = json::each_field(text, |_, name, raw| {
            self.field(&name, raw);
            Ok(())
        });
    }

    fn field(&mut self, name: &str, raw: Raw<'_>) {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None if self.fields.len() < MOST_COLUMNS
                && may_be_column(name)
                && self.lowercase.insert(name.to_lowercase()) =>
            {
                self.fields.push(Seen { name: name.to_owned(), types: None });
                self.by_name.insert(name.to_owned(), self.fields.len() - 1);
                self.fields.len() - 1
            }
            None => return,
        };
        if let Some(types) = types_of(raw) {
            let seen = &mut self.fields[at].types;
            *seen = Some(seen.unwrap_or(ALL).and(types));
        }
    }

    /// What the samples so far say.
    pub(super) fn columns(self) -> Columns {
        let column = |name: String, column_type| Column { name, column_type, nullable: true };
        let columns = if self.others > self.objects {
            vec![column(LINE.to_owned(), ColumnType::Varchar)]
        } else {
            let fields = self.fields.into_iter();
            fields.map(|seen| column(seen.name, seen.types.unwrap_or(NONE).narrowest())).collect()
        };
        Columns::new(columns).expect("names that collide or are taken were left out")
    }
}

fn may_be_column(name: &str) -> bool {
    let system =
        [TOPIC, PARTITION, OFFSET, TIMESTAMP, REST].iter().any(|taken| name.eq_ignore_ascii_case(taken));
    let plain = !name.chars().any(|c| c == '"' || c.is_control());
    !system && plain && !name.trim().is_empty() && name.len() <= LONGEST_NAME
}

/// The types that hold `raw` exactly; `None` for null.
fn types_of(raw: Raw<'_>) -> Option<Types> {
    Some(match Json::new(raw) {
        Json::Null => return None,
        Json::Boolean(_) => BOOLEAN,
        Json::Number(text) => number(text),
        Json::Nested(_) => NONE,
        Json::Text(text) => text.value().map_or(NONE, |text| text_types(&text)),
    })
}

/// A DOUBLE holds whole numbers exactly up to here.
const EXACT_IN_DOUBLE: u64 = 1 << 53;

fn number(text: &str) -> Types {
    if text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        return if values::double(text).is_ok() { DOUBLE } else { NONE };
    }
    match values::integer::<i64>(text) {
        Ok(value) if value.unsigned_abs() <= EXACT_IN_DOUBLE => BIGINT.or(DOUBLE),
        Ok(_) => BIGINT,
        Err(_) => NONE,
    }
}

fn text_types(text: &str) -> Types {
    if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
        return BOOLEAN;
    }
    if prints_as_number(text) {
        return number(text);
    }
    if values::date(text).is_ok() {
        return DATE.or(TIMESTAMP_);
    }
    if values::timestamp(text, Zone::Utc).is_ok() { TIMESTAMP_ } else { NONE }
}

/// `12`, `-0.5`, `1e-05`, with no more digits than a DOUBLE tells apart; not `007`, `+1`, `.5`, `12E4`.
fn prints_as_number(text: &str) -> bool {
    const DIGITS_OF_DOUBLE: usize = 17;
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let signed = |text: &str| text.strip_prefix(['+', '-']).is_some_and(digits);
    let one_zero = whole == "0" || !whole.starts_with('0');
    let negative_zero = text == "-0";
    let short = fraction.is_none_or(|fraction| whole.len() + fraction.len() <= DIGITS_OF_DOUBLE);
    digits(whole)
        && fraction.is_none_or(digits)
        && exponent.is_none_or(signed)
        && one_zero
        && !negative_zero
        && short
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn inferred(values: &[&str]) -> String {
        let mut inference = Inference::default();
        for (offset, value) in values.iter().enumerate() {
            inference.see(&record(offset, value.as_bytes()));
        }
        inference.columns().to_string()
    }

    #[test]
    fn the_narrowest_type_that_takes_every_value_wins() {
        for (values, column_type) in [
            (["1", "null"], "BIGINT"),
            (["1", "2.5"], "DOUBLE"),
            (["9007199254740993", "2.5"], "VARCHAR"),
            (["18446744073709551616", "1"], "VARCHAR"),
            (["true", "\"FALSE\""], "BOOLEAN"),
            (["true", "1"], "VARCHAR"),
            (["null", "null"], "VARCHAR"),
            (["[1]", "null"], "VARCHAR"),
            (["{\"b\":1}", "1"], "VARCHAR"),
            (["\"1\"", "2"], "BIGINT"),
            (["\"-1.25\"", "\"3\""], "DOUBLE"),
            (["\"1e-05\"", "\"0.5\""], "DOUBLE"),
            (["\"007\"", "\"1\""], "VARCHAR"),
            (["\"12E4\"", "\"1\""], "VARCHAR"),
            (["\"+1\"", "\"1\""], "VARCHAR"),
            (["\"-0\"", "\"1\""], "VARCHAR"),
            (["\"0.12345678901234567890\"", "\"1\""], "VARCHAR"),
            (["\"\"", "\"1\""], "VARCHAR"),
            (["\"NaN\"", "\"1\""], "VARCHAR"),
            (["\"2013-01-01\"", "null"], "DATE"),
            (["\"2013-01-01\"", "\"2013-01-01T05:00:00Z\""], "TIMESTAMP"),
            (["\"2013-01-01 05:00:00\"", "\"2013-01-01T05:00:00.25+02:00\""], "TIMESTAMP"),
            (["\"2013-01-01T05:00:00.123456789Z\"", "null"], "VARCHAR"),
            (["\"2013-02-30\"", "null"], "VARCHAR"),
            (["\"late\"", "1"], "VARCHAR"),
        ] {
            let records = values.map(|value| format!("{{\"a\":{value}}}"));
            let records = records.each_ref().map(String::as_str);
            assert_eq!(inferred(&records), format!("a {column_type}"), "{values:?}");
        }
    }

    #[test]
    fn columns_stand_in_the_order_of_their_first_appearance() {
        assert_eq!(
            inferred(&["{\"b\":1}", "{\"a\":1,\"b\":2,\"c d\":null}"]),
            "b BIGINT, a BIGINT, \"c d\" VARCHAR"
        );
    }

    #[test]
    fn names_that_cannot_be_columns_are_left_to_rest() {
        let value = "{\"a\":1,\"A\":2,\"_offset\":3,\"_REST\":4,\"\":5,\"q\\\"\":6,\"n\\n\":7,\"b\":8}";
        assert_eq!(inferred(&[value]), "a BIGINT, b BIGINT");
    }

    #[test]
    fn columns_end_at_the_cap() {
        let members: Vec<String> = (0..MOST_COLUMNS + 5).map(|n| format!("\"c{n}\":{n}")).collect();
        let mut inference = Inference::default();
        inference.see(&record(0, format!("{{{}}}", members.join(",")).as_bytes()));
        assert_eq!(inference.columns().len(), MOST_COLUMNS);
    }

    #[test]
    fn what_is_mostly_no_json_object_is_lines() {
        assert_eq!(inferred(&["GET /", "{\"a\":1}", "[1]"]), "line VARCHAR");
        assert_eq!(inferred(&["GET /", "{\"a\":1}", "{\"a\":1}"]), "a BIGINT");
        assert_eq!(inferred(&[]), "");
    }
}
