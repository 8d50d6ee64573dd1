//! Which VPCs see a private zone.

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Caller, Context, ec2};
use ferrogate_store::{Txn, get_json};

use super::changes::submitted;
use super::zones::check_owner;
use crate::state::{VpcRecord, ZoneRecord, account_prefix};
use crate::{Route53Service, errors};

/// "Amazon VPCs that you can associate with a private hosted zone" of the quotas.
const VPCS_MAX: usize = 300;

pub(crate) fn shape(vpc: &VpcRecord) -> VPC {
    VPC { vpc_region: Some(vpc.region.clone()), vpc_id: Some(vpc.vpc_id.clone()) }
}

/// EC2 knows it, as the caller may see it.
pub(crate) async fn check(service: &Route53Service, cx: &Context, vpc: VPC) -> Result<VpcRecord, ApiError> {
    let (Some(vpc_id), Some(region)) = (vpc.vpc_id, vpc.vpc_region) else {
        return Err(errors::invalid_vpc());
    };
    let caller = Caller::Forward(cx.principal.clone());
    let client = ec2::Client::new(service.invoke.clone(), caller, &region);
    let request = ec2::DescribeVpcsRequest { vpc_ids: Some(vec![vpc_id.clone()]), ..Default::default() };
    match client.describe_vpcs(request).await {
        Ok(found) if found.vpcs.as_ref().is_some_and(|vpcs| !vpcs.is_empty()) => {
            Ok(VpcRecord { vpc_id, region })
        }
        Ok(_) => Err(errors::invalid_vpc()),
        Err(error) if error.code.starts_with("InvalidVpcI") => Err(errors::invalid_vpc()),
        Err(error) => Err(error),
    }
}

/// A VPC sees one private zone of a name at most.
pub(crate) fn conflict(zones: &[ZoneRecord], name: &str, vpc: &VpcRecord) -> Result<(), ApiError> {
    let same = |zone: &&ZoneRecord| zone.private && zone.name == name && has(zone, &vpc.vpc_id);
    match zones.iter().find(same) {
        Some(zone) => Err(errors::conflicting_domain(&vpc.vpc_id, &vpc.region, &zone.id)),
        None => Ok(()),
    }
}

fn has(zone: &ZoneRecord, vpc_id: &str) -> bool {
    zone.vpcs.iter().any(|vpc| vpc.vpc_id == vpc_id)
}

pub(crate) fn seat(cx: &Context, vpc_id: &str, name: &str) -> String {
    format!("{}seat/{vpc_id}/{name}", account_prefix(&cx.account))
}

/// Takes the seat of a name in a VPC: of two calls at the same time that would give it two zones of a name, one fails.
/// A seat says nothing about who sits there; the zones do.
pub(crate) fn take(
    service: &Route53Service,
    cx: &Context,
    txn: Txn,
    vpc_id: &str,
    name: &str,
    zone_id: &str,
) -> Txn {
    let key = seat(cx, vpc_id, name);
    let revision = get_json::<String>(&*service.store, &key).map_or(0, |found| found.mod_revision);
    txn.when_revision(key.clone(), revision).put_json(key, zone_id)
}

pub(crate) async fn associate(
    service: &Route53Service,
    cx: &Context,
    input: AssociateVPCWithHostedZoneRequest,
) -> Result<AssociateVPCWithHostedZoneResponse, ApiError> {
    let zone = service.zone(cx, input.hosted_zone_id.as_deref())?.record;
    check_owner(cx, &zone)?;
    if !zone.private {
        return Err(ApiError::new(
            "PublicZoneVPCAssociation",
            "You're trying to associate a VPC with a public hosted zone. Amazon Route 53 doesn't support associating a VPC with a public hosted zone.",
        ));
    }
    let vpc = check(service, cx, input.vpc.unwrap_or_default()).await?;
    let change_id = service
        .change_zone(cx, Some(&zone.id), input.comment.clone(), |zone, txn| {
            let txn = take(service, cx, txn, &vpc.vpc_id, &zone.name, &zone.id);
            conflict(&service.zones(cx), &zone.name, &vpc)?;
            if zone.vpcs.len() >= VPCS_MAX {
                return Err(errors::limit(format!("The hosted zone has {VPCS_MAX} VPCs already.")));
            }
            let mut changed = zone.clone();
            changed.vpcs.push(vpc.clone());
            Ok((Some(changed), txn))
        })
        .await?;
    Ok(AssociateVPCWithHostedZoneResponse { change_info: Some(submitted(cx, &change_id, input.comment)) })
}

pub(crate) async fn disassociate(
    service: &Route53Service,
    cx: &Context,
    input: DisassociateVPCFromHostedZoneRequest,
) -> Result<DisassociateVPCFromHostedZoneResponse, ApiError> {
    let vpc_id = input.vpc.unwrap_or_default().vpc_id.unwrap_or_default();
    let change_id = service
        .change_zone(cx, input.hosted_zone_id.as_deref(), input.comment.clone(), |zone, txn| {
            check_owner(cx, zone)?;
            if !has(zone, &vpc_id) {
                return Err(ApiError::new(
                    "VPCAssociationNotFound",
                    format!("The VPC: {vpc_id} and hosted zone: {} are not currently associated.", zone.id),
                ));
            }
            if zone.vpcs.len() == 1 {
                return Err(ApiError::new(
                    "LastVPCAssociation",
                    "The VPC that you're trying to disassociate from the private hosted zone is the last VPC that is associated with the hosted zone. Amazon Route 53 doesn't support disassociating the last VPC from a hosted zone.",
                ));
            }
            let mut changed = zone.clone();
            changed.vpcs.retain(|vpc| vpc.vpc_id != vpc_id);
            Ok((Some(changed), txn.delete(seat(cx, &vpc_id, &zone.name))))
        })
        .await?;
    Ok(DisassociateVPCFromHostedZoneResponse { change_info: Some(submitted(cx, &change_id, input.comment)) })
}

/// No zone has any: none can be made.
pub(crate) async fn authorizations(
    service: &Route53Service,
    cx: &Context,
    input: ListVPCAssociationAuthorizationsRequest,
) -> Result<ListVPCAssociationAuthorizationsResponse, ApiError> {
    let zone = service.zone(cx, input.hosted_zone_id.as_deref())?.record;
    Ok(ListVPCAssociationAuthorizationsResponse {
        hosted_zone_id: Some(zone.id),
        next_token: None,
        vp_cs: Some(Vec::new()),
    })
}
