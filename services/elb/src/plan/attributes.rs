//! The attributes of load balancers, listeners and target groups: which there are, as they come, what they may be
//! (ELB API reference, `LoadBalancerAttribute`, `ListenerAttribute`, `TargetGroupAttribute`).

use std::collections::BTreeMap;

use ferrogate_api::ApiError;

use crate::errors::{configuration, invalid, unsupported};
use crate::state::{BalancerType, GroupRecord, ListenerRecord};

pub(crate) type Attributes = BTreeMap<String, String>;

/// One attribute of a kind of resource.
pub(crate) struct Attribute {
    pub(crate) key: &'static str,
    pub(crate) default: &'static str,
    values: Values,
}

enum Values {
    Flag,
    /// Inclusive.
    Number(u64, u64),
    /// A number, or this word.
    NumberOr(&'static str, u64, u64),
    OneOf(&'static [&'static str]),
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

const APPLICATION: &[Attribute] = &[
    attribute("access_logs.s3.enabled", "false", Values::Flag),
    attribute("access_logs.s3.bucket", "", Values::Text(63)),
    attribute("access_logs.s3.prefix", "", Values::Text(1024)),
    attribute("client_keep_alive.seconds", "3600", Values::Number(60, SECONDS_PER_WEEK)),
    attribute("connection_logs.s3.enabled", "false", Values::Flag),
    attribute("connection_logs.s3.bucket", "", Values::Text(63)),
    attribute("connection_logs.s3.prefix", "", Values::Text(1024)),
    attribute("deletion_protection.enabled", "false", Values::Flag),
    attribute("health_check_logs.s3.enabled", "false", Values::Fixed),
    attribute("health_check_logs.s3.bucket", "", Values::Fixed),
    attribute("health_check_logs.s3.prefix", "", Values::Fixed),
    attribute("idle_timeout.timeout_seconds", "60", Values::Number(1, 4000)),
    attribute("ipv6.deny_all_igw_traffic", "false", Values::Fixed),
    attribute("load_balancing.cross_zone.enabled", "true", Values::Fixed),
    attribute(
        "routing.http.desync_mitigation_mode",
        "defensive",
        Values::OneOf(&["monitor", "defensive", "strictest"]),
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
    attribute("zonal_shift.config.enabled", "false", Values::Fixed),
];

const NETWORK: &[Attribute] = &[
    attribute("access_logs.s3.enabled", "false", Values::Flag),
    attribute("access_logs.s3.bucket", "", Values::Text(63)),
    attribute("access_logs.s3.prefix", "", Values::Text(1024)),
    attribute("deletion_protection.enabled", "false", Values::Flag),
    attribute("dns_record.client_routing_policy", "any_availability_zone", Values::Fixed),
    attribute("ipv6.deny_all_igw_traffic", "false", Values::Fixed),
    attribute("load_balancing.cross_zone.enabled", "false", Values::Flag),
    attribute("secondary_ips.auto_assigned.per_subnet", "0", Values::Fixed),
    attribute("zonal_shift.config.enabled", "false", Values::Fixed),
];

/// `source_ip` for groups of network load balancers, `lb_cookie` for the others.
const CROSS_ZONE: Attribute = attribute(
    "load_balancing.cross_zone.enabled",
    "use_load_balancer_configuration",
    Values::OneOf(&["true", "false", "use_load_balancer_configuration"]),
);
const DEREGISTRATION_DELAY: Attribute =
    attribute("deregistration_delay.timeout_seconds", "300", Values::Number(0, 3600));
const STICKINESS: Attribute = attribute("stickiness.enabled", "false", Values::Flag);
const DNS_COUNT: Attribute =
    attribute("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Values::Fixed);
const DNS_PERCENTAGE: Attribute =
    attribute("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Values::Fixed);
const ROUTING_COUNT: Attribute = attribute(
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
    "1",
    Values::Number(1, 1000),
);
const ROUTING_PERCENTAGE: Attribute = attribute(
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
    "off",
    Values::NumberOr("off", 1, 100),
);

const HTTP_GROUP: &[Attribute] = &[
    DEREGISTRATION_DELAY,
    attribute(
        "load_balancing.algorithm.type",
        "round_robin",
        Values::OneOf(&["round_robin", "least_outstanding_requests", "weighted_random"]),
    ),
    attribute("load_balancing.algorithm.anomaly_mitigation", "off", Values::OneOf(&["on", "off"])),
    CROSS_ZONE,
    attribute("slow_start.duration_seconds", "0", Values::NumberOr("0", 30, 900)),
    STICKINESS,
    attribute("stickiness.app_cookie.cookie_name", "", Values::Text(512)),
    attribute("stickiness.app_cookie.duration_seconds", "86400", Values::Number(1, SECONDS_PER_WEEK)),
    attribute("stickiness.lb_cookie.duration_seconds", "86400", Values::Number(1, SECONDS_PER_WEEK)),
    attribute("stickiness.type", "lb_cookie", Values::OneOf(&["lb_cookie", "app_cookie"])),
    DNS_COUNT,
    DNS_PERCENTAGE,
    ROUTING_COUNT,
    ROUTING_PERCENTAGE,
];

/// Of all groups of network load balancers.
const NETWORK_GROUP: &[Attribute] = &[
    DEREGISTRATION_DELAY,
    CROSS_ZONE,
    attribute("proxy_protocol_v2.enabled", "false", Values::Flag),
    STICKINESS,
    attribute("stickiness.type", "source_ip", Values::OneOf(&["source_ip"])),
    DNS_COUNT,
    DNS_PERCENTAGE,
    ROUTING_COUNT,
    ROUTING_PERCENTAGE,
];

const TCP_GROUP: &[Attribute] = &[
    attribute("deregistration_delay.connection_termination.enabled", "false", Values::Flag),
    attribute("preserve_client_ip.enabled", "false", Values::Flag),
    attribute("target_health_state.unhealthy.connection_termination.enabled", "true", Values::Flag),
    attribute("target_health_state.unhealthy.draining_interval_seconds", "0", Values::Fixed),
];

const UDP_GROUP: &[Attribute] = &[
    attribute("deregistration_delay.connection_termination.enabled", "true", Values::Flag),
    // Nothing else is possible, which is told in ELB's words below.
    attribute("preserve_client_ip.enabled", "true", Values::Flag),
    attribute("target_health_state.unhealthy.connection_termination.enabled", "false", Values::Fixed),
];

const TCP_LISTENER: &[Attribute] = &[attribute("tcp.idle_timeout.seconds", "350", Values::Number(60, 6000))];

const HTTP_LISTENER: &[Attribute] = &[
    attribute("routing.http.response.server.enabled", "true", Values::Flag),
    attribute("routing.http.response.strict_transport_security.header_value", "", Values::Header),
    attribute("routing.http.response.access_control_allow_origin.header_value", "", Values::Header),
    attribute("routing.http.response.access_control_allow_methods.header_value", "", Values::Header),
    attribute("routing.http.response.access_control_allow_headers.header_value", "", Values::Header),
    attribute("routing.http.response.access_control_allow_credentials.header_value", "", Values::Header),
    attribute("routing.http.response.access_control_expose_headers.header_value", "", Values::Header),
    attribute("routing.http.response.access_control_max_age.header_value", "", Values::Header),
    attribute("routing.http.response.content_security_policy.header_value", "", Values::Header),
    attribute("routing.http.response.x_content_type_options.header_value", "", Values::Header),
    attribute("routing.http.response.x_frame_options.header_value", "", Values::Header),
];

/// What TLS adds. (Names for the headers of client certificates come with mutual TLS, which is not served.)
const HTTPS_LISTENER: &[Attribute] = &[
    attribute(
        "routing.http.request.x_amzn_tls_version.header_name",
        "X-Amzn-Tls-Version",
        Values::HeaderName,
    ),
    attribute(
        "routing.http.request.x_amzn_tls_cipher_suite.header_name",
        "X-Amzn-Tls-Cipher-Suite",
        Values::HeaderName,
    ),
];

pub(crate) fn of_balancer(kind: BalancerType) -> Vec<&'static Attribute> {
    match kind {
        BalancerType::Application => APPLICATION.iter().collect(),
        BalancerType::Network => NETWORK.iter().collect(),
    }
}

pub(crate) fn of_group(protocol: &str) -> Vec<&'static Attribute> {
    match protocol {
        "HTTP" | "HTTPS" => HTTP_GROUP.iter().collect(),
        "UDP" | "TCP_UDP" => NETWORK_GROUP.iter().chain(UDP_GROUP).collect(),
        _ => NETWORK_GROUP.iter().chain(TCP_GROUP).collect(),
    }
}

pub(crate) fn of_listener(protocol: &str) -> Vec<&'static Attribute> {
    match protocol {
        "HTTP" => HTTP_LISTENER.iter().collect(),
        "HTTPS" => HTTP_LISTENER.iter().chain(HTTPS_LISTENER).collect(),
        "TCP" => TCP_LISTENER.iter().collect(),
        _ => Vec::new(),
    }
}

/// Every attribute with its value, set or as it comes.
pub(crate) fn complete(known: &[&Attribute], set: &Attributes) -> Vec<(String, String)> {
    let value = |attribute: &&Attribute| {
        let value = set.get(attribute.key).map_or(attribute.default, String::as_str);
        (attribute.key.to_owned(), value.to_owned())
    };
    known.iter().map(value).collect()
}

/// A value that is set or comes so. (A key that the resource does not have is a mistake of the program: empty.)
pub(crate) fn value<'a>(known: &[&'static Attribute], set: &'a Attributes, key: &str) -> &'a str {
    match set.get(key) {
        Some(value) => value,
        None => known.iter().find(|attribute| attribute.key == key).map_or("", |found| found.default),
    }
}

