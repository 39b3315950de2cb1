//! logfmt: `key=value` pairs with spaces between, values in quotes where they hold spaces; a key alone is `true`.

use memchr::memchr2;

use super::access::head;
use crate::fields::Fields;

pub(super) fn parse(line: &str, fields: &mut Fields) -> Result<(), String> {
    let mut rest = line.trim_matches([' ', '\t', '\r']);
    let mut pairs = 0;
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', '=']).unwrap_or(rest.len());
        let key = &rest[..end];
        if key.is_empty() || key.contains('"') {
            let at = line.len() - rest.len() + 1;
            return Err(format!("has no key at character {at}: `{}`", head(rest)));
        }
        rest = match rest[end..].strip_prefix('=') {
            None => {
                fields.push(key, "true");
                &rest[end..]
            }
            Some(after) => {
                pairs += 1;
                match after.strip_prefix('"') {
                    Some(quoted) => string(key, quoted, fields)?,
                    None => {
                        let end = after.find([' ', '\t']).unwrap_or(after.len());
                        fields.push(key, &after[..end]);
                        &after[end..]
                    }
                }
            }
        };
        rest = rest.trim_start_matches([' ', '\t']);
    }
    if pairs == 0 { Err("has no `key=value`".into()) } else { Ok(()) }
}

/// Takes a string whose opening quote was taken, and returns what comes after it.
fn string<'a>(key: &str, quoted: &'a str, fields: &mut Fields) -> Result<&'a str, String> {
    let bytes = quoted.as_bytes();
    let (mut at, mut escaped) = (0, false);
    loop {
        let next = bytes.get(at..).and_then(|bytes| memchr2(b'"', b'\\', bytes));
        let next = next.ok_or_else(|| format!("has no closing quote for the value of `{key}`"))?;
        at += next;
        if bytes[at] == b'"' {
            break;
        }
        escaped = true;
        at += 2;
    }
    let (inner, after) = (&quoted[..at], &quoted[at + 1..]);
    if !(after.is_empty() || after.starts_with([' ', '\t'])) {
        return Err(format!("has more behind the closing quote of `{key}`: `{}`", head(after)));
    }
    if !escaped {
        fields.push(key, inner);
        return Ok(after);
    }
    fields.push_with(key, |out| {
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other @ ('"' | '\\')) => out.push(other),
                // Nobody says what it is: it stays.
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            }
        }
    });
    Ok(after)
}
