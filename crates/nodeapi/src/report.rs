//! What a node saw.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How far a task has come on its node. The control plane's lifecycle has more states (PROVISIONING before
/// there is a node, DEPROVISIONING after); these are the ones only a node can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ObservedStatus {
    /// Taken, nothing started.
    Pending,
    /// Images are pulled, containers and network made.
    Activating,
    /// Every container that should have started has.
    Running,
    /// Containers are being ended.
    Stopping,
    /// Nothing of it runs, nothing of it is left on the node but its logs.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    pub task_arn: String,
    /// Grows with every report of this task from this node.
    pub sequence: u64,
    pub status: ObservedStatus,
    /// `container` or `microvm`: what the task really runs in.
    pub isolation: Isolation,
    pub pull_started_at: Option<Timestamp>,
    pub pull_stopped_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub execution_stopped_at: Option<Timestamp>,
    /// Why the task ends, when the node is the one that ends it.
    pub stop: Option<StopCause>,
    pub containers: Vec<ContainerReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    Container,
    MicroVm,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopCause {
    /// ECS `stopCode`: `TaskFailedToStart`, `EssentialContainerExited`, …
    pub code: String,
    /// ECS `stoppedReason`, in AWS's words.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerReport {
    pub name: String,
    /// ECS `lastStatus`: PENDING, RUNNING or STOPPED.
    pub status: ContainerStatus,
    pub exit_code: Option<i32>,
    /// `OutOfMemoryError: …`, `CannotPullContainerError: …`
    pub reason: Option<String>,
    pub image_digest: Option<String>,
    pub health: Health,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// How often its restart policy has started it again.
    #[serde(default)]
    pub restart_count: u32,
    /// `None`: ECS Exec is not enabled for the task.
    #[serde(default)]
    pub exec_agent: Option<ManagedAgentStatus>,
}

/// ECS's managed agent `ExecuteCommandAgent` in one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedAgentStatus {
    pub status: ContainerStatus,
    pub reason: Option<String>,
    pub last_started_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ContainerStatus {
    Pending,
    Running,
    Stopped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
}

/// One event for CloudWatch Logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    pub message: String,
}
