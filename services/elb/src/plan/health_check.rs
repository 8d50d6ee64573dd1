//! Health checks of target groups: what they are when nothing is said, and what they may be (ELB API reference,
//! CreateTargetGroup).

use ferrogate_api::ApiError;

use crate::errors::{configuration, invalid, unsupported};
use crate::state::{HealthCheckRecord, TargetType};

const TRAFFIC_PORT: &str = "traffic-port";
const INTERVAL_SECONDS: u32 = 30;
const HEALTHY_THRESHOLD: u32 = 5;
const UNHEALTHY_THRESHOLD: u32 = 2;
const GRPC_PATH: &str = "/AWS.ALB/healthcheck";

/// What a call says of a health check.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) enabled: Option<bool>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) http_code: Option<String>,
    pub(crate) grpc_code: Option<String>,
    pub(crate) interval_seconds: Option<i32>,
    pub(crate) timeout_seconds: Option<i32>,
    pub(crate) healthy_threshold: Option<i32>,
    pub(crate) unhealthy_threshold: Option<i32>,
}

/// The check of a group, out of what it was (`None`: a new one) and what is wanted. `version` is of HTTP groups.
pub(crate) fn decide(
    protocol: &str,
    version: Option<&str>,
    target_type: TargetType,
    was: Option<&HealthCheckRecord>,
    wanted: Wanted,
) -> Result<HealthCheckRecord, ApiError> {
    if wanted.enabled == Some(false) {
        let message = "Health check enabled must be true for target groups with target type";
        return Err(configuration(format!("{message} '{}'", target_type.as_str())));
    }
    let of_http = matches!(protocol, "HTTP" | "HTTPS");
    // A balancer is well when its targets are.
    let of_balancer = target_type == TargetType::Alb;
    let default_protocol = if of_http || of_balancer { "HTTP" } else { "TCP" };
    let before = was.map(|was| was.protocol.as_str());
    let check_protocol = wanted.protocol.as_deref().or(before).unwrap_or(default_protocol).to_owned();
    match check_protocol.as_str() {
        "HTTP" | "HTTPS" => {}
        "TCP" if of_balancer => {
            return Err(invalid(
                "Health check protocol 'TCP' is not supported for target groups with target type 'alb'",
            ));
        }
        "TCP" if !of_http => {}
        "TCP" => {
            return Err(invalid(format!(
                "Health check protocol 'TCP' is not supported for target groups with protocol '{protocol}'"
            )));
        }
        other => {
            return Err(invalid(format!(
                "Health check protocol '{other}' must be one of 'HTTPS, HTTP, TCP'"
            )));
        }
    }
    // Another protocol has other defaults.
    let was = was.filter(|was| was.protocol == check_protocol);
    let grpc = version == Some("GRPC");
    let over_http = check_protocol != "TCP";
    let port = wanted.port.or_else(|| was.map(|was| was.port.clone())).unwrap_or_else(|| TRAFFIC_PORT.into());
    if port != TRAFFIC_PORT && !port.parse().is_ok_and(|port: u16| port > 0) {
        return Err(invalid(format!(
            "Health check port '{port}' must be '{TRAFFIC_PORT}' or in the range 1-65535"
        )));
    }
    let path = path(over_http, grpc, was, wanted.path)?;
    let matcher = matcher(of_http, over_http, grpc, was, wanted.http_code, wanted.grpc_code)?;
    let number = |name: &str, given: Option<i32>, was: Option<u32>, default: u32, min: u32, max: u32| {
        let value = match given {
            Some(given) => u32::try_from(given).unwrap_or(0),
            None => was.unwrap_or(default),
        };
        if !(min..=max).contains(&value) {
            let message = format!("{name} '{value}' must be between '{min}' and '{max}' inclusive");
            return Err(invalid(message));
        }
        Ok(value)
    };
    let default_timeout = if check_protocol == "HTTP" && protocol != "HTTPS" { 6 } else { 10 };
    let interval_seconds = number(
        "Health check interval",
        wanted.interval_seconds,
        was.map(|was| was.interval_seconds),
        INTERVAL_SECONDS,
        5,
        300,
    )?;
    // Network load balancers wait as long as the interval, if they are asked to. A shorter interval than the default
    // timeout is fine as long as nobody has asked for the timeout.
    let timeout_max = if of_http { interval_seconds - 1 } else { interval_seconds };
    let default_timeout = default_timeout.min(timeout_max);
    let timeout_seconds = number(
        "Health check timeout",
        wanted.timeout_seconds,
        was.map(|was| was.timeout_seconds),
        default_timeout,
        2,
        120,
    )?;
    if timeout_seconds > timeout_max {
        return Err(invalid("Health check interval must be greater than the timeout."));
    }
    Ok(HealthCheckRecord {
        healthy_threshold: number(
            "Healthy threshold count",
            wanted.healthy_threshold,
            was.map(|was| was.healthy_threshold),
            HEALTHY_THRESHOLD,
            2,
            10,
        )?,
        unhealthy_threshold: number(
            "Unhealthy threshold count",
            wanted.unhealthy_threshold,
            was.map(|was| was.unhealthy_threshold),
            UNHEALTHY_THRESHOLD,
            2,
            10,
        )?,
        protocol: check_protocol,
        port,
        path,
        matcher,
        interval_seconds,
        timeout_seconds,
    })
}

