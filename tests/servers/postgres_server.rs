//! PostgreSQL itself: a server of a test's own, and sessions that are held open.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::harness::{seconds, wait_for};

/// Password of the superuser `postgres`, and at first that of `ada`, who may read everything.
pub(super) const PASSWORD: &str = "p@ss/word ä";

/// A server with an empty database `shop`; it is gone when this is dropped.
pub(super) struct Server {
    folder: tempfile::TempDir,
    pub(super) port: u16,
    process: Option<Child>,
}

/// A program of PostgreSQL, as the user that it runs as.
fn program(name: &str) -> Command {
    let folder =
        std::env::var("TARN_POSTGRES").expect("TARN_POSTGRES: start these tests with tests/servers/run");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
    command.arg(PathBuf::from(folder).join(name)).stdin(Stdio::null());
    command
}

impl Server {
    pub(super) fn start() -> Server {
        let folder = tempfile::Builder::new().prefix("tarn-postgres-").tempdir().expect("a folder");
        fs::write(folder.path().join("password"), PASSWORD).expect("write the password");
        super::call(Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder.path()));
        let mut initdb = program("initdb");
        initdb.current_dir(folder.path()).args(["-D", "data", "-U", "postgres", "-A", "scram-sha-256"]);
        super::call(initdb.args(["--pwfile=password", "--no-sync", "-E", "UTF8", "--locale=C"]));
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut server = Server { folder, port, process: None };
        server.up();
        server.run("postgres", "CREATE DATABASE shop");
        server.sql(&format!("CREATE ROLE ada LOGIN PASSWORD '{PASSWORD}'; GRANT pg_read_all_data TO ada"));
        server
    }

    /// Starts it again.
    pub(super) fn up(&mut self) {
        wait_for("PostgreSQL to start", seconds(60), || {
            // After a kill, what the old server's children hold may not be free at once.
            if self.process.as_mut().is_none_or(|process| process.try_wait().expect("a child").is_some()) {
                let mut postgres = program("postgres");
                postgres.current_dir(self.folder.path()).args(["-D", "data"]);
                let said = self.folder.path().join("said");
                let said = fs::OpenOptions::new().create(true).append(true).open(said).expect("open a file");
                postgres.stderr(said.try_clone().expect("a file")).stdout(said);
                for setting in [
                    "listen_addresses=127.0.0.1",
                    &format!("port={}", self.port),
                    "unix_socket_directories=",
                    "fsync=off",
                    "max_prepared_transactions=4",
                ] {
                    postgres.args(["-c", setting]);
                }
                self.process = Some(postgres.spawn().expect("start PostgreSQL"));
            }
            self.psql("postgres").args(["-c", "SELECT 1"]).output().ok()?.status.success().then_some(())
        });
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// A file of its data folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `url` and `password` of a source.
    pub(super) fn keys(&self) -> String {
        format!("url = \"postgres://ada@127.0.0.1:{}/shop\"\npassword = \"{PASSWORD}\"", self.port)
    }

    pub(super) fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        psql.args(["-p", &self.port.to_string(), "-d", database]);
        psql.env("PGPASSWORD", PASSWORD)
            .env("PGTZ", "UTC")
            .env("PGOPTIONS", "-c client_min_messages=warning");
        psql
    }

    /// Runs statements in `shop`; what they print.
    #[track_caller]
    pub(super) fn sql(&self, sql: &str) -> String {
        self.run("shop", sql)
    }

    #[track_caller]
    fn run(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database).args(["-c", sql]).output().expect("start psql");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// pgbench with a script of its own, beside what the test does.
    pub(super) fn bench(&self, script: &str, clients: u32, transactions: u32) -> Child {
        let path = self.folder.path().join("script.sql");
        fs::write(&path, script).expect("write the script");
        let mut pgbench = Command::new("pgbench");
        pgbench.args(["-n", "-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()]);
        pgbench
            .args(["-c", &clients.to_string(), "-t", &transactions.to_string(), "-f"])
            .arg(path)
            .arg("shop");
        pgbench.env("PGPASSWORD", PASSWORD).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        pgbench.spawn().expect("start pgbench")
    }

    /// A session whose transactions stay open as long as the test wants.
    pub(super) fn session(&self) -> Session {
        let mut psql = self.psql("shop");
        let mut process = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start psql");
        let to = process.stdin.take().expect("a pipe");
        let from = BufReader::new(process.stdout.take().expect("a pipe"));
        Session { process, to, from }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(self.folder.path().join("said")).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(20).collect();
            eprintln!("PostgreSQL said at last:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill();
    }
}

/// An open session of psql.
pub(super) struct Session {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Session {
    /// Runs statements; returns when they are done.
    #[track_caller]
    pub(super) fn sql(&mut self, sql: &str) {
        writeln!(self.to, "{sql};\n\\echo done").expect("write to psql");
        let mut line = String::new();
        while line.trim_end() != "done" {
            line.clear();
            assert!(self.from.read_line(&mut line).expect("read from psql") > 0, "psql ended at: {sql}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
