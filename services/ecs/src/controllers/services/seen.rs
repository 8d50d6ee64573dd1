//! A task as the scheduler sees it: the little that counts of its record.

use ferrogate_nodeapi::Health;
use ferrogate_store::{Json, Kv};
use jiff::Timestamp;

use crate::lifecycle::{Desired, SERVICE_SCHEDULER_INITIATED, Status};
use crate::plan::service::{Accounted, ContainerHealth, End, Phase};
use crate::state::TaskRecord;
use crate::state::service::Scheduling;

pub(super) struct SeenTask {
    pub id: String,
    /// `ecs-svc/…`
    pub deployment: String,
    pub zone: String,
    pub ip: Option<String>,
    pub created_at: Timestamp,
    pub phase: Phase,
    pub end: Option<End>,
    pub started_at: Option<Timestamp>,
    pub health: ContainerHealth,
    pub protected_until: Option<Timestamp>,
    pub scheduling: Scheduling,
}

impl SeenTask {
    pub(super) fn of(kv: &Kv) -> Option<Self> {
        let task = Json::<TaskRecord>::parse(kv)?.record;
        let life = &task.lifecycle;
        let scheduling = task.scheduling.clone().unwrap_or_else(Scheduling::new);
        let phase = match life.status() {
            Status::Provisioning | Status::Pending | Status::Activating => Phase::Pending,
            Status::Running => Phase::Running,
            Status::Deactivating | Status::Stopping | Status::Deprovisioning => Phase::Ending,
            Status::Stopped => Phase::Stopped,
        };
        let end = (life.desired() == Desired::Stopped).then(|| match life.stop_code() {
            Some(SERVICE_SCHEDULER_INITIATED) if scheduling.ended_unhealthy => End::Unhealthy,
            Some(SERVICE_SCHEDULER_INITIATED) => End::Scaled,
            Some(crate::lifecycle::TASK_FAILED_TO_START | crate::lifecycle::ESSENTIAL_CONTAINER_EXITED) => {
                End::Failed
            }
            _ => End::Other,
        });
        Some(Self {
            deployment: task.started_by.clone().unwrap_or_default(),
            zone: task.network.availability_zone.clone(),
            ip: task.eni.as_ref().map(|eni| eni.private_ip.to_string()),
            created_at: life.created_at(),
            phase,
            end,
            started_at: life.started_at(),
            health: health(&task),
            protected_until: task.protection.as_ref().map(|protection| protection.until),
            scheduling,
            id: task.task_id,
        })
    }

    /// Nothing will ever have to be done about it.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Stopped
            && self.scheduling.accounted == Accounted::Ended
            && !self.scheduling.is_registered()
    }
}

/// Worst of the essential containers that have a health check.
fn health(task: &TaskRecord) -> ContainerHealth {
    let checked = task.containers.iter().filter(|one| one.essential && one.has_health_check);
    let each =
        checked.map(|one| task.lifecycle.container(&one.name).map_or(Health::Unknown, |one| one.health));
    each.fold(ContainerHealth::None, |worst, health| match (worst, health) {
        (ContainerHealth::Unhealthy, _) | (_, Health::Unhealthy) => ContainerHealth::Unhealthy,
        (ContainerHealth::Unknown, _) | (_, Health::Unknown) => ContainerHealth::Unknown,
        (_, Health::Healthy) => ContainerHealth::Healthy,
    })
}
