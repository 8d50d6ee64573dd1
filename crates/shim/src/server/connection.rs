//! A client of the shim.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::protocol::{self, Event, FRAME_BYTES_MAX, Reply, Request};

/// Replies and events a client has not taken. One that lags further is let go: it finds everything in the state
/// when it comes back.
const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Descriptors that came and were not used yet.
const DESCRIPTORS_MAX: usize = 24;
/// Most descriptors in one message.
const DESCRIPTORS_PER_MESSAGE_MAX: usize = 8;
const READ_BYTES: usize = 16 << 10;

pub(crate) struct Connection {
    pub(crate) id: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    pub(crate) subscribed: bool,
    /// How much output of each container it was told of.
    hinted: HashMap<String, u64>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, id: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            id,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            descriptors: VecDeque::new(),
            subscribed: false,
            hinted: HashMap::new(),
        })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes what has come; an error (also the end) means that the client is gone.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        // Not on the stack, where it would be left for whoever is cloned from here: see `memory`.
        let mut buffer = vec![0u8; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(&self.stream, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags)
        {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if self.descriptors.len() > DESCRIPTORS_MAX || self.input.len() > FRAME_BYTES_MAX + READ_BYTES {
            return Err(io::Error::other("the client sends more than it may"));
        }
        self.input.extend_from_slice(&buffer[..received]);
        Ok(())
    }

    /// The next whole request.
    pub(crate) fn next_request(&mut self) -> io::Result<Option<Request>> {
        match protocol::decode::<Request>(&self.input).map_err(io::Error::other)? {
            Some((request, used)) => {
                self.input.drain(..used);
                self.input.shrink_to(READ_BYTES);
                Ok(Some(request))
            }
            None => Ok(None),
        }
    }

    /// The three descriptors an `Exec` brings.
    pub(crate) fn take_stdio(&mut self) -> Option<[OwnedFd; 3]> {
        if self.descriptors.len() < 3 {
            return None;
        }
        let taken: Vec<OwnedFd> = self.descriptors.drain(..3).collect();
        taken.try_into().ok()
    }

    pub(crate) fn send(&mut self, reply: &Reply) -> io::Result<()> {
        if self.output.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other("the client takes nothing"));
        }
        protocol::encode(reply, &mut self.output).map_err(io::Error::other)?;
        self.flush()
    }

    /// Tells how far a container's output goes, unless the client is busy with what it has.
    pub(crate) fn hint(&mut self, container: &str, end: u64) -> io::Result<()> {
        if !self.subscribed || self.wants_to_write() || self.hinted.get(container) == Some(&end) {
            return Ok(());
        }
        self.hinted.insert(container.to_owned(), end);
        self.send(&Reply::Event(Event::Output { container: container.to_owned(), end }))
    }

    pub(crate) fn forget(&mut self, container: &str) {
        self.hinted.remove(container);
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.output.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.shrink_to(READ_BYTES);
        Ok(())
    }

    /// Lets the client go; the loop notices at once.
    pub(crate) fn close(&mut self) {
        self.subscribed = false;
        self.input.clear();
        self.output.clear();
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Sends what is left, waiting for it: the shim is about to end.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_write_timeout(Some(std::time::Duration::from_secs(5)));
        let _ = self.stream.write_all(&self.output);
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        // Nothing more is read: what the client still sends would be answered by nobody.
        let _ = self.stream.set_nonblocking(true);
        let _ = self.stream.read(&mut [0; 1]);
    }
}
