//! What a state was made with.
//!
//! *Why*: a state is bytes of DataFusion's accumulators. Another plan, another engine or another table makes other bytes with
//! the same column types, so states are only used where everything that shaped them is equal.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use xxhash_rust::xxh3::xxh3_64;

/// The version of the engine whose accumulators the states are.
pub const ENGINE: &str = datafusion::DATAFUSION_VERSION;

const PLAN: &str = "tarn.view.plan";
const ENGINE_PROPERTY: &str = "tarn.view.engine";
const FOREIGN: &str = "tarn.view.foreign_version";
/// Changes when states are stored in another way.
const LAYOUT: u32 = 1;

/// What a state was made with, as the properties of its table keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Hash of the query, its table and the state's columns.
    pub plan: String,
    /// [`ENGINE`] of the writer.
    pub engine: String,
    /// Newest version of the table in which another engine had changed rows.
    pub foreign_version: Option<u64>,
}

impl Stamp {
    /// The stamp of states that this process makes now.
    pub fn now(plan: &str, foreign_version: Option<u64>) -> Stamp {
        Stamp { plan: plan.to_owned(), engine: ENGINE.to_owned(), foreign_version }
    }

    /// The stamp of a table of states; `None` when it has none.
    pub fn read(properties: &BTreeMap<String, String>) -> Option<Stamp> {
        Some(Stamp {
            plan: properties.get(PLAN)?.clone(),
            engine: properties.get(ENGINE_PROPERTY)?.clone(),
            foreign_version: properties.get(FOREIGN).and_then(|version| version.parse().ok()),
        })
    }

    /// As properties.
    pub fn write(&self) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::from([
            (PLAN.to_owned(), self.plan.clone()),
            (ENGINE_PROPERTY.to_owned(), self.engine.clone()),
        ]);
        if let Some(version) = self.foreign_version {
            properties.insert(FOREIGN.to_owned(), version.to_string());
        }
        properties
    }
}

/// The hash of a plan: its query as parsed, the table that it reads, and the columns of its states.
pub(crate) fn plan_hash(query: &str, table: &str, states: Option<&Schema>) -> String {
    let mut text = format!("{LAYOUT}\n{query}\n{table}");
    for field in states.iter().flat_map(|states| states.fields()) {
        text.push_str(&format!("\n{} {}", field.name(), field.data_type()));
    }
    format!("{:016x}", xxh3_64(text.as_bytes()))
}
