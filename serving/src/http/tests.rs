use std::net::SocketAddr;

use arrow::ipc::reader::StreamReader;
use reqwest::{Client, Response, header};
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Shop, options};
use tarn_model::status::TableStatus;

struct Still(Engine);

impl StatusSource for Still {
    fn status(&self) -> Status {
        Status {
            at_rest: false,
            version: "0".into(),
            ready: self.0.catalog().is_ready(),
            tables: vec![TableStatus {
                name: "<b>clicks".into(),
                topic: "clicks".into(),
                ..TableStatus::default()
            }],
            ..Status::default()
        }
    }
}

fn dashboards() -> Vec<DashboardConfig> {
    let dashboard = json!({
        "name": "clicks",
        "title": "<b>Clicks",
        "refresh": "100ms",
        "variable": [{"name": "day", "query": "SELECT DISTINCT day FROM clicks WHERE day IS NOT NULL ORDER BY 1"}],
        "panel": [
            {"title": "By three", "query": "SELECT n % 3 AS k, count(*) AS c FROM clicks WHERE $day IS NULL OR day = $day GROUP BY 1 ORDER BY 1"},
            {"title": "Wrong", "query": "SELECT wrod FROM clicks"},
        ],
    });
    vec![serde_json::from_value(dashboard).expect("a dashboard")]
}

struct Server {
    shop: Shop,
    address: SocketAddr,
    client: Client,
    _serving: tokio::task::JoinSet<()>,
}

