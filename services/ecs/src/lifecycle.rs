//! The life of a task: what it may become from where it is, and who may say so. Nothing else changes these fields.
//!
//! ```text
//!  RunTask ─► PROVISIONING ──(provision: ENI made, node chosen)──► PENDING
//!                  │                                                  │ node
//!                  │ provision: it failed, or                         ▼
//!                  │ the task was stopped meanwhile              ACTIVATING
//!                  │                                                  │ node
//!                  │                    node: it failed to start      ▼
//!                  │         ┌──────────────── PENDING, ACTIVATING   RUNNING
//!                  │         │                                        │ node, or a stop of what is registered somewhere
//!                  │         ▼                                        ▼
//!                  │      STOPPING ◄───────────────────────────── DEACTIVATING
//!                  │         │ node: nothing of it is left
//!                  ▼         ▼
//!               DEPROVISIONING ──(deprovision: ENI deleted)──► STOPPED ──(sweep, an hour later)──► forgotten
//! ```
//!
//! The *desired* status changes first, once and only from RUNNING to STOPPED: by StopTask, by
//! the service scheduler, or by whoever saw the task fail. The first cause is the one that stays. A node's reports may skip states, since it says what is and not what
//! was; the states between are passed in one step. Nothing ever goes back.

use std::collections::BTreeMap;

use ferrogate_nodeapi::{
    ContainerReport, ContainerStatus, DesiredStatus, Health, Isolation, ManagedAgentStatus, ObservedStatus,
    TaskReport,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) const TASK_FAILED_TO_START: &str = "TaskFailedToStart";
pub(crate) const ESSENTIAL_CONTAINER_EXITED: &str = "EssentialContainerExited";
pub(crate) const USER_INITIATED: &str = "UserInitiated";
pub(crate) const SERVICE_SCHEDULER_INITIATED: &str = "ServiceSchedulerInitiated";

/// `lastStatus`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Status {
    Provisioning,
    Pending,
    Activating,
    Running,
    Deactivating,
    Stopping,
    Deprovisioning,
    Stopped,
}

use Status::{Activating, Deactivating, Deprovisioning, Pending, Provisioning, Running, Stopped, Stopping};

impl Status {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 8] =
        [Provisioning, Pending, Activating, Running, Deactivating, Stopping, Deprovisioning, Stopped];

    /// The legal transitions.
    pub(crate) fn next(self) -> &'static [Self] {
        match self {
            Provisioning => &[Pending, Deprovisioning],
            Pending => &[Activating, Stopping, Deprovisioning],
            Activating => &[Running, Stopping, Deprovisioning],
            Running => &[Deactivating],
            Deactivating => &[Stopping],
            Stopping => &[Deprovisioning],
            Deprovisioning => &[Stopped],
            Stopped => &[],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Provisioning => "PROVISIONING",
            Pending => "PENDING",
            Activating => "ACTIVATING",
            Running => "RUNNING",
            Deactivating => "DEACTIVATING",
            Stopping => "STOPPING",
            Deprovisioning => "DEPROVISIONING",
            Stopped => "STOPPED",
        }
    }

    /// Whether a node has it, or is about to.
    pub(crate) fn is_on_a_node(self) -> bool {
        (Pending..=Stopping).contains(&self)
    }

    /// Counted as pending in its cluster: it will run.
    pub(crate) fn is_before_running(self) -> bool {
        self < Running
    }

    /// The states passed on the shortest way to `target`; `None`: there is no way.
    fn way_to(self, target: Self) -> Option<Vec<Self>> {
        let step = |next: &Self| {
            let rest = next.way_to(target)?;
            Some(std::iter::once(*next).chain(rest).collect::<Vec<_>>())
        };
        if self == target {
            return Some(Vec::new());
        }
        self.next().iter().filter_map(step).min_by_key(Vec::len)
    }
}

/// `desiredStatus`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Desired {
    Running,
    Stopped,
}

impl Desired {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
        }
    }
}

impl From<Desired> for DesiredStatus {
    fn from(desired: Desired) -> Self {
        match desired {
            Desired::Running => Self::Running,
            Desired::Stopped => Self::Stopped,
        }
    }
}

