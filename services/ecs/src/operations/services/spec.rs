//! What a service revision is made of: as a call asks for it, checked.

use ferrogate_api::{ApiError, ecs};

use crate::call::Call;
use crate::definition;
use crate::errors::{client, invalid};
use crate::operations::{definitions, launch, network};
use crate::state::service::Spec;
use crate::state::{ClusterRecord, RevisionStatus};

/// Who asks: a definition that is not active is refused with another code by each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Create,
    Update,
}

/// The definition a call names, which has to be active.
pub(super) fn definition(call: &Call<'_>, identifier: &str, by: By) -> Result<definitions::Found, ApiError> {
    let name = crate::names::definition(&call.scope, identifier)?;
    let found = definitions::find(call, &name).ok_or_else(|| client("TaskDefinition not found."))?;
    if found.revision.record.status == RevisionStatus::Active {
        return Ok(found);
    }
    let message = "TaskDefinition is inactive";
    Err(if by == By::Update { client(message) } else { invalid(message) })
}

/// What CreateService, UpdateService and CreateTaskSet name alike. `None`: not named.
#[derive(Default)]
pub(super) struct Asked {
    pub launch_type: Option<String>,
    pub strategy: Option<Vec<ecs::CapacityProviderStrategyItem>>,
    pub platform_version: Option<String>,
    pub network: Option<ecs::NetworkConfiguration>,
    pub load_balancers: Option<Vec<ecs::LoadBalancer>>,
    pub registries: Option<Vec<ecs::ServiceRegistry>>,
}

impl Asked {
    /// Over what there is. The networks are those of before: see [`resolve`].
    pub(super) fn over(
        self,
        before: Option<&Spec>,
        found: Option<&definitions::Found>,
        cluster: &ClusterRecord,
    ) -> Result<Spec, ApiError> {
        let mut spec = before.cloned().unwrap_or_default();
        if let Some(found) = found {
            spec.family.clone_from(&found.revision.record.family);
            spec.revision = found.revision.record.revision;
        }
        let definition = found.map(|found| &found.definition);
        if before.is_none() || self.strategy.is_some() || self.launch_type.is_some() {
            let strategy = self.strategy.unwrap_or_default();
            let (launch_type, strategy) =
                launch::compute(self.launch_type.as_deref(), &strategy, cluster, definition)?;
            spec.launch_type = launch_type;
            spec.capacity_provider_strategy = strategy;
        } else if definition.is_some_and(|one| !definition::fits_fargate(one)) {
            return Err(invalid("Task definition does not support launch_type FARGATE."));
        }
        if before.is_none() || self.platform_version.is_some() {
            let version = self.platform_version.filter(|version| !version.is_empty());
            launch::platform_version(version.as_deref())?;
            spec.platform_version = version.unwrap_or_else(|| "LATEST".into());
        }
        if self.network.is_some() {
            spec.network_configuration = self.network;
        }
        if let Some(balancers) = self.load_balancers {
            spec.load_balancers = balancers;
        }
        if let Some(registries) = self.registries {
            spec.registries = registries;
        }
        Ok(spec)
    }
}

/// Reads the subnets anew.
pub(super) async fn resolve(call: &Call<'_>, spec: &mut Spec) -> Result<(), ApiError> {
    let wanted = network::wanted(spec.network_configuration.clone())?;
    spec.networks = network::resolve(&call.service.invoke, &call.scope, &wanted).await?;
    if let Some(vpc) = spec.network_configuration.as_mut().and_then(|one| one.awsvpc_configuration.as_mut()) {
        vpc.assign_public_ip.get_or_insert_with(|| "DISABLED".into());
    }
    Ok(())
}

/// Sessions into a container come to it under the task's own role.
pub(super) fn check_exec(enabled: bool, found: Option<&definitions::Found>) -> Result<(), ApiError> {
    if enabled && found.is_some_and(|found| found.definition.task_role_arn.is_none()) {
        return Err(invalid(
            "The service couldn't be created because a valid taskRoleArn is not being used. Specify a valid task role in \
             your task definition and try again.",
        ));
    }
    Ok(())
}
