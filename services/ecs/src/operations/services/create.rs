//! CreateService.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::{Store, Txn};

use super::attachments::{self, refuse_unsupported};
use super::spec::{self, Asked, By};
use super::{
    PROPAGATE_TAGS, SERVICES_PER_CLUSTER_MAX, begin, client_token, configuration, connect, desired_count,
    find, grace_period, shape,
};
use crate::call::Call;
use crate::errors::{invalid, unsupported, unsupported_feature};
use crate::names;
use crate::operations::settings::{self, DEFAULT_LOG_DRIVER_MODE};
use crate::operations::{digest, one_of, tags};
use crate::state::Tags;
use crate::state::service::{DeploymentController, ServiceKey, ServiceRecord, ServiceStatus, Spec};

pub(crate) async fn create(
    call: &Call<'_>,
    mut input: ecs::CreateServiceRequest,
) -> Result<ecs::CreateServiceResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?;
    let name = input.service_name.clone().unwrap_or_default();
    if !names::is_name(&name) {
        return Err(invalid(format!(
            "Invalid service name '{name}'. Up to 255 letters (uppercase and lowercase), numbers, underscores, and hyphens are allowed."
        )));
    }
    let key = ServiceKey::new(&call.scope, &cluster.record.name, &name);
    let token = client_token(input.client_token.take())?;
    let request = digest(&input)?;
    if let Some(made) = made_before(call, &key, token.as_deref(), &request)? {
        return Ok(answer(call, &made));
    }
    refuse(&input)?;
    let controller = controller(input.deployment_controller.as_ref())?;
    let definition = match input.task_definition.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(spec::definition(call, name, By::Create)?),
        None if controller == DeploymentController::External => None,
        None => return Err(invalid("TaskDefinition can not be blank.")),
    };
    check_external(&input, controller)?;
    let configuration = configuration::checked(input.deployment_configuration.take(), None, controller)?;
    let asked = Asked {
        launch_type: input.launch_type.take(),
        strategy: input.capacity_provider_strategy.take(),
        platform_version: input.platform_version.take(),
        network: input.network_configuration.take(),
        load_balancers: input.load_balancers.take(),
        registries: input.service_registries.take(),
    };
    let mut spec = asked.over(None, definition.as_ref(), &cluster.record)?;
    attachments::check(&spec, &configuration, definition.as_ref().map(|found| &found.definition))?;
    let connect = input.service_connect_configuration.take().zip(definition.as_ref());
    let connect = connect
        .map(|(asked, found)| {
            let drafts = connect::check(&asked, &found.definition, None)?;
            Ok::<_, ApiError>((asked, drafts))
        })
        .transpose()?;
    let exec = input.enable_execute_command == Some(true);
    spec::check_exec(exec, definition.as_ref())?;
    let service = ServiceRecord {
        account: call.scope.account.clone(),
        region: call.scope.region.clone(),
        cluster: cluster.record.name.clone(),
        name,
        status: ServiceStatus::Active,
        created_at: call.cx.now,
        created_by: settings::principal(call.cx).to_owned(),
        controller,
        desired_count: match input.desired_count {
            Some(count) => desired_count(count)?,
            None if controller == DeploymentController::External => 0,
            None => {
                return Err(invalid(
                    "desiredCount is required for a service with the scheduling strategy REPLICA.",
                ));
            }
        },
        grace_period_seconds: grace_period(input.health_check_grace_period_seconds)?,
        rebalancing: rebalancing(&input, &configuration, controller)?,
        configuration,
        propagate_tags: propagate(input.propagate_tags.take())?,
        managed_tags: input.enable_ecs_managed_tags == Some(true),
        exec_enabled: exec,
        tags: tags::checked(input.tags.take())?,
        default_log_mode: settings::effective(&*call.service.store, call.cx, DEFAULT_LOG_DRIVER_MODE),
        request,
        client_token: token,
        spec: Spec::default(),
        deployments: Vec::new(),
        steady: false,
        rebalancing_now: false,
        may_be_split: true,
        blocked: false,
        ended_at: None,
    };
    if controller == DeploymentController::Ecs {
        spec::resolve(call, &mut spec).await?;
        Box::pin(attachments::look_up(call, &spec)).await?;
        if let Some((asked, drafts)) = connect {
            let joined = connect::join(call, &key, asked, drafts, &cluster.record);
            spec.connect = Some(Box::pin(joined).await?);
        }
    }
    let service = ServiceRecord { spec, ..service };
    let made = call
        .transact(|| {
            if let Some(made) = made_before(call, &key, service.client_token.as_deref(), &service.request)? {
                return Ok((Txn::new(), made));
            }
            // Both as they were: the definition active, the cluster not being deleted.
            let cluster = call.cluster(Some(&key.cluster))?;
            let mut txn = Txn::new().when_revision(&*cluster.key, cluster.mod_revision);
            if let Some(name) = input.task_definition.as_deref().filter(|name| !name.is_empty()) {
                let found = spec::definition(call, name, By::Create)?;
                txn = txn.when_revision(&*found.revision.key, found.revision.mod_revision);
            }
            check_quota(&*call.service.store, &key)?;
            Ok(transaction(call, &key, &service, txn))
        })
        .await?;
    Ok(answer(call, &made))
}

