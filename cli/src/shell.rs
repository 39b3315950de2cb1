//! The shell of `tarn sql`: statements that end with `;`, and commands that begin with `\`.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum as _;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config as LineConfig, Editor};
use tarn_model::OffsetVector;
use tarn_model::config::Config;

use crate::args::Output;
use crate::failure::{self, Usage};
use crate::render::{self, Grid};
use crate::rows::Rows;
use crate::sql::{Sql, end_of_statement, is_blank};

const HELP: &str = "\
A statement ends with ; and may go over several lines. Ctrl-C leaves it, or cancels it while it runs; Ctrl-D ends.

  \\d               tables
  \\d NAME          columns of a table, or of lake.NAME, live.NAME
  \\o FORMAT        how rows are written: table, json, ndjson, csv
  \\x               one line a column, or rows side by side again
  \\timing          the time of each statement, or no longer
  \\asof VECTOR     cuts every table at this vector; without VECTOR, the newest rows again
  \\vector          the vector that the last answer saw
  \\?               this
  \\q               ends";

/// Statements ask for tables this way, at rest and running alike.
const TABLES: &str = "SELECT table_name AS name FROM information_schema.tables \
    WHERE table_schema = 'public' ORDER BY table_name";

struct Shell<'a> {
    sql: Sql,
    config: &'a Config,
    output: Output,
    expanded: bool,
    timing: bool,
    as_of: Option<OffsetVector>,
    vector: String,
}

/// Whether the shell goes on.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

/// Reads and answers statements until the end of input.
pub(crate) async fn shell(
    sql: Sql,
    config: &Config,
    output: Output,
    as_of: Option<OffsetVector>,
) -> anyhow::Result<()> {
    match &sql {
        Sql::Running(door) => {
            eprintln!("tarn {}, asking {}; \\? for help", env!("CARGO_PKG_VERSION"), door.address())
        }
        Sql::AtRest(_) => eprintln!("tarn {}; \\? for help", env!("CARGO_PKG_VERSION")),
    }
    let mut shell =
        Shell { sql, config, output, expanded: false, timing: false, as_of, vector: String::new() };
    let settings = LineConfig::builder().history_ignore_space(true).max_history_size(10_000)?.build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(settings)?;
    let history = history_file();
    if let Some(history) = &history {
        // The first time there is none.
        drop(editor.load_history(history));
    }
    let mut pending = String::new();
    loop {
        let prompt = if is_blank(&pending) { "tarn> " } else { "  ... " };
        // The editor waits for keys; the runtime has other threads.
        match tokio::task::block_in_place(|| editor.readline(prompt)) {
            Ok(line) => {
                if is_blank(&pending) && line.trim_start().starts_with('\\') {
                    drop(editor.add_history_entry(line.trim()));
                    if shell.command(line.trim()).await == Then::End {
                        break;
                    }
                    continue;
                }
                pending.push_str(&line);
                pending.push('\n');
                while let Some(end) = end_of_statement(&pending) {
                    let statement = pending[..end].trim().to_owned();
                    drop(editor.add_history_entry(format!("{statement};")));
                    pending.drain(..=end);
                    if !is_blank(&statement) {
                        shell.statement(&statement).await;
                    }
                }
                if is_blank(&pending) {
                    pending.clear();
                }
            }
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(history) = history {
        drop(editor.save_history(&history));
    }
    Ok(())
}

impl Shell<'_> {
    /// Runs a statement; Ctrl-C cancels it.
    async fn statement(&mut self, statement: &str) {
        let start = Instant::now();
        let outcome = tokio::select! {
            outcome = self.answer(statement) => outcome,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("cancelled");
                return;
            }
        };
        match outcome {
            Ok(count) => {
                let s = if count == 1 { "" } else { "s" };
                match self.timing {
                    true => eprintln!("{count} row{s} in {:.3} s", start.elapsed().as_secs_f64()),
                    false => eprintln!("{count} row{s}"),
                }
            }
            Err(error) => failure::say(&error),
        }
    }

    async fn answer(&mut self, statement: &str) -> anyhow::Result<u64> {
        let rows = self.query(statement).await?;
        self.vector.clone_from(&rows.vector);
        render::rows(rows, self.output, self.expanded).await
    }

    /// Runs a statement; a process that has started or gone since is noticed.
    async fn query(&mut self, statement: &str) -> anyhow::Result<Rows> {
        match self.sql.query(statement, self.as_of.as_ref()).await {
            Err(error) if is_gone(&error) => {
                self.sql = Sql::open(self.config).await?;
                self.sql.query(statement, self.as_of.as_ref()).await
            }
            outcome => outcome,
        }
    }

    async fn command(&mut self, line: &str) -> Then {
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (command, argument) = (command.trim_end_matches(';'), argument.trim().trim_end_matches(';'));
        let outcome = match (command, argument) {
            ("\\q" | "\\quit", _) => return Then::End,
            ("\\?" | "\\h" | "\\help", _) => {
                eprintln!("{HELP}");
                Ok(())
            }
            ("\\d" | "\\dt", "") => self.tables().await,
            ("\\d", name) => self.columns(name).await,
            ("\\timing", _) => {
                self.timing = !self.timing;
                eprintln!("timing is {}", if self.timing { "on" } else { "off" });
                Ok(())
            }
            ("\\x", _) => {
                self.expanded = !self.expanded;
                eprintln!("{}", if self.expanded { "one line a column" } else { "rows side by side" });
                Ok(())
            }
            ("\\o", format) => self.format(format),
            ("\\vector", _) => {
                println!("{}", self.vector);
                Ok(())
            }
            ("\\asof", "") => {
                self.as_of = None;
                Ok(())
            }
            ("\\asof", vector) => {
                vector.parse().map(|vector| self.as_of = Some(vector)).map_err(anyhow::Error::from)
            }
            (other, _) => {
                Err(Usage::new(format!("`{other}` is not known")).with_hint("\\? shows what is").into())
            }
        };
        if let Err(error) = outcome {
            failure::say(&error);
        }
        Then::GoOn
    }

    fn format(&mut self, name: &str) -> anyhow::Result<()> {
        match Output::from_str(name, true) {
            Ok(output) => {
                self.output = output;
                Ok(())
            }
            Err(_) => Err(Usage::new(format!("`{name}` is no format"))
                .with_hint("formats: table, json, ndjson, csv")
                .into()),
        }
    }

    async fn tables(&mut self) -> anyhow::Result<()> {
        let rows = self.query(TABLES).await?;
        render::rows(rows, Output::Table, false).await.map(drop)
    }

    /// The columns of a table, or of any part of it that a statement could name.
    async fn columns(&mut self, name: &str) -> anyhow::Result<()> {
        let rows = self.query(&format!("SELECT * FROM {name} LIMIT 0")).await?;
        let mut grid = Grid::new(&["column", "type", "nullable"]);
        for field in rows.schema.fields() {
            let nullable = if field.is_nullable() { "" } else { "not null" };
            grid.row([field.name().as_str(), &render::sql_type(field.data_type()), nullable]);
        }
        print!("{grid}");
        Ok(())
    }
}

/// Whether the process that was asked is there no more.
fn is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect))
}

/// `$XDG_STATE_HOME/tarn/history`, or below the home folder.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")))?;
    let folder = state.join("tarn");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}
