//! From the rows of splits to files: each split has a writer of its own, fed through two waiting batches.
//!
//! ```text
//! reader's thread: value by value ──▶ batch ──▶ 2 waiting ──▶ writer: Parquet, upload
//! ```
//!
//! *Invariants*: a split's files are kept only if all its rows came: whoever drops a taker before its end fails its writer.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tarn_ingest::RowTaker;
use tarn_lake::{BulkWriter, NewFile};
use tarn_model::columns::Columns;
use tarn_model::{Error, Result, Value, fault};
use tarn_table::decode::RowBuilder;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Batches that wait between a reader and its writer.
const WAITING: usize = 2;

/// Takes the rows of all splits of one table.
pub(super) struct Filler {
    writer: BulkWriter,
    columns: Columns,
    timezone: Option<String>,
    runtime: Handle,
    /// Rows so far, for people.
    rows: Arc<AtomicU64>,
    /// Files of each split that is whole.
    files: Arc<Mutex<Vec<Vec<NewFile>>>>,
}

impl Filler {
    /// Called within the runtime, on whose threads the writers run.
    pub(super) fn new(
        writer: BulkWriter,
        columns: &Columns,
        timezone: Option<&str>,
        rows: Arc<AtomicU64>,
        splits: usize,
    ) -> Filler {
        Filler {
            writer,
            columns: columns.clone(),
            timezone: timezone.map(str::to_owned),
            runtime: Handle::current(),
            rows,
            files: Arc::new(Mutex::new(vec![Vec::new(); splits])),
        }
    }

    /// Takes the rows of a split.
    pub(super) fn taker(&self, split: usize) -> Result<Box<dyn RowTaker>> {
        let (batches, incoming) = sync_channel(WAITING);
        let writer = self.writer.clone();
        let writing = self.runtime.spawn(async move { writer.write(Incoming(incoming)).await });
        Ok(Box::new(SplitTaker {
            builder: RowBuilder::new(&self.columns, self.timezone.as_deref())?,
            batches: Some(batches),
            writing: Some(writing),
            runtime: self.runtime.clone(),
            rows: Arc::clone(&self.rows),
            files: Arc::clone(&self.files),
            split,
        }))
    }

    /// The files of each split.
    pub(super) fn files(&self) -> Vec<Vec<NewFile>> {
        self.files.lock().clone()
    }
}

/// Batches, on the writer's thread.
struct Incoming(Receiver<Result<RecordBatch>>);

impl Iterator for Incoming {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        self.0.recv().ok()
    }
}

struct SplitTaker {
    builder: RowBuilder,
    batches: Option<SyncSender<Result<RecordBatch>>>,
    writing: Option<JoinHandle<Result<Vec<NewFile>>>>,
    runtime: Handle,
    rows: Arc<AtomicU64>,
    files: Arc<Mutex<Vec<Vec<NewFile>>>>,
    split: usize,
}

impl SplitTaker {
    fn hand_over(&mut self) -> Result<()> {
        let Some(batch) = self.builder.finish()? else { return Ok(()) };
        super::count(&self.rows, batch.num_rows());
        let is_taken = self.batches.as_ref().is_some_and(|batches| batches.send(Ok(batch)).is_ok());
        // The writer hung up: it knows why.
        if is_taken { Ok(()) } else { Err(self.written().err().unwrap_or_else(broke_off)) }
    }

    /// Waits for the writer.
    fn written(&mut self) -> Result<Vec<NewFile>> {
        self.batches = None;
        let Some(writing) = self.writing.take() else { return Err(broke_off()) };
        self.runtime
            .block_on(writing)
            .map_err(|error| Error::internal("the writer of a split ended early").with_source(error))?
    }
}

fn broke_off() -> Error {
    Error::internal("the writer of a split broke off")
}

impl RowTaker for SplitTaker {
    fn take(&mut self, row: &[Value<'_>]) -> Result<()> {
        self.builder.push(row)?;
        if self.builder.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn end(mut self: Box<Self>) -> Result<()> {
        self.hand_over()?;
        fault::point("import.upload.before")?;
        let files = self.written()?;
        fault::point("import.upload.after")?;
        self.files.lock()[self.split] = files;
        Ok(())
    }
}

impl Drop for SplitTaker {
    fn drop(&mut self) {
        if let Some(batches) = self.batches.take() {
            // Without it the end of the batches would look like the end of the rows.
            let _ = batches.send(Err(Error::unavailable("the rows of a split broke off")));
        }
    }
}
