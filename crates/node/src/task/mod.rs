//! One task on this node: one owner, one queue.
//!
//! ```text
//!  Pending ─▶ Activating ─▶ Running ─▶ Stopping ─▶ Stopped
//!     │            │           │          ▲
//!     └────────────┴───────────┴──────────┘   stop asked for, start failed, essential container ended
//! ```
//!
//! The actor alone writes the task's [`Record`] and decides; what it waits for comes through `select!` in
//! [`Actor::run_containers`]. Whatever was true on disk and in the shim is enough to enter anywhere.

mod containers;
mod lost;
mod pull;
mod spec;
mod start;
mod storage;
mod volumes;
mod way;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferrogate_nodeapi::{
    ContainerReport, ContainerStatus, ControlPlane, DesiredStatus, Isolation, ObservedStatus, StopCause,
    TaskReport,
};
use ferrogate_sandbox::{Sandbox, TaskSandbox};
use ferrogate_vpc::VpcFabric;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::balancer::EdgeConfig;
use crate::logs::Run;
use crate::pulls::Pulls;
use crate::record::{Record, TaskDirs};
use crate::reporter::Reporter;
use crate::timing::Timings;

/// Health changes and delivered log offsets waiting for the actor.
const QUEUE_MAX: usize = 256;
/// Between two attempts to remove a sandbox.
const DISCARD_RETRY_MIN: Duration = Duration::from_secs(1);
const DISCARD_RETRY_MAX: Duration = Duration::from_secs(60);

/// What all tasks of a node share.
pub(crate) struct Shared {
    pub(crate) instance: String,
    pub(crate) control: Arc<dyn ControlPlane>,
    pub(crate) images: Arc<ferrogate_image::ImageStore>,
    pub(crate) fabric: VpcFabric,
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) pulls: Pulls,
    /// Empty file systems that tasks' ephemeral storage is copied from.
    pub(crate) storage_templates: PathBuf,
    pub(crate) timings: Timings,
    /// Where ECS Exec finds a task's sandbox.
    pub(crate) execs: crate::exec::Sandboxes,
    /// Unset: this node carries no load balancers, and no proxies of Service Connect.
    pub(crate) edge: OnceLock<EdgeConfig>,
}

/// Why a task cannot start or go on.
pub(crate) struct Stop {
    pub(crate) cause: Option<StopCause>,
    /// The container whose fault it is, with its reason.
    pub(crate) container: Option<(String, String)>,
}

impl Stop {
    /// Somebody asked for it; the control plane knows who.
    pub(crate) const ASKED: Self = Self { cause: None, container: None };

    pub(crate) fn failed_to_start(reason: impl Into<String>) -> Self {
        let cause = StopCause { code: "TaskFailedToStart".into(), reason: reason.into() };
        Self { cause: Some(cause), container: None }
    }

    /// It may run, and this agent cannot look after it: what is left of it is ended.
    pub(crate) fn lost(why: &str) -> Self {
        let reason = format!("the node cannot take the task over after its restart: {why}");
        Self { cause: Some(StopCause { code: "InfrastructureHealth".into(), reason }), container: None }
    }

    pub(crate) fn of_container(mut self, name: &str, reason: impl Into<String>) -> Self {
        self.container = Some((name.to_owned(), reason.into()));
        self
    }
}

/// Both ends: helpers get a sender, the actor receives.
type Queue<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

pub(crate) struct Actor {
    shared: Arc<Shared>,
    dirs: TaskDirs,
    record: Record,
    desired: watch::Receiver<DesiredStatus>,
    sandbox: Option<Arc<dyn TaskSandbox>>,
    /// Of room for the images on the task's disk, until it is answered.
    reservation: Option<JoinHandle<Result<(), ferrogate_sandbox::Error>>>,
    images: BTreeMap<String, ferrogate_image::Image>,
    /// Probes: ended when the task is to stop.
    helpers: JoinSet<()>,
    /// What is served inside the task's network, its Service Connect proxy too, to the very last.
    endpoints: JoinSet<()>,
    /// The record, for the endpoints.
    seen: watch::Sender<Arc<Record>>,
    /// Of the containers that have a health check.
    probes: HashMap<String, AbortHandle>,
    /// What the log drivers must know of their containers.
    runs: HashMap<String, watch::Sender<Run>>,
    /// Values of secrets by container and variable: in memory only.
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    /// Log drivers: they end by themselves, at the end of the output.
    pumps: JoinSet<()>,
    health: Queue<crate::health::Probed>,
    delivered: Queue<(String, u64)>,
}

