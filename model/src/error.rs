//! The error that leaves a room: what went wrong, and what the caller should do about it.
//!
//! Each crate has its own enum for its own causes and turns it into an [`Error`] in one place. The kind answers "what
//! now?", the hint says it in words, the source chain keeps the causes.

use std::error::Error as StdError;
use std::fmt;

/// The result of every public fallible function that crosses rooms.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Mend the input, the command line or the config.
    Invalid,
    /// Try again later; nothing was changed, or it cannot be known yet.
    Unavailable,
    /// Reload what you acted on, then try again.
    Conflict,
    /// Stop and keep the evidence: bytes on disk are not what was written.
    Corrupt,
    /// Another writer has taken over: exit.
    Fenced,
    /// A defect of Tarn.
    Internal,
}

/// An error with its kind, its message, its causes and, where there is something to do, a hint.
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    sqlstate: Option<&'static str>,
    place: Option<Place>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Where in a text something is, both counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The character in it.
    pub column: u64,
}

impl Error {
    /// An error of `kind`; the message is lowercase and without a final stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, sqlstate: None, place: None, source: None }
    }

    /// Shorthand for [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }

    /// Shorthand for [`Kind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, message)
    }

    /// Shorthand for [`Kind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }

    /// Shorthand for [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    /// Shorthand for [`Kind::Fenced`].
    pub fn fenced(message: impl Into<String>) -> Error {
        Error::new(Kind::Fenced, message)
    }

    /// Shorthand for [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Kind::Internal, message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the code of the SQL standard by which programs tell errors of statements apart.
    #[must_use]
    pub fn with_sqlstate(mut self, code: &'static str) -> Error {
        self.sqlstate = Some(code);
        self
    }

    /// Adds where in the statement it is.
    #[must_use]
    pub fn with_place(mut self, place: Place) -> Error {
        self.place = Some(place);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// The code of the SQL standard, where there is a more exact one than the kind's.
    pub fn sqlstate(&self) -> Option<&'static str> {
        self.sqlstate
    }

    /// Where in the statement it is, if that is known.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What the user should do, in words.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}
