//! The house: a load balancer and the services behind it.

use std::collections::BTreeMap;

use ferrogate_tests::{Cluster, Setup, eventually, machines_wanted};
use serde_json::{Value, json};

/// What runs in the parts' containers.
pub(super) const PART: &str = include_str!("../../python/house.py");
pub(super) const PORT: u16 = 8080;
pub(super) const EVERYWHERE: &str = "0.0.0.0/0";
/// A target group's deregistration delay: longer than any request of these tests.
pub(super) const DELAY_SECONDS: &str = "4";
/// An emulated machine's Python has begun by then.
const EMULATED_GRACE_SECONDS: u32 = 30;

/// For which a service's tasks need not answer yet.
pub(super) fn grace_seconds() -> u32 {
    if machines_wanted() { EMULATED_GRACE_SECONDS } else { 0 }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// The members of `more` on top of an object.
pub(super) fn with(mut base: Value, more: Value) -> Value {
    if let Value::Object(more) = more {
        base.as_object_mut().expect("an object").extend(more);
    }
    base
}

/// A cluster with one load balancer, `house`, whose listener answers 404 to what no service takes.
pub(super) struct House {
    pub(super) cluster: Cluster,
    pub(super) subnets: Vec<String>,
    pub(super) balancer: String,
    pub(super) listener: String,
    /// Of the load balancer's tasks: they let in it and nobody else.
    pub(super) back: String,
}

/// What stands of a service.
pub(super) struct Part<'a> {
    pub(super) house: &'a House,
    pub(super) name: &'static str,
    pub(super) target_group: String,
}

impl House {
    pub(super) fn start() -> Self {
        Self::start_with(Setup::default())
    }

    pub(super) fn start_with(setup: Setup) -> Self {
        let cluster = Cluster::start_with(setup);
        cluster.boto().ok("ecs", "create_cluster", json!({}));
        let subnets = subnets(&cluster);
        let front = group(&cluster, "front");
        let back = group(&cluster, "back");
        authorize(&cluster, &front, 80, &json!({ "IpRanges": [{ "CidrIp": EVERYWHERE }] }));
        authorize(&cluster, &back, PORT, &json!({ "UserIdGroupPairs": [{ "GroupId": front }] }));
        let input = json!({ "Name": "house", "Subnets": subnets, "SecurityGroups": [front] });
        let answer = cluster.boto().ok("elbv2", "create_load_balancer", input);
        let balancer = text(&answer["LoadBalancers"][0]["LoadBalancerArn"]);
        let input = json!({
            "LoadBalancerArn": balancer, "Protocol": "HTTP", "Port": 80, "DefaultActions": [{
                "Type": "fixed-response",
                "FixedResponseConfig": { "StatusCode": "404", "ContentType": "text/plain", "MessageBody": "nobody" },
            }],
        });
        let answer = cluster.boto().ok("elbv2", "create_listener", input);
        let listener = text(&answer["Listeners"][0]["ListenerArn"]);
        let house = Self { cluster, subnets, balancer, listener, back };
        house.available(&house.balancer);
        house
    }

    pub(super) fn available(&self, balancer: &str) {
        eventually("the load balancer is active", || {
            let input = json!({ "LoadBalancerArns": [balancer] });
            let answer = self.cluster.boto().ok("elbv2", "describe_load_balancers", input);
            answer["LoadBalancers"][0]["State"]["Code"] == "active"
        });
    }

    /// A revision of a part: what it runs, of which image.
    pub(super) fn define(&self, name: &str, revision: &str, more: Value) -> String {
        let container = json!({
            "name": "app", "image": "python3-boto3:latest", "command": ["python3", "-c", PART, "serve"],
            "portMappings": [{ "containerPort": PORT }], "stopTimeout": 2,
            "environment": [{ "name": "SERVICE", "value": name }, { "name": "REVISION", "value": revision }],
        });
        let definition = self.cluster.define(name, json!([with(container, more)]), Value::Null);
        text(&definition["taskDefinitionArn"])
    }

    /// A target group of this protocol whose targets' health is what they say of it.
    pub(super) fn target_group(&self, name: &str, protocol: &str) -> String {
        let boto = self.cluster.boto();
        let input = json!({
            "Name": name, "Protocol": protocol, "Port": PORT, "TargetType": "ip", "VpcId": self.cluster.network().vpc,
            "HealthCheckProtocol": "HTTP", "HealthCheckPath": "/health", "HealthCheckIntervalSeconds": 5,
            "HealthCheckTimeoutSeconds": 3, "HealthyThresholdCount": 2, "UnhealthyThresholdCount": 2,
        });
        let answer = boto.ok("elbv2", "create_target_group", input);
        let target_group = text(&answer["TargetGroups"][0]["TargetGroupArn"]);
        let attributes = json!([{ "Key": "deregistration_delay.timeout_seconds", "Value": DELAY_SECONDS }]);
        let input = json!({ "TargetGroupArn": target_group, "Attributes": attributes });
        boto.ok("elbv2", "modify_target_group_attributes", input);
        target_group
    }

