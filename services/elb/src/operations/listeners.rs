//! Listeners.

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use super::{balancer_targets, certificates, check_groups, new_id, page, tags};
use crate::call::{Call, given};
use crate::errors::{among_listeners, configuration, invalid, refuse, unsupported};
use crate::plan::{actions, ssl};
use crate::state::*;

/// ELB user guides, "Quotas": listeners per balancer.
pub(crate) const LISTENERS_MAX: usize = 50;

pub(crate) fn shape(record: &ListenerRecord) -> Listener {
    let certificate = |arn: &String| Certificate { certificate_arn: Some(arn.clone()), is_default: None };
    Listener {
        listener_arn: Some(record.arn()),
        load_balancer_arn: Some(record.balancer_arn()),
        port: Some(i32::from(record.port)),
        protocol: Some(record.protocol.clone()),
        certificates: record
            .is_secure()
            .then(|| record.certificates.iter().take(1).map(certificate).collect()),
        ssl_policy: record.ssl_policy.clone(),
        default_actions: Some(record.actions.clone()),
        alpn_policy: record.alpn_policy.clone().map(|policy| vec![policy]),
        mutual_authentication: (record.protocol == "HTTPS").then(|| MutualAuthenticationAttributes {
            mode: Some(if record.mtls_passthrough { "passthrough" } else { "off" }.into()),
            ..Default::default()
        }),
    }
}

/// What is said of a listener, but for its actions.
#[derive(Clone)]
struct Settings {
    port: u16,
    protocol: String,
    ssl_policy: Option<String>,
    /// The default one.
    certificate: Option<String>,
    alpn_policy: Option<String>,
}

fn check_protocol(kind: BalancerType, protocol: &str) -> Result<(), ApiError> {
    if matches!(protocol, "QUIC" | "TCP_QUIC" | "GENEVE") {
        return Err(unsupported(&format!("The protocol {protocol}")));
    }
    let allowed: &[&str] = match kind {
        BalancerType::Application => &["HTTPS", "HTTP"],
        BalancerType::Network => &["TLS", "TCP", "TCP_UDP", "UDP"],
    };
    if !allowed.contains(&protocol) {
        return Err(invalid(format!(
            "Listener protocol '{protocol}' must be one of '{}'",
            allowed.join(", ")
        )));
    }
    Ok(())
}

/// Whether client certificates go to the targets; `None`: nothing is said of it.
fn check_mutual(given: Option<&MutualAuthenticationAttributes>) -> Result<Option<bool>, ApiError> {
    let Some(given) = given else { return Ok(None) };
    let passthrough = match (given.mode.as_deref().unwrap_or("off"), &given.trust_store_arn) {
        ("off", None) => false,
        ("passthrough", None) => true,
        // There is none: it would be made of a bundle in S3.
        ("verify", Some(arn)) => {
            return Err(ApiError::new("TrustStoreNotFound", format!("Trust store '{arn}' not found")));
        }
        ("verify", None) => return Err(unsupported("The mutual authentication mode verify")),
        ("off" | "passthrough", Some(_)) => {
            return Err(invalid(
                "A trust store can be specified with the mutual authentication mode 'verify' only",
            ));
        }
        (other, _) => {
            return Err(invalid(format!(
                "Mutual authentication mode '{other}' must be one of 'off, passthrough, verify'"
            )));
        }
    };
    refuse(&[
        ("IgnoreClientCertificateExpiry", given.ignore_client_certificate_expiry == Some(true)),
        ("AdvertiseTrustStoreCaNames", given.advertise_trust_store_ca_names.as_deref() == Some("on")),
    ])?;
    Ok(Some(passthrough))
}

fn check_mutual_fits(passthrough: bool, protocol: &str) -> Result<(), ApiError> {
    if passthrough && protocol != "HTTPS" {
        return Err(configuration(format!(
            "Mutual authentication cannot be specified for a listener with protocol '{protocol}'"
        )));
    }
    Ok(())
}

