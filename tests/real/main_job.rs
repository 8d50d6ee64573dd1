//! The main job, typed as a person types it: the aws CLI and nothing else.

use ferrogate_tests::{Cluster, TaskRun, eventually};
use serde_json::Value;

/// Verbatim as the world has it.
const SAMPLE: &str = r#"{"family":"sample-fargate-app","networkMode":"awsvpc","requiresCompatibilities":["FARGATE"],
 "cpu":"256","memory":"512","containerDefinitions":[{"name":"sample-app","image":"nginx:latest",
 "portMappings":[{"containerPort":80,"protocol":"tcp"}]}]}"#;
const WELCOME: &str = "Welcome to nginx!";
/// A connection that nobody answers is given up after this.
const CONNECT: &[&str] = &["--connect-timeout", "1", "--max-time", "5"];

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

fn fetch(cluster: &Cluster, address: &str) -> Result<String, i32> {
    let url = format!("http://{address}/");
    cluster.curl(&[CONNECT, &[&url]].concat())
}

fn seconds(task: &Value, name: &str) -> f64 {
    task[name].as_f64().unwrap_or_else(|| panic!("no {name} in {task:#}"))
}

#[test]
fn the_main_job() {
    let cluster = Cluster::start();
    let aws = |line: &str| cluster.aws(&line.split_whitespace().collect::<Vec<_>>());

    let registered = cluster.aws(&["ecs", "register-task-definition", "--cli-input-json", SAMPLE]).json();
    assert_eq!(text(&registered, "/taskDefinition/status"), "ACTIVE");
    assert!(
        text(&registered, "/taskDefinition/taskDefinitionArn")
            .ends_with(":123456789012:task-definition/sample-fargate-app:1")
    );

    let subnets = aws("ec2 describe-subnets --filters Name=default-for-az,Values=true").json();
    let zones: std::collections::BTreeSet<&str> = subnets["Subnets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subnet| text(subnet, "/AvailabilityZone"))
        .collect();
    assert_eq!(zones.len(), 3, "{subnets:#}");
    let subnet = text(&subnets, "/Subnets/0/SubnetId");
    let group =
        aws("ec2 describe-security-groups --filters Name=group-name,Values=default --query SecurityGroups[0].GroupId").json();
    let group = group.as_str().unwrap();

    let ran = aws(&format!(
        "ecs run-task --task-definition sample-fargate-app --launch-type FARGATE \
         --network-configuration awsvpcConfiguration={{subnets=[{subnet}],assignPublicIp=ENABLED}}"
    ))
    .json();
    assert_eq!(ran["failures"], serde_json::json!([]));
    let arn = text(&ran, "/tasks/0/taskArn").to_owned();
    assert!(arn.starts_with("arn:aws:ecs:us-east-1:123456789012:task/default/"), "{arn}");
    assert_eq!(text(&ran, "/tasks/0/lastStatus"), "PROVISIONING");
    assert_eq!(text(&ran, "/tasks/0/desiredStatus"), "RUNNING");
    aws(&format!("ecs wait tasks-running --tasks {arn}")).ok();

    let described = aws(&format!("ecs describe-tasks --tasks {arn}")).json();
    let task = &described["tasks"][0];
    assert_eq!(text(task, "/lastStatus"), "RUNNING");
    assert_eq!(text(task, "/launchType"), "FARGATE");
    assert_eq!(text(task, "/platformVersion"), "1.4.0");
    assert_eq!(text(task, "/connectivity"), "CONNECTED");
    assert_eq!((text(task, "/cpu"), text(task, "/memory")), ("256", "512"));
    assert_eq!(text(task, "/group"), "family:sample-fargate-app");
    assert_eq!(text(task, "/attachments/0/type"), "ElasticNetworkInterface");
    assert_eq!(text(task, "/attachments/0/status"), "ATTACHED");
    assert_eq!(text(task, "/containers/0/name"), "sample-app");
    assert_eq!(text(task, "/containers/0/lastStatus"), "RUNNING");
    assert!(text(task, "/containers/0/imageDigest").starts_with("sha256:"), "{task:#}");

    // Its interface: as the task tells it, and as EC2 does.
    let details = task["attachments"][0]["details"].as_array().unwrap();
    let detail = |name: &str| {
        details.iter().find(|detail| detail["name"] == name).map_or("", |detail| text(detail, "/value"))
    };
    let interfaces = aws(&format!(
        "ec2 describe-network-interfaces --network-interface-ids {}",
        detail("networkInterfaceId")
    ))
    .json();
    let interface = &interfaces["NetworkInterfaces"][0];
    let private = text(interface, "/PrivateIpAddress").to_owned();
    assert_eq!(private, detail("privateIPv4Address"));
    assert_eq!(private, text(task, "/containers/0/networkInterfaces/0/privateIpv4Address"));
    assert_eq!(text(interface, "/MacAddress"), detail("macAddress"));
    assert_eq!(text(interface, "/SubnetId"), detail("subnetId"));
    assert_eq!(detail("subnetId"), subnet);
    assert_eq!(text(interface, "/Groups/0/GroupId"), group);
    assert_eq!(interface["RequesterManaged"], true);
    let public = text(interface, "/Association/PublicIp").to_owned();
    assert!(public.starts_with("127.64."), "{public}");

    // The default group lets only itself in.
    assert!(fetch(&cluster, &public).is_err(), "the default group lets the world in");
    let permit = format!("--group-id {group} --protocol tcp --port 80 --cidr 0.0.0.0/0");
    aws(&format!("ec2 authorize-security-group-ingress {permit}")).ok();
    eventually("the page is served once its rule is there", || {
        fetch(&cluster, &public).is_ok_and(|page| page.contains(WELCOME))
    });

    from_another_task(&cluster, &private);

    aws(&format!("ec2 revoke-security-group-ingress {permit}")).ok();
    eventually("the page is refused once its rule is revoked", || fetch(&cluster, &public).is_err());
    aws(&format!("ec2 authorize-security-group-ingress {permit}")).ok();
    eventually("the page is served again", || {
        fetch(&cluster, &public).is_ok_and(|page| page.contains(WELCOME))
    });

    // Stopped without a reason.
    let stopped = aws(&format!("ecs stop-task --task {arn}")).json();
    assert_eq!(text(&stopped, "/task/desiredStatus"), "STOPPED");
    aws(&format!("ecs wait tasks-stopped --tasks {arn}")).ok();
    let task = cluster.task(&arn);
    assert_eq!(text(&task, "/lastStatus"), "STOPPED");
    assert_eq!(text(&task, "/stopCode"), "UserInitiated");
    assert_eq!(text(&task, "/stoppedReason"), "Task stopped by user");
    assert_eq!(task["containers"][0]["exitCode"], 0, "nginx ends well when it is asked to: {task:#}");
    let order = [
        "createdAt",
        "pullStartedAt",
        "pullStoppedAt",
        "startedAt",
        "stoppingAt",
        "executionStoppedAt",
        "stoppedAt",
    ];
    for pair in order.windows(2) {
        assert!(
            seconds(&task, pair[0]) <= seconds(&task, pair[1]),
            "{} after {}: {task:#}",
            pair[0],
            pair[1]
        );
    }
    // Nobody has the address any more, and the interface is no more.
    eventually("the address is nobody's", || fetch(&cluster, &public).is_err());
    let gone = cluster.boto().refused(
        "ec2",
        "describe_network_interfaces",
        serde_json::json!({ "NetworkInterfaceIds": [detail("networkInterfaceId")] }),
    );
    assert_eq!(gone.code, "InvalidNetworkInterfaceID.NotFound");
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}

/// The same page by the private address from a second task; and not from one whose group has no way in.
fn from_another_task(cluster: &Cluster, private: &str) {
    let network = cluster.network();
    cluster.define_busybox("client");
    let url = format!("http://{private}/");
    // Debian's busybox has no wget -T that works.
    let wget = ["timeout", "5", "wget", "-q", "-O", "-", &url];
    let arn = cluster.run_task(&network, &TaskRun::of("client").command("app", &wget));
    let task = cluster.stopped(&arn);
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}\n{}", cluster.output(&arn));
    assert!(cluster.output(&arn).contains(WELCOME));
    // The private address is of the VPC; this host has no way to it.
    assert!(cluster.curl(&["--connect-timeout", "1", "--max-time", "2", &url]).is_err());
}