pub(crate) fn is_on(known: &[&'static Attribute], set: &Attributes, key: &str) -> bool {
    matches!(value(known, set, key), "true" | "on")
}

pub(crate) fn number(known: &[&'static Attribute], set: &Attributes, key: &str) -> u32 {
    value(known, set, key).parse().unwrap_or_default()
}

/// Sets what was asked for, each value checked for itself. `of` is what the resource is called in messages.
pub(crate) fn change(
    known: &[&'static Attribute],
    set: &mut Attributes,
    wanted: Vec<(String, String)>,
    of: &str,
) -> Result<(), ApiError> {
    let mut seen = Vec::new();
    for (key, value) in wanted {
        if seen.contains(&key) {
            return Err(configuration(format!("The attribute key '{key}' is specified more than once")));
        }
        let attribute = known.iter().find(|attribute| attribute.key == key);
        let attribute =
            attribute.ok_or_else(|| invalid(format!("{of} attribute key '{key}' is not recognized")))?;
        attribute.check(&value)?;
        if value == attribute.default {
            set.remove(&key);
        } else {
            set.insert(key.clone(), value);
        }
        seen.push(key);
    }
    Ok(())
}

impl Attribute {
    fn check(&self, value: &str) -> Result<(), ApiError> {
        let key = self.key;
        let must = |what: String| Err(invalid(format!("'{key}' value '{value}' must be {what}")));
        let number = |min: u64, max: u64| value.parse().is_ok_and(|given| (min..=max).contains(&given));
        match &self.values {
            Values::Flag if !matches!(value, "true" | "false") => must("one of 'true, false'".into()),
            Values::Number(min, max) if !number(*min, *max) => {
                must(format!("between '{min}' and '{max}' inclusive"))
            }
            Values::NumberOr(word, min, max) if value != *word && !number(*min, *max) => {
                must(format!("'{word}' or between '{min}' and '{max}' inclusive"))
            }
            Values::OneOf(words) if !words.contains(&value) => must(format!("one of '{}'", words.join(", "))),
            Values::Text(max) if value.len() > *max => must(format!("at most '{max}' characters")),
            Values::Text(_) if value.contains("..") || value.starts_with('/') => {
                must("a name without '..' that does not begin with '/'".into())
            }
            Values::Header
                if value.len() > 1024 || !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) =>
            {
                must("at most 1024 printable ASCII characters".into())
            }
            Values::HeaderName if !is_header_name(value) => {
                must("the name of a header, of at most 40 letters, digits, '-' and '_'".into())
            }
            Values::Fixed if value != self.default => {
                let what = format!(
                    "The value '{value}' of the attribute {key} (the only one is '{}')",
                    self.default
                );
                Err(unsupported(&what))
            }
            _ => Ok(()),
        }
    }
}

fn is_header_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=40).contains(&text.len()) && text.bytes().all(fine)
}

