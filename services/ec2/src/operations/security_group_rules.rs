//! Rules of security groups: authorize, revoke, describe, modify.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::{security_groups, tags};
use crate::call::Call;
use crate::db::{Changes, Stored};
use crate::errors::{check_dry_run, invalid_combination, invalid_value, missing, refuse};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::plan::cidr;
use crate::plan::rules::{
    FlatPermission, WantedRule, check_description, check_protocol, permissions, wanted_rules,
};
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas": inbound or outbound rules per security group.
const RULES_PER_DIRECTION_MAX: usize = 60;

fn shape(call: &Call<'_>, group: &GroupRecord, record: &RuleRecord) -> SecurityGroupRule {
    let rule = &record.rule;
    let (cidr, peer) = match &rule.peer {
        RulePeer::Cidr(cidr) => (Some(cidr.to_string()), None),
        RulePeer::Group(id) => (None, Some(id)),
    };
    SecurityGroupRule {
        security_group_rule_id: Some(record.rule_id.clone()),
        group_id: Some(group.group_id.clone()),
        group_owner_id: Some(call.scope.account.clone()),
        is_egress: Some(record.egress),
        ip_protocol: Some(rule.protocol.clone()),
        from_port: Some(rule.from_port),
        to_port: Some(rule.to_port),
        cidr_ipv4: cidr,
        referenced_group_info: peer.map(|id| ReferencedSecurityGroup {
            group_id: Some(id.clone()),
            user_id: Some(call.scope.account.clone()),
            ..ReferencedSecurityGroup::default()
        }),
        description: record.description.clone(),
        tags: Some(tags::shape(&record.tags)),
        security_group_rule_arn: Some(ids::GROUP_RULE.arn(
            &call.scope.region,
            &call.scope.account,
            &record.rule_id,
        )),
        ..SecurityGroupRule::default()
    }
}

impl Described for SecurityGroupRule {
    const FILTERS: &'static [&'static str] = &["group-id", "security-group-rule-id"];

    fn id(&self) -> &str {
        self.security_group_rule_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "group-id" => Values::one(&self.group_id),
            "security-group-rule-id" => Values::one(&self.security_group_rule_id),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeSecurityGroupRulesRequest,
) -> Result<DescribeSecurityGroupRulesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<SecurityGroupRule>(input.filters)?;
    let wanted = input.security_group_rule_ids.unwrap_or_default();
    wanted.iter().try_for_each(|id| ids::GROUP_RULE.check(id))?;
    let groups = call.all::<GroupRecord>()?;
    let all = groups.iter().flat_map(|group| group.rules.iter().map(|rule| shape(call, group, rule)));
    let rules: Vec<_> =
        all.filter(|rule| wanted.is_empty() || wanted.iter().any(|id| id == rule.id())).collect();
    if let Some(unknown) = wanted.iter().find(|id| !rules.iter().any(|rule| rule.id() == *id)) {
        return Err(ids::GROUP_RULE.not_found(unknown));
    }
    let page = page(rules, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeSecurityGroupRulesResult {
        security_group_rules: Some(page.items),
        next_token: page.next_token,
    })
}

/// The id of the group a pair names, which must be in the same VPC.
fn resolve(call: &Call<'_>, group: &GroupRecord, pair: &UserIdGroupPair) -> Result<String, ApiError> {
    if let Some(owner) = pair.user_id.as_ref().filter(|owner| **owner != call.scope.account) {
        let wanted = pair.group_id.as_ref().or(pair.group_name.as_ref()).map_or("", String::as_str);
        let message = format!("The security group '{owner}/{wanted}' does not exist");
        return Err(ApiError::new("InvalidGroup.NotFound", message));
    }
    let peer = match (&pair.group_id, &pair.group_name) {
        (Some(id), _) => call.get::<GroupRecord>(id)?.record,
        (None, Some(name)) => {
            let key = call.scope.group_name(&group.vpc_id, name);
            let not_found = || {
                let message = format!("The security group '{name}' does not exist in VPC '{}'", group.vpc_id);
                ApiError::new("InvalidGroup.NotFound", message)
            };
            let id = call.service.store.get(&key).ok_or_else(not_found)?;
            call.find::<GroupRecord>(&String::from_utf8_lossy(&id.value))?.ok_or_else(not_found)?.record
        }
        (None, None) => return Err(missing("UserIdGroupPairs.GroupId")),
    };
    if peer.vpc_id != group.vpc_id {
        let message = format!(
            "You have specified two resources that belong to different networks: {} and {}.",
            group.group_id, peer.group_id
        );
        return Err(ApiError::new("InvalidGroup.NotFound", message));
    }
    Ok(peer.group_id)
}

