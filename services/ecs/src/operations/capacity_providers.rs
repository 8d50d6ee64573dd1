//! Capacity providers: FARGATE and FARGATE_SPOT are built in. Spot cannot be used yet.

use ferrogate_api::{ApiError, ecs};

use super::page;
use crate::call::Call;
use crate::definition::FARGATE;
use crate::errors::{invalid, unsupported};

const FARGATE_SPOT: &str = "FARGATE_SPOT";
const BUILT_IN: [&str; 2] = [FARGATE, FARGATE_SPOT];
/// ECS API reference, RunTask, `capacityProviderStrategy`.
const STRATEGY_ITEMS_MAX: usize = 20;
const WEIGHTS: std::ops::RangeInclusive<i32> = 0..=1000;
const BASES: std::ops::RangeInclusive<i32> = 0..=100_000;

/// Capacity providers to associate with a cluster.
pub(crate) fn check_providers(names: &[String]) -> Result<(), ApiError> {
    match names.iter().find(|name| *name != FARGATE) {
        None => Ok(()),
        Some(name) if name == FARGATE_SPOT => Err(unsupported("the capacity provider 'FARGATE_SPOT'")),
        Some(name) => Err(invalid(format!(
            "The specified capacity provider '{name}' was not found. Specify a valid name or ARN and try again."
        ))),
    }
}

/// A strategy over the providers that a cluster has.
pub(crate) fn check_strategy(
    strategy: &[ecs::CapacityProviderStrategyItem],
    associated: &[String],
) -> Result<(), ApiError> {
    if strategy.len() > STRATEGY_ITEMS_MAX {
        return Err(invalid(format!(
            "A capacity provider strategy can contain a maximum of {STRATEGY_ITEMS_MAX} capacity providers."
        )));
    }
    if strategy.iter().filter(|item| item.base.unwrap_or_default() > 0).count() > 1 {
        return Err(invalid(
            "Only one capacity provider in a capacity provider strategy can have a base defined.",
        ));
    }
    let mut seen = Vec::new();
    for item in strategy {
        let name = item.capacity_provider.clone().unwrap_or_default();
        check_providers(std::slice::from_ref(&name))?;
        if !associated.contains(&name) {
            return Err(invalid(
                "The specified capacity provider strategy cannot contain a capacity provider that is not associated with \
                 the cluster. Associate the capacity provider with the cluster or specify a valid capacity provider and \
                 try again.",
            ));
        }
        if !WEIGHTS.contains(&item.weight.unwrap_or_default())
            || !BASES.contains(&item.base.unwrap_or_default())
        {
            return Err(invalid("The weight is between 0 and 1000 and the base between 0 and 100000."));
        }
        if seen.contains(&name) {
            return Err(invalid(format!("The capacity provider '{name}' is in the strategy twice.")));
        }
        seen.push(name);
    }
    if !strategy.is_empty()
        && strategy
            .iter()
            .all(|item| item.weight.unwrap_or_default() == 0 && item.base.unwrap_or_default() == 0)
    {
        return Err(invalid(
            "At least one capacity provider of the strategy must have a weight or base greater than 0.",
        ));
    }
    Ok(())
}

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeCapacityProvidersRequest,
) -> Result<ecs::DescribeCapacityProvidersResponse, ApiError> {
    let cluster = input.cluster.as_deref().map(|cluster| call.cluster(Some(cluster))).transpose()?;
    // ECS API reference, DescribeCapacityProviders, `cluster`: only those associated with it.
    let is_there = |name: &str| {
        cluster.as_ref().is_none_or(|found| found.record.capacity_providers.iter().any(|one| one == name))
    };
    let named = input.capacity_providers.unwrap_or_default();
    let arn = |name: &str| call.scope.arn(format!("capacity-provider/{name}"));
    let wanted: Vec<&str> = BUILT_IN
        .into_iter()
        .filter(|name| named.is_empty() || named.iter().any(|one| one == name || *one == arn(name)))
        .filter(|name| is_there(name))
        .collect();
    let unknown = named.iter().filter(|one| !BUILT_IN.iter().any(|name| *one == name || **one == arn(name)));
    let failures = unknown
        .map(|one| super::clusters::missing(if one.starts_with("arn:") { one.clone() } else { arn(one) }));
    let failures = failures.collect();
    let page = page(wanted, |name| name, input.next_token.as_deref(), input.max_results)?;
    let shape = |name: &str| ecs::CapacityProvider {
        capacity_provider_arn: Some(arn(name)),
        name: Some(name.to_owned()),
        status: Some("ACTIVE".into()),
        tags: Some(Vec::new()),
        r#type: Some(name.to_owned()),
        ..Default::default()
    };
    Ok(ecs::DescribeCapacityProvidersResponse {
        capacity_providers: Some(page.items.into_iter().map(shape).collect()),
        failures: Some(failures),
        next_token: page.next_token,
    })
}
