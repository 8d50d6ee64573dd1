//! What a task's start spent its time on.

use std::collections::HashMap;
use std::sync::Mutex;

use ferrogate_sandbox::Made;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Of one task. Ten containers take four each, and a machine some ten.
const STEPS_MAX: usize = 96;

/// Steps, in the order in which a start goes through them. Several go side by side.
pub(crate) mod step {
    /// From the acceptance of RunTask to the agent: the interface is provisioned and the task placed.
    pub(crate) const PLACED: &str = "placed";
    pub(crate) const NETWORK_NAMESPACE: &str = "network namespace";
    pub(crate) const INTERFACE: &str = "interface attached";
    /// The task's directory, cgroups and shim.
    pub(crate) const SANDBOX: &str = "sandbox created";
    /// What the reference means, and with which credentials.
    pub(crate) const IMAGE_RESOLVED: &str = "image resolved";
    pub(crate) const LAYERS_READY: &str = "layers ready";
    pub(crate) const LOG_STREAM: &str = "log stream";
    pub(crate) const ENDPOINTS: &str = "endpoints served";
    /// Service Connect's.
    pub(crate) const PROXY: &str = "proxy started";
    pub(crate) const CREATED: &str = "container created";
    pub const STARTED: &str = "container started";
    /// From the record that all run to the control plane's receipt.
    pub(crate) const REPORTED: &str = "RUNNING reported";
}

pub use step::STARTED;

/// One step of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub step: String,
    /// `None`: of the whole task.
    pub container: Option<String>,
    pub began: Timestamp,
    pub ended: Timestamp,
}

impl Step {
    /// A part of [`step::SANDBOX`], or of its machine's start.
    pub(crate) fn of_sandbox(made: &Made) -> Self {
        let at = |time| Timestamp::try_from(time).unwrap_or_default();
        Self { step: made.step.to_string(), container: None, began: at(made.began), ended: at(made.ended) }
    }

    /// Ended now.
    pub(crate) fn done(step: &str, container: Option<&str>, began: Timestamp) -> Self {
        let ended = Timestamp::now();
        Self { step: step.to_owned(), container: container.map(str::to_owned), began, ended }
    }
}

/// Adds a step to a task's, once each.
pub(crate) fn add(steps: &mut Vec<Step>, task_id: &str, step: Step) {
    let known = steps.iter().any(|known| known.step == step.step && known.container == step.container);
    if known || steps.len() >= STEPS_MAX {
        return;
    }
    let took_us = step.ended.duration_since(step.began).as_micros();
    tracing::debug!(
        task = task_id,
        step = step.step,
        container = step.container,
        took_us,
        "a step of a start"
    );
    steps.push(step);
}

/// Steps of starts under way, by task: they go side by side and none of them has the record.
#[derive(Default)]
pub(crate) struct Timings(Mutex<HashMap<String, Vec<Step>>>);

impl Timings {
    pub(crate) fn note(&self, task_id: &str, step: Step) {
        let mut all = self.0.lock().expect("timings lock");
        add(all.entry(task_id.to_owned()).or_default(), task_id, step);
    }

    /// All of them, and forgotten here.
    pub(crate) fn take(&self, task_id: &str) -> Vec<Step> {
        self.0.lock().expect("timings lock").remove(task_id).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_once_and_there_is_a_limit() {
        let timings = Timings::default();
        for _ in 0..2 {
            timings.note("t", Step::done(step::SANDBOX, None, Timestamp::now()));
            timings.note("t", Step::done(step::CREATED, Some("a"), Timestamp::now()));
        }
        let mut steps = timings.take("t");
        assert_eq!(steps.len(), 2);
        assert!(timings.take("t").is_empty());
        for index in 0..100 {
            add(&mut steps, "t", Step::done(step::CREATED, Some(&index.to_string()), Timestamp::now()));
        }
        assert_eq!(steps.len(), STEPS_MAX);
    }
}
