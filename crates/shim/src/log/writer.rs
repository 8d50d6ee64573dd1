//! The shim's end of a container's log: splits output into lines, appends records, rotates, and keeps the bound.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{HEADER_BYTES, LINE_BYTES_MAX, Record, Segment, Stream, encode, segment_path, segments};
use crate::protocol::{LogLimits, WhenFull};

/// A log is kept in about this many segments, so dropping the oldest loses a small part of it.
const SEGMENTS_PER_LOG: u64 = 8;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// Room a line buffer may keep between lines.
const LINE_BUFFER_KEPT_BYTES: usize = 4 << 10;

pub struct LogWriter {
    directory: PathBuf,
    limits: LogLimits,
    /// Never empty once something was written; the last is open for append.
    segments: Vec<Segment>,
    file: Option<File>,
    acknowledged: u64,
    /// Begun lines of stdout and stderr.
    begun: [Vec<u8>; 2],
    /// Bytes refused since the last record on disk.
    dropped: u64,
    /// Records of the output being handled; kept to save allocations while small.
    batch: Vec<u8>,
}

impl LogWriter {
    /// Goes on behind what the directory holds.
    pub fn open(directory: PathBuf, limits: LogLimits) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let mut segments = segments(&directory)?;
        if let Some(last) = segments.last_mut() {
            cut_off_torn(last)?;
        }
        Ok(LogWriter {
            directory,
            limits,
            acknowledged: segments.first().map_or(0, |s| s.start),
            segments,
            file: None,
            begun: [Vec::new(), Vec::new()],
            dropped: 0,
            batch: Vec::new(),
        })
    }

    /// First offset still on disk.
    pub fn begin(&self) -> u64 {
        self.segments.first().map_or(0, |s| s.start)
    }

    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, Segment::end)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the container has to wait before more of its output is read.
    pub fn is_blocked(&self) -> bool {
        self.limits.when_full == WhenFull::Block && self.unacknowledged() >= self.limits.bytes_max
    }

    /// Takes what a container wrote to one of its streams.
    pub fn output(&mut self, stream: Stream, bytes: &[u8], now_ns: i64) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let begun = &mut self.begun[usize::from(stream == Stream::Stderr)];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut piece, whole) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            while begun.len() + piece.len() > LINE_BYTES_MAX {
                let (head, tail) = piece.split_at(LINE_BYTES_MAX - begun.len());
                begun.extend_from_slice(head);
                encode(&Record { timestamp_ns: now_ns, stream, partial: true, bytes: begun }, &mut batch);
                begun.clear();
                piece = tail;
            }
            if !whole {
                begun.extend_from_slice(piece);
            } else if begun.is_empty() {
                encode(&Record { timestamp_ns: now_ns, stream, partial: false, bytes: piece }, &mut batch);
            } else {
                begun.extend_from_slice(piece);
                encode(&Record { timestamp_ns: now_ns, stream, partial: false, bytes: begun }, &mut batch);
                begun.clear();
            }
        }
        if begun.is_empty() {
            begun.shrink_to(LINE_BUFFER_KEPT_BYTES);
        }
        let result = self.append(&batch, now_ns);
        batch.shrink_to(LINE_BUFFER_KEPT_BYTES);
        self.batch = batch;
        result
    }

    /// The container is gone: what was begun is all there will be.
    pub fn finish(&mut self, now_ns: i64) -> io::Result<()> {
        let mut batch = Vec::new();
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let begun = std::mem::take(&mut self.begun[index]);
            if !begun.is_empty() {
                encode(&Record { timestamp_ns: now_ns, stream, partial: false, bytes: &begun }, &mut batch);
            }
        }
        self.append(&batch, now_ns)?;
        if self.dropped > 0 {
            self.note_dropped(now_ns)?;
        }
        Ok(())
    }

    /// Drops whole segments below `offset`, except the one being written.
    pub fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset.min(self.end()));
        while self.segments.len() > 1 && self.segments[0].end() <= self.acknowledged {
            self.drop_oldest();
        }
    }

    fn unacknowledged(&self) -> u64 {
        self.end() - self.acknowledged.max(self.begin()).min(self.end())
    }

    fn segment_bytes(&self) -> u64 {
        (self.limits.bytes_max / SEGMENTS_PER_LOG).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    fn append(&mut self, batch: &[u8], now_ns: i64) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let full = self.unacknowledged() + batch.len() as u64 > self.limits.bytes_max;
        if full && self.limits.when_full == WhenFull::DropNewest {
            self.dropped += payload_bytes(batch);
            return Ok(());
        }
        // A full disk loses output like a full log does: counted, and noted as soon as there is room.
        let noted = if self.dropped > 0 { self.note_dropped(now_ns) } else { Ok(()) };
        if let Err(error) = noted.and_then(|()| self.write(batch)) {
            self.dropped += payload_bytes(batch);
            return Err(error);
        }
        if self.limits.when_full == WhenFull::DropOldest {
            while self.segments.len() > 1 && self.end() - self.begin() > self.limits.bytes_max {
                self.drop_oldest();
            }
        }
        Ok(())
    }

    fn note_dropped(&mut self, now_ns: i64) -> io::Result<()> {
        let mut note = Vec::with_capacity(HEADER_BYTES + 8);
        let count = self.dropped.to_le_bytes();
        encode(
            &Record { timestamp_ns: now_ns, stream: Stream::Dropped, partial: false, bytes: &count },
            &mut note,
        );
        self.write(&note)?;
        self.dropped = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let full = self.segments.last().is_none_or(|s| s.bytes >= self.segment_bytes());
        if self.file.is_none() || full {
            let end = self.end();
            let reuse = !full && self.segments.last().is_some();
            let path = if reuse {
                self.segments[self.segments.len() - 1].path.clone()
            } else {
                segment_path(&self.directory, end)
            };
            self.file = Some(File::options().create(true).truncate(false).write(true).open(&path)?);
            if !reuse {
                self.segments.push(Segment { start: end, bytes: 0, path });
            }
        }
        let (Some(file), Some(segment)) = (&self.file, self.segments.last_mut()) else {
            return Err(io::Error::other("no open log segment"));
        };
        if let Err(error) = file.write_all_at(bytes, segment.bytes) {
            // Full disk: a reader must not see half a record for ever.
            let _ = file.set_len(segment.bytes);
            return Err(error);
        }
        segment.bytes += bytes.len() as u64;
        Ok(())
    }

    fn drop_oldest(&mut self) {
        let oldest = self.segments.remove(0);
        // A file that cannot be removed costs space, not truth: offsets go on.
        let _ = std::fs::remove_file(&oldest.path);
    }
}

