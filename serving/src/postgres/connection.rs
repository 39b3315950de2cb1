//! One client and its session, from its first byte to its last.
//!
//! *States*: a message of the extended protocol that fails is answered once; what follows it is read past until `Sync`. In a
//! transaction that failed, only its end is accepted. A transaction is a promise about nothing but that: each statement sees
//! the newest rows, unless the isolation level asks for those that the transaction's first statement saw.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use datafusion::common::ScalarValue;
use futures::StreamExt;
use tarn_model::{Error, OffsetVector, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::command::{Command, CopyFormat};
use super::copy::Copier;
use super::encode::Rows;
use super::frame::{Frames, MAX_MESSAGE_BYTES, Message, Target};
use super::opening::{DATABASE, LAST_WORD};
use super::portal::{Portal, Running, State};
use super::reply::{Replies, Transaction};
use super::settings::Settings;
use super::types::columns;
use super::{Cancellable, Shared};
use crate::engine::{Outline, Request};
use crate::error::from_datafusion;
use crate::pg_catalog::Visitor;

mod extended;
mod session;

/// Bytes that wait before they are sent.
const SEND_BYTES: usize = 64 << 10;
/// A client that takes none of them for longer than a statement may take, or than this, is hung up on.
const LEAST_SEND_TIME: Duration = Duration::from_secs(30);
/// Prepared statements of a connection, and the bytes of their texts.
const MAX_STATEMENTS: usize = 1_000;
const MAX_STATEMENT_BYTES: usize = 4 << 20;
/// Portals of a connection.
const MAX_PORTALS: usize = 128;

/// A statement that was prepared.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    sql: String,
    command: Command,
    /// The types that the client named; 0 where it did not.
    oids: Vec<u32>,
    outline: Option<Arc<Outline>>,
}

/// A statement with values for its parameters.
#[derive(Debug)]
pub(super) struct Bound {
    command: Command,
    params: Vec<ScalarValue>,
    outline: Option<Arc<Outline>>,
}

/// Why something did not go on.
pub(super) enum Failure {
    /// The client is told.
    Told(Error),
    /// The connection is over.
    Over(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Told(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Over(error)
    }
}

type Outcome<T> = std::result::Result<T, Failure>;

pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) frames: Frames<OwnedReadHalf>,
    pub(super) output: OwnedWriteHalf,
    pub(super) replies: Replies,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) cancellable: Cancellable,
    pub(super) user: String,
    pub(super) settings: Settings,
    pub(super) transaction: Transaction,
    /// What the transaction's first statement saw, where the isolation level wants that to stay.
    pub(super) seen: Option<OffsetVector>,
    pub(super) statements: HashMap<String, Prepared>,
    pub(super) portals: HashMap<String, Portal>,
    /// Messages are read past until `Sync`.
    pub(super) skips: bool,
}

impl Connection {
    /// Answers until the client has enough.
    pub(super) async fn run(&mut self) -> std::result::Result<(), Failure> {
        loop {
            if !self.frames.has_more() {
                self.send().await?;
            }
            let message = tokio::select! {
                message = self.frames.message() => message?,
                _ = self.stopped.wait_for(|stop| *stop) => return Err(stopping().into()),
            };
            let Some(message) = message else { return Ok(()) };
            match message {
                Message::Terminate => return Ok(()),
                Message::Sync => {
                    self.skips = false;
                    self.end_of_batch();
                    self.replies.ready(self.transaction);
                    self.send().await?;
                }
                _ if self.skips => {}
                message => {
                    let is_extended = message.is_extended();
                    let mut sql = String::new();
                    let done = self.answer(message, &mut sql).await;
                    if let Err(failure) = done {
                        let Failure::Told(error) = failure else { return Err(failure) };
                        self.replies.error(&error, &sql);
                        if self.transaction == Transaction::Open {
                            self.transaction = Transaction::Failed;
                        }
                        self.skips = is_extended;
                    }
                    if !is_extended {
                        self.end_of_batch();
                        self.replies.ready(self.transaction);
                        self.send().await?;
                    }
                }
            }
        }
    }

    /// Portals live as long as their transaction; without one, until here.
    fn end_of_batch(&mut self) {
        if self.transaction == Transaction::None {
            self.portals.clear();
        }
    }

