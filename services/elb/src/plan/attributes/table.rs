//! Which attributes there are, as they come, what they may be.

use crate::state::{BalancerType, GroupRecord, TargetType};

/// One attribute of a kind of resource.
pub(crate) struct Attribute {
    pub(crate) key: &'static str,
    pub(crate) default: &'static str,
    pub(super) values: Values,
}

pub(super) enum Values {
    Flag,
    /// Inclusive.
    Number(u64, u64),
    /// A number, or this word.
    NumberOr(&'static str, u64, u64),
    OneOf(&'static [&'static str]),
    /// One of these; another one of AWS's is refused, with what there is to know about it.
    OneOfBut(&'static [&'static str], &'static str, &'static str),
    /// A bucket's name or a prefix.
    Text(usize),
    /// The value of a header; may be empty.
    Header,
    /// Header names, in place of AWS's.
    HeaderName,
    /// What it comes with is all there is here.
    Fixed,
}

const fn attribute(key: &'static str, default: &'static str, values: Values) -> Attribute {
    Attribute { key, default, values }
}

const SECONDS_PER_WEEK: u64 = 604_800;

/// Names of headers in listeners' attributes, and what they come with.
macro_rules! headers {
    ($side:literal, $what:literal, $values:expr; $($name:literal => $default:literal,)*) => {
        &[$(attribute(concat!("routing.http.", $side, ".", $name, ".", $what), $default, $values)),*]
    };
}

/// Where logs go, if they do.
macro_rules! logs {
    ($log:literal, $enabled:expr, $bucket:expr, $prefix:expr) => {
        &[
            attribute(concat!($log, ".s3.enabled"), "false", $enabled),
            attribute(concat!($log, ".s3.bucket"), "", $bucket),
            attribute(concat!($log, ".s3.prefix"), "", $prefix),
        ]
    };
}

const ACCESS_LOGS: &[Attribute] = logs!("access_logs", Values::Flag, Values::Text(63), Values::Text(1024));
const CONNECTION_LOGS: &[Attribute] =
    logs!("connection_logs", Values::Flag, Values::Text(63), Values::Text(1024));
const HEALTH_CHECK_LOGS: &[Attribute] =
    logs!("health_check_logs", Values::Fixed, Values::Fixed, Values::Fixed);

/// Of every load balancer.
const BALANCER: &[Attribute] = &[
    attribute("deletion_protection.enabled", "false", Values::Flag),
    attribute("ipv6.deny_all_igw_traffic", "false", Values::Fixed),
    attribute("zonal_shift.config.enabled", "false", Values::Fixed),
];

const APPLICATION: &[Attribute] = &[
    attribute("client_keep_alive.seconds", "3600", Values::Number(60, SECONDS_PER_WEEK)),
    attribute("idle_timeout.timeout_seconds", "60", Values::Number(1, 4000)),
    attribute("load_balancing.cross_zone.enabled", "true", Values::Fixed),
    attribute(
        "routing.http.desync_mitigation_mode",
        "defensive",
        Values::OneOfBut(
            &["defensive", "strictest"],
            "monitor",
            "requests that are classified as severe are refused in every mode",
        ),
    ),
    attribute("routing.http.drop_invalid_header_fields.enabled", "false", Values::Flag),
    attribute("routing.http.preserve_host_header.enabled", "false", Values::Flag),
    attribute("routing.http.x_amzn_tls_version_and_cipher_suite.enabled", "false", Values::Flag),
    attribute("routing.http.xff_client_port.enabled", "false", Values::Flag),
    attribute(
        "routing.http.xff_header_processing.mode",
        "append",
        Values::OneOf(&["append", "preserve", "remove"]),
    ),
    attribute("routing.http2.enabled", "true", Values::Flag),
    attribute("waf.fail_open.enabled", "false", Values::Fixed),
];

const NETWORK: &[Attribute] = &[
    attribute("dns_record.client_routing_policy", "any_availability_zone", Values::Fixed),
    attribute("load_balancing.cross_zone.enabled", "false", Values::Flag),
    attribute("secondary_ips.auto_assigned.per_subnet", "0", Values::Fixed),
];

