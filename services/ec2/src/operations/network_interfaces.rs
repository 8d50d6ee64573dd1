//! Network interfaces: an address in a subnet, made by a customer or by a service for itself.
//!
//! The address is a key of its own; who makes the key has it. A service principal's interface is
//! requester-managed and attached from the moment it is there.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::{defaults, tags};
use crate::call::Call;
use crate::db::{Changes, Stored};
use crate::errors::{check_dry_run, invalid_combination, invalid_value, not_permitted, refuse, unsupported};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::addresses::AddressRange;
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas".
pub(crate) const GROUPS_PER_INTERFACE_MAX: usize = 5;
/// EC2 API reference, CreateNetworkInterface.
const DESCRIPTION_CHARACTERS_MAX: usize = 255;

/// Answers' names need the VPC's attributes: looked up once per call.
pub(crate) struct Shapes<'a> {
    call: &'a Call<'a>,
    dns_hostnames: HashMap<String, bool>,
}

impl<'a> Shapes<'a> {
    pub(crate) fn new(call: &'a Call<'a>) -> Result<Self, ApiError> {
        let vpcs = call.all::<VpcRecord>()?;
        let dns_hostnames =
            vpcs.into_iter().map(|vpc| (vpc.record.vpc_id, vpc.record.enable_dns_hostnames)).collect();
        Ok(Self { call, dns_hostnames })
    }

    pub(crate) fn shape(&self, eni: &EniRecord) -> NetworkInterface {
        let scope = &self.call.scope;
        let private_dns_name =
            format!("ip-{}.{}", dashed(eni.private_ip), defaults::private_domain(&scope.region));
        let association = self.association(eni);
        let kind = if eni.is_of_network_load_balancer() { "network_load_balancer" } else { "interface" };
        NetworkInterface {
            attachment: attachment_shape(self.call, eni),
            availability_zone: Some(eni.zone.clone()),
            availability_zone_id: Some(eni.zone_id.clone()),
            description: Some(eni.description.clone()),
            groups: Some(groups_shape(eni)),
            interface_type: Some(kind.into()),
            ipv6_addresses: Some(Vec::new()),
            mac_address: Some(eni.mac.clone()),
            network_interface_id: Some(eni.eni_id.clone()),
            owner_id: Some(scope.account.clone()),
            private_dns_name: Some(private_dns_name.clone()),
            private_ip_address: Some(eni.private_ip.to_string()),
            private_ip_addresses: Some(vec![NetworkInterfacePrivateIpAddress {
                association: association.clone(),
                primary: Some(true),
                private_dns_name: Some(private_dns_name),
                private_ip_address: Some(eni.private_ip.to_string()),
            }]),
            association,
            requester_id: eni.requester.as_deref().map(alias),
            requester_managed: Some(eni.requester.is_some()),
            source_dest_check: Some(eni.source_dest_check),
            status: Some(if eni.attachment.is_some() { "in-use" } else { "available" }.into()),
            subnet_id: Some(eni.subnet_id.clone()),
            tag_set: Some(tags::shape(&eni.tags)),
            vpc_id: Some(eni.vpc_id.clone()),
            ..NetworkInterface::default()
        }
    }

    fn association(&self, eni: &EniRecord) -> Option<NetworkInterfaceAssociation> {
        let public = eni.public.as_ref()?;
        let named = self.dns_hostnames.get(&eni.vpc_id).copied().unwrap_or_default();
        Some(NetworkInterfaceAssociation {
            allocation_id: public.elastic.as_ref().map(|elastic| elastic.allocation_id.clone()),
            association_id: public.elastic.as_ref().map(|elastic| elastic.association_id.clone()),
            ip_owner_id: Some(match public.elastic {
                Some(_) => self.call.scope.account.clone(),
                None => "amazon".into(),
            }),
            public_dns_name: Some(if named {
                public_name(&self.call.scope.region, public.ip)
            } else {
                String::new()
            }),
            public_ip: Some(public.ip.to_string()),
            ..NetworkInterfaceAssociation::default()
        })
    }
}

fn dashed(ip: Ipv4Addr) -> String {
    ip.to_string().replace('.', "-")
}