/// What attributes of one load balancer have to do with each other.
pub(crate) fn check_balancer(kind: BalancerType, set: &Attributes) -> Result<(), ApiError> {
    let known = of_balancer(kind);
    for log in ["access_logs", "connection_logs"] {
        let enabled = format!("{log}.s3.enabled");
        if is_on(&known, set, &enabled) && value(&known, set, &format!("{log}.s3.bucket")).is_empty() {
            return Err(configuration(format!("The value of '{log}.s3.bucket' cannot be empty")));
        }
    }
    Ok(())
}

/// … of one target group.
pub(crate) fn check_group(group: &GroupRecord) -> Result<(), ApiError> {
    let known = of_group(&group.protocol);
    let value = |key: &str| value(&known, &group.attributes, key);
    let cookie = value("stickiness.app_cookie.cookie_name");
    if value("stickiness.enabled") == "true" && value("stickiness.type") == "app_cookie" {
        if cookie.is_empty() {
            return Err(configuration(
                "You must specify 'stickiness.app_cookie.cookie_name' when 'stickiness.type' is 'app_cookie'",
            ));
        }
        if ["AWSALB", "AWSALBAPP", "AWSALBTG"].iter().any(|own| cookie.starts_with(own)) {
            return Err(configuration(format!(
                "The cookie name '{cookie}' is reserved for the load balancer"
            )));
        }
    }
    let algorithm = value("load_balancing.algorithm.type");
    if value("load_balancing.algorithm.anomaly_mitigation") == "on" && algorithm != "weighted_random" {
        return Err(configuration(
            "Anomaly mitigation is only available when 'load_balancing.algorithm.type' is 'weighted_random'",
        ));
    }
    if group.is_http() && value("slow_start.duration_seconds") != "0" && algorithm != "round_robin" {
        return Err(configuration(format!(
            "Slow start is not available when 'load_balancing.algorithm.type' is '{algorithm}'"
        )));
    }
    let with_udp = matches!(group.protocol.as_str(), "UDP" | "TCP_UDP");
    if with_udp && value("preserve_client_ip.enabled") == "false" {
        return Err(configuration(
            "preserve_client_ip.enabled cannot be false if the target group protocol is UDP or TCP_UDP",
        ));
    }
    // ELB "prepends a proxy protocol header to the TCP data"; what it would do to datagrams it does not say.
    if group.protocol == "UDP" && value("proxy_protocol_v2.enabled") == "true" {
        return Err(unsupported("proxy_protocol_v2.enabled for target groups with the UDP protocol"));
    }
    if group.protocol == "TLS" && value("stickiness.enabled") == "true" {
        return Err(configuration("Stickiness is not supported for target groups with the TLS protocol"));
    }
    Ok(())
}

