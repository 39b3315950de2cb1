//! Configs of topics and of the broker, under Kafka's names.
//!
//! What a topic can have of its own is set here; everything else is as the log does it, and setting it to something else is
//! refused rather than stored without effect. A topic that the config file names gets its retention from there at every start.

use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_request,
    alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;
use tarn_log::{Cleanup, TopicConfigs, TopicInfo, TopicOptions};
use tarn_model::config::{Compression, SyncMode};

use crate::broker::{BROKER_ID, Broker, code_of, text, told};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from, by Kafka's numbers.
const FROM_TOPIC: i8 = 1;
const FROM_BROKER: i8 = 4;
const FROM_DEFAULT: i8 = 5;
/// Types of values, by Kafka's numbers.
const BOOLEAN: i8 = 1;
const STRING: i8 = 2;
const INT: i8 = 3;
const LONG: i8 = 5;
const DOUBLE: i8 = 6;
const LIST: i8 = 7;
const SET: i8 = 0;
const DELETE: i8 = 1;
const ADD: i8 = 2;
const TAKE: i8 = 3;
const CREATE_TIME: &str = "CreateTime";
const APPEND_TIME: &str = "LogAppendTime";
/// What stands for "without end" where the log wants a number.
const WITHOUT_END: u64 = i64::MAX as u64;

/// A config as it is described.
struct Setting {
    name: &'static str,
    value: String,
    kind: i8,
    source: i8,
    read_only: bool,
}

impl Broker {
    fn topic_settings(&self, info: &TopicInfo) -> Vec<Setting> {
        let options = self.log.options();
        let own = |is_own: bool| if is_own { FROM_TOPIC } else { FROM_BROKER };
        let time = info.retention_time.unwrap_or(options.retention_time);
        let bytes = info.retention_bytes.or(options.retention_bytes);
        let fixed = |name, value: &str, kind| Setting {
            name,
            value: value.to_owned(),
            kind,
            source: FROM_DEFAULT,
            read_only: true,
        };
        let own_of = |name, value, kind, is_own: bool| Setting {
            name,
            value,
            kind,
            source: if is_own { FROM_TOPIC } else { FROM_DEFAULT },
            read_only: false,
        };
        vec![
            Setting {
                name: "cleanup.policy",
                value: policy(info.configs.cleanup).to_owned(),
                kind: LIST,
                source: if info.configs.cleanup == Cleanup::Delete { FROM_DEFAULT } else { FROM_TOPIC },
                read_only: false,
            },
            own_of(
                "compression.type",
                codec_name(info.configs.compression).to_owned(),
                STRING,
                info.configs.compression.is_some(),
            ),
            own_of("flush.messages", shown_max(info.configs.flush_messages), LONG, {
                info.configs.flush_messages.is_some()
            }),
            own_of("flush.ms", shown_max(info.configs.flush_ms), LONG, info.configs.flush_ms.is_some()),
            own_of("max.compaction.lag.ms", shown_max(info.configs.max_compaction_lag_ms), LONG, {
                info.configs.max_compaction_lag_ms.is_some()
            }),
            Setting {
                name: "max.message.bytes",
                value: info.max_batch_bytes().to_string(),
                kind: INT,
                source: own(info.configs.max_batch_bytes.is_some()),
                read_only: false,
            },
            Setting {
                name: "message.timestamp.type",
                value: if info.configs.append_time { APPEND_TIME } else { CREATE_TIME }.to_owned(),
                kind: STRING,
                source: if info.configs.append_time { FROM_TOPIC } else { FROM_DEFAULT },
                read_only: false,
            },
            own_of("delete.retention.ms", info.configs.delete_retention_ms().to_string(), LONG, {
                info.configs.delete_retention_ms.is_some()
            }),
            own_of("min.cleanable.dirty.ratio", info.configs.min_dirty_ratio().to_string(), DOUBLE, {
                info.configs.min_dirty_ratio.is_some()
            }),
            own_of("min.compaction.lag.ms", info.configs.min_compaction_lag_ms().to_string(), LONG, {
                info.configs.min_compaction_lag_ms.is_some()
            }),
            fixed("min.insync.replicas", "1", INT),
            Setting {
                name: "retention.bytes",
                value: shown(bytes.unwrap_or(WITHOUT_END)),
                kind: LONG,
                source: own(info.retention_bytes.is_some()),
                read_only: false,
            },
            Setting {
                name: "retention.ms",
                value: shown(u64::try_from(time.as_millis()).unwrap_or(WITHOUT_END)),
                kind: LONG,
                source: own(info.retention_time.is_some()),
                read_only: false,
            },
            Setting {
                name: "segment.bytes",
                value: info.configs.segment_bytes.unwrap_or(options.segment_bytes).to_string(),
                kind: INT,
                source: own(info.configs.segment_bytes.is_some()),
                read_only: false,
            },
            fixed("unclean.leader.election.enable", "false", BOOLEAN),
        ]
    }

