//! `exec`: the lines that a command writes.
//!
//! *Layout*: one thread reads the command's output and hands lines to the [`Inlet`]; another has what it says on its error
//! output written to the log of the process. A pipe holds 64 KiB, so a command that writes faster than the log commits
//! waits.
//!
//! *Guarantee*: at most once before the commit: what a command has written it does not write again. A crash loses what was
//! read and not committed yet.
//!
//! *Failure*: a command that ends is started again as `restart` says, later each time while it fails. It runs in a process
//! group of its own, which is asked to end (SIGTERM) when the source stops, and after five seconds made to. If Tarn is
//! killed, the command meets a closed pipe with its next line.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tarn_model::config::{ExecConfig, RestartPolicy};
use tarn_model::{Error, Result};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::framer::{Framer, Framing, Messages};
use crate::inlet::{Arrival, Inlet, Pumped};
use crate::lines::Limits;
use crate::listener::joining_of;
use crate::monitor::tell;
use crate::shaper::Shaper;
use crate::source::{Collector, Source};

#[cfg(test)]
mod tests;

/// One read of the pipe.
const READ_BYTES: usize = 64 << 10;
/// What is told of one line on the error output.
const MOST_SAID: usize = 1024;
const LAST_BACK_OFF: Duration = Duration::from_secs(60);
/// A command that ran for so long and then failed has a new first failure.
const LONG_RUN: Duration = Duration::from_secs(60);
/// Time between two looks at a command that has closed its output.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a command may take to end when it is asked to.
const LONGEST_END: Duration = Duration::from_secs(5);

/// Runs a command.
pub(crate) struct Exec {
    config: ExecConfig,
    inlet: Inlet,
    shaper: Option<Shaper>,
    running: Option<Running>,
    runs: u64,
    back_off: Duration,
}

