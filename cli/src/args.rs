//! The command line, and the words that teach it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use tarn_model::config::{Config, Loader, Span};

use crate::failure::Usage;

mod export;
mod kafka;

pub(crate) use export::ExportArgs;
pub(crate) use kafka::{
    Codec, ConsumeArgs, GroupArgs, GroupVerb, LineFormat, ProduceArgs, RecordFormat, TopicArgs, TopicVerb,
    Whereto,
};

const EXAMPLES: &str = "\
Start here:
  tarn demo                                      a made-up shop, live; says what to type next
  tarn check tarn.toml                           everything that is wrong with a config, at once
  tarn run tarn.toml                             collect, commit to the lake, serve SQL
  tarn sql \"SELECT count(*) FROM orders\"         ask it (or the lake, when nothing runs)

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 command line or config wrong.
Every key of the config file is in docs/config.md, complete examples are in configs/.";

/// A small lake fed by streams: collects logs, events and tables into Delta Lake, exactly once, and answers SQL over
/// everything that has arrived.
#[derive(Debug, Parser)]
#[command(name = "tarn", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, subcommand_required = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter such as `info,tarn_log=debug`
    /// [default: info for `run`, else warn; also $TARN_LOG, $RUST_LOG]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Messages")]
    pub(crate) log: Option<String>,

    /// Logs JSON, one object a line.
    #[arg(long, global = true, help_heading = "Messages")]
    pub(crate) log_json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Run(RunArgs),
    Check(CheckArgs),
    Sql(SqlArgs),
    Status(StatusArgs),
    Verify(VerifyArgs),
    /// Tables: list, describe, and the lake's upkeep by hand
    #[command(arg_required_else_help = true, subcommand_required = true)]
    Table(TableArgs),
    /// Topics of the log: list, describe, create, alter, delete, trim
    #[command(arg_required_else_help = true, subcommand_required = true)]
    Topic(TopicArgs),
    /// Consumer groups: list, describe with lag, reset offsets, delete
    #[command(arg_required_else_help = true, subcommand_required = true)]
    Group(GroupArgs),
    Produce(ProduceArgs),
    Consume(ConsumeArgs),
    /// Sources, and how far they have come
    #[command(arg_required_else_help = true, subcommand_required = true)]
    Source(SourceArgs),
    Eval(EvalArgs),
    Import(ImportArgs),
    Export(ExportArgs),
    /// Views: how they are kept, and how fresh they are
    #[command(arg_required_else_help = true, subcommand_required = true)]
    View(ViewArgs),
}

/// Everything at once on a made-up shop: generators, log, lake, SQL
///
/// Writes a commented config into DIR and runs it. A second start in the same folder goes on where the first stopped.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn demo                     in tarn-demo below the system's folder for temporary files
  tarn demo ./shop              in a folder of your own
  tarn demo ./shop --for 10s    for ten seconds, then a clean stop")]
pub(crate) struct DemoArgs {
    /// Folder of the config, the log and the lake [default: tarn-demo below the folder for temporary files]
    pub(crate) dir: Option<PathBuf>,

    /// Ends by itself after this time
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) duration: Option<Span>,
}

/// Runs a config until Ctrl-C or SIGTERM
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn run                                   tarn.toml in this folder, until Ctrl-C
  tarn run configs/shop.toml                 another config
  tarn run configs/flights.toml --drain      load what lies in the folder, commit it, end with 0

--drain ends when every bounded source is read to its end and all of it is committed to the lake: of a spool folder the
files that are there at start, of a growing file the end it has at start, of a database one run, of a generator its count.")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) file: ConfigFile,

    /// Ends by itself once everything that is there now is committed to the lake
    #[arg(long)]
    pub(crate) drain: bool,

    /// Lets other machines in without asking who they are
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// Says what a config means, or everything that is wrong with it
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn check tarn.toml
  tarn check tarn.toml --output json | jq .

