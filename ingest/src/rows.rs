//! Rows of a CSV stream, and their form as JSON objects.
//!
//! Parsed by `csv-core`, whose automaton tells how many bytes a row takes: so the raw bytes of a row that does not fit
//! are at hand, and the offset at which to go on after a restart is exact.

use std::io::{self, Read};

use csv_core::ReadRecordResult;
use tarn_model::config::{CsvConfig, CsvHeader};
use xxhash_rust::xxh3::Xxh3;

use crate::feed::Feed;
use crate::json;
use crate::lines::{Limits, Oversize};

/// Cuts a stream into CSV rows; a row may span lines where cells are quoted. Empty lines are no rows.
pub(crate) struct RowCutter<R> {
    feed: Feed<R>,
    parser: csv_core::Reader,
    limits: Limits,
    /// Newlines consumed.
    lines: u64,
    cells: Vec<u8>,
    ends: Vec<usize>,
    head: Vec<u8>,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// Its bytes without the line break; the head of them when it is oversize.
    pub(crate) raw: &'a [u8],
    /// The line it starts on, from 1.
    pub(crate) line: u64,
    pub(crate) oversize: Option<Oversize>,
    cells: &'a [u8],
    ends: &'a [usize],
}

impl<R: Read> RowCutter<R> {
    /// Begins at `offset`, after `lines` newlines.
    pub(crate) fn new(reader: R, offset: u64, lines: u64, delimiter: u8, limits: Limits) -> RowCutter<R> {
        let mut parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        if offset > 0 {
            // A byte order mark belongs to the start of a file only: the parser is told that this is not one.
            let _ = parser.read_record(b"\n", &mut [0; 8], &mut [0; 8]);
        }
        RowCutter {
            feed: Feed::new(reader, offset),
            parser,
            limits,
            lines,
            cells: vec![0; 4096],
            ends: vec![0; 64],
            head: Vec::new(),
        }
    }

    /// Offset after the last row that was returned.
    pub(crate) fn offset(&self) -> u64 {
        self.feed.offset()
    }

    /// Newlines up to there.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// What was read behind the last row, after an error.
    pub(crate) fn remainder(&self) -> &[u8] {
        self.feed.bytes()
    }

    /// The next row. An error leaves what was read before it.
    pub(crate) fn next(&mut self) -> io::Result<Option<Row<'_>>> {
        let (mut parsed, mut filled, mut count) = (0, 0, 0);
        loop {
            if parsed == self.feed.bytes().len() && !self.feed.at_end() {
                if parsed > self.limits.whole {
                    return self.skip(parsed).map(Some);
                }
                self.feed.fill()?;
                continue;
            }
            let (result, read, written, ended) = self.parser.read_record(
                &self.feed.bytes()[parsed..],
                &mut self.cells[filled..],
                &mut self.ends[count..],
            );
            parsed += read;
            filled += written;
            count += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.cells.resize(self.cells.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => {
                    self.lines += newlines(self.feed.bytes());
                    self.feed.consume(parsed);
                    return Ok(None);
                }
            }
        }
        let range = self.feed.consume(parsed);
        let raw = self.feed.range(range);
        let blank = raw.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let line = self.lines + newlines(&raw[..blank]) + 1;
        self.lines += newlines(raw);
        let mut raw = &raw[blank..];
        while let [rest @ .., b'\r' | b'\n'] = raw {
            raw = rest;
        }
        Ok(Some(Row { raw, line, oversize: None, cells: &self.cells[..filled], ends: &self.ends[..count] }))
    }

    /// Goes on to the end of a row that is longer than the limit, of which `parsed` bytes are in the block.
    fn skip(&mut self, mut parsed: usize) -> io::Result<Row<'_>> {
        let bytes = self.feed.bytes();
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let line = self.lines + newlines(&bytes[..blank]) + 1;
        self.head.clear();
        self.head.extend_from_slice(&bytes[blank..bytes.len().min(blank + self.limits.head)]);
        let (mut size, mut hash) = (0_u64, Xxh3::new());
        let mut skipped = blank;
        let mut found = false;
        loop {
            let range = self.feed.consume(parsed);
            let bytes = self.feed.range(range);
            let mut part = &bytes[skipped.min(bytes.len())..];
            skipped = 0;
            self.lines += newlines(bytes);
            if found {
                while let [rest @ .., b'\r' | b'\n'] = part {
                    part = rest;
                }
            }
            hash.update(part);
            size += part.len() as u64;
            if found {
                break;
            }
            parsed = 0;
            while !found {
                if parsed == self.feed.bytes().len() && !self.feed.at_end() {
                    if parsed > 0 {
                        break;
                    }
                    self.feed.fill()?;
                    continue;
                }
                let (result, read, _, _) =
                    self.parser.read_record(&self.feed.bytes()[parsed..], &mut self.cells, &mut self.ends);
                parsed += read;
                found = matches!(result, ReadRecordResult::Record | ReadRecordResult::End);
            }
        }
        let oversize = Some(Oversize { size, hash: hash.digest128() });
        Ok(Row { raw: &self.head, line, oversize, cells: &[], ends: &[] })
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

