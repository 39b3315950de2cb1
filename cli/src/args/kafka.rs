//! The commands that speak Kafka's protocol: topics, groups, records.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use tarn_model::config::Span;

use super::{ConfigArg, GlobalConfigArg, Report};

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn topic list
  tarn topic create clicks --partitions 3 --set retention.ms=86400000
  tarn topic alter clicks --set cleanup.policy=compact --unset retention.ms
  tarn topic describe clicks --bootstrap kafka.example:9092

create, alter and delete speak Kafka's protocol with the running process (`kafka` in the section [log]), or with the
brokers that --bootstrap names; list and describe also answer when nothing runs.")]
pub(crate) struct TopicArgs {
    #[command(subcommand)]
    pub(crate) verb: TopicVerb,

    #[command(flatten)]
    pub(crate) config: GlobalConfigArg,

    #[command(flatten)]
    pub(crate) brokers: GlobalBrokersArg,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t, global = true)]
    pub(crate) output: Report,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicVerb {
    /// All topics, with their sizes
    List,
    /// One topic, partition by partition
    Describe {
        /// The topic
        name: String,
    },
    /// Makes a topic
    Create {
        /// The topic
        name: String,
        /// Number of partitions [default: `log.default_partitions`]
        #[arg(long, short, value_name = "NUMBER")]
        partitions: Option<i32>,
        /// A setting under Kafka's name, `retention.ms=86400000` say; may be repeated
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
        set: Vec<(String, String)>,
    },
    /// Changes a topic's settings, or gives it more partitions
    Alter {
        /// The topic
        name: String,
        /// Number of partitions that it is to have; never fewer than it has
        #[arg(long, short, value_name = "NUMBER", required_unless_present_any = ["set", "unset"])]
        partitions: Option<i32>,
        /// A setting under Kafka's name; may be repeated
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
        set: Vec<(String, String)>,
        /// A setting that the topic is to have from the broker again; may be repeated
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
    },
    /// Deletes a topic with its records and its groups' offsets
    Delete {
        /// The topic
        name: String,
    },
    /// Deletes the records below an offset, at rest
    ///
    /// Records that a table still needs are kept, unless they are given up: then `tarn verify` shows how many were lost, and the
    /// table goes on behind them.
    Trim {
        /// The topic
        name: String,
        /// The partition
        #[arg(long, default_value_t = 0)]
        partition: i32,
        /// The first offset that stays
        #[arg(long, value_name = "OFFSET")]
        before: i64,
        /// Also records that are not in the lake yet
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn group list
  tarn group describe reports                          its members, and its lag partition by partition
  tarn group reset reports --to earliest               says what would change
  tarn group reset reports --to 2026-11-22T08:00:00Z --topic clicks --execute
  tarn group reset reports --to 2h --execute           where the records of two hours ago begin
  tarn group delete reports

Offsets are reset, and a group is deleted, only while it has no members.")]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    pub(crate) verb: GroupVerb,

    #[command(flatten)]
    pub(crate) config: GlobalConfigArg,

    #[command(flatten)]
    pub(crate) brokers: GlobalBrokersArg,

    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t, global = true)]
    pub(crate) output: Report,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// All groups, with their states
    List,
    /// One group: members, and how far it is behind in each partition
    Describe {
        /// The group
        name: String,
    },
    /// Moves a group's offsets; without --execute it only says what would change
    Reset {
        /// The group
        name: String,
        /// Where to: `earliest`, `latest`, an offset, a time (RFC 3339), or how long ago (`2h`)
        #[arg(long, value_name = "PLACE")]
        to: Whereto,
        /// A topic, or one partition of it as `TOPIC:PARTITION`; may be repeated [default: all that the group has offsets of]
        #[arg(long, value_name = "TOPIC")]
        topic: Vec<String>,
        /// Does it
        #[arg(long)]
        execute: bool,
    },
    /// Forgets a group and its offsets
    Delete {
        /// The group
        name: String,
    },
}

/// Sends records to a topic, one per line of stdin
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  echo '{\"page\": \"/\"}' | tarn produce clicks
  tarn produce clicks --key-separator : < lines        `ada:{...}` has the key ada
  tarn produce clicks --header from=shell --compression zstd < lines
  tarn consume clicks --output json | tarn produce copy --format json

With --format json each line is an object with `value`, and optionally `key`, `headers` (an object), `partition` and
`timestamp` (ms since 1970), as `tarn consume --output json` writes it. A value that is no string is sent as its JSON.")]
pub(crate) struct ProduceArgs {
    /// The topic
    pub(crate) topic: String,

    #[command(flatten)]
    pub(crate) config: ConfigArg,

    #[command(flatten)]
    pub(crate) brokers: BrokersArg,

