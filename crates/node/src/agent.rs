//! Assignments in, one actor per task; what a former agent left is taken over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ferrogate_image::ImageStore;
use ferrogate_model::hex_id;
use ferrogate_nodeapi::{ControlPlane, DesiredStatus, Names, ObservedStatus, TaskAssignment};
use ferrogate_sandbox::Sandbox;
use ferrogate_vpc::VpcFabric;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::balancer::{Balancers, EdgeConfig};
use crate::dns::Resolvers;
use crate::pulls::{Pulls, images_in_use};
use crate::record::{Record, TaskDirs};
use crate::reporter::Reporter;
use crate::task::{Actor, Shared};
use crate::timing::{Step, Timings, step};

/// Records and output of tasks that ended are kept so long, as ECS shows them.
const ENDED_KEPT: Duration = Duration::from_secs(3600);
/// And no more than this many.
const ENDED_KEPT_MAX: usize = 1000;
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Config {
    /// Names cgroups and namespaces, so that two agents on one machine never meet.
    pub instance: String,
    /// One folder per task.
    pub tasks_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot use {path} for tasks")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// For `ferrogate status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskSummary {
    pub task_arn: String,
    pub status: ObservedStatus,
    /// What it waits for, in words: `pulling nginx:latest: 2 of 4 layers, 3.1 of 6.5 MB`.
    pub progress: Option<String>,
    /// What its start spent its time on; empty where it has not begun.
    #[serde(default)]
    pub timing: Vec<Step>,
}

struct Running {
    desired: watch::Sender<DesiredStatus>,
    actor: JoinHandle<()>,
}

/// The agent of one node.
pub struct Agent {
    shared: Arc<Shared>,
    tasks_dir: PathBuf,
    running: Mutex<HashMap<String, Running>>,
    /// What the resolvers of VPCs answer for.
    names: watch::Receiver<Arc<Names>>,
}

impl Agent {
    pub fn new(
        config: Config,
        control: Arc<dyn ControlPlane>,
        images: Arc<ImageStore>,
        fabric: VpcFabric,
        sandbox: Arc<dyn Sandbox>,
    ) -> Result<Self, AgentError> {
        std::fs::create_dir_all(&config.tasks_dir)
            .map_err(|source| AgentError::Io { path: config.tasks_dir.clone(), source })?;
        let tasks_dir = config.tasks_dir.clone();
        images.set_in_use(move || images_in_use(&tasks_dir));
        let shared = Shared {
            instance: config.instance,
            control,
            images,
            fabric,
            sandbox,
            reporter: Arc::new(Reporter::default()),
            pulls: Pulls::default(),
            timings: Timings::default(),
            execs: crate::exec::Sandboxes::default(),
            edge: OnceLock::new(),
            storage_templates: config.tasks_dir.with_file_name("storage-templates"),
        };
        let shared = Arc::new(shared);
        Ok(Self {
            shared,
            tasks_dir: config.tasks_dir,
            running: Mutex::default(),
            names: watch::channel(Arc::default()).1,
        })
    }

    /// The node carries load balancers, and proxies of Service Connect.
    pub fn with_edge(self, edge: EdgeConfig) -> Self {
        // The first counts: it is said once.
        let _ = self.shared.edge.set(edge);
        self
    }

    /// Resolvers of VPCs answer for these names, and those that follow.
    #[must_use]
    pub fn with_names(mut self, names: watch::Receiver<Arc<Names>>) -> Self {
        self.names = names;
        self
    }

