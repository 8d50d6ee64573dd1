//! The record of a new task, whoever starts it. No I/O.

use std::collections::BTreeMap;

use ferrogate_model::hex_id;
use jiff::Timestamp;

use super::overrides::{Effective, container_records};
use crate::lifecycle::Lifecycle;
use crate::state::connect::TaskConnect;
use crate::state::service::Scheduling;
use crate::state::{NetworkRecord, Scope, Tags, TaskRecord, uuid};

/// All that tasks are made of but what differs between two of them.
pub(crate) struct NewTask<'a> {
    pub scope: &'a Scope,
    pub cluster: &'a str,
    pub family: &'a str,
    pub revision: u32,
    pub architecture: &'a str,
    pub effective: &'a Effective,
    pub group: String,
    pub started_by: Option<String>,
    pub capacity_provider: Option<String>,
    pub exec_enabled: bool,
    pub platform_version: String,
    pub default_log_mode: String,
    pub tags: Tags,
    /// What images are to be whatever their tags say now: digests by container name.
    pub images: BTreeMap<String, String>,
    pub connect: Option<TaskConnect>,
    pub scheduling: Option<Scheduling>,
    pub now: Timestamp,
}

impl NewTask<'_> {
    /// One of them, with its interface in this subnet.
    pub(crate) fn record(&self, network: &NetworkRecord) -> TaskRecord {
        let task_id = hex_id();
        let effective = self.effective;
        let mut containers = container_records(effective, &task_id);
        for container in &mut containers {
            container.image_digest = self.images.get(&container.name).cloned();
        }
        TaskRecord {
            account: self.scope.account.clone(),
            region: self.scope.region.clone(),
            cluster: self.cluster.to_owned(),
            family: self.family.to_owned(),
            revision: self.revision,
            group: self.group.clone(),
            started_by: self.started_by.clone(),
            capacity_provider: self.capacity_provider.clone(),
            exec_enabled: self.exec_enabled,
            ephemeral_storage_gib: effective.ephemeral_storage_gib,
            protection: None,
            platform_version: self.platform_version.clone(),
            cpu_units: effective.cpu_units,
            memory_mib: effective.memory_mib,
            architecture: self.architecture.to_owned(),
            overrides: effective.overrides.clone(),
            execution_role_arn: effective.execution_role_arn.clone(),
            task_role_arn: effective.task_role_arn.clone(),
            default_log_mode: self.default_log_mode.clone(),
            attachment_id: uuid(),
            network: network.clone(),
            connect: self.connect.clone().map(|connect| TaskConnect { attachment_id: uuid(), ..connect }),
            tags: self.tags.clone(),
            eni: None,
            node: None,
            scheduling: self.scheduling.clone(),
            lifecycle: Lifecycle::new(self.now, containers.iter().map(|container| container.name.as_str())),
            containers,
            task_id,
        }
    }
}