    fn broker_settings(&self) -> Vec<Setting> {
        let options = self.log.options();
        let fixed =
            |name, value: String, kind| Setting { name, value, kind, source: FROM_BROKER, read_only: true };
        vec![
            fixed("auto.create.topics.enable", self.options.auto_create_topics.to_string(), BOOLEAN),
            fixed("broker.id", BROKER_ID.to_string(), INT),
            fixed("compression.type", "producer".to_owned(), STRING),
            fixed("default.replication.factor", "1".to_owned(), INT),
            fixed("log.retention.bytes", shown(options.retention_bytes.unwrap_or(WITHOUT_END)), LONG),
            fixed("log.retention.ms", options.retention_time.as_millis().to_string(), LONG),
            fixed("log.segment.bytes", options.segment_bytes.to_string(), INT),
            fixed("num.partitions", self.options.default_partitions.to_string(), INT),
        ]
    }

    pub(crate) fn describe_configs(&self, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
        let synonyms = request.include_synonyms;
        let results = request.resources.into_iter().map(|resource| {
            let answer = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            let settings = match resource.resource_type {
                TOPIC => match self.log.topic(&resource.resource_name) {
                    Some(info) => self.topic_settings(&info),
                    None => return answer.with_error_code(Code::UnknownTopicOrPartition.code()),
                },
                BROKER if [BROKER_ID.to_string().as_str(), ""].contains(&resource.resource_name.as_str()) => {
                    self.broker_settings()
                }
                _ => return answer.with_error_code(Code::InvalidRequest.code()),
            };
            let wanted = |setting: &Setting| match &resource.configuration_keys {
                None => true,
                // librdkafka asks for everything with an empty list.
                Some(keys) => keys.is_empty() || keys.iter().any(|key| key.as_str() == setting.name),
            };
            let shown = settings.into_iter().filter(wanted).map(|setting| describe(setting, synonyms));
            answer.with_configs(shown.collect()).with_error_message(None)
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    pub(crate) async fn alter_configs(
        &self,
        request: IncrementalAlterConfigsRequest,
    ) -> IncrementalAlterConfigsResponse {
        let _alone = self.admin.lock().await;
        let mut answer = IncrementalAlterConfigsResponse::default();
        for resource in request.resources {
            let altered = self.alter(&resource, request.validate_only).await;
            let (code, why) = altered.err().map_or((0, None), |(code, why)| (code.code(), why));
            answer.responses.push(
                AlterConfigsResourceResponse::default()
                    .with_error_code(code)
                    .with_error_message(why)
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name),
            );
        }
        answer
    }

    async fn alter(
        &self,
        resource: &AlterConfigsResource,
        validate_only: bool,
    ) -> Result<(), (Code, Option<StrBytes>)> {
        if resource.resource_type != TOPIC {
            return Err((Code::InvalidRequest, Some(text(ONLY_TOPICS))));
        }
        let info = self.log.topic(&resource.resource_name).ok_or((Code::UnknownTopicOrPartition, None))?;
        let mut wanted = Wanted {
            options: TopicOptions {
                partitions: info.partitions,
                retention_time: info.retention_time,
                retention_bytes: info.retention_bytes,
            },
            configs: info.configs.clone(),
            largest_batch: self.largest_batch(),
            syncs_first: self.syncs_first(),
        };
        let settings = self.topic_settings(&info);
        for config in &resource.configs {
            let given = config.value.as_ref().map(|value| value.as_str());
            let listed;
            let value = match config.config_operation {
                SET => given,
                DELETE => None,
                ADD | TAKE if config.name.as_str() == "cleanup.policy" => {
                    let given = given.unwrap_or_default();
                    let had = policy(wanted.configs.cleanup).split(',').filter(|part| *part != given);
                    let adds = config.config_operation == ADD;
                    listed = had.chain(adds.then_some(given)).collect::<Vec<_>>().join(",");
                    Some(listed.as_str())
                }
                _ => return Err((Code::InvalidConfig, Some(text("this is no list to add to")))),
            };
            if config.config_operation != DELETE && given.is_none() {
                return Err((Code::InvalidConfig, Some(text("a value is missing"))));
            }
            apply(&mut wanted, &config.name, value, &settings)
                .map_err(|why| (Code::InvalidConfig, Some(text(why))))?;
        }
        self.make_so(&info, wanted, validate_only).await
    }

    async fn make_so(
        &self,
        info: &TopicInfo,
        wanted: Wanted,
        validate_only: bool,
    ) -> Result<(), (Code, Option<StrBytes>)> {
        if validate_only {
            return Ok(());
        }
        let changed = self.configure_topic(&info.name, wanted.options, wanted.configs).await;
        changed.map(|_| ()).map_err(|error| (code_of(&error), told(&error)))
    }

    /// The older request: what it does not name becomes the log's own again.
    pub(crate) async fn replace_configs(&self, request: AlterConfigsRequest) -> AlterConfigsResponse {
        let _alone = self.admin.lock().await;
        let mut answer = AlterConfigsResponse::default();
        for resource in request.resources {
            let replaced = self.replace(&resource, request.validate_only).await;
            let (code, why) = replaced.err().map_or((0, None), |(code, why)| (code.code(), why));
            answer.responses.push(
                alter_configs_response::AlterConfigsResourceResponse::default()
                    .with_error_code(code)
                    .with_error_message(why)
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name),
            );
        }
        answer
    }

    async fn replace(
        &self,
        resource: &alter_configs_request::AlterConfigsResource,
        validate_only: bool,
    ) -> Result<(), (Code, Option<StrBytes>)> {
        if resource.resource_type != TOPIC {
            return Err((Code::InvalidRequest, Some(text(ONLY_TOPICS))));
        }
        let info = self.log.topic(&resource.resource_name).ok_or((Code::UnknownTopicOrPartition, None))?;
        let configs = resource.configs.iter();
        let configs = configs.map(|c| (c.name.as_str(), c.value.as_ref().map(|value| value.as_str())));
        let (options, configs) = self
            .new_topic_options(info.partitions, configs)
            .map_err(|why| (Code::InvalidConfig, Some(text(why))))?;
        let (largest_batch, syncs_first) = (self.largest_batch(), self.syncs_first());
        self.make_so(&info, Wanted { options, configs, largest_batch, syncs_first }, validate_only).await
    }

    /// The largest batch that any topic takes.
    fn largest_batch(&self) -> usize {
        self.any_topic(1).max_batch_bytes()
    }

    fn syncs_first(&self) -> bool {
        self.log.options().sync == SyncMode::Group
    }

    /// A topic without anything of its own.
    fn any_topic(&self, partitions: i32) -> TopicInfo {
        TopicInfo {
            name: String::new(),
            id: uuid::Uuid::nil(),
            partitions,
            columns: None,
            max_record_bytes: self.log.options().max_record_bytes,
            retention_time: None,
            retention_bytes: None,
            configs: TopicConfigs::default(),
        }
    }

    /// A topic with these configs and nothing else of its own.
    pub(crate) fn new_topic_options<'a>(
        &self,
        partitions: i32,
        configs: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<(TopicOptions, TopicConfigs), String> {
        let mut wanted = Wanted {
            options: TopicOptions { partitions, retention_time: None, retention_bytes: None },
            configs: TopicConfigs::default(),
            largest_batch: self.largest_batch(),
            syncs_first: self.syncs_first(),
        };
        let settings = self.topic_settings(&self.any_topic(partitions));
        for (name, value) in configs {
            apply(&mut wanted, name, value, &settings)?;
        }
        Ok((wanted.options, wanted.configs))
    }
}

/// How a topic is to be.
struct Wanted {
    options: TopicOptions,
    configs: TopicConfigs,
    /// What `max.message.bytes` may be at most.
    largest_batch: usize,
    /// Whether an answer comes only once it is on disk.
    syncs_first: bool,
}

const ONLY_TOPICS: &str = "only topics can be altered; everything else stands in the config file";

/// Sets a config, or with `None` lets the log's own value count again. What cannot be set may be set to what it is.
fn apply(wanted: &mut Wanted, name: &str, value: Option<&str>, settings: &[Setting]) -> Result<(), String> {
    let number = |value: &str| match value.parse::<i64>() {
        Ok(-1) => Ok(WITHOUT_END),
        Ok(number) if number >= 0 => Ok(number.unsigned_abs()),
        _ => Err(format!("`{name}` is a number, or -1 for no limit: not `{value}`")),
    };
    match name {
        "retention.ms" => {
            wanted.options.retention_time = value.map(number).transpose()?.map(Duration::from_millis);
        }
        "retention.bytes" => wanted.options.retention_bytes = value.map(number).transpose()?,
        "max.message.bytes" => {
            let limit = wanted.largest_batch;
            let fits = |value: &str| match value.parse::<usize>() {
                Ok(bytes) if bytes <= limit => Ok(bytes),
                _ => Err(format!(
                    "`{name}` is a number, at most {limit} (`log.max_record_size` plus 12): not `{value}`"
                )),
            };
            wanted.configs.max_batch_bytes = value.map(fits).transpose()?;
        }
        "cleanup.policy" => {
            let mut parts: Vec<&str> = value.unwrap_or("delete").split(',').map(str::trim).collect();
            parts.sort_unstable();
            wanted.configs.cleanup = match parts.as_slice() {
                ["delete"] => Cleanup::Delete,
                ["compact"] => Cleanup::Compact,
                ["compact", "delete"] => Cleanup::CompactDelete,
                _ => {
                    return Err(format!(
                        "`{name}` is `delete`, `compact` or both: not `{}`",
                        parts.join(",")
                    ));
                }
            };
        }
        "delete.retention.ms" => wanted.configs.delete_retention_ms = value.map(number).transpose()?,
        "compression.type" => {
            wanted.configs.compression = match value {
                None | Some("producer") => None,
                Some("uncompressed") => Some(Compression::None),
                Some("gzip") => Some(Compression::Gzip),
                Some("snappy") => Some(Compression::Snappy),
                Some("lz4") => Some(Compression::Lz4),
                Some("zstd") => Some(Compression::Zstd),
                Some(other) => {
                    return Err(format!(
                        "`{name}` is `producer`, `uncompressed`, `gzip`, `snappy`, `lz4` or `zstd`: not `{other}`"
                    ));
                }
            };
        }
        "flush.messages" | "flush.ms" => {
            let set = value.map(number).transpose()?;
            if set.is_some() && !wanted.syncs_first {
                return Err(format!(
                    "`{name}` can be set where `log.sync` is `group`: then every answer is on disk"
                ));
            }
            let place = if name == "flush.ms" {
                &mut wanted.configs.flush_ms
            } else {
                &mut wanted.configs.flush_messages
            };
            *place = set;
        }
        "max.compaction.lag.ms" => wanted.configs.max_compaction_lag_ms = value.map(number).transpose()?,
        "segment.bytes" => {
            let size = |value: &str| match value.parse::<u64>() {
                Ok(bytes) if (14..=1 << 30).contains(&bytes) => Ok(bytes),
                _ => Err(format!("`{name}` is a number from 14 to 1073741824: not `{value}`")),
            };
            wanted.configs.segment_bytes = value.map(size).transpose()?;
        }
        "min.compaction.lag.ms" => wanted.configs.min_compaction_lag_ms = value.map(number).transpose()?,
        "min.cleanable.dirty.ratio" => {
            let ratio = |value: &str| match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err(format!("`{name}` is a number from 0 to 1: not `{value}`")),
            };
            wanted.configs.min_dirty_ratio = value.map(ratio).transpose()?;
        }
        "message.timestamp.type" => {
            wanted.configs.append_time = match value {
                None | Some(CREATE_TIME) => false,
                Some(APPEND_TIME) => true,
                Some(other) => {
                    return Err(format!("`{name}` is `{CREATE_TIME}` or `{APPEND_TIME}`: not `{other}`"));
                }
            };
        }
        _ => {
            let setting = settings.iter().find(|setting| setting.name == name);
            let Some(setting) = setting else { return Err(format!("`{name}` is not known here")) };
            if value.is_some_and(|value| value != setting.value) {
                return Err(format!("`{name}` is `{}` here and cannot be changed", setting.value));
            }
        }
    }
    Ok(())
}

