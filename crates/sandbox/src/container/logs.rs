//! Reads a container's output from the segments the shim writes, and follows them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use ferrogate_shim::log::{self, Record};
use tokio::sync::watch;

use super::Link;
use super::client::Progress;
use crate::Error;

/// How much is read at once; a longer record is read whole.
const READ_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    Line {
        /// Acknowledge this, or follow from it, once the line is safe.
        next_offset: u64,
        timestamp_ns: i64,
        stream: Stream,
        /// The line was longer than the limit and goes on in the next record of this stream.
        partial: bool,
        /// Without the newline; whatever the container wrote, not necessarily UTF-8.
        bytes: Vec<u8>,
    },
    /// Output that was not kept, about this many bytes: the sink lagged, or this reader came after the ring had
    /// gone on (then without a time: 0).
    Dropped { next_offset: u64, timestamp_ns: i64, bytes: u64 },
}

impl LogRecord {
    pub fn next_offset(&self) -> u64 {
        match self {
            LogRecord::Line { next_offset, .. } | LogRecord::Dropped { next_offset, .. } => *next_offset,
        }
    }
}

/// A container's output in order.
pub struct LogFollower {
    reader: Arc<Reader>,
    offset: u64,
    ready: VecDeque<LogRecord>,
    link: Arc<Link>,
    container: String,
    progress: watch::Receiver<Progress>,
}

impl LogFollower {
    pub(crate) async fn new(
        link: Arc<Link>,
        container: &str,
        directory: PathBuf,
        offset: u64,
    ) -> Result<Self, Error> {
        Ok(LogFollower {
            reader: Arc::new(Reader { directory }),
            offset,
            ready: VecDeque::new(),
            progress: progress(&link, container).await?,
            container: container.to_owned(),
            link,
        })
    }

    /// The next record; waits for it while the container runs. `None` when the container has exited and all is
    /// read, also one whose shim is gone; `NotFound` when it is deleted before that (a restarted container's output is
    /// read by a new follower from the same offset). Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<LogRecord>, Error> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            // Looked at before reading, so output that comes in between is seen by the next round.
            let seen = *self.progress.borrow_and_update();
            let reader = Arc::clone(&self.reader);
            let from = self.offset;
            let batch = tokio::task::spawn_blocking(move || reader.read(from))
                .await
                .unwrap_or_else(|panic| Err(io::Error::other(panic)))
                .map_err(|source| Error::Io {
                    action: "read the log in",
                    path: self.reader.directory.clone(),
                    source,
                })?;
            if let Some(last) = batch.last() {
                self.offset = last.next_offset();
                self.ready.extend(batch);
                continue;
            }
            if seen.ended && self.offset >= seen.log_end {
                return Ok(None);
            }
            if seen.log_end > self.offset && seen.ended {
                // Nothing there although there should be: damaged or removed beneath us.
                return Err(Error::Io {
                    action: "read the log in",
                    path: self.reader.directory.clone(),
                    source: io::Error::other(format!(
                        "output ends at {} instead of {}",
                        self.offset, seen.log_end
                    )),
                });
            }
            // The connection broke, and says nothing of the container; or the container was deleted.
            if self.progress.changed().await.is_err() {
                self.progress = progress(&self.link, &self.container).await?;
            }
        }
    }
}

/// Told of as long as a connection stands.
async fn progress(link: &Link, container: &str) -> Result<watch::Receiver<Progress>, Error> {
    // Known to the shim, or this would wait for a container that will never be.
    let found = link.find(container).await?;
    let error = match link.client().await {
        Ok(client) => return Ok(client.progress(container)),
        Err(error) => error,
    };
    let remains = link.remains().await.ok_or(error)?;
    let log_end =
        remains.containers.iter().find(|known| known.id == container).map_or(found.log_end, |c| c.log_end);
    Ok(watch::channel(Progress { log_end, ended: true }).1)
}

pub(crate) struct Reader {
    pub(crate) directory: PathBuf,
}

impl Reader {
    /// Whole records from `offset` on, or from the first one still kept.
    pub(crate) fn read(&self, offset: u64) -> io::Result<Vec<LogRecord>> {
        let segments = log::segments(&self.directory)?;
        let Some(first) = segments.first() else { return Ok(Vec::new()) };
        if offset < first.start {
            // The ring went on without this reader.
            let gap =
                LogRecord::Dropped { next_offset: first.start, timestamp_ns: 0, bytes: first.start - offset };
            return Ok(vec![gap]);
        }
        let Some(segment) = segments.iter().find(|s| s.start <= offset && offset < s.end()) else {
            return Ok(Vec::new());
        };
        let file = match File::open(&segment.path) {
            Ok(file) => file,
            // Acknowledged by somebody else between the listing and now: the next round sees what is left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let available = (segment.end() - offset) as usize;
        let mut size = READ_BYTES.min(available);
        loop {
            let mut bytes = vec![0; size];
            let got = read_at(&file, &mut bytes, offset - segment.start)?;
            let records = parse(&bytes[..got], offset)?;
            if !records.is_empty() || size >= available {
                return Ok(records);
            }
            size = (log::HEADER_BYTES + log::LINE_BYTES_MAX).min(available);
        }
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn parse(mut bytes: &[u8], mut offset: u64) -> io::Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    while let Some((record, used)) = log::decode(bytes).map_err(io::Error::other)? {
        offset += used as u64;
        records.push(owned(&record, offset));
        bytes = &bytes[used..];
    }
    Ok(records)
}

fn owned(record: &Record<'_>, next_offset: u64) -> LogRecord {
    let stream = match record.stream {
        log::Stream::Stdout => Stream::Stdout,
        log::Stream::Stderr => Stream::Stderr,
        log::Stream::Dropped => {
            let bytes = record.bytes.first_chunk().map_or(0, |count| u64::from_le_bytes(*count));
            return LogRecord::Dropped { next_offset, timestamp_ns: record.timestamp_ns, bytes };
        }
    };
    LogRecord::Line {
        next_offset,
        timestamp_ns: record.timestamp_ns,
        stream,
        partial: record.partial,
        bytes: record.bytes.to_vec(),
    }
}
