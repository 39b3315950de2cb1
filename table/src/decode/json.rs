//! Walks a JSON object: the only place that parses records as JSON.
//!
//! *Why a scanner of its own.* A decoder needs the place of each name and value in the text, checked but not yet
//! understood: what `042` or `1.50` means is for the column to say. Taking that from a general parser through its visitors
//! costs more than all columns of a usual record together. What is nested is left to `serde_json`, and so are the words for
//! what is wrong; a property test holds the scanner to accept exactly what `serde_json` accepts.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{Failure, values};

/// A value, as it stands in the text, without space around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    /// Its text.
    pub(super) text: &'a str,
    /// Whether it is a string without escapes: what stands between its quotes is its value.
    pub(super) plain: bool,
}

/// Takes the fields of an object, one after another.
pub(super) trait Visitor<'a> {
    /// The name that the object's field `nth` is likely to have, as it stands in a text, its closing quote included; empty
    /// where there is no guess. A guess that is right saves reading the name.
    fn guess(&self, nth: usize) -> &str;

    /// Takes a field: its place in the object, its name (`None`: the guessed one), and its value.
    fn field(&mut self, nth: usize, name: Option<Cow<'a, str>>, value: Raw<'a>) -> Result<(), Failure>;
}

/// Shows `visitor` each field of the object `text`. Stops at the first error. The text has been checked as JSON as far as
/// fields were shown.
#[inline]
pub(super) fn walk<'a>(text: &'a str, visitor: &mut impl Visitor<'a>) -> Result<(), Failure> {
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0 };
    let wrong = || describe(text);
    scanner.expect(b'{').ok_or_else(wrong)?;
    let mut more = scanner.peek().ok_or_else(wrong)? != b'}';
    let mut nth = 0;
    while more {
        scanner.expect(b'"').ok_or_else(wrong)?;
        let name = if scanner.skip(visitor.guess(nth)) {
            None
        } else {
            let (name, plain) = scanner.string().ok_or_else(wrong)?;
            Some(if plain { Cow::Borrowed(name) } else { values::unescaped(name).map_err(|_| wrong())? })
        };
        scanner.expect(b':').ok_or_else(wrong)?;
        let value = scanner.value().ok_or_else(wrong)?;
        visitor.field(nth, name, value)?;
        nth += 1;
        more = match scanner.peek() {
            Some(b',') => {
                scanner.at += 1;
                true
            }
            _ => false,
        };
    }
    scanner.expect(b'}').ok_or_else(wrong)?;
    if scanner.peek().is_some() { Err(wrong()) } else { Ok(()) }
}

/// [`walk`] without guesses.
pub(super) fn each_field<'a>(
    text: &'a str,
    field: impl FnMut(usize, Cow<'a, str>, Raw<'a>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    struct Unguessed<F>(F);

    impl<'a, F: FnMut(usize, Cow<'a, str>, Raw<'a>) -> Result<(), Failure>> Visitor<'a> for Unguessed<F> {
        fn guess(&self, _nth: usize) -> &str {
            ""
        }

        fn field(&mut self, nth: usize, name: Option<Cow<'a, str>>, value: Raw<'a>) -> Result<(), Failure> {
            (self.0)(nth, name.unwrap_or_default(), value)
        }
    }

    walk(text, &mut Unguessed(field))
}

/// The parser's words, with the place counted in the record: "column" would be taken for a table's.
fn describe(text: &str) -> Failure {
    let kind = if text.trim_ascii_start().starts_with('{') { "valid JSON" } else { "a JSON object" };
    let error = match serde_json::from_str::<std::collections::HashMap<String, &RawValue>>(text) {
        Ok(_) => return Failure::record(format!("the record is not {kind}")),
        Err(error) => error,
    };
    let full = error.to_string();
    let what = full.rsplit_once(" at line ").map_or(full.as_str(), |(what, _)| what);
    let what = what.replace("expected a map", "expected an object");
    let line_start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    Failure::record(format!("the record is not {kind}: {what} at byte {}", line_start + error.column()))
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte that is not space, which stays.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Goes past the next byte that is not space, which must be this one.
    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// Goes past `guess` if the text goes on with it; an empty guess is never right.
    #[inline]
    fn skip(&mut self, guess: &str) -> bool {
        let right = !guess.is_empty() && self.bytes[self.at..].starts_with(guess.as_bytes());
        if right {
            self.at += guess.len();
        }
        right
    }

    #[inline]
    fn value(&mut self) -> Option<Raw<'a>> {
        let first = self.peek()?;
        let from = self.at;
        let mut plain = false;
        match first {
            b'"' => {
                self.at += 1;
                plain = self.string()?.1;
            }
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            b'{' | b'[' => self.nested()?,
            _ => return None,
        }
        Some(Raw { text: &self.text[from..self.at], plain })
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// What stands before the closing quote, and whether it has no escapes. The opening quote is past.
    #[inline]
    fn string(&mut self) -> Option<(&'a str, bool)> {
        let from = self.at;
        let mut plain = true;
        loop {
            self.at = end_of_plain(self.bytes, self.at);
            match self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' => {
                    plain = false;
                    self.at += match self.bytes.get(self.at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                        b'u' if self
                            .bytes
                            .get(self.at + 2..self.at + 6)?
                            .iter()
                            .all(u8::is_ascii_hexdigit) =>
                        {
                            6
                        }
                        _ => return None,
                    };
                }
                _ => return None,
            }
        }
        let inner = &self.text[from..self.at];
        self.at += 1;
        Some((inner, plain))
    }

    #[inline]
    fn number(&mut self) -> Option<()> {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        match self.bytes.get(self.at)? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// At least one digit.
    #[inline]
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    fn nested(&mut self) -> Option<()> {
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<&RawValue>();
        values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(())
    }
}

