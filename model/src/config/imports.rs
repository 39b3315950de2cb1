//! `[[import]]`: tables of a database, read straight into tables of the lake.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DatabaseConfig, DatabaseMode, Secret, Span};

/// `[[import]]`: what `tarn import` brings from a database straight into a table of the lake, in one commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// Name of the job: its runs are counted under it in the table. Letters, digits, `_` and `-`.
    pub name: String,
    /// Where the database is, as for a `database` source: `sqlite:PATH`, `postgres://USER@HOST:PORT/DATABASE` or
    /// `mysql://USER@HOST:PORT/DATABASE`.
    pub url: Secret,
    /// Password for PostgreSQL or MySQL, instead of one in `url`: `"${PG_PASSWORD}"`, `"${file:/run/secrets/pg}"`. Default: none.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Table or view to read, `*` for every table (then `into` needs `{table}`). Either this or `query`.
    #[serde(default)]
    pub table: Option<String>,
    /// With `table = "*"`: only tables whose name fits one of these, with `*` for anything, e.g. `["sales.*"]`. Default: all.
    #[serde(default)]
    pub include: Vec<String>,
    /// With `table = "*"`: no table whose name fits one of these. Default: none.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Columns of `table` to read. Default: all.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Condition of the rows of `table` to read, in the database's SQL: `"amount > 0"`. Default: all rows.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
    /// Query to read, in the database's SQL. `$CONDITIONS` in it stands for `TRUE`: each split is a condition around it.
    #[serde(default)]
    pub query: Option<String>,
    /// Column by whose values several readers share the rows of a `table`, or of a `query` of PostgreSQL or SQLite, all on one
    /// snapshot: a number, a date, a timestamp, text or a uuid. MySQL's need the privilege `LOCK TABLES`. Default: one reader.
    #[serde(default)]
    pub split_by: Option<String>,
    /// Connections that read side by side, 2 to 64. Without `split_by`, those of PostgreSQL each read ranges of a table's pages.
    /// Default: `4` with `split_by`, else one.
    #[serde(default)]
    pub readers: Option<u8>,
    /// Table of the lake that the rows go to; of no other use by this config, but by imports that append. With `{table}` in it each
    /// table of the database has its own, in lower case, and `_` for what a table's name cannot hold. Default: the job's name.
    #[serde(default)]
    pub into: Option<String>,
    /// `append`: the rows come to those that are there; `overwrite`: they take their place. Default: `append`.
    #[serde(default)]
    pub mode: ImportMode,
    /// With `append`: each run brings only the rows that are new or changed since the job's last one, whose bound is stored with its
    /// rows; the first brings all. PostgreSQL tells them by the transactions that wrote them, others by a `cursor`. Default: `false`.
    #[serde(default)]
    pub incremental: bool,
    /// With `incremental`, of MySQL and SQLite: column that grows with each new or changed row. Default: none.
    #[serde(default)]
    pub cursor: Option<String>,
    /// With a `cursor` of MySQL: how long a row may take from getting its cursor to being committed, where the server does not show
    /// its transactions; a run takes at least so long. Default: `5s`.
    #[serde(default)]
    pub lag: Option<Span>,
    /// Types of columns instead of those that the database's become, e.g. `"total DECIMAL(20,4), seen TIMESTAMP"`. Default: none.
    #[serde(default)]
    pub types: Option<String>,
    /// Zone of timestamps that name none, e.g. `Europe/Berlin`. Default: `UTC`.
    #[serde(default)]
    pub timezone: Option<String>,
}

/// What becomes of the rows that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImportMode {
    /// They stay.
    #[default]
    Append,
    /// They go in the same commit.
    Overwrite,
}

impl ImportMode {
    /// As it stands in a config.
    pub fn as_str(self) -> &'static str {
        match self {
            ImportMode::Append => "append",
            ImportMode::Overwrite => "overwrite",
        }
    }
}

impl ImportConfig {
    /// The name of its table, perhaps with `{table}`.
    pub fn into_name(&self) -> &str {
        self.into.as_deref().unwrap_or(&self.name)
    }

    /// The table of the lake for the table `name` of the database.
    pub fn table_for(&self, name: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let part: String = name.chars().map(|c| if fits(c) { c.to_ascii_lowercase() } else { '_' }).collect();
        self.into_name().replace("{table}", &part)
    }

    /// Whether `table` may be one that it fills.
    pub fn may_fill(&self, table: &str) -> bool {
        match self.into_name().split_once("{table}") {
            Some((before, after)) => {
                table.len() > before.len() + after.len()
                    && table.starts_with(before)
                    && table.ends_with(after)
            }
            None => self.into_name() == table,
        }
    }

    /// How many connections read a table that is split.
    pub fn readers(&self) -> usize {
        self.readers.unwrap_or(4).into()
    }

    /// What it reads, as a source that reads everything once.
    pub fn database(&self) -> DatabaseConfig {
        DatabaseConfig {
            url: self.url.clone(),
            password: self.password.clone(),
            table: self.table.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            columns: self.columns.clone(),
            filter: self.filter.clone(),
            query: self.query.as_ref().map(|query| query.replace("$CONDITIONS", "TRUE")),
            mode: if self.incremental { DatabaseMode::Append } else { DatabaseMode::Full },
            cursor: self.cursor.clone(),
            lag: self.lag,
            split_by: self.split_by.clone(),
            readers: self.readers,
            every: None,
            cron: None,
            after: None,
        }
    }
}
