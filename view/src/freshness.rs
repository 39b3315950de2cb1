//! How a view is kept and how fresh its states are: what `SHOW VIEWS`, `information_schema`, `tarn status` and the metrics tell.
//!
//! *Why one place*: a lag that two pages compute apart from each other is two numbers.

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use tarn_model::Boundary;
use tarn_model::columns::TIMESTAMP;
use tarn_table::CutTable;

use crate::definition::{Definition, Way};
use crate::hub::{Building, ViewMoment};
use crate::stamp::Stamp;

/// What is known of a view's states at one moment.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// `states`, or `rows`.
    pub kept_as: &'static str,
    /// Which build serves.
    pub version: Option<u32>,
    /// What its states in the lake cover.
    pub boundary: Option<Boundary>,
    /// Records above that.
    pub lag_records: Option<u64>,
    /// Age of the oldest of them, seconds.
    pub lag_s: Option<f64>,
    /// How many of them the states in memory cover.
    pub live_records: Option<u64>,
    /// Memory of all states, bytes.
    pub live_bytes: Option<u64>,
    /// States in the lake, bytes.
    pub lake_bytes: Option<u64>,
    /// Hash of the query and its columns.
    pub plan: String,
    /// The build that is being made.
    pub building: Option<u32>,
    /// The share of the rows that it has read, 0 to 1.
    pub built: Option<f64>,
    /// Rows that came for a window that had closed.
    pub late_records: Option<u64>,
    /// What went wrong last.
    pub trouble: Option<String>,
}

impl Freshness {
    /// Of the view `definition`, whose rows are `table` below `upto`.
    pub fn of(
        definition: &Definition,
        moment: &ViewMoment,
        building: Option<&Building>,
        table: Option<(&CutTable, &Boundary)>,
        now_us: i64,
    ) -> Freshness {
        let mut found = Freshness {
            kept_as: "rows",
            plan: definition.plan_hash.clone(),
            trouble: moment.trouble.clone(),
            building: building.and_then(Building::version),
            built: building.map(Building::done),
            ..Freshness::default()
        };
        if !matches!(definition.way, Way::States(_)) {
            return found;
        }
        found.kept_as = "states";
        let Some((table, upto)) = table else { return found };
        let foreign = table.lake.as_ref().and_then(|lake| lake.foreign_version);
        let stamp = Stamp::now(&definition.plan_hash, foreign);
        let batch = moment.batch.as_ref().filter(|batch| batch.stamp == stamp);
        let boundary = batch.map(|batch| batch.boundary.clone()).unwrap_or_default();
        found.version = batch.map(|batch| batch.version);
        found.lake_bytes = batch.map(|batch| batch.lake_bytes());
        found.lag_records = Some(upto.records_above(&boundary));
        found.lag_s = Some(age_s(table, &boundary, now_us));
        found.live_bytes = u64::try_from(moment.bytes()).ok();
        if let Some(live) = moment.live.as_ref().filter(|live| *live.stamp() == stamp) {
            let (_, reached) = live.within(&boundary, upto);
            found.live_records = Some(reached.records_above(&boundary));
        }
        found.boundary = batch.map(|batch| batch.boundary.clone());
        found
    }
}

/// Age of the oldest record of the tail at or above `boundary`, seconds; 0 when there is none.
pub fn age_s(table: &CutTable, boundary: &Boundary, now_us: i64) -> f64 {
    let firsts = table.tail_batches().filter_map(|(partition, rows)| {
        let rows = tarn_table::fragment::slice_rows(rows, boundary.next(partition), i64::MAX);
        let times = rows.column_by_name(TIMESTAMP)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        times.values().first().copied()
    });
    firsts.min().map_or(0.0, |oldest| now_us.saturating_sub(oldest).max(0) as f64 / 1e6)
}
