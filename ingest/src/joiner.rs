//! Several lines that are one record: joined before their format is applied.
//!
//! A line begins a record, or continues the one that is pending. A record is complete when the next one begins, when its
//! time is over (which is for the source to say), or when another line would make it larger than its bound: then that line
//! begins another record, so nothing is lost and nothing grows without end.

use regex::bytes::Regex;
use tarn_model::config::MultilineConfig;
use tarn_model::{Error, Result};

/// Which lines belong together.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    regex: Regex,
    /// Whether a line that fits begins a record (or else continues one).
    fits_at_start: bool,
    max_bytes: usize,
}

impl Joining {
    pub(crate) fn new(config: &MultilineConfig) -> Result<Joining> {
        let (regex, fits_at_start) = match (&config.start, &config.continuation) {
            (Some(start), None) => (start, true),
            (None, Some(continuation)) => (continuation, false),
            _ => return Err(Error::invalid("`multiline` needs either `start` or `continuation`")),
        };
        let regex = Regex::new(regex)
            .map_err(|error| Error::invalid("`multiline` has no regular expression").with_source(error))?;
        Ok(Joining { regex, fits_at_start, max_bytes: config.max_size.as_usize() })
    }

    /// The largest record that is joined.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

/// Joins the lines of one stream.
#[derive(Debug)]
pub(crate) struct Joiner {
    joining: Joining,
    pending: Vec<u8>,
    lines: u64,
}

impl Joiner {
    pub(crate) fn new(joining: Joining) -> Joiner {
        Joiner { joining, pending: Vec::new(), lines: 0 }
    }

    /// Whether a record is pending, and `line` is not part of it: then it is complete.
    pub(crate) fn ends_before(&self, line: &[u8]) -> bool {
        self.is_pending()
            && (self.joining.regex.is_match(line) == self.joining.fits_at_start
                || self.pending.len() + 1 + line.len() > self.joining.max_bytes)
    }

    /// Adds a line to the record that is pending, or begins one.
    pub(crate) fn add(&mut self, line: &[u8]) {
        if self.lines > 0 {
            self.pending.push(b'\n');
        }
        self.pending.extend_from_slice(line);
        self.lines += 1;
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.lines > 0
    }

    /// The pending record; its lines have a line break between them.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// How many lines are pending.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use tarn_model::config::{ByteSize, Span};

    use super::*;

    fn joined(start: Option<&str>, continuation: Option<&str>, max: u64, text: &str) -> Vec<String> {
        let config = MultilineConfig {
            start: start.map(str::to_owned),
            continuation: continuation.map(str::to_owned),
            timeout: Span::from_millis(1),
            max_size: ByteSize(max),
        };
        let mut joiner = Joiner::new(Joining::new(&config).unwrap());
        let mut records = Vec::new();
        let mut take = |joiner: &mut Joiner| {
            records.push(String::from_utf8_lossy(joiner.pending()).into_owned());
            joiner.clear();
        };
        for line in text.lines() {
            if joiner.ends_before(line.as_bytes()) {
                take(&mut joiner);
            }
            joiner.add(line.as_bytes());
        }
        if joiner.is_pending() {
            take(&mut joiner);
        }
        records
    }

    const TRACE: &str = "  before\nE one\n  at a\n\n  at b\nE two\nE three\n  at c";

    #[test]
    fn lines_are_joined_by_what_begins_a_record_or_by_what_continues_it() {
        let by_start = joined(Some("^E"), None, 1000, TRACE);
        assert_eq!(by_start, ["  before", "E one\n  at a\n\n  at b", "E two", "E three\n  at c"]);
        assert_eq!(joined(None, Some("^( |$)"), 1000, TRACE), by_start);
    }

    #[test]
    fn a_record_does_not_grow_beyond_its_bound_and_nothing_is_lost() {
        let records = joined(Some("^E"), None, 12, TRACE);
        assert_eq!(records, ["  before", "E one\n  at a", "\n  at b", "E two", "E three", "  at c"]);
        assert_eq!(records.join("\n"), TRACE);
    }
}
