//! Tasks by boto3: made, awaited, looked at.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::{eventually, until};

/// Where tasks go: the default VPC's first subnet and default group, with a public address.
#[derive(Clone, Debug)]
pub struct Network {
    pub vpc: String,
    pub subnet: String,
    /// The default security group.
    pub group: String,
}

impl Network {
    /// For RunTask.
    pub fn configuration(&self, groups: &[&str]) -> Value {
        let mut awsvpc = json!({ "subnets": [self.subnet], "assignPublicIp": "ENABLED" });
        if !groups.is_empty() {
            awsvpc["securityGroups"] = json!(groups);
        }
        json!({ "awsvpcConfiguration": awsvpc })
    }
}

/// What a RunTask says beyond the task definition.
#[derive(Clone, Debug)]
pub struct TaskRun<'a> {
    pub definition: &'a str,
    pub overrides: Value,
    pub groups: &'a [&'a str],
}

impl<'a> TaskRun<'a> {
    pub fn of(definition: &'a str) -> Self {
        Self { definition, overrides: Value::Null, groups: &[] }
    }

    /// Another command, of the container `name`.
    pub fn command(mut self, name: &str, command: &[&str]) -> Self {
        self.overrides = json!({ "containerOverrides": [{ "name": name, "command": command }] });
        self
    }

    pub fn groups(mut self, groups: &'a [&'a str]) -> Self {
        self.groups = groups;
        self
    }
}

/// What a machine has beside its task's memory, for its kernel: MiB, and a part of that memory.
const GUEST_MIB: u32 = 128;
const GUEST_PART: u32 = 56;
/// A snapshot that is to be made is under way by then.
const EXPECTED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_PERIOD: Duration = Duration::from_millis(300);

impl Cluster {
    pub fn network(&self) -> Network {
        let subnets = self.boto().ok("ec2", "describe_subnets", json!({}));
        let subnet = &subnets["Subnets"][0];
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let vpc = text(&subnet["VpcId"]);
        let filters = json!({ "Filters": [
            { "Name": "vpc-id", "Values": [vpc] }, { "Name": "group-name", "Values": ["default"] },
        ]});
        let groups = self.boto().ok("ec2", "describe_security_groups", filters);
        Network {
            vpc,
            subnet: text(&subnet["SubnetId"]),
            group: text(&groups["SecurityGroups"][0]["GroupId"]),
        }
    }

    /// Addresses that are free in all subnets together.
    pub fn free_addresses(&self) -> i64 {
        let answer = self.boto().ok("ec2", "describe_subnets", json!({}));
        let subnets = answer["Subnets"].as_array().expect("subnets");
        subnets.iter().filter_map(|subnet| subnet["AvailableIpAddressCount"].as_i64()).sum()
    }

    /// A Fargate task definition of the smallest size. Members of `more` are added on its top level.
    pub fn define(&self, family: &str, containers: Value, more: Value) -> Value {
        let mut input = json!({
            "family": family, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
            "cpu": "256", "memory": "512", "containerDefinitions": containers,
        });
        if let Value::Object(more) = more {
            input.as_object_mut().expect("an object").extend(more);
        }
        let definition = self.boto().ok("ecs", "register_task_definition", input)["taskDefinition"].take();
        if self.restores {
            self.has_snapshot(&definition);
        }
        definition
    }

