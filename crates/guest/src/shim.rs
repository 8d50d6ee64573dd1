//! The shim of the guest's containers: a child of PID 1 that runs the same server as on a host, and PID 1 as its client.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ferrogate_shim::protocol::{self, FRAME_BYTES_MAX, Reply, SOCKET_FILE};
use rustix::event::PollFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Serialize;

const READ_BYTES: usize = 16 << 10;
const DESCRIPTORS_MAX: usize = 3;

pub(crate) struct Shim {
    pub(crate) pid: i32,
    stream: UnixStream,
    input: Vec<u8>,
    /// Requests not sent yet, each with the descriptors that go with its first byte.
    waiting: std::collections::VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Shim {
    /// Returns when it listens.
    pub(crate) fn start(directory: &Path) -> Result<Shim, String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what} the shim: {error}");
        let (mut heard, word) = io::pipe().map_err(|error| failed("make a pipe for", error))?;
        // SAFETY: this process has one thread, so the child may go on with everything as it is.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => return Err(failed("fork", io::Error::last_os_error())),
            0 => {
                drop(heard);
                let code = match ferrogate_shim::server::start::serve(directory, word) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("ferrogate-guest: the shim: {error}");
                        1
                    }
                };
                std::process::exit(code)
            }
            _ => {}
        }
        drop(word);
        let mut text = String::new();
        heard.read_to_string(&mut text).map_err(|error| failed("hear from", error))?;
        if text != "ok" {
            return Err(format!("the guest's shim: {text}"));
        }
        let stream =
            UnixStream::connect(directory.join(SOCKET_FILE)).map_err(|error| failed("connect to", error))?;
        stream.set_nonblocking(true).map_err(|error| failed("use", error))?;
        Ok(Shim { pid, stream, input: Vec::new(), waiting: std::collections::VecDeque::new() })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn wanted(&self) -> PollFlags {
        if self.waiting.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// `request`: a [`Request`](protocol::Request), or the text of one.
    pub(crate) fn call(&mut self, request: &impl Serialize, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let mut frame = Vec::new();
        protocol::encode(request, &mut frame).map_err(|error| error.to_string())?;
        self.waiting.push_back((frame, descriptors));
        self.flush().map_err(|error| format!("the guest's shim takes nothing: {error}"))
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((frame, descriptors)) = self.waiting.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(io::Error::other("too many descriptors for one request"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(&self.stream, &[IoSlice::new(frame)], &mut ancillary, flags) {
                Ok(sent) => {
                    frame.drain(..sent);
                    descriptors.clear();
                    if frame.is_empty() {
                        self.waiting.pop_front();
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What has come; an error means that the shim is gone.
    pub(crate) fn receive(&mut self) -> Result<Vec<Reply>, String> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("the guest's shim closed the connection".into()),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the guest's shim: {error}")),
            }
            if self.input.len() > FRAME_BYTES_MAX {
                break;
            }
        }
        let mut replies = Vec::new();
        let mut used = 0;
        while let Some((reply, length)) =
            protocol::decode::<Reply>(&self.input[used..]).map_err(|error| error.to_string())?
        {
            used += length;
            replies.push(reply);
        }
        self.input.drain(..used);
        Ok(replies)
    }
}
