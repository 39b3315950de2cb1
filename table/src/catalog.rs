//! All tables of this process, by topic.
//!
//! *Failure*: a lake at rest has no tail, so its tables show what is committed, and only that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use parking_lot::RwLock;
use tarn_lake::{Lake, LakeSnapshot};
use tarn_model::columns::{OFFSET, PARTITION, TIMESTAMP, TOPIC as COLUMN_TOPIC};
use tarn_model::{Boundary, Kind, Result};

use crate::cut::{Cut, CutTable, DEAD_LETTERS_SUFFIX, TopicHub};
use crate::import::is_import;
use crate::open::{KIND, PART_OF, TOPIC, TOPIC_UUID, VIEW};
use crate::scan::sql_schema;
use crate::watermark::EventTime;

/// Topics with their hubs, and the lake that their files lie in; clones share it.
#[derive(Debug, Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lake: Lake,
    hubs: RwLock<BTreeMap<String, Arc<TopicHub>>>,
    event_times: RwLock<BTreeMap<String, Arc<EventTime>>>,
    wholes: RwLock<BTreeMap<String, Arc<Whole>>>,
    /// Import tables: a cut of no topic.
    imports: TopicHub,
    ready: AtomicBool,
    records_to_go: AtomicU64,
}

/// A table of many topics: what it shows, and the tables of one topic each that it is made of.
///
/// *Why parts*: the progress of each topic then travels with that topic's rows, in the commit of its own table, and a topic
/// that appears or is deleted touches no other. The lake has no table for the whole.
#[derive(Debug)]
pub struct Whole {
    /// `_topic`, and the columns of all parts in the order in which they became known, as SQL shows them.
    pub schema: SchemaRef,
    /// Names of its parts.
    pub parts: BTreeSet<String>,
}

impl Default for Whole {
    fn default() -> Whole {
        Whole { schema: Arc::new(Schema::empty()), parts: BTreeSet::new() }
    }
}

impl Catalog {
    /// An empty catalog over `lake`.
    pub fn new(lake: Lake) -> Catalog {
        Catalog {
            shared: Arc::new(Shared {
                lake,
                hubs: RwLock::default(),
                event_times: RwLock::default(),
                wholes: RwLock::default(),
                imports: TopicHub::new(""),
                ready: AtomicBool::new(false),
                records_to_go: AtomicU64::new(0),
            }),
        }
    }

