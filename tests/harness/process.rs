//! A process of the binary: started, asked for its address, killed, ended.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use super::http::Client;
use super::wait::{seconds, wait_for};

/// A running process; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    said: PathBuf,
    process_file: PathBuf,
    printed: Option<std::thread::JoinHandle<String>>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code, if it was not killed.
    pub(crate) code: Option<i32>,
    /// Signal that killed it.
    pub(crate) signal: Option<i32>,
    /// What it wrote to stdout.
    pub(crate) printed: String,
    /// What it wrote to stderr.
    pub(crate) said: String,
}

impl Running {
    pub(super) fn spawn(mut command: Command, said: PathBuf, process_file: PathBuf) -> Running {
        let mut child = command.spawn().expect("start the binary");
        let printed = child.stdout.take().map(|mut stdout| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = stdout.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        Running { child, said, process_file, printed }
    }

    /// What it has written to stderr so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.said).unwrap_or_default()).into_owned()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Its HTTP address, once it has written it down.
    pub(crate) fn address(&self) -> Option<Client> {
        let text = fs::read(&self.process_file).ok()?;
        let process: Value = serde_json::from_slice(&text).ok()?;
        (process["pid"].as_u64() == Some(u64::from(self.child.id())))
            .then(|| process["http"].as_str().map(Client::new))
            .flatten()
    }

    /// Its Kafka address, once it has written it down.
    pub(crate) fn kafka(&self) -> Option<String> {
        self.other("kafka")
    }

    /// The address at which it speaks PostgreSQL's protocol.
    pub(crate) fn postgres(&self) -> Option<String> {
        self.other("postgres")
    }

    fn other(&self, door: &str) -> Option<String> {
        let text = fs::read(&self.process_file).ok()?;
        let process: Value = serde_json::from_slice(&text).ok()?;
        (process["pid"].as_u64() == Some(u64::from(self.child.id())))
            .then(|| process[door].as_str().map(str::to_owned))
            .flatten()
    }

    /// Its HTTP client, once `/healthz` says 200.
    #[track_caller]
    pub(crate) fn ready(&mut self) -> Client {
        self.ready_within(seconds(60))
    }

    /// The same with another deadline.
    #[track_caller]
    pub(crate) fn ready_within(&mut self, deadline: Duration) -> Client {
        wait_for("/healthz to answer 200", deadline, || {
            assert!(self.runs(), "it ended before it was ready: {}", self.said());
            let client = self.address()?;
            let answer = client.get("/healthz").ok()?;
            (answer.status == 200).then_some(client)
        })
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        self.end(seconds(30))
    }

    /// SIGTERM, then its own end.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the child");
        self.end(seconds(60))
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self, deadline: Duration) -> Ended {
        let status = wait_for(&format!("process {} to end", self.child.id()), deadline, || {
            self.child.try_wait().expect("a child")
        });
        let printed = self.printed.take().map(|thread| thread.join().expect("a reader")).unwrap_or_default();
        Ended { code: status.code(), signal: status.signal(), printed, said: self.said() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
