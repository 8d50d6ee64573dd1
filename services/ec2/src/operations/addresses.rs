//! Elastic IP addresses, from the one pool of public addresses.

use std::net::Ipv4Addr;

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::network_interfaces::check_manageable;
use super::tags;
use crate::call::Call;
use crate::db::{Changes, Stored};
use crate::errors::{check_dry_run, invalid_combination, invalid_value, missing, refuse, unsupported};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::addresses::AddressRange;
use crate::state::*;

/// The cursor of the public pool.
const POOL: &str = "public";

/// A free address of the public pool.
pub(crate) fn next_public(call: &Call<'_>) -> Result<Ipv4Addr, ApiError> {
    let range = AddressRange::of_pool(call.service.options.public_pool);
    let is_used = |ip| call.exists(&public_address(ip));
    call.service.next_address(POOL, |from| range.first_free(from, is_used)).ok_or_else(|| {
        let message = format!(
            "Insufficient capacity: all {} addresses of the public pool {} are in use. Release some or set a larger pool.",
            range.len(),
            call.service.options.public_pool
        );
        ApiError::new("InsufficientAddressCapacity", message)
    })
}

fn shape(call: &Call<'_>, address: &AddressRecord) -> Address {
    let association = address.association.as_ref();
    Address {
        allocation_id: Some(address.allocation_id.clone()),
        association_id: association.map(|one| one.association_id.clone()),
        domain: Some("vpc".into()),
        network_interface_id: association.map(|one| one.eni_id.clone()),
        network_interface_owner_id: association.map(|_| call.scope.account.clone()),
        private_ip_address: association.map(|one| one.private_ip.to_string()),
        tags: Some(tags::shape(&address.tags)),
        public_ipv4_pool: Some("amazon".into()),
        network_border_group: Some(call.scope.region.clone()),
        subnet_id: association.map(|one| one.subnet_id.clone()),
        public_ip: Some(address.public_ip.to_string()),
        ..Address::default()
    }
}

impl Described for Address {
    const FILTERS: &'static [&'static str] = &[
        "allocation-id",
        "association-id",
        "domain",
        "instance-id",
        "network-border-group",
        "network-interface-id",
        "network-interface-owner-id",
        "private-ip-address",
        "public-ip",
    ];

    fn id(&self) -> &str {
        self.allocation_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "allocation-id" => Values::one(&self.allocation_id),
            "association-id" => Values::one(&self.association_id),
            "domain" => Values::one(&self.domain),
            "network-border-group" => Values::one(&self.network_border_group),
            "network-interface-id" => Values::one(&self.network_interface_id),
            "network-interface-owner-id" => Values::one(&self.network_interface_owner_id),
            "private-ip-address" => Values::one(&self.private_ip_address),
            "public-ip" => Values::one(&self.public_ip),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeAddressesRequest,
) -> Result<DescribeAddressesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<Address>(input.filters)?;
    let mut records = call.named::<AddressRecord>(input.allocation_ids)?;
    let public_ips = input.public_ips.unwrap_or_default();
    if !public_ips.is_empty() {
        let all = call.all::<AddressRecord>()?;
        for ip in &public_ips {
            find_by_ip(&all, ip)?;
        }
        records.retain(|address| public_ips.contains(&address.public_ip.to_string()));
    }
    let mut addresses: Vec<_> = records.iter().map(|address| shape(call, address)).collect();
    addresses.retain(|address| filters.match_all(address));
    Ok(DescribeAddressesResult { addresses: Some(addresses) })
}

fn find_by_ip<'a>(all: &'a [Stored<AddressRecord>], ip: &str) -> Result<&'a Stored<AddressRecord>, ApiError> {
    let parsed: Ipv4Addr = ip
        .parse()
        .map_err(|_| ApiError::new("InvalidAddress.Malformed", format!("Address '{ip}' is not valid.")))?;
    all.iter()
        .find(|address| address.public_ip == parsed)
        .ok_or_else(|| ApiError::new("InvalidAddress.NotFound", format!("Address '{ip}' not found.")))
}

/// Reverse DNS names are the only attribute, and there is no reverse DNS.
pub(crate) async fn describe_attribute(
    call: &Call<'_>,
    input: DescribeAddressesAttributeRequest,
) -> Result<DescribeAddressesAttributeResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let records = call.named::<AddressRecord>(input.allocation_ids)?;
    let addresses = records.iter().map(|address| shape(call, address));
    let page = page(addresses, &Filters::default(), input.max_results, input.next_token.as_deref())?;
    let attribute = |address: Address| AddressAttribute {
        public_ip: address.public_ip,
        allocation_id: address.allocation_id,
        ..AddressAttribute::default()
    };
    Ok(DescribeAddressesAttributeResult {
        addresses: Some(page.items.into_iter().map(attribute).collect()),
        next_token: page.next_token,
    })
}

