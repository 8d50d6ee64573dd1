//! What a call to Cloud Map needs ("Actions, resources, and condition keys for AWS Cloud Map", Service Authorization
//! Reference).

use ferrogate_api::{Context, Demand, Value};
use ferrogate_store::get_json;

use crate::DiscoveryService;
use crate::operations::{namespaces, services};
use crate::state::{NamespaceRecord, Scope, ServiceRecord, bare_id};

pub(crate) fn of(
    service: &DiscoveryService,
    cx: &Context,
    operation: &'static str,
    input: &Value,
) -> Vec<Demand> {
    let scope = Scope::of(cx);
    let action = format!("servicediscovery:{operation}");
    let text = |member: &str| input.get_str(member).unwrap_or_default();
    let demand = match operation {
        "DeleteNamespace"
        | "GetNamespace"
        | "UpdateHttpNamespace"
        | "UpdatePrivateDnsNamespace"
        | "UpdatePublicDnsNamespace" => on_namespace(service, &scope, action, text("Id")),
        "CreateService" => {
            let inner = input.get("DnsConfig").and_then(|dns| dns.get_str("NamespaceId")).unwrap_or_default();
            let id = input.get_str("NamespaceId").unwrap_or(inner);
            on_namespace(service, &scope, action, id)
        }
        "DeleteService" | "GetService" | "UpdateService" => on_service(service, &scope, action, text("Id")),
        "RegisterInstance"
        | "DeregisterInstance"
        | "GetInstance"
        | "ListInstances"
        | "GetInstancesHealthStatus"
        | "UpdateInstanceCustomHealthStatus"
        | "GetServiceAttributes"
        | "UpdateServiceAttributes"
        | "DeleteServiceAttributes" => on_service(service, &scope, action, text("ServiceId")),
        "DiscoverInstances" | "DiscoverInstancesRevision" => {
            let (namespace, name) = (text("NamespaceName"), text("ServiceName"));
            let demand = Demand::new(action, "*")
                .with("servicediscovery:NamespaceName", [namespace])
                .with("servicediscovery:ServiceName", [name]);
            discovered(service, &scope, demand, namespace, name)
        }
        "TagResource" | "UntagResource" | "ListTagsForResource" => {
            on_arn(service, &scope, action, text("ResourceARN"))
        }
        _ => Demand::new(action, "*"),
    };
    let mut demands = vec![with_tags(demand, input)];
    if operation.starts_with("Create") && input.get("Tags").is_some() {
        let resource = demands[0].resource.clone();
        demands.push(with_tags(Demand::new("servicediscovery:TagResource", resource), input));
    }
    demands
}

fn on_arn(service: &DiscoveryService, scope: &Scope, action: String, arn: &str) -> Demand {
    match arn.rsplit(':').next().and_then(|resource| resource.split_once('/')) {
        Some(("namespace", _)) => on_namespace(service, scope, action, arn),
        Some(("service", _)) => on_service(service, scope, action, arn),
        _ => Demand::new(action, arn),
    }
}

fn with_resource_tags(mut demand: Demand, tags: std::collections::BTreeMap<String, String>) -> Demand {
    for (key, value) in tags {
        demand = demand.with(format!("aws:ResourceTag/{key}"), [value]);
    }
    demand
}

fn on_namespace(service: &DiscoveryService, scope: &Scope, action: String, id: &str) -> Demand {
    let arn = scope.namespace_arn(bare_id(id));
    let demand = Demand::new(action, arn.as_str()).with("servicediscovery:NamespaceArn", [arn]);
    match get_json::<NamespaceRecord>(service.store(), &scope.namespace(bare_id(id))) {
        Some(found) => with_resource_tags(demand, found.record.tags),
        None => demand,
    }
}

fn on_service(service: &DiscoveryService, scope: &Scope, action: String, id: &str) -> Demand {
    let arn = scope.service_arn(bare_id(id));
    let demand = Demand::new(action, arn.as_str()).with("servicediscovery:ServiceArn", [arn]);
    let Some(found) = get_json::<ServiceRecord>(service.store(), &scope.service(bare_id(id))) else {
        return demand;
    };
    let namespace_arn = scope.namespace_arn(&found.record.namespace_id);
    let demand = demand
        .with("servicediscovery:NamespaceArn", [namespace_arn])
        .with("servicediscovery:ServiceName", [found.record.name]);
    with_resource_tags(demand, found.record.tags)
}

fn discovered(
    service: &DiscoveryService,
    scope: &Scope,
    mut demand: Demand,
    namespace: &str,
    name: &str,
) -> Demand {
    let Some(namespace) = namespaces::by_name(service, scope, namespace) else { return demand };
    demand = demand.with("servicediscovery:NamespaceArn", [scope.namespace_arn(&namespace.id)]);
    match services::by_name(service, scope, &namespace.id, name) {
        Some(found) => demand.with("servicediscovery:ServiceArn", [scope.service_arn(&found.id)]),
        None => demand,
    }
}

fn with_tags(mut demand: Demand, input: &Value) -> Demand {
    let mut keys: Vec<String> = input.get_strs("TagKeys").into_iter().map(str::to_owned).collect();
    for tag in input.get("Tags").and_then(Value::as_list).unwrap_or_default() {
        let Some(key) = tag.get_str("Key") else { continue };
        demand = demand.with(format!("aws:RequestTag/{key}"), [tag.get_str("Value").unwrap_or_default()]);
        keys.push(key.to_owned());
    }
    if keys.is_empty() { demand } else { demand.with("aws:TagKeys", keys) }
}
