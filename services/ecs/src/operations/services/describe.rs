//! Services that are there: described and listed.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::Json;

use super::{find, shape};
use crate::call::Call;
use crate::definition::FARGATE;
use crate::errors::invalid;
use crate::names;
use crate::operations::clusters::missing;
use crate::operations::namespaces;
use crate::operations::{check_count, one_of, page};
use crate::state::service::{ServiceKey, ServiceRecord, ServiceStatus};

const DESCRIBED_MAX: usize = 10;
/// ECS API reference, ListServices: what a page has unless another number is asked for.
const PAGE_DEFAULT: i32 = 10;
/// ECS API reference, LaunchType.
const LAUNCH_TYPES: [&str; 4] = ["EC2", FARGATE, "EXTERNAL", "MANAGED_INSTANCES"];

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeServicesRequest,
) -> Result<ecs::DescribeServicesResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    let identifiers = input.services.unwrap_or_default();
    check_count("Services", identifiers.len())?;
    if identifiers.len() > DESCRIBED_MAX {
        return Err(invalid(format!("Services can have at most {DESCRIBED_MAX} items.")));
    }
    input.include.iter().flatten().try_for_each(|field| one_of("include", Some(field), &["TAGS"]))?;
    let with_tags = input.include.iter().flatten().any(|field| field == "TAGS");
    let (mut services, mut failures) = (Vec::new(), Vec::new());
    for identifier in identifiers {
        let name = names::service(&call.scope, &cluster, &identifier)?;
        let key = ServiceKey::new(&call.scope, &cluster, &name);
        match find(call, &key) {
            Some(found) => services.push(shape::service(&*call.service.store, &found.record, with_tags)),
            None => failures.push(missing(key.arn())),
        }
    }
    Ok(ecs::DescribeServicesResponse { services: Some(services), failures: Some(failures) })
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListServicesRequest,
) -> Result<ecs::ListServicesResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    one_of("launchType", input.launch_type.as_deref(), &LAUNCH_TYPES)?;
    one_of("schedulingStrategy", input.scheduling_strategy.as_deref(), &["REPLICA", "DAEMON"])?;
    one_of("resourceManagementType", input.resource_management_type.as_deref(), &["CUSTOMER", "ECS"])?;
    // Every service here is a customer's, of replicas, on Fargate.
    let others = input.scheduling_strategy.as_deref() == Some("DAEMON")
        || input.resource_management_type.as_deref() == Some("ECS");
    let launch_type = input.launch_type.as_deref();
    let all: Vec<Json<ServiceRecord>> = call.range(&call.scope.services_of(&cluster));
    let wanted = all.into_iter().map(|found| found.record).filter(|service| {
        !others
            && service.status == ServiceStatus::Active
            && launch_type.is_none_or(|wanted| service.spec.launch_type.as_deref() == Some(wanted))
    });
    let count = input.max_results.or(Some(PAGE_DEFAULT));
    let page = page(wanted, |service| &service.name, input.next_token.as_deref(), count)?;
    let arns = page.items.iter().map(|service| service.key().arn()).collect();
    Ok(ecs::ListServicesResponse { service_arns: Some(arns), next_token: page.next_token })
}

/// Of every cluster, those that only call among them.
pub(crate) async fn list_by_namespace(
    call: &Call<'_>,
    input: ecs::ListServicesByNamespaceRequest,
) -> Result<ecs::ListServicesByNamespaceResponse, ApiError> {
    let namespace = namespaces::existing(call, input.namespace.as_deref().unwrap_or_default()).await?;
    let all: Vec<Json<ServiceRecord>> = call.range(&call.scope.services());
    let members = all.into_iter().map(|found| found.record).filter(|service| {
        service.status == ServiceStatus::Active
            && service.spec.membership().is_some_and(|one| one.namespace_id == namespace.id)
    });
    let arns: Vec<String> = members.map(|service| service.key().arn()).collect();
    let count = input.max_results.or(Some(PAGE_DEFAULT));
    let page = page(arns, |arn| arn, input.next_token.as_deref(), count)?;
    Ok(ecs::ListServicesByNamespaceResponse { service_arns: Some(page.items), next_token: page.next_token })
}
