//! The attributes of load balancers, listeners and target groups: which there are, as they come, what they may be
//! (ELB API reference, `LoadBalancerAttribute`, `ListenerAttribute`, `TargetGroupAttribute`).

mod table;

use std::collections::BTreeMap;

use ferrogate_api::ApiError;

use crate::errors::{configuration, invalid, unsupported};
use crate::state::{BalancerType, GroupRecord, ListenerRecord, TargetType};

use table::Values;
pub(crate) use table::{Attribute, of_balancer, of_group, of_listener};

pub(crate) type Attributes = BTreeMap<String, String>;

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
            Values::OneOfBut(words, but, why) if value == *but => Err(configuration(format!(
                "The value '{value}' of the attribute {key} is not supported by Ferrogate: {why}. Use one of '{}'.",
                words.join(", ")
            ))),
            Values::OneOfBut(words, ..) if !words.contains(&value) => {
                must(format!("one of '{}'", words.join(", ")))
            }
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
    let known = of_group(group);
    if group.target_type == TargetType::Alb && !group.attributes.is_empty() {
        return Err(configuration("The provided target group attribute is not supported"));
    }
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
        let desync = "routing.http.desync_mitigation_mode";
        let message = refused(BalancerType::Application, desync, "monitor");
        assert!(message.contains("'monitor'") && message.contains("refused in every mode"), "{message}");
        let message = refused(BalancerType::Application, desync, "off");
        assert!(message.contains("must be one of 'defensive, strictest'"), "{message}");
        let mut set = Attributes::new();
        let known = of_balancer(BalancerType::Application);
        let wanted = vec![("waf.fail_open.enabled".to_owned(), "false".to_owned())];
        change(&known, &mut set, wanted, "Load balancer").unwrap();
    }

    #[test]
    fn every_default_is_a_value_that_may_be_set() {
        for attribute in table::TABLES.iter().copied().flatten() {
            attribute.check(attribute.default).unwrap();
        }
    }

    #[test]
    fn the_clients_address_is_kept_where_datagrams_are_and_where_it_is_asked_for() {
        let of = |protocol: &str| {
            let group = crate::plan::index::tests::group();
            GroupRecord { protocol: protocol.to_owned(), ..group }
        };
        let comes = |protocol: &str, key: &str| is_on(&of_group(&of(protocol)), &Attributes::new(), key);
        let group = |protocol: &str, key: &str, to: &str| {
            let mut group = of(protocol);
            let known = of_group(&group);
            let wanted = vec![(key.to_owned(), to.to_owned())];
            change(&known, &mut group.attributes, wanted, "Target group")?;
            check_group(&group).map(|()| is_on(&known, &group.attributes, key))
        };
        let (client_ip, proxy) = ("preserve_client_ip.enabled", "proxy_protocol_v2.enabled");
        for protocol in ["TCP", "TLS"] {
            assert!(!comes(protocol, client_ip));
            assert!(group(protocol, client_ip, "true").unwrap());
        }
        for protocol in ["UDP", "TCP_UDP"] {
            assert!(comes(protocol, client_ip));
            assert_eq!(group(protocol, client_ip, "false").unwrap_err().code, "InvalidConfigurationRequest");
        }
        let balancers = GroupRecord { target_type: TargetType::Alb, ..of("TCP") };
        assert!(is_on(&of_group(&balancers), &Attributes::new(), client_ip));
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