    /// The rule that forwards `/<name>/*`.
    pub(super) fn rule(&self, name: &str, priority: u32, target_group: &str) -> String {
        let input = json!({
            "ListenerArn": self.listener, "Priority": priority,
            "Conditions": [{ "Field": "path-pattern", "Values": [format!("/{name}/*")] }],
            "Actions": [{ "Type": "forward", "TargetGroupArn": target_group }],
        });
        text(&self.cluster.boto().ok("elbv2", "create_rule", input)["Rules"][0]["RuleArn"])
    }

    /// A service with a target group and a rule for `/<name>/*`.
    pub(super) fn open(&self, name: &'static str, desired: u32, priority: u32, more: Value) -> Part<'_> {
        let target_group = self.target_group(name, "HTTP");
        self.rule(name, priority, &target_group);
        let balanced = json!({
            "loadBalancers": [{ "targetGroupArn": target_group, "containerName": "app", "containerPort": PORT }],
            "healthCheckGracePeriodSeconds": grace_seconds(),
        });
        self.create(name, desired, &self.back, with(balanced, more));
        Part { house: self, name, target_group }
    }

    /// A service that nobody reaches from outside.
    pub(super) fn create(&self, name: &str, desired: u32, group: &str, more: Value) {
        let network = json!({ "awsvpcConfiguration": {
            "subnets": self.subnets, "securityGroups": [group], "assignPublicIp": "ENABLED",
        }});
        let input = json!({
            "serviceName": name, "taskDefinition": name, "desiredCount": desired, "launchType": "FARGATE",
            "networkConfiguration": network,
        });
        self.cluster.boto().ok("ecs", "create_service", with(input, more));
    }

    /// As a deployment pipeline waits: it looks every 15 seconds. What it looks at may be so before the deployment has
    /// completed, where tasks take long to be healthy.
    pub(super) fn stable(&self, services: &[&str]) {
        let mut arguments = vec!["ecs", "wait", "services-stable", "--services"];
        arguments.extend(services);
        self.cluster.aws(&arguments).ok();
        eventually("their deployments have ended", || {
            let answer = self.cluster.boto().ok("ecs", "describe_services", json!({ "services": services }));
            let mut all = answer["services"].as_array().expect("services").iter();
            all.all(|service| service["deployments"][0]["rolloutState"] != "IN_PROGRESS")
        });
    }

    /// Public addresses of the load balancer, one for each zone.
    pub(super) fn addresses(&self) -> Vec<String> {
        let (_, name) = self.balancer.split_once(":loadbalancer/").expect("a load balancer's ARN");
        let filters = json!({ "Filters": [{ "Name": "description", "Values": [format!("ELB {name}")] }] });
        let answer = self.cluster.boto().ok("ec2", "describe_network_interfaces", filters);
        let all = answer["NetworkInterfaces"].as_array().expect("interfaces").iter();
        let all: Vec<String> = all.map(|eni| text(&eni["Association"]["PublicIp"])).collect();
        assert_eq!(all.len(), 2, "one for each zone: {answer}");
        all
    }

    pub(super) fn public_urls(&self, path: &str) -> Vec<String> {
        self.addresses().iter().map(|public| format!("http://{public}{path}")).collect()
    }
}

/// A public address as packets inside the fabric carry it: 127.64.a.b is 100.64.a.b there.
pub(super) fn in_vpc(public: &str) -> String {
    let rest = public.strip_prefix("127.").unwrap_or_else(|| panic!("{public} is not of the loopback pool"));
    format!("100.{rest}")
}

impl Part<'_> {
    pub(super) fn describe(&self) -> Value {
        let input = json!({ "services": [self.name] });
        let answer = self.house.cluster.boto().ok("ecs", "describe_services", input);
        assert_eq!(answer["failures"], json!([]), "{answer}");
        answer["services"][0].clone()
    }

    /// The id of the new deployment.
    pub(super) fn update(&self, changes: Value) -> String {
        let input = with(json!({ "service": self.name }), changes);
        let answer = self.house.cluster.boto().ok("ecs", "update_service", input);
        text(&answer["service"]["deployments"][0]["id"])
    }

    pub(super) fn tasks(&self, desired: &str) -> Vec<Value> {
        let input = json!({ "serviceName": self.name, "desiredStatus": desired });
        let boto = self.house.cluster.boto();
        let arns = boto.ok("ecs", "list_tasks", input)["taskArns"].take();
        if arns == json!([]) {
            return Vec::new();
        }
        let answer = boto.ok("ecs", "describe_tasks", json!({ "tasks": arns }));
        answer["tasks"].as_array().expect("tasks").clone()
    }

