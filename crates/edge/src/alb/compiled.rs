//! The listeners of an application load balancer, ready to route.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferrogate_nodeapi::{Action, BalancerAssignment, Listener, ListenerProtocol};
use http::{HeaderName, HeaderValue};

use super::cookies::{Sealer, group_tag};
use crate::rules::{Conditions, Redirect, RegexError, RequestView, Transforms};
use crate::state::{Certificates, ConfigurationError, Group};
use crate::tls::TlsListener;

/// All HTTP and HTTPS listeners of one configuration, by port.
pub struct Compiled {
    listeners: HashMap<u16, Arc<HttpListener>>,
    pub(crate) sealer: Option<Sealer>,
    /// `app/name/id`, as logs have it.
    pub(crate) log_name: String,
}

pub(crate) struct HttpListener {
    pub(crate) port: u16,
    /// The same, as a header's value.
    pub(crate) port_text: HeaderValue,
    /// `None`: HTTP.
    pub(crate) tls: Option<TlsListener>,
    rules: Vec<HttpRule>,
    default: HttpRule,
    pub(crate) headers: HeaderAttributes,
}

pub(crate) struct HttpRule {
    /// `None`: the default rule.
    pub(crate) priority: Option<u32>,
    conditions: Conditions,
    pub(crate) transforms: Transforms,
    pub(crate) action: HttpAction,
}

pub(crate) enum HttpAction {
    Forward(Forward),
    Redirect(Redirect),
    Fixed { status: u16, content_type: HeaderValue, body: bytes::Bytes },
}

pub(crate) struct Forward {
    pub(crate) groups: Vec<(Routed, u32)>,
    /// Target group stickiness.
    pub(crate) stickiness_seconds: Option<u32>,
}

pub(crate) struct Routed {
    pub(crate) group: Arc<Group>,
    /// Its name in cookies.
    pub(crate) tag: u64,
}

/// `routing.http.…` attributes of a listener.
pub(crate) struct HeaderAttributes {
    pub(crate) tls_version: HeaderName,
    pub(crate) tls_cipher_suite: HeaderName,
    pub(crate) mtls_certificates: HeaderName,
    /// What the balancer says of a connection at any of its listeners: from a client it is never believed at another, either.
    pub(crate) claimed: Arc<[HeaderName]>,
    /// Whether a response says `Server`.
    pub(crate) server: bool,
    /// Put into every response.
    pub(crate) response: Vec<(HeaderName, HeaderValue)>,
}

impl Compiled {
    pub(crate) fn new(
        assignment: &BalancerAssignment,
        certificates: &Certificates,
        groups: &HashMap<String, Arc<Group>>,
    ) -> Result<Compiled, ConfigurationError> {
        let mut listeners: HashMap<u16, HttpListener> = HashMap::new();
        let http2 = assignment.attributes.http2_enabled;
        for listener in &assignment.listeners {
            let alpn: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
            let tls = match listener.protocol {
                ListenerProtocol::Http => None,
                ListenerProtocol::Https => Some(TlsListener::new(listener, certificates, alpn)?),
                _ => continue,
            };
            listeners.insert(listener.port, HttpListener::new(listener, tls, groups)?);
        }
        let claims = listeners.values().flat_map(|listener| listener.headers.claims().map(Clone::clone));
        let claimed: HashSet<HeaderName> = claims.collect();
        let claimed: Arc<[HeaderName]> = claimed.into_iter().collect();
        for listener in listeners.values_mut() {
            listener.headers.claimed = Arc::clone(&claimed);
        }
        let listeners = listeners.into_iter().map(|(port, listener)| (port, Arc::new(listener))).collect();
        let arn = &assignment.load_balancer_arn;
        let log_name = arn.split_once(":loadbalancer/").map_or(arn.as_str(), |(_, name)| name).to_owned();
        Ok(Compiled { listeners, sealer: Sealer::new(arn), log_name })
    }

    pub(crate) fn listener(&self, port: u16) -> Option<&Arc<HttpListener>> {
        self.listeners.get(&port)
    }
}

