//! From a file to appends: records, and in the last append the word that the file is done.

use std::io;
use std::sync::Arc;

use tarn_log::TopicInfo;
use tarn_model::config::{CsvHeader, FileFormat, SpooldirConfig};
use tarn_model::{Error, Result};
use tracing::{info, warn};

use super::{Position, Progress, SpoolFile, at_path};
use crate::appender::Appender;
use crate::joiner::{Joiner, Joining};
use crate::lines::{Limits, LineCutter, Oversize};
use crate::monitor::Monitor;
use crate::rows::{Row, RowCutter, Shape};
use crate::shaper::{Found, Place, Shaper};
use crate::source::Source;
use crate::unpack::{self, Packing};

mod columns;

/// Reads `spool` from `resumed` (or its start) on. `None` when the source is to stop before the file's end.
pub(super) fn read(
    source: &Source,
    config: &SpooldirConfig,
    spool: &mut SpoolFile,
    shaper: &mut Shaper,
    resumed: Option<Position>,
) -> Result<Option<Position>> {
    let begun = resumed.is_some();
    let position = resumed.unwrap_or_else(|| Position {
        name: spool.name.clone(),
        state: Progress::Reading,
        records: 0,
        offset: 0,
        lines: 0,
        error: None,
    });
    if position.lines > 0 {
        info!(source = source.name, file = spool.name, line = position.lines, "going on where it stopped");
    }
    let packing =
        Packing::detect(&mut spool.file).map_err(|error| at_path("cannot read", &spool.path, error))?;
    let topic = source.topic_info()?;
    let limits = Limits::of_topic(topic.max_record_bytes);
    shaper.begin(source, topic.clone())?;
    let mut writer = Writer {
        source,
        spool,
        shaper,
        seed: seed_of(spool),
        appender: Appender::new(source),
        topic,
        submitted: begun.then(|| position.clone()),
        position,
        packing,
        unit: if config.format.is_columnar() { "row" } else { "line" },
        timestamp_ms: source.clock.now_ms(),
    };
    let end = match config.format {
        format if format.is_columnar() => writer.columns(format)?,
        FileFormat::Csv => writer.rows(config, limits)?,
        _ => match &config.lines.multiline {
            Some(multiline) => writer.joined_lines(limits, Joining::new(multiline)?)?,
            None => writer.lines(limits)?,
        },
    };
    match end {
        End::Stopped => Ok(None),
        end => writer.end(end),
    }
}

/// How the reading of a file ended.
enum End {
    /// At its end.
    Whole,
    /// At damage: what it is, and what was read behind the last record.
    Damaged(String, Vec<u8>),
    /// Somebody wrote to it.
    Changed,
    /// The source is to stop.
    Stopped,
}

/// Turns records of one file into appends.
struct Writer<'a> {
    source: &'a Source,
    spool: &'a SpoolFile,
    shaper: &'a mut Shaper,
    /// The file's identity, as a number.
    seed: u128,
    appender: Appender<'a>,
    topic: Arc<TopicInfo>,
    position: Position,
    /// The position of the last append.
    submitted: Option<Position>,
    packing: Packing,
    /// What the position counts.
    unit: &'static str,
    timestamp_ms: i64,
}

