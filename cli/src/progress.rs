//! Progress bars on a terminal: over the bounded sources of a drain, over the rows of an import, and over a build of a view.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tarn_model::clock;
use tarn_serving::StatusSource;
use tokio::task::JoinHandle;

use crate::door::Door;

const EVERY: Duration = Duration::from_millis(200);

/// The bar, drawn on stderr while the drain goes on; nothing where stderr is not a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    drawing: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(status: Arc<dyn StatusSource>, wanted: bool) -> Progress {
        let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style =
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let drawing = (wanted && !bar.is_hidden()).then(|| {
            let bar = bar.clone();
            tokio::spawn(async move {
                loop {
                    draw(&bar, status.as_ref());
                    clock::pause(EVERY).await;
                }
            })
        });
        Progress { bar, drawing }
    }

    pub(crate) fn finish(self) {
        if let Some(drawing) = self.drawing {
            drawing.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// The bar over a build of a view, drawn from what the process that makes it says.
pub(crate) struct BuildBar {
    bar: ProgressBar,
    drawing: Option<JoinHandle<()>>,
}

impl BuildBar {
    pub(crate) fn start(door: Door, view: &str) -> BuildBar {
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {percent} % eta {eta} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let drawing = (!bar.is_hidden()).then(|| {
            let (bar, name) = (bar.clone(), view.to_owned());
            tokio::spawn(async move {
                loop {
                    clock::pause(EVERY).await;
                    let Ok(status) = door.status().await else { continue };
                    let Some(view) = status.views.into_iter().find(|view| view.name == name) else {
                        continue;
                    };
                    if let Some(built) = view.built {
                        #[allow(clippy::cast_possible_truncation, reason = "it is 0 to 100")]
                        let percent = (built * 100.0).clamp(0.0, 100.0).round() as u64;
                        bar.set_position(percent);
                        bar.set_message(view.building.map(|n| format!("build {n}")).unwrap_or_default());
                    }
                }
            })
        });
        BuildBar { bar, drawing }
    }

    pub(crate) fn finish(self) {
        if let Some(drawing) = self.drawing {
            drawing.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// The bar over the rows of an import: rows/s, and the time left where the database has an idea of how many rows there are.
pub(crate) struct ImportBar {
    bar: ProgressBar,
    drawing: Option<JoinHandle<()>>,
}

impl ImportBar {
    /// Whether somebody sees it.
    pub(crate) fn is_wanted() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    /// Draws what `rows` says until it is finished; within the runtime.
    pub(crate) fn start(table: &str, total: Option<u64>, rows: Arc<AtomicU64>) -> ImportBar {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{msg} {bar:30} {human_pos}/{human_len} rows {per_sec} eta {eta}",
            None => "{msg} {spinner} {human_pos} rows {per_sec}, {elapsed}",
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(table.to_owned());
        let drawing = (!bar.is_hidden()).then(|| {
            let bar = bar.clone();
            tokio::spawn(async move {
                loop {
                    let rows = rows.load(Ordering::Relaxed);
                    // What the database thinks may be too few.
                    if bar.length().is_some_and(|length| length < rows) {
                        bar.set_length(rows);
                    }
                    bar.set_position(rows);
                    clock::pause(EVERY).await;
                }
            })
        });
        ImportBar { bar, drawing }
    }

    pub(crate) fn finish(self) {
        if let Some(drawing) = self.drawing {
            drawing.abort();
        }
        self.bar.finish_and_clear();
    }
}

fn draw(bar: &ProgressBar, status: &dyn StatusSource) {
    let status = status.status();
    let total = status.sources.iter().filter_map(|source| source.total_bytes).sum::<u64>();
    let done = status
        .sources
        .iter()
        .filter(|source| source.total_bytes.is_some())
        .map(|source| source.bytes)
        .sum::<u64>();
    let records = status.sources.iter().map(|source| source.records).sum::<u64>();
    let rows = status.tables.iter().map(|table| table.lake_rows).sum::<u64>();
    bar.set_length(total.max(done));
    bar.set_position(done);
    bar.set_message(format!("{records} records collected, {rows} rows in the lake"));
}