pub(crate) async fn allocate(
    call: &Call<'_>,
    input: AllocateAddressRequest,
) -> Result<AllocateAddressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        ("PublicIpv4Pool", input.public_ipv4_pool.as_ref().is_some_and(|pool| pool != "amazon")),
        ("CustomerOwnedIpv4Pool", input.customer_owned_ipv4_pool.is_some()),
        ("IpamPoolId", input.ipam_pool_id.is_some()),
    ])?;
    if let Some(domain) = input.domain.filter(|domain| domain != "vpc") {
        return Err(unsupported(&format!("Domain={domain}")));
    }
    if let Some(group) = input.network_border_group.filter(|group| *group != call.scope.region) {
        return Err(invalid_value(format!("Value ({group}) for parameter networkBorderGroup is invalid.")));
    }
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::ADDRESS)?;
    let wanted = input.address;
    let address = call
        .transact(|changes| {
            let public_ip = match &wanted {
                Some(text) => check_wanted(call, text)?,
                None => next_public(call)?,
            };
            let address = AddressRecord {
                allocation_id: ids::ADDRESS.new_id(),
                public_ip,
                association: None,
                tags: tags.clone(),
            };
            let holder = PublicAddressRecord {
                account: call.scope.account.clone(),
                region: call.scope.region.clone(),
                holder: address.allocation_id.clone(),
            };
            changes.create_json(public_address(public_ip), &holder)?;
            changes.create(&address)?;
            Ok(address)
        })
        .await?;
    Ok(AllocateAddressResult {
        allocation_id: Some(address.allocation_id),
        public_ipv4_pool: Some("amazon".into()),
        network_border_group: Some(call.scope.region.clone()),
        domain: Some("vpc".into()),
        public_ip: Some(address.public_ip.to_string()),
        ..AllocateAddressResult::default()
    })
}

/// An address that was released before can be asked for again.
fn check_wanted(call: &Call<'_>, text: &str) -> Result<Ipv4Addr, ApiError> {
    let malformed = || ApiError::new("InvalidAddress.Malformed", format!("Address '{text}' is not valid."));
    let ip: Ipv4Addr = text.parse().map_err(|_| malformed())?;
    if !AddressRange::of_pool(call.service.options.public_pool).contains(ip) {
        return Err(ApiError::new("InvalidAddress.NotFound", format!("Address '{ip}' not found.")));
    }
    if call.exists(&public_address(ip)) {
        let message = format!("The address '{ip}' cannot be allocated: it is in use.");
        return Err(ApiError::new("AddressLimitExceeded", message));
    }
    Ok(ip)
}

pub(crate) async fn release(
    call: &Call<'_>,
    input: ReleaseAddressRequest,
) -> Result<ReleaseAddressNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    if let Some(group) = input.network_border_group.filter(|group| *group != call.scope.region) {
        return Err(invalid_value(format!("Value ({group}) for parameter networkBorderGroup is invalid.")));
    }
    call.transact(|changes| {
        let address = find(call, input.allocation_id.as_deref(), input.public_ip.as_deref())?;
        if address.association.is_some() {
            let message = format!("Address {} is in use.", address.public_ip);
            return Err(ApiError::new("InvalidIPAddress.InUse", message));
        }
        changes.remove(&address);
        changes.remove_key(public_address(address.public_ip));
        Ok(())
    })
    .await?;
    Ok(ReleaseAddressNoOutput {})
}

fn find(
    call: &Call<'_>,
    allocation_id: Option<&str>,
    ip: Option<&str>,
) -> Result<Stored<AddressRecord>, ApiError> {
    match (allocation_id, ip) {
        (Some(_), Some(_)) => Err(invalid_combination(
            "You may specify public IP or allocation id, but not both in the same call",
        )),
        (Some(id), None) => call.get(id),
        (None, Some(ip)) => find_by_ip(&call.all()?, ip).cloned(),
        (None, None) => Err(missing("AllocationId")),
    }
}

