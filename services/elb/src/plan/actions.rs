//! Actions of listeners and rules: checked, brought into the form in which ELB gives them back, and handed to nodes.

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_nodeapi as node;

use crate::errors::{configuration, invalid, unsupported};
use crate::state::{BalancerType, GroupRecord, TargetType};

/// ELB user guide, "Quotas": target groups per action.
const GROUPS_PER_ACTION_MAX: usize = 5;
const WEIGHT_MAX: i32 = 999;
const STICKINESS_SECONDS_MAX: i32 = 604_800;
const MESSAGE_BODY_BYTES_MAX: usize = 1024;
const CONTENT_TYPES: &[&str] =
    &["text/plain", "text/css", "text/html", "application/javascript", "application/json"];

/// Where the actions belong.
pub(crate) struct Place<'a> {
    pub(crate) kind: BalancerType,
    /// Of the listener.
    pub(crate) protocol: &'a str,
    pub(crate) vpc_id: &'a str,
}

fn action_error(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidLoadBalancerAction", message)
}

/// The one action, whole; `group` looks a target group up by its ARN.
pub(crate) fn check(
    actions: Vec<Action>,
    place: &Place<'_>,
    group: impl Fn(&str) -> Result<GroupRecord, ApiError>,
) -> Result<Vec<Action>, ApiError> {
    let mut actions = actions;
    for action in &actions {
        if let Some(kind @ ("authenticate-oidc" | "authenticate-cognito" | "jwt-validation")) =
            action.r#type.as_deref()
        {
            return Err(unsupported(&format!("The action type {kind}")));
        }
    }
    let (Some(action), true) = (actions.pop(), actions.is_empty()) else {
        return Err(action_error(
            "You must specify exactly one of the following actions: 'forward', 'redirect', 'fixed-response'",
        ));
    };
    let configs = [
        ("forward", action.target_group_arn.is_some() || action.forward_config.is_some()),
        ("redirect", action.redirect_config.is_some()),
        ("fixed-response", action.fixed_response_config.is_some()),
        ("authenticate-oidc", action.authenticate_oidc_config.is_some()),
        ("authenticate-cognito", action.authenticate_cognito_config.is_some()),
        ("jwt-validation", action.jwt_validation_config.is_some()),
    ];
    let kind = action.r#type.clone().unwrap_or_default();
    if let Some((other, _)) = configs.iter().find(|(of, given)| *given && *of != kind) {
        return Err(action_error(format!(
            "The configuration of a '{other}' action cannot be used with type '{kind}'"
        )));
    }
    if place.kind == BalancerType::Network && kind != "forward" {
        return Err(action_error(format!(
            "The action type '{kind}' is not valid with network load balancers; it must be 'forward'"
        )));
    }
    let checked = match kind.as_str() {
        "forward" => forward(action, place, group)?,
        "redirect" => redirect(action, place)?,
        "fixed-response" => fixed_response(action)?,
        other => {
            return Err(invalid(format!(
                "Action type '{other}' must be one of 'redirect,fixed-response,forward,authenticate-cognito,authenticate-oidc'"
            )));
        }
    };
    Ok(vec![checked])
}

