//! For a log and a lake that no longer know each other: a data folder that was deleted, exchanged or put back from an older
//! copy.

use std::collections::BTreeMap;

use tarn_lake::{Commit, Lake, LakeTable};
use tarn_log::Log;
use tarn_model::{Error, Result};
use tarn_table::catalog::boundary_of;
use tarn_table::open::{TOPIC, TOPIC_UUID};

/// Property: the id of the topic that a detached table was fed from.
const DETACHED_FROM: &str = "tarn.detached_from";

/// Lets the table go: its rows stay and can be read, no topic feeds it any more. [`adopt`] takes it back.
pub async fn detach(lake: &Lake, name: &str) -> Result<()> {
    for table in both(lake, name).await? {
        let Some(id) = table.snapshot().properties.get(TOPIC_UUID).cloned() else { continue };
        set(&table, "DETACH", [(TOPIC_UUID, None), (DETACHED_FROM, Some(id))]).await?;
    }
    tracing::info!(table = name, "detached");
    Ok(())
}

/// Lets the log go on where the table ends: the topic takes over the table's identity and starts at its boundary, so that no
/// offset is ever given twice. Refused while the log's own topic of that name holds records.
pub async fn adopt(log: &Log, lake: &Lake, name: &str) -> Result<()> {
    let tables = both(lake, name).await?;
    for table in &tables {
        let snapshot = table.snapshot();
        if let (None, Some(id)) =
            (snapshot.properties.get(TOPIC_UUID), snapshot.properties.get(DETACHED_FROM).cloned())
        {
            set(table, "ADOPT", [(TOPIC_UUID, Some(id)), (DETACHED_FROM, None)]).await?;
        }
    }
    let snapshot = tables.first().map(LakeTable::snapshot).ok_or_else(|| no_table(name))?;
    let property = |key: &str| {
        snapshot.properties.get(key).cloned().ok_or_else(|| {
            Error::invalid(format!("table `{name}` has no property `{key}`: it was never made from a topic"))
        })
    };
    let id = property(TOPIC_UUID)?.parse().map_err(|error| {
        Error::corrupt(format!("property `{TOPIC_UUID}` of table `{name}` is not an id")).with_source(error)
    })?;
    let mut boundary = boundary_of(&snapshot);
    if let Some(dead) = tables.get(1) {
        boundary = boundary.join(&boundary_of(&dead.snapshot()));
    }
    log.adopt_topic(&property(TOPIC)?, id, &boundary).await?;
    tracing::info!(table = name, boundary = %boundary, "adopted");
    Ok(())
}

/// The table, and its dead-letter table behind it.
async fn both(lake: &Lake, name: &str) -> Result<Vec<LakeTable>> {
    let rows = lake.load(name, true).await?.ok_or_else(|| no_table(name))?;
    let dead = lake.load(&format!("{name}_dead_letters"), true).await?;
    Ok(std::iter::once(rows).chain(dead).collect())
}

fn no_table(name: &str) -> Error {
    Error::invalid(format!("there is no table `{name}` in the lake"))
}

async fn set<const N: usize>(
    table: &LakeTable,
    operation: &str,
    set: [(&str, Option<String>); N],
) -> Result<()> {
    let properties: BTreeMap<String, Option<String>> =
        set.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    table
        .commit(Commit { properties, operation: operation.to_owned(), ..Commit::default() })
        .await
        .map(|_| ())
}
