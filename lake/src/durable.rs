//! A local object store whose writes survive power loss.
//!
//! *Why*: `object_store`'s `LocalFileSystem` never calls fsync: after power loss a commit can read as an empty file, and
//! an empty Delta commit means "no actions". Here a write that has returned is on the disk, with its name.
//!
//! *Layout*: a write of `a/b/c` goes to `a/b/c#N` (N: digits; listings hide such names) and is given its name at the end:
//!
//! ```text
//! new directories + fsync of their parents → write c#N → fsync c#N → link c#N c (create) | rename c#N c → fsync b → unlink c#N
//! ```
//!
//! *Invariants*: a name never leads to a half-written file; create fails when the name is taken, whoever took it.
//!
//! *Failure*: a killed writer leaves `c#N`; [`DurableLocal::sweep`] deletes those that no write of this process holds. A
//! write whose last fsync failed may have its name already: the caller finds out by reading, and calls
//! [`DurableLocal::sync_parent`] before it relies on it.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use parking_lot::Mutex;

const STORE: &str = "DurableLocal";

/// A local folder as an object store, with fsync; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct DurableLocal {
    reads: Arc<LocalFileSystem>,
    disk: Arc<Disk>,
}

impl DurableLocal {
    /// The store below `root`, which is created when absent.
    pub(crate) fn open(root: &FsPath) -> Result<DurableLocal> {
        let disk = Disk {
            known: Mutex::default(),
            staged: Mutex::default(),
            next_stage: AtomicU64::new(tarn_model::clock::new_id().as_u64_pair().0),
            #[cfg(test)]
            trace: Mutex::default(),
        };
        disk.make_durable(root).map_err(|e| failed("create the folder", root, e))?;
        let reads = Arc::new(LocalFileSystem::new_with_prefix(root)?);
        Ok(DurableLocal { reads, disk: Arc::new(disk) })
    }

    /// Where `location` lies in the file system.
    pub(crate) fn file_path(&self, location: &Path) -> Result<PathBuf> {
        self.reads.path_to_filesystem(location)
    }

    /// Deletes the staging files below `folder` that no running write of this process holds.
    pub(crate) async fn sweep(&self, folder: &Path) -> Result<usize> {
        let folder = self.file_path(folder)?;
        let disk = self.disk.clone();
        blocking(move || disk.sweep(&folder).map_err(|e| failed("sweep staging files", &folder, e))).await
    }

    /// Syncs the folder that holds `location`, so that its name survives power loss.
    pub(crate) async fn sync_parent(&self, location: &Path) -> Result<()> {
        let path = self.file_path(location)?;
        let disk = self.disk.clone();
        blocking(move || disk.sync_parent(&path).map_err(|e| failed("sync the folder", &path, e))).await
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.reads)
    }
}

/// The blocking half: what is known to be on the disk, and what is being written.
#[derive(Debug)]
struct Disk {
    /// Folders whose names are known to be durable.
    known: Mutex<HashSet<PathBuf>>,
    /// Staging files of running writes.
    staged: Mutex<HashSet<PathBuf>>,
    next_stage: AtomicU64,
    #[cfg(test)]
    trace: Mutex<Vec<String>>,
}

impl Disk {
    fn note(&self, step: &str, path: &FsPath) {
        #[cfg(test)]
        self.trace.lock().push(format!("{step} {}", path.file_name().unwrap_or_default().to_string_lossy()));
        #[cfg(not(test))]
        let _ = (step, path);
    }

    fn sync_dir(&self, dir: &FsPath) -> io::Result<()> {
        self.note("sync dir", dir);
        File::open(dir)?.sync_all()
    }

    fn sync_parent(&self, path: &FsPath) -> io::Result<()> {
        path.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }

    /// Creates `dir` and its ancestors and makes their names durable, each once in the life of the process.
    fn make_durable(&self, dir: &FsPath) -> io::Result<()> {
        if self.known.lock().contains(dir) {
            return Ok(());
        }
        let Some(parent) = dir.parent() else { return Ok(()) };
        // Below the first ancestor that was there before, every name is new and its parent needs a sync. What was there
        // may come from a process that died before its sync, so the parent of the nearest one is synced as well.
        if !dir.exists() {
            self.make_durable(parent)?;
            match fs::create_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => self.note("create dir", dir),
            }
        }
        if !parent.as_os_str().is_empty() {
            match self.sync_dir(parent) {
                // A folder above the lake that may be passed but not opened is not ours to make durable.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        self.known.lock().insert(dir.to_path_buf());
        Ok(())
    }

    /// Opens a staging file for `target`.
    fn stage(self: &Arc<Disk>, target: &FsPath) -> io::Result<Staged> {
        let dir = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.make_durable(dir)?;
        let n = self.next_stage.fetch_add(1, Ordering::Relaxed);
        let mut name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
        name.push(format!("#{n}"));
        let path = dir.join(name);
        self.staged.lock().insert(path.clone());
        let opened = match OpenOptions::new().write(true).create_new(true).open(&path) {
            // The folder was removed behind our back.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.known.lock().clear();
                self.make_durable(dir)
                    .and_then(|()| OpenOptions::new().write(true).create_new(true).open(&path))
            }
            other => other,
        };
        match opened {
            Ok(file) => Ok(Staged { file, path, target: target.to_path_buf(), disk: self.clone() }),
            Err(e) => {
                self.staged.lock().remove(&path);
                Err(e)
            }
        }
    }

