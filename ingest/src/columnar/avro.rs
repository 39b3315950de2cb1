//! Avro's object container files: the blocks are found, checked and unpacked here, what is in them is decoded by `arrow-avro`.
//!
//! ```text
//! Obj 1 | metadata: avro.schema, avro.codec | sync    then blocks:    rows | bytes | the packed rows | sync
//! ```
//!
//! *Why* not all by the library: it does not tell which row it was at when it met damage, and unpacks whatever a block asks for.
//! Here the blocks of about 1 MiB are put into a small file of their own, not packed, and that is what it decodes.
//!
//! *Source*: Apache Avro 1.12 specification, "Object Container Files".

use std::collections::VecDeque;
use std::io::{BufRead, Cursor, Read};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_avro::reader::{Reader, ReaderBuilder};

use super::{BATCH_BYTES, FileBytes, RowFile, Trouble, guarded};

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// Largest header: the schema is in it.
const MOST_HEADER_BYTES: usize = 4 << 20;
/// Largest block, packed and unpacked.
const MOST_BLOCK_BYTES: usize = 128 << 20;
/// Longest number.
const NUMBER_BYTES: usize = 10;
/// How many more rows a block is said to have than it has.
const MORE_ROWS: u64 = 1 << 40;

/// The rows of an Avro file.
pub(super) struct Avro {
    bytes: FileBytes,
    schema: SchemaRef,
    /// A header of the same schema that says that nothing is packed.
    header: Vec<u8>,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
    /// Where the next block begins, and the rows before it.
    at: u64,
    rows: u64,
    /// Rows that were read before.
    known: u64,
    /// Blocks that are decoded one after another, because something is wrong with one of them.
    parts: VecDeque<Part>,
    /// The block of which the rows are decoded one by one.
    single: Option<Single>,
    /// Damage that was met while there were rows to be given first.
    damage: Option<String>,
}

/// A block, unpacked, or several.
#[derive(Debug, Default)]
struct Part {
    /// Where it begins in the file.
    at: u64,
    rows: usize,
    /// Rows at its start that were read before.
    skip: usize,
    data: Vec<u8>,
}

/// A block that is decoded row by row.
struct Single {
    at: u64,
    reader: Reader<Cursor<Vec<u8>>>,
    /// Rows that are not to be given, and those behind them.
    skip: usize,
    left: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

impl Avro {
    pub(super) fn open(bytes: FileBytes, rows: u64) -> Result<Avro, Trouble> {
        let (head, length) = read_header(&bytes)?;
        let mut header = MAGIC.to_vec();
        write_number(&mut header, 2);
        for (key, value) in [(&b"avro.schema"[..], head.schema.as_slice()), (b"avro.codec", b"null")] {
            write_number(&mut header, key.len() as u64);
            header.extend_from_slice(key);
            write_number(&mut header, value.len() as u64);
            header.extend_from_slice(value);
        }
        write_number(&mut header, 0);
        header.extend_from_slice(&head.sync);
        let schema = guarded(|| Ok(reader(header.as_slice(), 1)?.schema()))
            .map_err(|what| Trouble::Damage(format!("the schema cannot be read: {what}")))?;
        let Header { codec, sync, .. } = head;
        let (at, known, parts, single, damage) = (length, rows, VecDeque::new(), None, None);
        Ok(Avro { bytes, schema, header, codec, sync, at, rows: 0, known, parts, single, damage })
    }