    /// Runs until dropped. Tasks go on without it.
    pub async fn run(self: Arc<Self>) {
        if let Some(missing) = ferrogate_sandbox::missing_for_storage() {
            tracing::error!(missing, "tasks cannot have their ephemeral storage here: none will start");
        }
        self.adopt();
        let reporter = Arc::clone(&self.shared.reporter);
        let report = tokio::spawn(reporter.run(Arc::clone(&self.shared.control)));
        let _report = AbortOnDrop(report);
        let images = Arc::clone(&self.shared.images);
        let _images = AbortOnDrop(tokio::spawn(async move { images.keep_up().await }));
        let mut assignments = self.shared.control.assignments();
        let mut fabric = self.shared.control.fabric();
        let mut sweep = tokio::time::interval(SWEEP_PERIOD);
        let mut resolvers = Resolvers::new(self.names.clone());
        self.sync_fabric(&mut fabric, &mut resolvers).await;
        assignments.mark_changed();
        let keep_fabric = async {
            while fabric.changed().await.is_ok() {
                self.sync_fabric(&mut fabric, &mut resolvers).await;
            }
        };
        let keep_tasks = async {
            loop {
                tokio::select! {
                    changed = assignments.changed() => {
                        if changed.is_err() { return }
                        let wanted = Arc::clone(&assignments.borrow_and_update());
                        self.reconcile(&wanted);
                    }
                    _ = sweep.tick() => {
                        self.sweep();
                        // What could not be taken then, perhaps for want of room on the disk, is tried again.
                        let wanted = Arc::clone(&assignments.borrow());
                        self.reconcile(&wanted);
                    }
                }
            }
        };
        let keep_balancers = async {
            match self.shared.edge.get() {
                Some(edge) => {
                    let (instance, fabric) = (&self.shared.instance, self.shared.fabric.clone());
                    Balancers::new(instance, edge.clone(), fabric).run().await;
                }
                None => std::future::pending().await,
            }
        };
        // Side by side: a task's sandbox is made while the fabric still learns of its interface; what needs the
        // interface waits for it.
        tokio::select! {
            () = keep_fabric => {}
            () = keep_tasks => {}
            () = keep_balancers => {}
        }
    }

    pub(crate) fn execs(&self) -> &crate::exec::Sandboxes {
        &self.shared.execs
    }

    /// What a task's processes listen on; `None`: it does not run here, or does not say.
    pub async fn listeners(&self, task_arn: &str) -> Option<Vec<ferrogate_sandbox::Listener>> {
        let (sandbox, _) = self.shared.execs.find(task_arn)?;
        sandbox.listeners().await.ok()
    }

    /// What is here, for people.
    pub fn tasks(&self) -> Vec<TaskSummary> {
        let summary = |record: Record| TaskSummary {
            progress: self.shared.pulls.words(&record.assignment.task_id),
            timing: self.timing(&record),
            task_arn: record.assignment.task_arn,
            status: record.status,
        };
        self.folders().into_iter().filter_map(|dir| Record::load(&dir).ok()).map(summary).collect()
    }

    fn timing(&self, record: &Record) -> Vec<Step> {
        let mut steps = record.timing.clone();
        if let Some(at) = self.shared.reporter.running_reported_at(&record.assignment.task_arn)
            && let Some(began) = record.started_at
        {
            let step = step::REPORTED.to_owned();
            steps.push(Step { step, container: None, began, ended: at.max(began) });
        }
        steps
    }

    /// Where a task's containers' output is kept on this node, by container: while it runs, and after.
    pub fn output_dirs(&self, task_id: &str) -> HashMap<String, Vec<PathBuf>> {
        let dirs = TaskDirs { root: self.tasks_dir.join(task_id) };
        let Ok(record) = Record::load(&dirs.root) else { return HashMap::new() };
        let of = |name: &String| {
            let running = ferrogate_sandbox::log_dir(&dirs.sandbox(), name);
            (name.clone(), vec![running, dirs.kept_logs().join(name)])
        };
        record.containers.keys().map(of).collect()
    }

