//! What is wrong with a config file, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

/// One thing that is wrong: `configs/x.toml:12:1: source[0].formt: unknown key, did you mean `format`?`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The config file, as it was named.
    pub file: PathBuf,
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// Where in the config: `source[2].format`. Empty when it is about the file as a whole.
    pub field: String,
    /// What is wrong, and where possible what to write instead. Never holds a value that came from the environment or
    /// from a file.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a config file, in the file's order, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems in the file's order; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Error {
        Error::invalid(problems.to_string())
    }
}

/// Collects problems while a file is read, and knows where each field stands.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: &'a Path,
    text: &'a str,
    places: BTreeMap<String, Range<usize>>,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Report<'a> {
        Report { file, text, places: BTreeMap::new(), problems: Vec::new() }
    }

    /// Remembers where `field` stands.
    pub(super) fn place(&mut self, field: &str, at: Range<usize>) {
        self.places.insert(field.to_owned(), at);
    }

    /// `field` is wrong. A second problem of the same field, or one inside a field that is wrong as a whole, would only
    /// be an echo and is left out.
    pub(super) fn wrong(&mut self, field: &str, message: impl Into<String>) {
        if !self.is_wrong(field) {
            let at = self.place_of(field);
            self.add(field, at, message);
        }
    }

    /// A problem at a place of its own.
    pub(super) fn wrong_at(&mut self, field: &str, at: Range<usize>, message: impl Into<String>) {
        self.add(field, Some(at), message);
    }

    /// Whether something is wrong with `field` itself or with what it stands in.
    pub(super) fn is_wrong(&self, field: &str) -> bool {
        self.problems.iter().any(|problem| {
            let rest = field.strip_prefix(problem.field.as_str());
            !problem.field.is_empty()
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Everything that is wrong, in the file's order; `None` when nothing is.
    pub(super) fn finish(mut self) -> Option<Problems> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        (!self.problems.is_empty()).then_some(Problems(self.problems))
    }

    fn add(&mut self, field: &str, at: Option<Range<usize>>, message: impl Into<String>) {
        let (line, column) = at.map_or((0, 0), |at| position(self.text, at.start));
        let (file, field) = (self.file.to_owned(), field.to_owned());
        self.problems.push(Problem { file, line, column, field, message: message.into() });
    }

    /// Where the field stands, or else the nearest table around it.
    fn place_of(&self, field: &str) -> Option<Range<usize>> {
        let mut name = field;
        loop {
            if let Some(place) = self.places.get(name) {
                return Some(place.clone());
            }
            name = &name[..name.rfind(['.', '['])?];
        }
    }
}

/// Line and column of a byte, both from 1, the column in characters.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The known name that is nearest to `name`, when one is near: by one slip of the fingers (a letter wrong, missing, too
/// many, or two of them swapped), or by most of its letters.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Shorter names have too little left for one letter to be a slip.
    const FEWEST_CHARS: usize = 3;
    let lower = name.to_lowercase();
    known
        .map(|candidate| {
            let other = candidate.to_lowercase();
            let long = lower.chars().count().min(other.chars().count()) >= FEWEST_CHARS;
            let slip = long && strsim::damerau_levenshtein(&lower, &other) <= 1;
            (slip, strsim::jaro_winkler(&lower, &other), candidate)
        })
        .filter(|(slip, similarity, _)| *slip || *similarity >= 0.8)
        .max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_from_one() {
        let text = "a = 1\nß = \"ü\" # x\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find('#').expect("a #")), (2, 9));
        assert_eq!(position(text, 1000), (3, 1), "beyond the end is the end");
    }

    #[test]
    fn nearest_means_near() {
        let known = ["format", "path", "pattern"];
        assert_eq!(nearest("formt", known.into_iter()), Some("format"));
        assert_eq!(nearest("Paht", known.into_iter()), Some("path"));
        assert_eq!(nearest("zebra", known.into_iter()), None);
        for (slip, meant) in [("tpc", "tcp"), ("udb", "udp"), ("ptah", "path"), ("evrey", "every")] {
            let known = ["topic", "tcp", "udp", "path", "every"];
            assert_eq!(nearest(slip, known.into_iter()), Some(meant));
        }
    }
}
