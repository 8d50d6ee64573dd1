//! Filters, pages, ids, DryRun, and what is not there.

mod common;

use common::*;
use ferrogate_api::ec2::*;

/// Every filter is taken and looks at the property it names: the item is found by its own value and not by another.
macro_rules! check_filters {
    ($ec2:ident.$describe:ident($request:ident { $filters:ident }) -> $set:ident: $([$($name:literal = $value:expr),* $(,)?])*) => {$(
        for (name, value) in [$(($name, $value.to_string())),*] {
            for (wanted, found) in [(value.clone(), true), (format!("{}*", &value[..1]), true), ("nothing-like-it".into(), false)] {
                let input = $request { $filters: filters(&[(name, &wanted)]), ..Default::default() };
                let set = $ec2.$describe(&user(), input).await.unwrap().$set.unwrap();
                assert_eq!(!set.is_empty(), found, "{name}={wanted}");
            }
        }
    )*
        let input = $request { $filters: filters(&[("no-such-filter", "x")]), ..Default::default() };
        let (code, message) = refused($ec2.$describe(&user(), input).await);
        assert_eq!((code.as_str(), message.as_str()), ("InvalidParameterValue", "The filter 'no-such-filter' is invalid"));
    };
}

#[tokio::test]
async fn filters_of_every_resource() {
    let ec2 = service();
    let vpc = default_vpc(&ec2, &user()).await;
    let subnet = default_subnet(&ec2, &user()).await;
    let (vpc_id, subnet_id) = (vpc.vpc_id.clone().unwrap(), subnet.subnet_id.clone().unwrap());
    let block = vpc.cidr_block_association_set.unwrap().remove(0);
    check_filters!(ec2.describe_vpcs(DescribeVpcsRequest { filters }) -> vpcs: [
        "cidr" = "172.31.0.0/16",
        "cidr-block-association.association-id" = block.association_id.unwrap(),
        "cidr-block-association.cidr-block" = "172.31.0.0/16",
        "cidr-block-association.state" = "associated",
        "dhcp-options-id" = vpc.dhcp_options_id.unwrap(),
        "is-default" = "true",
        "isDefault" = "true",
        "owner-id" = ACCOUNT,
        "state" = "available",
        "vpc-id" = vpc_id,
    ]);
    check_filters!(ec2.describe_subnets(DescribeSubnetsRequest { filters }) -> subnets: [
        "availability-zone" = "us-east-1a",
        "availabilityZone" = "us-east-1a",
        "availability-zone-id" = "use1-az1",
        "available-ip-address-count" = "4091",
        "cidr" = subnet.cidr_block.clone().unwrap(),
        "cidr-block" = subnet.cidr_block.clone().unwrap(),
        "cidrBlock" = subnet.cidr_block.clone().unwrap(),
        "default-for-az" = "true",
        "defaultForAz" = "true",
        "enable-dns64" = "false",
        "map-public-ip-on-launch" = "true",
        "owner-id" = ACCOUNT,
        "private-dns-name-options-on-launch.hostname-type" = "ip-name",
        "state" = "available",
        "subnet-arn" = subnet.subnet_arn.clone().unwrap(),
        "subnet-id" = subnet_id,
        "vpc-id" = vpc_id,
    ]);

    let web = group(&ec2, &vpc_id, "web").await;
    authorize(&ec2, &web, permission("tcp", 80, 81, "10.0.0.0/8")).await.unwrap();
    let from = UserIdGroupPair { group_id: some(&web), ..Default::default() };
    let by_group = IpPermission {
        ip_ranges: None,
        user_id_group_pairs: Some(vec![from]),
        ..permission("udp", 1, 2, "")
    };
    authorize(&ec2, &web, by_group).await.unwrap();
    check_filters!(ec2.describe_security_groups(DescribeSecurityGroupsRequest { filters }) -> security_groups: [
        "description" = "for a test",
        "group-id" = web,
        "group-name" = "web",
        "ip-permission.cidr" = "10.0.0.0/8",
        "ip-permission.from-port" = "80",
        "ip-permission.to-port" = "81",
        "ip-permission.protocol" = "tcp",
        "ip-permission.group-id" = web,
        "ip-permission.user-id" = ACCOUNT,
        "egress.ip-permission.cidr" = "0.0.0.0/0",
        "egress.ip-permission.protocol" = "-1",
        "owner-id" = ACCOUNT,
        "vpc-id" = vpc_id,
    ]);
    check_filters!(ec2.describe_security_group_rules(DescribeSecurityGroupRulesRequest { filters }) -> security_group_rules: [
        "group-id" = web,
    ]);

    let made = eni(&ec2, &ecs(), &subnet_id).await.unwrap();
    let id = made.network_interface_id.clone().unwrap();
    set_public(&ec2, &ecs(), &id, true).await.unwrap();
    let attachment = made.attachment.clone().unwrap();
    check_filters!(ec2.describe_network_interfaces(DescribeNetworkInterfacesRequest { filters }) -> network_interfaces: [
        "addresses.association.owner-id" = "amazon",
        "addresses.association.public-ip" = "127.64.0.1",
        "addresses.primary" = "true",
        "addresses.private-ip-address" = "172.31.0.4",
        "association.ip-owner-id" = "amazon",
        "association.public-dns-name" = "ec2-127-64-0-1.compute-1.amazonaws.com",
        "association.public-ip" = "127.64.0.1",
        "attachment.attachment-id" = attachment.attachment_id.unwrap(),
        "attachment.attach-time" = "2026-11-21T12:00:00Z",
        "attachment.delete-on-termination" = "false",
        "attachment.device-index" = "1",
        "attachment.instance-owner-id" = ACCOUNT,
        "attachment.status" = "attached",
        "availability-zone" = "us-east-1a",
        "availability-zone-id" = "use1-az1",
        "group-id" = made.groups.as_ref().unwrap()[0].group_id.clone().unwrap(),
        "group-name" = "default",
        "interface-type" = "interface",
        "mac-address" = made.mac_address.clone().unwrap(),
        "network-interface-id" = id,
        "owner-id" = ACCOUNT,
        "private-dns-name" = "ip-172-31-0-4.ec2.internal",
        "private-ip-address" = "172.31.0.4",
        "requester-id" = "amazon-ecs",
        "requester-managed" = "true",
        "source-dest-check" = "true",
        "status" = "in-use",
        "subnet-id" = subnet_id,
        "vpc-id" = vpc_id,
    ]);
    let gateway = ec2
        .describe_internet_gateways(&user(), Default::default())
        .await
        .unwrap()
        .internet_gateways
        .unwrap()
        .remove(0);
    check_filters!(ec2.describe_internet_gateways(DescribeInternetGatewaysRequest { filters }) -> internet_gateways: [
        "attachment.state" = "available",
        "attachment.vpc-id" = vpc_id,
        "internet-gateway-id" = gateway.internet_gateway_id.clone().unwrap(),
        "owner-id" = ACCOUNT,
    ]);
    let table =
        ec2.describe_route_tables(&user(), Default::default()).await.unwrap().route_tables.unwrap().remove(0);
    check_filters!(ec2.describe_route_tables(DescribeRouteTablesRequest { filters }) -> route_tables: [
        "association.main" = "true",
        "association.route-table-association-id" = table.associations.unwrap()[0].route_table_association_id.clone().unwrap(),
        "association.route-table-id" = table.route_table_id.clone().unwrap(),
        "owner-id" = ACCOUNT,
        "route-table-id" = table.route_table_id.clone().unwrap(),
        "route.destination-cidr-block" = "0.0.0.0/0",
        "route.gateway-id" = gateway.internet_gateway_id.clone().unwrap(),
        "route.origin" = "CreateRoute",
        "route.state" = "active",
        "vpc-id" = vpc_id,
    ]);
    let acl =
        ec2.describe_network_acls(&user(), Default::default()).await.unwrap().network_acls.unwrap().remove(0);
    check_filters!(ec2.describe_network_acls(DescribeNetworkAclsRequest { filters }) -> network_acls: [
        "association.association-id" = acl.associations.unwrap()[0].network_acl_association_id.clone().unwrap(),
        "association.network-acl-id" = acl.network_acl_id.clone().unwrap(),
        "association.subnet-id" = subnet_id,
        "default" = "true",
        "entry.cidr" = "0.0.0.0/0",
        "entry.egress" = "true",
        "entry.protocol" = "-1",
        "entry.rule-action" = "deny",
        "entry.rule-number" = "32767",
        "network-acl-id" = acl.network_acl_id.clone().unwrap(),
        "owner-id" = ACCOUNT,
        "vpc-id" = vpc_id,
    ]);
    check_filters!(ec2.describe_availability_zones(DescribeAvailabilityZonesRequest { filters }) -> availability_zones: [
        "opt-in-status" = "opt-in-not-required",
        "region-name" = "us-east-1",
        "state" = "available",
        "zone-id" = "use1-az3",
        "zone-name" = "us-east-1c",
        "zone-type" = "availability-zone",
    ]);
    check_filters!(ec2.describe_regions(DescribeRegionsRequest { filters }) -> regions: [
        "endpoint" = "ec2.eu-west-1.amazonaws.com",
        "opt-in-status" = "opt-in-not-required",
        "region-name" = "eu-west-1",
    ]);
    check_filters!(ec2.describe_dhcp_options(DescribeDhcpOptionsRequest { filters }) -> dhcp_options: [
        "key" = "domain-name",
        "value" = "ec2.internal",
        "owner-id" = ACCOUNT,
    ]);
    ec2.allocate_address(&user(), Default::default()).await.unwrap();
    check_filters!(ec2.describe_addresses(DescribeAddressesRequest { filters }) -> addresses: [
        "domain" = "vpc",
        "network-border-group" = "us-east-1",
        "public-ip" = "127.64.0.2",
    ]);
    let tags = Some(vec![Tag { key: some("Name"), value: some("mine") }]);
    let input = CreateTagsRequest { resources: list(&[&vpc_id, &id]), tags, ..Default::default() };
    ec2.create_tags(&user(), input).await.unwrap();
    check_filters!(ec2.describe_tags(DescribeTagsRequest { filters }) -> tags: [
        "key" = "Name", "value" = "mine", "resource-id" = vpc_id, "resource-type" = "network-interface", "tag:Name" = "mine",
    ]);
    check_filters!(ec2.describe_vpcs(DescribeVpcsRequest { filters }) -> vpcs: [
        "tag:Name" = "mine", "tag-key" = "Name", "tag-value" = "mine",
    ]);
}

