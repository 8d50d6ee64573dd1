//! The records of Service Connect.
//!
//! ```text
//! /ecs/<account>/<region>/connect/<namespace id>   the endpoints of one Cloud Map namespace: see NamespaceRecord
//! /ecs-work/connect/<account>/<region>/<namespace id>   some of them may be nobody's any more
//! ```

use std::collections::BTreeMap;

use ferrogate_api::ecs;
use ferrogate_model::Arn;
use ferrogate_nodeapi::{AppProtocol, ConnectClient, ConnectTimeouts};
use ferrogate_store::{Store, Txn, get_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::service::{ServiceKey, ServiceRevisionRecord, Spec};
use super::{Queue, Scope};

impl Scope {
    pub(crate) fn namespace(&self, id: &str) -> String {
        self.key(format_args!("connect/{id}"))
    }

    /// `resource`: `namespace/<id>`, `service/<id>`
    pub(crate) fn cloud_map_arn(&self, resource: String) -> String {
        Arn::new("servicediscovery", &self.region, &self.account, resource).to_string()
    }
}

impl Queue {
    pub(crate) fn namespace(scope: &Scope, id: &str) -> String {
        format!("{}{}/{}/{id}", Self::Connect.prefix(), scope.account, scope.region)
    }
}

/// Of a service revision: `serviceConnectConfiguration`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectSpec {
    /// As it was asked for, and described; its namespace may be the cluster's.
    pub configuration: ecs::ServiceConnectConfiguration,
    /// `None`: not enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
}

/// Of a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub namespace_id: String,
    /// Of `configuration.services`, in their order; none: the service is a client only.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// What `configuration.services` comes to, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub discovery_name: String,
    /// Of the Cloud Map service.
    pub service_id: String,
    /// The client alias.
    pub dns_name: String,
    pub port: u16,
    pub container_port: u16,
    /// `None`: it is called at its container port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_port: Option<u16>,
    pub protocol: AppProtocol,
    pub timeouts: ConnectTimeouts,
    /// `testTrafficRules`; `None`: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_header: Option<TestHeader>,
}

/// What makes a request a test while revisions are exchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TestHeader {
    pub name: String,
    /// `None`: whatever it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
}

impl Default for TestHeader {
    /// Developer Guide, "Service Connect resources for Amazon ECS blue/green, linear, and canary deployments".
    fn default() -> Self {
        Self { name: "x-amzn-ecs-blue-green-test".into(), exact: None }
    }
}

impl Endpoint {
    /// Where its instances are called.
    pub(crate) fn instance_port(&self) -> u16 {
        self.ingress_port.unwrap_or(self.container_port)
    }

    pub(crate) fn client(&self) -> ConnectClient {
        ConnectClient {
            service_id: self.service_id.clone(),
            discovery_name: self.discovery_name.clone(),
            dns_name: self.dns_name.clone(),
            port: self.port,
            protocol: self.protocol,
            timeouts: self.timeouts,
        }
    }
}

impl Spec {
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.connect.as_ref()?.membership.as_ref()
    }

    /// Those of one namespace or of any.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        self.membership().map_or(&[], |membership| &membership.endpoints)
    }
}

/// What this revision has may be nobody's any more, or be somebody's again: `controllers/endpoints.rs` looks.
pub(crate) fn look_at(store: &dyn Store, key: &ServiceKey, revision: &str, txn: Txn) -> Txn {
    let found = get_json::<ServiceRevisionRecord>(store, &key.revision(revision));
    let membership = found.as_ref().and_then(|found| found.record.spec.membership());
    match membership.filter(|one| !one.endpoints.is_empty()) {
        Some(membership) => txn.put(Queue::namespace(&key.scope, &membership.namespace_id), *b""),
        None => txn,
    }
}

/// Endpoints by discovery name. What is claimed here is nobody else's: names and aliases are unique in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NamespaceRecord {
    #[serde(default)]
    pub endpoints: BTreeMap<String, EndpointRecord>,
}

/// ```text
///  claimed ──(its service is written)──► offered: new deployments' tasks may call it
///     │                                     │ ▲
///     │                 (no deployment has it, or one that is over) ──► kept for a rollback
///     └──(never written)──► leaving ◄───────┘ (nobody has it)
/// ```
///
/// Operations claim and offer; `controllers/endpoints.rs` writes the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointRecord {
    /// Of the ECS service.
    pub cluster: String,
    pub service: String,
    pub claimed_at: Timestamp,
    /// The client alias it was claimed with.
    pub dns_name: String,
    pub port: u16,
    /// Of the Cloud Map service, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<String>,
    /// What new deployments are told; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<ConnectClient>,
    /// Its Cloud Map service is being deleted.
    #[serde(default)]
    pub leaving: bool,
}

impl EndpointRecord {
    pub(crate) fn is_of(&self, key: &ServiceKey) -> bool {
        self.cluster == key.cluster && self.service == key.name
    }

    pub(crate) fn owner(&self, scope: &Scope) -> ServiceKey {
        ServiceKey::new(scope, &self.cluster, &self.service)
    }

    pub(crate) fn has_alias(&self, dns_name: &str, port: u16) -> bool {
        let offered = self.offered.as_ref().is_some_and(|one| one.dns_name == dns_name && one.port == port);
        offered || self.is_claimed_as(dns_name, port)
    }

    /// As it was claimed.
    pub(crate) fn is_claimed_as(&self, dns_name: &str, port: u16) -> bool {
        self.dns_name == dns_name && self.port == port
    }
}

/// What a task knows of its part in Service Connect; the rest is its service revision's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskConnect {
    pub attachment_id: String,
    /// Of the service revision.
    pub revision: String,
}

/// Where a task is registered as an instance of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointInstance {
    /// Of the Cloud Map service.
    pub service_id: String,
    /// Cloud Map has taken it; until then it may have it or not.
    #[serde(default)]
    pub confirmed: bool,
}
