//! Topics: created, changed, deleted, and how they are set.

use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, create_partitions_request, create_topics_request,
    describe_configs_request, incremental_alter_configs_request,
};
use tarn_model::Result;

use super::{Cluster, check, owned, topic_name};

const TOPIC: i8 = 2;
const FROM_TOPIC: i8 = 1;
const SET: i8 = 0;
const DELETE: i8 = 1;
const WITHIN_MS: i32 = 15_000;

/// One setting of a topic.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TopicSetting {
    /// Kafka's name of it, `retention.ms` say.
    pub name: String,
    /// Its value; absent when the broker does not tell it.
    pub value: Option<String>,
    /// Whether the topic has it of its own, rather than from the broker.
    pub is_own: bool,
    /// Whether it cannot be set.
    pub read_only: bool,
}

impl Cluster {
    /// Creates a topic; `None` partitions are as many as the broker gives by itself.
    pub async fn create_topic(
        &mut self,
        name: &str,
        partitions: Option<i32>,
        configs: &[(String, String)],
    ) -> Result<()> {
        let config = |(name, value): &(String, String)| {
            create_topics_request::CreatableTopicConfig::default()
                .with_name(owned(name))
                .with_value(Some(owned(value)))
        };
        let topic = create_topics_request::CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions.unwrap_or(-1))
            .with_replication_factor(-1)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(WITHIN_MS);
        let answer = self.any.ask(&request, 5).await?;
        answer
            .topics
            .iter()
            .try_for_each(|topic| check(topic.error_code, topic.error_message.as_ref(), || about(name)))
    }

    /// Deletes a topic with its records.
    pub async fn delete_topic(&mut self, name: &str) -> Result<()> {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name(name)])
            .with_timeout_ms(WITHIN_MS);
        let answer = self.any.ask(&request, 5).await?;
        self.leaders.retain(|(topic, _), _| topic != name);
        answer
            .responses
            .iter()
            .try_for_each(|topic| check(topic.error_code, topic.error_message.as_ref(), || about(name)))
    }

    /// Gives a topic more partitions: `count` in all.
    pub async fn add_partitions(&mut self, name: &str, count: i32) -> Result<()> {
        let topic = create_partitions_request::CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(WITHIN_MS);
        let answer = self.any.ask(&request, 3).await?;
        answer
            .results
            .iter()
            .try_for_each(|topic| check(topic.error_code, topic.error_message.as_ref(), || about(name)))
    }

    /// Sets configs of a topic; `None` gives one back to the broker.
    pub async fn alter_topic(&mut self, name: &str, configs: &[(String, Option<String>)]) -> Result<()> {
        let config = |(name, value): &(String, Option<String>)| {
            incremental_alter_configs_request::AlterableConfig::default()
                .with_name(owned(name))
                .with_config_operation(if value.is_some() { SET } else { DELETE })
                .with_value(value.as_deref().map(owned))
        };
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(owned(name))
            .with_configs(configs.iter().map(config).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.any.ask(&request, 1).await?;
        answer
            .responses
            .iter()
            .try_for_each(|topic| check(topic.error_code, topic.error_message.as_ref(), || about(name)))
    }

    /// How a topic is set, by name.
    pub async fn settings(&mut self, name: &str) -> Result<Vec<TopicSetting>> {
        let resource = describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(owned(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.any.ask(&request, 4).await?;
        let mut settings = Vec::new();
        for resource in answer.results {
            check(resource.error_code, resource.error_message.as_ref(), || about(name))?;
            settings.extend(resource.configs.into_iter().map(|config| TopicSetting {
                name: config.name.to_string(),
                value: config.value.map(|value| value.to_string()),
                is_own: config.config_source == FROM_TOPIC,
                read_only: config.read_only,
            }));
        }
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(settings)
    }
}

fn about(name: &str) -> String {
    format!("topic `{name}`")
}