/// `ec2-203-0-113-5.compute-1.amazonaws.com` in us-east-1, `ec2-….<region>.compute.amazonaws.com` elsewhere.
fn public_name(region: &str, ip: Ipv4Addr) -> String {
    let zone = if region == "us-east-1" { "compute-1".to_owned() } else { format!("{region}.compute") };
    format!("ec2-{}.{zone}.amazonaws.com", dashed(ip))
}

/// `amazon-ecs` for `ecs.amazonaws.com`: the alias of the service that made the interface.
fn alias(service: &str) -> String {
    format!("amazon-{}", service.split('.').next().unwrap_or(service))
}

pub(crate) fn groups_shape(eni: &EniRecord) -> Vec<GroupIdentifier> {
    let shape = |group: &GroupName| GroupIdentifier {
        group_id: Some(group.group_id.clone()),
        group_name: Some(group.group_name.clone()),
    };
    eni.groups.iter().map(shape).collect()
}

pub(crate) fn attachment_shape(call: &Call<'_>, eni: &EniRecord) -> Option<NetworkInterfaceAttachment> {
    eni.attachment.as_ref().map(|attachment| NetworkInterfaceAttachment {
        attach_time: Some(attachment.attach_time),
        attachment_id: Some(attachment.attachment_id.clone()),
        delete_on_termination: Some(attachment.delete_on_termination),
        device_index: Some(attachment.device_index),
        network_card_index: Some(0),
        instance_owner_id: Some(call.scope.account.clone()),
        status: Some("attached".into()),
        ..NetworkInterfaceAttachment::default()
    })
}

