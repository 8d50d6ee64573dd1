//! Security groups and their rules, with AWS's words.

mod common;

use common::*;
use ferrogate_api::ec2::*;

fn delete(id: &str) -> DeleteSecurityGroupRequest {
    DeleteSecurityGroupRequest { group_id: some(id), ..Default::default() }
}

#[tokio::test]
async fn a_group_from_first_to_last() {
    let (ec2, cx) = (service(), user());
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let create = |name: &str| CreateSecurityGroupRequest {
        group_name: some(name),
        description: some("web servers"),
        vpc_id: some(&vpc),
        tag_specifications: tagged("security-group", &[("Name", "web")]),
        ..Default::default()
    };
    let made = ec2.create_security_group(&cx, create("web")).await.unwrap();
    let id = made.group_id.unwrap();
    assert_eq!(made.security_group_arn, some(format!("arn:aws:ec2:us-east-1:{ACCOUNT}:security-group/{id}")));
    assert_eq!(pairs(&made.tags), [("Name".to_owned(), "web".to_owned())]);
    let found = describe_group(&ec2, &id).await;
    assert_eq!(found.ip_permissions, Some(Vec::new()));
    assert_eq!(
        found.ip_permissions_egress.unwrap()[0].ip_ranges.as_ref().unwrap()[0].cidr_ip.as_deref(),
        Some("0.0.0.0/0")
    );

    let (code_, message) = refused(ec2.create_security_group(&cx, create("web")).await);
    assert_eq!(code_, "InvalidGroup.Duplicate");
    assert_eq!(message, format!("The security group 'web' already exists for VPC '{vpc}'"));
    for name in ["default", "sg-web", "wéb"] {
        assert_eq!(
            code(ec2.create_security_group(&cx, create(name)).await),
            "InvalidParameterValue",
            "{name}"
        );
    }
    // The same name in another VPC is another group.
    let other = CreateSecurityGroupRequest { vpc_id: None, ..create("web") };
    ec2.create_security_group(&cx, other).await.unwrap();

    let deleted = ec2.delete_security_group(&cx, delete(&id)).await.unwrap();
    assert_eq!((deleted.r#return, deleted.group_id.as_deref()), (Some(true), Some(id.as_str())));
    let (code_, message) = refused(ec2.delete_security_group(&cx, delete(&id)).await);
    assert_eq!(
        (code_.as_str(), message),
        ("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
    );
    assert_eq!(code(ec2.delete_security_group(&cx, delete("web")).await), "InvalidGroupId.Malformed");
    // Its name is free again.
    ec2.create_security_group(&cx, create("web")).await.unwrap();
}

#[tokio::test]
async fn rules_come_and_go() {
    let (ec2, cx) = (service(), user());
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let id = group(&ec2, &vpc, "web").await;
    let rules = authorize(&ec2, &id, permission("tcp", 80, 80, "0.0.0.0/0")).await.unwrap();
    let rule = &rules[0];
    assert_eq!((rule.is_egress, rule.from_port, rule.to_port), (Some(false), Some(80), Some(80)));
    assert_eq!((rule.ip_protocol.as_deref(), rule.cidr_ipv4.as_deref()), (Some("tcp"), Some("0.0.0.0/0")));

    let (code_, message) = refused(authorize(&ec2, &id, permission("6", 80, 80, "0.0.0.0/0")).await);
    assert_eq!(code_, "InvalidPermission.Duplicate");
    assert_eq!(
        message,
        "the specified rule \"peer: 0.0.0.0/0, TCP, from port: 80, to port: 80, ALLOW\" already exists"
    );

    // The old parameters, with a block that is not in its canonical form.
    let input = AuthorizeSecurityGroupIngressRequest {
        group_id: some(&id),
        ip_protocol: some("udp"),
        from_port: Some(53),
        to_port: Some(53),
        cidr_ip: some("10.1.2.3/16"),
        ..Default::default()
    };
    ec2.authorize_security_group_ingress(&cx, input).await.unwrap();
    let found = describe_group(&ec2, &id).await.ip_permissions.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].ip_ranges.as_ref().unwrap()[0].cidr_ip.as_deref(), Some("10.1.0.0/16"));

    let revoke = |permission: IpPermission| RevokeSecurityGroupIngressRequest {
        group_id: some(&id),
        ip_permissions: Some(vec![permission]),
        ..Default::default()
    };
    let revoked =
        ec2.revoke_security_group_ingress(&cx, revoke(permission("tcp", 80, 80, "0.0.0.0/0"))).await.unwrap();
    assert_eq!(
        revoked.revoked_security_group_rules.unwrap()[0].security_group_rule_id,
        rule.security_group_rule_id
    );
    let again = ec2.revoke_security_group_ingress(&cx, revoke(permission("tcp", 80, 80, "0.0.0.0/0"))).await;
    let (code_, message) = refused(again);
    assert_eq!(code_, "InvalidPermission.NotFound");
    assert_eq!(message, "The specified rule does not exist in this security group.");

    let egress = describe_group(&ec2, &id).await.ip_permissions_egress;
    let input = RevokeSecurityGroupEgressRequest {
        group_id: some(&id),
        ip_permissions: egress,
        ..Default::default()
    };
    ec2.revoke_security_group_egress(&cx, input).await.unwrap();
    assert_eq!(describe_group(&ec2, &id).await.ip_permissions_egress, Some(Vec::new()));
    let input = AuthorizeSecurityGroupEgressRequest {
        group_id: some(&id),
        ip_permissions: Some(vec![permission("icmp", 8, -1, "10.0.0.0/8")]),
        tag_specifications: tagged("security-group-rule", &[("Name", "ping")]),
        ..Default::default()
    };
    let ping = ec2
        .authorize_security_group_egress(&cx, input)
        .await
        .unwrap()
        .security_group_rules
        .unwrap()
        .remove(0);
    assert_eq!(pairs(&ping.tags), [("Name".to_owned(), "ping".to_owned())]);

    let by_id = |rule_id: &Option<String>| RevokeSecurityGroupEgressRequest {
        group_id: some(&id),
        security_group_rule_ids: Some(vec![rule_id.clone().unwrap()]),
        ..Default::default()
    };
    assert_eq!(
        code(ec2.revoke_security_group_egress(&cx, by_id(&rule.security_group_rule_id)).await),
        "InvalidSecurityGroupRuleId.NotFound"
    );
    // By id, or by what the rule is.
    let ingress = RevokeSecurityGroupIngressRequest {
        group_id: some(&id),
        security_group_rule_ids: Some(vec![ping.security_group_rule_id.clone().unwrap()]),
        cidr_ip: some("10.0.0.0/8"),
        ..Default::default()
    };
    assert_eq!(code(ec2.revoke_security_group_ingress(&cx, ingress).await), "InvalidParameterCombination");
    let egress = by_id(&ping.security_group_rule_id);
    for egress in [
        RevokeSecurityGroupEgressRequest { ip_protocol: some("icmp"), ..egress.clone() },
        RevokeSecurityGroupEgressRequest { from_port: Some(8), ..egress.clone() },
        RevokeSecurityGroupEgressRequest {
            ip_permissions: Some(vec![permission("icmp", 8, -1, "10.0.0.0/8")]),
            ..egress.clone()
        },
    ] {
        assert_eq!(code(ec2.revoke_security_group_egress(&cx, egress).await), "InvalidParameterCombination");
    }
    ec2.revoke_security_group_egress(&cx, egress).await.unwrap();
}

#[tokio::test]
async fn in_the_default_vpc_an_unknown_rule_is_named_not_refused() {
    let (ec2, cx) = (service(), user());
    let vpc = default_vpc(&ec2, &cx).await.vpc_id.unwrap();
    let id = group(&ec2, &vpc, "web").await;
    let input = RevokeSecurityGroupIngressRequest {
        group_name: some("web"),
        ip_permissions: Some(vec![permission("tcp", 1, 2, "10.0.0.0/8")]),
        ..Default::default()
    };
    let revoked = ec2.revoke_security_group_ingress(&cx, input).await.unwrap();
    assert_eq!(revoked.unknown_ip_permissions.unwrap()[0].from_port, Some(1));
    assert_eq!(revoked.revoked_security_group_rules, Some(Vec::new()));
    let input = DescribeSecurityGroupsRequest { group_names: list(&["web"]), ..Default::default() };
    let found = ec2.describe_security_groups(&cx, input).await.unwrap().security_groups.unwrap();
    assert_eq!(found[0].group_id.as_ref(), Some(&id));
    let input = DescribeSecurityGroupsRequest { group_names: list(&["none"]), ..Default::default() };
    assert_eq!(code(ec2.describe_security_groups(&cx, input).await), "InvalidGroup.NotFound");
}

#[tokio::test]
async fn groups_that_name_groups() {
    let (ec2, cx) = (service(), user());
    let vpc = default_vpc(&ec2, &cx).await.vpc_id.unwrap();
    let (web, db) = (group(&ec2, &vpc, "web").await, group(&ec2, &vpc, "db").await);
    let from = |pair: UserIdGroupPair| IpPermission {
        ip_protocol: some("tcp"),
        from_port: Some(5432),
        to_port: Some(5432),
        user_id_group_pairs: Some(vec![pair]),
        ..Default::default()
    };
    let by_name = UserIdGroupPair { group_name: some("web"), user_id: some(ACCOUNT), ..Default::default() };
    let rules = authorize(&ec2, &db, from(by_name)).await.unwrap();
    assert_eq!(rules[0].referenced_group_info.as_ref().unwrap().group_id.as_ref(), Some(&web));
    let by_id = UserIdGroupPair { group_id: some(&web), ..Default::default() };
    let (code_, message) = refused(authorize(&ec2, &db, from(by_id)).await);
    assert_eq!(code_, "InvalidPermission.Duplicate");
    assert_eq!(
        message,
        format!(
            "the specified rule \"peer: {web}, TCP, from port: 5432, to port: 5432, ALLOW\" already exists"
        )
    );
    let foreign =
        UserIdGroupPair { group_id: some(&web), user_id: some("999999999999"), ..Default::default() };
    assert_eq!(code(authorize(&ec2, &db, from(foreign)).await), "InvalidGroup.NotFound");

    let (code_, message) = refused(ec2.delete_security_group(&cx, delete(&web)).await);
    assert_eq!(
        (code_.as_str(), message),
        ("DependencyViolation", format!("resource {web} has a dependent object"))
    );
    ec2.delete_security_group(&cx, delete(&db)).await.unwrap();
    ec2.delete_security_group(&cx, delete(&web)).await.unwrap();

    // The flat form of a group as the source: all of TCP, UDP and ICMP.
    let (web, app) = (group(&ec2, &vpc, "web").await, group(&ec2, &vpc, "app").await);
    let input = AuthorizeSecurityGroupIngressRequest {
        group_id: some(&app),
        source_security_group_name: some("web"),
        ..Default::default()
    };
    let rules = ec2.authorize_security_group_ingress(&cx, input).await.unwrap().security_group_rules.unwrap();
    assert_eq!(rules.len(), 3);
    // A rule that names its own group does not keep it.
    let own = UserIdGroupPair { group_id: some(&web), ..Default::default() };
    authorize(&ec2, &web, from(own)).await.unwrap();
    ec2.delete_security_group(&cx, delete(&app)).await.unwrap();
    ec2.delete_security_group(&cx, delete(&web)).await.unwrap();
}

#[tokio::test]
async fn the_default_group_stays() {
    let (ec2, cx) = (service(), user());
    let vpc = default_vpc(&ec2, &cx).await.vpc_id.unwrap();
    let input = GetSecurityGroupsForVpcRequest { vpc_id: some(&vpc), ..Default::default() };
    let groups = ec2.get_security_groups_for_vpc(&cx, input).await.unwrap().security_group_for_vpcs.unwrap();
    let id = groups[0].group_id.clone().unwrap();
    let (code_, message) = refused(ec2.delete_security_group(&cx, delete(&id)).await);
    assert_eq!(code_, "CannotDelete");
    assert_eq!(
        message,
        format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user")
    );
}

#[tokio::test]
async fn what_is_not_supported_is_refused() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let id = group(&ec2, &vpc, "web").await;
    let base = || permission("tcp", 80, 80, "0.0.0.0/0");
    for (permission, code_) in [
        (
            IpPermission {
                ipv6_ranges: Some(vec![Ipv6Range { cidr_ipv6: some("::/0"), description: None }]),
                ..base()
            },
            "UnsupportedOperation",
        ),
        (
            IpPermission {
                prefix_list_ids: Some(vec![PrefixListId { prefix_list_id: some("pl-1"), description: None }]),
                ..base()
            },
            "UnsupportedOperation",
        ),
        (IpPermission { ip_protocol: some("icmpv6"), ..base() }, "UnsupportedOperation"),
        (IpPermission { ip_protocol: some("tcpp"), ..base() }, "InvalidParameterValue"),
        (IpPermission { from_port: None, ..base() }, "InvalidParameterValue"),
        (IpPermission { from_port: Some(81), ..base() }, "InvalidParameterValue"),
        (IpPermission { ip_ranges: None, ..base() }, "MissingParameter"),
        (permission("tcp", 80, 80, "0.0.0.0"), "InvalidParameterValue"),
    ] {
        assert_eq!(code(authorize(&ec2, &id, permission).await), code_);
    }
    assert_eq!(describe_group(&ec2, &id).await.ip_permissions, Some(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_rules_and_no_more_however_many_call() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let id = group(&ec2, &vpc, "web").await;
    let calls: Vec<_> = (0..70)
        .map(|n| {
            let (ec2, id) = (ec2.clone(), id.clone());
            tokio::spawn(async move { authorize(&ec2, &id, permission("tcp", n, n, "10.0.0.0/8")).await })
        })
        .collect();
    let mut made = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => {
                assert_eq!(error.code, "RulesPerSecurityGroupLimitExceeded");
                assert_eq!(error.message, "The maximum number of rules per security group has been reached.");
            }
        }
    }
    assert_eq!(made, 60);
    assert_eq!(describe_group(&ec2, &id).await.ip_permissions.unwrap().len(), 60);
}

