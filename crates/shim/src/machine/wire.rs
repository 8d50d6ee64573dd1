//! What the shim of a micro-VM task and PID 1 of its guest say to each other over one virtio-serial port.
//!
//! ```text
//! 0        4      5         9
//! | length | kind | channel | payload …        length counts kind, channel and payload; big-endian
//! ```
//!
//! [`Kind::Call`] carries the shim's own protocol as it is, a request down and a reply up; [`Kind::Control`] what only
//! the two of them know; the other kinds are streams, each direction of each one channel with a credit
//! ([`super::streams`]), and the containers' output. Nothing is ever sent again: both ends live as long as the machine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::log::Stream;
use crate::protocol::{self, Exec, TaskConfig, WindowSize, valid_id};

/// Raised when a frame changes its meaning. Host and guest program come from one build.
pub const LINK_VERSION: u32 = 6;
/// Of the virtio-serial port.
pub const PORT_NAME: &str = "ferrogate";
/// Kind and channel.
const HEAD_BYTES: usize = 5;
/// The longest frame either side takes: the longest call, and a little for what is around it.
pub const FRAME_BYTES_MAX: usize = protocol::FRAME_BYTES_MAX + (64 << 10);
/// The most bytes of a stream in one frame.
pub const DATA_BYTES_MAX: usize = 32 << 10;
/// What a channel's sender may have under way before the receiver grants more.
pub const WINDOW_BYTES: u32 = 64 << 10;
/// Output of one container that may be under way.
pub const OUTPUT_WINDOW_BYTES: u64 = 256 << 10;
/// Where the task lives in the guest.
pub const GUEST_TASK_DIR: &str = "/run/task";
/// Its cgroup, and its shim's. It has nobody else's: each level more would have controllers of its own.
pub const GUEST_CGROUP: &str = "task";
pub const GUEST_SHIM_CGROUP: &str = "shim";
/// The machine's own disk.
pub const GUEST_DISK: &str = "/dev/vda";
/// Of the kernel's command line, which PID 1 finds in its environment: so many bytes of the disk are for what the containers
/// write, encrypted with a key made in the guest; behind them is the empty file system it begins with ([`super::template`]).
/// Without it they write to memory.
pub const STORAGE_VARIABLE: &str = "ferrogate_storage";
/// Its one network interface.
pub const GUEST_LINK: &str = "eth0";
/// Where the guest mounts the layers of images: a directory for each disk.
pub const GUEST_LAYERS_DIR: &str = "/run/layers";
/// The guest's one network namespace, for containers that join the task's interface.
pub const GUEST_NETWORK: &str = "/proc/1/ns/net";
/// Of the guest's loopback network what is on the host's side of its interface: the names of Service Connect.
pub const HOST_NAMES: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 255, 0, 0), 16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Control,
    Call,
    Data,
    /// The receiver of a channel takes so many bytes more (u32).
    Credit,
    /// Nothing more comes on the channel.
    End,
    /// The receiver takes no more.
    Closed,
    Output,
}

const KINDS: [Kind; 7] =
    [Kind::Control, Kind::Call, Kind::Data, Kind::Credit, Kind::End, Kind::Closed, Kind::Output];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: Kind,
    pub channel: u32,
    pub payload: &'a [u8],
}

/// The other end does not keep to the protocol; there is no way on from here.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("frame of {length} bytes; {HEAD_BYTES} to {FRAME_BYTES_MAX} are taken")]
    Length { length: usize },
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    #[error("channel {channel}: {bytes} bytes more than were granted")]
    Credit { channel: u32, bytes: usize },
    #[error("{0}")]
    Message(String),
    #[error("not a valid message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Host to guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Down {
    /// To a guest from a snapshot, which has said it to nobody: [`Up::Hello`] again.
    Hello,
    /// To a guest that is nobody's; answered by [`Up::Ready`] or [`Up::Failed`].
    Setup(Box<Setup>),
    /// The call, once these disks are mounted below [`GUEST_LAYERS_DIR`]. Answered as one. To PID 1 it is text: its parser
    /// is the shim's alone.
    CreateContainer {
        id: u64,
        container: String,
        disks: Vec<u32>,
        request: Box<RawValue>,
    },
    /// The call of that name; its stdin, stdout and stderr are `channel` and the two after it. A terminal has two: what
    /// is typed, what is shown.
    Exec {
        id: u64,
        channel: u32,
        exec: Box<Exec>,
    },
    Resize {
        channel: u32,
        size: WindowSize,
    },
    /// Output before this offset is on the host's disk.
    Acknowledge {
        container: String,
        offset: u64,
    },
    /// Nanoseconds since 1970: set the clock. Answered by [`Up::Clock`].
    Clock {
        now_ns: i64,
    },
    /// The task's network interface is this one.
    Interface(Interface),
}

/// Guest to host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "up", deny_unknown_fields)]
pub enum Up {
    /// The first message.
    Hello { version: u32, steps: Vec<BootStep> },
    /// … of a guest of which nothing can be made: the host is to end it.
    Unfit { why: String },
    /// The guest is the task's. It comes now to the interface and the containers that it was told of since its set-up, and
    /// takes all other calls.
    Ready { steps: Vec<BootStep> },
    /// It cannot be.
    Failed { why: String },
    /// The time was heard: the guest does not stand still.
    Clock,
}

