//! A load balancer as a node must run it: one interface in one zone, everything resolved, nothing left to look up.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::TaskNetwork;

/// One load balancer in one of its zones ("load balancer node" in AWS's terms).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerAssignment {
    pub load_balancer_arn: String,
    /// Of the load balancer, as in its ARN.
    pub name: String,
    pub account: String,
    pub region: String,
    pub availability_zone: String,
    pub kind: BalancerKind,
    pub dns_name: String,
    pub network: TaskNetwork,
    /// `None`: internal.
    pub public_ip: Option<Ipv4Addr>,
    /// Grows with every change; a node never goes back to an older one.
    pub generation: u64,
    pub attributes: BalancerAttributes,
    pub listeners: Vec<Listener>,
    /// Those that a listener forwards to.
    pub target_groups: Vec<TargetGroup>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BalancerKind {
    Application,
    Network,
}

/// Load balancer attributes that change what happens to a request (ELB user guides).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerAttributes {
    pub idle_timeout_seconds: u32,
    pub client_keep_alive_seconds: u32,
    pub http2_enabled: bool,
    pub drop_invalid_header_fields: bool,
    pub preserve_host_header: bool,
    /// `x-amzn-tls-version`, `x-amzn-tls-cipher-suite`
    pub tls_version_and_cipher_headers: bool,
    pub xff_client_port: bool,
    pub xff_header_processing: XffProcessing,
    pub desync_mitigation: DesyncMitigation,
    /// Network load balancers: off unless asked for; application load balancers: always on.
    pub cross_zone: bool,
    /// Bucket and prefix; `None`: not asked for.
    pub access_logs: Option<LogDestination>,
    pub connection_logs: Option<LogDestination>,
}

