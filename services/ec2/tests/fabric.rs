//! The fabric follows the records.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use ferrogate_api::ec2::*;
use ferrogate_ec2::{Ec2Options, Ec2Service};
use ferrogate_nodeapi::{Fabric, Peer};
use ferrogate_store::{MemoryStore, Store};
use tokio::sync::watch;

/// Waits for the fabric to be so; the deadline is for a broken one only.
async fn until(
    fabric: &mut watch::Receiver<Arc<Fabric>>,
    is: impl FnMut(&Arc<Fabric>) -> bool,
) -> Arc<Fabric> {
    let found = tokio::time::timeout(Duration::from_secs(20), fabric.wait_for(is)).await;
    Arc::clone(&found.expect("the fabric should get there").expect("the service lives"))
}

#[tokio::test]
async fn an_interface_and_its_rules_appear_and_go() {
    let ec2 = service();
    let mut fabric = ec2.fabric();
    assert!(fabric.borrow().vpcs.is_empty());
    let subnet = default_subnet(&ec2, &user()).await;
    let made = eni(&ec2, &ecs(), subnet.subnet_id.as_ref().unwrap()).await.unwrap();
    let id = made.network_interface_id.unwrap();
    let seen = until(&mut fabric, |fabric| !fabric.vpcs.is_empty()).await;
    let vpc = &seen.vpcs[0];
    assert_eq!((vpc.vpc_id.as_str(), vpc.enis.len()), (subnet.vpc_id.as_deref().unwrap(), 1));
    assert_eq!(vpc.enis[0].private_ip.to_string(), made.private_ip_address.unwrap());
    assert_eq!((vpc.subnets.len(), vpc.route_tables.len(), vpc.network_acls.len()), (3, 1, 1));
    assert!(vpc.internet_gateway.is_some());

    set_public(&ec2, &ecs(), &id, true).await.unwrap();
    until(&mut fabric, |fabric| fabric.vpcs[0].enis[0].public_ip.is_some()).await;
    let group_id = vpc.enis[0].security_group_ids[0].clone();
    authorize(&ec2, &group_id, permission("tcp", 80, 80, "0.0.0.0/0")).await.unwrap();
    let seen = until(&mut fabric, |fabric| fabric.vpcs[0].security_groups[0].ingress.len() == 2).await;
    assert!(
        seen.vpcs[0].security_groups[0].ingress.iter().any(|rule| rule.peer == Peer::Group(group_id.clone()))
    );
    let input = RevokeSecurityGroupIngressRequest {
        group_id: some(&group_id),
        ip_permissions: Some(vec![permission("tcp", 80, 80, "0.0.0.0/0")]),
        ..Default::default()
    };
    ec2.revoke_security_group_ingress(&user(), input).await.unwrap();
    until(&mut fabric, |fabric| fabric.vpcs[0].security_groups[0].ingress.len() == 1).await;
    delete_eni(&ec2, &ecs(), &id).await.unwrap();
    until(&mut fabric, |fabric| fabric.vpcs.is_empty()).await;
}

#[tokio::test]
async fn a_new_service_over_the_same_store_has_the_same_fabric() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let first = Ec2Service::new(Arc::clone(&store), Ec2Options::default());
    let subnet = default_subnet(&first, &user()).await.subnet_id.unwrap();
    for _ in 0..3 {
        eni(&first, &ecs(), &subnet).await.unwrap();
    }
    let seen =
        until(&mut first.fabric(), |fabric| fabric.vpcs.first().is_some_and(|vpc| vpc.enis.len() == 3)).await;
    drop(first);
    let second = Ec2Service::new(store, Ec2Options::default());
    assert_eq!(*second.fabric().borrow(), seen);
    eni(&second, &ecs(), &subnet).await.unwrap();
    until(&mut second.fabric(), |fabric| fabric.vpcs[0].enis.len() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_interfaces() {
    let ec2 = service();
    let subnet = default_subnet(&ec2, &user()).await.subnet_id.unwrap();
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let (ec2, subnet) = (ec2.clone(), subnet.clone());
            tokio::spawn(async move { eni(&ec2, &ecs(), &subnet).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let mut fabric = ec2.fabric();
    let seen =
        until(&mut fabric, |fabric| fabric.vpcs.first().is_some_and(|vpc| vpc.enis.len() == 1000)).await;
    let mut addresses: Vec<_> = seen.vpcs[0].enis.iter().map(|eni| eni.private_ip).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 1000);
}
