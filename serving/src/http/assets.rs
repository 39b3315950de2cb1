//! What the pages consist of, out of the binary: nothing is asked of anybody else.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tarn_model::Error;

use super::error_with_status;

/// What a page may do: load from this server, and nothing else. Scripts stand in files, styles too.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $kind:expr),+ $(,)?) => {
        /// Name, media type, content.
        const ASSETS: &[(&str, &str, &[u8])] =
            &[$(($name, $kind, include_bytes!(concat!("../../pages/", $name)))),+];
    };
}

assets! {
    "base.css": STYLE,
    "dashboard.css": STYLE,
    "sql.css": STYLE,
    "catalog.css": STYLE,
    "pipeline.css": STYLE,
    "theme.js": SCRIPT,
    "frame.js": SCRIPT,
    "format.js": SCRIPT,
    "charts.js": SCRIPT,
    "palette.js": SCRIPT,
    "panel.js": SCRIPT,
    "layout.js": SCRIPT,
    "stream.js": SCRIPT,
    "choices.js": SCRIPT,
    "dashboard.js": SCRIPT,
    "ask.js": SCRIPT,
    "sql.js": SCRIPT,
    "lexer.js": SCRIPT,
    "editor.js": SCRIPT,
    "rows.js": SCRIPT,
    "grid.js": SCRIPT,
    "history.js": SCRIPT,
    "quick_chart.js": SCRIPT,
    "catalog.js": SCRIPT,
    "pipeline.js": SCRIPT,
    "tarn.svg": "image/svg+xml",
    "vendor/echarts.min.js": SCRIPT,
    "vendor/echarts.LICENSE": "text/plain; charset=utf-8",
    "vendor/echarts.NOTICE": "text/plain; charset=utf-8",
}

/// `GET /assets/{name}`.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, _, _)| *known == name) {
        // A page of one version never runs with a script of another: browsers ask each time.
        Some((_, kind, content)) => ([(header::CONTENT_TYPE, *kind)], *content).into_response(),
        None => {
            error_with_status(StatusCode::NOT_FOUND, &Error::invalid(format!("there is no file `{name}`")))
        }
    }
}

/// A page: `main` inside the frame that all pages have; `scripts` are modules of [`ASSETS`], `styles` too.
pub(super) fn page(title: &str, main: &str, styles: &[&str], scripts: &[&str]) -> Response {
    let mut head = String::new();
    for style in styles {
        head.push_str(&format!("<link rel=\"stylesheet\" href=\"/assets/{style}\">"));
    }
    for script in scripts {
        let kind = if script.starts_with("vendor/") { "defer" } else { "type=\"module\"" };
        head.push_str(&format!("<script {kind} src=\"/assets/{script}\"></script>"));
    }
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} · Tarn</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <link rel=\"icon\" href=\"/assets/tarn.svg\" type=\"image/svg+xml\">\
         <link rel=\"stylesheet\" href=\"/assets/base.css\"><script src=\"/assets/theme.js\"></script>{head}</head>\
         <body><a class=\"skip\" href=\"#main\">Skip to content</a>\
         <header class=\"bar\"><a class=\"brand\" href=\"/\"><img src=\"/assets/tarn.svg\" alt=\"\" width=\"22\" height=\"22\">Tarn</a>\
         <nav aria-label=\"Pages\">{NAVIGATION}</nav><span class=\"bar-end\">\
         <button id=\"theme\" class=\"quiet\" type=\"button\" title=\"Light, dark, or as the system has it\">Theme</button></span></header>\
         <main id=\"main\">{main}</main></body></html>"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let mut response = (headers, html).into_response();
    response.headers_mut().insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

const NAVIGATION: &str = "<a href=\"/\">Home</a><a href=\"/sql\">SQL</a><a href=\"/catalog\">Catalog</a>\
                          <a href=\"/pipeline\">Pipeline</a>";

/// `text` as it may stand in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
