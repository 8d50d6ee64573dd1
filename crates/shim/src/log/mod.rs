//! Container output on disk: segments of framed records.
//!
//! `<container>/log/<offset of the first byte, 20 digits>.log`. Offsets count bytes of records since the
//! container was created and never go back, so an acknowledged offset stays meaningful across rotation.
//! A record is written with one `write`, header and payload; a torn one at the very end of the last segment
//! (machine lost) is ignored by the reader and cut off by the writer.
//!
//! ```text
//! 0        2       3      4          8              16
//! | magic  | stream| flags| length   | timestamp ns | payload …
//! ```

use std::io;
use std::path::{Path, PathBuf};

pub mod writer;

pub const HEADER_BYTES: usize = 16;
/// The longest line kept whole: CloudWatch Logs' event limit. Longer ones go on in the next record.
pub const LINE_BYTES_MAX: usize = 256 << 10;
const MAGIC: u16 = 0xf10c;
const FLAG_PARTIAL: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
    /// No output: the payload is the number of bytes dropped here, little-endian u64.
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub timestamp_ns: i64,
    pub stream: Stream,
    /// The line goes on in the next record of this stream.
    pub partial: bool,
    /// Without the newline.
    pub bytes: &'a [u8],
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("log record damaged")]
pub struct Damaged;

pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    debug_assert!(record.bytes.len() <= LINE_BYTES_MAX);
    let stream = match record.stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
        Stream::Dropped => 3,
    };
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.push(stream);
    out.push(if record.partial { FLAG_PARTIAL } else { 0 });
    out.extend_from_slice(&(record.bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(&record.timestamp_ns.to_le_bytes());
    out.extend_from_slice(record.bytes);
}

/// The first whole record with its length on disk; `None` when more bytes are needed.
pub fn decode(input: &[u8]) -> Result<Option<(Record<'_>, usize)>, Damaged> {
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [m0, m1, stream, flags, l0, l1, l2, l3, timestamp @ ..] = *header;
    let stream = match stream {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::Dropped,
        _ => return Err(Damaged),
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if u16::from_le_bytes([m0, m1]) != MAGIC || length > LINE_BYTES_MAX || flags & !FLAG_PARTIAL != 0 {
        return Err(Damaged);
    }
    let Some(bytes) = input.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
    let record = Record {
        timestamp_ns: i64::from_le_bytes(timestamp),
        stream,
        partial: flags & FLAG_PARTIAL != 0,
        bytes,
    };
    Ok(Some((record, HEADER_BYTES + length)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of its first byte.
    pub start: u64,
    pub bytes: u64,
    pub path: PathBuf,
}

impl Segment {
    pub fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

pub fn segment_path(directory: &Path, start: u64) -> PathBuf {
    directory.join(format!("{start:020}.log"))
}

/// The segments of a log in order; none when the directory is absent.
pub fn segments(directory: &Path) -> io::Result<Vec<Segment>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(start) = name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => found.push(Segment { start, bytes: metadata.len(), path: entry.path() }),
            // Dropped between the listing and the look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|segment| segment.start);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_round_trip(timestamp_ns: i64, partial: bool, which in 0..3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let stream = [Stream::Stdout, Stream::Stderr, Stream::Dropped][which as usize];
            let record = Record { timestamp_ns, stream, partial, bytes: &bytes };
            let mut out = Vec::new();
            encode(&record, &mut out);
            prop_assert_eq!(decode(&out), Ok(Some((record, out.len()))));
            for cut in 0..out.len() {
                prop_assert_eq!(decode(&out[..cut]), Ok(None));
            }
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
