//! The agent's end: it begins the handshake, and afterwards hands on what is typed.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::channel::{Channel, ChannelError, Delivered};
use crate::handshake::{Flag, HandshakeComplete, HandshakeRequest, HandshakeResponse, RequestedAction, Size};
use crate::message::Payload;

/// As the client sees it; the plugin asks for 3.0 and later before it sends flags.
const AGENT_VERSION: &str = "3.3.0.0";
const SESSION_TYPE: &str = "InteractiveCommands";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The handshake is over: begin.
    Ready,
    Input(Bytes),
    EndOfInput,
    Resize {
        rows: u16,
        columns: u16,
    },
    /// The person has left.
    Terminate,
}

pub struct Agent {
    channel: Channel,
    ready: bool,
    began_ms: u64,
    /// The client is one that is told the exit code.
    ours: bool,
}

impl Agent {
    /// Begins the handshake. `ours`: whether the client takes an exit code; the ordinary plugin would print it.
    pub fn new(seed: [u8; 16], ours: bool, now_ms: u64) -> Self {
        let mut channel = Channel::of_agent(seed);
        let action = RequestedAction {
            action_type: "SessionType".into(),
            action_parameters: json!({ "SessionType": SESSION_TYPE, "Properties": Value::Null }),
        };
        let request =
            HandshakeRequest { agent_version: AGENT_VERSION.into(), requested_client_actions: vec![action] };
        channel.send(Payload::HandshakeRequest, &serde_json::to_vec(&request).unwrap_or_default(), now_ms);
        Self { channel, ready: false, began_ms: now_ms, ours }
    }

    /// For frames, room and resending.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Takes a binary frame and says what it means.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64) -> Result<Vec<AgentEvent>, ChannelError> {
        self.channel.receive(frame, now_ms)?;
        let mut events = Vec::new();
        while let Some(delivered) = self.channel.next_delivered() {
            let Delivered::Stream { payload, bytes } = delivered else { continue };
            events.extend(self.event(payload, bytes, now_ms)?);
        }
        Ok(events)
    }

    fn event(
        &mut self,
        payload: Option<Payload>,
        bytes: Bytes,
        now_ms: u64,
    ) -> Result<Option<AgentEvent>, ChannelError> {
        let body = |what, error: serde_json::Error| ChannelError::Body { what, why: error.to_string() };
        Ok(match payload {
            Some(Payload::HandshakeResponse) if !self.ready => {
                let response: HandshakeResponse =
                    serde_json::from_slice(&bytes).map_err(|error| body("HandshakeResponse", error))?;
                if let Some(failed) = response.errors.iter().flatten().next() {
                    return Err(ChannelError::Body { what: "HandshakeResponse", why: failed.clone() });
                }
                self.ready = true;
                let complete = HandshakeComplete {
                    handshake_time_to_complete: now_ms.saturating_sub(self.began_ms) * 1_000_000,
                    customer_message: String::new(),
                };
                let complete = serde_json::to_vec(&complete).unwrap_or_default();
                self.channel.send(Payload::HandshakeComplete, &complete, now_ms);
                Some(AgentEvent::Ready)
            }
            // What comes before the handshake is done means nothing yet.
            _ if !self.ready => None,
            Some(Payload::Output) => Some(AgentEvent::Input(bytes)),
            Some(Payload::Size) => {
                let size: Size = serde_json::from_slice(&bytes).map_err(|error| body("Size", error))?;
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                Some(AgentEvent::Resize { rows: cells(size.rows), columns: cells(size.cols) })
            }
            Some(Payload::Flag) => match Flag::parse(&bytes) {
                Some(Flag::TerminateSession) => Some(AgentEvent::Terminate),
                Some(Flag::DisconnectToPort) => Some(AgentEvent::EndOfInput),
                Some(Flag::ConnectToPortError) | None => None,
            },
            _ => None,
        })
    }

    pub fn output(&mut self, bytes: &[u8], now_ms: u64) {
        self.channel.send(Payload::Output, bytes, now_ms);
    }

    pub fn error_output(&mut self, bytes: &[u8], now_ms: u64) {
        self.channel.send(Payload::StdErr, bytes, now_ms);
    }

    /// Told to clients that take it.
    pub fn exited(&mut self, code: i32, now_ms: u64) {
        if self.ours {
            self.channel.send(Payload::ExitCode, code.to_string().as_bytes(), now_ms);
        }
    }
}
