//! `tarn topic`, `tarn group`, `tarn produce`, `tarn consume`: over Kafka's protocol, with the running process or with any
//! broker that `--bootstrap` names.

mod consume;
mod groups;
mod produce;
mod topics;

use tarn_kafka::client::{At, Cluster};
use tarn_model::clock::{Clock as _, SystemClock};
use tarn_model::config::Config;
use tarn_model::{Offset, PartitionId};
use tarn_serving::nearest;

pub(crate) use consume::consume;
pub(crate) use groups::group;
pub(crate) use produce::produce;
pub(crate) use topics::topic;

use crate::args::Whereto;
use crate::door::KafkaDoor;
use crate::failure::Usage;

/// The brokers that were named, or the process that runs the config.
async fn cluster(
    bootstrap: Option<&str>,
    config: impl FnOnce() -> anyhow::Result<Config>,
) -> anyhow::Result<Cluster> {
    if let Some(bootstrap) = bootstrap {
        return Ok(Cluster::connect(bootstrap).await?);
    }
    match KafkaDoor::find(&config()?) {
        KafkaDoor::At(address) => Ok(Cluster::connect(&address).await?),
        KafkaDoor::Silent => Err(Usage::new("the running process does not speak Kafka's protocol")
            .with_hint(
                "set `kafka = \"127.0.0.1:9092\"` in the section [log] of the config, and start it again",
            )
            .into()),
        KafkaDoor::Nobody => Err(Usage::new("nothing runs on this config")
            .with_hint("start it with `tarn run`, or name Kafka brokers: --bootstrap HOST:PORT")
            .into()),
    }
}

/// The partitions of a topic; an error with the nearest name when there is none.
async fn partitions(cluster: &mut Cluster, topic: &str) -> anyhow::Result<Vec<PartitionId>> {
    match cluster.topic(topic).await {
        Ok(found) => Ok(found.partitions),
        Err(error) => {
            let known = cluster.topics().await?;
            if known.iter().any(|known| known.name == topic) {
                return Err(error.into());
            }
            let missing = Usage::new(format!("there is no topic `{topic}`"));
            Err(match nearest(topic, known.iter().map(|known| known.name.as_str())) {
                Some(near) => missing.with_hint(format!("did you mean `{near}`?")),
                None => missing.with_hint(format!("`tarn topic create {topic}` makes it")),
            }
            .into())
        }
    }
}

/// The offset of a place in a partition; one beyond its ends becomes the nearer end.
async fn offset_of(
    cluster: &mut Cluster,
    topic: &str,
    partition: PartitionId,
    place: Whereto,
) -> anyhow::Result<Offset> {
    let at = match place {
        Whereto::Earliest => At::Earliest,
        Whereto::Latest => At::Latest,
        Whereto::Time(ms) => At::Time(ms),
        Whereto::Ago(span) => {
            At::Time(SystemClock.now_ms().saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
        }
        Whereto::Offset(offset) => {
            let first = cluster.offset_at(topic, partition, At::Earliest).await?;
            let end = cluster.offset_at(topic, partition, At::Latest).await?;
            return Ok(offset.clamp(first, end.max(first)));
        }
    };
    Ok(cluster.offset_at(topic, partition, at).await?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Whereto;

    #[test]
    fn places_are_read_in_every_form() {
        for (text, want) in [
            ("earliest", Whereto::Earliest),
            ("latest", Whereto::Latest),
            ("17", Whereto::Offset(17)),
            ("2h", Whereto::Ago(Duration::from_secs(7200))),
            ("1970-01-01T00:00:01Z", Whereto::Time(1000)),
            ("1970-01-01T00:00:00.250Z", Whereto::Time(250)),
            ("1970-01-02", Whereto::Time(86_400_000)),
        ] {
            assert_eq!(text.parse::<Whereto>(), Ok(want), "{text}");
        }
        for text in ["", "yesterday", "-1", "10 parsecs"] {
            assert!(text.parse::<Whereto>().is_err(), "{text}");
        }
    }
}
