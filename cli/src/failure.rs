//! From an error to its words and its exit code.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use tarn_model::Error;
use tarn_model::config::Problems;

/// The command line is wrong, in a way that clap cannot see.
#[derive(Debug)]
pub(crate) struct Usage {
    message: String,
    hint: Option<String>,
}

impl Usage {
    pub(crate) fn new(message: impl Into<String>) -> Usage {
        Usage { message: message.into(), hint: None }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Usage {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// The command has said all there is to say; only the exit code is left.
#[derive(Debug)]
pub(crate) struct Silent(pub(crate) u8);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended with {}", self.0)
    }
}

impl std::error::Error for Silent {}

/// `error:` what, the causes, `hint:` what to do; and the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever reads our output has seen enough.
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    if let Some(Silent(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    if let Some(problems) = error.downcast_ref::<Problems>() {
        eprintln!("{problems}");
        let count = problems.count();
        let s = if count == 1 { "" } else { "s" };
        eprintln!("{} the config has {count} problem{s}", paint("error:", RED));
        return ExitCode::from(2);
    }
    eprintln!("{} {error}", paint("error:", RED));
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some libraries repeat their cause in their own words.
        if !said.contains(&cause) {
            eprintln!("  because: {cause}");
        }
        said = cause;
    }
    let place = error.chain().find_map(|cause| cause.downcast_ref::<Error>().and_then(Error::place));
    if let Some(place) = place {
        eprintln!("  at: line {}, column {}", place.line, place.column);
    }
    if let Some(hint) = hint(error) {
        eprintln!("{} {hint}", paint("hint:", CYAN));
    }
    if error.downcast_ref::<Usage>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The outermost hint.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|cause| {
        let known = cause.downcast_ref::<Error>().and_then(Error::hint);
        known.or_else(|| cause.downcast_ref::<Usage>().and_then(|usage| usage.hint.as_deref()))
    })
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

const RED: u8 = 31;
const CYAN: u8 = 36;

fn paint(word: &str, color: u8) -> String {
    let colored =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if colored { format!("\x1b[1;{color}m{word}\x1b[0m") } else { word.to_owned() }
}

/// `error:` for a statement of the shell, which goes on.
pub(crate) fn say(error: &anyhow::Error) {
    let _ = report(error);
}
