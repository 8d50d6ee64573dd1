//! Why a document is refused, in AWS's words.

/// A policy document that IAM would refuse. The code is always `MalformedPolicyDocument`, the status 400; the
/// text is AWS's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedPolicy(pub(crate) String);

impl MalformedPolicy {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// IAM's answer to whatever is no policy at all.
    pub(crate) fn syntax() -> Self {
        Self::new("Syntax errors in policy.")
    }

    /// IAM's answer to values of the wrong form.
    pub(crate) fn legacy() -> Self {
        Self::new("The policy failed legacy parsing")
    }
}
