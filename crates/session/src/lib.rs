//! The Session Manager message protocol, as the ordinary client plugin speaks it; no I/O and no clock of its own.
//!
//! ```text
//!  client                                      agent
//!    │ text frame: OpenDataChannelInput (token)  │
//!    │──────────────────────────────────────────▶│
//!    │◀── HandshakeRequest ── HandshakeResponse ─▶│
//!    │◀───────────── HandshakeComplete ──────────│
//!    │◀─ Output ──  Output (what is typed), Size ▶│   every stream message is acknowledged, resent until it is
//!    │◀──────────────── channel_closed ──────────│
//! ```
//!
//! - [`Message`] is one binary frame.
//! - [`Channel`] is either end of the stream: sequence, acknowledgements, resending, order.
//! - [`handshake`] has the JSON bodies.
//! - [`Agent`] and [`Client`] are the two ends of a session over a channel.

mod agent;
mod channel;
mod client;
pub mod handshake;
mod message;

pub use agent::{Agent, AgentEvent};
pub use channel::{Channel, ChannelError, Delivered, IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX, RESENDS_MAX};
pub use client::{Client, ClientEvent};
pub use message::{DecodeError, MESSAGE_BYTES_MAX, Message, MessageType, Payload};

/// Decodes whatever it is given, as one frame from a client and as one from an agent: for fuzzing.
pub fn fuzz(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    let mut agent = Agent::new([0; 16], true, 0);
    let mut client = Client::new([1; 16]);
    for frame in data.split(|byte| *byte == 0xff) {
        let _ = handshake::OpenDataChannel::parse(frame);
        let _ = agent.receive(frame, 0);
        let _ = client.receive(frame, 0);
    }
}
