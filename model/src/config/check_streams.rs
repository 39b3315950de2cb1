//! What makes sense for sources of lines, and on the way of a record: formats, multi-line records, interceptors, routes,
//! addresses to listen at.

use std::path::Path;

use regex::Regex;

use super::check::Checker;
use super::{
    BodyKind, ExecConfig, FileFormat, HttpConfig, InterceptorConfig, KafkaConfig, LineConfig, MqttConfig,
    MultilineConfig, NetcatConfig, RateLimitConfig, RouteConfig, SourceConfig, SyslogConfig,
};
use crate::grok;

/// Routes of one source: what a record may go to is kept as bits.
const MOST_ROUTES: usize = 60;
/// Texts of MQTT are this long at most.
const MOST_MQTT_BYTES: usize = 65_535;

impl Checker<'_, '_> {
    /// `key` where there are no fields that could be one.
    pub(super) fn key_of_lines(&mut self, at: &str, format: FileFormat, source: &SourceConfig) {
        let makes_fields = source.interceptors.iter().any(InterceptorConfig::makes_fields);
        if source.key.is_some() && format == FileFormat::Lines && !makes_fields {
            self.wrong(&format!("{at}.key"), "plain lines have no fields, so none of them can be the key");
        }
    }

    /// A format of lines, with what belongs to it.
    pub(super) fn lines(&mut self, at: &str, format: FileFormat, lines: &LineConfig) {
        let field = format!("{at}.regex");
        match (format, &lines.regex) {
            (FileFormat::Regex, None) => {
                self.wrong(
                    &field,
                    "`format = \"regex\"` needs the regular expression that lines fit: `regex`",
                );
            }
            (FileFormat::Regex, Some(regex)) => self.regex_with_groups(&field, regex),
            (_, Some(_)) => self.wrong(&field, "only `format = \"regex\"` uses this"),
            (_, None) => {}
        }
        let field = format!("{at}.grok");
        match (format, &lines.grok) {
            (FileFormat::Grok, None) => {
                self.wrong(&field, "`format = \"grok\"` needs the pattern that lines fit: `grok`");
            }
            (FileFormat::Grok, Some(pattern)) => match grok::compile(pattern, &lines.patterns) {
                Ok(grok) if !grok.regex.contains("(?<") && !grok.regex.contains("(?P<") => {
                    let message = "no part of this pattern is a field: write `%{NAME:field}`";
                    self.wrong(&field, message);
                }
                Ok(_) => {}
                Err(message) => self.wrong(&field, message),
            },
            (_, Some(_)) => self.wrong(&field, "only `format = \"grok\"` uses this"),
            (_, None) => {}
        }
        if !lines.patterns.is_empty() && format != FileFormat::Grok {
            self.wrong(&format!("{at}.patterns"), "only `format = \"grok\"` uses this");
        }
        if lines.raw_field.is_some() && !format.parses_lines() {
            let message = "this is for formats that take a line apart: `regex`, `grok`, `common`, `combined`, `logfmt`, `syslog`";
            self.wrong(&format!("{at}.raw_field"), message);
        }
        if let Some(multiline) = &lines.multiline {
            let at = format!("{at}.multiline");
            if format == FileFormat::Ndjson || format.is_whole_file() {
                self.wrong(&at, "a record of this format is one line, or says itself where it ends");
            }
            self.multiline(&at, multiline);
        }
    }

    fn multiline(&mut self, at: &str, multiline: &MultilineConfig) {
        match (&multiline.start, &multiline.continuation) {
            (None, None) => {
                self.wrong(
                    &format!("{at}.start"),
                    "say which lines begin a record: `start`, or `continuation`",
                );
            }
            (Some(_), Some(_)) => {
                self.wrong(
                    &format!("{at}.continuation"),
                    "there is a `start` already: leave one of them out",
                );
            }
            (Some(start), None) => drop(self.regex(&format!("{at}.start"), start)),
            (None, Some(continuation)) => drop(self.regex(&format!("{at}.continuation"), continuation)),
        }
        self.more_than_zero(&format!("{at}.timeout"), multiline.timeout);
        let field = format!("{at}.max_size");
        self.at_least(&field, multiline.max_size.0, 1);
        if multiline.max_size.0 > self.config.log.max_record_size.0 {
            self.wrong(&field, "this is more than `log.max_record_size`");
        }
    }

