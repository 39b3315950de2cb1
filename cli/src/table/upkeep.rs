//! The work itself: by the running process, or here when none runs.

use serde_json::{Value, json};
use tarn_model::Error;
use tarn_model::config::Config;

use crate::args::TableVerb;
use crate::door::Door;
use crate::rest;

/// Does what `verb` says; what it did, as JSON.
pub(super) async fn run(config: &Config, verb: &TableVerb) -> anyhow::Result<Value> {
    match Door::find(config).await? {
        Some(door) => asked(config, &door, verb).await,
        None => by_itself(config, verb).await,
    }
}

async fn asked(config: &Config, door: &Door, verb: &TableVerb) -> anyhow::Result<Value> {
    match verb {
        TableVerb::Optimize { name } => door.table(name, "optimize", &[]).await,
        TableVerb::Vacuum { name, retention, dry_run } => {
            let retention = retention.unwrap_or(config.lake.vacuum_retention);
            let options = [("dry_run", dry_run.to_string()), ("retention", retention.to_string())];
            door.table(name, "vacuum", &options).await
        }
        TableVerb::Detach { .. } | TableVerb::Adopt { .. } => {
            Err(Error::unavailable(format!("a process runs this config, at {}", door.address()))
                .with_hint("stop it first: a table changes its log only at rest")
                .into())
        }
        TableVerb::List | TableVerb::Describe { .. } => Ok(Value::Null),
    }
}

async fn by_itself(config: &Config, verb: &TableVerb) -> anyhow::Result<Value> {
    let lake = rest::lake(config).await?;
    // Held to the end: whoever has the log owns the tables. Its folder may be gone: that is what detach and adopt are for.
    let log = rest::log_or_new(config).await?;
    let done = match verb {
        TableVerb::Optimize { name } => {
            let table = rest::lake_table(&lake, name, true).await?;
            serde_json::to_value(table.optimize().await?)?
        }
        TableVerb::Vacuum { name, retention, dry_run } => {
            let table = rest::lake_table(&lake, name, true).await?;
            let retention = retention.unwrap_or(config.lake.vacuum_retention);
            serde_json::to_value(table.vacuum(retention.0, *dry_run).await?)?
        }
        TableVerb::Detach { name } => {
            rest::lake_table(&lake, name, false).await?;
            tarn_batch::detach(&lake, name).await?;
            json!({"detached": name})
        }
        TableVerb::Adopt { name } => {
            rest::lake_table(&lake, name, false).await?;
            tarn_batch::adopt(&log, &lake, name).await?;
            json!({"adopted": name})
        }
        TableVerb::List | TableVerb::Describe { .. } => Value::Null,
    };
    log.close().await?;
    Ok(done)
}
