//! ELB over a store in memory, with as much of EC2, ACM and IAM as it asks for.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ferrogate_api::elbv2::*;
use ferrogate_api::{
    ApiError, BoxFuture, Call, Caller, Context, Invoke, Principal, PrincipalKind, Shape, Value,
};
use ferrogate_api::{acm, ec2};
use ferrogate_elb::{ElbOptions, ElbService};
use ferrogate_model::{Clock, ManualClock};
use ferrogate_nodeapi::{Anomaly, BalancerAssignment, BalancerReport, TargetObservation, TargetState};
use ferrogate_store::{MemoryStore, Store};
use tempfile::TempDir;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const CERTIFICATE: &str = "arn:aws:acm:us-east-1:123456789012:certificate/one";
pub(crate) const CERTIFICATE_2: &str = "arn:aws:acm:us-east-1:123456789012:certificate/two";

/// A VPC 10.0.0.0/16 with three subnets in three zones, and what ELB does in it.
#[derive(Default)]
pub(crate) struct Neighbours {
    pub(crate) interfaces: Mutex<BTreeMap<String, ec2::NetworkInterface>>,
    pub(crate) groups: Mutex<BTreeMap<String, ec2::SecurityGroup>>,
    made: std::sync::atomic::AtomicUsize,
    /// Elastic IP addresses `eipalloc-1` to `eipalloc-4` that interfaces have: allocation → interface.
    pub(crate) associations: Mutex<BTreeMap<String, String>>,
    /// Messages with which making an interface is refused.
    pub(crate) no_interfaces: Mutex<Option<String>>,
}

