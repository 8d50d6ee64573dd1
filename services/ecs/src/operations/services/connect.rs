//! `serviceConnectConfiguration`: checked against the definition; its endpoints claimed in their namespace and made services of
//! Cloud Map.
//!
//! ```text
//!  check (no I/O) ─► namespace ─► claim: names and aliases are this service's ─► Cloud Map services ─► begin.rs offers them
//! ```

use ferrogate_api::{ApiError, Value, ecs, servicediscovery as discovery};
use ferrogate_nodeapi::{AppProtocol, ConnectClient, ConnectTimeouts};
use ferrogate_store::{Store, Txn};
use jiff::Timestamp;

use crate::call::Call;
use crate::controllers::clients;
use crate::definition::logs;
use crate::errors::{client, invalid, refuse, unsupported};
use crate::operations::namespaces::{self, Namespace};
use crate::operations::one_of;
use crate::plan::connect::{self, Conflict, ENDPOINTS_MAX};
use crate::state::connect::{ConnectSpec, Endpoint, Membership, NamespaceRecord, TestHeader};
use crate::state::service::{ServiceKey, Spec};
use crate::state::{ClusterRecord, Queue};

/// ECS API reference, ServiceConnectService, ServiceConnectClientAlias.
const DISCOVERY_NAME_CHARACTERS_MAX: usize = 64;
const DNS_NAME_CHARACTERS_MAX: usize = 127;
/// Of `testTrafficRules`: proxies are told of them by an attribute in Cloud Map, which takes 1,024 characters.
const HEADER_NAME_CHARACTERS_MAX: usize = 128;
const HEADER_VALUE_CHARACTERS_MAX: usize = 512;

/// One of `services`, checked. Its alias has no default yet, and nobody has made its Cloud Map service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft {
    dns_name: Option<String>,
    endpoint: Endpoint,
}

/// What can be said without asking anybody. A configuration that is not enabled is kept and does nothing.
pub(super) fn check(
    asked: &ecs::ServiceConnectConfiguration,
    definition: &ecs::TaskDefinition,
    before: Option<&Spec>,
) -> Result<Vec<Draft>, ApiError> {
    if asked.enabled != Some(true) {
        return Ok(Vec::new());
    }
    let unsupported = asked.container_configurations.is_some();
    refuse(&[("serviceConnectConfiguration.containerConfigurations", unsupported)])?;
    asked.log_configuration.as_ref().map_or(Ok(()), |logs| check_logs(logs, definition))?;
    check_access_log(asked)?;
    let drafts: Vec<Draft> =
        asked.services.iter().flatten().map(|one| draft(one, definition)).collect::<Result<_, _>>()?;
    check_together(&drafts, definition)?;
    for draft in &drafts {
        check_protocol(&draft.endpoint, before)?;
    }
    Ok(drafts)
}

/// As a container's. The proxy writes to a file of its own and waits for nobody.
fn check_logs(asked: &ecs::LogConfiguration, definition: &ecs::TaskDefinition) -> Result<(), ApiError> {
    logs::check_driver(asked)?;
    logs::check(asked)?;
    let mode = asked.options.as_ref().and_then(|options| options.get("mode"));
    if mode.is_some_and(|mode| mode == "blocking") {
        return Err(unsupported("the mode 'blocking' in 'serviceConnectConfiguration.logConfiguration'"));
    }
    if definition.execution_role_arn.is_none() {
        return Err(client(
            "Fargate requires task definition to have execution role ARN to support log driver awslogs.",
        ));
    }
    Ok(())
}

/// ECS API reference, ServiceConnectAccessLogConfiguration: it has no stream of its own.
fn check_access_log(asked: &ecs::ServiceConnectConfiguration) -> Result<(), ApiError> {
    let Some(access) = &asked.access_log_configuration else { return Ok(()) };
    if asked.log_configuration.is_none() {
        return Err(invalid(
            "To enable access logs, you must also specify a logConfiguration in the serviceConnectConfiguration.",
        ));
    }
    one_of("accessLogConfiguration.format", access.format.as_deref(), &["TEXT", "JSON"])?;
    let query = access.include_query_parameters.as_deref();
    one_of("accessLogConfiguration.includeQueryParameters", query, &["DISABLED", "ENABLED"])
}