impl Writer<'_> {
    fn lines(&mut self, limits: Limits) -> Result<End> {
        let reader = match self.open(self.position.offset) {
            Ok(reader) => reader,
            Err(error) => return self.end_of(error, &[]),
        };
        let mut cutter = LineCutter::new(reader, self.position.offset, self.position.lines, limits);
        loop {
            let line = match cutter.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    let remainder = cutter.remainder().to_vec();
                    (self.position.offset, self.position.lines) = (cutter.offset(), cutter.lines());
                    return self.end_of(error, &remainder);
                }
            };
            self.push(line.bytes, None, line.number, line.oversize, None)?;
            if self.appender.is_full() {
                (self.position.offset, self.position.lines) = (cutter.offset(), cutter.lines());
                if let Some(end) = self.submit()? {
                    return Ok(end);
                }
            }
        }
        (self.position.offset, self.position.lines) = (cutter.offset(), cutter.lines());
        Ok(End::Whole)
    }

    /// The position stays before a record whose lines are still being joined.
    fn joined_lines(&mut self, limits: Limits, joining: Joining) -> Result<End> {
        let reader = match self.open(self.position.offset) {
            Ok(reader) => reader,
            Err(error) => return self.end_of(error, &[]),
        };
        let mut cutter = LineCutter::new(reader, self.position.offset, self.position.lines, limits);
        let mut joiner = Joiner::new(joining);
        let (mut before, mut first) = ((cutter.offset(), cutter.lines()), 0);
        loop {
            let after = (cutter.offset(), cutter.lines());
            let (line, error) = match cutter.next() {
                Ok(line) => (line, None),
                Err(error) => (None, Some(error)),
            };
            let ends = line.is_none_or(|line| line.oversize.is_some() || joiner.ends_before(line.bytes));
            if ends && joiner.is_pending() {
                self.push(joiner.pending(), None, first, None, None)?;
                joiner.clear();
            }
            let Some(line) = line else {
                (self.position.offset, self.position.lines) = after;
                return match error {
                    Some(error) => {
                        let remainder = cutter.remainder().to_vec();
                        self.end_of(error, &remainder)
                    }
                    None => Ok(End::Whole),
                };
            };
            if line.oversize.is_some() {
                self.push(line.bytes, None, line.number, line.oversize, None)?;
            } else {
                if !joiner.is_pending() {
                    (before, first) = (after, line.number);
                }
                joiner.add(line.bytes);
            }
            if self.appender.is_full() {
                (self.position.offset, self.position.lines) =
                    if joiner.is_pending() { before } else { (cutter.offset(), cutter.lines()) };
                if let Some(end) = self.submit()? {
                    return Ok(end);
                }
            }
        }
    }

    fn rows(&mut self, config: &SpooldirConfig, limits: Limits) -> Result<End> {
        let delimiter = config.csv.delimiter.as_bytes()[0];
        let shape = match self.shape(config, delimiter, limits) {
            Ok(Some(shape)) => shape,
            Ok(None) => return Ok(End::Whole),
            Err(error) => return self.end_of(error, &[]),
        };
        let (shape, first_offset, first_lines) = shape;
        if self.position.offset == 0 {
            (self.position.offset, self.position.lines) = (first_offset, first_lines);
        }
        if let Some(key) = self.source.config.key.as_deref().filter(|_| !shape.has_key()) {
            warn!(
                source = self.source.name,
                file = self.spool.name,
                key,
                "the header lacks the key: no record has one"
            );
        }
        let reader = match self.open(self.position.offset) {
            Ok(reader) => reader,
            Err(error) => return self.end_of(error, &[]),
        };
        let mut cutter = RowCutter::new(reader, self.position.offset, self.position.lines, delimiter, limits);
        let (mut value, names) = (Vec::new(), shape.names());
        loop {
            let row = match cutter.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => {
                    let remainder = cutter.remainder().to_vec();
                    (self.position.offset, self.position.lines) = (cutter.offset(), cutter.lines());
                    return self.end_of(error, &remainder);
                }
            };
            if row.oversize.is_some() {
                self.push(row.raw, None, row.line, row.oversize, None)?;
            } else {
                match shape.encode(&row, &mut value) {
                    Ok(key) => self.push(&value, key, row.line, None, None)?,
                    Err(reason) => self.push_misfit(&row, &names, &reason)?,
                }
            }
            if self.appender.is_full() {
                (self.position.offset, self.position.lines) = (cutter.offset(), cutter.lines());
                if let Some(end) = self.submit()? {
                    return Ok(end);
                }
            }
        }
        (self.position.offset, self.position.lines) = (cutter.offset(), cutter.lines());
        Ok(End::Whole)
    }

    /// The shape of the file's rows, and where the first one begins; `None` for a file without any.
    fn shape(
        &self,
        config: &SpooldirConfig,
        delimiter: u8,
        limits: Limits,
    ) -> io::Result<Option<(Shape, u64, u64)>> {
        let key = self.source.config.key.as_deref();
        if matches!(config.csv.header, CsvHeader::Names(_)) {
            return Ok(Some((Shape::new(&config.csv, None, key).0, 0, 0)));
        }
        let mut cutter = RowCutter::new(self.open_with(0, None)?, 0, 0, delimiter, limits);
        let Some(first) = cutter.next()? else { return Ok(None) };
        let (shape, is_data) = Shape::new(&config.csv, Some(&first), key);
        Ok(Some(if is_data { (shape, 0, 0) } else { (shape, cutter.offset(), cutter.lines()) }))
    }

    fn open(&self, offset: u64) -> io::Result<Box<dyn io::Read + Send>> {
        self.open_with(offset, Some(&self.source.monitor))
    }

    fn open_with(&self, offset: u64, monitor: Option<&Arc<Monitor>>) -> io::Result<Box<dyn io::Read + Send>> {
        unpack::open(self.spool.file.try_clone()?, self.packing, offset, monitor)
    }

    fn push(
        &mut self,
        value: &[u8],
        key: Option<&str>,
        line: u64,
        oversize: Option<Oversize>,
        error: Option<&str>,
    ) -> Result<()> {
        let place = Place::of_file(&self.spool.name, Some(line), (self.seed, line));
        let found = Found { value, key, oversize, error };
        self.position.records += self.shaper.push(&mut self.appender, self.timestamp_ms, &place, &found)?;
        Ok(())
    }

    /// A row that cannot be an object, with the names that its cells would have.
    fn push_misfit(&mut self, row: &Row<'_>, names: &str, reason: &str) -> Result<()> {
        let fits = row.raw.len() + names.len() < self.topic.max_record_bytes;
        let place = Place::of_file(&self.spool.name, Some(row.line), (self.seed, row.line));
        let place = Place { csv_names: Some(names).filter(|_| fits), ..place };
        let found = Found { error: Some(reason), ..Found::value(row.raw) };
        self.position.records += self.shaper.push(&mut self.appender, self.timestamp_ms, &place, &found)?;
        Ok(())
    }

    /// Submits what there is with the position; `Some` when reading must end here.
    fn submit(&mut self) -> Result<Option<End>> {
        if self.source.stopping() {
            return Ok(Some(End::Stopped));
        }
        if !self.spool.is_unchanged()? {
            return Ok(Some(End::Changed));
        }
        self.appender.position(&self.spool.identity, Some(to_json(&self.position)?));
        self.appender.submit()?;
        self.submitted = Some(self.position.clone());
        self.timestamp_ms = self.source.clock.now_ms();
        Ok(None)
    }

    /// What an error of the reader means: damage ends the file, anything else is tried again.
    fn end_of(&self, error: io::Error, remainder: &[u8]) -> Result<End> {
        match self.packing.damage(&error) {
            Some(damage) => Ok(End::Damaged(damage, remainder.to_vec())),
            None => Err(at_path("cannot read", &self.spool.path, error)),
        }
    }

    /// Commits the last records with the final position. `None` when the file changed before anything was committed:
    /// it was still being written, and is read later.
    fn end(mut self, end: End) -> Result<Option<Position>> {
        let end = if self.spool.is_unchanged()? { end } else { End::Changed };
        let (what, remainder) = match end {
            End::Changed => {
                self.appender.discard();
                let Some(submitted) = self.submitted.take() else {
                    info!(
                        source = self.source.name,
                        file = self.spool.name,
                        "the file is still being written: it waits"
                    );
                    return Ok(None);
                };
                self.position = Position { state: Progress::Failed, ..submitted };
                (Some(CHANGED.to_owned()), Vec::new())
            }
            End::Damaged(damage, remainder) => (Some(damage), remainder),
            End::Whole | End::Stopped => (None, Vec::new()),
        };
        if self.position.state == Progress::Reading {
            self.position.state = Progress::Done;
        }
        if let Some(what) = what {
            let error = format!("{}: {what} after {} {}", self.spool.name, self.unit, self.position.lines);
            let head = Limits::of_topic(self.topic.max_record_bytes).head.min(remainder.len());
            self.push(&remainder[..head], None, self.position.lines + 1, None, Some(&error))?;
            warn!(source = self.source.name, error, "the file could not be read to its end");
            self.position.error = Some(error);
        }
        self.appender.position(&self.spool.identity, Some(to_json(&self.position)?));
        self.appender.finish()?;
        info!(
            source = self.source.name,
            file = self.spool.name,
            records = self.position.records,
            "file is in the log"
        );
        Ok(Some(self.position))
    }
}

const CHANGED: &str = "the file changed while it was read";

/// Ends a file that was begun and has changed since: a record says so.
pub(super) fn give_up(
    source: &Source,
    spool: &SpoolFile,
    shaper: &mut Shaper,
    begun: Position,
) -> Result<Position> {
    let topic = source.topic_info()?;
    shaper.begin(source, topic.clone())?;
    let writer = Writer {
        source,
        spool,
        shaper,
        seed: seed_of(spool),
        appender: Appender::new(source),
        topic,
        submitted: Some(begun.clone()),
        position: begun.clone(),
        packing: Packing::Plain,
        unit: "line",
        timestamp_ms: source.clock.now_ms(),
    };
    Ok(writer.end(End::Changed)?.unwrap_or(begun))
}

fn seed_of(spool: &SpoolFile) -> u128 {
    u128::from_str_radix(&spool.identity, 16).unwrap_or_default()
}

pub(super) fn to_json(position: &Position) -> Result<serde_json::Value> {
    serde_json::to_value(position)
        .map_err(|error| Error::internal("a position is no JSON").with_source(error))
}
