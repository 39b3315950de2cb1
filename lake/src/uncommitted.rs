//! Files of this process that are written but in no version yet: vacuum must not take them for orphans.

use std::collections::HashSet;

use object_store::path::Path;
use parking_lot::Mutex;

/// The paths of those files, relative to the lake.
///
/// A file stays here until its commit has landed, or for the life of the process when it never does.
#[derive(Debug, Default)]
pub(crate) struct Uncommitted {
    paths: Mutex<HashSet<Path>>,
}

impl Uncommitted {
    /// Before the first byte of the file is written.
    pub(crate) fn insert(&self, path: Path) {
        self.paths.lock().insert(path);
    }

    /// After the file's commit has landed.
    pub(crate) fn remove(&self, path: &Path) {
        self.paths.lock().remove(path);
    }

    /// Whether the file must be kept.
    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.paths.lock().contains(path)
    }
}
