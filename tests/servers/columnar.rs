//! Avro and Parquet files of pyarrow, DuckDB and fastavro: every value of every row is in the lake, as DuckDB sees it there.

use std::path::Path;
use std::process::Command;

use crate::harness::{Folder, exactly_once};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[source]]
name = "parquet"
type = "spooldir"
path = "parquet"
format = "parquet"
topic = "parquet"

[[source]]
name = "avro"
type = "spooldir"
path = "avro"
format = "avro"
topic = "avro"

[[table]]
name = "parquet"
topic = "parquet"

[[table]]
name = "avro"
topic = "avro"
"#;

#[track_caller]
fn script(what: &str, folder: &Folder) {
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/columnar_files.py");
    let output =
        Command::new(python).arg(script).arg(what).arg(folder.path("")).output().expect("start python");
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{what}: {printed}{said}");
}

#[test]
fn files_of_other_libraries_are_in_the_lake_value_by_value() {
    let folder = Folder::new(CONFIG);
    script("write", &folder);
    folder.drained();
    for (table, rows) in [("parquet", 28_000), ("avro", 16_000)] {
        exactly_once(&folder, table, rows, 0);
    }
    script("check", &folder);
}