    async fn sync_fabric(
        &self,
        fabric: &mut watch::Receiver<Arc<ferrogate_nodeapi::Fabric>>,
        resolvers: &mut Resolvers,
    ) {
        let wanted = Arc::clone(&fabric.borrow_and_update());
        if let Err(error) = self.shared.fabric.sync(Arc::clone(&wanted)).await {
            tracing::error!(%error, "the VPC fabric could not be brought up to date");
            return;
        }
        resolvers.sync(&self.shared.fabric, &wanted).await;
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.tasks_dir).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect()
    }

    /// Every task a former agent had goes on, until the control plane says otherwise.
    fn adopt(&self) {
        for dir in self.folders() {
            match Record::load(&dir) {
                Ok(record) if record.status < ObservedStatus::Stopped => {
                    tracing::info!(task = record.assignment.task_arn, "taken over");
                    // The former agent may have died between the record and the report of it.
                    self.shared.reporter.put(crate::task::report(&record));
                    let desired = record.assignment.desired;
                    self.spawn(dir, record, desired);
                }
                // Said to have ended, and not removed: it is not reported before it is.
                Ok(record) if (TaskDirs { root: dir.clone() }).sandbox().exists() => {
                    self.spawn(dir, record, DesiredStatus::Stopped);
                }
                // Ended, but perhaps not yet known to the control plane.
                Ok(record) => self.shared.reporter.put(crate::task::report(&record)),
                Err(error) => {
                    tracing::error!(%error, dir = %dir.display(), "a task's record cannot be read; its folder is left for a person to see");
                }
            }
        }
    }

    fn reconcile(&self, wanted: &[TaskAssignment]) {
        let mut running = self.running.lock().expect("agent lock");
        running.retain(|_, task| !task.actor.is_finished());
        let by_id: HashMap<&str, &TaskAssignment> =
            wanted.iter().map(|task| (task.task_id.as_str(), task)).collect();
        for (id, task) in running.iter() {
            let desired =
                by_id.get(id.as_str()).map_or(DesiredStatus::Stopped, |assignment| assignment.desired);
            task.desired.send_if_modified(|now| std::mem::replace(now, desired) != desired);
        }
        let new: Vec<&TaskAssignment> =
            wanted.iter().filter(|assignment| !running.contains_key(&assignment.task_id)).collect();
        drop(running);
        for assignment in new {
            self.take(assignment);
        }
    }

    /// A task that is assigned and has no actor: new, or ended before and not yet known to have.
    fn take(&self, assignment: &TaskAssignment) {
        let dir = self.tasks_dir.join(&assignment.task_id);
        if let Ok(record) = Record::load(&dir) {
            self.shared.reporter.put(crate::task::report(&record));
            return;
        }
        let mut record = Record::new(assignment.clone(), uuid());
        record.note(step::PLACED, None, assignment.created_at);
        if assignment.reported_sequence > 0 {
            // It ran here and its folder is gone: a task is never started twice.
            // Its containers may run on without it: the actor ends them before it says so.
            record.lost(assignment.reported_sequence);
        }
        if let Err(error) = create_private(&dir).and_then(|()| record.save(&dir)) {
            tracing::error!(%error, dir = %dir.display(), "a task's folder cannot be made");
            return;
        }
        self.spawn(dir, record, assignment.desired);
    }

    fn spawn(&self, dir: PathBuf, record: Record, desired: DesiredStatus) {
        let id = record.assignment.task_id.clone();
        let (sender, receiver) = watch::channel(desired);
        let actor = Actor::new(Arc::clone(&self.shared), TaskDirs { root: dir }, record, receiver);
        let actor = tokio::spawn(actor.run());
        self.running.lock().expect("agent lock").insert(id, Running { desired: sender, actor });
    }

    /// Forgets tasks that ended long ago.
    fn sweep(&self) {
        let mut ended: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
        for dir in self.folders() {
            if let Ok(record) = Record::load(&dir)
                && record.status == ObservedStatus::Stopped
                && !(TaskDirs { root: dir.clone() }).sandbox().exists()
                && let Ok(at) = std::fs::metadata(dir.join("task.json")).and_then(|meta| meta.modified())
            {
                ended.push((at, dir));
            }
        }
        ended.sort();
        let surplus = ended.len().saturating_sub(ENDED_KEPT_MAX);
        for (index, (at, dir)) in ended.iter().enumerate() {
            let old = index < surplus || at.elapsed().is_ok_and(|age| age > ENDED_KEPT);
            if old && let Err(error) = std::fs::remove_dir_all(dir) {
                tracing::warn!(%error, dir = %dir.display(), "an ended task's folder could not be removed");
            }
        }
    }
}

/// Only root reads what a task was given.
fn create_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn uuid() -> String {
    let hex = hex_id();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
