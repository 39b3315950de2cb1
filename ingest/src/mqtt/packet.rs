//! Packets of MQTT 3.1.1, as far as a subscriber meets them.
//!
//! ```text
//! packet  type and flags (1 byte)  length (1 to 4 bytes, 7 bits each, the lowest first)  that many bytes
//! text    length (2 bytes)  UTF-8
//! ```
//! A message that is too large is never held whole: its head is kept, the rest is hashed and skipped.

use tarn_model::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

use crate::lines::{Limits, Oversize};

/// Longest topic, with what stands around it.
const MOST_TOPIC_BYTES: usize = 2 + 65_535 + 2;

/// What a broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    /// The answer to a connection: whether the session is known, and 0 or why it is refused.
    Connected {
        session_present: bool,
        code: u8,
    },
    Message(Message),
    /// The sender knows that the message of this id is here.
    Release(u16),
    /// For each filter the quality of service, or 0x80.
    Subscribed(Vec<u8>),
    Unsubscribed,
    Pong,
}

/// A message that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// When `payload` is only the head of it.
    pub(super) oversize: Option<Oversize>,
    pub(super) qos: u8,
    /// 0 without a quality of service.
    pub(super) id: u16,
}

/// The request for a session that outlives the connection.
pub(super) fn connect(client_id: &str, keep_alive_s: u16, login: Option<(&str, Option<&str>)>) -> Vec<u8> {
    const USER: u8 = 0x80;
    const PASSWORD: u8 = 0x40;
    let mut body = Vec::new();
    push_text(&mut body, "MQTT");
    let flags = match login {
        None => 0,
        Some((_, None)) => USER,
        Some((_, Some(_))) => USER | PASSWORD,
    };
    body.extend([4, flags]);
    body.extend(keep_alive_s.to_be_bytes());
    push_text(&mut body, client_id);
    if let Some((user, password)) = login {
        push_text(&mut body, user);
        password.into_iter().for_each(|password| push_text(&mut body, password));
    }
    framed(0x10, &body)
}

pub(super) fn subscribe<'f>(filters: impl Iterator<Item = &'f str>, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        push_text(&mut body, filter);
        body.push(qos);
    }
    framed(0x82, &body)
}

pub(super) fn unsubscribe<'f>(filters: impl Iterator<Item = &'f str>) -> Vec<u8> {
    let mut body = vec![0, 2];
    filters.for_each(|filter| push_text(&mut body, filter));
    framed(0xa2, &body)
}

/// The message of this id is here, for good (quality of service 1).
pub(super) fn acknowledged(id: u16) -> [u8; 4] {
    of_id(0x40, id)
}

/// The same of quality 2, whose sender now releases the id.
pub(super) fn received(id: u16) -> [u8; 4] {
    of_id(0x50, id)
}

/// The id is free again.
pub(super) fn completed(id: u16) -> [u8; 4] {
    of_id(0x70, id)
}

pub(super) const PING: [u8; 2] = [0xc0, 0];
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

fn of_id(kind: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [kind, 2, high, low]
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    // The config's check has seen to the length.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// Cuts a broker's bytes into packets.
pub(super) struct Unpacker {
    limits: Limits,
    buffer: Vec<u8>,
    /// Of `buffer`, what was taken already.
    taken: usize,
    /// A message that is too large, and how many of its bytes are missing.
    long: Option<(Message, Xxh3, u64, usize)>,
}

impl Unpacker {
    pub(super) fn new(limits: Limits) -> Unpacker {
        Unpacker { limits, buffer: Vec::new(), taken: 0, long: None }
    }

    /// More bytes came.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next packet that is whole; `None` while it is not.
    pub(super) fn next(&mut self) -> Result<Option<Packet>> {
        if self.long.is_some() {
            return Ok(self.skip().map(Packet::Message));
        }
        let rest = &self.buffer[self.taken..];
        let Some((length, header)) = length_of(rest)? else { return Ok(None) };
        let kind = rest[0];
        let is_message = kind >> 4 == 3;
        let body = &rest[header..];
        if length > self.limits.whole + MOST_TOPIC_BYTES {
            if !is_message {
                return Err(broken("a packet that is no message is too large"));
            }
            // Enough to have topic, id and the head.
            if body.len() < MOST_TOPIC_BYTES + self.limits.head {
                return Ok(None);
            }
            let body = &body[..length.min(body.len())];
            let (mut message, at) = message_of(kind, body)?;
            let seen = &body[at..];
            let mut hash = Xxh3::new();
            hash.update(seen);
            message.payload = seen[..self.limits.head].to_vec();
            let size = (length - at) as u64;
            self.long = Some((message, hash, size, length - body.len()));
            self.taken += header + body.len();
            return Ok(self.skip().map(Packet::Message));
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let packet = packet_of(kind, body)?;
        self.taken += header + length;
        Ok(Some(match packet {
            Packet::Message(message) if message.payload.len() > self.limits.whole => {
                let mut hash = Xxh3::new();
                hash.update(&message.payload);
                let oversize = Some(Oversize { size: message.payload.len() as u64, hash: hash.digest128() });
                let payload = message.payload[..self.limits.head].to_vec();
                Packet::Message(Message { payload, oversize, ..message })
            }
            packet => packet,
        }))
    }

    /// Skips what came of the message that is too large; the message, once all of it came.
    fn skip(&mut self) -> Option<Message> {
        let (_, hash, _, missing) = self.long.as_mut()?;
        let rest = &self.buffer[self.taken..];
        let part = &rest[..rest.len().min(*missing)];
        hash.update(part);
        *missing -= part.len();
        self.taken += part.len();
        let (mut message, hash, size, _) = self.long.take_if(|(.., missing)| *missing == 0)?;
        message.oversize = Some(Oversize { size, hash: hash.digest128() });
        Some(message)
    }
}

/// The length of a packet's body, and that of what stands before it; `None` while they are not all there.
fn length_of(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (i, byte) in bytes.iter().skip(1).enumerate() {
        if i == 4 {
            return Err(broken("a packet's length has more than four bytes"));
        }
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((length, i + 2)));
        }
    }
    Ok(None)
}

