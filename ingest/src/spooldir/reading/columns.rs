//! Files made of columns: each row is a record.
//!
//! The position's `lines` are rows here, and its `offset` stays 0: where a row lies, its file tells.

use tarn_model::Result;
use tarn_model::config::FileFormat;
use tracing::warn;

use super::{End, Writer};
use crate::columnar::cells::Cells;
use crate::columnar::{self, FileBytes, RowFile, Trouble};
use crate::spooldir::at_path;
use crate::unpack::Packing;

impl Writer<'_> {
    pub(super) fn columns(&mut self, format: FileFormat) -> Result<End> {
        if self.packing != Packing::Plain {
            let what = "the file is packed as a whole: unpack it, for its parts are packed already";
            return Ok(End::Damaged(what.to_owned(), Vec::new()));
        }
        let file = self.spool.file.try_clone();
        let bytes = file.and_then(|file| FileBytes::new(file, Some(self.source.monitor.clone())));
        let bytes = bytes.map_err(|error| at_path("cannot read", &self.spool.path, error))?;
        let mut rows = match columnar::open(format, bytes, self.position.lines) {
            Ok(rows) => rows,
            Err(trouble) => return self.end_with(trouble),
        };
        self.tell_types(&*rows)?;
        let schema = rows.schema();
        let mut value = Vec::new();
        loop {
            let batch = match rows.next() {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(End::Whole),
                Err(trouble) => return self.end_with(trouble),
            };
            let cells = match Cells::new(&batch, &schema) {
                Ok(cells) => cells,
                Err(what) => return Ok(End::Damaged(what, Vec::new())),
            };
            for row in 0..batch.num_rows() {
                let wrong = cells.write(row, &mut value).err();
                self.push(&value, None, self.position.lines + 1, None, wrong.as_deref())?;
                self.position.lines += 1;
                if self.appender.is_full()
                    && let Some(end) = self.submit()?
                {
                    return Ok(end);
                }
            }
        }
    }

    /// The topic learns the types of the columns, if nobody has told it any: a table without `columns` takes them.
    fn tell_types(&mut self, rows: &dyn RowFile) -> Result<()> {
        let changes = !self.source.config.interceptors.is_empty();
        if changes || self.topic.columns.is_some() {
            return Ok(());
        }
        match columnar::columns_of(&rows.schema()) {
            Some(columns) => {
                self.source.log.set_topic_columns(&self.topic.name, &columns)?;
                self.topic = self.source.topic_info()?;
                self.shaper.begin(self.source, self.topic.clone())
            }
            None => {
                warn!(
                    source = self.source.name,
                    file = self.spool.name,
                    "the column types are left to be inferred: no table has these names"
                );
                Ok(())
            }
        }
    }

    fn end_with(&self, trouble: Trouble) -> Result<End> {
        match trouble {
            Trouble::Damage(what) => Ok(End::Damaged(what, Vec::new())),
            Trouble::Disk(error) => Err(at_path("cannot read", &self.spool.path, error)),
        }
    }
}
