//! `tarn sql`: one statement, or a shell.

use std::io::{self, IsTerminal as _, Read as _};

use anyhow::Context as _;
use tarn_model::OffsetVector;
use tarn_model::config::Config;
use tarn_serving::Engine;

use crate::args::SqlArgs;
use crate::door::Door;
use crate::failure::Usage;
use crate::rows::Rows;
use crate::{render, rest, shell, watch};

/// Who answers statements.
pub(crate) enum Sql {
    /// The running process.
    Running(Door),
    /// Nobody runs: the committed rows of the lake.
    AtRest(Engine),
}

impl Sql {
    /// The running process if there is one, else the lake; what that means is said on stderr.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Sql> {
        if let Some(door) = Door::find(config).await? {
            return Ok(Sql::Running(door));
        }
        let engine = rest::engine(config).await?;
        eprintln!("nothing runs on this config: answering from the lake at rest, committed rows only");
        Ok(Sql::AtRest(engine))
    }

    /// Runs a statement.
    pub(crate) async fn query(&self, sql: &str, as_of: Option<&OffsetVector>) -> anyhow::Result<Rows> {
        // Who is asked would refuse it too, and hang up before it has read it all.
        tarn_serving::check_length(sql.len())?;
        match self {
            Sql::Running(door) => door.sql(sql, as_of).await,
            Sql::AtRest(engine) => rest::sql(engine, sql, as_of).await,
        }
    }
}

pub(crate) async fn sql(args: SqlArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let query = match args.query {
        Some(query) => Some(query),
        None if io::stdin().is_terminal() => None,
        None => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the statement from stdin")?;
            Some(text)
        }
    };
    let Some(query) = query else {
        let sql = Sql::open(&config).await?;
        return shell::shell(sql, &config, args.output, args.as_of).await;
    };
    let statements = split(&query);
    if statements.is_empty() {
        return Err(Usage::new("there is no statement")
            .with_hint("write it as the last argument, or pipe it in: `tarn sql \"SELECT 1\"`")
            .into());
    }
    if let Some(command) = statements.iter().find(|statement| statement.starts_with('\\')) {
        return Err(Usage::new(format!("`{command}` is a command of the shell"))
            .with_hint(
                "`tarn sql` without a statement is the shell; `SHOW TABLES` and `DESCRIBE t` work everywhere",
            )
            .into());
    }
    if args.watch {
        let [query] = statements[..] else {
            return Err(Usage::new("`--watch` takes one statement").into());
        };
        return watch::watch(&config, query, args.output).await;
    }
    let sql = Sql::open(&config).await?;
    for statement in statements {
        let rows = sql.query(statement, args.as_of.as_ref()).await?;
        render::rows(rows, args.output, false).await?;
    }
    Ok(())
}

/// The statements of a text, without their semicolons.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let (mut statements, mut rest) = (Vec::new(), text);
    while let Some(end) = end_of_statement(rest) {
        statements.push(&rest[..end]);
        rest = &rest[end + 1..];
    }
    statements.push(rest);
    statements.retain(|statement| !is_blank(statement));
    statements.into_iter().map(str::trim).collect()
}

/// Where the first statement's semicolon stands: not one in a string, a quoted name or a comment.
pub(crate) fn end_of_statement(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        at = match bytes[at] {
            b';' => return Some(at),
            quote @ (b'\'' | b'"') => skip_past(bytes, at + 1, &[quote])?,
            b'-' if bytes[at..].starts_with(b"--") => skip_past(bytes, at, b"\n")?,
            b'/' if bytes[at..].starts_with(b"/*") => skip_past(bytes, at + 2, b"*/")?,
            _ => at + 1,
        };
    }
    None
}

fn skip_past(bytes: &[u8], from: usize, end: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(end.len()).position(|window| window == end).map(|at| from + at + end.len())
}

/// Whether a text holds nothing but white space and comments.
pub(crate) fn is_blank(text: &str) -> bool {
    let mut text = text.trim_start();
    loop {
        let rest = if let Some(comment) = text.strip_prefix("--") {
            Some(comment.split_once('\n').map_or("", |(_, rest)| rest))
        } else if let Some(comment) = text.strip_prefix("/*") {
            comment.split_once("*/").map(|(_, rest)| rest)
        } else {
            None
        };
        match rest {
            Some(rest) => text = rest.trim_start(),
            None => return text.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_end_statements_but_not_inside_quotes_and_comments() {
        for (text, want) in [
            ("SELECT 1", vec!["SELECT 1"]),
            ("SELECT 1; SELECT 2;\n", vec!["SELECT 1", "SELECT 2"]),
            ("SELECT ';' AS \"a;b\"; -- no; more\n", vec!["SELECT ';' AS \"a;b\""]),
            ("SELECT 'it''s;' /* ; */; ;;", vec!["SELECT 'it''s;' /* ; */"]),
            ("-- only; a comment", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(split(text), want, "{text}");
        }
        assert_eq!(end_of_statement("SELECT 'open ;"), None);
        assert_eq!(end_of_statement("SELECT /* open ;"), None);
    }
}
