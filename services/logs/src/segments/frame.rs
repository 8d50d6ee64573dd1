//! The form of a segment file: a header, frames, and once it is full a footer.
//!
//! ```text
//! segment = MAGIC(8) frame* [ footer-frame  footer-length:u32  END(4) ]
//! frame   = length:u32  crc32:u32  body
//! body    = kind:u8 …        all numbers little-endian; length and crc32 are of the body
//! events  = 1  ingestion:i64  first_seq:u64  count:u32  min:i64  max:i64  (timestamp:i64 length:u32 message)*
//! footer  = 2  first_seq:u64  count:u64  bytes:u64  data_len:u64  ingestion:i64
//!              blocks:u32 (offset:u64 length:u32 min:i64 max:i64)*
//! ```
//!
//! One PutLogEvents is one frame: after a crash it is there as a whole or not at all.

pub(crate) const MAGIC: &[u8; 8] = b"FGLOGS1\n";
const END: &[u8; 4] = b"FGLE";
const KIND_EVENTS: u8 = 1;
const KIND_FOOTER: u8 = 2;
/// Bytes before a frame's body.
const PREFIX: usize = 8;
/// Bytes of an events body before its first event.
const EVENTS_HEADER: usize = 37;
/// What AWS adds to each event's message when it counts bytes (PutLogEvents).
pub(crate) const EVENT_OVERHEAD_BYTES: usize = 26;
/// Longest frame: a batch of 1 MiB, of which each event has less overhead than AWS counts for it, with room.
pub(crate) const FRAME_BYTES_MAX: usize = 2 << 20;
/// A reader takes a block at a time; frames are gathered into a block until it is this long. Unit tests have small
/// ones, to have many.
const BLOCK_BYTES: u32 = if cfg!(test) { 256 } else { 128 << 10 };

/// A run of whole frames of a segment and the event times in it (milliseconds since the epoch).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segment {
    /// The stream's number of its first event; names the file.
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    /// As AWS counts them: messages and 26 each.
    pub(crate) bytes: u64,
    /// Where the frames of events end.
    pub(crate) data_len: u64,
    pub(crate) last_ingestion: i64,
    pub(crate) blocks: Vec<Block>,
    /// It has its footer and takes no more.
    pub(crate) sealed: bool,
}

impl Segment {
    pub(crate) fn new(first_seq: u64) -> Self {
        Self { first_seq, data_len: MAGIC.len() as u64, ..Self::default() }
    }

    pub(crate) fn min(&self) -> Option<i64> {
        self.blocks.iter().map(|block| block.min).min()
    }

    pub(crate) fn max(&self) -> Option<i64> {
        self.blocks.iter().map(|block| block.max).max()
    }

    /// Takes the next frame into account, which lies at `data_len`.
    pub(crate) fn note(&mut self, frame: &Frame<'_>) {
        let length = frame.length as u32;
        match self.blocks.last_mut() {
            Some(block) if block.length + length <= BLOCK_BYTES => {
                block.length += length;
                block.min = block.min.min(frame.min);
                block.max = block.max.max(frame.max);
            }
            _ => self.blocks.push(Block { offset: self.data_len, length, min: frame.min, max: frame.max }),
        }
        self.count += u64::from(frame.count);
        self.bytes += frame.counted_bytes();
        self.data_len += u64::from(length);
        self.last_ingestion = self.last_ingestion.max(frame.ingestion);
    }

    /// The footer, to be written at `data_len`.
    pub(crate) fn footer(&self) -> Vec<u8> {
        let mut out = vec![0; PREFIX];
        out.push(KIND_FOOTER);
        for number in [self.first_seq, self.count, self.bytes, self.data_len] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.last_ingestion.to_le_bytes());
        out.extend((self.blocks.len() as u32).to_le_bytes());
        for block in &self.blocks {
            out.extend(block.offset.to_le_bytes());
            out.extend(block.length.to_le_bytes());
            out.extend(block.min.to_le_bytes());
            out.extend(block.max.to_le_bytes());
        }
        close(&mut out);
        let length = out.len() as u32;
        out.extend(length.to_le_bytes());
        out.extend(END);
        out
    }

    /// The segment a whole file's last bytes tell of, if they are a footer.
    pub(crate) fn from_footer(tail: &[u8]) -> Option<Self> {
        let length = footer_length(tail)?;
        let start = tail.len().checked_sub(length + 8)?;
        let body = body_of(tail.get(start..tail.len() - 8)?)?;
        let mut input = Input(body);
        if input.u8()? != KIND_FOOTER {
            return None;
        }
        let mut segment = Self {
            first_seq: input.u64()?,
            count: input.u64()?,
            bytes: input.u64()?,
            data_len: input.u64()?,
            last_ingestion: input.u64()? as i64,
            blocks: Vec::new(),
            sealed: true,
        };
        for _ in 0..input.u32()? {
            segment.blocks.push(Block {
                offset: input.u64()?,
                length: input.u32()?,
                min: input.u64()? as i64,
                max: input.u64()? as i64,
            });
        }
        Some(segment)
    }
}

