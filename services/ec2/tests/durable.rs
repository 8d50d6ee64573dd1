//! Over the store that a real server has: commits take time, so that calls really meet.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::*;
use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;
use ferrogate_ec2::{Ec2Options, Ec2Service};
use ferrogate_store::{RedbStore, Store};

fn open(dir: &tempfile::TempDir) -> Arc<Ec2Service> {
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(&dir.path().join("store")).unwrap());
    Arc::new(Ec2Service::new(store, Ec2Options::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_meet_share_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let ec2 = open(&dir);
    let first: Vec<_> = (0..20)
        .map(|_| {
            let ec2 = Arc::clone(&ec2);
            tokio::spawn(async move { default_vpc(&ec2, &user()).await.vpc_id })
        })
        .collect();
    let mut vpcs = BTreeSet::new();
    for call in first {
        vpcs.insert(call.await.unwrap());
    }
    assert_eq!(vpcs.len(), 1);

    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    let subnet = subnet(&ec2, &vpc, "10.0.1.0/26").await;
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (ec2, subnet) = (Arc::clone(&ec2), subnet.clone());
            tokio::spawn(async move {
                let id = eni(&ec2, &ecs(), &subnet).await?.network_interface_id.unwrap();
                set_public(&ec2, &ecs(), &id, true).await?;
                describe_eni(&ec2, &id).await
            })
        })
        .collect();
    let (mut private, mut public) = (BTreeSet::new(), BTreeSet::new());
    for call in calls {
        let result: Result<_, ApiError> = call.await.unwrap();
        match result {
            Ok(eni) => {
                assert!(private.insert(eni.private_ip_address.unwrap()));
                assert!(public.insert(eni.association.unwrap().public_ip.unwrap()));
            }
            Err(error) => assert_eq!(error.code, "InsufficientFreeAddressesInSubnet"),
        }
    }
    assert_eq!(private.len(), 59);
}

/// Whoever is quicker, no interface is in a group or subnet that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn deletions_and_interfaces_do_not_cross() {
    let dir = tempfile::tempdir().unwrap();
    let ec2 = open(&dir);
    let vpc = vpc(&ec2, "10.0.0.0/16").await;
    for _ in 0..20 {
        let subnet = subnet(&ec2, &vpc, "10.0.1.0/24").await;
        let group = group(&ec2, &vpc, "web").await;
        let make = {
            let input = CreateNetworkInterfaceRequest {
                subnet_id: some(&subnet),
                groups: list(&[&group]),
                ..Default::default()
            };
            let ec2 = Arc::clone(&ec2);
            tokio::spawn(async move { ec2.create_network_interface(&user(), input).await })
        };
        let deletion = {
            let (ec2, group) = (Arc::clone(&ec2), group.clone());
            tokio::spawn(async move { delete_group(&ec2, &group).await })
        };
        let subnet_gone = delete_subnet(&ec2, &subnet).await.is_ok();
        let group_gone = deletion.await.unwrap().is_ok();
        match make.await.unwrap() {
            Ok(made) => {
                assert!(!subnet_gone && !group_gone, "an interface in what is gone");
                let id = made.network_interface.unwrap().network_interface_id.unwrap();
                delete_eni(&ec2, &user(), &id).await.unwrap();
            }
            Err(error) => assert!(error.code.ends_with(".NotFound"), "{error}"),
        }
        if !group_gone {
            delete_group(&ec2, &group).await.unwrap();
        }
        if !subnet_gone {
            delete_subnet(&ec2, &subnet).await.unwrap();
        }
    }
}

async fn delete_group(ec2: &Ec2Service, id: &str) -> Result<(), ApiError> {
    let input = DeleteSecurityGroupRequest { group_id: some(id), ..Default::default() };
    ec2.delete_security_group(&user(), input).await.map(drop)
}

async fn delete_subnet(ec2: &Ec2Service, id: &str) -> Result<(), ApiError> {
    let input = DeleteSubnetRequest { subnet_id: some(id), ..Default::default() };
    ec2.delete_subnet(&user(), input).await.map(drop)
}
