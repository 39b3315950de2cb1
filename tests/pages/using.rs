//! What people do on the pages: zoom, look closer, choose, download, go by keyboard.

use super::*;

/// Two dashboards more: choices that follow each other, of which one takes several values.
const CHOICES: &str = r#"
[[dashboard]]
name = "choose"

[[dashboard.variable]]
name = "first"
label = "First letter"
query = "SELECT DISTINCT substr(city, 1, 1) FROM orders ORDER BY 1"

[[dashboard.variable]]
name = "city"
label = "Cities"
query = "SELECT DISTINCT city FROM orders WHERE $first IS NULL OR city LIKE concat($first, '%') ORDER BY 1"
multiple = true

[[dashboard.variable]]
name = "must"
query = "SELECT DISTINCT city FROM orders ORDER BY 1"
all = false

[[dashboard.panel]]
title = "Chosen"
chart = "table"
query = "SELECT city, n FROM by_city WHERE ($city IS NULL OR city = ANY($city)) AND ($first IS NULL OR city LIKE concat($first, '%')) ORDER BY city"

[[dashboard.panel]]
title = "Must"
chart = "table"
query = "SELECT city FROM by_city WHERE city = $must"
"#;

fn started(more: &str, orders: i64) -> (Folder, crate::harness::Running, Client) {
    let folder = Folder::new(&format!("{}{more}", CONFIG.replace("PORT", "0")));
    let mut running = folder.start();
    let client = running.ready();
    push_orders(&client, 0, orders);
    wait_for("the orders", seconds(30), || {
        (client.sql("SELECT count(*) AS n FROM orders")[0]["n"] == orders).then_some(())
    });
    (folder, running, client)
}

/// The text of the first column of a panel's table.
fn first_cells(title: &str) -> String {
    format!(
        "[...([...document.querySelectorAll('.panel')].find(p => p.ariaLabel === '{title}')?.querySelectorAll('tbody tr') ?? [])].map(r => r.cells[0].textContent).join(' ')"
    )
}

#[test]
fn a_stretch_of_a_chart_that_is_drawn_over_becomes_the_time_range() {
    let (_folder, running, client) = started("", 200);
    let mut browser = Browser::start();
    browser.open(&client, "/d/shop", SIZES[0]);
    browser.until("the chart", &format!("({}) === 'ready'", state_of("Over time")));
    let panel = "[...document.querySelectorAll('.panel')].find(p => p.ariaLabel === 'Over time')";
    browser.eval(&format!("{panel}.scrollIntoView({{ block: 'center' }})"));
    let place = browser.eval(&format!(
        "(b => [b.left, b.top, b.width, b.height])({panel}.querySelector('.canvas').getBoundingClientRect())"
    ));
    let [left, top, width, height] = [0, 1, 2, 3].map(|at| place[at].as_f64().expect("a number"));
    let middle = top + height / 2.0;
    browser.command(
        json!({"do": "drag", "from": [left + width * 0.4, middle], "to": [left + width * 0.7, middle]}),
    );
    browser.until("a time range in the address", "location.search.includes('from=')");
    let range = browser.eval("['from', 'to'].map(name => new URLSearchParams(location.search).get(name))");
    let (from, to) = (range[0].as_str().expect("from"), range[1].as_str().expect("to"));
    assert!("2026-05-01T08:00:00Z" < from && from < to && to < "2026-05-01T08:29:00Z", "{from} to {to}");
    // Its rows are those that SQL gives for that time.
    let sql = format!(
        "SELECT count(*) AS n FROM (SELECT date_bin(INTERVAL '1 minute', ts), city FROM orders \
         WHERE ts >= TIMESTAMP '{from}' AND ts < TIMESTAMP '{to}' GROUP BY 1, 2)"
    );
    let expected = client.sql(&sql)[0]["n"].clone();
    browser.until("its rows", &format!("({})?.length === {expected}", rows_of("Over time")));
    assert!(expected.as_i64().is_some_and(|n| n > 10), "{expected} points");
    // One step back is the whole again.
    browser.eval("history.back()");
    browser.until("all rows", &format!("({})?.length > {expected}", rows_of("Over time")));
    browser.was_good();
    drop(running);
}

