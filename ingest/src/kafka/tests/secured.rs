//! A cluster that wants TLS and a login: Tarn's own listener, behind a door that speaks TLS and plays SASL's other side. It hangs up on
//! whoever asks for anything before the login, and names itself where the listener names its own address.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

const PASSWORD: &str = "p@ss, word=";
const USER: &str = "ada";
const CERTIFICATE: &[u8] = include_bytes!("../../tests/localhost.pem");
const KEY: &[u8] = include_bytes!("../../tests/localhost.key");
const SALT: &[u8] = b"some salt";
/// Requests that the door answers, or changes the answer of.
const API_VERSIONS: i16 = 18;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
/// Errors.
const UNSUPPORTED_MECHANISM: i16 = 33;
const AUTHENTICATION_FAILED: i16 = 58;

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// A door in front of a broker.
#[derive(Clone)]
struct Door {
    broker: SocketAddr,
    port: u16,
    tls: Option<Arc<ServerConfig>>,
    /// The mechanism by which it lets anybody in.
    mechanism: &'static str,
}

/// Opens one; where it is.
fn door(other: &Other, tls: bool, mechanism: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = tls.then(|| {
        let certificates = CertificateDer::pem_slice_iter(CERTIFICATE).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(certificates, key).unwrap())
    });
    let door = Door { broker: other.server.address(), port, tls, mechanism };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let door = door.clone();
            std::thread::spawn(move || door.serve(stream));
        }
    });
    format!("localhost:{port}")
}

fn frame(stream: &mut dyn Both) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn send(stream: &mut dyn Both, frame: &[u8]) -> io::Result<()> {
    stream.write_all(&i32::try_from(frame.len()).map_err(io::Error::other)?.to_be_bytes())?;
    stream.write_all(frame)?;
    stream.flush()
}

impl Door {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut client: Box<dyn Both> = match &self.tls {
            Some(tls) => {
                let connection = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, stream))
            }
            None => Box::new(stream),
        };
        let mut broker = TcpStream::connect(self.broker)?;
        let mut login = Login {
            mechanism: self.mechanism,
            server_first: None,
            client_first: String::new(),
            is_in: false,
        };
        loop {
            let request = frame(&mut *client)?;
            let key = i16::from_be_bytes([request[0], request[1]]);
            let mut forward = || {
                send(&mut broker, &request)?;
                frame(&mut broker)
            };
            let answer = match key {
                API_VERSIONS => with_login(forward()?),
                SASL_HANDSHAKE => login.shakes_hands(&request),
                SASL_AUTHENTICATE => login.hears(&request),
                _ if login.is_in => self.named(&forward()?),
                _ => return Ok(()),
            };
            send(&mut *client, &answer)?;
        }
    }

    /// The answer, with this door in the place of the broker.
    fn named(&self, answer: &[u8]) -> Vec<u8> {
        let place = |host: &str, port: u16| [host.as_bytes(), &i32::from(port).to_be_bytes()].concat();
        let (broker, door) = (place("127.0.0.1", self.broker.port()), place("localhost", self.port));
        let mut answer = answer.to_vec();
        for at in 0..answer.len().saturating_sub(broker.len() - 1) {
            if answer[at..].starts_with(&broker) {
                answer[at..at + door.len()].copy_from_slice(&door);
            }
        }
        answer
    }
}

/// The versions of a broker that knows of logins: correlation, error, count, and of each API three numbers.
fn with_login(mut answer: Vec<u8>) -> Vec<u8> {
    let count = i32::from_be_bytes(answer[6..10].try_into().unwrap()) + 2;
    answer[6..10].copy_from_slice(&count.to_be_bytes());
    for number in [SASL_HANDSHAKE, 0, 1, SASL_AUTHENTICATE, 0, 2] {
        answer.extend(number.to_be_bytes());
    }
    answer
}

/// What stands behind a request's header: key, version, correlation, client.
fn behind_header(request: &[u8]) -> &[u8] {
    let client = usize::try_from(i16::from_be_bytes([request[8], request[9]])).unwrap();
    &request[10 + client..]
}

/// The other side of a login.
struct Login {
    mechanism: &'static str,
    server_first: Option<String>,
    client_first: String,
    is_in: bool,
}

impl Login {
    /// Version 1: the mechanism's name; an error, and the names that are known.
    fn shakes_hands(&self, request: &[u8]) -> Vec<u8> {
        let asked = &behind_header(request)[2..];
        let code = if asked == self.mechanism.as_bytes() { 0 } else { UNSUPPORTED_MECHANISM };
        let length = i16::try_from(self.mechanism.len()).unwrap();
        [
            &request[4..8],
            &code.to_be_bytes(),
            &1_i32.to_be_bytes(),
            &length.to_be_bytes(),
            self.mechanism.as_bytes(),
        ]
        .concat()
    }

