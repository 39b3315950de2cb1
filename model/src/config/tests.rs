//! What a user sees of a config file that is right, and of one that is wrong in many places.

use std::path::Path;

use super::{Config, Loader, SourceKind, Span};

fn parse(text: &str) -> Result<Config, String> {
    let variable = |name: &str| match name {
        "SECRET" => Some("hunter2".to_owned()),
        "PARTITIONS" => Some("6".to_owned()),
        _ => None,
    };
    let loader = Loader::new().variables(variable);
    loader.parse(Path::new("/etc/tarn/x.toml"), text).map_err(|problems| problems.to_string())
}

fn problems(text: &str) -> Vec<String> {
    let text = parse(text).expect_err("problems");
    text.lines().map(|line| line.trim_start_matches("/etc/tarn/x.toml:").to_owned()).collect()
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let config = parse("").expect("an empty file is a config");
    assert_eq!(config.data_dir, Path::new("/etc/tarn/data"));
    assert_eq!(config.lake.url, "file:/etc/tarn/data/lake");
    assert_eq!(config.serving.http, "127.0.0.1:8080");
}

#[test]
fn paths_become_absolute_from_the_config_file_on() {
    let config = parse(
        r#"
        data_dir = "./state"
        lake.url = "file:///srv/lake"
        [[source]]
        name = "s"
        type = "spooldir"
        path = "in"
        format = "csv"
        topic = "t"
        done = "move"
        done_path = "../out"
        [[source]]
        name = "d"
        type = "database"
        url = "sqlite:shop.sqlite"
        table = "orders"
        topic = "t"
        "#,
    )
    .expect("a config");
    assert_eq!(config.data_dir, Path::new("/etc/tarn/state"));
    assert_eq!(config.lake.url, "file:/srv/lake");
    let SourceKind::Spooldir(spool) = &config.sources[0].kind else { panic!("a spooldir") };
    assert_eq!(spool.path, Path::new("/etc/tarn/in"));
    assert_eq!(spool.done_path.as_deref(), Some(Path::new("/etc/tarn/../out")));
    let SourceKind::Database(database) = &config.sources[1].kind else { panic!("a database") };
    assert_eq!(database.url.reveal(), "sqlite:/etc/tarn/shop.sqlite");
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let found = problems(
        r#"data_dri = "data"
[log]
sync = "gruop"
segment_size = "12 parsecs"
retention_time = 7
[lake]
url = "ftp://x"
data_dir = "x"
[serving]
http = "0.0.0.0:8080"
[[topic]]
name = "clicks"
partitions = 0
[[topic]]
name = "clicks"
partitions = 99999999999
[[source]]
name = "a"
type = "spooldir"
path = "in"
formt = "csv"
topic = "clicks"
null_values = "NA"
delimiter = ";;"
[[source]]
name = "a"
type = "taildir"
path = "[x"
topic = "or ders"
null_values = ["NA"]
[[source]]
type = "spoldir"
path = "in"
topic = "clicks"
[[source]]
name = "db"
type = "database"
url = "oracle://u:p@h/db"
table = "a"
query = "SELECT 1"
mode = "append"
cron = "every day"
topic = "clicks"
[[table]]
name = "clicks"
topic = "clicks"
columns = "id BIGINT, at DATUM"
[[table]]
name = "clicks_dead_letters"
topic = "clicks"
columns = "origin VARCHAR"
partition_by = ["orgin"]
commit_every = "0s"
timezone = "Europe/Berln"
[view]
name = "v"
[[serving2]]
x = 1
"#,
    );
    let expected = [
        "1:1: data_dri: unknown key, did you mean `data_dir`?",
        "3:8: log.sync: `gruop` is not known, did you mean `group`?",
        "4:16: log.segment_size: `12 parsecs` is not a size: write `1024`, `512KiB`, `64MiB` or `1GiB`",
        "5:18: log.retention_time: this is a whole number, but a length of time such as \"10s\" is wanted",
        "7:7: lake.url: `ftp://x` is no place for a lake: write `file:PATH` or `s3://bucket/prefix`",
        "8:1: lake.data_dir: unknown key here: `data_dir` stands before the first `[section]` of the file",
        "10:8: serving.http: `0.0.0.0:8080` can be reached from other machines, and there is no authentication yet: use \
         `127.0.0.1`, or run with `--insecure` if the network keeps strangers out",
        "13:14: topic[0].partitions: a topic has 1 to 10000 partitions",
        "15:8: topic[1].name: `clicks` is the name of topic[0] already",
        "16:14: topic[1].partitions: this number is outside -2147483648 to 2147483647",
        "17:1: source[0].format: this key is missing: `csv`, `ndjson`, `lines`, `regex`, `grok`, `common`, `combined`, `logfmt`, `syslog`, `avro` or `parquet`",
        "21:1: source[0].formt: unknown key, did you mean `format`?",
        "23:15: source[0].null_values: this is a string, but a list of strings is wanted",
        "26:8: source[1].name: `a` is the name of source[0] already",
        "28:8: source[1].path: `[x` is no pattern: invalid range pattern",
        "29:9: source[1].topic: `or ders` is no name for a topic: use letters, digits, `.`, `_` and `-`",
        "30:1: source[1].null_values: unknown key: `spooldir` sources have it, `taildir` sources have not",
        "31:1: source[2].name: this key is missing: a string",
        "32:8: source[2].type: `spoldir` is not known, did you mean `spooldir`?",
        "38:7: source[3].url: only PostgreSQL, MySQL, MariaDB and SQLite can be read: write `postgres://USER@HOST/DATABASE`, \
         `mysql://USER@HOST/DATABASE` or `sqlite:PATH`",
        "35:1: source[3].cursor: this `mode` needs the growing column that tells new rows: `cursor`",
        "40:9: source[3].query: there is a `table` already: leave one of them out",
        "42:8: source[3].cron: `every day` is no cron expression (`minute hour day month weekday`)",
        "47:11: table[0].columns: column `at` has the unknown type `DATUM`",
        "49:8: table[1].name: this is the name of the dead letters of table[0]; choose another",
        "52:17: table[1].partition_by[0]: there is no column `orgin` in `columns`, did you mean `origin`?",
        "53:16: table[1].commit_every: this time must be longer than zero",
        "54:12: table[1].timezone: `Europe/Berln` is no time zone, did you mean `Europe/Berlin`?",
        "55:1: view: this is one table, but there can be several: write `[[view]]` instead of `[view]`",
        "57:3: serving2: unknown key, did you mean `serving`?",
    ];
    let print = found.join("\n");
    for want in expected {
        assert!(found.iter().any(|line| line.starts_with(want)), "missing: {want}\n{print}");
    }
    assert_eq!(found.len(), expected.len(), "{print}");
}

