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
        let router = router(shop.engine.clone(), Arc::new(Still(shop.engine.clone())), hosts, other);
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
        page.contains("&lt;b&gt;clicks") && !page.contains("<b>clicks") && !page.contains("<script"),
        "{page}"
    );
    let status: Value = get("/v1/status").await.json().await.expect("JSON");
    assert_eq!(status["ready"], true);
}