fn forward(
    action: Action,
    place: &Place<'_>,
    group: impl Fn(&str) -> Result<GroupRecord, ApiError>,
) -> Result<Action, ApiError> {
    let config = action.forward_config.unwrap_or_default();
    let mut tuples = config.target_groups.unwrap_or_default();
    if let Some(arn) = &action.target_group_arn {
        match tuples.as_slice() {
            [] => tuples.push(TargetGroupTuple { target_group_arn: Some(arn.clone()), weight: None }),
            [only] if only.target_group_arn.as_ref() == Some(arn) => {}
            _ => {
                return Err(invalid(
                    "You cannot specify both a target group ARN and a different list of target groups in one action",
                ));
            }
        }
    }
    if tuples.is_empty() {
        return Err(invalid("A target group ARN must be specified"));
    }
    if tuples.len() > GROUPS_PER_ACTION_MAX {
        let message = format!(
            "An action of this load balancer can forward to at most '{GROUPS_PER_ACTION_MAX}' target groups"
        );
        return Err(ApiError::new("TooManyUniqueTargetGroupsPerLoadBalancer", message));
    }
    let mut seen = Vec::new();
    for tuple in &mut tuples {
        let arn = tuple.target_group_arn.clone().unwrap_or_default();
        if seen.contains(&arn) {
            return Err(invalid(format!("Target group '{arn}' is specified more than once in an action")));
        }
        compatible(&group(&arn)?, &arn, place)?;
        let weight = *tuple.weight.get_or_insert(1);
        if !(0..=WEIGHT_MAX).contains(&weight) {
            return Err(invalid(format!(
                "Weight '{weight}' must be between '0' and '{WEIGHT_MAX}' inclusive"
            )));
        }
        seen.push(arn);
    }
    let stickiness = config.target_group_stickiness_config.unwrap_or_default();
    let enabled = stickiness.enabled.unwrap_or_default();
    let duration = stickiness.duration_seconds;
    if enabled && place.kind == BalancerType::Network {
        return Err(configuration("Target group stickiness is not supported with network load balancers"));
    }
    if enabled && duration.is_none() {
        return Err(invalid("You must specify the duration of target group stickiness when it is enabled"));
    }
    if duration.is_some_and(|seconds| !(1..=STICKINESS_SECONDS_MAX).contains(&seconds)) {
        return Err(invalid(format!(
            "Target group stickiness duration must be between '1' and '{STICKINESS_SECONDS_MAX}' inclusive"
        )));
    }
    Ok(Action {
        r#type: action.r#type,
        order: action.order,
        // As ELB: of one target group, both forms.
        target_group_arn: Some(seen.remove(0)).filter(|_| tuples.len() == 1),
        forward_config: Some(ForwardActionConfig {
            target_groups: Some(tuples),
            target_group_stickiness_config: (place.kind == BalancerType::Application).then_some(
                TargetGroupStickinessConfig { enabled: Some(enabled), duration_seconds: duration },
            ),
        }),
        ..Action::default()
    })
}

fn compatible(group: &GroupRecord, arn: &str, place: &Place<'_>) -> Result<(), ApiError> {
    let fits = match place.protocol {
        "HTTP" | "HTTPS" => group.is_http(),
        "TCP" => matches!(group.protocol.as_str(), "TCP" | "TCP_UDP"),
        "TLS" => matches!(group.protocol.as_str(), "TCP" | "TLS"),
        "UDP" => matches!(group.protocol.as_str(), "UDP" | "TCP_UDP"),
        other => group.protocol == other,
    };
    if !fits {
        return Err(ApiError::new(
            "IncompatibleProtocols",
            format!(
                "The listener and its associated target group '{arn}' have incompatible protocols: '{}' and '{}'",
                place.protocol, group.protocol
            ),
        ));
    }
    if group.target_type == TargetType::Alb && place.protocol != "TCP" {
        return Err(ApiError::new(
            "IncompatibleProtocols",
            format!(
                "Only TCP listeners can forward traffic to the target group '{arn}' with the target type 'alb'; the \
                 protocol of the listener is '{}'",
                place.protocol
            ),
        ));
    }
    match group.protocol_version.as_deref() {
        Some(version @ ("GRPC" | "HTTP2")) if place.protocol == "HTTP" => {
            return Err(configuration(format!(
                "Listener protocol 'HTTP' is not supported with a target group with the protocol-version '{version}'"
            )));
        }
        _ => {}
    }
    if group.vpc_id != place.vpc_id {
        return Err(configuration(format!(
            "The target group '{arn}' is in the VPC '{}' and the load balancer is in '{}'; they must be in the same VPC",
            group.vpc_id, place.vpc_id
        )));
    }
    Ok(())
}

