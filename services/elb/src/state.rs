//! The records, and who writes them.
//!
//! ```text
//! /elb/<account>/<region>/decision                      bumped by each decision: decisions are made one after the other
//! /elb/<account>/<region>/balancer/<id>                 BalancerRecord    operations
//! /elb/<account>/<region>/listener/<balancer>/<id>      ListenerRecord    operations
//! /elb/<account>/<region>/rule/<listener>/<id>          RuleRecord        operations
//! /elb/<account>/<region>/group/<id>                    GroupRecord       operations
//! /elb/<account>/<region>/targets/<group>               TargetsRecord     operations; the drain controller removes
//! /elb/<account>/<region>/interface/<balancer>/<subnet> InterfaceRecord   the interface controller
//! /elb/<account>/<region>/status/<balancer>             StatusRecord      the interface controller
//! /elb/<account>/<region>/node/<balancer>/<zone>        NodeRecord        reports
//! /elb/<account>/<region>/health/<balancer>/<zone>/<group> HealthRecord   reports
//! /certificate-use/<certificate ARN>/<listener id>      the ARN of the load balancer; read by whoever keeps certificates
//! ```
//! A record of an interface outlives its balancer until the interface is gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ferrogate_api::elbv2;
use ferrogate_nodeapi::{Anomaly, TargetState};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) const PREFIX: &str = "/elb/";
/// Which listeners use a certificate.
pub(crate) const CERTIFICATE_USE: &str = "/certificate-use/";

pub(crate) type Tags = BTreeMap<String, String>;

/// Whose, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Scope {
    pub(crate) account: String,
    pub(crate) region: String,
}

impl Scope {
    pub(crate) fn key(&self, kind: Kind, id: &str) -> String {
        format!("{PREFIX}{}/{}/{}/{id}", self.account, self.region, kind.as_str())
    }

    pub(crate) fn decision(&self) -> String {
        format!("{PREFIX}{}/{}/decision", self.account, self.region)
    }

    /// `…:loadbalancer/app/name/id`
    pub(crate) fn arn(&self, resource: &str) -> String {
        format!("arn:aws:elasticloadbalancing:{}:{}:{resource}", self.region, self.account)
    }

    /// Scope, kind and the rest of a key.
    pub(crate) fn parse(key: &str) -> Option<(Self, Kind, &str)> {
        let mut parts = key.strip_prefix(PREFIX)?.splitn(4, '/');
        let (account, region) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let kind = Kind::parse(parts.next()?)?;
        Some((Self { account, region }, kind, parts.next()?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Balancer,
    Listener,
    Rule,
    Group,
    Targets,
    Interface,
    Status,
    Node,
    Health,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Balancer,
        Self::Listener,
        Self::Rule,
        Self::Group,
        Self::Targets,
        Self::Interface,
        Self::Status,
        Self::Node,
        Self::Health,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Listener => "listener",
            Self::Rule => "rule",
            Self::Group => "group",
            Self::Targets => "targets",
            Self::Interface => "interface",
            Self::Status => "status",
            Self::Node => "node",
            Self::Health => "health",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// `application` or `network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BalancerType {
    Application,
    Network,
}

impl BalancerType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Network => "network",
        }
    }

    /// In ARNs.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Application => "app",
            Self::Network => "net",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BalancerRecord {
    /// Sixteen hexadecimal digits.
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) kind: BalancerType,
    pub(crate) internal: bool,
    pub(crate) vpc_id: String,
    pub(crate) dns_name: String,
    pub(crate) created: Timestamp,
    /// One subnet per zone, in the order given.
    pub(crate) zones: Vec<ZoneRecord>,
    pub(crate) security_groups: Vec<String>,
    /// Those that are not as they come.
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) tags: Tags,
}

/// A zone as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ZoneRecord {
    pub(crate) zone: String,
    pub(crate) subnet_id: String,
    pub(crate) subnet_cidr: Ipv4Net,
    /// The VPC's primary block.
    pub(crate) vpc_cidr: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) private_ip: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allocation_id: Option<String>,
}

impl BalancerRecord {
    pub(crate) fn arn(&self) -> String {
        self.scope.arn(&format!("loadbalancer/{}", self.path()))
    }

