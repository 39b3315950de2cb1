//! `${NAME}`, `${NAME:-default}` and `${file:PATH}` in strings.
//!
//! *Invariant*: a message never holds what was put in, for it may be a secret.

use std::path::Path;

/// Largest file that `${file:PATH}` takes, bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where replacements come from.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// An environment variable by its name.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths are relative to.
    pub(super) folder: &'a Path,
}

/// `text` with every reference replaced; `None` when it has no reference; or else what is wrong with each of them.
pub(super) fn replace(text: &str, from: Surroundings<'_>) -> Result<Option<String>, Vec<String>> {
    if !text.contains("${") {
        return Ok(None);
    }
    let (mut out, mut problems, mut rest) = (String::new(), Vec::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, reference) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            // `$${` stands for `${` itself.
            out.push_str(literal);
            out.push_str("${");
            rest = reference;
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = reference.split_once('}') else {
            problems.push("`${` without a `}`; write `$${` for the characters themselves".into());
            rest = "";
            break;
        };
        match value_of(inside, from) {
            Ok(value) => out.push_str(&value),
            Err(problem) => problems.push(problem),
        }
        rest = after;
    }
    out.push_str(rest);
    if problems.is_empty() { Ok(Some(out)) } else { Err(problems) }
}

fn value_of(reference: &str, from: Surroundings<'_>) -> Result<String, String> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read(path, from.folder);
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(is_start) || !name.chars().all(|c| is_start(c) || c.is_ascii_digit()) {
        return Err(format!(
            "`${{{reference}}}` is no reference: write `${{NAME}}`, `${{NAME:-default}}` or `${{file:PATH}}`"
        ));
    }
    match ((from.variable)(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "the environment variable `{name}` is not set; set it, or give a default: `${{{name}:-default}}`"
        )),
    }
}

/// The file's text without its last line break.
fn read(path: &str, folder: &Path) -> Result<String, String> {
    let full = folder.join(path);
    let shown = full.display();
    let size =
        std::fs::metadata(&full).map_err(|error| format!("cannot read the file `{shown}`: {error}"))?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("the file `{shown}` has {size} bytes; at most {MAX_FILE_BYTES} can be put in"));
    }
    let mut text =
        std::fs::read_to_string(&full).map_err(|error| format!("cannot read the file `{shown}`: {error}"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<Option<String>, Vec<String>> {
        let variable = |name: &str| match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        replace(text, Surroundings { variable: &variable, folder: Path::new("/nowhere") })
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        for (text, want) in [
            ("plain $HOME", None),
            ("${HOST}", Some("db")),
            ("a ${HOST}:${PORT:-5432}/${EMPTY}x", Some("a db:5432/x")),
            ("${EMPTY:-filled}", Some("filled")),
            ("${NONE:-}", Some("")),
            ("$${HOST} ${HOST}", Some("${HOST} db")),
        ] {
            assert_eq!(replaced(text), Ok(want.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn every_wrong_reference_is_named() {
        let problems = replaced("${HOST} ${ONE} ${2} ${file:secret} ${").expect_err("four problems");
        assert_eq!(problems.len(), 4);
        for (problem, says) in
            problems.iter().zip(["`ONE` is not set", "`${2}`", "/nowhere/secret", "without a `}`"])
        {
            assert!(problem.contains(says), "{problem}");
        }
    }
}
