//! Services with real containers: kept, rolled out, rolled back, scaled, deleted.

mod images;
mod zones;

use std::process::Child;

use ferrogate_tests::{Cluster, Keys, TaskRun, eventually, until};
use serde_json::{Value, json};

/// A cluster with a service called `web` of busybox tasks.
struct Web(Cluster);

impl Web {
    fn start(desired: u32, more: Value) -> Self {
        let cluster = Cluster::start();
        cluster.boto().ok("ecs", "create_cluster", json!({}));
        cluster.define_busybox("web");
        let web = Self(cluster);
        let made = web.create(desired, more);
        assert_eq!(made["status"], "ACTIVE", "{made:#}");
        web
    }

    fn create(&self, desired: u32, more: Value) -> Value {
        let mut input = json!({
            "serviceName": "web", "taskDefinition": "web", "desiredCount": desired, "launchType": "FARGATE",
            "networkConfiguration": self.0.network().configuration(&[]),
        });
        if let Value::Object(more) = more {
            input.as_object_mut().expect("an object").extend(more);
        }
        self.0.boto().ok("ecs", "create_service", input)["service"].take()
    }

    #[track_caller]
    fn update(&self, changes: Value) -> Value {
        let mut input = json!({ "service": "web" });
        input.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        self.0.boto().ok("ecs", "update_service", input)["service"].take()
    }

    fn describe(&self) -> Value {
        let answer = self.0.boto().ok("ecs", "describe_services", json!({ "services": ["web"] }));
        assert_eq!(answer["failures"], json!([]), "{answer}");
        answer["services"][0].clone()
    }

    fn tasks(&self, desired: &str) -> Vec<Value> {
        let input = json!({ "serviceName": "web", "desiredStatus": desired });
        let arns = self.0.boto().ok("ecs", "list_tasks", input)["taskArns"].take();
        if arns == json!([]) {
            return Vec::new();
        }
        let answer = self.0.boto().ok("ecs", "describe_tasks", json!({ "tasks": arns }));
        answer["tasks"].as_array().expect("tasks").clone()
    }

    /// As the waiter looks, and the deployment is done.
    #[track_caller]
    fn until_done(&self, deployment: &str) -> Value {
        let look = || {
            let service = self.describe();
            let deployments = service["deployments"].as_array().expect("deployments");
            let done = deployments.len() == 1
                && deployments[0]["id"] == deployment
                && deployments[0]["rolloutState"] == "COMPLETED"
                && service["runningCount"] == service["desiredCount"]
                && service["pendingCount"] == 0;
            done.then_some(service)
        };
        until(&format!("{deployment} is done"), look)
    }

    fn messages(&self) -> Vec<String> {
        let service = self.describe();
        let events = service["events"].as_array().expect("events").iter().rev();
        events.map(|event| event["message"].as_str().expect("a message").to_owned()).collect()
    }
}

fn id(deployment: &Value) -> String {
    deployment["id"].as_str().expect("an id").to_owned()
}

fn task_id(task: &Value) -> String {
    let arn = task["taskArn"].as_str().expect("an ARN");
    arn.rsplit('/').next().expect("an id").to_owned()
}