struct Running {
    child: Child,
    since: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Exec {
    pub(crate) fn new(config: ExecConfig) -> Result<Exec> {
        let inlet = Inlet::new(joining_of(&config.lines)?);
        let back_off = config.restart_after.0;
        Ok(Exec { config, inlet, shaper: None, running: None, runs: 0, back_off })
    }

    fn name(&self) -> &str {
        self.config.command.first().map_or("", String::as_str)
    }

    fn start(&mut self, source: &Source) -> Result<()> {
        let arrivals =
            self.inlet.sender().ok_or_else(|| Error::internal("a command is started after its end"))?;
        let mut command = Command::new(self.name());
        command.args(self.config.command.iter().skip(1)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::unavailable(format!("cannot start `{}`", self.name()))
                .with_hint("write a program that is on the PATH, or its path: it is tried again")
                .with_source(error)
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        self.running = Some(Running { child, since: Instant::now() });
        self.runs += 1;
        let limits = Limits::of_topic(source.topic_info()?.max_record_bytes);
        let (run, name) = (self.runs, source.name.clone());
        info!(source = source.name, command = self.name(), run, "command started");
        if let Some(stdout) = stdout {
            thread(&source.name, move || read(stdout, run, limits, &arrivals))?;
        }
        if let Some(stderr) = stderr {
            thread(&source.name, move || repeat(stderr, &name))?;
        }
        Ok(())
    }

    /// After the command's end: whether it is to be started again, after a pause.
    fn is_over(&mut self, source: &Source, status: ExitStatus, ran: Duration) -> Result<bool> {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "somehow".to_owned(),
        };
        info!(source = source.name, command = self.name(), how, "command ended");
        let over = match self.config.restart {
            RestartPolicy::Never => true,
            RestartPolicy::OnFailure => status.success(),
            RestartPolicy::Always => false,
        };
        if status.success() {
            self.back_off = self.config.restart_after.0;
            if !over {
                source.pause(self.back_off);
            }
            return Ok(over);
        }
        let error = Error::unavailable(format!("`{}` ended {how}", self.name()));
        if over {
            let hint = "what it said is in the log; `restart` says when it is started again";
            return Err(Error::invalid(error.to_string()).with_hint(hint));
        }
        if ran >= LONG_RUN {
            self.back_off = self.config.restart_after.0;
        }
        warn!(
            source = source.name,
            error = tell(&error),
            retry_in_ms = self.back_off.as_millis(),
            "source waits"
        );
        source.monitor.waiting(&error);
        source.pause(self.back_off);
        self.back_off = (self.back_off * 2).min(LAST_BACK_OFF.max(self.config.restart_after.0));
        Ok(false)
    }

    fn pump(&mut self, source: &Source, shaper: &mut Shaper) -> Result<()> {
        while !source.stopping() {
            if self.running.is_none() {
                self.start(source)?;
            }
            if self.inlet.pump(source, shaper, Some(self.runs))? != Pumped::Ended {
                return Ok(());
            }
            // Its output is closed; it may take a while to end.
            let status = loop {
                let Some(running) = &mut self.running else { return Ok(()) };
                match running.child.try_wait() {
                    Ok(Some(status)) => break status,
                    Ok(None) if source.stopping() => return Ok(()),
                    Ok(None) => source.pause(LOOK_EVERY),
                    Err(error) => {
                        let what = format!("cannot wait for `{}`", self.name());
                        return Err(Error::unavailable(what).with_source(error));
                    }
                }
            };
            let Some(running) = self.running.take() else { return Ok(()) };
            if self.is_over(source, status, running.since.elapsed())? {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Collector for Exec {
    fn collect(&mut self, source: &Source) -> Result<()> {
        // After a pause it was closed.
        self.inlet.reopen();
        let mut shaper = match self.shaper.take() {
            Some(shaper) => shaper,
            None => Shaper::of_lines(&source.config, self.config.format, &self.config.lines)?,
        };
        let pumped = self.pump(source, &mut shaper);
        self.shaper = Some(shaper);
        pumped
    }

    fn finish(&mut self, source: &Source) -> Result<()> {
        // What it had written is taken along; a child of it may hold the pipe, so this is not waited for.
        self.running = None;
        match &mut self.shaper {
            Some(shaper) => self.inlet.try_finish(source, shaper),
            // It was never started.
            None => Ok(()),
        }
    }

    fn held(&self) -> usize {
        self.inlet.held()
    }
}

fn thread(source: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(format!("in-{source}-pipe")).spawn(work);
    started.map(drop).map_err(|error| Error::unavailable("no thread for a pipe").with_source(error))
}

/// Hands over what the command writes, until it ends.
fn read(mut stdout: ChildStdout, run: u64, limits: Limits, arrivals: &mpsc::Sender<Arrival>) {
    let mut framer = Framer::new(Framing::Lines, limits);
    let mut block = vec![0; READ_BYTES];
    let mut ended = false;
    while !ended {
        let mut messages = Messages::default();
        match stdout.read(&mut block) {
            Ok(0) => {
                framer.finish(false, &mut messages);
                ended = true;
            }
            Ok(count) => framer.feed(&block[..count], &mut messages),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => {
                framer.finish(true, &mut messages);
                ended = true;
            }
        }
        if messages.is_empty() && !ended {
            continue;
        }
        let arrival = Arrival { stream: run, peer: None, messages, ended, told: None };
        if arrivals.blocking_send(arrival).is_err() {
            return;
        }
    }
}

/// Tells what the command says on its error output, line by line.
fn repeat(stderr: ChildStderr, source: &str) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end is told in pieces.
        match reader.by_ref().take(MOST_SAID as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let said = String::from_utf8_lossy(&line);
                warn!(source, said = said.trim_end(), "the command says");
            }
        }
    }
}

/// Asks the command's process group to end, and makes it end.
fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    signal(Signal::TERM);
    let since = Instant::now();
    while since.elapsed() < LONGEST_END {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    signal(Signal::KILL);
    let _ = child.wait();
}