    /// Version 2, in which lengths are varints, and one more than they are: what is said; an error with its words, and the answer.
    fn hears(&mut self, request: &[u8]) -> Vec<u8> {
        // No tagged fields in the header.
        let mut rest = &behind_header(request)[1..];
        let mut length = 0;
        for shift in [0, 7] {
            let byte = rest[0];
            rest = &rest[1..];
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let said = std::str::from_utf8(&rest[..length - 1]).unwrap();
        let (code, told, answer) = match self.answer(said) {
            Some(answer) => (0, String::new(), answer),
            None => (AUTHENTICATION_FAILED, "who are you".to_owned(), String::new()),
        };
        let counted = |text: &str| [&[u8::try_from(text.len() + 1).unwrap()], text.as_bytes()].concat();
        let header = [&request[4..8], &[0]].concat();
        [header, code.to_be_bytes().to_vec(), counted(&told), counted(&answer), vec![0; 8], vec![0]].concat()
    }

    /// What to say to that; `None`: no.
    fn answer(&mut self, said: &str) -> Option<String> {
        if self.mechanism == "PLAIN" {
            self.is_in = said == format!("\0{USER}\0{PASSWORD}");
            return self.is_in.then(String::new);
        }
        let Some(server_first) = self.server_first.clone() else {
            let (user, nonce) = said.strip_prefix("n,,n=")?.split_once(",r=")?;
            self.client_first = said.strip_prefix("n,,")?.to_owned();
            let first = format!("r={nonce}more,s={},i=4096", BASE64.encode(SALT));
            self.server_first = (user == USER).then(|| first.clone());
            return self.server_first.clone();
        };
        let (without_proof, proof) = said.split_once(",p=")?;
        let message = format!("{},{server_first},{without_proof}", self.client_first);
        let (hash, sign, derive) = match self.mechanism {
            "SCRAM-SHA-256" => (&digest::SHA256, hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
            _ => (&digest::SHA512, hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
        };
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(derive, NonZeroU32::new(4096)?, SALT, PASSWORD.as_bytes(), &mut salted);
        let keyed = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(sign, key), text);
        let client_key = keyed(&salted, b"Client Key");
        let stored = digest::digest(hash, client_key.as_ref());
        let signature = keyed(stored.as_ref(), message.as_bytes());
        let right: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        self.is_in = BASE64.decode(proof).ok()? == right;
        let server_key = keyed(&salted, b"Server Key");
        let proof = keyed(server_key.as_ref(), message.as_bytes());
        self.is_in.then(|| format!("v={}", BASE64.encode(proof)))
    }
}

fn source(brokers: &str, rest: &str) -> String {
    format!(
        "[[source]]\nname = \"mirror\"\ntype = \"kafka\"\nbrokers = \"{brokers}\"\ntopics = \"shop.*\"\n\
         topic = \"{{topic}}\"\nuser = \"{USER}\"\n{rest}\n"
    )
}

fn trusting(fixture: &Fixture) -> String {
    let path = fixture.put("ca.pem", CERTIFICATE);
    format!("tls = true\ntls_ca = \"{}\"", path.display())
}

#[test]
fn a_cluster_that_wants_tls_and_a_login_is_mirrored_by_every_mechanism() {
    let password = format!("password = \"{PASSWORD}\"");
    for (mechanism, tls, sasl) in [
        ("SCRAM-SHA-512", true, ""),
        ("SCRAM-SHA-256", true, "sasl = \"scram-sha-256\""),
        ("PLAIN", true, "sasl = \"plain\""),
        // Without TLS: nobody hears the password, or nobody else can.
        ("SCRAM-SHA-512", false, "sasl = \"scram-sha-512\""),
        ("PLAIN", false, "sasl = \"plain\""),
    ] {
        let fixture = Fixture::new();
        let other = Other::new(&fixture, Compression::Lz4);
        other.topic("shop.orders", 3);
        other.write(&fixture, "shop.orders", 0, 200);
        let tls_keys = if tls { trusting(&fixture) } else { String::new() };
        let config = source(&door(&other, tls, mechanism), &format!("{tls_keys}\n{password}\n{sasl}"));
        fixture.drain(&config).unwrap();
        let all = whole(fixture.log(), "shop.orders");
        assert_eq!(all, whole(&other.log, "shop.orders"), "{mechanism}, TLS: {tls}");
        assert_eq!(all.len(), 600);
    }
}

#[test]
fn who_is_not_believed_on_either_side_is_waited_for_and_told() {
    let right = format!("password = \"{PASSWORD}\"");
    let wrong = "password = \"guessed\"".to_owned();
    let fixture = Fixture::new();
    let other = Other::new(&fixture, Compression::None);
    other.topic("shop.orders", 1);
    let trusted = trusting(&fixture);
    let tls = |rest: &str| format!("{trusted}\n{rest}");
    for (door, keys, wanted) in [
        (door(&other, true, "SCRAM-SHA-512"), tls(&wrong), "cannot log in at the broker localhost:"),
        (door(&other, true, "PLAIN"), tls(&format!("{wrong}\nsasl = \"plain\"")), "who are you"),
        (door(&other, true, "PLAIN"), tls(&right), "set `sasl` to what it knows: PLAIN"),
        // Nobody knows this authority.
        (door(&other, true, "PLAIN"), format!("tls = true\n{right}"), "invalid peer certificate"),
        // The certificate is of another name.
        (door(&other, true, "PLAIN").replace("localhost", "127.0.0.1"), tls(&right), "not valid for name"),
        (door(&other, true, "PLAIN"), right.clone(), "if it wants TLS: `tls = true`"),
        (
            other.server.address().to_string().replace("127.0.0.1", "localhost"),
            tls(&right),
            "no TLS with the broker",
        ),
        (other.server.address().to_string(), right.clone(), "knows of no logins"),
    ] {
        let fixture = Fixture::new();
        let collectors = fixture.start(&source(&door, &keys), RunMode::Continuous);
        let told = || {
            let error = collectors.status()[0].last_error.clone();
            error.map(|error| error.message)
        };
        fixture.wait_for("an error", || told().is_some());
        let told = told().unwrap();
        assert!(told.contains(wanted), "wanted `{wanted}`: {told}");
        fixture.stop(&collectors);
    }
}
