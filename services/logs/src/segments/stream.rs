//! One log stream's files: a folder of segments, appended to by one writer at a time.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::SegmentsError;
use super::frame::{self, FRAME_BYTES_MAX, Frame, MAGIC, Segment};
use super::read::Unit;

/// A segment that has grown to this gets its footer. Unit tests have small ones, to have many.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 1024 } else { 16 << 20 };
/// Bytes of waiting puts that go to the disk as one write and one fdatasync.
const GROUP_BYTES_MAX: usize = 4 << 20;
const SUFFIX: &str = "seg";

/// What Describe* tell of a stream. Times are milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) first_event: Option<i64>,
    pub(crate) last_event: Option<i64>,
    pub(crate) last_ingestion: Option<i64>,
    pub(crate) bytes: u64,
    /// The number the next event gets.
    pub(crate) next_seq: u64,
}

pub(crate) struct Stream {
    folder: PathBuf,
    state: Mutex<State>,
    /// Puts that wait for the disk. Bounded by the engine's permits, which they hold.
    waiting: Mutex<VecDeque<Waiting>>,
    /// Held by whoever changes files.
    writer: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    segments: Vec<Arc<Segment>>,
    next_seq: u64,
    deleted: bool,
}

struct Waiting {
    frame: Vec<u8>,
    done: oneshot::Sender<Result<u64, SegmentsError>>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// Looks at the folder, which need not exist, and cuts what a crash has left of an unfinished write.
    pub(crate) fn load(folder: PathBuf) -> Result<Self, SegmentsError> {
        let fail = |error| SegmentsError::io("read the log stream's folder", &folder, error);
        let mut names = Vec::new();
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(fail)?.path();
                    let seq = path
                        .file_stem()
                        .and_then(|stem| stem.to_str())
                        .and_then(|stem| stem.parse::<u64>().ok());
                    if let Some(seq) = seq.filter(|_| path.extension().is_some_and(|suffix| suffix == SUFFIX))
                    {
                        names.push((seq, path));
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        names.sort();
        let mut state = State::default();
        for (place, (seq, path)) in names.iter().enumerate() {
            let segment = load_segment(path, *seq, place + 1 == names.len())
                .map_err(|error| SegmentsError::io("read the log segment", path, error))?;
            state.next_seq = segment.first_seq + segment.count;
            if segment.count > 0 {
                state.segments.push(Arc::new(segment));
            }
        }
        Ok(Self { folder, state: Mutex::new(state), waiting: Mutex::default(), writer: Arc::default() })
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let state = self.state();
        Statistics {
            first_event: state.segments.iter().filter_map(|segment| segment.min()).min(),
            last_event: state.segments.iter().filter_map(|segment| segment.max()).max(),
            last_ingestion: state.segments.iter().map(|segment| segment.last_ingestion).max(),
            bytes: state.segments.iter().map(|segment| segment.bytes).sum(),
            next_seq: state.next_seq,
        }
    }

    /// Adds an encoded frame; durable when it returns. Gives the number of the event after its last.
    pub(crate) async fn append(
        self: &Arc<Self>,
        frame: Vec<u8>,
        permit: OwnedSemaphorePermit,
    ) -> Result<u64, SegmentsError> {
        debug_assert!(frame.len() <= FRAME_BYTES_MAX);
        let (done, mut written) = oneshot::channel();
        self.waiting.lock().expect("log stream lock").push_back(Waiting { frame, done, _permit: permit });
        let stream = Arc::clone(self);
        // A task of its own: a caller that goes away must not leave its frame waiting for nobody.
        let flush = tokio::spawn(async move {
            loop {
                let writer = Arc::clone(&stream.writer).lock_owned().await;
                // Whoever held the writer before may have written this frame along with theirs.
                match written.try_recv() {
                    Ok(result) => return result,
                    Err(oneshot::error::TryRecvError::Closed) => return Err(SegmentsError::Gone),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                }
                let stream = Arc::clone(&stream);
                let blocking = tokio::task::spawn_blocking(move || {
                    stream.flush();
                    drop(writer);
                });
                if blocking.await.is_err() {
                    return Err(SegmentsError::Gone);
                }
            }
        });
        flush.await.unwrap_or(Err(SegmentsError::Gone))
    }

    /// Writes a group of waiting frames. The caller holds the writer.
    fn flush(&self) {
        let mut group = Vec::new();
        {
            let mut waiting = self.waiting.lock().expect("log stream lock");
            let mut bytes = 0;
            while let Some(next) = waiting.front() {
                bytes += next.frame.len();
                if !group.is_empty() && bytes > GROUP_BYTES_MAX {
                    break;
                }
                group.extend(waiting.pop_front());
            }
        }
        match self.write(&mut group) {
            Ok(next) => {
                group.into_iter().zip(next).for_each(|(waiting, next)| _ = waiting.done.send(Ok(next)))
            }
            Err(error) => {
                tracing::error!(%error, "log events cannot be written");
                group.into_iter().for_each(|waiting| _ = waiting.done.send(Err(error.clone())));
            }
        }
    }

    fn write(&self, group: &mut [Waiting]) -> Result<Vec<u64>, SegmentsError> {
        let (last, mut next_seq) = {
            let state = self.state();
            if state.deleted {
                return Err(SegmentsError::Gone);
            }
            (state.segments.last().filter(|last| !last.sealed).cloned(), state.next_seq)
        };
        let fresh = last.is_none();
        let mut segment = last.map_or_else(|| Segment::new(next_seq), |last| (*last).clone());
        let at = if fresh { 0 } else { segment.data_len };
        let mut bytes = if fresh { MAGIC.to_vec() } else { Vec::new() };
        let mut numbers = Vec::with_capacity(group.len());
        for waiting in group {
            frame::number(&mut waiting.frame, next_seq);
            let frame = Frame::parse(&waiting.frame).expect("the frame was just encoded");
            next_seq += u64::from(frame.count);
            numbers.push(next_seq);
            segment.note(&frame);
            bytes.append(&mut waiting.frame);
        }
        if segment.data_len >= SEGMENT_BYTES_MAX {
            bytes.extend(segment.footer());
            segment.sealed = true;
        }
        let path = self.segment_path(segment.first_seq);
        self.write_bytes(&path, fresh, at, &bytes)
            .map_err(|error| SegmentsError::io("write the log segment", &path, error))?;
        let mut state = self.state();
        if !fresh {
            state.segments.pop();
        }
        state.segments.push(Arc::new(segment));
        state.next_seq = next_seq;
        Ok(numbers)
    }

    /// Writes at `at`, which is where the acknowledged part of the file ends, and syncs. What an earlier failed
    /// write may have left beyond it goes first.
    fn write_bytes(&self, path: &Path, fresh: bool, at: u64, bytes: &[u8]) -> io::Result<()> {
        if fresh {
            self.make_folder()?;
        }
        let file = OpenOptions::new().write(true).create(fresh).truncate(fresh).mode(0o600).open(path)?;
        if file.metadata()?.len() != at {
            file.set_len(at)?;
        }
        let written = file.write_all_at(bytes, at).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Nothing half-written stays: neither readers nor the next start may see it.
            let cut = if fresh { fs::remove_file(path) } else { file.set_len(at) };
            if let Err(error) = cut {
                tracing::warn!(%error, path = %path.display(), "a failed write cannot be cut off yet; the next write does");
            }
            return Err(error);
        }
        if fresh {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    fn make_folder(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        // The folder's and its parent's names have to last as long as what is in them.
        for parent in self.folder.ancestors().skip(1).take(2) {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    /// The parts of the files that may hold events with `start <= timestamp <= end`.
    pub(crate) fn units(&self, stream: usize, start: i64, end: i64, out: &mut Vec<Unit>) {
        for segment in &self.state().segments {
            let mut path: Option<Arc<Path>> = None;
            for block in segment.blocks.iter().filter(|block| block.min <= end && block.max >= start) {
                let path = path.get_or_insert_with(|| self.segment_path(segment.first_seq).into());
                out.push(Unit { stream, path: Arc::clone(path), block: block.clone() });
            }
        }
    }

    /// Removes segments all of whose events are before `cutoff`; gives how many.
    pub(crate) async fn expire(self: &Arc<Self>, cutoff: i64) -> Result<usize, SegmentsError> {
        let _writer = self.writer.lock().await;
        let expired: Vec<Arc<Segment>> = {
            let mut state = self.state();
            let gone = |segment: &Arc<Segment>| segment.max().is_some_and(|max| max < cutoff);
            let expired = state.segments.iter().filter(|segment| gone(segment)).cloned().collect();
            state.segments.retain(|segment| !gone(segment));
            expired
        };
        for segment in &expired {
            let path = self.segment_path(segment.first_seq);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SegmentsError::io("remove the expired log segment", &path, error));
                }
                _ => {}
            }
        }
        Ok(expired.len())
    }

    /// Removes everything; puts that come later are refused.
    pub(crate) async fn delete(self: &Arc<Self>) -> Result<(), SegmentsError> {
        let _writer = self.writer.lock().await;
        {
            let mut state = self.state();
            state.deleted = true;
            state.segments.clear();
        }
        remove_folder(&self.folder)
    }

    fn segment_path(&self, first_seq: u64) -> PathBuf {
        self.folder.join(format!("{first_seq:020}.{SUFFIX}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("log stream lock")
    }
}

pub(crate) fn remove_folder(folder: &Path) -> Result<(), SegmentsError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SegmentsError::io("remove the folder of deleted logs", folder, error))
        }
        _ => Ok(()),
    }
}

