//! Load balancers of this node: one actor per interface, one `ferrogate-edge` process each.
//!
//! ```text
//!  assignments ──▶ Balancers ── one ──▶ actor ── netns, spawn, take over ──▶ ferrogate-edge
//!                                         ▲ │ configuration, certificates      (in its interface's
//!        control ◀── reports, log lines ──┘ └──────── unix socket ─────────▶    namespace)
//! ```
//!
//! The process goes on without the agent; what stands is found by name: `<run_dir>/edge/<instance>.<eni>/` with its
//! socket and its log, the cgroup `ferrogate/<instance>/.edges/<eni>`, the namespace `lb-<eni>`.

pub(crate) mod actor;
mod certificates;
pub(crate) mod process;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ferrogate_nodeapi::{BalancerAssignment, EdgePlane};
use ferrogate_vpc::VpcFabric;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use actor::Actor;
use process::Place;

/// What running load balancers takes beyond an agent.
#[derive(Clone)]
pub struct EdgeConfig {
    /// Where namespaces are named as well: gone with the machine's memory, as processes are.
    pub run_dir: PathBuf,
    /// The `ferrogate-edge` program.
    pub program: PathBuf,
    pub plane: Arc<dyn EdgePlane>,
}

const PROGRAM: &str = "ferrogate-edge";

impl EdgeConfig {
    /// The `ferrogate-edge` beside the running program.
    pub fn beside() -> Result<PathBuf, BalancerError> {
        let io = |path: PathBuf, source| BalancerError::Io { what: "find", path, source };
        let running = std::env::current_exe().map_err(|source| io("/proc/self/exe".into(), source))?;
        let beside = running.with_file_name(PROGRAM);
        if !beside.is_file() {
            let why = "there is no such file; it is installed beside the ferrogate program";
            return Err(io(beside, std::io::Error::new(std::io::ErrorKind::NotFound, why)));
        }
        Ok(beside)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Vpc(#[from] ferrogate_vpc::Error),
    #[error("ferrogate-edge ended, {status}: {said}")]
    Ended { status: String, said: String },
    #[error("ferrogate-edge does not answer: {0}")]
    Silent(String),
    #[error(transparent)]
    Link(#[from] ferrogate_edge::control::LinkError),
    #[error("ferrogate-edge speaks version {0} of the protocol, not {version}", version = ferrogate_edge::control::VERSION)]
    Version(u32),
}

/// What every actor has.
pub(crate) struct Shared {
    pub(crate) instance: String,
    pub(crate) edge: EdgeConfig,
    pub(crate) fabric: VpcFabric,
}

/// `None`: end it.
type Wanted = Option<Arc<BalancerAssignment>>;

struct Running {
    wanted: watch::Sender<Wanted>,
    actor: AbortHandle,
}

/// All balancers of this node.
pub(crate) struct Balancers {
    shared: Arc<Shared>,
    /// By network interface.
    running: HashMap<String, Running>,
    tasks: JoinSet<()>,
}

impl Balancers {
    pub(crate) fn new(instance: &str, edge: EdgeConfig, fabric: VpcFabric) -> Self {
        let shared = Shared { instance: instance.to_owned(), edge, fabric };
        Self { shared: Arc::new(shared), running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Runs until it is dropped. Processes go on without it.
    pub(crate) async fn run(mut self) {
        let mut assignments = self.shared.edge.plane.balancers();
        let wanted = Arc::clone(&assignments.borrow_and_update());
        self.reconcile(&wanted);
        // After those that are wanted: an actor ends what it finds as soon as it is told that nobody wants it.
        for eni_id in process::leftovers(&self.shared.edge.run_dir, &self.shared.instance) {
            if !self.running.contains_key(&eni_id) {
                self.spawn(eni_id, None);
            }
        }
        loop {
            tokio::select! {
                changed = assignments.changed() => if changed.is_err() { return },
                // An actor that ended because its balancer was gone, and is assigned again meanwhile.
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
            let wanted = Arc::clone(&assignments.borrow_and_update());
            self.reconcile(&wanted);
        }
    }

    fn reconcile(&mut self, wanted: &[BalancerAssignment]) {
        self.running.retain(|_, running| !running.actor.is_finished());
        let by_eni: HashMap<&str, &BalancerAssignment> =
            wanted.iter().map(|balancer| (balancer.network.eni_id.as_str(), balancer)).collect();
        for (eni_id, running) in &self.running {
            let assignment = by_eni.get(eni_id.as_str());
            running.wanted.send_if_modified(|now| match (now.as_deref(), assignment) {
                (None, None) => false,
                (Some(known), Some(assigned)) if known.generation >= assigned.generation => false,
                (_, assigned) => {
                    *now = assigned.map(|assigned| Arc::new((*assigned).clone()));
                    true
                }
            });
        }
        let new: Vec<&BalancerAssignment> =
            by_eni.into_values().filter(|b| !self.running.contains_key(&b.network.eni_id)).collect();
        for assignment in new {
            self.spawn(assignment.network.eni_id.clone(), Some(Arc::new(assignment.clone())));
        }
    }

    fn spawn(&mut self, eni_id: String, wanted: Wanted) {
        let place = match Place::of_balancer(&self.shared.edge.run_dir, &self.shared.instance, &eni_id) {
            Ok(place) => place,
            Err(error) => {
                tracing::error!(%error, eni = eni_id, "a load balancer has no place here");
                return;
            }
        };
        let (sender, receiver) = watch::channel(wanted);
        let actor = self.tasks.spawn(Actor::new(Arc::clone(&self.shared), place, receiver).run());
        self.running.insert(eni_id, Running { wanted: sender, actor });
    }
}

/// Ends every balancer of an instance and removes what stands of it, e.g. for `ferrogate down`. No agent of the instance
/// may run.
pub async fn end_balancers(
    run_dir: &std::path::Path,
    instance: &str,
    fabric: &VpcFabric,
) -> Result<(), BalancerError> {
    for eni_id in process::leftovers(run_dir, instance) {
        let place = Place::of_balancer(run_dir, instance, &eni_id)?;
        place.end(fabric).await?;
    }
    process::remove_parents(run_dir, instance).await
}