#[tokio::test]
async fn pages_hold_every_item_once() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let mut all = Vec::new();
    for n in 0..23 {
        all.push(group(&ec2, &vpc, &format!("g{n}")).await);
    }
    all.sort();
    let (mut seen, mut next_token) = (Vec::new(), None);
    loop {
        let input = DescribeSecurityGroupsRequest {
            filters: filters(&[("group-name", "g*"), ("vpc-id", &vpc)]),
            max_results: Some(5),
            next_token,
            ..Default::default()
        };
        let page = ec2.describe_security_groups(&user(), input).await.unwrap();
        seen.extend(page.security_groups.unwrap().into_iter().map(|group| group.group_id.unwrap()));
        next_token = page.next_token;
        if next_token.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);
    let input = DescribeVpcsRequest { next_token: some("x"), ..Default::default() };
    assert_eq!(code(ec2.describe_vpcs(&user(), input).await), "InvalidNextToken");
}

#[tokio::test]
async fn unknown_and_malformed_ids() {
    let (ec2, cx) = (service(), user());
    macro_rules! check {
        ($($describe:ident($request:ident { $ids:ident }): $unknown:literal -> $not_found:literal, $message:literal, $malformed:literal;)*) => {$(
            let input = $request { $ids: list(&[$unknown]), ..Default::default() };
            let (code_, message) = refused(ec2.$describe(&cx, input).await);
            assert_eq!((code_.as_str(), message.as_str()), ($not_found, $message));
            let input = $request { $ids: list(&["x-1", $unknown]), ..Default::default() };
            assert_eq!(code(ec2.$describe(&cx, input).await), $malformed);
        )*};
    }
    check! {
        describe_vpcs(DescribeVpcsRequest { vpc_ids }): "vpc-0123abcd" -> "InvalidVpcID.NotFound", "The vpc ID 'vpc-0123abcd' does not exist", "InvalidVpcID.Malformed";
        describe_subnets(DescribeSubnetsRequest { subnet_ids }): "subnet-0123abcd" -> "InvalidSubnetID.NotFound", "The subnet ID 'subnet-0123abcd' does not exist", "InvalidSubnetID.Malformed";
        describe_security_groups(DescribeSecurityGroupsRequest { group_ids }): "sg-0123abcd" -> "InvalidGroup.NotFound", "The security group 'sg-0123abcd' does not exist", "InvalidGroupId.Malformed";
        describe_network_interfaces(DescribeNetworkInterfacesRequest { network_interface_ids }): "eni-0123abcd" -> "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'eni-0123abcd' does not exist", "InvalidNetworkInterfaceID.Malformed";
        describe_route_tables(DescribeRouteTablesRequest { route_table_ids }): "rtb-0123abcd" -> "InvalidRouteTableID.NotFound", "The routeTable ID 'rtb-0123abcd' does not exist", "InvalidRouteTableId.Malformed";
        describe_internet_gateways(DescribeInternetGatewaysRequest { internet_gateway_ids }): "igw-0123abcd" -> "InvalidInternetGatewayID.NotFound", "The internetGateway ID 'igw-0123abcd' does not exist", "InvalidInternetGatewayId.Malformed";
        describe_network_acls(DescribeNetworkAclsRequest { network_acl_ids }): "acl-0123abcd" -> "InvalidNetworkAclID.NotFound", "The networkAcl ID 'acl-0123abcd' does not exist", "InvalidNetworkAclId.Malformed";
        describe_dhcp_options(DescribeDhcpOptionsRequest { dhcp_options_ids }): "dopt-0123abcd" -> "InvalidDhcpOptionID.NotFound", "The dhcpOption ID 'dopt-0123abcd' does not exist", "InvalidDhcpOptionsId.Malformed";
        describe_addresses(DescribeAddressesRequest { allocation_ids }): "eipalloc-0123abcd" -> "InvalidAllocationID.NotFound", "The allocation ID 'eipalloc-0123abcd' does not exist", "InvalidAllocationID.NotFound";
    }
}

