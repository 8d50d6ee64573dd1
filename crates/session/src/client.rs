//! The client's end: it answers the handshake, and afterwards hands on what is written.

use bytes::Bytes;

use crate::channel::{Channel, ChannelError, Delivered};
use crate::handshake::{
    ACTION_SUCCESS, ACTION_UNSUPPORTED, Flag, HandshakeRequest, HandshakeResponse, ProcessedAction, Size,
};
use crate::message::Payload;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The handshake is over: what is typed may be sent.
    Ready,
    Output(Bytes),
    ErrorOutput(Bytes),
    Exited(i32),
    Closed {
        output: String,
    },
}

pub struct Client {
    channel: Channel,
}

impl Client {
    pub fn new(seed: [u8; 16]) -> Self {
        Self { channel: Channel::of_client(seed) }
    }

    /// For frames, room and resending.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Takes a binary frame and says what it means.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64) -> Result<Vec<ClientEvent>, ChannelError> {
        self.channel.receive(frame, now_ms)?;
        let mut events = Vec::new();
        while let Some(delivered) = self.channel.next_delivered() {
            match delivered {
                Delivered::Closed { output } => events.push(ClientEvent::Closed { output }),
                Delivered::Stream { payload: Some(payload), bytes } => {
                    events.extend(self.event(payload, bytes, now_ms)?);
                }
                Delivered::Stream { payload: None, .. } => {}
            }
        }
        Ok(events)
    }

    fn event(
        &mut self,
        payload: Payload,
        bytes: Bytes,
        now_ms: u64,
    ) -> Result<Option<ClientEvent>, ChannelError> {
        let wrong = |what, why: String| ChannelError::Body { what, why };
        Ok(match payload {
            Payload::HandshakeRequest => {
                let request: HandshakeRequest = serde_json::from_slice(&bytes)
                    .map_err(|error| wrong("HandshakeRequest", error.to_string()))?;
                let response = serde_json::to_vec(&respond(request)).unwrap_or_default();
                self.channel.send(Payload::HandshakeResponse, &response, now_ms);
                None
            }
            Payload::HandshakeComplete => Some(ClientEvent::Ready),
            Payload::Output => Some(ClientEvent::Output(bytes)),
            Payload::StdErr | Payload::Error => Some(ClientEvent::ErrorOutput(bytes)),
            Payload::ExitCode => {
                let code = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
                let code = code.ok_or_else(|| wrong("ExitCode", "it is not a number".into()))?;
                Some(ClientEvent::Exited(code))
            }
            _ => None,
        })
    }

    pub fn input(&mut self, bytes: &[u8], now_ms: u64) {
        self.channel.send(Payload::Output, bytes, now_ms);
    }

    pub fn flag(&mut self, flag: Flag, now_ms: u64) {
        self.channel.send(Payload::Flag, &flag.body(), now_ms);
    }

    pub fn resize(&mut self, size: Size, now_ms: u64) {
        self.channel.send(Payload::Size, &serde_json::to_vec(&size).unwrap_or_default(), now_ms);
    }
}

fn respond(request: HandshakeRequest) -> HandshakeResponse {
    let (mut processed, mut errors) = (Vec::new(), Vec::new());
    for action in request.requested_client_actions {
        let known = action.action_type == "SessionType";
        let error = if known { String::new() } else { format!("Unsupported action {}", action.action_type) };
        if !known {
            errors.push(error.clone());
        }
        processed.push(ProcessedAction {
            action_type: action.action_type,
            action_status: if known { ACTION_SUCCESS } else { ACTION_UNSUPPORTED },
            action_result: serde_json::Value::Null,
            error,
        });
    }
    HandshakeResponse {
        client_version: "1.2.0.0".into(),
        processed_client_actions: processed,
        errors: Some(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Agent, AgentEvent};

    /// Carries frames both ways until nothing moves.
    fn talk(agent: &mut Agent, client: &mut Client) -> (Vec<AgentEvent>, Vec<ClientEvent>) {
        let (mut of_agent, mut of_client) = (Vec::new(), Vec::new());
        loop {
            let mut moved = false;
            while let Some(frame) = agent.channel().next_frame() {
                of_client.extend(client.receive(&frame, 1).expect("for the client"));
                moved = true;
            }
            while let Some(frame) = client.channel().next_frame() {
                of_agent.extend(agent.receive(&frame, 1).expect("for the agent"));
                moved = true;
            }
            if !moved {
                return (of_agent, of_client);
            }
        }
    }

    #[test]
    fn a_whole_session() {
        let (mut agent, mut client) = (Agent::new([1; 16], true, 0), Client::new([2; 16]));
        assert_eq!(talk(&mut agent, &mut client), (vec![AgentEvent::Ready], vec![ClientEvent::Ready]));
        client.resize(Size { cols: 120, rows: 40 }, 1);
        client.input(b"ls\r", 1);
        client.flag(Flag::DisconnectToPort, 1);
        client.flag(Flag::TerminateSession, 1);
        agent.output(b"\xffbin", 1);
        agent.error_output(b"oh", 1);
        agent.exited(3, 1);
        agent.channel().close("session", "", 1);
        let (of_agent, of_client) = talk(&mut agent, &mut client);
        assert_eq!(
            of_agent,
            [
                AgentEvent::Resize { rows: 40, columns: 120 },
                AgentEvent::Input(Bytes::from_static(b"ls\r")),
                AgentEvent::EndOfInput,
                AgentEvent::Terminate,
            ]
        );
        assert_eq!(
            of_client,
            [
                ClientEvent::Output(Bytes::from_static(b"\xffbin")),
                ClientEvent::ErrorOutput(Bytes::from_static(b"oh")),
                ClientEvent::Exited(3),
                ClientEvent::Closed { output: String::new() },
            ]
        );
        assert!(agent.channel().all_acknowledged() && client.channel().all_acknowledged());
    }

    #[test]
    fn an_ordinary_client_is_told_no_exit_code() {
        let (mut agent, mut client) = (Agent::new([1; 16], false, 0), Client::new([2; 16]));
        agent.exited(3, 0);
        assert_eq!(talk(&mut agent, &mut client).1, [ClientEvent::Ready]);
    }
}
