//! Elastic IP addresses.

mod common;

use common::*;
use ferrogate_api::ec2::*;

#[tokio::test]
async fn an_address_from_first_to_last() {
    let (ec2, cx) = (service(), user());
    let subnet_id = default_subnet(&ec2, &cx).await.subnet_id.unwrap();
    let input = AllocateAddressRequest {
        tag_specifications: tagged("elastic-ip", &[("a", "b")]),
        ..Default::default()
    };
    let made = ec2.allocate_address(&cx, input).await.unwrap();
    assert_eq!((made.domain.as_deref(), made.public_ip.as_deref()), (Some("vpc"), Some("127.64.0.1")));
    let allocation_id = made.allocation_id.unwrap();
    let (one, two) = (eni(&ec2, &cx, &subnet_id).await.unwrap(), eni(&ec2, &cx, &subnet_id).await.unwrap());
    let associate = |eni: &NetworkInterface| AssociateAddressRequest {
        allocation_id: some(&allocation_id),
        network_interface_id: eni.network_interface_id.clone(),
        ..Default::default()
    };
    let association_id = ec2.associate_address(&cx, associate(&one)).await.unwrap().association_id;
    let found =
        describe_eni(&ec2, one.network_interface_id.as_ref().unwrap()).await.unwrap().association.unwrap();
    assert_eq!(
        (found.public_ip.as_deref(), found.ip_owner_id.as_deref()),
        (Some("127.64.0.1"), Some(ACCOUNT))
    );
    assert_eq!(found.association_id, association_id);
    assert_eq!(code(ec2.associate_address(&cx, associate(&two)).await), "Resource.AlreadyAssociated");
    let moved = AssociateAddressRequest { allow_reassociation: Some(true), ..associate(&two) };
    let association_id = ec2.associate_address(&cx, moved).await.unwrap().association_id;
    assert_eq!(
        describe_eni(&ec2, one.network_interface_id.as_ref().unwrap()).await.unwrap().association,
        None
    );

    let release = || ReleaseAddressRequest { allocation_id: some(&allocation_id), ..Default::default() };
    let (code_, message) = refused(ec2.release_address(&cx, release()).await);
    assert_eq!(
        (code_.as_str(), message.as_str()),
        ("InvalidIPAddress.InUse", "Address 127.64.0.1 is in use.")
    );
    let input = DescribeAddressesRequest {
        filters: filters(&[("network-interface-id", two.network_interface_id.as_ref().unwrap())]),
        ..Default::default()
    };
    let found = ec2.describe_addresses(&cx, input).await.unwrap().addresses.unwrap();
    assert_eq!(
        (found[0].allocation_id.as_ref(), &found[0].association_id),
        (Some(&allocation_id), &association_id)
    );
    ec2.disassociate_address(&cx, DisassociateAddressRequest { association_id, ..Default::default() })
        .await
        .unwrap();
    ec2.release_address(&cx, release()).await.unwrap();
    assert_eq!(code(ec2.release_address(&cx, release()).await), "InvalidAllocationID.NotFound");
}

#[tokio::test]
async fn an_address_stays_when_its_interface_goes() {
    let (ec2, cx) = (service(), user());
    let subnet_id = default_subnet(&ec2, &cx).await.subnet_id.unwrap();
    let allocation_id = ec2.allocate_address(&cx, Default::default()).await.unwrap().allocation_id;
    let eni = eni(&ec2, &cx, &subnet_id).await.unwrap().network_interface_id.unwrap();
    let input =
        AssociateAddressRequest { allocation_id, network_interface_id: some(&eni), ..Default::default() };
    ec2.associate_address(&cx, input).await.unwrap();
    delete_eni(&ec2, &cx, &eni).await.unwrap();
    let found = ec2.describe_addresses(&cx, Default::default()).await.unwrap().addresses.unwrap();
    assert_eq!((found.len(), &found[0].association_id), (1, &None));
}

#[tokio::test]
async fn without_a_gateway_there_is_no_way_to_an_address() {
    let (ec2, cx) = (service(), user());
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let subnet = subnet(&ec2, &vpc, "10.0.1.0/24").await;
    let allocation_id = ec2.allocate_address(&cx, Default::default()).await.unwrap().allocation_id;
    let eni = eni(&ec2, &cx, &subnet).await.unwrap().network_interface_id;
    let input = AssociateAddressRequest { allocation_id, network_interface_id: eni, ..Default::default() };
    let (code_, message) = refused(ec2.associate_address(&cx, input).await);
    assert_eq!(
        (code_.as_str(), message),
        ("Gateway.NotAttached", format!("Network {vpc} is not attached to any internet gateway"))
    );
}

#[tokio::test]
async fn wishes_and_unknowns() {
    let (ec2, cx) = (service(), user());
    let wish = |ip: &str| AllocateAddressRequest { address: some(ip), ..Default::default() };
    let made = ec2.allocate_address(&cx, wish("127.64.7.7")).await.unwrap();
    assert_eq!(made.public_ip.as_deref(), Some("127.64.7.7"));
    assert_eq!(code(ec2.allocate_address(&cx, wish("127.64.7.7")).await), "AddressLimitExceeded");
    assert_eq!(code(ec2.allocate_address(&cx, wish("192.0.2.1")).await), "InvalidAddress.NotFound");
    for (ip, code_) in [("192.0.2.1", "InvalidAddress.NotFound"), ("x", "InvalidAddress.Malformed")] {
        let input = DescribeAddressesRequest { public_ips: list(&[ip]), ..Default::default() };
        assert_eq!(code(ec2.describe_addresses(&cx, input).await), code_);
    }
    let input = DescribeAddressesRequest { public_ips: list(&["127.64.7.7"]), ..Default::default() };
    assert_eq!(ec2.describe_addresses(&cx, input).await.unwrap().addresses.unwrap().len(), 1);
    let input = ReleaseAddressRequest { public_ip: some("127.64.7.7"), ..Default::default() };
    ec2.release_address(&cx, input).await.unwrap();
    let input = DescribeAddressesAttributeRequest { attribute: some("domain-name"), ..Default::default() };
    assert_eq!(ec2.describe_addresses_attribute(&cx, input).await.unwrap().addresses, Some(Vec::new()));
}
