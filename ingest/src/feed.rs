//! A reader's bytes in one block that is refilled in place: what is not consumed moves to the front.

use std::io::{self, Read};

/// First size of the block; it grows to hold one record.
const BLOCK_BYTES: usize = 1 << 20;

/// Buffered bytes of a reader.
pub(crate) struct Feed<R> {
    reader: R,
    block: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    consumed: u64,
}

impl<R: Read> Feed<R> {
    /// Begins at `offset` of the stream, to which `reader` has been brought.
    pub(crate) fn new(reader: R, offset: u64) -> Feed<R> {
        Feed { reader, block: vec![0; BLOCK_BYTES], start: 0, end: 0, at_end: false, consumed: offset }
    }

    /// The bytes that were read and not consumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }

    /// Whether the reader has nothing more; `bytes` may hold its last ones.
    pub(crate) fn at_end(&self) -> bool {
        self.at_end
    }

    /// Offset in the stream of the first byte of `bytes`.
    pub(crate) fn offset(&self) -> u64 {
        self.consumed
    }

    /// Consumes `count` bytes and returns where they lie: valid until the next fill, through [`Feed::range`].
    pub(crate) fn consume(&mut self, count: usize) -> std::ops::Range<usize> {
        let from = self.start;
        self.start += count;
        debug_assert!(self.start <= self.end, "more was consumed than is there");
        self.consumed += count as u64;
        from..self.start
    }

    /// Bytes that were consumed since the last fill.
    pub(crate) fn range(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.block[range]
    }

    /// Reads more behind `bytes`. Nothing is lost when it fails.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.block.len() {
            self.block.resize(self.block.len() * 2, 0);
        }
        loop {
            match self.reader.read(&mut self.block[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
impl<R> Feed<R> {
    pub(crate) fn block_bytes(&self) -> usize {
        self.block.len()
    }
}
