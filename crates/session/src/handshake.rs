//! The JSON bodies of a session's beginning.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Of the first frame, the only one of text.
const OPEN_BYTES_MAX: usize = 8 << 10;

/// What a client sends first: `OpenDataChannelInput`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct OpenDataChannel {
    pub message_schema_version: String,
    pub request_id: String,
    pub token_value: String,
    #[serde(default)]
    pub client_id: String,
    #[serde(default)]
    pub client_version: String,
    /// Only said by clients of ours: whether the command gets a terminal. With it the command's exit code is told,
    /// and without one what it writes to stderr is kept apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<bool>,
}

impl OpenDataChannel {
    /// Says in one sentence why it is none.
    pub fn parse(frame: &[u8]) -> Result<Self, String> {
        if frame.len() > OPEN_BYTES_MAX {
            return Err(format!(
                "OpenDataChannelInput has {} bytes; at most {OPEN_BYTES_MAX} are allowed",
                frame.len()
            ));
        }
        let open: Self = serde_json::from_slice(frame)
            .map_err(|error| format!("OpenDataChannelInput cannot be read: {error}"))?;
        match &*open.message_schema_version {
            "1.0" => Ok(open),
            other => Err(format!("MessageSchemaVersion '{other}' is not known: only 1.0 is")),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeRequest {
    pub agent_version: String,
    pub requested_client_actions: Vec<RequestedAction>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedAction {
    /// `SessionType`, `KMSEncryption`
    pub action_type: String,
    pub action_parameters: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeResponse {
    pub client_version: String,
    pub processed_client_actions: Vec<ProcessedAction>,
    /// Go's way of an empty list is `null`.
    #[serde(default)]
    pub errors: Option<Vec<String>>,
}

pub const ACTION_SUCCESS: u32 = 1;
pub const ACTION_UNSUPPORTED: u32 = 3;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProcessedAction {
    pub action_type: String,
    #[serde(default)]
    pub action_status: u32,
    #[serde(default)]
    pub action_result: Value,
    #[serde(default)]
    pub error: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeComplete {
    /// Nanoseconds.
    pub handshake_time_to_complete: u64,
    #[serde(default)]
    pub customer_message: String,
}

/// The body of a `Size` message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Size {
    pub cols: u32,
    pub rows: u32,
}

/// The bodies of a `Flag` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// There is no more input.
    DisconnectToPort = 1,
    TerminateSession = 2,
    ConnectToPortError = 3,
}

impl Flag {
    pub fn parse(body: &[u8]) -> Option<Self> {
        match u32::from_be_bytes(body.try_into().ok()?) {
            1 => Some(Self::DisconnectToPort),
            2 => Some(Self::TerminateSession),
            3 => Some(Self::ConnectToPortError),
            _ => None,
        }
    }

    pub fn body(self) -> [u8; 4] {
        (self as u32).to_be_bytes()
    }
}
