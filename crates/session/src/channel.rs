//! One end of the reliable stream: numbered messages, each acknowledged, resent until it is, handed on in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::message::{DecodeError, Message, MessageType, Payload};

/// Messages sent and not yet acknowledged. More have to wait: ask [`Channel::has_room`].
pub const IN_FLIGHT_MAX: usize = 64;
/// Of one stream message; as the agent's.
pub const PAYLOAD_BYTES_MAX: usize = 1024;
/// Messages that came before their turn. A further one is not acknowledged, and so comes again.
const EARLY_MAX: usize = 256;
const RESEND_FIRST_MS: u64 = 200;
const RESEND_MAX_MS: u64 = 1000;
/// About five minutes, as the agent's.
pub const RESENDS_MAX: u32 = 300;
/// SYN and FIN: the only message of its kind.
const ACKNOWLEDGE_FLAGS: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Message(#[from] DecodeError),
    #[error("a {0} message is not for this end of the session")]
    Unexpected(&'static str),
    #[error("the body of the {what} message cannot be read: {why}")]
    Body { what: &'static str, why: String },
    #[error("the other end has not acknowledged a message sent {RESENDS_MAX} times")]
    Silent,
}

#[derive(Serialize, Deserialize)]
struct Acknowledge {
    #[serde(rename = "AcknowledgedMessageType")]
    message_type: String,
    #[serde(rename = "AcknowledgedMessageId")]
    id: String,
    #[serde(rename = "AcknowledgedMessageSequenceNumber")]
    sequence: i64,
    #[serde(rename = "IsSequentialMessage")]
    sequential: bool,
}

/// The body of `channel_closed`.
#[derive(Default, Serialize, Deserialize)]
struct Closed {
    #[serde(rename = "MessageId", default)]
    id: String,
    #[serde(rename = "CreatedDate", default)]
    created: String,
    #[serde(rename = "DestinationId", default)]
    destination: String,
    #[serde(rename = "SessionId", default)]
    session: String,
    #[serde(rename = "MessageType", default)]
    message_type: String,
    #[serde(rename = "SchemaVersion", default)]
    schema: u32,
    #[serde(rename = "Output", default)]
    output: String,
}

/// What came from the other end, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    Stream {
        /// `None`: of a kind not known here.
        payload: Option<Payload>,
        bytes: Bytes,
    },
    /// The agent has ended the session, with what it says of that.
    Closed { output: String },
}

struct InFlight {
    frame: Vec<u8>,
    id: [u8; 16],
    due_ms: u64,
    wait_ms: u64,
    resends: u32,
}

/// One end of a session. Times are milliseconds of any clock that never goes back.
pub struct Channel {
    sends: MessageType,
    receives: MessageType,
    /// Message ids are this and a counter.
    seed: [u8; 16],
    ids: u64,
    next_sequence: i64,
    expected: i64,
    in_flight: BTreeMap<i64, InFlight>,
    early: BTreeMap<i64, Message>,
    accepting: bool,
    frames: VecDeque<Vec<u8>>,
    delivered: VecDeque<Delivered>,
}

impl Channel {
    /// `seed`: 16 random bytes.
    pub fn of_agent(seed: [u8; 16]) -> Self {
        Self::new(MessageType::OutputStreamData, MessageType::InputStreamData, seed)
    }

    /// `seed`: 16 random bytes.
    pub fn of_client(seed: [u8; 16]) -> Self {
        Self::new(MessageType::InputStreamData, MessageType::OutputStreamData, seed)
    }

    fn new(sends: MessageType, receives: MessageType, seed: [u8; 16]) -> Self {
        Self {
            sends,
            receives,
            seed,
            ids: 0,
            next_sequence: 0,
            expected: 0,
            in_flight: BTreeMap::new(),
            early: BTreeMap::new(),
            accepting: true,
            frames: VecDeque::new(),
            delivered: VecDeque::new(),
        }
    }

