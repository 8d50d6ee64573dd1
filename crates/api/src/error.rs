//! What an operation answers when it does not succeed.

use crate::Value;

/// An AWS error: its code, words and HTTP status. The codec of the protocol gives it its form; a status is
/// taken from the model when the code is one of the service's modelled errors.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// As on the wire: `ClusterNotFoundException`, `InvalidGroup.NotFound`.
    pub code: String,
    pub message: String,
    /// `None`: the model's, else 400.
    pub status: Option<u16>,
    /// Further members of the modelled error, e.g. `resourceIds` of ConflictException.
    pub members: Vec<(&'static str, Value)>,
}

impl ApiError {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), status: None, members: Vec::new() }
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub fn with_member(mut self, name: &'static str, value: Value) -> Self {
        self.members.push((name, value));
        self
    }

    /// The operation exists on AWS and not here yet.
    pub fn not_implemented(service: &str, operation: &str) -> Self {
        let message = format!(
            "{service}:{operation} is an operation of AWS that this version of Ferrogate does not serve. \
             docs/compatibility.md lists those it does."
        );
        Self::new("NotImplementedException", message).with_status(501)
    }

    /// Something of ours failed. The cause is logged where it happens; the caller sees no internals.
    pub fn internal() -> Self {
        Self::new(
            "InternalFailure",
            "The request processing has failed because of an unknown error, exception or failure.",
        )
        .with_status(500)
    }
}