    /// One message. `sql` is the statement it is about, for the place of an error.
    async fn answer(&mut self, message: Message, sql: &mut String) -> Outcome<()> {
        match message {
            Message::Query(text) => {
                sql.clone_from(&text);
                self.query(text).await
            }
            Message::Parse { name, sql: text, types } => {
                sql.clone_from(&text);
                self.parse(name, text, types)
            }
            Message::Bind { portal, statement, formats, values, results } => {
                self.bind(portal, &statement, &formats, &values, results, sql).await
            }
            Message::Describe(Target::Statement(name)) => self.describe_statement(&name, sql).await,
            Message::Describe(Target::Portal(name)) => self.describe_portal(&name, sql).await,
            Message::Execute { portal, most_rows } => {
                let most = u64::try_from(most_rows).ok().filter(|most| *most > 0).unwrap_or(u64::MAX);
                self.execute(&portal, most, sql).await
            }
            Message::Close(Target::Statement(name)) => {
                self.statements.remove(&name);
                self.replies.closed();
                Ok(())
            }
            Message::Close(Target::Portal(name)) => {
                self.portals.remove(&name);
                self.replies.closed();
                Ok(())
            }
            Message::Flush => Ok(self.send().await?),
            Message::TooLarge { bytes, .. } => Err(Error::invalid(format!(
                "a message has at most {MAX_MESSAGE_BYTES} bytes, this one has {bytes}"
            ))
            .with_sqlstate("54000")
            .into()),
            Message::Unexpected(tag) => Err(Error::invalid(format!(
                "a message of kind `{}` comes when nothing waits for it",
                char::from(tag)
            ))
            .with_sqlstate("08P01")
            .into()),
            Message::Sync | Message::Terminate => Ok(()),
        }
    }

    /// The simple protocol: a statement, and all of its answer.
    async fn query(&mut self, sql: String) -> Outcome<()> {
        let command = Command::parse(&sql)?;
        self.check_transaction(&command)?;
        let bound = Bound { command, params: Vec::new(), outline: None };
        let mut portal = Portal { state: State::Bound(bound), formats: Vec::new(), sql };
        self.enter(&mut portal).await?;
        if let State::Running(running) = &portal.state {
            self.replies.columns(&running.columns, |_| 0);
        }
        self.read(&mut portal, u64::MAX).await
    }

    fn check_transaction(&self, command: &Command) -> Result<()> {
        if self.transaction != Transaction::Failed
            || matches!(command, Command::End { .. } | Command::Savepoint("ROLLBACK") | Command::Empty)
        {
            return Ok(());
        }
        Err(Error::invalid("the transaction has failed: statements are not taken until it ends")
            .with_sqlstate("25P02")
            .with_hint("ROLLBACK"))
    }

