use std::net::{IpAddr, Ipv4Addr};

use ferrogate_api::ecs;
use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, NetworkAclFabric, Peer, RouteFabric, RouteTableFabric,
    RouteTarget, SecurityGroupFabric, SecurityGroupRule, SubnetFabric, VpcFabric,
};
use jiff::Timestamp;

use super::*;

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn block(text: &str) -> ipnet::Ipv4Net {
    text.parse().unwrap()
}

fn at(second: i64) -> Option<Timestamp> {
    Some(Timestamp::from_second(second).unwrap())
}

/// nginx on port 80, with an interface in the fabric of [`fabric`].
fn facts(status: &str) -> Facts {
    let container = ecs::Container { name: some("web"), last_status: some(status), ..Default::default() };
    let detail = |name: &str, value: &str| ecs::KeyValuePair { name: some(name), value: some(value) };
    let attachment = ecs::Attachment {
        details: Some(vec![detail("subnetId", "subnet-1"), detail("networkInterfaceId", "eni-1")]),
        ..Default::default()
    };
    let mapping = ecs::PortMapping { container_port: Some(80), protocol: some("tcp"), ..Default::default() };
    let definition = ecs::ContainerDefinition {
        name: some("web"),
        essential: Some(true),
        port_mappings: Some(vec![mapping]),
        ..Default::default()
    };
    Facts {
        now: at(1000).unwrap(),
        task: ecs::Task {
            task_arn: some("arn:aws:ecs:us-east-1:123456789012:task/default/0123"),
            last_status: some(status),
            cpu: some("256"),
            memory: some("512"),
            created_at: at(900),
            containers: Some(vec![container]),
            attachments: Some(vec![attachment]),
            ..Default::default()
        },
        definition: Some(ecs::TaskDefinition {
            container_definitions: Some(vec![definition]),
            execution_role_arn: some("arn:aws:iam::123456789012:role/exec"),
            ..Default::default()
        }),
        fabric: fabric(),
        node: NodeFacts { largest_mib: Some(512), ..Default::default() },
        ..Default::default()
    }
}

/// One public subnet whose group lets the world in on port 80.
fn fabric() -> Fabric {
    let rule = |port: Option<u16>| SecurityGroupRule {
        protocol: if port.is_some() { IpProtocol::TCP } else { IpProtocol::All },
        ports: port.map(|port| (port, port)),
        icmp: None,
        peer: Peer::Cidr(block("0.0.0.0/0")),
    };
    let all = || AclEntry {
        rule_number: 100,
        allow: true,
        protocol: IpProtocol::All,
        cidr: block("0.0.0.0/0"),
        ports: None,
        icmp: None,
    };
    let vpc = VpcFabric {
        vpc_id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec![block("10.0.0.0/16")],
        subnets: vec![SubnetFabric {
            subnet_id: "subnet-1".into(),
            cidr: block("10.0.0.0/24"),
            route_table_id: "rtb-1".into(),
            network_acl_id: "acl-1".into(),
        }],
        route_tables: vec![RouteTableFabric {
            route_table_id: "rtb-1".into(),
            routes: vec![
                RouteFabric { destination: block("10.0.0.0/16"), target: RouteTarget::Local },
                RouteFabric {
                    destination: block("0.0.0.0/0"),
                    target: RouteTarget::InternetGateway("igw-1".into()),
                },
            ],
        }],
        network_acls: vec![NetworkAclFabric {
            network_acl_id: "acl-1".into(),
            ingress: vec![all()],
            egress: vec![all()],
        }],
        security_groups: vec![SecurityGroupFabric {
            group_id: "sg-1".into(),
            ingress: vec![rule(Some(80))],
            egress: vec![rule(None)],
        }],
        enis: vec![EniFabric {
            eni_id: "eni-1".into(),
            subnet_id: "subnet-1".into(),
            mac: "0a:00:00:00:00:01".into(),
            private_ip: Ipv4Addr::new(10, 0, 0, 4),
            public_ip: Some(Ipv4Addr::new(203, 0, 113, 4)),
            security_group_ids: vec!["sg-1".into()],
            source_dest_check: true,
            network_load_balancer: false,
        }],
        internet_gateway: Some("igw-1".into()),
    };
    Fabric { revision: 1, vpcs: vec![vpc] }
}

