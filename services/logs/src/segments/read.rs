//! A page of events out of any number of streams, in order of time.
//!
//! Blocks are read in the order of their earliest event (latest, when reading backward). The page keeps the best
//! events seen, within its limits; once the next block begins after the worst of a full page, the page is final.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::SegmentsError;
use super::frame::{Block, EVENT_OVERHEAD_BYTES, Frame};
use super::stream::Stream;
use crate::pattern::Pattern;

/// The place of an event among all events of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) timestamp: i64,
    /// Tells apart the streams at the same time; [`Query::streams`] has it.
    pub(crate) stream: u64,
    pub(crate) seq: u64,
}

impl Key {
    pub(crate) const MIN: Self = Self { timestamp: i64::MIN, stream: 0, seq: 0 };
    pub(crate) const MAX: Self = Self { timestamp: i64::MAX, stream: u64::MAX, seq: u64::MAX };

    /// Before every event of this time.
    pub(crate) fn at(timestamp: i64) -> Self {
        Self { timestamp, stream: 0, seq: 0 }
    }

    pub(crate) fn next(self) -> Self {
        Self { seq: self.seq.saturating_add(1), ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Events from the cursor on, the earliest first.
    Forward,
    /// Events before the cursor, the latest first.
    Backward,
}

pub(crate) struct Query {
    pub(crate) streams: Vec<(u64, Arc<Stream>)>,
    /// Both inclusive.
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) cursor: Key,
    pub(crate) direction: Direction,
    pub(crate) count_max: usize,
    pub(crate) bytes_max: usize,
    /// After so many bytes read the page ends, full or not, as long as it is further than it was.
    pub(crate) scan_bytes_max: u64,
    pub(crate) pattern: Pattern,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) key: Key,
    /// Index into [`Query::streams`].
    pub(crate) stream: usize,
    pub(crate) ingestion: i64,
    pub(crate) message: String,
}

#[derive(Debug)]
pub(crate) struct PageRead {
    /// In the query's direction.
    pub(crate) events: Vec<Found>,
    /// Where to go on; `None`: there is no more.
    pub(crate) more: Option<Key>,
}

/// A block of a stream.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) stream: usize,
    pub(crate) path: Arc<Path>,
    pub(crate) block: Block,
}

/// Orders keys in the query's direction: `!` turns the order of a number around.
fn rank(direction: Direction, key: Key) -> Key {
    match direction {
        Direction::Forward => key,
        Direction::Backward => Key { timestamp: !key.timestamp, stream: !key.stream, seq: !key.seq },
    }
}

struct Collector<'a> {
    query: &'a Query,
    events: BTreeMap<Key, Found>,
    bytes: usize,
    /// The best rank that had to be left out.
    left_out: Option<Key>,
}

impl Collector<'_> {
    fn wants(&self, key: Key) -> bool {
        let query = self.query;
        let ahead = match query.direction {
            Direction::Forward => key >= query.cursor,
            Direction::Backward => key < query.cursor,
        };
        let in_time = query.start <= key.timestamp && key.timestamp <= query.end;
        ahead && in_time && self.left_out.is_none_or(|bound| rank(query.direction, key) < bound)
    }

    fn take(&mut self, found: Found) {
        self.bytes += found.message.len() + EVENT_OVERHEAD_BYTES;
        self.events.insert(rank(self.query.direction, found.key), found);
        // An event that is longer than a page is a page of its own.
        while self.events.len() > self.query.count_max
            || (self.bytes > self.query.bytes_max && self.events.len() > 1)
        {
            let Some((rank, worst)) = self.events.pop_last() else { return };
            self.bytes -= worst.message.len() + EVENT_OVERHEAD_BYTES;
            self.left_out = Some(rank);
        }
    }

    fn read(&mut self, unit: &Unit) -> Result<(), SegmentsError> {
        let mut bytes = vec![0; unit.block.length as usize];
        let read = File::open(&unit.path).and_then(|file| file.read_exact_at(&mut bytes, unit.block.offset));
        match read {
            Ok(()) => {}
            // Expired or deleted since the query began.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(SegmentsError::io("read the log segment", &unit.path, error)),
        }
        let (stream, mut at) = (self.query.streams[unit.stream].0, 0);
        while at < bytes.len() {
            let Some(frame) = Frame::parse(&bytes[at..]) else {
                let offset = unit.block.offset + at as u64;
                return Err(SegmentsError::Damaged { path: unit.path.to_path_buf(), offset });
            };
            at += frame.length;
            for (seq, timestamp, message) in frame.events() {
                let key = Key { timestamp, stream, seq };
                if self.wants(key) && self.query.pattern.matches(message) {
                    let (stream, ingestion) = (unit.stream, frame.ingestion);
                    self.take(Found { key, stream, ingestion, message: message.to_owned() });
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn read(query: &Query) -> Result<PageRead, SegmentsError> {
    let direction = query.direction;
    let (start, end) = match direction {
        Direction::Forward => (query.start.max(query.cursor.timestamp), query.end),
        Direction::Backward => (query.start, query.end.min(query.cursor.timestamp)),
    };
    let mut units = Vec::new();
    for (index, (_, stream)) in query.streams.iter().enumerate() {
        stream.units(index, start, end, &mut units);
    }
    match direction {
        Direction::Forward => units.sort_by_key(|unit| unit.block.min),
        Direction::Backward => units.sort_by_key(|unit| !unit.block.max),
    }
    let mut page = Collector { query, events: BTreeMap::new(), bytes: 0, left_out: None };
    let (mut scanned, mut stopped_before) = (0, None);
    for unit in &units {
        // The first place, in this direction, where the unit may hold an event.
        let border = match direction {
            Direction::Forward => Key::at(unit.block.min),
            Direction::Backward => Key::at(unit.block.max.saturating_add(1)),
        };
        if page.left_out.is_some_and(|bound| best_of(direction, &unit.block) > bound) {
            break;
        }
        let further = match direction {
            Direction::Forward => border > query.cursor,
            Direction::Backward => border < query.cursor,
        };
        if scanned >= query.scan_bytes_max && further {
            stopped_before = Some(border);
            break;
        }
        scanned += u64::from(unit.block.length);
        page.read(unit)?;
    }
    Ok(finish(page, stopped_before))
}

/// The best rank an event of the block can have.
fn best_of(direction: Direction, block: &Block) -> Key {
    match direction {
        Direction::Forward => Key::at(block.min),
        Direction::Backward => rank(direction, Key { timestamp: block.max, stream: u64::MAX, seq: u64::MAX }),
    }
}

/// Cuts the page where the reading stopped: beyond that there may be events that were not seen.
fn finish(page: Collector<'_>, stopped_before: Option<Key>) -> PageRead {
    let direction = page.query.direction;
    let left_out = page.left_out.is_some();
    let mut events: Vec<Found> = page.events.into_values().collect();
    let mut cut = false;
    if let Some(border) = stopped_before {
        let before = events.len();
        match direction {
            Direction::Forward => events.retain(|found| found.key < border),
            Direction::Backward => events.retain(|found| found.key >= border),
        }
        cut = events.len() < before || !left_out;
    }
    let more = if cut {
        stopped_before
    } else if left_out {
        events.last().map(|last| match direction {
            Direction::Forward => last.key.next(),
            Direction::Backward => last.key,
        })
    } else {
        None
    };
    PageRead { events, more }
}