/// Reads a footer, or without one every frame. The last segment is cut where its frames end.
fn load_segment(path: &Path, first_seq: u64, last: bool) -> io::Result<Segment> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if let Some(segment) = read_footer(&file, length)?.filter(|segment| segment.first_seq == first_seq) {
        return Ok(segment);
    }
    let mut segment = Segment::new(first_seq);
    let mut buffer = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    // A segment without its footer is shorter than this; no more is read of one that is not ours.
    file.by_ref()
        .take(SEGMENT_BYTES_MAX + (GROUP_BYTES_MAX + FRAME_BYTES_MAX) as u64)
        .read_to_end(&mut buffer)?;
    if buffer.starts_with(MAGIC) {
        while let Some(frame) = Frame::parse(&buffer[segment.data_len as usize..]) {
            if frame.first_seq != segment.first_seq + segment.count {
                break;
            }
            segment.note(&frame);
        }
    }
    if segment.data_len < length && last {
        let cut_bytes = length - segment.data_len;
        tracing::warn!(path = %path.display(), cut_bytes, "cut an unfinished write off the log segment");
        if segment.count == 0 {
            std::fs::remove_file(path)?;
        } else {
            file.set_len(segment.data_len)?;
            file.sync_data()?;
        }
    }
    Ok(segment)
}

fn read_footer(file: &File, length: u64) -> io::Result<Option<Segment>> {
    let mut end = [0; 8];
    let Some(at) = length.checked_sub(8) else { return Ok(None) };
    file.read_exact_at(&mut end, at)?;
    let Some(footer) = frame::footer_length(&end) else { return Ok(None) };
    let Some(start) = at.checked_sub(footer as u64) else { return Ok(None) };
    let mut tail = vec![0; footer + 8];
    file.read_exact_at(&mut tail, start)?;
    Ok(Segment::from_footer(&tail))
}
