//! One `[[table]]` for many topics: `{table}` in its name and its topic.
//!
//! *Why*: whoever imports a whole database should not write a block per table. A source with `topic = "shop.{table}"` fills
//! a topic per table; a table with the same topic is made once per topic, now and when new ones come.
//!
//! A `[[table]]` with `topics = "shop.*"` is one table in SQL, and a pattern here: of each topic that fits it makes a part.
//!
//! *Invariant*: what a pattern makes depends on the config and the topic's name only, so a restart makes the same.

use super::{Config, TableConfig};

/// What stands for a part of a name.
const PLACE: &str = "{table}";
/// What stands for the whole name of another cluster's topic.
const TOPIC_PLACE: &str = "{topic}";
/// As in Kafka: a topic's name is a folder's name too, with room for a partition's number.
pub(super) const MAX_NAME_CHARS: usize = 249;
pub(super) const MAX_TABLE_NAME_CHARS: usize = MAX_NAME_CHARS - "_dead_letters".len();

/// What stands for `{table}` when `pattern` is `name`; `None` when it is not, or when the pattern has no such place.
pub(super) fn part_of<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let (before, after) = pattern.split_once(PLACE)?;
    let part = name.strip_prefix(before)?.strip_suffix(after)?;
    (!part.is_empty() && part != PLACE).then_some(part)
}

/// Whether what fills `pattern` (the topic of a source, perhaps with `{table}` or `{topic}`) fills the topic `name`.
pub fn fills(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.replace(TOPIC_PLACE, PLACE), name.replace(TOPIC_PLACE, PLACE));
    pattern == name || part_of(&pattern, &name).is_some()
}

/// Whether the topic of a source stands for several.
pub fn has_place(topic: &str) -> bool {
    topic.contains(PLACE) || topic.contains(TOPIC_PLACE)
}

/// Whether `name` fits `pattern`, in which `*` stands for anything.
pub fn is_like(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

impl TableConfig {
    /// Whether it stands for one table per topic that fits.
    pub fn is_pattern(&self) -> bool {
        self.topics.is_some() || self.name.contains(PLACE)
    }

    /// The table that a pattern makes of `topic`, if the topic fits and leaves a name for a table. Names are in lower case
    /// and without dots, so that SQL needs no quotes.
    pub fn of_topic(&self, topic: &str) -> Option<TableConfig> {
        if !self.is_pattern() {
            return None;
        }
        let (pattern, name) = match &self.topics {
            Some(topics) => (topics.replacen('*', PLACE, 1), format!("{}_{PLACE}", self.name)),
            None => (self.topic_name().to_owned(), self.name.clone()),
        };
        // Topics such as `__consumer_offsets` are a log's own.
        let part = part_of(&pattern, topic).filter(|_| !topic.starts_with("__"))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let part: String = part.chars().map(|c| if fits(c) { c.to_ascii_lowercase() } else { '_' }).collect();
        let name = name.replace(PLACE, &part);
        let is_name = !name.starts_with(['_', '-']) && name.len() <= MAX_TABLE_NAME_CHARS;
        let part_of = self.topics.as_ref().map(|_| self.name.clone());
        let topic = Some(topic.to_owned());
        is_name.then(|| TableConfig { name, topic, topics: None, part_of, ..self.clone() })
    }
}

impl Config {
    /// The tables of a log that has `topics`: those with a name of their own; what the patterns make of topics that no such
    /// table is made from (of several that fit a topic the first one counts); and the parts of tables of many topics, which
    /// take every topic that fits.
    pub fn tables_of<'t>(&self, topics: impl IntoIterator<Item = &'t str>) -> Vec<TableConfig> {
        let (patterns, mut tables): (Vec<TableConfig>, Vec<TableConfig>) =
            self.tables.iter().cloned().partition(TableConfig::is_pattern);
        let (of_many, of_one): (Vec<TableConfig>, Vec<TableConfig>) =
            patterns.into_iter().partition(|table| table.topics.is_some());
        let named = tables.len();
        for topic in topics {
            if !tables[..named].iter().any(|table| table.topic_name() == topic) {
                tables.extend(of_one.iter().find_map(|pattern| pattern.of_topic(topic)));
            }
            tables.extend(of_many.iter().filter_map(|pattern| pattern.of_topic(topic)));
        }
        tables
    }
}

#[cfg(test)]
mod tests {
    use super::super::Loader;
    use super::*;

    fn config(tables: &str) -> Config {
        let text = format!(
            "[[source]]\nname = \"s\"\ntype = \"database\"\nurl = \"sqlite:a\"\ntable = \"*\"\ntopic = \"shop.{{table}}\"\n{tables}"
        );
        Loader::new().parse(std::path::Path::new("/c/tarn.toml"), &text).unwrap_or_else(|p| panic!("{p}"))
    }

    fn names(config: &Config, topics: &[&str]) -> Vec<(String, String)> {
        let tables = config.tables_of(topics.iter().copied());
        tables.iter().map(|table| (table.name.clone(), table.topic_name().to_owned())).collect()
    }

    #[test]
    fn a_pattern_makes_a_table_of_every_topic_that_fits() {
        let config =
            config("[[table]]\nname = \"{table}\"\ntopic = \"shop.{table}\"\npartition_by = [\"year\"]");
        let topics = ["clicks", "shop.", "shop.Order Items", "shop.Orders", "shop._own", "shop.a.b"];
        let want = [("order_items", "shop.Order Items"), ("orders", "shop.Orders"), ("a_b", "shop.a.b")];
        assert_eq!(names(&config, &topics), want.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(config.tables_of(topics)[0].partition_by, ["year"]);
    }

    #[test]
    fn a_table_of_its_own_comes_before_a_pattern_and_the_first_pattern_before_the_next() {
        let config = config(
            "[[table]]\nname = \"all_{table}\"\ntopic = \"shop.{table}\"\n[[table]]\nname = \"sales\"\ntopic = \"shop.orders\"\n\
             [[table]]\nname = \"late_{table}\"\ntopic = \"shop.{table}\"",
        );
        let want = [("sales", "shop.orders"), ("all_customers", "shop.customers")];
        assert_eq!(
            names(&config, &["shop.customers", "shop.orders"]),
            want.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn a_table_of_many_topics_has_a_part_of_each_that_fits_whatever_else_is_made_of_it() {
        let config = config(
            "[[table]]\nname = \"sales\"\ntopic = \"shop.orders\"\n\
             [[table]]\nname = \"shop\"\ntopics = \"shop.*\"\ncolumns = \"id BIGINT\"",
        );
        let topics = ["clicks", "shop.orders", "shop.Items.EU", "__shop"];
        let want =
            [("sales", "shop.orders"), ("shop_orders", "shop.orders"), ("shop_items_eu", "shop.Items.EU")];
        assert_eq!(names(&config, &topics), want.map(|(a, b)| (a.to_owned(), b.to_owned())));
        let parts = config.tables_of(topics);
        assert!(parts[0].part_of.is_none() && parts[1].part_of.as_deref() == Some("shop"));
        assert!(parts.iter().all(|part| !part.is_pattern()), "a part is a table like others");
    }

    #[test]
    fn a_name_that_is_all_pattern_takes_every_topic_but_the_logs_own() {
        let config = config("[[table]]\nname = \"{table}\"");
        assert_eq!(
            names(&config, &["Clicks", "__consumer_offsets"]),
            [("clicks".to_owned(), "Clicks".to_owned())]
        );
    }
}
