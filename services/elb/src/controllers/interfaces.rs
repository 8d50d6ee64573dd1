//! The balancers' network interfaces, by EC2's API and in ELB's own name; and balancers' states.
//!
//! A network load balancer without security groups lets everything in. An interface has to have a group, so such a
//! balancer gets one of its own, named as its interfaces are described, which goes when they go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::{ApiError, ec2};
use ferrogate_control::{Activation, Controller};
use ferrogate_store::{Json, Txn};
use serde_json::json;

use crate::ElbService;
use crate::plan::interfaces::plan;
use crate::state::*;

const PERIOD: Duration = Duration::from_secs(30);

pub(crate) struct Interfaces(pub(crate) Arc<ElbService>);

#[derive(Default)]
struct Seen {
    balancers: Vec<BalancerRecord>,
    interfaces: Vec<InterfaceRecord>,
    /// (balancer, zone)
    active: BTreeSet<(String, String)>,
    status: BTreeMap<String, StatusRecord>,
}

#[async_trait::async_trait]
impl Controller for Interfaces {
    fn name(&self) -> &'static str {
        "elb-interfaces"
    }

    fn prefixes(&self) -> Vec<String> {
        vec![PREFIX.into()]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let mut failures = Vec::new();
        let mut acted = 0;
        for (scope, seen) in self.observe() {
            let done = seen.status.iter().filter(|(_, status)| **status == StatusRecord::Active);
            let done: BTreeSet<String> = done.map(|(id, _)| id.clone()).collect();
            let plan = plan(&seen.balancers, &seen.interfaces, &seen.active, &done);
            acted += plan.make.len() + plan.regroup.len() + plan.delete.len() + plan.activate.len();
            // What goes first makes room for what comes.
            for interface in &plan.delete {
                if let Err(error) = self.delete(&scope, interface).await {
                    failures.push(format!("{}: {error}", interface.eni_id));
                }
            }
            let mut failed = BTreeMap::new();
            for (balancer, zone) in &plan.make {
                if let Err(error) = Box::pin(self.make(balancer, zone)).await {
                    failures.push(format!("{} in {}: {error}", balancer.arn(), zone.subnet_id));
                    failed.insert(balancer.id.clone(), error.message);
                }
            }
            for (interface, groups) in plan.regroup.clone() {
                if let Err(error) = self.regroup(&scope, interface, groups).await {
                    failures.push(error.to_string());
                }
            }
            let mut changes: Vec<(String, StatusRecord)> = Vec::new();
            changes.extend(plan.activate.iter().map(|balancer| (balancer.id.clone(), StatusRecord::Active)));
            failed.retain(|id, _| !done.contains(id));
            changes.extend(failed.into_iter().map(|(id, reason)| (id, StatusRecord::Failed { reason })));
            for (id, status) in changes {
                if seen.status.get(&id) == Some(&status) {
                    continue;
                }
                let txn = Txn::new().when_present(scope.key(Kind::Balancer, &id));
                if let Err(error) =
                    self.0.store.txn(txn.put_json(scope.key(Kind::Status, &id), &status)).await
                {
                    failures.push(error.to_string());
                }
            }
        }
        if failures.is_empty() {
            return Activation::done(json!({ "acted": acted }));
        }
        Activation::failed(failures.join("; "))
    }
}

impl Interfaces {
    fn observe(&self) -> BTreeMap<Scope, Seen> {
        let mut all: BTreeMap<Scope, Seen> = BTreeMap::new();
        for kv in self.0.store.range(PREFIX).iter() {
            let Some((scope, kind, id)) = Scope::parse(&kv.key) else { continue };
            let seen = all.entry(scope).or_default();
            match kind {
                Kind::Balancer => seen.balancers.extend(Json::parse(kv).map(|found| found.record)),
                Kind::Interface => seen.interfaces.extend(Json::parse(kv).map(|found| found.record)),
                Kind::Status => {
                    seen.status.extend(Json::parse(kv).map(|found| (id.to_owned(), found.record)));
                }
                Kind::Node => {
                    let active = Json::<NodeRecord>::parse(kv).is_some_and(|found| found.record.active);
                    let zone = id.split_once('/').filter(|_| active);
                    seen.active.extend(zone.map(|(balancer, zone)| (balancer.to_owned(), zone.to_owned())));
                }
                _ => {}
            }
        }
        all
    }

