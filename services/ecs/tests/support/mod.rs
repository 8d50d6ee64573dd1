//! A service over a memory store, with an EC2 and an STS that tests can hold, break and look into.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod balancing;
pub(crate) mod cloud_map;
pub(crate) mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrogate_api::ecs::{self, Ecs};
use ferrogate_api::{
    ApiError, BoxFuture, Call, Caller, Context, Invoke, Principal, PrincipalKind, Shape, Value, ec2,
};
use ferrogate_control::Driver;
use ferrogate_ecs::{Config, EcsService, Node};
use ferrogate_model::{Clock, ManualClock, wildcard_match};
use ferrogate_nodeapi::{
    ContainerReport, ContainerStatus, Health, Isolation, ObservedStatus, StopCause, TaskAssignment,
    TaskReport,
};
use ferrogate_store::{MemoryStore, Store};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const REGION: &str = "us-east-1";
pub(crate) const NODE: &str = "local";
/// Of a machine that has no room for the largest tasks.
pub(crate) const NODE_MEMORY_MIB: u64 = 16_000;
pub(crate) const EXECUTION_ROLE: &str = "arn:aws:iam::123456789012:role/execution";
/// Only so that a test that has failed ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// EC2 and STS as far as ECS calls them.
pub(crate) struct Cloud {
    pub(crate) enis: Mutex<BTreeMap<String, Eni>>,
    tokens: Mutex<BTreeMap<String, String>>,
    pub(crate) calls: Mutex<Vec<(String, String)>>,
    /// CreateNetworkInterface fails so; taken from the front.
    pub(crate) create_errors: Mutex<Vec<ApiError>>,
    /// CreateNetworkInterface waits for one of these in held subnets.
    pub(crate) gate: Semaphore,
    pub(crate) held_subnets: Mutex<BTreeSet<String>>,
    /// The answer of CreateNetworkInterface gets lost after it has been done.
    pub(crate) lose_answers: Mutex<bool>,
    pub(crate) refused_roles: Mutex<BTreeSet<String>>,
    /// Interfaces that there are addresses for; `None`: any number.
    pub(crate) addresses: Mutex<Option<usize>>,
    pub(crate) balancing: balancing::Balancing,
    pub(crate) cloud_map: cloud_map::CloudMap,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eni {
    pub(crate) id: String,
    pub(crate) description: String,
    pub(crate) subnet: String,
    pub(crate) ip: String,
    pub(crate) groups: Vec<String>,
    pub(crate) public: bool,
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            enis: Mutex::default(),
            tokens: Mutex::default(),
            calls: Mutex::default(),
            create_errors: Mutex::default(),
            gate: Semaphore::new(0),
            held_subnets: Mutex::default(),
            lose_answers: Mutex::default(),
            refused_roles: Mutex::default(),
            addresses: Mutex::default(),
            balancing: balancing::Balancing::default(),
            cloud_map: cloud_map::CloudMap::default(),
        }
    }
}

fn parse<T: Shape>(value: Value) -> T {
    T::from_value(value).expect("an input of the API")
}

impl Cloud {
    pub(crate) fn enis(&self) -> Vec<Eni> {
        self.enis.lock().unwrap().values().cloned().collect()
    }

