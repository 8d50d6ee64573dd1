//! One binary frame.
//!
//! ```text
//! offset 0    4              36       40         48         56      64      80       112        116      120
//!        │ HL │ message type │ schema │ created  │ sequence │ flags │  id   │ SHA-256│ payload  │ length │ payload …
//!        │ u32│ 32, padded   │ u32    │ ms, u64  │ i64      │ u64   │ UUID  │        │ type u32 │ u32    │
//! ```
//! Big-endian. The header's length counts everything before the payload's length. A UUID's halves are swapped.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

const TYPE_AT: usize = 4;
const SCHEMA_AT: usize = 36;
const CREATED_AT: usize = 40;
const SEQUENCE_AT: usize = 48;
const FLAGS_AT: usize = 56;
const ID_AT: usize = 64;
const DIGEST_AT: usize = 80;
const PAYLOAD_TYPE_AT: usize = 112;
const LENGTH_AT: usize = 116;
const PAYLOAD_AT: usize = 120;
const SCHEMA_VERSION: u32 = 1;

/// Of a whole frame. The plugin sends at most 1 KiB of what is typed and small JSON.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// From the client.
    InputStreamData,
    /// From the agent.
    OutputStreamData,
    Acknowledge,
    ChannelClosed,
    StartPublication,
    PausePublication,
}

impl MessageType {
    const ALL: [Self; 6] = [
        Self::InputStreamData,
        Self::OutputStreamData,
        Self::Acknowledge,
        Self::ChannelClosed,
        Self::StartPublication,
        Self::PausePublication,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::InputStreamData => "input_stream_data",
            Self::OutputStreamData => "output_stream_data",
            Self::Acknowledge => "acknowledge",
            Self::ChannelClosed => "channel_closed",
            Self::StartPublication => "start_publication",
            Self::PausePublication => "pause_publication",
        }
    }
}

/// What a stream message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    Output = 1,
    Error = 2,
    Size = 3,
    Parameter = 4,
    HandshakeRequest = 5,
    HandshakeResponse = 6,
    HandshakeComplete = 7,
    EncryptionChallengeRequest = 8,
    EncryptionChallengeResponse = 9,
    Flag = 10,
    StdErr = 11,
    ExitCode = 12,
}

impl Payload {
    const ALL: [Self; 12] = [
        Self::Output,
        Self::Error,
        Self::Size,
        Self::Parameter,
        Self::HandshakeRequest,
        Self::HandshakeResponse,
        Self::HandshakeComplete,
        Self::EncryptionChallengeRequest,
        Self::EncryptionChallengeResponse,
        Self::Flag,
        Self::StdErr,
        Self::ExitCode,
    ];

