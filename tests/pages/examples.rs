//! The dashboards that come with Tarn: the demo's, and the one over flights.

use std::fmt::Write as _;

use super::*;
use crate::harness::Running;

const NOTHING_WAITS: &str =
    "document.querySelectorAll('.panel').length > 0 && !document.querySelector('.panel[data-state=loading]')";

/// Every panel has an answer, at each size, and a picture of it.
fn pictures(browser: &mut Browser, client: &Client, name: &str, panels: usize) {
    for size in SIZES {
        browser.open(client, &format!("/d/{name}"), size);
        browser.until("the panels", NOTHING_WAITS);
        browser.until(
            "an answer for each panel",
            "[...document.querySelectorAll('.panel')].every(p => p.dataset.state === 'ready')",
        );
        let found = browser.eval("document.querySelectorAll('.panel').length");
        assert!(found.as_u64().is_some_and(|found| found >= panels as u64), "{found} panels");
        let (wide, narrow) =
            ("scrollWidth - e.clientWidth > 1", "getComputedStyle(e).overflowX === 'hidden'");
        let cut = browser.eval(&format!(
            "[...document.querySelectorAll('.panel .figure, .panel .say')].filter(e => e.{wide} && {narrow}).map(e => e.textContent)"
        ));
        assert_eq!(cut, json!([]), "what is too wide at {size:?}");
        browser.shot(name, size);
        browser.was_good();
    }
}

/// What the panels show whose queries have no placeholders, no limit that could cut between equals, and
/// nothing approximate (rows give other digests than merged states do), is what SQL says at the vector that they name.
fn panels_show_what_sql_says(browser: &mut Browser, client: &Client) -> usize {
    let shown = browser.eval(
        "[...document.querySelectorAll('.panel')].filter(p => !p.tarn.config.query.includes('$') && !/now\\(\\)|LIMIT|p90/.test(p.tarn.config.query)).map(p => ({ title: p.ariaLabel, query: p.tarn.config.query, vector: p.tarn.answer.vector, rows: p.tarn.answer.rows }))",
    );
    let shown = shown.as_array().expect("panels");
    for panel in shown {
        let (query, vector) =
            (panel["query"].as_str().expect("SQL"), panel["vector"].as_str().expect("a vector"));
        let headers = [("Accept", "application/json"), ("Tarn-As-Of", vector)];
        let answer = client.post("/v1/sql", &headers, query.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        // Rows that are equal in what they are ordered by may stand either way; a browser writes 25.0 as 25.
        let sorted = |rows: &Value| -> Vec<String> {
            let row = |row: &Value| {
                let fields = row.as_object().expect("a row").iter();
                let plain =
                    |value: &Value| value.as_f64().map_or(value.to_string(), |number| format!("{number:.6}"));
                fields.map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
            };
            let mut rows: Vec<String> = rows.as_array().expect("rows").iter().map(row).collect();
            rows.sort();
            rows
        };
        assert_eq!(sorted(&panel["rows"]), sorted(&answer.json()), "{} at {vector}", panel["title"]);
    }
    shown.len()
}

#[test]
fn the_demo_opens_with_a_shop_that_moves_at_every_size() {
    let folder = Folder::new("");
    let mut running: Running = folder.start_demo();
    let client = running.ready();
    let mut browser = Browser::start();
    browser.open(&client, "/d/shop", SIZES[0]);
    browser.until("the panels", NOTHING_WAITS);
    // It changes several times a second.
    let vectors = "[...document.querySelectorAll('.panel')].map(p => p.tarn.answer?.vector).join()";
    let mut seen = browser.eval(vectors);
    for _ in 0..8 {
        browser.until("another answer", &format!("{vectors} !== {seen}"));
        seen = browser.eval(vectors);
    }
    pictures(&mut browser, &client, "shop", 8);
    // In the demo whatever ends with the newest rows may lag a statement's own; these need a vector that stays.
    let compared = panels_show_what_sql_says(&mut browser, &client);
    println!("{compared} panels of the demo were compared with SQL at their vectors");
    for (path, name, there) in [
        ("/", "demo_home", "document.querySelectorAll('.cards a').length === 1"),
        (
            "/catalog#table/orders",
            "demo_catalog",
            "document.querySelectorAll('.detail section').length >= 4 && !document.querySelector('.detail').innerText.includes('asking')",
        ),
        (
            "/pipeline",
            "demo_pipeline",
            "document.querySelectorAll('.node').length > 8 && document.querySelectorAll('.node[data-state=moving]').length > 3",
        ),
    ] {
        for size in SIZES {
            browser.open(&client, path, size);
            browser.until(name, there);
            browser.shot(name, size);
            browser.was_good();
        }
    }
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn the_dashboard_over_flights_fits_every_size() {
    let text = include_str!("../../configs/flights.toml");
    let folder = Folder::new(&text.replace("127.0.0.1:8080", "127.0.0.1:0"));
    let mut csv = String::from(
        "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n",
    );
    for i in 0..20_000_usize {
        let (month, day, hour) = (i / 1_700 + 1, i / 60 % 28 + 1, 5 + i % 19);
        let delay = ((i * 7919) % 600) as f64 / 10.0 - 20.0 + (hour * 2) as f64;
        let (time, delay) =
            if i % 37 == 0 { ("NA".into(), "NA".into()) } else { (format!("{hour}00"), delay.to_string()) };
        let (carrier, origin) = (["UA", "AA", "B6", "DL"][i % 4], ["EWR", "LGA", "JFK"][i / 3 % 3]);
        let dest =
            ["BOS", "ATL", "ORD", "LAX", "MCO", "SFO", "CLT", "FLL", "MIA", "DCA", "DTW", "DFW", "RDU"]
                [i % 13];
        _ = writeln!(
            csv,
            "2013,{month},{day},{time},{hour}00,{delay},NA,NA,NA,{carrier},{i},N{:05},{origin},{dest},NA,200,{hour},0,2013-{month:02}-{day:02}T{hour:02}:00:00Z",
            i % 50
        );
    }
    folder.put_gz("in/flights.csv.gz", csv);
    folder.put("in/airlines.csv", "carrier,name\nUA,United Air Lines Inc.\nAA,American Airlines Inc.\nB6,JetBlue Airways\nDL,Delta Air Lines Inc.\n");
    folder.put("in/planes.csv", "tailnum,year,type,manufacturer,model,engines,seats,speed,engine\nN00001,2004,Fixed wing multi engine,EMBRAER,EMB-145XR,2,55,NA,Turbo-fan\n");
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the flights", seconds(60), || {
        (client.sql("SELECT count(*) AS n FROM flights")[0]["n"] == 20_000).then_some(())
    });
    let mut browser = Browser::start();
    pictures(&mut browser, &client, "flights", 8);
    assert!(panels_show_what_sql_says(&mut browser, &client) > 2);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}