Every problem is one line: FILE:LINE:COLUMN: FIELD: what is wrong. The exit code is 2 when there is one.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) file: ConfigFile,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Report,

    /// Allows addresses that other machines can reach
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// Asks in SQL: the running pipeline, or straight the lake when none runs
///
/// A table `t` is the lake and what has arrived since, each row once; `lake.t` is what is committed to the lake, `live.t`
/// what is not yet. Without QUERY it reads the statement from stdin, or opens a shell on a terminal.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn sql \"SELECT count(*) FROM orders\"
  tarn sql -c configs/flights.toml --output csv \"SELECT * FROM flights LIMIT 5\" > five.csv
  echo \"SELECT 1\" | tarn sql
  tarn sql --watch \"SELECT status, count(*) FROM orders GROUP BY 1\"
                                                    live, until Ctrl-C
  tarn sql                                          a shell: statements end with ;, \\? shows its commands
  tarn sql --as-of \"orders:0=17,1=4\" \"SELECT count(*) FROM orders\"
                                                    what the tables held at that vector of offsets")]
pub(crate) struct SqlArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,

    /// The statement
    pub(crate) query: Option<String>,

    /// How rows are written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,

    /// Cuts every table at this vector of offsets, `topic:partition=offset,...;...`
    #[arg(long, value_name = "VECTOR")]
    pub(crate) as_of: Option<tarn_model::OffsetVector>,

    /// Shows the answer again whenever it changes, until Ctrl-C
    #[arg(long, short, requires = "query", conflicts_with = "as_of")]
    pub(crate) watch: bool,
}

/// Sources, topics and tables: counts, lag, errors
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn status
  tarn status --watch                       anew every second, until Ctrl-C
  tarn status --output json | jq '.tables[] | {name, lag_records}'")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Report,

    /// Shows it anew every second
    #[arg(long, short)]
    pub(crate) watch: bool,
}