    fn sweep(&self, dir: &FsPath) -> io::Result<usize> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let mut swept = 0;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                swept += self.sweep(&path)?;
            } else if is_staging(&path) && !self.staged.lock().contains(&path) {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => swept += 1,
                }
            }
        }
        Ok(swept)
    }
}

/// Whether the name is one of a file that was being written: `…#digits`.
fn is_staging(path: &FsPath) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.rsplit_once('#'))
        .is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// A file that is being written; dropped without [`Staged::publish`] it is deleted.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    target: PathBuf,
    disk: Arc<Disk>,
}

impl Staged {
    /// Gives the file its name, durably.
    fn publish(self, create: bool) -> io::Result<()> {
        self.disk.note("sync file", &self.target);
        self.file.sync_all()?;
        if create {
            fs::hard_link(&self.path, &self.target)?;
            self.disk.note("link", &self.target);
        } else {
            fs::rename(&self.path, &self.target)?;
            self.disk.note("rename", &self.target);
        }
        self.disk.sync_parent(&self.target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already after a rename; what cannot be deleted now is swept at the next start.
        let _ = fs::remove_file(&self.path);
        self.disk.staged.lock().remove(&self.path);
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "conditional update".into(),
                    implementer: STORE.into(),
                });
            }
        };
        let target = self.file_path(location)?;
        let disk = self.disk.clone();
        blocking(move || {
            // Without this a commit of another writer would cost a full write before it is noticed.
            if create && target.exists() {
                return Err(failed("create", &target, io::ErrorKind::AlreadyExists.into()));
            }
            let written = disk.stage(&target).and_then(|mut staged| {
                payload.iter().try_for_each(|bytes| staged.file.write_all(bytes))?;
                staged.publish(create)
            });
            written.map_err(|e| failed("write", &target, e))?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.file_path(location)?;
        let disk = self.disk.clone();
        let staged = blocking(move || disk.stage(&target).map_err(|e| failed("create", &target, e))).await?;
        Ok(Box::new(DurableUpload { staged: Arc::new(Mutex::new(Some(staged))), offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.reads.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.reads.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.reads.list(prefix)
    }

    /// In the order of names, as other object stores list: readers of Delta's log count on it.
    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.reads.list_with_offset(prefix, offset).try_collect::<Vec<_>>();
        let sorted = listed.map_ok(|mut found| {
            found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            futures::stream::iter(found.into_iter().map(Ok))
        });
        sorted.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reads.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let source = self.file_path(from)?;
        let target = self.file_path(to)?;
        let create = options.mode == CopyMode::Create;
        let disk = self.disk.clone();
        blocking(move || {
            let mut source_file = File::open(&source).map_err(|e| failed("open", &source, e))?;
            let copied = disk.stage(&target).and_then(|mut staged| {
                io::copy(&mut source_file, &mut staged.file)?;
                staged.publish(create)
            });
            copied.map_err(|e| failed("copy", &target, e))
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            object_store::RenameTargetMode::Overwrite => CopyMode::Overwrite,
            object_store::RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions::new().with_mode(mode)).await?;
        object_store::ObjectStoreExt::delete(self, from).await
    }
}

/// A file that is written in parts.
#[derive(Debug)]
struct DurableUpload {
    staged: Arc<Mutex<Option<Staged>>>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut offset = self.offset;
        self.offset += data.content_length() as u64;
        let staged = self.staged.clone();
        blocking(move || {
            let mut staged = staged.lock();
            let staged = staged.as_mut().ok_or_else(gone)?;
            for bytes in &data {
                let written =
                    staged.file.seek(SeekFrom::Start(offset)).and_then(|_| staged.file.write_all(bytes));
                written.map_err(|e| failed("write", &staged.target, e))?;
                offset += bytes.len() as u64;
            }
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.clone();
        blocking(move || {
            let staged = staged.lock().take().ok_or_else(gone)?;
            let target = staged.target.clone();
            staged.publish(false).map_err(|e| failed("write", &target, e))?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.clone();
        blocking(move || {
            drop(staged.lock().take());
            Ok(())
        })
        .await
    }
}

/// A failed step, with its path; the errno stays reachable as a source.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: path=`{path}`")]
struct Failed {
    doing: &'static str,
    path: String,
    source: io::Error,
}

fn failed(doing: &'static str, path: &FsPath, source: io::Error) -> object_store::Error {
    let kind = source.kind();
    let path = path.display().to_string();
    let source = Box::new(Failed { doing, path: path.clone(), source });
    match kind {
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path, source },
        io::ErrorKind::NotFound => object_store::Error::NotFound { path, source },
        io::ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source },
        _ => object_store::Error::Generic { store: STORE, source },
    }
}

fn gone() -> object_store::Error {
    let source = Box::new(io::Error::other("the upload was completed or aborted before"));
    object_store::Error::Generic { store: STORE, source }
}

/// Runs `work` off the async threads; once started it runs to its end even if the caller goes away.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(source) => Err(object_store::Error::Generic { store: STORE, source: Box::new(source) }),
    }
}

#[cfg(test)]
mod tests;
