//! `syslog` and `netcat`: messages over TCP and UDP.
//!
//! *Layout*: a task for each door and each connection cuts what arrives into messages and hands them to the [`Inlet`], on
//! whose thread they are shaped and appended. A task that cannot hand over does not read: a TCP sender waits, and datagrams
//! wait in the kernel's buffer until that is full. What the kernel then drops it counts, and that count is told.
//!
//! *Guarantee*: at most once before the commit. TCP has acknowledged what Tarn has read before it is committed, and UDP
//! acknowledges nothing; so a crash loses what was received and not committed yet. `netcat` with `acknowledge` tells
//! senders what is committed: one that sends again what was not answered has it at least once.
//!
//! *Failure*: while the log cannot commit, what came is held, and the doors stay open.
//!
//! *End*: a door that closes takes what had come until then, at most what its socket's buffer holds; a sender that goes on sends
//! into a closed connection.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tarn_model::config::{FileFormat, LineConfig, NetcatConfig, SyslogConfig};
use tarn_model::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::framer::{Framer, Framing, Messages};
use crate::inlet::{Arrival, Inlet};
use crate::joiner::Joining;
use crate::lines::Limits;
use crate::monitor::Monitor;
use crate::shaper::Shaper;
use crate::source::{Collector, Source};

#[cfg(test)]
mod tests;

/// One read of a connection.
const READ_BYTES: usize = 64 << 10;
/// Datagrams that are handed over at once.
const MOST_DATAGRAMS: usize = 256;
/// What a datagram takes of the kernel's buffer beside its bytes, at least.
const DATAGRAM_BYTES: usize = 512;
const BACKLOG: i32 = 1024;
/// A peer that is gone without a word is noticed after about this time.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Time between two looks at what the kernel had to drop.
const DROPS_EVERY: Duration = Duration::from_secs(1);

/// Listens at a TCP and a UDP address.
pub(crate) struct Listener {
    tcp: Option<String>,
    udp: Option<String>,
    framing: Framing,
    format: FileFormat,
    lines: LineConfig,
    acknowledge: bool,
    max_connections: usize,
    receive_buffer: usize,
    inlet: Inlet,
    shaper: Option<Shaper>,
    doors: Option<Doors>,
}

/// The doors that are open. They close when this is dropped: connections hand over what they have read.
struct Doors {
    _closing: watch::Sender<bool>,
}

/// What the tasks of a door share.
#[derive(Clone)]
struct Shared {
    source: Arc<str>,
    monitor: Arc<Monitor>,
    arrivals: mpsc::Sender<Arrival>,
    closing: watch::Receiver<bool>,
    framing: Framing,
    limits: Limits,
    acknowledge: bool,
}

impl Listener {
    pub(crate) fn of_syslog(config: SyslogConfig) -> Listener {
        Listener {
            tcp: config.tcp,
            udp: config.udp,
            framing: Framing::Syslog,
            format: FileFormat::Syslog,
            lines: LineConfig { raw_field: config.raw_field, ..LineConfig::default() },
            acknowledge: false,
            max_connections: usize::try_from(config.max_connections).unwrap_or(usize::MAX),
            receive_buffer: config.receive_buffer.as_usize(),
            inlet: Inlet::new(None),
            shaper: None,
            doors: None,
        }
    }

    pub(crate) fn of_netcat(config: NetcatConfig) -> Result<Listener> {
        let joining = joining_of(&config.lines)?;
        Ok(Listener {
            tcp: config.tcp,
            udp: config.udp,
            framing: Framing::Lines,
            format: config.format,
            lines: config.lines,
            acknowledge: config.acknowledge,
            max_connections: usize::try_from(config.max_connections).unwrap_or(usize::MAX),
            receive_buffer: config.receive_buffer.as_usize(),
            inlet: Inlet::new(joining),
            shaper: None,
            doors: None,
        })
    }

    fn open(&mut self, source: &Source) -> Result<()> {
        let Some(arrivals) = self.inlet.sender() else { return Ok(()) };
        let (closing, closed) = watch::channel(false);
        let shared = Shared {
            source: source.name.as_str().into(),
            monitor: source.monitor.clone(),
            arrivals,
            closing: closed,
            framing: self.framing,
            limits: Limits::of_topic(source.topic_info()?.max_record_bytes),
            acknowledge: self.acknowledge,
        };
        let _in_runtime = source.runtime.enter();
        let mut addresses = Vec::new();
        let tcp = self
            .tcp
            .as_deref()
            .map(|address| bind_tcp(address).map_err(|error| cannot_listen(address, error)));
        let tcp = tcp.transpose()?;
        let udp = self.udp.as_deref();
        let udp = udp.map(|address| {
            bind_udp(address, self.receive_buffer).map_err(|error| cannot_listen(address, error))
        });
        let udp = udp.transpose()?;
        if let Some((listener, address)) = tcp {
            info!(source = source.name, %address, "listening on tcp");
            addresses.push(format!("tcp {address}"));
            source.runtime.spawn(accept(listener, shared.clone(), self.max_connections));
        }
        if let Some((socket, address)) = udp {
            info!(source = source.name, %address, "listening on udp");
            addresses.push(format!("udp {address}"));
            source.runtime.spawn(datagrams(socket, shared));
        }
        source.monitor.listens(addresses);
        self.doors = Some(Doors { _closing: closing });
        Ok(())
    }
}

