//! Times as logs write them, in RFC 3339.

const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// The month (1 to 12) of its three English letters.
pub(super) fn month(name: &[u8]) -> Option<u8> {
    if name.len() != 3 {
        return None;
    }
    let at = MONTHS.chunks_exact(3).position(|month| month == name)?;
    u8::try_from(at + 1).ok()
}

/// A number of exactly these digits, at most `most`.
pub(super) fn digits(text: &[u8], most: u32) -> Option<u32> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    (number <= most).then_some(number)
}

/// `HH:MM:SS`; a leap second passes here, for the tables to refuse.
pub(super) fn is_clock(text: &[u8]) -> bool {
    matches!(text, [h, k, b':', m, n, b':', s, t]
        if digits(&[*h, *k], 23).is_some() && digits(&[*m, *n], 59).is_some() && digits(&[*s, *t], 60).is_some())
}

/// Appends `22/Nov/2026:10:00:00 +0100` as `2026-11-22T10:00:00+01:00`.
pub(super) fn write_access(text: &str, out: &mut String) -> Option<()> {
    let bytes = text.as_bytes();
    if bytes.len() != 26 || bytes[2] != b'/' || bytes[6] != b'/' || bytes[11] != b':' || bytes[20] != b' ' {
        return None;
    }
    let day = digits(&bytes[..2], 31).filter(|day| *day > 0)?;
    let month = month(&bytes[3..6])?;
    digits(&bytes[7..11], 9999)?;
    let offset = &bytes[21..];
    let sign = matches!(offset[0], b'+' | b'-');
    if !is_clock(&bytes[12..20])
        || !sign
        || digits(&offset[1..3], 23).is_none()
        || digits(&offset[3..], 59).is_none()
    {
        return None;
    }
    out.push_str(&text[7..11]);
    out.push('-');
    push_two(out, u32::from(month));
    out.push('-');
    push_two(out, day);
    out.push('T');
    out.push_str(&text[12..20]);
    out.push_str(&text[21..24]);
    out.push(':');
    out.push_str(&text[24..]);
    Some(())
}

pub(super) fn push_two(out: &mut String, number: u32) {
    for digit in [number / 10 % 10, number % 10] {
        out.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}
