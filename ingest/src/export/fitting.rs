//! Whether a value fits a column: asked of the types before the first row, and of each value before it is sent.
//!
//! *Why here*: databases round, cut and reinterpret in silence what does not fit (`1.239` in `numeric(4,2)`, half a second in
//! `DATETIME`, NaN in SQLite, 70 in `YEAR`). What reaches the database here is what it will keep; the rest is rejected with a reason.
//!
//! *Not here*: what only the database knows: unique keys, foreign keys, checks, triggers, and whether a text is a `uuid`.

use super::gives::{Cell, Gives, YEARS, is_in_years};

/// What a column of the target takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Whole numbers from the first to the second.
    Int(i128, i128),
    /// A year of MySQL: 0, or 1901 to 2155.
    Year,
    /// Decimals with so many digits behind the point, or fewer than none; `None` takes any.
    Decimal {
        scale: Option<i16>,
        from_text: bool,
    },
    Real {
        infinite: bool,
    },
    Double {
        infinite: bool,
    },
    Bool,
    /// At most so many characters and bytes.
    Text {
        characters: Option<u64>,
        bytes: Option<u64>,
    },
    /// At most so many bytes.
    Bytes(Option<u64>),
    /// So many bytes: fewer would be filled up with zeros.
    Exactly(u64),
    Date,
    /// A time with so many digits of a second.
    Timestamp(u8),
    /// Text that the database reads, with so many digits of a second where it holds a time.
    Parsed(Option<u8>),
    /// A column of SQLite, by its affinity.
    Loose(Affinity),
}

/// What SQLite would rather have in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Real,
    Numeric,
    Text,
    Blob,
}

/// Whole numbers that a float of 64 and of 32 bits has exactly.
const EXACT_DOUBLE: i64 = 1 << 53;
const EXACT_REAL: i64 = 1 << 24;
const OTHER_YEAR: &str = "it is not in the years 1 to 9999";
/// Digits that SQLite keeps of a decimal.
const SQLITE_DIGITS: usize = 15;

/// Whether a column can take values of a kind at all; the error is what to do.
pub(super) fn fits(gives: Gives, takes: Takes) -> Result<(), &'static str> {
    const OTHER: &str = "cast it in the statement: `CAST(… AS …)`";
    const DIGITS: &str = "digits would be lost: cast it in the statement, so that you see which";
    match (gives, takes) {
        (Gives::Nothing, _) => Ok(()),
        (
            Gives::Int,
            Takes::Int(..) | Takes::Year | Takes::Decimal { .. } | Takes::Double { .. } | Takes::Real { .. },
        ) => Ok(()),
        (Gives::Decimal(..), Takes::Int(..) | Takes::Decimal { .. }) => Ok(()),
        (Gives::Decimal(..), Takes::Real { .. } | Takes::Double { .. }) => Err(DIGITS),
        (Gives::Real, Takes::Real { .. } | Takes::Double { .. }) | (Gives::Double, Takes::Double { .. }) => {
            Ok(())
        }
        (Gives::Double, Takes::Real { .. }) | (Gives::Real | Gives::Double, Takes::Decimal { .. }) => {
            Err(DIGITS)
        }
        (Gives::Bool, Takes::Bool) => Ok(()),
        // MySQL's BOOLEAN is a TINYINT.
        (Gives::Bool, Takes::Int(least, most)) if least <= 0 && most >= 1 => Ok(()),
        (Gives::Text, Takes::Text { .. } | Takes::Parsed(_) | Takes::Decimal { from_text: true, .. }) => {
            Ok(())
        }
        (Gives::Bytes, Takes::Bytes(_) | Takes::Exactly(_)) => Ok(()),
        (Gives::Date, Takes::Date | Takes::Timestamp(_)) | (Gives::Timestamp, Takes::Timestamp(_)) => Ok(()),
        (_, Takes::Loose(affinity)) => {
            let numbers = matches!(affinity, Affinity::Numeric | Affinity::Blob);
            let known = match gives {
                Gives::Nothing => true,
                Gives::Bool | Gives::Int => numbers || matches!(affinity, Affinity::Integer | Affinity::Real),
                Gives::Real | Gives::Double => numbers || affinity == Affinity::Real,
                Gives::Decimal(..) => true,
                Gives::Text | Gives::Date | Gives::Timestamp => numbers || affinity == Affinity::Text,
                Gives::Bytes => affinity == Affinity::Blob,
            };
            if known { Ok(()) } else { Err(OTHER) }
        }
        _ => Err(OTHER),
    }
}