#[tokio::test]
async fn rules_by_their_ids() {
    let (ec2, cx) = (service(), user());
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let id = group(&ec2, &vpc, "web").await;
    let rule = authorize(&ec2, &id, permission("tcp", 80, 80, "0.0.0.0/0")).await.unwrap().remove(0);
    let rule_id = rule.security_group_rule_id.unwrap();
    let update = |wanted: SecurityGroupRuleRequest| ModifySecurityGroupRulesRequest {
        group_id: some(&id),
        security_group_rules: Some(vec![SecurityGroupRuleUpdate {
            security_group_rule_id: some(&rule_id),
            security_group_rule: Some(wanted),
        }]),
        ..Default::default()
    };
    let wanted = SecurityGroupRuleRequest {
        ip_protocol: some("tcp"),
        from_port: Some(443),
        to_port: Some(443),
        cidr_ipv4: some("10.0.0.0/8"),
        description: some("inside"),
        ..Default::default()
    };
    let mut nothing = update(wanted.clone());
    nothing.security_group_rules.as_mut().unwrap()[0].security_group_rule = None;
    let (code_, message) = refused(ec2.modify_security_group_rules(&cx, nothing).await);
    assert_eq!(
        (code_.as_str(), message.as_str()),
        ("MissingParameter", "The request must contain the parameter SecurityGroupRule")
    );
    ec2.modify_security_group_rules(&cx, update(wanted.clone())).await.unwrap();
    let to_group = SecurityGroupRuleRequest { cidr_ipv4: None, referenced_group_id: some(&id), ..wanted };
    assert_eq!(code(ec2.modify_security_group_rules(&cx, update(to_group)).await), "InvalidParameterValue");

    let input = UpdateSecurityGroupRuleDescriptionsIngressRequest {
        group_id: some(&id),
        security_group_rule_descriptions: Some(vec![SecurityGroupRuleDescription {
            security_group_rule_id: some(&rule_id),
            description: some("by id"),
        }]),
        ..Default::default()
    };
    ec2.update_security_group_rule_descriptions_ingress(&cx, input).await.unwrap();
    let describe = |filters_: &[(&str, &str)]| DescribeSecurityGroupRulesRequest {
        filters: filters(filters_),
        ..Default::default()
    };
    let found = ec2
        .describe_security_group_rules(&cx, describe(&[("security-group-rule-id", &rule_id)]))
        .await
        .unwrap();
    let found = found.security_group_rules.unwrap();
    assert_eq!((found[0].from_port, found[0].description.as_deref()), (Some(443), Some("by id")));
    let found = ec2.describe_security_group_rules(&cx, describe(&[("group-id", &id)])).await.unwrap();
    assert_eq!(found.security_group_rules.unwrap().len(), 2);

    let mut described = permission("tcp", 443, 443, "10.0.0.0/8");
    described.ip_ranges.as_mut().unwrap()[0].description = some("by rule");
    let input = UpdateSecurityGroupRuleDescriptionsIngressRequest {
        group_id: some(&id),
        ip_permissions: Some(vec![described]),
        ..Default::default()
    };
    ec2.update_security_group_rule_descriptions_ingress(&cx, input).await.unwrap();
    let input = DescribeSecurityGroupRulesRequest {
        security_group_rule_ids: list(&[&rule_id]),
        ..Default::default()
    };
    let found = ec2.describe_security_group_rules(&cx, input).await.unwrap().security_group_rules.unwrap();
    assert_eq!(found[0].description.as_deref(), Some("by rule"));

    let tag = |key: &str| Some(vec![Tag { key: some(key), value: some("v") }]);
    let input =
        CreateTagsRequest { resources: list(&[&rule_id, &id]), tags: tag("both"), ..Default::default() };
    ec2.create_tags(&cx, input).await.unwrap();
    let input = DescribeTagsRequest { filters: filters(&[("tag:both", "v")]), ..Default::default() };
    let tags = ec2.describe_tags(&cx, input).await.unwrap().tags.unwrap();
    let mut types: Vec<_> = tags.into_iter().map(|tag| tag.resource_type.unwrap()).collect();
    types.sort();
    assert_eq!(types, ["security-group", "security-group-rule"]);
    let input = DeleteTagsRequest { resources: list(&[&rule_id]), ..Default::default() };
    ec2.delete_tags(&cx, input).await.unwrap();
    let input = DescribeTagsRequest { filters: filters(&[("resource-id", &rule_id)]), ..Default::default() };
    assert_eq!(ec2.describe_tags(&cx, input).await.unwrap().tags, Some(Vec::new()));
}