fn answer(call: &Call<'_>, made: &ServiceRecord) -> ecs::CreateServiceResponse {
    ecs::CreateServiceResponse { service: Some(shape::service(&*call.service.store, made, true)) }
}

fn transaction(call: &Call<'_>, key: &ServiceKey, service: &ServiceRecord, txn: Txn) -> (Txn, ServiceRecord) {
    let before = find(call, key).map_or(0, |found| found.mod_revision);
    let mut service = service.clone();
    let mut txn = txn.when_revision(key.record(), before).delete_prefix(key.events());
    if service.controller == DeploymentController::Ecs {
        txn = begin::begin(&*call.service.store, &mut service, call.cx.now, txn);
    }
    (txn.put_json(key.record(), &service), service)
}

/// What the same call made, if it was made by the same call.
fn made_before(
    call: &Call<'_>,
    key: &ServiceKey,
    token: Option<&str>,
    request: &str,
) -> Result<Option<ServiceRecord>, ApiError> {
    let Some(found) = find(call, key) else { return Ok(None) };
    match found.record.status {
        ServiceStatus::Inactive => Ok(None),
        ServiceStatus::Draining => Err(invalid("Unable to Start a service that is still Draining.")),
        ServiceStatus::Active => {
            if found.record.request == request && found.record.client_token.as_deref() == token {
                Ok(Some(found.record))
            } else {
                Err(invalid("Creation of service was not idempotent."))
            }
        }
    }
}

fn check_quota(store: &dyn Store, key: &ServiceKey) -> Result<(), ApiError> {
    let most = SERVICES_PER_CLUSTER_MAX;
    if store.range_from(&key.scope.services_of(&key.cluster), None, most).len() < most {
        return Ok(());
    }
    Err(invalid(format!("The maximum number of services per cluster ({most}) is reached.")))
}

fn refuse(input: &ecs::CreateServiceRequest) -> Result<(), ApiError> {
    let is_set = |count: Option<usize>| count.is_some_and(|count| count > 0);
    refuse_unsupported(
        is_set(input.volume_configurations.as_ref().map(Vec::len)),
        is_set(input.vpc_lattice_configurations.as_ref().map(Vec::len)),
        is_set(input.gateway_connectors.as_ref().map(Vec::len)),
        input.monitoring.is_some(),
    )?;
    match input.scheduling_strategy.as_deref() {
        None | Some("REPLICA") => {}
        Some("DAEMON") => {
            return Err(invalid(
                "The daemon scheduling strategy is not supported for tasks that use the FARGATE launch type.",
            ));
        }
        Some(other) => {
            return Err(invalid(format!(
                "Invalid scheduling strategy '{other}'. Must be one of [REPLICA,DAEMON]"
            )));
        }
    }
    check_placement(input.placement_constraints.as_deref(), input.placement_strategy.as_deref())?;
    if input.role.as_deref().is_some_and(|role| !role.is_empty()) {
        return Err(invalid(
            "You cannot specify an IAM role for services that require a service linked role.",
        ));
    }
    Ok(())
}

