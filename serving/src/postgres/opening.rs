//! How a connection begins: encryption is refused, a cancel request is carried out, and who wants a session says who it is.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tarn_model::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Shared;
use super::connection::Connection;
use super::frame::{Frames, Opening, STARTUP_TIME};
use super::reply::{Replies, Transaction};
use super::settings::Settings;

/// The last word to a client that is hung up on.
pub(super) const LAST_WORD: Duration = Duration::from_secs(1);
/// The one database.
pub(super) const DATABASE: &str = "tarn";

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
            let error =
                Error::invalid(format!("the connection cannot begin: {error}")).with_sqlstate("08P01");
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
        Err(refused) => {
            let (mut opening, error) = *refused;
            return opening.last_word(&error).await;
        }
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

impl Connection {
    /// A session for a client that has said who it is.
    fn begin(
        shared: Arc<Shared>,
        frames: Frames<OwnedReadHalf>,
        output: OwnedWriteHalf,
        stopped: watch::Receiver<bool>,
        (minor, parameters): Parameters,
    ) -> std::result::Result<Connection, Box<(Opened, Error)>> {
        let named =
            |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let user = named("user").unwrap_or_default();
        let database = named("database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
        let error = if user.is_empty() {
            Some(Error::invalid("the client names no user").with_sqlstate("28000"))
        } else if database != DATABASE && database != user {
            Some(
                Error::invalid(format!("there is no database `{database}`"))
                    .with_sqlstate("3D000")
                    .with_hint(format!("the database is `{DATABASE}`")),
            )
        } else {
            None
        };
        if let Some(error) = error {
            return Err(Box::new((Opened { frames, output }, error)));
        }
        let mut settings = Settings::new(&user);
        let mut replies = Replies::default();
        let unknown: Vec<String> = parameters
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if minor > 0 || !unknown.is_empty() {
            replies.negotiate(&unknown);
        }
        replies.authenticated();
        let mut refused = Vec::new();
        let options = named("options").unwrap_or_default();
        let is_setting = |name: &str| {
            !matches!(name, "user" | "database" | "options" | "replication") && !name.starts_with("_pq_.")
        };
        let given = parameters
            .iter()
            .filter(|(name, _)| is_setting(name))
            .map(|(name, value)| (name.as_str(), value.as_str()));
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
}

/// `-c name=value` and `--name=value` of a client's `options`.
fn options_of(options: &str) -> impl Iterator<Item = (&str, &str)> {
    options.split_whitespace().filter_map(|word| {
        let word = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).unwrap_or(word);
        word.split_once('=')
    })
}
