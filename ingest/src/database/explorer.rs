//! A look into the database of a source, beside its collecting: nothing of it goes into the log.

use std::sync::Arc;

use tarn_log::{Append, Log};
use tarn_model::columns::ColumnType;
use tarn_model::config::{Config, DatabaseConfig, SourceKind};
use tarn_model::{Error, Result};

use super::row::RowWriter;
use super::{Database, Named, Part, Rows, Selection, history, staging, topic_name};
use crate::stop::Stop;

/// An open database. It blocks.
pub struct Explorer {
    database: Database,
    rows: Box<dyn Rows>,
    topic: String,
}

/// A column as the database has it, and its type in the lake, where that is known.
pub type ExploredColumn = (String, Option<ColumnType>);

impl Explorer {
    /// Opens the database of the source `name`.
    pub fn open(config: &Config, name: &str) -> Result<Explorer> {
        let sources = config.sources.iter().filter_map(|source| match &source.kind {
            SourceKind::Database(database) => Some((source, database)),
            _ => None,
        });
        let found: Vec<(_, &DatabaseConfig)> = sources.collect();
        let Some((source, database)) = found.iter().find(|(source, _)| source.name == name) else {
            let known: Vec<&str> = found.iter().map(|(source, _)| source.name.as_str()).collect();
            let hint = match known.is_empty() {
                true => "the config has no `[[source]]` with `type = \"database\"`".to_owned(),
                false => format!("sources that read databases: {}", known.join(", ")),
            };
            return Err(
                Error::invalid(format!("there is no source `{name}` that reads a database")).with_hint(hint)
            );
        };
        let database = Database::new((*database).clone(), config)?;
        let rows = database.connect(Arc::new(Stop::default()))?;
        Ok(Explorer { database, rows, topic: source.topic.clone() })
    }

    /// What the source reads, and the topics that it goes to.
    pub fn tables(&mut self) -> Result<Vec<(String, String)>> {
        let selections = self.database.selections(&mut *self.rows)?;
        Ok(selections
            .iter()
            .map(|what| (what.name().to_owned(), topic_name(&self.topic, what.name())))
            .collect())
    }

    /// The columns of a table, or those that the source reads of its own table or query.
    pub fn columns(&mut self, table: Option<&str>) -> Result<Vec<ExploredColumn>> {
        let what = match table {
            Some(table) => whole(Named::Table(table.to_owned())),
            None => {
                let mut selections = self.database.selections(&mut *self.rows)?;
                match (selections.pop(), selections.is_empty()) {
                    (Some(what), true) => what,
                    _ => {
                        return Err(Error::invalid("the source reads many tables")
                            .with_hint("name one of them; `tarn source tables` lists them"));
                    }
                }
            }
        };
        let columns = self.rows.columns(&what)?;
        self.rows.release()?;
        Ok(columns)
    }

    /// Runs a query and gives each row to `each`, as a JSON object, until it says `false`; the names of the columns.
    pub fn eval(&mut self, query: &str, mut each: impl FnMut(&[u8]) -> Result<bool>) -> Result<Vec<String>> {
        let what = whole(Named::Query(query.to_owned()));
        let columns = self.rows.columns(&what)?;
        let (writer, mut row) = (RowWriter::new(&columns), Vec::new());
        self.rows.rows(&what, &Part::All, &mut |values, _| {
            // Text that is none is shown with its odd bytes replaced.
            let _ = writer.write(values, &mut row);
            each(&row)
        })?;
        Ok(columns.into_iter().map(|(name, _)| name).collect())
    }
}

fn whole(named: Named) -> Selection {
    Selection { named, columns: Vec::new(), filter: None }
}

/// Forgets how far a source has read, so that it reads everything again; the number of positions that it had. Staged rows go too.
pub async fn forget(config: &Config, log: &Log, source: &str) -> Result<usize> {
    let positions = log.positions(source)?;
    let mut append = Append::new();
    for (key, _) in &positions {
        append.position(source, key, None);
    }
    history::forget(log, source, &mut append)?;
    if !append.is_empty() {
        log.append(append).await?;
    }
    staging::remove_all(source, &positions, &staging::folder_of(config))?;
    Ok(positions.len())
}