    pub(crate) fn count(&self, operation: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(name, _)| name == operation).count()
    }

    fn subnets(input: ec2::DescribeSubnetsRequest) -> Result<ec2::DescribeSubnetsResult, ApiError> {
        let mut subnets = Vec::new();
        for id in input.subnet_ids.unwrap_or_default() {
            let Some((vpc, zone, third)) = subnet(&id) else {
                let message = format!("The subnet ID '{id}' does not exist");
                return Err(ApiError::new("InvalidSubnetID.NotFound", message));
            };
            subnets.push(ec2::Subnet {
                subnet_id: Some(id),
                vpc_id: Some(vpc.into()),
                availability_zone: Some(zone.into()),
                availability_zone_id: Some(
                    zone.replace("us-east-1a", "use1-az1").replace("us-east-1b", "use1-az2"),
                ),
                cidr_block: Some(format!("10.0.{third}.0/24")),
                ..Default::default()
            });
        }
        Ok(ec2::DescribeSubnetsResult { subnets: Some(subnets), next_token: None })
    }

    fn groups(
        input: ec2::DescribeSecurityGroupsRequest,
    ) -> Result<ec2::DescribeSecurityGroupsResult, ApiError> {
        let mut groups = Vec::new();
        for id in input.group_ids.unwrap_or_default() {
            let vpc = match id.as_str() {
                "sg-1" | "sg-2" => "vpc-1",
                "sg-other" => "vpc-2",
                _ => {
                    let message = format!("The security group '{id}' does not exist");
                    return Err(ApiError::new("InvalidGroup.NotFound", message));
                }
            };
            groups.push(ec2::SecurityGroup {
                group_id: Some(id),
                vpc_id: Some(vpc.into()),
                ..Default::default()
            });
        }
        Ok(ec2::DescribeSecurityGroupsResult { security_groups: Some(groups), next_token: None })
    }

    async fn create(
        &self,
        input: ec2::CreateNetworkInterfaceRequest,
    ) -> Result<ec2::CreateNetworkInterfaceResult, ApiError> {
        let subnet_id = input.subnet_id.unwrap();
        let held = self.held_subnets.lock().unwrap().contains(&subnet_id);
        if held {
            self.gate.acquire().await.unwrap().forget();
        }
        let failure = {
            let mut errors = self.create_errors.lock().unwrap();
            if errors.is_empty() { None } else { Some(errors.remove(0)) }
        };
        if let Some(error) = failure {
            return Err(error);
        }
        let token = input.client_token.unwrap();
        let mut tokens = self.tokens.lock().unwrap();
        let mut enis = self.enis.lock().unwrap();
        let made = tokens.get(&token).and_then(|id| enis.get(id)).cloned();
        if made.is_none() && self.addresses.lock().unwrap().is_some_and(|most| enis.len() >= most) {
            let full = "The specified subnet does not have enough free addresses to satisfy the request.";
            return Err(ApiError::new("InsufficientFreeAddressesInSubnet", full));
        }
        let eni = made.unwrap_or_else(|| {
            let number = tokens.len();
            let (_, _, third) = subnet(&subnet_id).unwrap();
            let eni = Eni {
                id: format!("eni-{number:05}"),
                description: input.description.unwrap(),
                ip: format!("10.0.{third}.{}", 4 + number % 250),
                subnet: subnet_id,
                groups: input.groups.unwrap_or_default(),
                public: false,
            };
            tokens.insert(token, eni.id.clone());
            enis.insert(eni.id.clone(), eni.clone());
            eni
        });
        if *self.lose_answers.lock().unwrap() {
            return Err(ApiError::internal());
        }
        let network_interface = ec2::NetworkInterface {
            network_interface_id: Some(eni.id),
            mac_address: Some("0a:00:00:00:00:01".into()),
            private_dns_name: Some(format!("ip-{}.ec2.internal", eni.ip.replace('.', "-"))),
            private_ip_address: Some(eni.ip),
            ..Default::default()
        };
        Ok(ec2::CreateNetworkInterfaceResult {
            network_interface: Some(network_interface),
            client_token: None,
        })
    }

    fn describe(&self, input: ec2::DescribeNetworkInterfacesRequest) -> ec2::DescribeNetworkInterfacesResult {
        let patterns: Vec<String> = input.filters.unwrap().remove(0).values.unwrap();
        let matches = |eni: &Eni| patterns.iter().any(|pattern| wildcard_match(pattern, &eni.description));
        let shape = |eni: Eni| ec2::NetworkInterface {
            network_interface_id: Some(eni.id),
            description: Some(eni.description),
            ..Default::default()
        };
        let found = self.enis().into_iter().filter(matches).map(shape).collect();
        ec2::DescribeNetworkInterfacesResult { network_interfaces: Some(found), next_token: None }
    }

    fn delete(
        &self,
        input: ec2::DeleteNetworkInterfaceRequest,
    ) -> Result<ec2::DeleteNetworkInterfaceNoOutput, ApiError> {
        let id = input.network_interface_id.unwrap();
        match self.enis.lock().unwrap().remove(&id) {
            Some(_) => Ok(ec2::DeleteNetworkInterfaceNoOutput {}),
            None => Err(ApiError::new(
                "InvalidNetworkInterfaceID.NotFound",
                format!("The networkInterface ID '{id}' does not exist"),
            )),
        }
    }

    fn modify(
        &self,
        input: ec2::ModifyNetworkInterfaceAttributeRequest,
    ) -> ec2::ModifyNetworkInterfaceAttributeNoOutput {
        let id = input.network_interface_id.unwrap();
        self.enis.lock().unwrap().get_mut(&id).unwrap().public = input.associate_public_ip_address.unwrap();
        ec2::ModifyNetworkInterfaceAttributeNoOutput {}
    }

    async fn answer(&self, call: Call) -> Result<Value, ApiError> {
        match (call.service, call.operation) {
            ("sts", "GetCallerIdentity") => {
                let Caller::Role { role_arn, service, .. } = call.caller else { panic!("not as a role") };
                assert_eq!(service, "ecs-tasks.amazonaws.com");
                if self.refused_roles.lock().unwrap().contains(&role_arn) {
                    return Err(ApiError::new("AccessDenied", "not authorized to perform: sts:AssumeRole"));
                }
                Ok(Value::Struct(Vec::new()))
            }
            ("ec2", operation) => {
                let Caller::Service { name, account } = call.caller else { panic!("not as a service") };
                assert_eq!(
                    (name, account.as_str(), call.region.as_str()),
                    ("ecs.amazonaws.com", ACCOUNT, REGION)
                );
                match operation {
                    "DescribeSubnets" => Self::subnets(parse(call.input)).map(|answer| answer.to_value()),
                    "DescribeSecurityGroups" => {
                        Self::groups(parse(call.input)).map(|answer| answer.to_value())
                    }
                    "DescribeVpcs" => {
                        let vpc = ec2::Vpc { cidr_block: Some("10.0.0.0/16".into()), ..Default::default() };
                        Ok(ec2::DescribeVpcsResult { vpcs: Some(vec![vpc]), next_token: None }.to_value())
                    }
                    "CreateNetworkInterface" => {
                        self.create(parse(call.input)).await.map(|answer| answer.to_value())
                    }
                    "ModifyNetworkInterfaceAttribute" => Ok(self.modify(parse(call.input)).to_value()),
                    "DescribeNetworkInterfaces" => Ok(self.describe(parse(call.input)).to_value()),
                    "DeleteNetworkInterface" => {
                        self.delete(parse(call.input)).map(|answer| answer.to_value())
                    }
                    other => panic!("ECS does not call ec2:{other}"),
                }
            }
            ("servicediscovery", operation) if !balancing::is_of_registry(&call.input) => {
                self.cloud_map.answer(&call.caller, operation, call.input)
            }
            ("elbv2" | "servicediscovery", operation) => {
                self.balancing.answer(&call.caller, operation, call.input)
            }
            (service, operation) => panic!("ECS does not call {service}:{operation}"),
        }
    }
}