impl Described for NetworkInterface {
    const FILTERS: &'static [&'static str] = &[
        "addresses.association.owner-id",
        "addresses.association.public-ip",
        "addresses.primary",
        "addresses.private-ip-address",
        "association.allocation-id",
        "association.association-id",
        "association.ip-owner-id",
        "association.public-dns-name",
        "association.public-ip",
        "attachment.attach-time",
        "attachment.attachment-id",
        "attachment.delete-on-termination",
        "attachment.device-index",
        "attachment.instance-id",
        "attachment.instance-owner-id",
        "attachment.nat-gateway-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "description",
        "group-id",
        "group-name",
        "interface-type",
        "ipv6-addresses.ipv6-address",
        "mac-address",
        "network-interface-id",
        "operator.managed",
        "operator.principal",
        "owner-id",
        "private-dns-name",
        "private-ip-address",
        "requester-id",
        "requester-managed",
        "source-dest-check",
        "status",
        "subnet-id",
        "vpc-id",
    ];

    fn id(&self) -> &str {
        self.network_interface_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tag_set.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        let association = self.association.as_ref();
        let attachment = self.attachment.as_ref();
        match filter {
            "addresses.association.owner-id" | "association.ip-owner-id" => {
                Values::one(&association.and_then(|one| one.ip_owner_id.clone()))
            }
            "addresses.association.public-ip" | "association.public-ip" => {
                Values::one(&association.and_then(|one| one.public_ip.clone()))
            }
            "addresses.primary" => {
                Values::each(&self.private_ip_addresses, |ip| ip.primary.map(|primary| primary.to_string()))
            }
            "addresses.private-ip-address" => {
                Values::each(&self.private_ip_addresses, |ip| ip.private_ip_address.clone())
            }
            "association.allocation-id" => {
                Values::one(&association.and_then(|one| one.allocation_id.clone()))
            }
            "association.association-id" => {
                Values::one(&association.and_then(|one| one.association_id.clone()))
            }
            "association.public-dns-name" => {
                Values::one(&association.and_then(|one| one.public_dns_name.clone()))
            }
            "attachment.attach-time" => Values::one(&attachment.and_then(|one| one.attach_time)),
            "attachment.attachment-id" => Values::one(&attachment.and_then(|one| one.attachment_id.clone())),
            "attachment.delete-on-termination" => {
                Values::one(&attachment.and_then(|one| one.delete_on_termination))
            }
            "attachment.device-index" => Values::one(&attachment.and_then(|one| one.device_index)),
            "attachment.instance-owner-id" => {
                Values::one(&attachment.and_then(|one| one.instance_owner_id.clone()))
            }
            "attachment.status" => Values::one(&attachment.and_then(|one| one.status.clone())),
            "availability-zone" => Values::one(&self.availability_zone),
            "availability-zone-id" => Values::one(&self.availability_zone_id),
            "description" => Values::one(&self.description),
            "group-id" => Values::each(&self.groups, |group| group.group_id.clone()),
            "group-name" => Values::each(&self.groups, |group| group.group_name.clone()),
            "interface-type" => Values::one(&self.interface_type),
            "mac-address" => Values::one(&self.mac_address),
            "network-interface-id" => Values::one(&self.network_interface_id),
            "operator.managed" => Values::text(false),
            "owner-id" => Values::one(&self.owner_id),
            "private-dns-name" => Values::one(&self.private_dns_name),
            "private-ip-address" => Values::one(&self.private_ip_address),
            "requester-id" => Values::one(&self.requester_id),
            "requester-managed" => Values::one(&self.requester_managed),
            "source-dest-check" => Values::one(&self.source_dest_check),
            "status" => Values::one(&self.status),
            "subnet-id" => Values::one(&self.subnet_id),
            "vpc-id" => Values::one(&self.vpc_id),
            // Instances, NAT gateways, IPv6: no interface has them.
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeNetworkInterfacesRequest,
) -> Result<DescribeNetworkInterfacesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<NetworkInterface>(input.filters)?;
    let records = call.named::<EniRecord>(input.network_interface_ids)?;
    let shapes = Shapes::new(call)?;
    let enis = records.iter().map(|eni| shapes.shape(eni));
    let page = page(enis, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeNetworkInterfacesResult { network_interfaces: Some(page.items), next_token: page.next_token })
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateNetworkInterfaceRequest,
) -> Result<CreateNetworkInterfaceResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let some = |list: bool, count: Option<i32>| list || count.is_some_and(|count| count > 0);
    refuse(&[
        ("Ipv4Prefixes", some(input.ipv4_prefixes.is_some_and(|list| !list.is_empty()), None)),
        ("Ipv4PrefixCount", some(false, input.ipv4_prefix_count)),
        ("Ipv6Prefixes", some(input.ipv6_prefixes.is_some_and(|list| !list.is_empty()), None)),
        ("Ipv6PrefixCount", some(false, input.ipv6_prefix_count)),
        ("Ipv6Addresses", some(input.ipv6_addresses.is_some_and(|list| !list.is_empty()), None)),
        ("Ipv6AddressCount", some(false, input.ipv6_address_count)),
        ("EnablePrimaryIpv6", input.enable_primary_ipv6 == Some(true)),
        ("ConnectionTrackingSpecification", input.connection_tracking_specification.is_some()),
        ("Operator", input.operator.is_some()),
        ("SecondaryPrivateIpAddressCount", some(false, input.secondary_private_ip_address_count)),
    ])?;
    if let Some(kind) = input.interface_type.filter(|kind| kind != "interface") {
        return Err(unsupported(&format!("InterfaceType={kind}")));
    }
    let wanted_ip = wanted_address(input.private_ip_address, input.private_ip_addresses)?;
    let description = input.description.unwrap_or_default();
    if description.chars().count() > DESCRIPTION_CHARACTERS_MAX {
        let message =
            format!("Invalid description: it may have up to {DESCRIPTION_CHARACTERS_MAX} characters");
        return Err(invalid_value(message));
    }
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::ENI)?;
    let subnet_id = input.subnet_id.unwrap_or_default();
    let group_ids = input.groups.unwrap_or_default();
    let parameters = (&subnet_id, &group_ids, &description, wanted_ip, &tags);
    let token = call.client_token("CreateNetworkInterface", input.client_token, &parameters)?;
    // The group or subnet it joins is not deleted meanwhile.
    let _admission = call.service.admission.read().await;
    let eni = call
        .transact(|changes| {
            if let Some(id) = call.made_before(token.as_ref())? {
                return Ok(call.get::<EniRecord>(&id)?.record);
            }
            let subnet = call.get::<SubnetRecord>(&subnet_id)?;
            let groups = find_groups(call, &subnet.vpc_id, &group_ids)?;
            let private_ip = match wanted_ip {
                Some(ip) => check_free(call, &subnet, ip)?,
                None => next_free(call, &subnet)?,
            };
            let requester = call.service_principal().map(str::to_owned);
            let attachment = requester.is_some().then(|| AttachmentRecord {
                attachment_id: ids::ENI_ATTACHMENT.new_id(),
                attach_time: call.cx.now,
                device_index: 1,
                delete_on_termination: false,
            });
            let eni = EniRecord {
                eni_id: ids::ENI.new_id(),
                vpc_id: subnet.vpc_id.clone(),
                subnet_id: subnet.subnet_id.clone(),
                zone: subnet.zone.clone(),
                zone_id: subnet.zone_id.clone(),
                private_ip,
                mac: ferrogate_model::mac_address(),
                description: description.clone(),
                groups,
                source_dest_check: true,
                requester,
                attachment,
                public: None,
                client_token: token.as_ref().map(|token| token.token.clone()),
                tags: tags.clone(),
            };
            changes.expect(&subnet);
            let address = call.scope.private_address(&subnet.subnet_id, private_ip);
            changes.create_key(address, eni.eni_id.clone().into_bytes());
            changes.create(&eni)?;
            changes.remember(token.as_ref(), &eni.eni_id)?;
            Ok(eni)
        })
        .await?;
    Ok(CreateNetworkInterfaceResult {
        network_interface: Some(Shapes::new(call)?.shape(&eni)),
        client_token: token.map(|token| token.token),
    })
}

