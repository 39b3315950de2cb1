//! Reads a data file's rows on a blocking thread, row group by row group: the bytes of one row group at a time.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tarn_model::{Error, Result};
use tokio::runtime::Handle;

use crate::LakeFile;
use crate::error;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 16 * 1024;

/// The rows of some files, one file after the other. Iterate on a blocking thread only.
pub(crate) struct DataRows {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    files: std::vec::IntoIter<LakeFile>,
    open: Option<(Path, BoxStream<'static, std::result::Result<RecordBatch, ParquetError>>)>,
}

impl DataRows {
    /// Rows of `files` in their order; called on an async thread.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, files: Vec<LakeFile>) -> DataRows {
        DataRows { store, runtime: Handle::current(), files: files.into_iter(), open: None }
    }

    fn start(
        &self,
        file: LakeFile,
    ) -> Result<(Path, BoxStream<'static, std::result::Result<RecordBatch, ParquetError>>)> {
        let path = file.path.clone();
        let source = DataFile { store: self.store.clone(), path: path.clone(), size: file.size };
        let open = async {
            let builder = ParquetRecordBatchStreamBuilder::new(source).await?;
            builder.with_batch_size(BATCH_ROWS).build()
        };
        let stream = self.runtime.block_on(open).map_err(|e| unreadable(&path, e))?;
        Ok((path, stream.boxed()))
    }
}

impl Iterator for DataRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            if let Some((path, stream)) = &mut self.open {
                match self.runtime.block_on(stream.next()) {
                    Some(rows) => return Some(rows.map_err(|e| unreadable(path, e))),
                    None => self.open = None,
                }
            }
            let file = self.files.next()?;
            match self.start(file) {
                Ok(open) => self.open = Some(open),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// How many rows a data file has, by its footer.
pub(crate) async fn rows_of(store: &Arc<dyn ObjectStore>, file: &LakeFile) -> Result<u64> {
    let mut source = DataFile { store: Arc::clone(store), path: file.path.clone(), size: file.size };
    let metadata = source.get_metadata(None).await.map_err(|e| unreadable(&file.path, e))?;
    Ok(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0))
}

fn unreadable(path: &Path, e: ParquetError) -> Error {
    match e {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(e) => error::store("reading a data file", path, *e),
            Err(source) => {
                Error::unavailable(format!("reading a data file failed: path=`{path}`")).with_source(source)
            }
        },
        e => Error::corrupt(format!("a data file cannot be read: path=`{path}`"))
            .with_source(e)
            .with_hint("restore the file from a backup; its rows may still be in the topic's log"),
    }
}

/// A file of the lake, as the Parquet reader wants it.
struct DataFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(e: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl AsyncFileReader for DataFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
