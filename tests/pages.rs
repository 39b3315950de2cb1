//! The pages in a real browser, without a screen: what they show is what SQL says, whatever happens to the server.
//!
//! Screenshots of every page, wide and narrow, light and dark, go to the folder `TARN_SHOTS`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Client, Folder, seconds, wait_for};

mod examples;
mod using;

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:PORT"

[[topic]]
name = "orders"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "orders"
key = "id"

[[table]]
name = "orders"
columns = "id BIGINT NOT NULL, city VARCHAR, price DOUBLE, ts TIMESTAMP"
commit_every = "500ms"

[[view]]
name = "by_city"
query = "SELECT city, count(*) AS n, sum(price) AS total FROM orders GROUP BY city"

[[dashboard]]
name = "shop"
title = "Shop & <b>more</b>"

[[dashboard.variable]]
name = "city"
query = "SELECT DISTINCT city FROM orders ORDER BY 1"

[[dashboard.panel]]
title = "Orders"
chart = "number"
query = "SELECT sum(n) AS n FROM by_city WHERE $city IS NULL OR city = $city"

[[dashboard.panel]]
title = "By city"
chart = "table"
query = "SELECT city, n, total FROM by_city ORDER BY city"

[[dashboard.panel]]
title = "Over time"
query = "SELECT date_bin(INTERVAL '1 minute', ts) AS minute, city, count(*) AS n FROM orders WHERE ts >= $from AND ts < $to GROUP BY 1, 2 ORDER BY 1"

[[dashboard.panel]]
title = "Stacked"
chart = "stacked_bar"
query = "SELECT date_bin(INTERVAL '1 minute', ts) AS minute, city, count(*) AS n FROM orders GROUP BY 1, 2 ORDER BY 1"

[[dashboard.panel]]
title = "Parts"
chart = "pie"
query = "SELECT city, n FROM by_city ORDER BY n DESC"

[[dashboard.panel]]
title = "Heat"
chart = "heatmap"
query = "SELECT date_bin(INTERVAL '1 minute', ts) AS minute, city, count(*) AS n FROM orders GROUP BY 1, 2 ORDER BY 1"

[[dashboard.panel]]
title = "Nothing"
chart = "bar"
query = "SELECT city, n FROM by_city WHERE n < 0"

[[dashboard.panel]]
title = "Wrong"
chart = "line"
query = "SELECT pirce FROM orders"

[[dashboard.panel]]
title = "Newest"
chart = "log"
query = "SELECT ts, id, city FROM orders ORDER BY id DESC LIMIT 20"
"#;

/// Wide and narrow, light and dark.
const SIZES: [(u32, u32, bool); 4] =
    [(1400, 900, false), (1400, 900, true), (390, 844, false), (390, 844, true)];