/// Groups name groups: who is let in is a matter of membership, live.
#[test]
fn security_groups_name_each_other() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let network = cluster.network();
    let group = |name: &str| {
        let input = serde_json::json!({ "GroupName": name, "Description": "test", "VpcId": network.vpc });
        text(&boto.ok("ec2", "create_security_group", input), "/GroupId").to_owned()
    };
    let (web, friend, stranger) = (group("web"), group("friend"), group("stranger"));
    let permission = serde_json::json!({ "GroupId": web, "IpPermissions": [
        { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [{ "GroupId": friend }] },
    ]});
    boto.ok("ec2", "authorize_security_group_ingress", permission.clone());
    cluster.define("web", serde_json::json!([{ "name": "web", "image": "nginx" }]), Value::Null);
    cluster.define_busybox("client");
    let server = cluster.run_task(&network, &TaskRun::of("web").groups(&[&web]));
    let (private, _) = cluster.addresses(&cluster.running(&server));

    let wget = format!("timeout 2 wget -q -O - http://{private}/ | grep -c 'Welcome to nginx!'");
    let asked = |group: &str| {
        let run = TaskRun::of("client").command("app", &["sh", "-c", &wget]);
        let groups = [group];
        let arn = cluster.run_task(&network, &run.groups(&groups));
        cluster.stopped(&arn)["containers"][0]["exitCode"].as_i64()
    };
    assert_eq!(asked(&friend), Some(0), "the group is named and not let in");
    assert_eq!(asked(&stranger), Some(1), "nobody named this group");
    boto.ok("ec2", "revoke_security_group_ingress", permission);
    eventually("the group is shut out", || asked(&friend) == Some(1));
    boto.ok("ecs", "stop_task", serde_json::json!({ "task": server, "reason": "enough" }));
    assert_eq!(cluster.stopped(&server)["stoppedReason"], "enough");
}