/// How lines are joined, and how long a record waits for its next line.
pub(crate) fn joining_of(lines: &LineConfig) -> Result<Option<(Joining, Duration)>> {
    let joining = lines.multiline.as_ref().map(|config| Ok((Joining::new(config)?, config.timeout.0)));
    joining.transpose()
}

impl Collector for Listener {
    fn collect(&mut self, source: &Source) -> Result<()> {
        let mut shaper = match self.shaper.take() {
            Some(shaper) => shaper,
            None => Shaper::of_lines(&source.config, self.format, &self.lines)?,
        };
        if self.doors.is_none() {
            // After a pause, too.
            self.inlet.reopen();
            if let Err(error) = self.open(source) {
                self.shaper = Some(shaper);
                return Err(error);
            }
        }
        let pumped = self.inlet.pump(source, &mut shaper, None);
        self.shaper = Some(shaper);
        pumped.map(drop)
    }

    fn finish(&mut self, source: &Source) -> Result<()> {
        self.doors = None;
        self.inlet.close();
        source.monitor.listens(Vec::new());
        match &mut self.shaper {
            Some(shaper) => self.inlet.pump(source, shaper, None).map(drop),
            // It was never open.
            None => Ok(()),
        }
    }

    fn held(&self) -> usize {
        self.inlet.held()
    }
}

fn cannot_listen(address: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there: it is tried again; or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a right of their own: choose another, such as 5514"
        }
        _ => "it is tried again",
    };
    Error::unavailable(format!("cannot listen on `{address}`")).with_hint(hint).with_source(error)
}

