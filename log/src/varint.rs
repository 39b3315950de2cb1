//! Zigzag variable-length integers, as in Kafka's record format.

/// Appends `value`.
#[inline]
pub(crate) fn put(buffer: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        buffer.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    buffer.push((rest & 0x7f) as u8);
}

/// Bytes that [`put`] appends.
#[inline]
pub(crate) fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Takes a value off the front of `bytes`; `None` when it is torn or longer than 10 bytes.
#[inline]
pub(crate) fn take(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_have_the_size_foretold() {
        for value in [0, 1, -1, 63, -64, 64, -65, 300, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut buffer = Vec::new();
            put(&mut buffer, value);
            assert_eq!(buffer.len(), size(value), "{value}");
            let mut rest = &buffer[..];
            assert_eq!(take(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn known_bytes() {
        for (value, bytes) in
            [(0, &[0x00][..]), (-1, &[0x01]), (1, &[0x02]), (64, &[0x80, 0x01]), (150, &[0xac, 0x02])]
        {
            let mut buffer = Vec::new();
            put(&mut buffer, value);
            assert_eq!(buffer, bytes, "{value}");
        }
    }

    #[test]
    fn torn_and_endless_values_are_refused() {
        assert_eq!(take(&mut &[0x80_u8][..]), None);
        assert_eq!(take(&mut &[0xff_u8; 11][..]), None);
    }
}