/// Whether a column keeps a value as it is; the error says why not.
pub(super) fn fit(cell: Cell<'_>, takes: Takes) -> Result<(), String> {
    match (cell, takes) {
        (Cell::TooFine, _) => Err("it has nanoseconds, which the database has not".into()),
        (Cell::Int(value), Takes::Int(least, most)) => between(value.into(), least, most),
        (Cell::Int(value), Takes::Year) if value != 0 => between(value.into(), 1901, 2155),
        (Cell::Int(value), Takes::Double { .. } | Takes::Loose(Affinity::Real)) => exact(value, EXACT_DOUBLE),
        (Cell::Int(value), Takes::Real { .. }) => exact(value, EXACT_REAL),
        (Cell::Decimal(value, scale), Takes::Int(least, most)) => between(whole(value, scale)?, least, most),
        (Cell::Decimal(value, scale), Takes::Loose(Affinity::Integer)) => {
            between(whole(value, scale)?, i64::MIN.into(), i64::MAX.into())
        }
        (Cell::Decimal(value, scale), Takes::Decimal { scale: Some(most), .. }) => {
            shifted(value, scale, most)
        }
        (Cell::Decimal(value, _), Takes::Loose(Affinity::Numeric | Affinity::Real))
            if value.unsigned_abs().to_string().trim_end_matches('0').len() > SQLITE_DIGITS =>
        {
            Err(format!(
                "it has more than {SQLITE_DIGITS} digits, which SQLite would round: declare the column as TEXT"
            ))
        }
        (Cell::Float(value), Takes::Real { infinite: false } | Takes::Double { infinite: false })
            if !value.is_finite() =>
        {
            Err(format!("the database has no {value}"))
        }
        (Cell::Float(value), Takes::Loose(_)) if value.is_nan() => Err("SQLite makes NULL of NaN".into()),
        (Cell::Text(text), Takes::Decimal { scale: Some(most), .. })
            if most < 0 || text.contains(['e', 'E']) =>
        {
            Err("it may be rounded: write it without an exponent, or cast it in the statement".into())
        }
        (Cell::Text(text), Takes::Decimal { scale: Some(most), .. }) => {
            digits(text, u8::try_from(most).unwrap_or(0), "behind the point")
        }
        (Cell::Text(text), Takes::Parsed(Some(most))) => digits(text, most, "of a second"),
        (Cell::Text(text), Takes::Text { characters: Some(most), .. })
            if text.chars().count() as u64 > most =>
        {
            Err(format!("it has {} characters, and {most} fit", text.chars().count()))
        }
        (Cell::Text(text), Takes::Text { bytes, .. }) => at_most(text.len(), bytes),
        (Cell::Text(text), Takes::Loose(Affinity::Numeric)) if is_number(text) => {
            Err("SQLite would make a number of it: declare the column as TEXT".into())
        }
        (Cell::Bytes(value), Takes::Bytes(most)) => at_most(value.len(), most),
        (Cell::Bytes(value), Takes::Exactly(bytes)) if value.len() as u64 != bytes => {
            Err(format!("it has {} bytes, and {bytes} are kept", value.len()))
        }
        (Cell::Date(days), _) if !YEARS.contains(&days) => Err(OTHER_YEAR.into()),
        (Cell::Timestamp(micros), _) if !is_in_years(micros) => Err(OTHER_YEAR.into()),
        (Cell::Timestamp(micros), Takes::Timestamp(most))
            if most < 6 && micros % 10_i64.pow(6 - u32::from(most)) != 0 =>
        {
            Err(format!("it has more than {most} digits of a second"))
        }
        _ => Ok(()),
    }
}

fn between(value: i128, least: i128, most: i128) -> Result<(), String> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{value} is not in {least} to {most}")) }
}

fn exact(value: i64, most: i64) -> Result<(), String> {
    if (-most..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{value} is rounded by the column's type"))
    }
}

fn at_most(bytes: usize, most: Option<u64>) -> Result<(), String> {
    match most {
        Some(most) if bytes as u64 > most => Err(format!("it has {bytes} bytes, and {most} fit")),
        _ => Ok(()),
    }
}

/// A decimal without digits behind its point.
fn whole(value: i128, scale: u8) -> Result<i128, String> {
    shifted(value, scale, 0)?;
    Ok(10_i128.checked_pow(scale.into()).map_or(0, |power| value / power))
}

/// Whether a decimal has no digits beyond `most` behind its point.
fn shifted(value: i128, scale: u8, most: i16) -> Result<(), String> {
    let beyond = u32::try_from(i16::from(scale).saturating_sub(most)).unwrap_or(0);
    let lost = match 10_i128.checked_pow(beyond) {
        Some(power) => value % power != 0,
        None => value != 0,
    };
    match lost {
        true if most < 0 => {
            Err(format!("it would be rounded: {} digits before the point are kept as zeros", -most))
        }
        true => Err(format!("it has more than {most} digits behind the point")),
        false => Ok(()),
    }
}

/// Whether the first number with a point in a text has no digits beyond `most` behind it.
fn digits(text: &str, most: u8, of_what: &str) -> Result<(), String> {
    let behind = text.split_once('.').map_or("", |(_, behind)| behind);
    let digits = behind.find(|c: char| !c.is_ascii_digit()).map_or(behind, |end| &behind[..end]);
    if digits.trim_end_matches('0').len() > usize::from(most) {
        return Err(format!("it has more than {most} digits {of_what}"));
    }
    Ok(())
}