    fn regex(&mut self, field: &str, regex: &str) -> Option<Regex> {
        match Regex::new(regex) {
            Ok(regex) => Some(regex),
            Err(error) => {
                let detail = error.to_string();
                let detail =
                    detail.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let detail = self.detail(field, detail);
                self.wrong(field, format!("this is no regular expression{detail}"));
                None
            }
        }
    }

    fn regex_with_groups(&mut self, field: &str, regex: &str) {
        if let Some(regex) = self.regex(field, regex)
            && regex.capture_names().flatten().next().is_none()
        {
            self.wrong(field, "no group has a name, so there is no field: write `(?<name>...)`");
        }
    }

    pub(super) fn interceptors(&mut self, at: &str, interceptors: &[InterceptorConfig]) {
        for (i, interceptor) in interceptors.iter().enumerate() {
            let at = format!("{at}.interceptor[{i}]");
            for (key, field) in interceptor.named_fields() {
                self.not_empty(&format!("{at}.{key}"), field.is_empty());
            }
            match interceptor {
                InterceptorConfig::Timestamp(timestamp) => {
                    if let Some(zone) = &timestamp.timezone {
                        self.timezone(&format!("{at}.timezone"), zone);
                    }
                    if !matches!(timestamp.format.as_str(), "rfc3339" | "unix" | "unix_ms") {
                        let items = chrono::format::StrftimeItems::new(&timestamp.format);
                        let wrong = items.clone().any(|item| item == chrono::format::Item::Error);
                        if wrong || !timestamp.format.contains('%') {
                            let message = "this is no format: write `rfc3339`, `unix`, `unix_ms`, or strftime's letters";
                            self.wrong(&format!("{at}.format"), message);
                        }
                    }
                }
                InterceptorConfig::Static(fixed) => {
                    self.not_empty(&format!("{at}.fields"), fixed.fields.is_empty());
                }
                InterceptorConfig::Rename(rename) => {
                    self.not_empty(&format!("{at}.fields"), rename.fields.is_empty());
                }
                InterceptorConfig::Keep(list) | InterceptorConfig::Remove(list) => {
                    self.not_empty(&format!("{at}.fields"), list.fields.is_empty());
                }
                InterceptorConfig::Mask(mask) => {
                    self.not_empty(&format!("{at}.fields"), mask.fields.is_empty());
                }
                InterceptorConfig::Hash(hash) => {
                    self.not_empty(&format!("{at}.fields"), hash.fields.is_empty());
                    self.not_empty(&format!("{at}.secret"), hash.secret.reveal().is_empty());
                }
                InterceptorConfig::Filter(filter) => drop(self.regex(&format!("{at}.regex"), &filter.regex)),
                InterceptorConfig::Extract(extract) => {
                    self.regex_with_groups(&format!("{at}.regex"), &extract.regex);
                }
                InterceptorConfig::Replace(replace) => {
                    drop(self.regex(&format!("{at}.regex"), &replace.regex))
                }
                InterceptorConfig::Sql(sql) => {
                    self.not_empty(&format!("{at}.query"), sql.query.trim().is_empty());
                }
                InterceptorConfig::Sample(sample) => self.share(&format!("{at}.share"), sample.share),
                InterceptorConfig::Host(_) | InterceptorConfig::Header(_) | InterceptorConfig::Uuid(_) => {}
            }
        }
    }