    /// `None`: nothing known.
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub message_type: MessageType,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub sequence: i64,
    pub flags: u64,
    /// A UUID in its usual order.
    pub id: [u8; 16],
    /// See [`Payload`]; 0 where it means nothing.
    pub payload_type: u32,
    pub payload: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a message of {0} bytes: at least {PAYLOAD_AT} and at most {MESSAGE_BYTES_MAX} are allowed")]
    Size(usize),
    #[error("a header of {0} bytes: it has {LENGTH_AT}")]
    HeaderLength(u32),
    #[error("an unknown message type '{0}'")]
    Type(String),
    #[error("schema version {0}: only {SCHEMA_VERSION} is known")]
    Schema(u32),
    #[error("a payload of {said} bytes where {found} came")]
    PayloadLength { said: u32, found: usize },
    #[error("the payload does not have the digest that its header names")]
    Digest,
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = vec![0; PAYLOAD_AT];
        let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(LENGTH_AT as u32).to_be_bytes());
        put(TYPE_AT, &[b' '; SCHEMA_AT - TYPE_AT]);
        put(TYPE_AT, self.message_type.name().as_bytes());
        put(SCHEMA_AT, &SCHEMA_VERSION.to_be_bytes());
        put(CREATED_AT, &self.created_ms.to_be_bytes());
        put(SEQUENCE_AT, &self.sequence.to_be_bytes());
        put(FLAGS_AT, &self.flags.to_be_bytes());
        put(ID_AT, &swapped(self.id));
        put(DIGEST_AT, digest(&SHA256, &self.payload).as_ref());
        put(PAYLOAD_TYPE_AT, &self.payload_type.to_be_bytes());
        put(LENGTH_AT, &u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(&self.payload);
        frame
    }

    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        if !(PAYLOAD_AT..=MESSAGE_BYTES_MAX).contains(&frame.len()) {
            return Err(DecodeError::Size(frame.len()));
        }
        let header = u32_at(frame, 0);
        if header as usize != LENGTH_AT {
            return Err(DecodeError::HeaderLength(header));
        }
        let padded = String::from_utf8_lossy(&frame[TYPE_AT..SCHEMA_AT]);
        let name = padded.trim_matches(['\0', ' ']);
        let message_type = MessageType::ALL
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| DecodeError::Type(name.to_owned()))?;
        let schema = u32_at(frame, SCHEMA_AT);
        if schema != SCHEMA_VERSION {
            return Err(DecodeError::Schema(schema));
        }
        let payload = &frame[PAYLOAD_AT..];
        let said = u32_at(frame, LENGTH_AT);
        if said as usize != payload.len() {
            return Err(DecodeError::PayloadLength { said, found: payload.len() });
        }
        if digest(&SHA256, payload).as_ref() != &frame[DIGEST_AT..PAYLOAD_TYPE_AT] {
            return Err(DecodeError::Digest);
        }
        Ok(Self {
            message_type,
            created_ms: u64::from_be_bytes(array(frame, CREATED_AT)),
            sequence: i64::from_be_bytes(array(frame, SEQUENCE_AT)),
            flags: u64::from_be_bytes(array(frame, FLAGS_AT)),
            id: swapped(array(frame, ID_AT)),
            payload_type: u32_at(frame, PAYLOAD_TYPE_AT),
            payload: Bytes::copy_from_slice(payload),
        })
    }
}

fn array<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&frame[at..at + N]);
    bytes
}

fn u32_at(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(frame, at))
}

/// The less significant half comes first.
fn swapped(mut id: [u8; 16]) -> [u8; 16] {
    id.rotate_left(8);
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_message() -> impl Strategy<Value = Message> {
        let payload = proptest::collection::vec(any::<u8>(), 0..2000);
        (0..6usize, any::<(u64, i64, u64, [u8; 16], u32)>(), payload).prop_map(
            |(kind, (created_ms, sequence, flags, id, payload_type), payload)| Message {
                message_type: MessageType::ALL[kind],
                created_ms,
                sequence,
                flags,
                id,
                payload_type,
                payload: payload.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message in any_message()) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn a_changed_payload_is_noticed(message in any_message(), at in any::<usize>()) {
            let mut frame = message.encode();
            prop_assume!(frame.len() > PAYLOAD_AT);
            let at = PAYLOAD_AT + at % (frame.len() - PAYLOAD_AT);
            frame[at] ^= 1;
            prop_assert_eq!(Message::decode(&frame), Err(DecodeError::Digest));
        }

        #[test]
        fn bytes_of_a_stranger_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            crate::fuzz(&bytes);
        }
    }

    #[test]
    fn the_frame_is_laid_out_as_published() {
        let message = Message {
            message_type: MessageType::InputStreamData,
            created_ms: 0x0102,
            sequence: 7,
            flags: 1,
            id: *b"0123456789abcdef",
            payload_type: Payload::Output as u32,
            payload: Bytes::from_static(b"hi"),
        };
        let frame = message.encode();
        assert_eq!(&frame[..4], [0, 0, 0, 116]);
        assert_eq!(&frame[4..36], b"input_stream_data               ");
        assert_eq!(&frame[36..40], [0, 0, 0, 1]);
        assert_eq!(&frame[40..48], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(&frame[48..56], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(&frame[64..80], b"89abcdef01234567");
        assert_eq!(&frame[112..], [0, 0, 0, 1, 0, 0, 0, 2, b'h', b'i']);
        assert_eq!(Message::decode(&frame[..119]), Err(DecodeError::Size(119)));
        let said = DecodeError::PayloadLength { said: 2, found: 1 };
        assert_eq!(Message::decode(&frame[..121]), Err(said));
    }
}