    /// What the waiter `services_stable` looks at, without its pauses.
    pub(super) fn settles(&self) {
        eventually(&format!("{} is stable", self.name), || {
            let service = self.describe();
            let deployments = service["deployments"].as_array().expect("deployments");
            deployments.len() == 1
                && deployments[0]["rolloutState"] != "IN_PROGRESS"
                && service["runningCount"] == service["desiredCount"]
        });
    }

    /// Nothing but this deployment is there, and it is done.
    pub(super) fn completes(&self, deployment: &str) {
        eventually("the deployment is completed", || {
            let deployments = self.describe()["deployments"].take();
            assert_eq!(deployments[0]["id"], json!(deployment), "{deployments:#}");
            deployments.as_array().is_some_and(|all| all.len() == 1)
                && deployments[0]["rolloutState"] == "COMPLETED"
        });
    }

    /// The task with this host name.
    pub(super) fn task_at(&self, host: &str) -> Value {
        let (name, _) = host.split_once('.').unwrap_or((host, ""));
        let address = name.strip_prefix("ip-").unwrap_or_else(|| panic!("{host}")).replace('-', ".");
        let is_there = |task: &Value| {
            task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"] == json!(address)
        };
        let tasks = self.tasks("RUNNING");
        tasks.iter().find(|task| is_there(task)).cloned().unwrap_or_else(|| panic!("{host}: {tasks:#?}"))
    }

    /// The oldest first.
    pub(super) fn events(&self) -> Vec<String> {
        let service = self.describe();
        service["events"]
            .as_array()
            .expect("events")
            .iter()
            .rev()
            .map(|event| text(&event["message"]))
            .collect()
    }

    /// Address and state of every target.
    pub(super) fn targets(&self) -> BTreeMap<String, String> {
        let input = json!({ "TargetGroupArn": self.target_group });
        let answer = self.house.cluster.boto().ok("elbv2", "describe_target_health", input);
        let all = answer["TargetHealthDescriptions"].as_array().expect("targets").iter();
        all.map(|one| (text(&one["Target"]["Id"]), text(&one["TargetHealth"]["State"]))).collect()
    }

    #[track_caller]
    pub(super) fn has_healthy_targets(&self, count: usize) {
        let targets = self.targets();
        assert!(targets.len() == count && targets.values().all(|state| state == "healthy"), "{targets:#?}");
    }
}

impl Drop for Part<'_> {
    /// What a failed test wants to know.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let boto = self.house.cluster.boto();
        let show = |service: &str, operation: &str, input: Value| -> Value {
            boto.call(service, operation, input).unwrap_or_else(|error| json!(format!("{error:?}")))
        };
        let service = show("ecs", "describe_services", json!({ "services": [self.name] }));
        for event in service["services"][0]["events"].as_array().into_iter().flatten().rev() {
            eprintln!("{} {}", event["createdAt"], event["message"]);
        }
        eprintln!("{:#}", service["services"][0]["deployments"]);
        for desired in ["RUNNING", "STOPPED"] {
            let arns =
                show("ecs", "list_tasks", json!({ "serviceName": self.name, "desiredStatus": desired }));
            let tasks = show("ecs", "describe_tasks", json!({ "tasks": arns["taskArns"] }));
            for task in tasks["tasks"].as_array().into_iter().flatten() {
                let shown = [
                    "taskArn",
                    "createdAt",
                    "startedAt",
                    "lastStatus",
                    "desiredStatus",
                    "healthStatus",
                    "stoppedReason",
                ];
                eprintln!("{:?}", shown.map(|name| task[name].to_string()));
            }
        }
        let targets = show("elbv2", "describe_target_health", json!({ "TargetGroupArn": self.target_group }));
        eprintln!("{targets:#}");
    }
}

/// Two subnets of the default VPC, in two zones.
pub(super) fn subnets(cluster: &Cluster) -> Vec<String> {
    let answer = cluster.boto().ok("ec2", "describe_subnets", json!({}));
    let zones: BTreeMap<String, String> = answer["Subnets"]
        .as_array()
        .expect("subnets")
        .iter()
        .map(|subnet| (text(&subnet["AvailabilityZone"]), text(&subnet["SubnetId"])))
        .collect();
    assert!(zones.len() > 1, "{answer}");
    zones.into_values().take(2).collect()
}

/// A security group that lets nobody in.
pub(super) fn group(cluster: &Cluster, name: &str) -> String {
    let input = json!({ "GroupName": name, "Description": name, "VpcId": cluster.network().vpc });
    text(&cluster.boto().ok("ec2", "create_security_group", input)["GroupId"])
}

pub(super) fn authorize(cluster: &Cluster, group: &str, port: u16, from: &Value) {
    let permission = with(json!({ "IpProtocol": "tcp", "FromPort": port, "ToPort": port }), from.clone());
    let input = json!({ "GroupId": group, "IpPermissions": [permission] });
    cluster.boto().ok("ec2", "authorize_security_group_ingress", input);
}