impl<'a> Row<'a> {
    /// How many cells it has.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Its cells' bytes.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &'a [u8]> {
        let (cells, mut from) = (self.cells, 0);
        self.ends.iter().map(move |end| {
            let cell = &cells[from..*end];
            from = *end;
            cell
        })
    }
}

/// How rows become JSON objects: names, what means NULL, and which cell is the key.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// `{"name":` and `,"name":`, ready to be copied.
    before: Vec<Vec<u8>>,
    names: Vec<String>,
    null_values: Vec<String>,
    key: Option<usize>,
}

impl Shape {
    /// Names as the config or `first`, the first row, gives them. The second value tells whether that row is data.
    pub(crate) fn new(csv: &CsvConfig, first: Option<&Row<'_>>, key: Option<&str>) -> (Shape, bool) {
        let (names, is_data) = match (&csv.header, first) {
            (CsvHeader::Names(names), _) => (names.clone(), true),
            (CsvHeader::FirstLine(true), Some(row)) => {
                (row.cells().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect(), false)
            }
            (CsvHeader::FirstLine(_), row) => (vec![String::new(); row.map_or(0, Row::len)], true),
        };
        let names = distinct(names);
        let key = key.and_then(|key| names.iter().position(|name| name == key));
        let before = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let mut text = vec![if i == 0 { b'{' } else { b',' }];
                json::write_string(&mut text, name);
                text.push(b':');
                text
            })
            .collect();
        (Shape { before, names, null_values: csv.null_values.clone(), key }, is_data)
    }

    /// The shape of the one row that a dead letter holds; `names` is what [`Shape::names`] said of its file, unless the config
    /// names the cells itself.
    pub(crate) fn of_names(csv: &CsvConfig, names: &str, key: Option<&str>) -> serde_json::Result<Shape> {
        let header = match &csv.header {
            CsvHeader::Names(names) => CsvHeader::Names(names.clone()),
            CsvHeader::FirstLine(_) => CsvHeader::Names(serde_json::from_str(names)?),
        };
        Ok(Shape::new(&CsvConfig { header, ..csv.clone() }, None, key).0)
    }

    /// The names of the cells, as a JSON list.
    pub(crate) fn names(&self) -> String {
        serde_json::Value::from(self.names.as_slice()).to_string()
    }

    /// Whether rows have the cell that the key is taken from.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Writes `row` as a JSON object into `out`; the error says why it cannot be one.
    pub(crate) fn encode<'r>(&self, row: &Row<'r>, out: &mut Vec<u8>) -> Result<Option<&'r str>, String> {
        let (line, found, wanted) = (row.line, row.len(), self.before.len());
        if found != wanted {
            let fields = if found == 1 { "field" } else { "fields" };
            return Err(format!("line {line} has {found} {fields}, the header has {wanted}"));
        }
        out.clear();
        let mut key = None;
        // Checked once for all cells; a character may not reach over the edge of a cell.
        let text = std::str::from_utf8(row.cells).map_err(|error| self.not_text(row, error.valid_up_to()))?;
        let mut from = 0;
        for (i, end) in row.ends.iter().enumerate() {
            let cell = text.get(from..*end).ok_or_else(|| self.not_text(row, from))?;
            from = *end;
            out.extend_from_slice(&self.before[i]);
            let null = self.null_values.iter().any(|null| null == cell);
            if null {
                out.extend_from_slice(b"null");
            } else {
                json::write_string(out, cell);
            }
            if self.key == Some(i) && !null {
                key = Some(cell);
            }
        }
        out.extend_from_slice(if wanted == 0 { b"{}" } else { b"}" });
        Ok(key)
    }

    fn not_text(&self, row: &Row<'_>, at: usize) -> String {
        let cell = row.ends.iter().position(|end| at < *end).unwrap_or_default();
        let name = self.before.get(cell).map_or(&b""[..], |before| &before[1..before.len() - 1]);
        format!("line {} is not valid UTF-8 in the field {}", row.line, String::from_utf8_lossy(name))
    }
}

/// Names that differ: a missing one becomes `c<number>`, a repeated one gets a number.
fn distinct(names: Vec<String>) -> Vec<String> {
    let mut taken: Vec<String> = Vec::with_capacity(names.len());
    for (i, name) in names.into_iter().enumerate() {
        let name = if name.trim().is_empty() { format!("c{}", i + 1) } else { name };
        let mut candidate = name.clone();
        let mut number = 2;
        while taken.contains(&candidate) {
            candidate = format!("{name}_{number}");
            number += 1;
        }
        taken.push(candidate);
    }
    taken
}

#[cfg(test)]
mod tests;
