//! Plain DataFusion over the Parquet files of a table.

use std::time::Instant;

use anyhow::Result;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use serde_json::json;

use crate::aggregate::opened;

/// Prints one JSON object: the seconds that it took, and the rows of its answer.
pub(crate) async fn run(folder: &str, table: &str, query: &str) -> Result<()> {
    let (_, files) = opened(folder, table).await?;
    let plain = SessionContext::new_with_config(SessionConfig::new());
    let frame = plain.read_parquet(files, ParquetReadOptions::default()).await?;
    plain.register_table("t", frame.into_view())?;
    let begin = Instant::now();
    let answer = plain.sql(query).await?.collect().await?;
    let seconds = begin.elapsed().as_secs_f64();
    let rows: usize = answer.iter().map(|batch| batch.num_rows()).sum();
    println!("{}", json!({ "seconds": seconds, "rows": rows }));
    Ok(())
}