#[test]
fn panels_are_reached_and_shown_at_full_screen_by_keyboard() {
    let (_folder, running, client) = started("", 40);
    let mut browser = Browser::start();
    browser.open(&client, "/d/shop", SIZES[0]);
    browser.until("the chart", &format!("({}) === 'ready'", state_of("Over time")));
    let mut stops = Vec::new();
    while stops.last().map(String::as_str) != Some("Over time") {
        browser.command(json!({"do": "press", "key": "Tab"}));
        let here = browser.eval(
            "(e => e.ariaLabel || e.name || e.textContent.trim().slice(0, 30) || e.tagName)(document.activeElement)",
        );
        stops.push(here.as_str().expect("a name").to_owned());
        let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
        assert_ne!(outline, json!("none"), "where one is cannot be seen: {stops:?}");
        assert!(stops.len() < 60, "Tab does not get there: {stops:?}");
    }
    assert!(stops.iter().any(|stop| stop == "city"), "the choice is on the way: {stops:?}");
    browser.command(json!({"do": "press", "key": "f"}));
    browser.until("full screen", "document.fullscreenElement?.ariaLabel === 'Over time'");
    browser.until(
        "the chart to fill it",
        "(c => c.clientWidth > innerWidth * 0.9 && c.clientHeight > innerHeight * 0.6)(document.fullscreenElement.querySelector('canvas'))",
    );
    browser.shot("full_screen", SIZES[0]);
    browser.command(json!({"do": "press", "key": "f"}));
    browser.until("the page again", "!document.fullscreenElement");
    // Rows instead of the chart, and back.
    let rows =
        "[...document.querySelectorAll('button')].find(b => b.ariaLabel === 'Show the rows: Over time')";
    browser.eval(&format!("{rows}.focus()"));
    browser.command(json!({"do": "press", "key": "Enter"}));
    browser.until("the rows", &format!("{}.length > 0", first_cells("Over time")));
    browser.command(json!({"do": "press", "key": "Enter"}));
    browser.until("the chart", &format!("{}.length === 0", first_cells("Over time")));
    browser.was_good();
    drop(running);
}

#[test]
fn several_values_are_chosen_and_choices_follow_each_other() {
    let (_folder, running, client) = started(CHOICES, 40);
    let mut browser = Browser::start();
    browser.open(&client, "/d/choose", SIZES[0]);
    browser.until("all cities", &format!("{} === 'Cork Lima Oslo Pune'", first_cells("Chosen")));
    browser.until("the first where one must be", &format!("{} === 'Cork'", first_cells("Must")));
    assert_eq!(browser.eval("new URLSearchParams(location.search).get('must')"), json!("Cork"));
    // Two of them, by keyboard: the list opens, and stays open where one was.
    browser.eval("document.querySelector('.several summary').focus()");
    browser.command(json!({"do": "press", "key": "Enter"}));
    browser.until("the list", "document.querySelectorAll('.several[open] input').length === 5");
    for city in ["Oslo", "Lima"] {
        browser.eval(&format!("document.querySelector('[data-choice=\"city={city}\"]').focus()"));
        browser.command(json!({"do": "press", "key": "Space"}));
        browser.until(
            "the choice",
            &format!("document.querySelector('[data-choice=\"city={city}\"]').checked && document.activeElement.dataset.choice === 'city={city}'"),
        );
    }
    browser.until("two cities", &format!("{} === 'Lima Oslo'", first_cells("Chosen")));
    assert_eq!(browser.eval("new URLSearchParams(location.search).getAll('city')"), json!(["Lima", "Oslo"]));
    assert_eq!(browser.eval("document.querySelector('.several summary').textContent"), json!("Lima, Oslo"));
    browser.shot("choices", SIZES[0]);
    browser.command(json!({"do": "press", "key": "Escape"}));
    browser.until("the list to close", "!document.querySelector('.several[open]')");
    // A link shows the same.
    let path = browser.eval("location.pathname + location.search");
    browser.open(&client, path.as_str().expect("a path"), SIZES[2]);
    browser.until("the same", &format!("{} === 'Lima Oslo'", first_cells("Chosen")));
    browser.command(json!({"do": "click", "at": ".several summary"}));
    browser.until("the list", "document.querySelectorAll('.several[open] input').length === 5");
    browser.shot("choices", SIZES[2]);
    // Another first letter: the cities are others, and those that were chosen are not meant any more.
    browser.eval("(s => { s.value = 'P'; s.dispatchEvent(new Event('change')); })(document.querySelector('select[name=first]'))");
    browser.until("its city", &format!("{} === 'Pune'", first_cells("Chosen")));
    browser.until("its choices", "[...document.querySelectorAll('.several input')].map(i => i.dataset.choice).join() === 'city=,city=Pune'");
    assert_eq!(browser.eval("new URLSearchParams(location.search).has('city')"), json!(false));
    browser.was_good();
    drop(running);
}

