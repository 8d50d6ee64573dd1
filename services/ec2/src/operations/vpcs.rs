//! VPCs and their address blocks.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;
use ipnet::Ipv4Net;

use super::defaults::{self, NewVpc};
use super::tags;
use crate::call::Call;
use crate::errors::{check_dry_run, dependency, missing, refuse, unsupported};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::cidr;
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas"; the first can be raised there, and is.
const VPCS_MAX: usize = 100;
const CIDR_BLOCKS_PER_VPC_MAX: usize = 5;

pub(crate) fn shape(call: &Call<'_>, vpc: &VpcRecord) -> Vpc {
    Vpc {
        owner_id: Some(call.scope.account.clone()),
        instance_tenancy: Some(vpc.instance_tenancy.clone()),
        ipv6_cidr_block_association_set: Some(Vec::new()),
        cidr_block_association_set: Some(
            vpc.cidr_blocks.iter().map(|block| association(block, "associated")).collect(),
        ),
        is_default: Some(vpc.is_default),
        tags: Some(tags::shape(&vpc.tags)),
        vpc_id: Some(vpc.vpc_id.clone()),
        state: Some("available".into()),
        cidr_block: Some(vpc.cidr_blocks[0].cidr.to_string()),
        dhcp_options_id: Some(vpc.dhcp_options_id.clone()),
        ..Vpc::default()
    }
}

fn association(block: &CidrAssociation, state: &str) -> VpcCidrBlockAssociation {
    VpcCidrBlockAssociation {
        association_id: Some(block.association_id.clone()),
        cidr_block: Some(block.cidr.to_string()),
        cidr_block_state: Some(VpcCidrBlockState { state: Some(state.into()), status_message: None }),
    }
}

impl Described for Vpc {
    const FILTERS: &'static [&'static str] = &[
        "cidr",
        "cidr-block-association.association-id",
        "cidr-block-association.cidr-block",
        "cidr-block-association.state",
        "dhcp-options-id",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.ipv6-pool",
        "ipv6-cidr-block-association.state",
        "is-default",
        "isDefault",
        "owner-id",
        "state",
        "vpc-id",
    ];

    fn id(&self) -> &str {
        self.vpc_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        let blocks = &self.cidr_block_association_set;
        match filter {
            "cidr" => Values::one(&self.cidr_block),
            "cidr-block-association.association-id" => {
                Values::each(blocks, |block| block.association_id.clone())
            }
            "cidr-block-association.cidr-block" => Values::each(blocks, |block| block.cidr_block.clone()),
            "cidr-block-association.state" => Values::each(blocks, |block| {
                block.cidr_block_state.as_ref().and_then(|state| state.state.clone())
            }),
            "dhcp-options-id" => Values::one(&self.dhcp_options_id),
            "is-default" | "isDefault" => Values::one(&self.is_default),
            "owner-id" => Values::one(&self.owner_id),
            "state" => Values::one(&self.state),
            "vpc-id" => Values::one(&self.vpc_id),
            // IPv6 blocks: there are none.
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeVpcsRequest,
) -> Result<DescribeVpcsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<Vpc>(input.filters)?;
    let vpcs = call.named::<VpcRecord>(input.vpc_ids)?.into_iter().map(|vpc| shape(call, &vpc));
    let page = page(vpcs, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeVpcsResult { vpcs: Some(page.items), next_token: page.next_token })
}