fn packet_of(kind: u8, body: &[u8]) -> Result<Packet> {
    let id = |body: &[u8]| match body {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(broken("a packet ends before its id")),
    };
    Ok(match kind >> 4 {
        2 => match body {
            [flags, code] => Packet::Connected { session_present: flags & 1 == 1, code: *code },
            _ => return Err(broken("the answer to the connection has another length")),
        },
        3 => {
            let (mut message, at) = message_of(kind, body)?;
            message.payload = body[at..].to_vec();
            Packet::Message(message)
        }
        6 => Packet::Release(id(body)?),
        9 => {
            id(body)?;
            Packet::Subscribed(body[2..].to_vec())
        }
        11 => Packet::Unsubscribed,
        13 => Packet::Pong,
        other => return Err(broken(&format!("a packet of the type {other} is nothing that a broker sends"))),
    })
}

/// A message without its payload, and where that begins.
fn message_of(kind: u8, body: &[u8]) -> Result<(Message, usize)> {
    let qos = (kind >> 1) & 3;
    if qos == 3 {
        return Err(broken("a message has the quality of service 3"));
    }
    let short = || broken("a message ends before its payload");
    let length = body.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
    let mut at = 2 + length.ok_or_else(short)?;
    let topic = body.get(2..at).ok_or_else(short)?;
    let topic = std::str::from_utf8(topic).map_err(|_| broken("a topic is not UTF-8"))?.to_owned();
    let mut id = 0;
    if qos > 0 {
        let bytes = body.get(at..at + 2).ok_or_else(short)?;
        id = u16::from_be_bytes([bytes[0], bytes[1]]);
        at += 2;
    }
    Ok((Message { topic, payload: Vec::new(), oversize: None, qos, id }, at))
}

/// The connection is of no more use.
fn broken(what: &str) -> Error {
    Error::unavailable(format!("the broker does not speak MQTT 3.1.1: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { whole: 1000, head: 10 };

    fn publish(topic: &str, qos: u8, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        push_text(&mut body, topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        body.extend_from_slice(payload);
        framed(0x30 | (qos << 1), &body)
    }

    fn unpacked(bytes: &[u8], step: usize) -> Vec<Packet> {
        let mut unpacker = Unpacker::new(LIMITS);
        let mut packets = Vec::new();
        for part in bytes.chunks(step) {
            unpacker.feed(part);
            while let Some(packet) = unpacker.next().unwrap() {
                packets.push(packet);
            }
        }
        packets
    }

    #[test]
    fn requests_are_what_the_protocol_says() {
        assert_eq!(
            connect("me", 30, Some(("u", Some("p")))),
            b"\x10\x14\0\x04MQTT\x04\xc0\0\x1e\0\x02me\0\x01u\0\x01p"
        );
        assert_eq!(connect("me", 1, None), b"\x10\x0e\0\x04MQTT\x04\0\0\x01\0\x02me");
        assert_eq!(subscribe(["a/+", "b"].into_iter(), 2), b"\x82\x0c\0\x01\0\x03a/+\x02\0\x01b\x02");
        assert_eq!(unsubscribe(["b"].into_iter()), b"\xa2\x05\0\x02\0\x01b");
        assert_eq!(
            (acknowledged(258), received(1), completed(1)),
            ([0x40, 2, 1, 2], [0x50, 2, 0, 1], [0x70, 2, 0, 1])
        );
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for bytes in [
            &b"\x30\xff\xff\xff\xff\x01"[..],
            b"\x36\x04\0\x01a\0",
            b"\x30\x01\0",
            b"\x32\x03\0\x01a",
            b"\x30\x03\0\x01\xff",
            b"\x20\x01\0",
            b"\x62\0",
            b"\x90\x01\0",
            b"\xf0\0",
        ] {
            let mut unpacker = Unpacker::new(LIMITS);
            unpacker.feed(bytes);
            assert!(unpacker.next().is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_however_they_arrive(
            messages in prop::collection::vec(("[a-zä/]{0,20}", 0_u8..3, 1_u16.., prop::sample::select(vec![0_usize, 1, 9, 200, 999, 1000, 1001, 70_000])), 1..6),
            step in 1_usize..3000,
        ) {
            let (mut bytes, mut expected) = (vec![0x20, 2, 1, 0, 0xd0, 0], vec![Packet::Connected { session_present: true, code: 0 }, Packet::Pong]);
            for (n, (topic, qos, id, size)) in messages.into_iter().enumerate() {
                let payload: Vec<u8> = (0..size).map(|i| u8::try_from((i * 7 + n) % 251).unwrap()).collect();
                bytes.extend(publish(&topic, qos, id, &payload));
                let oversize = (size > LIMITS.whole).then(|| Oversize { size: size as u64, hash: xxhash_rust::xxh3::xxh3_128(&payload) });
                let payload = if oversize.is_some() { payload[..LIMITS.head].to_vec() } else { payload };
                expected.push(Packet::Message(Message { topic, payload, oversize, qos, id: if qos > 0 { id } else { 0 } }));
                bytes.extend([0x62, 2, 0, 9]);
                expected.push(Packet::Release(9));
            }
            prop_assert_eq!(unpacked(&bytes, step), expected);
        }
    }
}