/// Of `testTrafficRules`. A connection of TCP has no headers.
fn test_header(
    rules: Option<&ecs::ServiceConnectTestTrafficRules>,
    protocol: AppProtocol,
) -> Result<Option<TestHeader>, ApiError> {
    let Some(rules) = rules else { return Ok(None) };
    if protocol == AppProtocol::Tcp {
        return Err(invalid(
            "testTrafficRules can only be set if the appProtocol of the port mapping is not TCP.",
        ));
    }
    let header = rules.header.clone().unwrap_or_default();
    let name = header.name.unwrap_or_default();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || name.len() > HEADER_NAME_CHARACTERS_MAX || !name.chars().all(is_token) {
        return Err(invalid(format!(
            "Invalid header name '{name}' in testTrafficRules: up to {HEADER_NAME_CHARACTERS_MAX} characters of a header's \
             name (RFC 9110)."
        )));
    }
    let exact = header.value.and_then(|value| value.exact);
    let is_visible = |value: &String| value.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    // As it is written to the attribute.
    let written = |value: &String| serde_json::to_string(value).map_or(0, |text| text.len() - 2);
    let is_good = |value: &String| is_visible(value) && written(value) <= HEADER_VALUE_CHARACTERS_MAX;
    if exact.as_ref().is_some_and(|value| !is_good(value)) {
        return Err(invalid(format!(
            "Invalid exact value in testTrafficRules: up to {HEADER_VALUE_CHARACTERS_MAX} visible characters of ASCII."
        )));
    }
    Ok(Some(TestHeader { name, exact }))
}

fn draft(asked: &ecs::ServiceConnectService, definition: &ecs::TaskDefinition) -> Result<Draft, ApiError> {
    refuse(&[("serviceConnectConfiguration.services.tls", asked.tls.is_some())])?;
    let port_name = asked.port_name.as_deref().unwrap_or_default();
    let discovery_name = asked.discovery_name.clone().filter(|name| !name.is_empty());
    let discovery_name = discovery_name.unwrap_or_else(|| port_name.to_owned());
    check_name("discoveryName", &discovery_name, DISCOVERY_NAME_CHARACTERS_MAX, "")?;
    let [alias] = asked.client_aliases.as_deref().unwrap_or_default() else {
        return Err(invalid("clientAliases must have 1 element."));
    };
    let dns_name = alias.dns_name.clone().filter(|name| !name.is_empty());
    if let Some(name) = &dns_name {
        check_name("dnsName", name, DNS_NAME_CHARACTERS_MAX, ".")?;
    }
    let mapping = mapping(port_name, definition)?;
    let protocol = protocol(mapping);
    let endpoint = Endpoint {
        discovery_name,
        service_id: String::new(),
        dns_name: String::new(),
        port: port("port of a client alias", alias.port)?,
        container_port: port("containerPort", mapping.container_port)?,
        ingress_port: asked
            .ingress_port_override
            .map(|number| port("ingressPortOverride", Some(number)))
            .transpose()?,
        protocol,
        timeouts: timeouts(asked.timeout.as_ref(), protocol)?,
        test_header: test_header(alias.test_traffic_rules.as_ref(), protocol)?,
    };
    Ok(Draft { dns_name, endpoint })
}

