//! Reading: whole record batches, and the records in them without a copy.

use bytes::Bytes;
use tarn_model::config::Compression;
use tarn_model::{Error, Offset, OffsetRange, PartitionId, Result};

use crate::batch::{self, HEADER_BYTES, Header, MAX_UNPACKED_BYTES, RawRecord};
use crate::visible::Aborted;
use crate::{codec, varint};

/// Unpacked bytes at which [`Fetch::records`] takes no further batch: a batch of a few KiB may unpack to 64 MiB, and a fetch may
/// hold hundreds of them.
const UNPACKED_AT_ONCE: usize = 8 << 20;

/// Record batches of one partition, as stored.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The partition.
    pub partition: PartitionId,
    /// Whole record batches, their CRCs verified; the first may begin below the offset that was asked for. They share
    /// few buffers: one that is kept keeps its neighbours.
    pub batches: Vec<Bytes>,
    /// The offset that was asked for.
    pub from: Offset,
    /// The offset after the last record of `batches` (`from` when there are none); [`Fetch::records`] may move it back.
    pub next: Offset,
    /// Committed end of the partition at the time of the read.
    pub end: Offset,
    /// Below it nothing belongs to an open transaction; at the time of the read.
    pub stable: Offset,
    /// Aborted transactions with records in `batches`; none when undecided records were asked for.
    pub aborted: Vec<Aborted>,
}

impl Fetch {
    /// Unpacks the batches (whose CRCs [`crate::Log::fetch`] has verified): decompresses them, within limits, and checks
    /// that every record is whole. Markers and what was aborted are left out.
    ///
    /// Once 8 MiB are unpacked (at least one batch is), what is left is let go: `batches` and `next` end there, so `next` is where to
    /// go on only when it is read afterwards.
    pub fn records(&mut self) -> Result<Records> {
        let unpacked = Records::unpack(&self.batches, self.from, &self.aborted);
        let (records, cut) =
            unpacked.map_err(|what| Error::corrupt(format!("{what} partition=`{}`", self.partition)))?;
        if let Some((batches, next)) = cut {
            self.batches.truncate(batches);
            self.next = next.max(self.from);
        }
        Ok(records)
    }
}

/// Unpacked records of a fetch, at or above the offset that was asked for.
#[derive(Debug)]
pub struct Records {
    batches: Vec<Unpacked>,
    from: Offset,
    len: usize,
    passed: Vec<OffsetRange>,
}

/// A batch whose records have all been parsed once.
#[derive(Debug)]
struct Unpacked {
    header: Header,
    records: Bytes,
}

impl Records {
    /// Unpacks what a broker answered a fetch with: its whole batches (a torn one at the end is left), without markers and
    /// without what the transactions `(producer, first offset)` wrote, which it says were aborted. Also where to go on: behind all
    /// of them, or where 8 MiB were unpacked.
    pub fn of_answer(answer: &Bytes, from: Offset, aborted: &[(i64, Offset)]) -> Result<(Records, Offset)> {
        let answer = Answer::read(answer, from, aborted)?;
        let unpacked = Records::unpack(&answer.batches, from, &answer.aborted);
        let (records, cut) = unpacked.map_err(|what| unreadable(&what))?;
        Ok((records, cut.map_or(answer.next, |(_, next)| next.max(from))))
    }

    /// Unpacks a batch that a client sent and that has no offset yet: `header` says 0.
    pub(crate) fn of_sent(header: &Header, batch: &Bytes) -> std::result::Result<Records, String> {
        let (unpacked, len) = Unpacked::new(*header, batch, 0)?;
        Ok(Records { batches: vec![unpacked], from: 0, len, passed: Vec::new() })
    }

    /// Unpacks `batches` and keeps the records at or above `from` that count; the error says what cannot be, and where. Also,
    /// where not all of them were unpacked, how many were, and the offset behind those.
    fn unpack(
        batches: &[Bytes],
        from: Offset,
        aborted: &[Aborted],
    ) -> std::result::Result<(Records, Option<(usize, Offset)>), String> {
        let mut records =
            Records { batches: Vec::with_capacity(batches.len()), from, len: 0, passed: Vec::new() };
        let (mut bytes, mut next) = (0, from);
        for (taken, batch) in batches.iter().enumerate() {
            if bytes >= UNPACKED_AT_ONCE {
                return Ok((records, Some((taken, next))));
            }
            let header = Header::parse(batch)?;
            next = header.next_offset();
            if header.counts(aborted) {
                let (unpacked, len) = Unpacked::new(header, batch, from)?;
                bytes += unpacked.records.len();
                records.len += len;
                records.batches.push(unpacked);
            } else {
                records.passed.push(OffsetRange::new(header.base_offset.max(from), next.max(from)));
            }
        }
        Ok((records, None))
    }

    /// Offsets that hold no record that counts: markers, and what was aborted.
    pub fn passed(&self) -> &[OffsetRange] {
        &self.passed
    }

    /// The records in offset order, borrowed from the unpacked batches.
    pub fn iter(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.batches.iter().flat_map(|batch| batch.iter()).skip_while(|record| record.offset < self.from)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Unpacked bytes in memory.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.records.len()).sum()
    }
}

