//! `tarn export` on the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use tarn_ingest::Mode;

use super::{ConfigArg, Report};

/// Exports a table, a view or a query into PostgreSQL, MySQL, MariaDB or SQLite, exactly once
///
/// Rows go to a staging table first, and from there into the target in one transaction, which also marks the run as done in
/// the table `tarn_exports` beside the target. Killed at any moment, run it again: nothing is lost and nothing comes twice.
/// All rows are those of one cut, a vector of offsets, which is told: of lake and tail while a process runs, else of what is
/// committed to the lake.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn export orders --to shop --into orders
                              a table, into the database of the source `shop`
  tarn export orders --to shop --into orders --mode upsert --key order_id
                              new rows and changed ones, found by their key
  tarn export \"SELECT city, count(*) AS n FROM trips GROUP BY 1\" --to postgres://ada@db/shop \\
      --into cities --mode upsert --key city --run 2026-05-01
                              a query; TARN_EXPORT_PASSWORD has the password
  tarn export orders --to sqlite:shop.db --into orders --rejects bad.ndjson
                              rows that the database refuses go to a file, with reasons

Who comes from Sqoop: --table is --into, --update-key is --key, --update-mode updateonly is
--mode update, --update-mode allowinsert is --mode upsert, -m is --writers; a staging table
there always is.")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,

    /// A table or view by its name, or a query
    #[arg(value_name = "QUERY")]
    pub(crate) what: String,

    /// The database: a `database` source of the config, or an address without its password, such as `sqlite:PATH` or
    /// `postgres://USER@HOST/DATABASE`
    #[arg(long, value_name = "TARGET")]
    pub(crate) to: String,

    /// The table there
    #[arg(long, value_name = "TABLE")]
    pub(crate) into: String,

    /// What happens to the rows there
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: ExportMode,

    /// Columns by which rows are found, for `update` and `upsert`
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub(crate) key: Vec<String>,

    /// What the export is known by in the target [default: the table there]
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<String>,

    /// Which of the job's runs this is, such as a day: it is done once [default: that of the cut]
    #[arg(long, value_name = "NAME")]
    pub(crate) run: Option<String>,

    /// Exports what the tables held at this vector of offsets, `topic:partition=offset,...;...`
    #[arg(long, value_name = "VECTOR")]
    pub(crate) as_of: Option<tarn_model::OffsetVector>,

    /// Exports what is committed to the lake, also while a process runs: without its limits of time and rows
    #[arg(long)]
    pub(crate) lake: bool,

    /// File for rows that the target does not take, with reasons; without it there must be none
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,

    /// Most rows that may be rejected
    #[arg(long, value_name = "N", default_value_t = 1_000, requires = "rejects")]
    pub(crate) max_rejects: u64,

    /// Fails when an update matches nothing
    #[arg(long)]
    pub(crate) strict: bool,

    /// Connections that bring rows to the staging table, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) writers: u8,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Report,
}

/// What happens to the rows of the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportMode {
    /// Rows are added
    #[default]
    Insert,
    /// Rows with the same key get the new values; what finds none is counted
    Update,
    /// Rows with the same key get the new values, others are added
    Upsert,
}

impl From<ExportMode> for Mode {
    fn from(mode: ExportMode) -> Mode {
        match mode {
            ExportMode::Insert => Mode::Insert,
            ExportMode::Update => Mode::Update,
            ExportMode::Upsert => Mode::Upsert,
        }
    }
}