    /// Whether another message may be sent now. Handshake and end are sent anyway: there are few of them.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    pub fn all_acknowledged(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Sends bytes, cut into messages of [`PAYLOAD_BYTES_MAX`].
    pub fn send(&mut self, payload: Payload, bytes: &[u8], now_ms: u64) {
        if bytes.len() <= PAYLOAD_BYTES_MAX || matches!(payload, Payload::HandshakeRequest) {
            return self.send_one(payload, bytes, now_ms);
        }
        for piece in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.send_one(payload, piece, now_ms);
        }
    }

    fn send_one(&mut self, payload: Payload, bytes: &[u8], now_ms: u64) {
        let id = self.id();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let message = Message {
            message_type: self.sends,
            created_ms: now_ms,
            sequence,
            flags: u64::from(sequence == 0),
            id,
            payload_type: payload as u32,
            payload: Bytes::copy_from_slice(bytes),
        };
        let frame = message.encode();
        self.frames.push_back(frame.clone());
        let wait_ms = RESEND_FIRST_MS;
        self.in_flight
            .insert(sequence, InFlight { frame, id, due_ms: now_ms + wait_ms, wait_ms, resends: 0 });
    }

    /// The agent's last message; it is not acknowledged.
    pub fn close(&mut self, session: &str, output: &str, now_ms: u64) {
        let id = self.id();
        let body = Closed {
            id: uuid_text(id),
            created: now_ms.to_string(),
            session: session.to_owned(),
            message_type: MessageType::ChannelClosed.name().to_owned(),
            schema: 1,
            output: output.to_owned(),
            ..Closed::default()
        };
        let payload = serde_json::to_vec(&body).unwrap_or_default();
        self.control(MessageType::ChannelClosed, 0, id, payload, now_ms);
    }

    fn control(&mut self, kind: MessageType, flags: u64, id: [u8; 16], payload: Vec<u8>, now_ms: u64) {
        let message = Message {
            message_type: kind,
            created_ms: now_ms,
            sequence: 0,
            flags,
            id,
            payload_type: 0,
            payload: payload.into(),
        };
        self.frames.push_back(message.encode());
    }

    /// Back-pressure: while nothing is accepted, new messages are not acknowledged, and so come again later.
    pub fn set_accepting(&mut self, accepting: bool) {
        self.accepting = accepting;
    }

    /// Takes a binary frame from the other end.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64) -> Result<(), ChannelError> {
        let message = Message::decode(frame)?;
        match message.message_type {
            kind if kind == self.receives => self.take(message, now_ms),
            MessageType::Acknowledge => {
                let body: Acknowledge = parse("acknowledge", &message.payload)?;
                // One that names another message of this number acknowledges nothing of ours.
                if self.in_flight.get(&body.sequence).is_some_and(|sent| uuid_text(sent.id) == body.id) {
                    self.in_flight.remove(&body.sequence);
                }
            }
            MessageType::ChannelClosed if self.receives == MessageType::OutputStreamData => {
                let body: Closed = parse("channel_closed", &message.payload)?;
                self.delivered.push_back(Delivered::Closed { output: body.output });
            }
            // The relay's hints that the other end is there or not; here it always is.
            MessageType::StartPublication | MessageType::PausePublication => {}
            other => return Err(ChannelError::Unexpected(other.name())),
        }
        Ok(())
    }

    fn take(&mut self, message: Message, now_ms: u64) {
        let sequence = message.sequence;
        if sequence >= self.expected && !self.accepting {
            return;
        }
        if sequence > self.expected && !self.early.contains_key(&sequence) && self.early.len() >= EARLY_MAX {
            return;
        }
        // Also one that was there already: its acknowledgement may have been lost.
        self.acknowledge(&message, now_ms);
        if sequence < self.expected {
            return;
        }
        self.early.insert(sequence, message);
        while let Some(next) = self.early.remove(&self.expected) {
            self.expected += 1;
            let payload = Payload::of(next.payload_type);
            self.delivered.push_back(Delivered::Stream { payload, bytes: next.payload });
        }
    }

    fn acknowledge(&mut self, message: &Message, now_ms: u64) {
        let body = Acknowledge {
            message_type: message.message_type.name().to_owned(),
            id: uuid_text(message.id),
            sequence: message.sequence,
            sequential: true,
        };
        let payload = serde_json::to_vec(&body).unwrap_or_default();
        let id = self.id();
        self.control(MessageType::Acknowledge, ACKNOWLEDGE_FLAGS, id, payload, now_ms);
    }

    /// The next binary frame for the other end.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// What came, in order.
    pub fn next_delivered(&mut self) -> Option<Delivered> {
        self.delivered.pop_front()
    }

    /// The connection below is another one, and what was on its way may be lost: all that is not acknowledged is sent
    /// again, at once and in order.
    pub fn reconnected(&mut self, now_ms: u64) {
        self.frames.clear();
        for sent in self.in_flight.values_mut() {
            sent.wait_ms = RESEND_FIRST_MS;
            sent.due_ms = now_ms + sent.wait_ms;
            self.frames.push_back(sent.frame.clone());
        }
    }

    /// When [`Channel::resend`] has something to do.
    pub fn resend_at_ms(&self) -> Option<u64> {
        self.in_flight.values().map(|sent| sent.due_ms).min()
    }

    /// Sends again what has waited for its acknowledgement too long.
    pub fn resend(&mut self, now_ms: u64) -> Result<(), ChannelError> {
        for sent in self.in_flight.values_mut().filter(|sent| sent.due_ms <= now_ms) {
            if sent.resends >= RESENDS_MAX {
                return Err(ChannelError::Silent);
            }
            sent.resends += 1;
            sent.wait_ms = (sent.wait_ms * 2).min(RESEND_MAX_MS);
            sent.due_ms = now_ms + sent.wait_ms;
            self.frames.push_back(sent.frame.clone());
        }
        Ok(())
    }

    fn id(&mut self) -> [u8; 16] {
        self.ids += 1;
        let mut id = self.seed;
        for (byte, count) in id[8..].iter_mut().zip(self.ids.to_be_bytes()) {
            *byte ^= count;
        }
        // RFC 9562: version 4, variant 1. The counter does not reach these bits.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        id
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, ChannelError> {
    serde_json::from_slice(body).map_err(|error| ChannelError::Body { what, why: error.to_string() })
}

fn uuid_text(id: [u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A network that loses, repeats and reorders frames as told.
    fn carry(from: &mut Channel, to: &mut Channel, fates: &mut impl Iterator<Item = u8>, now_ms: u64) {
        let mut frames = Vec::new();
        while let Some(frame) = from.next_frame() {
            match fates.next().unwrap_or(3) % 4 {
                0 => {}
                1 => frames.extend([frame.clone(), frame]),
                2 => frames.insert(0, frame),
                _ => frames.push(frame),
            }
        }
        for frame in frames {
            to.receive(&frame, now_ms).expect("a frame of the other end");
        }
    }

    fn stream(channel: &mut Channel) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(Delivered::Stream { bytes, .. }) = channel.next_delivered() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    proptest! {
        #[test]
        fn everything_arrives_once_and_in_order(
            data in proptest::collection::vec(any::<u8>(), 0..20_000),
            fates in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let (mut agent, mut client) = (Channel::of_agent([1; 16]), Channel::of_client([2; 16]));
            let (mut fates, mut now_ms, mut seen) = (fates.into_iter(), 0, Vec::new());
            agent.send(Payload::Output, &data, now_ms);
            for _ in 0..500 {
                carry(&mut agent, &mut client, &mut fates, now_ms);
                carry(&mut client, &mut agent, &mut fates, now_ms);
                seen.extend(stream(&mut client));
                let Some(due) = agent.resend_at_ms() else { break };
                now_ms = due;
                agent.resend(now_ms).expect("it is heard in time");
            }
            prop_assert!(agent.all_acknowledged());
            prop_assert_eq!(seen, data);
        }
    }

    #[test]
    fn another_connection_brings_all_that_was_not_acknowledged() {
        let (mut agent, mut client) = (Channel::of_agent([1; 16]), Channel::of_client([2; 16]));
        agent.send(Payload::Output, &[1; 3 * PAYLOAD_BYTES_MAX], 0);
        // One arrives, and is acknowledged; of the next only the acknowledgement is lost; the last is lost.
        client.receive(&agent.next_frame().expect("one"), 0).expect("a frame");
        agent.receive(&client.next_frame().expect("an acknowledgement"), 0).expect("a frame");
        client.receive(&agent.next_frame().expect("two"), 0).expect("a frame");
        client.next_frame().expect("an acknowledgement");
        agent.send(Payload::Output, &[2], 0);
        agent.reconnected(1);
        let frames: Vec<Vec<u8>> = std::iter::from_fn(|| agent.next_frame()).collect();
        let sequences: Vec<i64> =
            frames.iter().map(|frame| Message::decode(frame).expect("a frame").sequence).collect();
        assert_eq!(sequences, [1, 2, 3]);
        for frame in frames {
            client.receive(&frame, 1).expect("a frame");
        }
        assert_eq!(stream(&mut client), [vec![1; 3 * PAYLOAD_BYTES_MAX], vec![2]].concat());
        while let Some(frame) = client.next_frame() {
            agent.receive(&frame, 1).expect("a frame");
        }
        assert!(agent.all_acknowledged());
    }

    #[test]
    fn who_is_never_heard_is_given_up() {
        let mut agent = Channel::of_agent([1; 16]);
        agent.send(Payload::Output, b"x", 0);
        let mut resends = 0;
        let error = loop {
            match agent.resend(agent.resend_at_ms().expect("in flight")) {
                Ok(()) => resends += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((resends, error), (RESENDS_MAX, ChannelError::Silent));
    }

    #[test]
    fn what_comes_too_early_and_too_much_is_not_acknowledged() {
        let (mut agent, mut client) = (Channel::of_agent([1; 16]), Channel::of_client([2; 16]));
        agent.send(Payload::Output, &vec![7; PAYLOAD_BYTES_MAX * (EARLY_MAX + 10)], 0);
        agent.next_frame().expect("the first, which is lost");
        while let Some(frame) = agent.next_frame() {
            client.receive(&frame, 0).expect("a frame");
        }
        let acknowledged = std::iter::from_fn(|| client.next_frame()).count();
        assert_eq!(acknowledged, EARLY_MAX);
        assert_eq!(client.next_delivered(), None);
    }

    #[test]
    fn each_end_refuses_what_only_it_sends() {
        let mut agent = Channel::of_agent([1; 16]);
        agent.send(Payload::Output, b"x", 0);
        let own = agent.next_frame().expect("a frame");
        assert_eq!(agent.receive(&own, 0), Err(ChannelError::Unexpected("output_stream_data")));
        agent.close("s", "bye", 0);
        let closed = agent.next_frame().expect("a frame");
        assert_eq!(agent.receive(&closed, 0), Err(ChannelError::Unexpected("channel_closed")));
        let mut client = Channel::of_client([2; 16]);
        client.receive(&closed, 0).expect("for a client");
        assert_eq!(client.next_delivered(), Some(Delivered::Closed { output: "bye".into() }));
    }
}
