//! Rows as `COPY ... TO STDOUT` writes them: text, CSV, or binary.

use bytes::{BufMut, BytesMut};
use tarn_model::Result;

use super::command::{CopyFormat, CopyKind};
use super::encode::Rows;
use super::types::Column;

/// What a copy in binary begins with.
const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Writes lines, or binary rows.
pub(super) struct Copier {
    format: CopyFormat,
    value: BytesMut,
}

impl Copier {
    pub(super) fn new(format: CopyFormat) -> Copier {
        Copier { format, value: BytesMut::new() }
    }

    /// How the protocol numbers the format: text and CSV are 0, binary is 1.
    pub(super) fn format_code(&self) -> u8 {
        u8::from(self.format.kind == CopyKind::Binary)
    }

    /// Whether something stands before the first row.
    pub(super) fn has_header(&self) -> bool {
        self.format.has_header || self.format.kind == CopyKind::Binary
    }

    /// What stands before the first row: the columns' names as a line; in binary the signature, no flags and no extension.
    pub(super) fn header(&self, columns: &[Column], out: &mut BytesMut) {
        if self.format.kind == CopyKind::Binary {
            out.put_slice(BINARY_SIGNATURE);
            return out.put_slice(&[0; 8]);
        }
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.put_u8(self.format.delimiter);
            }
            write_value(&self.format, column.name.as_bytes(), out);
        }
        out.put_u8(b'\n');
    }

    /// What stands behind the last row: in binary, a row of -1 values.
    pub(super) fn trailer(&self) -> Option<&'static [u8]> {
        (self.format.kind == CopyKind::Binary).then_some(&[0xff, 0xff])
    }

    /// Row `row` as a line, or in binary as its values.
    pub(super) fn line(&mut self, rows: &Rows, columns: usize, row: usize, out: &mut BytesMut) -> Result<()> {
        if self.format.kind == CopyKind::Binary {
            return rows.fields(row, &[1], out);
        }
        for column in 0..columns {
            if column > 0 {
                out.put_u8(self.format.delimiter);
            }
            match rows.text(column, row, &mut self.value)? {
                None => out.put_slice(self.format.null.as_bytes()),
                Some(value) => write_value(&self.format, value, out),
            }
        }
        out.put_u8(b'\n');
        Ok(())
    }
}

fn write_value(format: &CopyFormat, value: &[u8], out: &mut BytesMut) {
    if format.kind == CopyKind::Csv {
        let special =
            |byte: &u8| *byte == format.delimiter || *byte == format.quote || matches!(byte, b'\n' | b'\r');
        if value != format.null.as_bytes() && !value.iter().any(special) && value != b"\\." {
            return out.put_slice(value);
        }
        out.put_u8(format.quote);
        for byte in value {
            if *byte == format.quote {
                out.put_u8(format.quote);
            }
            out.put_u8(*byte);
        }
        return out.put_u8(format.quote);
    }
    let special = |byte: &u8| *byte == b'\\' || *byte < b' ' || *byte == format.delimiter;
    if !value.iter().any(special) {
        return out.put_slice(value);
    }
    for byte in value {
        let escaped = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            8 => b'b',
            11 => b'v',
            12 => b'f',
            other if *other == format.delimiter => *other,
            other => {
                out.put_u8(*other);
                continue;
            }
        };
        out.put_slice(&[b'\\', escaped]);
    }
}