fn some(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

impl Neighbours {
    fn values(filters: &Option<Vec<ec2::Filter>>, name: &str) -> Option<Vec<String>> {
        let filter = filters.iter().flatten().find(|filter| filter.name.as_deref() == Some(name))?;
        filter.values.clone()
    }

    fn answer(&self, call: &Call) -> Result<Value, ApiError> {
        let input = || call.input.clone();
        Ok(match (call.service, call.operation) {
            ("ec2", "DescribeSubnets") => {
                self.subnets(ec2::DescribeSubnetsRequest::from_value(input()).unwrap())?.to_value()
            }
            ("ec2", "DescribeVpcs") => {
                let vpc = ec2::Vpc { cidr_block: some("10.0.0.0/16"), ..Default::default() };
                let request = ec2::DescribeVpcsRequest::from_value(input()).unwrap();
                if request.vpc_ids.unwrap() != ["vpc-1"] {
                    return Err(ApiError::new("InvalidVpcID.NotFound", "The vpc ID does not exist"));
                }
                ec2::DescribeVpcsResult { vpcs: Some(vec![vpc]), ..Default::default() }.to_value()
            }
            ("ec2", "DescribeInternetGateways") => ec2::DescribeInternetGatewaysResult {
                internet_gateways: Some(vec![ec2::InternetGateway::default()]),
                ..Default::default()
            }
            .to_value(),
            ("ec2", "DescribeSecurityGroups") => {
                let request = ec2::DescribeSecurityGroupsRequest::from_value(input()).unwrap();
                self.security_groups(&request)?.to_value()
            }
            ("ec2", "CreateSecurityGroup") => {
                let request = ec2::CreateSecurityGroupRequest::from_value(input()).unwrap();
                let id = "sg-own".to_owned();
                let group = ec2::SecurityGroup {
                    group_id: some(&*id),
                    group_name: request.group_name,
                    vpc_id: request.vpc_id,
                    ..Default::default()
                };
                self.groups.lock().unwrap().insert(id.clone(), group);
                ec2::CreateSecurityGroupResult { group_id: Some(id), ..Default::default() }.to_value()
            }
            ("ec2", "AuthorizeSecurityGroupIngress") => {
                ec2::AuthorizeSecurityGroupIngressResult::default().to_value()
            }
            ("ec2", "DeleteSecurityGroup") => {
                let id = call.input.get_str("GroupId").unwrap().to_owned();
                let used =
                    self.interfaces.lock().unwrap().values().any(|eni| {
                        eni.groups.iter().flatten().any(|group| group.group_id.as_ref() == Some(&id))
                    });
                if used {
                    return Err(ApiError::new("DependencyViolation", "in use"));
                }
                self.groups.lock().unwrap().remove(&id);
                ec2::DeleteSecurityGroupResult::default().to_value()
            }
            ("ec2", "CreateNetworkInterface") => {
                self.create(ec2::CreateNetworkInterfaceRequest::from_value(input()).unwrap())?.to_value()
            }
            ("ec2", "DescribeNetworkInterfaces") => {
                let request = ec2::DescribeNetworkInterfacesRequest::from_value(input()).unwrap();
                let description = Self::values(&request.filters, "description");
                let subnet = Self::values(&request.filters, "subnet-id");
                let fits = |wanted: &Option<Vec<String>>, has: &Option<String>| {
                    wanted.as_ref().is_none_or(|wanted| has.as_ref().is_some_and(|has| wanted.contains(has)))
                };
                let all = self.interfaces.lock().unwrap();
                let found = all.values().filter(|eni| {
                    fits(&description, &eni.description)
                        && fits(&subnet, &eni.subnet_id)
                        && fits(&request.network_interface_ids, &eni.network_interface_id)
                });
                ec2::DescribeNetworkInterfacesResult {
                    network_interfaces: Some(found.cloned().collect()),
                    ..Default::default()
                }
                .to_value()
            }
            ("ec2", "ModifyNetworkInterfaceAttribute") => {
                let request = ec2::ModifyNetworkInterfaceAttributeRequest::from_value(input()).unwrap();
                let mut all = self.interfaces.lock().unwrap();
                let eni = all.get_mut(&request.network_interface_id.unwrap()).unwrap();
                if request.associate_public_ip_address == Some(true) {
                    let last =
                        eni.private_ip_address.as_ref().unwrap().rsplit('.').next().unwrap().to_owned();
                    let association = ec2::NetworkInterfaceAssociation {
                        public_ip: some(format!("127.64.0.{last}")),
                        ..Default::default()
                    };
                    eni.association = Some(association);
                }
                if let Some(groups) = request.groups {
                    eni.groups = Some(identifiers(&groups));
                }
                ec2::ModifyNetworkInterfaceAttributeNoOutput::default().to_value()
            }
            ("ec2", "DescribeAddresses") => {
                let request = ec2::DescribeAddressesRequest::from_value(input()).unwrap();
                self.addresses(&request.allocation_ids.unwrap())?.to_value()
            }
            ("ec2", "AssociateAddress") => {
                let request = ec2::AssociateAddressRequest::from_value(input()).unwrap();
                let (id, eni) = (request.allocation_id.unwrap(), request.network_interface_id.unwrap());
                let association = ec2::NetworkInterfaceAssociation {
                    public_ip: some(format!("127.64.1.{}", id.rsplit('-').next().unwrap())),
                    ..Default::default()
                };
                let mut all = self.interfaces.lock().unwrap();
                all.get_mut(&eni).unwrap().association = Some(association);
                assert_eq!(self.associations.lock().unwrap().insert(id, eni), None);
                ec2::AssociateAddressResult::default().to_value()
            }
            ("ec2", "DeleteNetworkInterface") => {
                let id = call.input.get_str("NetworkInterfaceId").unwrap();
                self.interfaces.lock().unwrap().remove(id);
                self.associations.lock().unwrap().retain(|_, eni| eni != id);
                ec2::DeleteNetworkInterfaceNoOutput::default().to_value()
            }
            ("acm", "DescribeCertificate") => match call.input.get_str("CertificateArn") {
                Some(CERTIFICATE | CERTIFICATE_2) => acm::DescribeCertificateResponse::default().to_value(),
                _ => return Err(ApiError::new("ResourceNotFoundException", "Could not find certificate")),
            },
            ("iam", "GetServerCertificate") => return Err(ApiError::new("NoSuchEntity", "cannot be found")),
            other => panic!("ELB called {other:?}"),
        })
    }

    fn subnets(&self, request: ec2::DescribeSubnetsRequest) -> Result<ec2::DescribeSubnetsResult, ApiError> {
        let subnet = |n: usize| ec2::Subnet {
            subnet_id: some(format!("subnet-{n}")),
            vpc_id: some("vpc-1"),
            availability_zone: some(format!("us-east-1{}", ["a", "b", "c", "a"][n - 1])),
            cidr_block: some(format!("10.0.{n}.0/24")),
            ..Default::default()
        };
        let all: Vec<ec2::Subnet> = (1..=4).map(subnet).collect();
        let wanted = request.subnet_ids.unwrap_or_default();
        for id in &wanted {
            if !all.iter().any(|subnet| subnet.subnet_id.as_ref() == Some(id)) {
                let message = format!("The subnet ID '{id}' does not exist");
                return Err(ApiError::new("InvalidSubnetID.NotFound", message));
            }
        }
        let found = all.into_iter().filter(|subnet| {
            wanted.is_empty() || subnet.subnet_id.as_ref().is_some_and(|id| wanted.contains(id))
        });
        Ok(ec2::DescribeSubnetsResult { subnets: Some(found.collect()), ..Default::default() })
    }

    fn addresses(&self, ids: &[String]) -> Result<ec2::DescribeAddressesResult, ApiError> {
        let taken = self.associations.lock().unwrap();
        let address = |id: &String| {
            let known = ["eipalloc-1", "eipalloc-2", "eipalloc-3", "eipalloc-4"].contains(&id.as_str());
            let no = || ApiError::new("InvalidAllocationID.NotFound", format!("no allocation ID '{id}'"));
            let found = ec2::Address {
                allocation_id: some(id),
                association_id: taken.get(id).map(|eni| format!("eipassoc-{eni}")),
                ..Default::default()
            };
            known.then_some(found).ok_or_else(no)
        };
        let found = ids.iter().map(address).collect::<Result<_, _>>()?;
        Ok(ec2::DescribeAddressesResult { addresses: Some(found) })
    }

    fn security_groups(
        &self,
        request: &ec2::DescribeSecurityGroupsRequest,
    ) -> Result<ec2::DescribeSecurityGroupsResult, ApiError> {
        let group = |id: &str, name: &str| ec2::SecurityGroup {
            group_id: some(id),
            group_name: some(name),
            vpc_id: some("vpc-1"),
            ..Default::default()
        };
        let mut all = vec![group("sg-default", "default"), group("sg-1", "one"), group("sg-2", "two")];
        all.extend(self.groups.lock().unwrap().values().cloned());
        for id in request.group_ids.iter().flatten() {
            if !all.iter().any(|group| group.group_id.as_ref() == Some(id)) {
                return Err(ApiError::new(
                    "InvalidGroup.NotFound",
                    format!("The security group '{id}' does not exist"),
                ));
            }
        }
        if let Some(ids) = &request.group_ids {
            all.retain(|group| group.group_id.as_ref().is_some_and(|id| ids.contains(id)));
        }
        if let Some(names) = Self::values(&request.filters, "group-name") {
            all.retain(|group| group.group_name.as_ref().is_some_and(|name| names.contains(name)));
        }
        Ok(ec2::DescribeSecurityGroupsResult { security_groups: Some(all), ..Default::default() })
    }

    fn create(
        &self,
        request: ec2::CreateNetworkInterfaceRequest,
    ) -> Result<ec2::CreateNetworkInterfaceResult, ApiError> {
        if let Some(message) = &*self.no_interfaces.lock().unwrap() {
            return Err(ApiError::new("InsufficientFreeAddressesInSubnet", message));
        }
        let mut all = self.interfaces.lock().unwrap();
        let subnet = request.subnet_id.unwrap();
        let n = subnet.rsplit('-').next().unwrap().to_owned();
        let made = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let id = format!("eni-{made}");
        let eni = ec2::NetworkInterface {
            network_interface_id: some(&*id),
            mac_address: some("0a:00:00:00:00:01"),
            private_ip_address: request.private_ip_address.or(some(format!("10.0.{n}.{}", 10 + made))),
            description: request.description,
            subnet_id: Some(subnet),
            groups: request.groups.map(|groups| {
                let named = self.groups.lock().unwrap();
                let name = |id: &String| named.get(id).and_then(|group| group.group_name.clone());
                let mut all = identifiers(&groups);
                all.iter_mut().for_each(|one| one.group_name = name(one.group_id.as_ref().unwrap()));
                all
            }),
            ..Default::default()
        };
        all.insert(id, eni.clone());
        Ok(ec2::CreateNetworkInterfaceResult { network_interface: Some(eni), ..Default::default() })
    }
}

fn identifiers(groups: &[String]) -> Vec<ec2::GroupIdentifier> {
    groups.iter().map(|id| ec2::GroupIdentifier { group_id: Some(id.clone()), group_name: None }).collect()
}

impl Invoke for Neighbours {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        let service = Caller::Service { name: "elasticloadbalancing.amazonaws.com", account: ACCOUNT.into() };
        assert_eq!(call.caller, service, "ELB calls in its own name");
        Box::pin(async move { self.answer(&call) })
    }
}