/// The listener's header changes: those that were set.
pub(crate) fn header_changes(listener: &ListenerRecord) -> Vec<(String, String)> {
    let set = listener.attributes.iter().filter(|(key, _)| key.starts_with("routing.http."));
    set.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(kind: BalancerType, key: &str, value: &str) -> String {
        let mut set = Attributes::new();
        let wanted = vec![(key.to_owned(), value.to_owned())];
        change(&of_balancer(kind), &mut set, wanted, "Load balancer").unwrap_err().message
    }

    #[test]
    fn values_are_checked_and_a_default_is_not_kept() {
        let known = of_balancer(BalancerType::Application);
        let mut set = Attributes::new();
        let want = |value: &str| vec![("idle_timeout.timeout_seconds".to_owned(), value.to_owned())];
        change(&known, &mut set, want("61"), "Load balancer").unwrap();
        assert_eq!(number(&known, &set, "idle_timeout.timeout_seconds"), 61);
        change(&known, &mut set, want("60"), "Load balancer").unwrap();
        assert!(set.is_empty());
        for wrong in ["0", "4001", "", "ten"] {
            let message = refused(BalancerType::Application, "idle_timeout.timeout_seconds", wrong);
            assert!(message.contains("must be between '1' and '4000' inclusive"), "{message}");
        }
        assert_eq!(
            refused(BalancerType::Network, "idle_timeout.timeout_seconds", "60"),
            "Load balancer attribute key 'idle_timeout.timeout_seconds' is not recognized"
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_and_its_default_is_not() {
        let message = refused(BalancerType::Application, "waf.fail_open.enabled", "true");
        assert!(message.contains("waf.fail_open.enabled"), "{message}");
        let mut set = Attributes::new();
        let known = of_balancer(BalancerType::Application);
        let wanted = vec![("waf.fail_open.enabled".to_owned(), "false".to_owned())];
        change(&known, &mut set, wanted, "Load balancer").unwrap();
    }

    #[test]
    fn every_default_is_a_value_that_may_be_set() {
        let lists = [
            APPLICATION,
            NETWORK,
            HTTP_GROUP,
            NETWORK_GROUP,
            TCP_GROUP,
            UDP_GROUP,
            TCP_LISTENER,
            HTTP_LISTENER,
            HTTPS_LISTENER,
        ];
        for attribute in lists.into_iter().flatten() {
            attribute.check(attribute.default).unwrap();
        }
    }

    #[test]
    fn the_clients_address_is_kept_where_datagrams_are_and_where_it_is_asked_for() {
        let group = |protocol: &str, key: &str, to: &str| {
            let mut group = crate::plan::index::tests::group();
            group.protocol = protocol.to_owned();
            let wanted = vec![(key.to_owned(), to.to_owned())];
            change(&of_group(protocol), &mut group.attributes, wanted, "Target group")?;
            check_group(&group).map(|()| is_on(&of_group(protocol), &group.attributes, key))
        };
        let (client_ip, proxy) = ("preserve_client_ip.enabled", "proxy_protocol_v2.enabled");
        for protocol in ["TCP", "TLS"] {
            assert!(!is_on(&of_group(protocol), &Attributes::new(), client_ip));
            assert!(group(protocol, client_ip, "true").unwrap());
        }
        for protocol in ["UDP", "TCP_UDP"] {
            assert!(is_on(&of_group(protocol), &Attributes::new(), client_ip));
            assert_eq!(group(protocol, client_ip, "false").unwrap_err().code, "InvalidConfigurationRequest");
        }
        assert!(group("TCP_UDP", proxy, "true").unwrap());
        assert!(group("UDP", proxy, "true").is_err());
    }

    #[test]
    fn logs_need_a_bucket() {
        let set = Attributes::from([("access_logs.s3.enabled".to_owned(), "true".to_owned())]);
        assert!(check_balancer(BalancerType::Application, &set).is_err());
        assert!(check_balancer(BalancerType::Application, &Attributes::new()).is_ok());
    }
}