    /// Waits until machines of the definition's size begin as most do: from a snapshot, unless none is made of it.
    fn has_snapshot(&self, definition: &Value) {
        let number = |name: &str| {
            let text = definition[name].as_str().expect("a text");
            text.parse::<u32>().expect("a number")
        };
        let (cpu_units, memory_mib) = (number("cpu"), number("memory"));
        let machine_mib = memory_mib + GUEST_MIB + memory_mib / GUEST_PART;
        let storage = match definition["ephemeralStorage"]["sizeInGiB"].as_u64() {
            None => String::new(),
            Some(gib) => format!(", {gib} GiB of storage"),
        };
        let size = json!(format!("{} vCPU, {machine_mib} MiB{storage}", cpu_units.div_ceil(1024)));
        let mut idle_since = None;
        eventually("there is a snapshot of the definition's size, or none is made", || {
            let status = self.ferrogate(&["status", "--output", "json"]).json();
            let sizes = |name: &str| status["snapshots"][name].as_array().expect("sizes").clone();
            if sizes("ready").contains(&size) {
                return true;
            }
            // Who looks all the time takes it from the machine that boots.
            std::thread::sleep(LOOK_PERIOD);
            if !status["snapshots"]["making"].is_null() || !sizes("wanted").is_empty() {
                idle_since = None;
                return false;
            }
            idle_since.get_or_insert_with(Instant::now).elapsed() >= EXPECTED_WITHIN
        });
    }

    /// A task definition with one busybox container called `app`. As process 1 most programs do not hear SIGTERM, so
    /// it has the shortest stopTimeout there is.
    pub fn define_busybox(&self, family: &str) {
        self.define(
            family,
            json!([{ "name": "app", "image": "busybox:latest", "command": ["sleep", "3600"], "stopTimeout": 2 }]),
            Value::Null,
        );
    }

    /// Starts one task: its ARN.
    #[track_caller]
    pub fn run_task(&self, network: &Network, run: &TaskRun<'_>) -> String {
        let mut input = json!({
            "taskDefinition": run.definition, "launchType": "FARGATE",
            "networkConfiguration": network.configuration(run.groups),
        });
        if !run.overrides.is_null() {
            input["overrides"] = run.overrides.clone();
        }
        let answer = self.boto().ok("ecs", "run_task", input);
        assert_eq!(answer["failures"], json!([]), "{answer}");
        answer["tasks"][0]["taskArn"].as_str().expect("a taskArn").to_owned()
    }

    #[track_caller]
    pub fn task(&self, arn: &str) -> Value {
        let answer = self.boto().ok("ecs", "describe_tasks", json!({ "tasks": [arn] }));
        assert_eq!(answer["failures"], json!([]), "{answer}");
        answer["tasks"][0].clone()
    }

    /// Waits; a task that stops instead is a failure that says why.
    #[track_caller]
    pub fn running(&self, arn: &str) -> Value {
        until(&format!("{arn} is RUNNING"), || {
            let task = self.task(arn);
            assert_ne!(task["lastStatus"], "STOPPED", "it stopped instead: {task:#}");
            (task["lastStatus"] == "RUNNING").then_some(task)
        })
    }

    #[track_caller]
    pub fn stopped(&self, arn: &str) -> Value {
        until(&format!("{arn} is STOPPED"), || {
            let task = self.task(arn);
            (task["lastStatus"] == "STOPPED").then_some(task)
        })
    }

    /// Private and public address of a task.
    #[track_caller]
    pub fn addresses(&self, task: &Value) -> (String, Option<String>) {
        let eni = detail(task, "networkInterfaceId");
        let answer =
            self.boto().ok("ec2", "describe_network_interfaces", json!({ "NetworkInterfaceIds": [eni] }));
        let of = &answer["NetworkInterfaces"][0];
        let private = of["PrivateIpAddress"].as_str().expect("a private address").to_owned();
        assert_eq!(private, detail(task, "privateIPv4Address"));
        (private, of["Association"]["PublicIp"].as_str().map(str::to_owned))
    }

    /// What `ferrogate logs` prints of it.
    #[track_caller]
    pub fn output(&self, arn: &str) -> String {
        self.ferrogate(&["logs", arn]).ok()
    }
}

/// Of the task's network interface.
fn detail(task: &Value, name: &str) -> String {
    let details = task["attachments"][0]["details"].as_array().into_iter().flatten();
    let found = details.into_iter().find(|detail| detail["name"] == name);
    found
        .and_then(|detail| detail["value"].as_str())
        .unwrap_or_else(|| panic!("no {name} in {task:#}"))
        .to_owned()
}
