//! What a group is asked, and what it tells.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use tokio::sync::oneshot;

/// What a member that joins is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Joined {
    pub(crate) error: i16,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: String,
    pub(crate) member: String,
    /// The leader of an unchanged generation must not assign anew.
    pub(crate) skip_assignment: bool,
    /// For the leader: id, instance, metadata.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

impl Joined {
    pub(crate) fn refused(code: Code, member: &str) -> Joined {
        Joined { error: code.code(), generation: -1, member: member.to_owned(), ..Joined::default() }
    }
}

/// What a member that syncs is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Synced {
    pub(crate) error: i16,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignment: Bytes,
}

impl Synced {
    pub(super) fn refused(code: Code) -> Synced {
        Synced { error: code.code(), ..Synced::default() }
    }
}

/// An answer, now or later.
#[derive(Debug)]
pub(crate) enum Reply<T> {
    Now(T),
    Later(oneshot::Receiver<T>),
}

/// A request to join.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: String,
    /// Names with metadata, the preferred first.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// Whether a new member is given an id first, and must come again with it.
    pub(crate) needs_id: bool,
}

impl Join {
    /// Bytes of what is kept of it.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.member.len() + self.client_id.len() + self.instance.as_ref().map_or(0, String::len);
        texts + self.protocols.iter().map(|(name, data)| name.len() + data.len()).sum::<usize>()
    }
}

/// Who sends a request, as which member of which generation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) member: &'a str,
    pub(crate) instance: Option<&'a str>,
    pub(crate) generation: i32,
}
