//! MariaDB itself: a server of a test's own, and sessions that are held open.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::harness::{seconds, wait_for};

/// Password of `ada`, who may read everything in `shop` and see transactions.
pub(super) const PASSWORD: &str = "p@ss/word ä";

/// A server with an empty database `shop`; it is gone when this is dropped.
pub(super) struct Server {
    folder: tempfile::TempDir,
    pub(super) port: u16,
    /// More of the server's settings.
    pub(super) more: Vec<String>,
    process: Option<Child>,
}

/// A program of MariaDB, as a user that is not root.
fn program(name: &str) -> Command {
    let folder =
        std::env::var("TARN_MARIADB").expect("TARN_MARIADB: start these tests with tests/servers/run");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]);
    let path = match name {
        "mariadbd" => PathBuf::from(folder).join(name),
        _ => PathBuf::from(name),
    };
    command.arg(path).arg("--no-defaults").stdin(Stdio::null());
    command
}

impl Server {
    pub(super) fn start() -> Server {
        let folder = tempfile::Builder::new().prefix("tarn-mariadb-").tempdir().expect("a folder");
        own(folder.path());
        let mut install = program("mariadb-install-db");
        install.current_dir(folder.path()).arg(format!("--datadir={}", folder.path().join("data").display()));
        // Whoever starts empties the folder of what others left there, so each has its own.
        install.arg(format!("--tmpdir={}", folder.path().display())).arg("--innodb-log-file-size=16M");
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
        let installed = install.output().expect("start mariadb-install-db");
        let (printed, said) =
            (String::from_utf8_lossy(&installed.stdout), String::from_utf8_lossy(&installed.stderr));
        assert!(installed.status.success(), "mariadb-install-db: {printed}{said}");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut server = Server { folder, port, more: Vec::new(), process: None };
        server.up();
        server.run("", "CREATE DATABASE shop CHARACTER SET utf8mb4");
        server.sql(&format!("CREATE USER ada IDENTIFIED BY '{PASSWORD}'"));
        server.sql("GRANT SELECT ON *.* TO ada");
        server.sql("GRANT PROCESS ON *.* TO ada");
        server
    }

    /// Starts it again.
    pub(super) fn up(&mut self) {
        wait_for("MariaDB to start", seconds(60), || {
            if self.process.as_mut().is_none_or(|process| process.try_wait().expect("a child").is_some()) {
                let mut mariadbd = program("mariadbd");
                let said = fs::OpenOptions::new().create(true).append(true).open(self.path("said"));
                let said = said.expect("open a file");
                mariadbd.stderr(said.try_clone().expect("a file")).stdout(said);
                mariadbd.arg(format!("--datadir={}", self.path("data").display()));
                mariadbd.arg(format!("--socket={}", self.path("socket").display()));
                mariadbd.arg(format!("--tmpdir={}", self.folder.path().display()));
                mariadbd.arg(format!("--pid-file={}", self.path("pid").display()));
                mariadbd.arg(format!("--port={}", self.port)).args([
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    "--skip-log-bin",
                    "--innodb-buffer-pool-size=32M",
                    "--innodb-log-file-size=16M",
                    // What is committed outlives the process, not the machine.
                    "--innodb-flush-log-at-trx-commit=2",
                    "--performance-schema=OFF",
                    "--max-allowed-packet=256M",
                    "--default-time-zone=+02:00",
                ]);
                self.process = Some(mariadbd.args(&self.more).spawn().expect("start MariaDB"));
            }
            let mut ask = self.client("");
            ask.args(["-e", "SELECT 1"]).output().ok()?.status.success().then_some(())
        });
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// A file of its folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `url` and `password` of a source.
    pub(super) fn keys(&self) -> String {
        format!("url = \"mysql://ada@127.0.0.1:{}/shop\"\npassword = \"{PASSWORD}\"", self.port)
    }

    /// Its client, as root by the socket; times are in UTC.
    fn client(&self, database: &str) -> Command {
        let mut client = Command::new("mariadb");
        client.args([
            "--no-defaults",
            "-u",
            "root",
            "-N",
            "-B",
            "-r",
            "-n",
            "--default-character-set=utf8mb4",
        ]);
        client.arg("--init-command=SET time_zone = '+00:00'");
        client.arg("-S").arg(self.path("socket")).arg(format!("--database={database}"));
        client.stdin(Stdio::null());
        client
    }

    /// Runs statements in `shop`; what they print.
    #[track_caller]
    pub(super) fn sql(&self, sql: &str) -> String {
        self.run("shop", sql)
    }

    #[track_caller]
    fn run(&self, database: &str, sql: &str) -> String {
        let output = self.client(database).args(["-e", sql]).output().expect("start the client");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// A client that runs a script of its own beside what the test does.
    pub(super) fn bench(&self, name: &str, script: &str) -> Child {
        let path = self.path(name);
        fs::write(&path, script).expect("write the script");
        let mut client = self.client("shop");
        client.stdin(fs::File::open(path).expect("open the script"));
        client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the client")
    }

    /// A session whose transactions stay open as long as the test wants.
    pub(super) fn session(&self) -> Session {
        let mut client = self.client("shop");
        let mut process =
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the client");
        let to = process.stdin.take().expect("a pipe");
        let from = BufReader::new(process.stdout.take().expect("a pipe"));
        Session { process, to, from }
    }
}

/// Gives a file to the user that MariaDB runs as.
pub(super) fn own(path: &Path) {
    super::call(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(path));
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(self.path("said")).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(20).collect();
            eprintln!("MariaDB said at last:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill();
    }
}

/// An open session of the client.
pub(super) struct Session {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Session {
    /// Runs statements; returns when they are done.
    #[track_caller]
    pub(super) fn sql(&mut self, sql: &str) {
        writeln!(self.to, "{sql};\nSELECT 'done';").expect("write to the client");
        let mut line = String::new();
        while line.trim_end() != "done" {
            line.clear();
            assert!(self.from.read_line(&mut line).expect("read from the client") > 0, "it ended at: {sql}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
