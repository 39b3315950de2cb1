//! Messages of a stream of bytes: lines, and syslog's messages that begin with their length.
//!
//! ```text
//! Lines     text\n text\r\n text<end>
//! Syslog    the same, and `NNN SP` followed by NNN bytes (RFC 6587), told apart message by message: a message that is not
//!           counted begins with `<`, a counted one with a digit
//! ```
//! A message longer than the limit is never held whole: its head is kept, the rest is hashed and skipped.

use memchr::memchr;
use xxhash_rust::xxh3::Xxh3;

use crate::lines::{Limits, Oversize};

/// Digits of a length.
const MOST_DIGITS: usize = 9;

/// How a stream is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Lines,
    Syslog,
}

/// Messages behind one another in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    ends: Vec<End>,
}

#[derive(Debug)]
struct End {
    at: usize,
    oversize: Option<Oversize>,
    error: Option<&'static str>,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    /// When `bytes` is only the head of it.
    pub(crate) oversize: Option<Oversize>,
    /// Why it is not whole.
    pub(crate) error: Option<&'static str>,
}

impl Messages {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.push_with(bytes, None, None);
    }

    pub(crate) fn push_message(&mut self, message: &Message<'_>) {
        self.push_with(message.bytes, message.oversize, message.error);
    }

    fn push_with(&mut self, bytes: &[u8], oversize: Option<Oversize>, error: Option<&'static str>) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(End { at: self.bytes.len(), oversize, error });
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        let mut from = 0;
        self.ends.iter().map(move |end| {
            let bytes = &self.bytes[from..end.at];
            from = end.at;
            Message { bytes, oversize: end.oversize, error: end.error }
        })
    }
}

/// Cuts one stream.
pub(crate) struct Framer {
    framing: Framing,
    limits: Limits,
    state: State,
    /// What is there of the message that has not ended.
    pending: Vec<u8>,
}

enum State {
    /// Before a message.
    Start,
    /// In what may be a length.
    Length,
    /// In a message up to a line break.
    Line,
    /// In a message of which so many bytes are missing.
    Counted(usize),
    /// In a message that is too long, of which so many bytes are missing, or what comes before a line break.
    Long(Option<usize>, Box<Long>),
}

struct Long {
    size: u64,
    hash: Xxh3,
}

impl Long {
    fn of(bytes: &[u8]) -> Box<Long> {
        let mut long = Long { size: 0, hash: Xxh3::new() };
        long.add(bytes);
        Box::new(long)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn oversize(&self) -> Option<Oversize> {
        Some(Oversize { size: self.size, hash: self.hash.digest128() })
    }
}

impl Framer {
    pub(crate) fn new(framing: Framing, limits: Limits) -> Framer {
        Framer { framing, limits, state: State::Start, pending: Vec::new() }
    }

    /// Takes the next bytes of the stream, and appends the messages that end in them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], out: &mut Messages) {
        while !bytes.is_empty() {
            let taken = self.step(bytes, out);
            bytes = &bytes[taken..];
        }
    }

    fn step(&mut self, bytes: &[u8], out: &mut Messages) -> usize {
        match &mut self.state {
            State::Start => {
                let counted =
                    self.framing == Framing::Syslog && bytes[0].is_ascii_digit() && bytes[0] != b'0';
                self.state = if counted { State::Length } else { State::Line };
                0
            }
            State::Length => {
                let room = MOST_DIGITS - self.pending.len();
                let count = bytes.iter().take(room).take_while(|byte| byte.is_ascii_digit()).count();
                self.pending.extend_from_slice(&bytes[..count]);
                match bytes.get(count) {
                    None => {}
                    Some(b' ') => {
                        let length =
                            self.pending.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
                        self.pending.clear();
                        self.state = if length > self.limits.whole {
                            State::Long(Some(length), Long::of(b""))
                        } else {
                            State::Counted(length)
                        };
                        return count + 1;
                    }
                    // No length after all: a line that begins with digits.
                    Some(_) => self.state = State::Line,
                }
                count
            }
            State::Line => match memchr(b'\n', bytes) {
                Some(at) if self.pending.len() + at <= self.limits.whole => {
                    let line = if self.pending.is_empty() {
                        &bytes[..at]
                    } else {
                        self.pending.extend_from_slice(&bytes[..at]);
                        &self.pending
                    };
                    out.push(line.strip_suffix(b"\r").unwrap_or(line));
                    self.pending.clear();
                    self.state = State::Start;
                    at + 1
                }
                None if self.pending.len() + bytes.len() <= self.limits.whole => {
                    self.pending.extend_from_slice(bytes);
                    bytes.len()
                }
                _ => {
                    let long = Long::of(&self.pending);
                    self.pending.truncate(self.limits.head);
                    self.state = State::Long(None, long);
                    0
                }
            },
            State::Counted(left) => {
                let count = bytes.len().min(*left);
                self.pending.extend_from_slice(&bytes[..count]);
                *left -= count;
                if *left == 0 {
                    out.push(&self.pending);
                    self.pending.clear();
                    self.state = State::Start;
                }
                count
            }
            State::Long(left, long) => {
                let newline = if left.is_some() { None } else { memchr(b'\n', bytes) };
                let part = &bytes[..newline.or(*left).unwrap_or(bytes.len()).min(bytes.len())];
                let room = self.limits.head.saturating_sub(self.pending.len()).min(part.len());
                self.pending.extend_from_slice(&part[..room]);
                long.add(part);
                if let Some(left) = left {
                    *left -= part.len();
                }
                let taken = part.len() + usize::from(newline.is_some());
                if newline.is_some() || *left == Some(0) {
                    out.push_with(&self.pending, long.oversize(), None);
                    self.pending.clear();
                    self.state = State::Start;
                }
                taken
            }
        }
    }

