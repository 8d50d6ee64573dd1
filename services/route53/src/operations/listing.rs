//! Lists of hosted zones.

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;

use super::page_size;
use super::zones::shape;
use crate::plan::set::{order, shown};
use crate::state::{ZoneRecord, bare_id};
use crate::{Route53Service, errors};

const PAGE_MAX: usize = 100;

pub(crate) async fn count(
    service: &Route53Service,
    cx: &Context,
    _input: GetHostedZoneCountRequest,
) -> Result<GetHostedZoneCountResponse, ApiError> {
    let count = i64::try_from(service.zones(cx).len()).unwrap_or(i64::MAX);
    Ok(GetHostedZoneCountResponse { hosted_zone_count: Some(count) })
}

/// There are none.
pub(crate) async fn health_checks(
    _: &Route53Service,
    _: &Context,
    input: ListHealthChecksRequest,
) -> Result<ListHealthChecksResponse, ApiError> {
    let size = page_size(input.max_items.as_deref(), PAGE_MAX)?;
    Ok(ListHealthChecksResponse {
        health_checks: Some(Vec::new()),
        marker: input.marker,
        is_truncated: Some(false),
        next_marker: None,
        max_items: Some(size.to_string()),
    })
}

/// Whether there are more after the first `size`, and the first of those.
fn cut<T>(mut items: Vec<T>, size: usize) -> (Vec<T>, Option<T>) {
    let rest = if items.len() > size { items.drain(size..).next() } else { None };
    (items, rest)
}

pub(crate) async fn all(
    service: &Route53Service,
    cx: &Context,
    input: ListHostedZonesRequest,
) -> Result<ListHostedZonesResponse, ApiError> {
    if input.delegation_set_id.is_some() {
        return Err(errors::unsupported("reusable delegation sets (delegationsetid)"));
    }
    let size = page_size(input.max_items.as_deref(), PAGE_MAX)?;
    let from = bare_id(input.marker.as_deref().unwrap_or_default()).to_owned();
    let mut zones = service.zones(cx);
    zones.retain(|zone| zone.id >= from && (zone.private || input.hosted_zone_type.is_none()));
    let (page, next) = cut(zones, size);
    Ok(ListHostedZonesResponse {
        hosted_zones: Some(page.into_iter().map(shape).collect()),
        marker: input.marker,
        is_truncated: Some(next.is_some()),
        next_marker: next.map(|zone| zone.id),
        max_items: Some(size.to_string()),
    })
}

pub(crate) async fn by_name(
    service: &Route53Service,
    cx: &Context,
    input: ListHostedZonesByNameRequest,
) -> Result<ListHostedZonesByNameResponse, ApiError> {
    let size = page_size(input.max_items.as_deref(), PAGE_MAX)?;
    if input.hosted_zone_id.is_some() && input.dns_name.is_none() {
        return Err(errors::invalid_input(
            "The HostedZoneId is given without the DNSName that goes with it.",
        ));
    }
    let from = input
        .dns_name
        .as_deref()
        .map(|name| ferrogate_dns::normal(name).map_err(|_| errors::invalid_domain(name)));
    let from = from.transpose()?;
    let from_id = bare_id(input.hosted_zone_id.as_deref().unwrap_or_default()).to_owned();
    let mut zones = service.zones(cx);
    zones.sort_by(|one, other| place(one).cmp(&place(other)));
    if let Some(from) = &from {
        zones.retain(|zone| place(zone) >= (order(from), from_id.as_str()));
    }
    let (page, next) = cut(zones, size);
    Ok(ListHostedZonesByNameResponse {
        hosted_zones: Some(page.into_iter().map(shape).collect()),
        dns_name: input.dns_name,
        hosted_zone_id: input.hosted_zone_id,
        is_truncated: Some(next.is_some()),
        next_dns_name: next.as_ref().map(|zone| shown(&zone.name)),
        next_hosted_zone_id: next.map(|zone| zone.id),
        max_items: Some(size.to_string()),
    })
}

fn place(zone: &ZoneRecord) -> (Vec<&str>, &str) {
    (order(&zone.name), &zone.id)
}

pub(crate) async fn by_vpc(
    service: &Route53Service,
    cx: &Context,
    input: ListHostedZonesByVPCRequest,
) -> Result<ListHostedZonesByVPCResponse, ApiError> {
    let size = page_size(input.max_items.as_deref(), PAGE_MAX)?;
    let (vpc_id, region) = (input.vpc_id.unwrap_or_default(), input.vpc_region.unwrap_or_default());
    let mut zones = service.zones(cx);
    zones.retain(|zone| zone.vpcs.iter().any(|vpc| vpc.vpc_id == vpc_id && vpc.region == region));
    let page = paginate(zones, |zone| &zone.id, input.next_token.as_deref(), size).map_err(|_| {
        ApiError::new(
            "InvalidPaginationToken",
            "The value that you specified to get the second or subsequent page of results is invalid.",
        )
    })?;
    let summary = |zone: ZoneRecord| HostedZoneSummary {
        hosted_zone_id: Some(zone.id),
        name: Some(shown(&zone.name)),
        owner: Some(match zone.linked_service {
            Some(service) => HostedZoneOwner { owning_account: None, owning_service: Some(service) },
            None => HostedZoneOwner { owning_account: Some(cx.account.clone()), owning_service: None },
        }),
    };
    Ok(ListHostedZonesByVPCResponse {
        hosted_zone_summaries: Some(page.items.into_iter().map(summary).collect()),
        max_items: Some(size.to_string()),
        next_token: page.next_token,
    })
}
