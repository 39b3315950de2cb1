//! Where in a statement an error is.
//!
//! *Why by its words*: the planner keeps places only of some names, and the errors that come out of running know none. What an
//! error quotes, a name or a literal, stands in the statement; where it stands there first is where to look.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use tarn_model::{Error, Place};

/// Finds places in one statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'s> {
    sql: &'s str,
}

impl<'s> Places<'s> {
    pub(crate) fn of(sql: &'s str) -> Places<'s> {
        Places { sql }
    }

    /// The error with its place, if it has none yet and what it quotes stands in the statement.
    pub(crate) fn find(&self, error: Error) -> Error {
        if error.place().is_some() {
            return error;
        }
        match self.place_of(&error.to_string()) {
            Some(place) => error.with_place(place),
            None => error,
        }
    }

    fn place_of(&self, message: &str) -> Option<Place> {
        let tokens = Tokenizer::new(&GenericDialect {}, self.sql).tokenize_with_location().ok()?;
        if let Some(named) = quoted(message, '`')
            && let Some(place) = name_in(&tokens, named)
        {
            return Some(place);
        }
        if let Some(literal) = quoted(message, '\'') {
            let is_it = |token: &&TokenWithSpan| matches!(&token.token, Token::SingleQuotedString(text) if text == literal);
            if let Some(token) = tokens.iter().find(is_it) {
                return place(token.span.start);
            }
        }
        operator_in(&tokens, message)
    }
}

/// The first thing in quotes.
fn quoted(message: &str, quote: char) -> Option<&str> {
    let (_, rest) = message.split_once(quote)?;
    rest.split_once(quote).map(|(inside, _)| inside)
}

/// Where a name stands: the last part of `table.column`, or what stands before the `(` of a call.
fn name_in(tokens: &[TokenWithSpan], named: &str) -> Option<Place> {
    let name = named.split('(').next().unwrap_or(named);
    let mut parts: Vec<&str> = name.split('.').map(|part| part.trim_matches('"')).collect();
    let last = parts.pop()?;
    let is = |token: &TokenWithSpan, name: &str| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(name));
    let qualified = parts.last().and_then(|table| {
        let at = tokens.windows(3).position(|three| {
            is(&three[0], table) && three[1].token == Token::Period && is(&three[2], last)
        })?;
        place(tokens[at].span.start)
    });
    qualified
        .or_else(|| tokens.iter().find(|token| is(token, last)).and_then(|token| place(token.span.start)))
}

/// Where the operator stands between whose sides types do not fit, if there is only one like it.
fn operator_in(tokens: &[TokenWithSpan], message: &str) -> Option<Place> {
    let lower = message.to_lowercase();
    if !lower.contains("coerce") && !lower.contains("common argument type") {
        return None;
    }
    let mut found = None;
    for token in tokens {
        let operator = match &token.token {
            Token::Word(_) | Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_) => {
                continue;
            }
            other => other.to_string(),
        };
        if !operator.is_empty()
            && message.contains(&format!(" {operator} "))
            && found.replace(token).is_some()
        {
            return None;
        }
    }
    place(found?.span.start)
}

/// What a parser says in words, as a place: ``..., found: FORM at Line: 1, Column: 10``.
pub(crate) fn told_place(message: &str) -> (String, Option<Place>) {
    let Some(at) = message.rfind(" at Line: ") else { return (message.to_owned(), None) };
    let rest = &message[at + " at Line: ".len()..];
    let told = rest.split_once(", Column: ").and_then(|(line, column)| {
        let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some(Place { line: line.parse().ok()?, column: digits.parse().ok()? })
    });
    match told {
        Some(told) if told.line > 0 => (message[..at].to_owned(), Some(told)),
        _ => (message.to_owned(), None),
    }
}

fn place(start: Location) -> Option<Place> {
    (start.line > 0).then_some(Place { line: start.line, column: start.column })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sql: &str, message: &str) -> Option<(u64, u64)> {
        Places::of(sql).find(Error::invalid(message)).place().map(|place| (place.line, place.column))
    }

    #[test]
    fn what_an_error_quotes_is_where_it_is() {
        assert_eq!(found("SELECT wrod\nFROM clicks", "there is no column `wrod`"), Some((1, 8)));
        assert_eq!(found("SELECT a,\n  c.wrod FROM clicks c", "there is no column `c.wrod`"), Some((2, 3)));
        assert_eq!(found("SELECT sun(n) FROM t", "there is no function `sun`"), Some((1, 8)));
        assert_eq!(
            found("SELECT 1 + CAST('x' AS INT)", "Cannot cast string 'x' to value of Int32 type"),
            Some((1, 17))
        );
        assert_eq!(
            found("SELECT a - 1", "cannot coerce arithmetic expression Utf8 - Int64 to valid types"),
            Some((1, 10))
        );
        assert_eq!(
            found("SELECT a - 1 - 2", "cannot coerce arithmetic expression Utf8 - Int64 to valid types"),
            None
        );
        assert_eq!(found("SELECT 1", "the lake cannot be read"), None);
    }

    #[test]
    fn a_place_told_in_words_becomes_a_place() {
        let (text, place) = told_place("Expected: an SQL statement, found: SELEC at Line: 2, Column: 10");
        assert_eq!(text, "Expected: an SQL statement, found: SELEC");
        assert_eq!(place, Some(Place { line: 2, column: 10 }));
    }
}