/// The one address the caller asks for, in either of the two parameters.
fn wanted_address(
    single: Option<String>,
    list: Option<Vec<PrivateIpAddressSpecification>>,
) -> Result<Option<Ipv4Addr>, ApiError> {
    let list = list.unwrap_or_default();
    if list.len() > 1 {
        return Err(unsupported("PrivateIpAddresses (more than one)"));
    }
    let listed = list.into_iter().next();
    if listed.as_ref().is_some_and(|one| one.primary == Some(false)) {
        return Err(unsupported("PrivateIpAddresses.Primary=false"));
    }
    let listed = listed.and_then(|one| one.private_ip_address);
    if single.is_some() && listed.is_some() {
        return Err(invalid_combination("Specify PrivateIpAddress or PrivateIpAddresses, not both."));
    }
    let Some(text) = single.or(listed) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| invalid_value(format!("Invalid IPv4 address: {text}")))
}

/// The groups an interface in this VPC shall have; none named: the default one. They are not compared when it is
/// committed: a rule that changes meanwhile is no reason to begin again, and deletions wait (`admission`).
pub(crate) fn find_groups(call: &Call<'_>, vpc_id: &str, ids: &[String]) -> Result<Vec<GroupName>, ApiError> {
    let default;
    let ids = if ids.is_empty() {
        default = [call.get::<VpcRecord>(vpc_id)?.record.default_group_id];
        &default[..]
    } else {
        ids
    };
    let mut groups: Vec<GroupName> = Vec::new();
    for id in ids {
        let group = call.get::<GroupRecord>(id)?;
        if group.vpc_id != vpc_id {
            let message = format!("Security group {id} and the subnet belong to different networks.");
            return Err(ApiError::new("InvalidParameter", message));
        }
        if groups.iter().all(|other| other.group_id != *id) {
            groups.push(GroupName { group_id: id.clone(), group_name: group.group_name.clone() });
        }
    }
    if groups.len() > GROUPS_PER_INTERFACE_MAX {
        let message = "The maximum number of security groups per interface has been reached.";
        return Err(ApiError::new("SecurityGroupsPerInterfaceLimitExceeded", message));
    }
    Ok(groups)
}

