//! Rows as `COPY ... TO STDOUT` writes them: text, or CSV.

use bytes::{BufMut, BytesMut};
use tarn_model::Result;

use super::command::CopyFormat;
use super::encode::Rows;
use super::types::Column;

/// Writes lines.
pub(super) struct Copier {
    format: CopyFormat,
    value: BytesMut,
}

impl Copier {
    pub(super) fn new(format: CopyFormat) -> Copier {
        Copier { format, value: BytesMut::new() }
    }

    pub(super) fn has_header(&self) -> bool {
        self.format.has_header
    }

    /// The names of the columns as a line.
    pub(super) fn header(&self, columns: &[Column], out: &mut BytesMut) {
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.put_u8(self.format.delimiter);
            }
            write_value(&self.format, column.name.as_bytes(), out);
        }
        out.put_u8(b'\n');
    }

    /// Row `row` as a line.
    pub(super) fn line(&mut self, rows: &Rows, columns: usize, row: usize, out: &mut BytesMut) -> Result<()> {
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
    if format.is_csv {
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