/// One call that names rules, in either form.
struct Named {
    group_id: Option<String>,
    group_name: Option<String>,
    egress: bool,
    flat: FlatPermission,
    permissions: Option<Vec<IpPermission>>,
}

impl Named {
    fn group(&self, call: &Call<'_>) -> Result<Stored<GroupRecord>, ApiError> {
        security_groups::find(call, self.group_id.as_deref(), self.group_name.as_deref())
    }

    fn rules(&self, call: &Call<'_>, group: &GroupRecord) -> Result<Vec<WantedRule>, ApiError> {
        wanted_rules(self.flat.clone(), self.permissions.clone(), |pair| resolve(call, group, pair))
    }
}

pub(crate) async fn authorize_ingress(
    call: &Call<'_>,
    input: AuthorizeSecurityGroupIngressRequest,
) -> Result<AuthorizeSecurityGroupIngressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let named = Named {
        group_id: input.group_id,
        group_name: input.group_name,
        egress: false,
        flat: FlatPermission {
            ip_protocol: input.ip_protocol,
            from_port: input.from_port,
            to_port: input.to_port,
            cidr_ip: input.cidr_ip,
            source_group_name: input.source_security_group_name,
            source_group_owner: input.source_security_group_owner_id,
        },
        permissions: input.ip_permissions,
    };
    let rules = authorize(call, named, input.tag_specifications).await?;
    Ok(AuthorizeSecurityGroupIngressResult { r#return: Some(true), security_group_rules: Some(rules) })
}

pub(crate) async fn authorize_egress(
    call: &Call<'_>,
    input: AuthorizeSecurityGroupEgressRequest,
) -> Result<AuthorizeSecurityGroupEgressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        // EC2 API reference: "Not supported. Use a set of IP permissions to specify a destination security group."
        ("SourceSecurityGroupName", input.source_security_group_name.is_some()),
        ("SourceSecurityGroupOwnerId", input.source_security_group_owner_id.is_some()),
    ])?;
    let named = Named {
        group_id: input.group_id,
        group_name: None,
        egress: true,
        flat: FlatPermission {
            ip_protocol: input.ip_protocol,
            from_port: input.from_port,
            to_port: input.to_port,
            cidr_ip: input.cidr_ip,
            ..FlatPermission::default()
        },
        permissions: input.ip_permissions,
    };
    let rules = authorize(call, named, input.tag_specifications).await?;
    Ok(AuthorizeSecurityGroupEgressResult { r#return: Some(true), security_group_rules: Some(rules) })
}

async fn authorize(
    call: &Call<'_>,
    named: Named,
    tag_specifications: Option<Vec<TagSpecification>>,
) -> Result<Vec<SecurityGroupRule>, ApiError> {
    let tags = tags::of_specifications(call, tag_specifications, &ids::GROUP_RULE)?;
    call.transact(|changes| {
        let group = named.group(call)?;
        let mut record = group.record.clone();
        let mut added = Vec::new();
        for wanted in named.rules(call, &group)? {
            let has = |own: &RuleRecord| own.egress == named.egress && own.rule == wanted.rule;
            if record.rules.iter().any(has) {
                let message = format!("the specified rule \"{}\" already exists", wanted.rule.words());
                return Err(ApiError::new("InvalidPermission.Duplicate", message));
            }
            added.push(RuleRecord {
                rule_id: ids::GROUP_RULE.new_id(),
                egress: named.egress,
                rule: wanted.rule,
                description: wanted.description,
                tags: tags.clone(),
            });
        }
        record.rules.extend(added.iter().cloned());
        if record.rules.iter().filter(|rule| rule.egress == named.egress).count() > RULES_PER_DIRECTION_MAX {
            let message = "The maximum number of rules per security group has been reached.";
            return Err(ApiError::new("RulesPerSecurityGroupLimitExceeded", message));
        }
        order_after_deletes(call, changes, &group, &added);
        changes.replace(&group, &record)?;
        Ok(added.iter().map(|rule| shape(call, &record, rule)).collect())
    })
    .await
}

/// A rule that names a group must not cross with that group's deletion, which looks at all rules of the VPC.
fn order_after_deletes(call: &Call<'_>, changes: &mut Changes, group: &GroupRecord, added: &[RuleRecord]) {
    let names_another =
        |rule: &RuleRecord| matches!(&rule.rule.peer, RulePeer::Group(peer) if *peer != group.group_id);
    if added.iter().any(names_another) {
        changes.topology(call, &group.vpc_id);
    }
}

pub(crate) async fn revoke_ingress(
    call: &Call<'_>,
    input: RevokeSecurityGroupIngressRequest,
) -> Result<RevokeSecurityGroupIngressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let named = Named {
        group_id: input.group_id,
        group_name: input.group_name,
        egress: false,
        flat: FlatPermission {
            ip_protocol: input.ip_protocol,
            from_port: input.from_port,
            to_port: input.to_port,
            cidr_ip: input.cidr_ip,
            source_group_name: input.source_security_group_name,
            source_group_owner: input.source_security_group_owner_id,
        },
        permissions: input.ip_permissions,
    };
    let revoked = revoke(call, named, input.security_group_rule_ids).await?;
    Ok(RevokeSecurityGroupIngressResult {
        r#return: Some(true),
        unknown_ip_permissions: Some(revoked.unknown),
        revoked_security_group_rules: Some(revoked.rules),
    })
}

