//! Which files there are: new, renamed, copied, packed or gone since the last look.
//!
//! *Invariant*: a file that may be the copy of a known one, plain or packed, is decided upon before any of it is read.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tarn_model::config::TailFrom;
use tarn_model::{Error, Kind, Result};
use tracing::{debug, info, warn};

use super::packed::{PackedFile, packed_in};
use super::prints::{Heads, first_bytes};
use super::tailed::{Stored, StoredPacked, Tailed};
use super::{FileId, LONGEST_COPY_WATCH, Left, MOST_OPEN, Seen, Taildir, Watched, at_path, open};
use crate::appender::Appender;
use crate::monitor::tell;
use crate::source::Source;
use crate::unpack::Packing;

impl Taildir {
    /// Finds files that are new, renamed or gone.
    pub(super) fn look(
        &mut self,
        source: &Source,
        appender: &mut Appender<'_>,
        first_run: bool,
    ) -> Result<()> {
        let told = self.trouble.take().map(|error| error.to_string());
        let seen = self.list()?;
        let here: HashMap<FileId, u64> = seen.iter().map(|file| (file.id, file.stamp.size)).collect();
        let mut open_files = self.files.values().filter(|file| file.is_open()).count();
        let mut new = Vec::new();
        for file in seen {
            if let Some(tailed) = self.files.get_mut(&file.id) {
                tailed.seen_at(&file.path, file.stamp);
            } else if let Some(stored) = self.absent.get(&file.id) {
                if stored.packed.is_some() {
                    let resumed = self.resume_packed(&file);
                    if self.or_trouble(resumed)? == Some(false) {
                        new.push(file);
                    }
                    continue;
                }
                let Some(mut open) = self.or_trouble(open(&file))?.flatten() else { continue };
                let packing = Packing::detect(&mut open).map_err(|error| at_path(&file.path, error))?;
                let Some(stored) = self.absent.remove(&file.id) else { continue };
                if packing == Packing::Plain {
                    self.resume(file.id, &file.path, open, stored)?;
                    self.seen_first(&file, &mut open_files);
                } else {
                    // A packed file has the inode of one that is gone.
                    self.truncated.push(stored);
                    new.push(file);
                }
            } else {
                new.push(file);
            }
        }
        self.find_renamed(appender, &here)?;
        if self.drain_ends.is_none() && source.draining() {
            let renamed = self.files.iter().filter(|(id, _)| !here.contains_key(id));
            let renamed = renamed.map(|(id, file)| (*id, file.size()));
            self.drain_ends = Some(renamed.chain(here.iter().map(|(id, size)| (*id, *size))).collect());
        }
        if !new.is_empty() {
            // A new file may be the copy of one that was truncated since: that has to be known first.
            for tailed in self.files.values_mut() {
                self.truncated.extend(tailed.check(appender)?);
            }
        }
        let alike = self.alike(source, &new)?;
        for file in new {
            let admitted = self.admit(source, appender, &file, first_run, alike.contains(&file.id));
            self.or_trouble(admitted)?;
            self.seen_first(&file, &mut open_files);
        }
        for (id, tailed) in &mut self.files {
            if !here.contains_key(id) {
                tailed.out_of_pattern();
            }
        }
        self.watched.retain(|id, _| here.contains_key(id));
        self.packed.retain(|id, _| here.contains_key(id));
        if let Some(error) = self.trouble.as_ref().filter(|error| told != Some(error.to_string())) {
            warn!(source = source.name, error = tell(error), "a file cannot be read");
        }
        Ok(())
    }

    /// A file that this look has taken in: beyond so many it waits for its turn closed.
    fn seen_first(&mut self, seen: &Seen, open_files: &mut usize) {
        let Some(tailed) = self.files.get_mut(&seen.id) else { return };
        tailed.seen_at(&seen.path, seen.stamp);
        *open_files += 1;
        if *open_files > MOST_OPEN && tailed.close() {
            *open_files -= 1;
        }
    }

    /// Those of the new files that begin like a known one: are they copies whose originals are about to be truncated?
    fn alike(&mut self, source: &Source, new: &[Seen]) -> Result<HashSet<FileId>> {
        let mut alike = HashSet::new();
        if source.draining() || new.is_empty() {
            return Ok(alike);
        }
        let mut heads = Heads::default();
        self.files.values().for_each(|file| heads.add(file.prints().head(), file.size()));
        let mut trouble = None;
        for seen in new.iter().filter(|seen| seen.stamp.size > 0 && !self.packed.contains_key(&seen.id)) {
            let start = open(seen).and_then(|file| match file {
                Some(file) => first_bytes(&file).map_err(|error| at_path(&seen.path, error)),
                None => Ok(Vec::new()),
            });
            match start {
                Ok(start) if heads.begin_like(&start, seen.stamp.size) => drop(alike.insert(seen.id)),
                Ok(_) => {}
                Err(error) => trouble = Some(error),
            }
        }
        self.or_trouble(trouble.map_or(Ok(()), Err))?;
        Ok(alike)
    }

