//! What a database itself says of the rows of a part: how many there are, and of each column how many values and their sum.
//!
//! *Why sums*: they must come out the same, to the last digit, in every database and here, whatever the order of the rows. A sum of
//! whole numbers does; what has none, such as a float, is only counted.
//!
//! | column | its sum |
//! |---|---|
//! | whole numbers | theirs |
//! | `DECIMAL(p,s)`, p up to 28 | that of their digits, without the point |
//! | `BOOLEAN` | how many are true |
//! | `DATE` | of days since 1970 |
//! | `TIMESTAMP` | of microseconds since 1970; none of times without a zone, where the import is not in UTC |
//! | `VARCHAR`, `BINARY` | of lengths in bytes |
//! | others, and what the database has in another form than the lake | none |

use tarn_model::columns::ColumnType;
use tarn_model::{Error, Result};

/// Columns that are asked for at once; servers have a limit of what one answer may have.
const COLUMNS_AT_ONCE: usize = 200;
/// Digits whose sum of any number of rows is no overflow.
pub(super) const MOST_DIGITS: u8 = 28;

/// What a database, or the lake, says of some rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many there are.
    pub rows: u64,
    /// Of each column that is read, in their order.
    pub columns: Vec<ColumnSummary>,
}

/// What it says of one column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColumnSummary {
    /// How many values there are, without NULLs.
    pub values: u64,
    /// Their sum; `None` of a column that has none. That of no values is 0.
    pub sum: Option<i128>,
}

/// A column that a database is asked for.
pub(super) struct Asked {
    /// In SQL.
    pub(super) column: String,
    pub(super) column_type: ColumnType,
    /// What gives the sum of its values as text, or NULL where there are none.
    pub(super) sum: Option<String>,
}

/// Asks for the columns of `source`, which is all that follows `FROM`; `ask` gives the one row of an answer.
pub(super) fn summary(
    asked: &[Asked],
    source: &str,
    mut ask: impl FnMut(&str) -> Result<Vec<Option<String>>>,
) -> Result<Summary> {
    let mut summary = Summary::default();
    // Also of no columns at all there is a number of rows.
    for (i, some) in asked.chunks(COLUMNS_AT_ONCE).chain(asked.is_empty().then_some(asked)).enumerate() {
        let of =
            |asked: &Asked| format!(", COUNT({}), {}", asked.column, asked.sum.as_deref().unwrap_or("NULL"));
        let cells =
            ask(&format!("SELECT COUNT(*){} FROM {source}", some.iter().map(of).collect::<String>()))?;
        let mut cells = cells.iter().map(Option::as_deref);
        let rows = number(cells.next().flatten())?;
        if i > 0 && rows != summary.rows {
            return Err(Error::internal("a snapshot has another number of rows than before"));
        }
        summary.rows = rows;
        for asked in some {
            let (values, sum) = (number(cells.next().flatten())?, cells.next().flatten());
            let sum = match (&asked.sum, sum) {
                (None, _) => None,
                (Some(_), None) => (values == 0).then_some(0),
                (Some(_), Some(sum)) => whole(sum, asked.column_type),
            };
            summary.columns.push(ColumnSummary { values, sum });
        }
    }
    Ok(summary)
}

fn number(cell: Option<&str>) -> Result<u64> {
    cell.and_then(|cell| cell.parse().ok()).ok_or_else(|| Error::internal("a count is no number"))
}

/// A sum without its point, which stands before as many digits as the column's type has there.
fn whole(sum: &str, column_type: ColumnType) -> Option<i128> {
    let scale = match column_type {
        ColumnType::Decimal(_, scale) => usize::try_from(scale).ok()?,
        _ => 0,
    };
    let (before, behind) = sum.split_once('.').unwrap_or((sum, ""));
    let (behind, rest) = behind.split_at_checked(scale).unwrap_or((behind, ""));
    if !rest.bytes().all(|digit| digit == b'0') {
        return None;
    }
    format!("{before}{behind:0<scale$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_whatever_zeros_they_end_with() {
        for (text, column_type, sum) in [
            ("12", ColumnType::BigInt, Some(12)),
            ("-12.00", ColumnType::Int, Some(-12)),
            ("12.5", ColumnType::Int, None),
            ("-0.10", ColumnType::Decimal(10, 2), Some(-10)),
            ("7", ColumnType::Decimal(10, 2), Some(700)),
            ("7.1", ColumnType::Decimal(10, 2), Some(710)),
            ("7.125", ColumnType::Decimal(10, 2), None),
            ("1e20", ColumnType::BigInt, None),
            ("", ColumnType::BigInt, None),
        ] {
            assert_eq!(whole(text, column_type), sum, "{text} {column_type}");
        }
    }

    #[test]
    fn columns_beyond_what_one_answer_may_have_are_asked_for_in_turns() {
        let asked = |i: usize| Asked {
            column: format!("c{i}"),
            column_type: ColumnType::Int,
            sum: i.is_multiple_of(2).then(|| format!("SUM(c{i})")),
        };
        let all: Vec<Asked> = (0..450).map(asked).collect();
        let mut questions = Vec::new();
        let found = summary(&all, "t", |sql| {
            questions.push(sql.to_owned());
            let columns = sql.matches("COUNT(c").count();
            let cells = (0..columns).flat_map(|_| [Some("3".to_owned()), Some("6".to_owned())]);
            Ok(std::iter::once(Some("5".to_owned())).chain(cells).collect())
        });
        let found = found.unwrap();
        assert_eq!((questions.len(), found.rows, found.columns.len()), (3, 5, 450));
        assert_eq!(found.columns[0], ColumnSummary { values: 3, sum: Some(6) });
        assert_eq!(found.columns[449], ColumnSummary { values: 3, sum: None });
        let none = summary(&[], "t", |_| Ok(vec![Some("4".to_owned())])).unwrap();
        assert_eq!((none.rows, none.columns.len()), (4, 0));
    }
}
