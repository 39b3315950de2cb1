//! Files as they are, or unpacked: gzip and zstd are known by their first bytes, not by their names.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use crate::monitor::Monitor;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    /// One or more members.
    Gzip,
    /// One or more frames.
    Zstd,
}

impl Packing {
    /// By the first bytes of a file.
    pub(crate) fn of(first: &[u8]) -> Packing {
        match first {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            // A skippable frame before the first one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }

    /// Reads the first bytes of `file`.
    pub(crate) fn detect(file: &mut File) -> io::Result<Packing> {
        file.seek(SeekFrom::Start(0))?;
        let mut first = [0; 4];
        let mut filled = 0;
        while filled < first.len() {
            match file.read(&mut first[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Packing::of(&first[..filled]))
    }

    fn name(self) -> &'static str {
        match self {
            Packing::Plain => "file",
            Packing::Gzip => "gzip stream",
            Packing::Zstd => "zstd stream",
        }
    }

    /// Whether `error` says that the content is damaged (and not that the disk failed): then what it says.
    pub(crate) fn damage(self, error: &io::Error) -> Option<String> {
        if self == Packing::Plain || error.raw_os_error().is_some() {
            return None;
        }
        let name = self.name();
        Some(match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("unexpected end of {name}"),
            _ => format!("corrupt {name} ({error})"),
        })
    }
}

/// The content of `file` from `offset` (of what is unpacked) on. Bytes read from the file are counted by `monitor`.
pub(crate) fn open(
    mut file: File,
    packing: Packing,
    offset: u64,
    monitor: Option<&Arc<Monitor>>,
) -> io::Result<Box<dyn Read + Send>> {
    const PACKED_BLOCK_BYTES: usize = 256 << 10;
    if packing == Packing::Plain {
        file.seek(SeekFrom::Start(offset))?;
        return Ok(Box::new(Counted { file, monitor: monitor.cloned() }));
    }
    file.seek(SeekFrom::Start(0))?;
    let packed = BufReader::with_capacity(PACKED_BLOCK_BYTES, Counted { file, monitor: monitor.cloned() });
    let mut unpacked: Box<dyn Read + Send> = match packing {
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        _ => Box::new(MultiGzDecoder::new(packed)),
    };
    io::copy(&mut (&mut unpacked).take(offset), &mut io::sink())?;
    Ok(unpacked)
}

/// A file whose bytes are counted as they are read.
struct Counted {
    file: File,
    monitor: Option<Arc<Monitor>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if let Some(monitor) = &self.monitor {
            monitor.read(count as u64);
        }
        Ok(count)
    }
}