/// What can happen to a task.
#[derive(Clone, Debug)]
pub(crate) enum Event<'a> {
    /// `provision`: the interface is made, a node is chosen.
    Placed,
    /// `provision`: it cannot be had.
    NotProvisioned { reason: String },
    /// `provision`: the task was stopped before it had a node, and nothing is being made for it any more.
    Abandoned,
    /// StopTask, or the service scheduler.
    StopRequested { code: &'static str, reason: String },
    /// The same, next: load balancers and registries let go of it before its node hears of it.
    LettingGo,
    /// A node.
    Reported(&'a TaskReport),
    /// `deprovision`: the interface is gone.
    Released,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {} cannot be {event}", status.name())]
pub(crate) struct Illegal {
    status: Status,
    event: &'static str,
}

/// Where a task is and how it came there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lifecycle {
    status: Status,
    desired: Desired,
    /// Of what can be seen: grows with every change of it.
    version: u64,
    /// When `version` last grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed_at: Option<Timestamp>,
    /// The newest report taken.
    reported_sequence: u64,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connectivity_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pull_started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pull_stopped_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopping_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    execution_stopped_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_reason: Option<String>,
    /// What the task really runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    isolation: Option<Isolation>,
    /// By name.
    containers: BTreeMap<String, ContainerProgress>,
}

/// What is seen of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerProgress {
    pub status: ContainerStatus,
    #[serde(default)]
    pub health: Health,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// It has run.
    #[serde(default)]
    pub started: bool,
    /// `None`: the node has said nothing of ECS Exec yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_agent: Option<ManagedAgentStatus>,
}

impl Lifecycle {
    pub(crate) fn new<'a>(now: Timestamp, containers: impl IntoIterator<Item = &'a str>) -> Self {
        let container = ContainerProgress {
            status: ContainerStatus::Pending,
            health: Health::Unknown,
            exit_code: None,
            reason: None,
            image_digest: None,
            started: false,
            exec_agent: None,
        };
        Self {
            status: Provisioning,
            desired: Desired::Running,
            version: 1,
            changed_at: None,
            reported_sequence: 0,
            created_at: now,
            connectivity_at: None,
            pull_started_at: None,
            pull_stopped_at: None,
            started_at: None,
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            stop_code: None,
            stopped_reason: None,
            isolation: None,
            containers: containers.into_iter().map(|name| (name.to_owned(), container.clone())).collect(),
        }
    }

    /// Takes an event. `Ok(false)`: it changes nothing, nothing has to be written. `Err`: it cannot happen to a task
    /// that is where this one is; nothing is changed.
    pub(crate) fn apply(&mut self, event: Event<'_>, now: Timestamp) -> Result<bool, Illegal> {
        let before = self.clone();
        match event {
            Event::Placed => {
                self.expect(Provisioning, "placed")?;
                // Stopped while its interface was being made: no node gets it.
                self.advance(if self.desired == Desired::Running { Pending } else { Deprovisioning }, now);
            }
            Event::NotProvisioned { reason } => {
                self.expect(Provisioning, "refused its interface")?;
                self.want_stopped(TASK_FAILED_TO_START, &reason, now);
                self.advance(Deprovisioning, now);
            }
            Event::Abandoned => {
                self.expect(Provisioning, "abandoned")?;
                if self.desired == Desired::Running {
                    return Err(Illegal { status: self.status, event: "abandoned: nobody stopped it" });
                }
                self.advance(Deprovisioning, now);
            }
            Event::StopRequested { code, reason } => self.want_stopped(code, &reason, now),
            Event::LettingGo => {
                if self.desired == Desired::Stopped && self.status == Running {
                    self.advance(Deactivating, now);
                }
            }
            Event::Reported(report) => self.take(report, now)?,
            Event::Released => {
                self.expect(Deprovisioning, "released")?;
                self.advance(Stopped, now);
            }
        }
        let changed = *self != before;
        let visible = Self { reported_sequence: before.reported_sequence, ..self.clone() } != before;
        if visible {
            self.version += 1;
            self.changed_at = Some(now);
        }
        Ok(changed)
    }

    fn expect(&self, status: Status, event: &'static str) -> Result<(), Illegal> {
        if self.status == status { Ok(()) } else { Err(Illegal { status: self.status, event }) }
    }

    /// The first cause is the one that stays.
    fn want_stopped(&mut self, code: &str, reason: &str, now: Timestamp) {
        if self.desired == Desired::Stopped {
            return;
        }
        self.desired = Desired::Stopped;
        self.stopping_at = Some(now);
        self.stop_code = Some(code.to_owned());
        self.stopped_reason = Some(reason.to_owned());
    }

    fn take(&mut self, report: &TaskReport, now: Timestamp) -> Result<(), Illegal> {
        if self.status == Provisioning {
            return Err(Illegal { status: self.status, event: "reported by a node" });
        }
        if !self.status.is_on_a_node() || report.sequence <= self.reported_sequence {
            return Ok(());
        }
        self.reported_sequence = report.sequence;
        self.connectivity_at.get_or_insert(now);
        self.isolation = Some(report.isolation);
        self.pull_started_at = self.pull_started_at.or(report.pull_started_at);
        self.pull_stopped_at = self.pull_stopped_at.or(report.pull_stopped_at);
        self.started_at = self.started_at.or(report.started_at);
        self.execution_stopped_at = self.execution_stopped_at.or(report.execution_stopped_at);
        for container in &report.containers {
            if let Some(known) = self.containers.get_mut(&container.name) {
                known.take(container);
            }
        }
        if let Some(stop) = &report.stop {
            self.want_stopped(&stop.code, &stop.reason, now);
        }
        let target = match report.status {
            ObservedStatus::Pending => Pending,
            ObservedStatus::Activating => Activating,
            ObservedStatus::Running => Running,
            ObservedStatus::Stopping => Stopping,
            ObservedStatus::Stopped => Deprovisioning,
        };
        if target >= Stopping {
            self.want_stopped_by_default(now);
        }
        self.advance(target, now);
        Ok(())
    }

    /// A node ended a task and did not say why.
    fn want_stopped_by_default(&mut self, now: Timestamp) {
        if self.started_at.is_some() {
            self.want_stopped(ESSENTIAL_CONTAINER_EXITED, "Essential container in task exited", now);
        } else {
            self.want_stopped(TASK_FAILED_TO_START, "Task failed to start", now);
        }
    }

    /// Goes to `target` by legal steps; where there is no way, it stays.
    fn advance(&mut self, target: Status, now: Timestamp) {
        for next in self.status.way_to(target).unwrap_or_default() {
            self.status = next;
            match next {
                Running => drop(self.started_at.get_or_insert(now)),
                Deprovisioning => {
                    if self.started_at.is_some() {
                        self.execution_stopped_at.get_or_insert(now);
                    }
                    for container in self.containers.values_mut() {
                        container.status = ContainerStatus::Stopped;
                    }
                }
                Stopped => self.stopped_at = Some(now),
                _ => {}
            }
        }
    }
}

