//! `[[dashboard]]`: pages of panels, each a query and how its answer is drawn.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// Columns of a dashboard's grid.
pub const GRID_COLUMNS: i32 = 12;

/// Placeholders that every dashboard's queries may use, besides its variables.
pub const TIME_PLACEHOLDERS: [&str; 3] = ["from", "to", "interval"];

/// `[[dashboard]]`: a page of panels at `/d/NAME`, which moves by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DashboardConfig {
    /// Its address: the page is `/d/NAME`.
    pub name: String,
    /// What stands above it. Default: its name.
    #[serde(default)]
    pub title: Option<String>,
    /// A sentence below the title.
    #[serde(default)]
    pub description: Option<String>,
    /// Shortest time between two changes of the page, `100ms` or more. Default: `200ms`.
    #[serde(default = "defaults::refresh")]
    pub refresh: Span,
    /// The time range that is chosen at first, e.g. `1h` for the last hour. Queries read it as `$from` and `$to`, and
    /// `$interval` as a fitting width for `date_bin`. Default: everything.
    #[serde(default)]
    pub range: Option<Span>,
    /// Drop-downs, whose choice queries read as `$NAME`.
    #[serde(default, rename = "variable")]
    pub variables: Vec<VariableConfig>,
    /// What is on the page, in reading order.
    #[serde(default, rename = "panel")]
    pub panels: Vec<PanelConfig>,
}

impl DashboardConfig {
    /// What stands above it.
    pub fn shown_title(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.name)
    }
}

/// `[[dashboard.variable]]`: a drop-down; `$NAME` in a query stands for what is chosen, as a string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableConfig {
    /// Letters, digits and `_`; `from`, `to` and `interval` are taken.
    pub name: String,
    /// What stands beside it. Default: its name.
    #[serde(default)]
    pub label: Option<String>,
    /// A query whose first column is what can be chosen. Either this or `values`. It may name variables before it, and is asked
    /// again when another value is chosen for them.
    #[serde(default)]
    pub query: Option<String>,
    /// What can be chosen.
    #[serde(default)]
    pub values: Vec<String>,
    /// What is chosen at first. Default: `All`, or without it the first of `values`.
    #[serde(default)]
    pub default: Option<String>,
    /// Whether `All` can be chosen, which is `NULL` in a query: `WHERE $country IS NULL OR country = $country`. Default:
    /// `true`.
    #[serde(default = "defaults::yes")]
    pub all: bool,
    /// Whether several values can be chosen at once. `$NAME` is then a list of strings: `WHERE $country IS NULL OR country =
    /// ANY($country)`. Default: `false`.
    #[serde(default)]
    pub multiple: bool,
}

/// `[[dashboard.panel]]`: a query, and how its answer is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PanelConfig {
    /// What stands above it.
    pub title: String,
    /// A `SELECT` over tables and views, with `$NAME` for variables and `$from`, `$to`, `$interval` for the time range.
    pub query: String,
    /// How the answer is drawn. Default: `line`.
    #[serde(default)]
    pub chart: ChartKind,
    /// A sentence about it, behind the `i` beside the title.
    #[serde(default)]
    pub description: Option<String>,
    /// The column along the x axis; a pie's labels. Default: the first column.
    #[serde(default)]
    pub x: Option<String>,
    /// The column whose values are the series, one line (or bar, or row of a heat map) each. Default: the text column
    /// beside `x`, if there is one.
    #[serde(default)]
    pub series: Option<String>,
    /// Columns that are drawn. Default: all columns of numbers, or for a pie, a heat map and a number the first.
    #[serde(default)]
    pub y: Vec<String>,
    /// For `number`: what of the rows is shown. Default: `last`.
    #[serde(default)]
    pub reduce: Reduce,
    /// For `number`: the column that the value is compared with. Default: the value in the first row, where there are
    /// several.
    #[serde(default)]
    pub compare: Option<String>,
    /// What the values are: `bytes`, `ms`, `s`, `percent` (of 100) and `ratio` (of 1) are written as people read them,
    /// `$`, `€` and `£` go before the number, any other text behind it. Default: none.
    #[serde(default)]
    pub unit: Option<String>,
    /// Digits behind the point. Default: as many as fit.
    #[serde(default)]
    pub decimals: Option<i32>,
    /// Lower end of the value axis. Default: zero for bars and areas, else from the values.
    #[serde(default)]
    pub min: Option<f64>,
    /// Upper end of the value axis. Default: from the values.
    #[serde(default)]
    pub max: Option<f64>,
    /// Whether series are named below the chart. Default: `auto`.
    #[serde(default)]
    pub legend: Legend,
    /// Values from which on another colour tells how good that is: lines across a chart, the colour of a number, of a cell
    /// in a table.
    #[serde(default)]
    pub thresholds: Vec<ThresholdConfig>,
    /// Width in columns of a grid of 12. Default: by the chart.
    #[serde(default)]
    pub width: Option<i32>,
    /// Height in rows of the grid, of about 8 rem each. Default: by the chart.
    #[serde(default)]
    pub height: Option<i32>,
    /// First column in the grid, 1 to 12. Default: the next that is free.
    #[serde(default)]
    pub column: Option<i32>,
    /// First row in the grid, from 1 on; goes with `column`. Default: the next that is free.
    #[serde(default)]
    pub row: Option<i32>,
}

/// How a panel is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChartKind {
    /// Lines over time, numbers or names.
    #[default]
    Line,
    /// Lines with the area below them, stacked.
    Area,
    /// Bars beside each other; names that are long lie.
    Bar,
    /// Bars on top of each other.
    StackedBar,
    /// A cell for each pair of `x` and `series`, coloured by its value.
    Heatmap,
    /// Parts of a whole.
    Pie,
    /// One value, large, with its change and, of several rows, a line.
    Number,
    /// Rows and columns.
    Table,
    /// Rows as lines of a log, the newest at the bottom.
    Log,
}

/// How several rows become one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// The last row's value.
    #[default]
    Last,
    /// The sum of all.
    Sum,
    /// Their average.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

/// Whether series are named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Legend {
    /// Where there is more than one.
    #[default]
    Auto,
    /// Always.
    Show,
    /// Never.
    Hide,
}

/// A value from which on another colour counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThresholdConfig {
    /// The value.
    pub at: f64,
    /// How good that is.
    pub level: Level,
}

/// How good a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// To be watched.
    Warn,
    /// Wrong.
    Bad,
}

mod defaults {
    use super::Span;

    pub(super) fn refresh() -> Span {
        Span::from_millis(200)
    }
    pub(super) fn yes() -> bool {
        true
    }
}