#[test]
fn kept_scaled_and_deleted() {
    let mut web = Web::start(
        2,
        json!({ "enableECSManagedTags": true, "propagateTags": "SERVICE",
        "tags": [{ "key": "team", "value": "a" }] }),
    );
    let said = web.0.aws(&["ecs", "wait", "services-stable", "--services", "web"]);
    said.ok();
    let service = web.describe();
    assert_eq!((&service["runningCount"], &service["pendingCount"]), (&json!(2), &json!(0)));
    let deployment = id(&service["deployments"][0]);
    let tasks = web.tasks("RUNNING");
    assert_eq!(tasks.len(), 2);
    for task in &tasks {
        assert_eq!(task["startedBy"], json!(deployment));
        assert_eq!(task["group"], "service:web");
    }

    // kill -9 of one task's container: another task takes its place.
    let victim = task_id(&tasks[0]);
    let processes = web.0.task_processes(&victim);
    assert!(!processes.is_empty());
    for pid in processes {
        assert!(web.0.command("kill").args(["-9", &pid.to_string()]).status().is_ok_and(|s| s.success()));
    }
    eventually("the task is replaced", || {
        let tasks = web.tasks("RUNNING");
        tasks.len() == 2
            && tasks.iter().all(|task| task["lastStatus"] == "RUNNING" && task_id(task) != victim)
    });
    let ended = web.tasks("STOPPED");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0]["stopCode"], "EssentialContainerExited", "{:#}", ended[0]);

    // One that is ended by a user is replaced as well.
    let victim = task_id(&web.tasks("RUNNING")[0]);
    web.0.boto().ok("ecs", "stop_task", json!({ "task": victim }));
    eventually("the task is replaced", || {
        let tasks = web.tasks("RUNNING");
        tasks.len() == 2 && tasks.iter().all(|task| task["lastStatus"] == "RUNNING")
    });

    let counts = web.0.boto().ok("ecs", "describe_clusters", json!({ "clusters": ["default"] }));
    assert_eq!(counts["clusters"][0]["activeServicesCount"], 1, "{counts}");
    let refused = web.0.boto().refused("ecs", "delete_cluster", json!({ "cluster": "default" }));
    assert_eq!(refused.code, "ClusterContainsServicesException");
    let refused = web.0.boto().refused("ecs", "delete_service", json!({ "service": "web" }));
    assert_eq!(refused.message, "The service cannot be stopped while it is scaled above 0.");

    web.update(json!({ "desiredCount": 0 }));
    eventually("nothing runs", || web.tasks("RUNNING").is_empty() && web.describe()["runningCount"] == 0);
    eventually("it is said", || {
        web.messages()
            .iter()
            .any(|text| text.starts_with("(service web) has stopped 2 running tasks: (task "))
    });
    let stopped = web.tasks("STOPPED");
    let reason = format!("Scaling activity initiated by (deployment {deployment})");
    let scaled = stopped.iter().filter(|task| task["stoppedReason"] == json!(reason));
    assert_eq!(scaled.clone().count(), 2, "{stopped:#?}");
    for task in scaled {
        assert_eq!(task["stopCode"], "ServiceSchedulerInitiated");
    }
    let deleted = web.0.boto().ok("ecs", "delete_service", json!({ "service": "web" }));
    assert_eq!(deleted["service"]["status"], "DRAINING");
    eventually("it is over", || web.describe()["status"] == "INACTIVE");
    eventually("nothing is left", || web.0.left_of_tasks().is_empty());
    assert_eq!(web.0.down(), Vec::<String>::new());
}

#[test]
fn rolled_out_and_back() {
    let breaker = json!({ "deploymentCircuitBreaker": { "enable": true, "rollback": true } });
    let web = Web::start(2, json!({ "deploymentConfiguration": breaker }));
    let first = id(&web.describe()["deployments"][0]);
    web.until_done(&first);
    let old: Vec<String> = web.tasks("RUNNING").iter().map(task_id).collect();

    // Never fewer than the old ones until the new ones stand.
    web.0.define_busybox("web");
    let second = id(&web.update(json!({ "taskDefinition": "web" }))["deployments"][0]);
    let service = web.until_done(&second);
    let definition = service["taskDefinition"].as_str().expect("an ARN");
    assert!(definition.ends_with("web:2"), "{definition}");
    let tasks = web.tasks("RUNNING");
    assert_eq!(tasks.len(), 2);
    for task in &tasks {
        assert_eq!(task["taskDefinitionArn"], json!(definition));
        assert!(!old.contains(&task_id(task)));
    }
    let events = web.messages();
    let completed = format!("(service web) (deployment {second}) deployment completed.");
    assert!(events.contains(&completed), "{events:#?}");

    // An image that is not there: the breaker goes back to what ran before.
    web.0.define("web", json!([{ "name": "app", "image": "busybox:none" }]), Value::Null);
    let third = id(&web.update(json!({ "taskDefinition": "web:3" }))["deployments"][0]);
    eventually("it is seen to fail", || {
        let events = web.messages();
        events.contains(&format!("(service web) rolling back to deployment {second}."))
    });
    let service = web.until_done(&second);
    assert!(service["taskDefinition"].as_str().expect("an ARN").ends_with("web:2"), "{service:#}");
    let tasks = web.tasks("RUNNING");
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|task| task["startedBy"] == json!(second)));
    let listed = web.0.boto().ok("ecs", "list_service_deployments", json!({ "service": "web" }));
    let listed = listed["serviceDeployments"].as_array().expect("a list");
    let statuses: Vec<&str> = listed.iter().filter_map(|one| one["status"].as_str()).collect();
    assert_eq!(statuses, ["ROLLBACK_SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL"], "{third}: {listed:#?}");
}