pub(crate) async fn associate(
    call: &Call<'_>,
    input: AssociateAddressRequest,
) -> Result<AssociateAddressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    if let Some(instance) = input.instance_id {
        return Err(ApiError::new(
            "InvalidInstanceID.NotFound",
            format!("The instance ID '{instance}' does not exist"),
        ));
    }
    let eni_id = input.network_interface_id.ok_or_else(|| missing("NetworkInterfaceId"))?;
    // EC2 API reference: with an interface named, reassociation has to be asked for.
    let may_move = input.allow_reassociation == Some(true);
    let association_id = call
        .transact(|changes| {
            let address = find(call, input.allocation_id.as_deref(), input.public_ip.as_deref())?;
            let eni = call.get::<EniRecord>(&eni_id)?;
            check_manageable(call, &eni)?;
            check_private(&eni, input.private_ip_address.as_deref())?;
            check_reachable(call, &eni.vpc_id)?;
            if let Some(own) = &address.association {
                if own.eni_id == eni_id {
                    return Ok(own.association_id.clone());
                }
                if !may_move {
                    let message = format!(
                        "resource {} is already associated with associate-id {}",
                        address.allocation_id, own.association_id
                    );
                    return Err(ApiError::new("Resource.AlreadyAssociated", message));
                }
                unmap(call, changes, &own.eni_id)?;
            }
            let association_id = ids::ADDRESS_ASSOCIATION.new_id();
            displace(call, changes, &eni, may_move)?;
            let mut record = eni.record.clone();
            record.public = Some(PublicAddress {
                ip: address.public_ip,
                elastic: Some(ElasticAssociation {
                    allocation_id: address.allocation_id.clone(),
                    association_id: association_id.clone(),
                }),
            });
            changes.replace(&eni, &record)?;
            let mut record = address.record.clone();
            record.association = Some(AddressAssociation {
                association_id: association_id.clone(),
                eni_id: eni_id.clone(),
                subnet_id: eni.subnet_id.clone(),
                private_ip: eni.private_ip,
            });
            changes.replace(&address, &record)?;
            Ok(association_id)
        })
        .await?;
    Ok(AssociateAddressResult { association_id: Some(association_id) })
}

fn check_private(eni: &EniRecord, wanted: Option<&str>) -> Result<(), ApiError> {
    match wanted {
        Some(ip) if ip != eni.private_ip.to_string() => Err(invalid_value(format!(
            "The address {ip} is not assigned to network interface {}.",
            eni.eni_id
        ))),
        _ => Ok(()),
    }
}

fn check_reachable(call: &Call<'_>, vpc_id: &str) -> Result<(), ApiError> {
    let attached = |gateway: &Stored<InternetGatewayRecord>| gateway.vpc_id.as_deref() == Some(vpc_id);
    if call.all::<InternetGatewayRecord>()?.iter().any(attached) {
        return Ok(());
    }
    Err(ApiError::new(
        "Gateway.NotAttached",
        format!("Network {vpc_id} is not attached to any internet gateway"),
    ))
}

/// What the interface had until now goes: its own address is free again, an Elastic IP only if it may move.
fn displace(call: &Call<'_>, changes: &mut Changes, eni: &EniRecord, may_move: bool) -> Result<(), ApiError> {
    let Some(public) = &eni.public else { return Ok(()) };
    let Some(elastic) = &public.elastic else {
        changes.remove_key(public_address(public.ip));
        return Ok(());
    };
    if !may_move {
        let message = format!(
            "resource {} is already associated with associate-id {}",
            eni.eni_id, elastic.association_id
        );
        return Err(ApiError::new("Resource.AlreadyAssociated", message));
    }
    let Some(address) = call.find::<AddressRecord>(&elastic.allocation_id)? else { return Ok(()) };
    let mut record = address.record.clone();
    record.association = None;
    changes.replace(&address, &record)
}

/// Takes the Elastic IP off the interface.
fn unmap(call: &Call<'_>, changes: &mut Changes, eni_id: &str) -> Result<(), ApiError> {
    let Some(eni) = call.find::<EniRecord>(eni_id)? else { return Ok(()) };
    check_manageable(call, &eni)?;
    let mut record = eni.record.clone();
    record.public = None;
    changes.replace(&eni, &record)
}

pub(crate) async fn disassociate(
    call: &Call<'_>,
    input: DisassociateAddressRequest,
) -> Result<DisassociateAddressNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    call.transact(|changes| {
        let address = match (&input.association_id, &input.public_ip) {
            (Some(_), Some(_)) => {
                return Err(invalid_combination(
                    "You may specify public IP or association id, but not both in the same call",
                ));
            }
            (None, None) => return Err(missing("AssociationId")),
            (None, Some(ip)) => find_by_ip(&call.all()?, ip)?.clone(),
            (Some(id), None) => {
                let has = |address: &Stored<AddressRecord>| {
                    address.association.as_ref().is_some_and(|own| own.association_id == *id)
                };
                let found = call.all::<AddressRecord>()?.into_iter().find(has);
                found.ok_or_else(|| ids::ADDRESS_ASSOCIATION.not_found(id))?
            }
        };
        let Some(association) = &address.association else { return Ok(()) };
        unmap(call, changes, &association.eni_id)?;
        let mut record = address.record.clone();
        record.association = None;
        changes.replace(&address, &record)
    })
    .await?;
    Ok(DisassociateAddressNoOutput {})
}
