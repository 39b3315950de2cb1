//! By what a file is known again: the first and the last bytes of what was read of it.
//!
//! The head tells files apart whose inode was used again; the tail tells that a file was truncated and has grown past the
//! position since. Both are taken from the bytes that were read, never read again: so they cannot belong to a later
//! content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// Length of the head and of the tail; shorter while less was read.
const PRINT_BYTES: usize = 1024;

/// The first and last bytes below a position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prints {
    head: Vec<u8>,
    tail: Vec<u8>,
}

/// The same as lengths and hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredPrints {
    head: Print,
    tail: Print,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Print {
    bytes: u64,
    xxh3: String,
}

impl Print {
    fn of(bytes: &[u8]) -> Print {
        Print { bytes: bytes.len() as u64, xxh3: format!("{:032x}", xxh3_128(bytes)) }
    }

    /// The bytes at `offset`, when they are those.
    fn load(&self, file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let length = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(PRINT_BYTES);
        let Some(bytes) = read_at(file, offset, length)? else { return Ok(None) };
        Ok((*self == Print::of(&bytes)).then_some(bytes))
    }
}

impl StoredPrints {
    /// What is at those places of `file`, when it is what was there.
    pub(super) fn load(&self, file: &File, offset: u64) -> io::Result<Option<Prints>> {
        let Some(tail_offset) = offset.checked_sub(self.tail.bytes) else { return Ok(None) };
        let Some(head) = self.head.load(file, 0)? else { return Ok(None) };
        let Some(tail) = self.tail.load(file, tail_offset)? else { return Ok(None) };
        Ok(Some(Prints { head, tail }))
    }
}

impl Prints {
    /// `bytes` were read next.
    pub(super) fn advance(&mut self, bytes: &[u8]) {
        let missing = PRINT_BYTES - self.head.len();
        self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        if bytes.len() >= PRINT_BYTES {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - PRINT_BYTES..]);
        } else {
            self.tail.extend_from_slice(bytes);
            let excess = self.tail.len().saturating_sub(PRINT_BYTES);
            self.tail.drain(..excess);
        }
    }

    /// The prints of what lies below `offset`.
    pub(super) fn read(file: &File, offset: u64) -> io::Result<Option<Prints>> {
        let length = usize::try_from(offset).unwrap_or(usize::MAX).min(PRINT_BYTES);
        let Some(head) = read_at(file, 0, length)? else { return Ok(None) };
        let Some(tail) = read_at(file, offset - length as u64, length)? else { return Ok(None) };
        Ok(Some(Prints { head, tail }))
    }

    /// Whether `file` still has them.
    pub(super) fn are_in(&self, file: &File, offset: u64) -> io::Result<bool> {
        let Some(tail_offset) = offset.checked_sub(self.tail.len() as u64) else { return Ok(false) };
        Ok(read_at(file, tail_offset, self.tail.len())?.is_some_and(|tail| tail == self.tail)
            && read_at(file, 0, self.head.len())?.is_some_and(|head| head == self.head))
    }

    /// Whether `file`, which has `size` bytes, begins with the same bytes, as far as both go.
    pub(super) fn begin_like(&self, file: &File, size: u64) -> io::Result<bool> {
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(self.head.len());
        Ok(length > 0 && read_at(file, 0, length)?.is_some_and(|bytes| bytes == self.head[..length]))
    }

    pub(super) fn to_stored(&self) -> StoredPrints {
        StoredPrints { head: Print::of(&self.head), tail: Print::of(&self.tail) }
    }
}

/// Exactly `length` bytes at `offset`; `None` when the file ends before.
fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes were read, the prints are those of the first and last KiB below the position.
        #[test]
        fn prints_depend_on_the_content_only(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..6)) {
            let mut file = tempfile::tempfile().unwrap();
            let mut prints = Prints::default();
            for part in &parts {
                file.write_all(part).unwrap();
                prints.advance(part);
            }
            let offset = parts.iter().map(Vec::len).sum::<usize>() as u64;
            prop_assert_eq!(Prints::read(&file, offset).unwrap(), Some(prints.clone()));
            prop_assert!(prints.are_in(&file, offset).unwrap());
            prop_assert_eq!(prints.to_stored().load(&file, offset).unwrap(), Some(prints));
        }
    }
}