fn check_port(port: Option<i32>) -> Result<u16, ApiError> {
    let port = port.ok_or_else(|| invalid("A listener port must be specified"))?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    port.ok_or_else(|| invalid("A listener port must be in the range 1-65535"))
}

/// The one certificate that may be named.
fn check_certificates(given: Option<Vec<Certificate>>) -> Result<Option<String>, ApiError> {
    let mut given = given.unwrap_or_default();
    if given.len() > 1 {
        return Err(invalid(
            "You can specify exactly one certificate for a listener; add others with AddListenerCertificates",
        ));
    }
    let Some(certificate) = given.pop() else { return Ok(None) };
    refuse(&[("IsDefault", certificate.is_default.is_some())])?;
    Ok(certificate.certificate_arn)
}

fn check_alpn(protocol: &str, given: Option<Vec<String>>) -> Result<Option<String>, ApiError> {
    let mut given = given.unwrap_or_default();
    let Some(policy) = given.pop() else { return Ok(None) };
    if !given.is_empty() {
        return Err(invalid("You can specify exactly one ALPN policy"));
    }
    if protocol != "TLS" {
        return Err(configuration(format!(
            "An ALPN policy cannot be specified for a listener with protocol '{protocol}'"
        )));
    }
    if !matches!(policy.as_str(), "HTTP1Only" | "HTTP2Only" | "HTTP2Optional" | "HTTP2Preferred" | "None") {
        return Err(ApiError::new(
            "ALPNPolicyNotFound",
            format!("The ALPN policy '{policy}' is not supported"),
        ));
    }
    Ok(Some(policy))
}

/// What TLS needs, and what a protocol without it may not have.
fn check_tls(settings: &mut Settings) -> Result<(), ApiError> {
    let secure = matches!(settings.protocol.as_str(), "HTTPS" | "TLS");
    if !secure {
        if settings.certificate.is_some() || settings.ssl_policy.is_some() {
            return Err(configuration(format!(
                "Certificates and security policies cannot be specified for a listener with protocol '{}'",
                settings.protocol
            )));
        }
        return Ok(());
    }
    if settings.certificate.is_none() {
        return Err(ApiError::new(
            "ValidationError",
            format!("A certificate must be specified for {} listeners", settings.protocol),
        ));
    }
    let policy = settings.ssl_policy.get_or_insert_with(|| ssl::DEFAULT.to_owned());
    if ssl::find(policy).is_none() {
        return Err(ApiError::new("SSLPolicyNotFound", format!("SSL policy '{policy}' not found")));
    }
    Ok(())
}

fn duplicate(balancer: &BalancerRecord) -> ApiError {
    let message =
        format!("A listener already exists on this port for this load balancer '{}'", balancer.arn());
    ApiError::new("DuplicateListener", message)
}

