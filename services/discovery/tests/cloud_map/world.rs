//! Cloud Map over a Route 53 that remembers what it was given, and refuses what it was told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ferrogate_api::route53::{self, *};
use ferrogate_api::servicediscovery::{
    CreateServiceRequest, DnsConfig, DnsRecord, GetOperationRequest, HealthCheckCustomConfig, Operation,
    RegisterInstanceRequest, Servicediscovery,
};
use ferrogate_api::{
    ApiError, BoxFuture, Call, Caller, Context, Demand, Handler, Invoke, Principal, PrincipalKind, Value,
};
use ferrogate_control::{Activation, Controller};
use ferrogate_discovery::DiscoveryService;
use ferrogate_model::ManualClock;
use ferrogate_store::{MemoryStore, Store};
use jiff::Timestamp;

/// A value that no record may have.
pub(crate) const REFUSED: &str = "refused.example.com";
/// Activations until all work is done; more are a loop.
const ACTIVATIONS_MAX: usize = 10;

#[derive(Default)]
pub(crate) struct Zones {
    /// By id.
    pub(crate) zones: Mutex<BTreeMap<String, Zone>>,
    /// Operation → the error that it answers for now.
    pub(crate) refusals: Mutex<BTreeMap<&'static str, ApiError>>,
}

pub(crate) struct Zone {
    pub(crate) name: String,
    pub(crate) reference: String,
    pub(crate) sets: Vec<ResourceRecordSet>,
}

/// What makes a set one of its own.
fn identity(set: &ResourceRecordSet) -> (Option<String>, Option<String>, Option<String>) {
    (set.name.clone(), set.r#type.clone(), set.set_identifier.clone())
}

fn value(set: &ResourceRecordSet) -> &str {
    let values = set.resource_records.as_deref().unwrap_or_default();
    values.first().and_then(|record| record.value.as_deref()).unwrap_or_default()
}

impl Zones {
    pub(crate) fn refuse(&self, operation: &'static str, code: &str) {
        self.refusals.lock().unwrap().insert(operation, ApiError::new(code, format!("no {operation}")));
    }

    pub(crate) fn allow_all(&self) {
        self.refusals.lock().unwrap().clear();
    }

    /// `identifier value`, of all zones, without what is every zone's own.
    pub(crate) fn published(&self) -> Vec<String> {
        let zones = self.zones.lock().unwrap();
        let sets = zones.values().flat_map(|zone| &zone.sets);
        let instances = sets.filter(|set| set.set_identifier.is_some());
        let mut words: Vec<String> = instances
            .map(|set| format!("{} {}", set.set_identifier.as_deref().unwrap_or_default(), value(set)))
            .collect();
        words.sort();
        words
    }

    fn of(&self, id: Option<&str>) -> Result<String, ApiError> {
        let id = id.unwrap_or_default();
        let there = self.zones.lock().unwrap().contains_key(id);
        if there { Ok(id.to_owned()) } else { Err(ApiError::new("NoSuchHostedZone", id)) }
    }
}

fn info() -> Option<ChangeInfo> {
    Some(ChangeInfo { id: Some("/change/C1".into()), status: Some("INSYNC".into()), ..Default::default() })
}

impl Route53 for Zones {
    fn demands(&self, _: &Context, _: &'static str, _: &Value) -> Vec<Demand> {
        Vec::new()
    }

    async fn create_hosted_zone(
        &self,
        _: &Context,
        input: CreateHostedZoneRequest,
    ) -> Result<CreateHostedZoneResponse, ApiError> {
        let (name, reference) = (input.name.unwrap(), input.caller_reference.unwrap());
        let mut zones = self.zones.lock().unwrap();
        if zones.values().any(|zone| zone.reference == reference) {
            return Err(ApiError::new("HostedZoneAlreadyExists", reference));
        }
        let id = format!("Z{}", zones.len() + 1);
        let soa = ResourceRecordSet {
            name: Some(format!("{name}.")),
            r#type: Some("SOA".into()),
            ..Default::default()
        };
        zones.insert(id.clone(), Zone { name, reference, sets: vec![soa] });
        let zone = HostedZone { id: Some(format!("/hostedzone/{id}")), ..Default::default() };
        Ok(CreateHostedZoneResponse { hosted_zone: Some(zone), change_info: info(), ..Default::default() })
    }

    async fn list_hosted_zones_by_name(
        &self,
        _: &Context,
        _: ListHostedZonesByNameRequest,
    ) -> Result<ListHostedZonesByNameResponse, ApiError> {
        let zones = self.zones.lock().unwrap();
        let zone = |(id, zone): (&String, &Zone)| HostedZone {
            id: Some(format!("/hostedzone/{id}")),
            name: Some(zone.name.clone()),
            caller_reference: Some(zone.reference.clone()),
            ..Default::default()
        };
        let hosted_zones = Some(zones.iter().map(zone).collect());
        Ok(ListHostedZonesByNameResponse { hosted_zones, ..Default::default() })
    }

    async fn delete_hosted_zone(
        &self,
        _: &Context,
        input: DeleteHostedZoneRequest,
    ) -> Result<DeleteHostedZoneResponse, ApiError> {
        let id = input.id.unwrap();
        let id = self.of(id.rsplit('/').next())?;
        self.zones.lock().unwrap().remove(&id);
        Ok(DeleteHostedZoneResponse { change_info: info() })
    }

    /// All of them from the first name on, on one page.
    async fn list_resource_record_sets(
        &self,
        _: &Context,
        input: ListResourceRecordSetsRequest,
    ) -> Result<ListResourceRecordSetsResponse, ApiError> {
        let id = self.of(input.hosted_zone_id.as_deref())?;
        let mut sets = self.zones.lock().unwrap()[&id].sets.clone();
        if input.start_record_type.as_deref() == Some("SOA") {
            sets.retain(|set| set.r#type.as_deref() == Some("SOA"));
        } else {
            let from = input.start_record_name.unwrap();
            sets.retain(|set| set.name.as_ref().is_some_and(|name| name.ends_with(&from)));
        }
        Ok(ListResourceRecordSetsResponse { resource_record_sets: Some(sets), ..Default::default() })
    }

    async fn change_resource_record_sets(
        &self,
        _: &Context,
        input: ChangeResourceRecordSetsRequest,
    ) -> Result<ChangeResourceRecordSetsResponse, ApiError> {
        let id = self.of(input.hosted_zone_id.as_deref())?;
        let changes = input.change_batch.and_then(|batch| batch.changes).unwrap();
        let set = |change: &Change| change.resource_record_set.clone().unwrap();
        if changes.iter().any(|change| value(&set(change)) == REFUSED) {
            return Err(ApiError::new("InvalidChangeBatch", "[no]"));
        }
        let mut zones = self.zones.lock().unwrap();
        let sets = &mut zones.get_mut(&id).unwrap().sets;
        for change in &changes {
            sets.retain(|there| identity(there) != identity(&set(change)));
            if change.action.as_deref() != Some("DELETE") {
                sets.push(set(change));
            }
        }
        Ok(ChangeResourceRecordSetsResponse { change_info: info() })
    }

    async fn get_change(&self, _: &Context, _: GetChangeRequest) -> Result<GetChangeResponse, ApiError> {
        Ok(GetChangeResponse { change_info: info() })
    }
}

/// The way from Cloud Map to the fake.
struct Way(Arc<Zones>);

impl Invoke for Way {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            assert_eq!(call.service, "route53");
            let Caller::Service { name, .. } = &call.caller else { panic!("{:?}", call.caller) };
            assert_eq!(*name, "servicediscovery.amazonaws.com");
            if let Some(error) = self.0.refusals.lock().unwrap().get(call.operation) {
                return Err(error.clone());
            }
            route53::Server(Arc::clone(&self.0)).handle(&context(), call.operation, call.input).await
        })
    }
}

