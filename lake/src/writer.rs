//! Writes rows as Parquet files: encoded in the background, uploaded while they are encoded.
//!
//! ```text
//! rows → group by partition value → [background] Parquet, zstd → 8 MiB pieces (at most 2 waiting) → put | multipart
//! ```
//!
//! *Invariants*: memory is bounded by one row group and three pieces for each file that is written at a time; when
//! [`FileWriter::write`] returns, its files are durable, and no version of the table refers to them yet.
//!
//! *Failure*: a file that was uploaded before an error stays behind, in no version; vacuum deletes it when it is old.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema, SchemaRef};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use tarn_model::columns::{OFFSET, TIMESTAMP};
use tarn_model::{Error, Result, background, clock, fault};
use tokio::sync::mpsc;

use crate::partition::{self, Group};
use crate::uncommitted::Uncommitted;
use crate::{NewFile, error, statistics};

/// Bytes that are handed to the store at a time; S3 asks for at least 5 MiB.
const PIECE_BYTES: usize = 8 * 1024 * 1024;
/// Pieces that wait between encoder and store.
const PIECES: usize = 2;
const ROW_GROUP_ROWS: usize = 1024 * 1024;
const ROW_GROUP_BYTES: usize = 64 * 1024 * 1024;
/// Rows that are encoded before the file's size is looked at.
const SLICE_ROWS: usize = 64 * 1024;

/// Writes data files of one table.
#[derive(Debug, Clone)]
pub(crate) struct FileWriter {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The table's folder.
    pub(crate) folder: Path,
    pub(crate) partition_by: Vec<String>,
    /// Columns of the files: the table's without the partition columns.
    pub(crate) file_schema: SchemaRef,
    pub(crate) target_file_bytes: u64,
    pub(crate) uncommitted: Arc<Uncommitted>,
}

impl FileWriter {
    /// Writes all groups, as many at a time as there are cores.
    pub(crate) async fn write(&self, groups: Vec<Group>) -> Result<Vec<NewFile>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let files: Vec<Vec<NewFile>> = futures::stream::iter(groups)
            .map(|group| {
                let values = group.values.clone();
                self.write_stream(values, move || group.into_batches())
            })
            .buffered(cores)
            .try_collect()
            .await?;
        Ok(files.into_iter().flatten().collect())
    }

    /// Writes rows that have the same partition values, as they come; `rows` is called on a blocking thread.
    pub(crate) async fn write_stream<R>(
        &self,
        values: BTreeMap<String, Option<String>>,
        rows: impl FnOnce() -> R + Send + 'static,
    ) -> Result<Vec<NewFile>>
    where
        R: Iterator<Item = Result<RecordBatch>>,
    {
        let (pieces, incoming) = mpsc::channel(PIECES);
        let encoder =
            Encoder { schema: self.file_schema.clone(), target_file_bytes: self.target_file_bytes, pieces };
        let encoding = background::run(move || encoder.run(rows()));
        let (uploaded, encoded) = tokio::join!(self.upload(&values, incoming), encoding);
        // When the upload fails, the encoder only knows that nobody listens any more.
        let files = uploaded?;
        encoded??;
        Ok(files)
    }

    async fn upload(
        &self,
        values: &BTreeMap<String, Option<String>>,
        mut incoming: mpsc::Receiver<Piece>,
    ) -> Result<Vec<NewFile>> {
        let folder = partition::folder(&self.partition_by, values)?;
        let mut files = Vec::new();
        let mut upload: Option<FileUpload> = None;
        while let Some(piece) = incoming.recv().await {
            let mut file = match upload.take() {
                Some(file) => file,
                None => self.start(&folder, files.len())?,
            };
            match piece {
                Piece::Bytes(bytes) => {
                    file.push(&self.store, bytes).await?;
                    upload = Some(file);
                }
                Piece::End { stats, rows } => {
                    fault::point("lake.upload.before")?;
                    let (path, size) = file.finish(&self.store).await?;
                    fault::point("lake.upload.after")?;
                    files.push(NewFile { path, size, partition_values: values.clone(), stats, rows });
                }
            }
        }
        if let Some(mut file) = upload {
            file.abort().await;
        }
        Ok(files)
    }

    fn start(&self, folder: &str, n: usize) -> Result<FileUpload> {
        let name = format!("{folder}part-{n:05}-{}.zstd.parquet", clock::new_id());
        let path = crate::snapshot::file_path(&self.folder, &name)?;
        // Known to vacuum before the first byte is there.
        self.uncommitted.insert(path.clone());
        Ok(FileUpload { name, path, first: None, parts: None, size: 0 })
    }
}