/// Of every target group.
const GROUP: &[Attribute] = &[
    attribute("deregistration_delay.timeout_seconds", "300", Values::Number(0, 3600)),
    attribute(
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
        Values::OneOf(&["true", "false", "use_load_balancer_configuration"]),
    ),
    attribute("stickiness.enabled", "false", Values::Flag),
    attribute("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Values::Fixed),
    attribute("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Values::Fixed),
    attribute(
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
        "1",
        Values::Number(1, 1000),
    ),
    attribute(
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
        "off",
        Values::NumberOr("off", 1, 100),
    ),
];

const HTTP_GROUP: &[Attribute] = &[
    attribute(
        "load_balancing.algorithm.type",
        "round_robin",
        Values::OneOf(&["round_robin", "least_outstanding_requests", "weighted_random"]),
    ),
    attribute("load_balancing.algorithm.anomaly_mitigation", "off", Values::OneOf(&["on", "off"])),
    attribute("slow_start.duration_seconds", "0", Values::NumberOr("0", 30, 900)),
    attribute("stickiness.app_cookie.cookie_name", "", Values::Text(512)),
    attribute("stickiness.app_cookie.duration_seconds", "86400", Values::Number(1, SECONDS_PER_WEEK)),
    attribute("stickiness.lb_cookie.duration_seconds", "86400", Values::Number(1, SECONDS_PER_WEEK)),
    attribute("stickiness.type", "lb_cookie", Values::OneOf(&["lb_cookie", "app_cookie"])),
];

/// Of all groups of network load balancers.
const NETWORK_GROUP: &[Attribute] = &[
    attribute("proxy_protocol_v2.enabled", "false", Values::Flag),
    attribute("stickiness.type", "source_ip", Values::OneOf(&["source_ip"])),
];

const TCP_GROUP: &[Attribute] = &[
    attribute("deregistration_delay.connection_termination.enabled", "false", Values::Flag),
    attribute("preserve_client_ip.enabled", "false", Values::Flag),
    attribute("target_health_state.unhealthy.connection_termination.enabled", "true", Values::Flag),
    attribute("target_health_state.unhealthy.draining_interval_seconds", "0", Values::Fixed),
];

/// A group with a load balancer as its target keeps what it comes with (network load balancers guide, "Use an Application
/// Load Balancer as a target"): refused in ELB's words by `check_group`.
const ALB_GROUP: &[Attribute] = &[
    attribute("deregistration_delay.connection_termination.enabled", "false", Values::Flag),
    attribute("preserve_client_ip.enabled", "true", Values::Flag),
    attribute("target_health_state.unhealthy.connection_termination.enabled", "true", Values::Flag),
    attribute("target_health_state.unhealthy.draining_interval_seconds", "0", Values::Number(0, 360_000)),
];

const UDP_GROUP: &[Attribute] = &[
    attribute("deregistration_delay.connection_termination.enabled", "true", Values::Flag),
    // Nothing else is possible: refused in ELB's words by `check_group`.
    attribute("preserve_client_ip.enabled", "true", Values::Flag),
    attribute("target_health_state.unhealthy.connection_termination.enabled", "false", Values::Fixed),
];

const TCP_LISTENER: &[Attribute] = &[attribute("tcp.idle_timeout.seconds", "350", Values::Number(60, 6000))];

const HTTP_LISTENER: &[Attribute] =
    &[attribute("routing.http.response.server.enabled", "true", Values::Flag)];
/// What is put into every response.
const RESPONSE_HEADERS: &[Attribute] = headers!(
    "response", "header_value", Values::Header;
    "strict_transport_security" => "",
    "access_control_allow_origin" => "",
    "access_control_allow_methods" => "",
    "access_control_allow_headers" => "",
    "access_control_allow_credentials" => "",
    "access_control_expose_headers" => "",
    "access_control_max_age" => "",
    "content_security_policy" => "",
    "x_content_type_options" => "",
    "x_frame_options" => "",
);

/// What TLS adds to requests.
const TLS_HEADERS: &[Attribute] = headers!(
    "request", "header_name", Values::HeaderName;
    "x_amzn_tls_version" => "X-Amzn-Tls-Version",
    "x_amzn_tls_cipher_suite" => "X-Amzn-Tls-Cipher-Suite",
    "x_amzn_mtls_clientcert" => "X-Amzn-Mtls-Clientcert",
);
/// Of client certificates that are verified, which is not served.
const VERIFIED_HEADERS: &[Attribute] = headers!(
    "request", "header_name", Values::Fixed;
    "x_amzn_mtls_clientcert_serial_number" => "X-Amzn-Mtls-Clientcert-Serial-Number",
    "x_amzn_mtls_clientcert_issuer" => "X-Amzn-Mtls-Clientcert-Issuer",
    "x_amzn_mtls_clientcert_subject" => "X-Amzn-Mtls-Clientcert-Subject",
    "x_amzn_mtls_clientcert_validity" => "X-Amzn-Mtls-Clientcert-Validity",
    "x_amzn_mtls_clientcert_leaf" => "X-Amzn-Mtls-Clientcert-Leaf",
);

pub(crate) fn of_balancer(kind: BalancerType) -> Vec<&'static Attribute> {
    all(match kind {
        BalancerType::Application => {
            &[BALANCER, ACCESS_LOGS, CONNECTION_LOGS, HEALTH_CHECK_LOGS, APPLICATION]
        }
        BalancerType::Network => &[BALANCER, ACCESS_LOGS, NETWORK],
    })
}

pub(crate) fn of_group(group: &GroupRecord) -> Vec<&'static Attribute> {
    all(match (group.target_type, group.protocol.as_str()) {
        (TargetType::Alb, _) => &[GROUP, NETWORK_GROUP, ALB_GROUP],
        (_, "HTTP" | "HTTPS") => &[GROUP, HTTP_GROUP],
        (_, "UDP" | "TCP_UDP") => &[GROUP, NETWORK_GROUP, UDP_GROUP],
        _ => &[GROUP, NETWORK_GROUP, TCP_GROUP],
    })
}

pub(crate) fn of_listener(protocol: &str) -> Vec<&'static Attribute> {
    all(match protocol {
        "HTTP" => &[HTTP_LISTENER, RESPONSE_HEADERS],
        "HTTPS" => &[HTTP_LISTENER, RESPONSE_HEADERS, TLS_HEADERS, VERIFIED_HEADERS],
        "TCP" => &[TCP_LISTENER],
        _ => &[],
    })
}

fn all(tables: &[&'static [Attribute]]) -> Vec<&'static Attribute> {
    tables.iter().copied().flatten().collect()
}

/// Each table, for what holds for all.
#[cfg(test)]
pub(super) const TABLES: &[&[Attribute]] = &[
    BALANCER,
    ACCESS_LOGS,
    CONNECTION_LOGS,
    HEALTH_CHECK_LOGS,
    APPLICATION,
    NETWORK,
    GROUP,
    HTTP_GROUP,
    NETWORK_GROUP,
    TCP_GROUP,
    UDP_GROUP,
    ALB_GROUP,
    TCP_LISTENER,
    HTTP_LISTENER,
    RESPONSE_HEADERS,
    TLS_HEADERS,
    VERIFIED_HEADERS,
];
