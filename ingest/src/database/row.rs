//! Rows as JSON objects, and cursors as positions.

use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};
pub(super) use tarn_model::Value;
use tarn_model::columns::ColumnType;

use crate::json;

/// A cursor's value, exactly: also floats, by their bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cursor {
    Int(i64),
    /// The bits of the number, in hex.
    Float(String),
    Text(String),
    /// In base64.
    Bytes(String),
}

impl Cursor {
    /// `None` for NULL.
    pub(super) fn of(value: Value<'_>) -> Option<Cursor> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(is) => Cursor::Int(is.into()),
            Value::Int(number) => Cursor::Int(number),
            Value::Unsigned(number) => match i64::try_from(number) {
                Ok(number) => Cursor::Int(number),
                Err(_) => Cursor::Text(number.to_string()),
            },
            Value::Real(number) => Cursor::Float(format!("{:016x}", f64::from(number).to_bits())),
            Value::Float(number) => Cursor::Float(format!("{:016x}", number.to_bits())),
            Value::Decimal(..) | Value::Date(_) | Value::Timestamp(..) => {
                let mut text = Vec::new();
                value.write_text(&mut text);
                Cursor::Text(String::from_utf8(text).unwrap_or_default())
            }
            Value::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Cursor::Text(text.to_owned()),
                Err(_) => Cursor::Bytes(BASE64.encode(text)),
            },
            Value::Bytes(bytes) => Cursor::Bytes(BASE64.encode(bytes)),
        })
    }

    /// As people read it.
    pub(super) fn shown(&self) -> String {
        match self {
            Cursor::Int(number) => number.to_string(),
            Cursor::Float(bits) => u64::from_str_radix(bits, 16)
                .map_or_else(|_| bits.clone(), |bits| f64::from_bits(bits).to_string()),
            Cursor::Text(text) | Cursor::Bytes(text) => text.clone(),
        }
    }

    /// The bytes of one that is bytes.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Cursor::Bytes(text) => BASE64.decode(text).ok(),
            _ => None,
        }
    }
}

/// Names and types of the columns, ready to write rows with.
pub(super) struct RowWriter {
    /// `{"name":` and `,"name":`.
    before: Vec<Vec<u8>>,
    names: Vec<String>,
    types: Vec<Option<ColumnType>>,
}

impl RowWriter {
    pub(super) fn new(columns: &[(String, Option<ColumnType>)]) -> RowWriter {
        let before = |(i, (name, _)): (usize, &(String, Option<ColumnType>))| {
            let mut text = vec![if i == 0 { b'{' } else { b',' }];
            json::write_string(&mut text, name);
            text.push(b':');
            text
        };
        RowWriter {
            before: columns.iter().enumerate().map(before).collect(),
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            types: columns.iter().map(|(_, column_type)| *column_type).collect(),
        }
    }

    /// Writes a row as a JSON object: whole numbers and floats as numbers, decimals as strings, bytes as strings in base64.
    /// The error says which text is none; it stands in the object with its odd bytes replaced.
    pub(super) fn write(&self, row: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), String> {
        out.clear();
        let mut wrong = Ok(());
        for (i, (value, before)) in row.iter().zip(&self.before).enumerate() {
            out.extend_from_slice(before);
            match (*value, self.types[i]) {
                (Value::Null, _) => out.extend_from_slice(b"null"),
                (Value::Bool(is), _) => out.extend_from_slice(if is { b"true" } else { b"false" }),
                (Value::Int(0), Some(ColumnType::Boolean)) => out.extend_from_slice(b"false"),
                (Value::Int(1), Some(ColumnType::Boolean)) => out.extend_from_slice(b"true"),
                (Value::Int(number), Some(ColumnType::Decimal(..))) => {
                    let _ = write!(out, "\"{number}\"");
                }
                (Value::Int(number), _) => json::write_int(out, number),
                (Value::Unsigned(number), Some(ColumnType::Decimal(..))) => {
                    let _ = write!(out, "\"{number}\"");
                }
                (Value::Unsigned(number), _) => {
                    let _ = write!(out, "{number}");
                }
                (Value::Float(number), Some(ColumnType::Decimal(..))) => {
                    let _ = write!(out, "\"{number}\"");
                }
                (Value::Real(number), _) => match number.is_finite() {
                    // The shortest number that is this one in 32 bits.
                    true => {
                        let _ = write!(out, "{number:?}");
                    }
                    false => write_not_finite(out, number.into()),
                },
                (Value::Float(number), _) => match serde_json::Number::from_f64(number) {
                    Some(number) => {
                        let _ = write!(out, "{number}");
                    }
                    None => write_not_finite(out, number),
                },
                (value @ (Value::Decimal(..) | Value::Date(_) | Value::Timestamp(..)), _) => {
                    out.push(b'"');
                    value.write_text(out);
                    out.push(b'"');
                }
                (Value::Text(text), _) => match std::str::from_utf8(text) {
                    Ok(text) => json::write_string(out, text),
                    Err(_) => {
                        wrong = Err(format!("the column `{}` is not valid UTF-8", self.names[i]));
                        json::write_string(out, &String::from_utf8_lossy(text));
                    }
                },
                (Value::Bytes(bytes), _) => {
                    out.push(b'"');
                    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
                    out.push(b'"');
                }
            }
        }
        out.extend_from_slice(if row.is_empty() { b"{}" } else { b"}" });
        wrong
    }
}

