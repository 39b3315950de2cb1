//! That a source is paused: a word that outlives the process.
//!
//! *Layout*: the position `paused` of the source `control/<name>`: `{"at_ms"}`; none when it is not paused. It lies in the log's
//! ledger, beside the positions, and not among those of the source, which are what it has read.
//!
//! *Invariant*: the word is committed before a source comes to rest or goes on, so what was answered is true after a kill, too.

use serde_json::json;
use tarn_log::{Append, Log};
use tarn_model::Result;
use tarn_model::clock::Clock;

const PAUSED: &str = "paused";

fn keeper(source: &str) -> String {
    format!("control/{source}")
}

/// Whether a source is paused, as the log has it.
pub fn is_paused(log: &Log, source: &str) -> Result<bool> {
    Ok(log.position(&keeper(source), PAUSED)?.is_some())
}

/// Pauses a source or lets it go on, as far as the log has to know; whether that was news. Who runs the source tells it, too:
/// [`crate::Collectors::pause`].
pub async fn set_paused(log: &Log, clock: &dyn Clock, source: &str, paused: bool) -> Result<bool> {
    if is_paused(log, source)? == paused {
        return Ok(false);
    }
    let mut append = Append::new();
    append.position(&keeper(source), PAUSED, paused.then(|| json!({"at_ms": clock.now_ms()})));
    log.append(append).await?;
    Ok(true)
}
