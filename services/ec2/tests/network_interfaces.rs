//! Interfaces and their addresses.

mod common;

use std::collections::BTreeSet;

use common::*;
use ferrogate_api::ec2::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_share_what_a_small_subnet_has() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let subnet = subnet(&ec2, &vpc, "10.0.1.0/26").await;
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (ec2, subnet) = (ec2.clone(), subnet.clone());
            tokio::spawn(async move { eni(&ec2, &ecs(), &subnet).await })
        })
        .collect();
    let (mut addresses, mut refusals) = (BTreeSet::new(), 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(eni) => {
                assert!(addresses.insert(eni.private_ip_address.unwrap()), "an address was given twice")
            }
            Err(error) => {
                assert_eq!(error.code, "InsufficientFreeAddressesInSubnet");
                assert_eq!(
                    error.message,
                    "The specified subnet does not have enough free addresses to satisfy the request."
                );
                refusals += 1;
            }
        }
    }
    // Of 64, the first four and the last are AWS's.
    assert_eq!((addresses.len(), refusals), (59, 141));
    assert!(!addresses.contains("10.0.1.3") && !addresses.contains("10.0.1.63"));
    assert_eq!(describe_subnet(&ec2, &subnet).await.available_ip_address_count, Some(0));
}

#[tokio::test]
async fn an_interface_of_a_customer() {
    let ec2 = service();
    let subnet_id = default_subnet(&ec2, &user()).await.subnet_id.unwrap();
    let input = CreateNetworkInterfaceRequest {
        subnet_id: some(&subnet_id),
        description: some("mine"),
        tag_specifications: tagged("network-interface", &[("Name", "one")]),
        ..Default::default()
    };
    let made = ec2.create_network_interface(&user(), input).await.unwrap().network_interface.unwrap();
    assert_eq!(made.status.as_deref(), Some("available"));
    assert_eq!((made.requester_managed, &made.attachment), (Some(false), &None));
    assert_eq!(made.private_ip_address.as_deref(), Some("172.31.0.4"));
    assert_eq!(made.private_dns_name.as_deref(), Some("ip-172-31-0-4.ec2.internal"));
    assert_eq!(made.groups.as_ref().unwrap()[0].group_name.as_deref(), Some("default"));
    assert_eq!(pairs(&made.tag_set), [("Name".to_owned(), "one".to_owned())]);
    assert!(made.mac_address.as_ref().unwrap().starts_with("0a:"));
    let id = made.network_interface_id.clone().unwrap();
    assert_eq!(describe_eni(&ec2, &id).await.unwrap(), made);
    assert_eq!(describe_subnet(&ec2, &subnet_id).await.available_ip_address_count, Some(4090));

    assert_eq!(code(set_public(&ec2, &user(), &id, true).await), "UnsupportedOperation");
    delete_eni(&ec2, &user(), &id).await.unwrap();
    let (code, message) = refused(delete_eni(&ec2, &user(), &id).await);
    assert_eq!(code, "InvalidNetworkInterfaceID.NotFound");
    assert_eq!(message, format!("The networkInterface ID '{id}' does not exist"));
    assert_eq!(describe_subnet(&ec2, &subnet_id).await.available_ip_address_count, Some(4091));
    // The next one does not get the address that was free a moment ago.
    assert_eq!(
        eni(&ec2, &user(), &subnet_id).await.unwrap().private_ip_address.as_deref(),
        Some("172.31.0.5")
    );
}

#[tokio::test]
async fn an_interface_of_a_service_is_its_own() {
    let ec2 = service();
    let subnet = default_subnet(&ec2, &user()).await.subnet_id.unwrap();
    let made = eni(&ec2, &ecs(), &subnet).await.unwrap();
    assert_eq!((made.requester_managed, made.requester_id.as_deref()), (Some(true), Some("amazon-ecs")));
    assert_eq!(made.status.as_deref(), Some("in-use"));
    let attachment = made.attachment.unwrap();
    assert!(attachment.attachment_id.as_ref().unwrap().starts_with("eni-attach-"));
    assert_eq!((attachment.device_index, attachment.status.as_deref()), (Some(1), Some("attached")));
    assert_eq!(attachment.instance_owner_id.as_deref(), Some(ACCOUNT));
    assert_eq!(attachment.attach_time, Some(user().now));

    let id = made.network_interface_id.unwrap();
    let denied =
        ("AuthFailure".to_owned(), "You do not have permission to access the specified resource.".to_owned());
    assert_eq!(refused(delete_eni(&ec2, &user(), &id).await), denied);
    assert_eq!(refused(set_public(&ec2, &user(), &id, true).await), denied);
    let input =
        DetachNetworkInterfaceRequest { attachment_id: attachment.attachment_id, ..Default::default() };
    assert_eq!(code(ec2.detach_network_interface(&user(), input).await), "OperationNotPermitted");
    // Tags are the customer's to give.
    let input = CreateTagsRequest {
        resources: list(&[&id]),
        tags: Some(vec![Tag { key: some("a"), value: some("b") }]),
        ..Default::default()
    };
    ec2.create_tags(&user(), input).await.unwrap();
    delete_eni(&ec2, &ecs(), &id).await.unwrap();
}