/// Whether SQLite sees a number in a text.
fn is_number(text: &str) -> bool {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    trimmed.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && trimmed.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_DECIMAL: Takes = Takes::Decimal { scale: None, from_text: true };
    const PRICE: Takes = Takes::Decimal { scale: Some(2), from_text: false };
    const DOUBLE: Takes = Takes::Double { infinite: true };

    #[test]
    fn types_fit_where_no_value_has_to_change_its_meaning() {
        for (gives, takes, fit) in [
            (Gives::Int, Takes::Int(-128, 127), true),
            (Gives::Int, DOUBLE, true),
            (Gives::Int, Takes::Bool, false),
            (Gives::Int, Takes::Text { characters: None, bytes: None }, false),
            (Gives::Double, Takes::Real { infinite: true }, false),
            (Gives::Double, ANY_DECIMAL, false),
            (Gives::Decimal(38, 10), PRICE, true),
            (Gives::Decimal(4, 2), DOUBLE, false),
            (Gives::Bool, Takes::Int(-128, 127), true),
            (Gives::Bool, Takes::Int(5, 7), false),
            (Gives::Text, Takes::Parsed(None), true),
            (Gives::Text, ANY_DECIMAL, true),
            (Gives::Text, PRICE, false),
            (Gives::Text, Takes::Date, false),
            (Gives::Date, Takes::Timestamp(0), true),
            (Gives::Timestamp, Takes::Date, false),
            (Gives::Nothing, Takes::Year, true),
            (Gives::Text, Takes::Loose(Affinity::Integer), false),
            (Gives::Text, Takes::Loose(Affinity::Numeric), true),
            (Gives::Int, Takes::Loose(Affinity::Text), false),
            (Gives::Decimal(9, 2), Takes::Loose(Affinity::Text), true),
        ] {
            assert_eq!(fits(gives, takes).is_ok(), fit, "{gives:?} into {takes:?}");
        }
    }

    #[test]
    fn values_that_a_database_would_change_in_silence_are_refused_with_a_reason() {
        let text = |characters| Takes::Text { characters: Some(characters), bytes: None };
        for (cell, takes, reason) in [
            (Cell::Int(127), Takes::Int(-128, 127), None),
            (Cell::Int(128), Takes::Int(-128, 127), Some("128 is not in -128 to 127")),
            (Cell::Int(70), Takes::Year, Some("70 is not in 1901 to 2155")),
            (Cell::Int(0), Takes::Year, None),
            (Cell::Int((1 << 53) + 1), DOUBLE, Some("is rounded")),
            (Cell::Decimal(1239, 3), PRICE, Some("more than 2 digits behind the point")),
            (Cell::Decimal(1230, 3), PRICE, None),
            (Cell::Decimal(1230, 3), Takes::Int(0, 9), Some("more than 0 digits")),
            (Cell::Decimal(7000, 3), Takes::Int(0, 9), None),
            (Cell::Decimal(17000, 3), Takes::Int(0, 9), Some("17 is not in 0 to 9")),
            (Cell::Text("zwölf"), text(5), None),
            (Cell::Text("zwölf "), text(5), Some("6 characters, and 5 fit")),
            (
                Cell::Text("1.239"),
                Takes::Decimal { scale: Some(2), from_text: true },
                Some("more than 2 digits"),
            ),
            (Cell::Text("12:00:00.50"), Takes::Parsed(Some(1)), None),
            (Cell::Text("12:00:00.55"), Takes::Parsed(Some(1)), Some("more than 1 digits of a second")),
            (Cell::Timestamp(500_000), Takes::Timestamp(0), Some("more than 0 digits of a second")),
            (Cell::Timestamp(500_000), Takes::Timestamp(1), None),
            (Cell::Timestamp(i64::MAX), Takes::Timestamp(6), Some("years 1 to 9999")),
            (Cell::TooFine, Takes::Timestamp(6), Some("nanoseconds")),
            (Cell::Float(f64::NAN), Takes::Double { infinite: false }, Some("has no NaN")),
            (Cell::Float(f64::NAN), Takes::Loose(Affinity::Real), Some("NULL of NaN")),
            (Cell::Float(f64::INFINITY), Takes::Loose(Affinity::Real), None),
            (Cell::Text("007"), Takes::Loose(Affinity::Numeric), Some("make a number of it")),
            (Cell::Text("infinity"), Takes::Loose(Affinity::Numeric), None),
            (Cell::Text("2026-01-02"), Takes::Loose(Affinity::Numeric), None),
            (
                Cell::Decimal(1_234_567_890_123_456, 2),
                Takes::Loose(Affinity::Numeric),
                Some("more than 15 digits"),
            ),
            (Cell::Bytes(b"abc"), Takes::Bytes(Some(2)), Some("3 bytes, and 2 fit")),
            (Cell::Null, Takes::Year, None),
        ] {
            match (fit(cell, takes), reason) {
                (Ok(()), None) => {}
                (Err(told), Some(reason)) if told.contains(reason) => {}
                (told, reason) => panic!("{cell:?} into {takes:?}: {told:?}, not {reason:?}"),
            }
        }
    }
}
