//! Records → what a node runs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ferrogate_nodeapi as node;
use ferrogate_nodeapi::{BalancerAssignment, BalancerAttributes, BalancerKind, TaskNetwork};
use ipnet::Ipv4Net;

use super::{actions, attributes, conditions};
use crate::state::*;

pub(crate) struct Parts<'a> {
    pub(crate) balancer: &'a BalancerRecord,
    pub(crate) listeners: &'a [&'a ListenerRecord],
    /// By listener id, by priority.
    pub(crate) rules: &'a HashMap<&'a str, Vec<&'a RuleRecord>>,
    /// By ARN.
    pub(crate) groups: &'a HashMap<String, &'a GroupRecord>,
    /// By group id.
    pub(crate) targets: &'a HashMap<String, TargetsRecord>,
    /// Of each balancer's zones, by balancer id.
    pub(crate) interfaces: &'a HashMap<&'a str, Vec<&'a InterfaceRecord>>,
}

/// Without its generation (0).
pub(crate) fn assignment(parts: &Parts<'_>, interface: &InterfaceRecord) -> BalancerAssignment {
    let balancer = parts.balancer;
    let mut listeners: Vec<node::Listener> =
        parts.listeners.iter().filter_map(|record| listener(parts, record)).collect();
    listeners.sort_by_key(|listener| listener.port);
    let mut used: Vec<&str> = Vec::new();
    for record in parts.listeners {
        used.extend(actions::groups(&record.actions));
        for rule in parts.rules.get(record.id.as_str()).into_iter().flatten() {
            used.extend(actions::groups(&rule.actions));
        }
    }
    used.sort_unstable();
    used.dedup();
    let groups = used.iter().filter_map(|arn| parts.groups.get(*arn));
    let groups = groups.map(|record| group(parts, record)).collect();
    BalancerAssignment {
        load_balancer_arn: balancer.arn(),
        name: balancer.name.clone(),
        account: balancer.scope.account.clone(),
        region: balancer.scope.region.clone(),
        availability_zone: interface.zone.clone(),
        kind: match balancer.kind {
            BalancerType::Application => BalancerKind::Application,
            BalancerType::Network => BalancerKind::Network,
        },
        dns_name: balancer.dns_name.clone(),
        network: network(&balancer.scope.region, interface),
        public_ip: interface.public_ip.filter(|_| !balancer.internal),
        generation: 0,
        attributes: balancer_attributes(balancer),
        listeners,
        target_groups: groups,
    }
}

/// The `n`th address of a block.
fn nth(block: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(block.network().to_bits().wrapping_add(n))
}

fn network(region: &str, interface: &InterfaceRecord) -> TaskNetwork {
    let domain =
        if region == "us-east-1" { "ec2.internal".to_owned() } else { format!("{region}.compute.internal") };
    let [a, b, c, d] = interface.private_ip.octets();
    TaskNetwork {
        eni_id: interface.eni_id.clone(),
        vpc_id: interface.vpc_id.clone(),
        subnet_id: interface.subnet_id.clone(),
        mac: interface.mac.clone(),
        private_ip: interface.private_ip,
        subnet_cidr: interface.subnet_cidr,
        gateway: nth(interface.subnet_cidr, 1),
        dns_servers: vec![nth(interface.vpc_cidr, 2)],
        hostname: format!("ip-{a}-{b}-{c}-{d}.{domain}"),
        dns_search: vec![domain],
    }
}