pub(crate) async fn revoke_egress(
    call: &Call<'_>,
    input: RevokeSecurityGroupEgressRequest,
) -> Result<RevokeSecurityGroupEgressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        ("SourceSecurityGroupName", input.source_security_group_name.is_some()),
        ("SourceSecurityGroupOwnerId", input.source_security_group_owner_id.is_some()),
    ])?;
    let named = Named {
        group_id: input.group_id,
        group_name: None,
        egress: true,
        flat: FlatPermission {
            ip_protocol: input.ip_protocol,
            from_port: input.from_port,
            to_port: input.to_port,
            cidr_ip: input.cidr_ip,
            ..FlatPermission::default()
        },
        permissions: input.ip_permissions,
    };
    let revoked = revoke(call, named, input.security_group_rule_ids).await?;
    Ok(RevokeSecurityGroupEgressResult {
        r#return: Some(true),
        unknown_ip_permissions: Some(revoked.unknown),
        revoked_security_group_rules: Some(revoked.rules),
    })
}

struct Revoked {
    rules: Vec<RevokedSecurityGroupRule>,
    unknown: Vec<IpPermission>,
}

async fn revoke(call: &Call<'_>, named: Named, rule_ids: Option<Vec<String>>) -> Result<Revoked, ApiError> {
    let rule_ids = rule_ids.unwrap_or_default();
    rule_ids.iter().try_for_each(|id| ids::GROUP_RULE.check(id))?;
    if !rule_ids.is_empty() && named.permissions.as_ref().is_some_and(|permissions| !permissions.is_empty()) {
        let message = "The parameter securityGroupRuleIds may not be used with ipPermissions";
        return Err(invalid_combination(message));
    }
    if !rule_ids.is_empty() && !named.flat.is_empty() {
        let message = "The parameter securityGroupRuleIds may not be used with IpProtocol, FromPort, ToPort, CidrIp or SourceSecurityGroupName.";
        return Err(invalid_combination(message));
    }
    call.transact(|changes| {
        let group = named.group(call)?;
        let mut record = group.record.clone();
        let mut removed = Vec::new();
        let mut unknown = Vec::new();
        for id in &rule_ids {
            let found = record.rules.iter().position(|own| own.rule_id == *id && own.egress == named.egress);
            removed.push(record.rules.remove(found.ok_or_else(|| ids::GROUP_RULE.not_found(id))?));
        }
        if rule_ids.is_empty() {
            for wanted in named.rules(call, &group)? {
                // EC2 API reference: the description is not part of what is compared.
                match record
                    .rules
                    .iter()
                    .position(|own| own.egress == named.egress && own.rule == wanted.rule)
                {
                    Some(index) => removed.push(record.rules.remove(index)),
                    None => unknown.push(RuleRecord {
                        rule_id: String::new(),
                        egress: named.egress,
                        rule: wanted.rule,
                        description: wanted.description,
                        tags: Tags::new(),
                    }),
                }
            }
        }
        // EC2 API reference, RevokeSecurityGroupIngress: no error in a default VPC, nothing revoked elsewhere.
        let in_default_vpc = call.find::<VpcRecord>(&group.vpc_id)?.is_some_and(|vpc| vpc.is_default);
        if !unknown.is_empty() && !in_default_vpc {
            let message = "The specified rule does not exist in this security group.";
            return Err(ApiError::new("InvalidPermission.NotFound", message));
        }
        if !removed.is_empty() {
            changes.replace(&group, &record)?;
        }
        Ok(Revoked {
            rules: removed.iter().map(|rule| revoked_shape(&group, rule)).collect(),
            unknown: permissions(&unknown, &call.scope.account),
        })
    })
    .await
}

