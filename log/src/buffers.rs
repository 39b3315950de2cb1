//! Large buffers that are used again.
//!
//! *Why*: a block of a megabyte goes back to the system when it is freed, and the next one's pages are given and cleared anew: that
//! was a third of what a fetch cost, and of what the bytes of a producer's request cost before they were in the log.
//!
//! *Invariants*: a buffer is taken again only when nobody has a byte of it any more; at most [`MOST_KEPT_BYTES`] lie unused. What a
//! buffer held before is never seen: who takes one writes all of it before it is read.

use std::io;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller ones are the allocator's.
const SMALLEST_BYTES: usize = 256 << 10;
/// Larger ones are rare.
const LARGEST_BYTES: usize = 8 << 20;
/// Bytes of unused buffers that are kept.
const MOST_KEPT_BYTES: usize = 16 << 20;

/// Unused buffers of this process, all of them initialised; the one given back last is the warmest.
static UNUSED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer of a given length, to be filled from its front.
#[derive(Debug)]
pub struct Buffer {
    /// At least `length` bytes, all initialised.
    bytes: Vec<u8>,
    length: usize,
    filled: usize,
}

impl Buffer {
    /// A buffer of this many bytes.
    pub fn of(length: usize) -> Buffer {
        let bytes = match class_of(length) {
            Some(class) => take(class).unwrap_or_else(|| vec![0; class]),
            None => vec![0; length],
        };
        Buffer { bytes, length, filled: 0 }
    }

    /// What is not filled yet.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..self.length]
    }

    /// The first `count` bytes of the rest are filled now.
    pub fn fill(&mut self, count: usize) {
        self.filled = self.length.min(self.filled + count);
    }

    /// Fills the rest with what `read` reads into it.
    pub(crate) fn fill_with(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
        read(self.rest())?;
        self.filled = self.length;
        Ok(())
    }

    /// What was filled; the buffer is given back with the last clone of it.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if class_of(self.bytes.len()) != Some(self.bytes.len()) {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut unused = UNUSED.lock();
        let mut kept: usize = unused.iter().map(Vec::len).sum();
        unused.push(bytes);
        kept += unused.last().map_or(0, Vec::len);
        // What was not taken for the longest time makes room, or sizes that nobody needs any more would stay.
        let gone = unused.iter().take_while(|oldest| {
            let too_many = kept > MOST_KEPT_BYTES;
            kept -= if too_many { oldest.len() } else { 0 };
            too_many
        });
        let gone = gone.count();
        let gone: Vec<_> = unused.drain(..gone).collect();
        drop(unused);
        drop(gone);
    }
}

/// The size of the buffers that serve for `length` bytes, when such are kept.
fn class_of(length: usize) -> Option<usize> {
    (SMALLEST_BYTES / 2 + 1..=LARGEST_BYTES)
        .contains(&length)
        .then(|| length.next_power_of_two().max(SMALLEST_BYTES))
}

fn take(class: usize) -> Option<Vec<u8>> {
    let mut unused = UNUSED.lock();
    let at = unused.iter().rposition(|bytes| bytes.len() == class)?;
    Some(unused.remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_filled_is_seen_whatever_the_buffer_held_before() {
        for length in [0, 1, 1000, SMALLEST_BYTES, SMALLEST_BYTES + 1, 3 << 20, LARGEST_BYTES + 1] {
            for byte in [1, 2] {
                let mut buffer = Buffer::of(length);
                assert_eq!(buffer.rest().len(), length);
                assert!(buffer.as_ref().is_empty());
                let half = length / 2;
                buffer.rest()[..half].fill(byte);
                buffer.fill(half);
                assert_eq!(buffer.rest().len(), length - half);
                buffer
                    .fill_with(|rest| {
                        rest.fill(byte + 2);
                        Ok(())
                    })
                    .expect("filled");
                let bytes = buffer.freeze();
                assert_eq!(bytes.len(), length);
                assert!(bytes[..half].iter().all(|have| *have == byte));
                assert!(bytes[half..].iter().all(|have| *have == byte + 2));
            }
        }
    }

    #[test]
    fn a_buffer_is_not_taken_again_while_a_slice_of_it_is_held() {
        let mut first = Buffer::of(3 << 20);
        first
            .fill_with(|rest| {
                rest.fill(7);
                Ok(())
            })
            .expect("filled");
        let slice = first.freeze().slice(10..20);
        let others: Vec<Buffer> = (0..8)
            .map(|_| {
                let mut other = Buffer::of(3 << 20);
                other.rest().fill(9);
                other
            })
            .collect();
        assert_eq!(&slice[..], [7; 10]);
        drop(others);
        // Sixteen of the small ones would fill it.
        let large = Buffer::of(LARGEST_BYTES);
        drop((0..20).map(|_| Buffer::of(1 << 20)).collect::<Vec<_>>());
        drop(large);
        assert!(UNUSED.lock().iter().any(|bytes| bytes.len() == LARGEST_BYTES), "the newest is kept");
        assert!(UNUSED.lock().iter().map(Vec::len).sum::<usize>() <= MOST_KEPT_BYTES);
    }
}