fn path(
    over_http: bool,
    grpc: bool,
    was: Option<&HealthCheckRecord>,
    wanted: Option<String>,
) -> Result<Option<String>, ApiError> {
    if !over_http {
        return match wanted {
            Some(_) => Err(configuration("Health check path is not supported for TCP health checks")),
            None => Ok(None),
        };
    }
    let default = if grpc { GRPC_PATH } else { "/" };
    let path = wanted.or_else(|| was.and_then(|was| was.path.clone())).unwrap_or_else(|| default.to_owned());
    let fine = |byte: u8| byte.is_ascii_graphic();
    if !path.starts_with('/') || !path.bytes().all(fine) || path.len() > 1024 {
        return Err(invalid(format!(
            "Health check path '{path}' must begin with a '/' character, and can only contain printable ASCII characters, without spaces"
        )));
    }
    Ok(Some(path))
}

fn matcher(
    of_http: bool,
    over_http: bool,
    grpc: bool,
    was: Option<&HealthCheckRecord>,
    http_code: Option<String>,
    grpc_code: Option<String>,
) -> Result<Option<String>, ApiError> {
    if !over_http {
        return match http_code.or(grpc_code) {
            Some(_) => Err(configuration("A matcher is not supported for TCP health checks")),
            None => Ok(None),
        };
    }
    let (given, other, default, range) = match (grpc, of_http) {
        (true, _) => (grpc_code, http_code, "12", 0..=99),
        (false, true) => (http_code, grpc_code, "200", 200..=499),
        (false, false) => (http_code, grpc_code, "200-399", 200..=599),
    };
    if other.is_some() {
        let (right, wrong) = if grpc { ("GrpcCode", "HttpCode") } else { ("HttpCode", "GrpcCode") };
        return Err(configuration(format!(
            "The matcher of this target group's health checks is '{right}'; '{wrong}' cannot be specified"
        )));
    }
    let matcher = given.or_else(|| was.and_then(|was| was.matcher.clone())).unwrap_or_else(|| default.into());
    let (min, max) = (*range.start(), *range.end());
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| range.contains(code));
    let fine = |part: &str| match part.split_once('-') {
        Some((low, high)) => matches!((code(low), code(high)), (Some(low), Some(high)) if low <= high),
        None => code(part).is_some(),
    };
    if !matcher.split(',').all(fine) {
        return Err(invalid(format!(
            "Health check matcher HTTP code '{matcher}' must be within '{min}-{max}' inclusive"
        )));
    }
    Ok(Some(matcher))
}

/// The version of an HTTP group's protocol.
pub(crate) fn protocol_version(protocol: &str, wanted: Option<String>) -> Result<Option<String>, ApiError> {
    if !matches!(protocol, "HTTP" | "HTTPS") {
        return match wanted {
            Some(_) => Err(configuration(format!(
                "Protocol version cannot be specified for target groups with protocol '{protocol}'"
            ))),
            None => Ok(None),
        };
    }
    let version = wanted.unwrap_or_else(|| "HTTP1".into());
    if !matches!(version.as_str(), "HTTP1" | "HTTP2" | "GRPC") {
        return Err(invalid(format!("Protocol version '{version}' must be one of 'HTTP1, HTTP2, GRPC'")));
    }
    Ok(Some(version))
}

