//! Output on disk, read without a shim: of a task that runs, or of one whose sandbox is gone.

use std::io;
use std::path::{Path, PathBuf};

use ferrogate_shim::protocol::{CONTAINERS_DIR, LOG_DIR};

use crate::LogRecord;
use crate::container::logs::Reader;

/// Where a container's output is, below its task's directory.
pub fn log_dir(task_dir: &Path, container: &str) -> PathBuf {
    task_dir.join(CONTAINERS_DIR).join(container).join(LOG_DIR)
}

/// All whole records from `offset` on that are in a directory of output segments.
pub fn read_logs(directory: &Path, offset: u64) -> io::Result<Vec<LogRecord>> {
    let reader = Reader { directory: directory.to_owned() };
    let mut records: Vec<LogRecord> = Vec::new();
    let mut from = offset;
    loop {
        let batch = reader.read(from)?;
        let Some(last) = batch.last() else { return Ok(records) };
        from = last.next_offset();
        records.extend(batch);
    }
}
