//! An aggregate over Tarn's table with an empty tail, beside plain DataFusion on the same Parquet files, in one process and
//! by turns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use tarn_lake::{Lake, LakeOptions};
use tarn_serving::{Engine, EngineOptions};
use tarn_table::Catalog;

const QUERIES: [(&str, &str); 3] = [
    ("count and sum of all rows", "SELECT count(*) AS n, sum(ms) AS s FROM t"),
    (
        "group by country",
        "SELECT country, count(*) AS n, avg(ms) AS m, max(id) AS last FROM t GROUP BY country ORDER BY country",
    ),
    (
        "group by user, the ten first",
        "SELECT \"user\", count(*) AS n, avg(ms) AS m FROM t GROUP BY 1 ORDER BY n DESC, 1 LIMIT 10",
    ),
];

/// Prints the median of both and their ratio, per query.
pub(crate) async fn run(folder: &str, table: &str, runs: u64) -> Result<()> {
    let (lake, files) = opened(folder, table).await?;
    let engine = Engine::new(
        Catalog::at_rest(lake).await?,
        EngineOptions {
            statement_memory_bytes: 1 << 30,
            statement_timeout: Duration::from_secs(300),
            statement_rows: None,
            sql_memory_bytes: 1 << 30,
        },
    )?;
    let plain = SessionContext::new_with_config(SessionConfig::new());
    let frame = plain.read_parquet(files.clone(), ParquetReadOptions::default()).await?;
    plain.register_table("t", frame.into_view())?;
    println!("| query | Tarn, ms | DataFusion, ms | ratio |\n|---|---|---|---|");
    for (name, query) in QUERIES {
        let ours = query.replace("FROM t", &format!("FROM {table}"));
        let (mut tarn_ms, mut plain_ms) = (Vec::new(), Vec::new());
        // One round more than asked for: the first warms both.
        for round in 0..=runs {
            let start = Instant::now();
            let answer = engine.query(&ours, &[], None).await?;
            let from_tarn: Vec<RecordBatch> = answer.rows.try_collect().await?;
            let tarn = start.elapsed();
            let start = Instant::now();
            let from_plain = plain.sql(query).await?.collect().await?;
            let other = start.elapsed();
            ensure!(same(&from_tarn, &from_plain)?, "the answers differ: {name}");
            if round > 0 {
                tarn_ms.push(tarn.as_secs_f64() * 1e3);
                plain_ms.push(other.as_secs_f64() * 1e3);
            }
        }
        let (tarn, other) = (median(&mut tarn_ms), median(&mut plain_ms));
        println!("| {name} | {tarn:.1} | {other:.1} | {:.2} |", tarn / other);
    }
    println!("\n{} files, {runs} runs each, medians", files.len());
    Ok(())
}

/// The lake in `folder`, and the paths of the files that `table` has now.
pub(crate) async fn opened(folder: &str, table: &str) -> Result<(Lake, Vec<String>)> {
    let folder = std::fs::canonicalize(folder).with_context(|| format!("no lake at `{folder}`"))?;
    let options = LakeOptions {
        target_file_bytes: 128 << 20,
        optimize_after_files: 8,
        checkpoint_after_commits: 100,
        vacuum_retention: Duration::from_secs(7 * 86_400),
        log_retention: Duration::from_secs(7 * 86_400),
    };
    let url = format!("file:{}", folder.display());
    let lake =
        Lake::open(&url, &std::collections::BTreeMap::new(), options, tarn_model::clock::system()).await?;
    let snapshot = lake.load(table, false).await?.context("no such table")?.snapshot();
    let files = snapshot.files.iter().map(|file| folder.join(file.path.as_ref()).display().to_string());
    Ok((lake, files.collect()))
}

/// Whether two answers say the same; floats are compared as printed, to nine digits.
fn same(left: &[RecordBatch], right: &[RecordBatch]) -> Result<bool> {
    let text = |batches: &[RecordBatch]| -> Result<Vec<String>> {
        let table = pretty_format_batches(batches)?.to_string();
        Ok(table
            .split(['|', '\n'])
            .map(str::trim)
            .map(|cell| match (cell.contains('.'), cell.parse::<f64>()) {
                (true, Ok(float)) => format!("{float:.9e}"),
                _ => cell.to_string(),
            })
            .filter(|cell| !cell.starts_with('+'))
            .collect())
    };
    Ok(text(left)? == text(right)?)
}

/// The middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
