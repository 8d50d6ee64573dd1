//! Network ACLs, their entries and their subnets.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;
use ipnet::Ipv4Net;

use super::tags;
use crate::call::Call;
use crate::db::Stored;
use crate::errors::{check_dry_run, dependency, invalid_value, missing, refuse};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::cidr;
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas"; rules per direction can be raised to 40 there, and are.
const ACLS_PER_VPC_MAX: usize = 200;
const ENTRIES_PER_DIRECTION_MAX: usize = 40;
const RULE_NUMBER_MAX: i32 = 32766;
/// The last entry of each direction, which denies.
const LAST_RULE_NUMBER: i32 = 32767;

fn entry_shape(entry: &AclEntryRecord) -> NetworkAclEntry {
    NetworkAclEntry {
        cidr_block: Some(entry.cidr.to_string()),
        egress: Some(entry.egress),
        icmp_type_code: entry.icmp.map(|(kind, code)| IcmpTypeCode { r#type: Some(kind), code: Some(code) }),
        ipv6_cidr_block: None,
        port_range: entry.ports.map(|(from, to)| PortRange { from: Some(from.into()), to: Some(to.into()) }),
        protocol: Some(entry.protocol.to_string()),
        rule_action: Some(if entry.allow { "allow" } else { "deny" }.into()),
        rule_number: Some(entry.rule_number.into()),
    }
}

fn last_entry(egress: bool) -> NetworkAclEntry {
    NetworkAclEntry {
        cidr_block: Some(Ipv4Net::default().to_string()),
        egress: Some(egress),
        protocol: Some("-1".into()),
        rule_action: Some("deny".into()),
        rule_number: Some(LAST_RULE_NUMBER),
        ..NetworkAclEntry::default()
    }
}

fn shape(call: &Call<'_>, acl: &NetworkAclRecord, subnets: &[Stored<SubnetRecord>]) -> NetworkAcl {
    let id = &acl.network_acl_id;
    let associations = subnets.iter().filter(|subnet| subnet.network_acl.network_acl_id == *id);
    let associations = associations.map(|subnet| NetworkAclAssociation {
        network_acl_association_id: Some(subnet.network_acl.association_id.clone()),
        network_acl_id: Some(id.clone()),
        subnet_id: Some(subnet.subnet_id.clone()),
    });
    let mut entries: Vec<_> =
        acl.entries.iter().map(entry_shape).chain([last_entry(true), last_entry(false)]).collect();
    entries.sort_by_key(|entry| (entry.egress == Some(false), entry.rule_number));
    NetworkAcl {
        associations: Some(associations.collect()),
        entries: Some(entries),
        is_default: Some(acl.is_default),
        network_acl_id: Some(id.clone()),
        tags: Some(tags::shape(&acl.tags)),
        vpc_id: Some(acl.vpc_id.clone()),
        owner_id: Some(call.scope.account.clone()),
    }
}

impl Described for NetworkAcl {
    const FILTERS: &'static [&'static str] = &[
        "association.association-id",
        "association.network-acl-id",
        "association.subnet-id",
        "default",
        "entry.cidr",
        "entry.egress",
        "entry.icmp.code",
        "entry.icmp.type",
        "entry.ipv6-cidr",
        "entry.port-range.from",
        "entry.port-range.to",
        "entry.protocol",
        "entry.rule-action",
        "entry.rule-number",
        "network-acl-id",
        "owner-id",
        "vpc-id",
    ];

    fn id(&self) -> &str {
        self.network_acl_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        let (associations, entries) = (&self.associations, &self.entries);
        let text = |number: Option<i32>| number.map(|number| number.to_string());
        match filter {
            "association.association-id" => {
                Values::each(associations, |one| one.network_acl_association_id.clone())
            }
            "association.network-acl-id" => Values::each(associations, |one| one.network_acl_id.clone()),
            "association.subnet-id" => Values::each(associations, |one| one.subnet_id.clone()),
            "default" => Values::one(&self.is_default),
            "entry.cidr" => Values::each(entries, |entry| entry.cidr_block.clone()),
            "entry.egress" => Values::each(entries, |entry| entry.egress.map(|egress| egress.to_string())),
            "entry.icmp.code" => Values::each(entries, |entry| text(entry.icmp_type_code.as_ref()?.code)),
            "entry.icmp.type" => Values::each(entries, |entry| text(entry.icmp_type_code.as_ref()?.r#type)),
            "entry.port-range.from" => Values::each(entries, |entry| text(entry.port_range.as_ref()?.from)),
            "entry.port-range.to" => Values::each(entries, |entry| text(entry.port_range.as_ref()?.to)),
            // AWS takes names here and numbers in the entry.
            "entry.protocol" => {
                Values::each(entries, |entry| entry.protocol.clone()).and(Values::each(entries, |entry| {
                    let name = match entry.protocol.as_deref()? {
                        "1" => "icmp",
                        "6" => "tcp",
                        "17" => "udp",
                        _ => return None,
                    };
                    Some(name.to_owned())
                }))
            }
            "entry.rule-action" => Values::each(entries, |entry| entry.rule_action.clone()),
            "entry.rule-number" => Values::each(entries, |entry| text(entry.rule_number)),
            "network-acl-id" => Values::one(&self.network_acl_id),
            "owner-id" => Values::one(&self.owner_id),
            "vpc-id" => Values::one(&self.vpc_id),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeNetworkAclsRequest,
) -> Result<DescribeNetworkAclsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<NetworkAcl>(input.filters)?;
    let records = call.named::<NetworkAclRecord>(input.network_acl_ids)?;
    let subnets = call.all::<SubnetRecord>()?;
    let acls = records.iter().map(|acl| shape(call, acl, &subnets));
    let page = page(acls, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeNetworkAclsResult { network_acls: Some(page.items), next_token: page.next_token })
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateNetworkAclRequest,
) -> Result<CreateNetworkAclResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::NETWORK_ACL)?;
    let vpc_id = input.vpc_id.unwrap_or_default();
    let token = call.client_token("CreateNetworkAcl", input.client_token, &(&vpc_id, &tags))?;
    let acl = call
        .transact(|changes| {
            if let Some(id) = call.made_before(token.as_ref())? {
                return Ok(call.get::<NetworkAclRecord>(&id)?.record);
            }
            let vpc = call.get::<VpcRecord>(&vpc_id)?;
            let acls = call.all::<NetworkAclRecord>()?;
            if acls.iter().filter(|acl| acl.vpc_id == vpc_id).count() >= ACLS_PER_VPC_MAX {
                let message = "The maximum number of network ACLs has been reached.";
                return Err(ApiError::new("NetworkAclLimitExceeded", message));
            }
            let acl = NetworkAclRecord {
                network_acl_id: ids::NETWORK_ACL.new_id(),
                vpc_id: vpc_id.clone(),
                is_default: false,
                entries: Vec::new(),
                client_token: token.as_ref().map(|token| token.token.clone()),
                tags: tags.clone(),
            };
            changes.expect(&vpc);
            changes.topology(call, &vpc_id);
            changes.create(&acl)?;
            changes.remember(token.as_ref(), &acl.network_acl_id)?;
            Ok(acl)
        })
        .await?;
    let subnets = call.all::<SubnetRecord>()?;
    Ok(CreateNetworkAclResult {
        network_acl: Some(shape(call, &acl, &subnets)),
        client_token: token.map(|token| token.token),
    })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteNetworkAclRequest,
) -> Result<DeleteNetworkAclNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.network_acl_id.unwrap_or_default();
    call.transact(|changes| {
        let acl = call.get::<NetworkAclRecord>(&id)?;
        if acl.is_default {
            return Err(invalid_value(format!("Cannot delete default network ACL {id}")));
        }
        if call.all::<SubnetRecord>()?.iter().any(|subnet| subnet.network_acl.network_acl_id == id) {
            return Err(dependency(format!("The networkAcl '{id}' has dependencies and cannot be deleted.")));
        }
        if let Some(token) = &acl.client_token {
            changes.remove_key(call.scope.client_token(token));
        }
        changes.topology(call, &acl.vpc_id);
        changes.remove(&acl);
        Ok(())
    })
    .await?;
    Ok(DeleteNetworkAclNoOutput {})
}

pub(crate) async fn replace_association(
    call: &Call<'_>,
    input: ReplaceNetworkAclAssociationRequest,
) -> Result<ReplaceNetworkAclAssociationResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let (id, acl_id) = (input.association_id.unwrap_or_default(), input.network_acl_id.unwrap_or_default());
    let new_id = call
        .transact(|changes| {
            let acl = call.get::<NetworkAclRecord>(&acl_id)?;
            let subnets = call.all::<SubnetRecord>()?;
            let subnet = subnets.iter().find(|subnet| subnet.network_acl.association_id == id);
            let subnet = subnet.ok_or_else(|| ids::NETWORK_ACL_ASSOCIATION.not_found(&id))?;
            if subnet.vpc_id != acl.vpc_id {
                let message = format!(
                    "networkAcl {acl_id} and subnet {} belong to different networks",
                    subnet.subnet_id
                );
                return Err(invalid_value(message));
            }
            let new_id = ids::NETWORK_ACL_ASSOCIATION.new_id();
            let mut record = subnet.record.clone();
            record.network_acl =
                AclAssociation { association_id: new_id.clone(), network_acl_id: acl_id.clone() };
            changes.expect(&acl);
            changes.topology(call, &acl.vpc_id);
            changes.replace(subnet, &record)?;
            Ok(new_id)
        })
        .await?;
    Ok(ReplaceNetworkAclAssociationResult { new_association_id: Some(new_id) })
}

