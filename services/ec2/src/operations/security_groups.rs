//! Security groups. Their rules are `security_group_rules.rs`.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;
use ipnet::Ipv4Net;

use super::tags;
use crate::call::Call;
use crate::db::Stored;
use crate::errors::{check_dry_run, dependency, invalid_combination, invalid_value, missing};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::rules::{is_description, permissions};
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas".
const GROUPS_PER_REGION_MAX: usize = 2500;

pub(crate) fn shape(call: &Call<'_>, group: &GroupRecord) -> SecurityGroup {
    let account = &call.scope.account;
    let direction = |egress| permissions(group.rules.iter().filter(|rule| rule.egress == egress), account);
    SecurityGroup {
        group_id: Some(group.group_id.clone()),
        ip_permissions_egress: Some(direction(true)),
        tags: Some(tags::shape(&group.tags)),
        vpc_id: Some(group.vpc_id.clone()),
        security_group_arn: Some(ids::GROUP.arn(&call.scope.region, account, &group.group_id)),
        owner_id: Some(account.clone()),
        group_name: Some(group.group_name.clone()),
        description: Some(group.description.clone()),
        ip_permissions: Some(direction(false)),
    }
}

impl Described for SecurityGroup {
    const FILTERS: &'static [&'static str] = &[
        "description",
        "egress.ip-permission.cidr",
        "egress.ip-permission.from-port",
        "egress.ip-permission.group-id",
        "egress.ip-permission.group-name",
        "egress.ip-permission.ipv6-cidr",
        "egress.ip-permission.prefix-list-id",
        "egress.ip-permission.protocol",
        "egress.ip-permission.to-port",
        "egress.ip-permission.user-id",
        "group-id",
        "group-name",
        "ip-permission.cidr",
        "ip-permission.from-port",
        "ip-permission.group-id",
        "ip-permission.group-name",
        "ip-permission.ipv6-cidr",
        "ip-permission.prefix-list-id",
        "ip-permission.protocol",
        "ip-permission.to-port",
        "ip-permission.user-id",
        "owner-id",
        "vpc-id",
    ];

    fn id(&self) -> &str {
        self.group_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        if let Some(property) = filter.strip_prefix("egress.ip-permission.") {
            return permission_values(&self.ip_permissions_egress, property);
        }
        if let Some(property) = filter.strip_prefix("ip-permission.") {
            return permission_values(&self.ip_permissions, property);
        }
        match filter {
            "description" => Values::one(&self.description),
            "group-id" => Values::one(&self.group_id),
            "group-name" => Values::one(&self.group_name),
            "owner-id" => Values::one(&self.owner_id),
            "vpc-id" => Values::one(&self.vpc_id),
            _ => Values::none(),
        }
    }
}

fn permission_values(permissions: &Option<Vec<IpPermission>>, property: &str) -> Values {
    let pairs = |of: fn(&UserIdGroupPair) -> Option<String>| {
        let all = permissions
            .iter()
            .flatten()
            .filter_map(|permission| permission.user_id_group_pairs.as_ref())
            .flatten();
        Values::each(&Some(all.collect::<Vec<_>>()), |pair| of(pair))
    };
    match property {
        "cidr" => {
            let all =
                permissions.iter().flatten().filter_map(|permission| permission.ip_ranges.as_ref()).flatten();
            Values::each(&Some(all.collect::<Vec<_>>()), |range| range.cidr_ip.clone())
        }
        "from-port" => {
            Values::each(permissions, |permission| permission.from_port.map(|port| port.to_string()))
        }
        "to-port" => Values::each(permissions, |permission| permission.to_port.map(|port| port.to_string())),
        "protocol" => Values::each(permissions, |permission| permission.ip_protocol.clone()),
        "group-id" => pairs(|pair| pair.group_id.clone()),
        "group-name" => pairs(|pair| pair.group_name.clone()),
        "user-id" => pairs(|pair| pair.user_id.clone()),
        _ => Values::none(),
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeSecurityGroupsRequest,
) -> Result<DescribeSecurityGroupsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<SecurityGroup>(input.filters)?;
    let names = input.group_names.unwrap_or_default();
    let ids = input.group_ids.unwrap_or_default();
    let mut groups =
        if ids.is_empty() && !names.is_empty() { Vec::new() } else { call.named::<GroupRecord>(Some(ids))? };
    for name in names {
        // Names alone mean groups of the default VPC.
        let group = find_by_name(call, &name)?;
        if groups.iter().all(|other| other.group_id != group.group_id) {
            groups.push(group);
        }
    }
    let groups = groups.iter().map(|group| shape(call, group));
    let page = page(groups, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeSecurityGroupsResult { security_groups: Some(page.items), next_token: page.next_token })
}