/// A browser, by `tests/servers/browser.mjs`.
struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Browser {
    fn start() -> Browser {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/browser.mjs");
        std::env::var("TARN_CHROMIUM").expect("TARN_CHROMIUM: start these tests with tests/servers/run");
        let mut process = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start node");
        let (to, from) = (process.stdin.take().expect("stdin"), process.stdout.take().expect("stdout"));
        Browser { process, to, from: BufReader::new(from) }
    }

    #[track_caller]
    fn command(&mut self, command: Value) -> Value {
        writeln!(self.to, "{command}").expect("the browser listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the browser answers");
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{command}: {e}: `{line}`"));
        assert!(answer["error"].is_null(), "{command}: {}", answer["error"]);
        answer["value"].clone()
    }

    #[track_caller]
    fn open(&mut self, client: &Client, path: &str, (width, height, dark): (u32, u32, bool)) {
        let url = format!("http://{}{path}", client.address());
        self.command(json!({"do": "open", "url": url, "width": width, "height": height, "dark": dark}));
    }

    #[track_caller]
    fn eval(&mut self, js: &str) -> Value {
        self.command(json!({"do": "eval", "js": js}))
    }

    /// Waits until `js` is true on the page.
    #[track_caller]
    fn until(&mut self, what: &str, js: &str) {
        wait_for(what, seconds(90), || (self.eval(js) == json!(true)).then_some(()));
    }

    /// A picture of the whole page, and that it does not scroll sideways.
    #[track_caller]
    fn shot(&mut self, name: &str, (width, _, dark): (u32, u32, bool)) {
        let wide = self.eval("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{name} scrolls sideways at {width}: {wide} px");
        self.until(
            "charts to fill their panels",
            "[...document.querySelectorAll('.panel .canvas canvas')].every(c => Math.abs(c.clientWidth - c.closest('.body').clientWidth) < 2)",
        );
        let folder = std::env::var_os("TARN_SHOTS").map_or_else(std::env::temp_dir, PathBuf::from);
        std::fs::create_dir_all(&folder).expect("a folder for pictures");
        let path = folder.join(format!("{name}-{width}-{}.png", if dark { "dark" } else { "light" }));
        self.command(json!({"do": "shot", "path": path}));
    }

    /// Nothing on the console, nothing asked of another server.
    #[track_caller]
    fn was_good(&mut self) {
        assert_eq!(
            self.command(json!({"do": "seen"})),
            json!({"console": [], "elsewhere": [], "refused": []})
        );
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the panel titled so shows, as rows.
fn rows_of(title: &str) -> String {
    format!(
        "[...document.querySelectorAll('.panel')].find(p => p.ariaLabel === '{title}')?.tarn.answer?.rows ?? null"
    )
}

fn state_of(title: &str) -> String {
    format!(
        "[...document.querySelectorAll('.panel')].find(p => p.ariaLabel === '{title}')?.dataset.state ?? null"
    )
}

/// A port that is free now: the same server must come back where it was.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn push_orders(client: &Client, from: i64, n: i64) {
    let cities = ["Oslo", "Lima", "Pune", "Cork"];
    let lines: Vec<String> = (from..from + n)
        .map(|id| {
            let city = cities[usize::try_from(id).expect("few") % 4];
            let ts = format!("2026-05-01T08:{:02}:00Z", id % 30);
            json!({"id": id, "city": city, "price": 1.25, "ts": ts}).to_string()
        })
        .collect();
    let answer = client.post("/v1/ingest/orders", &[], lines.join("\n").as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Waits until the dashboard shows what SQL says of `n` orders.
#[track_caller]
fn shows_what_sql_says(browser: &mut Browser, client: &Client, n: i64) {
    browser.until(
        &format!("{n} on the page"),
        &format!("document.querySelector('.figure')?.dataset.value === '{n}'"),
    );
    let sql = "SELECT city, n, total FROM by_city ORDER BY city";
    // A browser writes 25.0 as 25.
    let plain = |rows: &[Value]| -> Vec<(String, Option<f64>, Option<f64>)> {
        rows.iter().map(|row| (row["city"].to_string(), row["n"].as_f64(), row["total"].as_f64())).collect()
    };
    let said = client.sql(sql);
    wait_for("the same rows", seconds(20), || {
        let shown = browser.eval(&rows_of("By city"));
        (plain(shown.as_array()?) == plain(&said)).then_some(())
    });
    let totals: Vec<f64> = said.iter().filter_map(|row| row["total"].as_f64()).collect();
    let digits =
        (0..2).find(|digits| totals.iter().all(|total| (total * 10_f64.powi(*digits)).fract() == 0.0));
    let digits = usize::try_from(digits.unwrap_or(2)).expect("few");
    let said: Vec<Value> = said
        .iter()
        .zip(totals)
        .map(|(row, total)| json!([row["city"], row["n"].to_string(), format!("{total:.digits$}")]))
        .collect();
    let cells = "[...document.querySelectorAll('.panel[data-chart=table] tbody tr')].map(r => [...r.cells].map(c => c.textContent))";
    let said = Value::Array(said);
    wait_for("the same in the table", seconds(20), || (browser.eval(cells) == said).then_some(()));
}

#[test]
fn a_dashboard_shows_what_sql_says_also_after_the_server_was_killed() {
    let folder = Folder::new(&CONFIG.replace("PORT", &free_port().to_string()));
    let mut running = folder.start();
    let client = running.ready();
    push_orders(&client, 0, 40);
    let mut browser = Browser::start();
    browser.open(&client, "/d/shop", SIZES[0]);
    shows_what_sql_says(&mut browser, &client, 40);
    for round in 1..6 {
        push_orders(&client, round * 40, 40);
        shows_what_sql_says(&mut browser, &client, (round + 1) * 40);
    }
    assert_eq!(browser.eval("document.querySelector('h1').textContent"), json!("Shop & <b>more</b>"));
    for (title, state) in [
        ("Nothing", "empty"),
        ("Wrong", "error"),
        ("Over time", "ready"),
        ("Heat", "ready"),
        ("Parts", "ready"),
    ] {
        assert_eq!(browser.eval(&state_of(title)), json!(state), "{title}");
    }
    let said = browser.eval("document.querySelector('.panel[data-state=error]').innerText");
    assert!(said.as_str().is_some_and(|said| said.contains("pirce") && said.contains("price")), "{said}");
    let asked =
        browser.eval("performance.getEntriesByType('resource').filter(r => r.name.includes('/v1/')).length");
    assert!(asked.as_i64().is_some_and(|asked| asked <= 1), "one stream for the whole page, not {asked}");
    browser.was_good();
    // Killed: the page says so and keeps what it showed. Started again: it goes on by itself.
    drop(running.kill());
    browser.until("the page to say so", "document.documentElement.dataset.link === 'lost'");
    assert_eq!(browser.eval("document.querySelector('.figure').dataset.value"), json!("240"));
    let mut running = folder.start();
    let client = running.ready();
    push_orders(&client, 240, 10);
    shows_what_sql_says(&mut browser, &client, 250);
    browser.until("the page to be live", "document.documentElement.dataset.link === 'live'");
    // A choice changes what is asked, and stands in the address.
    let choose = "(s => { s.value = 'Oslo'; s.dispatchEvent(new Event('change')); })(document.querySelector('select[name=city]'))";
    browser.eval(choose);
    let oslo = client.sql("SELECT n FROM by_city WHERE city = 'Oslo'")[0]["n"].clone();
    browser.until("Oslo's orders", &format!("document.querySelector('.figure').dataset.value === '{oslo}'"));
    assert_eq!(browser.eval("location.search"), json!("?city=Oslo"));
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn every_page_fits_and_asks_nobody_else() {
    let folder = Folder::new(&CONFIG.replace("PORT", "0"));
    let mut running = folder.start();
    let client = running.ready();
    push_orders(&client, 0, 200);
    let mut browser = Browser::start();
    for size in SIZES {
        browser.open(&client, "/", size);
        browser.until("the home page", "document.querySelectorAll('.cards a').length === 1");
        browser.shot("home", size);
        browser.was_good();
        browser.open(&client, "/d/shop", size);
        browser.until("the dashboard", "document.querySelectorAll('.panel').length === 9 && !document.querySelector('.panel[data-state=loading]')");
        browser.shot("dashboard", size);
        browser.was_good();
        browser.open(
            &client,
            "/sql#q=SELECT%20city%2C%20n%2C%20total%20FROM%20by_city%20ORDER%20BY%201",
            size,
        );
        browser.until("four rows", "document.querySelectorAll('.rows .row').length === 4");
        browser.shot("sql", size);
        browser.was_good();
        browser.open(&client, "/catalog#table/orders", size);
        browser.until("the table", "document.querySelectorAll('.detail section').length >= 4 && !document.querySelector('.detail').innerText.includes('asking')");
        browser.shot("catalog", size);
        browser.was_good();
        browser.open(&client, "/pipeline", size);
        browser.until("the picture", "document.querySelectorAll('.node').length === 4 && document.querySelectorAll('.edges path').length === 3");
        browser.shot("pipeline", size);
        browser.was_good();
    }
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn the_sql_page_completes_runs_cancels_mends_and_shares() {
    let folder = Folder::new(&CONFIG.replace("PORT", "0"));
    let mut running = folder.start();
    let client = running.ready();
    push_orders(&client, 0, 40);
    wait_for("the orders", seconds(30), || {
        (client.sql("SELECT count(*) AS n FROM orders")[0]["n"] == 40).then_some(())
    });
    let mut browser = Browser::start();
    browser.open(&client, "/sql", SIZES[0]);
    browser.until("the tables", "document.querySelectorAll('.tables details').length >= 3");
    let said = "document.querySelector('.said').textContent";
    let write = |browser: &mut Browser, sql: &str| {
        browser.eval("(a => { a.focus(); a.select(); })(document.querySelector('textarea'))");
        browser.command(json!({"do": "type", "text": sql}));
    };
    // A column is completed from the table that the statement names.
    write(&mut browser, "SELECT id, pri");
    browser.until(
        "a completion",
        "document.querySelector('.completions li[aria-selected=true] span')?.textContent === 'price'",
    );
    browser.command(json!({"do": "press", "key": "Tab"}));
    browser.command(json!({"do": "type", "text": " FROM orders ORDER BY id DESC "}));
    let press = |browser: &mut Browser, button: &str| {
        browser.eval(&format!(
            "[...document.querySelectorAll('.work button')].find(b => b.textContent === '{button}').click()"
        ));
    };
    press(&mut browser, "Run");
    browser.until("forty rows", &format!("{said}.startsWith('40 rows in')"));
    assert_eq!(
        browser.eval("document.querySelector('.rows .row').innerText.split('\\n')"),
        json!(["1", "39", "1.25"])
    );
    // The address carries the query.
    let shared = browser.eval("decodeURIComponent(location.hash)");
    assert_eq!(shared, json!("#q=SELECT id, price FROM orders ORDER BY id DESC"));
    // An error in the words of the command line, and one press mends it.
    write(&mut browser, "SELECT pirce FROM orders LIMIT 3 ");
    press(&mut browser, "Run");
    browser.until("the error", &format!("{said}.includes('there is no column `pirce`')"));
    let told = browser.eval(said);
    let terminal = folder.tarn(&["sql", "SELECT pirce FROM orders LIMIT 3"]).said;
    for word in ["there is no column `pirce`", "did you mean `price`?"] {
        assert!(
            told.as_str().is_some_and(|told| told.contains(word)) && terminal.contains(word),
            "{told}: {terminal}"
        );
    }
    press(&mut browser, "Use price");
    assert_eq!(
        browser.eval("document.querySelector('textarea').value.trim()"),
        json!("SELECT price FROM orders LIMIT 3")
    );
    // A statement that would run for hours is cancelled.
    write(&mut browser, "SELECT sum(value % 7) FROM generate_series(1, 100000000000) ");
    press(&mut browser, "Run");
    browser.until("it to run", "!document.querySelector('.work .buttons button:nth-child(2)').disabled");
    press(&mut browser, "Cancel");
    browser.until("it to end", &format!("{said} === 'cancelled'"));
    // Half a million rows are there, and only those in sight are drawn.
    write(&mut browser, "SELECT value FROM generate_series(1, 500000) ORDER BY 1 ");
    press(&mut browser, "Run");
    browser.until("all rows", &format!("{said}.startsWith('500,000 rows in')"));
    browser.eval("(v => { v.scrollTop = v.scrollHeight; })(document.querySelector('.view'))");
    browser.until(
        "the last row",
        "[...document.querySelectorAll('.rows .row')].at(-1).children[1].textContent === '500000'",
    );
    let drawn = browser.eval("document.querySelectorAll('.rows .row').length");
    assert!(drawn.as_i64().is_some_and(|drawn| drawn < 100), "{drawn} rows are drawn");
    press(&mut browser, "Explain");
    browser.until("the plan", "document.querySelector('.plan')?.textContent.includes('physical_plan')");
    let elsewhere = browser.command(json!({"do": "seen"}))["elsewhere"].clone();
    assert_eq!(elsewhere, json!([]));
    assert_eq!(running.stop().code, Some(0));
}
