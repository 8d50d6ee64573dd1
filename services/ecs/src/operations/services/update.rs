//! UpdateService: what changes the tasks begins a new deployment, the rest holds at once.

use ferrogate_api::{ApiError, ecs};

use super::attachments::{self, refuse_unsupported};
use super::create::{check_placement, checked_rebalancing, controller, propagate};
use super::spec::{self, Asked, By};
use super::{active, begin, change, configuration, connect, desired_count, grace_period, key, shape};
use crate::call::Call;
use crate::errors::{invalid, unsupported};
use crate::events::{self, Named};
use crate::operations::definitions;
use crate::state::service::{DeploymentController, ServiceRecord, Spec};

pub(crate) async fn update(
    call: &Call<'_>,
    mut input: ecs::UpdateServiceRequest,
) -> Result<ecs::UpdateServiceResponse, ApiError> {
    let key = key(call, input.cluster.as_deref(), input.service.as_deref())?;
    let found = active(call, &key)?.record;
    refuse(&input, &found)?;
    let named = input.task_definition.take().filter(|name| !name.is_empty());
    let by_name = |name: &String| spec::definition(call, name, By::Update);
    let definition = named.as_ref().map(by_name).transpose()?;
    let now = definition.as_ref().map_or_else(|| current(call, &found), |_| Ok(None))?;
    let definition = definition.or(now);
    let wants_network = input.network_configuration.is_some();
    let looks_up = input.load_balancers.is_some() || input.service_registries.is_some();
    let cluster = call.cluster(Some(&key.cluster))?.record;
    let asked = Asked {
        launch_type: None,
        strategy: input.capacity_provider_strategy.take(),
        platform_version: input.platform_version.take(),
        network: input.network_configuration.take(),
        load_balancers: input.load_balancers.take(),
        registries: input.service_registries.take(),
    };
    let mut wanted = asked.over(Some(&found.spec), definition.as_ref(), &cluster)?;
    let configuration = configuration::checked(
        input.deployment_configuration.clone(),
        Some(&found.configuration),
        found.controller,
    )?;
    if found.controller == DeploymentController::Ecs {
        let definition = definition.as_ref().map(|found| &found.definition);
        attachments::check(&wanted, &configuration, definition)?;
    }
    let again = named.is_some() || input.force_new_deployment == Some(true);
    let connect = asked_of_connect(&mut input, &found, again).zip(definition.as_ref());
    let connect = connect
        .map(|(asked, of)| {
            let drafts = connect::check(&asked, &of.definition, Some(&found.spec))?;
            Ok::<_, ApiError>((asked, drafts))
        })
        .transpose()?;
    spec::check_exec(input.enable_execute_command.unwrap_or(found.exec_enabled), definition.as_ref())?;
    if wants_network {
        spec::resolve(call, &mut wanted).await?;
    }
    if looks_up {
        Box::pin(attachments::look_up(call, &wanted)).await?;
    }
    if let Some((asked, drafts)) = connect {
        let joined = connect::join(call, &key, asked, drafts, &cluster);
        wanted.connect = Some(Box::pin(joined).await?);
    }
    let before = found.spec.clone();
    let store = &*call.service.store;
    let updated = change(call, &key, |service, mut txn| {
        if let Some(name) = &named {
            let found = spec::definition(call, name, By::Update)?;
            txn = txn.when_revision(&*found.revision.key, found.revision.mod_revision);
        }
        apply(service, &input)?;
        let deployed = service.spec.clone();
        take(&mut service.spec, &before, &wanted);
        let anew = service.spec != deployed || input.force_new_deployment == Some(true);
        if anew && service.controller == DeploymentController::Ecs {
            txn = begin::begin(store, service, call.cx.now, txn);
        }
        if input.desired_count.is_some_and(|count| u32::try_from(count) != Ok(found.desired_count)) {
            txn = events::service_action(txn, service, Named::DESIRED_COUNT_UPDATED, None, call.cx.now);
        }
        Ok(txn)
    })
    .await?;
    Ok(ecs::UpdateServiceResponse { service: Some(shape::service(store, &updated, true)) })
}

