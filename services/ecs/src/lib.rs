//! Amazon ECS, as far as Fargate reaches: clusters, task definitions, tasks, services.
//!
//! - An operation (`operations/`) validates and commits desired state in one transaction; what it accepts of a task
//!   definition is in `definition/`.
//! - A task's life is one state machine (`lifecycle.rs`), driven by three parties and nobody else: StopTask, the
//!   controllers (`controllers/`) that get and give back its network interface, and the reports of its node.
//! - Nodes see the service by [`EcsService::assignments`] and [`EcsService::report`] (`node.rs`).
//! - A service's tasks are started and stopped by its scheduler: a pure planner (`plan/service`) that is told what is
//!   wanted and what is seen, and a controller (`controllers/services`) that does what it says.
//! - Service Connect: a service's named ports are endpoints of a Cloud Map namespace (`state/connect.rs`). A deployment is told
//!   of those that are there when it begins; its tasks' proxies are the node's.
//! - What happens is told to EventBridge by records (`events.rs`).
//! - EC2 is called as `ecs.amazonaws.com`, roles are tried out as `ecs-tasks.amazonaws.com`: both by the AWS API.
//!
//! From RunTask to the node three transactions are written: the task, its interface (by EC2), its placement.
//!
//! Where AWS would look for container instances (no launch type and no capacity provider strategy) a task runs on
//! Fargate: there is nothing else here. The cluster `default` is made by the first RunTask that means it.
//!
//! Deliberately absent: container instances, daemons, Spot, and what an agent on an instance
//! calls (SubmitTaskStateChange and its like): nodes here do not speak the AWS API.

mod api;
mod assignments;
mod call;
mod controllers;
mod definition;
mod demands;
mod errors;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod lifecycle;
mod names;
mod node;
mod operations;
mod plan;
mod registrations;
mod sessions;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ferrogate_api::Invoke;
use ferrogate_control::Controller;
use ferrogate_model::Clock;
use ferrogate_nodeapi::Architecture;
use ferrogate_store::Store;

use assignments::Assignments;
pub use node::{ReportError, TaskRoles};
pub use registrations::{RegisteredDefinition, RegisteredImage};
pub use sessions::{
    ExecSession, Opened, SessionError, SessionLog, SessionSeen, SessionStatus, Ticket, WhereExec,
};

/// Where tasks can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    pub architecture: Architecture,
    /// All the machine has. No task larger than this is placed here; tasks are not added up.
    pub memory_mib: u64,
}

impl Node {
    /// Of this machine's architecture.
    pub fn here(id: &str, memory_mib: u64) -> Self {
        let arm = cfg!(target_arch = "aarch64");
        let architecture = if arm { Architecture::Arm64 } else { Architecture::X86_64 };
        Self { id: id.to_owned(), architecture, memory_mib }
    }
}

/// What an operator chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub nodes: Vec<Node>,
}

/// The ECS API over a store; [`ferrogate_api::ecs::Ecs`] is implemented for it.
pub struct EcsService {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    nodes: Arc<[Node]>,
    assignments: Arc<Assignments>,
    registrations: registrations::Registrations,
    sessions: sessions::Sessions,
    /// Where the next tasks begin among zones that are equal: a hint, nothing depends on it.
    zone_cursor: AtomicUsize,
    /// Services start nothing any more: the program is about to end, with its tasks.
    closing: Arc<AtomicBool>,
}

impl EcsService {
    /// Reads the tasks there are and follows their changes on the current Tokio runtime, until dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(
        config: Config,
        store: Arc<dyn Store>,
        invoke: Arc<dyn Invoke>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let ids = config.nodes.iter().map(|node| node.id.as_str());
        let assignments = Arc::new(Assignments::start(Arc::clone(&store), ids));
        Self {
            store,
            invoke,
            clock,
            nodes: config.nodes.into(),
            assignments,
            registrations: registrations::Registrations::new(),
            sessions: sessions::Sessions::default(),
            zone_cursor: AtomicUsize::new(0),
            closing: Arc::default(),
        }
    }

    fn next_zone(&self, tasks: usize) -> usize {
        self.zone_cursor.fetch_add(tasks, Ordering::Relaxed)
    }

    /// Task definitions that can run on Fargate, registered from now on. A hint: a listener that lags misses some.
    pub fn registered_definitions(&self) -> tokio::sync::broadcast::Receiver<RegisteredDefinition> {
        self.registrations.subscribe()
    }

    /// From now on, until this is dropped, no service starts tasks, and tasks that end do not wait for their load
    /// balancers. What services want stays: whoever comes next over the same store goes on with it.
    pub fn close_services(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// To be given to the driver, all of them.
    pub fn controllers(&self) -> Vec<Arc<dyn Controller>> {
        controllers::all(self)
    }
}