/// The parameters of CreateNetworkAclEntry and ReplaceNetworkAclEntry, which are the same.
struct WantedEntry {
    rule_number: Option<i32>,
    protocol: Option<String>,
    rule_action: Option<String>,
    egress: Option<bool>,
    cidr_block: Option<String>,
    ipv6_cidr_block: Option<String>,
    icmp: Option<IcmpTypeCode>,
    ports: Option<PortRange>,
}

/// From either request: the shapes differ, their members do not.
macro_rules! wanted {
    ($input:ident) => {
        WantedEntry {
            rule_number: $input.rule_number,
            protocol: $input.protocol,
            rule_action: $input.rule_action,
            egress: $input.egress,
            cidr_block: $input.cidr_block,
            ipv6_cidr_block: $input.ipv6_cidr_block,
            icmp: $input.icmp_type_code,
            ports: $input.port_range,
        }
    };
}

impl WantedEntry {
    fn check(self) -> Result<AclEntryRecord, ApiError> {
        refuse(&[("Ipv6CidrBlock", self.ipv6_cidr_block.is_some())])?;
        let protocol = check_protocol(self.protocol.as_deref().ok_or_else(|| missing("protocol"))?)?;
        let ports = match (protocol, self.ports) {
            (6 | 17, Some(PortRange { from: Some(from), to: Some(to) })) => Some(check_ports(from, to)?),
            (6 | 17, _) => return Err(missing("portRange")),
            // EC2 API reference: ports are for TCP and UDP; elsewhere they say nothing.
            _ => None,
        };
        let icmp = match (protocol, self.icmp) {
            (1, Some(IcmpTypeCode { r#type: Some(kind), code: Some(code) })) => {
                if !(-1..=255).contains(&kind) || !(-1..=255).contains(&code) {
                    return Err(invalid_value(format!("Invalid ICMP type or code ({kind}, {code})")));
                }
                Some((kind, code))
            }
            (1, _) => return Err(missing("icmpTypeCode")),
            _ => None,
        };
        Ok(AclEntryRecord {
            rule_number: check_rule_number(self.rule_number.ok_or_else(|| missing("ruleNumber"))?)?,
            egress: self.egress.ok_or_else(|| missing("egress"))?,
            allow: self.rule_action.as_deref() == Some("allow"),
            protocol,
            cidr: cidr::parse(&self.cidr_block.ok_or_else(|| missing("cidrBlock"))?)?,
            ports,
            icmp,
        })
    }
}

fn check_rule_number(number: i32) -> Result<u16, ApiError> {
    let checked = u16::try_from(number).ok().filter(|_| (1..=RULE_NUMBER_MAX).contains(&number));
    checked.ok_or_else(|| {
        invalid_value(format!(
            "Value ({number}) for parameter ruleNumber is invalid. It must be from 1 to {RULE_NUMBER_MAX}."
        ))
    })
}

fn check_protocol(text: &str) -> Result<i32, ApiError> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "all" | "-1" => -1,
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        number => match number.parse::<u8>() {
            Ok(58) => return Err(crate::errors::unsupported("Protocol=58 (ICMPv6)")),
            Ok(number) => number.into(),
            Err(_) => {
                return Err(invalid_value(format!(
                    "Invalid value '{text}' for IP protocol. Unknown protocol."
                )));
            }
        },
    })
}