pub(crate) async fn create(call: &Call<'_>, input: CreateVpcRequest) -> Result<CreateVpcResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        ("Ipv6Pool", input.ipv6_pool.is_some()),
        ("Ipv6CidrBlock", input.ipv6_cidr_block.is_some()),
        ("Ipv4IpamPoolId", input.ipv4_ipam_pool_id.is_some()),
        ("Ipv4NetmaskLength", input.ipv4_netmask_length.is_some()),
        ("Ipv6IpamPoolId", input.ipv6_ipam_pool_id.is_some()),
        ("Ipv6NetmaskLength", input.ipv6_netmask_length.is_some()),
        ("Ipv6CidrBlockNetworkBorderGroup", input.ipv6_cidr_block_network_border_group.is_some()),
        ("VpcEncryptionControl", input.vpc_encryption_control.is_some()),
        ("AmazonProvidedIpv6CidrBlock", input.amazon_provided_ipv6_cidr_block == Some(true)),
    ])?;
    if let Some(tenancy) = input.instance_tenancy.filter(|tenancy| tenancy != "default") {
        return Err(unsupported(&format!("InstanceTenancy={tenancy}")));
    }
    let cidr = cidr::check_vpc(&input.cidr_block.ok_or_else(|| missing("CidrBlock"))?)?;
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::VPC)?;
    let vpc = call
        .transact(|changes| {
            if call.all::<VpcRecord>()?.len() >= VPCS_MAX {
                return Err(ApiError::new(
                    "VpcLimitExceeded",
                    "The maximum number of VPCs has been reached.",
                ));
            }
            let dhcp_options_id = defaults::dhcp_options(call, changes)?;
            let mut new = NewVpc::new(cidr, dhcp_options_id, false, &|kind, _| kind.new_id());
            new.vpc.tags = tags.clone();
            new.create(changes)?;
            Ok(new.vpc)
        })
        .await?;
    Ok(CreateVpcResult { vpc: Some(shape(call, &vpc)) })
}

pub(crate) async fn delete(call: &Call<'_>, input: DeleteVpcRequest) -> Result<DeleteVpcNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let vpc_id = input.vpc_id.unwrap_or_default();
    call.transact(|changes| {
        let vpc = call.get::<VpcRecord>(&vpc_id)?;
        let in_vpc = |other: &str| other == vpc_id;
        let tables = call.all::<RouteTableRecord>()?.into_iter().filter(|table| in_vpc(&table.vpc_id));
        let acls = call.all::<NetworkAclRecord>()?.into_iter().filter(|acl| in_vpc(&acl.vpc_id));
        let groups = call.all::<GroupRecord>()?.into_iter().filter(|group| in_vpc(&group.vpc_id));
        let (tables, acls, groups): (Vec<_>, Vec<_>, Vec<_>) =
            (tables.collect(), acls.collect(), groups.collect());
        let in_use = call.all::<SubnetRecord>()?.iter().any(|subnet| in_vpc(&subnet.vpc_id))
            || call
                .all::<InternetGatewayRecord>()?
                .iter()
                .any(|gateway| gateway.vpc_id.as_deref().is_some_and(in_vpc))
            || tables.iter().any(|table| table.route_table_id != vpc.main_route_table_id)
            || acls.iter().any(|acl| !acl.is_default)
            || groups.iter().any(|group| group.group_id != vpc.default_group_id);
        if in_use {
            return Err(dependency(format!("The vpc '{vpc_id}' has dependencies and cannot be deleted.")));
        }
        tables.iter().for_each(|table| changes.remove(table));
        acls.iter().for_each(|acl| changes.remove(acl));
        for group in &groups {
            changes.remove(group);
            changes.remove_key(call.scope.group_name(&vpc_id, &group.group_name));
        }
        changes.remove(&vpc);
        changes.end_topology(call, &vpc_id);
        Ok(())
    })
    .await?;
    Ok(DeleteVpcNoOutput {})
}

