//! `POST /v1/sql`: one statement in, rows out as they come.

use std::fmt::Write;

use arrow::datatypes::Schema;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::error::DataFusionError;
use futures::StreamExt;
use serde::Deserialize;
use tarn_model::{Error, OffsetVector, Result};

use super::format::{Encoder, Format};
use super::{Doors, MAX_SQL_BODY_BYTES, error_response, error_with_status};
use crate::columns::columns_of;
use crate::engine::{Answer, Engine, is_not_ready};
use crate::error::from_datafusion;
use crate::statement::MAX_TEXT_BYTES;

/// The vector that an answer saw.
const VECTOR: HeaderName = HeaderName::from_static("tarn-vector");
/// The columns of an answer as JSON: name, type and kind.
const COLUMNS: HeaderName = HeaderName::from_static("tarn-columns");
/// Longest header of columns, bytes; an answer with more of them goes without.
const MAX_COLUMNS_BYTES: usize = 16 << 10;
/// The vector that a statement is to see.
const AS_OF: HeaderName = HeaderName::from_static("tarn-as-of");

/// What may stand behind the `?`.
#[derive(Debug, Deserialize)]
pub(super) struct UrlParameters {
    as_of: Option<String>,
}

/// A statement with what belongs to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    sql: String,
    #[serde(default)]
    params: Vec<serde_json::Value>,
    #[serde(default)]
    as_of: Option<String>,
}

pub(super) async fn sql(
    State(doors): State<Doors>,
    Query(url): Query<UrlParameters>,
    headers: HeaderMap,
    body: std::result::Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return error_with_status(StatusCode::PAYLOAD_TOO_LARGE, &too_large());
        }
        Err(rejection) => {
            return error_response(&Error::invalid("the request broke off").with_source(rejection));
        }
    };
    let Some(format) = Format::accepted(&headers) else {
        let error = Error::invalid("no format that `Accept` names is known").with_hint(
            "application/json, application/x-ndjson, text/csv, application/vnd.apache.arrow.stream and \
             application/vnd.apache.parquet are",
        );
        return error_with_status(StatusCode::NOT_ACCEPTABLE, &error);
    };
    match answer(&doors.engine, url, &headers, &body, format).await {
        Ok(response) => response,
        Err(error) if is_not_ready(&doors.engine, &error) => {
            error_with_status(StatusCode::SERVICE_UNAVAILABLE, &error)
        }
        Err(error) => error_response(&error),
    }
}

fn too_large() -> Error {
    Error::invalid(format!(
        "a statement has at most {MAX_TEXT_BYTES} bytes, with its parameters {MAX_SQL_BODY_BYTES}; this one has more"
    ))
    .with_sqlstate("54000")
    .with_hint("bring long lists into a table, and join with it")
}

async fn answer(
    engine: &Engine,
    url: UrlParameters,
    headers: &HeaderMap,
    body: &[u8],
    format: Format,
) -> Result<Response> {
    let request = read(headers, body)?;
    let from_header = headers.get(AS_OF).map(|value| value.to_str().unwrap_or("?").to_owned());
    let as_of = request.as_of.or(url.as_of).or(from_header);
    let as_of = as_of.map(|text| text.parse::<OffsetVector>()).transpose()?;
    let Answer { vector, schema, mut rows } =
        engine.query(&request.sql, &request.params, as_of.as_ref()).await?;
    let mut encoder = Encoder::new(format, &schema).map_err(arrow_error)?;
    // The first rows decide whether the answer is an error; after them the status is sent.
    let first = rows.next().await.transpose().map_err(from_datafusion)?;
    let mut begin = encoder.begin().map_err(arrow_error)?;
    if let Some(first) = &first {
        begin.extend(encoder.rows(first).map_err(arrow_error)?);
    }
    let ended = first.is_none();
    if ended {
        begin.extend(encoder.end().map_err(arrow_error)?);
    }
    let rest =
        futures::stream::try_unfold((rows, encoder, ended), |(mut rows, mut encoder, ended)| async move {
            if ended {
                return Ok::<_, DataFusionError>(None);
            }
            match rows.next().await.transpose() {
                Ok(Some(batch)) => {
                    let bytes = encoder.rows(&batch)?;
                    Ok(Some((Bytes::from(bytes), (rows, encoder, false))))
                }
                Ok(None) => {
                    let bytes = encoder.end()?;
                    Ok(Some((Bytes::from(bytes), (rows, encoder, true))))
                }
                Err(error) => {
                    tracing::warn!(%error, "an answer was broken off");
                    Err(error)
                }
            }
        });
    let stream = futures::stream::once(async move { Ok(Bytes::from(begin)) }).chain(rest);
    let mut response = Body::from_stream(stream).into_response();
    let vector = HeaderValue::from_str(&vector.to_string())
        .map_err(|error| Error::internal("the vector is no header").with_source(error))?;
    response.headers_mut().insert(VECTOR, vector);
    if let Some(columns) = columns_header(&schema) {
        response.headers_mut().insert(COLUMNS, columns);
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Ok(response)
}

/// The columns as a header, in ASCII.
fn columns_header(schema: &Schema) -> Option<HeaderValue> {
    let json = serde_json::to_string(&columns_of(schema)).ok()?;
    let mut ascii = String::with_capacity(json.len());
    for letter in json.encode_utf16() {
        match u8::try_from(letter) {
            Ok(byte) if byte.is_ascii() => ascii.push(char::from(byte)),
            _ => _ = write!(ascii, "\\u{letter:04x}"),
        }
    }
    (ascii.len() <= MAX_COLUMNS_BYTES).then(|| HeaderValue::from_str(&ascii).ok()).flatten()
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<SqlRequest> {
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().starts_with("application/json"));
    if is_json {
        return serde_json::from_slice(body).map_err(|error| {
            Error::invalid(format!("the body is not what it should be: {error}"))
                .with_hint(r#"send {"sql": "SELECT $1", "params": [1], "as_of": "clicks:0=17"}, or the statement as text/plain"#)
        });
    }
    let sql = std::str::from_utf8(body).map_err(|_| Error::invalid("the statement is not UTF-8"))?;
    Ok(SqlRequest { sql: sql.to_owned(), params: Vec::new(), as_of: None })
}

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::invalid(format!("the answer cannot be written in this format: {error}"))
        .with_hint("cast the column to VARCHAR, or ask for application/vnd.apache.arrow.stream")
}