fn check_free(call: &Call<'_>, subnet: &SubnetRecord, ip: Ipv4Addr) -> Result<Ipv4Addr, ApiError> {
    if !subnet.cidr.contains(&ip) {
        return Err(invalid_value("Address does not fall within the subnet's address range"));
    }
    if !AddressRange::of_subnet(subnet.cidr).contains(ip) {
        return Err(invalid_value("Address is in subnet's reserved address range"));
    }
    if call.exists(&call.scope.private_address(&subnet.subnet_id, ip)) {
        return Err(ApiError::new("InvalidIPAddress.InUse", format!("Address {ip} is in use.")));
    }
    Ok(ip)
}

fn next_free(call: &Call<'_>, subnet: &SubnetRecord) -> Result<Ipv4Addr, ApiError> {
    let range = AddressRange::of_subnet(subnet.cidr);
    let is_used = |ip| call.exists(&call.scope.private_address(&subnet.subnet_id, ip));
    let found = call.service.next_address(&subnet.subnet_id, |from| range.first_free(from, is_used));
    found.ok_or_else(|| {
        let message = "The specified subnet does not have enough free addresses to satisfy the request.";
        ApiError::new("InsufficientFreeAddressesInSubnet", message)
    })
}

/// Whether the caller may change or delete the interface: a requester-managed one is its service's alone.
pub(crate) fn check_manageable(call: &Call<'_>, eni: &EniRecord) -> Result<(), ApiError> {
    match &eni.requester {
        Some(requester) if call.service_principal() != Some(requester) => {
            Err(ApiError::new("AuthFailure", "You do not have permission to access the specified resource."))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteNetworkInterfaceRequest,
) -> Result<DeleteNetworkInterfaceNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.network_interface_id.unwrap_or_default();
    call.transact(|changes| {
        let eni = call.get::<EniRecord>(&id)?;
        check_manageable(call, &eni)?;
        if eni.attachment.is_some() && eni.requester.is_none() {
            return Err(invalid_value(format!("Network interface '{id}' is currently in use.")));
        }
        release_public(call, changes, &eni)?;
        if let Some(token) = &eni.client_token {
            changes.remove_key(call.scope.client_token(token));
        }
        changes.remove_key(call.scope.private_address(&eni.subnet_id, eni.private_ip));
        changes.remove(&eni);
        Ok(())
    })
    .await?;
    Ok(DeleteNetworkInterfaceNoOutput {})
}

/// What becomes of the public address of an interface that goes: its own one is free again, an Elastic IP stays
/// the account's.
fn release_public(call: &Call<'_>, changes: &mut Changes, eni: &EniRecord) -> Result<(), ApiError> {
    let Some(public) = &eni.public else { return Ok(()) };
    let Some(elastic) = &public.elastic else {
        changes.remove_key(public_address(public.ip));
        return Ok(());
    };
    let Some(address) = call.find::<AddressRecord>(&elastic.allocation_id)? else { return Ok(()) };
    let mut record = address.record.clone();
    record.association = None;
    changes.replace(&address, &record)
}

/// There are no instances to attach to.
pub(crate) async fn attach(
    call: &Call<'_>,
    input: AttachNetworkInterfaceRequest,
) -> Result<AttachNetworkInterfaceResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let eni = call.get::<EniRecord>(&input.network_interface_id.unwrap_or_default())?;
    check_manageable(call, &eni)?;
    let instance = input.instance_id.unwrap_or_default();
    Err(ApiError::new("InvalidInstanceID.NotFound", format!("The instance ID '{instance}' does not exist")))
}

pub(crate) async fn detach(
    call: &Call<'_>,
    input: DetachNetworkInterfaceRequest,
) -> Result<DetachNetworkInterfaceNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.attachment_id.unwrap_or_default();
    call.transact(|changes| {
        let of_attachment =
            |eni: &Stored<EniRecord>| eni.attachment.as_ref().is_some_and(|own| own.attachment_id == id);
        let Some(eni) = call.all::<EniRecord>()?.into_iter().find(of_attachment) else {
            let message = format!("The attachment '{id}' does not exist");
            return Err(ApiError::new("InvalidAttachmentID.NotFound", message));
        };
        if check_manageable(call, &eni).is_err() {
            return Err(not_permitted());
        }
        let mut record = eni.record.clone();
        record.attachment = None;
        changes.replace(&eni, &record)
    })
    .await?;
    Ok(DetachNetworkInterfaceNoOutput {})
}