impl Actor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dirs: TaskDirs,
        record: Record,
        desired: watch::Receiver<DesiredStatus>,
    ) -> Self {
        Self {
            shared,
            seen: watch::Sender::new(Arc::new(record.clone())),
            dirs,
            record,
            desired,
            sandbox: None,
            reservation: None,
            images: Default::default(),
            helpers: JoinSet::new(),
            endpoints: JoinSet::new(),
            probes: HashMap::new(),
            runs: HashMap::new(),
            secrets: BTreeMap::new(),
            pumps: JoinSet::new(),
            health: mpsc::channel(QUEUE_MAX),
            delivered: mpsc::channel(QUEUE_MAX),
        }
    }

    /// Lives as long as the task. When it returns nothing of the task runs here.
    pub(crate) async fn run(mut self) {
        if self.record.status < ObservedStatus::Stopping {
            let stop = match self.start().await {
                Ok(()) => self.run_containers().await,
                Err(stop) => stop,
            };
            self.note_stop(stop);
        }
        if self.record.status < ObservedStatus::Stopped {
            // A former agent may have died while it stopped the task.
            self.find_sandbox().await;
            // Of a task that a former agent was stopping: nobody follows it yet.
            self.pump_proxy_log();
            self.stop_all().await;
            self.remove().await;
            self.record.status = ObservedStatus::Stopped;
        } else {
            // Its record says that it ended; what an agent before this one could not remove may still run.
            self.remove().await;
        }
        self.say();
    }

    fn note_stop(&mut self, stop: Stop) {
        if let Some((name, reason)) = stop.container
            && let Some(container) = self.record.containers.get_mut(&name)
        {
            container.reason.get_or_insert(reason);
        }
        if self.record.stop.is_none() {
            self.record.stop = stop.cause;
        }
        self.record.status = ObservedStatus::Stopping;
        self.say();
    }

    /// The record to disk and the report to the control plane: after every change that means something.
    fn say(&mut self) {
        // Larger than anything an agent before this one said, whatever was lost of its record.
        let now_us = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        self.record.sequence = now_us.max(self.record.sequence + 1);
        self.save();
        self.shared.reporter.put(report(&self.record));
    }

    fn save(&self) {
        self.seen.send_replace(Arc::new(self.record.clone()));
        self.shared.execs.note(&self.record.assignment, self.sandbox.as_ref());
        if let Err(error) = self.record.save(&self.dirs.root) {
            tracing::error!(%error, task = self.record.assignment.task_arn, "the task's record cannot be written");
        }
    }

    fn stop_wanted(&self) -> bool {
        *self.desired.borrow() == DesiredStatus::Stopped
    }

    /// Network and sandbox away, with all the containers wrote. The sandbox's removal is tried until it succeeds: a task
    /// whose containers run is not stopped. Another step that fails is said and the rest goes on.
    async fn remove(&mut self) {
        self.helpers.shutdown().await;
        self.endpoints.shutdown().await;
        let task = self.record.assignment.task_id.clone();
        self.keep_logs();
        self.remove_sandbox().await;
        if let Err(error) = self.shared.fabric.detach(&self.record.assignment.network.eni_id).await {
            tracing::error!(%error, task, "the network interface could not be detached");
        }
        if let Err(error) = self.shared.fabric.delete_netns(&task).await {
            tracing::error!(%error, task, "the task's network namespace could not be removed");
        }
        self.images.clear();
    }

    async fn remove_sandbox(&mut self) {
        let task = self.record.assignment.task_id.clone();
        if let Some(sandbox) = self.sandbox.take() {
            match sandbox.destroy().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, task, "the sandbox could not be removed in order: it is discarded");
                }
            }
        }
        let mut pause = DISCARD_RETRY_MIN;
        while let Err(error) =
            self.shared.sandbox.discard(&self.dirs.sandbox(), &self.shared.instance, &task).await
        {
            tracing::error!(%error, task, retry_in = ?pause, "the sandbox cannot be removed: the task does not count as stopped");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(DISCARD_RETRY_MAX);
        }
    }

    /// The containers' output stays with the record when the sandbox goes.
    fn keep_logs(&self) {
        for name in self.record.containers.keys() {
            let from = ferrogate_sandbox::log_dir(&self.dirs.sandbox(), name);
            if !from.exists() {
                continue;
            }
            let to = self.dirs.kept_logs().join(name);
            let moved =
                std::fs::create_dir_all(self.dirs.kept_logs()).and_then(|()| std::fs::rename(&from, &to));
            if let Err(error) = moved {
                tracing::warn!(%error, container = name, "output could not be kept");
            }
        }
    }
}

pub(crate) fn report(record: &Record) -> TaskReport {
    let containers = record
        .assignment
        .containers
        .iter()
        .filter_map(|assigned| {
            let container = record.containers.get(&assigned.name)?;
            Some(ContainerReport {
                name: assigned.name.clone(),
                status: container.status,
                exit_code: container.exit_code,
                reason: container.reason.clone(),
                image_digest: container.image_digest.clone(),
                health: container.health,
                started_at: container.started_at,
                finished_at: container.finished_at,
                restart_count: container.restart_count,
                exec_agent: crate::exec::agent_status(&record.assignment, container),
            })
        })
        .collect();
    TaskReport {
        task_arn: record.assignment.task_arn.clone(),
        sequence: record.sequence,
        status: record.status,
        isolation: if record.machine { Isolation::MicroVm } else { Isolation::Container },
        pull_started_at: record.pull_started_at,
        pull_stopped_at: record.pull_stopped_at,
        started_at: record.started_at,
        execution_stopped_at: record.execution_stopped_at,
        stop: record.stop.clone(),
        containers,
    }
}

/// Whether any container still counts as running.
fn any_running(record: &Record) -> bool {
    record.containers.values().any(|container| container.status == ContainerStatus::Running)
}