    pub(super) fn rate_limit(&mut self, at: &str, limit: Option<&RateLimitConfig>) {
        let Some(limit) = limit else { return };
        let at = format!("{at}.rate_limit");
        if limit.records_per_second.is_none() && limit.bytes_per_second.is_none() {
            self.wrong(&at, "say how much: `records_per_second`, `bytes_per_second`, or both");
        }
        if let Some(records) = limit.records_per_second {
            self.at_least(&format!("{at}.records_per_second"), records, 1);
        }
        if let Some(bytes) = limit.bytes_per_second {
            self.at_least(&format!("{at}.bytes_per_second"), bytes.0, 1024);
        }
    }

    fn share(&mut self, field: &str, share: f64) {
        if !(0.0..=1.0).contains(&share) {
            self.wrong(field, "a share is between 0 and 1");
        }
    }

    pub(super) fn routes(&mut self, at: &str, routes: &[RouteConfig]) {
        if routes.len() > MOST_ROUTES {
            self.wrong(&format!("{at}.route"), format!("a source has at most {MOST_ROUTES} routes"));
        }
        for (i, route) in routes.iter().enumerate() {
            let at = format!("{at}.route[{i}]");
            self.topic_name(&format!("{at}.topic"), &route.topic);
            self.share(&format!("{at}.sample"), route.sample);
            let decides = route.field.is_some() || route.header.is_some();
            if route.field.is_some() && route.header.is_some() {
                self.wrong(&format!("{at}.header"), "there is a `field` already: leave one of them out");
            }
            match (&route.regex, route.values.is_empty()) {
                (Some(_), false) => {
                    self.wrong(&format!("{at}.regex"), "there are `values` already: leave one of them out");
                }
                (None, true) if decides => {
                    self.wrong(&format!("{at}.values"), "say what it must be: `values`, or `regex`");
                }
                (Some(_), true) | (None, false) if !decides => {
                    self.wrong(&format!("{at}.field"), "say what decides: `field`, or `header`");
                }
                (Some(regex), true) => drop(self.regex(&format!("{at}.regex"), regex)),
                (None, _) => {}
            }
            let takes_all = !decides && !route.copy && route.sample >= 1.0;
            if takes_all && i + 1 < routes.len() {
                self.wrong(&at, "this route takes every record: those behind it would get none");
            }
        }
    }

    pub(super) fn syslog(&mut self, at: &str, syslog: &SyslogConfig, insecure: bool) {
        self.doors(at, syslog.tcp.as_deref(), syslog.udp.as_deref(), syslog.max_connections, insecure);
    }

    pub(super) fn netcat(&mut self, at: &str, netcat: &NetcatConfig, source: &SourceConfig, insecure: bool) {
        self.doors(at, netcat.tcp.as_deref(), netcat.udp.as_deref(), netcat.max_connections, insecure);
        if netcat.acknowledge && netcat.tcp.is_none() {
            self.wrong(&format!("{at}.acknowledge"), "only `tcp` has somebody to be told");
        }
        if netcat.acknowledge && netcat.lines.multiline.is_some() {
            self.wrong(
                &format!("{at}.acknowledge"),
                "each line is told of, so a record cannot be several lines",
            );
        }
        self.format_of_a_stream(at, netcat.format, &netcat.lines, source);
    }

    pub(super) fn exec(&mut self, at: &str, exec: &ExecConfig, source: &SourceConfig) {
        let empty = exec.command.first().is_none_or(String::is_empty);
        self.not_empty(&format!("{at}.command"), empty);
        self.more_than_zero(&format!("{at}.restart_after"), exec.restart_after);
        self.format_of_a_stream(at, exec.format, &exec.lines, source);
    }

    pub(super) fn http(&mut self, at: &str, http: &HttpConfig, source: &SourceConfig) {
        self.format_of_a_stream(at, http.format, &http.lines, source);
        if http.lines.multiline.is_some() {
            let message =
                "a push says itself where a record ends: `body = \"whole\"` makes one of all its lines";
            self.wrong(&format!("{at}.multiline"), message);
        }
        if http.body == BodyKind::Form && http.format != FileFormat::Ndjson {
            let message = "the fields of a form are its format: leave this out";
            self.wrong(&format!("{at}.format"), message);
        }
    }

