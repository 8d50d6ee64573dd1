//! Puts tasks behind target groups and into Cloud Map, and takes them away, as ECS's service-linked role.
//!
//! What is being registered is written down first: a crash between leaves a note of what ELB or Cloud Map may have. A
//! task that is noted and not there is registered again by the next plan.

use ferrogate_api::{ApiError, elbv2, servicediscovery as discovery};
use ferrogate_store::get_json;
use jiff::Timestamp;

use super::Worker;
use super::observe::Observed;
use super::writes::{ActError, TaskChange, Writes};
use crate::controllers::clients;
use crate::events::{self, Named};
use crate::plan::service::Action;
use crate::state::service::{InstanceRecord, Spec};
use crate::state::{TaskKey, TaskRecord};

impl Worker {
    pub(super) async fn register(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        group: &str,
        tasks: &[String],
    ) -> Result<(), ActError> {
        for id in tasks {
            if let Some(port) = port(observed, id, group) {
                if writes.is_full() {
                    self.flush(writes).await?;
                }
                writes.change_task(id, TaskChange::Registering { group: group.to_owned(), port });
            }
        }
        self.flush(writes).await?;
        // Those that were stopped meanwhile are left out.
        let noted: Vec<(String, elbv2::TargetDescription)> =
            tasks.iter().filter_map(|id| Some((id.clone(), self.noted(writes, id, group)?))).collect();
        if noted.is_empty() {
            return Ok(());
        }
        let request = elbv2::RegisterTargetsInput {
            target_group_arn: Some(group.to_owned()),
            targets: Some(noted.iter().map(|(_, target)| target.clone()).collect()),
        };
        let answer = clients::elb(&self.invoke, &writes.key().scope).register_targets(request).await;
        let ids: Vec<String> = noted.into_iter().map(|(id, _)| id).collect();
        let Err(error) = answer else {
            let done = Action::RegisterTargets { group: group.to_owned(), tasks: ids };
            writes.say(done.events(&writes.service.name, &[]));
            return self.flush(writes).await;
        };
        for id in ids {
            writes.change_task(&id, TaskChange::NotRegistered { group: group.to_owned() });
        }
        let what = format!("failed to register targets in (target-group {group})");
        self.refused(writes, &what, &error).await
    }

    pub(super) async fn deregister(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        group: &str,
        deployment: &str,
        tasks: &[String],
    ) -> Result<(), ActError> {
        let target = |id: &String| {
            let task = observed.tasks.get(id)?;
            let port = task.scheduling.targets.iter().find(|target| target.group == group)?.port;
            Some(description(task.ip.clone()?, port))
        };
        let targets: Vec<elbv2::TargetDescription> = tasks.iter().filter_map(target).collect();
        let request = elbv2::DeregisterTargetsInput {
            target_group_arn: Some(group.to_owned()),
            targets: Some(targets),
        };
        match clients::elb(&self.invoke, &writes.key().scope).deregister_targets(request).await {
            Ok(_) => {}
            Err(error) if error.code.starts_with("TargetGroupNotFound") => {}
            Err(error) => {
                let what = format!("failed to deregister targets in (target-group {group})");
                return self.refused(writes, &what, &error).await;
            }
        }
        for id in tasks {
            if writes.is_full() {
                self.flush(writes).await?;
            }
            writes.change_task(id, TaskChange::Draining { group: group.to_owned() });
        }
        let done = Action::DeregisterTargets {
            group: group.to_owned(),
            deployment: deployment.to_owned(),
            tasks: tasks.to_vec(),
        };
        writes.say(done.events(&writes.service.name, &[]));
        self.flush(writes).await
    }

    pub(super) async fn register_instance(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        id: &str,
        healthy: bool,
    ) -> Result<(), ActError> {
        let Some(task) = self.read(writes, id) else { return Ok(()) };
        let Some(spec) = task.started_by.as_ref().and_then(|one| observed.specs.get(one)) else {
            return Ok(());
        };
        let Some(registry) = spec.registries.first() else { return Ok(()) };
        let arn = registry.registry_arn.clone().unwrap_or_default();
        let (Some(service_id), Some(attributes)) =
            (clients::registry_id(&arn), self.attributes(writes, &task, spec, healthy))
        else {
            return Ok(());
        };
        let note = InstanceRecord { registry: arn.clone(), healthy, confirmed: false };
        writes.change_task(id, TaskChange::Instance(Some(note.clone())));
        self.flush(writes).await?;
        let request = discovery::RegisterInstanceRequest {
            service_id: Some(service_id.to_owned()),
            instance_id: Some(id.to_owned()),
            creator_request_id: Some(id.to_owned()),
            attributes: Some(attributes),
        };
        match clients::discovery(&self.invoke, &writes.key().scope).register_instance(request).await {
            Ok(_) => {
                let confirmed = InstanceRecord { confirmed: true, ..note };
                writes.change_task(id, TaskChange::Instance(Some(confirmed)));
                self.flush(writes).await
            }
            Err(error) => {
                self.refused(writes, &format!("failed to register (task {id}) in {arn}"), &error).await
            }
        }
    }