/// When something was done, counted from the guest kernel's first moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootStep {
    pub step: String,
    pub at_us: u64,
}

/// What makes a booted guest a task's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    pub now_ns: i64,
    /// For the kernel's pool: two guests of one snapshot must not have the same.
    pub entropy: Vec<u8>,
    pub hostname: String,
    /// For the shim in the guest.
    pub task: TaskConfig,
    /// Written below [`GUEST_TASK_DIR`]: relative path and content.
    pub files: BTreeMap<String, String>,
    /// The containers write to the machine's disk: the guest was begun with [`STORAGE_VARIABLE`].
    pub has_storage: bool,
}

/// The task's network interface, as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub mac: [u8; 6],
    pub mtu: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
    /// The default route goes there, and everything is reached by it.
    pub gateway: Ipv4Addr,
    /// Who answers for the gateway.
    pub gateway_mac: [u8; 6],
}

/// One container's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output<'a> {
    pub container: &'a str,
    /// [`Stream::Stdout`] or [`Stream::Stderr`].
    pub stream: Stream,
    /// Of the guest's log, behind this output.
    pub end: u64,
    pub bytes: &'a [u8],
}

pub fn encode(kind: Kind, channel: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = HEAD_BYTES + payload.len();
    debug_assert!(length <= FRAME_BYTES_MAX);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(payload);
}

pub fn encode_json<T: Serialize>(kind: Kind, message: &T, out: &mut Vec<u8>) -> Result<(), Broken> {
    let text = serde_json::to_vec(message)?;
    if HEAD_BYTES + text.len() > FRAME_BYTES_MAX {
        return Err(Broken::Length { length: HEAD_BYTES + text.len() });
    }
    encode(kind, 0, &text, out);
    Ok(())
}

/// The first whole frame in `input` with the number of bytes it took; `None` when more bytes are needed.
pub fn decode(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Broken> {
    let Some(header) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if !(HEAD_BYTES..=FRAME_BYTES_MAX).contains(&length) {
        return Err(Broken::Length { length });
    }
    let Some(body) = input.get(4..4 + length) else { return Ok(None) };
    let [kind, c0, c1, c2, c3, payload @ ..] = body else { return Ok(None) };
    let known = KINDS.into_iter().find(|known| *known as u8 == *kind).ok_or(Broken::Kind(*kind))?;
    let channel = u32::from_be_bytes([*c0, *c1, *c2, *c3]);
    Ok(Some((Frame { kind: known, channel, payload }, 4 + length)))
}

pub fn encode_output(output: &Output<'_>, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(output.container.len() + 11 + output.bytes.len());
    payload.push(output.container.len() as u8);
    payload.extend_from_slice(output.container.as_bytes());
    payload.push(u8::from(output.stream == Stream::Stderr));
    payload.extend_from_slice(&output.end.to_be_bytes());
    payload.extend_from_slice(output.bytes);
    encode(Kind::Output, 0, &payload, out);
}

pub fn decode_output(payload: &[u8]) -> Result<Output<'_>, Broken> {
    let parsed = || {
        let (length, rest) = payload.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (stream, rest) = rest.split_first()?;
        let (end, bytes) = rest.split_first_chunk::<8>()?;
        let container = std::str::from_utf8(name).ok()?;
        valid_id(container).ok()?;
        let stream = match stream {
            0 => Stream::Stdout,
            1 => Stream::Stderr,
            _ => return None,
        };
        Some(Output { container, stream, end: u64::from_be_bytes(*end), bytes })
    };
    parsed().ok_or_else(|| Broken::Message("output frame damaged".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_survive_the_link() {
        for kind in KINDS {
            let mut bytes = Vec::new();
            encode(kind, 77, b"payload", &mut bytes);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).unwrap().is_none(), "cut at {cut}");
            }
            let (frame, used) = decode(&bytes).unwrap().unwrap();
            assert_eq!((frame, used), (Frame { kind, channel: 77, payload: b"payload" }, bytes.len()));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_comes() {
        for length in [0, HEAD_BYTES - 1, FRAME_BYTES_MAX + 1, u32::MAX as usize] {
            assert!(matches!(decode(&(length as u32).to_be_bytes()), Err(Broken::Length { .. })), "{length}");
        }
    }

    #[test]
    fn the_longest_call_fits() {
        let mut bytes = Vec::new();
        encode(Kind::Call, 0, &vec![b' '; protocol::FRAME_BYTES_MAX], &mut bytes);
        assert!(decode(&bytes).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode(&bytes);
            let _ = decode_output(&bytes);
        }

        #[test]
        fn output_survives(name in "[a-z][a-z0-9_-]{0,40}", stderr in any::<bool>(), end in any::<u64>(),
                           bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let output = Output { container: &name, stream, end, bytes: &bytes };
            let mut frame = Vec::new();
            encode_output(&output, &mut frame);
            let (frame, _) = decode(&frame).unwrap().unwrap();
            prop_assert_eq!(decode_output(frame.payload).unwrap(), output);
        }
    }
}