    /// Finds or makes the interface, gives it its public address and writes it down. However often this is begun,
    /// there is one.
    async fn make(&self, balancer: &BalancerRecord, zone: &ZoneRecord) -> Result<(), ApiError> {
        let client = self.0.ec2(&balancer.scope);
        let description = format!("ELB {}", balancer.path());
        let own_group = match balancer.security_groups.is_empty() {
            true => Some(open_group(&client, balancer, &description).await?),
            false => None,
        };
        let groups = own_group.map_or_else(|| balancer.security_groups.clone(), |group| vec![group]);
        let eni = match find(&client, &description, &zone.subnet_id).await? {
            Some(eni) => eni,
            None => {
                let request = ec2::CreateNetworkInterfaceRequest {
                    subnet_id: Some(zone.subnet_id.clone()),
                    description: Some(description),
                    groups: Some(groups),
                    private_ip_address: zone.private_ip.map(|ip| ip.to_string()),
                    ..Default::default()
                };
                client.create_network_interface(request).await?.network_interface.unwrap_or_default()
            }
        };
        let private_ip = eni.private_ip_address.as_deref().and_then(|ip| ip.parse().ok());
        let (Some(eni_id), Some(mac), Some(private_ip)) =
            (eni.network_interface_id, eni.mac_address, private_ip)
        else {
            tracing::error!(
                balancer = balancer.arn(),
                "EC2 answered with an interface that lacks its id, MAC or address"
            );
            return Err(ApiError::internal());
        };
        let mut public_ip = public_address(eni.association.as_ref());
        if public_ip.is_none() && !balancer.internal {
            associate(&client, &eni_id, zone.allocation_id.clone()).await?;
            public_ip = public_address(describe(&client, &eni_id).await?.association.as_ref());
        }
        let record = InterfaceRecord {
            balancer_id: balancer.id.clone(),
            zone: zone.zone.clone(),
            vpc_id: balancer.vpc_id.clone(),
            subnet_id: zone.subnet_id.clone(),
            subnet_cidr: zone.subnet_cidr,
            vpc_cidr: zone.vpc_cidr,
            eni_id,
            mac,
            private_ip,
            public_ip,
            allocation_id: zone.allocation_id.clone(),
            security_groups: balancer.security_groups.clone(),
        };
        let key = balancer.scope.key(Kind::Interface, &format!("{}/{}", balancer.id, zone.subnet_id));
        let written = self.0.store.txn(Txn::new().put_json(key, &record)).await;
        written.map(drop).map_err(crate::errors::failed)
    }