    /// The stream is over; it `broke` when nobody said so. What has not ended comes as it is.
    pub(crate) fn finish(&mut self, broke: bool, out: &mut Messages) {
        let error = broke.then_some("the stream broke off within this message");
        let state = std::mem::replace(&mut self.state, State::Start);
        match state {
            State::Start => {}
            State::Counted(_) | State::Long(Some(_), _) => {
                out.push_with(
                    &self.pending,
                    None,
                    Some("the stream ended before the length of this message"),
                );
            }
            State::Long(None, long) => out.push_with(&self.pending, long.oversize(), error),
            State::Length | State::Line if self.pending.is_empty() => {}
            State::Length | State::Line => {
                let line = self.pending.strip_suffix(b"\r").unwrap_or(&self.pending);
                out.push_with(line, None, error);
            }
        }
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { whole: 40, head: 4 };

    /// What comes out when at most `step` bytes come at once: text, size when it was too long, error.
    fn cut(
        framing: Framing,
        bytes: &[u8],
        step: usize,
        broke: bool,
    ) -> Vec<(String, Option<u64>, Option<&'static str>)> {
        let mut framer = Framer::new(framing, LIMITS);
        let mut out = Messages::default();
        bytes.chunks(step).for_each(|part| framer.feed(part, &mut out));
        framer.finish(broke, &mut out);
        assert_eq!(out.len(), out.iter().count());
        out.iter()
            .map(|m| (String::from_utf8_lossy(m.bytes).into_owned(), m.oversize.map(|o| o.size), m.error))
            .collect()
    }

    fn texts(framing: Framing, bytes: &[u8], step: usize) -> Vec<String> {
        cut(framing, bytes, step, false).into_iter().map(|(text, _, _)| text).collect()
    }

    #[test]
    fn lines_and_counted_messages_come_out_however_they_arrive() {
        let stream = b"<1>one\r\n5 <2>tw11 <3>th\nre e\n<4>four\n12:00 a line\n3 x\ny<5>last";
        for step in 1..stream.len() {
            assert_eq!(
                texts(Framing::Syslog, stream, step),
                ["<1>one", "<2>tw", "<3>th\nre e\n", "<4>four", "12:00 a line", "x\ny", "<5>last"]
            );
        }
        assert_eq!(texts(Framing::Lines, b"5 a\n\n6 b", 2), ["5 a", "", "6 b"]);
    }

    #[test]
    fn what_has_not_ended_says_so() {
        let (ended, broke) = (
            "the stream ended before the length of this message",
            "the stream broke off within this message",
        );
        assert_eq!(cut(Framing::Syslog, b"9 <1>ab", 3, false), [("<1>ab".into(), None, Some(ended))]);
        assert_eq!(cut(Framing::Lines, b"ab", 3, true), [("ab".into(), None, Some(broke))]);
        assert!(cut(Framing::Lines, b"ab\n", 3, true)[0].2.is_none());
    }

    #[test]
    fn a_message_that_is_too_long_leaves_its_neighbours_whole() {
        let long = "x".repeat(100);
        for step in [1, 7, 39, 200] {
            let lines = cut(Framing::Lines, format!("a\n{long}\nb\n").as_bytes(), step, false);
            assert_eq!(
                lines,
                [("a".into(), None, None), ("xxxx".into(), Some(100), None), ("b".into(), None, None)]
            );
            let counted = cut(Framing::Syslog, format!("1 a100 {long}1 b").as_bytes(), step, false);
            assert_eq!(counted, lines);
        }
    }

    proptest! {
        #[test]
        fn cutting_does_not_depend_on_how_the_bytes_arrive(
            bytes in prop::collection::vec(prop::sample::select(b"0123 <>\r\nab".to_vec()), 0..300),
            step in 1_usize..50,
        ) {
            for framing in [Framing::Lines, Framing::Syslog] {
                prop_assert_eq!(cut(framing, &bytes, step, false), cut(framing, &bytes, bytes.len().max(1), false));
            }
        }
    }
}