#[test]
fn three_updates_in_a_second_and_a_crash_in_the_middle() {
    let mut web = Web::start(2, Value::Null);
    web.0.boto().ok("ecs", "wait:services_stable", json!({ "services": ["web"] }));
    for _ in 0..3 {
        web.0.define_busybox("web");
    }
    let mut last = Value::Null;
    for revision in 2..=4 {
        last = web.update(json!({ "taskDefinition": format!("web:{revision}") }));
    }
    let deployment = id(&last["deployments"][0]);
    eventually("it began", || web.tasks("RUNNING").iter().any(|task| task["startedBy"] == json!(deployment)));
    web.0.kill();
    web.0.up();
    web.until_done(&deployment);
    let tasks = web.tasks("RUNNING");
    assert_eq!(tasks.len(), 2);
    for task in tasks {
        assert!(task["taskDefinitionArn"].as_str().is_some_and(|arn| arn.ends_with("web:4")), "{task:#}");
    }
}

#[test]
fn not_without_permission() {
    let web = Web::start(0, Value::Null);
    let boto = web.0.boto();
    boto.ok("iam", "create_user", json!({ "UserName": "reader" }));
    let policy = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "ecs:DescribeServices",
        "Resource": "arn:aws:ecs:us-east-1:*:service/default/web" }] });
    let input = json!({ "UserName": "reader", "PolicyName": "p", "PolicyDocument": policy.to_string() });
    boto.ok("iam", "put_user_policy", input);
    let key = boto.ok("iam", "create_access_key", json!({ "UserName": "reader" }));
    let reader = web.0.boto_as(&Keys::of(&key["AccessKey"]));
    let seen = reader.ok("ecs", "describe_services", json!({ "services": ["web"] }));
    assert_eq!(seen["services"][0]["desiredCount"], 0);
    for (operation, input) in [
        ("update_service", json!({ "service": "web", "desiredCount": 5 })),
        ("delete_service", json!({ "service": "web", "force": true })),
        ("create_service", json!({ "serviceName": "other", "taskDefinition": "web", "desiredCount": 1 })),
        ("describe_services", json!({ "services": ["other"] })),
        ("list_services", json!({})),
        ("list_service_deployments", json!({ "service": "web" })),
    ] {
        let refused = reader.refused("ecs", operation, input);
        assert_eq!(refused.code, "AccessDeniedException", "{operation}: {}", refused.message);
        assert!(refused.message.contains("is not authorized to perform"), "{operation}: {}", refused.message);
    }
    assert_eq!(web.describe()["desiredCount"], 0);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// A balancer called `shop` for everybody.
struct Shop {
    /// What its listener forwards to.
    target_group: String,
    /// Of its targets.
    security_group: String,
    listener: String,
}

/// Of HTTP, with quick checks and a short delay.
fn target_group(cluster: &Cluster, name: &str) -> String {
    let input = json!({
        "Name": name, "Protocol": "HTTP", "Port": 80, "TargetType": "ip", "VpcId": cluster.network().vpc,
        "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2,
    });
    let answer = cluster.boto().ok("elbv2", "create_target_group", input);
    let arn = text(&answer["TargetGroups"][0]["TargetGroupArn"]);
    let delay = json!([{ "Key": "deregistration_delay.timeout_seconds", "Value": "3" }]);
    let input = json!({ "TargetGroupArn": arn, "Attributes": delay });
    cluster.boto().ok("elbv2", "modify_target_group_attributes", input);
    arn
}