fn stopped(code: &str, reason: &str) -> Facts {
    let mut facts = facts("STOPPED");
    facts.task.stop_code = some(code);
    facts.task.stopped_reason = some(reason);
    facts.task.stopped_at = at(940);
    facts
}

/// The first finding, which has to be the cause.
fn cause(facts: &Facts) -> Finding {
    let explanation = explain(facts);
    let first = explanation.findings[0].clone();
    assert_eq!(first.weight, Weight::Cause, "{explanation:#?}");
    assert!(!first.fix.is_empty(), "a cause has a fix: {first:#?}");
    first
}

#[test]
fn every_recorded_failure_has_its_cause_and_a_fix() {
    let secrets = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: ";
    let logger = "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: ";
    let cases: Vec<(String, About, &str)> = vec![
        ("CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref docker.io/library/nope:1: docker.io/library/nope:1: not found".into(), About::Image, "There is no image docker.io/library/nope:1."),
        ("CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref docker.io/a/b:1: pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials".into(), About::Image, "does not let the task have docker.io/a/b:1"),
        ("CannotPullContainerError: ref pull has been retried 5 time(s): failed to extract layer: no space left on device".into(), About::Storage, "ephemeral storage"),
        ("CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref x:1: image Manifest does not contain descriptor matching platform 'linux/amd64'".into(), About::Image, "platform"),
        (format!("{secrets}unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret arn:s from secrets manager: AccessDeniedException: User: arn:aws:sts::1:assumed-role/exec/0 is not authorized to perform: secretsmanager:GetSecretValue on resource: arn:s because no identity-based policy allows it"), About::Role, "The execution role exec may not secretsmanager:GetSecretValue on arn:s."),
        (format!("{secrets}retrieved secret from Secrets Manager did not contain json key password"), About::Secret, "no such JSON key"),
        (format!("{logger}ResourceNotFoundException: The specified log group does not exist. : exit status 1"), About::Logs, "does not exist"),
        ("CannotStartContainerError: exec: \"nope\": executable file not found in $PATH".into(), About::Command, "not in the image"),
        ("Timeout waiting for network interface provisioning to complete.".into(), About::Capacity, "free address"),
        ("something that nobody has seen before".into(), About::Start, "failed to start"),
    ];
    for (reason, about, what) in cases {
        let explanation = explain(&stopped("TaskFailedToStart", &reason));
        let first = &explanation.findings[0];
        assert_eq!((first.weight, first.about), (Weight::Cause, about), "{reason}: {first:#?}");
        assert!(first.what.contains(what), "{reason}: {first:#?}");
        assert_eq!(first.evidence[0], reason);
        assert!(!explanation.is_well());
    }
}

#[test]
fn a_pull_that_timed_out_is_the_route_tables_fault() {
    let reason = "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref docker.io/library/nginx:latest: failed to do request: Head: dial tcp: i/o timeout";
    let mut facts = stopped("TaskFailedToStart", reason);
    facts.fabric.vpcs[0].route_tables[0].routes.pop();
    let found = cause(&facts);
    assert_eq!(found.about, About::Route);
    assert!(found.what.contains("subnet-1") && found.what.contains("rtb-1"), "{found:#?}");
    assert!(found.fix.iter().any(|fix| fix.contains("create-route --route-table-id rtb-1")), "{found:#?}");
}

#[test]
fn a_pull_that_timed_out_may_be_the_network_acls_fault() {
    let reason = "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref docker.io/library/nginx:latest: failed to do request: Head: dial tcp: i/o timeout";
    let mut facts = stopped("TaskFailedToStart", reason);
    let denied = |ports: (u16, u16)| AclEntry {
        rule_number: 50,
        allow: false,
        protocol: IpProtocol::TCP,
        cidr: block("0.0.0.0/0"),
        ports: Some(ports),
        icmp: None,
    };
    facts.fabric.vpcs[0].network_acls[0].ingress.insert(0, denied((1024, 65535)));
    let found = cause(&facts);
    let what = "Network ACL acl-1 of subnet subnet-1 refuses tcp 32768 in (rule 50).";
    assert_eq!((found.about, found.what.as_str()), (About::NetworkAcl, what));
    facts.fabric.vpcs[0].network_acls[0].egress.insert(0, denied((443, 443)));
    assert_eq!(cause(&facts).what, "Network ACL acl-1 of subnet subnet-1 refuses tcp 443 out (rule 50).");
    // Answers come to high ports.
    let acl = &mut facts.fabric.vpcs[0].network_acls[0];
    acl.egress.remove(0);
    acl.ingress[0] = denied((1, 1023));
    assert_eq!(cause(&facts).about, About::Route);
}

