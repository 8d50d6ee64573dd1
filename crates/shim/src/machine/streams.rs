//! Byte streams over the link: each a descriptor here, a channel in between, a descriptor there. The same at both ends.
//!
//! A sender reads its descriptor only as far as the receiver has granted; a receiver grants what it could write away. So
//! neither end ever holds more than [`WINDOW_BYTES`] of a channel, whatever the other does.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::wire::{Broken, DATA_BYTES_MAX, Frame, Kind, WINDOW_BYTES, encode};

/// Reads from one descriptor before others get their turn.
const READS_PER_TURN_MAX: usize = 4;

#[derive(Default)]
pub struct Streams(Vec<Stream>);

struct Stream {
    channel: u32,
    /// Nonblocking.
    fd: OwnedFd,
    way: Way,
}

enum Way {
    /// From the descriptor to the link.
    Send { credit: u32 },
    /// From the link to the descriptor. `held` came and is not written yet; then, if `ended`, the descriptor is closed.
    Receive { held: VecDeque<u8>, ended: bool },
}

impl Streams {
    /// What the descriptor gives goes to the other end.
    pub fn send(&mut self, channel: u32, fd: OwnedFd) -> std::io::Result<()> {
        self.add(channel, fd, Way::Send { credit: WINDOW_BYTES })
    }

    /// What the other end sends goes to the descriptor.
    pub fn receive(&mut self, channel: u32, fd: OwnedFd) -> std::io::Result<()> {
        self.add(channel, fd, Way::Receive { held: VecDeque::new(), ended: false })
    }

    fn add(&mut self, channel: u32, fd: OwnedFd, way: Way) -> std::io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        self.0.push(Stream { channel, fd, way });
        Ok(())
    }

    /// What is to be waited for.
    pub fn sources(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>, PollFlags)> {
        self.0.iter().filter_map(|stream| {
            let flags = match &stream.way {
                Way::Send { credit: 0 } => return None,
                Way::Send { .. } => PollFlags::IN,
                // Also with nothing to write: whether somebody still reads.
                Way::Receive { held, .. } if held.is_empty() => PollFlags::empty(),
                Way::Receive { .. } => PollFlags::OUT,
            };
            Some((stream.channel, stream.fd.as_fd(), flags))
        })
    }

    /// Moves what can be moved on a channel whose descriptor is ready.
    pub fn ready(&mut self, channel: u32, seen: PollFlags, out: &mut Vec<u8>) {
        let Some(index) = self.index(channel) else { return };
        let stream = &mut self.0[index];
        let goes_on = match &stream.way {
            Way::Send { .. } => stream.read(READS_PER_TURN_MAX, out),
            Way::Receive { held, .. }
                if held.is_empty() && seen.intersects(PollFlags::ERR | PollFlags::HUP) =>
            {
                encode(Kind::Closed, channel, &[], out);
                false
            }
            Way::Receive { .. } => stream.write(out),
        };
        if !goes_on {
            self.0.swap_remove(index);
        }
    }

    /// Takes a frame of a stream. One of a channel that is gone here was under way when it went.
    pub fn frame(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let channel = frame.channel;
        let Some(index) = self.index(channel) else { return Ok(()) };
        let stream = &mut self.0[index];
        let goes_on = match (frame.kind, &mut stream.way) {
            (Kind::Credit, Way::Send { credit }) => {
                let more = frame.payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                let sum = credit.checked_add(more).filter(|sum| *sum <= WINDOW_BYTES);
                *credit = sum.ok_or(Broken::Credit { channel, bytes: more as usize })?;
                true
            }
            (Kind::Closed, Way::Send { .. }) => false,
            (Kind::Data, Way::Receive { held, ended: false }) => {
                let room = WINDOW_BYTES as usize - held.len();
                if frame.payload.len() > room {
                    return Err(Broken::Credit { channel, bytes: frame.payload.len() - room });
                }
                held.extend(frame.payload);
                stream.write(out)
            }
            (Kind::End, Way::Receive { ended, .. }) => {
                *ended = true;
                stream.write(out)
            }
            _ => return Err(Broken::Message(format!("channel {channel} goes the other way"))),
        };
        if !goes_on {
            self.0.swap_remove(index);
        }
        Ok(())
    }

    /// Reads and sends what the channel's descriptor has at this moment; whether that was all.
    pub fn drain(&mut self, channel: u32, out: &mut Vec<u8>) -> bool {
        let Some(index) = self.index(channel) else { return true };
        if !self.0[index].read(usize::MAX, out) {
            self.0.swap_remove(index);
            return true;
        }
        !matches!(self.0[index].way, Way::Send { credit: 0 })
    }

    /// Whether all that came on the channel has been written.
    pub fn is_delivered(&self, channel: u32) -> bool {
        self.index(channel).is_none_or(|index| match &self.0[index].way {
            Way::Receive { held, .. } => held.is_empty(),
            Way::Send { .. } => true,
        })
    }

    /// Lets go of a channel without a word.
    pub fn forget(&mut self, channel: u32) {
        self.0.retain(|stream| stream.channel != channel);
    }

    fn index(&self, channel: u32) -> Option<usize> {
        self.0.iter().position(|stream| stream.channel == channel)
    }
}

