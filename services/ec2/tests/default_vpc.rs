//! What a region has from the start, made once whoever comes first.

mod common;

use std::collections::BTreeSet;

use common::*;
use ferrogate_api::ec2::*;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_first_calls_make_one_default_vpc() {
    let ec2 = service();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let ec2 = ec2.clone();
            tokio::spawn(async move {
                ec2.describe_vpcs(&user(), Default::default()).await.unwrap().vpcs.unwrap()
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for call in calls {
        let vpcs = call.await.unwrap();
        assert_eq!(vpcs.len(), 1);
        seen.insert(vpcs[0].vpc_id.clone().unwrap());
    }
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_region_has_what_aws_gives_it() {
    let (ec2, cx) = (service(), user());
    let vpc = default_vpc(&ec2, &cx).await;
    assert_eq!(vpc.cidr_block.as_deref(), Some("172.31.0.0/16"));
    assert_eq!((vpc.is_default, vpc.state.as_deref()), (Some(true), Some("available")));
    let vpc_id = vpc.vpc_id.unwrap();

    let subnets = ec2.describe_subnets(&cx, Default::default()).await.unwrap().subnets.unwrap();
    let mut of_zones: Vec<_> = subnets
        .iter()
        .map(|subnet| {
            assert_eq!(subnet.default_for_az, Some(true));
            assert_eq!(subnet.map_public_ip_on_launch, Some(true));
            assert_eq!(subnet.available_ip_address_count, Some(4091));
            let text = |text: &Option<String>| text.clone().unwrap();
            (text(&subnet.availability_zone), text(&subnet.availability_zone_id), text(&subnet.cidr_block))
        })
        .collect();
    of_zones.sort();
    let expected = [
        ("us-east-1a", "use1-az1", "172.31.0.0/20"),
        ("us-east-1b", "use1-az2", "172.31.16.0/20"),
        ("us-east-1c", "use1-az3", "172.31.32.0/20"),
    ];
    assert_eq!(of_zones, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));

    let groups =
        ec2.describe_security_groups(&cx, Default::default()).await.unwrap().security_groups.unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].group_name.as_deref(), Some("default"));
    let ingress = &groups[0].ip_permissions.as_ref().unwrap()[0];
    assert_eq!(ingress.ip_protocol.as_deref(), Some("-1"));
    assert_eq!(ingress.user_id_group_pairs.as_ref().unwrap()[0].group_id, groups[0].group_id);
    let egress = &groups[0].ip_permissions_egress.as_ref().unwrap()[0];
    assert_eq!(egress.ip_ranges.as_ref().unwrap()[0].cidr_ip.as_deref(), Some("0.0.0.0/0"));

    let gateways =
        ec2.describe_internet_gateways(&cx, Default::default()).await.unwrap().internet_gateways.unwrap();
    assert_eq!(gateways[0].attachments.as_ref().unwrap()[0].vpc_id.as_ref(), Some(&vpc_id));
    let tables = ec2.describe_route_tables(&cx, Default::default()).await.unwrap().route_tables.unwrap();
    assert_eq!(tables[0].associations.as_ref().unwrap()[0].main, Some(true));
    let routes: Vec<_> = tables[0]
        .routes
        .iter()
        .flatten()
        .map(|route| (route.gateway_id.clone(), route.state.clone()))
        .collect();
    assert_eq!(
        routes,
        [(some("local"), some("active")), (gateways[0].internet_gateway_id.clone(), some("active"))]
    );
    let acls = ec2.describe_network_acls(&cx, Default::default()).await.unwrap().network_acls.unwrap();
    assert_eq!((acls[0].is_default, acls[0].associations.as_ref().unwrap().len()), (Some(true), 3));
    assert_eq!(acls[0].entries.as_ref().unwrap().len(), 4);
    let options = ec2.describe_dhcp_options(&cx, Default::default()).await.unwrap().dhcp_options.unwrap();
    assert_eq!(options[0].dhcp_options_id, vpc.dhcp_options_id);
}

#[tokio::test]
async fn regions_are_apart() {
    let ec2 = service();
    let (east, west) = (default_vpc(&ec2, &user()).await, default_vpc(&ec2, &in_region("eu-west-1")).await);
    assert_ne!(east.vpc_id, west.vpc_id);
    let subnet = default_subnet(&ec2, &in_region("eu-west-1")).await;
    assert_eq!(subnet.availability_zone_id.as_deref(), Some("euw1-az1"));
    let input = DescribeVpcsRequest { vpc_ids: Some(vec![west.vpc_id.unwrap()]), ..Default::default() };
    assert_eq!(code(ec2.describe_vpcs(&user(), input).await), "InvalidVpcID.NotFound");
}

