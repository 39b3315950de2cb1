//! Configs of topics and of the broker, under Kafka's names.
//!
//! A topic's retention can be set; everything else is as the log does it, and setting it to something else is refused rather
//! than stored without effect. A topic that the config file names gets its retention from there at every start.

use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;
use tarn_log::{TopicInfo, TopicOptions};

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
const LIST: i8 = 7;
const SET: i8 = 0;
const DELETE: i8 = 1;
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
        vec![
            fixed("cleanup.policy", "delete", LIST),
            fixed("compression.type", "producer", STRING),
            fixed("max.message.bytes", &info.max_batch_bytes().to_string(), INT),
            fixed("message.timestamp.type", "CreateTime", STRING),
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
            fixed("segment.bytes", &options.segment_bytes.to_string(), INT),
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
            let why = "only topics can be altered; everything else stands in the config file";
            return Err((Code::InvalidRequest, Some(text(why))));
        }
        let info = self.log.topic(&resource.resource_name).ok_or((Code::UnknownTopicOrPartition, None))?;
        let mut options = TopicOptions {
            partitions: info.partitions,
            retention_time: info.retention_time,
            retention_bytes: info.retention_bytes,
        };
        let settings = self.topic_settings(&info);
        for config in &resource.configs {
            let value = match config.config_operation {
                SET => config.value.as_ref().map(|value| value.as_str()),
                DELETE => None,
                _ => return Err((Code::InvalidConfig, Some(text("only setting and deleting is known")))),
            };
            if config.config_operation == SET && value.is_none() {
                return Err((Code::InvalidConfig, Some(text("a value is missing"))));
            }
            apply(&mut options, &config.name, value, &settings)
                .map_err(|why| (Code::InvalidConfig, Some(text(why))))?;
        }
        if validate_only {
            return Ok(());
        }
        let changed = self.create_topic(&info.name, options).await;
        changed.map(|_| ()).map_err(|error| (code_of(&error), told(&error)))
    }

    /// Options of a new topic with these configs.
    pub(crate) fn new_topic_options<'a>(
        &self,
        partitions: i32,
        configs: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<TopicOptions, String> {
        let mut options = TopicOptions { partitions, retention_time: None, retention_bytes: None };
        let like = TopicInfo {
            name: String::new(),
            id: uuid::Uuid::nil(),
            partitions,
            columns: None,
            max_record_bytes: self.log.options().max_record_bytes,
            retention_time: None,
            retention_bytes: None,
        };
        let settings = self.topic_settings(&like);
        for (name, value) in configs {
            apply(&mut options, name, value, &settings)?;
        }
        Ok(options)
    }
}

/// Sets a config, or with `None` lets the log's own value count again. What cannot be set may be set to what it is.
fn apply(
    options: &mut TopicOptions,
    name: &str,
    value: Option<&str>,
    settings: &[Setting],
) -> Result<(), String> {
    let number = |value: &str| match value.parse::<i64>() {
        Ok(-1) => Ok(WITHOUT_END),
        Ok(number) if number >= 0 => Ok(number.unsigned_abs()),
        _ => Err(format!("`{name}` is a number, or -1 for no limit: not `{value}`")),
    };
    match name {
        "retention.ms" => options.retention_time = value.map(number).transpose()?.map(Duration::from_millis),
        "retention.bytes" => options.retention_bytes = value.map(number).transpose()?,
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
