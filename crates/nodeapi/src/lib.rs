//! What a node and the control plane say to each other, and nothing else.
//!
//! Desired state goes down ([`TaskAssignment`], [`Fabric`]), observed state comes up ([`TaskReport`], log
//! lines). A node never talks to the store and never chooses the role it acts under: it names the task, the
//! control plane knows the task's roles. In `ferrogate up` the [`ControlPlane`] is an object in the same
//! process; between machines it is the same trait over mTLS. Everything here is serde for that reason.

mod balancer;
mod connect;
mod fabric;
mod names;
mod report;
mod task;

pub use balancer::*;
pub use connect::*;
pub use fabric::*;
pub use names::*;
pub use report::*;
pub use task::*;

use std::collections::BTreeMap;
use std::sync::Arc;

/// A call to the control plane that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// An AWS API refused: the code and message are AWS's own, e.g. `AccessDeniedException`.
    #[error("{code}: {message}")]
    Refused { code: String, message: String },
    /// The control plane cannot be reached now; the call may succeed later.
    #[error("the control plane does not answer: {0}")]
    Unavailable(String),
}

/// The control plane as a node sees it.
#[async_trait::async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// The tasks this node must have, complete; a new value replaces the last one.
    fn assignments(&self) -> tokio::sync::watch::Receiver<Arc<Vec<TaskAssignment>>>;

    /// The VPC fabric this node must have, complete; a new value replaces the last one.
    fn fabric(&self) -> tokio::sync::watch::Receiver<Arc<Fabric>>;

    /// Says what is. Durable when it returns; a report that is older than one already taken is dropped.
    async fn report(&self, reports: Vec<TaskReport>) -> Result<(), ControlPlaneError>;

    /// Makes the container's awslogs stream, as the task's execution role. The group too when
    /// `awslogs-create-group` says so. A stream that exists is a success.
    async fn create_log_stream(&self, task_arn: &str, container: &str) -> Result<(), ControlPlaneError>;

    /// Appends to the container's awslogs stream, as the task's execution role. Durable when it returns.
    async fn put_log_events(
        &self,
        task_arn: &str,
        container: &str,
        events: Vec<LogLine>,
    ) -> Result<(), ControlPlaneError>;

    /// What the registry of this image wants to see, got as the task's execution role; `None`: anonymous.
    async fn registry_credentials(
        &self,
        task_arn: &str,
        container: &str,
    ) -> Result<Option<RegistryCredentials>, ControlPlaneError>;

    /// Temporary credentials of the task role; `None` when the task has none.
    async fn task_role_credentials(
        &self,
        task_arn: &str,
    ) -> Result<Option<RoleCredentials>, ControlPlaneError>;

    /// The values of the container's secrets by variable name, got as the task's execution role. A refusal's
    /// message is the part of ECS's text from `unable to retrieve …` on, as the stopped reason shows it.
    async fn secrets(
        &self,
        task_arn: &str,
        container: &str,
    ) -> Result<BTreeMap<String, String>, ControlPlaneError>;

    /// Looks at the task's scale-in protection (`None`), or changes it; as the task role.
    async fn task_protection(
        &self,
        task_arn: &str,
        change: Option<ProtectionChange>,
    ) -> Result<Protection, ControlPlaneError>;
}

/// The control plane as a node that carries load balancers and answers for names sees it.
#[async_trait::async_trait]
pub trait EdgePlane: Send + Sync + 'static {
    /// The load balancers this node must run, complete; a new value replaces the last one.
    fn balancers(&self) -> tokio::sync::watch::Receiver<Arc<Vec<BalancerAssignment>>>;

    /// What the resolvers of VPCs answer for, complete; a new value replaces the last one.
    fn names(&self) -> tokio::sync::watch::Receiver<Arc<Names>>;

    /// The instances that proxies of Service Connect choose among, complete; a new value replaces the last one.
    fn endpoints(&self) -> tokio::sync::watch::Receiver<Arc<Endpoints>>;

    /// The certificate of a listener of this node's balancers.
    async fn certificate(&self, certificate_arn: &str) -> Result<Certificate, ControlPlaneError>;

    /// Says how load balancers are.
    async fn report_balancers(&self, reports: Vec<BalancerReport>) -> Result<(), ControlPlaneError>;

    /// Appends to a balancer's access log (`connection`: connection log), one line each, in ELB's format.
    async fn put_access_logs(
        &self,
        load_balancer_arn: &str,
        availability_zone: &str,
        connection: bool,
        lines: Vec<String>,
    ) -> Result<(), ControlPlaneError>;
}