    /// What Cloud Map is told of a task (Developer Guide, "Service discovery").
    fn attributes(
        &self,
        writes: &Writes,
        task: &TaskRecord,
        spec: &Spec,
        healthy: bool,
    ) -> Option<std::collections::BTreeMap<String, String>> {
        let registry = spec.registries.first()?;
        let port = registry.port.or(registry.container_port);
        let ip = task.eni.as_ref()?.private_ip.to_string();
        let mut all = std::collections::BTreeMap::from([
            ("AWS_INSTANCE_IPV4".to_owned(), ip),
            ("AWS_INIT_HEALTH_STATUS".to_owned(), if healthy { "HEALTHY" } else { "UNHEALTHY" }.to_owned()),
            ("ECS_CLUSTER_NAME".to_owned(), task.cluster.clone()),
            ("ECS_SERVICE_NAME".to_owned(), writes.service.name.clone()),
            ("ECS_TASK_DEFINITION_FAMILY".to_owned(), task.family.clone()),
            ("AVAILABILITY_ZONE".to_owned(), task.network.availability_zone.clone()),
            ("REGION".to_owned(), task.region.clone()),
        ]);
        all.extend(port.map(|port| ("AWS_INSTANCE_PORT".to_owned(), port.to_string())));
        Some(all)
    }

    pub(super) async fn set_instance_health(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        id: &str,
        healthy: bool,
        now: Timestamp,
    ) -> Result<(), ActError> {
        let instance = observed.tasks.get(id).and_then(|task| task.scheduling.instance.clone());
        let Some(instance) = instance else { return Ok(()) };
        let Some(service_id) = clients::registry_id(&instance.registry) else { return Ok(()) };
        let request = discovery::UpdateInstanceCustomHealthStatusRequest {
            service_id: Some(service_id.to_owned()),
            instance_id: Some(id.to_owned()),
            status: Some(if healthy { "HEALTHY" } else { "UNHEALTHY" }.into()),
        };
        let client = clients::discovery(&self.invoke, &writes.key().scope);
        match client.update_instance_custom_health_status(request).await {
            Ok(_) => {}
            // A service without a custom health check has nothing to be told.
            Err(error) if error.code.starts_with("CustomHealthNotFound") => {}
            Err(error) => {
                let what = format!("failed to update the health of (task {id}) in {}", instance.registry);
                return self.refused(writes, &what, &error).await;
            }
        }
        writes.change_task(id, TaskChange::Instance(Some(InstanceRecord { healthy, ..instance })));
        if !healthy {
            let service = writes.service.clone();
            let unhealthy = Named::DISCOVERY_INSTANCE_UNHEALTHY;
            writes.also(|txn| events::service_action(txn, &service, unhealthy, None, now));
        }
        self.flush(writes).await
    }

    pub(super) async fn deregister_instance(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        id: &str,
    ) -> Result<(), ActError> {
        let instance = observed.tasks.get(id).and_then(|task| task.scheduling.instance.clone());
        let Some(instance) = instance else { return Ok(()) };
        let service_id = clients::registry_id(&instance.registry).unwrap_or_default();
        let request = discovery::DeregisterInstanceRequest {
            service_id: Some(service_id.to_owned()),
            instance_id: Some(id.to_owned()),
        };
        match clients::discovery(&self.invoke, &writes.key().scope).deregister_instance(request).await {
            Ok(_) => {}
            Err(error)
                if error.code.starts_with("InstanceNotFound")
                    || error.code.starts_with("ServiceNotFound") => {}
            Err(error) => {
                let what = format!("failed to deregister (task {id}) in {}", instance.registry);
                return self.refused(writes, &what, &error).await;
            }
        }
        writes.change_task(id, TaskChange::Instance(None));
        self.flush(writes).await
    }

    pub(super) fn read(&self, writes: &Writes, id: &str) -> Option<TaskRecord> {
        let service = writes.key();
        let key =
            TaskKey { scope: service.scope.clone(), cluster: service.cluster.clone(), id: id.to_owned() };
        get_json(&*self.store, &key.record()).map(|found| found.record)
    }

    fn noted(&self, writes: &Writes, id: &str, group: &str) -> Option<elbv2::TargetDescription> {
        let task = self.read(writes, id)?;
        let target = task.scheduling?.targets.into_iter().find(|one| one.group == group && !one.draining)?;
        Some(description(task.eni?.private_ip.to_string(), target.port))
    }

    /// Another service said no: said in the service's events, and tried again by a later plan.
    pub(super) async fn refused(
        &self,
        writes: &mut Writes,
        what: &str,
        error: &ApiError,
    ) -> Result<(), ActError> {
        let name = &writes.service.name;
        writes.say([format!("(service {name}) {what} with (error {}).", error.message)]);
        self.flush(writes).await?;
        Err(ActError::Refused(format!("{what}: {error}")))
    }
}

fn description(ip: String, port: u16) -> elbv2::TargetDescription {
    elbv2::TargetDescription { id: Some(ip), port: Some(i32::from(port)), ..Default::default() }
}

/// On which a task's deployment serves what comes through the group.
fn port(observed: &Observed, task: &str, group: &str) -> Option<u16> {
    let spec = observed.specs.get(&observed.tasks.get(task)?.deployment)?;
    let of = |one: &&ferrogate_api::ecs::LoadBalancer| {
        let other =
            one.advanced_configuration.as_ref().and_then(|one| one.alternate_target_group_arn.as_deref());
        one.target_group_arn.as_deref() == Some(group) || other == Some(group)
    };
    u16::try_from(spec.load_balancers.iter().find(of)?.container_port?).ok()
}
