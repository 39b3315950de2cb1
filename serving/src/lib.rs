//! SQL over lake and tail, and the HTTP doors to it.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use tarn_model::status::Status;
use tarn_model::{OffsetVector, Result};
use tarn_table::Catalog;

/// Limits of a statement.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Memory of one statement, bytes.
    pub statement_memory_bytes: usize,
    /// Time after which it is cancelled, streaming included.
    pub statement_timeout: Duration,
}

/// Plans and runs statements over a catalog; clones share it.
#[derive(Clone, Debug)]
pub struct Engine {}

#[expect(unused_variables, reason = "skeleton")]
impl Engine {
    /// An engine over `catalog`.
    pub fn new(catalog: Catalog, options: EngineOptions) -> Result<Engine> {
        unimplemented!()
    }

    /// Runs one query. `as_of` cuts every table at that vector; otherwise the newest cuts are taken, once.
    pub async fn query(&self, sql: &str, params: &[serde_json::Value], as_of: Option<&OffsetVector>) -> Result<Answer> {
        unimplemented!()
    }
}

/// The answer to one statement, streaming.
#[allow(missing_debug_implementations, reason = "holds a stream")]
pub struct Answer {
    /// What it saw.
    pub vector: OffsetVector,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows; ends with an error at the deadline or the memory limit.
    pub rows: SendableRecordBatchStream,
}

/// Where the HTTP server gets the pipeline's status from.
pub trait StatusSource: Send + Sync + 'static {
    /// The status now.
    fn status(&self) -> Status;
}

/// `/v1/sql`, `/v1/status`, `/healthz`, `/metrics`, and a plain page at `/` that says what is here. `other` (the
/// collectors' routes) is merged in; every request passes the check of `Host` and `Origin`.
#[expect(unused_variables, reason = "skeleton")]
pub fn router(engine: Engine, status: Arc<dyn StatusSource>, other: axum::Router) -> axum::Router {
    unimplemented!()
}
