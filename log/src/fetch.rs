//! Reading: whole record batches, and the records in them without a copy.

use bytes::Bytes;
use tarn_model::config::Compression;
use tarn_model::{Error, Offset, OffsetRange, PartitionId, Result};

use crate::batch::{self, HEADER_BYTES, Header, MAX_UNPACKED_BYTES, RawRecord};
use crate::visible::Aborted;
use crate::{codec, varint};

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
    /// The offset after the last record of `batches` (`from` when there are none).
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
    pub fn records(&self) -> Result<Records> {
        Records::unpack(&self.batches, self.from, &self.aborted)
            .map_err(|what| Error::corrupt(format!("{what} partition=`{}`", self.partition)))
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
    /// without what the transactions `(producer, first offset)` wrote, which it says were aborted. Also where to go on.
    pub fn of_answer(answer: &Bytes, from: Offset, aborted: &[(i64, Offset)]) -> Result<(Records, Offset)> {
        let answer = Answer::read(answer, from, aborted)?;
        Ok((
            Records::unpack(&answer.batches, from, &answer.aborted).map_err(|what| unreadable(&what))?,
            answer.next,
        ))
    }

    /// Unpacks `batches` and keeps the records at or above `from` that count; the error says what cannot be, and where.
    pub(crate) fn unpack(
        batches: &[Bytes],
        from: Offset,
        aborted: &[Aborted],
    ) -> std::result::Result<Records, String> {
        let mut unpacked = Vec::with_capacity(batches.len());
        let (mut len, mut passed) = (0, Vec::new());
        for batch in batches {
            let header = Header::parse(batch)?;
            if !header.counts(aborted) {
                passed.push(OffsetRange::new(header.base_offset.max(from), header.next_offset().max(from)));
                continue;
            }
            let refuse = |what: &str| format!("{what} in the batch at offset {}", header.base_offset);
            let compression = codec::from_code(header.compression_code())
                .ok_or_else(|| refuse("an unknown compression"))?;
            let records = match compression {
                Compression::None => batch.slice(HEADER_BYTES..),
                packed => codec::decompress(packed, &batch[HEADER_BYTES..], MAX_UNPACKED_BYTES)
                    .map_err(|error| refuse(&format!("records that cannot be unpacked ({error})")))?
                    .into(),
            };
            len += count_records(&header, &records, from).map_err(refuse)?;
            unpacked.push(Unpacked { header, records });
        }
        Ok(Records { batches: unpacked, from, len, passed })
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
            let records = Records::unpack(std::slice::from_ref(batch), self.from, &self.aborted);
            Ok((records.map_err(|what| unreadable(&what))?, header.next_offset()))
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