    /// What is wrong with one file does not hold up the others.
    fn or_trouble<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == Kind::Unavailable => {
                self.trouble = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn list(&self) -> Result<Vec<Seen>> {
        let pattern = self.config.path.to_string_lossy();
        let paths = glob::glob(&pattern).map_err(|error| {
            Error::invalid(format!("`path` is no glob pattern: `{pattern}`")).with_source(error)
        })?;
        let mut seen: Vec<Seen> = Vec::new();
        let mut ids = HashSet::new();
        for path in paths {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                at_path(&path, error.into())
            })?;
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    let file = Seen::of(path, &metadata);
                    // A second name of one file (a link) is not another file.
                    if ids.insert(file.id) {
                        seen.push(file);
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at_path(&path, error)),
            }
        }
        Ok(seen)
    }

    /// Looks for files that have a position and no name in the pattern any more, beside where they were.
    fn find_renamed(&mut self, appender: &mut Appender<'_>, here: &HashMap<FileId, u64>) -> Result<()> {
        let closed = self.files.iter().filter(|(id, file)| !here.contains_key(id) && file.is_lost());
        let lost: Vec<(FileId, PathBuf)> = closed.map(|(id, file)| (*id, file.path().to_owned())).collect();
        let absent = self.absent.iter().filter(|(_, stored)| !stored.looked_for);
        let absent: Vec<(FileId, PathBuf)> = absent.map(|(id, stored)| (*id, stored.path.clone())).collect();
        let mut folders: HashMap<PathBuf, HashMap<u64, PathBuf>> = HashMap::new();
        let mut packed: HashMap<PathBuf, Vec<PackedFile>> = HashMap::new();
        for (id, path) in lost.into_iter().chain(absent) {
            let Some(folder) = path.parent() else { continue };
            let names = folders.entry(folder.to_owned()).or_insert_with(|| names_by_inode(folder));
            let found = names.get(&id.inode).and_then(|path| {
                let metadata = fs::metadata(path).ok()?;
                (FileId::of(&metadata) == id).then(|| Seen::of(path.clone(), &metadata))
            });
            let opened = match &found {
                Some(seen) => open(seen)?,
                None => None,
            };
            match (found, opened) {
                (Some(seen), Some(file)) => self.found_again(&seen, file)?,
                _ if self.absent.contains_key(&id) => {
                    let packed =
                        packed.entry(folder.to_owned()).or_insert_with(|| packed_in(names.values().cloned()));
                    if !self.find_packed(appender, id, packed)?
                        && let Some(stored) = self.absent.get_mut(&id)
                    {
                        stored.looked_for = true;
                    }
                }
                _ => self.let_go(id)?,
            }
        }
        self.find_packed_rests(appender)
    }

    /// Looks beside files that have another content now for packed ones with the rest of the old one.
    fn find_packed_rests(&mut self, appender: &mut Appender<'_>) -> Result<()> {
        let originals: Vec<Stored> = self
            .truncated
            .iter()
            .filter(|original| !original.looked_for && !original.taken)
            .cloned()
            .collect();
        let mut folders: HashMap<PathBuf, Vec<PackedFile>> = HashMap::new();
        for original in &originals {
            let Some(folder) = original.path.parent() else { continue };
            let packed = folders
                .entry(folder.to_owned())
                .or_insert_with(|| packed_in(names_by_inode(folder).into_values()));
            for file in packed.iter() {
                let known = self.files.contains_key(&file.seen.id) || self.absent.contains_key(&file.seen.id);
                if !known && !self.is_left(&file.seen) && self.take_packed(appender, file, original)? {
                    self.rest_is_taken(appender, original)?;
                    break;
                }
            }
        }
        self.truncated.iter_mut().for_each(|original| original.looked_for = true);
        Ok(())
    }

    /// The rest of a truncated content was found in a copy: it is not looked for in others, after a restart neither.
    fn rest_is_taken(&mut self, appender: &mut Appender<'_>, of: &Stored) -> Result<()> {
        for original in &mut self.truncated {
            original.taken |= original.offset == of.offset && original.prints == of.prints;
        }
        for (id, tailed) in &mut self.files {
            if tailed.rest_is_taken(of) {
                appender.position(&id.key(), Some(tailed.to_json()?));
            }
        }
        Ok(())
    }

    /// A file that the pattern does not find, under the name that it has now.
    fn found_again(&mut self, seen: &Seen, file: File) -> Result<()> {
        match self.absent.get(&seen.id) {
            Some(stored) if stored.packed.is_some() => {
                if !self.resume_packed(seen)?
                    && let Some(stored) = self.absent.get_mut(&seen.id)
                {
                    stored.looked_for = true;
                }
            }
            Some(stored) => {
                // Only a file that is what it was is one that was renamed.
                let prints = stored.prints.load(&file, stored.offset);
                let prints = prints.map_err(|error| at_path(&seen.path, error))?;
                let Some(stored) = self.absent.remove(&seen.id) else { return Ok(()) };
                match prints {
                    Some(prints) => {
                        info!(file = %stored.path.display(), now = %seen.path.display(), "the file was renamed");
                        let tailed = Tailed::resumed(seen.id.key(), seen.path.clone(), file, &stored, prints);
                        self.files.insert(seen.id, tailed);
                    }
                    None => self.truncated.push(stored),
                }
            }
            None => {
                if let Some(tailed) = self.files.get_mut(&seen.id) {
                    tailed.seen_at(&seen.path, seen.stamp);
                }
            }
        }
        Ok(())
    }

    /// Looks for the rest of the file `id`, which is gone, in `packed` ones; whether one of them holds it.
    fn find_packed(
        &mut self,
        appender: &mut Appender<'_>,
        id: FileId,
        packed: &[PackedFile],
    ) -> Result<bool> {
        let Some(stored) = self.absent.get(&id).filter(|stored| stored.packed.is_none()).cloned() else {
            return Ok(false);
        };
        for file in packed {
            let known = self.files.contains_key(&file.seen.id) || self.absent.contains_key(&file.seen.id);
            if !known && self.take_packed(appender, file, &stored)? {
                appender.position(&id.key(), None);
                self.absent.remove(&id);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads on in a packed file, if it holds what was read of the one that `stored` is of.
    fn take_packed(
        &mut self,
        appender: &mut Appender<'_>,
        file: &PackedFile,
        stored: &Stored,
    ) -> Result<bool> {
        let Some(rest) = file.rest(&stored.prints, stored.offset, &self.staging)? else { return Ok(false) };
        let PackedFile { seen, .. } = file;
        info!(
            file = %seen.path.display(), of = %stored.path.display(), from = stored.offset,
            "the file was packed: its rest is read"
        );
        let key = seen.id.key();
        let tailed = Tailed::in_packed(key.clone(), seen.path.clone(), seen.stamp.size, rest, stored);
        appender.position(&key, Some(tailed.to_json()?));
        self.files.insert(seen.id, tailed);
        Ok(true)
    }

    /// A packed file with a position: its rest is read on, if there is any; whether it is still that file.
    fn resume_packed(&mut self, seen: &Seen) -> Result<bool> {
        let Some(stored) = self.absent.get(&seen.id) else { return Ok(false) };
        let Some(StoredPacked { bytes, done }) = stored.packed else { return Ok(false) };
        let file = if bytes == seen.stamp.size { PackedFile::open(seen.clone())? } else { None };
        let rest = match &file {
            Some(file) if !done => file.rest(&stored.prints, stored.offset, &self.staging)?,
            _ => None,
        };
        let Some(stored) = self.absent.remove(&seen.id) else { return Ok(false) };
        if file.is_some() && done {
            self.packed.insert(seen.id, Left { size: bytes, plain: None });
            return Ok(true);
        }
        let Some(rest) = rest else { return Ok(false) };
        let key = seen.id.key();
        self.files.insert(seen.id, Tailed::in_packed(key, seen.path.clone(), bytes, rest, &stored));
        Ok(true)
    }

    /// Takes in a packed file of the pattern when it holds the rest of a file that is gone, or of what was truncated.
    fn admit_packed(&mut self, source: &Source, appender: &mut Appender<'_>, seen: &Seen) -> Result<()> {
        let Some(file) = PackedFile::open(seen.clone())? else { return Ok(()) };
        let size = seen.stamp.size;
        let mut plain = None;
        for (id, tailed) in self.files.iter().filter(|(_, tailed)| !tailed.is_packed()) {
            if file.holds(&tailed.prints().to_stored(), tailed.offset())? {
                plain = Some((*id, tailed.cuts()));
                break;
            }
        }
        if plain.is_some() {
            debug!(source = source.name, file = %seen.path.display(), "a packed copy of a file that is read");
            self.packed.insert(seen.id, Left { size, plain });
            return Ok(());
        }
        let gone = |(id, stored): (&FileId, &Stored)| {
            let there = fs::metadata(&stored.path).is_ok_and(|metadata| FileId::of(&metadata) == *id);
            (stored.packed.is_none() && !there).then_some(*id)
        };
        let absent: Vec<FileId> = self.absent.iter().filter_map(gone).collect();
        for id in absent {
            if self.find_packed(appender, id, std::slice::from_ref(&file))? {
                return Ok(());
            }
        }
        let originals: Vec<Stored> =
            self.truncated.iter().filter(|original| !original.taken).cloned().collect();
        for original in originals {
            if self.take_packed(appender, &file, &original)? {
                return self.rest_is_taken(appender, &original);
            }
        }
        warn!(
            source = source.name, file = %seen.path.display(),
            "nothing of this packed file was read while it was plain: it is left to `spooldir`"
        );
        self.packed.insert(seen.id, Left { size, plain: None });
        Ok(())
    }

    /// Whether a packed file was looked at, and nothing has changed since.
    fn is_left(&self, seen: &Seen) -> bool {
        self.packed.get(&seen.id).is_some_and(|left| {
            let as_it_was =
                |(id, cuts): (FileId, u64)| self.files.get(&id).is_some_and(|tailed| tailed.cuts() == cuts);
            left.size == seen.stamp.size && left.plain.is_none_or(as_it_was)
        })
    }

    /// Takes in a file that has no position, once it has a byte and is known not to be a copy.
    fn admit(
        &mut self,
        source: &Source,
        appender: &mut Appender<'_>,
        seen: &Seen,
        first_run: bool,
        alike: bool,
    ) -> Result<()> {
        if self.is_left(seen) || self.not_in_drain(seen.id) || self.files.contains_key(&seen.id) {
            return Ok(());
        }
        let Some(mut file) = open(seen)? else { return Ok(()) };
        if Packing::detect(&mut file).map_err(|error| at_path(&seen.path, error))? != Packing::Plain {
            return self.admit_packed(source, appender, seen);
        }
        self.packed.remove(&seen.id);
        let key = seen.id.key();
        if first_run && self.config.from == TailFrom::End {
            let tailed =
                Tailed::at_end(key, seen.path.clone(), file).map_err(|error| at_path(&seen.path, error))?;
            self.files.insert(seen.id, tailed);
            return Ok(());
        }
        if seen.stamp.size == 0 && !source.draining() {
            return Ok(());
        }
        if let Some((original, tailed)) = self.as_copy(seen, &file)? {
            self.rest_is_taken(appender, &original)?;
            // Known from now on, whether it has a rest to be read or not.
            appender.position(&key, Some(tailed.to_json()?));
            self.watched.remove(&seen.id);
            self.files.insert(seen.id, tailed);
            return Ok(());
        }
        if alike {
            let now = Instant::now();
            let size = seen.stamp.size;
            let watched = self.watched.entry(seen.id).or_insert(Watched { since: now, grown: now, size });
            if watched.size != size {
                (watched.size, watched.grown) = (size, now);
            }
            if watched.grown.elapsed() < self.copy_watch && watched.since.elapsed() < LONGEST_COPY_WATCH {
                return Ok(());
            }
        }
        self.watched.remove(&seen.id);
        self.files.insert(seen.id, Tailed::at_start(key, seen.path.clone(), file));
        Ok(())
    }

    fn not_in_drain(&self, id: FileId) -> bool {
        self.drain_ends.as_ref().is_some_and(|ends| !ends.contains_key(&id))
    }

    /// When `seen` holds what had been read of a file that was truncated: where to go on in it.
    fn as_copy(&self, seen: &Seen, file: &File) -> Result<Option<(Stored, Tailed)>> {
        for original in &self.truncated {
            let prints =
                original.prints.load(file, original.offset).map_err(|error| at_path(&seen.path, error))?;
            if let Some(prints) = prints.filter(|_| original.offset > 0) {
                info!(
                    file = %seen.path.display(), of = %original.path.display(), from = original.offset,
                    "the file is a copy of one that was truncated: its rest is read"
                );
                let (key, path) = (seen.id.key(), seen.path.clone());
                let tailed = Tailed::resumed(key, path, copy_of(file, seen)?, original, prints);
                return Ok(Some((original.clone(), tailed)));
            }
        }
        Ok(None)
    }
}

fn names_by_inode(folder: &Path) -> HashMap<u64, PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return HashMap::new() };
    entries.flatten().map(|entry| (entry.ino(), entry.path())).collect()
}

fn copy_of(file: &File, seen: &Seen) -> Result<File> {
    file.try_clone().map_err(|error| at_path(&seen.path, error))
}
