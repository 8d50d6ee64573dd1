//! Containers' output on its way to the host: read from the guest's log, dropped there once the host has it.

use std::collections::BTreeMap;
use std::fs::File;
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

    /// Whether everything up to `end` was sent.
    pub(crate) fn is_sent(&self, container: &str, end: u64) -> bool {
        self.0.get(container).is_some_and(|progress| progress.sent >= end)
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
    let file = File::open(&segment.path)?;
    let room = log::HEADER_BYTES + log::LINE_BYTES_MAX;
    let mut bytes = vec![0; room.min((segment.end() - progress.sent) as usize)];
    file.read_exact_at(&mut bytes, progress.sent - segment.start)?;
    let mut rest = bytes.as_slice();
    let mut batch: Option<(Stream, Vec<u8>)> = None;
    while let Some((record, used)) = log::decode(rest).map_err(std::io::Error::other)? {
        let fits = |batch: &(Stream, Vec<u8>)| {
            batch.0 == record.stream && batch.1.len() + record.bytes.len() < DATA_BYTES_MAX
        };
        if batch.as_ref().is_some_and(|batch| !fits(batch)) {
            flush(container, progress.sent, batch.take(), out);
        }
        // The guest's log never drops: it makes its container wait.
        if record.stream != Stream::Dropped {
            let (_, text) = batch.get_or_insert((record.stream, Vec::new()));
            text.extend_from_slice(record.bytes);
            if !record.partial {
                text.push(b'\n');
            }
        }
        progress.sent += used as u64;
        rest = &rest[used..];
    }
    flush(container, progress.sent, batch, out);
    Ok(())
}

fn flush(container: &str, end: u64, batch: Option<(Stream, Vec<u8>)>, out: &mut Vec<u8>) {
    if let Some((stream, bytes)) = batch {
        encode_output(&Output { container, stream, end, bytes: &bytes }, out);
    }
}