    /// Reads blocks until there is enough to decode; none at the end.
    fn blocks(&mut self) -> Result<Vec<Part>, Trouble> {
        let (mut blocks, mut size) = (Vec::new(), 0);
        while size < BATCH_BYTES / 2 && self.at < self.bytes.size() {
            match self.block() {
                Ok(Some(block)) => {
                    size += block.data.len() as u64;
                    blocks.push(block);
                }
                Ok(None) => {}
                // The blocks before it first.
                Err(Trouble::Damage(what)) if !blocks.is_empty() => {
                    self.damage = Some(what);
                    break;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(blocks)
    }

    /// Reads one block; nothing when it has no rows, or all of them were read before.
    fn block(&mut self) -> Result<Option<Part>, Trouble> {
        let damage = |what: &str| Trouble::Damage(format!("the block at byte {} {what}", self.at));
        let left = self.bytes.size() - self.at;
        let head = usize::try_from(left).unwrap_or(usize::MAX).min(2 * NUMBER_BYTES);
        let head =
            self.bytes.exactly(self.at, head).map_err(|error| self.bytes.trouble(error.to_string()))?;
        let mut rest = head.as_slice();
        let numbers = read_number(&mut rest).zip(read_number(&mut rest));
        let Some((rows, size)) = numbers else { return Err(damage("breaks off")) };
        let (Ok(rows), Ok(size)) = (u64::try_from(rows), usize::try_from(size)) else {
            return Err(damage("says a length that is none"));
        };
        if size > MOST_BLOCK_BYTES {
            return Err(damage(&format!("has {size} bytes; at most {MOST_BLOCK_BYTES} are read")));
        }
        let body = self.at + (head.len() - rest.len()) as u64;
        let end = body + (size + SYNC_BYTES) as u64;
        if end > self.bytes.size() {
            return Err(damage("breaks off"));
        }
        let is_known = self.rows.saturating_add(rows) <= self.known;
        let from = if is_known { body + size as u64 } else { body };
        let count = usize::try_from(end - from).unwrap_or(usize::MAX);
        let mut packed =
            self.bytes.exactly(from, count).map_err(|error| self.bytes.trouble(error.to_string()))?;
        if packed[count - SYNC_BYTES..] != self.sync {
            return Err(damage("does not end with the file's sync marker"));
        }
        let (at, before) = (self.at, self.rows);
        let mut part = None;
        if !is_known && rows > 0 {
            packed.truncate(size);
            let data = unpack(self.codec, packed).map_err(|what| damage(&what))?;
            if rows > data.len() as u64 {
                return Err(damage(&format!("says {rows} rows in {} bytes", data.len())));
            }
            let number = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
            let skip = number(self.known.saturating_sub(before));
            part = Some(Part { at, rows: number(rows), skip, data });
        }
        (self.at, self.rows) = (end, before + rows);
        Ok(part)
    }

    /// `part` as a file of its own. It says that it has more rows, so that decoding more tells whether there is more.
    fn file_of(&self, part: &Part) -> Vec<u8> {
        let mut file =
            Vec::with_capacity(self.header.len() + part.data.len() + SYNC_BYTES + 2 * NUMBER_BYTES);
        file.extend_from_slice(&self.header);
        write_number(&mut file, part.rows as u64 + MORE_ROWS);
        write_number(&mut file, part.data.len() as u64);
        file.extend_from_slice(&part.data);
        file.extend_from_slice(&self.sync);
        file
    }

    /// All rows of `part`, if it holds so many and nothing else.
    fn decode(&self, part: &Part) -> Result<RecordBatch, String> {
        let file = self.file_of(part);
        guarded(|| {
            let mut reader = reader(file.as_slice(), part.rows)?;
            let batch = reader.next().transpose().map_err(|error| error.to_string())?;
            let batch = batch.filter(|batch| batch.num_rows() == part.rows).ok_or("there are fewer rows")?;
            match reader.next() {
                None => Ok(batch.slice(part.skip, part.rows - part.skip)),
                Some(_) => Err("there is more than rows".to_owned()),
            }
        })
    }

    /// The next row of a block with which something is wrong.
    fn next_single(&mut self) -> Option<Result<RecordBatch, Trouble>> {
        let single = self.single.as_mut()?;
        let damage = |what: String| {
            Some(Err(Trouble::Damage(format!("the block at byte {} is damaged ({what})", single.at))))
        };
        while single.skip + single.left > 0 {
            let row = guarded(|| match single.reader.next() {
                Some(batch) => batch.map_err(|error| error.to_string()),
                None => Err("it has fewer rows than it says".to_owned()),
            });
            match row {
                Ok(_) if single.skip > 0 => single.skip -= 1,
                Ok(row) => {
                    single.left -= 1;
                    return Some(Ok(row));
                }
                Err(what) => return damage(what),
            }
        }
        let rest = guarded(|| Ok(single.reader.next().is_some()));
        if rest != Ok(false) {
            return damage("it has more than the rows that it says".to_owned());
        }
        self.single = None;
        None
    }
}

impl RowFile for Avro {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        if let Some(row) = self.next_single() {
            return row.map(Some);
        }
        let part = match self.parts.pop_front() {
            Some(part) => part,
            None => {
                if let Some(damage) = self.damage.take() {
                    return Err(Trouble::Damage(damage));
                }
                let parts = self.blocks()?;
                if parts.len() > 1 {
                    let mut all = Part { skip: parts[0].skip, ..Part::default() };
                    for part in &parts {
                        all.rows += part.rows;
                        all.data.extend_from_slice(&part.data);
                    }
                    if let Ok(batch) = self.decode(&all) {
                        return Ok(Some(batch));
                    }
                }
                self.parts = parts.into();
                let Some(part) = self.parts.pop_front() else { return Ok(None) };
                part
            }
        };
        if let Ok(batch) = self.decode(&part) {
            return Ok(Some(batch));
        }
        let file = self.file_of(&part);
        let reader = guarded(|| reader(Cursor::new(file), 1)).map_err(Trouble::Damage)?;
        self.single = Some(Single { at: part.at, reader, skip: part.skip, left: part.rows - part.skip });
        self.next()
    }
}

fn reader<R: BufRead>(file: R, rows: usize) -> Result<Reader<R>, String> {
    let builder = ReaderBuilder::new().with_batch_size(rows);
    builder.build(file).map_err(|error| error.to_string())
}

/// What a file says of itself.
struct Header {
    schema: Vec<u8>,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
}

/// The header, and how many bytes it has.
fn read_header(bytes: &FileBytes) -> Result<(Header, u64), Trouble> {
    let mut size = 64 << 10;
    loop {
        let there = usize::try_from(bytes.size()).unwrap_or(usize::MAX);
        let head = bytes.exactly(0, size.min(there)).map_err(|error| bytes.trouble(error.to_string()))?;
        match parse_header(&head)
            .map_err(|what| Trouble::Damage(format!("the file is no Avro file: {what}")))?
        {
            Some((header, length)) => return Ok((header, length as u64)),
            None if size >= there => return Err(Trouble::Damage("the header breaks off".to_owned())),
            None if size >= MOST_HEADER_BYTES => {
                return Err(Trouble::Damage(format!("the header has more than {MOST_HEADER_BYTES} bytes")));
            }
            None => size *= 4,
        }
    }
}

/// `None`: it goes on behind these bytes.
fn parse_header(bytes: &[u8]) -> Result<Option<(Header, usize)>, String> {
    if bytes.len() < MAGIC.len() {
        return Ok(None);
    }
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        return Err("it does not begin like one".to_owned());
    };
    let (mut schema, mut codec) = (None, Codec::Null);
    loop {
        let Some(mut count) = read_number(&mut rest) else { return Ok(None) };
        if count == 0 {
            break;
        }
        if count < 0 {
            // Then its size in bytes follows.
            count = count.saturating_neg();
            if read_number(&mut rest).is_none() {
                return Ok(None);
            }
        }
        for _ in 0..count {
            let Some(key) = read_bytes(&mut rest)? else { return Ok(None) };
            let Some(value) = read_bytes(&mut rest)? else { return Ok(None) };
            match key {
                b"avro.schema" => schema = Some(value.to_vec()),
                b"avro.codec" => codec = Codec::named(value)?,
                _ => {}
            }
        }
    }
    let Some(sync) = rest.first_chunk::<SYNC_BYTES>() else { return Ok(None) };
    let schema = schema.ok_or("it has no schema")?;
    let length = bytes.len() - rest.len() + SYNC_BYTES;
    Ok(Some((Header { schema, codec, sync: *sync }, length)))
}

impl Codec {
    fn named(name: &[u8]) -> Result<Codec, String> {
        Ok(match name {
            b"null" | b"" => Codec::Null,
            b"deflate" => Codec::Deflate,
            b"snappy" => Codec::Snappy,
            b"zstandard" => Codec::Zstandard,
            other => {
                let name = String::from_utf8_lossy(other);
                return Err(format!(
                    "its blocks are packed with `{name}`; null, deflate, snappy and zstandard are read"
                ));
            }
        })
    }
}

/// What a block holds.
fn unpack(codec: Codec, packed: Vec<u8>) -> Result<Vec<u8>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot be unpacked: {error}");
    let too_large = || format!("has more than {MOST_BLOCK_BYTES} bytes when it is unpacked");
    let mut data = Vec::new();
    let most = MOST_BLOCK_BYTES as u64 + 1;
    let unpacking = match codec {
        Codec::Null => return Ok(packed),
        Codec::Deflate => {
            flate2::read::DeflateDecoder::new(packed.as_slice()).take(most).read_to_end(&mut data)
        }
        Codec::Zstandard => zstd::stream::read::Decoder::with_buffer(packed.as_slice())
            .and_then(|unpacking| unpacking.take(most).read_to_end(&mut data)),
        Codec::Snappy => {
            // A CRC-32 of what is unpacked follows.
            let (packed, crc) = packed.split_last_chunk::<4>().ok_or("is too short")?;
            if snap::raw::decompress_len(packed).map_err(|error| cannot(&error))? > MOST_BLOCK_BYTES {
                return Err(too_large());
            }
            data = snap::raw::Decoder::new().decompress_vec(packed).map_err(|error| cannot(&error))?;
            let mut sum = flate2::Crc::new();
            sum.update(&data);
            if sum.sum() != u32::from_be_bytes(*crc) {
                return Err("is damaged: its CRC is wrong".to_owned());
            }
            return Ok(data);
        }
    };
    unpacking.map_err(|error| cannot(&error))?;
    if data.len() > MOST_BLOCK_BYTES { Err(too_large()) } else { Ok(data) }
}

/// A zig-zag number of variable length; `None` when it breaks off, or is too long.
fn read_number(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    let all = *bytes;
    for (i, byte) in all.iter().take(NUMBER_BYTES).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &all[i + 1..];
            return Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
        }
    }
    None
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut number = number << 1;
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

/// Bytes with their length before them; `None` when they break off.
fn read_bytes<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, String> {
    let Some(length) = read_number(bytes) else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| "its header says a length that is none")?;
    if length > MOST_HEADER_BYTES {
        return Err("its header says a length that is none".to_owned());
    }
    let Some((part, rest)) = bytes.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(part))
}
