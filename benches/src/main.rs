//! What the benchmarks need beside the binary; `benches/run` calls it.
//!
//! ```text
//! tarn-bench events OUT BYTES SEED            NDJSON events of 215 bytes each
//! tarn-bench aggregate LAKE TABLE RUNS        Tarn's SQL beside plain DataFusion on the same files
//! tarn-bench freshness ADDRESS RATE SECONDS   acknowledgement to first answer, open loop
//! tarn-bench commits ADDRESS COMMITS ROWS     pushes, each waited for until it is a lake commit of its own
//! tarn-bench push ADDRESS BYTES               pushes as fast as they are acknowledged
//! tarn-bench reads ADDRESS RATE FIRST SECONDS READS QUERY...
//!                                             READS reads a second by turns while events from number FIRST on come in
//! tarn-bench subscribe ADDRESS RATE SECONDS COUNT QUERY
//!                                             COUNT subscribers to one query while events come in
//! tarn-bench plain LAKE TABLE QUERY           plain DataFusion over a table's files, as `t`
//! ```

#![allow(clippy::print_stdout, reason = "a command line program")]

mod aggregate;
mod event;
mod freshness;
mod load;
mod plain;
mod pushes;
mod reads;
mod subscribers;

use anyhow::{Context, Result, bail};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["events", out, bytes, seed] => event::write_file(out, number(bytes)?, number(seed)?),
        ["aggregate", lake, table, runs] => aggregate::run(lake, table, number(runs)?).await,
        ["freshness", address, rate, seconds] => {
            freshness::run(address, number(rate)?, number(seconds)?).await
        }
        ["commits", address, commits, rows] => {
            pushes::commits(address, number(commits)?, number(rows)?).await
        }
        ["reads", address, rate, first, seconds, reads, queries @ ..] => {
            let load =
                load::Load { address, rate: number(rate)?, first: number(first)?, seconds: number(seconds)? };
            reads::run(load, number(reads)?, queries).await
        }
        ["subscribe", address, rate, seconds, count, query] => {
            let load = load::Load { address, rate: number(rate)?, first: 0, seconds: number(seconds)? };
            subscribers::run(load, number(count)?, query).await
        }
        ["plain", lake, table, query] => plain::run(lake, table, query).await,
        ["push", address, bytes] => pushes::push(address, number(bytes)?).await,
        _ => bail!("see the head of benches/src/main.rs for the commands"),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("`{text}` is not a whole number"))
}
