//! What a service's tasks are put behind: target groups and service registries, checked against the definition and
//! against ELB and Cloud Map, called in ECS's own name.

use std::sync::Arc;

use ferrogate_api::{ApiError, Caller, ecs, elbv2, servicediscovery};

use super::configuration;
use crate::call::Call;
use crate::controllers::clients;
use crate::errors::{invalid, refuse};
use crate::state::service::Spec;

/// Developer Guide, "Register multiple target groups with a service".
const TARGET_GROUPS_MAX: usize = 5;

/// What can be said without asking anybody. `definition`: `None` where the service's task sets have their own.
pub(super) fn check(
    spec: &Spec,
    deployment: &ecs::DeploymentConfiguration,
    definition: Option<&ecs::TaskDefinition>,
) -> Result<(), ApiError> {
    if spec.load_balancers.len() > TARGET_GROUPS_MAX {
        return Err(invalid(format!("load balancers can have at most {TARGET_GROUPS_MAX} items.")));
    }
    let shifts = configuration::strategy(deployment) != configuration::ROLLING;
    let mut groups: Vec<&str> = Vec::new();
    for balancer in &spec.load_balancers {
        check_balancer(balancer, shifts, definition)?;
        let own = balancer.target_group_arn.as_deref().into_iter();
        let advanced = balancer.advanced_configuration.as_ref();
        for group in own.chain(advanced.and_then(|one| one.alternate_target_group_arn.as_deref())) {
            if groups.contains(&group) {
                return Err(invalid(format!(
                    "The target group {group} is named twice. Name each target group once."
                )));
            }
            groups.push(group);
        }
    }
    if spec.registries.len() > 1 {
        return Err(invalid("Service registries can have at most 1 items."));
    }
    spec.registries.iter().try_for_each(|registry| check_registry(registry, definition))
}

fn check_balancer(
    balancer: &ecs::LoadBalancer,
    shifts: bool,
    definition: Option<&ecs::TaskDefinition>,
) -> Result<(), ApiError> {
    if balancer.load_balancer_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Err(invalid(
            "Classic Load Balancers are not supported with the awsvpc network mode: name a targetGroupArn in place of \
             loadBalancerName.",
        ));
    }
    if balancer.target_group_arn.as_deref().unwrap_or_default().is_empty() {
        return Err(invalid("targetGroupArn can not be blank."));
    }
    let name = balancer.container_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err(invalid("Container Name can not be blank."));
    }
    let port = balancer
        .container_port
        .ok_or_else(|| invalid("containerPort of a load balancer can not be null."))?;
    if let Some(definition) = definition {
        check_port(definition, name, port)?;
    }
    let advanced = balancer.advanced_configuration.as_ref();
    if !shifts {
        return refuse_advanced(advanced);
    }
    let advanced = advanced.cloned().unwrap_or_default();
    for (what, value) in [
        ("alternateTargetGroupArn", &advanced.alternate_target_group_arn),
        ("productionListenerRule", &advanced.production_listener_rule),
        ("roleArn", &advanced.role_arn),
    ] {
        if value.as_deref().unwrap_or_default().is_empty() {
            return Err(invalid(format!(
                "advancedConfiguration.{what} is required for a load balancer with this deployment strategy."
            )));
        }
    }
    Ok(())
}

fn refuse_advanced(advanced: Option<&ecs::AdvancedConfiguration>) -> Result<(), ApiError> {
    match advanced {
        Some(advanced) if *advanced != ecs::AdvancedConfiguration::default() => Err(invalid(
            "advancedConfiguration is supported with the deployment strategies BLUE_GREEN, LINEAR and CANARY only.",
        )),
        _ => Ok(()),
    }
}

/// That the definition has this container with this port.
fn check_port(definition: &ecs::TaskDefinition, name: &str, port: i32) -> Result<(), ApiError> {
    let mut containers = definition.container_definitions.iter().flatten();
    let Some(container) = containers.find(|one| one.name.as_deref() == Some(name)) else {
        return Err(invalid(format!("The container {name} does not exist in the task definition.")));
    };
    let mut mappings = container.port_mappings.iter().flatten();
    if mappings.any(|mapping| mapping.container_port == Some(port)) {
        Ok(())
    } else {
        Err(invalid(format!("The container {name} did not have a container port {port} defined.")))
    }
}

fn check_registry(
    registry: &ecs::ServiceRegistry,
    definition: Option<&ecs::TaskDefinition>,
) -> Result<(), ApiError> {
    if registry.registry_arn.as_deref().unwrap_or_default().is_empty() {
        return Err(invalid("registryArn of a service registry can not be blank."));
    }
    let container = registry.container_name.as_deref().filter(|name| !name.is_empty());
    match (container, registry.container_port, registry.port) {
        (None, None, port) => {
            if port.is_some_and(|port| !(1..=65_535).contains(&port)) {
                return Err(invalid("port of a service registry must be between 1 and 65535."));
            }
            Ok(())
        }
        (Some(_), Some(_), Some(_)) => Err(invalid(
            "A service registry can have either containerName and containerPort or port, not both.",
        )),
        (Some(name), Some(port), None) => {
            definition.map_or(Ok(()), |definition| check_port(definition, name, port))
        }
        _ => Err(invalid(
            "A service registry must have both containerName and containerPort, or none of them.",
        )),
    }
}

