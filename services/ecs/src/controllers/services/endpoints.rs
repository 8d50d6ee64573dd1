//! Service Connect: a task is an instance of each endpoint of its service, registered as ECS's service-linked role.
//!
//! As in `attach.rs`, what is being registered is written down first. Endpoints have no health in Cloud Map: a task that fails
//! its checks is taken away.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::servicediscovery as discovery;
use ferrogate_nodeapi::{REVISION_ATTRIBUTE, SPLIT_ATTRIBUTE};

use super::Worker;
use super::observe::Observed;
use super::writes::{ActError, TaskChange, Writes};
use crate::controllers::clients;
use crate::lifecycle::Desired;
use crate::operations::namespaces::is_gone;
use crate::plan::connect::split;
use crate::plan::service::{Listener, Strategy};
use crate::state::TaskRecord;
use crate::state::connect::{Endpoint, EndpointInstance, look_at};
use crate::state::service::{DeploymentRecord, Scheduling, Spec};

impl Worker {
    pub(super) async fn register_endpoints(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        id: &str,
    ) -> Result<(), ActError> {
        let Some(task) = self.read(writes, id) else { return Ok(()) };
        let spec = task.started_by.as_ref().and_then(|one| observed.specs.get(one));
        let endpoints = spec.map_or(&[][..], Spec::endpoints);
        let Some(ip) = task.eni.as_ref().map(|eni| eni.private_ip.to_string()) else { return Ok(()) };
        if task.lifecycle.desired() == Desired::Stopped {
            return Ok(());
        }
        let noted = |confirmed: bool| {
            let note = |one: &Endpoint| EndpointInstance { service_id: one.service_id.clone(), confirmed };
            TaskChange::Endpoints(endpoints.iter().map(note).collect())
        };
        writes.change_task(id, noted(false));
        self.flush(writes).await?;
        let client = clients::discovery(&self.invoke, &writes.key().scope);
        let mut lost = false;
        for endpoint in endpoints {
            let request = discovery::RegisterInstanceRequest {
                service_id: Some(endpoint.service_id.clone()),
                instance_id: Some(id.to_owned()),
                creator_request_id: Some(id.to_owned()),
                attributes: Some(attributes(writes, &task, endpoint, &ip)),
            };
            let Err(error) = client.register_instance(request).await else { continue };
            let arn = writes.key().scope.cloud_map_arn(format!("service/{}", endpoint.service_id));
            let what = format!("failed to register (task {id}) in {arn}");
            if !error.code.starts_with("ServiceNotFound") {
                return self.refused(writes, &what, &error).await;
            }
            // Somebody has deleted it. The next deployment makes it again: nothing may keep that from being brought out.
            let name = &writes.service.name;
            writes.say([format!("(service {name}) {what} with (error {}).", error.message)]);
            lost = true;
        }
        if !lost {
            writes.change_task(id, noted(true));
        }
        self.flush(writes).await
    }

    pub(super) async fn deregister_endpoints(&self, writes: &mut Writes, id: &str) -> Result<(), ActError> {
        let registered =
            self.read(writes, id).and_then(|task| task.scheduling).unwrap_or_else(Scheduling::new);
        let client = clients::discovery(&self.invoke, &writes.key().scope);
        for endpoint in registered.endpoints {
            let request = discovery::DeregisterInstanceRequest {
                service_id: Some(endpoint.service_id.clone()),
                instance_id: Some(id.to_owned()),
            };
            match client.deregister_instance(request).await {
                Ok(_) => {}
                Err(error)
                    if error.code.starts_with("InstanceNotFound")
                        || error.code.starts_with("ServiceNotFound") => {}
                Err(error) => {
                    let arn = writes.key().scope.cloud_map_arn(format!("service/{}", endpoint.service_id));
                    let what = format!("failed to deregister (task {id}) in {arn}");
                    return self.refused(writes, &what, &error).await;
                }
            }
        }
        writes.change_task(id, TaskChange::Endpoints(Vec::new()));
        self.flush(writes).await
    }