pub(crate) struct World {
    pub(crate) elb: Arc<ElbService>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::new("2026-11-21T12:00:00Z".parse().unwrap()));
        let neighbours = Arc::new(Neighbours::default());
        let dir = tempfile::tempdir().unwrap();
        let options = ElbOptions {
            nodes: vec!["local".into()],
            public_address_in_vpc: |ip| {
                let [_, b, c, d] = ip.octets();
                [100, b, c, d].into()
            },
            objects: dir.path().join("objects"),
            spool: dir.path().join("spool"),
        };
        let invoke: Arc<dyn Invoke> = Arc::<Neighbours>::clone(&neighbours);
        let as_clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let elb = Arc::new(ElbService::open(options, Arc::clone(&store), invoke, as_clock).unwrap());
        Self { elb, store, neighbours, clock, dir }
    }

    pub(crate) fn cx(&self) -> Context {
        let principal = Principal {
            arn: format!("arn:aws:iam::{ACCOUNT}:user/alice"),
            account: ACCOUNT.into(),
            user_id: "AIDAEXAMPLE".into(),
            kind: PrincipalKind::User { name: "alice".into() },
            tags: Vec::new(),
        };
        Context {
            account: ACCOUNT.into(),
            region: "us-east-1".into(),
            request_id: "test".into(),
            principal: Arc::new(principal),
            source_ip: None,
            host: None,
            user_agent: None,
            access_key_id: None,
            now: self.clock.now(),
        }
    }

    /// One activation of a controller.
    pub(crate) async fn activate(&self, name: &str) -> Result<(), String> {
        let controller = self.elb.controllers().into_iter().find(|one| one.name() == name).unwrap();
        controller.activate().await.outcome
    }

    pub(crate) async fn balancer(&self, name: &str) -> LoadBalancer {
        let made = self.elb.create_load_balancer(&self.cx(), wanted(name)).await.unwrap();
        made.load_balancers.unwrap().remove(0)
    }

    pub(crate) async fn group(&self, name: &str) -> String {
        let made = self.elb.create_target_group(&self.cx(), wanted_group(name)).await.unwrap();
        made.target_groups.unwrap().remove(0).target_group_arn.unwrap()
    }

    pub(crate) async fn listener(&self, balancer: &str, port: i32, group: &str) -> Result<String, ApiError> {
        let input = CreateListenerInput {
            load_balancer_arn: some(balancer),
            protocol: some("HTTP"),
            port: Some(port),
            default_actions: Some(vec![forward(group)]),
            ..Default::default()
        };
        let made = self.elb.create_listener(&self.cx(), input).await?;
        Ok(made.listeners.unwrap().remove(0).listener_arn.unwrap())
    }

    pub(crate) async fn register(&self, group: &str, ids: &[&str]) -> Result<(), ApiError> {
        let targets =
            ids.iter().map(|id| TargetDescription { id: some(*id), ..Default::default() }).collect();
        let input = RegisterTargetsInput { target_group_arn: some(group), targets: Some(targets) };
        self.elb.register_targets(&self.cx(), input).await.map(drop)
    }

    /// (address, state, reason) of each target.
    pub(crate) async fn health(&self, group: &str) -> Vec<(String, String, Option<String>)> {
        let input = DescribeTargetHealthInput { target_group_arn: some(group), ..Default::default() };
        let found = self.elb.describe_target_health(&self.cx(), input).await.unwrap();
        let one = |one: TargetHealthDescription| {
            let health = one.target_health.unwrap();
            (one.target.unwrap().id.unwrap(), health.state.unwrap(), health.reason)
        };
        found.target_health_descriptions.unwrap().into_iter().map(one).collect()
    }

    /// Waits until what is published is as wanted.
    pub(crate) async fn published(
        &self,
        is: impl FnMut(&Arc<Vec<BalancerAssignment>>) -> bool,
    ) -> Arc<Vec<BalancerAssignment>> {
        let mut published = self.elb.balancers("local");
        Arc::clone(&*published.wait_for(is).await.unwrap())
    }

    /// Each node says that it takes traffic, and how it sees each target.
    pub(crate) async fn report(&self, state: TargetState) {
        let all = Arc::clone(&self.elb.balancers("local").borrow());
        let report = |one: &BalancerAssignment| BalancerReport {
            load_balancer_arn: one.load_balancer_arn.clone(),
            availability_zone: one.availability_zone.clone(),
            generation: one.generation,
            active: true,
            problem: None,
            targets: one
                .target_groups
                .iter()
                .flat_map(|group| group.targets.iter().map(move |target| (group, target)))
                .map(|(group, target)| TargetObservation {
                    target_group_arn: group.target_group_arn.clone(),
                    ip: target.ip,
                    port: target.port,
                    state,
                    reason: (state == TargetState::Unhealthy).then(|| "Target.Timeout".to_owned()),
                    description: None,
                    anomaly: Anomaly::None,
                })
                .collect(),
            metrics: Vec::new(),
        };
        self.elb.report(all.iter().map(report).collect()).await.unwrap();
    }
}

pub(crate) fn wanted(name: &str) -> CreateLoadBalancerInput {
    CreateLoadBalancerInput {
        name: some(name),
        subnets: Some(vec!["subnet-1".into(), "subnet-2".into()]),
        security_groups: Some(vec!["sg-1".into()]),
        ..Default::default()
    }
}

pub(crate) fn wanted_group(name: &str) -> CreateTargetGroupInput {
    CreateTargetGroupInput {
        name: some(name),
        protocol: some("HTTP"),
        port: Some(80),
        vpc_id: some("vpc-1"),
        target_type: some("ip"),
        ..Default::default()
    }
}

pub(crate) fn forward(group: &str) -> Action {
    Action { r#type: some("forward"), target_group_arn: some(group), ..Default::default() }
}

/// The code and message of a refusal.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (String, String) {
    let error = result.unwrap_err();
    (error.code, error.message)
}