fn resolved(address: &str) -> io::Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn bind_tcp(address: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let address = resolved(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn bind_udp(address: &str, receive_buffer: usize) -> io::Result<(UdpSocket, SocketAddr)> {
    let address = resolved(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel gives at most what `net.core.rmem_max` allows.
    socket.set_recv_buffer_size(receive_buffer)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Whether the doors are to close; waits for it.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // Nothing is ever sent: the sender's end is the word.
    while closing.changed().await.is_ok() {}
}

async fn accept(listener: TcpListener, shared: Shared, max_connections: usize) {
    let room = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    let mut closing = shared.closing.clone();
    let mut connections = JoinSet::new();
    let mut stream = 0;
    loop {
        let permit = tokio::select! {
            () = closed(&mut closing) => break,
            permit = room.clone().acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = closed(&mut closing) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((connection, peer)) => {
                stream += 1;
                let (shared, stream) = (shared.clone(), stream);
                connections.spawn(async move {
                    let _permit = permit;
                    converse(connection, peer, stream, shared).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, say: it passes when connections end.
                warn!(source = %shared.source, %error, "a connection was not accepted");
                tarn_model::clock::pause(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Reads one connection to its end.
async fn converse(connection: TcpStream, address: SocketAddr, stream: u64, shared: Shared) {
    let _ = SockRef::from(&connection).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    let peer: Arc<str> = address.to_string().into();
    debug!(source = %shared.source, %peer, "connected");
    let (mut reading, writing) = connection.into_split();
    // A half that is dropped is shut: a sender that looks (rsyslog does) would take the connection for closed.
    let mut unused = Some(writing);
    let told = unused.take_if(|_| shared.acknowledge).map(|writing| {
        let (told, count) = watch::channel(0);
        tokio::spawn(answer(writing, count));
        Arc::new(told)
    });
    let Shared { arrivals, mut closing, framing, limits, .. } = shared;
    let mut framer = Framer::new(framing, limits);
    let mut block = vec![0; READ_BYTES];
    let mut rest: Option<Rest> = None;
    let mut ended = false;
    while !ended {
        let read = match &mut rest {
            None => tokio::select! {
                biased;
                () = closed(&mut closing) => {
                    rest = Some(Rest::of(&SockRef::from(reading.as_ref())));
                    continue;
                }
                read = reading.read(&mut block) => Some(read),
            },
            Some(rest) => rest
                .take(0, || Ok(((&*SockRef::from(reading.as_ref())).read(&mut block)?, ())))
                .map(|read| read.map(|(count, ())| count)),
        };
        let mut messages = Messages::default();
        match read {
            Some(Ok(0)) => {
                framer.finish(false, &mut messages);
                ended = true;
            }
            Some(Ok(count)) => framer.feed(&block[..count], &mut messages),
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Some(Err(_)) | None => {
                framer.finish(true, &mut messages);
                ended = true;
            }
        }
        if messages.is_empty() && !ended {
            continue;
        }
        let arrival = Arrival { stream, peer: Some(peer.clone()), messages, ended, told: told.clone() };
        if arrivals.send(arrival).await.is_err() {
            return;
        }
    }
}

/// Says `OK` once for each message that is in the log, until nobody counts any more.
async fn answer(mut writing: OwnedWriteHalf, mut count: watch::Receiver<u64>) {
    let mut said = 0;
    loop {
        let going_on = count.changed().await.is_ok();
        let due = *count.borrow_and_update();
        let text = "OK\n".repeat(usize::try_from(due - said).unwrap_or_default());
        said = due;
        if writing.write_all(text.as_bytes()).await.is_err() || !going_on {
            return;
        }
    }
}

/// Reads datagrams; in syslog each is a message, otherwise its lines are.
async fn datagrams(socket: UdpSocket, shared: Shared) {
    let Shared { source, monitor, arrivals, mut closing, framing, limits, .. } = shared;
    let mut block = vec![0; READ_BYTES];
    let mut drops = Drops::new(&socket);
    let mut rest: Option<Rest> = None;
    loop {
        if rest.is_none() {
            let readable = tokio::select! {
                biased;
                () = closed(&mut closing) => {
                    rest = Some(Rest::of(&SockRef::from(&socket)));
                    continue;
                }
                readable = tokio::time::timeout(DROPS_EVERY, socket.readable()) => readable,
            };
            if readable.is_err() {
                drops.look(&source, &monitor);
                continue;
            }
        }
        let mut by_peer: HashMap<SocketAddr, Messages> = HashMap::new();
        let mut order = Vec::new();
        let mut is_last = false;
        for _ in 0..MOST_DATAGRAMS {
            let mut receive = || socket.try_recv_from(&mut block);
            let received = match &mut rest {
                None => receive(),
                Some(rest) => match rest.take(DATAGRAM_BYTES, receive) {
                    Some(received) => received,
                    None => {
                        is_last = true;
                        break;
                    }
                },
            };
            match received {
                Ok((count, peer)) => {
                    let messages = by_peer.entry(peer).or_insert_with(|| {
                        order.push(peer);
                        Messages::default()
                    });
                    let datagram = &block[..count];
                    if framing == Framing::Syslog && count <= limits.whole {
                        messages.push(without_end(datagram));
                    } else {
                        let mut framer = Framer::new(Framing::Lines, limits);
                        framer.feed(datagram, messages);
                        framer.finish(false, messages);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(%source, %error, "a datagram was not received");
                    break;
                }
            }
        }
        drops.look_at_times(&source, &monitor);
        for peer in order {
            let messages = by_peer.remove(&peer).unwrap_or_default();
            let peer = Some(peer.to_string().into());
            let arrival = Arrival { stream: 0, peer, messages, ended: false, told: None };
            if arrivals.send(arrival).await.is_err() {
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

/// What had come through a door when it was closed: no more than its socket's buffer holds, for who never stops sending is not waited
/// for.
struct Rest {
    bytes: usize,
}

impl Rest {
    fn of(socket: &Socket) -> Rest {
        Rest { bytes: socket.recv_buffer_size().unwrap_or(READ_BYTES) }
    }

    /// What the next `read` gives, which tells its bytes, each time `overhead` more of the buffer; `None` when nothing is left.
    fn take<T>(
        &mut self,
        overhead: usize,
        read: impl FnOnce() -> io::Result<(usize, T)>,
    ) -> Option<io::Result<(usize, T)>> {
        if self.bytes == 0 {
            return None;
        }
        match read() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok((count, with)) => {
                self.bytes = self.bytes.saturating_sub(count + overhead);
                Some(Ok((count, with)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// A message without the line break or NUL that some senders add.
fn without_end(mut message: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r' | 0] = message {
        message = rest;
    }
    message
}

/// What the kernel had to drop because nobody read in time.
struct Drops {
    /// The socket as `/proc/net/udp` names it; none where there is no such file.
    inode: Option<String>,
    told: u64,
    looked: std::time::Instant,
}

impl Drops {
    fn new(socket: &UdpSocket) -> Drops {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok();
        let inode = link
            .and_then(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()));
        Drops { inode, told: 0, looked: std::time::Instant::now() }
    }

    fn look_at_times(&mut self, source: &str, monitor: &Monitor) {
        if self.looked.elapsed() >= DROPS_EVERY {
            self.look(source, monitor);
        }
    }

    fn look(&mut self, source: &str, monitor: &Monitor) {
        self.looked = std::time::Instant::now();
        let Some(count) = self.inode.as_deref().and_then(dropped) else { return };
        if count > self.told {
            let lost = count - self.told;
            self.told = count;
            warn!(source, lost, in_all = count, "the kernel had no room for datagrams");
            let error =
                Error::unavailable(format!("{count} datagrams were lost: the kernel had no room for them"))
                    .with_hint(
                        "raise `receive_buffer` and the system's `net.core.rmem_max`, or send over TCP",
                    );
            monitor.error(&error);
        }
    }
}

/// Column `drops` of a socket.
fn dropped(inode: &str) -> Option<u64> {
    ["/proc/net/udp", "/proc/net/udp6"].iter().find_map(|path| {
        let table = std::fs::read_to_string(path).ok()?;
        let row = table.lines().skip(1).find(|row| row.split_whitespace().nth(9) == Some(inode))?;
        row.split_whitespace().last()?.parse().ok()
    })
}