    /// Shifts the traffic of the endpoints that these deployments have, of one listener in ELB's words: all proxies of the namespace
    /// hear of it at once.
    pub(super) async fn shift_endpoints(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        listener: Listener,
        permille: &[(String, u32)],
    ) -> Result<(), ActError> {
        let service = &writes.service;
        let noted = |of: fn(&DeploymentRecord) -> Option<u32>| -> Vec<(String, u32)> {
            service.deployments.iter().filter_map(|one| Some((one.id.clone(), of(one)?))).collect()
        };
        let (production, test) = match listener {
            Listener::Production => (permille.to_vec(), noted(|one| one.test_permille)),
            Listener::Test => (noted(|one| one.production_permille), permille.to_vec()),
        };
        let revision =
            |id: &str| service.deployments.iter().find(|one| one.id == id).map(|one| one.revision.as_str());
        let ids: BTreeSet<&String> = permille
            .iter()
            .filter_map(|(id, _)| observed.specs.get(id))
            .flat_map(Spec::endpoints)
            .map(|endpoint| &endpoint.service_id)
            .collect();
        let mut told = Vec::new();
        for service_id in ids {
            let header = |id: &str| {
                let own =
                    observed.specs.get(id)?.endpoints().iter().find(|one| one.service_id == *service_id)?;
                Some(own.test_header.clone().unwrap_or_default())
            };
            let split = split(&production, &test, revision, header);
            told.push((service_id.clone(), serde_json::to_string(&split).unwrap_or_default()));
        }
        if !told.is_empty() && !writes.service.may_be_split {
            writes.service.may_be_split = true;
            self.flush(writes).await?;
        }
        let client = clients::discovery(&self.invoke, &writes.key().scope);
        for (service_id, split) in told {
            let request = discovery::UpdateServiceAttributesRequest {
                service_id: Some(service_id.clone()),
                attributes: Some([(SPLIT_ATTRIBUTE.to_owned(), split)].into()),
            };
            if let Err(error) = client.update_service_attributes(request).await
                && !is_gone(&client, &service_id, &error).await
            {
                let arn = writes.key().scope.cloud_map_arn(format!("service/{service_id}"));
                return self.refused(writes, &format!("failed to shift traffic of {arn}"), &error).await;
            }
        }
        Ok(())
    }

    /// A service that rolls has one kind of traffic: what a former strategy has left is taken away.
    pub(super) async fn end_split(&self, writes: &mut Writes, observed: &Observed) -> Result<(), ActError> {
        let endpoints: BTreeSet<&String> =
            observed.specs.values().flat_map(Spec::endpoints).map(|one| &one.service_id).collect();
        let rolls = observed.snapshot.service.strategy == Strategy::Rolling;
        if !rolls || endpoints.is_empty() || !writes.service.may_be_split {
            return Ok(());
        }
        let client = clients::discovery(&self.invoke, &writes.key().scope);
        for service_id in endpoints {
            let request = discovery::DeleteServiceAttributesRequest {
                service_id: Some(service_id.clone()),
                attributes: Some(vec![SPLIT_ATTRIBUTE.to_owned()]),
            };
            if let Err(error) = client.delete_service_attributes(request).await
                && !is_gone(&client, service_id, &error).await
            {
                let arn = writes.key().scope.cloud_map_arn(format!("service/{service_id}"));
                return self.refused(writes, &format!("failed to shift traffic of {arn}"), &error).await;
            }
        }
        for one in &mut writes.service.deployments {
            (one.production_permille, one.test_permille) = (None, None);
        }
        writes.service.may_be_split = false;
        self.flush(writes).await
    }

    /// What this revision has may be nobody's any more, or be somebody's again.
    pub(super) fn look_at_endpoints(&self, writes: &mut Writes, revision: &str) {
        let key = writes.key().clone();
        writes.also(|txn| look_at(&*self.store, &key, revision, txn));
    }
}

/// As of a service registry; there is no health to begin with.
fn attributes(writes: &Writes, task: &TaskRecord, endpoint: &Endpoint, ip: &str) -> BTreeMap<String, String> {
    let all = [
        ("AWS_INSTANCE_IPV4", ip),
        ("AWS_INSTANCE_PORT", &endpoint.instance_port().to_string()),
        ("AVAILABILITY_ZONE", &task.network.availability_zone),
        ("ECS_CLUSTER_NAME", &task.cluster),
        ("ECS_SERVICE_NAME", &writes.service.name),
        ("ECS_TASK_DEFINITION_FAMILY", &task.family),
        ("REGION", &task.region),
        (REVISION_ATTRIBUTE, task.connect.as_ref().map_or("", |connect| &connect.revision)),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