#[test]
fn sections_of_later_versions_are_unknown_now() {
    let found = problems("[[alert]]\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("1:3: alert: unknown"), "{found:?}");
}

#[test]
fn postgres_listens_on_this_machine_only_unless_told_otherwise() {
    let text = |address: &str| format!("[serving]\npostgres = \"{address}\"\n");
    let parse = |loader: Loader, address| loader.parse(Path::new("x.toml"), &text(address));
    assert!(parse(Loader::new(), "127.0.0.1:5433").is_ok());
    let found = problems(&text("0.0.0.0:5433"));
    assert!(
        found[0].starts_with("2:12: serving.postgres: `0.0.0.0:5433` can be reached from other machines"),
        "{found:?}"
    );
    assert!(problems(&text("x"))[0].contains("`x` is no address: write `127.0.0.1:5433`"));
}

#[test]
fn kafka_listens_on_this_machine_only_unless_told_otherwise() {
    let text = |address: &str| format!("[log]\nkafka = \"{address}\"\n");
    assert!(Loader::new().parse(Path::new("x.toml"), &text("127.0.0.1:9092")).is_ok());
    assert!(
        problems(&text("0.0.0.0:9092"))
            .iter()
            .any(|line| line.contains("log.kafka") && line.contains("--insecure"))
    );
    assert!(problems(&text("nowhere")).iter().any(|line| line.contains("write `127.0.0.1:9092`")));
    assert!(Loader::new().insecure(true).parse(Path::new("x.toml"), &text("0.0.0.0:9092")).is_ok());
}

#[test]
fn broken_syntax_has_its_line() {
    let found = problems("data_dir = \"x\"\n[log\nsync = \n");
    assert!(found.iter().any(|line| line.starts_with("2:")), "{found:?}");
    let twice = problems("data_dir = \"x\"\ndata_dir = \"y\"\n");
    assert_eq!(twice, ["2:1: duplicate key"]);
}

#[test]
fn one_table_where_several_may_be_is_explained() {
    assert_eq!(
        problems("[topic]\nname = \"t\"\n"),
        ["1:1: topic: this is one table, but there can be several: write `[[topic]]` instead of `[topic]`"]
    );
    assert_eq!(
        problems("[[log]]\n"),
        ["1:1: log: there is only one `log`: write `[log]` instead of `[[log]]`"]
    );
}

#[test]
fn references_are_replaced_even_in_numbers() {
    let config = parse(
        "[[topic]]\nname = \"t_${NONE:-x}\"\npartitions = \"${PARTITIONS}\"\nretention_time = \"${T:-2h}\"\n",
    );
    let topic = &config.expect("a config").topics[0];
    assert_eq!((topic.name.as_str(), topic.partitions), ("t_x", 6));
    assert_eq!(topic.retention_time, Some(Span::from_millis(7_200_000)));
}

#[test]
fn what_was_put_in_is_never_shown() {
    let text = r#"
        data_dir = "${UNSET}"
        [log]
        sync = "${SECRET}"
        segment_size = "${SECRET}"
        [lake]
        url = "${SECRET}"
        optimize_after_files = "${SECRET}"
        [serving]
        http = "${SECRET}"
        [[source]]
        name = "d"
        topic = "${SECRET}!"
        type = "database"
        url = "${SECRET}"
        query = "SELECT 1"
        cron = "${SECRET}"
        [[table]]
        name = "${SECRET}"
        columns = "${SECRET}"
        timezone = "${SECRET}"
        [[table]]
        name = "${SECRET}"
        columns = "hunter INT"
        partition_by = ["${SECRET}"]
    "#;
    let found = problems(text);
    assert!(found.len() >= 12, "{found:#?}");
    assert!(found.iter().any(|line| line.contains("`UNSET` is not set")), "{found:#?}");
    assert!(!found.iter().any(|line| line.contains("hunter2")), "{found:#?}");
    let config = parse("[lake]\noptions = { secret_access_key = \"${SECRET}\" }\n").expect("a config");
    assert_eq!(config.lake.options["secret_access_key"].reveal(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&config).expect("JSON").contains("hunter2"));
}

#[test]
fn a_table_needs_a_topic_that_something_fills() {
    let source = "[[source]]\nname = \"s\"\ntype = \"http\"\ntopic = \"clicks\"\n";
    assert!(parse(&format!("{source}[[table]]\nname = \"clicks\"\n")).is_ok(), "a source fills it");
    assert!(parse("[[topic]]\nname = \"clicks\"\n[[table]]\nname = \"clicks\"\n").is_ok(), "it is declared");
    assert_eq!(
        problems(&format!("{source}[[table]]\nname = \"click\"\n")),
        [
            "6:8: table[0].name: no source fills the topic `click` and it is not declared, did you mean `clicks`?"
        ]
    );
    let many = "[[source]]\nname = \"s\"\ntype = \"database\"\nurl = \"sqlite:x\"\ntable = \"*\"\ntopic = \"shop_{table}\"\n";
    assert!(
        parse(&format!("{many}[[table]]\nname = \"shop_orders\"\n")).is_ok(),
        "one of many tables fills it"
    );
}

#[test]
fn a_database_source_has_the_keys_that_its_database_and_its_tables_use() {
    let source = |url: &str, rest: &str| {
        let text = format!(
            "[[source]]\nname = \"s\"\ntype = \"database\"\nurl = \"{url}\"\ntopic = \"t_{{table}}\"\n{rest}\n"
        );
        parse(&text).err().map_or(String::new(), |problems| problems.to_string())
    };
    let postgres = "postgres://ada@db/shop";
    for (url, rest, told) in [
        (postgres, "table = \"a\"\nmode = \"append\"", ""),
        (postgres, "table = \"a\"\nmode = \"last_modified\"\ncolumns = [\"x\"]\nwhere = \"x > 1\"", ""),
        (postgres, "table = \"*\"\ninclude = [\"sales.*\"]\nexclude = [\"*_old\"]\npassword = \"p\"", ""),
        (
            postgres,
            "table = \"a\"\nmode = \"append\"\ncursor = \"x\"",
            "source[0].cursor: PostgreSQL tells new rows",
        ),
        ("sqlite:a", "table = \"a\"\nmode = \"last_modified\"", "source[0].cursor: this `mode` needs"),
        (
            "sqlite:a",
            "table = \"a\"\npassword = \"hunter2\"",
            "source[0].password: only PostgreSQL and MySQL",
        ),
        ("sqlite:a", "table = \"a\"\ninclude = [\"x\"]", "source[0].include: only `table = \"*\"`"),
        ("sqlite:a", "table = \"*\"\nwhere = \"x\"", "source[0].where: only a source of one `table`"),
        ("sqlite:a", "table = \"*\"\ncolumns = [\"x\"]", "source[0].columns: only a source of one `table`"),
        (postgres, "table = \"a\"\nsplit_by = \"id\"\nreaders = 2", ""),
        (postgres, "table = \"*\"\nsplit_by = \"id\"", "source[0].split_by: only a `full` source of one"),
        (
            postgres,
            "table = \"a\"\nmode = \"append\"\nsplit_by = \"id\"",
            "source[0].split_by: only a `full` source of one",
        ),
        ("sqlite:a", "table = \"a\"\nsplit_by = \"id\"", ""),
        (
            postgres,
            "table = \"a\"\nsplit_by = \"id\"\nreaders = 1",
            "source[0].readers: a table is read by 2 to 64",
        ),
        (postgres, "table = \"a\"\nreaders = 4", "source[0].readers: only a source with `split_by`"),
        ("oracle://a@b/c", "table = \"a\"", "source[0].url: only PostgreSQL, MySQL"),
        ("mysql://a@b/c", "table = \"a\"\npassword = \"p\"", ""),
        ("mariadb://a@b/c", "table = \"*\"\nmode = \"append\"\ncursor = \"id\"\nlag = \"1s\"", ""),
        ("mysql://a@b/c", "table = \"a\"\nmode = \"append\"", "source[0].cursor: this `mode` needs"),
        ("mysql://a@b/c", "table = \"a\"\nlag = \"1s\"", "source[0].lag: only MySQL's `mode"),
        (postgres, "table = \"a\"\nmode = \"append\"\nlag = \"1s\"", "source[0].lag: only MySQL's `mode"),
    ] {
        let found = source(url, rest);
        assert!(found.contains(told) && told.is_empty() == found.is_empty(), "{rest}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
    let query = "[[source]]\nname = \"s\"\ntype = \"database\"\nurl = \"postgres://a@b\"\ntopic = \"t\"\nquery = \"SELECT 1\"\nmode = \"append\"\n";
    assert!(problems(query).iter().any(|line| line.contains("the new rows of a query cannot be told")));
}

#[test]
fn an_open_address_needs_to_be_wanted() {
    let text = "[serving]\nhttp = \"[::]:0\"\n";
    assert!(parse(text).is_err());
    assert!(Loader::new().insecure(true).parse(Path::new("x.toml"), text).is_ok());
    for local in ["127.0.0.1:0", "[::1]:80", "localhost:8080"] {
        assert!(parse(&format!("[serving]\nhttp = \"{local}\"\n")).is_ok(), "{local}");
    }
}

#[test]
fn a_missing_file_is_one_problem() {
    let error = Config::load(Path::new("/nowhere/tarn.toml")).expect_err("no file").to_string();
    assert!(error.starts_with("/nowhere/tarn.toml: cannot read the config file: "), "{error}");
}

/// The examples in configs/ are right, each of them.
#[test]
fn the_examples_are_configs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("configs/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen} examples");
}

const DASHBOARD: &str = r#"
[[dashboard]]
name = "shop"
range = "1h"
[[dashboard.variable]]
name = "city"
values = ["Oslo"]
[[dashboard.panel]]
title = "Orders"
query = "SELECT date_bin($interval, ts), count(*) FROM orders WHERE city = $city AND ts > $from"
chart = "stacked_bar"
thresholds = [{ at = 1.5, level = "warn" }, { at = 3, level = "bad" }]
"#;

#[test]
fn a_dashboard_is_read_with_its_defaults() {
    let config = parse(DASHBOARD).expect("a config");
    let dashboard = &config.dashboards[0];
    assert_eq!(dashboard.refresh, Span::from_millis(200));
    assert_eq!(dashboard.shown_title(), "shop");
    assert!(dashboard.variables[0].all);
    let panel = &dashboard.panels[0];
    assert_eq!(panel.chart, super::ChartKind::StackedBar);
    assert_eq!(panel.thresholds.iter().map(|one| one.at).collect::<Vec<_>>(), [1.5, 3.0]);
}

#[test]
fn a_wrong_dashboard_is_told_key_by_key() {
    let wrong = DASHBOARD
        .replace("range = \"1h\"", "range = \"0s\"\nrefresh = \"10ms\"")
        .replace("values = [\"Oslo\"]", "valeus = [\"Oslo\"]")
        .replace("= $city", "= $ctiy")
        .replace("stacked_bar", "stackedbar")
        .replace("at = 3", "at = 1")
        .replace("title = \"Orders\"", "title = \"Orders\"\nwidth = 13\nrow = 2\nmin = \"0\"");
    assert_eq!(
        problems(&wrong),
        [
            "4:9: dashboard[0].range: a time range is a second or more",
            "5:11: dashboard[0].refresh: a page changes every 100ms at most",
            "6:1: dashboard[0].variable[0].query: a variable needs `query` or `values`",
            "8:1: dashboard[0].variable[0].valeus: unknown key, did you mean `values`?",
            "11:9: dashboard[0].panel[0].width: this number is outside 1 to 12",
            "12:7: dashboard[0].panel[0].row: `row` goes with `column`",
            "13:7: dashboard[0].panel[0].min: this is a string, but a number is wanted",
            "14:9: dashboard[0].panel[0].query: there is no variable `$ctiy`, did you mean `$city`?",
            "15:9: dashboard[0].panel[0].chart: `stackedbar` is not known, did you mean `stacked_bar`?",
            "16:14: dashboard[0].panel[0].thresholds: thresholds stand in rising order",
        ]
    );
}

const STREAM: &str = r#"[[source]]
name = "s"
type = "taildir"
path = "a.log"
format = "regex"
regex = '^(?<a>.)'
topic = "t"
[source.multiline]
start = '^x'
[[source.interceptor]]
type = "timestamp"
field = "a"
format = "%d/%m/%Y"
timezone = "Europe/Berlin"
[[source.interceptor]]
type = "hash"
fields = ["a"]
secret = "${KEY}"
[[source.route]]
topic = "u"
field = "a"
values = ["1"]
[[source]]
name = "n"
type = "netcat"
tcp = "127.0.0.1:0"
topic = "t"
[[table]]
name = "u"
"#;

#[test]
fn a_source_of_lines_has_its_formats_interceptors_and_routes() {
    let loader = || Loader::new().variables(|name| (name == "KEY").then(|| "k".into()));
    let config = loader().parse(Path::new("x.toml"), STREAM).unwrap_or_else(|problems| panic!("{problems}"));
    let source = &config.sources[0];
    assert_eq!(source.topics().collect::<Vec<_>>(), ["t", "u"]);
    assert_eq!((source.interceptors.len(), source.routes[0].sample, source.routes[0].copy), (2, 1.0, false));
    let SourceKind::Taildir(tail) = &source.kind else { panic!("a taildir") };
    let multiline = tail.lines.multiline.as_ref().expect("a multiline");
    assert_eq!((multiline.timeout, multiline.max_size.0), (Span::from_millis(2000), 256 << 10));
    assert!(!format!("{config:?}").contains("\"k\""), "a secret is shown");
}

#[test]
fn jobs_after_jobs_are_checked_all_at_once() {
    let job = |name: &str, after: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\ntype = \"database\"\nurl = \"sqlite:a\"\ntable = \"{name}\"\ntopic = \"{name}\"\nafter = \"{after}\"\n"
        )
    };
    let first = job("first", "").replace("after = \"\"\n", "every = \"1h\"\n");
    assert_eq!(
        problems_or_none(&(first.clone() + &job("second", "first") + &job("third", "second"))),
        [""; 0] as [&str; 0]
    );
    let wrong = first
        + &job("a", "c")
        + &job("b", "a")
        + &job("c", "b")
        + &job("self", "self")
        + &job("lost", "frist")
        + &job("beside", "b")
        + &job("late", "pushes")
        + &(job("both", "first") + "every = \"1h\"\n")
        + "[[source]]\nname = \"pushes\"\ntype = \"http\"\ntopic = \"p\"\n";
    let found = problems(&wrong);
    for want in [
        "source[1].after: these sources wait for one another: `a` after `c` after `b`",
        "source[2].after: these sources wait for one another: `b` after `a` after `c`",
        "source[3].after: these sources wait for one another: `c` after `b` after `a`",
        "source[4].after: this source would wait for itself",
        "source[5].after: there is no source `frist`: did you mean `first`?",
        "source[7].after: `pushes` has no runs that could be followed: it is no `database` source",
        "source[8].after: there is `every` already: leave one of them out",
    ] {
        assert!(found.iter().any(|line| line.ends_with(want)), "missing: {want}\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), 7, "{}", found.join("\n"));
}

#[test]
fn a_kafka_source_says_which_topics_and_where_they_go() {
    let source = |rest: &str| {
        format!(
            "[log]\nkafka = \"127.0.0.1:9093\"\n[[source]]\nname = \"m\"\ntype = \"kafka\"\n{rest}\n[[table]]\nname = \"{{table}}\"\ntopic = \"shop.{{table}}\"\n"
        )
    };
    let right = "brokers = \"a:9092, b:9092\"\ntopics = [\"shop.*\", \"x\"]\ntopic = \"{topic}\"";
    assert_eq!(problems_or_none(&source(right)), [""; 0] as [&str; 0]);
    assert_eq!(
        problems_or_none(&source("brokers = \"a:9092\"\ntopics = \"orders\"\ntopic = \"shop.o\"")),
        [""; 0] as [&str; 0]
    );
    let wrong = "brokers = \"127.0.0.1:9093\"\ntopics = \"shop.*\"\ntopic = \"shop.x\"\ntls_ca = \"ca.pem\"\nuser = \"ada\"\nlook_every = \"0s\"";
    let found = problems(&source(wrong));
    for want in [
        "source[0].brokers: this is `log.kafka`",
        "source[0].topic: several topics",
        "source[0].tls_ca: without",
        "source[0].password: a `user`",
        "look_every",
    ] {
        assert!(found.iter().any(|line| line.contains(want)), "missing: {want}\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), 5, "{}", found.join("\n"));
    let shaped = "brokers = \"a:9092\"\ntopics = \"orders\"\ntopic = \"shop.o\"\nformat = \"csv\"\npassword = \"x\"\nsasl = \"plain\"";
    let found = problems(&source(shaped));
    for want in ["source[0].format: a stream has no header", "source[0].user: a password needs"] {
        assert!(found.iter().any(|line| line.contains(want)), "missing: {want}\n{}", found.join("\n"));
    }
    let strange = "brokers = \"nowhere\"\ntopics = []\ntopic = \"{table}\"";
    let found = problems(&source(strange));
    for want in [
        "source[0].brokers: these are no addresses",
        "source[0].topics",
        "only a `database` source knows `{table}`",
    ] {
        assert!(found.iter().any(|line| line.contains(want)), "missing: {want}\n{}", found.join("\n"));
    }
}

#[test]
fn what_is_wrong_with_formats_interceptors_and_routes_is_told_key_by_key() {
    let wrong = STREAM
        .replace("'^(?<a>.)'", "'^(.)'")
        .replace("start = '^x'", "start = '^x('")
        .replace("%d/%m/%Y", "dd/mm")
        .replace("Europe/Berlin", "Europe/Berln")
        .replace("secret = \"${KEY}\"", "secrt = \"x\"")
        .replace("values = [\"1\"]", "sample = 2")
        .replace("tcp = \"127.0.0.1:0\"", "tcp = \"0.0.0.0:1\"\nformat = \"csv\"");
    assert_eq!(
        problems(&wrong),
        [
            "6:9: source[0].regex: no group has a name, so there is no field: write `(?<name>...)`",
            "9:9: source[0].multiline.start: this is no regular expression: unclosed group",
            "13:10: source[0].interceptor[0].format: this is no format: write `rfc3339`, `unix`, `unix_ms`, or strftime's letters",
            "14:12: source[0].interceptor[0].timezone: `Europe/Berln` is no time zone, did you mean `Europe/Berlin`?",
            "15:1: source[0].interceptor[1].secret: this key is missing: a string",
            "18:1: source[0].interceptor[1].secrt: unknown key, did you mean `secret`?",
            "19:1: source[0].route[0].values: say what it must be: `values`, or `regex`",
            "22:10: source[0].route[0].sample: a share is between 0 and 1",
            "26:7: source[1].tcp: `0.0.0.0:1` can be reached from other machines, and there is no authentication yet: use \
             `127.0.0.1`, or run with `--insecure` if the network keeps strangers out",
            "27:10: source[1].format: a stream has no header, so it is not read as `csv`; whole CSV files are for `spooldir`",
        ]
    );
}

#[test]
fn a_rate_limit_says_what_it_limits() {
    let of = |limit: &str| {
        problems(&format!(
            "[[source]]\nname = \"s\"\ntype = \"generator\"\ntopic = \"t\"\n[source.rate_limit]\n{limit}"
        ))
    };
    assert_eq!(of("bytes_per_second = \"1KiB\"\nrecords_per_second = 0").len(), 1);
    for (limit, says) in [
        ("", "say how much: `records_per_second`, `bytes_per_second`, or both"),
        ("records_per_second = 0", "this must be at least 1"),
        ("bytes_per_second = \"1\"", "this must be at least 1024"),
        ("records = 5", "did you mean `records_per_second`?"),
    ] {
        let found = of(limit);
        assert!(
            found.iter().any(|line| line.contains("rate_limit") && line.contains(says)),
            "{limit}: {found:?}"
        );
    }
}

#[test]
fn files_made_of_columns_are_for_spooldir() {
    for format in ["avro", "parquet"] {
        let of = |source: &str| {
            problems(&format!(
                "[[source]]\nname = \"s\"\ntopic = \"t\"\nkey = \"k\"\nformat = \"{format}\"\n{source}"
            ))
        };
        for source in ["type = \"taildir\"\npath = \"x/*\"", "type = \"netcat\"\ntcp = \"127.0.0.1:0\""] {
            let found = of(source);
            assert!(
                found.iter().any(|line| line.contains("only `spooldir` reads files of this format")),
                "{found:?}"
            );
        }
        let found = of("type = \"spooldir\"\npath = \"in\"\n[source.multiline]\nstart = \"x\"");
        assert!(found.len() == 1 && found[0].contains("a record of this format"), "{found:?}");
    }
}

#[test]
fn a_table_of_many_topics_says_what_it_lacks() {
    let of =
        |table: &str| problems(&format!("log.kafka = \"127.0.0.1:0\"\n[[table]]\nname = \"shop\"\n{table}"));
    let found = of("topics = \"shop\"\ntopic = \"a\"");
    assert!(found.iter().any(|line| line.contains("`topics` already")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("`shop` is one topic")), "{found:?}");
    let found = of("topics = \"shop.*\"");
    assert!(found.len() == 1 && found[0].contains("must be declared"), "{found:?}");
    let found = of("topics = \"a*b*\"\ncolumns = \"n INT\"");
    assert!(found.len() == 1 && found[0].contains("more than one `*`"), "{found:?}");
    let found = of("topcs = \"shop.*\"\ncolumns = \"n INT\"");
    assert!(found.iter().any(|line| line.contains("did you mean `topics`?")), "{found:?}");
    let of = |table: &str| problems(&format!("[[table]]\nname = \"t\"\n{table}\n[[topic]]\nname = \"t\""));
    let found = problems("[[table]]\nname = \"t\"\ntopics = \"x.*\"\ncolumns = \"n INT\"");
    assert!(found.len() == 1 && found[0].contains("no source fills a topic that fits `x.*`"), "{found:?}");
    let found = of("key_column = \"_offset\"\nheaders_column = \"h\"\ntimestamp_column = \"H\"");
    assert!(found.iter().any(|line| line.contains("`_offset` is one of the system columns")), "{found:?}");
    assert!(
        found.iter().any(|line| line.contains("`H` is the column of `headers_column` already")),
        "{found:?}"
    );
    let found = of("columns = \"k BIGINT\"\nkey_column = \"k\"");
    assert!(
        found.len() == 1 && found[0].contains("column `k` is `BIGINT`; declare it as `VARCHAR`"),
        "{found:?}"
    );
    let config = parse(
        "[[topic]]\nname = \"t\"\n[[table]]\nname = \"t\"\ncolumns = \"n INT\"\nkey_column = \"k\"\npartition_by = [\"k\"]",
    );
    assert!(config.is_ok(), "a column that is not declared may be used as one: {config:?}");
}

#[test]
fn what_is_wrong_with_pushes_brokers_and_patterns_is_told() {
    let of = |more: &str| {
        let config = format!("[[source]]\nname = \"s\"\ntopic = \"t\"\n{more}\n[[table]]\nname = \"t\"\n");
        let lines = problems_or_none(&config);
        lines
            .iter()
            .map(|line| line.split_once(": ").map_or(line.as_str(), |(_, rest)| rest).to_owned())
            .collect::<Vec<_>>()
    };
    let mqtt = "type = \"mqtt\"\nbroker = \"127.0.0.1:1883\"\nsubscribe = [\"a/+/b\", \"#\"]\n";
    let none: [String; 0] = [];
    assert_eq!(of(mqtt), none);
    assert_eq!(
        of(
            "type = \"mqtt\"\nbroker = \"here\"\nsubscribe = [\"a+\", \"#/b\"]\nqos = 3\nkeep_alive = \"1ms\""
        ),
        [
            "source[0].broker: this is no address: write `host:port`, e.g. `127.0.0.1:1883`",
            "source[0].subscribe[0]: this is no filter: `+` stands for a whole level, `#` for all levels at the end",
            "source[0].subscribe[1]: this is no filter: `+` stands for a whole level, `#` for all levels at the end",
            "source[0].qos: a quality of service is 0, 1 or 2",
            "source[0].keep_alive: this is between `1s` and `65535s`",
        ]
    );
    assert_eq!(of(&format!("{mqtt}password = \"x\"")), ["source[0].user: a password needs a `user`"]);
    assert_eq!(of("type = \"http\"\nbody = \"form\"\nkey = \"a\""), none);
    assert_eq!(
        of("type = \"http\"\nbody = \"form\"\nformat = \"logfmt\""),
        ["source[0].format: the fields of a form are its format: leave this out"]
    );
    assert_eq!(
        of("type = \"http\"\nbdoy = \"whole\""),
        ["source[0].bdoy: unknown key, did you mean `body`?"]
    );
    let tail = "type = \"taildir\"\npath = \"x\"\nformat = \"grok\"\n";
    assert_eq!(of(&format!("{tail}grok = '%{{INT:n:int}} %{{OWN:o}}'\npatterns = {{ OWN = 'a' }}")), none);
    assert_eq!(
        of(&format!("{tail}grok = '%{{NUMBR:n}}'")),
        ["source[0].grok: there is no pattern `NUMBR`, did you mean `NUMBER`?"]
    );
    assert_eq!(
        of(&format!("{tail}grok = '%{{INT}}'")),
        ["source[0].grok: no part of this pattern is a field: write `%{NAME:field}`"]
    );
    let found = of("type = \"syslog\"\ntpc = \"127.0.0.1:0\"");
    assert!(found.contains(&"source[0].tpc: unknown key, did you mean `tcp`?".to_owned()), "{found:?}");
}

fn problems_or_none(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(_) => problems(text),
    }
}

#[test]
fn what_is_wrong_with_an_import_is_told() {
    let of = |more: &str| {
        let table = "[[topic]]\nname = \"t\"\n[[table]]\nname = \"t\"\n";
        let lines = problems_or_none(&format!("{table}[[import]]\nname = \"job\"\n{more}\n"));
        let told = |line: &String| line.split_once(": ").map_or(line.as_str(), |(_, rest)| rest).to_owned();
        lines.iter().map(told).collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    let (sqlite, postgres) = ("url = \"sqlite:a\"\n", "url = \"postgres://u@h/d\"\n");
    assert_eq!(of(&format!("{sqlite}table = \"a\"\ncolumns = [\"x\"]\nwhere = \"x > 1\"")), none);
    assert_eq!(of(&format!("{postgres}query = \"SELECT 1 AS x WHERE $CONDITIONS\"\nsplit_by = \"x\"")), none);
    assert_eq!(of(&format!("{sqlite}query = \"SELECT 1 AS x\"\nsplit_by = \"x\"")), none);
    let mysql = "url = \"mysql://u@h/d\"\n";
    assert_eq!(of(&format!("{mysql}table = \"a\"\nsplit_by = \"x\"")), none);
    assert_eq!(of(&format!("{mysql}query = \"SELECT 1 AS x\"\nsplit_by = \"x\"")).len(), 1);
    assert_eq!(of(&format!("{sqlite}table = \"*\"\ninclude = [\"a*\"]\ninto = \"shop_{{table}}\"")), none);
    assert_eq!(of(&format!("{postgres}table = \"*\"\ninto = \"shop_{{table}}\"\nreaders = 2")), none);
    for what in [format!("{postgres}query = \"SELECT 1\""), format!("{sqlite}table = \"a\"")] {
        let told =
            "import[0].readers: only an import with `split_by`, or of a `table` of PostgreSQL, uses this";
        assert_eq!(of(&format!("{what}\nreaders = 2")), [told]);
    }
    assert_eq!(of(&format!("{postgres}table = \"*\"\ninto = \"s_{{table}}\"\nincremental = true")), none);
    assert_eq!(
        of(&format!("{mysql}query = \"SELECT 1 AS x\"\nincremental = true\ncursor = \"x\"\nlag = \"1s\"")),
        none
    );
    let both = of(&format!("{sqlite}table = \"a\"\nincremental = true\nmode = \"overwrite\""));
    assert!(both.len() == 2 && both[0].contains("`cursor`") && both[1].contains("`overwrite`"), "{both:?}");
    for (what, told) in [
        (
            format!("{postgres}table = \"a\"\nincremental = true\nmode = \"overwrite\""),
            "mode: `overwrite` takes away",
        ),
        (
            format!("{postgres}table = \"a\"\nincremental = true\nreaders = 2"),
            "readers: new rows are read by one reader",
        ),
        (
            format!("{postgres}table = \"a\"\nincremental = true\ncursor = \"x\""),
            "cursor: PostgreSQL tells new rows",
        ),
        (
            format!("{postgres}query = \"SELECT 1\"\nincremental = true"),
            "incremental: the new rows of a query",
        ),
        (
            format!("{sqlite}table = \"a\"\nincremental = true"),
            "incremental: this database needs the growing column",
        ),
        (
            format!("{sqlite}table = \"a\"\nincremental = true\ncursor = \"x\"\nlag = \"1s\""),
            "lag: only MySQL",
        ),
        (
            format!("{sqlite}table = \"a\"\ncursor = \"x\""),
            "cursor: only an import with `incremental = true`",
        ),
    ] {
        let found = of(&what);
        assert!(found.len() == 1 && found[0].starts_with(&format!("import[0].{told}")), "{what}: {found:?}");
    }
    let taken = "is a name of table[0], which is made from a topic: an import needs a table of its own";
    for (into, field) in [("t", "into"), ("T_dead_letters", "into")] {
        assert_eq!(
            of(&format!("{sqlite}table = \"a\"\ninto = \"{into}\"")),
            [format!("import[0].{field}: `{into}` {taken}")]
        );
    }
    assert_eq!(
        of(&format!("{sqlite}table = \"*\"\ninto = \"{{table}}\"")),
        [format!("import[0].into: `{{table}}` {taken}")],
        "the database may have a table `t`"
    );
    assert_eq!(
        of(&format!(
            "{sqlite}table = \"*\"\nsplit_by = \"x\"\nreaders = 1\ntypes = \"x\"\ntimezone = \"Oslo\""
        )),
        [
            "import[0].into: several tables need several names: put `{table}` into it, e.g. `shop_{table}`",
            "import[0].split_by: only an import of one `table` uses this, or of a `query` of PostgreSQL or SQLite",
            "import[0].readers: a table is read by 2 to 64 readers",
            "import[0].types: column `x` has no type; write `name TYPE`",
            "import[0].timezone: `Oslo` is no time zone: write e.g. `Europe/Berlin`",
        ]
    );
    let two = format!(
        "{sqlite}table = \"a\"\n[[import]]\nname = \"other\"\ninto = \"job\"\nmode = \"overwrite\"\n{sqlite}query = \"\""
    );
    assert_eq!(
        of(&two),
        [
            "import[1].into: import[0] fills this table too: one of them would overwrite the other's rows",
            "import[1].query: the query is empty",
        ]
    );
}
