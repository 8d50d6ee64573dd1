//! A small assignment for tests; what a test is about it changes itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ferrogate_nodeapi::{
    Action, Algorithm, BalancerAssignment, BalancerAttributes, BalancerKind, Listener, ListenerProtocol,
    ProtocolVersion, Target, TargetGroup, TargetHealthCheck, TargetProtocol, TaskNetwork,
    WeightedTargetGroup,
};

pub(crate) const GROUP: &str = "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/blue/1";
pub(crate) const ZONE: &str = "us-east-1a";

pub(crate) fn target(address: SocketAddr) -> Target {
    Target {
        ip: address.ip(),
        port: address.port(),
        availability_zone: Some(ZONE.into()),
        registered_at: jiff::Timestamp::UNIX_EPOCH,
        outside_vpc: false,
        draining_since: None,
    }
}

pub(crate) fn check(protocol: TargetProtocol) -> TargetHealthCheck {
    TargetHealthCheck {
        enabled: true,
        protocol,
        port: None,
        path: "/".into(),
        matcher: "200".into(),
        interval_seconds: 5,
        timeout_seconds: 2,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    }
}

pub(crate) fn group(protocol: TargetProtocol, targets: Vec<Target>) -> TargetGroup {
    TargetGroup {
        target_group_arn: GROUP.into(),
        name: "blue".into(),
        protocol,
        protocol_version: ProtocolVersion::Http1,
        health_check: check(protocol),
        deregistration_delay_seconds: 300,
        slow_start_seconds: 0,
        algorithm: Algorithm::RoundRobin,
        anomaly_mitigation: false,
        stickiness: None,
        proxy_protocol_v2: false,
        preserve_client_ip: false,
        connection_termination: false,
        terminate_unhealthy_connections: true,
        cross_zone: None,
        minimum_healthy_targets: 1,
        minimum_healthy_percent: None,
        targets,
    }
}

pub(crate) fn listener(port: u16, protocol: ListenerProtocol) -> Listener {
    let to = WeightedTargetGroup { target_group_arn: GROUP.into(), weight: 1 };
    Listener {
        listener_arn: format!("arn:aws:elasticloadbalancing:us-east-1:1:listener/net/door/1/{port}"),
        port,
        protocol,
        ssl_policy: None,
        certificate_arns: Vec::new(),
        alpn_policy: None,
        mtls_passthrough: false,
        tcp_idle_timeout_seconds: 350,
        header_attributes: Vec::new(),
        rules: Vec::new(),
        default_action: Action::Forward { target_groups: vec![to], stickiness_seconds: None },
    }
}

pub(crate) fn assignment(listeners: Vec<Listener>, target_groups: Vec<TargetGroup>) -> BalancerAssignment {
    BalancerAssignment {
        load_balancer_arn: "arn:aws:elasticloadbalancing:us-east-1:1:loadbalancer/net/door/1".into(),
        name: "door".into(),
        account: "1".into(),
        region: "us-east-1".into(),
        availability_zone: ZONE.into(),
        kind: BalancerKind::Network,
        dns_name: "door-1.us-east-1.elb.amazonaws.com".into(),
        network: TaskNetwork {
            eni_id: "eni-1".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-1".into(),
            mac: "0a:00:00:00:00:01".into(),
            private_ip: Ipv4Addr::LOCALHOST,
            subnet_cidr: "127.0.0.0/8".parse().unwrap(),
            gateway: Ipv4Addr::LOCALHOST,
            dns_servers: Vec::new(),
            dns_search: Vec::new(),
            hostname: String::new(),
        },
        public_ip: None,
        generation: 1,
        attributes: BalancerAttributes { cross_zone: false, ..BalancerAttributes::default() },
        listeners,
        target_groups,
    }
}

pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 9, last)), 8000)
}