#[tokio::test]
async fn a_public_address_for_the_life_of_an_interface() {
    let ec2 = service();
    let subnet = default_subnet(&ec2, &user()).await.subnet_id.unwrap();
    let id = eni(&ec2, &ecs(), &subnet).await.unwrap().network_interface_id.unwrap();
    set_public(&ec2, &ecs(), &id, true).await.unwrap();
    let association = describe_eni(&ec2, &id).await.unwrap().association.unwrap();
    assert_eq!(association.public_ip.as_deref(), Some("127.64.0.1"));
    assert_eq!(association.public_dns_name.as_deref(), Some("ec2-127-64-0-1.compute-1.amazonaws.com"));
    assert_eq!((association.ip_owner_id.as_deref(), association.allocation_id), (Some("amazon"), None));
    // Asked twice is the same once.
    set_public(&ec2, &ecs(), &id, true).await.unwrap();
    assert_eq!(
        describe_eni(&ec2, &id).await.unwrap().association.unwrap().public_ip.as_deref(),
        Some("127.64.0.1")
    );
    let input = DescribeNetworkInterfaceAttributeRequest {
        network_interface_id: some(&id),
        attribute: some("associatePublicIpAddress"),
        ..Default::default()
    };
    let attribute = ec2.describe_network_interface_attribute(&user(), input).await.unwrap();
    assert_eq!(attribute.associate_public_ip_address, Some(true));
    set_public(&ec2, &ecs(), &id, false).await.unwrap();
    assert_eq!(describe_eni(&ec2, &id).await.unwrap().association, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_pool_is_shared_without_doubles_and_given_back() {
    // A /28 has 14 addresses.
    let ec2 = with_pool("127.64.9.0/28");
    let subnet = default_subnet(&ec2, &user()).await.subnet_id.unwrap();
    for round in 0..2 {
        let calls: Vec<_> = (0..40)
            .map(|_| {
                let (ec2, subnet) = (ec2.clone(), subnet.clone());
                tokio::spawn(async move {
                    let id = eni(&ec2, &ecs(), &subnet).await.unwrap().network_interface_id.unwrap();
                    (set_public(&ec2, &ecs(), &id, true).await, id)
                })
            })
            .collect();
        let (mut addresses, mut ids) = (BTreeSet::new(), Vec::new());
        for call in calls {
            let (result, id) = call.await.unwrap();
            match result {
                Ok(()) => {
                    let association = describe_eni(&ec2, &id).await.unwrap().association.unwrap();
                    assert!(addresses.insert(association.public_ip.unwrap()));
                }
                Err(error) => assert_eq!(error.code, "InsufficientAddressCapacity"),
            }
            ids.push(id);
        }
        assert_eq!(addresses.len(), 14, "round {round}");
        for id in ids {
            delete_eni(&ec2, &ecs(), &id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_chosen_address() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let subnet = subnet(&ec2, &vpc, "10.0.1.0/24").await;
    let at = |ip: &str| CreateNetworkInterfaceRequest {
        subnet_id: some(&subnet),
        private_ip_address: some(ip),
        ..Default::default()
    };
    let made =
        ec2.create_network_interface(&user(), at("10.0.1.77")).await.unwrap().network_interface.unwrap();
    assert_eq!(made.private_ip_address.as_deref(), Some("10.0.1.77"));
    let (code_, message) = refused(ec2.create_network_interface(&user(), at("10.0.1.77")).await);
    assert_eq!(
        (code_.as_str(), message.as_str()),
        ("InvalidIPAddress.InUse", "Address 10.0.1.77 is in use.")
    );
    for (ip, message) in [
        ("10.0.1.0", "Address is in subnet's reserved address range"),
        ("10.0.1.255", "Address is in subnet's reserved address range"),
        ("10.0.2.9", "Address does not fall within the subnet's address range"),
        ("ten", "Invalid IPv4 address: ten"),
    ] {
        assert_eq!(refused(ec2.create_network_interface(&user(), at(ip)).await).1, message);
    }
    let input = CreateNetworkInterfaceRequest {
        subnet_id: some(&subnet),
        private_ip_addresses: Some(vec![PrivateIpAddressSpecification {
            primary: Some(true),
            private_ip_address: some("10.0.1.78"),
        }]),
        ..Default::default()
    };
    let made = ec2.create_network_interface(&user(), input).await.unwrap().network_interface.unwrap();
    assert_eq!(made.private_ip_address.as_deref(), Some("10.0.1.78"));
}

#[tokio::test]
async fn refusals() {
    let ec2 = service();
    let (vpc_a, vpc_b) = (vpc(&ec2, "10.0.0.0/16").await, vpc(&ec2, "10.1.0.0/16").await);
    let subnet_a = subnet(&ec2, &vpc_a, "10.0.1.0/24").await;
    let elsewhere = group(&ec2, &vpc_b, "web").await;
    let base = || CreateNetworkInterfaceRequest { subnet_id: some(&subnet_a), ..Default::default() };
    let mut six = Vec::new();
    for n in 0..6 {
        six.push(group(&ec2, &vpc_a, &format!("g{n}")).await);
    }
    for (input, code_) in [
        (
            CreateNetworkInterfaceRequest { subnet_id: some("subnet-00000000"), ..base() },
            "InvalidSubnetID.NotFound",
        ),
        (CreateNetworkInterfaceRequest { subnet_id: some("net"), ..base() }, "InvalidSubnetID.Malformed"),
        (CreateNetworkInterfaceRequest { groups: list(&["sg-00000000"]), ..base() }, "InvalidGroup.NotFound"),
        (CreateNetworkInterfaceRequest { groups: list(&[&elsewhere]), ..base() }, "InvalidParameter"),
        (
            CreateNetworkInterfaceRequest { groups: Some(six), ..base() },
            "SecurityGroupsPerInterfaceLimitExceeded",
        ),
        (CreateNetworkInterfaceRequest { interface_type: some("efa"), ..base() }, "UnsupportedOperation"),
        (CreateNetworkInterfaceRequest { ipv6_address_count: Some(1), ..base() }, "UnsupportedOperation"),
        (
            CreateNetworkInterfaceRequest { secondary_private_ip_address_count: Some(1), ..base() },
            "UnsupportedOperation",
        ),
        (
            CreateNetworkInterfaceRequest { description: some("x".repeat(256)), ..base() },
            "InvalidParameterValue",
        ),
        (
            CreateNetworkInterfaceRequest { tag_specifications: tagged("subnet", &[("a", "b")]), ..base() },
            "InvalidParameterValue",
        ),
        (
            CreateNetworkInterfaceRequest {
                tag_specifications: tagged("network-interface", &[("aws:x", "b")]),
                ..base()
            },
            "InvalidParameterValue",
        ),
        (CreateNetworkInterfaceRequest { dry_run: Some(true), ..base() }, "DryRunOperation"),
    ] {
        assert_eq!(code(ec2.create_network_interface(&user(), input).await), code_);
    }
    assert_eq!(describe_subnet(&ec2, &subnet_a).await.available_ip_address_count, Some(251));
    let input = AttachNetworkInterfaceRequest {
        network_interface_id: eni(&ec2, &user(), &subnet_a).await.unwrap().network_interface_id,
        instance_id: some("i-00000000"),
        ..Default::default()
    };
    assert_eq!(code(ec2.attach_network_interface(&user(), input).await), "InvalidInstanceID.NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_makes_nothing_new() {
    let ec2 = service();
    let subnet = default_subnet(&ec2, &user()).await.subnet_id.unwrap();
    let input = |description: &str| CreateNetworkInterfaceRequest {
        subnet_id: some(&subnet),
        description: some(description),
        client_token: some("token-1"),
        ..Default::default()
    };
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (ec2, input) = (ec2.clone(), input("same"));
            tokio::spawn(async move { ec2.create_network_interface(&user(), input).await.unwrap() })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for call in calls {
        let result = call.await.unwrap();
        assert_eq!(result.client_token.as_deref(), Some("token-1"));
        ids.insert(result.network_interface.unwrap().network_interface_id.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(
        code(ec2.create_network_interface(&user(), input("other")).await),
        "IdempotentParameterMismatch"
    );
    delete_eni(&ec2, &user(), ids.first().unwrap()).await.unwrap();
    ec2.create_network_interface(&user(), input("other")).await.unwrap();
}

#[tokio::test]
async fn attributes() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let subnet = subnet(&ec2, &vpc, "10.0.1.0/24").await;
    let web = group(&ec2, &vpc, "web").await;
    let id = eni(&ec2, &user(), &subnet).await.unwrap().network_interface_id.unwrap();
    let base =
        || ModifyNetworkInterfaceAttributeRequest { network_interface_id: some(&id), ..Default::default() };
    for input in [
        ModifyNetworkInterfaceAttributeRequest {
            description: Some(AttributeValue { value: some("new") }),
            ..base()
        },
        ModifyNetworkInterfaceAttributeRequest {
            source_dest_check: Some(AttributeBooleanValue { value: Some(false) }),
            ..base()
        },
        ModifyNetworkInterfaceAttributeRequest { groups: list(&[&web]), ..base() },
    ] {
        ec2.modify_network_interface_attribute(&user(), input).await.unwrap();
    }
    let both = ModifyNetworkInterfaceAttributeRequest {
        description: Some(AttributeValue { value: some("x") }),
        groups: list(&[&web]),
        ..base()
    };
    assert_eq!(
        code(ec2.modify_network_interface_attribute(&user(), both).await),
        "InvalidParameterCombination"
    );
    assert_eq!(code(ec2.modify_network_interface_attribute(&user(), base()).await), "MissingParameter");
    let found = describe_eni(&ec2, &id).await.unwrap();
    assert_eq!((found.description.as_deref(), found.source_dest_check), (Some("new"), Some(false)));
    assert_eq!(found.groups.unwrap()[0].group_id.as_ref(), Some(&web));

    let (code_, message) = refused(
        ec2.delete_security_group(
            &user(),
            DeleteSecurityGroupRequest { group_id: some(&web), ..Default::default() },
        )
        .await,
    );
    assert_eq!(
        (code_.as_str(), message),
        ("DependencyViolation", format!("resource {web} has a dependent object"))
    );
    let (code_, _) = refused(
        ec2.delete_subnet(&user(), DeleteSubnetRequest { subnet_id: some(&subnet), ..Default::default() })
            .await,
    );
    assert_eq!(code_, "DependencyViolation");

    let input = ResetNetworkInterfaceAttributeRequest {
        network_interface_id: some(&id),
        source_dest_check: some("value"),
        ..Default::default()
    };
    ec2.reset_network_interface_attribute(&user(), input).await.unwrap();
    assert_eq!(describe_eni(&ec2, &id).await.unwrap().source_dest_check, Some(true));
    for attribute in ["description", "groupSet", "sourceDestCheck", "attachment"] {
        let input = DescribeNetworkInterfaceAttributeRequest {
            network_interface_id: some(&id),
            attribute: some(attribute),
            ..Default::default()
        };
        ec2.describe_network_interface_attribute(&user(), input).await.unwrap();
    }
}

/// Whoever is quicker, an interface never stands in a subnet that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn no_interface_outlives_its_subnet() {
    let ec2 = service();
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    for _ in 0..50 {
        let subnet = subnet(&ec2, &vpc, "10.0.1.0/24").await;
        let make = {
            let (ec2, subnet) = (ec2.clone(), subnet.clone());
            tokio::spawn(async move { eni(&ec2, &user(), &subnet).await })
        };
        let input = DeleteSubnetRequest { subnet_id: some(&subnet), ..Default::default() };
        let deleted = ec2.delete_subnet(&user(), input.clone()).await;
        match make.await.unwrap() {
            Ok(eni) => {
                assert_eq!(code(deleted), "DependencyViolation");
                delete_eni(&ec2, &user(), &eni.network_interface_id.unwrap()).await.unwrap();
                ec2.delete_subnet(&user(), input).await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.code, "InvalidSubnetID.NotFound");
                deleted.unwrap();
            }
        }
    }
}
