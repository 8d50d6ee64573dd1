//! The shim of the guest's containers: a child of PID 1 that runs the same server as on a host, and PID 1 as its client.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ferrogate_shim::protocol::{self, FRAME_BYTES_MAX, Reply, SOCKET_FILE, TaskConfig};
use ferrogate_shim::server::start::OK;
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
    /// Until it is told what the task is.
    parent: Option<BufReader<UnixStream>>,
}

impl Shim {
    #[cfg(test)]
    pub(crate) fn of(stream: UnixStream) -> Shim {
        Shim { pid: -1, stream, input: Vec::new(), waiting: std::collections::VecDeque::new(), parent: None }
    }

    /// Returns when it listens; it takes no calls before [`Shim::begin`]. `storage`: a device with a file system for what
    /// the containers write.
    pub(crate) fn start(directory: &Path, storage: Option<PathBuf>) -> Result<Shim, String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what} the shim: {error}");
        let (parent, child) = UnixStream::pair().map_err(|error| failed("make a socket for", error))?;
        // SAFETY: this process has one thread, so the child may go on with everything as it is.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => return Err(failed("fork", io::Error::last_os_error())),
            0 => {
                drop(parent);
                let code = match ferrogate_shim::server::start::serve(directory, storage, child) {
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
        drop(child);
        let mut parent = BufReader::new(parent);
        hear_ok(&mut parent)?;
        let stream =
            UnixStream::connect(directory.join(SOCKET_FILE)).map_err(|error| failed("connect to", error))?;
        stream.set_nonblocking(true).map_err(|error| failed("use", error))?;
        let (input, waiting) = (Vec::new(), std::collections::VecDeque::new());
        Ok(Shim { pid, stream, input, waiting, parent: Some(parent) })
    }

    /// Tells it what the task is. Returns when it takes calls.
    pub(crate) fn begin(&mut self, task: &TaskConfig) -> Result<(), String> {
        let mut parent = self.parent.take().ok_or("the shim has a task already")?;
        let text = serde_json::to_vec(task).map_err(|error| error.to_string())?;
        let told =
            parent.get_mut().write_all(&text).and_then(|()| parent.get_ref().shutdown(Shutdown::Write));
        // One that ended meanwhile has said why.
        hear_ok(&mut parent)?;
        told.map_err(|error| format!("cannot tell the shim what the task is: {error}"))
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

fn hear_ok(parent: &mut BufReader<UnixStream>) -> Result<(), String> {
    let mut heard = Vec::new();
    parent.read_until(b'\n', &mut heard).map_err(|error| format!("cannot hear from the shim: {error}"))?;
    if heard == OK {
        return Ok(());
    }
    // Why not, to its end.
    let _ = parent.read_to_end(&mut heard);
    let why = String::from_utf8_lossy(&heard);
    Err(format!("the guest's shim: {}", if why.is_empty() { "it ended without a word" } else { &why }))
}