fn revoked_shape(group: &GroupRecord, record: &RuleRecord) -> RevokedSecurityGroupRule {
    let (cidr_ipv4, referenced_group_id) = match &record.rule.peer {
        RulePeer::Cidr(cidr) => (Some(cidr.to_string()), None),
        RulePeer::Group(id) => (None, Some(id.clone())),
    };
    RevokedSecurityGroupRule {
        security_group_rule_id: Some(record.rule_id.clone()),
        group_id: Some(group.group_id.clone()),
        is_egress: Some(record.egress),
        ip_protocol: Some(record.rule.protocol.clone()),
        from_port: Some(record.rule.from_port),
        to_port: Some(record.rule.to_port),
        cidr_ipv4,
        referenced_group_id,
        description: record.description.clone(),
        ..RevokedSecurityGroupRule::default()
    }
}

pub(crate) async fn modify(
    call: &Call<'_>,
    input: ModifySecurityGroupRulesRequest,
) -> Result<ModifySecurityGroupRulesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let group_id = input.group_id.unwrap_or_default();
    let updates = input.security_group_rules.unwrap_or_default();
    call.transact(|changes| {
        let group = call.get::<GroupRecord>(&group_id)?;
        let mut record = group.record.clone();
        for update in &updates {
            let id =
                update.security_group_rule_id.as_deref().ok_or_else(|| missing("SecurityGroupRuleId"))?;
            ids::GROUP_RULE.check(id)?;
            let wanted = update.security_group_rule.as_ref().ok_or_else(|| missing("SecurityGroupRule"))?;
            let index = record.rules.iter().position(|rule| rule.rule_id == id);
            let index = index.ok_or_else(|| ids::GROUP_RULE.not_found(id))?;
            let rule = modified(call, &group, &record.rules[index].rule, id, wanted)?;
            let same = |(other, own): (usize, &RuleRecord)| {
                other != index && own.egress == record.rules[index].egress && own.rule == rule
            };
            if record.rules.iter().enumerate().any(same) {
                let message = format!("the specified rule \"{}\" already exists", rule.words());
                return Err(ApiError::new("InvalidPermission.Duplicate", message));
            }
            let own = &mut record.rules[index];
            own.rule = rule;
            // EC2 API reference: the rule given replaces the rule there is, with its description.
            own.description = check_description(wanted.description.clone())?;
        }
        order_after_deletes(call, changes, &group, &record.rules);
        changes.replace(&group, &record)
    })
    .await?;
    Ok(ModifySecurityGroupRulesResult { r#return: Some(true) })
}

fn modified(
    call: &Call<'_>,
    group: &GroupRecord,
    own: &Rule,
    id: &str,
    wanted: &SecurityGroupRuleRequest,
) -> Result<Rule, ApiError> {
    refuse(&[
        ("SecurityGroupRule.CidrIpv6", wanted.cidr_ipv6.is_some()),
        ("SecurityGroupRule.PrefixListId", wanted.prefix_list_id.is_some()),
    ])?;
    let (protocol, from_port, to_port) =
        check_protocol(wanted.ip_protocol.as_deref(), wanted.from_port, wanted.to_port)?;
    let peer = match (&wanted.cidr_ipv4, &wanted.referenced_group_id) {
        (Some(_), Some(_)) => {
            let message =
                "Only one of cidrIp, cidrIpv6, sourcePrefixListId, or sourceSecurityGroupId can be specified";
            return Err(invalid_value(message));
        }
        (Some(cidr), None) => RulePeer::Cidr(cidr::parse_rule(cidr)?),
        (None, Some(peer)) => {
            let pair = UserIdGroupPair { group_id: Some(peer.clone()), ..UserIdGroupPair::default() };
            RulePeer::Group(resolve(call, group, &pair)?)
        }
        (None, None) => {
            let message =
                "One of cidrIp, cidrIpv6, sourcePrefixListId, or sourceSecurityGroupId must be specified";
            return Err(invalid_value(message));
        }
    };
    // EC2 API reference: "You cannot change the rule type" between address and group.
    if std::mem::discriminant(&peer) != std::mem::discriminant(&own.peer) {
        let message =
            format!("Invalid rule type for security group rule '{id}'. You may not change the rule type.");
        return Err(invalid_value(message));
    }
    Ok(Rule { protocol, from_port, to_port, peer })
}

pub(crate) async fn update_descriptions_ingress(
    call: &Call<'_>,
    input: UpdateSecurityGroupRuleDescriptionsIngressRequest,
) -> Result<UpdateSecurityGroupRuleDescriptionsIngressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let named = Named {
        group_id: input.group_id,
        group_name: input.group_name,
        egress: false,
        flat: FlatPermission::default(),
        permissions: input.ip_permissions,
    };
    update_descriptions(call, named, input.security_group_rule_descriptions).await?;
    Ok(UpdateSecurityGroupRuleDescriptionsIngressResult { r#return: Some(true) })
}

pub(crate) async fn update_descriptions_egress(
    call: &Call<'_>,
    input: UpdateSecurityGroupRuleDescriptionsEgressRequest,
) -> Result<UpdateSecurityGroupRuleDescriptionsEgressResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let named = Named {
        group_id: input.group_id,
        group_name: input.group_name,
        egress: true,
        flat: FlatPermission::default(),
        permissions: input.ip_permissions,
    };
    update_descriptions(call, named, input.security_group_rule_descriptions).await?;
    Ok(UpdateSecurityGroupRuleDescriptionsEgressResult { r#return: Some(true) })
}

async fn update_descriptions(
    call: &Call<'_>,
    named: Named,
    by_id: Option<Vec<SecurityGroupRuleDescription>>,
) -> Result<(), ApiError> {
    let by_id = by_id.unwrap_or_default();
    if !by_id.is_empty() && named.permissions.as_ref().is_some_and(|permissions| !permissions.is_empty()) {
        let message = "The parameter securityGroupRuleDescriptions may not be used with ipPermissions";
        return Err(invalid_combination(message));
    }
    call.transact(|changes| {
        let group = named.group(call)?;
        let mut record = group.record.clone();
        for update in &by_id {
            let id =
                update.security_group_rule_id.as_deref().ok_or_else(|| missing("SecurityGroupRuleId"))?;
            let own = record.rules.iter_mut().find(|own| own.rule_id == id && own.egress == named.egress);
            own.ok_or_else(|| ids::GROUP_RULE.not_found(id))?.description =
                check_description(update.description.clone())?;
        }
        if by_id.is_empty() {
            for wanted in named.rules(call, &group)? {
                let own =
                    record.rules.iter_mut().find(|own| own.egress == named.egress && own.rule == wanted.rule);
                let not_found = || {
                    let message = "The specified rule does not exist in this security group.";
                    ApiError::new("InvalidPermission.NotFound", message)
                };
                own.ok_or_else(not_found)?.description = wanted.description;
            }
        }
        changes.replace(&group, &record)
    })
    .await
}
