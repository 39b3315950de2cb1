//! Lines of a stream, cut from large blocks without a copy.
//!
//! A line longer than the limit is never held whole: its head is kept, the rest is hashed and skipped.

use std::io::{self, Read};

use memchr::memchr;
use xxhash_rust::xxh3::Xxh3;

use crate::feed::Feed;

/// Cuts a stream at its newlines.
pub(crate) struct LineCutter<R> {
    feed: Feed<R>,
    /// Lines before the next one.
    lines: u64,
    limits: Limits,
    head: Vec<u8>,
}

/// How much of a record is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Longest record that is passed on whole.
    pub(crate) whole: usize,
    /// How much is kept of a longer one.
    pub(crate) head: usize,
}

impl Limits {
    /// What is kept of a record that is not passed on whole: as much as the log keeps of one that it cuts itself.
    const HEAD_BYTES: usize = 4 << 10;

    /// For a topic whose largest record has `max_record_bytes`: what the log would cut itself is passed whole.
    pub(crate) fn of_topic(max_record_bytes: usize) -> Limits {
        Limits { whole: max_record_bytes, head: Limits::HEAD_BYTES.min(max_record_bytes / 2) }
    }
}

/// One line without its newline (and without the carriage return before it).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) bytes: &'a [u8],
    /// Its number, from 1.
    pub(crate) number: u64,
    pub(crate) oversize: Option<Oversize>,
}

/// What is known of a record of which only the head is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oversize {
    /// Its whole size in bytes.
    pub(crate) size: u64,
    /// xxh3-128 of all of it.
    pub(crate) hash: u128,
}

impl<R: Read> LineCutter<R> {
    /// Begins at `offset`, after `lines` lines.
    pub(crate) fn new(reader: R, offset: u64, lines: u64, limits: Limits) -> LineCutter<R> {
        LineCutter { feed: Feed::new(reader, offset), lines, limits, head: Vec::new() }
    }

    /// Offset after the last line that was returned.
    pub(crate) fn offset(&self) -> u64 {
        self.feed.offset()
    }

    /// Number of lines that were returned, those before the start included.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// What was read behind the last line, after an error.
    pub(crate) fn remainder(&self) -> &[u8] {
        self.feed.bytes()
    }

    /// The next line; the last one may lack its newline. An error leaves what was read before it.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut searched = 0;
        let (length, newline) = loop {
            if let Some(at) = memchr(b'\n', &self.feed.bytes()[searched..]) {
                break (searched + at, 1);
            }
            searched = self.feed.bytes().len();
            if self.feed.at_end() {
                break (searched, 0);
            }
            if searched > self.limits.whole {
                return self.skip().map(Some);
            }
            self.feed.fill()?;
        };
        if length == 0 && newline == 0 {
            return Ok(None);
        }
        let range = self.feed.consume(length + newline);
        let mut bytes = self.feed.range(range.start..range.end - newline);
        if self.lines == 0 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        if newline == 1 {
            bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        }
        self.lines += 1;
        Ok(Some(Line { bytes, number: self.lines, oversize: None }))
    }

    fn skip(&mut self) -> io::Result<Line<'_>> {
        self.head.clear();
        self.head.extend_from_slice(&self.feed.bytes()[..self.limits.head.min(self.feed.bytes().len())]);
        let (mut size, mut hash) = (0_u64, Xxh3::new());
        loop {
            let bytes = self.feed.bytes();
            let newline = memchr(b'\n', bytes);
            let part = newline.unwrap_or(bytes.len());
            hash.update(&bytes[..part]);
            size += part as u64;
            self.feed.consume(part + usize::from(newline.is_some()));
            if newline.is_some() || self.feed.at_end() {
                break;
            }
            self.feed.fill()?;
        }
        self.lines += 1;
        let oversize = Some(Oversize { size, hash: hash.digest128() });
        Ok(Line { bytes: &self.head, number: self.lines, oversize })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { whole: 64, head: 8 };

    /// Gives at most `step` bytes a read.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn cut(bytes: &[u8], step: usize) -> Vec<(Vec<u8>, u64, Option<u64>)> {
        let mut cutter = LineCutter::new(Dribble(bytes, step), 0, 0, LIMITS);
        let mut lines = Vec::new();
        while let Some(line) = cutter.next().unwrap() {
            lines.push((line.bytes.to_vec(), line.number, line.oversize.map(|o| o.size)));
        }
        assert_eq!(cutter.offset(), bytes.len() as u64);
        lines
    }

    #[test]
    fn carriage_returns_byte_order_mark_and_a_missing_last_newline_are_no_content() {
        let lines = cut(b"\xef\xbb\xbfone\r\n\ntwo", 3);
        let texts: Vec<_> = lines.iter().map(|(text, number, _)| (text.as_slice(), *number)).collect();
        assert_eq!(texts, [(&b"one"[..], 1), (b"", 2), (b"two", 3)]);
    }

    #[test]
    fn a_line_of_100_mb_takes_a_few_mib_and_leaves_its_neighbours_whole() {
        let long = 100_000_000_u64;
        let input = io::Cursor::new(b"before\n".to_vec())
            .chain(io::repeat(b'x').take(long))
            .chain(io::Cursor::new(b"\nafter\n".to_vec()));
        let mut cutter = LineCutter::new(input, 0, 0, Limits::of_topic(1 << 20));
        assert_eq!(cutter.next().unwrap().unwrap().bytes, b"before");
        let line = cutter.next().unwrap().unwrap();
        assert_eq!((line.number, line.oversize.unwrap().size), (2, long));
        assert_eq!(line.bytes, [b'x'; 4096]);
        assert_eq!(cutter.next().unwrap().unwrap().bytes, b"after");
        assert!(cutter.next().unwrap().is_none());
        assert!(cutter.feed.block_bytes() <= 4 << 20, "{}", cutter.feed.block_bytes());
    }

    proptest! {
        #[test]
        fn cutting_does_not_depend_on_how_the_bytes_arrive(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            step in 1_usize..50,
        ) {
            let bytes = parts.join(&b'\n');
            let plain: Vec<&[u8]> = match bytes.strip_suffix(b"\n") {
                _ if bytes.is_empty() => vec![],
                Some(rest) => rest.split(|b| *b == b'\n').collect(),
                None => bytes.split(|b| *b == b'\n').collect(),
            };
            let lines = cut(&bytes, step);
            prop_assert_eq!(lines.len(), plain.len());
            for (i, ((text, number, oversize), whole)) in lines.iter().zip(plain).enumerate() {
                prop_assert_eq!(*number, i as u64 + 1);
                match oversize {
                    Some(size) => {
                        prop_assert_eq!(*size, whole.len() as u64);
                        prop_assert_eq!(text.as_slice(), &whole[..LIMITS.head]);
                    }
                    None => prop_assert!(whole.ends_with(text) || whole.starts_with(text)),
                }
            }
        }
    }
}