/// A file on its way to the store: one put when it is small, else in parts.
struct FileUpload {
    /// Relative to the table's folder.
    name: String,
    path: Path,
    first: Option<Bytes>,
    parts: Option<Box<dyn MultipartUpload>>,
    size: u64,
}

impl FileUpload {
    async fn push(&mut self, store: &Arc<dyn ObjectStore>, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        let failed = |e| error::store("writing a data file", &self.path, e);
        match (&mut self.parts, self.first.take()) {
            (None, None) => self.first = Some(bytes),
            (Some(parts), _) => parts.put_part(bytes.into()).await.map_err(failed)?,
            (none, Some(first)) => {
                let mut parts = store.put_multipart(&self.path).await.map_err(failed)?;
                for piece in [first, bytes] {
                    parts.put_part(piece.into()).await.map_err(failed)?;
                }
                *none = Some(parts);
            }
        }
        Ok(())
    }

    async fn finish(mut self, store: &Arc<dyn ObjectStore>) -> Result<(String, u64)> {
        let done = match &mut self.parts {
            Some(parts) => parts.complete().await,
            None => store.put(&self.path, PutPayload::from(self.first.take().unwrap_or_default())).await,
        };
        done.map_err(|e| error::store("writing a data file", &self.path, e))?;
        Ok((self.name, self.size))
    }

    async fn abort(&mut self) {
        if let Some(parts) = &mut self.parts
            && let Err(error) = parts.abort().await
        {
            tracing::debug!(path = %self.path, %error, "an upload could not be aborted");
        }
    }
}

/// What goes from the encoder to the store.
enum Piece {
    Bytes(Bytes),
    End { stats: String, rows: u64 },
}

/// Turns rows into the bytes of Parquet files; runs on a blocking thread.
struct Encoder {
    schema: SchemaRef,
    target_file_bytes: u64,
    pieces: mpsc::Sender<Piece>,
}

impl Encoder {
    fn run(self, rows: impl Iterator<Item = Result<RecordBatch>>) -> Result<()> {
        let mut file: Option<OpenFile> = None;
        for batch in rows {
            let batch = batch?;
            for from in (0..batch.num_rows()).step_by(SLICE_ROWS) {
                let slice = batch.slice(from, SLICE_ROWS.min(batch.num_rows() - from));
                let mut open = match file.take() {
                    Some(open) => open,
                    None => OpenFile::start(&self.schema, self.pieces.clone())?,
                };
                open.write(&slice)?;
                if open.size() >= self.target_file_bytes {
                    open.finish(&self.schema)?;
                } else {
                    file = Some(open);
                }
            }
        }
        file.map_or(Ok(()), |open| open.finish(&self.schema))
    }
}

struct OpenFile {
    parquet: ArrowWriter<PieceSink>,
    /// Columns, by position, that hold a NaN: no bounds can be given for them.
    unbounded: Vec<bool>,
}

