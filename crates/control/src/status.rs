//! How a controller is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a controller is. Always visible, also while it is at work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the last activation that ended.
    pub outcome: Outcome,
    /// Of the last activation that ended, as the controller gave it.
    pub detail: serde_json::Value,
    /// Whether it is at work now: then `started` is when it began, and the rest is of the activation before.
    pub running: bool,
    /// When the last activation began.
    pub started: Option<Timestamp>,
    /// How long the last activation that ended took.
    pub duration_ms: Option<f64>,
    /// When it is activated again if nothing wakes it; absent while it is at work.
    pub next: Option<Timestamp>,
    /// Activations begun since the start of the program.
    pub activations: u64,
    /// How many of them failed or panicked.
    pub errors: u64,
}

/// How an activation ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "why", rename_all = "snake_case")]
pub enum Outcome {
    /// None has ended yet.
    #[default]
    NotYet,
    Done,
    /// In words for an operator.
    Failed(String),
}
