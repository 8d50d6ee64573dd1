//! Netlink, as much of it as the fabric needs: synchronous, a few messages, no task and no fork.
//!
//! A netlink socket belongs to the network namespace it was created in, whatever thread uses it later. So one
//! socket per namespace is opened once by a thread that entered it, and everything after that is plain system
//! calls from anywhere.

mod conntrack;
mod nft;
mod route;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(crate) use conntrack::{forget_address, forget_marked};
pub(crate) use nft::{ElementChange, change_elements};
pub(crate) use route::{Link, Packets, RouteKind, RouteSocket, RouteSpec, RuleSpec, Veth};

/// Larger than any single datagram the kernel sends us (dumps come in parts of at most 32 KiB).
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
/// A batch of some thousand set elements must fit the socket in one piece.
const SEND_BUFFER_BYTES: libc::c_int = 8 * 1024 * 1024;
/// A dump that was disturbed by a concurrent change is asked again this often.
const DUMP_ATTEMPTS_MAX: usize = 16;

const HEADER_BYTES: usize = 16;
const SOL_NETLINK: libc::c_int = 270;

/// What the kernel answered.
#[derive(Debug)]
pub struct NetlinkError {
    pub errno: i32,
    /// The kernel's own words, where it had some.
    pub message: Option<String>,
}

impl std::fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), message: None }
    }
}

pub(crate) type Result<T, E = NetlinkError> = std::result::Result<T, E>;

/// A message under construction.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `header` is the family's own fixed header, e.g. an `ifinfomsg`.
    pub(crate) fn new(kind: u16, flags: libc::c_int, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Self { bytes }
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.pad();
        let length = u16::try_from(4 + value.len()).expect("attributes are small");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds attributes; the content may begin with a fixed header (see [`Self::raw`]).
    pub(crate) fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) -> &mut Self {
        self.pad();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        content(self);
        let length = u16::try_from(self.bytes.len() - start).expect("callers split what is nested");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        self.pad();
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One answer: its type and what follows the header.
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(protocol: libc::c_int) -> io::Result<Self> {
        // SAFETY: socket takes no pointers; a non-negative result is a descriptor nobody else owns.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = Self { fd, sequence: 0, buffer: vec![0; RECEIVE_BUFFER_BYTES] };
        socket.option(SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        socket.option(SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        socket.option(SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1)?;
        socket.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES)?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, SEND_BUFFER_BYTES)?;
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: value outlives the call and its size is passed.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are of one live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent == bytes.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // SAFETY: the pointer and length are of one live, writable buffer.
            let got = unsafe {
                libc::recv(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0)
            };
            if got >= 0 {
                return Ok(got as usize);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// One message with an acknowledgement.
    pub(crate) fn request(&mut self, mut message: Message) -> Result<()> {
        add_flags(&mut message, libc::NLM_F_ACK);
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        loop {
            for (header, payload) in self.messages()? {
                if header.sequence == sequence && header.kind == libc::NLMSG_ERROR as u16 {
                    return acknowledgement(&payload, header.flags);
                }
            }
        }
    }

    /// Sends all messages in one datagram, in order; each has its acknowledgement. The first error is the
    /// answer, the rest is still read so that the socket stays in step.
    pub(crate) fn batch(&mut self, messages: Vec<(Message, bool)>) -> Result<()> {
        let mut bytes = Vec::new();
        let mut open = std::collections::BTreeSet::new();
        for (mut message, acknowledged) in messages {
            let sequence = self.next_sequence();
            if acknowledged {
                add_flags(&mut message, libc::NLM_F_ACK);
                open.insert(sequence);
            }
            bytes.extend_from_slice(&message.finish(sequence));
        }
        self.send(&bytes)?;
        let mut first_error = None;
        while !open.is_empty() {
            for (header, payload) in self.messages()? {
                if header.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                let known = open.remove(&header.sequence);
                if let Err(error) = acknowledgement(&payload, header.flags) {
                    if !known {
                        // An error about the batch itself: nothing else will come.
                        return Err(error);
                    }
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Asks for one object.
    pub(crate) fn get(&mut self, message: Message) -> Result<Answer> {
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        loop {
            for (header, payload) in self.messages()? {
                if header.sequence != sequence {
                    continue;
                }
                if header.kind == libc::NLMSG_ERROR as u16 {
                    acknowledgement(&payload, header.flags)?;
                    return Err(NetlinkError { errno: libc::ENOENT, message: None });
                }
                return Ok(Answer { kind: header.kind, payload });
            }
        }
    }

    /// Asks for all objects; `message` is made anew for each attempt.
    pub(crate) fn dump(&mut self, message: impl Fn() -> Message) -> Result<Vec<Answer>> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            let mut message = message();
            add_flags(&mut message, libc::NLM_F_DUMP);
            let sequence = self.next_sequence();
            self.send(&message.finish(sequence))?;
            let mut answers = Vec::new();
            let mut disturbed = false;
            'parts: loop {
                for (header, payload) in self.messages()? {
                    if header.sequence != sequence {
                        continue;
                    }
                    disturbed |= libc::c_int::from(header.flags) & libc::NLM_F_DUMP_INTR != 0;
                    match libc::c_int::from(header.kind) {
                        libc::NLMSG_DONE => break 'parts,
                        libc::NLMSG_ERROR => acknowledgement(&payload, header.flags)?,
                        _ => answers.push(Answer { kind: header.kind, payload }),
                    }
                }
            }
            if !disturbed {
                return Ok(answers);
            }
        }
        Err(NetlinkError {
            errno: libc::EAGAIN,
            message: Some("the dump was disturbed again and again".into()),
        })
    }

    fn messages(&mut self) -> Result<Vec<(Header, Vec<u8>)>> {
        let length = self.receive()?;
        let mut rest = &self.buffer[..length];
        let mut messages = Vec::new();
        while rest.len() >= HEADER_BYTES {
            let size = u32::from_ne_bytes(rest[0..4].try_into().expect("4 bytes")) as usize;
            if size < HEADER_BYTES || size > rest.len() {
                break;
            }
            let header = Header {
                kind: u16::from_ne_bytes([rest[4], rest[5]]),
                flags: u16::from_ne_bytes([rest[6], rest[7]]),
                sequence: u32::from_ne_bytes(rest[8..12].try_into().expect("4 bytes")),
            };
            messages.push((header, rest[HEADER_BYTES..size].to_vec()));
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(messages)
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn add_flags(message: &mut Message, flags: libc::c_int) {
    let old = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]);
    message.bytes[6..8].copy_from_slice(&(old | flags as u16).to_ne_bytes());
}

/// Reads an `nlmsgerr`.
fn acknowledgement(payload: &[u8], flags: u16) -> Result<()> {
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let Some(errno) = payload.get(0..4) else {
        return Err(NetlinkError { errno: libc::EPROTO, message: None });
    };
    let errno = -i32::from_ne_bytes(errno.try_into().expect("4 bytes"));
    if errno == 0 {
        return Ok(());
    }
    // NETLINK_CAP_ACK: only the header of our message is quoted.
    let message = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(payload.get(4 + HEADER_BYTES..).unwrap_or_default()))
        .and_then(|mut all| all.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, text)| text_of(text));
    Err(NetlinkError { errno, message })
}

/// Walks attributes; the nested flag is taken off.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some((kind, value))
    })
}

pub(crate) fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

pub(crate) fn number_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(0..4)?.try_into().ok()?))
}