impl OpenFile {
    fn start(schema: &SchemaRef, pieces: mpsc::Sender<Piece>) -> Result<OpenFile> {
        let sink = PieceSink { pending: Vec::new(), pieces };
        let options =
            ArrowWriterOptions::new().with_properties(properties(schema)).with_skip_arrow_metadata(true);
        let parquet = ArrowWriter::try_new_with_options(sink, schema.clone(), options)
            .map_err(|e| error::internal("starting a Parquet file", e))?;
        Ok(OpenFile { parquet, unbounded: vec![false; schema.fields().len()] })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        for (unbounded, column) in self.unbounded.iter_mut().zip(rows.columns()) {
            *unbounded = *unbounded || has_nan(column);
        }
        self.parquet.write(rows).map_err(|e| error::internal("writing Parquet", e))
    }

    fn size(&self) -> u64 {
        (self.parquet.bytes_written() + self.parquet.in_progress_size()) as u64
    }

    fn finish(mut self, schema: &Schema) -> Result<()> {
        let metadata = self.parquet.finish().map_err(|e| error::internal("finishing a Parquet file", e))?;
        let stats = statistics::of_file(schema, &metadata, &self.unbounded)?;
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        let sink = self.parquet.inner_mut();
        let sent =
            sink.send().and_then(|()| sink.pieces.blocking_send(Piece::End { stats, rows }).map_err(closed));
        sent.map_err(|e| error::internal("handing over a Parquet file", e))
    }
}

pub(crate) fn has_nan(column: &dyn Array) -> bool {
    match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().any(f32::is_nan),
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().any(f64::is_nan),
        _ => false,
    }
}

/// zstd level 1, dictionaries, statistics of chunks and pages; what grows steadily is stored as differences.
fn properties(schema: &Schema) -> WriterProperties {
    let steady = |builder: WriterPropertiesBuilder, name: &str| {
        let column = ColumnPath::from(name);
        builder
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED)
    };
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_created_by(concat!("tarn version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES));
    for name in [OFFSET, TIMESTAMP] {
        if schema.field_with_name(name).is_ok() {
            builder = steady(builder, name);
        }
    }
    builder.build()
}

/// Collects what the Parquet writer writes and hands it over in pieces.
struct PieceSink {
    pending: Vec<u8>,
    pieces: mpsc::Sender<Piece>,
}

impl PieceSink {
    fn send(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.pending));
        self.pieces.blocking_send(Piece::Bytes(bytes)).map_err(closed)
    }
}

fn closed<T>(_: mpsc::error::SendError<T>) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the upload has ended")
}

impl io::Write for PieceSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `rows` with exactly the table's columns, in its order and types: views and large strings become plain ones, and a
/// column that is missing is NULL.
pub(crate) fn conform(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if rows.schema_ref().fields() == schema.fields() {
        return Ok(rows.clone());
    }
    if let Some(extra) =
        rows.schema_ref().fields().iter().find(|field| schema.field_with_name(field.name()).is_err())
    {
        return Err(Error::invalid(format!("the table has no such column: column=`{}`", extra.name()))
            .with_hint("add the column to the table before its rows are written"));
    }
    let column = |field: &Arc<arrow::datatypes::Field>| match rows.column_by_name(field.name()) {
        None => Ok(arrow::array::new_null_array(field.data_type(), rows.num_rows())),
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) if same_values(column.data_type(), field.data_type()) => {
            arrow::compute::cast(column, field.data_type())
                .map_err(|e| error::internal("casting a column", e))
        }
        Some(column) => Err(Error::invalid(format!(
            "rows do not fit the table: column=`{}` rows=`{}` table=`{}`",
            field.name(),
            column.data_type(),
            field.data_type()
        ))),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_>>()?;
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| Error::invalid("rows do not fit the table's columns").with_source(e))
}

fn same_values(from: &DataType, to: &DataType) -> bool {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_binary =
        |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let dictionary = matches!(from, DataType::Dictionary(_, values) if **values == *to);
    let timestamps =
        matches!((from, to), (DataType::Timestamp(a, Some(_)), DataType::Timestamp(b, Some(_))) if a == b);
    dictionary
        || timestamps
        || (is_text(from) && is_text(to))
        || (is_binary(from) && is_binary(to))
        || from.equals_datatype(to)
}
