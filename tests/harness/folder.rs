//! A test's own folder: config, sources, data, lake, and what every process in it said.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::process::{Ended, Running};

/// The folder; it goes when the test ends well. When the test fails it prints what the processes in it said.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    starts: AtomicUsize,
}

impl Folder {
    /// An empty folder with `config` as its `tarn.toml`. The config's HTTP port should be 0.
    pub(crate) fn new(config: &str) -> Folder {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = Folder { dir, env: Vec::new(), starts: AtomicUsize::new(0) };
        folder.configure(config);
        folder
    }

    /// The same folder with a variable in the environment of its processes.
    #[allow(dead_code, reason = "only tests with servers need one")]
    pub(crate) fn with_env(mut self, name: &str, value: &str) -> Folder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the config.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.path("tarn.toml"), config).expect("write the config");
    }

    /// A path in the folder.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Makes a complete file appear at once.
    pub(crate) fn put(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        let parent = path.parent().expect("a file has a folder");
        fs::create_dir_all(parent).expect("create the folder");
        let name = path.file_name().expect("a name").to_string_lossy();
        let hidden = parent.join(format!(".{name}.part"));
        fs::write(&hidden, bytes).expect("write the file");
        fs::rename(hidden, path).expect("show the file");
    }

    /// The same, gzipped.
    pub(crate) fn put_gz(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        self.put(relative, gzip(bytes.as_ref()));
    }

    /// Appends to a file that grows.
    pub(crate) fn grow(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("create the folder");
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open the file");
        file.write_all(bytes.as_ref()).expect("append to the file");
    }

    /// Files below `relative` whose path ends in `suffix`, in order.
    pub(crate) fn find(&self, relative: &str, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.path(relative)];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.to_string_lossy().ends_with(suffix) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The binary with `arguments`, in this folder, its stderr kept in a file.
    pub(crate) fn command(&self, arguments: &[&str]) -> (Command, PathBuf) {
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        fs::create_dir_all(self.path("said")).expect("create the folder");
        let said = self.path(format!("said/{number:03}.stderr"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tarn"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .env_remove("FAILPOINTS")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said).expect("a file for stderr"));
        (command, said)
    }

    /// Starts `tarn run`.
    pub(crate) fn start(&self) -> Running {
        self.start_with("", &[])
    }

    /// Starts `tarn run` with fault points armed and further arguments.
    pub(crate) fn start_with(&self, failpoints: &str, more: &[&str]) -> Running {
        let arguments: Vec<&str> = ["run", "tarn.toml"].iter().chain(more).copied().collect();
        let (mut command, said) = self.command(&arguments);
        if !failpoints.is_empty() {
            command.env("FAILPOINTS", failpoints);
        }
        Running::spawn(command, said, self.path("data/process.json"))
    }

    /// Starts `tarn demo` in the folder `demo` of this one.
    pub(crate) fn start_demo(&self) -> Running {
        let (command, said) = self.command(&["demo", "demo"]);
        Running::spawn(command, said, self.path("demo/data/process.json"))
    }

    /// `tarn run --drain`, to its end, whatever that is.
    pub(crate) fn drain(&self) -> Ended {
        self.start_with("", &["--drain"]).end(super::seconds(120))
    }

    /// `tarn run --drain` that must end well.
    #[track_caller]
    pub(crate) fn drained(&self) {
        let ended = self.drain();
        assert_eq!(ended.code, Some(0), "drain ended with {:?}: {}", ended.code, ended.said);
    }

    /// Any other command, to its end.
    pub(crate) fn tarn(&self, arguments: &[&str]) -> Ended {
        let (mut command, said) = self.command(arguments);
        command.stdout(Stdio::piped());
        Running::spawn(command, said, self.path("data/process.json")).end(super::seconds(120))
    }

    /// The same with fault points armed.
    pub(crate) fn tarn_armed(&self, failpoints: &str, arguments: &[&str]) -> Ended {
        self.start_armed(failpoints, arguments).end(super::seconds(120))
    }

    /// Any other command with fault points armed.
    pub(crate) fn start_armed(&self, failpoints: &str, arguments: &[&str]) -> Running {
        let (mut command, said) = self.command(arguments);
        command.stdout(Stdio::piped());
        if !failpoints.is_empty() {
            command.env("FAILPOINTS", failpoints);
        }
        Running::spawn(command, said, self.path("data/process.json"))
    }

    /// `tarn sql` on the lake at rest (or the running process): rows.
    #[track_caller]
    pub(crate) fn sql(&self, query: &str) -> Vec<Value> {
        let ended = self.tarn(&["sql", "-c", "tarn.toml", "--output", "ndjson", query]);
        assert_eq!(ended.code, Some(0), "`{query}` failed: {}", ended.said);
        ended
            .printed
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}")))
            .collect()
    }

    /// One number of one row.
    #[track_caller]
    pub(crate) fn number(&self, query: &str) -> i64 {
        let rows = self.sql(query);
        let row = rows.first().and_then(Value::as_object).unwrap_or_else(|| panic!("no row from `{query}`"));
        row.values()
            .next()
            .and_then(Value::as_i64)
            .unwrap_or_else(|| panic!("no number from `{query}`: {row:?}"))
    }

    /// Everything that processes in this folder said on stderr, in order of their start.
    pub(crate) fn said(&self) -> String {
        let mut said = String::new();
        for file in self.find("said", ".stderr") {
            said += &format!("--- {}\n", file.file_name().expect("a name").to_string_lossy());
            said += &String::from_utf8_lossy(&fs::read(file).unwrap_or_default());
        }
        said
    }

    /// No process in this folder has panicked.
    #[track_caller]
    pub(crate) fn never_panicked(&self) {
        assert!(!self.said().contains("panicked"), "a process panicked");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            eprintln!(
                "said in {}:\n{}",
                self.dir.path().display(),
                lines[lines.len().saturating_sub(120)..].join("\n")
            );
            if std::env::var_os("TARN_KEEP").is_some() {
                self.dir.disable_cleanup(true);
            }
        }
    }
}

/// `bytes` as a gzip file.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}
