//! `GET /`: what is here, without a script and without asking anybody else.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use tarn_model::status::Status;

use super::Doors;

const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; display: block; max-width: 100%; overflow-x: auto } th, td { padding: .2rem 1rem .2rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } pre { background: #f3f3f3; padding: .7rem; overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd } pre { background: #222 } a { color: #8bf } }
";

pub(super) async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

pub(super) async fn page(State(doors): State<Doors>, asked: HeaderMap) -> Response {
    let host = asked.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1:8080");
    let html = render(&doors.status.status(), host);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, html).into_response()
}

fn render(status: &Status, host: &str) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tarn</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body><h1>Tarn</h1>",
    );
    let state = if status.ready { "SQL answers." } else { "Still reading the log; SQL does not answer yet." };
    let _ =
        write!(html, "<p>Version {}, up for {:.0} s. {state}</p>", escape(&status.version), status.uptime_s);
    html.push_str("<h2>Tables</h2>");
    if status.tables.is_empty() {
        html.push_str("<p>There is no table yet.</p>");
    } else {
        html.push_str(
            "<table><tr><th>Table</th><th>Topic</th><th>State</th><th>Rows in the lake</th><th>Rows in the tail</th>\
             <th>Dead letters</th><th>Files</th></tr>",
        );
        for table in &status.tables {
            let _ = write!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&table.name),
                escape(&table.topic),
                escape(&table.state),
                table.lake_rows,
                table.tail_rows,
                table.dead_letters,
                table.files
            );
        }
        html.push_str("</table>");
    }
    html.push_str(
        "<h2>Doors</h2><ul><li><code>POST /v1/sql</code>: a statement as text, rows as JSON, NDJSON, CSV or Arrow</li>\
         <li><code>POST /v1/ingest/{topic}</code>: NDJSON or a JSON array, for topics with a source of type <code>http</code></li>\
         <li><a href=\"/v1/status\">/v1/status</a>, <a href=\"/metrics\">/metrics</a>, <a href=\"/healthz\">/healthz</a></li></ul>",
    );
    let table = status.tables.first().map_or("my_table", |table| table.name.as_str());
    let _ = writeln!(
        html,
        "<pre>curl http://{}/v1/sql --data-binary 'SELECT count(*) FROM {}'</pre></body></html>",
        escape(host),
        escape(table)
    );
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
