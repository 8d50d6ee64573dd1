//! What the node remembers of a task: enough to go on after the agent died at any point.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ferrogate_nodeapi::{ContainerStatus, Health, ObservedStatus, StopCause, TaskAssignment};
use ferrogate_sandbox::Made;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::timing::{self, Step};

const FILE: &str = "task.json";

/// Written by the task's actor only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) assignment: TaskAssignment,
    pub(crate) status: ObservedStatus,
    /// Part of the credentials endpoint's path: who does not know it gets no credentials.
    pub(crate) credentials_id: String,
    pub(crate) sequence: u64,
    pub(crate) pull_started_at: Option<Timestamp>,
    pub(crate) pull_stopped_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) execution_stopped_at: Option<Timestamp>,
    pub(crate) stop: Option<StopCause>,
    /// The sandbox stands whole; before this is written nothing can have run in it.
    #[serde(default)]
    pub(crate) sandbox_made: bool,
    /// Its sandbox is a machine with a kernel of its own.
    #[serde(default)]
    pub(crate) machine: bool,
    pub(crate) containers: BTreeMap<String, ContainerRecord>,
    /// What its start spent its time on.
    #[serde(default)]
    pub(crate) timing: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) status: ContainerStatus,
    pub(crate) exit_code: Option<i32>,
    pub(crate) reason: Option<String>,
    pub(crate) image_digest: Option<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) health: Health,
    /// When `health` became what it is.
    #[serde(default)]
    pub(crate) health_since: Option<Timestamp>,
    /// Of the last probe; -1: it could not be run, or took too long.
    #[serde(default)]
    pub(crate) health_exit_code: Option<i32>,
    /// What the last probe wrote, cut.
    #[serde(default)]
    pub(crate) health_output: Option<String>,
    /// How often its restart policy has started it again.
    #[serde(default)]
    pub(crate) restart_count: u32,
    #[serde(default)]
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// The log driver has delivered everything before this offset.
    pub(crate) log_offset: u64,
}

impl Default for ContainerRecord {
    fn default() -> Self {
        Self {
            status: ContainerStatus::Pending,
            exit_code: None,
            reason: None,
            image_digest: None,
            stop_signal: None,
            health: Health::Unknown,
            health_since: None,
            health_exit_code: None,
            health_output: None,
            restart_count: 0,
            created_at: None,
            started_at: None,
            finished_at: None,
            log_offset: 0,
        }
    }
}

impl Record {
    pub(crate) fn new(assignment: TaskAssignment, credentials_id: String) -> Self {
        let containers =
            assignment.containers.iter().map(|c| (c.name.clone(), ContainerRecord::default())).collect();
        Self {
            assignment,
            status: ObservedStatus::Pending,
            credentials_id,
            sequence: 0,
            pull_started_at: None,
            pull_stopped_at: None,
            started_at: None,
            execution_stopped_at: None,
            stop: None,
            sandbox_made: false,
            machine: false,
            containers,
            timing: Vec::new(),
        }
    }

    /// A step of the start that ends now; the first time counts.
    pub(crate) fn note(&mut self, step: &str, container: Option<&str>, began: Timestamp) {
        timing::add(&mut self.timing, &self.assignment.task_id, Step::done(step, container, began));
    }

    pub(crate) fn note_made(&mut self, made: &Made) {
        timing::add(&mut self.timing, &self.assignment.task_id, Step::of_sandbox(made));
    }

    /// Nothing of it is left here, and nobody can say how it ended.
    pub(crate) fn lost(&mut self, reported_sequence: u64) {
        self.sequence = reported_sequence + 1;
        self.status = ObservedStatus::Stopped;
        self.stop = Some(StopCause {
            code: "InfrastructureHealth".into(),
            reason: "The node lost the task: its folder was removed while the task was assigned to it."
                .into(),
        });
        for container in self.containers.values_mut() {
            container.status = ContainerStatus::Stopped;
        }
    }

    /// Replaces the record on disk whole.
    pub(crate) fn save(&self, task_dir: &Path) -> io::Result<()> {
        let temporary = task_dir.join(".task.json");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, task_dir.join(FILE))
    }

    /// [`Record::save`], and on the disk itself when it returns.
    pub(crate) fn save_synced(&self, task_dir: &Path) -> io::Result<()> {
        self.save(task_dir)?;
        std::fs::File::open(task_dir.join(FILE))?.sync_all()?;
        std::fs::File::open(task_dir)?.sync_all()
    }

    pub(crate) fn load(task_dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(task_dir.join(FILE))?)?)
    }
}

/// The folders of a task below the agent's.
#[derive(Clone, Debug)]
pub(crate) struct TaskDirs {
    pub(crate) root: PathBuf,
}

impl TaskDirs {
    pub(crate) fn sandbox(&self) -> PathBuf {
        self.root.join("sandbox")
    }

    /// Output of containers whose sandbox is gone.
    pub(crate) fn kept_logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}