fn balancer_attributes(balancer: &BalancerRecord) -> BalancerAttributes {
    let known = attributes::of_balancer(balancer.kind);
    let set = &balancer.attributes;
    let value = |key: &str| attributes::value(&known, set, key);
    let is_on = |key: &str| attributes::is_on(&known, set, key);
    let number = |key: &str| attributes::number(&known, set, key);
    let logs = |kind: &str| {
        is_on(&format!("{kind}.s3.enabled")).then(|| node::LogDestination {
            bucket: value(&format!("{kind}.s3.bucket")).to_owned(),
            prefix: value(&format!("{kind}.s3.prefix")).to_owned(),
        })
    };
    BalancerAttributes {
        idle_timeout_seconds: number("idle_timeout.timeout_seconds"),
        client_keep_alive_seconds: number("client_keep_alive.seconds"),
        http2_enabled: is_on("routing.http2.enabled"),
        drop_invalid_header_fields: is_on("routing.http.drop_invalid_header_fields.enabled"),
        preserve_host_header: is_on("routing.http.preserve_host_header.enabled"),
        tls_version_and_cipher_headers: is_on("routing.http.x_amzn_tls_version_and_cipher_suite.enabled"),
        xff_client_port: is_on("routing.http.xff_client_port.enabled"),
        xff_header_processing: match value("routing.http.xff_header_processing.mode") {
            "preserve" => node::XffProcessing::Preserve,
            "remove" => node::XffProcessing::Remove,
            _ => node::XffProcessing::Append,
        },
        desync_mitigation: match value("routing.http.desync_mitigation_mode") {
            "monitor" => node::DesyncMitigation::Monitor,
            "strictest" => node::DesyncMitigation::Strictest,
            _ => node::DesyncMitigation::Defensive,
        },
        cross_zone: is_on("load_balancing.cross_zone.enabled"),
        access_logs: logs("access_logs"),
        connection_logs: logs("connection_logs"),
    }
}

fn listener(parts: &Parts<'_>, record: &ListenerRecord) -> Option<node::Listener> {
    let known = attributes::of_listener(&record.protocol);
    let rule = |rule: &&RuleRecord| {
        Some(node::Rule {
            rule_arn: rule.arn(),
            priority: rule.priority,
            conditions: rule.conditions.iter().map(conditions::assign).collect::<Option<_>>()?,
            action: actions::assign(&rule.actions)?,
            transforms: rule.transforms.iter().map(conditions::assign_transform).collect::<Option<_>>()?,
        })
    };
    let rules = parts.rules.get(record.id.as_str()).into_iter().flatten();
    let secure = record.is_secure();
    Some(node::Listener {
        listener_arn: record.arn(),
        port: record.port,
        protocol: match record.protocol.as_str() {
            "HTTP" => node::ListenerProtocol::Http,
            "HTTPS" => node::ListenerProtocol::Https,
            "TCP" => node::ListenerProtocol::Tcp,
            "TLS" => node::ListenerProtocol::Tls,
            "UDP" => node::ListenerProtocol::Udp,
            _ => node::ListenerProtocol::TcpUdp,
        },
        ssl_policy: record.ssl_policy.clone().filter(|_| secure),
        certificate_arns: if secure { record.certificates.clone() } else { Vec::new() },
        alpn_policy: record.alpn_policy.clone(),
        mtls_passthrough: record.mtls_passthrough,
        tcp_idle_timeout_seconds: match attributes::number(
            &known,
            &record.attributes,
            "tcp.idle_timeout.seconds",
        ) {
            0 => 350,
            seconds => seconds,
        },
        header_attributes: attributes::header_changes(record),
        rules: rules.filter_map(rule).collect(),
        default_action: actions::assign(&record.actions)?,
    })
}

fn protocol(text: &str) -> node::TargetProtocol {
    match text {
        "HTTP" => node::TargetProtocol::Http,
        "HTTPS" => node::TargetProtocol::Https,
        "TLS" => node::TargetProtocol::Tls,
        "UDP" => node::TargetProtocol::Udp,
        "TCP_UDP" => node::TargetProtocol::TcpUdp,
        _ => node::TargetProtocol::Tcp,
    }
}

