//! The checks of meaning: what the types alone cannot say.
//!
//! *Invariant*: a message does not show a value that came from the environment or from a file; [`Checker::shown`] is the
//! door to values that are shown.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::load::file_url_path;
use super::patterns::{MAX_NAME_CHARS, MAX_TABLE_NAME_CHARS, fills};
use super::problem::{Report, nearest};
use super::{
    Config, CsvConfig, DatabaseConfig, DatabaseMode, DoneAction, FileFormat, GeneratorConfig, SourceConfig,
    SourceKind, Span, SpooldirConfig, TableConfig, TaildirConfig,
};
use crate::columns::{ColumnType, Columns, TIMESTAMP};

const MAX_PARTITIONS: i32 = 10_000;
/// A record must fit into one record batch, whose length is an `i32`.
const MAX_RECORD_BYTES: u64 = 1 << 30;
/// Positions in a segment are `u32`.
const MAX_SEGMENT_BYTES: u64 = 2 << 30;

/// Reports everything about `config` that does not make sense.
pub(super) fn check(
    config: &Config,
    replaced: &BTreeMap<String, String>,
    insecure: bool,
    report: &mut Report<'_>,
) {
    let mut checker = Checker { config, replaced, report };
    checker.log(insecure);
    checker.lake();
    checker.serving(insecure);
    checker.topics();
    checker.sources(insecure);
    checker.tables();
    checker.imports();
    checker.views();
    checker.dashboards();
}

pub(super) struct Checker<'a, 'r> {
    pub(super) config: &'a Config,
    replaced: &'a BTreeMap<String, String>,
    report: &'a mut Report<'r>,
}

