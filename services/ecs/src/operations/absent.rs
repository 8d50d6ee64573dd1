//! What Fargate has none of: answered with nothing, which is true.

use ferrogate_api::{ApiError, ecs};

use super::clusters::missing;
use super::{check_count, page};
use crate::call::Call;

/// A valid page of nothing.
fn no_page(next_token: Option<&str>, max_results: Option<i32>) -> Result<(), ApiError> {
    page(Vec::<String>::new(), |item| item, next_token, max_results).map(drop)
}

pub(crate) fn list_container_instances(
    call: &Call<'_>,
    input: ecs::ListContainerInstancesRequest,
) -> Result<ecs::ListContainerInstancesResponse, ApiError> {
    call.cluster(input.cluster.as_deref())?;
    no_page(input.next_token.as_deref(), input.max_results)?;
    Ok(ecs::ListContainerInstancesResponse { container_instance_arns: Some(Vec::new()), next_token: None })
}

pub(crate) fn describe_container_instances(
    call: &Call<'_>,
    input: ecs::DescribeContainerInstancesRequest,
) -> Result<ecs::DescribeContainerInstancesResponse, ApiError> {
    let cluster = call.cluster(input.cluster.as_deref())?.record.name;
    let instances = input.container_instances.unwrap_or_default();
    check_count("Container instances", instances.len())?;
    let arn = |id: &str| full_arn(call, id, &format!("container-instance/{cluster}"));
    let failures = instances.iter().map(|id| missing(arn(id))).collect();
    Ok(ecs::DescribeContainerInstancesResponse {
        container_instances: Some(Vec::new()),
        failures: Some(failures),
    })
}

fn full_arn(call: &Call<'_>, id: &str, of: &str) -> String {
    if id.starts_with("arn:") { id.to_owned() } else { call.scope.arn(format!("{of}/{id}")) }
}

pub(crate) fn list_attributes(
    call: &Call<'_>,
    input: ecs::ListAttributesRequest,
) -> Result<ecs::ListAttributesResponse, ApiError> {
    call.cluster(input.cluster.as_deref())?;
    no_page(input.next_token.as_deref(), input.max_results)?;
    Ok(ecs::ListAttributesResponse { attributes: Some(Vec::new()), next_token: None })
}
