//! Cuts: lake snapshot + its boundary + the tail above it, immutable, one per topic.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tarn_lake::LakeSnapshot;
use tarn_model::{Boundary, PartitionId, Result};

use crate::fragment::SharedFragment;

/// One moment of all tables on a topic.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The topic.
    pub topic: Arc<str>,
    /// Every table on the topic has decoded everything below this.
    pub decoded: Boundary,
    /// The tables by name (a table and its dead-letter table are two entries).
    pub tables: HashMap<String, Arc<CutTable>>,
}

/// One table at one moment.
#[derive(Debug, Clone)]
pub struct CutTable {
    /// Name in SQL.
    pub name: Arc<str>,
    /// All columns, system columns first.
    pub schema: SchemaRef,
    /// Whether this is a dead-letter table: its tail is the fragments' `dead`, not their `rows`.
    pub dead_letters: bool,
    /// The lake part; `None` before the lake table exists.
    pub lake: Option<Arc<LakeSnapshot>>,
    /// What the lake part covers.
    pub boundary: Boundary,
    /// Fragments at or above the boundary, in offset order within each partition, gapless.
    pub tail: Vec<SharedFragment>,
    /// Memory of the tail, bytes.
    pub tail_bytes: usize,
}

/// Keeps the newest cut of one topic; its owner swaps it, readers take it without waiting.
#[derive(Debug)]
pub struct TopicHub {}

#[expect(unused_variables, reason = "skeleton")]
impl TopicHub {
    /// A hub without tables.
    pub fn new(topic: &str) -> TopicHub {
        unimplemented!()
    }

    /// The newest cut.
    pub fn cut(&self) -> Arc<Cut> {
        unimplemented!()
    }

    /// Adds a table (before its first fragment) with its lake part and boundary.
    pub fn add_table(&self, table: CutTable) -> Result<()> {
        unimplemented!()
    }

    /// Publishes what was decoded of one partition, for every table on the topic at once; each fragment must start at
    /// the end of its table's tail (the boundary's truth table).
    pub fn publish(&self, partition: PartitionId, fragments: Vec<(String, SharedFragment)>) -> Result<()> {
        unimplemented!()
    }

    /// Takes over a new lake snapshot with its boundary, and drops the tail below it, in one swap.
    pub fn committed(&self, table: &str, lake: Arc<LakeSnapshot>, boundary: Boundary) -> Result<()> {
        unimplemented!()
    }

    /// Memory of all tails of this topic, shared fragments counted once.
    pub fn tail_bytes(&self) -> usize {
        unimplemented!()
    }

    /// Ticks at every swap.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!()
    }
}