impl Stream {
    /// Whether there may be more.
    fn read(&mut self, turns_max: usize, out: &mut Vec<u8>) -> bool {
        let Way::Send { credit } = &mut self.way else { return true };
        for _ in 0..turns_max {
            let room = DATA_BYTES_MAX.min(*credit as usize);
            if room == 0 {
                return true;
            }
            let mut buffer = vec![0; room];
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(count) if count > 0 => {
                    encode(Kind::Data, self.channel, &buffer[..count], out);
                    *credit -= count as u32;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                // A terminal that nobody has open any more gives EIO.
                Ok(_) | Err(_) => {
                    encode(Kind::End, self.channel, &[], out);
                    return false;
                }
            }
        }
        true
    }

    /// Whether more may come.
    fn write(&mut self, out: &mut Vec<u8>) -> bool {
        let Way::Receive { held, ended } = &mut self.way else { return true };
        let mut written = 0;
        let mut reader = true;
        while !held.is_empty() {
            match rustix::io::write(&self.fd, held.as_slices().0) {
                Ok(count) => {
                    held.drain(..count);
                    written += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    reader = false;
                    break;
                }
            }
        }
        if !reader {
            encode(Kind::Closed, self.channel, &[], out);
            return false;
        }
        if written > 0 && !*ended {
            encode(Kind::Credit, self.channel, &(written as u32).to_be_bytes(), out);
        }
        !(*ended && held.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::decode;
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    /// Carries everything from one end to the other, until nothing moves.
    fn carry(from: &mut Streams, to: &mut Streams) {
        loop {
            let mut there = Vec::new();
            for channel in 0..8 {
                from.ready(channel, PollFlags::IN, &mut there);
            }
            let mut back = Vec::new();
            let moved = !there.is_empty();
            let mut rest = there.as_slice();
            while let Some((frame, used)) = decode(rest).unwrap() {
                to.frame(frame, &mut back).unwrap();
                rest = &rest[used..];
            }
            let mut rest = back.as_slice();
            while let Some((frame, used)) = decode(rest).unwrap() {
                from.frame(frame, &mut Vec::new()).unwrap();
                rest = &rest[used..];
            }
            if !moved {
                return;
            }
        }
    }

    #[test]
    fn bytes_and_the_end_arrive() {
        let (mut here, mut there) = (Streams::default(), Streams::default());
        let ((source, into), (result, target)) = (pipe(), pipe());
        here.send(3, source).unwrap();
        there.receive(3, target).unwrap();
        rustix::io::write(&into, b"hello").unwrap();
        carry(&mut here, &mut there);
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&result, &mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        drop(into);
        carry(&mut here, &mut there);
        assert_eq!(rustix::io::read(&result, &mut buffer).unwrap(), 0, "its end is closed");
    }

    /// What is under way never exceeds the window, and all arrives once somebody reads.
    #[test]
    fn a_reader_that_sleeps_stops_the_writer() {
        let (mut here, mut there) = (Streams::default(), Streams::default());
        let ((source, into), (result, target)) = (pipe(), pipe());
        here.send(1, source).unwrap();
        there.receive(1, target).unwrap();
        let mut sent = 0;
        let block = [7; 4096];
        let mut stuck = 0;
        while stuck < 2 {
            match rustix::io::write(&into, &block) {
                Ok(count) => (sent, stuck) = (sent + count, 0),
                Err(_) => stuck += 1,
            }
            carry(&mut here, &mut there);
        }
        // Two pipes, and what the receiver holds.
        assert!(sent <= 2 * (64 << 10) + WINDOW_BYTES as usize, "{sent}");
        let mut received = 0;
        let mut buffer = [0; 4096];
        while let Ok(count) = rustix::io::read(&result, &mut buffer) {
            received += count;
            let mut back = Vec::new();
            there.ready(1, PollFlags::OUT, &mut back);
            let mut rest = back.as_slice();
            while let Some((frame, used)) = decode(rest).unwrap() {
                here.frame(frame, &mut Vec::new()).unwrap();
                rest = &rest[used..];
            }
            carry(&mut here, &mut there);
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn more_than_was_granted_is_refused() {
        let mut there = Streams::default();
        let (_result, target) = pipe();
        there.receive(1, target).unwrap();
        let payload = vec![0; WINDOW_BYTES as usize + 1];
        let frame = Frame { kind: Kind::Data, channel: 1, payload: &payload };
        assert!(matches!(there.frame(frame, &mut Vec::new()), Err(Broken::Credit { .. })));
        let (source, _into) = pipe();
        there.send(2, source).unwrap();
        let frame = Frame { kind: Kind::Credit, channel: 2, payload: &1u32.to_be_bytes() };
        assert!(matches!(there.frame(frame, &mut Vec::new()), Err(Broken::Credit { .. })));
    }

    #[test]
    fn a_reader_that_goes_is_told_of() {
        let (mut here, mut there) = (Streams::default(), Streams::default());
        let ((source, into), (result, target)) = (pipe(), pipe());
        here.send(1, source).unwrap();
        there.receive(1, target).unwrap();
        drop(result);
        // Who writes into a pipe without readers gets a signal as well, unless it is ignored.
        // SAFETY: ignoring has no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        rustix::io::write(&into, b"x").unwrap();
        carry(&mut here, &mut there);
        assert!(rustix::io::write(&into, b"x").is_err(), "nobody reads any more");
    }
}
