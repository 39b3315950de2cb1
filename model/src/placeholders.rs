//! `$name` in a query, and what is put in its place.
//!
//! *Why text, not parameters*: a query whose values stand in its text is the same question whoever asks it, so all who look
//! at the same thing share one evaluation; and a moment such as `now() - INTERVAL '1 hour'` is no value. Whoever fills must
//! give SQL that is one expression: [`literal`] makes one of any text.

use std::ops::Range;

/// A `$name` in a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// The name, without `$`.
    pub name: String,
    /// Where it stands, `$` included.
    pub at: Range<usize>,
}

/// The placeholders of `sql`, in its order. None is found in strings, quoted names and comments.
pub fn placeholders(sql: &str) -> Vec<Placeholder> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        at = match (bytes[at], bytes.get(at + 1)) {
            (quote @ (b'\'' | b'"'), _) => after(sql, at + 1, &char::from(quote).to_string()),
            (b'-', Some(b'-')) => after(sql, at + 2, "\n"),
            (b'/', Some(b'*')) => after(sql, at + 2, "*/"),
            (b'$', Some(first)) if first.is_ascii_alphabetic() || *first == b'_' => {
                let rest = &bytes[at + 1..];
                let length =
                    rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
                let end = at + 1 + length;
                found.push(Placeholder { name: sql[at + 1..end].to_owned(), at: at..end });
                end
            }
            _ => at + 1,
        };
    }
    found
}

/// `sql` with each placeholder replaced by what `value` gives for its name; one that it does not know stays.
pub fn fill(sql: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(sql.len());
    let mut done = 0;
    for placeholder in placeholders(sql) {
        let Some(value) = value(&placeholder.name) else { continue };
        filled.push_str(&sql[done..placeholder.at.start]);
        filled.push_str(&value);
        done = placeholder.at.end;
    }
    filled.push_str(&sql[done..]);
    filled
}

/// `text` as a string of SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The place behind the next `end`; a doubled quote ends one string and begins the next, which comes to the same.
fn after(sql: &str, from: usize, end: &str) -> usize {
    let bytes = sql.as_bytes();
    let end = end.as_bytes();
    let found = bytes.get(from..).and_then(|rest| rest.windows(end.len()).position(|window| window == end));
    found.map_or(bytes.len(), |found| from + found + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_where_sql_is_read_as_sql() {
        let sql =
            "SELECT '$no', \"$no\", $a -- $no\n, $b_2 /* $no */ FROM t WHERE x > $1 AND 'it''s $no' <> $a";
        let names: Vec<String> = placeholders(sql).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["a", "b_2", "a"]);
        assert!(placeholders("SELECT 'open $no").is_empty());
        assert!(placeholders("$").is_empty());
    }

    #[test]
    fn what_is_put_in_stays_one_value() {
        let known = |name: &str| (name == "c").then(|| literal("O'Slo; DROP"));
        assert_eq!(fill("a = $c OR $d", known), "a = 'O''Slo; DROP' OR $d");
        assert_eq!(fill("ä = $c", known), "ä = 'O''Slo; DROP'");
    }
}