#[test]
fn an_answer_is_downloaded_as_csv_and_parquet_and_mistakes_are_told_as_everywhere() {
    let (folder, running, client) = started("", 400);
    let mut browser = Browser::start();
    let downloads = folder.path("downloads");
    std::fs::create_dir_all(&downloads).expect("a folder");
    browser.open(&client, "/sql", SIZES[0]);
    browser.command(json!({"do": "downloads", "path": downloads}));
    let write = |browser: &mut Browser, sql: &str| {
        browser.eval("(a => { a.focus(); a.select(); })(document.querySelector('textarea'))");
        browser.command(json!({"do": "type", "text": format!("{sql} ")}));
        browser.command(json!({"do": "press", "key": "Escape"}));
    };
    let sql = "SELECT id, city, price, ts FROM orders ORDER BY id";
    write(&mut browser, sql);
    for format in ["csv", "parquet"] {
        browser.eval(&format!("(s => {{ s.value = '{format}'; s.dispatchEvent(new Event('change')); }})(document.querySelector('.work select'))"));
        let path = downloads.join(format!("answer.{format}"));
        wait_for("the file", seconds(30), || {
            let is_whole = path.exists() && !downloads.join(format!("answer.{format}.crdownload")).exists();
            (is_whole && std::fs::metadata(&path).is_ok_and(|file| file.len() > 0)).then_some(())
        });
    }
    let csv = std::fs::read_to_string(downloads.join("answer.csv")).expect("the file");
    let direct = client.post("/v1/sql", &[("Accept", "text/csv")], sql.as_bytes()).expect("an answer");
    assert_eq!(csv, direct.text());
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = "import duckdb, sys; print(duckdb.sql(f\"SELECT count(*), sum(id), max(city) FROM '{sys.argv[1]}'\").fetchone())";
    let output = Command::new(python).args(["-c", script]).arg(downloads.join("answer.parquet")).output();
    let output = output.expect("start DuckDB");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "(400, 79800, 'Pune')", "{output:?}");
    // By keyboard, and in the words of every other door.
    let said = "document.querySelector('.said').innerText";
    for sql in [
        "SELECT pirce FROM orders",
        "SELECT * FROM odrers",
        "SELECT sun(id) FROM orders",
        "SELECT city - id FROM orders",
        "SELECT CAST('x' AS BIGINT) FROM orders",
        "DROP TABLE orders",
        "SELECT 1; SELECT 2",
        "SELECT value FROM generate_series(1, 200000000) ORDER BY value % 1000, value",
    ] {
        write(&mut browser, sql);
        browser.command(json!({"do": "press", "key": "Control+Enter"}));
        let error = client.try_sql(sql).expect("an answer").json()["error"].clone();
        for part in ["message", "hint"] {
            let Some(text) = error[part].as_str() else { continue };
            browser.until(&format!("`{text}`"), &format!("{said}.includes({})", json!(text)));
        }
    }
    drop(running);
}

/// How long it takes until something is seen, and until all of a page is there: printed, for people to look at.
#[test]
fn pages_are_painted_soon() {
    let (_folder, running, client) = started("", 400);
    let mut browser = Browser::start();
    for (path, there) in [
        ("/", "document.querySelectorAll('.cards a').length === 1"),
        (
            "/d/shop",
            "document.querySelectorAll('.panel').length === 9 && !document.querySelector('.panel[data-state=loading]')",
        ),
        ("/sql", "document.querySelectorAll('.tables details').length >= 3"),
        ("/catalog", "document.querySelector('#catalog').innerText.includes('orders')"),
        ("/pipeline", "document.querySelectorAll('.node').length === 4"),
    ] {
        browser.open(&client, path, SIZES[0]);
        browser.until("the page", there);
        let whole = browser.eval("Math.round(performance.now())");
        browser.until("a paint", "performance.getEntriesByName('first-contentful-paint').length > 0");
        let first =
            browser.eval("Math.round(performance.getEntriesByName('first-contentful-paint')[0].startTime)");
        println!("{path}: first paint after {first} ms, whole within {whole} ms");
    }
    drop(running);
}