    /// Does what is to be done, and has the first rows ready where there are any.
    async fn enter(&mut self, portal: &mut Portal) -> Outcome<()> {
        if !matches!(portal.state, State::Bound(_)) {
            return Ok(());
        }
        let done = State::Done { columns: Vec::new(), tag: "" };
        let State::Bound(bound) = std::mem::replace(&mut portal.state, done) else { return Ok(()) };
        let running = match bound.command {
            Command::Query { sql, tag } => {
                let running = self.start(sql, bound.params, tag).await?;
                let told = bound.outline.map(|outline| columns(&outline.schema));
                let changed = told.is_some_and(|told| {
                    !told
                        .iter()
                        .map(|column| column.kind)
                        .eq(running.columns.iter().map(|column| column.kind))
                });
                if changed {
                    return Err(Error::conflict(
                        "the statement's columns have changed since it was prepared",
                    )
                    .with_sqlstate("0A000")
                    .with_hint("prepare it again")
                    .into());
                }
                running
            }
            Command::Copy { sql, format } => return self.copy(portal, sql, bound.params, format).await,
            Command::Show(name) => {
                let value = self.settings.get(&name)?.to_owned();
                Running::of_texts(&[&name], vec![vec![value]], "SHOW")
            }
            Command::ShowAll => {
                let (names, values) =
                    self.settings.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).unzip();
                Running::of_texts(&["name", "setting"], vec![names, values], "SHOW")
            }
            Command::Fetch { name, most_rows, is_move } => {
                return self.fetch(portal, name, most_rows, is_move);
            }
            Command::Declare { name, sql } => {
                if self.portals.contains_key(&name) {
                    return Err(Error::invalid(format!("there is a cursor `{name}` already"))
                        .with_sqlstate("42P03")
                        .into());
                }
                if self.transaction == Transaction::None {
                    return Err(Error::invalid("a cursor lives in a transaction, and there is none")
                        .with_sqlstate("25P01")
                        .with_hint("BEGIN first")
                        .into());
                }
                let running = self.start(sql.clone(), bound.params, "FETCH").await?;
                let state = State::Running(Box::new(running));
                self.keep(name, Portal { state, formats: Vec::new(), sql })?;
                return self.done(portal, "DECLARE CURSOR");
            }
            command => {
                let tag = self.about_the_session(command)?;
                return self.done(portal, tag);
            }
        };
        portal.state = State::Running(Box::new(running));
        Ok(())
    }

    fn done(&mut self, portal: &mut Portal, tag: &'static str) -> Outcome<()> {
        portal.state = State::Done { columns: Vec::new(), tag };
        Ok(())
    }

    /// Has the engine begin a query.
    async fn start(&mut self, sql: String, params: Vec<ScalarValue>, tag: &'static str) -> Outcome<Running> {
        let request = self.request(sql, params);
        let engine = self.shared.engine.clone();
        let answer = self.undisturbed(async move { engine.run(request).await }).await??;
        self.settings.saw(&answer.vector);
        let stays =
            matches!(self.settings.get("transaction_isolation"), Ok("repeatable read" | "serializable"));
        if stays && self.transaction == Transaction::Open && self.seen.is_none() {
            self.seen = Some(answer.vector.clone());
        }
        Ok(Running::new(&answer.schema, answer.rows, tag))
    }

    fn request(&self, sql: String, params: Vec<ScalarValue>) -> Request {
        Request {
            sql,
            params,
            as_of: self.seen.clone().or_else(|| self.settings.as_of()),
            timeout: self.settings.statement_timeout(),
            visitor: Some(self.visitor()),
        }
    }

    fn visitor(&self) -> Visitor {
        Visitor {
            user: self.user.clone(),
            database: DATABASE.to_owned(),
            process: self.cancellable.process,
            address: self.shared.address,
            settings: self.settings.clone(),
        }
    }

    /// Sends up to `most` rows of a portal.
    async fn read(&mut self, portal: &mut Portal, most: u64) -> Outcome<()> {
        let mut sent = 0_u64;
        if let State::Running(running) = &mut portal.state {
            loop {
                while let Some((rows, at)) = &mut running.rows
                    && *at < rows.count()
                    && sent < most
                    && running.left > 0
                {
                    if !running.is_move {
                        rows.write(*at, &portal.formats, &mut self.replies.bytes)?;
                    }
                    *at += 1;
                    sent += 1;
                    running.left -= 1;
                    if self.replies.bytes.len() >= SEND_BYTES {
                        self.send().await?;
                    }
                }
                if running.left == 0 {
                    break;
                }
                if running.rows.as_ref().is_some_and(|(rows, at)| *at < rows.count()) {
                    self.replies.suspended();
                    return Ok(());
                }
                match self.undisturbed(running.stream.next()).await? {
                    Some(batch) => running.rows = Some((Rows::new(&batch.map_err(from_datafusion)?)?, 0)),
                    None => {
                        running.rows = None;
                        running.is_at_end = true;
                        break;
                    }
                }
            }
            let (tag, columns) = (running.tag, running.columns.clone());
            let done = State::Done { columns, tag };
            if let State::Running(running) = std::mem::replace(&mut portal.state, done) {
                self.give_back(*running);
            }
        }
        let State::Done { tag, .. } = &portal.state else { return Ok(()) };
        match *tag {
            "" => self.replies.empty(),
            "COPY" => {}
            "SELECT" | "FETCH" | "MOVE" => self.replies.complete(&format!("{tag} {sent}")),
            tag => self.replies.complete(tag),
        }
        Ok(())
    }

    /// Lends a cursor's answer to `portal`, for as many rows as are wanted.
    fn fetch(&mut self, portal: &mut Portal, name: String, most: Option<u64>, is_move: bool) -> Outcome<()> {
        let cursor = self.portals.get_mut(&name);
        let running = cursor.map(|cursor| std::mem::replace(&mut cursor.state, State::Lent));
        let Some(State::Running(mut running)) = running else {
            return Err(Error::invalid(format!("there is no cursor `{name}`")).with_sqlstate("34000").into());
        };
        running.tag = if is_move { "MOVE" } else { "FETCH" };
        running.is_move = is_move;
        running.left = if running.is_at_end { 0 } else { most.unwrap_or(u64::MAX) };
        running.cursor = Some(name);
        portal.state = State::Running(running);
        Ok(())
    }

    /// What was lent goes back to its cursor.
    fn give_back(&mut self, mut running: Running) {
        let cursor = running.cursor.take().and_then(|name| self.portals.get_mut(&name));
        if let Some(cursor) = cursor {
            cursor.state = State::Running(Box::new(running));
        }
    }

    /// All rows of a query, as lines.
    async fn copy(
        &mut self,
        portal: &mut Portal,
        sql: String,
        params: Vec<ScalarValue>,
        format: CopyFormat,
    ) -> Outcome<()> {
        let mut running = self.start(sql, params, "COPY").await?;
        let columns = running.columns.len();
        let mut copier = Copier::new(format);
        self.replies.copy_out(columns, copier.format_code());
        let mut sent = 0_u64;
        if copier.has_header() {
            self.replies.message(b'd', |bytes| copier.header(&running.columns, bytes));
        }
        while let Some(batch) = self.undisturbed(running.stream.next()).await? {
            let rows = Rows::new(&batch.map_err(from_datafusion)?)?;
            for row in 0..rows.count() {
                let mut written = Ok(());
                self.replies.message(b'd', |bytes| written = copier.line(&rows, columns, row, bytes));
                written?;
                sent += 1;
                if self.replies.bytes.len() >= SEND_BYTES {
                    self.send().await?;
                }
            }
        }
        if let Some(trailer) = copier.trailer() {
            self.replies.message(b'd', |bytes| bytes.extend_from_slice(trailer));
        }
        self.replies.copy_done();
        self.replies.complete(&format!("COPY {sent}"));
        portal.state = State::Done { columns: Vec::new(), tag: "COPY" };
        Ok(())
    }

    /// Awaits `work` unless the client goes away, a cancel request comes, or the process stops.
    async fn undisturbed<T>(&mut self, work: impl Future<Output = T>) -> Outcome<T> {
        self.cancellable.requests.mark_unchanged();
        tokio::select! {
            biased;
            done = work => Ok(done),
            error = self.frames.watch() => Err(error.into()),
            Ok(()) = self.cancellable.requests.changed() => Err(cancelled().into()),
            _ = self.stopped.wait_for(|stop| *stop) => Err(Failure::Over(io::ErrorKind::Interrupted.into())),
        }
    }

    /// Sends what waits.
    async fn send(&mut self) -> io::Result<()> {
        if self.replies.bytes.is_empty() {
            return Ok(());
        }
        let most = self.shared.engine.statement_timeout().max(LEAST_SEND_TIME);
        let (output, bytes) = (&mut self.output, &mut self.replies.bytes);
        let sending = async {
            while bytes.has_remaining() {
                output.write_buf(bytes).await?;
            }
            Ok::<(), io::Error>(())
        };
        tokio::select! {
            sent = timeout(most, sending) => sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?,
            _ = self.stopped.wait_for(|stop| *stop) => return Err(io::ErrorKind::Interrupted.into()),
        }
        // A wide row leaves a wide buffer behind.
        if self.replies.bytes.capacity() > 4 * SEND_BYTES {
            self.replies.bytes = BytesMut::new();
        }
        Ok(())
    }

    /// Tells the client why it is hung up on, if it can be told.
    pub(super) async fn hang_up(&mut self, failure: &Failure) {
        let error = match failure {
            Failure::Told(error) => Error::new(error.kind(), error.to_string()).with_sqlstate("57P01"),
            Failure::Over(error) => match error.kind() {
                io::ErrorKind::InvalidData => Error::invalid(error.to_string()).with_sqlstate("08P01"),
                io::ErrorKind::Interrupted => stopping(),
                _ => {
                    tracing::debug!(%error, "a PostgreSQL client has gone");
                    return;
                }
            },
        };
        self.replies.fatal(&error);
        let _ = timeout(LAST_WORD, self.output.write_all(&self.replies.bytes)).await;
    }
}

fn stopping() -> Error {
    Error::unavailable("the process stops").with_sqlstate("57P01")
}

fn cancelled() -> Error {
    Error::unavailable("the statement was cancelled, as its client asked").with_sqlstate("57014")
}
