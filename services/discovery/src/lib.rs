//! AWS Cloud Map: namespaces, services in them, and instances that are discovered by API or by DNS.
//!
//! - An operation writes what is wanted, and notes what is left to do (`state.rs`, `WorkRecord`). The one controller does
//!   it by Route 53's API, as Cloud Map's service-linked role: hosted zones of namespaces, record sets of instances. The
//!   operation is `SUCCESS` when resolvers have it, `FAIL` with Route 53's words when they never will.
//! - Which record sets a service has is a pure function of its instances (`plan/records.rs`); the controller brings the
//!   zone there from whatever it finds.
//! - Where instances are, nodes are told as one value, [`DiscoveryService::endpoints`], for Service Connect.
//! - An instance whose custom health check says `UNHEALTHY` has no record sets.
//!
//! Refused by name: health checks by Route 53 (`HealthCheckConfig`), `AWS_ALIAS_DNS_NAME`, `AWS_EC2_INSTANCE_ID`,
//! namespaces of other accounts.

mod controllers;
mod demands;
mod errors;
mod operations;
mod plan;
mod state;

use std::sync::Arc;

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context, Demand, Invoke, Value};
use ferrogate_control::{Controller, Published};
use ferrogate_model::Clock;
use ferrogate_nodeapi::Endpoints;
use ferrogate_store::Store;
use tokio::sync::watch;

use plan::endpoints::EndpointsIndex;

/// The service of all accounts and regions of one store.
pub struct DiscoveryService {
    store: Arc<dyn Store>,
    endpoints: Published<EndpointsIndex>,
}

impl DiscoveryService {
    /// Reads the instances there are and follows their changes on the current Tokio runtime, until dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let endpoints = Published::start(Arc::clone(&store), state::PREFIX, "the endpoints of services");
        Self { endpoints, store }
    }

    /// Where the instances of all services are that Service Connect may call; a new value when that changes.
    pub fn endpoints(&self) -> watch::Receiver<Arc<Endpoints>> {
        self.endpoints.subscribe()
    }

    /// To be run by a driver.
    pub fn controllers(&self, invoke: Arc<dyn Invoke>, clock: Arc<dyn Clock>) -> Vec<Arc<dyn Controller>> {
        vec![Arc::new(controllers::publish::Publish { store: Arc::clone(&self.store), invoke, clock })]
    }
}

macro_rules! operations {
    ($($method:ident($input:ty) -> $output:ty = $module:ident :: $function:ident;)*) => {$(
        async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
            operations::$module::$function(self, cx, input).await
        }
    )*};
}

impl Servicediscovery for DiscoveryService {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        demands::of(self, cx, operation, input)
    }

    operations! {
        create_http_namespace(CreateHttpNamespaceRequest) -> CreateHttpNamespaceResponse = namespaces::create_http;
        create_private_dns_namespace(CreatePrivateDnsNamespaceRequest) -> CreatePrivateDnsNamespaceResponse = namespaces::create_private;
        create_public_dns_namespace(CreatePublicDnsNamespaceRequest) -> CreatePublicDnsNamespaceResponse = namespaces::create_public;
        delete_namespace(DeleteNamespaceRequest) -> DeleteNamespaceResponse = namespaces::delete;
        get_namespace(GetNamespaceRequest) -> GetNamespaceResponse = namespaces::get;
        list_namespaces(ListNamespacesRequest) -> ListNamespacesResponse = namespaces::list;
        update_http_namespace(UpdateHttpNamespaceRequest) -> UpdateHttpNamespaceResponse = namespaces::update_http;
        update_private_dns_namespace(UpdatePrivateDnsNamespaceRequest) -> UpdatePrivateDnsNamespaceResponse = namespaces::update_private;
        update_public_dns_namespace(UpdatePublicDnsNamespaceRequest) -> UpdatePublicDnsNamespaceResponse = namespaces::update_public;

        create_service(CreateServiceRequest) -> CreateServiceResponse = services::create;
        delete_service(DeleteServiceRequest) -> DeleteServiceResponse = services::delete;
        get_service(GetServiceRequest) -> GetServiceResponse = services::get;
        list_services(ListServicesRequest) -> ListServicesResponse = services::list;
        update_service(UpdateServiceRequest) -> UpdateServiceResponse = services::update;
        get_service_attributes(GetServiceAttributesRequest) -> GetServiceAttributesResponse = attributes::get;
        update_service_attributes(UpdateServiceAttributesRequest) -> UpdateServiceAttributesResponse = attributes::update;
        delete_service_attributes(DeleteServiceAttributesRequest) -> DeleteServiceAttributesResponse = attributes::delete;

        register_instance(RegisterInstanceRequest) -> RegisterInstanceResponse = instances::register;
        deregister_instance(DeregisterInstanceRequest) -> DeregisterInstanceResponse = instances::deregister;
        get_instance(GetInstanceRequest) -> GetInstanceResponse = instances::get;
        list_instances(ListInstancesRequest) -> ListInstancesResponse = instances::list;
        get_instances_health_status(GetInstancesHealthStatusRequest) -> GetInstancesHealthStatusResponse = health::get;
        update_instance_custom_health_status(UpdateInstanceCustomHealthStatusRequest) -> UpdateInstanceCustomHealthStatusNoOutput = health::update;
        discover_instances(DiscoverInstancesRequest) -> DiscoverInstancesResponse = discover::instances;
        discover_instances_revision(DiscoverInstancesRevisionRequest) -> DiscoverInstancesRevisionResponse = discover::revision;

        get_operation(GetOperationRequest) -> GetOperationResponse = progress::get;
        list_operations(ListOperationsRequest) -> ListOperationsResponse = progress::list;

        tag_resource(TagResourceRequest) -> TagResourceResponse = tags::tag;
        untag_resource(UntagResourceRequest) -> UntagResourceResponse = tags::untag;
        list_tags_for_resource(ListTagsForResourceRequest) -> ListTagsForResourceResponse = tags::list;
    }
}