/// The length of the footer's frame, from the last eight bytes of a file.
pub(crate) fn footer_length(tail: &[u8]) -> Option<usize> {
    let last = tail.get(tail.len().checked_sub(8)?..)?;
    (&last[4..] == END).then(|| u32::from_le_bytes([last[0], last[1], last[2], last[3]]) as usize)
}

/// A frame of events.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// On disk, prefix and all.
    pub(crate) length: usize,
    pub(crate) ingestion: i64,
    pub(crate) first_seq: u64,
    pub(crate) count: u32,
    pub(crate) min: i64,
    pub(crate) max: i64,
    events: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`; `None` when there is no whole one: the end, torn or damaged.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let body = body_of(bytes)?;
        let mut input = Input(body);
        if input.u8()? != KIND_EVENTS {
            return None;
        }
        Some(Self {
            length: PREFIX + body.len(),
            ingestion: input.u64()? as i64,
            first_seq: input.u64()?,
            count: input.u32()?,
            min: input.u64()? as i64,
            max: input.u64()? as i64,
            events: input.0,
        })
    }

    /// Each event's sequence number, timestamp and message.
    pub(crate) fn events(&self) -> impl Iterator<Item = (u64, i64, &'a str)> + use<'a> {
        let mut input = Input(self.events);
        let mut seq = self.first_seq;
        std::iter::from_fn(move || {
            let timestamp = input.u64()? as i64;
            let length = input.u32()? as usize;
            let message = std::str::from_utf8(input.take(length)?).ok()?;
            seq += 1;
            Some((seq - 1, timestamp, message))
        })
    }

    fn counted_bytes(&self) -> u64 {
        (self.events.len() - self.count as usize * 12 + self.count as usize * EVENT_OVERHEAD_BYTES) as u64
    }
}

/// A frame of events that does not know its sequence number yet.
pub(crate) fn encode<'a>(ingestion: i64, events: impl Iterator<Item = (i64, &'a str)>) -> Vec<u8> {
    let mut out = vec![0; PREFIX + EVENTS_HEADER];
    let (mut count, mut min, mut max) = (0_u32, i64::MAX, i64::MIN);
    for (timestamp, message) in events {
        out.extend(timestamp.to_le_bytes());
        out.extend((message.len() as u32).to_le_bytes());
        out.extend(message.as_bytes());
        count += 1;
        min = min.min(timestamp);
        max = max.max(timestamp);
    }
    let header = &mut out[PREFIX..PREFIX + EVENTS_HEADER];
    header[0] = KIND_EVENTS;
    header[1..9].copy_from_slice(&ingestion.to_le_bytes());
    header[17..21].copy_from_slice(&count.to_le_bytes());
    header[21..29].copy_from_slice(&min.to_le_bytes());
    header[29..37].copy_from_slice(&max.to_le_bytes());
    out
}

/// Gives an encoded frame its place in the stream and closes it.
pub(crate) fn number(frame: &mut [u8], first_seq: u64) {
    frame[PREFIX + 9..PREFIX + 17].copy_from_slice(&first_seq.to_le_bytes());
    close(frame);
}

fn close(frame: &mut [u8]) {
    let length = (frame.len() - PREFIX) as u32;
    let crc = crc32fast::hash(&frame[PREFIX..]);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    let mut input = Input(bytes);
    let length = input.u32()? as usize;
    let crc = input.u32()?;
    let body = input.take(length)?;
    (crc32fast::hash(body) == crc).then_some(body)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back() {
        let mut bytes = encode(7, [(1, "one"), (3, "drei ✓")].into_iter());
        number(&mut bytes, 42);
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!((frame.ingestion, frame.count, frame.min, frame.max), (7, 2, 1, 3));
        assert_eq!(frame.events().collect::<Vec<_>>(), [(42, 1, "one"), (43, 3, "drei ✓")]);
        assert_eq!(frame.counted_bytes() as usize, "one".len() + "drei ✓".len() + 52);
    }

    #[test]
    fn neither_a_torn_nor_a_changed_frame_does() {
        let mut bytes = encode(7, [(1, "one")].into_iter());
        number(&mut bytes, 0);
        for cut in 0..bytes.len() {
            assert!(Frame::parse(&bytes[..cut]).is_none(), "{cut}");
        }
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1;
            assert!(Frame::parse(&bytes).is_none(), "{place}");
        }
        assert!(Frame::parse(&[0; 64]).is_none(), "zeros, as a crash may leave them");
    }

    #[test]
    fn a_footer_comes_back() {
        let mut segment = Segment::new(5);
        let mut bytes = encode(7, [(1, "one"), (3, "three")].into_iter());
        number(&mut bytes, 5);
        segment.note(&Frame::parse(&bytes).unwrap());
        segment.sealed = true;
        let footer = segment.footer();
        assert_eq!(Segment::from_footer(&footer), Some(segment));
        assert_eq!(Segment::from_footer(&footer[..footer.len() - 1]), None);
    }
}