/// Proves that log = table + dead letters, partition by partition
///
/// Compares offsets and, while the log still has the records, their content with an order-independent hash. Ends with 1
/// when something does not agree.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn verify -c configs/flights.toml
  tarn verify --output json")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Report,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TableArgs {
    #[command(subcommand)]
    pub(crate) verb: TableVerb,

    #[command(flatten)]
    pub(crate) config: GlobalConfigArg,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t, global = true)]
    pub(crate) output: Report,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TableVerb {
    /// All tables of the lake, with their sizes
    List,
    /// One table: columns, boundary, properties
    Describe {
        /// The table
        name: String,
    },
    /// Merges small files into large ones; the pipeline does it by itself, too
    Optimize {
        /// The table
        name: String,
    },
    /// Deletes files that no version within the retention needs
    Vacuum {
        /// The table
        name: String,
        /// How long files that no longer belong to the table are kept [default: `lake.vacuum_retention`]
        #[arg(long, value_name = "TIME")]
        retention: Option<Span>,
        /// Only says what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Parts a table from the log that fed it: its rows stay and can be read, no topic feeds it any more
    ///
    /// At rest only. For a table whose name another table is to have, or whose log is gone for good; `adopt` takes it back.
    Detach {
        /// The table
        name: String,
    },
    /// Lets the log go on where the table ends, when the two no longer know each other
    ///
    /// At rest only. For a data folder that was deleted, exchanged or put back from an older copy: the topic takes over the
    /// table's identity and starts at its boundary, so that no offset is ever given twice.
    Adopt {
        /// The table
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SourceArgs {
    #[command(subcommand)]
    pub(crate) verb: SourceVerb,

    #[command(flatten)]
    pub(crate) config: GlobalConfigArg,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t, global = true)]
    pub(crate) output: Report,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SourceVerb {
    /// All sources, with what they have read
    List,
    /// The tables that a `database` source reads, and their topics
    Tables {
        /// The source
        name: String,
    },
    /// The columns of a table of a source's database, with their types in the lake
    Schema {
        /// The source
        name: String,
        /// The table; left out where the source reads a single one, or a query
        table: Option<String>,
    },
    /// Has a `database` source run now, and waits until that run is done
    Run {
        /// The source
        name: String,
        /// Does not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Pauses a source, also across restarts, until it is resumed
    Pause {
        /// The source
        name: String,
    },
    /// Lets a paused source go on exactly where it was
    Resume {
        /// The source
        name: String,
    },
    /// The last runs of a `database` source: when, how long, how much, and how they ended
    History {
        /// The source
        name: String,
        /// How many, the newest first; the last 100 are kept
        #[arg(long, value_name = "RUNS", default_value_t = 20)]
        last: u32,
    },
    /// Forgets how far a source has read: it reads everything again, and appends it again
    ///
    /// At rest only. What is in the log and the lake stays.
    Forget {
        /// The source
        name: String,
    },
    /// Records that no table could take: why, and another try once that is mended
    #[command(arg_required_else_help = true, subcommand_required = true)]
    DeadLetters {
        #[command(subcommand)]
        verb: DeadLetterVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterVerb {
    /// Tables with dead letters: how many, how many of them were replayed, and the newest one's reason
    List,
    /// A table's dead letters with their reasons, in the order of the log
    Show {
        /// The table
        table: String,
        /// Only those that fit, e.g. "reason LIKE '%column `n`%'"
        #[arg(long = "where", value_name = "CONDITION")]
        condition: Option<String>,
        /// Most that are shown
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Takes a table's dead letters in again, each of them once
    ///
    /// After the config was mended, and in the process that runs it. What a source could not read goes through its format,
    /// interceptors and routes as they are now; what a table refused comes back as it was. One that would be refused again is
    /// left as it is. A record that is replayed has another offset, the time that it had, and the header `tarn.replay_of`.
    Replay {
        /// The table
        table: String,
        /// The source that reads them again, where several fill the topic
        #[arg(long)]
        source: Option<String>,
        /// Only those that fit, e.g. "_timestamp > now() - INTERVAL '1 day'"
        #[arg(long = "where", value_name = "CONDITION")]
        condition: Option<String>,
        /// Only says what would be replayed
        #[arg(long)]
        dry_run: bool,
    },
}

/// Asks the database of a source, in its own SQL, without collecting anything
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn eval shop \"SELECT count(*) FROM orders\"
  tarn eval -c tarn.toml shop \"SELECT * FROM orders\" --output ndjson | head")]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,

    /// The source
    pub(crate) name: String,

    /// The query
    pub(crate) query: String,

    /// How rows are written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: EvalOutput,
}

/// How rows of a source's database are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvalOutput {
    /// A framed table of at most a thousand rows
    #[default]
    Table,
    /// One JSON object a line, as it would be a record
    Ndjson,
}

/// Brings tables of a database straight into tables of the lake, each in one commit
///
/// What a job reads, and where it goes, its `[[import]]` in the config says. Until a table's run is whole, nothing of it is to be
/// seen. A run that broke off is run again under its number: what it has committed is not imported twice.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn import orders                             one run of the job `orders`
  tarn import --all --output json                every job of the config, one after the other
  tarn import orders --validate                  rows and checksums of both sides, split by split, before the commit
  tarn import -c shop.toml orders --run 20261123 does nothing where the table has that run, or a later one

Runs of one job are numbered: 1, 2, 3, ..., or by --run, which must grow from run to run.")]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,

    /// The jobs
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<String>,

    /// Every job of the config
    #[arg(long, conflicts_with = "jobs")]
    pub(crate) all: bool,

    /// Number of this run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) run: Option<i64>,

    /// Compares what was written with the database before it is committed, which reads everything a second time
    #[arg(long)]
    pub(crate) validate: bool,

    /// How the report is written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Report,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ViewArgs {
    #[command(subcommand)]
    pub(crate) verb: ViewVerb,

    #[command(flatten)]
    pub(crate) config: GlobalConfigArg,

    /// How rows are written
    #[arg(long, short, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ViewVerb {
    /// All views, with their boundary and lag
    List,
    /// One view: how it is kept, and why
    Describe {
        /// The view
        name: String,
    },
    /// The builds of a view in the lake, and which of them serves
    Builds {
        /// The view
        name: String,
    },
    /// Makes a view's states anew from the lake, while the old ones serve
    Rebuild {
        /// The view
        name: String,
        /// Does not wait until the new build serves
        #[arg(long)]
        no_wait: bool,
    },
    /// Lets an older build of a view serve again, with the query it was made for
    Rollback {
        /// The view
        name: String,
        /// The build that is to serve [default: the one before the build that serves]
        #[arg(long, value_name = "BUILD")]
        to: Option<u32>,
    },
    /// Deletes builds of a view that do not serve
    DropBuilds {
        /// The view
        name: String,
        /// The builds
        #[arg(value_name = "BUILD", required_unless_present = "old", conflicts_with = "old")]
        builds: Vec<u32>,
        /// All that nothing needs
        #[arg(long)]
        old: bool,
    },
    /// Compares two builds of a view over the lake's committed rows, each by the query it was made for
    Diff {
        /// The view
        name: String,
        /// The older build [default: the last but one]
        #[arg(long, value_name = "BUILD")]
        before: Option<u32>,
        /// The newer build [default: the last]
        #[arg(long, value_name = "BUILD")]
        after: Option<u32>,
    },
}

/// How rows are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns in a frame
    #[default]
    Table,
    /// One array of objects
    Json,
    /// One object a line
    Ndjson,
    /// Comma-separated values with a header
    Csv,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

const DEFAULT_CONFIG: &str = "tarn.toml";

/// The config that is the subject of a command; commands that ask a pipeline have a [`ConfigArg`].
#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigFile {
    /// The config file
    #[arg(value_name = "CONFIG", default_value = DEFAULT_CONFIG)]
    path: PathBuf,

    /// The same, as other commands take it
    #[arg(long = "config", short = 'c', value_name = "CONFIG", conflicts_with = "path")]
    named: Option<PathBuf>,
}