pub(crate) fn context() -> Context {
    Context {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(Principal {
            arn: "arn:aws:iam::123456789012:root".into(),
            account: "123456789012".into(),
            user_id: "123456789012".into(),
            kind: PrincipalKind::Root,
            tags: Vec::new(),
        }),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: Timestamp::from_second(1_795_000_000).unwrap(),
    }
}

pub(crate) struct World {
    pub(crate) cloud_map: DiscoveryService,
    pub(crate) route53: Arc<Zones>,
    pub(crate) cx: Context,
    pub(crate) store: Arc<MemoryStore>,
    controller: Arc<dyn Controller>,
}

pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl World {
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let cloud_map = DiscoveryService::new(Arc::<MemoryStore>::clone(&store));
        let route53 = Arc::new(Zones::default());
        let clock = Arc::new(ManualClock::new(context().now));
        let controllers = cloud_map.controllers(Arc::new(Way(Arc::clone(&route53))), clock);
        let [controller] = controllers.try_into().unwrap_or_else(|_| panic!("one controller"));
        Self { cloud_map, route53, cx: context(), store, controller }
    }

    pub(crate) async fn activate(&self) -> Activation {
        self.controller.activate().await
    }

    /// All that is to be done is done, without trouble.
    pub(crate) async fn settle(&self) {
        for _ in 0..ACTIVATIONS_MAX {
            if self.store.range("/servicediscovery/jobs/").is_empty() {
                return;
            }
            assert_eq!(self.activate().await.outcome, Ok(()));
        }
        panic!("there is still work after {ACTIVATIONS_MAX} activations");
    }

    pub(crate) async fn operation(&self, id: &str) -> Operation {
        let input = GetOperationRequest { operation_id: Some(id.to_owned()), ..Default::default() };
        self.cloud_map.get_operation(&self.cx, input).await.unwrap().operation.unwrap()
    }

    /// `SUCCESS`, or `FAIL` with its error code.
    pub(crate) async fn end(&self, id: &str) -> String {
        let operation = self.operation(id).await;
        let words = [operation.status, operation.error_code];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Of the DNS record that is named, weighted; found by API alone where none is. Its id.
    pub(crate) async fn service(&self, namespace_id: &str, name: &str, record: Option<&str>) -> String {
        let dns = |kind: &str| DnsConfig {
            routing_policy: Some("WEIGHTED".into()),
            dns_records: Some(vec![DnsRecord { r#type: Some(kind.into()), ttl: Some(10) }]),
            ..Default::default()
        };
        let input = CreateServiceRequest {
            name: Some(name.into()),
            namespace_id: Some(namespace_id.into()),
            health_check_custom_config: Some(HealthCheckCustomConfig { failure_threshold: None }),
            dns_config: record.map(dns),
            ..Default::default()
        };
        self.cloud_map.create_service(&self.cx, input).await.unwrap().service.unwrap().id.unwrap()
    }

    /// The operation's id.
    pub(crate) async fn register(&self, service_id: &str, id: &str, attributes: &[(&str, &str)]) -> String {
        self.try_register(service_id, id, attributes).await.unwrap()
    }

    pub(crate) async fn try_register(
        &self,
        service_id: &str,
        id: &str,
        attributes: &[(&str, &str)],
    ) -> Result<String, ApiError> {
        let input = RegisterInstanceRequest {
            service_id: Some(service_id.into()),
            instance_id: Some(id.into()),
            attributes: Some(map(attributes)),
            creator_request_id: None,
        };
        self.cloud_map.register_instance(&self.cx, input).await.map(|answer| answer.operation_id.unwrap())
    }
}
