//! An answer that a client reads bit by bit.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use super::encode::Rows;
use super::types::{Column, columns};

/// A statement with its values, and as much of its answer as has not been read.
pub(super) struct Portal {
    pub(super) state: State,
    /// In which format each column is wanted.
    pub(super) formats: Vec<i16>,
    /// The statement, for the place of an error.
    pub(super) sql: String,
}

/// How far a portal is.
pub(super) enum State {
    /// Nothing has been asked of the engine.
    Bound(super::connection::Bound),
    Running(Box<Running>),
    /// A cursor whose answer is being fetched.
    Lent,
    /// All of it was read.
    Done {
        columns: Vec<Column>,
        tag: &'static str,
    },
}

/// An answer that is being read.
pub(super) struct Running {
    pub(super) columns: Vec<Column>,
    pub(super) tag: &'static str,
    pub(super) stream: SendableRecordBatchStream,
    /// The batch that is being read, and the row that is next.
    pub(super) rows: Option<(Rows, usize)>,
    /// Rows that may still be read of it.
    pub(super) left: u64,
    /// The cursor that it was lent by.
    pub(super) cursor: Option<String>,
    /// Whether rows are passed over instead of sent.
    pub(super) is_move: bool,
    pub(super) is_at_end: bool,
}

impl Running {
    pub(super) fn new(schema: &SchemaRef, stream: SendableRecordBatchStream, tag: &'static str) -> Running {
        let columns = columns(schema);
        Running {
            columns,
            tag,
            stream,
            rows: None,
            left: u64::MAX,
            cursor: None,
            is_move: false,
            is_at_end: false,
        }
    }

    /// An answer that is there already: texts by column.
    pub(super) fn of_texts(names: &[&str], values: Vec<Vec<String>>, tag: &'static str) -> Running {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let arrays =
            values.into_iter().map(|values| Arc::new(StringArray::from(values)) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays);
        let batches = futures::stream::iter([batch.map_err(Into::into)]);
        Running::new(&schema, Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches)), tag)
    }
}
