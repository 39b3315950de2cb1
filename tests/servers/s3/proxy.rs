//! Stands between Tarn and an S3 server, and answers as S3 does on a bad day.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server answers.
    Pass,
    /// The server answers, but never learns of `If-None-Match`.
    Unconditional,
    /// It never comes to the server; this status and this code of S3's is the answer.
    Refused(u16, &'static str),
    /// The server does it, and the answer is an error all the same.
    DoneButFailed,
    /// The server does it, and the connection breaks before the answer.
    DoneButSilent,
}

/// A request, as far as fates depend on it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A put that must not overwrite.
    pub(super) fn is_conditional(&self) -> bool {
        self.method == "PUT" && self.header("if-none-match").is_some()
    }

    fn read(stream: &TcpStream) -> io::Result<Request> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let mut word = || words.next().map(str::to_owned).ok_or(io::ErrorKind::UnexpectedEof);
        let (method, path) = (word()?, word()?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut request = Request { method, path, headers, body: Vec::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body)?;
        Ok(request)
    }

    /// The server's whole answer.
    fn forward(&self, server: &str, conditional: bool) -> io::Result<Vec<u8>> {
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            let dropped = name.eq_ignore_ascii_case("connection")
                || !conditional && name.eq_ignore_ascii_case("if-none-match");
            if !dropped {
                head += &format!("{name}: {value}\r\n");
            }
        }
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        stream.write_all(&self.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

type Decide = Box<dyn FnMut(&Request) -> Fate + Send>;

/// The proxy; it ends when it is dropped.
pub(super) struct Proxy {
    pub(super) address: String,
    decide: Arc<Mutex<Decide>>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy of `server` that asks `decide` for each request's fate.
    pub(super) fn start(server: &str, decide: impl FnMut(&Request) -> Fate + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let proxy = Proxy {
            address,
            decide: Arc::new(Mutex::new(Box::new(decide))),
            ended: Arc::new(AtomicBool::new(false)),
        };
        let (server, decide, ended) = (server.to_owned(), proxy.decide.clone(), proxy.ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), server, decide) = (stream, server.clone(), decide.clone()) else { continue };
                // Whoever hangs up on the proxy has nothing to complain of.
                std::thread::spawn(move || _ = answer(stream, &server, &decide));
            }
        });
        proxy
    }

    /// Another mind from now on.
    pub(super) fn decide(&self, decide: impl FnMut(&Request) -> Fate + Send + 'static) {
        *self.decide.lock() = Box::new(decide);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn answer(mut stream: TcpStream, server: &str, decide: &Mutex<Decide>) -> io::Result<()> {
    let request = Request::read(&stream)?;
    let fate = (decide.lock())(&request);
    match fate {
        Fate::Pass => stream.write_all(&request.forward(server, true)?),
        Fate::Unconditional => stream.write_all(&request.forward(server, false)?),
        Fate::Refused(status, code) => stream.write_all(&error(status, code)),
        Fate::DoneButFailed => {
            request.forward(server, true)?;
            stream.write_all(&error(500, "InternalError"))
        }
        Fate::DoneButSilent => request.forward(server, true).map(drop),
    }
}

fn error(status: u16, code: &str) -> Vec<u8> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected</Message></Error>");
    format!(
        "HTTP/1.1 {status} Injected\r\nConnection: close\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
