//! PostgreSQL's own clients against the real binary: psql, psycopg, psycopg2, SQLAlchemy and JDBC.
//!
//! `tests/servers/run` brings the clients.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Folder, Running, count, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"
postgres = "127.0.0.1:0"

[[source]]
name = "sales"
type = "http"
topic = "sales"

[[table]]
name = "sales"
columns = "id BIGINT NOT NULL, city VARCHAR, price DECIMAL(10,2), at TIMESTAMP, day DATE, paid BOOLEAN, weight DOUBLE"
commit_every = "300ms"

[[view]]
name = "by_city"
query = "SELECT city, count(*) AS n, sum(price) AS total FROM sales GROUP BY city"
"#;

/// A pipeline with 1,000 rows.
fn start(folder: &Folder) -> (Running, String) {
    let mut running = folder.start();
    let client = running.ready();
    let lines: String = (0..1000)
        .map(|id| {
            let city = ["Oslo", "Lima", "Pune"][id % 3];
            format!(
                "{{\"id\": {id}, \"city\": \"{city}\", \"price\": \"{id}.25\", \"at\": \"2026-05-01T08:00:00.5Z\", \
                 \"day\": \"2026-05-01\", \"paid\": {}, \"weight\": 0.5}}\n",
                id % 2 == 0
            )
        })
        .collect();
    let answer = client.post("/v1/ingest/sales", &[], lines.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_for("the rows", seconds(30), || (count(&client, "sales") == Some(1000)).then_some(()));
    let address = wait_for("the address", seconds(60), || running.postgres());
    (running, address)
}

fn psql(address: &str, arguments: &[&str]) -> Output {
    let (host, port) = address.rsplit_once(':').expect("an address");
    Command::new("psql")
        .args(["-X", "-h", host, "-p", port, "-U", "ann", "-d", "tarn"])
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("psql: start these tests with tests/servers/run")
}

#[track_caller]
fn said(output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complained.contains("ERROR"), "{printed}{complained}");
    printed
}

#[test]
fn psql_asks_and_looks_around() {
    let folder = Folder::new(CONFIG);
    let (running, address) = start(&folder);
    let told = said(&psql(
        &address,
        &["-c", "\\timing on", "-c", "SELECT city, count(*), sum(price) FROM sales GROUP BY 1 ORDER BY 1"],
    ));
    assert!(told.contains(" Lima |   333 |"), "{told}");
    assert!(told.contains("Time: "), "{told}");
    for (command, expected) in [
        ("\\d", &["public | by_city", "public | sales", "table", "view"][..]),
        (
            "\\d sales",
            &["id         | bigint", "not null", "price      | numeric(10,2)", "timestamp with time zone"],
        ),
        ("\\d+ sales", &["city       | text"]),
        ("\\d lake.sales", &["Table \"lake.sales\""]),
        ("\\d by_city", &["View \"public.by_city\"", "total"]),
        ("\\dt", &["sales_dead_letters"]),
        ("\\dt *.*", &["lake"]),
        ("\\dt+", &["sales"]),
        ("\\dv", &["by_city"]),
        ("\\l", &["tarn"]),
        ("\\dn", &["lake", "live", "public"]),
        ("\\df", &["(0 rows)"]),
        ("\\du", &["tarn"]),
        ("\\di", &[]),
        ("\\ds", &[]),
        ("\\dx", &[]),
        ("\\dT", &[]),
        ("\\dp", &[]),
        ("\\conninfo", &["ann"]),
        ("\\encoding", &["UTF8"]),
    ] {
        let told = said(&psql(&address, &["-c", command]));
        for text in expected {
            assert!(told.contains(text), "{command}: no `{text}` in\n{told}");
        }
    }
    let wrong = psql(&address, &["-c", "SELECT wrod FROM sales"]);
    let complained = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        complained
            .contains("ERROR:  there is no column `wrod`\nLINE 1: SELECT wrod FROM sales\n               ^"),
        "{complained}"
    );
    let near = psql(&address, &["-c", "SELECT * FROM saels"]);
    assert!(String::from_utf8_lossy(&near.stderr).contains("HINT:  did you mean `sales`?"));
    let told = said(&psql(
        &address,
        &["-c", "\\copy (SELECT id, city FROM sales ORDER BY id LIMIT 2) TO STDOUT WITH CSV HEADER"],
    ));
    assert_eq!(told, "id,city\n0,Oslo\n1,Lima\n");
    let told =
        said(&psql(&address, &["-At", "-v", "FETCH_COUNT=100", "-c", "SELECT id FROM sales ORDER BY id"]));
    assert_eq!(told.lines().count(), 1000);
    running.stop();
    folder.never_panicked();
}

#[test]
fn drivers_of_python_ask_in_their_ways() {
    let folder = Folder::new(CONFIG);
    let (running, address) = start(&folder);
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/postgres_clients.py");
    let told = said(&Command::new(python).arg(script).arg(&address).output().expect("the script ends"));
    print!("{told}");
    assert!(told.trim_end().ends_with("all checks passed"), "{told}");
    running.stop();
    folder.never_panicked();
}

#[test]
fn jdbc_prepares_fetches_looks_around_and_cancels() {
    let folder = Folder::new(CONFIG);
    let (running, address) = start(&folder);
    let jar = std::env::var("TARN_JDBC").expect("TARN_JDBC: start these tests with tests/servers/run");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/Jdbc.java");
    let told = said(
        &Command::new("java").args(["-cp", &jar]).arg(program).arg(&address).output().expect("java ends"),
    );
    print!("{told}");
    assert!(told.trim_end().ends_with("all checks passed"), "{told}");
    running.stop();
    folder.never_panicked();
}