/// A target's addresses: its own, or those of the nodes of the load balancer that it is.
fn places(parts: &Parts<'_>, target: &TargetRecord) -> Vec<node::Target> {
    let place = |ip: IpAddr, zone: Option<&str>| node::Target {
        ip,
        port: target.port,
        availability_zone: zone.filter(|zone| *zone != "all").map(str::to_owned),
        registered_at: target.registered,
        outside_vpc: target.outside_vpc,
        draining_since: target.draining_since,
    };
    match &target.id {
        TargetId::Ip(ip) => vec![place(*ip, target.zone.as_deref())],
        TargetId::LoadBalancer(_) => {
            let nodes = target.id.balancer_id().and_then(|id| parts.interfaces.get(id));
            nodes.into_iter().flatten().map(|node| place(node.private_ip.into(), Some(&node.zone))).collect()
        }
    }
}

fn group(parts: &Parts<'_>, record: &GroupRecord) -> node::TargetGroup {
    let known = attributes::of_group(record);
    let set = &record.attributes;
    let value = |key: &str| attributes::value(&known, set, key);
    let is_on = |key: &str| attributes::is_on(&known, set, key);
    let number = |key: &str| attributes::number(&known, set, key);
    let stickiness = match value("stickiness.type") {
        "lb_cookie" => {
            node::Stickiness::LbCookie { duration_seconds: number("stickiness.lb_cookie.duration_seconds") }
        }
        "app_cookie" => node::Stickiness::AppCookie {
            name: value("stickiness.app_cookie.cookie_name").to_owned(),
            duration_seconds: number("stickiness.app_cookie.duration_seconds"),
        },
        _ => node::Stickiness::SourceIp,
    };
    let check = &record.health_check;
    let routing = "target_group_health.unhealthy_state_routing.minimum_healthy_targets";
    node::TargetGroup {
        target_group_arn: record.arn(),
        name: record.name.clone(),
        protocol: protocol(&record.protocol),
        protocol_version: match record.protocol_version.as_deref() {
            Some("HTTP2") => node::ProtocolVersion::Http2,
            Some("GRPC") => node::ProtocolVersion::Grpc,
            _ => node::ProtocolVersion::Http1,
        },
        health_check: node::TargetHealthCheck {
            enabled: true,
            protocol: protocol(&check.protocol),
            port: check.port.parse().ok(),
            path: check.path.clone().unwrap_or_default(),
            matcher: check.matcher.clone().unwrap_or_default(),
            interval_seconds: check.interval_seconds,
            timeout_seconds: check.timeout_seconds,
            healthy_threshold: check.healthy_threshold,
            unhealthy_threshold: check.unhealthy_threshold,
        },
        deregistration_delay_seconds: number("deregistration_delay.timeout_seconds"),
        slow_start_seconds: number("slow_start.duration_seconds"),
        algorithm: match value("load_balancing.algorithm.type") {
            "least_outstanding_requests" => node::Algorithm::LeastOutstandingRequests,
            "weighted_random" => node::Algorithm::WeightedRandom,
            _ => node::Algorithm::RoundRobin,
        },
        anomaly_mitigation: is_on("load_balancing.algorithm.anomaly_mitigation"),
        stickiness: is_on("stickiness.enabled").then_some(stickiness),
        proxy_protocol_v2: is_on("proxy_protocol_v2.enabled"),
        preserve_client_ip: is_on("preserve_client_ip.enabled"),
        connection_termination: is_on("deregistration_delay.connection_termination.enabled"),
        terminate_unhealthy_connections: is_on(
            "target_health_state.unhealthy.connection_termination.enabled",
        ),
        cross_zone: match value("load_balancing.cross_zone.enabled") {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        minimum_healthy_targets: number(&format!("{routing}.count")).max(1),
        minimum_healthy_percent: value(&format!("{routing}.percentage")).parse().ok(),
        targets: parts
            .targets
            .get(&record.id)
            .into_iter()
            .flat_map(|record| &record.targets)
            .flat_map(|target| places(parts, target))
            .collect(),
    }
}