fn subnet(id: &str) -> Option<(&'static str, &'static str, u8)> {
    Some(match id {
        "subnet-a" => ("vpc-1", "us-east-1a", 1),
        "subnet-b" => ("vpc-1", "us-east-1b", 2),
        "subnet-c" => ("vpc-1", "us-east-1c", 3),
        "subnet-other" => ("vpc-2", "us-east-1a", 9),
        _ => return None,
    })
}

pub(crate) struct CloudInvoke(pub(crate) Arc<Cloud>);

impl Invoke for CloudInvoke {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let input = serde_json::to_string(&call.input).unwrap();
            self.0.calls.lock().unwrap().push((call.operation.to_owned(), input));
            self.0.answer(call).await
        })
    }
}

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) service: Arc<EcsService>,
    driver: Option<Driver>,
}

pub(crate) fn start() -> Timestamp {
    "2026-11-21T05:00:00Z".parse().unwrap()
}

impl World {
    /// Without controllers.
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()), Arc::default(), Arc::new(ManualClock::new(start())))
    }

    /// The program after a restart, or a second one.
    pub(crate) fn over(store: Arc<dyn Store>, cloud: Arc<Cloud>, clock: Arc<ManualClock>) -> Self {
        let service = Arc::new(EcsService::new(
            Config { nodes: vec![Node::here(NODE, NODE_MEMORY_MIB)] },
            Arc::clone(&store),
            Arc::new(CloudInvoke(Arc::clone(&cloud))),
            Arc::clone(&clock) as Arc<dyn Clock>,
        ));
        Self { store, cloud, clock, service, driver: None }
    }

    /// With controllers.
    pub(crate) fn running() -> Self {
        let mut world = Self::new();
        world.run();
        world
    }

    pub(crate) fn run(&mut self) {
        let driver = Driver::new(Arc::clone(&self.store));
        for controller in self.service.controllers() {
            driver.spawn(controller);
        }
        self.driver = Some(driver);
    }

    pub(crate) fn wake(&self, controller: &str) {
        self.driver.as_ref().unwrap().wake(controller);
    }

    /// What the controller said of its last activation.
    pub(crate) fn detail(&self, controller: &str) -> Json {
        self.driver.as_ref().unwrap().statuses()[controller].detail.clone()
    }

    /// The program dies; what it had begun is not finished.
    pub(crate) fn kill(self) -> (Arc<dyn Store>, Arc<Cloud>, Arc<ManualClock>) {
        (self.store, self.cloud, self.clock)
    }

    pub(crate) fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn cx(&self) -> Context {
        context(self.clock.now())
    }

    pub(crate) async fn register(&self, definition: Json) -> Result<ecs::TaskDefinition, ApiError> {
        let answer = self.service.register_task_definition(&self.cx(), input(definition)).await?;
        Ok(answer.task_definition.unwrap())
    }

    pub(crate) async fn run_task(&self, request: Json) -> Result<Vec<ecs::Task>, ApiError> {
        let answer = self.service.run_task(&self.cx(), input(request)).await?;
        assert_eq!(answer.failures, Some(Vec::new()));
        Ok(answer.tasks.unwrap())
    }

    /// One task of the sample definition.
    pub(crate) async fn run_sample(&self) -> ecs::Task {
        self.register(sample()).await.unwrap();
        self.run_task(run_sample()).await.unwrap().remove(0)
    }

    pub(crate) async fn describe(&self, arn: &str) -> ecs::Task {
        self.find(arn).await.unwrap_or_else(|| panic!("{arn} is not there"))
    }

    pub(crate) async fn find(&self, arn: &str) -> Option<ecs::Task> {
        let cluster = arn.split('/').nth(1).unwrap();
        let request = json!({ "cluster": cluster, "tasks": [arn], "include": ["TAGS"] });
        self.service.describe_tasks(&self.cx(), input(request)).await.unwrap().tasks.unwrap().pop()
    }

    pub(crate) async fn stop(&self, arn: &str) -> ecs::Task {
        let request = json!({ "task": arn });
        self.service.stop_task(&self.cx(), input(request)).await.unwrap().task.unwrap()
    }

    pub(crate) async fn report(&self, report: TaskReport) {
        self.service.report(vec![report]).await.unwrap();
    }

    /// Looks again after every change until it is so.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        let mut watch = self.store.watch("/ecs", self.store.revision()).unwrap();
        let looking = async {
            while !is_so(self).await {
                // What is seen outside of the store changes without a word.
                let _ = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
            }
        };
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            panic!("it never came to this: {what}");
        }
    }

    pub(crate) async fn until_status(&self, arn: &str, status: &str) -> ecs::Task {
        self.until(status, async |world| world.describe(arn).await.last_status.as_deref() == Some(status))
            .await;
        self.describe(arn).await
    }

    /// The node's list once it is so.
    pub(crate) async fn until_assigned(
        &self,
        is_so: impl Fn(&[TaskAssignment]) -> bool,
    ) -> Arc<Vec<TaskAssignment>> {
        let mut list = self.service.assignments(NODE);
        let found = tokio::time::timeout(PATIENCE, list.wait_for(|list| is_so(list))).await;
        Arc::clone(&found.expect("it never came to this list").unwrap())
    }
}

