//! What a task's Service Connect proxy says of itself, to its CloudWatch Logs stream: the end of a file that the proxy writes,
//! cuts when it is too long, and never waits for. Beside it stands how much has been delivered, for the next agent.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{ConnectLogs, ControlPlane};
use ferrogate_sandbox::{LogRecord, Stream};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Assembler, Batch, Run, cut, deliver};

/// The file is looked at so often: a proxy says little.
const PERIOD: Duration = Duration::from_secs(1);
/// What is read at once; a longer line is cut. Fewer lines than a batch may have events.
const READ_BYTES_MAX: u64 = 64 << 10;
const LINES_MAX: usize = 5000;

pub(crate) struct ProxyLog {
    pub(crate) control: Arc<dyn ControlPlane>,
    pub(crate) task_arn: String,
    pub(crate) logs: ConnectLogs,
    pub(crate) file: PathBuf,
}

impl ProxyLog {
    /// Until the task is over and everything is delivered.
    pub(crate) async fn run(self, mut runs: watch::Receiver<Run>) {
        let noted = self.file.with_extension("delivered");
        let mut at = fs::read_to_string(&noted).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut assembler = Assembler::new(self.logs.to.multiline_pattern.as_deref());
        loop {
            let last = runs.borrow_and_update().last;
            let records = match read(&self.file, &mut at, self.logs.to.max_buffer_bytes, last) {
                Ok(records) => records,
                Err(error) => {
                    tracing::error!(%error, task = self.task_arn, "what a Service Connect proxy said cannot be read");
                    return;
                }
            };
            let quiet = records.is_empty();
            let mut batch = Batch::default();
            for record in records {
                at = record.next_offset();
                assembler.take(record, &mut batch);
            }
            if quiet {
                assembler.flush(&mut batch);
            }
            if quiet && last && at > 0 {
                batch.push(cut(ended()));
            }
            if !batch.events.is_empty() {
                deliver(&*self.control, &self.task_arn, &self.logs.container, batch.events).await;
            }
            if let Some(Err(error)) = batch.offset.map(|offset| fs::write(&noted, offset.to_string())) {
                tracing::debug!(%error, task = self.task_arn, "what was delivered may be delivered again");
            }
            if quiet && last {
                return;
            }
            // Sooner when the task ends.
            if quiet && matches!(tokio::time::timeout(PERIOD, runs.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    }
}

/// It is killed with its task and cannot say so.
fn ended() -> ferrogate_nodeapi::LogLine {
    let now = Timestamp::now();
    let message = format!("{now}  INFO the task has ended, and its Service Connect proxy with it");
    ferrogate_nodeapi::LogLine { timestamp_ms: now.as_millisecond(), message }
}

/// Whole lines after `at`, which goes back when the file was cut; `last`: the rest as well. No file is an empty one. Of more
/// than `kept_max` bytes that wait, the first are dropped.
fn read(file: &Path, at: &mut u64, kept_max: u64, last: bool) -> io::Result<Vec<LogRecord>> {
    let file = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    if length < *at {
        *at = 0;
    }
    let over = (length - *at).saturating_sub(kept_max);
    // With the byte before what is kept, which says whether a line begins there.
    let mut from = *at + over.saturating_sub(1);
    let wanted = (length - from).min(READ_BYTES_MAX);
    let mut bytes = vec![0; wanted as usize];
    // What is cut meanwhile is not there.
    let got = file.read_at(&mut bytes, from)?;
    bytes.truncate(got);
    let mut records = Vec::new();
    if over > 0 {
        let begun = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        bytes.drain(..begun);
        from += begun as u64;
        let timestamp_ns = nanoseconds(Timestamp::now());
        records.push(LogRecord::Dropped { next_offset: from, timestamp_ns, bytes: from - *at });
    }
    records.extend(lines(&bytes, from, last || wanted == READ_BYTES_MAX));
    Ok(records)
}

/// `rest`: also a line that has no end, if it is the only one.
fn lines(bytes: &[u8], from: u64, rest: bool) -> Vec<LogRecord> {
    let mut next_offset = from;
    let mut records = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take(LINES_MAX) {
        let whole = line.ends_with(b"\n");
        let alone = rest && records.is_empty();
        if !whole && !alone {
            break;
        }
        next_offset += line.len() as u64;
        let bytes = line.trim_ascii_end().to_vec();
        let timestamp_ns = nanoseconds(time_of(&bytes).unwrap_or_else(Timestamp::now));
        records.push(LogRecord::Line {
            next_offset,
            timestamp_ns,
            stream: Stream::Stderr,
            partial: false,
            bytes,
        });
    }
    records
}

/// A line begins with when it was said, in brackets if it is an access log's (which as JSON has a field for it); what a panic
/// says does not.
fn time_of(line: &[u8]) -> Option<Timestamp> {
    if line.starts_with(b"{") {
        let fields: serde_json::Value = serde_json::from_slice(line).ok()?;
        return fields.get("start_time")?.as_str()?.parse().ok();
    }
    let first = line.split(|byte| *byte == b' ').next()?;
    let first = first.strip_prefix(b"[").and_then(|first| first.strip_suffix(b"]")).unwrap_or(first);
    str::from_utf8(first).ok()?.parse().ok()
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ALL: u64 = 1 << 20;

    fn said(records: &[LogRecord]) -> Vec<String> {
        let said = records.iter().map(|record| match record {
            LogRecord::Line { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            LogRecord::Dropped { bytes, .. } => format!("dropped {bytes}"),
        });
        said.collect()
    }

    #[test]
    fn whole_lines_from_where_it_stands_and_anew_when_the_file_was_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let mut at = 0;
        let mut next = |last: bool| {
            let records = read(&path, &mut at, ALL, last).unwrap();
            at = records.last().map_or(at, LogRecord::next_offset);
            said(&records)
        };
        assert_eq!(next(false), Vec::<String>::new());
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(next(false), ["one", "two"]);
        assert_eq!(next(false), Vec::<String>::new());
        file.write_all(b"ee\nfo").unwrap();
        assert_eq!(next(false), ["three"]);
        assert_eq!(next(true), ["fo"]);
        file.as_file().set_len(0).unwrap();
        file.as_file().write_all_at(b"five\n", 0).unwrap();
        assert_eq!(next(false), ["five"]);
        assert_eq!(read(Path::new("/nowhere/edge.log"), &mut 7, ALL, true).unwrap(), []);
    }

    #[test]
    fn of_too_much_the_first_is_dropped_and_a_line_without_end_is_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"one\ntwo\nthree\n").unwrap();
        for kept_max in [6, 7, 9] {
            let records = read(file.path(), &mut 0, kept_max, false).unwrap();
            assert_eq!(said(&records), ["dropped 8", "three"]);
            assert_eq!(records[1].next_offset(), 14);
        }
        assert_eq!(said(&read(file.path(), &mut 4, 6, false).unwrap()), ["dropped 4", "three"]);
        assert_eq!(said(&read(file.path(), &mut 0, 1, false).unwrap()), ["dropped 14"]);
        let long = vec![b'x'; READ_BYTES_MAX as usize + 9];
        file.as_file().write_all_at(&long, 14).unwrap();
        let records = read(file.path(), &mut 14, ALL, false).unwrap();
        assert_eq!(records[0].next_offset(), 14 + READ_BYTES_MAX);
    }

    #[test]
    fn a_line_says_when_it_was_said() {
        let at = time_of(b"2026-11-21T16:15:21.5Z  WARN edge: x").unwrap();
        assert_eq!(at.to_string(), "2026-11-21T16:15:21.5Z");
        assert_eq!(time_of(b"thread 'edge' panicked"), None);
    }
}