fn mapping<'a>(
    port_name: &str,
    definition: &'a ecs::TaskDefinition,
) -> Result<&'a ecs::PortMapping, ApiError> {
    let mut all = definition
        .container_definitions
        .iter()
        .flatten()
        .flat_map(|container| container.port_mappings.iter().flatten());
    let Some(found) = all.find(|mapping| mapping.name.as_deref() == Some(port_name)) else {
        return Err(invalid(format!(
            "The portName '{port_name}' of the Service Connect configuration is not the name of a port mapping in the task \
             definition."
        )));
    };
    if found.container_port.is_none() {
        return Err(invalid(format!(
            "The portName '{port_name}' of the Service Connect configuration is a port range. Name a mapping of one port."
        )));
    }
    if found.protocol.as_deref() == Some("udp") {
        return Err(invalid(format!(
            "The portName '{port_name}' of the Service Connect configuration has the protocol udp. Service Connect supports \
             tcp."
        )));
    }
    Ok(found)
}

fn protocol(mapping: &ecs::PortMapping) -> AppProtocol {
    match mapping.app_protocol.as_deref() {
        Some("http") => AppProtocol::Http,
        Some("http2") => AppProtocol::Http2,
        Some("grpc") => AppProtocol::Grpc,
        _ => AppProtocol::Tcp,
    }
}

fn port(what: &str, number: Option<i32>) -> Result<u16, ApiError> {
    let port = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| {
        invalid(format!("The {what} of a Service Connect service must be between 1 and 65535."))
    })
}

fn check_name(what: &str, name: &str, characters_max: usize, also: &str) -> Result<(), ApiError> {
    let is_good =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c) || also.contains(c);
    if name.len() <= characters_max && !name.starts_with('-') && name.chars().all(is_good) {
        return Ok(());
    }
    let periods = if also.is_empty() { "" } else { ", periods" };
    Err(invalid(format!(
        "Invalid {what} '{name}'. Up to {characters_max} lowercase letters, numbers, underscores{periods}, and hyphens are \
         allowed, and no hyphen in front."
    )))
}

fn timeouts(
    asked: Option<&ecs::TimeoutConfiguration>,
    protocol: AppProtocol,
) -> Result<ConnectTimeouts, ApiError> {
    let Some(asked) = asked else { return Ok(ConnectTimeouts::default()) };
    let seconds = |what: &str, seconds: Option<i32>| {
        seconds.map(u32::try_from).transpose().map_err(|_| {
            invalid(format!("{what} of a Service Connect service must be between 0 and {}.", i32::MAX))
        })
    };
    if protocol == AppProtocol::Tcp && asked.per_request_timeout_seconds.is_some() {
        return Err(invalid(
            "perRequestTimeoutSeconds can only be set if the appProtocol of the port mapping is not TCP.",
        ));
    }
    Ok(ConnectTimeouts {
        idle_seconds: seconds("idleTimeoutSeconds", asked.idle_timeout_seconds)?,
        per_request_seconds: seconds("perRequestTimeoutSeconds", asked.per_request_timeout_seconds)?,
    })
}

/// Names are once in a service; where the proxy listens nobody else does.
fn check_together(drafts: &[Draft], definition: &ecs::TaskDefinition) -> Result<(), ApiError> {
    let containers = definition.container_definitions.iter().flatten();
    let mut mapped: Vec<u16> = containers
        .flat_map(|container| container.port_mappings.iter().flatten())
        .filter_map(|mapping| u16::try_from(mapping.container_port?).ok())
        .collect();
    for (at, draft) in drafts.iter().enumerate() {
        let one = &draft.endpoint;
        let before = &drafts[..at];
        if before.iter().any(|other| other.endpoint.discovery_name == one.discovery_name) {
            return Err(invalid(format!(
                "The discoveryName '{}' is there twice. A discoveryName must be unique within the namespace.",
                one.discovery_name
            )));
        }
        let Some(ingress) = one.ingress_port else { continue };
        if mapped.contains(&ingress) {
            return Err(invalid(format!(
                "The ingressPortOverride {ingress} is a container port of the task definition, or another \
                 ingressPortOverride."
            )));
        }
        mapped.push(ingress);
    }
    Ok(())
}

