//! What the server says, as bytes.

use bytes::{BufMut, BytesMut};
use tarn_model::{Error, Kind};

use super::types::Column;

/// Messages that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Replies {
    pub(super) bytes: BytesMut,
}

/// Whether a client is in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction {
    None,
    Open,
    /// Only its end is accepted.
    Failed,
}

impl Replies {
    /// A message of this tag with what `fill` writes.
    pub(super) fn message(&mut self, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
        self.bytes.put_u8(tag);
        let at = self.bytes.len();
        self.bytes.put_i32(0);
        fill(&mut self.bytes);
        set_length(&mut self.bytes, at, at);
    }

    pub(super) fn authenticated(&mut self) {
        self.message(b'R', |bytes| bytes.put_i32(0));
    }

    pub(super) fn negotiate(&mut self, unknown: &[String]) {
        self.message(b'v', |bytes| {
            bytes.put_i32(3 << 16);
            bytes.put_i32(i32::try_from(unknown.len()).unwrap_or(i32::MAX));
            for option in unknown {
                text(bytes, option);
            }
        });
    }

    pub(super) fn setting(&mut self, name: &str, value: &str) {
        self.message(b'S', |bytes| {
            text(bytes, name);
            text(bytes, value);
        });
    }

    pub(super) fn cancel_key(&mut self, process: i32, secret: i32) {
        self.message(b'K', |bytes| {
            bytes.put_i32(process);
            bytes.put_i32(secret);
        });
    }

    pub(super) fn ready(&mut self, transaction: Transaction) {
        self.message(b'Z', |bytes| {
            bytes.put_u8(match transaction {
                Transaction::None => b'I',
                Transaction::Open => b'T',
                Transaction::Failed => b'E',
            });
        });
    }

    pub(super) fn parsed(&mut self) {
        self.message(b'1', |_| {});
    }

    pub(super) fn bound(&mut self) {
        self.message(b'2', |_| {});
    }

    pub(super) fn closed(&mut self) {
        self.message(b'3', |_| {});
    }

    pub(super) fn suspended(&mut self) {
        self.message(b's', |_| {});
    }

    pub(super) fn no_rows(&mut self) {
        self.message(b'n', |_| {});
    }

    pub(super) fn empty(&mut self) {
        self.message(b'I', |_| {});
    }

    pub(super) fn complete(&mut self, tag: &str) {
        self.message(b'C', |bytes| text(bytes, tag));
    }

    pub(super) fn parameters(&mut self, types: &[u32]) {
        self.message(b't', |bytes| {
            bytes.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
            types.iter().for_each(|oid| bytes.put_u32(*oid));
        });
    }

    /// The columns of the rows that follow; column `i` comes in format `formats(i)`.
    pub(super) fn columns(&mut self, columns: &[Column], formats: impl Fn(usize) -> i16) {
        self.message(b'T', |bytes| {
            bytes.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
            for (at, column) in columns.iter().enumerate() {
                text(bytes, &column.name);
                bytes.put_i32(0);
                bytes.put_i16(0);
                bytes.put_u32(column.kind.oid());
                bytes.put_i16(column.kind.size());
                bytes.put_i32(column.modifier);
                bytes.put_i16(formats(at));
            }
        });
    }

    /// Copied rows follow, as text (0) or binary (1).
    pub(super) fn copy_out(&mut self, columns: usize, format: u8) {
        self.message(b'H', |bytes| {
            bytes.put_u8(format);
            bytes.put_u16(u16::try_from(columns).unwrap_or(u16::MAX));
            (0..columns).for_each(|_| bytes.put_i16(i16::from(format)));
        });
    }

    pub(super) fn copy_done(&mut self) {
        self.message(b'c', |_| {});
    }

    /// An error in the client's `sql`, for its place.
    pub(super) fn error(&mut self, error: &Error, sql: &str) {
        self.severe("ERROR", error, sql);
    }

    /// An error after which the server hangs up.
    pub(super) fn fatal(&mut self, error: &Error) {
        self.severe("FATAL", error, "");
    }

    /// Something to know that is no error.
    pub(super) fn notice(&mut self, code: &str, message: &str) {
        self.message(b'N', |bytes| {
            for (field, value) in [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', code), (b'M', message)] {
                bytes.put_u8(field);
                text(bytes, value);
            }
            bytes.put_u8(0);
        });
    }

    fn severe(&mut self, severity: &str, error: &Error, sql: &str) {
        let causes = error.chain();
        let detail = causes.strip_prefix(&format!("{error}: ")).map(str::to_owned);
        let position = error.place().and_then(|place| position(sql, place.line, place.column));
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', sqlstate(error).to_owned()),
            (b'M', error.to_string()),
        ];
        fields.extend(detail.map(|detail| (b'D', detail)));
        fields.extend(error.hint().map(|hint| (b'H', hint.to_owned())));
        fields.extend(position.map(|position| (b'P', position.to_string())));
        self.message(b'E', |bytes| {
            for (field, value) in fields {
                bytes.put_u8(field);
                text(bytes, &value);
            }
            bytes.put_u8(0);
        });
    }
}

/// The code of an error: its own, or its kind's.
pub(super) fn sqlstate(error: &Error) -> &'static str {
    error.sqlstate().unwrap_or(match error.kind() {
        Kind::Invalid => "42000",
        Kind::Unavailable => "58000",
        Kind::Conflict => "40001",
        Kind::Corrupt => "XX001",
        Kind::Fenced => "57P01",
        Kind::Internal => "XX000",
    })
}

/// Line and column of `sql` as the number of a character, from 1.
fn position(sql: &str, line: u64, column: u64) -> Option<usize> {
    let before: usize =
        sql.split('\n').take(usize::try_from(line).ok()? - 1).map(|line| line.chars().count() + 1).sum();
    let position = before + usize::try_from(column).ok()?;
    (position <= sql.chars().count() + 1).then_some(position)
}

/// A text and the zero that ends it. A zero within would end it early.
fn text(bytes: &mut BytesMut, text: &str) {
    bytes.extend(text.bytes().filter(|byte| *byte != 0));
    bytes.put_u8(0);
}

/// Writes at `at` how many bytes came since `from`.
pub(super) fn set_length(bytes: &mut BytesMut, at: usize, from: usize) {
    let length = i32::try_from(bytes.len() - from).unwrap_or(i32::MAX);
    bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use tarn_model::Place;

    use super::*;

    #[test]
    fn an_error_says_code_hint_and_place() {
        let error = Error::invalid("there is no column `b`")
            .with_sqlstate("42703")
            .with_hint("did you mean `a`?")
            .with_place(Place { line: 2, column: 3 });
        let mut replies = Replies::default();
        replies.error(&error, "SELECT\n  b FROM ü");
        let text = String::from_utf8_lossy(&replies.bytes).replace('\0', "|");
        assert!(text.contains("|C42703|Mthere is no column `b`|Hdid you mean `a`?|P10||"), "{text}");
        assert_eq!(usize::from(replies.bytes[4]), replies.bytes.len() - 1);
    }
}
