//! Style that no compiler checks, over every source file of the repository.

use std::fs;
use std::path::{Path, PathBuf};

const MOST_PRODUCT_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Files of the repository whose name ends in one of `suffixes`, with their text.
fn files(suffixes: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("read a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "data") {
                    open.push(path);
                }
            } else if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
                let relative =
                    path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {suffixes:?}");
    found.sort();
    found
}

#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    none(
        files(&[".rs"])
            .into_iter()
            .filter(|(path, text)| !text.starts_with("//! ") && !path.ends_with("/tests.rs"))
            .map(|(path, _)| format!("{path} does not begin with a module doc"))
            .collect(),
    );
}

#[test]
fn no_file_outgrows_a_reader() {
    let product_lines = |text: &str| {
        let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        text[..tests].lines().count()
    };
    none(
        files(&[".rs"])
            .into_iter()
            .filter(|(path, _)| !path.ends_with("tests.rs"))
            .map(|(path, text)| (path, product_lines(&text)))
            .filter(|(_, lines)| *lines > MOST_PRODUCT_LINES)
            .map(|(path, lines)| format!("{path} has {lines} lines: split it"))
            .collect(),
    );
}

#[test]
fn no_file_is_named_after_nothing() {
    none(
        files(&[".rs"])
            .into_iter()
            .filter(|(path, _)| {
                path.split(['/', '.']).any(|part| {
                    ["utils", "util", "helpers", "helper", "manager", "common", "misc"].contains(&part)
                })
            })
            .map(|(path, _)| format!("{path}: say what it is instead"))
            .collect(),
    );
}

#[test]
fn nothing_speaks_of_one_machine_or_of_a_registry() {
    // Written in two parts so that this file does not find itself.
    let forbidden = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("TODO", ":"),
        concat!("FIX", "ME"),
    ];
    let mut problems = Vec::new();
    for (path, text) in files(&[".rs", ".md", ".toml", ".py", "run", ".sh"]) {
        for (number, line) in text.lines().enumerate() {
            for word in forbidden.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    none(problems);
}

#[test]
fn a_dependency_is_named_only_in_its_room() {
    // The crate, and the rooms that may name it.
    let rooms = [
        (concat!("delta", "lake::"), &["lake/"][..]),
        (concat!("rus", "qlite::"), &["log/", "ingest/", "tests/"][..]),
        (concat!("ax", "um::"), &["serving/", "ingest/", "cli/"][..]),
        (concat!("kafka_", "protocol::"), &["log/kafka/", "tests/"]),
        (concat!("anyhow", "::"), &["cli/", "benches/"][..]),
    ];
    let mut problems = Vec::new();
    for (path, text) in files(&[".rs"]) {
        for (name, allowed) in rooms {
            if text.contains(name) && !allowed.iter().any(|room| path.starts_with(room)) {
                problems.push(format!("{path} names `{name}`"));
            }
        }
    }
    none(problems);
}

#[test]
fn every_example_config_is_valid() {
    let dir = root().join("configs");
    let mut seen = 0;
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            seen += 1;
            let folder = crate::harness::Folder::new("");
            let ended = folder.tarn(&["check", &path.to_string_lossy()]);
            assert_eq!(ended.code, Some(0), "{}: {}", path.display(), ended.said);
        }
    }
    assert!(seen > 0, "no example in configs/");
}
