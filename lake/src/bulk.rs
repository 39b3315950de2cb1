//! Rows in bulk, into a table that need not be there yet: files first, then one commit that makes the table, or adds to it.
//!
//! *Why*: a run that reads for an hour must leave nothing to see until it is whole, not even an empty table. So its files are
//! written beside a table that may not exist, and version 0 holds them, their progress and the columns at once.
//!
//! *Failure*: files of a run that broke off are in no version; vacuum deletes them when they are old.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use tarn_model::{Error, Result, background, clock, fault};

use crate::action::{CommitInfo, ENGINE, Line, Signature, Txn};
use crate::commit::add_of;
use crate::data_reader::{DataRows, rows_of};
use crate::snapshot::{check_properties, file_path};
use crate::writer::{FileWriter, conform};
use crate::{Commit, Lake, LakeFile, LakeSnapshot, LakeTable, NewFile, NewTable, error, schema};

/// Writes files of one table, several at a time if need be; clones share nothing but the lake.
#[derive(Debug, Clone)]
pub struct BulkWriter {
    writer: FileWriter,
}

impl BulkWriter {
    /// Writes rows that have the table's columns as files of the target size, as they come; durable when this returns, and in no
    /// version. `rows` is iterated on a blocking thread; an error among them ends the writing.
    pub async fn write<R>(&self, rows: R) -> Result<Vec<NewFile>>
    where
        R: Iterator<Item = Result<RecordBatch>> + Send + 'static,
    {
        let schema = self.writer.file_schema.clone();
        let rows = rows.map(move |rows| conform(&rows?, &schema));
        self.writer.write_stream(BTreeMap::new(), move || rows).await
    }

    /// Gives the rows of `files` to `each`, as they lie in the lake; on a blocking thread.
    pub async fn read(
        &self,
        files: &[NewFile],
        mut each: impl FnMut(RecordBatch) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let mut read = Vec::with_capacity(files.len());
        for file in files {
            let path = file_path(&self.writer.folder, &file.path)?;
            read.push(LakeFile { path, size: file.size, modified_ms: 0, partition_values: Vec::new() });
        }
        let (rows, schema) =
            (DataRows::new(self.writer.store.clone(), read), self.writer.file_schema.clone());
        let reading = background::run(move || {
            for batch in rows {
                each(conform(&batch?, &schema)?)?;
            }
            Ok(())
        });
        reading.await?
    }

    /// Refuses to go on when one of `files` is gone: somebody deleted it as an orphan.
    pub async fn check(&self, files: &[NewFile]) -> Result<()> {
        for file in files {
            let path = file_path(&self.writer.folder, &file.path)?;
            let found = self.writer.store.head(&path).await;
            let found = found.map_err(|e| error::store("looking for a file that was written", &path, e))?;
            if found.size != file.size {
                return Err(Error::corrupt(format!("a file is not as it was written: path=`{path}`")));
            }
        }
        Ok(())
    }
}

impl LakeTable {
    /// How many rows each file of `snapshot` has, by what the file itself says.
    pub async fn rows_in_files(&self, snapshot: &LakeSnapshot) -> Result<Vec<u64>> {
        let mut rows = Vec::with_capacity(snapshot.files.len());
        for file in &snapshot.files {
            rows.push(rows_of(self.store(), file).await?);
        }
        Ok(rows)
    }
}

impl Lake {
    /// A writer of files without partitions for the table `name`, whose columns are, or will be, those of `schema`.
    pub fn bulk_writer(&self, name: &str, schema: &SchemaRef) -> Result<BulkWriter> {
        schema::check(schema, &[])?;
        let writer = FileWriter {
            store: self.store(),
            folder: self.folder(name)?,
            partition_by: Vec::new(),
            file_schema: schema.clone(),
            target_file_bytes: self.inner.options.target_file_bytes,
            uncommitted: self.inner.uncommitted.clone(),
        };
        Ok(BulkWriter { writer })
    }

    /// Makes the table `name` with its first rows in one commit, version 0. When there is a table of that name whose progress is what
    /// `commit` wanted, that is the one: the answer to an earlier try was lost. Any other is a conflict.
    pub async fn create_with(&self, name: &str, table: &NewTable, commit: &Commit) -> Result<LakeTable> {
        schema::check(&table.schema, &table.partition_by)?;
        let path = self.log(name)?.commit_path(0);
        let body = self.first_commit_with(table, commit)?;
        let put = match fault::point("lake.commit.before") {
            Ok(()) => {
                let put = self.store().put_opts(&path, body.into(), PutOptions::from(PutMode::Create)).await;
                put.map_err(|e| error::store("creating a table", &path, e))
                    .and_then(|_| fault::point("lake.commit.after"))
            }
            Err(injected) => Err(injected),
        };
        // Whatever the put said, the log says what is there.
        let Some(created) = self.load(name, false).await? else {
            return Err(put.err().unwrap_or_else(|| {
                Error::internal(format!("a table that was just created is not there: table=`{name}`"))
            }));
        };
        let (there, folder) = (created.snapshot(), self.folder(name)?);
        // Another machine may have made the same run of a job.
        let is_there = |file: &NewFile| {
            file_path(&folder, &file.path).is_ok_and(|path| there.files.iter().any(|f| f.path == path))
        };
        let advanced = |advance: &crate::Advance| there.txns.get(&advance.app_id) == Some(&advance.to);
        if !commit.advances.iter().all(advanced) || !commit.files.iter().all(is_there) {
            return Err(Error::conflict(format!("somebody else made the table meanwhile: table=`{name}`"))
                .with_hint("try again: the rows come to those that are there now"));
        }
        if let Err(error) = put {
            tracing::warn!(table = name, %error, "creating the table failed, but it is there");
            created.make_visible_durable(0).await?;
        }
        for file in &commit.files {
            created.forget_uncommitted(&file.path);
        }
        Ok(created)
    }

    fn first_commit_with(&self, table: &NewTable, commit: &Commit) -> Result<String> {
        let now_ms = self.inner.clock.now_ms();
        let metadata = self.first_metadata(table)?;
        check_properties(&metadata)?;
        let mut lines = vec![
            Line { protocol: Some(crate::action::Protocol::OURS), ..Line::default() },
            Line { meta_data: Some(metadata), ..Line::default() },
        ];
        for advance in &commit.advances {
            let txn = Txn { app_id: advance.app_id.clone(), version: advance.to };
            lines.push(Line { txn: Some(txn), ..Line::default() });
        }
        for file in &commit.files {
            lines.push(Line { add: Some(add_of(file, now_ms, true)?), ..Line::default() });
        }
        let info = CommitInfo {
            timestamp: Some(now_ms),
            operation: Some(commit.operation.clone()),
            operation_parameters: Some(BTreeMap::new()),
            engine_info: Some(format!("{ENGINE}{}", env!("CARGO_PKG_VERSION"))),
            is_blind_append: Some(true),
            tarn: Some(Signature {
                commit: clock::new_id().to_string(),
                writer: self.inner.writer.clone(),
                lines: lines.len() + 1,
                marks: commit.marks.clone(),
            }),
        };
        lines.insert(0, Line::of_commit_info(&info)?);
        let text =
            |line: &Line| serde_json::to_string(line).map_err(|e| error::internal("writing a commit", e));
        Ok(lines.iter().map(text).collect::<Result<Vec<_>>>()?.join("\n") + "\n")
    }
}
