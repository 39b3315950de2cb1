//! `GET /metrics`: the status and the statements, as Prometheus reads them.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tarn_model::status::Status;

use super::Doors;
use crate::engine::{LATENCY_MS, StatementCounts};

pub(super) async fn metrics(State(doors): State<Doors>) -> Response {
    let text = render(&doors.status.status(), &doors.engine.statements());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// One metric: its head, then a line for each set of labels.
struct Metrics {
    text: String,
}

impl Metrics {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{value}\"");
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

fn render(status: &Status, statements: &StatementCounts) -> String {
    let mut metrics = Metrics { text: String::new() };
    overall(&mut metrics, status);
    sources(&mut metrics, status);
    topics(&mut metrics, status);
    groups(&mut metrics, status);
    tables(&mut metrics, status);
    views(&mut metrics, status);
    sql(&mut metrics, statements);
    metrics.text
}

#[allow(clippy::cast_precision_loss, reason = "metrics are doubles")]
fn float(value: u64) -> f64 {
    value as f64
}

fn overall(metrics: &mut Metrics, status: &Status) {
    metrics.head("tarn_info", "gauge", "Version of the process.");
    metrics.line("tarn_info", &[("version", &status.version)], 1.0);
    metrics.head("tarn_ready", "gauge", "Whether SQL answers.");
    metrics.line("tarn_ready", &[], f64::from(u8::from(status.ready)));
    metrics.head("tarn_uptime_seconds", "gauge", "Seconds since the start.");
    metrics.line("tarn_uptime_seconds", &[], status.uptime_s);
}

fn sources(metrics: &mut Metrics, status: &Status) {
    type Value = fn(&tarn_model::status::SourceStatus) -> Option<u64>;
    let each: [(&str, &str, &str, Value); 6] = [
        ("tarn_source_records_total", "counter", "Records committed since the start.", |s| Some(s.records)),
        ("tarn_source_read_bytes_total", "counter", "Bytes read since the start.", |s| Some(s.bytes)),
        ("tarn_source_dropped_total", "counter", "Records that a filter dropped.", |s| Some(s.dropped)),
        ("tarn_source_lag_bytes", "gauge", "Bytes left to read, where known.", |s| s.lag_bytes),
        ("tarn_source_failing", "gauge", "Whether the newest attempt failed.", |s| {
            Some(u64::from(s.last_error.is_some()))
        }),
        ("tarn_source_paused", "gauge", "Whether somebody paused it.", |s| {
            Some(u64::from(s.state == "paused"))
        }),
    ];
    for (name, kind, help, value) in each {
        metrics.head(name, kind, help);
        for source in &status.sources {
            let labels = [("source", source.name.as_str()), ("type", &source.kind), ("topic", &source.topic)];
            if let Some(value) = value(source) {
                metrics.line(name, &labels, float(value));
            }
        }
    }
}

fn topics(metrics: &mut Metrics, status: &Status) {
    type Value = fn(&tarn_model::status::PartitionStatus) -> u64;
    let each: [(&str, &str, Value); 3] = [
        ("tarn_partition_start_offset", "First offset that is still there.", |p| p.start.unsigned_abs()),
        ("tarn_partition_end_offset", "Committed end.", |p| p.end.unsigned_abs()),
        ("tarn_partition_bytes", "Bytes on disk.", |p| p.size_bytes),
    ];
    for (name, help, value) in each {
        metrics.head(name, "gauge", help);
        for topic in &status.topics {
            for partition in &topic.partitions {
                let number = partition.partition.to_string();
                metrics.line(
                    name,
                    &[("topic", &topic.name), ("partition", &number)],
                    float(value(partition)),
                );
            }
        }
    }
}

fn groups(metrics: &mut Metrics, status: &Status) {
    type Value = fn(&tarn_model::status::GroupPartitionStatus) -> u64;
    let each: [(&str, &str, Value); 2] = [
        ("tarn_group_committed_offset", "Next offset that a consumer group wants to read.", |p| {
            p.committed.unsigned_abs()
        }),
        ("tarn_group_lag_records", "Offsets between that and the partition's end.", |p| p.lag),
    ];
    for (name, help, value) in each {
        metrics.head(name, "gauge", help);
        for group in &status.groups {
            for partition in &group.partitions {
                let number = partition.partition.to_string();
                let labels =
                    [("group", group.name.as_str()), ("topic", &partition.topic), ("partition", &number)];
                metrics.line(name, &labels, float(value(partition)));
            }
        }
    }
}

fn tables(metrics: &mut Metrics, status: &Status) {
    type Value = fn(&tarn_model::status::TableStatus) -> f64;
    let each: [(&str, &str, Value); 11] = [
        ("tarn_table_lake_rows", "Rows in the lake.", |t| float(t.lake_rows)),
        ("tarn_table_tail_rows", "Rows in the tail.", |t| float(t.tail_rows)),
        ("tarn_table_dead_letters", "Dead letters, lake and tail.", |t| float(t.dead_letters)),
        ("tarn_table_files", "Live files in the lake.", |t| float(t.files)),
        ("tarn_table_lake_bytes", "Bytes in the lake.", |t| float(t.lake_bytes)),
        ("tarn_table_tail_bytes", "Memory of the tail.", |t| float(t.tail_bytes)),
        ("tarn_table_version", "Delta version.", |t| t.version.map_or(-1.0, float)),
        ("tarn_table_lag_records", "Records that SQL does not see yet.", |t| float(t.lag_records)),
        ("tarn_table_uncommitted_records", "Records that are not in the lake yet.", |t| {
            float(t.uncommitted_records)
        }),
        ("tarn_table_uncommitted_seconds", "Age of the oldest of them.", |t| t.uncommitted_s),
        ("tarn_table_failing", "Whether the newest attempt failed.", |t| {
            float(u64::from(t.last_error.is_some()))
        }),
    ];
    for (name, help, value) in each {
        metrics.head(name, "gauge", help);
        for table in &status.tables {
            metrics.line(name, &[("table", &table.name), ("topic", &table.topic)], value(table));
        }
    }
    let name = "tarn_table_late_records_total";
    metrics.head(name, "counter", "Rows that came when the watermark had passed what they tell of.");
    for table in &status.tables {
        if let Some(late) = table.late_records {
            metrics.line(name, &[("table", &table.name), ("topic", &table.topic)], float(late));
        }
    }
}

fn views(metrics: &mut Metrics, status: &Status) {
    metrics.head("tarn_view_info", "gauge", "How a view is kept, by which plan and build.");
    for view in &status.views {
        let version = view.version.map(|version| version.to_string()).unwrap_or_default();
        let plan = view.plan.as_deref().unwrap_or_default();
        let labels =
            [("view", view.name.as_str()), ("kept_as", &view.kept_as), ("plan", plan), ("version", &version)];
        metrics.line("tarn_view_info", &labels, 1.0);
    }
    metrics.head("tarn_view_boundary_offset", "gauge", "Next offset that the states in the lake lack.");
    for view in &status.views {
        for (partition, next) in view.boundary.iter().flat_map(tarn_model::Boundary::iter) {
            let labels = [("view", view.name.as_str()), ("partition", &partition.to_string())];
            metrics.line("tarn_view_boundary_offset", &labels, float(next.unsigned_abs()));
        }
    }
    type Value = fn(&tarn_model::status::ViewStatus) -> Option<f64>;
    let each: [(&str, &str, Value); 7] = [
        ("tarn_view_lag_records", "Records that the states in the lake lack.", |v| v.lag_records.map(float)),
        ("tarn_view_lag_seconds", "Age of the oldest of them.", |v| v.lag_s),
        ("tarn_view_live_records", "Records that the states in memory cover.", |v| v.live_records.map(float)),
        ("tarn_view_live_bytes", "Memory of the states.", |v| v.live_bytes.map(float)),
        ("tarn_view_lake_bytes", "States in the lake.", |v| v.lake_bytes.map(float)),
        ("tarn_view_built_ratio", "Share of the rows that a build on its way has read.", |v| v.built),
        ("tarn_view_failing", "Whether the newest attempt failed.", |v| {
            Some(f64::from(u8::from(v.trouble.is_some())))
        }),
    ];
    for (name, help, value) in each {
        metrics.head(name, "gauge", help);
        for view in &status.views {
            if let Some(value) = value(view) {
                metrics.line(name, &[("view", &view.name)], value);
            }
        }
    }
    type Total = fn(&tarn_model::status::ViewStatus) -> f64;
    let totals: [(&str, &str, Total); 3] = [
        ("tarn_view_aggregated_records_total", "Records of which states were made since the start.", |v| {
            float(v.aggregated_records)
        }),
        ("tarn_view_commits_total", "Commits of the states since the start.", |v| float(v.commits)),
        ("tarn_view_commit_seconds_total", "Time of those commits.", |v| v.commit_s),
    ];
    for (name, help, value) in totals {
        metrics.head(name, "counter", help);
        for view in &status.views {
            metrics.line(name, &[("view", &view.name)], value(view));
        }
    }
    let name = "tarn_view_late_records_total";
    metrics.head(name, "counter", "Rows that came for a window that had closed.");
    for view in &status.views {
        if let Some(late) = view.late_records {
            metrics.line(name, &[("view", &view.name)], float(late));
        }
    }
}

fn sql(metrics: &mut Metrics, statements: &StatementCounts) {
    metrics.head("tarn_statements_total", "counter", "Statements, by how they ended.");
    metrics.line("tarn_statements_total", &[("outcome", "done")], float(statements.done));
    metrics.line("tarn_statements_total", &[("outcome", "failed")], float(statements.failed));
    let name = "tarn_statements_planned_before_total";
    metrics.head(name, "counter", "Statements that were begun with a plan that was made before.");
    metrics.line(name, &[], float(statements.planned_before));
    metrics.head("tarn_statements_running", "gauge", "Statements that run now.");
    metrics.line("tarn_statements_running", &[], float(statements.running));
    let name = "tarn_statement_seconds";
    metrics.head(name, "histogram", "Time from a statement's start to the last of its rows.");
    for (upto_ms, count) in LATENCY_MS.iter().zip(statements.latency) {
        let upto = (float(*upto_ms) / 1000.0).to_string();
        metrics.line(&format!("{name}_bucket"), &[("le", &upto)], float(count));
    }
    metrics.line(&format!("{name}_bucket"), &[("le", "+Inf")], float(statements.done));
    metrics.line(&format!("{name}_sum"), &[], statements.total.as_secs_f64());
    metrics.line(&format!("{name}_count"), &[], float(statements.done));
}