impl HttpListener {
    fn new(
        listener: &Listener,
        tls: Option<TlsListener>,
        groups: &HashMap<String, Arc<Group>>,
    ) -> Result<HttpListener, ConfigurationError> {
        let rule = |rule: &ferrogate_nodeapi::Rule| {
            let bad = |error: RegexError| ConfigurationError::Regex {
                rule: rule.rule_arn.clone(),
                regex: error.regex,
                reason: error.reason,
            };
            Ok(HttpRule {
                priority: Some(rule.priority),
                conditions: Conditions::new(&rule.conditions).map_err(bad)?,
                transforms: Transforms::new(&rule.transforms).map_err(bad)?,
                action: action(&rule.rule_arn, &rule.action, groups, listener.port)?,
            })
        };
        let mut rules = listener.rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        rules.sort_by_key(|rule| rule.priority);
        let default = HttpRule {
            priority: None,
            conditions: Conditions::default(),
            transforms: Transforms::default(),
            action: action(&listener.listener_arn, &listener.default_action, groups, listener.port)?,
        };
        let headers = HeaderAttributes::new(listener)?;
        let port = listener.port;
        Ok(HttpListener { port, port_text: port.into(), tls, rules, default, headers })
    }

    /// The first rule by priority whose conditions hold, and how many were looked at.
    pub(crate) fn route(&self, request: &RequestView<'_>) -> (&HttpRule, usize) {
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.conditions.hold(request) {
                return (rule, at + 1);
            }
        }
        (&self.default, self.rules.len() + 1)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.tls.is_some()
    }
}

fn action(
    rule: &str,
    action: &Action,
    groups: &HashMap<String, Arc<Group>>,
    port: u16,
) -> Result<HttpAction, ConfigurationError> {
    Ok(match action {
        Action::Forward { target_groups, stickiness_seconds } => {
            let routed = |arn: &String, weight| {
                let missing =
                    || ConfigurationError::TargetGroupMissing { rule: rule.to_owned(), arn: arn.clone() };
                let group = groups.get(arn).cloned().ok_or_else(missing)?;
                Ok((Routed { group, tag: group_tag(arn) }, weight))
            };
            let groups =
                target_groups.iter().map(|weighted| routed(&weighted.target_group_arn, weighted.weight));
            HttpAction::Forward(Forward {
                groups: groups.collect::<Result<_, _>>()?,
                stickiness_seconds: *stickiness_seconds,
            })
        }
        Action::Redirect { protocol, host, port, path, query, status } => HttpAction::Redirect(Redirect {
            protocol: protocol.clone(),
            host: host.clone(),
            port: port.clone(),
            path: path.clone(),
            query: query.clone(),
            status: *status,
        }),
        Action::FixedResponse { status, content_type, body } => {
            let text = content_type.as_deref().unwrap_or("text/plain");
            let charset = if text.starts_with("text/") || text.ends_with("javascript") {
                "; charset=utf-8"
            } else {
                ""
            };
            HttpAction::Fixed {
                status: *status,
                content_type: value(port, "content-type", &format!("{text}{charset}"))?,
                body: body.clone().into(),
            }
        }
    })
}

fn value(port: u16, name: &str, value: &str) -> Result<HeaderValue, ConfigurationError> {
    HeaderValue::from_str(value).map_err(|_| ConfigurationError::Header {
        port,
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

impl HeaderAttributes {
    fn claims(&self) -> [&HeaderName; 3] {
        [&self.tls_version, &self.tls_cipher_suite, &self.mtls_certificates]
    }

    fn new(listener: &Listener) -> Result<HeaderAttributes, ConfigurationError> {
        let mut headers = HeaderAttributes {
            tls_version: HeaderName::from_static("x-amzn-tls-version"),
            tls_cipher_suite: HeaderName::from_static("x-amzn-tls-cipher-suite"),
            mtls_certificates: HeaderName::from_static("x-amzn-mtls-clientcert"),
            claimed: Arc::default(),
            server: true,
            response: Vec::new(),
        };
        let port = listener.port;
        for (key, text) in &listener.header_attributes {
            let bad = || ConfigurationError::Header { port, name: key.clone(), value: text.clone() };
            let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).map_err(|_| bad());
            match key.strip_prefix("routing.http.").unwrap_or(key) {
                _ if text.is_empty() => {}
                "request.x_amzn_tls_version.header_name" => headers.tls_version = name(text)?,
                "request.x_amzn_tls_cipher_suite.header_name" => headers.tls_cipher_suite = name(text)?,
                "request.x_amzn_mtls_clientcert.header_name" => headers.mtls_certificates = name(text)?,
                "response.server.enabled" => headers.server = text != "false",
                other => {
                    let header =
                        other.strip_prefix("response.").and_then(|rest| rest.strip_suffix(".header_value"));
                    let header = header.ok_or_else(bad)?.replace('_', "-");
                    headers.response.push((name(&header)?, value(port, key, text)?));
                }
            }
        }
        Ok(headers)
    }
}
