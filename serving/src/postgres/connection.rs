//! One client and its session, from its first byte to its last.
//!
//! *States*: a message of the extended protocol that fails is answered once; what follows it is read past until `Sync`. In a
//! transaction that failed, only its end is accepted. A transaction is a promise about nothing but that: each statement sees
//! the newest rows, unless the isolation level asks for those that the transaction's first statement saw.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use bytes::{Buf, Bytes, BytesMut};
use datafusion::common::ScalarValue;
use futures::StreamExt;
use tarn_model::{Error, OffsetVector, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::command::{Command, CopyFormat};
use super::copy::Copier;
use super::decode;
use super::encode::{Rows, format_of};
use super::frame::{Frames, MAX_MESSAGE_BYTES, Message, Opening, STARTUP_TIME, Target};
use super::portal::{Portal, Running, State};
use super::reply::{Replies, Transaction};
use super::settings::Settings;
use super::types::{ColumnKind, columns, parameter_type};
use super::{Cancellable, Shared};
use crate::engine::{Outline, Request};
use crate::error::from_datafusion;
use crate::pg_catalog::Visitor;
use crate::statement::Statement;

/// Bytes that wait before they are sent.
const SEND_BYTES: usize = 64 << 10;
/// A client that takes none of them for longer than a statement may take, or than this, is hung up on.
const LEAST_SEND_TIME: Duration = Duration::from_secs(30);
/// The last word to a client that is hung up on.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Prepared statements of a connection, and the bytes of their texts.
const MAX_STATEMENTS: usize = 1_000;
const MAX_STATEMENT_BYTES: usize = 4 << 20;
/// Portals of a connection.
const MAX_PORTALS: usize = 128;
const SESSION_DATABASE: &str = "tarn";

/// A statement that was prepared.
#[derive(Debug, Clone)]
struct Prepared {
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
enum Failure {
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

/// Serves one client.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream, stopped: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
    let (input, output) = stream.into_split();
    let mut opening = Opened { frames: Frames::new(input), output };
    let mut stop = stopped.clone();
    let opened = tokio::select! {
        opened = timeout(STARTUP_TIME, opening.open(&shared)) => opened,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let parameters = match opened {
        Ok(Ok(Some(parameters))) => parameters,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a PostgreSQL connection did not begin");
            let error = Error::invalid(format!("the connection cannot begin: {error}")).with_sqlstate("08P01");
            return opening.last_word(&error).await;
        }
    };
    let Ok(_place) = shared.sessions.clone().try_acquire_owned() else {
        let error = Error::unavailable(format!("there are {} connections already", super::MAX_CONNECTIONS))
            .with_sqlstate("53300")
            .with_hint("close some, or try again in a moment");
        return opening.last_word(&error).await;
    };
    let Opened { frames, output } = opening;
    let mut connection = match Connection::begin(shared, frames, output, stopped, parameters) {
        Ok(connection) => connection,
        Err((mut opening, error)) => return opening.last_word(&error).await,
    };
    let ended = connection.run().await;
    if let Err(error) = ended {
        connection.hang_up(&error).await;
    }
}

/// A connection whose client has not said who it is.
struct Opened {
    frames: Frames<OwnedReadHalf>,
    output: OwnedWriteHalf,
}

type Parameters = (u16, Vec<(String, String)>);

impl Opened {
    /// What the client says of itself; `None` when it wants no session.
    async fn open(&mut self, shared: &Shared) -> io::Result<Option<Parameters>> {
        // Encryption is asked for twice at most, once of each kind.
        for _ in 0..3 {
            match self.frames.opening().await? {
                None => return Ok(None),
                Some(Opening::Encrypt) => self.output.write_all(b"N").await?,
                Some(Opening::Cancel { process, secret }) => {
                    shared.cancels.cancel(process, secret);
                    return Ok(None);
                }
                Some(Opening::Startup { minor, parameters }) => return Ok(Some((minor, parameters))),
            }
        }
        Ok(None)
    }

    async fn last_word(&mut self, error: &Error) {
        let mut replies = Replies::default();
        replies.fatal(error);
        let _ = timeout(LAST_WORD, self.output.write_all(&replies.bytes)).await;
    }
}

struct Connection {
    shared: Arc<Shared>,
    frames: Frames<OwnedReadHalf>,
    output: OwnedWriteHalf,
    replies: Replies,
    stopped: watch::Receiver<bool>,
    cancellable: Cancellable,
    user: String,
    settings: Settings,
    transaction: Transaction,
    /// What the transaction's first statement saw, where the isolation level wants that to stay.
    seen: Option<OffsetVector>,
    statements: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
    /// Messages are read past until `Sync`.
    skips: bool,
}

impl Connection {
    fn begin(
        shared: Arc<Shared>,
        frames: Frames<OwnedReadHalf>,
        output: OwnedWriteHalf,
        stopped: watch::Receiver<bool>,
        (minor, parameters): Parameters,
    ) -> std::result::Result<Connection, (Opened, Error)> {
        let named = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let user = named("user").unwrap_or_default();
        let database = named("database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
        let error = if user.is_empty() {
            Some(Error::invalid("the client names no user").with_sqlstate("28000"))
        } else if database != SESSION_DATABASE && database != user {
            Some(
                Error::invalid(format!("there is no database `{database}`"))
                    .with_sqlstate("3D000")
                    .with_hint(format!("the database is `{SESSION_DATABASE}`")),
            )
        } else {
            None
        };
        if let Some(error) = error {
            return Err((Opened { frames, output }, error));
        }
        let mut settings = Settings::new(&user);
        let mut replies = Replies::default();
        let unknown: Vec<String> =
            parameters.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with("_pq_.")).collect();
        if minor > 0 || !unknown.is_empty() {
            replies.negotiate(&unknown);
        }
        replies.authenticated();
        let mut refused = Vec::new();
        let options = named("options").unwrap_or_default();
        let is_setting = |name: &str| !matches!(name, "user" | "database" | "options" | "replication") && !name.starts_with("_pq_.");
        let given = parameters.iter().filter(|(name, _)| is_setting(name)).map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in given.chain(options_of(&options)) {
            // What a client only proposes does not keep it out: what holds is told.
            if let Err(error) = settings.set(name, Some(value)) {
                refused.push(error);
            }
        }
        for (name, value) in settings.told() {
            replies.setting(name, value);
        }
        let cancellable = shared.cancels.register(&shared);
        replies.cancel_key(cancellable.process, cancellable.secret);
        for error in refused {
            tracing::debug!(%error, "a setting of a client's start was not taken");
        }
        replies.ready(Transaction::None);
        Ok(Connection {
            shared,
            frames,
            output,
            replies,
            stopped,
            cancellable,
            user,
            settings,
            transaction: Transaction::None,
            seen: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skips: false,
        })
    }

    /// Answers until the client has enough.
    async fn run(&mut self) -> std::result::Result<(), Failure> {
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

    fn parse(&mut self, name: String, sql: String, oids: Vec<u32>) -> Outcome<()> {
        let command = Command::parse(&sql)?;
        self.check_transaction(&command)?;
        if let Command::Query { sql, .. } | Command::Copy { sql, .. } | Command::Declare { sql, .. } = &command {
            Statement::parse(sql, Some(&self.visitor()), &[])?;
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            let error = Error::invalid(format!("there is a prepared statement `{name}` already"));
            return Err(error.with_sqlstate("42P05").into());
        }
        let bytes: usize = self.statements.values().map(|statement| statement.sql.len()).sum();
        if self.statements.len() >= MAX_STATEMENTS || bytes + sql.len() > MAX_STATEMENT_BYTES {
            return Err(Error::invalid("the connection has too many prepared statements")
                .with_sqlstate("53400")
                .with_hint("close those that are not needed: DEALLOCATE")
                .into());
        }
        self.statements.insert(name, Prepared { sql, command, oids, outline: None });
        self.replies.parsed();
        Ok(())
    }

    fn prepared(&self, name: &str) -> Outcome<&Prepared> {
        let statement = self.statements.get(name);
        statement.ok_or_else(|| {
            Error::invalid(format!("there is no prepared statement `{name}`")).with_sqlstate("26000").into()
        })
    }

    /// What a prepared statement takes and gives; `None` where it is not the engine's.
    async fn outline(&mut self, name: &str) -> Outcome<Option<Arc<Outline>>> {
        let prepared = self.prepared(name)?;
        if let Some(outline) = &prepared.outline {
            return Ok(Some(Arc::clone(outline)));
        }
        let (Command::Query { sql, .. } | Command::Copy { sql, .. } | Command::Declare { sql, .. }) = &prepared.command
        else {
            return Ok(None);
        };
        let known = prepared.oids.iter().map(|oid| parameter_type(*oid)).collect();
        let request = self.request(sql.clone(), Vec::new());
        let outline = Arc::new(self.shared.engine.outline(request, known).await?);
        if let Some(prepared) = self.statements.get_mut(name) {
            prepared.outline = Some(Arc::clone(&outline));
        }
        Ok(Some(outline))
    }

    async fn bind(
        &mut self,
        portal: String,
        statement: &str,
        formats: &[i16],
        values: &[Option<Bytes>],
        results: Vec<i16>,
        sql: &mut String,
    ) -> Outcome<()> {
        let prepared = self.prepared(statement)?;
        sql.clone_from(&prepared.sql);
        let mut types: Vec<Option<DataType>> = prepared.oids.iter().map(|oid| parameter_type(*oid)).collect();
        let must_ask = values.len() > types.len() || types.iter().any(Option::is_none);
        if must_ask && let Some(outline) = self.outline(statement).await? {
            types = outline.params.iter().cloned().map(Some).collect();
        }
        let prepared = self.prepared(statement)?;
        if values.len() != types.len() {
            return Err(Error::invalid(format!(
                "the statement has {} parameters, and {} values were bound",
                types.len(),
                values.len()
            ))
            .with_sqlstate("08P01")
            .into());
        }
        let mut params = Vec::with_capacity(values.len());
        for (at, (value, data_type)) in values.iter().zip(&types).enumerate() {
            let oid = prepared.oids.get(at).copied().unwrap_or(0);
            let data_type = data_type.clone().unwrap_or(DataType::Utf8);
            params.push(decode::value(at + 1, oid, &data_type, format_of(formats, at), value.as_deref())?);
        }
        let bound = Bound { command: prepared.command.clone(), params, outline: prepared.outline.clone() };
        let replaces = self.portals.contains_key(&portal);
        if replaces && !portal.is_empty() {
            return Err(Error::invalid(format!("there is a portal `{portal}` already")).with_sqlstate("42P03").into());
        }
        self.keep(portal, Portal { state: State::Bound(bound), formats: results, sql: sql.clone() })?;
        self.replies.bound();
        Ok(())
    }

    fn keep(&mut self, name: String, portal: Portal) -> Outcome<()> {
        if self.portals.len() >= MAX_PORTALS && !self.portals.contains_key(&name) {
            return Err(Error::invalid(format!("the connection has {MAX_PORTALS} open portals already"))
                .with_sqlstate("53400")
                .with_hint("close cursors that are not read any more")
                .into());
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn describe_statement(&mut self, name: &str, sql: &mut String) -> Outcome<()> {
        let prepared = self.prepared(name)?;
        sql.clone_from(&prepared.sql);
        let (command, oids) = (prepared.command.clone(), prepared.oids.clone());
        let outline = self.outline(name).await?;
        let params = outline.as_ref().map(|outline| outline.params.as_slice()).unwrap_or_default();
        let told = |(at, data_type): (usize, &DataType)| match oids.get(at) {
            Some(oid) if *oid != 0 => *oid,
            _ => ColumnKind::of(data_type).oid(),
        };
        let types: Vec<u32> = params.iter().enumerate().map(told).collect();
        self.replies.parameters(&types);
        match (&command, outline) {
            (Command::Query { .. }, Some(outline)) => self.replies.columns(&columns(&outline.schema), |_| 0),
            (Command::Show(name), _) => {
                let running = Running::of_texts(&[name], vec![Vec::new()], "SHOW");
                self.replies.columns(&running.columns, |_| 0);
            }
            (Command::ShowAll, _) => {
                let running = Running::of_texts(&["name", "setting"], vec![Vec::new(), Vec::new()], "SHOW");
                self.replies.columns(&running.columns, |_| 0);
            }
            _ => self.replies.no_rows(),
        }
        Ok(())
    }

    async fn describe_portal(&mut self, name: &str, sql: &mut String) -> Outcome<()> {
        let mut portal = self.take_portal(name)?;
        sql.clone_from(&portal.sql);
        let is_a_copy = matches!(&portal.state, State::Bound(Bound { command: Command::Copy { .. }, .. }));
        let gives_rows = matches!(
            &portal.state,
            State::Bound(Bound { command: Command::Query { .. } | Command::Show(_) | Command::ShowAll | Command::Fetch { .. }, .. })
        );
        if gives_rows {
            self.enter(&mut portal).await?;
        }
        let formats = &portal.formats;
        match &portal.state {
            State::Running(running) if !is_a_copy => {
                self.replies.columns(&running.columns, |at| format_of(formats, at));
            }
            State::Done { columns, .. } if !columns.is_empty() => {
                self.replies.columns(columns, |at| format_of(formats, at));
            }
            _ => self.replies.no_rows(),
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    async fn execute(&mut self, name: &str, most: u64, sql: &mut String) -> Outcome<()> {
        let mut portal = self.take_portal(name)?;
        sql.clone_from(&portal.sql);
        if let State::Bound(bound) = &portal.state {
            self.check_transaction(&bound.command)?;
        }
        self.enter(&mut portal).await?;
        self.read(&mut portal, most).await?;
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// A portal that comes back only if nothing goes wrong with it.
    fn take_portal(&mut self, name: &str) -> Outcome<Portal> {
        self.portals.remove(name).ok_or_else(|| {
            Error::invalid(format!("there is no portal `{name}`")).with_sqlstate("34000").into()
        })
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
                    !told.iter().map(|column| column.kind).eq(running.columns.iter().map(|column| column.kind))
                });
                if changed {
                    return Err(Error::conflict("the statement's columns have changed since it was prepared")
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
                let (names, values) = self.settings.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).unzip();
                Running::of_texts(&["name", "setting"], vec![names, values], "SHOW")
            }
            Command::Fetch { name, most_rows, is_move } => {
                return self.fetch(portal, name, most_rows, is_move);
            }
            Command::Declare { name, sql } => {
                if self.portals.contains_key(&name) {
                    return Err(Error::invalid(format!("there is a cursor `{name}` already")).with_sqlstate("42P03").into());
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
        let stays = matches!(self.settings.get("transaction_isolation"), Ok("repeatable read" | "serializable"));
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
            database: SESSION_DATABASE.to_owned(),
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
    async fn copy(&mut self, portal: &mut Portal, sql: String, params: Vec<ScalarValue>, format: CopyFormat) -> Outcome<()> {
        let mut running = self.start(sql, params, "COPY").await?;
        let columns = running.columns.len();
        self.replies.copy_out(columns);
        let mut copier = Copier::new(format);
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
        self.replies.copy_done();
        self.replies.complete(&format!("COPY {sent}"));
        portal.state = State::Done { columns: Vec::new(), tag: "COPY" };
        Ok(())
    }

    /// Commands that change the session and nothing else; the word for what was done.
    fn about_the_session(&mut self, command: Command) -> Result<&'static str> {
        match command {
            Command::Begin => {
                if self.transaction == Transaction::None {
                    self.transaction = Transaction::Open;
                    let level = self.settings.get("default_transaction_isolation")?.to_owned();
                    self.settings.set("transaction_isolation", Some(&level))?;
                } else {
                    self.replies.notice("25001", "there is already a transaction in progress");
                }
                Ok("BEGIN")
            }
            Command::End { commit } => {
                let failed = self.transaction == Transaction::Failed;
                self.transaction = Transaction::None;
                self.seen = None;
                Ok(if commit && !failed { "COMMIT" } else { "ROLLBACK" })
            }
            Command::Savepoint(tag) => {
                if self.transaction == Transaction::Failed {
                    self.transaction = Transaction::Open;
                }
                Ok(tag)
            }
            Command::Set { name, value } => {
                if let Some((name, value)) = self.settings.set(&name, value.as_deref())? {
                    self.replies.setting(name, &value);
                }
                Ok(if value.is_some() { "SET" } else { "RESET" })
            }
            Command::ResetAll => {
                self.settings = Settings::new(&self.user);
                Ok("RESET")
            }
            Command::Discard => {
                self.settings = Settings::new(&self.user);
                self.statements.clear();
                self.portals.clear();
                Ok("DISCARD ALL")
            }
            Command::Deallocate(name) => {
                match name {
                    None => self.statements.clear(),
                    Some(name) if self.statements.remove(&name).is_none() => {
                        return Err(Error::invalid(format!("there is no prepared statement `{name}`")).with_sqlstate("26000"));
                    }
                    Some(_) => {}
                }
                Ok("DEALLOCATE")
            }
            Command::CloseCursor(name) => {
                match name {
                    None => self.portals.clear(),
                    Some(name) if self.portals.remove(&name).is_none() => {
                        return Err(Error::invalid(format!("there is no cursor `{name}`")).with_sqlstate("34000"));
                    }
                    Some(_) => {}
                }
                Ok("CLOSE CURSOR")
            }
            Command::Nothing(tag) => Ok(tag),
            _ => Ok(""),
        }
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
    async fn hang_up(&mut self, failure: &Failure) {
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

/// `-c name=value` and `--name=value` of a client's `options`.
fn options_of(options: &str) -> impl Iterator<Item = (&str, &str)> {
    options.split_whitespace().filter_map(|word| {
        let word = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).unwrap_or(word);
        word.split_once('=')
    })
}
