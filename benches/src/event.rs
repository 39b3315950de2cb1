//! Made-up events: nine fields, 215 bytes a line, the same for the same seed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Bytes of a line, its line break included.
pub(crate) const LINE_BYTES: usize = 215;

/// The columns of the events in a config.
pub(crate) const COLUMNS: &str = "id BIGINT NOT NULL, ts TIMESTAMP, user VARCHAR, session VARCHAR, event VARCHAR, page VARCHAR, \
                           country VARCHAR, ms DOUBLE, agent VARCHAR";

const EVENTS: [&str; 5] = ["view", "click", "cart", "order", "search"];
const COUNTRIES: [&str; 12] = ["DE", "FR", "US", "BR", "IN", "JP", "KE", "NZ", "PL", "SE", "TR", "VN"];
const AGENTS: [&str; 4] =
    ["Mozilla/5.0 (X11; Linux)", "Mozilla/5.0 (Windows NT 10.0)", "Mozilla/5.0 (Macintosh)", "curl/8.5.0"];

/// A source of events.
#[derive(Debug)]
pub(crate) struct Events {
    rng: StdRng,
    next: u64,
    line: String,
}

impl Events {
    /// Events from number 0 on.
    pub(crate) fn new(seed: u64) -> Events {
        Events::from_number(0, seed)
    }

    /// Events from number `first` on, which is also the millisecond of the year in which it happens.
    pub(crate) fn from_number(first: u64, seed: u64) -> Events {
        Events { rng: StdRng::seed_from_u64(seed), next: first, line: String::with_capacity(LINE_BYTES) }
    }

    /// Appends the next event to `out`.
    pub(crate) fn append_to(&mut self, out: &mut Vec<u8>) {
        let (id, rng, line) = (self.next, &mut self.rng, &mut self.line);
        self.next += 1;
        line.clear();
        let ms_of_day = id % 86_400_000;
        let written = write!(
            line,
            "{{\"id\":{id},\"ts\":\"2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z\",\"user\":\"u{:06}\",\"session\":\"{:016x}\",\
             \"event\":\"{}\",\"page\":\"/product/{}\",\"country\":\"{}\",\"ms\":{:.3},\"agent\":\"{} ",
            id / 86_400_000 % 28 + 1,
            ms_of_day / 3_600_000,
            ms_of_day / 60_000 % 60,
            ms_of_day / 1000 % 60,
            ms_of_day % 1000,
            rng.random_range(0..200_000),
            rng.random::<u64>(),
            EVENTS[rng.random_range(0..EVENTS.len())],
            rng.random_range(0..5_000),
            COUNTRIES[rng.random_range(0..COUNTRIES.len())],
            rng.random_range(0.0..2_000.0),
            AGENTS[rng.random_range(0..AGENTS.len())],
        );
        written.expect("memory takes everything");
        // The agent ends in a build number that fills the line.
        while line.len() < LINE_BYTES - 3 {
            line.push(char::from(b'0' + rng.random_range(0..4)));
        }
        line.push_str("\"}\n");
        out.extend_from_slice(line.as_bytes());
    }
}

/// Writes about `bytes` bytes of events to `path`.
pub(crate) fn write_file(path: &str, bytes: u64, seed: u64) -> Result<()> {
    let lines = bytes / LINE_BYTES as u64;
    let mut events = Events::new(seed);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut buffer = Vec::with_capacity(1 << 20);
    for _ in 0..lines {
        events.append_to(&mut buffer);
        if buffer.len() > 1_000_000 {
            out.write_all(&buffer)?;
            buffer.clear();
        }
    }
    out.write_all(&buffer)?;
    out.flush()?;
    println!("{lines} events of {LINE_BYTES} bytes: columns = \"{COLUMNS}\"");
    Ok(())
}
