//! `tarn topic`: over Kafka's protocol but for what the log at rest, or the process's status, says as well.

use std::io::Write as _;

use serde::Serialize;
use serde_json::json;
use tarn_kafka::client::{At, Cluster, TopicSetting};
use tarn_model::{Offset, PartitionId};

use super::{cluster, partitions};
use crate::args::{Report, TopicArgs, TopicVerb};
use crate::render::{Grid, number, out};
use crate::status::{self, write_json};

/// One topic of a cluster.
#[derive(Debug, Serialize)]
struct Described {
    name: String,
    partitions: Vec<Span>,
    settings: Vec<TopicSetting>,
}

#[derive(Debug, Serialize)]
struct Span {
    partition: PartitionId,
    start: Offset,
    end: Offset,
}

pub(crate) async fn topic(args: TopicArgs) -> anyhow::Result<()> {
    let remote = args.brokers.bootstrap.is_some();
    let is_local = match &args.verb {
        TopicVerb::List | TopicVerb::Describe { .. } => !remote,
        TopicVerb::Trim { .. } => true,
        TopicVerb::Create { .. } | TopicVerb::Alter { .. } | TopicVerb::Delete { .. } => false,
    };
    if is_local {
        return status::topic(args).await;
    }
    let mut cluster = cluster(args.brokers.bootstrap.as_deref(), || args.config.load()).await?;
    match args.verb {
        TopicVerb::List => list(&mut cluster, args.output).await,
        TopicVerb::Describe { name } => describe(&mut cluster, &name, args.output).await,
        TopicVerb::Create { name, partitions, set } => {
            cluster.create_topic(&name, partitions, &set).await?;
            let made = cluster.topic(&name).await?;
            let count = made.partitions.len();
            let s = if count == 1 { "" } else { "s" };
            done(args.output, &name, "created", format!("topic {name} is made, with {count} partition{s}"))
        }
        TopicVerb::Alter { name, partitions: count, set, unset } => {
            partitions(&mut cluster, &name).await?;
            let set = set.into_iter().map(|(name, value)| (name, Some(value)));
            let configs: Vec<_> = set.chain(unset.into_iter().map(|name| (name, None))).collect();
            if !configs.is_empty() {
                cluster.alter_topic(&name, &configs).await?;
            }
            if let Some(count) = count {
                cluster.add_partitions(&name, count).await?;
            }
            done(args.output, &name, "altered", format!("topic {name} is changed"))
        }
        TopicVerb::Delete { name } => {
            partitions(&mut cluster, &name).await?;
            cluster.delete_topic(&name).await?;
            done(args.output, &name, "deleted", format!("topic {name} is deleted"))
        }
        TopicVerb::Trim { .. } => Ok(()),
    }
}

fn done(output: Report, name: &str, what: &str, words: String) -> anyhow::Result<()> {
    match output {
        Report::Json => write_json(&json!({ "topic": name, "outcome": what })),
        Report::Table => Ok(writeln!(out(), "{words}")?),
    }
}

async fn list(cluster: &mut Cluster, output: Report) -> anyhow::Result<()> {
    let topics = cluster.topics().await?;
    if output == Report::Json {
        return write_json(&topics);
    }
    let mut grid = Grid::new(&["topic", "#partitions", "#replicas"]);
    for topic in topics {
        grid.row([topic.name, topic.partitions.len().to_string(), topic.replicas.to_string()]);
    }
    Ok(write!(out(), "{grid}")?)
}

async fn describe(cluster: &mut Cluster, name: &str, output: Report) -> anyhow::Result<()> {
    let mut described = Described { name: name.to_owned(), partitions: Vec::new(), settings: Vec::new() };
    for partition in partitions(cluster, name).await? {
        let start = cluster.offset_at(name, partition, At::Earliest).await?;
        let end = cluster.offset_at(name, partition, At::Latest).await?;
        described.partitions.push(Span { partition, start, end });
    }
    described.settings = cluster.settings(name).await?;
    if output == Report::Json {
        return write_json(&described);
    }
    let mut grid = Grid::new(&["#partition", "#first offset", "#end", "#records"]);
    for Span { partition, start, end } in &described.partitions {
        let records = number(u64::try_from(end - start).unwrap_or(0));
        grid.row([partition.to_string(), start.to_string(), end.to_string(), records]);
    }
    let mut settings = Grid::new(&["setting", "value", "from"]);
    for setting in described.settings {
        let from = if setting.is_own { "topic" } else { "broker" };
        settings.row([setting.name, setting.value.unwrap_or_default(), from.to_owned()]);
    }
    Ok(write!(out(), "{grid}\n{settings}")?)
}