#[tokio::test]
async fn deleted_it_stays_deleted_until_asked_for() {
    let (ec2, cx) = (service(), user());
    let vpc_id = default_vpc(&ec2, &cx).await.vpc_id;
    assert_eq!(code(ec2.create_default_vpc(&cx, Default::default()).await), "DefaultVpcAlreadyExists");
    let delete = || DeleteVpcRequest { vpc_id: vpc_id.clone(), ..Default::default() };
    let (code_, message) = refused(ec2.delete_vpc(&cx, delete()).await);
    assert_eq!(code_, "DependencyViolation");
    assert_eq!(
        message,
        format!("The vpc '{}' has dependencies and cannot be deleted.", vpc_id.as_ref().unwrap())
    );
    for subnet in ec2.describe_subnets(&cx, Default::default()).await.unwrap().subnets.unwrap() {
        ec2.delete_subnet(&cx, DeleteSubnetRequest { subnet_id: subnet.subnet_id, ..Default::default() })
            .await
            .unwrap();
    }
    let gateway = ec2
        .describe_internet_gateways(&cx, Default::default())
        .await
        .unwrap()
        .internet_gateways
        .unwrap()
        .remove(0);
    let id = gateway.internet_gateway_id;
    let input = DetachInternetGatewayRequest {
        internet_gateway_id: id.clone(),
        vpc_id: vpc_id.clone(),
        ..Default::default()
    };
    ec2.detach_internet_gateway(&cx, input).await.unwrap();
    let input = DeleteInternetGatewayRequest { internet_gateway_id: id, ..Default::default() };
    ec2.delete_internet_gateway(&cx, input).await.unwrap();
    ec2.delete_vpc(&cx, delete()).await.unwrap();
    assert!(ec2.describe_vpcs(&cx, Default::default()).await.unwrap().vpcs.unwrap().is_empty());
    assert!(
        ec2.describe_security_groups(&cx, Default::default())
            .await
            .unwrap()
            .security_groups
            .unwrap()
            .is_empty()
    );
    assert!(
        ec2.describe_route_tables(&cx, Default::default()).await.unwrap().route_tables.unwrap().is_empty()
    );

    let again = ec2.create_default_vpc(&cx, Default::default()).await.unwrap().vpc.unwrap();
    assert_ne!(again.vpc_id, vpc_id);
    assert_eq!(ec2.describe_subnets(&cx, Default::default()).await.unwrap().subnets.unwrap().len(), 3);
    let input = || CreateDefaultSubnetRequest { availability_zone: some("us-east-1a"), ..Default::default() };
    assert_eq!(
        code(ec2.create_default_subnet(&cx, input()).await),
        "DefaultSubnetAlreadyExistsInAvailabilityZone"
    );
    let subnet = default_subnet(&ec2, &cx).await;
    let zone = subnet.availability_zone.clone();
    ec2.delete_subnet(&cx, DeleteSubnetRequest { subnet_id: subnet.subnet_id, ..Default::default() })
        .await
        .unwrap();
    let input = CreateDefaultSubnetRequest { availability_zone: zone, ..Default::default() };
    let made = ec2.create_default_subnet(&cx, input).await.unwrap().subnet.unwrap();
    assert_eq!((made.default_for_az, made.cidr_block), (Some(true), subnet.cidr_block));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_for_a_default_vpc_make_one() {
    let (ec2, cx) = (service(), user());
    // A region without one: delete what is there.
    let vpc_id = default_vpc(&ec2, &cx).await.vpc_id;
    for subnet in ec2.describe_subnets(&cx, Default::default()).await.unwrap().subnets.unwrap() {
        ec2.delete_subnet(&cx, DeleteSubnetRequest { subnet_id: subnet.subnet_id, ..Default::default() })
            .await
            .unwrap();
    }
    let gateway = ec2
        .describe_internet_gateways(&cx, Default::default())
        .await
        .unwrap()
        .internet_gateways
        .unwrap()
        .remove(0);
    let input = DetachInternetGatewayRequest {
        internet_gateway_id: gateway.internet_gateway_id,
        vpc_id: vpc_id.clone(),
        ..Default::default()
    };
    ec2.detach_internet_gateway(&cx, input).await.unwrap();
    ec2.delete_vpc(&cx, DeleteVpcRequest { vpc_id, ..Default::default() }).await.unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let ec2 = ec2.clone();
            tokio::spawn(async move { ec2.create_default_vpc(&user(), Default::default()).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for call in calls {
        made += usize::from(call.await.unwrap());
    }
    assert_eq!(made, 1);
}
