//! A store that fails when it is told to: before a put, or after it has been done (a lost response).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// What happens to the next put whose path contains a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written.
    Before,
    /// It is written, and the answer is lost.
    After,
    /// It is written, the answer is lost, and the store's own retry finds the name taken.
    AfterTaken,
    /// Nothing is written, and the store says that the name is taken (S3's 409).
    Busy,
    /// The store cannot be read for a while either: that many reads fail.
    AfterAndUnreadable(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    armed: Arc<Mutex<Vec<(String, Fault)>>>,
    failing_reads: Arc<AtomicUsize>,
}

impl Faulty {
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> Faulty {
        Faulty { inner, armed: Arc::default(), failing_reads: Arc::default() }
    }

    pub(crate) fn arm(&self, path: &str, fault: Fault) {
        self.armed.lock().push((path.to_owned(), fault));
    }

    /// Whatever was armed and not used is forgotten.
    pub(crate) fn disarm(&self) {
        self.armed.lock().clear();
        self.failing_reads.store(0, Ordering::SeqCst);
    }

    fn take(&self, location: &Path) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let i = armed.iter().position(|(path, _)| location.as_ref().contains(path.as_str()))?;
        Some(armed.remove(i).1)
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "the response was lost".into() }
}

fn taken(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "taken".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.take(location) {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Before) => Err(lost()),
            Some(Fault::Busy) => Err(taken(location)),
            Some(fault) => {
                self.inner.put_opts(location, payload, opts).await?;
                if let Fault::AfterAndUnreadable(reads) = fault {
                    self.failing_reads.store(reads, Ordering::SeqCst);
                }
                Err(if fault == Fault::AfterTaken { taken(location) } else { lost() })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let failing =
            self.failing_reads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if failing.is_ok() {
            return Err(lost());
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