    /// How lines are read
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: LineFormat,

    /// What stands between key and value on a line; a line without it has no key
    #[arg(long, short = 'K', value_name = "TEXT")]
    pub(crate) key_separator: Option<String>,

    /// Key of every record that has none of its own
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,

    /// A header of every record; may be repeated
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) header: Vec<(String, String)>,

    /// The partition [default: by the key's hash; without a key, all in turn]
    #[arg(long, short)]
    pub(crate) partition: Option<i32>,

    /// Sends a record without a value, a tombstone, for each empty value
    #[arg(long)]
    pub(crate) tombstones: bool,

    /// How batches are compressed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: Codec,

    /// How the outcome is written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Report,
}

/// Reads records of a topic
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  tarn consume clicks                                  all that is there, then ends
  tarn consume clicks --from latest --follow           what comes from now on, until Ctrl-C
  tarn consume clicks --from 10m --count 5
  tarn consume clicks --from 2026-11-22T08:00:00Z --output json | jq .value
  tarn consume clicks --partition 0 --from 17 --key-separator :
  tarn consume clicks --group reports --follow         shares the partitions with others of the group

Records of transactions that are open or were aborted are left out. Order holds within a partition.

With --group, the broker shares out the partitions among all who read so (Kafka 4's consumer groups). What was written is committed about
every second, and at the end: who comes next goes on there, and --from counts only where the group has committed nothing. A process that is killed has
the last second's records written twice.")]
pub(crate) struct ConsumeArgs {
    /// The topic
    pub(crate) topic: String,

    #[command(flatten)]
    pub(crate) config: ConfigArg,

    #[command(flatten)]
    pub(crate) brokers: BrokersArg,

    /// Where to begin: `earliest`, `latest`, an offset, a time (RFC 3339), or how long ago (`10m`)
    #[arg(long, value_name = "PLACE", default_value = "earliest")]
    pub(crate) from: Whereto,

    /// Only this partition; may be repeated
    #[arg(long, short, conflicts_with = "group")]
    pub(crate) partition: Vec<i32>,

    /// Reads as a member of this group, from where it has committed, and commits what was written
    #[arg(long, short)]
    pub(crate) group: Option<String>,

    /// Ends after so many records
    #[arg(long, short = 'n', value_name = "NUMBER")]
    pub(crate) count: Option<u64>,

    /// Goes on when it has read all that is there
    #[arg(long, short)]
    pub(crate) follow: bool,

    /// Writes the key before the value, with this between them
    #[arg(long, short = 'K', value_name = "TEXT")]
    pub(crate) key_separator: Option<String>,

    /// How records are written
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: RecordFormat,
}

/// How a line becomes a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LineFormat {
    /// The line is the value
    #[default]
    Line,
    /// The line is an object that says key, value, headers, partition and timestamp
    Json,
}

/// How a record is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    /// Its value on a line
    #[default]
    Value,
    /// An object on a line, with everything that it has
    Json,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    /// Not at all
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// A place in a partition, as it is written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereto {
    Earliest,
    Latest,
    Offset(i64),
    /// Ms since 1970 UTC.
    Time(i64),
    /// So long before now.
    Ago(std::time::Duration),
}

impl std::str::FromStr for Whereto {
    type Err = String;

    fn from_str(text: &str) -> Result<Whereto, String> {
        if let Ok(offset) = text.parse::<i64>() {
            return if offset >= 0 {
                Ok(Whereto::Offset(offset))
            } else {
                Err("an offset is 0 or more".to_owned())
            };
        }
        match text {
            "earliest" | "beginning" => return Ok(Whereto::Earliest),
            "latest" | "end" => return Ok(Whereto::Latest),
            _ => {}
        }
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Whereto::Ago(span.0));
        }
        let time = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text);
        time.map(|ns| Whereto::Time(ns.div_euclid(1_000_000))).map_err(|_| {
            "write `earliest`, `latest`, an offset, a time such as 2026-11-22T08:00:00Z, or how long ago, such as 2h".to_owned()
        })
    }
}

/// `NAME=VALUE`
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() {
        return Err("there is no name before `=`".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Which brokers are asked.
#[derive(Debug, ClapArgs)]
pub(crate) struct BrokersArg {
    /// Kafka brokers to ask instead of the running process: HOST:PORT, several with commas
    #[arg(long, short, value_name = "BROKERS")]
    pub(crate) bootstrap: Option<String>,
}

/// Which brokers are asked, for commands with verbs.
#[derive(Debug, ClapArgs)]
pub(crate) struct GlobalBrokersArg {
    /// Kafka brokers to ask instead of the running process: HOST:PORT, several with commas
    #[arg(long, short, value_name = "BROKERS", global = true)]
    pub(crate) bootstrap: Option<String>,
}