/// What JSON has no numbers for.
fn write_not_finite(out: &mut Vec<u8>, number: f64) {
    let text: &[u8] = match number {
        _ if number.is_nan() => b"\"NaN\"",
        _ if number < 0.0 => b"\"-Infinity\"",
        _ => b"\"Infinity\"",
    };
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(column_type: Option<ColumnType>, value: Value<'_>) -> (String, Result<(), String>) {
        let mut out = Vec::new();
        let wrong = RowWriter::new(&[("a".to_owned(), column_type)]).write(&[value], &mut out);
        (String::from_utf8(out).unwrap(), wrong)
    }

    #[test]
    fn values_keep_what_they_are() {
        for (column_type, value, text) in [
            (Some(ColumnType::BigInt), Value::Int(i64::MIN), r#"{"a":-9223372036854775808}"#),
            (Some(ColumnType::Decimal(10, 2)), Value::Float(0.99), r#"{"a":"0.99"}"#),
            (Some(ColumnType::Decimal(38, 0)), Value::Float(1e21), r#"{"a":"1000000000000000000000"}"#),
            (Some(ColumnType::Decimal(10, 2)), Value::Int(5), r#"{"a":"5"}"#),
            (Some(ColumnType::Decimal(20, 0)), Value::Unsigned(u64::MAX), r#"{"a":"18446744073709551615"}"#),
            (Some(ColumnType::BigInt), Value::Unsigned(7), r#"{"a":7}"#),
            (Some(ColumnType::Decimal(10, 2)), Value::Decimal(-99, 2), r#"{"a":"-0.99"}"#),
            (Some(ColumnType::Date), Value::Date(20_455), r#"{"a":"2026-01-02"}"#),
            (
                Some(ColumnType::Timestamp),
                Value::Timestamp(1, true),
                r#"{"a":"1970-01-01 00:00:00.000001+00"}"#,
            ),
            (Some(ColumnType::Double), Value::Float(0.1), r#"{"a":0.1}"#),
            (None, Value::Float(f64::NEG_INFINITY), r#"{"a":"-Infinity"}"#),
            (Some(ColumnType::Double), Value::Float(f64::NAN), r#"{"a":"NaN"}"#),
            (Some(ColumnType::Real), Value::Real(0.1), r#"{"a":0.1}"#),
            (Some(ColumnType::Real), Value::Real(f32::MAX), r#"{"a":3.4028235e38}"#),
            (Some(ColumnType::Real), Value::Real(f32::INFINITY), r#"{"a":"Infinity"}"#),
            (Some(ColumnType::Boolean), Value::Bool(false), r#"{"a":false}"#),
            (Some(ColumnType::Binary), Value::Bytes(&[0, 255]), r#"{"a":"AP8="}"#),
            (Some(ColumnType::Boolean), Value::Int(1), r#"{"a":true}"#),
            (Some(ColumnType::Boolean), Value::Int(2), r#"{"a":2}"#),
            (Some(ColumnType::Int), Value::Text(b"a word"), r#"{"a":"a word"}"#),
            (None, Value::Null, r#"{"a":null}"#),
        ] {
            assert_eq!(written(column_type, value), (text.to_owned(), Ok(())));
        }
        let (text, wrong) = written(None, Value::Text(b"x\xff"));
        assert_eq!(text, "{\"a\":\"x\u{fffd}\"}");
        assert_eq!(wrong, Err("the column `a` is not valid UTF-8".into()));
    }

    #[test]
    fn cursors_come_back_exactly() {
        for value in
            [Value::Int(-3), Value::Float(0.1 + 0.2), Value::Text("ü".as_bytes()), Value::Bytes(&[1, 0xab])]
        {
            let cursor = Cursor::of(value).unwrap();
            let back: Cursor = serde_json::from_value(serde_json::to_value(&cursor).unwrap()).unwrap();
            assert_eq!(back, cursor);
        }
    }
}