fn redirect(action: Action, place: &Place<'_>) -> Result<Action, ApiError> {
    let given =
        action.redirect_config.ok_or_else(|| invalid("A redirect configuration must be specified"))?;
    let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
    let protocol = or(given.protocol, "#{protocol}");
    let port = or(given.port, "#{port}");
    let host = or(given.host, "#{host}");
    let path = or(given.path, "/#{path}");
    let query = or(given.query, "#{query}");
    if !matches!(protocol.as_str(), "HTTP" | "HTTPS" | "#{protocol}") {
        return Err(invalid(format!(
            "Redirect protocol '{protocol}' must be 'HTTP', 'HTTPS' or '#{{protocol}}'"
        )));
    }
    if protocol == "HTTP" && place.protocol == "HTTPS" {
        return Err(action_error("You cannot redirect HTTPS to HTTP"));
    }
    if port != "#{port}" && !port.parse().is_ok_and(|port: u16| port > 0) {
        return Err(invalid(format!("Redirect port '{port}' must be in the range 1-65535 or '#{{port}}'")));
    }
    if !path.starts_with('/') || path.len() > 128 || host.is_empty() || host.len() > 128 || query.len() > 128
    {
        return Err(invalid(
            "A redirect's path must begin with '/'; path, host and query have at most '128' characters, and host at least one",
        ));
    }
    let status = given.status_code.unwrap_or_default();
    if !matches!(status.as_str(), "HTTP_301" | "HTTP_302") {
        return Err(invalid(format!("Redirect status code '{status}' must be one of 'HTTP_301, HTTP_302'")));
    }
    let same = protocol == "#{protocol}" || protocol == place.protocol;
    if same && port == "#{port}" && host == "#{host}" && path == "/#{path}" {
        return Err(action_error(
            "You must modify at least one of the following components to avoid a redirect loop: protocol, port, host or path",
        ));
    }
    let config = RedirectActionConfig {
        protocol: Some(protocol),
        port: Some(port),
        host: Some(host),
        path: Some(path),
        query: Some(query),
        status_code: Some(status),
    };
    Ok(Action {
        r#type: action.r#type,
        order: action.order,
        redirect_config: Some(config),
        ..Action::default()
    })
}

fn fixed_response(action: Action) -> Result<Action, ApiError> {
    let given = action
        .fixed_response_config
        .ok_or_else(|| invalid("A fixed response configuration must be specified"))?;
    let status = given.status_code.as_deref().unwrap_or_default();
    let fine = status.len() == 3
        && matches!(status.as_bytes()[0], b'2' | b'4' | b'5')
        && status.bytes().all(|byte| byte.is_ascii_digit());
    if !fine {
        return Err(invalid(format!("Fixed response status code '{status}' must be 2XX, 4XX or 5XX")));
    }
    if let Some(kind) = &given.content_type
        && !CONTENT_TYPES.contains(&kind.as_str())
    {
        return Err(invalid(format!(
            "Fixed response content type '{kind}' must be one of '{}'",
            CONTENT_TYPES.join(", ")
        )));
    }
    if given.message_body.as_ref().is_some_and(|body| body.len() > MESSAGE_BODY_BYTES_MAX) {
        return Err(invalid(format!(
            "Fixed response message body cannot be longer than '{MESSAGE_BODY_BYTES_MAX}' bytes"
        )));
    }
    Ok(Action {
        r#type: action.r#type,
        order: action.order,
        fixed_response_config: Some(given),
        ..Action::default()
    })
}

/// The target groups that actions forward to, in order.
pub(crate) fn groups(actions: &[Action]) -> impl Iterator<Item = &str> {
    let tuples = actions.iter().filter_map(|action| action.forward_config.as_ref()?.target_groups.as_ref());
    tuples.flatten().filter_map(|tuple| tuple.target_group_arn.as_deref())
}

/// Those of them that get anything.
pub(crate) fn weighted_groups(actions: &[Action]) -> impl Iterator<Item = &str> {
    let tuples = actions.iter().filter_map(|action| action.forward_config.as_ref()?.target_groups.as_ref());
    let weighted = tuples.flatten().filter(|tuple| tuple.weight != Some(0));
    weighted.filter_map(|tuple| tuple.target_group_arn.as_deref())
}

