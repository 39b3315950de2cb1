//! The rest of a file that was packed before all of it was read.
//!
//! *Why*: a rotation packs files, and it may do so while nobody reads. What had been read of a file is known by its first and
//! its last bytes below the position; a packed file that holds them holds the rest behind them.
//!
//! *Layout*: the rest is unpacked into a file without a name below `data_dir/staging`, at the offsets that it has in the whole,
//! after the bytes that the prints are of: so it is followed like any other file, and takes the room of the rest only.
//!
//! *Failure*: nothing here is kept. A restart unpacks again from the committed position, which is that of what is unpacked.
//!
//! *Not here*: packed files that go on with nothing that was read. `spooldir` reads those.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::prints::{PRINT_BYTES, Prints, StoredPrints};
use super::{FileId, Seen, open};
use crate::unpack::{self, Packing};

/// Bytes that are unpacked at once.
const BLOCK_BYTES: usize = 256 << 10;

/// A packed file that may hold the rest of another one.
#[derive(Debug)]
pub(super) struct PackedFile {
    pub(super) seen: Seen,
    packing: Packing,
    /// The first KiB of what it holds.
    head: Vec<u8>,
}

/// What follows in a packed file.
pub(super) struct Rest {
    pub(super) file: File,
    pub(super) prints: Prints,
}

impl PackedFile {
    /// `None` when the file is gone, or is not packed.
    pub(super) fn open(seen: Seen) -> tarn_model::Result<Option<PackedFile>> {
        let Some(mut file) = open(&seen)? else { return Ok(None) };
        let failed = |error| super::at_path(&seen.path, error);
        let packing = Packing::detect(&mut file).map_err(failed)?;
        if packing == Packing::Plain {
            return Ok(None);
        }
        let mut head = Vec::new();
        let begun = unpack::open(file, packing, 0, None)
            .and_then(|unpacked| unpacked.take(PRINT_BYTES as u64).read_to_end(&mut head));
        match begun {
            // What is damaged, or not written yet, holds as much as came out of it.
            Err(error) if packing.damage(&error).is_none() => Err(failed(error)),
            _ => Ok(Some(PackedFile { seen, packing, head })),
        }
    }

    /// Whether it holds what was read of a file up to `offset`.
    pub(super) fn holds(&self, prints: &StoredPrints, offset: u64) -> tarn_model::Result<bool> {
        if offset == 0 || !prints.begins(&self.head) {
            return Ok(false);
        }
        let Some(mut unpacked) = self.unpack()? else { return Ok(false) };
        let held = prints.are_read(&mut unpacked, offset);
        held.or_else(|error| self.or_damaged(error, false))
    }

    /// What follows what was read of a file up to `offset`, if it holds that.
    pub(super) fn rest(
        &self,
        prints: &StoredPrints,
        offset: u64,
        staging: &Path,
    ) -> tarn_model::Result<Option<Rest>> {
        if !self.holds(prints, offset)? {
            return Ok(None);
        }
        let Some(mut unpacked) = self.unpack()? else { return Ok(None) };
        let file = nameless(staging, self.seen.id).map_err(|error| super::at_path(staging, error))?;
        let failed = |error| super::at_path(&self.seen.path, error);
        file.write_all_at(&self.head, 0).map_err(failed)?;
        let keep_from = offset.saturating_sub(PRINT_BYTES as u64);
        let mut at = 0_u64;
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let count = match unpacked.read(&mut block) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // It may still be written: then another look finds all of it.
                Err(error) => return self.or_damaged(error, None),
            };
            let skip = usize::try_from(keep_from.saturating_sub(at)).unwrap_or(usize::MAX).min(count);
            file.write_all_at(&block[skip..count], at + skip as u64).map_err(failed)?;
            at += count as u64;
        }
        let prints = prints.load(&file, offset).map_err(failed)?;
        Ok(prints.map(|prints| Rest { file, prints }))
    }

    fn unpack(&self) -> tarn_model::Result<Option<Box<dyn Read + Send>>> {
        let Some(file) = open(&self.seen)? else { return Ok(None) };
        unpack::open(file, self.packing, 0, None).map(Some).or_else(|error| self.or_damaged(error, None))
    }

    /// A file that is damaged, or not complete yet, holds nothing; that is told.
    fn or_damaged<T>(&self, error: io::Error, ended: T) -> tarn_model::Result<T> {
        match self.packing.damage(&error) {
            Some(damage) => {
                warn!(file = %self.seen.path.display(), damage, "a packed file is damaged, or not complete: nothing is read of it");
                Ok(ended)
            }
            None => Err(super::at_path(&self.seen.path, error)),
        }
    }
}

/// The packed files of a folder.
pub(super) fn packed_in(names: impl Iterator<Item = PathBuf>) -> Vec<PackedFile> {
    /// Beyond so many a folder is an archive, and not where one file is rotated.
    const MOST_PACKED: usize = 1000;
    let mut found = Vec::new();
    for path in names {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        let seen = Seen::of(path, &metadata);
        match PackedFile::open(seen) {
            Ok(packed) => found.extend(packed),
            Err(error) => warn!(error = crate::monitor::tell(&error), "a packed file is passed over"),
        }
        if found.len() == MOST_PACKED {
            break;
        }
    }
    found
}

/// A file that is gone when it is closed.
fn nameless(folder: &Path, id: FileId) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}.unpacked", id.key()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
