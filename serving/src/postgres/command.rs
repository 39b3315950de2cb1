//! What a client wants: a query, or something about its session.
//!
//! *Why here*: the engine knows queries. Transactions, settings, cursors and copies belong to the session of a connection; they
//! change nothing but that session.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use tarn_model::{Error, Result};

use crate::error::unparsed;
use crate::statement::check_length;

/// A statement by what it does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Empty,
    /// The engine's, and the word that names it when it is done.
    Query {
        sql: String,
        tag: &'static str,
    },
    Copy {
        sql: String,
        format: CopyFormat,
    },
    Begin,
    /// `COMMIT` or `ROLLBACK`; in a transaction that failed both are `ROLLBACK`.
    End {
        commit: bool,
    },
    /// Something about savepoints: there is nothing to keep and nothing to undo.
    Savepoint(&'static str),
    /// `None` is the default.
    Set {
        name: String,
        value: Option<String>,
    },
    ResetAll,
    Show(String),
    ShowAll,
    /// Forgets everything of the session.
    Discard,
    /// A prepared statement, or all.
    Deallocate(Option<String>),
    Declare {
        name: String,
        sql: String,
    },
    Fetch {
        name: String,
        most_rows: Option<u64>,
        is_move: bool,
    },
    CloseCursor(Option<String>),
    /// Accepted, for there is nothing to do.
    Nothing(&'static str),
}

/// In which of PostgreSQL's formats rows are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyKind {
    Text,
    Csv,
    Binary,
}

/// How copied rows are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CopyFormat {
    pub(super) kind: CopyKind,
    pub(super) delimiter: u8,
    pub(super) null: String,
    pub(super) has_header: bool,
    pub(super) quote: u8,
}

impl CopyFormat {
    fn new(kind: CopyKind) -> CopyFormat {
        let (delimiter, null) = if kind == CopyKind::Csv { (b',', "") } else { (b'\t', "\\N") };
        CopyFormat { kind, delimiter, null: null.to_owned(), has_header: false, quote: b'"' }
    }
}

impl Command {
    /// What `sql` is.
    pub(super) fn parse(sql: &str) -> Result<Command> {
        check_length(sql.len())?;
        let tokens = Tokenizer::new(&GenericDialect {}, sql)
            .tokenize_with_location()
            .map_err(|error| unparsed(&error.to_string()))?;
        let mut tokens: Vec<TokenWithSpan> = tokens
            .into_iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .collect();
        while tokens.last().is_some_and(|token| token.token == Token::SemiColon) {
            tokens.pop();
        }
        if tokens.iter().any(|token| token.token == Token::SemiColon) {
            return Err(Error::invalid("there is more than one statement")
                .with_sqlstate("42601")
                .with_hint("send them one by one"));
        }
        Words { sql, tokens, at: 0 }.command()
    }
}

/// The words of a statement, one after another.
struct Words<'s> {
    sql: &'s str,
    tokens: Vec<TokenWithSpan>,
    at: usize,
}