/// What is asked for, or, for a new definition, what there is: its ports are looked up again.
fn asked_of_connect(
    input: &mut ecs::UpdateServiceRequest,
    service: &ServiceRecord,
    again: bool,
) -> Option<ecs::ServiceConnectConfiguration> {
    let before = service.spec.connect.as_ref().filter(|_| again);
    let asked = input.service_connect_configuration.take();
    asked.or_else(|| before.map(|connect| connect.configuration.clone()))
}

/// The definition that the service has, whatever its status is.
fn current(call: &Call<'_>, service: &ServiceRecord) -> Result<Option<definitions::Found>, ApiError> {
    if service.spec.family.is_empty() {
        return Ok(None);
    }
    let name = crate::names::DefinitionName {
        family: service.spec.family.clone(),
        revision: Some(service.spec.revision),
    };
    Ok(definitions::find(call, &name))
}

/// Another call may have changed other parts meanwhile: only what this one names is its own.
fn take(spec: &mut Spec, before: &Spec, wanted: &Spec) {
    macro_rules! take {
        ($($member:ident),*) => {
            $(if before.$member != wanted.$member {
                spec.$member.clone_from(&wanted.$member);
            })*
        };
    }
    take!(
        family,
        revision,
        launch_type,
        capacity_provider_strategy,
        platform_version,
        network_configuration,
        networks,
        load_balancers,
        registries,
        connect
    );
}

fn apply(service: &mut ServiceRecord, input: &ecs::UpdateServiceRequest) -> Result<(), ApiError> {
    if let Some(count) = input.desired_count {
        service.desired_count = desired_count(count)?;
    }
    service.configuration = configuration::checked(
        input.deployment_configuration.clone(),
        Some(&service.configuration),
        service.controller,
    )?;
    if input.health_check_grace_period_seconds.is_some() {
        service.grace_period_seconds = grace_period(input.health_check_grace_period_seconds)?;
    }
    let possible = service.controller == DeploymentController::Ecs
        && service.configuration.maximum_percent.is_some_and(|most| most > 100);
    let wanted = input.availability_zone_rebalancing.as_deref();
    service.rebalancing = checked_rebalancing(wanted, service.rebalancing && possible, possible)?;
    if input.propagate_tags.is_some() {
        service.propagate_tags = propagate(input.propagate_tags.clone())?;
    }
    service.managed_tags = input.enable_ecs_managed_tags.unwrap_or(service.managed_tags);
    service.exec_enabled = input.enable_execute_command.unwrap_or(service.exec_enabled);
    Ok(())
}

fn refuse(input: &ecs::UpdateServiceRequest, service: &ServiceRecord) -> Result<(), ApiError> {
    let is_set = |count: Option<usize>| count.is_some_and(|count| count > 0);
    refuse_unsupported(
        is_set(input.volume_configurations.as_ref().map(Vec::len)),
        is_set(input.vpc_lattice_configurations.as_ref().map(Vec::len)),
        is_set(input.gateway_connectors.as_ref().map(Vec::len)),
        input.monitoring.is_some(),
    )?;
    check_placement(input.placement_constraints.as_deref(), input.placement_strategy.as_deref())?;
    if input.deployment_controller.is_some()
        && controller(input.deployment_controller.as_ref())? != service.controller
    {
        return Err(unsupported("another 'deploymentController' for a service that exists"));
    }
    if service.controller == DeploymentController::Ecs {
        return Ok(());
    }
    for (name, named) in [
        ("serviceConnectConfiguration", input.service_connect_configuration.is_some()),
        ("taskDefinition", input.task_definition.is_some()),
        ("networkConfiguration", input.network_configuration.is_some()),
        ("platformVersion", input.platform_version.is_some()),
        ("loadBalancers", input.load_balancers.is_some()),
        ("serviceRegistries", input.service_registries.is_some()),
        ("capacityProviderStrategy", input.capacity_provider_strategy.is_some()),
        ("forceNewDeployment", input.force_new_deployment == Some(true)),
    ] {
        if named {
            return Err(invalid(format!(
                "Unable to update {name} on services with an EXTERNAL deployment controller. Use CreateTaskSet to create a \
                 new task set."
            )));
        }
    }
    Ok(())
}