/// Whether two listeners cannot be on one port of a balancer. (TCP and UDP can.)
fn collide(one: &str, other: &str) -> bool {
    let transport = |protocol: &str| match protocol {
        "UDP" => (false, true),
        "TCP_UDP" => (true, true),
        _ => (true, false),
    };
    let ((tcp, udp), (other_tcp, other_udp)) = (transport(one), transport(other));
    (tcp && other_tcp) || (udp && other_udp)
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateListenerInput,
) -> Result<CreateListenerOutput, ApiError> {
    let balancer_arn = given(input.load_balancer_arn);
    let balancer = call.balancer(&balancer_arn)?;
    let protocol = input.protocol.ok_or_else(|| invalid("A listener protocol must be specified"))?;
    check_protocol(balancer.kind, &protocol)?;
    let mtls_passthrough = check_mutual(input.mutual_authentication.as_ref())?.unwrap_or(false);
    check_mutual_fits(mtls_passthrough, &protocol)?;
    let mut settings = Settings {
        port: check_port(input.port)?,
        ssl_policy: input.ssl_policy,
        certificate: check_certificates(input.certificates)?,
        alpn_policy: check_alpn(&protocol, input.alpn_policy)?,
        protocol,
    };
    check_tls(&mut settings)?;
    if let Some(arn) = &settings.certificate {
        certificates::check_exists(call, arn).await?;
    }
    let tags = tags::new(input.tags)?;
    let wanted = input.default_actions.unwrap_or_default();
    let (id, default_rule_id) = (new_id(), new_id());
    let made = call.decide(|| {
        let balancer = call.balancer(&balancer_arn)?;
        let place =
            actions::Place { kind: balancer.kind, protocol: &settings.protocol, vpc_id: &balancer.vpc_id };
        let actions = actions::check(wanted.clone(), &place, |arn| call.group(arn))?;
        let record = ListenerRecord {
            id: id.clone(),
            balancer_id: balancer.id.clone(),
            balancer_path: balancer.path(),
            scope: call.scope.clone(),
            port: settings.port,
            protocol: settings.protocol.clone(),
            ssl_policy: settings.ssl_policy.clone(),
            certificates: settings.certificate.iter().cloned().collect(),
            alpn_policy: settings.alpn_policy.clone(),
            actions,
            default_rule_id: default_rule_id.clone(),
            mtls_passthrough,
            attributes: Default::default(),
            tags: tags.clone(),
        };
        let others = call.listeners(&balancer.id);
        let there =
            others.iter().find(|one| one.port == record.port && collide(&one.protocol, &record.protocol));
        if let Some(found) = there {
            let same = ListenerRecord {
                id: found.id.clone(),
                default_rule_id: found.default_rule_id.clone(),
                attributes: found.attributes.clone(),
                ..record
            };
            return if same == *found { Ok((Txn::new(), same)) } else { Err(duplicate(&balancer)) };
        }
        if others.len() >= LISTENERS_MAX {
            let message =
                format!("The maximum number of listeners has been reached on load balancer '{balancer_arn}'");
            return Err(ApiError::new("TooManyListeners", message));
        }
        check_groups(call, &balancer.id, "", &record.actions)?;
        Ok((put(Txn::new(), &record, &[]), record))
    });
    Ok(CreateListenerOutput { listeners: Some(vec![shape(&made.await?)]) })
}

/// Writes a listener, and which certificates it uses.
pub(crate) fn put(mut txn: Txn, record: &ListenerRecord, before: &[String]) -> Txn {
    for arn in before.iter().filter(|arn| !record.certificates.contains(arn)) {
        txn = txn.delete(certificate_use_key(arn, &record.id));
    }
    for arn in record.certificates.iter().filter(|arn| !before.contains(arn)) {
        txn = txn.put(certificate_use_key(arn, &record.id), record.balancer_arn().into_bytes());
    }
    txn.put_json(record.key(), record)
}

/// Takes a listener away with its rules.
pub(crate) fn delete_in(call: &Call<'_>, mut txn: Txn, record: &ListenerRecord) -> Txn {
    for arn in &record.certificates {
        txn = txn.delete(certificate_use_key(arn, &record.id));
    }
    txn.delete(record.key()).delete_prefix(call.scope.key(Kind::Rule, &format!("{}/", record.id)))
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeListenersInput,
) -> Result<DescribeListenersOutput, ApiError> {
    let arns = input.listener_arns.unwrap_or_default();
    let mut found = match (input.load_balancer_arn, arns.is_empty()) {
        (Some(arn), true) => call.listeners(&call.balancer(&arn)?.id),
        (None, false) => {
            let listener = |arn: &String| call.listener(arn).map_err(among_listeners);
            arns.iter().map(listener).collect::<Result<_, _>>()?
        }
        _ => return Err(invalid("You must specify either listener ARNs or a load balancer ARN")),
    };
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    let (found, next_marker) = page(found, |record| &record.id, input.marker.as_deref(), input.page_size)?;
    Ok(DescribeListenersOutput { listeners: Some(found.iter().map(shape).collect()), next_marker })
}

