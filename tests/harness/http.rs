//! A small HTTP/1.1 client: one connection per request, every header in the test's hands, and a truncated body is an
//! error (the server may be killed at any time).

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// The header in which an answer says what it saw, in lower case.
pub(crate) const VECTOR: &str = "tarn-vector";

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Names in lower case, and values.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Where to send requests.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: String,
}

impl Client {
    /// A client of `address`, e.g. `127.0.0.1:8080`.
    pub(crate) fn new(address: impl Into<String>) -> Client {
        Client { address: address.into() }
    }

    /// The address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// GET.
    pub(crate) fn get(&self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, &[], b"")
    }

    /// POST.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        self.request("POST", path, headers, body)
    }

    /// One statement, answered as JSON.
    pub(crate) fn try_sql(&self, sql: &str) -> io::Result<Answer> {
        self.post(
            "/v1/sql",
            &[("Content-Type", "text/plain"), ("Accept", "application/json")],
            sql.as_bytes(),
        )
    }

    /// One statement that must be answered: its rows.
    #[track_caller]
    pub(crate) fn sql(&self, sql: &str) -> Vec<Value> {
        let answer = self.try_sql(sql).unwrap_or_else(|e| panic!("no answer to `{sql}`: {e}"));
        assert_eq!(answer.status, 200, "`{sql}` was answered: {}", answer.text());
        match answer.json() {
            Value::Array(rows) => rows,
            other => panic!("`{sql}` was not answered with an array: {other}"),
        }
    }

    /// Sends one request and reads the whole answer.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(180)))?;
        stream.set_nodelay(true)?;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        // A server may refuse a large body before it has read it all: then its answer is what counts.
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        match read_answer(BufReader::new(stream)) {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }
}

fn read_answer(mut stream: impl BufRead) -> io::Result<Answer> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::UnexpectedEof, what.to_string());
    let status_line = read_line(&mut stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| broken("no status"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(&mut stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken("no header"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let line = read_line(&mut stream)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| broken("no chunk size"))?;
            let start = answer.body.len();
            answer.body.resize(start + size, 0);
            stream.read_exact(&mut answer.body[start..])?;
            read_line(&mut stream)?;
            if size == 0 {
                return Ok(answer);
            }
        }
    }
    match answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => {
            answer.body.resize(length, 0);
            stream.read_exact(&mut answer.body)?;
        }
        None => {
            stream.read_to_end(&mut answer.body)?;
        }
    }
    Ok(answer)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}