#[test]
fn what_the_interface_is_kept_from_counts_before_the_subnets_route() {
    let mut facts = facts("ACTIVATING");
    facts.no_way_out = Some(Finding::cause(About::NetworkAcl, "rule 90 denies it").fix("let it through"));
    facts.fabric.vpcs[0].route_tables[0].routes.pop();
    assert_eq!(cause(&facts).about, About::NetworkAcl);
    // A more specific route wins.
    let vpc = &mut facts.fabric.vpcs[0];
    vpc.route_tables[0]
        .routes
        .push(RouteFabric { destination: block("198.51.0.0/16"), target: RouteTarget::Blackhole });
    facts.no_way_out = None;
    assert!(cause(&facts).what.contains("black hole"));
}

#[test]
fn exits_by_their_code() {
    let exited = |code: i32, reason: Option<&str>| {
        let mut facts = stopped("EssentialContainerExited", "Essential container in task exited");
        let container = &mut facts.task.containers.as_mut().unwrap()[0];
        container.exit_code = Some(code);
        container.reason = reason.map(str::to_owned);
        facts.node.last_lines = vec![("web".into(), vec!["the last line".into()])];
        facts
    };
    for (code, what) in [
        (0, "exited with 0"),
        (1, "exited with 1"),
        (127, "did not find"),
        (139, "SIGSEGV"),
        (134, "signal 6"),
    ] {
        let found = cause(&exited(code, None));
        assert!(found.what.contains(what), "{found:#?}");
        assert_eq!(found.evidence, ["the last line"]);
    }
    let found = cause(&exited(137, Some("OutOfMemoryError: Container killed due to memory usage")));
    assert_eq!(found.about, About::Size);
    assert!(found.fix[0].contains("cpu 256, memory 1024"), "{found:#?}");
    // By its own limit, not by the task's.
    let mut facts = exited(137, Some("OutOfMemoryError: Container killed due to memory usage"));
    facts.task.containers.as_mut().unwrap()[0].memory = some("128");
    assert!(cause(&facts).what.contains("its own limit of 128 MiB"));
    // The largest there is.
    facts.task.containers.as_mut().unwrap()[0].memory = None;
    (facts.task.cpu, facts.task.memory) = (some("16384"), some("122880"));
    assert!(cause(&facts).fix[0].contains("largest"));
}

#[test]
fn who_asked_for_it_needs_no_explanation() {
    let mut facts = stopped("UserInitiated", "enough");
    facts.task.started_at = at(910);
    facts.task.containers.as_mut().unwrap()[0].exit_code = Some(137);
    let explanation = explain(&facts);
    assert!(explanation.is_well(), "{explanation:#?}");
    assert_eq!(explanation.state, "STOPPED (UserInitiated) 60 s ago, after it had run for 30 s");
}

#[test]
fn a_running_task_that_does_not_answer() {
    let listener =
        |address: [u8; 4], port| Listener { protocol: "tcp", address: IpAddr::from(address), port };
    let mut facts = facts("RUNNING");
    facts.node.listeners = Some(vec![listener([0, 0, 0, 0], 80)]);
    let well = explain(&facts);
    assert!(well.is_well(), "{well:#?}");
    assert!(well.findings[0].what.contains("open to 0.0.0.0/0; from outside at 203.0.113.4"), "{well:#?}");

    facts.node.listeners = Some(vec![listener([127, 0, 0, 1], 80)]);
    assert!(cause(&facts).what.contains("127.0.0.1 only"));
    facts.node.listeners = Some(vec![listener([0, 0, 0, 0], 8080)]);
    let found = cause(&facts);
    assert!(found.what.contains("Nothing in the task listens on port 80/tcp"), "{found:#?}");
    assert_eq!(found.evidence, ["listening: 8080/tcp"]);

    facts.node.listeners = None;
    facts.fabric.vpcs[0].security_groups[0].ingress.clear();
    let found = cause(&facts);
    assert_eq!(found.about, About::SecurityGroup);
    assert!(
        found.fix[0].contains("authorize-security-group-ingress --group-id sg-1 --protocol tcp --port 80")
    );

    // The default group's rule: its own members, and nobody from outside.
    let own = SecurityGroupRule {
        protocol: IpProtocol::All,
        ports: None,
        icmp: None,
        peer: Peer::Group("sg-1".into()),
    };
    facts.fabric.vpcs[0].security_groups[0].ingress.push(own);
    let first = explain(&facts).findings.remove(0);
    assert_eq!((first.weight, first.about), (Weight::Obstacle, About::SecurityGroup), "{first:#?}");

    facts.fabric = fabric();
    facts.fabric.vpcs[0].network_acls[0].ingress[0].allow = false;
    assert_eq!(cause(&facts).about, About::NetworkAcl);

    facts.fabric = fabric();
    facts.task.containers.as_mut().unwrap()[0].health_status = some("UNHEALTHY");
    assert_eq!(cause(&facts).about, About::Health);
}

