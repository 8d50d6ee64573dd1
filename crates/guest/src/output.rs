//! Containers' output on its way to the host: read from the guest's log, dropped there once the host has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferrogate_shim::log::{self, Stream};
use ferrogate_shim::machine::wire::{
    DATA_BYTES_MAX, GUEST_TASK_DIR, OUTPUT_WINDOW_BYTES, Output, encode_output,
};
use ferrogate_shim::protocol::{CONTAINERS_DIR, LOG_DIR};

#[derive(Default)]
pub(crate) struct Outputs(BTreeMap<String, Progress>);

#[derive(Clone, Copy, Default)]
struct Progress {
    /// What the guest's log holds.
    end: u64,
    sent: u64,
    acknowledged: u64,
}

impl Outputs {
    /// The container's log goes so far.
    pub(crate) fn grown(&mut self, container: &str, end: u64) {
        let progress = self.0.entry(container.to_owned()).or_default();
        progress.end = progress.end.max(end);
    }

    pub(crate) fn acknowledged(&mut self, container: &str, offset: u64) {
        if let Some(progress) = self.0.get_mut(container) {
            progress.acknowledged = progress.acknowledged.max(offset.min(progress.sent));
        }
    }

    pub(crate) fn forget(&mut self, container: &str) {
        self.0.remove(container);
    }

    /// Sends what the host has room for.
    pub(crate) fn send(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        for (container, progress) in &mut self.0 {
            while progress.sent < progress.end && progress.sent - progress.acknowledged < OUTPUT_WINDOW_BYTES
            {
                let before = progress.sent;
                send_some(container, progress, out)
                    .map_err(|error| format!("the log of container {container:?}: {error}"))?;
                if progress.sent == before {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Records of one segment.
fn send_some(container: &str, progress: &mut Progress, out: &mut Vec<u8>) -> std::io::Result<()> {
    let directory: PathBuf = Path::new(GUEST_TASK_DIR).join(CONTAINERS_DIR).join(container).join(LOG_DIR);
    let segments = log::segments(&directory)?;
    let Some(segment) = segments.iter().find(|s| s.start <= progress.sent && progress.sent < s.end()) else {
        return Ok(());
    };
    let file = match File::open(&segment.path) {
        // Its container was deleted since.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let room = log::HEADER_BYTES + log::LINE_BYTES_MAX;
    // No further than the host may know of: it may not have heard yet that the container was started again.
    let mut bytes = vec![0; room.min((segment.end().min(progress.end) - progress.sent) as usize)];
    file.read_exact_at(&mut bytes, progress.sent - segment.start)?;
    progress.sent = send_records(container, progress.sent, &bytes, out)?;
    Ok(())
}

/// The whole records of `rest`, which begins at this offset; where they end.
fn send_records(container: &str, begin: u64, mut rest: &[u8], out: &mut Vec<u8>) -> std::io::Result<u64> {
    let mut sent = begin;
    let mut batch: Option<(Stream, Vec<u8>)> = None;
    while let Some((record, used)) = log::decode(rest).map_err(std::io::Error::other)? {
        let fits = |batch: &(Stream, Vec<u8>)| {
            batch.0 == record.stream && batch.1.len() + record.bytes.len() < DATA_BYTES_MAX
        };
        if batch.as_ref().is_some_and(|batch| !fits(batch)) {
            flush(container, sent, batch.take(), out);
        }
        // Only the guest's full disk has it drop anything.
        if record.stream != Stream::Dropped {
            let (_, text) = batch.get_or_insert((record.stream, Vec::new()));
            text.extend_from_slice(record.bytes);
            if !record.partial {
                text.push(b'\n');
            }
        }
        sent += used as u64;
        rest = &rest[used..];
    }
    if sent > begin {
        // The host waits for the log's end, also where nothing is left to be said.
        flush(container, sent, batch.or(Some((Stream::Stdout, Vec::new()))), out);
    }
    Ok(sent)
}

fn flush(container: &str, end: u64, batch: Option<(Stream, Vec<u8>)>, out: &mut Vec<u8>) {
    if let Some((stream, bytes)) = batch {
        encode_output(&Output { container, stream, end, bytes: &bytes }, out);
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_shim::log::{Record, encode};
    use ferrogate_shim::machine::wire::{decode, decode_output};

    use super::*;

    fn records(records: &[(Stream, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (stream, text) in records {
            encode(&Record { timestamp_ns: 0, stream: *stream, partial: false, bytes: text }, &mut bytes);
        }
        bytes
    }

    fn sent(begin: u64, bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        let end = send_records("app", begin, bytes, &mut out).unwrap();
        let mut rest = out.as_slice();
        let mut all = Vec::new();
        while let Some((frame, used)) = decode(rest).unwrap() {
            let output = decode_output(frame.payload).unwrap();
            all.push((output.end, output.bytes.to_vec()));
            rest = &rest[used..];
        }
        assert_eq!(all.last().map_or(begin, |last| last.0), end, "the host knows where the log ends");
        all
    }

    #[test]
    fn the_host_hears_of_the_logs_end_also_where_output_was_dropped() {
        let dropped = (Stream::Dropped, &[0; 8][..]);
        assert_eq!(sent(100, &records(&[dropped])), [(124, Vec::new())]);
        let behind = records(&[(Stream::Stdout, b"one"), dropped]);
        assert_eq!(sent(100, &behind), [(119, b"one\n".to_vec()), (143, Vec::new())]);
        let between = records(&[(Stream::Stderr, b"one"), dropped, (Stream::Stderr, b"two")]);
        assert_eq!(sent(0, &between), [(19, b"one\n".to_vec()), (62, b"two\n".to_vec())]);
        // Half a record is none.
        assert_eq!(sent(100, &behind[..10]), []);
    }
}
