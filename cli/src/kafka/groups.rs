//! `tarn group`.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::Serialize;
use serde_json::json;
use tarn_kafka::client::{At, Cluster, CommittedAt, GroupDetails};
use tarn_model::{Offset, PartitionId};
use tarn_serving::nearest;

use super::{cluster, offset_of, partitions};
use crate::args::{GroupArgs, GroupVerb, Report, Whereto};
use crate::failure::Usage;
use crate::render::{Grid, number, out};
use crate::status::write_json;

/// A group, and how far it is behind.
#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    group: GroupDetails,
    /// All partitions together.
    lag: u64,
    partitions: Vec<Lag>,
}

#[derive(Debug, Serialize)]
struct Lag {
    topic: String,
    partition: PartitionId,
    committed: Offset,
    end: Offset,
    lag: u64,
    /// Who reads it now.
    member: Option<String>,
}

/// One offset of a reset.
#[derive(Debug, Serialize)]
struct Move {
    topic: String,
    partition: PartitionId,
    /// None while nothing is committed.
    from: Option<Offset>,
    to: Offset,
}

pub(crate) async fn group(args: GroupArgs) -> anyhow::Result<()> {
    let mut cluster = cluster(args.brokers.bootstrap.as_deref(), || args.config.load()).await?;
    match args.verb {
        GroupVerb::List => list(&mut cluster, args.output).await,
        GroupVerb::Describe { name } => describe(&mut cluster, &name, args.output).await,
        GroupVerb::Reset { name, to, topic, execute } => {
            reset(&mut cluster, &name, to, &topic, execute, args.output).await
        }
        GroupVerb::Delete { name } => {
            known(&mut cluster, &name).await?;
            cluster.delete_group(&name).await?;
            match args.output {
                Report::Json => write_json(&json!({ "group": name, "outcome": "deleted" })),
                Report::Table => Ok(writeln!(out(), "group {name} is forgotten, with its offsets")?),
            }
        }
    }
}

/// An error with the nearest name when there is no such group.
async fn known(cluster: &mut Cluster, name: &str) -> anyhow::Result<()> {
    let groups = cluster.groups().await?;
    if groups.iter().any(|known| known.group == name) {
        return Ok(());
    }
    let missing = Usage::new(format!("there is no group `{name}`"));
    Err(match nearest(name, groups.iter().map(|known| known.group.as_str())) {
        Some(near) => missing.with_hint(format!("did you mean `{near}`?")),
        None if groups.is_empty() => missing.with_hint("there is no group yet"),
        None => missing.with_hint("`tarn group list` says which groups there are"),
    }
    .into())
}

async fn list(cluster: &mut Cluster, output: Report) -> anyhow::Result<()> {
    let groups = cluster.groups().await?;
    if output == Report::Json {
        return write_json(&groups);
    }
    let mut grid = Grid::new(&["group", "state", "type"]);
    for group in groups {
        grid.row([group.group, group.state, group.protocol_type]);
    }
    Ok(write!(out(), "{grid}")?)
}

async fn describe(cluster: &mut Cluster, name: &str, output: Report) -> anyhow::Result<()> {
    known(cluster, name).await?;
    let group = cluster.group(name).await?;
    let mut readers: BTreeMap<(String, PartitionId), String> = BTreeMap::new();
    for member in &group.members {
        for (topic, partitions) in &member.partitions {
            for partition in partitions {
                readers.insert((topic.clone(), *partition), member.member.clone());
            }
        }
    }
    let mut lags = Vec::new();
    for at in cluster.committed(name).await? {
        let end = cluster.offset_at(&at.topic, at.partition, At::Latest).await?;
        let lag = u64::try_from(end - at.offset).unwrap_or(0);
        let member = readers.get(&(at.topic.clone(), at.partition)).cloned();
        lags.push(Lag { topic: at.topic, partition: at.partition, committed: at.offset, end, lag, member });
    }
    let described = Described { group, lag: lags.iter().map(|lag| lag.lag).sum(), partitions: lags };
    if output == Report::Json {
        return write_json(&described);
    }
    let mut out = out();
    let state = &described.group.state;
    let count = described.group.members.len();
    let s = if count == 1 { "" } else { "s" };
    writeln!(
        out,
        "group {name}: {}, {count} member{s}, {} records behind",
        state.state,
        number(described.lag)
    )?;
    if count > 0 {
        let mut grid = Grid::new(&["member", "client", "host", "reads"]);
        for member in &described.group.members {
            let reads: Vec<String> = member
                .partitions
                .iter()
                .map(|(topic, partitions)| {
                    let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
                    format!("{topic}:{}", partitions.join(","))
                })
                .collect();
            grid.row([member.member.clone(), member.client.clone(), member.host.clone(), reads.join(" ")]);
        }
        write!(out, "{grid}")?;
    }
    if !described.partitions.is_empty() {
        let mut grid = Grid::new(&["topic", "#partition", "#committed", "#end", "#lag", "read by"]);
        for lag in &described.partitions {
            grid.row([
                lag.topic.clone(),
                lag.partition.to_string(),
                lag.committed.to_string(),
                lag.end.to_string(),
                number(lag.lag),
                lag.member.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        write!(out, "{grid}")?;
    }
    Ok(out.flush()?)
}

async fn reset(
    cluster: &mut Cluster,
    name: &str,
    to: Whereto,
    topics: &[String],
    execute: bool,
    output: Report,
) -> anyhow::Result<()> {
    let committed = cluster.committed(name).await?;
    let mut wanted: Vec<(String, PartitionId)> = Vec::new();
    for topic in topics {
        match topic.rsplit_once(':').and_then(|(topic, partition)| Some((topic, partition.parse().ok()?))) {
            Some((topic, partition)) => wanted.push((topic.to_owned(), partition)),
            None => {
                let all = partitions(cluster, topic).await?;
                wanted.extend(all.into_iter().map(|partition| (topic.clone(), partition)));
            }
        }
    }
    if topics.is_empty() {
        // A name that nobody knows is a typing error unless topics say what it is to read.
        known(cluster, name).await?;
        wanted.extend(committed.iter().map(|at| (at.topic.clone(), at.partition)));
    }
    wanted.sort();
    wanted.dedup();
    let mut moves = Vec::new();
    for (topic, partition) in wanted {
        let to = offset_of(cluster, &topic, partition, to).await?;
        let from = committed.iter().find(|at| at.topic == topic && at.partition == partition);
        let from = from.map(|at| at.offset);
        moves.push(Move { topic, partition, from, to });
    }
    if moves.is_empty() {
        return Err(Usage::new(format!("group `{name}` has no offsets to reset"))
            .with_hint("name what it is to read: --topic TOPIC")
            .into());
    }
    if execute {
        let offsets: Vec<CommittedAt> = moves
            .iter()
            .map(|m| CommittedAt { topic: m.topic.clone(), partition: m.partition, offset: m.to })
            .collect();
        cluster.commit(name, &offsets).await?;
    }
    if output == Report::Json {
        return write_json(&json!({ "group": name, "executed": execute, "offsets": moves }));
    }
    let mut grid = Grid::new(&["topic", "#partition", "#from", "#to"]);
    for m in &moves {
        let from = m.from.map_or_else(|| "-".to_owned(), |from| from.to_string());
        grid.row([m.topic.clone(), m.partition.to_string(), from, m.to.to_string()]);
    }
    write!(out(), "{grid}")?;
    if !execute {
        eprintln!("nothing was changed: add --execute to do it");
    }
    Ok(())
}
