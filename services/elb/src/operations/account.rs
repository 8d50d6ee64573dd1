//! What is the same for all: limits, security policies; and what there is none of.

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;

use super::balancers::BALANCERS_MAX;
use super::listeners::LISTENERS_MAX;
use super::page;
use super::rules::RULES_MAX;
use super::target_groups::GROUPS_MAX;
use super::targets::TARGETS_PER_GROUP_MAX;
use crate::call::{Call, given};
use crate::errors::unsupported;
use crate::plan::ssl;

pub(crate) async fn limits(
    _: &Call<'_>,
    input: DescribeAccountLimitsInput,
) -> Result<DescribeAccountLimitsOutput, ApiError> {
    let mut limits = vec![
        ("application-load-balancers", BALANCERS_MAX),
        ("condition-values-per-alb-rule", 5),
        ("condition-wildcards-per-alb-rule", 6),
        ("listeners-per-application-load-balancer", LISTENERS_MAX),
        ("listeners-per-network-load-balancer", LISTENERS_MAX),
        ("network-load-balancers", BALANCERS_MAX),
        ("rules-per-application-load-balancer", RULES_MAX),
        ("target-groups", GROUPS_MAX),
        ("target-groups-per-action-on-application-load-balancer", 5),
        ("target-groups-per-action-on-network-load-balancer", 5),
        ("target-groups-per-application-load-balancer", 100),
        ("targets-per-target-group", TARGETS_PER_GROUP_MAX),
    ];
    limits.sort_unstable();
    let (limits, next_marker) = page(limits, |(name, _)| name, input.marker.as_deref(), input.page_size)?;
    let shape = |(name, max): (&str, usize)| Limit { name: Some(name.into()), max: Some(max.to_string()) };
    Ok(DescribeAccountLimitsOutput { limits: Some(limits.into_iter().map(shape).collect()), next_marker })
}

pub(crate) async fn ssl_policies(
    _: &Call<'_>,
    input: DescribeSSLPoliciesInput,
) -> Result<DescribeSSLPoliciesOutput, ApiError> {
    let names = input.names.unwrap_or_default();
    if input.load_balancer_type.as_deref().is_some_and(|kind| kind == "gateway") {
        return Err(unsupported("The load balancer type gateway"));
    }
    if let Some(missing) = names.iter().find(|name| ssl::find(name).is_none()) {
        return Err(ApiError::new("SSLPolicyNotFound", format!("SSL policy '{missing}' not found")));
    }
    let mut policies: Vec<&ssl::Policy> = ssl::POLICIES.iter().collect();
    policies.retain(|policy| names.is_empty() || names.iter().any(|name| name == policy.name));
    policies.sort_by_key(|policy| policy.name);
    let (found, next_marker) =
        page(policies, |policy| policy.name, input.marker.as_deref(), input.page_size)?;
    let shape = |policy: &ssl::Policy| {
        let cipher = |(n, name): (usize, &str)| Cipher {
            name: Some(name.into()),
            priority: i32::try_from(n + 1).ok(),
        };
        SslPolicy {
            name: Some(policy.name.into()),
            ssl_protocols: Some(policy.protocols.iter().map(|name| (*name).to_owned()).collect()),
            ciphers: Some(policy.ciphers().enumerate().map(cipher).collect()),
            supported_load_balancer_types: Some(vec!["application".into(), "network".into()]),
        }
    };
    Ok(DescribeSSLPoliciesOutput { ssl_policies: Some(found.into_iter().map(shape).collect()), next_marker })
}

/// None was ever made here.
pub(crate) async fn trust_stores(
    _: &Call<'_>,
    input: DescribeTrustStoresInput,
) -> Result<DescribeTrustStoresOutput, ApiError> {
    let named = input.names.into_iter().chain(input.trust_store_arns).flatten().next();
    match named {
        Some(named) => Err(ApiError::new("TrustStoreNotFound", format!("Trust store '{named}' not found"))),
        None => Ok(DescribeTrustStoresOutput { trust_stores: Some(Vec::new()), next_marker: None }),
    }
}

/// A balancer has what the machine has; nothing is set aside for it.
pub(crate) async fn capacity(
    call: &Call<'_>,
    input: DescribeCapacityReservationInput,
) -> Result<DescribeCapacityReservationOutput, ApiError> {
    call.balancer(&given(input.load_balancer_arn))?;
    Ok(DescribeCapacityReservationOutput {
        capacity_reservation_state: Some(Vec::new()),
        ..DescribeCapacityReservationOutput::default()
    })
}

pub(crate) async fn modify_capacity(
    call: &Call<'_>,
    input: ModifyCapacityReservationInput,
) -> Result<ModifyCapacityReservationOutput, ApiError> {
    call.balancer(&given(input.load_balancer_arn))?;
    if input.minimum_load_balancer_capacity.is_some() {
        return Err(unsupported("The parameter MinimumLoadBalancerCapacity"));
    }
    // There is none to give back.
    Ok(ModifyCapacityReservationOutput {
        capacity_reservation_state: Some(Vec::new()),
        ..ModifyCapacityReservationOutput::default()
    })
}
