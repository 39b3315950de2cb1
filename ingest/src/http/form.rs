//! The fields of an HTML form as a JSON object of strings.

use crate::json;

/// Names and values of one form; more than a person fills in.
const MOST_FIELDS: usize = 10_000;

/// `a=1&b=x+y&b=%C3%A4` as `{"a":"1","b":["x y","ä"]}`; `None` when there is no field. The error says what is wrong.
pub(super) fn object_of(body: &[u8]) -> Result<Option<String>, String> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let trimmed = body.trim_ascii();
    for (i, pair) in trimmed.split(|byte| *byte == b'&').enumerate() {
        if pair.is_empty() {
            continue;
        }
        if i >= MOST_FIELDS {
            return Err(format!("a form has at most {MOST_FIELDS} fields"));
        }
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        let decode = |bytes| decoded(bytes).map_err(|what| format!("field {} of the form {what}", i + 1));
        let (name, value) = (decode(name)?, decode(value)?);
        let at = *places.entry(name.clone()).or_insert(fields.len());
        match fields.get_mut(at) {
            Some((_, values)) => values.push(value),
            None => fields.push((name, vec![value])),
        }
    }
    if fields.is_empty() {
        return Ok(None);
    }
    let mut object = Vec::with_capacity(body.len() + 16 * fields.len());
    for (name, values) in &fields {
        object.push(if object.is_empty() { b'{' } else { b',' });
        json::write_string(&mut object, name);
        object.push(b':');
        let several = values.len() > 1;
        for (i, value) in values.iter().enumerate() {
            if several {
                object.push(if i == 0 { b'[' } else { b',' });
            }
            json::write_string(&mut object, value);
        }
        if several {
            object.push(b']');
        }
    }
    object.push(b'}');
    String::from_utf8(object).map(Some).map_err(|_| "the form is not UTF-8".to_owned())
}

/// `+` is a space, `%XX` a byte.
fn decoded(bytes: &[u8]) -> Result<String, &'static str> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("has a `%` without two hexadecimal digits behind it");
                };
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            plain => *plain,
        });
    }
    String::from_utf8(out).map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_an_object_of_strings() {
        let object = |body: &str| object_of(body.as_bytes());
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(
            object("a=1&b=x+y&b=%C3%A4&c&d=%22=%26\r\n"),
            some(r#"{"a":"1","b":["x y","ä"],"c":"","d":"\"=&"}"#)
        );
        assert_eq!(object("&&a=%E2%82%AC&"), some(r#"{"a":"€"}"#));
        assert_eq!(object(""), Ok(None));
        assert_eq!(
            object("a=%4"),
            Err("field 1 of the form has a `%` without two hexadecimal digits behind it".into())
        );
        assert_eq!(object("a=1&b=%ff"), Err("field 2 of the form is not UTF-8".into()));
        assert!(object(&"a&".repeat(MOST_FIELDS + 1)).is_err());
    }
}