    /// `app/name/id`, as listeners' ARNs and interfaces' descriptions have it.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}/{}", self.kind.short(), self.name, self.id)
    }

    pub(crate) fn key(&self) -> String {
        self.scope.key(Kind::Balancer, &self.id)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ListenerRecord {
    pub(crate) id: String,
    pub(crate) balancer_id: String,
    /// `app/name/id`
    pub(crate) balancer_path: String,
    #[serde(flatten)]
    pub(crate) scope: Scope,
    pub(crate) port: u16,
    /// `HTTP`, `HTTPS`, `TCP`, `TLS`, `UDP`, `TCP_UDP`
    pub(crate) protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssl_policy: Option<String>,
    /// The default one first.
    #[serde(default)]
    pub(crate) certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alpn_policy: Option<String>,
    pub(crate) actions: Vec<elbv2::Action>,
    /// Of the default rule.
    pub(crate) default_rule_id: String,
    /// The client's certificates go to the targets (`MutualAuthentication`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) mtls_passthrough: bool,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) tags: Tags,
}

impl ListenerRecord {
    pub(crate) fn arn(&self) -> String {
        self.scope.arn(&format!("listener/{}/{}", self.balancer_path, self.id))
    }

    pub(crate) fn balancer_arn(&self) -> String {
        self.scope.arn(&format!("loadbalancer/{}", self.balancer_path))
    }

    pub(crate) fn rule_arn(&self, rule_id: &str) -> String {
        self.scope.arn(&format!("listener-rule/{}/{}/{rule_id}", self.balancer_path, self.id))
    }

    pub(crate) fn key(&self) -> String {
        self.scope.key(Kind::Listener, &format!("{}/{}", self.balancer_id, self.id))
    }

    pub(crate) fn is_secure(&self) -> bool {
        matches!(self.protocol.as_str(), "HTTPS" | "TLS")
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RuleRecord {
    pub(crate) id: String,
    pub(crate) listener_id: String,
    pub(crate) balancer_id: String,
    /// `app/name/id` of the balancer.
    pub(crate) balancer_path: String,
    #[serde(flatten)]
    pub(crate) scope: Scope,
    pub(crate) priority: u32,
    pub(crate) conditions: Vec<elbv2::RuleCondition>,
    pub(crate) actions: Vec<elbv2::Action>,
    #[serde(default)]
    pub(crate) transforms: Vec<elbv2::RuleTransform>,
    #[serde(default)]
    pub(crate) tags: Tags,
}

impl RuleRecord {
    pub(crate) fn arn(&self) -> String {
        let Self { balancer_path, listener_id, id, .. } = self;
        self.scope.arn(&format!("listener-rule/{balancer_path}/{listener_id}/{id}"))
    }

    pub(crate) fn key(&self) -> String {
        self.scope.key(Kind::Rule, &format!("{}/{}", self.listener_id, self.id))
    }
}

/// What a group's targets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetType {
    #[default]
    Ip,
    /// One application load balancer.
    Alb,
}

impl TargetType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Alb => "alb",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref)] // serde asks so
    fn is_ip(&self) -> bool {
        *self == Self::Ip
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) protocol: String,
    /// HTTP and HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol_version: Option<String>,
    #[serde(default, skip_serializing_if = "TargetType::is_ip")]
    pub(crate) target_type: TargetType,
    pub(crate) port: u16,
    pub(crate) vpc_id: String,
    pub(crate) health_check: HealthCheckRecord,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) tags: Tags,
}

impl GroupRecord {
    pub(crate) fn arn(&self) -> String {
        self.scope.arn(&format!("targetgroup/{}/{}", self.name, self.id))
    }

    pub(crate) fn key(&self) -> String {
        self.scope.key(Kind::Group, &self.id)
    }

    pub(crate) fn is_http(&self) -> bool {
        matches!(self.protocol.as_str(), "HTTP" | "HTTPS")
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HealthCheckRecord {
    pub(crate) protocol: String,
    /// `traffic-port` or a number.
    pub(crate) port: String,
    /// HTTP and HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// HTTP codes, or gRPC's where the group speaks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) matcher: Option<String>,
    pub(crate) interval_seconds: u32,
    pub(crate) timeout_seconds: u32,
    pub(crate) healthy_threshold: u32,
    pub(crate) unhealthy_threshold: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetsRecord {
    pub(crate) targets: Vec<TargetRecord>,
}

/// By what a target is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TargetId {
    Ip(IpAddr),
    /// The ARN of an application load balancer: its nodes are what is checked and gets traffic.
    LoadBalancer(String),
}

impl TargetId {
    /// The id of the balancer that it is.
    pub(crate) fn balancer_id(&self) -> Option<&str> {
        match self {
            Self::Ip(_) => None,
            Self::LoadBalancer(arn) => arn.rsplit('/').next(),
        }
    }
}

impl std::fmt::Display for TargetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::LoadBalancer(arn) => f.write_str(arn),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetRecord {
    #[serde(flatten)]
    pub(crate) id: TargetId,
    pub(crate) port: u16,
    /// `all`, or a zone's name: given, or the subnet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) outside_vpc: bool,
    pub(crate) registered: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) draining_since: Option<Timestamp>,
}

/// A network interface that was made for a balancer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InterfaceRecord {
    pub(crate) balancer_id: String,
    pub(crate) zone: String,
    pub(crate) vpc_id: String,
    pub(crate) subnet_id: String,
    pub(crate) subnet_cidr: Ipv4Net,
    pub(crate) vpc_cidr: Ipv4Net,
    pub(crate) eni_id: String,
    pub(crate) mac: String,
    pub(crate) private_ip: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_ip: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allocation_id: Option<String>,
    pub(crate) security_groups: Vec<String>,
}

/// How a balancer is: absent means provisioning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StatusRecord {
    Active,
    Failed { reason: String },
}

/// What a zone's node said last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// A group's targets as one zone's node sees them, by `ip port`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HealthRecord {
    pub(crate) targets: BTreeMap<String, SeenRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenRecord {
    pub(crate) state: TargetState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) anomaly: Anomaly,
}

#[expect(clippy::trivially_copy_pass_by_ref)] // serde asks so
fn is_none(anomaly: &Anomaly) -> bool {
    *anomaly == Anomaly::None
}

/// In [`HealthRecord::targets`].
pub(crate) fn target_key(ip: IpAddr, port: u16) -> String {
    format!("{ip} {port}")
}

/// Which listener uses a certificate.
pub(crate) fn certificate_use_key(certificate_arn: &str, listener_id: &str) -> String {
    format!("{CERTIFICATE_USE}{certificate_arn}/{listener_id}")
}
