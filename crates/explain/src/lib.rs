//! Why a task did not start, ended, or does not answer: from recorded facts, with what to do about it.
//!
//! [`explain`] is a pure function of [`Facts`]; whoever runs the program gathers them. It tells apart what is
//! the cause, what stands in the way and what is only worth knowing, and gives each finding its evidence and its fix.
//!
//! ```text
//!  Facts ──► stopped: what the recorded reason means      (reasons.rs)
//!        ├─► starting: what it waits for                  (starting.rs)
//!        ├─► running: health, doors, listeners            (running.rs)
//!        └─► roles and their rights                       (roles.rs)   ──► Explanation
//! ```

mod facts;
mod network;
mod reasons;
mod roles;
mod running;
mod sizes;
mod starting;

pub use facts::{Facts, Listener, LogGroup, NodeFacts, Right, RoleFact, RolePurpose};
pub use network::{Doors, doors};

use serde::{Deserialize, Serialize};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    Image,
    Role,
    Secret,
    Logs,
    Route,
    SecurityGroup,
    NetworkAcl,
    Capacity,
    Health,
    Size,
    Storage,
    Command,
    Container,
    Stop,
    Start,
    Port,
}

impl About {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Role => "role",
            Self::Secret => "secret",
            Self::Logs => "logs",
            Self::Route => "route",
            Self::SecurityGroup => "security group",
            Self::NetworkAcl => "network ACL",
            Self::Capacity => "capacity",
            Self::Health => "health",
            Self::Size => "size",
            Self::Storage => "storage",
            Self::Command => "command",
            Self::Container => "container",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Port => "port",
        }
    }
}

/// How much a finding weighs; in this order they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Why the task is as it is.
    Cause,
    /// Will stand in the way, though it did not yet.
    Obstacle,
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub weight: Weight,
    pub about: About,
    /// One sentence that names the thing and its value.
    pub what: String,
    /// What was recorded, word for word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What to do: sentences, or commands that can be typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fix: Vec<String>,
}

impl Finding {
    pub(crate) fn new(weight: Weight, about: About, what: impl Into<String>) -> Self {
        Self { weight, about, what: what.into(), evidence: Vec::new(), fix: Vec::new() }
    }

    pub(crate) fn cause(about: About, what: impl Into<String>) -> Self {
        Self::new(Weight::Cause, about, what)
    }

    pub(crate) fn note(about: About, what: impl Into<String>) -> Self {
        Self::new(Weight::Note, about, what)
    }

    pub(crate) fn because(mut self, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        if !evidence.is_empty() {
            self.evidence.push(evidence);
        }
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }
}

/// One screen of answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub task_arn: String,
    /// `STOPPED 3 s after it was accepted: TaskFailedToStart`
    pub state: String,
    /// By weight.
    pub findings: Vec<Finding>,
}

impl Explanation {
    /// Nothing stands in the way.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.weight == Weight::Note)
    }
}

pub fn explain(facts: &Facts) -> Explanation {
    let task = &facts.task;
    let status = task.last_status.as_deref().unwrap_or_default();
    let mut findings = match status {
        "STOPPED" | "DEPROVISIONING" | "STOPPING" | "DEACTIVATING" => reasons::findings(facts),
        "RUNNING" => running::findings(facts),
        _ => starting::findings(facts),
    };
    findings.extend(roles::findings(facts, &findings));
    findings.sort_by_key(|finding| finding.weight);
    if findings.is_empty() {
        findings.push(Finding::note(About::Start, "Nothing stands in its way."));
    }
    Explanation { task_arn: task.task_arn.clone().unwrap_or_default(), state: facts::state(facts), findings }
}

#[cfg(test)]
mod tests;
