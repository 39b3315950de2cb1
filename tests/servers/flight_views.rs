//! The views of `configs/flights.toml` beside DuckDB over the same CSV files, while half of the rows are in the lake and half in
//! the tail.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Client, Folder, count, seconds, wait_for};

const VIEWS: [&str; 4] = ["delay_by_hour", "traffic", "delay_by_airline", "cancelled_by_month"];

const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,\
                      tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n";

/// The example, committing so seldom that what comes while it runs stays in the tail.
fn config() -> String {
    let text = include_str!("../../configs/flights.toml");
    let text = text.replace("http = \"127.0.0.1:8080\"", "http = \"127.0.0.1:0\"");
    let seldom = text.replace("commit_every = \"10s\"", "commit_every = \"1h\"");
    assert_ne!(seldom, text, "the example says when it commits");
    seldom
}

/// Flights `from..from + n` of some winter days: delays of all sizes, one in 17 cancelled, an airline that nobody knows.
fn flights(from: usize, n: usize) -> String {
    let mut csv = HEADER.to_owned();
    for i in from..from + n {
        let (month, day, hour) = (i % 3 + 1, i / 7 % 28 + 1, i / 5 % 24);
        let delay = ((i * 7919) % 1000) as f64 / 10.0 - 20.0 + ((i % 13) * (i % 11)) as f64;
        let (time, delay) = if i % 17 == 0 {
            ("NA".to_owned(), "NA".to_owned())
        } else {
            ((hour * 100).to_string(), delay.to_string())
        };
        let (carrier, origin) = (["UA", "AA", "B6", "ZZ"][i % 4], ["EWR", "LGA", "JFK"][i / 3 % 3]);
        writeln!(
            csv,
            "2013,{month},{day},{time},{hour}00,{delay},NA,NA,NA,{carrier},{i},N{:05},{origin},BOS,NA,200,{hour},0,2013-{month:02}-{day:02}T{hour:02}:00:00Z",
            i % 50,
        )
        .expect("memory takes everything");
    }
    csv
}

#[track_caller]
fn right(folder: &Folder, client: &Client) {
    for view in VIEWS {
        let answer = client.sql(&format!("SELECT * FROM {view}"));
        folder.put(&format!("answers/{view}.json"), serde_json::to_vec(&answer).expect("JSON"));
    }
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/flight_views.py");
    let output =
        Command::new(python).arg(script).arg(folder.path("csvs")).arg(folder.path("answers")).output();
    let output = output.expect("start the independent engine");
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{printed}{said}");
}

/// A file for the spool folder, and a copy for the other engine.
fn drop_in(folder: &Folder, name: &str, csv: &str) {
    folder.put(&format!("csvs/{name}"), csv);
    folder.put(&format!("new/{name}"), csv);
    fs::create_dir_all(folder.path("in")).expect("the spool folder");
    fs::rename(folder.path(format!("new/{name}")), folder.path(format!("in/{name}"))).expect("move it in");
}

#[test]
fn views_of_flights_are_what_duckdb_says_with_half_of_the_rows_in_the_tail() {
    let folder = Folder::new(&config());
    drop_in(
        &folder,
        "airlines.csv",
        "carrier,name\nUA,United Air Lines Inc.\nAA,American Airlines Inc.\nB6,JetBlue Airways\n",
    );
    drop_in(&folder, "flights-1.csv", &flights(0, 6_000));
    folder.drained();
    let mut running = folder.start();
    let client = running.ready();
    right(&folder, &client);
    drop_in(&folder, "flights-2.csv", &flights(6_000, 6_000));
    wait_for("the second half", seconds(60), || (count(&client, "flights")? == 12_000).then_some(()));
    assert_eq!((count(&client, "lake.flights"), count(&client, "live.flights")), (Some(6_000), Some(6_000)));
    right(&folder, &client);
    // With live states of the tail, and not only its rows.
    wait_for("live states of the second half", seconds(60), || {
        let views = client.sql("SHOW VIEWS");
        let kept = views.iter().all(|view| view["kept_as"] == "states" && view["live_records"] == 6_000);
        kept.then_some(())
    });
    right(&folder, &client);
    let way = client.sql("EXPLAIN VIEW delay_by_airline");
    assert!(
        way.iter().any(|line| line["property"] == "joined above the states" && line["value"] == "airlines"),
        "{way:?}"
    );
    // A name that changes is in the next answer.
    let renamed = "carrier,name\nZZ,Nobody Knows\n";
    drop_in(&folder, "airlines-2.csv", renamed);
    wait_for("the fourth airline", seconds(60), || (count(&client, "airlines")? == 4).then_some(()));
    right(&folder, &client);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}