/// ECS API reference, PortMapping: `appProtocol` is immutable in a Service Connect service.
fn check_protocol(endpoint: &Endpoint, before: Option<&Spec>) -> Result<(), ApiError> {
    let known = before.map_or(&[][..], Spec::endpoints);
    let same = known.iter().find(|one| one.discovery_name == endpoint.discovery_name);
    if same.is_some_and(|one| one.protocol != endpoint.protocol) {
        return Err(invalid(format!(
            "The appProtocol of the Service Connect service '{}' is immutable. Updating it requires a service deletion and \
             redeployment.",
            endpoint.discovery_name
        )));
    }
    Ok(())
}

fn taken_alias(dns_name: &str, port: u16, by: Option<&str>) -> ApiError {
    let by = by.map(|service| format!(" by the service {service}")).unwrap_or_default();
    invalid(format!(
        "The client alias {dns_name}:{port} is already used{by}. Each name and port mapping must be unique within the \
         namespace."
    ))
}

fn check_aliases(endpoints: &[Endpoint]) -> Result<(), ApiError> {
    for (at, one) in endpoints.iter().enumerate() {
        let same = |other: &Endpoint| other.dns_name == one.dns_name && other.port == one.port;
        if endpoints[..at].iter().any(same) {
            return Err(taken_alias(&one.dns_name, one.port, None));
        }
    }
    Ok(())
}

/// Finds the namespace, makes the endpoints this service's and gives them their Cloud Map services.
pub(super) async fn join(
    call: &Call<'_>,
    key: &ServiceKey,
    mut configuration: ecs::ServiceConnectConfiguration,
    drafts: Vec<Draft>,
    cluster: &ClusterRecord,
) -> Result<ConnectSpec, ApiError> {
    if configuration.enabled != Some(true) {
        return Ok(ConnectSpec { configuration, membership: None });
    }
    let named = configuration.namespace.clone().filter(|name| !name.is_empty());
    let identifier = named.or_else(|| cluster.connect_namespace.clone()).ok_or_else(|| {
        invalid(
            "A namespace is required to use Service Connect: name one in serviceConnectConfiguration, or set \
             serviceConnectDefaults of the cluster.",
        )
    })?;
    let namespace = namespaces::existing(call, &identifier).await?;
    configuration.namespace = Some(identifier);
    let with_default = |draft: Draft| {
        let default = || format!("{}.{}", draft.endpoint.discovery_name, namespace.name);
        Endpoint { dns_name: draft.dns_name.clone().unwrap_or_else(default), ..draft.endpoint.clone() }
    };
    let mut endpoints: Vec<Endpoint> = drafts.into_iter().map(with_default).collect();
    check_aliases(&endpoints)?;
    if !endpoints.is_empty() {
        let leaving = claim(call, key, &namespace, &endpoints).await?;
        for id in leaving {
            delete(call, id).await?;
        }
        for endpoint in &mut endpoints {
            endpoint.service_id = make(call, &namespace, &endpoint.discovery_name).await?;
        }
        note(call, key, &namespace, &endpoints).await?;
    }
    Ok(ConnectSpec { configuration, membership: Some(Membership { namespace_id: namespace.id, endpoints }) })
}

async fn claim(
    call: &Call<'_>,
    key: &ServiceKey,
    namespace: &Namespace,
    endpoints: &[Endpoint],
) -> Result<Vec<String>, ApiError> {
    let record_key = call.scope.namespace(&namespace.id);
    call.transact(|| {
        let (revision, mut record) = read(&*call.service.store, &record_key);
        let leaving = connect::claim(&mut record, key, endpoints, call.cx.now)
            .map_err(|conflict| refused(conflict, namespace))?;
        let txn = Txn::new()
            .when_revision(&record_key, revision)
            .put_json(&record_key, &record)
            // Looked at until its service is written, or is known never to be.
            .put(Queue::namespace(&call.scope, &namespace.id), *b"");
        Ok((txn, leaving))
    })
    .await
}

fn read(store: &dyn Store, key: &str) -> (u64, NamespaceRecord) {
    let found = ferrogate_store::get_json::<NamespaceRecord>(store, key);
    found.map_or_else(Default::default, |found| (found.mod_revision, found.record))
}