impl Server {
    async fn start(shop: Shop) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let other = Router::new().route("/v1/other", get(|| async { "other" }));
        let hosts = Hosts::bound_to(address).and("tarn.example:8080");
        let status = Arc::new(Still(shop.engine.clone()));
        let router = router(shop.engine.clone(), status, dashboards(), hosts, other);
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.expect("serving") });
        let client = Client::builder().no_proxy().build().expect("a client");
        Server { shop, address, client, _serving: serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn sql(&self, accept: &str, sql: &str) -> Response {
        let request =
            self.client.post(self.url("/v1/sql")).header(header::ACCEPT, accept).body(sql.to_owned());
        request.send().await.expect("an answer")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_every_format_with_the_vector_they_saw() {
    let server = Server::start(Shop::open().await).await;
    server.shop.publish(0, 3);
    let sql = "SELECT _offset, word, day FROM clicks ORDER BY 1";
    let answer = server.sql("application/json", sql).await;
    assert_eq!(answer.headers()["tarn-vector"], "clicks:0=3");
    assert_eq!(answer.headers()["content-type"], "application/json");
    let rows: Value = answer.json().await.expect("JSON");
    assert_eq!(rows[1], json!({"_offset": 1, "word": "w1", "day": "2026-01-01"}));
    assert_eq!(rows[0]["day"], Value::Null);
    let answer = server.sql("application/x-ndjson", sql).await.text().await.expect("text");
    assert_eq!(answer.lines().count(), 3);
    let answer = server.sql("text/csv", sql).await.text().await.expect("text");
    assert_eq!(answer, "_offset,word,day\n0,w0,\n1,w1,2026-01-01\n2,w2,2026-01-02\n");
    let answer = server.sql("application/vnd.apache.arrow.stream", sql).await.bytes().await.expect("bytes");
    let batches: Vec<_> = StreamReader::try_new(answer.as_ref(), None).expect("a stream").collect();
    assert_eq!(batches.iter().map(|batch| batch.as_ref().expect("rows").num_rows()).sum::<usize>(), 3);
    for (accept, expected) in
        [("application/json", "[]\n"), ("application/x-ndjson", ""), ("text/csv", "word\n")]
    {
        let answer =
            server.sql(accept, "SELECT word FROM clicks WHERE n < 0").await.text().await.expect("text");
        assert_eq!(answer, expected, "no rows as {accept}");
    }
    let answer = server.sql("application/vnd.apache.parquet", sql).await.bytes().await.expect("bytes");
    let reader = datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(answer, 1024);
    let batches: Vec<_> = reader.expect("a file").map(|batch| batch.expect("rows")).collect();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
    let answer = server.sql("application/json", "SELECT 1 AS n, 'x' AS \"größe\"").await;
    let columns = answer.headers()["tarn-columns"].to_str().expect("ASCII").to_owned();
    let columns: Value = serde_json::from_str(&columns).expect("JSON");
    assert_eq!(columns[0], json!({"name": "n", "type": "BIGINT", "kind": "number"}));
    assert_eq!(columns[1]["name"], "größe");
    assert_eq!(server.sql("image/png", sql).await.status(), 406);
    let rows: Value = server
        .sql("*/*", "SELECT count(*) AS n FROM generate_series(1, 50000)")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(rows, json!([{"n": 50000}]));
    let rows: Value =
        server.sql("*/*", "SELECT value FROM generate_series(1, 50000)").await.json().await.expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(50000), "many batches are one array");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_and_as_of_come_with_the_request() {
    let server = Server::start(Shop::open().await).await;
    server.shop.publish(0, 10);
    server.shop.commit(|| server.shop.publish(0, 5)).await;
    let body = json!({"sql": "SELECT count(*) AS n FROM clicks WHERE n >= $1", "params": [4], "as_of": "clicks:0=12"});
    let answer = server.client.post(server.url("/v1/sql")).json(&body).send().await.expect("an answer");
    assert_eq!(answer.headers()["tarn-vector"], "clicks:0=12");
    assert_eq!(answer.json::<Value>().await.expect("JSON"), json!([{"n": 8}]));
    let count = "SELECT count(*) AS n FROM clicks";
    let by_url = server.client.post(server.url("/v1/sql?as_of=clicks:0=7")).body(count);
    assert_eq!(by_url.send().await.expect("an answer").text().await.expect("text"), "[\n{\"n\":7}\n]\n");
    let by_header = server.client.post(server.url("/v1/sql")).header("Tarn-As-Of", "clicks:0=8").body(count);
    assert_eq!(by_header.send().await.expect("an answer").text().await.expect("text"), "[\n{\"n\":8}\n]\n");
    let wrong = server.client.post(server.url("/v1/sql")).json(&json!({"sqll": "SELECT 1"}));
    assert_eq!(wrong.send().await.expect("an answer").status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let server = Server::start(Shop::open().await).await;
    let answer = server.sql("*/*", "SELECT * FROM clikcs").await;
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["error"]["kind"], "invalid");
    assert_eq!(body["error"]["hint"], "did you mean `clicks`?");
    assert_eq!(server.sql("*/*", "COPY clicks TO '/tmp/x.csv'").await.status(), 400);
    assert_eq!(server.sql("*/*", "SELECT 1/0").await.status(), 400);
    let huge = "(".repeat(2 << 20);
    let request = server.client.post(server.url("/v1/sql")).body(huge).send().await;
    assert!(request.map_or(true, |answer| answer.status() == 413));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_first_rows_breaks_the_answer_off() {
    let server = Server::start(Shop::open().await).await;
    let sql = "SELECT 1000 / (value - 2000000) AS x FROM generate_series(1, 3000000)";
    for accept in
        ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"]
    {
        let answer = server.sql(accept, sql).await;
        assert_eq!(answer.status(), 200, "the first rows are good");
        assert!(answer.bytes().await.is_err(), "{accept}: the body must not end as if it were whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_that_name_this_server_pass() {
    let server = Server::start(Shop::open().await).await;
    let port = server.address.port();
    let ask = async |host: &str, origin: Option<&str>, path: &str| {
        let mut request = server.client.get(server.url(path)).header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        request.send().await.expect("an answer").status().as_u16()
    };
    for path in ["/healthz", "/v1/status", "/metrics", "/", "/v1/other"] {
        assert_eq!(ask(&format!("127.0.0.1:{port}"), None, path).await, 200, "{path}");
        assert_eq!(ask(&format!("LOCALHOST:{port}"), None, path).await, 200, "{path}");
        assert_eq!(ask(&format!("[::1]:{port}"), None, path).await, 200, "{path}");
        assert_eq!(ask("tarn.example:8080", Some("https://tarn.example:8080"), path).await, 200, "{path}");
        assert_eq!(
            ask(&format!("localhost:{port}"), Some(&format!("http://localhost:{port}")), path).await,
            200
        );
        for host in [
            "evil.example",
            "localhost",
            "localhost:1",
            &format!("evil.example:{port}"),
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(ask(host, None, path).await, 403, "{host} {path}");
        }
        for origin in ["http://evil.example", "null", "", "http://localhost:1", "file://"] {
            assert_eq!(ask(&format!("localhost:{port}"), Some(origin), path).await, 403, "{origin} {path}");
        }
    }
    let post = server
        .client
        .post(server.url("/v1/sql"))
        .header(header::ORIGIN, "http://evil.example")
        .body("SELECT 1");
    assert_eq!(post.send().await.expect("an answer").status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_tail_is_read_sql_says_so() {
    let mut shop = Shop::open().await;
    shop.catalog = tarn_table::Catalog::new(shop.catalog.lake().clone());
    shop.catalog.set_records_to_go(5);
    shop.engine = Engine::new(shop.catalog.clone(), options()).expect("an engine");
    let server = Server::start(shop).await;
    for answer in [
        server.sql("*/*", "SELECT 1").await,
        server.client.get(server.url("/healthz")).send().await.expect("an answer"),
    ] {
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
        assert!(answer.text().await.expect("text").contains("5 records to go"));
    }
    server.shop.catalog.set_ready();
    assert_eq!(server.sql("*/*", "SELECT 1").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_the_page_tell_the_status() {
    let server = Server::start(Shop::open().await).await;
    server.sql("*/*", "SELECT 1").await.bytes().await.expect("rows");
    server.sql("*/*", "SELECT").await.bytes().await.expect("an error");
    let get = async |path: &str| server.client.get(server.url(path)).send().await.expect("an answer");
    let metrics = get("/metrics").await.text().await.expect("text");
    assert!(metrics.contains("tarn_statements_total{outcome=\"done\"} 1\n"), "{metrics}");
    assert!(metrics.contains("tarn_statement_seconds_bucket{le=\"+Inf\"} 1\n"), "{metrics}");
    assert!(metrics.contains("tarn_table_lake_rows{table=\"<b>clicks\",topic=\"clicks\"} 0\n"), "{metrics}");
    let page = get("/").await;
    assert!(page.headers()["content-security-policy"].to_str().expect("text").contains("default-src 'none'"));
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let page = page.text().await.expect("text");
    assert!(
        page.contains("&lt;b&gt;clicks") && !page.contains("<b>clicks") && !page.contains("<script>"),
        "{page}"
    );
    let status: Value = get("/v1/status").await.json().await.expect("JSON");
    assert_eq!(status["ready"], true);
}

/// Reads a subscription's events, and what they add up to.
struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<axum::body::Bytes>>,
    text: String,
    rows: std::collections::BTreeMap<u64, Value>,
    id: String,
    snapshots: usize,
}

impl Events {
    async fn open(server: &Server, query: &str, last: Option<&str>) -> Events {
        use futures::StreamExt;
        let mut request = server.client.get(server.url(&format!("/v1/subscribe?{query}")));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let body = answer.bytes_stream().boxed();
        Events { body, text: String::new(), rows: Default::default(), id: String::new(), snapshots: 0 }
    }

    /// Reads on to the next progress; its vector.
    async fn progress(&mut self) -> String {
        use futures::StreamExt;
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(vector) = self.apply(&event) {
                    return vector;
                }
            }
            let bytes = self.body.next().await.expect("the stream goes on").expect("bytes");
            self.text += std::str::from_utf8(&bytes).expect("text");
        }
    }

    fn apply(&mut self, event: &str) -> Option<String> {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(field("data: ")?).expect("JSON");
        match field("event: ").expect("a name") {
            "snapshot" => {
                self.snapshots += 1;
                self.rows.clear();
                self.upsert(&data);
            }
            "upsert" => self.upsert(&data),
            "delete" => {
                for id in data["ids"].as_array().expect("ids") {
                    assert!(self.rows.remove(&id.as_u64().expect("a number")).is_some(), "{event}");
                }
            }
            "progress" => {
                field("id: ").expect("an id").clone_into(&mut self.id);
                return data["vector"].as_str().map(str::to_owned);
            }
            other => panic!("{other}: {event}"),
        }
        None
    }

    fn upsert(&mut self, data: &Value) {
        for row in data["rows"].as_array().expect("rows") {
            self.rows.insert(row["id"].as_u64().expect("a number"), row["row"].clone());
        }
    }

    /// Reads on until a progress says `vector`.
    async fn until(&mut self, vector: &str) {
        let reached = async { while self.progress().await != vector {} };
        tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.expect("the vector in time");
    }
}

const SUBSCRIPTION: &str =
    "sql=SELECT%20n%20%25%203%20AS%20k,%20count(*)%20AS%20c%20FROM%20clicks%20GROUP%20BY%201&key=k";

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_adds_up_to_the_answer_and_goes_on_where_it_was_cut() {
    let server = Server::start(Shop::open().await).await;
    server.shop.publish(0, 4);
    let mut events = Events::open(&server, SUBSCRIPTION, None).await;
    events.until("clicks:0=4").await;
    let shown = |events: &Events| -> Vec<(i64, i64)> {
        let mut rows: Vec<(i64, i64)> = events
            .rows
            .values()
            .map(|row| (row["k"].as_i64().expect("k"), row["c"].as_i64().expect("c")))
            .collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!(shown(&events), [(0, 2), (1, 1), (2, 1)]);
    server.shop.publish(0, 2);
    events.until("clicks:0=6").await;
    assert_eq!(shown(&events), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(events.snapshots, 1, "changes come as changes");
    // Cut, and taken up again: only what was missed.
    let (last, known) = (events.id.clone(), std::mem::take(&mut events.rows));
    let mut other = Events::open(&server, SUBSCRIPTION, None).await;
    drop(events);
    server.shop.publish(0, 3);
    let mut events = Events::open(&server, SUBSCRIPTION, Some(&last)).await;
    events.rows = known;
    events.until("clicks:0=9").await;
    assert_eq!((shown(&events), events.snapshots), (vec![(0, 3), (1, 3), (2, 3)], 0));
    other.until("clicks:0=9").await;
    assert_eq!((shown(&other), other.snapshots), (shown(&events), 1));
    let mut late = Events::open(&server, SUBSCRIPTION, Some("gone.1")).await;
    late.until("clicks:0=9").await;
    assert_eq!((shown(&late), late.snapshots), (shown(&events), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_subscribers_cost_one_evaluation() {
    let server = Server::start(Shop::open().await).await;
    server.shop.publish(0, 4);
    let before = server.shop.engine.statements().done;
    // All at once, as when pages come back after a restart.
    let mut all =
        futures::future::join_all((0..200).map(|_| Events::open(&server, SUBSCRIPTION, None))).await;
    for events in &mut all {
        events.until("clicks:0=4").await;
    }
    assert_eq!(server.shop.engine.statements().done - before, 1, "the first answer is one for all");
    server.shop.publish(0, 2);
    for events in &mut all {
        events.until("clicks:0=6").await;
        assert_eq!(events.rows.len(), 3);
    }
    assert!(server.shop.engine.statements().done - before <= 3, "and so is the next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_cannot_be_answered_is_an_error_at_once() {
    let server = Server::start(Shop::open().await).await;
    for query in [
        "sql=SELECT%20nothing%20FROM%20clicks",
        "sql=SELECT%20n%20FROM%20clicks&key=m",
        "sql=DROP%20TABLE%20clicks",
    ] {
        let answer =
            server.client.get(server.url(&format!("/v1/subscribe?{query}"))).send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{query}");
    }
    server.shop.publish(0, 3);
    let wide =
        "sql=SELECT%20a.n%20FROM%20clicks%20a,%20clicks%20b,%20clicks%20c,%20generate_series(1,%201000)";
    let answer =
        server.client.get(server.url(&format!("/v1/subscribe?{wide}"))).send().await.expect("an answer");
    assert_eq!(answer.status(), 400, "too many rows");
}

/// What a dashboard's stream adds up to.
struct Page {
    body: futures::stream::BoxStream<'static, reqwest::Result<axum::body::Bytes>>,
    text: String,
    rows: std::collections::BTreeMap<u64, Value>,
    order: Vec<u64>,
    vector: String,
    options: Value,
    trouble: Value,
    wholes: usize,
}

impl Page {
    async fn open(server: &Server, query: &str) -> Page {
        use futures::StreamExt;
        let path = format!("/v1/dashboards/clicks/stream{query}");
        let answer = server.client.get(server.url(&path)).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let body = answer.bytes_stream().boxed();
        Page {
            body,
            text: String::new(),
            rows: Default::default(),
            order: Vec::new(),
            vector: String::new(),
            options: Value::Null,
            trouble: Value::Null,
            wholes: 0,
        }
    }

    /// The next event's name, once what it says is taken in.
    async fn event(&mut self) -> String {
        use futures::StreamExt;
        let event = loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                break event;
            }
            let bytes = self.body.next().await.expect("the stream goes on").expect("bytes");
            self.text += std::str::from_utf8(&bytes).expect("text");
        };
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        let data: Value = serde_json::from_str(field("data: ")).expect("JSON");
        match field("event: ") {
            "panel" => {
                assert_eq!(data["index"], 0, "{event}");
                if data["whole"] == true {
                    self.wholes += 1;
                    self.rows.clear();
                }
                for (id, row) in data["rows"].as_object().expect("rows") {
                    self.rows.insert(id.parse().expect("a number"), row.clone());
                }
                self.order = serde_json::from_value(data["order"].clone()).expect("numbers");
                self.vector = data["vector"].as_str().expect("a vector").to_owned();
            }
            "variable" => self.options = data["options"].clone(),
            "trouble" => self.trouble = data,
            _ => {}
        }
        field("event: ").to_owned()
    }

    /// Reads to the progress that makes `vector` visible; the panel's rows in their order.
    async fn until(&mut self, vector: &str) -> Vec<(i64, i64)> {
        let reached = async { while self.event().await != "progress" || self.vector != vector {} };
        tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.expect("the vector in time");
        let row = |id: &u64| {
            let row = &self.rows[id];
            (row["k"].as_i64().expect("k"), row["c"].as_i64().expect("c"))
        };
        self.order.iter().map(row).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_is_one_stream_that_adds_up_to_the_answers() {
    let server = Server::start(Shop::open().await).await;
    server.shop.publish(0, 4);
    let mut page = Page::open(&server, "").await;
    assert_eq!(page.event().await, "dashboard");
    assert_eq!(page.until("clicks:0=4").await, [(0, 2), (1, 1), (2, 1)]);
    while page.trouble.is_null() || page.options.is_null() {
        page.event().await;
    }
    assert_eq!(page.options, json!(["2026-01-01", "2026-01-02", "2026-01-03"]));
    assert_eq!((&page.trouble["index"], &page.trouble["panel"]), (&json!(1), &json!(true)));
    assert!(page.trouble["hint"].as_str().is_some_and(|hint| hint.contains("word")), "{}", page.trouble);
    server.shop.publish(0, 3);
    assert_eq!(page.until("clicks:0=7").await, [(0, 3), (1, 2), (2, 2)]);
    assert_eq!(page.wholes, 1, "changes come as changes");
    let mut chosen = Page::open(&server, "?day=2026-01-01").await;
    assert_eq!(chosen.until("clicks:0=7").await, [(1, 1), (2, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_watch_a_dashboard_cost_one_evaluation() {
    let server = Server::start(Shop::open().await).await;
    server.shop.publish(0, 4);
    let mut pages = Vec::new();
    for _ in 0..30 {
        pages.push(Page::open(&server, "").await);
    }
    for page in &mut pages {
        page.until("clicks:0=4").await;
    }
    let before = server.shop.engine.statements().done;
    server.shop.publish(0, 2);
    for page in &mut pages {
        assert_eq!(page.until("clicks:0=6").await, [(0, 2), (1, 2), (2, 2)]);
    }
    // One for the panel, one for the variable, and a tick more of each at most.
    assert!(server.shop.engine.statements().done - before <= 4, "one for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_ask_only_this_server_and_hold_no_script_of_their_own() {
    let server = Server::start(Shop::open().await).await;
    let get = async |path: &str| server.client.get(server.url(path)).send().await.expect("an answer");
    for path in ["/", "/d/clicks", "/sql", "/catalog", "/pipeline"] {
        let page = get(path).await;
        assert_eq!(page.status(), 200, "{path}");
        let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
        let page = page.text().await.expect("text");
        assert!(!page.contains("<script>") && !page.contains("style=") && !page.contains("//cdn"), "{page}");
        for asset in page.split("/assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert_eq!(get(&format!("/assets/{asset}")).await.status(), 200, "{asset}");
        }
    }
    assert!(get("/d/clicks").await.text().await.expect("text").contains("&lt;b&gt;Clicks"));
    assert_eq!(get("/d/clikcs").await.status(), 404);
    assert_eq!(get("/assets/none.js").await.status(), 404);
    let answer = get("/v1/dashboards/clikcs/stream").await;
    assert_eq!(answer.status(), 404);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["error"]["hint"], "did you mean `clicks`?");
    let answer = get("/v1/dashboards/clicks/stream?dya=1").await;
    assert_eq!(answer.status(), 400);
    let all: Value = get("/v1/dashboards").await.json().await.expect("JSON");
    assert_eq!(all[0]["name"], "clicks");
}