/// As a node takes it. `None`: no action of those that [`check`] lets in (damage).
pub(crate) fn assign(actions: &[Action]) -> Option<node::Action> {
    let action = actions.first()?;
    if let Some(config) = &action.forward_config {
        let weighted = |tuple: &TargetGroupTuple| {
            Some(node::WeightedTargetGroup {
                target_group_arn: tuple.target_group_arn.clone()?,
                weight: u32::try_from(tuple.weight.unwrap_or(1)).ok()?,
            })
        };
        let sticky = config.target_group_stickiness_config.as_ref();
        let sticky = sticky.filter(|config| config.enabled == Some(true));
        return Some(node::Action::Forward {
            target_groups: config.target_groups.iter().flatten().filter_map(weighted).collect(),
            stickiness_seconds: sticky.and_then(|config| u32::try_from(config.duration_seconds?).ok()),
        });
    }
    if let Some(config) = &action.redirect_config {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        return Some(node::Action::Redirect {
            protocol: text(&config.protocol),
            host: text(&config.host),
            port: text(&config.port),
            path: text(&config.path),
            query: text(&config.query),
            status: if config.status_code.as_deref() == Some("HTTP_302") { 302 } else { 301 },
        });
    }
    let config = action.fixed_response_config.as_ref()?;
    Some(node::Action::FixedResponse {
        status: config.status_code.as_deref()?.parse().ok()?,
        content_type: config.content_type.clone(),
        body: config.message_body.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::health_check;
    use crate::state::Scope;

    const ARN: &str = "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/g/1";

    fn group(protocol: &str, version: Option<&str>) -> GroupRecord {
        GroupRecord {
            id: "1".into(),
            scope: Scope { account: "1".into(), region: "us-east-1".into() },
            name: "g".into(),
            protocol: protocol.into(),
            protocol_version: version.map(str::to_owned),
            target_type: TargetType::Ip,
            port: 80,
            vpc_id: "vpc-1".into(),
            health_check: health_check::decide(protocol, version, TargetType::Ip, None, Default::default())
                .unwrap(),
            attributes: Default::default(),
            tags: Default::default(),
        }
    }

    fn at(kind: BalancerType, protocol: &str) -> Place<'_> {
        Place { kind, protocol, vpc_id: "vpc-1" }
    }

    fn forward() -> Action {
        Action { r#type: Some("forward".into()), target_group_arn: Some(ARN.into()), ..Action::default() }
    }

    #[test]
    fn a_short_forward_becomes_whole() {
        let place = at(BalancerType::Application, "HTTP");
        let actions = check(vec![forward()], &place, |_| Ok(group("HTTP", Some("HTTP1")))).unwrap();
        assert_eq!(groups(&actions).collect::<Vec<_>>(), [ARN]);
        assert_eq!(actions[0].target_group_arn.as_deref(), Some(ARN));
        let config = actions[0].forward_config.as_ref().unwrap();
        assert_eq!(config.target_groups.as_ref().unwrap()[0].weight, Some(1));
        assert!(matches!(assign(&actions), Some(node::Action::Forward { stickiness_seconds: None, .. })));
        // Checked again, it stays as it is.
        let again = check(actions.clone(), &place, |_| Ok(group("HTTP", Some("HTTP1")))).unwrap();
        assert_eq!(again, actions);
    }

    #[test]
    fn protocols_have_to_fit() {
        for (kind, listener, protocol, version, fits) in [
            (BalancerType::Application, "HTTPS", "HTTP", Some("GRPC"), true),
            (BalancerType::Application, "HTTP", "HTTP", Some("GRPC"), false),
            (BalancerType::Application, "HTTP", "TCP", None, false),
            (BalancerType::Network, "TCP", "TCP", None, true),
            (BalancerType::Network, "TCP", "TCP_UDP", None, true),
            (BalancerType::Network, "TCP", "TLS", None, false),
            (BalancerType::Network, "TLS", "TCP", None, true),
            (BalancerType::Network, "UDP", "TCP", None, false),
            (BalancerType::Network, "TCP_UDP", "TCP", None, false),
        ] {
            let result = check(vec![forward()], &at(kind, listener), |_| Ok(group(protocol, version)));
            assert_eq!(result.is_ok(), fits, "{listener} {protocol} {version:?}");
        }
    }

    #[test]
    fn redirects_that_loop_or_lose_tls_are_refused() {
        let redirect = |protocol: Option<&str>| Action {
            r#type: Some("redirect".into()),
            redirect_config: Some(RedirectActionConfig {
                protocol: protocol.map(str::to_owned),
                status_code: Some("HTTP_301".into()),
                ..Default::default()
            }),
            ..Action::default()
        };
        let none = |_: &str| -> Result<GroupRecord, ApiError> { unreachable!("no group is looked up") };
        let https = at(BalancerType::Application, "HTTPS");
        let http = at(BalancerType::Application, "HTTP");
        assert!(check(vec![redirect(None)], &http, none).is_err());
        assert!(check(vec![redirect(Some("HTTP"))], &http, none).is_err());
        assert!(check(vec![redirect(Some("HTTP"))], &https, none).is_err());
        let made = check(vec![redirect(Some("HTTPS"))], &http, none).unwrap();
        assert_eq!(made[0].redirect_config.as_ref().unwrap().path.as_deref(), Some("/#{path}"));
    }
}