fn refused(conflict: Conflict, namespace: &Namespace) -> ApiError {
    match conflict {
        Conflict::Name(_) => used_by(&namespace.arn),
        Conflict::Alias { dns_name, port, service } => taken_alias(&dns_name, port, Some(&service)),
        Conflict::Full => invalid(format!(
            "The namespace {} has {ENDPOINTS_MAX} Service Connect services already.",
            namespace.arn
        )),
    }
}

fn used_by(namespace_arn: &str) -> ApiError {
    invalid(format!("SC service is already used by {namespace_arn}"))
}

/// What Cloud Map has made is written down, so that it is deleted also if the call fails later on.
async fn note(
    call: &Call<'_>,
    key: &ServiceKey,
    namespace: &Namespace,
    endpoints: &[Endpoint],
) -> Result<(), ApiError> {
    let noted = |found: Option<NamespaceRecord>| {
        let mut record = found.unwrap_or_default();
        for endpoint in endpoints {
            let own = record.endpoints.get_mut(&endpoint.discovery_name).filter(|one| one.is_of(key));
            if let Some(own) = own {
                own.service_id = Some(endpoint.service_id.clone());
            }
        }
        Ok(Some(record))
    };
    call.update::<NamespaceRecord>(&call.scope.namespace(&namespace.id), noted).await.map(drop)
}

/// The id of the Cloud Map service of this name, which is found by API only.
async fn make(call: &Call<'_>, namespace: &Namespace, discovery_name: &str) -> Result<String, ApiError> {
    let client = clients::discovery(&call.service.invoke, &call.scope);
    let request = discovery::CreateServiceRequest {
        name: Some(discovery_name.to_owned()),
        namespace_id: Some(namespace.id.clone()),
        r#type: Some("HTTP".into()),
        tags: Some(namespaces::managed()),
        ..Default::default()
    };
    let error = match client.create_service(request).await {
        Ok(answer) => return answer.service.and_then(|made| made.id).ok_or_else(ApiError::internal),
        Err(error) => error,
    };
    if !error.code.starts_with("ServiceAlreadyExists") {
        return Err(namespaces::of_cloud_map(error));
    }
    let id = error.members.iter().find_map(|(name, value)| match value {
        Value::String(id) if *name == "ServiceId" => Some(id.clone()),
        _ => None,
    });
    let id = id.ok_or_else(ApiError::internal)?;
    // The claim says that no other service of ECS has it: one that ECS has made is ours, another is somebody's own.
    let is_ours = namespaces::is_managed(&client, &call.scope, &id).await;
    if is_ours.map_err(namespaces::of_cloud_map)? { Ok(id) } else { Err(used_by(&namespace.arn)) }
}

async fn delete(call: &Call<'_>, id: String) -> Result<(), ApiError> {
    let client = clients::discovery(&call.service.invoke, &call.scope);
    match client.delete_service(discovery::DeleteServiceRequest { id: Some(id) }).await {
        Ok(_) => Ok(()),
        // It is gone, or has instances, and then it is as good as a new one.
        Err(error)
            if ["ServiceNotFound", "ResourceInUse"].iter().any(|code| error.code.starts_with(code)) =>
        {
            Ok(())
        }
        Err(error) => Err(namespaces::of_cloud_map(error)),
    }
}

/// The service's endpoints are offered from now on. Gives what the tasks of this deployment can call.
pub(super) fn offer(
    store: &dyn Store,
    key: &ServiceKey,
    spec: &Spec,
    now: Timestamp,
    txn: Txn,
) -> (Txn, Vec<ConnectClient>) {
    let Some(membership) = spec.membership() else { return (txn, Vec::new()) };
    let record_key = key.scope.namespace(&membership.namespace_id);
    let (revision, mut record) = read(store, &record_key);
    connect::offer(&mut record, key, &membership.endpoints, now);
    let clients = connect::clients(&record);
    if membership.endpoints.is_empty() {
        return (txn, clients);
    }
    (txn.when_revision(&record_key, revision).put_json(&record_key, &record), clients)
}