#[tokio::test]
async fn a_dry_run_does_nothing() {
    let (ec2, cx) = (service(), user());
    let input =
        CreateVpcRequest { cidr_block: some("10.0.0.0/16"), dry_run: Some(true), ..Default::default() };
    let error = ec2.create_vpc(&cx, input).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.status), ("DryRunOperation", Some(412)));
    assert_eq!(error.message, "Request would have succeeded, but DryRun flag is set.");
    assert_eq!(ec2.describe_vpcs(&cx, Default::default()).await.unwrap().vpcs.unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_made_is_not_there() {
    let (ec2, cx) = (service(), user());
    assert_eq!(ec2.describe_instances(&cx, Default::default()).await.unwrap().reservations, Some(Vec::new()));
    assert_eq!(
        ec2.describe_nat_gateways(&cx, Default::default()).await.unwrap().nat_gateways,
        Some(Vec::new())
    );
    assert_eq!(
        ec2.describe_vpn_gateways(&cx, Default::default()).await.unwrap().vpn_gateways,
        Some(Vec::new())
    );
    let input = DescribeInstancesRequest { instance_ids: list(&["i-0123abcd"]), ..Default::default() };
    let (code_, message) = refused(ec2.describe_instances(&cx, input).await);
    assert_eq!(
        (code_.as_str(), message.as_str()),
        ("InvalidInstanceID.NotFound", "The instance ID 'i-0123abcd' does not exist")
    );
    assert_eq!(code(ec2.create_nat_gateway(&cx, Default::default()).await), "NotImplementedException");
    let attributes =
        ec2.describe_account_attributes(&cx, Default::default()).await.unwrap().account_attributes.unwrap();
    assert!(attributes.iter().any(|attribute| attribute.attribute_name.as_deref() == Some("default-vpc")));
}

#[tokio::test]
async fn limits_of_tags() {
    let (ec2, cx) = (service(), user());
    let vpc = default_vpc(&ec2, &cx).await.vpc_id.unwrap();
    let create = |tags: Vec<Tag>| CreateTagsRequest {
        resources: list(&[&vpc]),
        tags: Some(tags),
        ..Default::default()
    };
    let tag = |key: String| Tag { key: Some(key), value: some("v") };
    ec2.create_tags(&cx, create((0..50).map(|n| tag(format!("k{n}"))).collect())).await.unwrap();
    assert_eq!(code(ec2.create_tags(&cx, create(vec![tag("one-more".into())])).await), "TagLimitExceeded");
    assert_eq!(code(ec2.create_tags(&cx, create(vec![tag("aws:x".into())])).await), "InvalidParameterValue");
    assert_eq!(code(ec2.create_tags(&cx, create(vec![tag("x".repeat(129))])).await), "InvalidParameterValue");
    let nowhere = CreateTagsRequest {
        resources: list(&["vpc-0123abcd"]),
        tags: Some(vec![tag("a".into())]),
        ..Default::default()
    };
    assert_eq!(code(ec2.create_tags(&cx, nowhere).await), "InvalidVpcID.NotFound");
    let odd = CreateTagsRequest {
        resources: list(&["thing-1"]),
        tags: Some(vec![tag("a".into())]),
        ..Default::default()
    };
    assert_eq!(code(ec2.create_tags(&cx, odd).await), "InvalidID");
    // A service's own marks.
    ec2.create_tags(&ecs(), create(vec![tag("aws:ecs:serviceName".into())])).await.unwrap();
    // With a value, only that value goes; without tags, all of the customer's go.
    let wrong = DeleteTagsRequest {
        resources: list(&[&vpc]),
        tags: Some(vec![Tag { key: some("k1"), value: some("other") }]),
        ..Default::default()
    };
    ec2.delete_tags(&cx, wrong).await.unwrap();
    ec2.delete_tags(&cx, DeleteTagsRequest { resources: list(&[&vpc]), ..Default::default() }).await.unwrap();
    assert_eq!(
        pairs(&default_vpc(&ec2, &cx).await.tags),
        [("aws:ecs:serviceName".to_owned(), "v".to_owned())]
    );
}