/// With awslogs: an execution role, a log group, and `aws logs` to read it.
#[test]
fn its_lines_are_in_cloudwatch_logs() {
    let cluster = Cluster::start();
    let aws = |line: &str| cluster.aws(&line.split_whitespace().collect::<Vec<_>>());
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
    let role = cluster
        .aws(&[
            "iam",
            "create-role",
            "--role-name",
            "ecsTaskExecutionRole",
            "--assume-role-policy-document",
            trust,
        ])
        .json();
    let role = text(&role, "/Role/Arn");
    aws("iam attach-role-policy --role-name ecsTaskExecutionRole \
         --policy-arn arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy")
    .ok();

    let mut definition: Value = serde_json::from_str(SAMPLE).unwrap();
    definition["executionRoleArn"] = role.into();
    definition["containerDefinitions"][0]["logConfiguration"] = serde_json::json!({ "logDriver": "awslogs", "options": {
        "awslogs-group": "/ecs/sample", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "web" }});
    cluster.aws(&["ecs", "register-task-definition", "--cli-input-json", &definition.to_string()]).ok();
    let network = cluster.network();

    // The group has to be there.
    let arn = cluster.run_task(&network, &TaskRun::of("sample-fargate-app"));
    let task = cluster.stopped(&arn);
    assert_eq!(text(&task, "/stopCode"), "TaskFailedToStart");
    let reason = text(&task, "/stoppedReason");
    assert!(
        reason.starts_with("ResourceInitializationError: failed to validate logger args:")
            && reason.contains("ResourceNotFoundException: The specified log group does not exist."),
        "{reason}"
    );

    aws("logs create-log-group --log-group-name /ecs/sample").ok();
    let port = serde_json::json!({ "GroupId": network.group, "IpPermissions": [
        { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] },
    ]});
    cluster.boto().ok("ec2", "authorize_security_group_ingress", port);
    let arn = cluster.run_task(&network, &TaskRun::of("sample-fargate-app"));
    let (_, public) = cluster.addresses(&cluster.running(&arn));
    let public = public.expect("a public address");
    eventually("the page is served", || fetch(&cluster, &format!("{public}:80")).is_ok());
    assert!(cluster.curl(&[CONNECT, &[&format!("http://{public}/not-there")]].concat()).is_ok());

    let stream = format!("web/sample-app/{}", arn.rsplit('/').next().unwrap());
    let line = "\"GET /not-there HTTP/1.1\" 404";
    eventually("the access line is in the log stream", || {
        let events = aws(&format!(
            "logs get-log-events --log-group-name /ecs/sample --log-stream-name {stream} --start-from-head"
        ));
        events.json()["events"].as_array().unwrap().iter().any(|event| text(event, "/message").contains(line))
    });
    let found = aws("logs filter-log-events --log-group-name /ecs/sample --filter-pattern 404").json();
    assert_eq!(text(&found, "/events/0/logStreamName"), stream);
    let streams = aws("logs describe-log-streams --log-group-name /ecs/sample").json();
    assert_eq!(text(&streams, "/logStreams/0/logStreamName"), stream);

    aws(&format!("ecs stop-task --task {arn} --reason maintenance")).ok();
    aws(&format!("ecs wait tasks-stopped --tasks {arn}")).ok();
    let task = cluster.task(&arn);
    assert_eq!((text(&task, "/stopCode"), text(&task, "/stoppedReason")), ("UserInitiated", "maintenance"));
    // What it wrote in its last moment is there too, and `ferrogate logs` tells the same.
    assert!(cluster.output(&arn).contains(line));
}

ferrogate_tests::machines!(security_groups_name_each_other);