impl Checker<'_, '_> {
    pub(super) fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.report.wrong(field, message);
    }

    pub(super) fn is_wrong(&self, field: &str) -> bool {
        self.report.is_wrong(field)
    }

    /// The value as a message may show it.
    pub(super) fn shown(&self, field: &str, value: &str) -> String {
        format!("`{}`", self.replaced.get(field).map_or(value, String::as_str))
    }

    /// What a parser says of a value, unless the value is not to be shown.
    pub(super) fn detail(&self, field: &str, detail: impl std::fmt::Display) -> String {
        if self.replaced.contains_key(field) { String::new() } else { format!(": {detail}") }
    }

    pub(super) fn more_than_zero(&mut self, field: &str, span: Span) {
        if span.0.is_zero() {
            self.wrong(field, "this time must be longer than zero");
        }
    }

    pub(super) fn at_least(&mut self, field: &str, value: u64, least: u64) {
        if value < least {
            self.wrong(field, format!("this must be at least {least}"));
        }
    }

    fn log(&mut self, insecure: bool) {
        let log = &self.config.log;
        self.more_than_zero("log.sync_interval", log.sync_interval);
        self.more_than_zero("log.retention_every", log.retention_every);
        self.more_than_zero("log.offsets_retention", log.offsets_retention);
        self.at_least("log.segment_size", log.segment_size.0, 4096);
        self.at_least("log.max_record_size", log.max_record_size.0, 1);
        if log.segment_size.0 > MAX_SEGMENT_BYTES {
            self.wrong("log.segment_size", "a segment has at most 2GiB");
        }
        if log.max_record_size.0 > MAX_RECORD_BYTES {
            self.wrong("log.max_record_size", "a record has at most 1GiB");
        }
        if !(1..=MAX_PARTITIONS).contains(&log.default_partitions) {
            self.wrong("log.default_partitions", format!("a topic has 1 to {MAX_PARTITIONS} partitions"));
        }
        if let Some(kafka) = &log.kafka {
            self.listens("log.kafka", kafka, "127.0.0.1:9092", insecure);
        }
    }

    fn lake(&mut self) {
        let lake = &self.config.lake;
        match lake.url.split_once(':') {
            Some(("file", _)) if file_url_path(&lake.url).is_some_and(|path| !path.is_empty()) => {}
            Some(("s3", rest))
                if rest.strip_prefix("//").is_some_and(|path| !path.starts_with('/') && !path.is_empty()) => {
            }
            _ => {
                let url = self.shown("lake.url", &lake.url);
                self.wrong(
                    "lake.url",
                    format!("{url} is no place for a lake: write `file:PATH` or `s3://bucket/prefix`"),
                );
            }
        }
        self.at_least("lake.target_file_size", lake.target_file_size.0, 1024);
        self.at_least("lake.optimize_after_files", lake.optimize_after_files as u64, 2);
        self.at_least("lake.checkpoint_after_commits", lake.checkpoint_after_commits as u64, 1);
    }

    fn serving(&mut self, insecure: bool) {
        let serving = &self.config.serving;
        self.listens("serving.http", &serving.http, "127.0.0.1:8080", insecure);
        if let Some(postgres) = &serving.postgres {
            self.listens("serving.postgres", postgres, "127.0.0.1:5433", insecure);
        }
        self.more_than_zero("serving.statement_timeout", serving.statement_timeout);
        self.at_least("serving.sql_memory", serving.sql_memory.0, 1 << 20);
        if let Some(rows) = serving.statement_rows {
            self.at_least("serving.statement_rows", rows, 1);
        }
        self.at_least("serving.statement_memory", serving.statement_memory.0, 1 << 20);
        self.at_least("serving.max_request_size", serving.max_request_size.0, 1);
        self.at_least("serving.tail_memory", serving.tail_memory.0, 1 << 20);
        self.at_least("serving.view_memory", serving.view_memory.0, 1 << 20);
    }

    /// An address to listen at, which other machines do not reach.
    pub(super) fn listens(&mut self, field: &str, address: &str, example: &str, insecure: bool) {
        match loopback(address) {
            None => {
                let address = self.shown(field, address);
                self.wrong(
                    field,
                    format!("{address} is no address: write `{example}`; port 0 takes a free one"),
                );
            }
            Some(false) if !insecure => {
                let address = self.shown(field, address);
                self.wrong(
                    field,
                    format!(
                        "{address} can be reached from other machines, and there is no authentication yet: use \
                         `127.0.0.1`, or run with `--insecure` if the network keeps strangers out"
                    ),
                );
            }
            Some(_) => {}
        }
    }

    /// Every name once.
    pub(super) fn unique<'n>(&mut self, list: &str, names: impl Iterator<Item = &'n str>) {
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (i, name) in names.enumerate() {
            let field = format!("{list}[{i}].name");
            if self.report.is_wrong(&field) {
                continue;
            }
            if let Some(earlier) = first.get(name) {
                let shown = self.shown(&field, name);
                self.wrong(&field, format!("{shown} is the name of {list}[{earlier}] already"));
            } else {
                first.insert(name, i);
            }
        }
    }

    fn topics(&mut self) {
        let topics = &self.config.topics;
        for (i, topic) in topics.iter().enumerate() {
            self.topic_name(&format!("topic[{i}].name"), &topic.name);
            if !(1..=MAX_PARTITIONS).contains(&topic.partitions) {
                self.wrong(
                    &format!("topic[{i}].partitions"),
                    format!("a topic has 1 to {MAX_PARTITIONS} partitions"),
                );
            }
        }
        self.unique("topic", topics.iter().map(|topic| topic.name.as_str()));
    }

    pub(super) fn topic_name(&mut self, field: &str, name: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let shown = self.shown(field, name);
        if name.is_empty() {
            self.wrong(field, "a topic needs a name");
        } else if !name.chars().all(fits) || name == "." || name == ".." {
            self.wrong(
                field,
                format!("{shown} is no name for a topic: use letters, digits, `.`, `_` and `-`"),
            );
        } else if name.len() > MAX_NAME_CHARS {
            self.wrong(field, format!("a topic's name has at most {MAX_NAME_CHARS} characters"));
        }
    }

    fn sources(&mut self, insecure: bool) {
        let sources = &self.config.sources;
        let mut folders: HashMap<(&Path, &str), usize> = HashMap::new();
        let mut doors: HashMap<&str, usize> = HashMap::new();
        for (i, source) in sources.iter().enumerate() {
            let at = format!("source[{i}]");
            if source.name.is_empty() {
                self.wrong(&format!("{at}.name"), "a source needs a name");
            }
            self.source_topic(&at, source);
            self.interceptors(&at, &source.interceptors);
            self.routes(&at, &source.routes);
            self.rate_limit(&at, source.rate_limit.as_ref());
            match &source.kind {
                SourceKind::Spooldir(spool) => {
                    self.spooldir(&at, spool, source);
                    if let Some(other) = folders.insert((&spool.path, &spool.pattern), i) {
                        self.wrong(
                            &format!("{at}.path"),
                            format!("source[{other}] reads the same files already"),
                        );
                    }
                }
                SourceKind::Taildir(tail) => self.taildir(&at, tail, source),
                SourceKind::Syslog(syslog) => self.syslog(&at, syslog, insecure),
                SourceKind::Netcat(netcat) => self.netcat(&at, netcat, source, insecure),
                SourceKind::Exec(exec) => self.exec(&at, exec, source),
                SourceKind::Mqtt(mqtt) => self.mqtt(&at, mqtt, source),
                SourceKind::Kafka(kafka) => self.kafka(&at, kafka, source),
                SourceKind::Http(_) if self.report.is_wrong(&format!("{at}.type")) => {}
                SourceKind::Http(http) => {
                    self.http(&at, http, source);
                    if let Some(other) = doors.insert(&source.topic, i) {
                        let message = format!("source[{other}] takes the requests for this topic already");
                        self.wrong(&format!("{at}.topic"), message);
                    }
                }
                SourceKind::Database(database) => self.database(&at, database, &source.topic),
                SourceKind::Generator(generator) => self.generator(&at, generator),
            }
        }
        self.jobs_after_jobs();
        self.unique("source", sources.iter().map(|source| source.name.as_str()));
    }

    fn source_topic(&mut self, at: &str, source: &SourceConfig) {
        let field = format!("{at}.topic");
        let place = match source.kind {
            SourceKind::Database(_) => "{table}",
            SourceKind::Kafka(_) => "{topic}",
            _ => "",
        };
        for (other, kind) in [("{table}", "database"), ("{topic}", "kafka")] {
            let is_strange = source.topic.contains(other) && place != other;
            if is_strange && !self.report.is_wrong(&format!("{at}.type")) {
                self.wrong(&field, format!("only a `{kind}` source knows `{other}`"));
            }
        }
        self.topic_name(&field, &source.topic.replace("{table}", "t").replace("{topic}", "t"));
    }

    fn spooldir(&mut self, at: &str, spool: &SpooldirConfig, source: &SourceConfig) {
        self.not_empty(&format!("{at}.path"), spool.path.as_os_str().is_empty());
        self.pattern(&format!("{at}.pattern"), &spool.pattern);
        if spool.pattern.contains('/') {
            self.wrong(
                &format!("{at}.pattern"),
                "a pattern is compared with a file's name, which has no `/`",
            );
        }
        self.more_than_zero(&format!("{at}.every"), spool.every);
        if spool.done_suffix.is_empty() || spool.done_suffix.contains('/') {
            self.wrong(&format!("{at}.done_suffix"), "a suffix has at least one character, and no `/`");
        }
        let field = format!("{at}.done_path");
        match (spool.done, &spool.done_path) {
            (DoneAction::Move, None) => {
                self.wrong(&field, "`done = \"move\"` needs the folder to move to: `done_path`")
            }
            (DoneAction::Rename, Some(_)) => self.wrong(&field, "only `done = \"move\"` uses this"),
            (DoneAction::Move, Some(path)) if *path == spool.path => {
                self.wrong(&field, "this is the folder that is read; move to another");
            }
            _ => {}
        }
        if self.report.is_wrong(&format!("{at}.format")) {
            return;
        }
        self.key_of_lines(at, spool.format, source);
        self.lines(at, spool.format, &spool.lines);
        self.csv(at, &spool.csv, spool.format);
    }

    fn csv(&mut self, at: &str, csv: &CsvConfig, format: FileFormat) {
        let plain = CsvConfig::default();
        if format != FileFormat::Csv {
            for (key, set) in [
                ("null_values", csv.null_values != plain.null_values),
                ("delimiter", csv.delimiter != plain.delimiter),
                ("header", csv.header != plain.header),
            ] {
                if set {
                    self.wrong(&format!("{at}.{key}"), "only `format = \"csv\"` uses this");
                }
            }
            return;
        }
        let field = format!("{at}.delimiter");
        let shown = self.shown(&field, &csv.delimiter);
        match csv.delimiter.as_bytes() {
            [b'"' | b'\n' | b'\r'] => self.wrong(&field, format!("{shown} cannot stand between cells")),
            [byte] if byte.is_ascii() => {}
            _ => self.wrong(&field, format!("{shown} is not one ASCII character")),
        }
        if let super::CsvHeader::Names(names) = &csv.header {
            let field = format!("{at}.header");
            let distinct: HashSet<&String> = names.iter().collect();
            if names.is_empty() {
                self.wrong(&field, "this list has no name");
            } else if distinct.len() < names.len() {
                self.wrong(&field, "a name stands twice in this list");
            }
        }
    }

    fn taildir(&mut self, at: &str, tail: &TaildirConfig, source: &SourceConfig) {
        let field = format!("{at}.path");
        self.not_empty(&field, tail.path.as_os_str().is_empty());
        self.pattern(&field, &tail.path.to_string_lossy());
        self.more_than_zero(&format!("{at}.every"), tail.every);
        if tail.format == FileFormat::Csv {
            let message = "a growing file is not read as `csv`: whole CSV files are for `spooldir`";
            self.wrong(&format!("{at}.format"), message);
        } else if tail.format.is_columnar() {
            self.wrong(&format!("{at}.format"), "only `spooldir` reads files of this format");
        }
        self.key_of_lines(at, tail.format, source);
        self.lines(at, tail.format, &tail.lines);
    }

    fn database(&mut self, at: &str, database: &DatabaseConfig, topic: &str) {
        let (is_postgres, is_mysql) = (database.is_postgres(), database.is_mysql());
        self.place_of_database(at, database);
        if database.lag.is_some() && !(is_mysql && database.mode != DatabaseMode::Full) {
            self.wrong(
                &format!("{at}.lag"),
                "only MySQL's `mode = \"append\"` and `mode = \"last_modified\"` use this",
            );
        }
        let every_table = database.table.as_deref() == Some("*");
        self.table_or_query(at, database);
        if every_table && !topic.contains("{table}") {
            let message = "several tables need several topics: put `{table}` into it, e.g. `shop_{table}`";
            self.wrong(&format!("{at}.topic"), message);
        }
        if topic.contains("{table}") && database.query.is_some() {
            self.wrong(&format!("{at}.topic"), "a query has no table whose name could stand for `{table}`");
        }
        self.parts_of_tables(at, database, every_table);
        let cursor = format!("{at}.cursor");
        match (database.mode, &database.cursor) {
            (DatabaseMode::Full, Some(_)) => {
                self.wrong(&cursor, "only `mode = \"append\"` and `mode = \"last_modified\"` use this")
            }
            (DatabaseMode::Full, None) => {}
            (_, Some(_)) if is_postgres => self.wrong(
                &cursor,
                "PostgreSQL tells new rows by the transactions that wrote them: leave it out",
            ),
            (_, None) if is_postgres && database.query.is_some() => {
                let message =
                    "the new rows of a query cannot be told: name a `table`, with `columns` and `where`";
                self.wrong(&format!("{at}.mode"), message);
            }
            (_, None) if is_postgres => {}
            (_, None) => {
                self.wrong(&cursor, "this `mode` needs the growing column that tells new rows: `cursor`")
            }
            (_, Some(name)) if name.is_empty() => self.wrong(&cursor, "a column has a name"),
            _ => {}
        }
        self.schedule(at, database);
    }

    /// Where the database is, and who asks it.
    pub(super) fn place_of_database(&mut self, at: &str, database: &DatabaseConfig) {
        let url = database.url.reveal();
        let is_server = database.is_postgres() || database.is_mysql();
        if !is_server && url.strip_prefix("sqlite:").is_none_or(|path| path.trim_matches('/').is_empty()) {
            let message = "only PostgreSQL, MySQL, MariaDB and SQLite can be read: write `postgres://USER@HOST/DATABASE`, \
                `mysql://USER@HOST/DATABASE` or `sqlite:PATH`";
            self.wrong(&format!("{at}.url"), message);
        }
        if !is_server && database.password.is_some() {
            self.wrong(&format!("{at}.password"), "only PostgreSQL and MySQL ask for a password");
        }
    }

    /// One of the two says what is read.
    pub(super) fn table_or_query(&mut self, at: &str, database: &DatabaseConfig) {
        match (&database.table, &database.query) {
            (None, None) => self
                .wrong(&format!("{at}.table"), "say what to read: `table` (`*` is every table) or `query`"),
            (Some(_), Some(_)) => {
                self.wrong(&format!("{at}.query"), "there is a `table` already: leave one of them out")
            }
            (Some(table), None) if table.is_empty() => {
                self.wrong(&format!("{at}.table"), "a table has a name")
            }
            (None, Some(query)) if query.trim().is_empty() => {
                self.wrong(&format!("{at}.query"), "the query is empty")
            }
            _ => {}
        }
    }

    /// What is read of each table, and which tables.
    fn parts_of_tables(&mut self, at: &str, database: &DatabaseConfig, every_table: bool) {
        let one_table = database.table.is_some() && !every_table;
        for (key, is_given) in
            [("columns", !database.columns.is_empty()), ("where", database.filter.is_some())]
        {
            if is_given && !one_table {
                self.wrong(&format!("{at}.{key}"), "only a source of one `table` uses this");
            }
        }
        if database.filter.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
            self.wrong(&format!("{at}.where"), "the condition is empty");
        }
        if database.split_by.is_some() && !(database.mode == DatabaseMode::Full && one_table) {
            self.wrong(&format!("{at}.split_by"), "only a `full` source of one `table` uses this");
        }
        match database.readers {
            Some(_) if database.split_by.is_none() => {
                self.wrong(&format!("{at}.readers"), "only a source with `split_by` uses this")
            }
            Some(readers) if !(2..=64).contains(&readers) => {
                self.wrong(&format!("{at}.readers"), "a table is read by 2 to 64 readers")
            }
            _ => {}
        }
        for (key, patterns) in [("include", &database.include), ("exclude", &database.exclude)] {
            if !patterns.is_empty() && !every_table {
                self.wrong(&format!("{at}.{key}"), "only `table = \"*\"` uses this");
            }
        }
    }

    fn generator(&mut self, at: &str, generator: &GeneratorConfig) {
        if generator.rate == 0 && generator.count.is_none() {
            let message = "`rate = 0` is as fast as it goes: give a `count`, or the disk fills up";
            self.wrong(&format!("{at}.rate"), message);
        }
    }

    fn pattern(&mut self, field: &str, pattern: &str) {
        if let Err(error) = glob::Pattern::new(pattern) {
            let (shown, detail) = (self.shown(field, pattern), self.detail(field, error.msg));
            self.wrong(field, format!("{shown} is no pattern{detail}"));
        }
    }

    pub(super) fn not_empty(&mut self, field: &str, is_empty: bool) {
        if is_empty {
            self.wrong(field, "this is empty");
        }
    }

    fn tables(&mut self) {
        let tables = &self.config.tables;
        let dead: HashMap<String, usize> =
            tables.iter().enumerate().map(|(i, table)| (table.dead_letters_name(), i)).collect();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("table[{i}]");
            match &table.topics {
                Some(topics) => self.many_topics(&at, table, topics),
                None => self.table_pattern(&at, table),
            }
            self.relation_name("table", &format!("{at}.name"), &table.name.replacen("{table}", "t", 1));
            if let Some(other) = dead.get(&table.name) {
                let message =
                    format!("this is the name of the dead letters of table[{other}]; choose another");
                self.wrong(&format!("{at}.name"), message);
            }
            if table.topics.is_none() {
                self.table_topic(&at, table);
            }
            self.table_columns(&at, table);
            self.more_than_zero(&format!("{at}.commit_every"), table.commit_every);
            self.at_least(&format!("{at}.commit_size"), table.commit_size.0, 1);
            if let Some(zone) = &table.timezone {
                self.timezone(&format!("{at}.timezone"), zone);
            }
        }
        self.unique("table", tables.iter().map(|table| table.name.as_str()));
    }

    /// `{table}` stands in both names or in none.
    fn table_pattern(&mut self, at: &str, table: &TableConfig) {
        let in_topic = table.topic_name().contains("{table}");
        if table.is_pattern() && !in_topic {
            let message = "the name has `{table}`: put it into the topic as well, e.g. `shop_{table}`";
            self.wrong(&format!("{at}.topic"), message);
        } else if in_topic && !table.is_pattern() {
            let message = "the topic has `{table}`: put it into the name as well, for one table per topic";
            self.wrong(&format!("{at}.name"), message);
        }
    }

    fn views(&mut self) {
        let (tables, views) = (&self.config.tables, &self.config.views);
        for (i, view) in views.iter().enumerate() {
            let field = format!("view[{i}].name");
            self.relation_name("view", &field, &view.name);
            let taken = tables.iter().position(|table| {
                [table.name.as_str(), table.dead_letters_name().as_str()]
                    .iter()
                    .any(|name| name.eq_ignore_ascii_case(&view.name))
            });
            if let Some(table) = taken {
                let shown = self.shown(&field, &view.name);
                self.wrong(&field, format!("{shown} is a name of table[{table}] already"));
            }
            self.not_empty(&format!("view[{i}].query"), view.query.trim().is_empty());
        }
        self.unique("view", views.iter().map(|view| view.name.as_str()));
    }

    pub(super) fn relation_name(&mut self, what: &str, field: &str, name: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() {
            self.wrong(field, format!("a {what} needs a name"));
        } else if !name.chars().all(fits) || name.starts_with(['_', '-']) {
            // Readers of Delta skip folders that begin with `_`.
            let shown = self.shown(field, name);
            let message = "use letters, digits, `_` and `-`, a letter or digit first";
            self.wrong(field, format!("{shown} is no name for a {what}: {message}"));
        } else if name.len() > MAX_TABLE_NAME_CHARS {
            self.wrong(field, "this name is too long");
        }
    }

    /// A table's topic is declared, or a source fills it.
    fn table_topic(&mut self, at: &str, table: &TableConfig) {
        let topic = table.topic_name();
        if topic == "{table}" {
            return;
        }
        let key = if table.topic.is_some() { "topic" } else { "name" };
        let field = format!("{at}.{key}");
        // When the name of a source's topic is wrong, nobody knows which topic that source fills.
        let unsure = |list: &str, count: usize, key: &str| {
            (0..count).any(|i| self.report.is_wrong(&format!("{list}[{i}].{key}")))
        };
        if unsure("source", self.config.sources.len(), "topic")
            || unsure("topic", self.config.topics.len(), "name")
        {
            return;
        }
        let declared = self.config.topics.iter().map(|topic| topic.name.as_str());
        let filled = self.config.sources.iter().flat_map(SourceConfig::topics);
        let known = || declared.clone().chain(filled.clone());
        if known().any(|name| fills(name, topic) || fills(topic, name)) {
            return;
        }
        let shown = self.shown(&field, topic);
        let near = match nearest(topic, known()) {
            Some(near) => format!(", did you mean `{near}`?"),
            None => format!(
                "; declare it with `[[topic]]` if something else fills it, or add a source with `topic = {topic:?}`"
            ),
        };
        let near = if self.replaced.contains_key(&field) { String::new() } else { near };
        self.wrong(&field, format!("no source fills the topic {shown} and it is not declared{near}"));
    }

    fn table_columns(&mut self, at: &str, table: &TableConfig) {
        let field = format!("{at}.columns");
        let columns = match table.columns.as_deref().map(Columns::parse) {
            None => None,
            Some(Ok(columns)) => Some(columns),
            Some(Err(error)) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                let detail = self.detail(&field, format!("{error}{hint}"));
                let message = if detail.is_empty() { ": these are no columns" } else { &detail };
                self.wrong(&field, message.trim_start_matches(": "));
                return;
            }
        };
        let columns = self.record_columns(at, table, columns);
        let mut seen = HashSet::new();
        for (i, name) in table.partition_by.iter().enumerate() {
            let field = format!("{at}.partition_by[{i}]");
            let shown = self.shown(&field, name);
            if !seen.insert(name) {
                self.wrong(&field, format!("{shown} stands twice"));
            } else if let Some(columns) = &columns
                && columns.get(name).is_none()
            {
                let near = nearest(name, columns.iter().map(|column| column.name.as_str()));
                let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
                self.wrong(&field, format!("there is no column {shown} in `columns`{near}"));
            }
        }
        self.event_time(at, table, columns.as_ref());
    }

    /// A column of timestamps; one that is inferred is looked at when the table is there.
    fn event_time(&mut self, at: &str, table: &TableConfig, columns: Option<&Columns>) {
        let field = format!("{at}.event_time");
        let Some(name) = &table.event_time else {
            for (key, span, default) in
                [("allowed_lateness", table.allowed_lateness, 0), ("idle_after", table.idle_after, 60_000)]
            {
                if span != Span::from_millis(default) {
                    self.wrong(&format!("{at}.{key}"), "this needs `event_time`: the column that says when");
                }
            }
            return;
        };
        let shown = self.shown(&field, name);
        if name == TIMESTAMP {
            return;
        }
        let Some(columns) = columns else { return };
        match columns.get(name).map(|column| column.column_type) {
            Some(ColumnType::Timestamp) => {}
            Some(other) => self.wrong(&field, format!("column {shown} is `{other}`, not `TIMESTAMP`")),
            None => {
                let near = nearest(name, columns.iter().map(|column| column.name.as_str()));
                let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
                self.wrong(&field, format!("there is no column {shown} in `columns`{near}"));
            }
        }
    }

    pub(super) fn timezone(&mut self, field: &str, zone: &str) {
        if zone.parse::<chrono_tz::Tz>().is_err() {
            let shown = self.shown(field, zone);
            let near = nearest(zone, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
            let near = near.filter(|_| !self.replaced.contains_key(field));
            let near = near.map_or_else(
                || ": write e.g. `Europe/Berlin`".into(),
                |near| format!(", did you mean `{near}`?"),
            );
            self.wrong(field, format!("{shown} is no time zone{near}"));
        }
    }
}

/// Whether only this machine reaches `address`; `None` when it is no address.
fn loopback(address: &str) -> Option<bool> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Some(match address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        });
    }
    let port = address.strip_prefix("localhost:")?;
    port.parse::<u16>().is_ok().then_some(true)
}
