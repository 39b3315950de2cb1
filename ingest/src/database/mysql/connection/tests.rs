use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;
use crate::database::address::Speaks;

const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";
const PASSWORD: &str = "hunter2";

/// A server that says what it is told to, whatever it hears; what it heard.
fn server(says: impl FnOnce(&mut Speaker) + Send + 'static) -> (Address, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut speaker = Speaker { stream, heard: Vec::new(), number: 0 };
        says(&mut speaker);
        let _ = speaker.stream.read_to_end(&mut speaker.heard);
        speaker.heard
    });
    let config = format!("url = \"mysql://ada:{PASSWORD}@127.0.0.1:{port}/shop\"\ntable = \"t\"");
    (Address::of(&toml::from_str(&config).unwrap(), Speaks::Mysql).unwrap(), heard)
}

struct Speaker {
    stream: TcpStream,
    heard: Vec<u8>,
    number: u8,
}

impl Speaker {
    fn say(&mut self, body: &[u8]) {
        let size = u32::try_from(body.len()).unwrap().to_le_bytes();
        self.stream.write_all(&[size[0], size[1], size[2], self.number]).unwrap();
        self.stream.write_all(body).unwrap();
        self.number = self.number.wrapping_add(1);
    }

    /// The next packet's body.
    fn hear(&mut self) -> Vec<u8> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.stream.read_exact(&mut body).unwrap();
        self.heard.extend_from_slice(&body);
        self.number = head[3] + 1;
        body
    }

    fn greet(&mut self, way: &str) {
        let mut body = b"\x0a8.4.0\0\x01\0\0\0".to_vec();
        body.extend_from_slice(&NONCE[..8]);
        body.extend_from_slice(&[0, 0xff, 0xf7, 45, 2, 0, 0xff, 0xc7, 21]);
        body.extend_from_slice(&[0; 10]);
        body.extend_from_slice(&NONCE[8..]);
        body.push(0);
        body.extend_from_slice(way.as_bytes());
        body.push(0);
        self.say(&body);
    }
}

fn open(address: &Address) -> Result<Connection> {
    Connection::open(address, Arc::new(Stop::default()))
}

fn holds(heard: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(heard, what).is_some()
}

#[test]
fn a_server_that_remembers_the_password_needs_its_hash_alone() {
    let (address, heard) = server(|speaker| {
        speaker.greet(SHA2);
        let answer = speaker.hear();
        assert!(holds(&answer, &sha2_answer(PASSWORD, NONCE)) && holds(&answer, b"ada\0"));
        speaker.say(&[MORE, 3]);
        speaker.say(&[OK, 0, 0, 2, 0, 0, 0]);
    });
    drop(open(&address).unwrap());
    assert!(!holds(&heard.join().unwrap(), PASSWORD.as_bytes()));
}

#[test]
fn a_password_is_not_said_where_somebody_could_listen() {
    let (address, heard) = server(|speaker| {
        speaker.greet(SHA2);
        speaker.hear();
        speaker.say(&[MORE, 4]);
    });
    let error = open(&address).map(drop).unwrap_err();
    assert!(error.to_string().contains("wants the password as it is"), "{error}");
    assert!(error.hint().unwrap().contains("sslmode=verify-full"), "{error:?}");
    assert!(!holds(&heard.join().unwrap(), PASSWORD.as_bytes()));
}

#[test]
fn a_server_may_want_another_way() {
    let (address, heard) = server(|speaker| {
        speaker.greet("some_other");
        speaker.hear();
        speaker.say(&[&[END], NATIVE.as_bytes(), &[0], NONCE, &[0]].concat());
        assert_eq!(speaker.hear(), native_answer(PASSWORD, NONCE));
        speaker.say(&[OK, 0, 0, 2, 0, 0, 0]);
    });
    drop(open(&address).unwrap());
    heard.join().unwrap();
    let (address, heard) = server(|speaker| {
        speaker.greet(NATIVE);
        speaker.hear();
        speaker.say(&[&[END], b"client_ed25519\0".as_slice(), NONCE].concat());
    });
    let error = open(&address).map(drop).unwrap_err();
    assert!(error.to_string().contains("not known here: `client_ed25519`"), "{error}");
    heard.join().unwrap();
}