pub(crate) async fn modify(
    call: &Call<'_>,
    input: ModifyListenerInput,
) -> Result<ModifyListenerOutput, ApiError> {
    let arn = given(input.listener_arn);
    let mutual = check_mutual(input.mutual_authentication.as_ref())?;
    let certificate = check_certificates(input.certificates)?;
    if let Some(arn) = &certificate {
        certificates::check_exists(call, arn).await?;
    }
    let port = input.port.map(|port| check_port(Some(port))).transpose()?;
    let made = call.decide(|| {
        let before = call.listener(&arn)?;
        let balancer = call.balancer(&before.balancer_arn())?;
        let protocol = input.protocol.clone().unwrap_or_else(|| before.protocol.clone());
        check_protocol(balancer.kind, &protocol)?;
        let mtls_passthrough = mutual.unwrap_or(before.mtls_passthrough && protocol == "HTTPS");
        check_mutual_fits(mtls_passthrough, &protocol)?;
        let was_secure = before.is_secure();
        let secure = matches!(protocol.as_str(), "HTTPS" | "TLS");
        let mut settings = Settings {
            port: port.unwrap_or(before.port),
            ssl_policy: input.ssl_policy.clone().or_else(|| before.ssl_policy.clone().filter(|_| secure)),
            certificate: certificate
                .clone()
                .or_else(|| before.certificates.first().cloned().filter(|_| secure && was_secure)),
            alpn_policy: match &input.alpn_policy {
                Some(given) => check_alpn(&protocol, Some(given.clone()))?,
                None => before.alpn_policy.clone().filter(|_| protocol == "TLS"),
            },
            protocol,
        };
        check_tls(&mut settings)?;
        let place =
            actions::Place { kind: balancer.kind, protocol: &settings.protocol, vpc_id: &balancer.vpc_id };
        let wanted = input.default_actions.clone().unwrap_or_else(|| before.actions.clone());
        let actions = actions::check(wanted, &place, |arn| call.group(arn))?;
        // Rules stay, and have to fit another protocol as well.
        for rule in call.rules(&before.id) {
            actions::check(rule.actions, &place, |arn| call.group(arn))?;
        }
        let others = call.listeners(&balancer.id);
        let taken = |other: &&ListenerRecord| {
            other.id != before.id
                && other.port == settings.port
                && collide(&other.protocol, &settings.protocol)
        };
        if others.iter().find(taken).is_some() {
            return Err(duplicate(&balancer));
        }
        if settings.port != before.port {
            balancer_targets::check_listener_goes(call, &before)?;
        }
        check_groups(call, &balancer.id, &before.id, &actions)?;
        let mut certificates: Vec<String> = settings.certificate.iter().cloned().collect();
        if secure {
            // Those of SNI stay, after the default one.
            let rest = before.certificates.iter().skip(1).filter(|arn| !certificates.contains(arn));
            let rest: Vec<String> = rest.cloned().collect();
            certificates.extend(rest);
        }
        let mut record = ListenerRecord {
            port: settings.port,
            protocol: settings.protocol.clone(),
            ssl_policy: settings.ssl_policy.filter(|_| secure),
            certificates,
            alpn_policy: settings.alpn_policy,
            actions,
            mtls_passthrough,
            ..before.clone()
        };
        // Attributes that the new protocol does not have are gone.
        let known = crate::plan::attributes::of_listener(&record.protocol);
        record.attributes.retain(|key, _| known.iter().any(|attribute| attribute.key == key));
        Ok((put(Txn::new(), &record, &before.certificates), record))
    });
    Ok(ModifyListenerOutput { listeners: Some(vec![shape(&made.await?)]) })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteListenerInput,
) -> Result<DeleteListenerOutput, ApiError> {
    let arn = given(input.listener_arn);
    call.decide(|| {
        let record = call.listener(&arn)?;
        balancer_targets::check_listener_goes(call, &record)?;
        Ok((delete_in(call, Txn::new(), &record), ()))
    })
    .await?;
    Ok(DeleteListenerOutput {})
}