    async fn regroup(
        &self,
        scope: &Scope,
        mut interface: InterfaceRecord,
        groups: Vec<String>,
    ) -> Result<(), ApiError> {
        let request = ec2::ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: Some(interface.eni_id.clone()),
            groups: Some(groups.clone()),
            ..Default::default()
        };
        self.0.ec2(scope).modify_network_interface_attribute(request).await?;
        interface.security_groups = groups;
        let key = scope.key(Kind::Interface, &format!("{}/{}", interface.balancer_id, interface.subnet_id));
        let written =
            self.0.store.txn(Txn::new().when_present(key.as_str()).put_json(key.as_str(), &interface)).await;
        written.map(drop).map_err(crate::errors::failed)
    }

    /// One that is gone already is a success.
    async fn delete(&self, scope: &Scope, interface: &InterfaceRecord) -> Result<(), ApiError> {
        let client = self.0.ec2(scope);
        let before = describe(&client, &interface.eni_id).await;
        let request = ec2::DeleteNetworkInterfaceRequest {
            network_interface_id: Some(interface.eni_id.clone()),
            ..Default::default()
        };
        match client.delete_network_interface(request).await {
            Ok(_) => {}
            Err(error) if error.code == "InvalidNetworkInterfaceID.NotFound" => {}
            Err(error) => return Err(error),
        }
        if interface.security_groups.is_empty() {
            // Its own group; the last interface takes it along. (One that is still in use stays until then.)
            let before = before.unwrap_or_default();
            let mut own = before.groups.unwrap_or_default();
            own.retain(|group| group.group_name.is_some() && group.group_name == before.description);
            for group in own {
                let request =
                    ec2::DeleteSecurityGroupRequest { group_id: group.group_id, ..Default::default() };
                match client.delete_security_group(request).await {
                    Ok(_) => {}
                    Err(error)
                        if matches!(error.code.as_str(), "DependencyViolation" | "InvalidGroup.NotFound") => {
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let key = scope.key(Kind::Interface, &format!("{}/{}", interface.balancer_id, interface.subnet_id));
        self.0.store.txn(Txn::new().delete(key)).await.map(drop).map_err(crate::errors::failed)
    }
}

fn public_address(association: Option<&ec2::NetworkInterfaceAssociation>) -> Option<Ipv4Addr> {
    association?.public_ip.as_deref()?.parse().ok()
}

fn filter(name: &str, value: &str) -> ec2::Filter {
    ec2::Filter { name: Some(name.into()), values: Some(vec![value.to_owned()]) }
}

async fn find(
    client: &ec2::Client,
    description: &str,
    subnet_id: &str,
) -> Result<Option<ec2::NetworkInterface>, ApiError> {
    let request = ec2::DescribeNetworkInterfacesRequest {
        filters: Some(vec![filter("description", description), filter("subnet-id", subnet_id)]),
        ..Default::default()
    };
    let answer = client.describe_network_interfaces(request).await?;
    Ok(answer.network_interfaces.unwrap_or_default().into_iter().next())
}

async fn describe(client: &ec2::Client, eni_id: &str) -> Result<ec2::NetworkInterface, ApiError> {
    let request = ec2::DescribeNetworkInterfacesRequest {
        network_interface_ids: Some(vec![eni_id.to_owned()]),
        ..Default::default()
    };
    let answer = client.describe_network_interfaces(request).await?;
    answer.network_interfaces.unwrap_or_default().into_iter().next().ok_or_else(ApiError::internal)
}

async fn associate(
    client: &ec2::Client,
    eni_id: &str,
    allocation_id: Option<String>,
) -> Result<(), ApiError> {
    match allocation_id {
        Some(allocation_id) => {
            let request = ec2::AssociateAddressRequest {
                allocation_id: Some(allocation_id),
                network_interface_id: Some(eni_id.to_owned()),
                ..Default::default()
            };
            client.associate_address(request).await.map(drop)
        }
        None => {
            let request = ec2::ModifyNetworkInterfaceAttributeRequest {
                network_interface_id: Some(eni_id.to_owned()),
                associate_public_ip_address: Some(true),
                ..Default::default()
            };
            client.modify_network_interface_attribute(request).await.map(drop)
        }
    }
}

/// The group of a balancer that has none: everything may come in.
async fn open_group(client: &ec2::Client, balancer: &BalancerRecord, name: &str) -> Result<String, ApiError> {
    let request = ec2::DescribeSecurityGroupsRequest {
        filters: Some(vec![filter("group-name", name), filter("vpc-id", &balancer.vpc_id)]),
        ..Default::default()
    };
    let found = client.describe_security_groups(request).await?.security_groups.unwrap_or_default();
    let group_id = match found.into_iter().next().and_then(|group| group.group_id) {
        Some(group_id) => group_id,
        None => {
            let request = ec2::CreateSecurityGroupRequest {
                group_name: Some(name.to_owned()),
                description: Some("Of a network load balancer without security groups".into()),
                vpc_id: Some(balancer.vpc_id.clone()),
                ..Default::default()
            };
            client.create_security_group(request).await?.group_id.ok_or_else(ApiError::internal)?
        }
    };
    let anything = ec2::IpPermission {
        ip_protocol: Some("-1".into()),
        ip_ranges: Some(vec![ec2::IpRange { cidr_ip: Some("0.0.0.0/0".into()), description: None }]),
        ..Default::default()
    };
    let request = ec2::AuthorizeSecurityGroupIngressRequest {
        group_id: Some(group_id.clone()),
        ip_permissions: Some(vec![anything]),
        ..Default::default()
    };
    match client.authorize_security_group_ingress(request).await {
        Ok(_) => Ok(group_id),
        Err(error) if error.code == "InvalidPermission.Duplicate" => Ok(group_id),
        Err(error) => Err(error),
    }
}