impl ContainerProgress {
    fn take(&mut self, report: &ContainerReport) {
        // A container's status goes forward only, unless it is restarted: then the node says RUNNING again.
        self.status = report.status;
        self.health = report.health;
        self.exit_code = report.exit_code;
        self.reason.clone_from(&report.reason);
        if report.exec_agent.is_some() {
            self.exec_agent.clone_from(&report.exec_agent);
        }
        if report.image_digest.is_some() {
            self.image_digest.clone_from(&report.image_digest);
        }
        self.started |= report.started_at.is_some() || report.status == ContainerStatus::Running;
    }
}

/// For reading.
impl Lifecycle {
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    pub(crate) fn desired(&self) -> Desired {
        self.desired
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn changed_at(&self) -> Timestamp {
        self.changed_at.unwrap_or(self.created_at)
    }

    pub(crate) fn reported_sequence(&self) -> u64 {
        self.reported_sequence
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        self.created_at
    }

    pub(crate) fn connectivity_at(&self) -> Option<Timestamp> {
        self.connectivity_at
    }

    pub(crate) fn pull_started_at(&self) -> Option<Timestamp> {
        self.pull_started_at
    }

    pub(crate) fn pull_stopped_at(&self) -> Option<Timestamp> {
        self.pull_stopped_at
    }

    pub(crate) fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    pub(crate) fn stopping_at(&self) -> Option<Timestamp> {
        self.stopping_at
    }

    pub(crate) fn execution_stopped_at(&self) -> Option<Timestamp> {
        self.execution_stopped_at
    }

    pub(crate) fn stopped_at(&self) -> Option<Timestamp> {
        self.stopped_at
    }

    pub(crate) fn stop_code(&self) -> Option<&str> {
        self.stop_code.as_deref()
    }

    pub(crate) fn stopped_reason(&self) -> Option<&str> {
        self.stopped_reason.as_deref()
    }

    pub(crate) fn isolation(&self) -> Option<Isolation> {
        self.isolation
    }

    pub(crate) fn container(&self, name: &str) -> Option<&ContainerProgress> {
        self.containers.get(name)
    }

    /// Status of the attachment of the task's network interface.
    pub(crate) fn attachment_status(&self) -> &'static str {
        match self.status {
            Provisioning => "PRECREATED",
            Pending => "ATTACHING",
            Activating | Running | Deactivating | Stopping => "ATTACHED",
            Deprovisioning => "DETACHING",
            Stopped => "DELETED",
        }
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