impl Unpacked {
    /// Unpacks a batch and parses all of it; also how many of its records are at or above `from`.
    fn new(header: Header, batch: &Bytes, from: Offset) -> std::result::Result<(Unpacked, usize), String> {
        let refuse = |what: &str| format!("{what} in the batch at offset {}", header.base_offset);
        let compression =
            codec::from_code(header.compression_code()).ok_or_else(|| refuse("an unknown compression"))?;
        let records = match compression {
            Compression::None => batch.slice(HEADER_BYTES..),
            packed => codec::decompress(packed, &batch[HEADER_BYTES..], MAX_UNPACKED_BYTES)
                .map_err(|error| refuse(&format!("records that cannot be unpacked ({error})")))?
                .into(),
        };
        let len = count_records(&header, &records, from).map_err(refuse)?;
        Ok((Unpacked { header, records }, len))
    }

    fn iter(&self) -> impl Iterator<Item = RecordView<'_>> {
        let mut rest = &self.records[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let record =
                batch::take_record(&mut rest).expect("every record was parsed when the batch was unpacked");
            Some(self.view(record))
        })
    }

    #[inline]
    fn view<'a>(&self, record: RawRecord<'a>) -> RecordView<'a> {
        RecordView {
            offset: self.header.base_offset + record.offset_delta,
            timestamp_ms: self.header.timestamp(record.timestamp_delta),
            key: record.key,
            value: record.value,
            raw_headers: record.headers,
        }
    }
}

/// Parses all records: their number must be the header's, their offsets must rise and end at the header's last.
fn count_records(
    header: &Header,
    mut records: &[u8],
    from: Offset,
) -> std::result::Result<usize, &'static str> {
    let (mut seen, mut kept, mut last) = (0_i32, 0, -1_i64);
    while !records.is_empty() {
        let record = batch::take_record(&mut records).ok_or("a torn record")?;
        if record.offset_delta <= last || record.offset_delta > i64::from(header.last_offset_delta) {
            return Err("a record out of order");
        }
        last = record.offset_delta;
        seen = seen.checked_add(1).ok_or("too many records")?;
        kept += usize::from(header.base_offset + last >= from);
    }
    if seen == header.records { Ok(kept) } else { Err("another number of records than the header says") }
}

/// What a broker answered a fetch with, checked and not unpacked: a small answer can hold large batches.
#[derive(Debug)]
pub struct Answer {
    batches: Vec<Bytes>,
    aborted: Vec<Aborted>,
    from: Offset,
    next: Offset,
}

impl Answer {
    /// Takes the whole batches of an answer (a torn one at its end is left); `aborted` are the transactions `(producer, first
    /// offset)` that it says were aborted.
    pub fn read(answer: &Bytes, from: Offset, aborted: &[(i64, Offset)]) -> Result<Answer> {
        let (mut batches, mut next, mut rest) = (Vec::new(), from, answer.clone());
        let mut ends = Vec::new();
        while rest.len() >= HEADER_BYTES {
            let header = Header::parse(&rest).map_err(unreadable)?;
            if header.bytes > rest.len() {
                break;
            }
            let batch = rest.split_to(header.bytes);
            if batch::checksum(&batch) != header.crc {
                return Err(unreadable("its CRC does not match its bytes"));
            }
            if header.is_control() {
                ends.push((header.producer_id, header.base_offset));
            }
            next = next.max(header.next_offset());
            batches.push(batch);
        }
        let until = |producer: i64, first: Offset| {
            let end = ends.iter().find(|(of, at)| *of == producer && *at >= first);
            end.map_or(Offset::MAX, |(_, at)| *at)
        };
        let aborted = aborted.iter().map(|(producer, first)| {
            let last = until(*producer, *first);
            Aborted { producer: *producer, first: *first, last, stable: last }
        });
        Ok(Answer { batches, aborted: aborted.collect(), from, next })
    }

    /// Where to go on after all of it.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Unpacks one batch after another: its records at or above the offset that was asked for, without what was aborted, and where
    /// to go on after it.
    pub fn batches(&self) -> impl Iterator<Item = Result<(Records, Offset)>> {
        self.batches.iter().map(|batch| {
            let header = Header::parse(batch).map_err(unreadable)?;
            let unpacked = Records::unpack(std::slice::from_ref(batch), self.from, &self.aborted);
            let (records, _) = unpacked.map_err(|what| unreadable(&what))?;
            Ok((records, header.next_offset()))
        })
    }
}

fn unreadable(what: &str) -> Error {
    Error::corrupt(format!("a broker's record batch cannot be read: {what}"))
}

/// A record, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    raw_headers: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Names and values of its headers, decoded as they are asked for.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.raw_headers;
        let count = varint::take(&mut rest).unwrap_or(0);
        (0..count).map_while(move |_| batch::take_header(&mut rest))
    }

    /// The value of the first header of this name that has one.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(other, _)| *other == name).and_then(|(_, value)| value)
    }

    /// Its headers as they are encoded: their number, then each.
    pub(crate) fn raw_headers(&self) -> &'a [u8] {
        self.raw_headers
    }

    /// Whether its headers can be read, all of them.
    pub fn headers_are_whole(&self) -> bool {
        batch::headers_are_whole(self.raw_headers)
    }
}
