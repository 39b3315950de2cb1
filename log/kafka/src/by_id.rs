//! OffsetCommit and OffsetFetch in the version that names topics by id, which the decoder does not know yet.
//!
//! They are those of the version before, but for the id in the place of the name: so the id is written there as a name, in hexadecimal
//! digits, and the request is decoded as one of the version before.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use uuid::Uuid;

use crate::shape::{self, ID_BYTES};

/// The first version that names topics by id.
pub(crate) const IDS_VERSION: i16 = 10;

/// A request as the decoder knows it, whose shape was checked: its version and its body.
pub(crate) fn known(key: ApiKey, version: i16, body: Bytes) -> Result<(i16, Bytes), &'static str> {
    if !matches!(key, ApiKey::OffsetCommit | ApiKey::OffsetFetch) || version < IDS_VERSION {
        return Ok((version, body));
    }
    let places = shape::ids(key, version, &body)?;
    let mut named = BytesMut::with_capacity(body.len() + places.len() * (2 * ID_BYTES + 1));
    let mut rest = &body[..];
    for place in places {
        let (before, from_id) = rest.split_at(place - (body.len() - rest.len()));
        let (id, after) = from_id.split_first_chunk::<ID_BYTES>().ok_or("a field that passes its end")?;
        named.extend_from_slice(before);
        let mut name = [0; 2 * ID_BYTES];
        Uuid::from_bytes(*id).simple().encode_lower(&mut name);
        // The length of a text and one, as a varint: it is short.
        named.put_u8(33);
        named.extend_from_slice(&name);
        rest = after;
    }
    named.extend_from_slice(rest);
    Ok((IDS_VERSION - 1, named.freeze()))
}

/// The id that stands in the place of a name.
pub(crate) fn id_in(name: &str) -> Uuid {
    Uuid::try_parse(name).unwrap_or(Uuid::nil())
}