    pub(super) fn mqtt(&mut self, at: &str, mqtt: &MqttConfig, source: &SourceConfig) {
        let port = mqtt.broker.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty()).then_some(port)?.parse::<u16>().ok().filter(|port| *port > 0)
        });
        if port.is_none() {
            self.wrong(
                &format!("{at}.broker"),
                "this is no address: write `host:port`, e.g. `127.0.0.1:1883`",
            );
        }
        self.not_empty(&format!("{at}.subscribe"), mqtt.subscribe.is_empty());
        for (i, filter) in mqtt.subscribe.iter().enumerate() {
            if !is_filter(filter) {
                let message =
                    "this is no filter: `+` stands for a whole level, `#` for all levels at the end";
                self.wrong(&format!("{at}.subscribe[{i}]"), message);
            }
        }
        if mqtt.qos > 2 {
            self.wrong(&format!("{at}.qos"), "a quality of service is 0, 1 or 2");
        }
        let name = mqtt.session_name(&source.name);
        if name.is_empty() || name.len() > MOST_MQTT_BYTES {
            let message = format!("the session's name has 1 to {MOST_MQTT_BYTES} bytes");
            self.wrong(&format!("{at}.client_id"), message);
        }
        if mqtt.password.is_some() && mqtt.user.is_none() {
            self.wrong(&format!("{at}.user"), "a password needs a `user`");
        }
        if !(1..=65_535).contains(&mqtt.keep_alive.0.as_secs()) {
            self.wrong(&format!("{at}.keep_alive"), "this is between `1s` and `65535s`");
        }
        self.trusts(at, mqtt.tls, mqtt.tls_ca.as_deref());
        if mqtt.lines.multiline.is_some() {
            self.wrong(&format!("{at}.multiline"), "a message is a record, however many lines it has");
        }
        self.format_of_a_stream(at, mqtt.format, &mqtt.lines, source);
    }

    pub(super) fn kafka(&mut self, at: &str, kafka: &KafkaConfig, source: &SourceConfig) {
        let is_address = |address: &str| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        if !kafka.brokers.split(',').all(|address| is_address(address.trim())) {
            let message = "these are no addresses: write `host:port`, with commas between several";
            self.wrong(&format!("{at}.brokers"), message);
        }
        let own = self.config.log.kafka.as_deref();
        if kafka.brokers.split(',').any(|address| Some(address.trim()) == own) {
            let message = "this is `log.kafka` of this config: a log that follows itself never ends";
            self.wrong(&format!("{at}.brokers"), message);
        }
        let field = format!("{at}.topics");
        let patterns = kafka.topics.patterns();
        self.not_empty(&field, patterns.is_empty() || patterns.iter().any(String::is_empty));
        let has_place = source.topic.contains("{topic}");
        if kafka.topics.are_several() && !has_place {
            let message = "several topics need several topics here: put `{topic}` into it, e.g. `{topic}`";
            self.wrong(&format!("{at}.topic"), message);
        }
        self.more_than_zero(&format!("{at}.look_every"), kafka.look_every);
        self.trusts(at, kafka.tls, kafka.tls_ca.as_deref());
        match (&kafka.user, &kafka.password) {
            (Some(_), None) => self.wrong(&format!("{at}.password"), "a `user` logs in with a `password`"),
            (None, Some(_)) => self.wrong(&format!("{at}.user"), "a password needs a `user`"),
            _ => {}
        }
        if kafka.lines.multiline.is_some() {
            self.wrong(&format!("{at}.multiline"), "a value is a record, however many lines it has");
        }
        let format = kafka.format_of(source).unwrap_or(FileFormat::Ndjson);
        self.format_of_a_stream(at, format, &kafka.lines, source);
    }

    fn trusts(&mut self, at: &str, tls: bool, ca: Option<&Path>) {
        if ca.is_some() && !tls {
            self.wrong(&format!("{at}.tls_ca"), "without `tls = true` no certificate is looked at");
        }
    }

    fn format_of_a_stream(
        &mut self,
        at: &str,
        format: FileFormat,
        lines: &LineConfig,
        source: &SourceConfig,
    ) {
        if self.is_wrong(&format!("{at}.format")) {
            return;
        }
        if format == FileFormat::Csv {
            let message =
                "a stream has no header, so it is not read as `csv`; whole CSV files are for `spooldir`";
            self.wrong(&format!("{at}.format"), message);
        } else if format.is_columnar() {
            self.wrong(&format!("{at}.format"), "only `spooldir` reads files of this format");
        }
        self.lines(at, format, lines);
        self.key_of_lines(at, format, source);
    }

    fn doors(&mut self, at: &str, tcp: Option<&str>, udp: Option<&str>, connections: u32, insecure: bool) {
        if tcp.is_none() && udp.is_none() {
            self.wrong(&format!("{at}.tcp"), "say where to listen: `tcp`, `udp`, or both");
        }
        for (key, address) in [("tcp", tcp), ("udp", udp)] {
            if let Some(address) = address {
                self.listens(&format!("{at}.{key}"), address, "127.0.0.1:5514", insecure);
            }
        }
        self.at_least(&format!("{at}.max_connections"), u64::from(connections), 1);
    }
}