#[test]
fn a_task_that_does_not_come_up() {
    let mut pending = facts("PENDING");
    assert!(explain(&pending).is_well());
    pending.node.largest_mib = Some(511);
    let found = cause(&pending);
    assert_eq!(
        (found.about, found.what.as_str()),
        (About::Capacity, "The task has 512 MiB of memory and the largest node 511 MiB.")
    );
    pending.node.largest_mib = None;
    let found = cause(&pending);
    assert_eq!(
        (found.about, found.what.as_str()),
        (About::Capacity, "There is no node of the architecture X86_64.")
    );

    let mut refused = stopped(
        "TaskFailedToStart",
        "Capacity is unavailable at this time. Please try again later or in a different availability zone",
    );
    assert_eq!(
        (cause(&refused).about, cause(&refused).what.as_str()),
        (About::Capacity, "There was no node for it.")
    );
    refused.node.largest_mib = Some(256);
    assert_eq!(cause(&refused).what, "The task has 512 MiB of memory and the largest node 256 MiB.");

    let mut unresolved = stopped("TaskFailedToStart", "Task failed to start");
    let reason = "TaskDependencyError: container web depends on db, which did not meet the condition within its startTimeout";
    unresolved.task.containers.as_mut().unwrap()[0].reason = some(reason);
    let found = cause(&unresolved);
    assert!(
        found.what.contains("dependsOn") && found.evidence.iter().any(|said| said == reason),
        "{found:#?}"
    );

    let mut provisioning = facts("PROVISIONING");
    assert_eq!(cause(&provisioning).about, About::Capacity);
    provisioning.task.created_at = at(995);
    assert!(explain(&provisioning).is_well());

    let mut activating = facts("ACTIVATING");
    activating.node.progress = some("pulling nginx:latest: 2 of 4 layers");
    assert!(explain(&activating).findings[0].what.contains("2 of 4 layers"));
}

#[test]
fn roles_without_trust_or_right() {
    let role = |exists, trusts_tasks, allowed| RoleFact {
        arn: "arn:aws:iam::123456789012:role/exec".into(),
        purpose: RolePurpose::Execution,
        exists,
        trusts_tasks,
        rights: vec![Right { action: "logs:PutLogEvents".into(), resource: "arn:group".into(), allowed }],
    };
    let mut running = facts("RUNNING");
    for (role, what) in [
        (role(false, false, false), "does not exist"),
        (role(true, false, true), "does not trust ecs-tasks.amazonaws.com"),
        (role(true, true, false), "may not logs:PutLogEvents on arn:group"),
    ] {
        running.roles = vec![role];
        let explanation = explain(&running);
        let found = explanation.findings.iter().find(|of| of.about == About::Role).unwrap();
        assert!(found.what.contains(what) && found.fix[0].starts_with("aws iam "), "{found:#?}");
        assert_eq!(found.weight, Weight::Obstacle);
    }
    running.roles = vec![role(true, true, true)];
    assert!(explain(&running).is_well());
}

#[test]
fn an_explanation_is_plain_json() {
    let explanation = explain(&facts("RUNNING"));
    let text = serde_json::to_string(&explanation).unwrap();
    assert!(text.contains(r#""about":"security-group""#), "{text}");
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), explanation);
}