fn check_ports(from: i32, to: i32) -> Result<(u16, u16), ApiError> {
    match (u16::try_from(from), u16::try_from(to)) {
        (Ok(from), Ok(to)) if from <= to => Ok((from, to)),
        _ => Err(invalid_value(format!("Invalid TCP/UDP port range ({from}:{to})"))),
    }
}

pub(crate) async fn create_entry(
    call: &Call<'_>,
    input: CreateNetworkAclEntryRequest,
) -> Result<CreateNetworkAclEntryNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let entry = wanted!(input).check()?;
    let id = input.network_acl_id.unwrap_or_default();
    call.transact(|changes| {
        let acl = call.get::<NetworkAclRecord>(&id)?;
        let mut record = acl.record.clone();
        if position(&record, entry.rule_number, entry.egress).is_some() {
            let message =
                format!("The network acl entry identified by {} already exists.", entry.rule_number);
            return Err(ApiError::new("NetworkAclEntryAlreadyExists", message));
        }
        let others = record.entries.iter().filter(|other| other.egress == entry.egress).count();
        if others >= ENTRIES_PER_DIRECTION_MAX {
            let message = "The maximum number of network acl entries has been reached.";
            return Err(ApiError::new("NetworkAclEntryLimitExceeded", message));
        }
        record.entries.push(entry.clone());
        record.entries.sort_by_key(|entry| (entry.egress, entry.rule_number));
        changes.replace(&acl, &record)
    })
    .await?;
    Ok(CreateNetworkAclEntryNoOutput {})
}