pub(crate) async fn associate_cidr_block(
    call: &Call<'_>,
    input: AssociateVpcCidrBlockRequest,
) -> Result<AssociateVpcCidrBlockResult, ApiError> {
    refuse(&[
        ("Ipv6CidrBlockNetworkBorderGroup", input.ipv6_cidr_block_network_border_group.is_some()),
        ("Ipv6Pool", input.ipv6_pool.is_some()),
        ("Ipv6CidrBlock", input.ipv6_cidr_block.is_some()),
        ("Ipv4IpamPoolId", input.ipv4_ipam_pool_id.is_some()),
        ("Ipv4NetmaskLength", input.ipv4_netmask_length.is_some()),
        ("Ipv6IpamPoolId", input.ipv6_ipam_pool_id.is_some()),
        ("Ipv6NetmaskLength", input.ipv6_netmask_length.is_some()),
        ("AmazonProvidedIpv6CidrBlock", input.amazon_provided_ipv6_cidr_block == Some(true)),
    ])?;
    let vpc_id = input.vpc_id.unwrap_or_default();
    let text = input.cidr_block.ok_or_else(|| missing("CidrBlock"))?;
    let cidr = cidr::check_vpc(&text)?;
    let block = call
        .transact(|changes| {
            let vpc = call.get::<VpcRecord>(&vpc_id)?;
            if vpc.cidr_blocks.len() >= CIDR_BLOCKS_PER_VPC_MAX {
                let message =
                    format!("This network '{vpc_id}' has met its maximum number of allowed CIDRs: {CIDR_BLOCKS_PER_VPC_MAX}");
                return Err(ApiError::new("CidrLimitExceeded", message));
            }
            if vpc.cidr_blocks.iter().any(|block| cidr::overlap(block.cidr, cidr)) {
                let message = format!("The CIDR '{text}' overlaps with a CIDR block of the VPC '{vpc_id}'.");
                return Err(ApiError::new("InvalidVpc.Range", message));
            }
            check_no_route_into(call, &vpc_id, cidr)?;
            let block = CidrAssociation { association_id: ids::VPC_CIDR_ASSOCIATION.new_id(), cidr };
            let mut record = vpc.record.clone();
            record.cidr_blocks.push(block.clone());
            changes.replace(&vpc, &record)?;
            changes.topology(call, &vpc_id);
            Ok(block)
        })
        .await?;
    Ok(AssociateVpcCidrBlockResult {
        ipv6_cidr_block_association: None,
        cidr_block_association: Some(association(&block, "associated")),
        vpc_id: Some(vpc_id),
    })
}

/// VPC user guide: a new block "must not be the same or larger than a destination CIDR range in a route".
fn check_no_route_into(call: &Call<'_>, vpc_id: &str, cidr: Ipv4Net) -> Result<(), ApiError> {
    let conflict = call
        .all::<RouteTableRecord>()?
        .iter()
        .filter(|table| table.vpc_id == vpc_id)
        .flat_map(|table| table.routes.clone())
        .find(|route| cidr.contains(&route.destination));
    match conflict {
        Some(route) => {
            let message =
                format!("The CIDR '{cidr}' conflicts with the route to {} of the VPC.", route.destination);
            Err(ApiError::new("InvalidVpc.Range", message))
        }
        None => Ok(()),
    }
}

pub(crate) async fn disassociate_cidr_block(
    call: &Call<'_>,
    input: DisassociateVpcCidrBlockRequest,
) -> Result<DisassociateVpcCidrBlockResult, ApiError> {
    let association_id = input.association_id.unwrap_or_default();
    let (vpc_id, block) = call
        .transact(|changes| {
            let has = |vpc: &VpcRecord| vpc.cidr_blocks.iter().position(|block| block.association_id == association_id);
            let found = call.all::<VpcRecord>()?.into_iter().find_map(|vpc| has(&vpc).map(|index| (vpc, index)));
            let Some((vpc, index)) = found else {
                let message = format!("The vpc CIDR block association ID '{association_id}' does not exist");
                return Err(ApiError::new("InvalidVpcCidrBlockAssociationID.NotFound", message));
            };
            let mut record = vpc.record.clone();
            let block = record.cidr_blocks.remove(index);
            if index == 0 {
                let message = format!(
                    "The vpc CIDR block with association ID {association_id} may not be disassociated. It is the primary IPv4 CIDR block of the VPC"
                );
                return Err(ApiError::new("OperationNotPermitted", message));
            }
            let subnets = call.all::<SubnetRecord>()?;
            if subnets.iter().any(|subnet| subnet.vpc_id == vpc.vpc_id && block.cidr.contains(&subnet.cidr)) {
                let message = format!("The vpc CIDR block '{}' has dependencies and cannot be disassociated.", block.cidr);
                return Err(dependency(message));
            }
            changes.replace(&vpc, &record)?;
            changes.topology(call, &vpc.vpc_id);
            Ok((record.vpc_id, block))
        })
        .await?;
    Ok(DisassociateVpcCidrBlockResult {
        ipv6_cidr_block_association: None,
        cidr_block_association: Some(association(&block, "disassociated")),
        vpc_id: Some(vpc_id),
    })
}
