//! The controller driver: runs controllers when something they look at changes, and from time to time anyway.
//!
//! ```text
//!  a change below a prefix ─┐
//!  Handle::wake ────────────┼─► wake (one, however many) ─► activate ─► Status
//!  period, again_in ────────┘         ▲                        │
//!                                     └────────────────────────┘
//! ```
//!
//! A controller observes, plans and acts in one activation. An activation takes no input, retries nothing (the
//! next one is the retry) and returns what it did, which is always visible. One that panics has failed, and its
//! controller goes on.
//!
//! What only publishes and writes nothing (the fabric, names, assignments) needs no activations: it is a [`View`] that a
//! [`Follower`] keeps current; where it is one value, an [`Index`] that is [`Published`].

mod driver;
mod follow;
mod published;
mod status;

pub use driver::{Driver, FAILED_PAUSE, Handle};
pub use follow::{CHANGES_PER_PUBLISH_MAX, Follower, View};
pub use published::{Index, Published};
pub use status::{Outcome, Status};

use std::time::Duration;

/// Something that brings what is observed closer to what is desired, a step at a time.
#[async_trait::async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Unique in the program: `ecs-provision`.
    fn name(&self) -> &'static str;

    /// Changes of keys that start with one of these wake it.
    fn prefixes(&self) -> Vec<String>;

    /// It is activated at least this often.
    fn period(&self) -> Duration;

    /// Observe, plan, act, once. May be cut short at any `await` when the program ends.
    async fn activate(&self) -> Activation;
}

/// What one activation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// `Err`: what went wrong, in words for an operator.
    pub outcome: Result<(), String>,
    /// Whatever a person debugging would want to see.
    pub detail: serde_json::Value,
    /// Come again no later than this.
    pub again_in: Option<Duration>,
}

impl Activation {
    pub fn done(detail: serde_json::Value) -> Self {
        Self { outcome: Ok(()), detail, again_in: None }
    }

    pub fn failed(why: impl Into<String>) -> Self {
        Self { outcome: Err(why.into()), detail: serde_json::Value::Null, again_in: None }
    }

    /// Asks to be activated again that soon, even if nothing changes; the period stays the longest pause.
    #[must_use]
    pub fn again_in(mut self, delay: Duration) -> Self {
        self.again_in = Some(delay);
        self
    }
}