    /// A catalog of everything that lies in `lake`, with empty tails: the lake at rest. Delta tables that are not made
    /// from a topic are left out.
    pub async fn at_rest(lake: Lake) -> Result<Catalog> {
        let catalog = Catalog::new(lake);
        for name in catalog.lake().table_names().await? {
            let table = match catalog.lake().load(&name, false).await {
                Ok(Some(table)) => table,
                Ok(None) => continue,
                // States of a view: its rows say the same.
                Err(error) if error.kind() == Kind::Corrupt && name.contains("@v") => {
                    tracing::warn!(table = name, error = %error.chain(), "left out: it cannot be read");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let snapshot = table.snapshot();
            if is_import(&snapshot) {
                catalog.show_import(&name, snapshot)?;
                continue;
            }
            let is_view = snapshot.properties.get(KIND).is_some_and(|kind| kind == VIEW);
            let Some(topic) = snapshot.properties.get(TOPIC).cloned().filter(|_| !is_view) else {
                tracing::debug!(table = name, "left out: it has no topic");
                continue;
            };
            let dead_letters = snapshot.properties.get(KIND).is_some_and(|kind| kind == "dead_letters");
            if let Some(whole) = snapshot.properties.get(PART_OF) {
                let suffix = if dead_letters { DEAD_LETTERS_SUFFIX } else { "" };
                catalog.join(&format!("{whole}{suffix}"), &name, &snapshot.schema);
            }
            catalog.hub(&topic).add_table(CutTable {
                name: name.into(),
                schema: snapshot.schema.clone(),
                dead_letters,
                boundary: boundary_of(&snapshot),
                lake: Some(snapshot),
                tail: Vec::new(),
                tail_bytes: 0,
            })?;
        }
        catalog.set_ready();
        Ok(catalog)
    }

    /// The lake.
    pub fn lake(&self) -> &Lake {
        &self.shared.lake
    }

    /// The hub of `topic`, created when absent.
    pub fn hub(&self, topic: &str) -> Arc<TopicHub> {
        if let Some(hub) = self.shared.hubs.read().get(topic) {
            return hub.clone();
        }
        let mut hubs = self.shared.hubs.write();
        hubs.entry(topic.to_owned()).or_insert_with(|| Arc::new(TopicHub::new(topic))).clone()
    }

    /// All hubs, by topic name.
    pub fn hubs(&self) -> Vec<Arc<TopicHub>> {
        self.shared.hubs.read().values().cloned().collect()
    }

    /// The table of this name in its newest cut, with its topic's hub.
    pub fn table(&self, name: &str) -> Option<(Arc<TopicHub>, Arc<CutTable>)> {
        let hubs = self.shared.hubs.read();
        hubs.values().find_map(|hub| Some((hub.clone(), hub.cut().tables.get(name)?.clone())))
    }

    /// Says where the rows of `table` tell when what they tell of happened.
    pub fn set_event_time(&self, table: &str, time: EventTime) {
        self.shared.event_times.write().insert(table.to_owned(), Arc::new(time));
    }

    /// The event time of `table`, if its config names one.
    pub fn event_time(&self, table: &str) -> Option<Arc<EventTime>> {
        self.shared.event_times.read().get(table).cloned()
    }

    /// Says that there is a table of many topics, with these columns at the least, before it has a part.
    pub fn declare(&self, whole: &str, schema: &Schema) {
        self.widen(whole, schema, None);
    }

    /// Makes the table `part` a part of the table `whole`, of many topics.
    pub fn join(&self, whole: &str, part: &str, schema: &Schema) {
        self.widen(whole, schema, Some(part));
    }

    fn widen(&self, whole: &str, schema: &Schema, part: Option<&str>) {
        let mut wholes = self.shared.wholes.write();
        let known = wholes.entry(whole.to_owned()).or_default();
        let mut fields = known.schema.fields().to_vec();
        let is_new = |field: &&FieldRef| known.schema.field_with_name(field.name()).is_err();
        fields.extend(with_topic(schema).fields().iter().filter(is_new).cloned());
        let mut parts = known.parts.clone();
        parts.extend(part.map(str::to_owned));
        *known = Arc::new(Whole { schema: Arc::new(Schema::new(fields)), parts });
    }

    /// The tables of many topics, by name.
    pub fn wholes(&self) -> BTreeMap<String, Arc<Whole>> {
        self.shared.wholes.read().clone()
    }

    /// The columns that SQL shows of the table of this name, of one topic or of many.
    pub fn columns(&self, name: &str) -> Option<SchemaRef> {
        let one = self.table(name).map(|(_, table)| sql_schema(&table.schema));
        let one = one.or_else(|| self.imports().tables.get(name).map(|table| sql_schema(&table.schema)));
        one.or_else(|| self.shared.wholes.read().get(name).map(|whole| whole.schema.clone()))
    }

    /// Import tables, in a cut that is of no topic: nothing is below its boundary, and everything is in the lake.
    pub fn imports(&self) -> Arc<Cut> {
        self.shared.imports.cut()
    }

    /// Lets statements see this version of an import table.
    pub fn show_import(&self, name: &str, snapshot: Arc<LakeSnapshot>) -> Result<()> {
        let imports = &self.shared.imports;
        let known = imports.cut().tables.get(name).and_then(|table| table.lake.clone());
        if let Some(known) = known {
            if known.version <= snapshot.version {
                if known.schema != snapshot.schema {
                    imports.set_schema(name, snapshot.schema.clone())?;
                }
                return imports.committed(name, snapshot, Boundary::new());
            }
            // Deleted, and made anew.
            imports.remove_table(name);
        }
        imports.add_table(CutTable {
            name: name.into(),
            schema: snapshot.schema.clone(),
            dead_letters: false,
            boundary: Boundary::new(),
            lake: Some(snapshot),
            tail: Vec::new(),
            tail_bytes: 0,
        })
    }

    /// The newest cut of every topic, by topic name.
    pub fn cuts(&self) -> Vec<Arc<Cut>> {
        self.shared.hubs.read().values().map(|hub| hub.cut()).collect()
    }

    /// Says how many records the tails lack of the committed end found at open; shown while SQL waits.
    pub fn set_records_to_go(&self, records: u64) {
        self.shared.records_to_go.store(records, Ordering::Relaxed);
    }

    /// How many records the tails still lack.
    pub fn records_to_go(&self) -> u64 {
        self.shared.records_to_go.load(Ordering::Relaxed)
    }

    /// Says that every tail has reached the committed end found at open.
    pub fn set_ready(&self) {
        self.shared.records_to_go.store(0, Ordering::Relaxed);
        self.shared.ready.store(true, Ordering::Release);
    }

    /// Whether SQL may answer.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }
}

/// What SQL shows of a table of many topics whose parts have the columns of `schema`: `_topic` comes first, and a part may lack
/// any column but the system's.
pub fn with_topic(schema: &Schema) -> SchemaRef {
    let mut fields = vec![Arc::new(Field::new(COLUMN_TOPIC, DataType::Utf8View, false))];
    for field in sql_schema(schema).fields() {
        let is_system = [PARTITION, OFFSET, TIMESTAMP].contains(&field.name().as_str());
        fields.push(Arc::new(field.as_ref().clone().with_nullable(!is_system)));
    }
    Arc::new(Schema::new(fields))
}

/// What a lake table covers: its `txn` versions under `tarn/<topic uuid>/<partition>`.
pub fn boundary_of(snapshot: &LakeSnapshot) -> Boundary {
    let Some(topic_uuid) = snapshot.properties.get(TOPIC_UUID) else { return Boundary::new() };
    let prefix = format!("tarn/{topic_uuid}/");
    let entries = snapshot.txns.iter().filter_map(|(app_id, next)| {
        let partition = app_id.strip_prefix(&prefix)?.parse().ok()?;
        (*next >= 0).then_some((partition, *next))
    });
    entries.collect()
}