#[test]
fn what_a_server_refuses_is_told_as_it_says_it() {
    let (address, heard) = server(|speaker| speaker.say(b"\xff\x10\x04Too many connections"));
    let error = open(&address).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(format!("{error:?}").contains("Too many connections [1040]"), "{error:?}");
    heard.join().unwrap();
    for (code, kind) in
        [(1045, Kind::Unavailable), (1064, Kind::Invalid), (1213, Kind::Unavailable), (1142, Kind::Invalid)]
    {
        let body = [&[ERROR], u16::to_le_bytes(code).as_slice(), b"#42000what it says"].concat();
        let error = refused(&body, "read `t`");
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, "cannot read `t`"));
        assert!(format!("{error:?}").contains(&format!("what it says [{code}]")), "{error:?}");
    }
    assert_eq!(refused(b"\xff\x7a\x04#42S02no", "read").sqlstate(), Some(NO_SUCH_TABLE));
}

#[test]
fn what_is_no_server_of_mysql_is_told_so() {
    let (address, heard) = server(|speaker| speaker.stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap());
    let error = open(&address).map(drop).unwrap_err();
    assert!(error.hint().unwrap().contains("is it a server of MySQL"), "{error:?}");
    heard.join().unwrap();
    let (address, heard) = server(|speaker| speaker.say(b"\x09old"));
    assert!(open(&address).map(drop).unwrap_err().to_string().contains("greets as no server"));
    heard.join().unwrap();
}

/// A column `c` of text.
fn column() -> Vec<u8> {
    let mut body = b"\x03def\0\0\0\x01c\0\x0c".to_vec();
    body.extend_from_slice(&[45, 0, 255, 255, 255, 255, 251, 0, 0, 0, 0, 0]);
    body
}

#[test]
fn a_row_that_comes_in_pieces_is_one_row_and_one_beyond_all_bounds_is_refused() {
    let (address, heard) = server(|speaker| {
        speaker.greet(NATIVE);
        speaker.hear();
        speaker.say(&[OK, 0, 0, 2, 0, 0, 0]);
        for cell in [2 * WHOLE_PACKET - 9, 70 << 20] {
            speaker.hear();
            speaker.say(&[1]);
            speaker.say(&column());
            speaker.say(&[END, 0, 0, 2, 0]);
            let mut row = vec![0xfe];
            row.extend_from_slice(&u64::try_from(cell).unwrap().to_le_bytes());
            row.resize(row.len() + cell, b'x');
            for piece in row.chunks(WHOLE_PACKET) {
                // Whoever refuses the row hears no more of it.
                let size = u32::try_from(piece.len()).unwrap().to_le_bytes();
                let head = [size[0], size[1], size[2], speaker.number];
                if speaker.stream.write_all(&head).and_then(|()| speaker.stream.write_all(piece)).is_err() {
                    return;
                }
                speaker.number = speaker.number.wrapping_add(1);
            }
            if row.len() % WHOLE_PACKET == 0 {
                speaker.say(&[]);
            }
            speaker.say(b"\x01y");
            speaker.say(&[END, 0, 0, 2, 0]);
        }
    });
    let mut connection = open(&address).unwrap();
    let rows = connection.query("SELECT c FROM t", "read").unwrap();
    assert_eq!(rows[0][0].as_ref().unwrap().len(), 2 * WHOLE_PACKET - 9);
    assert_eq!(rows[1][0].as_deref(), Some("y"), "what follows is a row of its own");
    assert!(connection.joined.is_empty(), "what was joined is let go");
    let error = connection.query("SELECT c FROM t", "read").unwrap_err();
    assert!(error.to_string().contains("more than 67108864 are not read"), "{error}");
    drop(connection);
    heard.join().unwrap();
}