/// What ELB and Cloud Map say.
pub(super) async fn look_up(call: &Call<'_>, spec: &Spec) -> Result<(), ApiError> {
    for balancer in &spec.load_balancers {
        look_up_group(call, balancer.target_group_arn.as_deref().unwrap_or_default(), true).await?;
        let Some(advanced) = &balancer.advanced_configuration else { continue };
        if let Some(alternate) = &advanced.alternate_target_group_arn {
            look_up_group(call, alternate, false).await?;
        }
        for listener in [&advanced.production_listener_rule, &advanced.test_listener_rule] {
            if let Some(arn) = listener.as_deref().filter(|arn| !arn.is_empty()) {
                look_up_listener(call, arn, advanced.role_arn.as_deref().unwrap_or_default()).await?;
            }
        }
    }
    for registry in &spec.registries {
        look_up_registry(call, registry).await?;
    }
    Ok(())
}

async fn look_up_group(call: &Call<'_>, arn: &str, attached: bool) -> Result<(), ApiError> {
    let request = elbv2::DescribeTargetGroupsInput {
        target_group_arns: Some(vec![arn.to_owned()]),
        ..Default::default()
    };
    let answer = clients::elb(&call.service.invoke, &call.scope).describe_target_groups(request).await;
    let missing = || invalid(format!("The target group with targetGroupArn {arn} does not exist."));
    let found = answer.map_err(|error| match error.code.as_str() {
        "TargetGroupNotFound" => missing(),
        _ => of_another("Elastic Load Balancing", error),
    })?;
    let group = found.target_groups.into_iter().flatten().next().ok_or_else(missing)?;
    let kind = group.target_type.as_deref().unwrap_or("instance");
    if kind != "ip" {
        return Err(invalid(format!(
            "The provided target group {arn} has target type {kind}, which is incompatible with the awsvpc network mode \
             specified in the task definition."
        )));
    }
    if attached && group.load_balancer_arns.unwrap_or_default().is_empty() {
        return Err(invalid(format!(
            "The target group with targetGroupArn {arn} does not have an associated load balancer."
        )));
    }
    Ok(())
}

/// A rule of an Application Load Balancer or a listener of a Network Load Balancer, under the role that will change it.
async fn look_up_listener(call: &Call<'_>, arn: &str, role_arn: &str) -> Result<(), ApiError> {
    let caller = Caller::Role {
        role_arn: role_arn.to_owned(),
        service: clients::SERVICE_PRINCIPAL,
        session_name: "ecs-service".into(),
    };
    let client = elbv2::Client::new(Arc::clone(&call.service.invoke), caller, &call.scope.region);
    let answer = if clients::is_rule(arn) {
        let request =
            elbv2::DescribeRulesInput { rule_arns: Some(vec![arn.to_owned()]), ..Default::default() };
        client.describe_rules(request).await.map(drop)
    } else {
        let request =
            elbv2::DescribeListenersInput { listener_arns: Some(vec![arn.to_owned()]), ..Default::default() };
        client.describe_listeners(request).await.map(drop)
    };
    answer.map_err(|error| of_another("Elastic Load Balancing", error))
}

async fn look_up_registry(call: &Call<'_>, registry: &ecs::ServiceRegistry) -> Result<(), ApiError> {
    let arn = registry.registry_arn.as_deref().unwrap_or_default();
    let id = clients::registry_id(arn).ok_or_else(|| {
        invalid(format!("The service registry {arn} is not the ARN of a Cloud Map service."))
    })?;
    let request = servicediscovery::GetServiceRequest { id: Some(id.to_owned()) };
    let client = clients::discovery(&call.service.invoke, &call.scope);
    let found = client.get_service(request).await.map_err(|error| of_another("AWS Cloud Map", error))?;
    let records = found.service.and_then(|service| service.dns_config).and_then(|dns| dns.dns_records);
    let records = records.unwrap_or_default();
    let has_srv = records.iter().any(|record| record.r#type.as_deref() == Some("SRV"));
    let names_port = registry.port.is_some() || registry.container_port.is_some();
    if has_srv && !names_port {
        return Err(invalid(format!(
            "The service registry {arn} has SRV records: name containerName and containerPort, or port."
        )));
    }
    if !has_srv && !records.is_empty() && names_port {
        return Err(invalid(format!(
            "The service registry {arn} has no SRV records: leave containerName, containerPort and port out."
        )));
    }
    Ok(())
}

/// Another service's word on what a caller named.
fn of_another(service: &str, error: ApiError) -> ApiError {
    if error.status.is_some_and(|status| status >= 500) {
        return error;
    }
    invalid(format!("{service} refused: {} (ErrorCode: {})", error.message, error.code))
}

/// What this version does not bring to a service's tasks.
pub(super) fn refuse_unsupported(
    volumes: bool,
    lattice: bool,
    gateways: bool,
    monitoring: bool,
) -> Result<(), ApiError> {
    refuse(&[
        ("volumeConfigurations", volumes),
        ("vpcLatticeConfigurations", lattice),
        ("gatewayConnectors", gateways),
        ("monitoring", monitoring),
    ])
}