/// The first byte at or after `at` that is a quote, a backslash or a control character; the end if there is none.
#[inline]
fn end_of_plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at a time; a borrow may mark bytes behind a true mark, never before it.
    // (See "Determine if a word has a byte less than n" in S. Anderson, Bit Twiddling Hacks.)
    while let Some(eight) = bytes.get(at..at + 8).and_then(|eight| <[u8; 8]>::try_from(eight).ok()) {
        let word = u64::from_le_bytes(eight);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = word ^ (ONES * 0x22);
        let quote = quote.wrapping_sub(ONES) & !quote;
        let backslash = word ^ (ONES * 0x5C);
        let backslash = backslash.wrapping_sub(ONES) & !backslash;
        let marks = (control | quote | backslash) & HIGH;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, 0..0x20 | b'"' | b'\\')) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Names and values, in order; `None` when the text is refused.
    fn fields(text: &str) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        let walked = each_field(text, |nth, name, raw| {
            assert_eq!(nth, fields.len());
            assert_eq!(raw.plain, raw.text.starts_with('"') && !raw.text.contains('\\'));
            fields.push((name.into_owned(), raw.text.to_owned()));
            Ok(())
        });
        walked.ok().map(|()| fields)
    }

    fn agrees_with_serde_json(text: &str) {
        let expected: Option<HashMap<String, &RawValue>> = serde_json::from_str(text).ok();
        let expected = expected
            .map(|map| map.into_iter().map(|(k, v)| (k, v.get().to_owned())).collect::<HashMap<_, _>>());
        assert_eq!(fields(text).map(|fields| fields.into_iter().collect()), expected, "{text}");
    }

    #[test]
    fn it_takes_what_serde_json_takes() {
        for text in [
            "{}",
            " {\t} \n",
            "{ \"a\" : 1 , \"b\":\"x\"}",
            "{\"a\":-0.5e+10}",
            "{\"a\":{\"b\":[1,{}]},\"c\":[]}",
            "{\"\\u00e4\":null}",
            "",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":nul}",
            "{\"a\":truer}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":[1,]}",
            "{\"a\":[}",
            "{\"a\":{\"b\"}}",
            "{}{}",
            "{\"a\":1}x",
            "{\"\\ud800\":1}",
            "{\"a\":\"\\ud800\"}",
            "{a:1}",
            "{\"a\":1]",
            "{\"a\":\"0123456\\\"789\"}",
            "{\"a\":\"ääääääää\"}",
            "{\"a\":\"\u{7f}\u{80}\"}",
            "\u{feff}{}",
        ] {
            agrees_with_serde_json(text);
        }
    }

    proptest! {
        #[test]
        fn it_takes_what_serde_json_takes_of_anything(text in any::<String>(), json in "[{}\\[\\]\":,ab0-9.eEtrufalsn+ \\\\-]{0,40}") {
            agrees_with_serde_json(&text);
            agrees_with_serde_json(&json);
        }

        #[test]
        fn it_takes_what_serde_json_takes_of_almost_json(
            members in prop::collection::vec(("[a-zä\\\\\"]{0,12}", "(-?[0-9]{1,3}(\\.[0-9]{1,2})?([eE][+-]?[0-9])?|true|null|\"[a-z\u{1}ä \\\\\"n]{0,20}\"|\\[1, \\{\"a\":[0-9]?\\}\\])"), 0..5),
            broken in prop::option::of((any::<prop::sample::Index>(), "[{}\\[\\]\":,a0\\\\ ]?")),
        ) {
            let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\" :{value}")).collect();
            let mut text = format!("{{{}}}", members.join(", "));
            if let Some((index, by)) = broken {
                let at = index.index(text.chars().count());
                text = text.chars().take(at).chain(by.chars()).chain(text.chars().skip(at + 1)).collect();
            }
            agrees_with_serde_json(&text);
        }
    }
}