/// What follows the last whole record would make everything written behind it unreadable.
fn cut_off_torn(segment: &mut Segment) -> io::Result<()> {
    let bytes = std::fs::read(&segment.path)?;
    let mut whole = 0;
    while let Ok(Some((_, used))) = super::decode(&bytes[whole..]) {
        whole += used;
    }
    if whole < bytes.len() {
        File::options().write(true).open(&segment.path)?.set_len(whole as u64)?;
        segment.bytes = whole as u64;
    }
    Ok(())
}

/// Output bytes in a batch of records, newlines included.
fn payload_bytes(mut batch: &[u8]) -> u64 {
    let mut bytes = 0;
    while let Ok(Some((record, used))) = super::decode(batch) {
        bytes += record.bytes.len() as u64 + u64::from(!record.partial);
        batch = &batch[used..];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::decode;
    use super::*;
    use proptest::prelude::*;

    fn read_all(directory: &Path) -> Vec<(Stream, bool, Vec<u8>)> {
        let mut bytes = Vec::new();
        for segment in segments(directory).unwrap() {
            bytes.extend(std::fs::read(segment.path).unwrap());
        }
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some((record, used)) = decode(rest).unwrap() {
            records.push((record.stream, record.partial, record.bytes.to_vec()));
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
        records
    }

    fn limits(bytes_max: u64, when_full: WhenFull) -> LogLimits {
        LogLimits { bytes_max, when_full }
    }

    #[test]
    fn lines_are_split_and_a_begun_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
        log.output(Stream::Stdout, b"one\ntw", 1).unwrap();
        log.output(Stream::Stderr, b"err\n", 2).unwrap();
        log.output(Stream::Stdout, b"o\n\nend", 3).unwrap();
        log.finish(4).unwrap();
        let expected: Vec<(Stream, bool, Vec<u8>)> = vec![
            (Stream::Stdout, false, b"one".to_vec()),
            (Stream::Stderr, false, b"err".to_vec()),
            (Stream::Stdout, false, b"two".to_vec()),
            (Stream::Stdout, false, b"".to_vec()),
            (Stream::Stdout, false, b"end".to_vec()),
        ];
        assert_eq!(read_all(dir.path()), expected);
    }

    #[test]
    fn blocks_at_the_bound_until_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().into(), limits(1000, WhenFull::Block)).unwrap();
        log.output(Stream::Stdout, &[&[b'x'; 1000][..], b"\n"].concat(), 1).unwrap();
        assert!(log.is_blocked());
        log.acknowledge(log.end());
        assert!(!log.is_blocked());
    }

    #[test]
    fn drops_the_newest_and_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().into(), limits(100, WhenFull::DropNewest)).unwrap();
        log.output(Stream::Stdout, &[&[b'a'; 80][..], b"\n"].concat(), 1).unwrap();
        log.output(Stream::Stdout, &[&[b'b'; 80][..], b"\n"].concat(), 2).unwrap();
        log.output(Stream::Stdout, b"bb\n", 3).unwrap();
        log.acknowledge(log.end());
        log.output(Stream::Stdout, b"c\n", 4).unwrap();
        let records = read_all(dir.path());
        assert_eq!(records[1], (Stream::Dropped, false, 84u64.to_le_bytes().to_vec()));
        assert_eq!(records[2].2, b"c");
    }

    #[test]
    fn a_ring_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().into(), limits(300_000, WhenFull::DropOldest)).unwrap();
        for n in 0..20_000 {
            log.output(Stream::Stdout, format!("line {n}, with some more text behind it\n").as_bytes(), n)
                .unwrap();
        }
        let records = read_all(dir.path());
        assert_eq!(records.last().unwrap().2, b"line 19999, with some more text behind it");
        assert!(log.begin() > 0);
        assert!(log.end() - log.begin() <= 300_000 + SEGMENT_BYTES_MIN);
    }

    #[test]
    fn reopened_it_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
        log.output(Stream::Stdout, b"first\n", 1).unwrap();
        let end = log.end();
        drop(log);
        let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
        assert_eq!(log.end(), end);
        log.output(Stream::Stdout, b"second\n", 2).unwrap();
        assert_eq!(read_all(dir.path()).len(), 2);
    }

    /// Found by fuzzing: a machine lost in the middle of a write left half a record, and what came after was not
    /// to be read any more.
    #[test]
    fn a_torn_record_is_cut_off() {
        for torn in [
            &b"\x0c\xf1\x01\x00\x06\x00"[..],
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
            log.output(Stream::Stdout, b"whole\n", 1).unwrap();
            let mut bytes = std::fs::read(segment_path(dir.path(), 0)).unwrap();
            bytes.extend_from_slice(torn);
            std::fs::write(segment_path(dir.path(), 0), bytes).unwrap();
            let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
            log.output(Stream::Stdout, b"after\n", 2).unwrap();
            let lines: Vec<Vec<u8>> = read_all(dir.path()).into_iter().map(|record| record.2).collect();
            assert_eq!(lines, [b"whole".to_vec(), b"after".to_vec()]);
        }
    }

    proptest! {
        /// However output is cut into reads, joining the records gives it back.
        #[test]
        fn nothing_is_lost(pieces in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
            for piece in &pieces {
                log.output(Stream::Stdout, piece, 0).unwrap();
            }
            log.finish(0).unwrap();
            let mut written = pieces.concat();
            if written.last().is_some_and(|b| *b != b'\n') {
                written.push(b'\n');
            }
            let read: Vec<u8> = read_all(dir.path())
                .into_iter()
                .flat_map(|(_, partial, mut line)| { if !partial { line.push(b'\n') } line })
                .collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn long_lines_are_cut_at_the_limit(extra in 0usize..3000) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(dir.path().into(), LogLimits::default()).unwrap();
            let line = vec![b'y'; LINE_BYTES_MAX + extra];
            log.output(Stream::Stderr, &line, 0).unwrap();
            log.output(Stream::Stderr, b"\n", 0).unwrap();
            let records = read_all(dir.path());
            prop_assert!(records.iter().all(|r| r.2.len() <= LINE_BYTES_MAX));
            prop_assert_eq!(records.iter().map(|r| r.2.len()).sum::<usize>(), line.len());
            prop_assert!(!records.last().unwrap().1);
        }
    }
}
