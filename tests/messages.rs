//! What people read: help, wrong configs, errors. Compared with the texts in tests/golden; `TARN_BLESS=1` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Ended, Folder};

const NOTHING: &str = "";

/// Runs commands in `folder` and compares all that they say with tests/golden/`name`.txt.
#[track_caller]
fn golden(name: &str, folder: &Folder, commands: &[&[&str]]) {
    let mut text = String::new();
    for command in commands {
        let ended = folder.tarn(command);
        let line: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let separator = if text.is_empty() { "" } else { "\n" };
        _ = writeln!(text, "{separator}$ tarn {}", line.join(" "));
        text += &said(folder, &ended);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/{name}.txt"));
    if std::env::var_os("TARN_BLESS").is_some() {
        std::fs::write(&path, &text).expect("write the golden text");
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    if stored != text {
        let different = stored.lines().zip(text.lines()).find(|(old, new)| old != new);
        panic!(
            "{name}.txt is another text now, first at {different:?}; look at it, and bless it with TARN_BLESS=1\n{text}"
        );
    }
}

fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

/// Both streams and the exit code, with what differs between machines taken out.
fn said(folder: &Folder, ended: &Ended) -> String {
    let mut text = ended.printed.clone();
    for line in ended.said.lines() {
        _ = writeln!(text, "! {line}");
    }
    if ended.code != Some(0) {
        _ = writeln!(text, "exit {:?}", ended.code.unwrap_or(-1));
    }
    let here = folder.path(NOTHING);
    let real = here.canonicalize().expect("the folder is there");
    let text = text
        .replace(&*real.to_string_lossy(), "DIR")
        .replace(here.to_string_lossy().trim_end_matches('/'), "DIR");
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn help_teaches_every_command() {
    let folder = Folder::new(NOTHING);
    golden(
        "help",
        &folder,
        &[
            &["--help"],
            &["demo", "--help"],
            &["run", "--help"],
            &["check", "--help"],
            &["sql", "--help"],
            &["status", "--help"],
            &["verify", "--help"],
            &["table", "--help"],
            &["table", "vacuum", "--help"],
            &["table", "detach", "--help"],
            &["topic", "--help"],
            &["group", "--help"],
            &["group", "reset", "--help"],
            &["produce", "--help"],
            &["consume", "--help"],
            &["source", "--help"],
            &["import", "--help"],
            &["export", "--help"],
        ],
    );
}

#[test]
fn a_wrong_command_line_is_explained() {
    let folder = Folder::new(NOTHING);
    std::fs::remove_file(folder.path("tarn.toml")).expect("no config");
    golden(
        "command_line",
        &folder,
        &[
            &["chekc"],
            &["run"],
            &["run", "tarn.toml", "--darin"],
            &["sql", "--output", "xml", "SELECT 1"],
            &["sql", "--as-of", "orders", "SELECT 1"],
            &["demo", "--for", "soon"],
            &["sql", "SELECT 1"],
            &["status", "-c", "other.toml"],
        ],
    );
}

const WRONG: &str = r#"data_dri = "data"

[log]
sync = "gruop"
retention_time = "a week"

[serving]
http = "0.0.0.0:8080"

[[topic]]
name = "flights"
partitions = 0

[[source]]
name = "flights"
type = "spooldir"
path = "in"
formt = "csv"
topic = "flights"
null_values = "NA"

[[source]]
name = "flights"
type = "http"
topic = "click stream"
rate = 5

[[source]]
name = "db"
type = "database"
url = "sqlite:${NO_SUCH_VARIABLE}"
table = "orders"
mode = "append"
cron = "* * *"
topic = "orders"

[[table]]
name = "flights"
columns = "year INT, origin VARCHAR, time_hour TIMESTMP"

[[table]]
name = "planes"
topic = "plains"
columns = "tailnum VARCHAR"
partition_by = ["tail_num"]
timezone = "America/New_Yrok"

[[view]]
name = "by_hour"
"#;

#[test]
fn every_problem_of_a_config_is_said_at_once() {
    let folder = Folder::new(WRONG);
    folder.put("syntax.toml", "data_dir = \"data\n\n[[table]\nname = 'x'\nname = 'y'\n");
    golden(
        "wrong_config",
        &folder,
        &[
            &["check", "tarn.toml"],
            &["check", "tarn.toml", "--output", "json"],
            &["run", "tarn.toml"],
            &["check", "syntax.toml"],
            &["check", "nowhere.toml"],
        ],
    );
}

#[test]
fn a_right_config_is_told_back() {
    let folder = Folder::new(
        r#"
[lake]
options = { secret_access_key = "hunter2" }

[[topic]]
name = "flights"
partitions = 2

[[source]]
name = "spool"
type = "spooldir"
path = "in"
format = "csv"
topic = "flights"
key = "tailnum"

[[source]]
name = "shop"
type = "database"
url = "sqlite:hunter2.sqlite"
table = "*"
every = "5m"
topic = "shop_{table}"

[[table]]
name = "flights"
columns = "year INT, origin VARCHAR, tailnum VARCHAR"
partition_by = ["origin"]

[[table]]
name = "shop_orders"
"#,
    );
    golden("right_config", &folder, &[&["check", "tarn.toml"]]);
    let ended = folder.tarn(&["check", "--output", "json"]);
    let told: Value = serde_json::from_str(&ended.printed).expect("JSON");
    assert_eq!((ended.code, &told["ok"]), (Some(0), &Value::Bool(true)));
    assert_eq!(told["config"]["topic"][0]["partitions"], 2);
    assert!(!ended.printed.contains("hunter2"), "a secret is shown");
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let folder = Folder::new("[serving]\nhttp = \"127.0.0.1:0\"\n");
    golden(
        "errors",
        &folder,
        &[
            &["status"],
            &["topic", "list"],
            &["sql", "SELECT 1"],
            &["verify"],
            &["table", "list"],
            &["table", "describe", "orders"],
            &["table", "optimize", "orders"],
        ],
    );
}