fn position(acl: &NetworkAclRecord, rule_number: u16, egress: bool) -> Option<usize> {
    acl.entries.iter().position(|entry| entry.rule_number == rule_number && entry.egress == egress)
}

fn entry_not_found(acl: &str, rule_number: u16, egress: bool) -> ApiError {
    let direction = if egress { "egress" } else { "ingress" };
    let message = format!("there is no {direction} rule {rule_number} in networkAcl {acl}");
    ApiError::new("InvalidNetworkAclEntry.NotFound", message)
}

pub(crate) async fn replace_entry(
    call: &Call<'_>,
    input: ReplaceNetworkAclEntryRequest,
) -> Result<ReplaceNetworkAclEntryNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let entry = wanted!(input).check()?;
    let id = input.network_acl_id.unwrap_or_default();
    call.transact(|changes| {
        let acl = call.get::<NetworkAclRecord>(&id)?;
        let mut record = acl.record.clone();
        let index = position(&record, entry.rule_number, entry.egress)
            .ok_or_else(|| entry_not_found(&id, entry.rule_number, entry.egress))?;
        record.entries[index] = entry.clone();
        changes.replace(&acl, &record)
    })
    .await?;
    Ok(ReplaceNetworkAclEntryNoOutput {})
}

pub(crate) async fn delete_entry(
    call: &Call<'_>,
    input: DeleteNetworkAclEntryRequest,
) -> Result<DeleteNetworkAclEntryNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let rule_number = check_rule_number(input.rule_number.ok_or_else(|| missing("ruleNumber"))?)?;
    let egress = input.egress.ok_or_else(|| missing("egress"))?;
    let id = input.network_acl_id.unwrap_or_default();
    call.transact(|changes| {
        let acl = call.get::<NetworkAclRecord>(&id)?;
        let mut record = acl.record.clone();
        let index = position(&record, rule_number, egress)
            .ok_or_else(|| entry_not_found(&id, rule_number, egress))?;
        record.entries.remove(index);
        changes.replace(&acl, &record)
    })
    .await?;
    Ok(DeleteNetworkAclEntryNoOutput {})
}