/// Under Kafka's names.
fn policy(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
        Cleanup::CompactDelete => "compact,delete",
    }
}

/// Under Kafka's names.
fn codec_name(codec: Option<Compression>) -> &'static str {
    match codec {
        None => "producer",
        Some(Compression::None) => "uncompressed",
        Some(Compression::Gzip) => "gzip",
        Some(Compression::Snappy) => "snappy",
        Some(Compression::Lz4) => "lz4",
        Some(Compression::Zstd) => "zstd",
    }
}

/// Kafka's word for "never" where this is not set.
fn shown_max(number: Option<u64>) -> String {
    number.unwrap_or(WITHOUT_END).to_string()
}

fn shown(number: u64) -> String {
    if number >= WITHOUT_END { "-1".to_owned() } else { number.to_string() }
}

fn describe(setting: Setting, with_synonyms: bool) -> DescribeConfigsResourceResult {
    let value = Some(text(setting.value));
    let name = StrBytes::from_static_str(setting.name);
    let synonym = DescribeConfigsSynonym::default()
        .with_name(name.clone())
        .with_value(value.clone())
        .with_source(setting.source);
    DescribeConfigsResourceResult::default()
        .with_name(name)
        .with_value(value)
        .with_read_only(setting.read_only)
        .with_config_source(setting.source)
        .with_config_type(setting.kind)
        .with_synonyms(if with_synonyms { vec![synonym] } else { Vec::new() })
        .with_documentation(None)
}
