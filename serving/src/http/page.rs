//! `GET /`: what is here, without a script and without asking anybody else.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tarn_model::status::Status;

use super::Doors;

const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; display: block; max-width: 100%; overflow-x: auto } th, td { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap } th.n { text-align: right }
pre { background: #f3f3f3; padding: .7rem; overflow-x: auto } p.error { color: #a00; overflow-wrap: anywhere }
@media (max-width: 40rem) { body { margin-top: 1rem } th, td { padding-right: .7rem; font-size: .9rem } }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd } pre { background: #222 } a { color: #8bf } p.error { color: #f99 } }
";
/// The page is made anew this often.
const REFRESH: HeaderValue = HeaderValue::from_static("5");

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
    let mut page = (headers, html).into_response();
    page.headers_mut().insert(header::REFRESH, REFRESH);
    page
}

fn render(status: &Status, host: &str) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tarn</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body><h1>Tarn</h1>",
    );
    let state = if status.ready { "SQL answers." } else { "Still reading the log; SQL does not answer yet." };
    let (version, up) = (escape(&status.version), duration(status.uptime_s));
    let _ = write!(html, "<p>Version {version}, up for {up}. {state}</p>");
    html.push_str("<h2>Tables</h2>");
    if status.tables.is_empty() {
        html.push_str("<p>There is no table yet.</p>");
    } else {
        html.push_str(
            "<table><tr><th>Table</th><th>State</th><th class=\"n\">In the lake</th><th class=\"n\">In the tail</th>\
             <th class=\"n\">Dead letters</th><th class=\"n\">Files</th><th>Topic</th></tr>",
        );
        for table in &status.tables {
            let _ = write!(html, "<tr><td>{}</td><td>{}</td>", escape(&table.name), escape(&table.state));
            for n in [table.lake_rows, table.tail_rows, table.dead_letters, table.files] {
                let _ = write!(html, "<td class=\"n\">{}</td>", number(n));
            }
            let _ = write!(html, "<td>{}</td></tr>", escape(&table.topic));
        }
        html.push_str("</table>");
    }
    if !status.sources.is_empty() {
        html.push_str(
            "<h2>Sources</h2><table><tr><th>Source</th><th>Type</th><th>State</th><th class=\"n\">Records</th><th>Topic</th></tr>",
        );
        for source in &status.sources {
            let [name, kind, state, topic] =
                [&source.name, &source.kind, &source.state, &source.topic].map(|text| escape(text));
            let records = number(source.records);
            let _ = write!(
                html,
                "<tr><td>{name}</td><td>{kind}</td><td>{state}</td><td class=\"n\">{records}</td><td>{topic}</td></tr>"
            );
        }
        html.push_str("</table>");
    }
    let errors = status.sources.iter().map(|source| (&source.name, &source.last_error));
    for (name, error) in errors.chain(status.tables.iter().map(|table| (&table.name, &table.last_error))) {
        if let Some(error) = error {
            let _ = write!(html, "<p class=\"error\">{}: {}</p>", escape(name), escape(&error.message));
        }
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

/// `12,345`
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `9 s`, `12 min`, `3 h`, `5 days`
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