/// The default VPC's group of that name.
fn find_by_name(call: &Call<'_>, name: &str) -> Result<Stored<GroupRecord>, ApiError> {
    let not_found = || {
        let message = format!("The security group '{name}' does not exist in default VPC");
        ApiError::new("InvalidGroup.NotFound", message)
    };
    let vpc = call.default_vpc()?.ok_or_else(not_found)?;
    let key = call.scope.group_name(&vpc.vpc_id, name);
    let id = call.service.store.get(&key).ok_or_else(not_found)?;
    call.find(&String::from_utf8_lossy(&id.value))?.ok_or_else(not_found)
}

/// The group an operation is for: by id, or in the default VPC by name.
pub(crate) fn find(
    call: &Call<'_>,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<Stored<GroupRecord>, ApiError> {
    match (id, name) {
        (Some(_), Some(_)) => {
            Err(invalid_combination("The parameter groupName cannot be used with the parameter groupId"))
        }
        (Some(id), None) => call.get(id),
        (None, Some(name)) => find_by_name(call, name),
        (None, None) => Err(missing("groupId")),
    }
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateSecurityGroupRequest,
) -> Result<CreateSecurityGroupResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let name = input.group_name.filter(|name| !name.is_empty()).ok_or_else(|| missing("groupName"))?;
    let description =
        input.description.filter(|text| !text.is_empty()).ok_or_else(|| missing("GroupDescription"))?;
    if name.to_ascii_lowercase().starts_with("sg-") {
        let message = format!("invalid group name '{name}': group names may not be in the format sg-*");
        return Err(invalid_value(message));
    }
    if name == DEFAULT_GROUP_NAME {
        let message = "Cannot use reserved security group name: default";
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    for (parameter, text) in [("GroupName", &name), ("GroupDescription", &description)] {
        if !is_description(text) {
            let message = format!(
                "Value ({text}) for parameter {parameter} is invalid. Character sets beyond ASCII are not supported, \
                 nor more than 255 characters; valid are a-z, A-Z, 0-9, spaces, and ._-:/()#,@[]+=&;{{}}!$*"
            );
            return Err(invalid_value(message));
        }
    }
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::GROUP)?;
    let group = call
        .transact(|changes| {
            let vpc = match &input.vpc_id {
                Some(id) => call.get::<VpcRecord>(id)?,
                None => call.default_vpc()?.ok_or_else(|| {
                    let message = "No default VPC for this user. Name a VpcId.";
                    ApiError::new("VPCIdNotSpecified", message)
                })?,
            };
            let name_key = call.scope.group_name(&vpc.vpc_id, &name);
            if call.exists(&name_key) {
                let message = format!("The security group '{name}' already exists for VPC '{}'", vpc.vpc_id);
                return Err(ApiError::new("InvalidGroup.Duplicate", message));
            }
            if call.all::<GroupRecord>()?.len() >= GROUPS_PER_REGION_MAX {
                let message = "The maximum number of security groups has been reached.";
                return Err(ApiError::new("SecurityGroupLimitExceeded", message));
            }
            let group = GroupRecord {
                group_id: ids::GROUP.new_id(),
                group_name: name.clone(),
                description: description.clone(),
                vpc_id: vpc.vpc_id.clone(),
                rules: vec![RuleRecord {
                    rule_id: ids::GROUP_RULE.new_id(),
                    egress: true,
                    rule: Rule {
                        protocol: "-1".into(),
                        from_port: -1,
                        to_port: -1,
                        peer: RulePeer::Cidr(Ipv4Net::default()),
                    },
                    description: None,
                    tags: Tags::new(),
                }],
                tags: tags.clone(),
            };
            changes.expect(&vpc);
            changes.topology(call, &vpc.vpc_id);
            changes.create_key(name_key, group.group_id.clone().into_bytes());
            changes.create(&group)?;
            Ok(group)
        })
        .await?;
    Ok(CreateSecurityGroupResult {
        security_group_arn: Some(ids::GROUP.arn(&call.scope.region, &call.scope.account, &group.group_id)),
        group_id: Some(group.group_id),
        tags: Some(tags::shape(&group.tags)),
    })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteSecurityGroupRequest,
) -> Result<DeleteSecurityGroupResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let _none_joins = call.service.admission.write().await;
    let group_id = call
        .transact(|changes| {
            let group = find(call, input.group_id.as_deref(), input.group_name.as_deref())?;
            let id = &group.group_id;
            if group.group_name == DEFAULT_GROUP_NAME {
                let message = format!(
                    "the specified group: \"{id}\" name: \"{}\" cannot be deleted by a user",
                    group.group_name
                );
                return Err(ApiError::new("CannotDelete", message));
            }
            if is_referenced(call, id)? || has_members(call, id)? {
                return Err(dependency(format!("resource {id} has a dependent object")));
            }
            changes.remove(&group);
            changes.remove_key(call.scope.group_name(&group.vpc_id, &group.group_name));
            changes.topology(call, &group.vpc_id);
            Ok(id.clone())
        })
        .await?;
    Ok(DeleteSecurityGroupResult { r#return: Some(true), group_id: Some(group_id) })
}

/// Whether another group's rule names this one.
fn is_referenced(call: &Call<'_>, id: &str) -> Result<bool, ApiError> {
    let names = |rule: &RuleRecord| matches!(&rule.rule.peer, RulePeer::Group(peer) if peer == id);
    Ok(call.all::<GroupRecord>()?.iter().any(|group| group.group_id != id && group.rules.iter().any(names)))
}

fn has_members(call: &Call<'_>, id: &str) -> Result<bool, ApiError> {
    for kv in call.service.store.range(&call.scope.records::<EniRecord>()) {
        // Among ten thousand interfaces few name the group: the text tells which are worth reading.
        let names = kv.value.windows(id.len()).any(|window| window == id.as_bytes());
        if names && Stored::<EniRecord>::parse(&kv)?.groups.iter().any(|group| group.group_id == id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A group as GetSecurityGroupsForVpc shows it.
impl Described for SecurityGroupForVpc {
    const FILTERS: &'static [&'static str] =
        &["description", "group-id", "group-name", "owner-id", "primary-vpc-id"];

    fn id(&self) -> &str {
        self.group_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "description" => Values::one(&self.description),
            "group-id" => Values::one(&self.group_id),
            "group-name" => Values::one(&self.group_name),
            "owner-id" => Values::one(&self.owner_id),
            "primary-vpc-id" => Values::one(&self.primary_vpc_id),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn for_vpc(
    call: &Call<'_>,
    input: GetSecurityGroupsForVpcRequest,
) -> Result<GetSecurityGroupsForVpcResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let vpc_id = call.get::<VpcRecord>(&input.vpc_id.unwrap_or_default())?.record.vpc_id;
    let filters = Filters::new::<SecurityGroupForVpc>(input.filters)?;
    let groups = call.all::<GroupRecord>()?;
    let groups = groups.iter().filter(|group| group.vpc_id == vpc_id).map(|group| SecurityGroupForVpc {
        description: Some(group.description.clone()),
        group_name: Some(group.group_name.clone()),
        owner_id: Some(call.scope.account.clone()),
        group_id: Some(group.group_id.clone()),
        tags: Some(tags::shape(&group.tags)),
        primary_vpc_id: Some(vpc_id.clone()),
    });
    let page = page(groups, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(GetSecurityGroupsForVpcResult {
        security_group_for_vpcs: Some(page.items),
        next_token: page.next_token,
    })
}

/// References from other VPCs come over peering, of which there is none.
pub(crate) async fn references(
    call: &Call<'_>,
    input: DescribeSecurityGroupReferencesRequest,
) -> Result<DescribeSecurityGroupReferencesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    for id in input.group_id.unwrap_or_default() {
        call.get::<GroupRecord>(&id)?;
    }
    Ok(DescribeSecurityGroupReferencesResult { security_group_reference_set: Some(Vec::new()) })
}

/// Stale are references over a peering that is gone; within a VPC none can come to be.
pub(crate) async fn stale(
    call: &Call<'_>,
    input: DescribeStaleSecurityGroupsRequest,
) -> Result<DescribeStaleSecurityGroupsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    call.get::<VpcRecord>(&input.vpc_id.unwrap_or_default())?;
    Ok(DescribeStaleSecurityGroupsResult { next_token: None, stale_security_group_set: Some(Vec::new()) })
}