impl Words<'_> {
    fn command(mut self) -> Result<Command> {
        let Some(first) = self.tokens.first() else { return Ok(Command::Empty) };
        let first = first.token.to_string().to_lowercase();
        self.at = 1;
        match first.as_str() {
            "begin" => Ok(Command::Begin),
            "start" if self.takes("transaction") => Ok(Command::Begin),
            "commit" | "end" => Ok(Command::End { commit: true }),
            "abort" => Ok(Command::End { commit: false }),
            "rollback" => {
                let _ = self.takes("work") || self.takes("transaction");
                Ok(if self.takes("to") {
                    Command::Savepoint("ROLLBACK")
                } else {
                    Command::End { commit: false }
                })
            }
            "savepoint" => Ok(Command::Savepoint("SAVEPOINT")),
            "release" => Ok(Command::Savepoint("RELEASE")),
            "set" => self.set(),
            "reset" => match self.name()? {
                all if all == "all" => Ok(Command::ResetAll),
                name => Ok(Command::Set { name, value: None }),
            },
            "show" => self.show(),
            "discard" => Ok(Command::Discard),
            "deallocate" => {
                let _ = self.takes("prepare");
                let all = self.takes("all");
                Ok(Command::Deallocate(if all { None } else { Some(self.name()?) }))
            }
            "declare" => self.declare(),
            "fetch" => self.fetch(false),
            "move" => self.fetch(true),
            "close" => {
                let all = self.takes("all");
                Ok(Command::CloseCursor(if all { None } else { Some(self.name()?) }))
            }
            "copy" => self.copy(),
            "unlisten" => Ok(Command::Nothing("UNLISTEN")),
            "explain" => Ok(self.query("EXPLAIN")),
            "describe" | "desc" => Ok(self.query("SHOW")),
            _ => Ok(self.query("SELECT")),
        }
    }

    fn query(&self, tag: &'static str) -> Command {
        Command::Query { sql: self.sql.to_owned(), tag }
    }

    fn show(mut self) -> Result<Command> {
        let first = self.name()?;
        if matches!(first.as_str(), "tables" | "columns" | "views" | "functions" | "full" | "extended") {
            return Ok(self.query("SHOW"));
        }
        Ok(match first.as_str() {
            "all" => Command::ShowAll,
            "transaction" => Command::Show("transaction_isolation".to_owned()),
            "time" => Command::Show("timezone".to_owned()),
            "session" => Command::Show("session_authorization".to_owned()),
            _ => Command::Show(first),
        })
    }

    fn set(mut self) -> Result<Command> {
        if self.takes("local") {
            // A setting for one transaction is one for the session, which is all that a session that only reads can tell.
        } else if self.takes("session") && self.takes("characteristics") {
            let _ = self.takes("as") && self.takes("transaction");
            return self.transaction_mode("default_transaction_isolation");
        }
        if self.takes("transaction") {
            return self.transaction_mode("transaction_isolation");
        }
        if self.takes("time") {
            self.expect("zone")?;
            return self.set_to("timezone".to_owned());
        }
        if self.takes("names") {
            return self.set_to("client_encoding".to_owned());
        }
        let name = self.name()?;
        let is_next = |token: Option<&Token>| matches!(token, Some(Token::Eq));
        if is_next(self.peek()) {
            self.at += 1;
        } else {
            self.expect("to")?;
        }
        self.set_to(name)
    }

    fn transaction_mode(mut self, name: &str) -> Result<Command> {
        if !self.takes("isolation") {
            // READ ONLY, READ WRITE, DEFERRABLE, a snapshot: nothing is written either way.
            return Ok(Command::Nothing("SET"));
        }
        self.expect("level")?;
        let level: Vec<String> = self.rest().iter().map(|word| word.to_lowercase()).collect();
        let level = level.join(" ");
        let level = level.split(" read only").next().unwrap_or_default();
        Ok(Command::Set {
            name: name.to_owned(),
            value: Some(level.split(" , ").next().unwrap_or_default().to_owned()),
        })
    }

    fn set_to(&mut self, name: String) -> Result<Command> {
        let rest = self.rest();
        if rest.is_empty() {
            return Err(self.unexpected("a value"));
        }
        let mut value = String::new();
        for word in rest {
            match word.as_str() {
                "," => value.push_str(", "),
                word => value.push_str(word),
            }
        }
        let is_default = value.eq_ignore_ascii_case("default");
        Ok(Command::Set { name, value: (!is_default).then_some(value) })
    }

    /// `DECLARE name [BINARY] [INSENSITIVE] [[NO] SCROLL] CURSOR [WITH | WITHOUT HOLD] FOR query`.
    fn declare(mut self) -> Result<Command> {
        let name = self.name()?;
        while !self.takes("for") {
            if self.takes("binary") {
                return Err(Error::invalid("binary cursors are not there").with_sqlstate("0A000"));
            }
            self.at += 1;
            if self.at >= self.tokens.len() {
                return Err(self.unexpected("FOR and a query"));
            }
        }
        Ok(Command::Declare { name, sql: self.text_from(self.at) })
    }

    /// `FETCH [NEXT | n | ALL | FORWARD [n | ALL]] [FROM | IN] name`.
    fn fetch(mut self, is_move: bool) -> Result<Command> {
        let forward = self.takes("forward");
        let mut most_rows = Some(1);
        if self.takes("all") {
            most_rows = None;
        } else if !self.takes("next") || forward {
            let number = match self.peek() {
                Some(Token::Number(digits, _)) => digits.parse::<u64>().ok(),
                _ => None,
            };
            if let Some(number) = number {
                most_rows = Some(number);
                self.at += 1;
            }
        }
        for backward in ["prior", "first", "last", "absolute", "relative", "backward"] {
            if self.takes(backward) {
                return Err(Error::invalid("a cursor can only scan forward").with_sqlstate("55000"));
            }
        }
        let _ = self.takes("from") || self.takes("in");
        Ok(Command::Fetch { name: self.name()?, most_rows, is_move })
    }

    /// `COPY (query) | table [(columns)] TO STDOUT [[WITH] (options) | CSV ...]`.
    fn copy(mut self) -> Result<Command> {
        let refused = |what: &str| {
            Error::invalid(format!("`{what}` is not allowed: statements here only read"))
                .with_sqlstate("25006")
                .with_hint("`COPY (SELECT ...) TO STDOUT` is; psql's `\\copy (SELECT ...) TO 'file'` writes on your side")
        };
        let begin = self.at;
        let mut depth = 0_usize;
        let end = loop {
            match self.peek() {
                None => return Err(self.unexpected("TO STDOUT")),
                Some(Token::LParen) => depth += 1,
                Some(Token::RParen) => depth = depth.saturating_sub(1),
                Some(Token::Word(word)) if depth == 0 && word.value.eq_ignore_ascii_case("from") => {
                    return Err(refused("COPY FROM"));
                }
                Some(Token::Word(word)) if depth == 0 && word.value.eq_ignore_ascii_case("to") => {
                    break self.at;
                }
                Some(_) => {}
            }
            self.at += 1;
        };
        self.at = end + 1;
        if !self.takes("stdout") {
            return Err(refused("COPY TO"));
        }
        let source = self.text_between(begin, end);
        let sql = if source.starts_with('(') {
            inner_of(&source).to_owned()
        } else {
            let (table, columns) = source.split_once('(').unwrap_or((&source, "*"));
            format!("SELECT {} FROM {}", columns.trim_end().trim_end_matches(')'), table.trim())
        };
        Ok(Command::Copy { sql, format: self.copy_format()? })
    }

    fn copy_format(&mut self) -> Result<CopyFormat> {
        let _ = self.takes("with");
        let rest: Vec<String> = self.rest();
        let names = |kind: &str| rest.iter().any(|word| word.eq_ignore_ascii_case(kind));
        let kind = match (names("csv"), names("binary")) {
            (true, _) => CopyKind::Csv,
            (false, true) => CopyKind::Binary,
            (false, false) => CopyKind::Text,
        };
        let mut format = CopyFormat::new(kind);
        let mut words = rest.iter().map(String::as_str).peekable();
        let one_byte = |value: Option<&str>| match value.map(str::as_bytes) {
            Some([byte]) => Ok(*byte),
            _ => Err(Error::invalid("a delimiter or quote of COPY is one byte").with_sqlstate("22023")),
        };
        while let Some(word) = words.next() {
            match word.to_lowercase().as_str() {
                "(" | ")" | "," | "format" | "csv" | "text" | "binary" | "as" => {}
                option @ ("header" | "delimiter" | "null" | "quote") if kind == CopyKind::Binary => {
                    return Err(Error::invalid(format!("`{option}` means nothing to COPY in binary"))
                        .with_sqlstate("42601"));
                }
                "header" => {
                    let value = words.peek().map(|value| value.to_lowercase());
                    format.has_header = !matches!(value.as_deref(), Some("false" | "off" | "0"));
                    if matches!(value.as_deref(), Some("true" | "false" | "on" | "off" | "0" | "1")) {
                        words.next();
                    }
                }
                "delimiter" => {
                    format.delimiter = one_byte(words.next().filter(|w| *w != "as").or_else(|| words.next()))?
                }
                "null" => {
                    format.null = words
                        .next()
                        .filter(|w| *w != "as")
                        .or_else(|| words.next())
                        .unwrap_or_default()
                        .to_owned()
                }
                "quote" => format.quote = one_byte(words.next())?,
                "encoding" => {
                    let encoding = words.next().unwrap_or_default();
                    if !encoding.replace('-', "").eq_ignore_ascii_case("utf8") {
                        return Err(Error::invalid(format!("COPY writes UTF-8, not `{encoding}`"))
                            .with_sqlstate("22023"));
                    }
                }
                other => {
                    return Err(Error::invalid(format!("`{other}` is no option of COPY that is known"))
                        .with_sqlstate("0A000")
                        .with_hint(
                            "FORMAT text, csv or binary, HEADER, DELIMITER, NULL, QUOTE and ENCODING are",
                        ));
                }
            }
        }
        Ok(format)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|token| &token.token)
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword));
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, keyword: &str) -> Result<()> {
        if self.takes(keyword) { Ok(()) } else { Err(self.unexpected(&keyword.to_uppercase())) }
    }

    /// A name, perhaps with dots; folded to lower case where it is not quoted.
    fn name(&mut self) -> Result<String> {
        let mut name = String::new();
        loop {
            let Some(Token::Word(word)) = self.peek() else { return Err(self.unexpected("a name")) };
            name.push_str(&if word.quote_style.is_some() {
                word.value.clone()
            } else {
                word.value.to_lowercase()
            });
            self.at += 1;
            if self.peek() != Some(&Token::Period) {
                return Ok(name);
            }
            name.push('.');
            self.at += 1;
        }
    }

    /// The words that are left, without quotes.
    fn rest(&mut self) -> Vec<String> {
        let rest = self.tokens[self.at.min(self.tokens.len())..].iter().map(|token| match &token.token {
            Token::Word(word) => word.value.clone(),
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
            other => other.to_string(),
        });
        let rest = rest.collect();
        self.at = self.tokens.len();
        rest
    }

    fn unexpected(&self, wanted: &str) -> Error {
        let found = self.peek().map_or_else(|| "its end".to_owned(), |token| format!("`{token}`"));
        Error::invalid(format!("the statement cannot be parsed: expected {wanted}, found {found}"))
            .with_sqlstate("42601")
    }

    /// The text from token `from` on.
    fn text_from(&self, from: usize) -> String {
        self.text_between(from, self.tokens.len())
    }

    /// The text from token `from` to before token `to`.
    fn text_between(&self, from: usize, to: usize) -> String {
        let begin = self.tokens.get(from).map_or(self.sql.len(), |token| self.byte_at(token.span.start));
        let end = self.tokens.get(to).map_or(self.sql.len(), |token| self.byte_at(token.span.start));
        let text = self.sql.get(begin..end).unwrap_or_default().trim();
        text.trim_end_matches(|c: char| c == ';' || c.is_whitespace()).to_owned()
    }

    fn byte_at(&self, location: Location) -> usize {
        let mut line_begins = 0;
        for _ in 1..location.line {
            line_begins += self.sql[line_begins..].find('\n').map_or(0, |at| at + 1);
        }
        let column = usize::try_from(location.column).unwrap_or(1).saturating_sub(1);
        self.sql[line_begins..].char_indices().nth(column).map_or(self.sql.len(), |(at, _)| line_begins + at)
    }
}

