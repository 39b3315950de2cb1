//! The checks of meaning of a `[[table]]` of many topics, and of columns that hold parts of a record.

use std::collections::HashMap;

use super::TableConfig;
use super::check::Checker;
use super::patterns::fills;
use crate::columns::{Columns, OFFSET, PARTITION, REST, TIMESTAMP, TOPIC};

impl Checker<'_, '_> {
    /// `topics` stands instead of `topic`, has `*` once, and needs `columns`.
    pub(super) fn many_topics(&mut self, at: &str, table: &TableConfig, topics: &str) {
        let field = format!("{at}.topics");
        if table.topic.is_some() {
            self.wrong(&format!("{at}.topic"), "there is `topics` already: leave one of them out");
        }
        if table.name.contains("{table}") {
            let message = "with `topics` this is one table: leave `{table}` out, or write `topic` for a table per topic";
            self.wrong(&format!("{at}.name"), message);
        }
        if topics.matches('*').count() != 1 {
            let shown = self.shown(&field, topics);
            let message = if topics.contains('*') {
                format!("{shown} has more than one `*`")
            } else {
                format!(
                    "{shown} is one topic: write it as `topic`, or put `*` where topics differ, e.g. `shop.*`"
                )
            };
            return self.wrong(&field, message);
        }
        self.topic_name(&field, &topics.replace('*', "t"));
        if table.columns.is_none() {
            let message = "the topics of one table share its columns, so they must be declared: \
                           `columns = \"id BIGINT, name VARCHAR\"`";
            self.wrong(&format!("{at}.columns"), message);
        }
        // Clients of Kafka create topics as they like.
        if self.config.log.kafka.is_some() {
            return;
        }
        let pattern = topics.replace('*', "{table}");
        let declared = self.config.topics.iter().map(|topic| topic.name.as_str());
        let mut known = declared.chain(self.config.sources.iter().map(|source| source.topic.as_str()));
        if !known.any(|name| fills(&pattern, name) || fills(name, &pattern)) {
            let shown = self.shown(&field, topics);
            let message = format!("no source fills a topic that fits {shown}, and none is declared");
            self.wrong(&field, message);
        }
    }

    /// Names and types of the columns that hold key, headers and timestamp; `columns` with those that it lacks.
    pub(super) fn record_columns(
        &mut self,
        at: &str,
        table: &TableConfig,
        columns: Option<Columns>,
    ) -> Option<Columns> {
        let each = [
            ("key_column", &table.key_column),
            ("headers_column", &table.headers_column),
            ("timestamp_column", &table.timestamp_column),
        ];
        let mut taken: HashMap<String, &str> = HashMap::new();
        let mut is_right = true;
        for (key, name) in each {
            let Some(name) = name else { continue };
            let field = format!("{at}.{key}");
            let shown = self.shown(&field, name);
            let system = [TOPIC, PARTITION, OFFSET, TIMESTAMP, REST];
            let problem = if name.is_empty() {
                Some("a column has a name".to_owned())
            } else if system.iter().any(|system| system.eq_ignore_ascii_case(name)) {
                Some(format!("{shown} is one of the system columns"))
            } else {
                taken
                    .insert(name.to_lowercase(), key)
                    .map(|other| format!("{shown} is the column of `{other}` already"))
            };
            if let Some(problem) = problem {
                is_right = false;
                self.wrong(&field, problem);
            }
        }
        if !is_right {
            return None;
        }
        let columns = columns?;
        // One after the other, so that the one that is wrong is named.
        for (key, name) in each {
            let Some(name) = name else { continue };
            let Some(column) = columns.get(name) else { continue };
            let parts = table.record_columns();
            let types = parts.part_of(name).map(crate::RecordPart::types).unwrap_or_default();
            if !types.contains(&column.column_type) {
                let field = format!("{at}.{key}");
                let shown = self.shown(&field, name);
                let message =
                    format!("column {shown} is `{}`; declare it as `{}`", column.column_type, types[0]);
                self.wrong(&field, message);
                return None;
            }
        }
        table.record_columns().added_to(columns).ok()
    }
}
