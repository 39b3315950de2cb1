//! By what a file is known again: the first and the last bytes of what was read of it.
//!
//! The head tells files apart whose inode was used again; the tail tells that a file was truncated and has grown past the
//! position since. Both are taken from the bytes that were read, never read again: so they cannot belong to a later
//! content.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// Length of the head and of the tail; shorter while less was read.
pub(super) const PRINT_BYTES: usize = 1024;

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
    /// Whether a content begins with the head; `start` is its first KiB.
    pub(super) fn begins(&self, start: &[u8]) -> bool {
        usize::try_from(self.head.bytes)
            .ok()
            .and_then(|length| start.get(..length))
            .is_some_and(|bytes| self.head == Print::of(bytes))
    }

    /// Whether a content, which begins with the head, has the tail before `offset`.
    pub(super) fn are_read(&self, content: &mut impl Read, offset: u64) -> io::Result<bool> {
        let length = self.tail.bytes.min(PRINT_BYTES as u64);
        let Some(skipped) = offset.checked_sub(length) else { return Ok(false) };
        if io::copy(&mut content.take(skipped), &mut io::sink())? < skipped {
            return Ok(false);
        }
        let mut tail = Vec::new();
        content.take(length).read_to_end(&mut tail)?;
        Ok(self.tail == Print::of(&tail))
    }

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

    /// The first bytes of what was read.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(super) fn to_stored(&self) -> StoredPrints {
        StoredPrints { head: Print::of(&self.head), tail: Print::of(&self.tail) }
    }
}

/// Contents by their first bytes: whether one begins like another, of very many.
#[derive(Debug, Default)]
pub(super) struct Heads<'a> {
    by_start: HashMap<&'a [u8], Vec<(&'a [u8], u64)>>,
    short: Vec<(&'a [u8], u64)>,
}

impl<'a> Heads<'a> {
    /// Heads that are shorter are compared one by one.
    const START_BYTES: usize = 64;

    /// `head` is of a content of `size` bytes.
    pub(super) fn add(&mut self, head: &'a [u8], size: u64) {
        match head.get(..Heads::START_BYTES) {
            Some(start) => self.by_start.entry(start).or_default().push((head, size)),
            None if head.is_empty() => {}
            None => self.short.push((head, size)),
        }
    }

    /// Whether one that is at least as large begins like a content of `size` bytes whose first KiB is `start`, as far as
    /// both heads go.
    pub(super) fn begin_like(&self, start: &[u8], size: u64) -> bool {
        let alike = |(head, other): &(&[u8], u64)| {
            let length = head.len().min(start.len());
            *other >= size && length > 0 && head[..length] == start[..length]
        };
        let in_short = self.short.iter().any(alike);
        match start.get(..Heads::START_BYTES) {
            Some(key) => in_short || self.by_start.get(key).is_some_and(|heads| heads.iter().any(alike)),
            None => in_short || self.by_start.values().flatten().any(alike),
        }
    }
}

/// The first KiB of `file`, or less when it is shorter.
pub(super) fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PRINT_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
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
            let stored = prints.to_stored();
            prop_assert_eq!(stored.load(&file, offset).unwrap(), Some(prints));
            let mut whole = parts.concat();
            whole.extend_from_slice(b"and more");
            prop_assert!(stored.begins(&whole) && stored.are_read(&mut whole.as_slice(), offset).unwrap());
        }

        /// The index finds what comparing with every head finds.
        #[test]
        fn heads_are_found_as_one_by_one(
            heads in prop::collection::vec((prop::collection::vec(0_u8..2, 0..70), 0_u64..200), 0..20),
            start in prop::collection::vec(0_u8..2, 0..70),
            size in 0_u64..200,
        ) {
            let mut index = Heads::default();
            heads.iter().for_each(|(head, size)| index.add(head, *size));
            let plainly = heads.iter().any(|(head, other)| {
                let length = head.len().min(start.len());
                *other >= size && length > 0 && head[..length] == start[..length]
            });
            prop_assert_eq!(index.begin_like(&start, size), plainly);
        }
    }
}