/// What stands between the outermost parentheses.
fn inner_of(source: &str) -> &str {
    let source = source.trim();
    source.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(sql: &str) -> Command {
        Command::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    #[test]
    fn commands_of_a_session_are_told_from_queries() {
        assert_eq!(query(" ; "), Command::Empty);
        assert_eq!(query("-- nothing"), Command::Empty);
        assert_eq!(query("BEGIN READ ONLY"), Command::Begin);
        assert_eq!(query("rollback;"), Command::End { commit: false });
        assert_eq!(query("ROLLBACK TO SAVEPOINT a"), Command::Savepoint("ROLLBACK"));
        let set = |name: &str, value: Option<&str>| Command::Set {
            name: name.into(),
            value: value.map(str::to_owned),
        };
        assert_eq!(query("SET extra_float_digits = 3"), set("extra_float_digits", Some("3")));
        assert_eq!(
            query("SET SESSION search_path TO \"$user\", public"),
            set("search_path", Some("$user, public"))
        );
        assert_eq!(query("SET TIME ZONE 'UTC'"), set("timezone", Some("UTC")));
        assert_eq!(query("SET tarn.as_of = 'clicks:0=1'"), set("tarn.as_of", Some("clicks:0=1")));
        let level = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        assert_eq!(query(level), set("default_transaction_isolation", Some("repeatable read")));
        assert_eq!(query("RESET datestyle"), set("datestyle", None));
        assert_eq!(query("SHOW TRANSACTION ISOLATION LEVEL"), Command::Show("transaction_isolation".into()));
        assert_eq!(query("SHOW TABLES"), Command::Query { sql: "SHOW TABLES".into(), tag: "SHOW" });
        let fetch = Command::Fetch { name: "c".into(), most_rows: Some(20), is_move: false };
        assert_eq!(query("FETCH FORWARD 20 FROM c"), fetch);
        assert_eq!(
            query("FETCH ALL IN c"),
            Command::Fetch { name: "c".into(), most_rows: None, is_move: false }
        );
        let declared = Command::Declare { name: "c".into(), sql: "SELECT 'ü' AS a".into() };
        assert_eq!(query("DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR\n SELECT 'ü' AS a;"), declared);
        assert!(Command::parse("SELECT 1; DROP TABLE t").is_err());
    }

    #[test]
    fn copies_go_to_the_client_and_nowhere_else() {
        let copy = "COPY (SELECT a, (b) FROM t) TO STDOUT WITH (FORMAT csv, HEADER, DELIMITER ';')";
        let Command::Copy { sql, format } = query(copy) else { panic!("a copy") };
        assert_eq!(sql, "SELECT a, (b) FROM t");
        assert!(format.kind == CopyKind::Csv && format.has_header && format.delimiter == b';');
        let Command::Copy { sql, format } = query("copy lake.t (a, b) to stdout") else { panic!("a copy") };
        assert_eq!((sql.as_str(), format), ("SELECT a, b FROM lake.t", CopyFormat::new(CopyKind::Text)));
        let Command::Copy { format, .. } = query("COPY t TO STDOUT WITH BINARY") else { panic!("a copy") };
        assert_eq!(format.kind, CopyKind::Binary);
        assert!(Command::parse("COPY t TO STDOUT (FORMAT binary, HEADER)").is_err());
        for refused in ["COPY t TO '/tmp/x'", "COPY t FROM STDIN", "COPY (SELECT 1) TO PROGRAM 'sh'"] {
            assert_eq!(Command::parse(refused).expect_err(refused).sqlstate(), Some("25006"), "{refused}");
        }
    }
}
