//! A small client of PostgreSQL's wire protocol: says what it is told to, and gives what it hears.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What the server said: the kind of each message, and its body.
pub(crate) type Said = Vec<(u8, Vec<u8>)>;

/// One connection.
#[derive(Debug)]
pub(crate) struct Postgres {
    /// The bytes, for those who want to be slow or rude.
    pub(crate) stream: TcpStream,
}

impl Postgres {
    /// A session that takes statements.
    pub(crate) fn connect(address: &str) -> io::Result<Postgres> {
        Postgres::over(TcpStream::connect(address)?)
    }

    /// The same over a socket that is connected.
    pub(crate) fn over(stream: TcpStream) -> io::Result<Postgres> {
        stream.set_read_timeout(Some(Duration::from_secs(180)))?;
        stream.set_nodelay(true)?;
        let mut client = Postgres { stream };
        let words = b"\0\x03\0\0user\0ann\0database\0tarn\0\0";
        let length = u32::try_from(words.len() + 4).expect("short");
        client.stream.write_all(&[&length.to_be_bytes()[..], words].concat())?;
        client.until_ready()?;
        Ok(client)
    }

    /// One message.
    pub(crate) fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 4).expect("less than 4 GiB");
        self.stream.write_all(&[&[kind][..], &length.to_be_bytes()].concat())?;
        self.stream.write_all(body)
    }

    /// A statement in the simple protocol, and all that is said to it.
    pub(crate) fn query(&mut self, sql: &str) -> io::Result<Said> {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat())?;
        self.until_ready()
    }

    /// All that is said until the server takes the next statement.
    pub(crate) fn until_ready(&mut self) -> io::Result<Said> {
        let mut said = Vec::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length).expect("a length") - 4];
            self.stream.read_exact(&mut body)?;
            said.push((head[0], body));
            if head[0] == b'Z' {
                return Ok(said);
            }
        }
    }

    /// The error of a statement, its fields by their letters; `None` if it was answered.
    pub(crate) fn error(&mut self, sql: &str) -> io::Result<Option<HashMap<char, String>>> {
        Ok(error_of(&self.query(sql)?))
    }
}

/// The error in what was said.
pub(crate) fn error_of(said: &Said) -> Option<HashMap<char, String>> {
    let (_, body) = said.iter().find(|(kind, _)| *kind == b'E')?;
    let fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    Some(
        fields
            .map(|field| (char::from(field[0]), String::from_utf8_lossy(&field[1..]).into_owned()))
            .collect(),
    )
}