impl Default for BalancerAttributes {
    /// As an application load balancer comes.
    fn default() -> Self {
        Self {
            idle_timeout_seconds: 60,
            client_keep_alive_seconds: 3600,
            http2_enabled: true,
            drop_invalid_header_fields: false,
            preserve_host_header: false,
            tls_version_and_cipher_headers: false,
            xff_client_port: false,
            xff_header_processing: XffProcessing::Append,
            desync_mitigation: DesyncMitigation::Defensive,
            cross_zone: true,
            access_logs: None,
            connection_logs: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDestination {
    pub bucket: String,
    pub prefix: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XffProcessing {
    #[default]
    Append,
    Preserve,
    Remove,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesyncMitigation {
    Monitor,
    #[default]
    Defensive,
    Strictest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub listener_arn: String,
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// `ELBSecurityPolicy-…`; TLS only.
    pub ssl_policy: Option<String>,
    /// The default one first; the keys come by [`crate::EdgePlane::certificate`].
    pub certificate_arns: Vec<String>,
    /// `HTTP1Only`, `HTTP2Only`, `HTTP2Optional`, `HTTP2Preferred`, `None`; TLS listeners of network load balancers.
    pub alpn_policy: Option<String>,
    /// A client is asked for its certificates, and targets see them (`X-Amzn-Mtls-Clientcert`); HTTPS.
    #[serde(default)]
    pub mtls_passthrough: bool,
    /// Network load balancers, TCP: 60 to 6000.
    pub tcp_idle_timeout_seconds: u32,
    /// `routing.http.…` header changes: (attribute key, value).
    pub header_attributes: Vec<(String, String)>,
    /// By priority; the default rule is not one of them.
    pub rules: Vec<Rule>,
    pub default_action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ListenerProtocol {
    Http,
    Https,
    Tcp,
    Tls,
    Udp,
    TcpUdp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub rule_arn: String,
    pub priority: u32,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    pub action: Action,
    pub transforms: Vec<Transform>,
}

/// Any one of the values must match; patterns know `*` and `?`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Not case-sensitive.
    HostHeader {
        patterns: Vec<String>,
        regexes: Vec<String>,
    },
    /// Case-sensitive, without the query.
    PathPattern {
        patterns: Vec<String>,
        regexes: Vec<String>,
    },
    /// Values are not case-sensitive.
    HttpHeader {
        name: String,
        patterns: Vec<String>,
        regexes: Vec<String>,
    },
    /// Exact and case-sensitive.
    HttpRequestMethod {
        methods: Vec<String>,
    },
    /// (key or any, value); not case-sensitive.
    QueryString {
        pairs: Vec<(Option<String>, String)>,
    },
    SourceIp {
        cidrs: Vec<IpNet>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    UrlRewrite { regex: String, replace: String },
    HostHeaderRewrite { regex: String, replace: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Forward {
        target_groups: Vec<WeightedTargetGroup>,
        /// Target group stickiness; `None`: off.
        stickiness_seconds: Option<u32>,
    },
    /// `#{protocol}`, `#{host}`, `#{port}`, `#{path}`, `#{query}` stand for the request's own.
    Redirect {
        protocol: String,
        host: String,
        port: String,
        path: String,
        query: String,
        status: u16,
    },
    FixedResponse {
        status: u16,
        content_type: Option<String>,
        body: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedTargetGroup {
    pub target_group_arn: String,
    /// 0 to 999.
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetGroup {
    pub target_group_arn: String,
    pub name: String,
    pub protocol: TargetProtocol,
    pub protocol_version: ProtocolVersion,
    pub health_check: TargetHealthCheck,
    pub deregistration_delay_seconds: u32,
    /// 0: off.
    pub slow_start_seconds: u32,
    pub algorithm: Algorithm,
    pub anomaly_mitigation: bool,
    pub stickiness: Option<Stickiness>,
    pub proxy_protocol_v2: bool,
    /// Targets of the VPC see the client's own address and port.
    pub preserve_client_ip: bool,
    pub connection_termination: bool,
    pub terminate_unhealthy_connections: bool,
    /// `None`: as the load balancer says.
    pub cross_zone: Option<bool>,
    /// `target_group_health.unhealthy_state_routing.minimum_healthy_targets.count`: below it, all targets are used.
    pub minimum_healthy_targets: u32,
    pub minimum_healthy_percent: Option<u32>,
    pub targets: Vec<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TargetProtocol {
    Http,
    Https,
    Tcp,
    Tls,
    Udp,
    TcpUdp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProtocolVersion {
    #[default]
    Http1,
    Http2,
    Grpc,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    #[default]
    RoundRobin,
    LeastOutstandingRequests,
    WeightedRandom,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stickiness {
    /// The cookie `AWSALB`.
    LbCookie {
        duration_seconds: u32,
    },
    AppCookie {
        name: String,
        duration_seconds: u32,
    },
    SourceIp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealthCheck {
    /// Off only where ELB allows it.
    pub enabled: bool,
    pub protocol: TargetProtocol,
    /// `None`: the port the target has traffic on.
    pub port: Option<u16>,
    pub path: String,
    /// `200`, `200-299`, `200,202`; gRPC codes for gRPC.
    pub matcher: String,
    pub interval_seconds: u32,
    pub timeout_seconds: u32,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub ip: IpAddr,
    pub port: u16,
    /// `None`: `all`, or outside the VPC.
    pub availability_zone: Option<String>,
    pub registered_at: Timestamp,
    /// Does not see clients' addresses: its answers would not come back by the balancer.
    #[serde(default)]
    pub outside_vpc: bool,
    /// Deregistered then; it gets nothing new, and is dropped when the delay is over.
    pub draining_since: Option<Timestamp>,
}

/// What one node of a load balancer saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerReport {
    pub load_balancer_arn: String,
    pub availability_zone: String,
    /// The assignment that is in force; 0: none yet.
    pub generation: u64,
    /// Listens, and takes traffic.
    pub active: bool,
    /// Why it is not, or which listener is not, in words for a person.
    pub problem: Option<String>,
    /// All targets, not only those that changed.
    pub targets: Vec<TargetObservation>,
    /// Counted since the report before.
    pub metrics: Vec<BalancerMetric>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetObservation {
    pub target_group_arn: String,
    pub ip: IpAddr,
    pub port: u16,
    pub state: TargetState,
    /// `Target.Timeout`, …; none while healthy.
    pub reason: Option<String>,
    /// ELB's sentence, e.g. `Health checks failed with these codes: [502]`.
    pub description: Option<String>,
    /// Of its answers to requests.
    #[serde(default)]
    pub anomaly: Anomaly,
}

/// Whether a target fails where it should not, by its answers; the worse the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    #[default]
    None,
    Seen,
    /// It gets less for that.
    Mitigated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    #[serde(rename = "initial")]
    Initial,
    #[serde(rename = "healthy")]
    Healthy,
    #[serde(rename = "unhealthy")]
    Unhealthy,
    #[serde(rename = "unhealthy.draining")]
    UnhealthyDraining,
    #[serde(rename = "unused")]
    Unused,
    #[serde(rename = "draining")]
    Draining,
    #[serde(rename = "unavailable")]
    Unavailable,
}

/// One CloudWatch metric over the time of the report: `RequestCount`, `TargetResponseTime`, …
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerMetric {
    pub name: String,
    /// `None`: of the load balancer.
    pub target_group_arn: Option<String>,
    pub sum: f64,
    pub minimum: f64,
    pub maximum: f64,
    pub samples: u64,
}

/// A certificate with its key: it lives in the memory of those who serve it, nowhere else.
#[derive(Clone, Serialize, Deserialize)]
pub struct Certificate {
    /// The leaf first.
    pub chain_pem: String,
    pub private_key_pem: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(…)")
    }
}
