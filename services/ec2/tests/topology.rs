//! VPCs, subnets, gateways, route tables, network ACLs.

mod common;

use common::*;
use ferrogate_api::ec2::*;
use ferrogate_ec2::Ec2Service;

fn create_subnet(vpc: &str, cidr: &str) -> CreateSubnetRequest {
    CreateSubnetRequest { vpc_id: some(vpc), cidr_block: some(cidr), ..Default::default() }
}

async fn gateway(ec2: &Ec2Service, vpc: &str) -> String {
    let made =
        ec2.create_internet_gateway(&user(), Default::default()).await.unwrap().internet_gateway.unwrap();
    let id = made.internet_gateway_id.unwrap();
    let input = AttachInternetGatewayRequest {
        internet_gateway_id: some(&id),
        vpc_id: some(vpc),
        ..Default::default()
    };
    ec2.attach_internet_gateway(&user(), input).await.unwrap();
    id
}

async fn tables(ec2: &Ec2Service, vpc: &str) -> Vec<RouteTable> {
    let input = DescribeRouteTablesRequest { filters: filters(&[("vpc-id", vpc)]), ..Default::default() };
    ec2.describe_route_tables(&user(), input).await.unwrap().route_tables.unwrap()
}

#[tokio::test]
async fn blocks_of_vpcs_and_subnets() {
    let (ec2, cx) = (service(), user());
    let create = |cidr: &str| CreateVpcRequest { cidr_block: some(cidr), ..Default::default() };
    for (cidr, code_) in [
        ("10.0.0.0/8", "InvalidVpc.Range"),
        ("10.0.0.0/29", "InvalidVpc.Range"),
        ("127.64.0.0/16", "InvalidVpc.Range"),
        ("10.0.0.0", "InvalidParameterValue"),
    ] {
        assert_eq!(code(ec2.create_vpc(&cx, create(cidr)).await), code_, "{cidr}");
    }
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let made = ec2.create_subnet(&cx, create_subnet(&vpc, "10.0.1.0/24")).await.unwrap().subnet.unwrap();
    assert_eq!((made.available_ip_address_count, made.map_public_ip_on_launch), (Some(251), Some(false)));
    assert_eq!(
        made.subnet_arn,
        some(format!("arn:aws:ec2:us-east-1:{ACCOUNT}:subnet/{}", made.subnet_id.as_ref().unwrap()))
    );
    for (cidr, code_, message) in [
        ("10.0.1.128/25", "InvalidSubnet.Conflict", "The CIDR '10.0.1.128/25' conflicts with another subnet"),
        ("10.1.0.0/24", "InvalidSubnet.Range", "The CIDR '10.1.0.0/24' is invalid."),
        ("10.0.2.0/29", "InvalidSubnet.Range", "The CIDR '10.0.2.0/29' is invalid."),
    ] {
        let error = refused(ec2.create_subnet(&cx, create_subnet(&vpc, cidr)).await);
        assert_eq!((error.0.as_str(), error.1.as_str()), (code_, message));
    }
    let elsewhere =
        CreateSubnetRequest { availability_zone: some("us-east-1z"), ..create_subnet(&vpc, "10.0.9.0/24") };
    assert_eq!(code(ec2.create_subnet(&cx, elsewhere).await), "InvalidParameterValue");
    let by_id =
        CreateSubnetRequest { availability_zone_id: some("use1-az2"), ..create_subnet(&vpc, "10.0.9.0/24") };
    let made = ec2.create_subnet(&cx, by_id).await.unwrap().subnet.unwrap();
    assert_eq!(made.availability_zone.as_deref(), Some("us-east-1b"));

    let associate = |cidr: &str| AssociateVpcCidrBlockRequest {
        vpc_id: some(&vpc),
        cidr_block: some(cidr),
        ..Default::default()
    };
    assert_eq!(code(ec2.associate_vpc_cidr_block(&cx, associate("10.0.128.0/17")).await), "InvalidVpc.Range");
    let second = ec2.associate_vpc_cidr_block(&cx, associate("10.1.0.0/16")).await.unwrap();
    let association_id = second.cidr_block_association.unwrap().association_id;
    let inside = subnet(&ec2, &vpc, "10.1.0.0/24").await;
    let locals = tables(&ec2, &vpc).await[0].routes.as_ref().unwrap().len();
    assert_eq!(locals, 2);
    let disassociate = || DisassociateVpcCidrBlockRequest { association_id: association_id.clone() };
    assert_eq!(code(ec2.disassociate_vpc_cidr_block(&cx, disassociate()).await), "DependencyViolation");
    ec2.delete_subnet(&cx, DeleteSubnetRequest { subnet_id: some(inside), ..Default::default() })
        .await
        .unwrap();
    ec2.disassociate_vpc_cidr_block(&cx, disassociate()).await.unwrap();
    for n in 1..5 {
        ec2.associate_vpc_cidr_block(&cx, associate(&format!("10.{n}.0.0/16"))).await.unwrap();
    }
    assert_eq!(code(ec2.associate_vpc_cidr_block(&cx, associate("10.7.0.0/16")).await), "CidrLimitExceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_subnets_that_overlap_one_is_made() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let calls: Vec<_> = (0..16)
        .map(|n| {
            let (ec2, vpc) = (ec2.clone(), vpc.clone());
            let cidr = format!("10.0.1.0/{}", 20 + n % 8);
            tokio::spawn(async move { ec2.create_subnet(&user(), create_subnet(&vpc, &cidr)).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for call in calls {
        made += usize::from(call.await.unwrap());
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn routes() {
    let (ec2, cx) = (service(), user());
    let vpc_id = vpc(&ec2, "10.0.0.0/16").await;
    let subnet_id = subnet(&ec2, &vpc_id, "10.0.1.0/24").await;
    let igw = gateway(&ec2, &vpc_id).await;
    let input =
        CreateRouteTableRequest { vpc_id: some(&vpc_id), client_token: some("once"), ..Default::default() };
    let made = ec2.create_route_table(&cx, input.clone()).await.unwrap().route_table.unwrap();
    assert_eq!(
        ec2.create_route_table(&cx, input).await.unwrap().route_table.unwrap().route_table_id,
        made.route_table_id
    );
    let table = made.route_table_id.unwrap();
    let to = |destination: &str, gateway: &str| CreateRouteRequest {
        route_table_id: some(&table),
        destination_cidr_block: some(destination),
        gateway_id: some(gateway),
        ..Default::default()
    };
    ec2.create_route(&cx, to("0.0.0.0/0", &igw)).await.unwrap();
    let via = eni(&ec2, &cx, &subnet_id).await.unwrap().network_interface_id.unwrap();
    let by_eni = |destination: &str| CreateRouteRequest {
        network_interface_id: some(&via),
        gateway_id: None,
        ..to(destination, "")
    };
    let (code_, message) = refused(ec2.create_route(&cx, by_eni("0.0.0.0/0")).await);
    assert_eq!(
        (code_.as_str(), message.as_str()),
        ("RouteAlreadyExists", "The route identified by 0.0.0.0/0 already exists.")
    );
    ec2.create_route(&cx, by_eni("192.0.2.0/24")).await.unwrap();
    for (input, code_) in [
        (to("198.51.100.0/24", "igw-00000000"), "InvalidGatewayID.NotFound"),
        (to("198.51.100.0/24", "vgw-00000000"), "InvalidGatewayID.NotFound"),
        (to("10.0.0.0/16", &igw), "RouteAlreadyExists"),
        (to("10.0.1.0/24", &igw), "UnsupportedOperation"),
        (
            CreateRouteRequest {
                nat_gateway_id: some("nat-00000000"),
                gateway_id: None,
                ..to("198.51.100.0/24", "")
            },
            "NatGatewayNotFound",
        ),
        (
            CreateRouteRequest { network_interface_id: some(&via), ..to("198.51.100.0/24", &igw) },
            "InvalidParameterCombination",
        ),
        (
            CreateRouteRequest { destination_ipv6_cidr_block: some("::/0"), ..to("198.51.100.0/24", &igw) },
            "UnsupportedOperation",
        ),
        (
            CreateRouteRequest { route_table_id: some("rtb-00000000"), ..to("198.51.100.0/24", &igw) },
            "InvalidRouteTableID.NotFound",
        ),
    ] {
        assert_eq!(code(ec2.create_route(&cx, input).await), code_);
    }

    // A target that goes leaves a blackhole.
    delete_eni(&ec2, &cx, &via).await.unwrap();
    let detach = DetachInternetGatewayRequest {
        internet_gateway_id: some(&igw),
        vpc_id: some(&vpc_id),
        ..Default::default()
    };
    ec2.detach_internet_gateway(&cx, detach).await.unwrap();
    let find = |tables: Vec<RouteTable>| {
        tables.into_iter().find(|one| one.route_table_id.as_deref() == Some(table.as_str())).unwrap()
    };
    let states = |table: RouteTable| {
        let routes = table.routes.unwrap().into_iter();
        routes.map(|route| (route.destination_cidr_block.unwrap(), route.state.unwrap())).collect::<Vec<_>>()
    };
    let expected = [("10.0.0.0/16", "active"), ("0.0.0.0/0", "blackhole"), ("192.0.2.0/24", "blackhole")];
    assert_eq!(
        states(find(tables(&ec2, &vpc_id).await)),
        expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    let attach = AttachInternetGatewayRequest {
        internet_gateway_id: some(&igw),
        vpc_id: some(&vpc_id),
        ..Default::default()
    };
    ec2.attach_internet_gateway(&cx, attach).await.unwrap();
    let replace = |destination: &str| ReplaceRouteRequest {
        route_table_id: some(&table),
        destination_cidr_block: some(destination),
        gateway_id: some(&igw),
        ..Default::default()
    };
    ec2.replace_route(&cx, replace("192.0.2.0/24")).await.unwrap();
    assert_eq!(code(ec2.replace_route(&cx, replace("203.0.113.0/24")).await), "InvalidRoute.NotFound");
    assert!(states(find(tables(&ec2, &vpc_id).await)).iter().all(|(_, state)| state == "active"));
    let delete = |destination: &str| DeleteRouteRequest {
        route_table_id: some(&table),
        destination_cidr_block: some(destination),
        ..Default::default()
    };
    ec2.delete_route(&cx, delete("192.0.2.0/24")).await.unwrap();
    assert_eq!(code(ec2.delete_route(&cx, delete("192.0.2.0/24")).await), "InvalidRoute.NotFound");
    assert_eq!(code(ec2.delete_route(&cx, delete("10.0.0.0/16")).await), "InvalidParameterValue");
}

#[tokio::test]
async fn tables_and_their_subnets() {
    let (ec2, cx) = (service(), user());
    let vpc_id = vpc(&ec2, "10.0.0.0/16").await;
    let subnet_id = subnet(&ec2, &vpc_id, "10.0.1.0/24").await;
    let main = tables(&ec2, &vpc_id).await.remove(0);
    let main_association = main.associations.unwrap().remove(0).route_table_association_id.unwrap();
    let input = CreateRouteTableRequest { vpc_id: some(&vpc_id), ..Default::default() };
    let table =
        ec2.create_route_table(&cx, input).await.unwrap().route_table.unwrap().route_table_id.unwrap();
    let associate = |table: &str| AssociateRouteTableRequest {
        route_table_id: some(table),
        subnet_id: some(&subnet_id),
        ..Default::default()
    };
    let association =
        ec2.associate_route_table(&cx, associate(&table)).await.unwrap().association_id.unwrap();
    let main_id = main.route_table_id.unwrap();
    assert_eq!(code(ec2.associate_route_table(&cx, associate(&main_id)).await), "Resource.AlreadyAssociated");
    let delete = |id: &str| DeleteRouteTableRequest { route_table_id: some(id), ..Default::default() };
    let (code_, message) = refused(ec2.delete_route_table(&cx, delete(&table)).await);
    assert_eq!(
        (code_.as_str(), message),
        ("DependencyViolation", format!("The routeTable '{table}' has dependencies and cannot be deleted."))
    );
    assert_eq!(code(ec2.delete_route_table(&cx, delete(&main_id)).await), "DependencyViolation");

    let disassociate =
        |id: &str| DisassociateRouteTableRequest { association_id: some(id), ..Default::default() };
    assert_eq!(
        code(ec2.disassociate_route_table(&cx, disassociate(&main_association)).await),
        "InvalidParameterValue"
    );
    ec2.disassociate_route_table(&cx, disassociate(&association)).await.unwrap();
    assert_eq!(
        code(ec2.disassociate_route_table(&cx, disassociate(&association)).await),
        "InvalidAssociationID.NotFound"
    );

    // Another table becomes the main one.
    let replace = ReplaceRouteTableAssociationRequest {
        association_id: some(&main_association),
        route_table_id: some(&table),
        ..Default::default()
    };
    ec2.replace_route_table_association(&cx, replace).await.unwrap();
    let input = DescribeRouteTablesRequest {
        filters: filters(&[("vpc-id", &vpc_id), ("association.main", "true")]),
        ..Default::default()
    };
    let now_main = ec2.describe_route_tables(&cx, input).await.unwrap().route_tables.unwrap();
    assert_eq!(now_main[0].route_table_id.as_ref(), Some(&table));
    ec2.delete_route_table(&cx, delete(&main_id)).await.unwrap();
    assert_eq!(code(ec2.delete_route_table(&cx, delete(&main_id)).await), "InvalidRouteTableID.NotFound");
}

#[tokio::test]
async fn gateways() {
    let (ec2, cx) = (service(), user());
    let (vpc_a, vpc_b) = (vpc(&ec2, "10.0.0.0/16").await, vpc(&ec2, "10.1.0.0/16").await);
    let igw = gateway(&ec2, &vpc_a).await;
    let attach = |igw: &str, vpc: &str| AttachInternetGatewayRequest {
        internet_gateway_id: some(igw),
        vpc_id: some(vpc),
        ..Default::default()
    };
    assert_eq!(
        code(ec2.attach_internet_gateway(&cx, attach(&igw, &vpc_b)).await),
        "Resource.AlreadyAssociated"
    );
    let other = ec2.create_internet_gateway(&cx, Default::default()).await.unwrap().internet_gateway.unwrap();
    let other = other.internet_gateway_id.unwrap();
    assert_eq!(code(ec2.attach_internet_gateway(&cx, attach(&other, &vpc_a)).await), "InvalidParameterValue");
    let detach = |vpc: &str| DetachInternetGatewayRequest {
        internet_gateway_id: some(&igw),
        vpc_id: some(vpc),
        ..Default::default()
    };
    assert_eq!(code(ec2.detach_internet_gateway(&cx, detach(&vpc_b)).await), "Gateway.NotAttached");
    let delete = || DeleteInternetGatewayRequest { internet_gateway_id: some(&igw), ..Default::default() };
    assert_eq!(code(ec2.delete_internet_gateway(&cx, delete()).await), "DependencyViolation");

    let subnet = subnet(&ec2, &vpc_a, "10.0.1.0/24").await;
    let eni = eni(&ec2, &ecs(), &subnet).await.unwrap().network_interface_id.unwrap();
    set_public(&ec2, &ecs(), &eni, true).await.unwrap();
    let (code_, message) = refused(ec2.detach_internet_gateway(&cx, detach(&vpc_a)).await);
    assert_eq!(code_, "DependencyViolation");
    assert!(message.starts_with(&format!("Network {vpc_a} has some mapped public address(es).")));
    set_public(&ec2, &ecs(), &eni, false).await.unwrap();
    ec2.detach_internet_gateway(&cx, detach(&vpc_a)).await.unwrap();
    ec2.delete_internet_gateway(&cx, delete()).await.unwrap();
    assert_eq!(code(ec2.delete_internet_gateway(&cx, delete()).await), "InvalidInternetGatewayID.NotFound");
}

#[tokio::test]
async fn network_acls() {
    let (ec2, cx) = (service(), user());
    let vpc_id = vpc(&ec2, "10.0.0.0/16").await;
    let subnet_id = subnet(&ec2, &vpc_id, "10.0.1.0/24").await;
    let input = CreateNetworkAclRequest { vpc_id: some(&vpc_id), ..Default::default() };
    let acl = ec2.create_network_acl(&cx, input).await.unwrap().network_acl.unwrap();
    assert_eq!((acl.is_default, acl.entries.as_ref().unwrap().len()), (Some(false), 2));
    let id = acl.network_acl_id.unwrap();
    let entry = |number: i32| CreateNetworkAclEntryRequest {
        network_acl_id: some(&id),
        rule_number: Some(number),
        protocol: some("6"),
        rule_action: some("allow"),
        egress: Some(false),
        cidr_block: some("0.0.0.0/0"),
        port_range: Some(PortRange { from: Some(80), to: Some(80) }),
        ..Default::default()
    };
    ec2.create_network_acl_entry(&cx, entry(200)).await.unwrap();
    ec2.create_network_acl_entry(&cx, entry(100)).await.unwrap();
    for (input, code_) in [
        (entry(100), "NetworkAclEntryAlreadyExists"),
        (entry(0), "InvalidParameterValue"),
        (entry(32767), "InvalidParameterValue"),
        (CreateNetworkAclEntryRequest { port_range: None, ..entry(300) }, "MissingParameter"),
        (CreateNetworkAclEntryRequest { protocol: some("1"), ..entry(300) }, "MissingParameter"),
        (
            CreateNetworkAclEntryRequest { ipv6_cidr_block: some("::/0"), ..entry(300) },
            "UnsupportedOperation",
        ),
    ] {
        assert_eq!(code(ec2.create_network_acl_entry(&cx, input).await), code_);
    }
    let replace = ReplaceNetworkAclEntryRequest {
        network_acl_id: some(&id),
        rule_number: Some(200),
        protocol: some("-1"),
        rule_action: some("deny"),
        egress: Some(false),
        cidr_block: some("10.0.0.0/8"),
        ..Default::default()
    };
    ec2.replace_network_acl_entry(&cx, replace.clone()).await.unwrap();
    let missing = ReplaceNetworkAclEntryRequest { egress: Some(true), ..replace };
    assert_eq!(code(ec2.replace_network_acl_entry(&cx, missing).await), "InvalidNetworkAclEntry.NotFound");

    let of_subnet = || DescribeNetworkAclsRequest {
        filters: filters(&[("association.subnet-id", &subnet_id)]),
        ..Default::default()
    };
    let default = ec2.describe_network_acls(&cx, of_subnet()).await.unwrap().network_acls.unwrap().remove(0);
    let association_id = default.associations.unwrap().remove(0).network_acl_association_id;
    let input = ReplaceNetworkAclAssociationRequest {
        association_id,
        network_acl_id: some(&id),
        ..Default::default()
    };
    ec2.replace_network_acl_association(&cx, input).await.unwrap();
    let found = ec2.describe_network_acls(&cx, of_subnet()).await.unwrap().network_acls.unwrap().remove(0);
    assert_eq!(found.network_acl_id.as_ref(), Some(&id));
    let ingress: Vec<_> =
        found.entries.unwrap().into_iter().filter(|entry| entry.egress == Some(false)).collect();
    let rules: Vec<_> = ingress
        .iter()
        .map(|entry| (entry.rule_number.unwrap(), entry.rule_action.as_deref().unwrap()))
        .collect();
    assert_eq!(rules, [(100, "allow"), (200, "deny"), (32767, "deny")]);

    let delete =
        |id: &Option<String>| DeleteNetworkAclRequest { network_acl_id: id.clone(), ..Default::default() };
    assert_eq!(code(ec2.delete_network_acl(&cx, delete(&some(&id))).await), "DependencyViolation");
    assert_eq!(
        code(ec2.delete_network_acl(&cx, delete(&default.network_acl_id)).await),
        "InvalidParameterValue"
    );
    let input = DeleteNetworkAclEntryRequest {
        network_acl_id: some(&id),
        rule_number: Some(100),
        egress: Some(false),
        ..Default::default()
    };
    ec2.delete_network_acl_entry(&cx, input.clone()).await.unwrap();
    assert_eq!(code(ec2.delete_network_acl_entry(&cx, input).await), "InvalidNetworkAclEntry.NotFound");
}

#[tokio::test]
async fn attributes() {
    let (ec2, cx) = (service(), user());
    let vpc_id = vpc(&ec2, "10.0.0.0/16").await;
    let subnet_id = subnet(&ec2, &vpc_id, "10.0.1.0/24").await;
    let on = || Some(AttributeBooleanValue { value: Some(true) });
    let base = || ModifyVpcAttributeRequest { vpc_id: some(&vpc_id), ..Default::default() };
    ec2.modify_vpc_attribute(&cx, ModifyVpcAttributeRequest { enable_dns_hostnames: on(), ..base() })
        .await
        .unwrap();
    let input = DescribeVpcAttributeRequest {
        vpc_id: some(&vpc_id),
        attribute: some("enableDnsHostnames"),
        ..Default::default()
    };
    assert_eq!(ec2.describe_vpc_attribute(&cx, input).await.unwrap().enable_dns_hostnames, on());
    let off = ModifyVpcAttributeRequest {
        enable_dns_support: Some(AttributeBooleanValue { value: Some(false) }),
        ..base()
    };
    assert_eq!(code(ec2.modify_vpc_attribute(&cx, off).await), "UnsupportedOperation");

    let base = || ModifySubnetAttributeRequest { subnet_id: some(&subnet_id), ..Default::default() };
    ec2.modify_subnet_attribute(
        &cx,
        ModifySubnetAttributeRequest { map_public_ip_on_launch: on(), ..base() },
    )
    .await
    .unwrap();
    assert_eq!(describe_subnet(&ec2, &subnet_id).await.map_public_ip_on_launch, Some(true));
    let ipv6 = ModifySubnetAttributeRequest { assign_ipv6_address_on_creation: on(), ..base() };
    assert_eq!(code(ec2.modify_subnet_attribute(&cx, ipv6).await), "UnsupportedOperation");
}