fn shop(cluster: &Cluster) -> Shop {
    let boto = cluster.boto();
    let network = cluster.network();
    let group = |name: &str, from: Value| {
        let input = json!({ "GroupName": name, "Description": name, "VpcId": network.vpc });
        let id = text(&boto.ok("ec2", "create_security_group", input)["GroupId"]);
        let mut permission = json!({ "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80 });
        permission.as_object_mut().expect("an object").extend(from.as_object().expect("an object").clone());
        let input = json!({ "GroupId": id, "IpPermissions": [permission] });
        boto.ok("ec2", "authorize_security_group_ingress", input);
        id
    };
    let front = group("front", json!({ "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }));
    let back = group("back", json!({ "UserIdGroupPairs": [{ "GroupId": front }] }));
    let mut subnets: Vec<(String, String)> = Vec::new();
    for subnet in boto.ok("ec2", "describe_subnets", json!({}))["Subnets"].as_array().expect("subnets") {
        let (zone, id) = (text(&subnet["AvailabilityZone"]), text(&subnet["SubnetId"]));
        if !subnets.iter().any(|(known, _)| *known == zone) {
            subnets.push((zone, id));
        }
    }
    let subnets: Vec<String> = subnets.into_iter().take(2).map(|(_, id)| id).collect();
    let target_group = target_group(cluster, "blue");
    let unused = json!({
        "serviceName": "web", "taskDefinition": "web", "desiredCount": 1, "launchType": "FARGATE",
        "networkConfiguration": network.configuration(&[]),
        "loadBalancers": [{ "targetGroupArn": target_group, "containerName": "app", "containerPort": 80 }],
    });
    let refused = boto.refused("ecs", "create_service", unused);
    let words = format!(
        "The target group with targetGroupArn {target_group} does not have an associated load balancer."
    );
    assert_eq!((refused.code.as_str(), refused.message), ("InvalidParameterException", words));
    let input = json!({ "Name": "shop", "Subnets": subnets, "SecurityGroups": [front] });
    let balancer = boto.ok("elbv2", "create_load_balancer", input)["LoadBalancers"][0].take();
    let input = json!({
        "LoadBalancerArn": balancer["LoadBalancerArn"], "Protocol": "HTTP", "Port": 80,
        "DefaultActions": [{ "Type": "forward", "TargetGroupArn": target_group }],
    });
    let listener = text(&boto.ok("elbv2", "create_listener", input)["Listeners"][0]["ListenerArn"]);
    Shop { target_group, security_group: back, listener }
}

fn define_nginx(cluster: &Cluster, says: &str) {
    let script = format!("echo {says} > /usr/share/nginx/html/index.html; exec nginx -g 'daemon off;'");
    let container = json!([{
        "name": "app", "image": "nginx:latest", "entryPoint": ["sh", "-c"], "command": [script],
        "portMappings": [{ "containerPort": 80 }],
    }]);
    cluster.define("web", container, Value::Null);
}

/// Asks the balancer without a pause.
struct Load(Child);

impl Load {
    /// Each answer is a line, `<body> <status>`.
    const ANSWERS: &'static str = "answers.txt";

    fn start(cluster: &Cluster) -> Self {
        let script = format!(
            "while :; do curl -s --max-time 10 -w ' %{{http_code}}\\n' -H 'Host: shop.elb.localhost:4566' \
             http://127.0.0.1:4566/ | tr -d '\\n'; echo; done > {}",
            cluster.folder().join(Self::ANSWERS).display()
        );
        Self(cluster.command("sh").args(["-c", &script]).spawn().expect("a shell"))
    }

    fn answers(cluster: &Cluster) -> Vec<String> {
        let said = std::fs::read_to_string(cluster.folder().join(Self::ANSWERS)).unwrap_or_default();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_request_fails_while_a_new_revision_takes_over() {
    let cluster = Cluster::start();
    cluster.boto().ok("ecs", "create_cluster", json!({}));
    define_nginx(&cluster, "one");
    let Shop { target_group, security_group: back, .. } = shop(&cluster);
    let web = Web(cluster);
    let network = web.0.network().configuration(&[&back]);
    let balanced = json!([{ "targetGroupArn": target_group, "containerName": "app", "containerPort": 80 }]);
    web.create(2, json!({ "loadBalancers": balanced, "networkConfiguration": network }));
    let first = id(&web.describe()["deployments"][0]);
    web.until_done(&first);
    let events = web.messages();
    // Both at once, or one after the other: then it is said once.
    let registered = format!(" targets in (target-group {target_group})");
    let says = |text: &&String| text.starts_with("(service web) registered ") && text.ends_with(&registered);
    assert!(events.iter().any(|text| says(&text)), "{events:#?}");

    let load = Load::start(&web.0);
    eventually("it is asked", || Load::answers(&web.0).len() > 50);
    define_nginx(&web.0, "two");
    let second = id(&web.update(json!({ "taskDefinition": "web" }))["deployments"][0]);
    web.until_done(&second);
    let before = Load::answers(&web.0).len();
    eventually("it is asked on", || Load::answers(&web.0).len() > before + 50);
    drop(load);
    let answers = Load::answers(&web.0);
    let of = |answer: &str| answers.iter().filter(|one| *one == answer).count();
    assert!(of("one 200") > 50 && of("two 200") > 50, "{} of one, {} of two", of("one 200"), of("two 200"));
    let others: Vec<&String> = answers.iter().filter(|one| *one != "one 200" && *one != "two 200").collect();
    assert!(others.is_empty(), "{} of {}: {others:?}", others.len(), answers.len());

    // One that answers no more is replaced, and it is said why.
    let victim = task_id(&web.tasks("RUNNING")[0]);
    for pid in web.0.task_processes(&victim) {
        assert!(web.0.command("kill").args(["-STOP", &pid.to_string()]).status().is_ok_and(|s| s.success()));
    }
    let reason = format!("Task failed ELB health checks in (target-group {target_group})");
    eventually("it is replaced", || {
        web.tasks("STOPPED")
            .iter()
            .any(|task| task_id(task) == victim && task["stoppedReason"] == json!(reason))
    });
    for pid in web.0.task_processes(&victim) {
        let _ = web.0.command("kill").args(["-KILL", &pid.to_string()]).status();
    }
    web.0.boto().ok("ecs", "delete_service", json!({ "service": "web", "force": true }));
    eventually("it is over", || web.describe()["status"] == "INACTIVE");
    let input = json!({ "TargetGroupArn": target_group });
    let left = web.0.boto().ok("elbv2", "describe_target_health", input);
    assert_eq!(left["TargetHealthDescriptions"], json!([]));
}

/// What the rule gives each target group.
fn weights(cluster: &Cluster, rule: &str) -> Vec<(String, i64)> {
    let answer = cluster.boto().ok("elbv2", "describe_rules", json!({ "RuleArns": [rule] }));
    let groups = answer["Rules"][0]["Actions"][0]["ForwardConfig"]["TargetGroups"].clone();
    let all = groups.as_array().into_iter().flatten();
    all.map(|one| (text(&one["TargetGroupArn"]), one["Weight"].as_i64().unwrap_or(1))).collect()
}

#[test]
fn all_traffic_goes_over_at_once() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    boto.ok("ecs", "create_cluster", json!({}));
    define_nginx(&cluster, "one");
    let shop = shop(&cluster);
    let green = target_group(&cluster, "green");
    let input = json!({
        "ListenerArn": shop.listener, "Priority": 1, "Conditions": [{ "Field": "path-pattern", "Values": ["/*"] }],
        "Actions": [{ "Type": "forward", "TargetGroupArn": shop.target_group }],
    });
    let rule = text(&boto.ok("elbv2", "create_rule", input)["Rules"][0]["RuleArn"]);
    let trust = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": { "Service": "ecs.amazonaws.com" } }] });
    let input = json!({ "RoleName": "shift", "AssumeRolePolicyDocument": trust.to_string() });
    let role = text(&boto.ok("iam", "create_role", input)["Role"]["Arn"]);
    let advanced =
        json!({ "alternateTargetGroupArn": green, "productionListenerRule": rule, "roleArn": role });
    let balanced = json!([{ "targetGroupArn": shop.target_group, "containerName": "app", "containerPort": 80,
        "advancedConfiguration": advanced }]);
    let network = cluster.network().configuration(&[&shop.security_group]);
    let more = json!({ "loadBalancers": balanced, "networkConfiguration": network,
        "deploymentConfiguration": { "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 0 } });
    // Without the right to change the rule there is no such service.
    let mut input = json!({ "serviceName": "web", "taskDefinition": "web", "desiredCount": 1 });
    input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let refused = boto.refused("ecs", "create_service", input);
    assert_eq!(refused.code, "InvalidParameterException", "{}", refused.message);
    let policy = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Resource": "*", "Action": [
        "elasticloadbalancing:Describe*", "elasticloadbalancing:ModifyRule", "elasticloadbalancing:ModifyListener"] }] });
    let input = json!({ "RoleName": "shift", "PolicyName": "p", "PolicyDocument": policy.to_string() });
    boto.ok("iam", "put_role_policy", input);

    let web = Web(cluster);
    web.create(1, more);
    web.until_done(&id(&web.describe()["deployments"][0]));
    let load = Load::start(&web.0);
    eventually("it is asked", || Load::answers(&web.0).len() > 50);
    define_nginx(&web.0, "two");
    let second = id(&web.update(json!({ "taskDefinition": "web" }))["deployments"][0]);
    web.until_done(&second);
    let before = Load::answers(&web.0).len();
    eventually("it is asked on", || Load::answers(&web.0).len() > before + 50);
    drop(load);
    let answers = Load::answers(&web.0);
    let failed: Vec<&String> = answers.iter().filter(|one| !one.ends_with(" 200")).collect();
    assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), answers.len());
    assert_eq!(answers.last().map(String::as_str), Some("two 200"));
    let last_one = answers.iter().rposition(|one| one == "one 200").expect("one was asked");
    let first_two = answers.iter().position(|one| one == "two 200").expect("two was asked");
    assert!(first_two.abs_diff(last_one) < 20, "at once: {first_two}, {last_one}");
    let weights = weights(&web.0, &rule);
    assert!(weights.iter().any(|(group, weight)| *group == green && *weight > 0), "{weights:?}");
    assert!(weights.iter().all(|(group, weight)| *group == green || *weight == 0), "{weights:?}");
    let listed = web.0.boto().ok("ecs", "list_service_deployments", json!({ "service": "web" }));
    assert_eq!(listed["serviceDeployments"][0]["status"], "SUCCESSFUL", "{listed:#}");
}

#[test]
fn found_by_name() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    boto.ok("ecs", "create_cluster", json!({}));
    cluster.define_busybox("web");
    let network = cluster.network();
    let input = json!({ "Name": "example.local", "Vpc": network.vpc });
    let operation = boto.ok("servicediscovery", "create_private_dns_namespace", input)["OperationId"].take();
    let namespace = until("the namespace is made", || {
        let answer = boto.ok("servicediscovery", "get_operation", json!({ "OperationId": operation }));
        let operation = &answer["Operation"];
        (operation["Status"] == "SUCCESS").then(|| text(&operation["Targets"]["NAMESPACE"]))
    });
    let input = json!({ "Name": "profiles", "NamespaceId": namespace,
        "DnsConfig": { "DnsRecords": [{ "Type": "A", "TTL": 1 }] }, "HealthCheckCustomConfig": { "FailureThreshold": 1 } });
    let registry = boto.ok("servicediscovery", "create_service", input)["Service"].take();
    let web = Web(cluster);
    web.create(1, json!({ "serviceRegistries": [{ "registryArn": registry["Arn"] }] }));
    let instances = || {
        let input = json!({ "ServiceId": registry["Id"] });
        let answer = web.0.boto().ok("servicediscovery", "list_instances", input);
        answer["Instances"].as_array().expect("instances").clone()
    };
    let instance = until("it is registered", || instances().pop());
    let task = until("it runs", || web.tasks("RUNNING").pop().filter(|task| task["lastStatus"] == "RUNNING"));
    assert_eq!(instance["Id"], json!(task_id(&task)));
    let (address, _) = web.0.addresses(&task);
    assert_eq!(instance["Attributes"]["AWS_INSTANCE_IPV4"], json!(address), "{instance:#}");
    assert_eq!(instance["Attributes"]["ECS_SERVICE_NAME"], "web");

    // By those in its VPC.
    let look =
        "for i in 1 2 3 4 5 6 7 8 9; do nslookup profiles.example.local && exit 0; sleep 1; done; exit 7";
    let run = TaskRun::of("web").command("app", &["sh", "-c", look]);
    let asker = web.0.run_task(&network, &run);
    let ended = web.0.stopped(&asker);
    let said = web.0.output(&asker);
    assert_eq!(ended["containers"][0]["exitCode"], 0, "{said}");
    assert!(said.contains(&address), "{said}");
    web.0.boto().ok("ecs", "delete_service", json!({ "service": "web", "force": true }));
    eventually("it is over", || web.describe()["status"] == "INACTIVE");
    assert_eq!(instances(), Vec::<Value>::new());
}
