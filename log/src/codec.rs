//! Compression of a batch's records, in the framings of Kafka's Java clients.
//!
//! gzip: one member written, several read. snappy: xerial blocks written (magic, two version words, then length-prefixed
//! blocks of 32 KiB), raw read too. lz4: a frame with independent blocks, without checksums or content size. zstd: a frame.
//!
//! *Invariants*: nothing unpacks to more than a limit that the caller gives; memory grows with what really unpacks, never
//! with what a frame claims.

use std::io::{self, Read, Write};

use tarn_model::config::Compression;

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 1;
/// Largest window that a zstd frame may ask for: 8 MiB, what every decoder must support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The number of a compression in a batch's attributes.
pub(crate) fn code(compression: Compression) -> i16 {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Snappy => 2,
        Compression::Lz4 => 3,
        Compression::Zstd => 4,
    }
}

/// The compression of this number.
pub(crate) fn from_code(code: i16) -> Option<Compression> {
    Some(match code {
        0 => Compression::None,
        1 => Compression::Gzip,
        2 => Compression::Snappy,
        3 => Compression::Lz4,
        4 => Compression::Zstd,
        _ => return None,
    })
}

/// Appends `records`, compressed, to `out`.
pub(crate) fn compress(compression: Compression, records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match compression {
        Compression::None => out.extend_from_slice(records),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(records)?;
            encoder.finish()?;
        }
        Compression::Snappy => compress_xerial(records, out)?,
        Compression::Lz4 => {
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            let block = if records.len() <= 64 << 10 { BlockSize::Max64KB } else { BlockSize::Max256KB };
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(block);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(records)?;
            encoder.finish()?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            encoder.write_all(records)?;
            encoder.finish()?;
        }
    }
    Ok(())
}

/// Unpacks `packed`, refusing more than `limit` bytes.
pub(crate) fn decompress(compression: Compression, packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None if packed.len() <= limit => Ok(packed.to_vec()),
        Compression::None => Err(too_large(limit)),
        Compression::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(packed), packed.len(), limit),
        Compression::Snappy => decompress_snappy(packed, limit),
        Compression::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(packed), packed.len(), limit),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            read_bounded(decoder, packed.len(), limit)
        }
    }
}

fn read_bounded(reader: impl Read, packed: usize, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.saturating_mul(4).min(limit).min(1 << 20));
    reader.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out) }
}

fn compress_xerial(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&1_u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        out.extend_from_slice(&u32::try_from(packed.len()).map_err(io::Error::other)?.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(())
}

fn decompress_snappy(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut decoder = snap::raw::Decoder::new();
    let mut out = Vec::new();
    let mut unpack = |block: &[u8]| {
        let from = out.len();
        let to = from + snap::raw::decompress_len(block)?;
        if to > limit {
            return Err(too_large(limit));
        }
        out.resize(to, 0);
        decoder.decompress(block, &mut out[from..])?;
        Ok(())
    };
    match packed.strip_prefix(&XERIAL_MAGIC) {
        None => unpack(packed)?,
        Some(framed) => {
            let mut rest = framed.get(8..).ok_or(io::ErrorKind::UnexpectedEof)?;
            while !rest.is_empty() {
                let (length, after) = rest.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
                let length = usize::try_from(u32::from_be_bytes(*length)).map_err(io::Error::other)?;
                let (block, after) = after.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
                unpack(block)?;
                rest = after;
            }
        }
    }
    Ok(out)
}

fn too_large(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a batch unpacks to more than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn sample() -> Vec<u8> {
        (0..40_000_u32).flat_map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect()
    }

    #[test]
    fn every_compression_gives_back_what_it_took() {
        for compression in ALL {
            for records in [sample(), Vec::new(), b"x".to_vec()] {
                let mut packed = Vec::new();
                compress(compression, &records, &mut packed).expect("compress");
                assert_eq!(
                    decompress(compression, &packed, records.len()).expect("decompress"),
                    records,
                    "{compression:?}"
                );
                assert_eq!(from_code(code(compression)), Some(compression));
            }
        }
    }

    #[test]
    fn unpacking_stops_at_the_limit() {
        let records = vec![7; 4 << 20];
        for compression in ALL {
            let mut packed = Vec::new();
            compress(compression, &records, &mut packed).expect("compress");
            let error = decompress(compression, &packed, records.len() - 1).expect_err("beyond the limit");
            assert!(error.to_string().contains("unpacks to more than"), "{compression:?}: {error}");
        }
    }

    #[test]
    fn a_torn_or_garbled_block_is_an_error() {
        for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut packed = Vec::new();
            compress(compression, &sample(), &mut packed).expect("compress");
            assert!(
                decompress(compression, &packed[..packed.len() / 2], 1 << 20).is_err(),
                "{compression:?}"
            );
            assert!(
                decompress(compression, b"\x93garbage, not a frame", 1 << 20).is_err(),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn raw_snappy_is_read() {
        let packed = snap::raw::Encoder::new().compress_vec(b"hello hello hello").expect("compress");
        assert_eq!(decompress(Compression::Snappy, &packed, 100).expect("decompress"), b"hello hello hello");
    }

    #[test]
    fn snappy_is_framed_as_kafkas_java_clients_read_it() {
        let mut packed = Vec::new();
        compress(Compression::Snappy, b"abc", &mut packed).expect("compress");
        let block = snap::raw::Encoder::new().compress_vec(b"abc").expect("compress");
        let mut expected = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0".to_vec();
        expected.push(u8::try_from(block.len()).expect("short"));
        expected.extend(block);
        assert_eq!(packed, expected);
    }
}