impl ConfigFile {
    /// Where it should be.
    pub(crate) fn path(&self) -> &Path {
        self.named.as_deref().unwrap_or(&self.path)
    }

    /// Where it is.
    pub(crate) fn found(&self) -> anyhow::Result<&Path> {
        must_be_there(self.path(), "name the config file; or try `tarn demo`")?;
        Ok(self.path())
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigArg {
    /// The config file of the pipeline
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GlobalConfigArg {
    /// The config file of the pipeline
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, global = true)]
    config: PathBuf,
}

impl ConfigArg {
    /// The config, for a command that asks a pipeline rather than running it.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        load(&self.config)
    }
}

impl GlobalConfigArg {
    /// The config, for a command that asks a pipeline rather than running it.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        load(&self.config)
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    must_be_there(path, "name the config file: -c FILE; or try `tarn demo`")?;
    // Whoever runs the pipeline has decided where it listens.
    Ok(loader(true).load(path)?)
}

/// A config that was not named has to be in the current folder.
fn must_be_there(path: &Path, hint: &'static str) -> anyhow::Result<()> {
    if path == Path::new(DEFAULT_CONFIG) && !path.exists() {
        let here = std::env::current_dir().context("the current folder cannot be named")?;
        return Err(Usage::new(format!("there is no tarn.toml in {}", here.display()))
            .with_hint(hint)
            .into());
    }
    Ok(())
}

/// Reads configs for `run` and `check`.
pub(crate) fn loader<'a>(insecure: bool) -> Loader<'a> {
    Loader::new().insecure(insecure).queries(crate::queries::compiled)
}