pub(crate) fn context(now: Timestamp) -> Context {
    Context {
        account: ACCOUNT.into(),
        region: REGION.into(),
        request_id: "test".into(),
        principal: Arc::new(Principal {
            arn: format!("arn:aws:iam::{ACCOUNT}:user/alice"),
            account: ACCOUNT.into(),
            user_id: "AIDAALICE".into(),
            kind: PrincipalKind::User { name: "alice".into() },
            tags: Vec::new(),
        }),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now,
    }
}

pub(crate) fn input<T: DeserializeOwned>(json: Json) -> T {
    serde_json::from_value(json).expect("an input of the API")
}

/// The issue's own.
pub(crate) fn sample() -> Json {
    json!({
        "family": "sample-fargate-app", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
        "cpu": "256", "memory": "512",
        "containerDefinitions": [{
            "name": "sample-app", "image": "nginx:latest", "portMappings": [{ "containerPort": 80, "protocol": "tcp" }],
        }],
    })
}

pub(crate) fn run_sample() -> Json {
    json!({
        "taskDefinition": "sample-fargate-app", "launchType": "FARGATE",
        "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-a"], "securityGroups": ["sg-1"] } },
    })
}

/// `base` with the members of `changes`; null takes one away.
pub(crate) fn with(mut base: Json, changes: Json) -> Json {
    for (name, value) in changes.as_object().unwrap() {
        let members = base.as_object_mut().unwrap();
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    base
}

/// The sample with the members of `changes` in its one container.
pub(crate) fn with_container(changes: Json) -> Json {
    let mut definition = sample();
    let container = definition["containerDefinitions"][0].take();
    definition["containerDefinitions"][0] = with(container, changes);
    definition
}

pub(crate) fn report(task_arn: &str, sequence: u64, status: ObservedStatus) -> TaskReport {
    TaskReport {
        task_arn: task_arn.into(),
        sequence,
        status,
        isolation: Isolation::Container,
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: None,
        execution_stopped_at: None,
        stop: None,
        containers: Vec::new(),
    }
}

pub(crate) fn container_report(
    name: &str,
    status: ContainerStatus,
    exit_code: Option<i32>,
) -> ContainerReport {
    ContainerReport {
        name: name.into(),
        status,
        exit_code,
        reason: None,
        image_digest: Some("sha256:0123".into()),
        health: Health::Unknown,
        started_at: Some(start()),
        finished_at: None,
        restart_count: 0,
        exec_agent: None,
    }
}

pub(crate) fn cause(code: &str, reason: &str) -> Option<StopCause> {
    Some(StopCause { code: code.into(), reason: reason.into() })
}
