//! The pages: a home page made here, whole, and frames that scripts fill.

use std::fmt::Write;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use tarn_model::config::DashboardConfig;
use tarn_model::status::Status;

use super::assets::{escape, page};
use super::{Doors, dashboards};

/// The home page is made anew this often, seconds.
const REFRESH: HeaderValue = HeaderValue::from_static("5");

/// `GET /`: what is here.
pub(super) async fn home(State(doors): State<Doors>, asked: HeaderMap) -> Response {
    let host = asked.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1:8080");
    let main = render(&doors.status.status(), &doors.dashboards, host);
    let mut page = page("Home", &main, &[], &["frame.js"]);
    page.headers_mut().insert(header::REFRESH, REFRESH);
    page
}

/// `GET /sql`: a statement, and its answer.
pub(super) async fn sql() -> Response {
    page("SQL", "<div id=\"sql\"></div>", &["sql.css"], &["vendor/echarts.min.js", "frame.js", "sql.js"])
}

/// `GET /catalog`: topics, tables and views.
pub(super) async fn catalog() -> Response {
    page("Catalog", "<div id=\"catalog\"></div>", &["catalog.css"], &["frame.js", "catalog.js"])
}

/// `GET /pipeline`: what flows where.
pub(super) async fn pipeline() -> Response {
    page("Pipeline", "<div id=\"pipeline\"></div>", &["pipeline.css"], &["frame.js", "pipeline.js"])
}

/// `GET /d/{name}`: a dashboard.
pub(super) async fn dashboard(State(doors): State<Doors>, Path(name): Path<String>) -> Response {
    match dashboards::find(&doors, &name) {
        Ok(found) => page(
            &escape(found.shown_title()),
            &format!("<div id=\"dashboard\" data-name=\"{}\"></div>", escape(&found.name)),
            &["dashboard.css"],
            &["vendor/echarts.min.js", "dashboard.js"],
        ),
        Err(error) => {
            let hint = error.hint().map(escape).unwrap_or_default();
            let message = escape(&error.to_string());
            let main = format!(
                "<div class=\"sheet\"><h1>Nothing here</h1><p>{message}</p><p class=\"dim\">{hint}</p></div>"
            );
            let mut page = page("Nothing here", &main, &[], &["frame.js"]);
            *page.status_mut() = StatusCode::NOT_FOUND;
            page
        }
    }
}

fn render(status: &Status, dashboards: &[DashboardConfig], host: &str) -> String {
    let mut html = String::from("<div class=\"sheet\"><h1>Tarn</h1>");
    let state = if status.ready { "SQL answers." } else { "Still reading the log; SQL does not answer yet." };
    let (version, up) = (escape(&status.version), duration(status.uptime_s));
    let _ = write!(html, "<p>Version {version}, up for {up}. {state}</p>");
    if !dashboards.is_empty() {
        html.push_str("<h2>Dashboards</h2><ul class=\"cards\">");
        for dashboard in dashboards {
            let (name, title) = (escape(&dashboard.name), escape(dashboard.shown_title()));
            let about = dashboard.description.as_deref().map(escape).unwrap_or_default();
            let _ = write!(html, "<li><a href=\"/d/{name}\"><b>{title}</b><span>{about}</span></a></li>");
        }
        html.push_str("</ul>");
    }
    html.push_str("<h2>Tables</h2>");
    if status.tables.is_empty() {
        html.push_str("<p>There is no table yet.</p>");
    } else {
        html.push_str(
            "<div class=\"scroll\"><table><tr><th>Table</th><th>State</th><th class=\"n\">In the lake</th><th class=\"n\">In the tail</th>\
             <th class=\"n\">Dead letters</th><th class=\"n\">Files</th><th>Topic</th></tr>",
        );
        for table in &status.tables {
            let _ = write!(html, "<tr><td>{}</td><td>{}</td>", escape(&table.name), escape(&table.state));
            for n in [table.lake_rows, table.tail_rows, table.dead_letters, table.files] {
                let _ = write!(html, "<td class=\"n\">{}</td>", number(n));
            }
            let _ = write!(html, "<td>{}</td></tr>", escape(&table.topic));
        }
        html.push_str("</table></div>");
    }
    if !status.sources.is_empty() {
        html.push_str(
            "<h2>Sources</h2><div class=\"scroll\"><table><tr><th>Source</th><th>Type</th><th>State</th><th class=\"n\">Records</th><th>Topic</th></tr>",
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
        html.push_str("</table></div>");
    }
    let errors = status.sources.iter().map(|source| (&source.name, &source.last_error));
    for (name, error) in errors.chain(status.tables.iter().map(|table| (&table.name, &table.last_error))) {
        if let Some(error) = error {
            let _ = write!(html, "<p class=\"error\">{}: {}</p>", escape(name), escape(&error.message));
        }
    }
    html.push_str(
        "<h2>Doors</h2><ul><li><code>POST /v1/sql</code>: a statement as text, rows as JSON, NDJSON, CSV, Arrow or Parquet</li>\
         <li><code>POST /v1/ingest/{topic}</code>: NDJSON or a JSON array, for topics with a source of type <code>http</code></li>\
         <li><a href=\"/v1/status\">/v1/status</a>, <a href=\"/metrics\">/metrics</a>, <a href=\"/healthz\">/healthz</a></li></ul>",
    );
    let table = status.tables.first().map_or("my_table", |table| table.name.as_str());
    let _ = writeln!(
        html,
        "<pre>curl http://{}/v1/sql --data-binary 'SELECT count(*) FROM {}'</pre></div>",
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