/// Whether this is a filter of MQTT topics.
fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let fits = |(i, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => i + 1 == levels.len(),
        plain => !plain.contains(['+', '#', '\0']),
    };
    !filter.is_empty() && filter.len() <= MOST_MQTT_BYTES && levels.iter().enumerate().all(fits)
}

impl FileFormat {
    /// Whether its files are made of columns.
    pub fn is_columnar(self) -> bool {
        matches!(self, FileFormat::Avro | FileFormat::Parquet)
    }

    /// Whether a file of it is read whole, and not as lines.
    pub fn is_whole_file(self) -> bool {
        self == FileFormat::Csv || self.is_columnar()
    }

    /// Whether it takes a line apart into fields.
    pub fn parses_lines(self) -> bool {
        match self {
            FileFormat::Csv
            | FileFormat::Ndjson
            | FileFormat::Lines
            | FileFormat::Avro
            | FileFormat::Parquet => false,
            FileFormat::Regex
            | FileFormat::Grok
            | FileFormat::Common
            | FileFormat::Combined
            | FileFormat::Logfmt
            | FileFormat::Syslog => true,
        }
    }
}

impl InterceptorConfig {
    /// Whether a plain line becomes an object by it.
    pub fn makes_fields(&self) -> bool {
        match self {
            InterceptorConfig::Host(_)
            | InterceptorConfig::Static(_)
            | InterceptorConfig::Header(_)
            | InterceptorConfig::Uuid(_)
            | InterceptorConfig::Keep(_)
            | InterceptorConfig::Remove(_)
            | InterceptorConfig::Rename(_)
            | InterceptorConfig::Extract(_)
            | InterceptorConfig::Sql(_) => true,
            InterceptorConfig::Timestamp(_)
            | InterceptorConfig::Filter(_)
            | InterceptorConfig::Replace(_)
            | InterceptorConfig::Mask(_)
            | InterceptorConfig::Hash(_)
            | InterceptorConfig::Sample(_) => false,
        }
    }

    /// Keys that name one field, with the names.
    fn named_fields(&self) -> Vec<(&'static str, &str)> {
        match self {
            InterceptorConfig::Timestamp(timestamp) => vec![("field", &timestamp.field)],
            InterceptorConfig::Host(host) => vec![("field", &host.field)],
            InterceptorConfig::Uuid(uuid) => vec![("field", &uuid.field)],
            InterceptorConfig::Filter(filter) => vec![("field", &filter.field)],
            InterceptorConfig::Extract(extract) => vec![("field", &extract.field)],
            InterceptorConfig::Replace(replace) => vec![("field", &replace.field)],
            InterceptorConfig::Header(header) => vec![("header", &header.header)],
            _ => Vec::new(),
        }
    }
}