pub(super) fn check_placement(
    constraints: Option<&[ecs::PlacementConstraint]>,
    strategy: Option<&[ecs::PlacementStrategy]>,
) -> Result<(), ApiError> {
    if constraints.is_some_and(|list| !list.is_empty()) {
        return Err(invalid("Placement constraints are not supported with FARGATE launch type."));
    }
    if strategy.is_some_and(|list| !list.is_empty()) {
        return Err(invalid("Placement strategies are not supported with FARGATE launch type."));
    }
    Ok(())
}

pub(super) fn controller(
    controller: Option<&ecs::DeploymentController>,
) -> Result<DeploymentController, ApiError> {
    match controller.and_then(|controller| controller.r#type.as_deref()) {
        None | Some("ECS") => Ok(DeploymentController::Ecs),
        Some("EXTERNAL") => Ok(DeploymentController::External),
        // Nothing here would ever bring a revision out.
        Some("CODE_DEPLOY") => Err(unsupported_feature("the deployment controller 'CODE_DEPLOY'")),
        Some(other) => Err(unsupported(&format!("the deployment controller '{other}'"))),
    }
}

/// Of a service with task sets these are theirs.
fn check_external(
    input: &ecs::CreateServiceRequest,
    controller: DeploymentController,
) -> Result<(), ApiError> {
    if controller == DeploymentController::Ecs {
        return Ok(());
    }
    let is_set = |count: Option<usize>| count.is_some_and(|count| count > 0);
    let connects = input.service_connect_configuration.as_ref().is_some_and(|one| one.enabled == Some(true));
    if connects {
        return Err(invalid("Service Connect is supported with the deployment controller ECS only."));
    }
    for (name, named) in [
        ("taskDefinition", input.task_definition.is_some()),
        ("networkConfiguration", input.network_configuration.is_some()),
        ("loadBalancers", is_set(input.load_balancers.as_ref().map(Vec::len))),
        ("serviceRegistries", is_set(input.service_registries.as_ref().map(Vec::len))),
        ("platformVersion", input.platform_version.is_some()),
        ("launchType", input.launch_type.is_some()),
        ("capacityProviderStrategy", is_set(input.capacity_provider_strategy.as_ref().map(Vec::len))),
    ] {
        if named {
            return Err(invalid(format!(
                "{name} cannot be specified on a service with the deployment controller EXTERNAL. Specify it on its task sets."
            )));
        }
    }
    Ok(())
}

fn rebalancing(
    input: &ecs::CreateServiceRequest,
    configuration: &ecs::DeploymentConfiguration,
    controller: DeploymentController,
) -> Result<bool, ApiError> {
    // What nobody asked for is left off where it cannot be.
    let possible = controller == DeploymentController::Ecs
        && configuration.maximum_percent.is_some_and(|most| most > 100);
    checked_rebalancing(input.availability_zone_rebalancing.as_deref(), possible, possible)
}

pub(super) fn checked_rebalancing(
    wanted: Option<&str>,
    default: bool,
    possible: bool,
) -> Result<bool, ApiError> {
    one_of("availabilityZoneRebalancing", wanted, &["ENABLED", "DISABLED"])?;
    match wanted {
        Some("ENABLED") if !possible => Err(invalid(
            "Availability Zone rebalancing requires the deployment controller ECS and a maximumPercent greater than 100.",
        )),
        Some(wanted) => Ok(wanted == "ENABLED"),
        None => Ok(default),
    }
}

pub(super) fn propagate(from: Option<String>) -> Result<String, ApiError> {
    let from = from.filter(|from| !from.is_empty()).unwrap_or_else(|| "NONE".into());
    one_of("propagateTags", Some(&from), &PROPAGATE_TAGS)?;
    Ok(from)
}

/// The tags that a service's tasks get.
pub(crate) fn task_tags(service: &ServiceRecord, definition: &Tags) -> Tags {
    let mut all = match service.propagate_tags.as_str() {
        "TASK_DEFINITION" => definition.clone(),
        "SERVICE" => service.tags.clone(),
        _ => Tags::new(),
    };
    if service.managed_tags {
        all.insert("aws:ecs:clusterName".into(), service.cluster.clone());
        all.insert("aws:ecs:serviceName".into(), service.name.clone());
    }
    all
}