/// Protocols that the data plane does not speak.
pub(crate) fn check_protocol(protocol: &str) -> Result<(), ApiError> {
    match protocol {
        "HTTP" | "HTTPS" | "TCP" | "TLS" | "UDP" | "TCP_UDP" => Ok(()),
        other => Err(unsupported(&format!("The protocol {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(protocol: &str, wanted: Wanted) -> Result<HealthCheckRecord, ApiError> {
        let version = matches!(protocol, "HTTP" | "HTTPS").then_some("HTTP1");
        decide(protocol, version, TargetType::Ip, None, wanted)
    }

    #[test]
    fn defaults() {
        for (protocol, check, timeout, path, matcher) in [
            ("HTTP", "HTTP", 6, Some("/"), Some("200")),
            ("HTTPS", "HTTP", 10, Some("/"), Some("200")),
            ("TCP", "TCP", 10, None, None),
            ("TLS", "TCP", 10, None, None),
            ("UDP", "TCP", 10, None, None),
        ] {
            let made = new(protocol, Wanted::default()).unwrap();
            assert_eq!((made.protocol.as_str(), made.timeout_seconds), (check, timeout), "{protocol}");
            assert_eq!((made.path.as_deref(), made.matcher.as_deref()), (path, matcher), "{protocol}");
            assert_eq!((made.interval_seconds, made.healthy_threshold, made.unhealthy_threshold), (30, 5, 2));
            assert_eq!(made.port, "traffic-port");
        }
        let grpc = decide("HTTP", Some("GRPC"), TargetType::Ip, None, Wanted::default()).unwrap();
        assert_eq!(grpc.path.as_deref(), Some(GRPC_PATH));
        assert_eq!(grpc.matcher.as_deref(), Some("12"));
        let http = new("TCP", Wanted { protocol: Some("HTTP".into()), ..Wanted::default() }).unwrap();
        assert_eq!((http.matcher.as_deref(), http.timeout_seconds), (Some("200-399"), 6));
    }

    #[test]
    fn a_balancer_is_asked_for_its_targets() {
        let of_balancer = |wanted| decide("TCP", None, TargetType::Alb, None, wanted);
        let made = of_balancer(Wanted::default()).unwrap();
        assert_eq!((made.protocol.as_str(), made.path.as_deref()), ("HTTP", Some("/")));
        assert_eq!(made.matcher.as_deref(), Some("200-399"));
        let tcp = Wanted { protocol: Some("TCP".into()), ..Wanted::default() };
        assert!(of_balancer(tcp).unwrap_err().message.contains("target type 'alb'"));
        let off = Wanted { enabled: Some(false), ..Wanted::default() };
        assert!(of_balancer(off).unwrap_err().message.ends_with("with target type 'alb'"));
    }

    #[test]
    fn limits() {
        let refused = |protocol: &str, wanted: Wanted| new(protocol, wanted).unwrap_err().message;
        let wanted = Wanted::default;
        for (protocol, wanted, says) in [
            ("HTTP", Wanted { enabled: Some(false), ..wanted() }, "enabled must be true"),
            ("HTTP", Wanted { protocol: Some("TCP".into()), ..wanted() }, "'TCP' is not supported"),
            ("TCP", Wanted { protocol: Some("UDP".into()), ..wanted() }, "must be one of"),
            ("TCP", Wanted { path: Some("/".into()), ..wanted() }, "path is not supported"),
            ("HTTP", Wanted { path: Some("health".into()), ..wanted() }, "must begin with a '/'"),
            ("HTTP", Wanted { http_code: Some("200-500".into()), ..wanted() }, "within '200-499'"),
            ("HTTP", Wanted { http_code: Some("299-200".into()), ..wanted() }, "within '200-499'"),
            ("HTTP", Wanted { grpc_code: Some("0".into()), ..wanted() }, "'GrpcCode' cannot be"),
            ("HTTP", Wanted { interval_seconds: Some(301), ..wanted() }, "'5' and '300'"),
            (
                "HTTP",
                Wanted { interval_seconds: Some(10), timeout_seconds: Some(10), ..wanted() },
                "interval must be greater than the timeout",
            ),
            (
                "TCP",
                Wanted { interval_seconds: Some(10), timeout_seconds: Some(11), ..wanted() },
                "interval must be greater than the timeout",
            ),
            ("HTTP", Wanted { healthy_threshold: Some(1), ..wanted() }, "'2' and '10'"),
            ("HTTP", Wanted { port: Some("70000".into()), ..wanted() }, "must be 'traffic-port'"),
        ] {
            let message = refused(protocol, wanted);
            assert!(message.contains(says), "{message}");
        }
        let short = new("HTTP", Wanted { interval_seconds: Some(5), ..wanted() }).unwrap();
        assert_eq!(short.timeout_seconds, 4);
        let whole = Wanted { interval_seconds: Some(10), timeout_seconds: Some(10), ..wanted() };
        assert_eq!(new("TCP", whole).unwrap().timeout_seconds, 10);
    }

    #[test]
    fn a_change_keeps_the_rest_and_another_protocol_begins_anew() {
        let was = new(
            "TCP",
            Wanted { protocol: Some("HTTP".into()), path: Some("/up".into()), ..Wanted::default() },
        );
        let was = was.unwrap();
        let same = decide(
            "TCP",
            None,
            TargetType::Ip,
            Some(&was),
            Wanted { interval_seconds: Some(10), ..Wanted::default() },
        );
        assert_eq!(same.unwrap().path.as_deref(), Some("/up"));
        let other = decide(
            "TCP",
            None,
            TargetType::Ip,
            Some(&was),
            Wanted { protocol: Some("TCP".into()), ..Wanted::default() },
        );
        assert_eq!(other.unwrap().path, None);
    }
}
