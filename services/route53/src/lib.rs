//! Route 53: hosted zones and their record sets.
//!
//! - A private zone answers in the VPCs it is associated with. A public one answers in every VPC: this installation is
//!   authoritative for it towards its tasks, and nobody delegates to it from outside.
//! - A batch of changes is judged by `plan/batch.rs`, which is pure, and committed as one transaction.
//! - What resolvers answer is one value derived from the records, [`Route53Service::names`]. A change is `INSYNC` when
//!   that value has it, `PENDING` before.
//! - A zone made by a service (Cloud Map) is that service's: only it changes its records.
//!
//! Routing: simple, weighted, multivalue answer; aliases to load balancers and to records of the zone. Refused by name:
//! failover, geolocation, geoproximity, latency and IP-based routing, traffic policies, reusable delegation sets.
//! Health checks, DNSSEC and associations across accounts cannot be made: what asks for them says that there are none.

mod demands;
mod errors;
mod operations;
mod plan;
mod state;

use std::sync::Arc;

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Context, Demand, Invoke, Value};
use ferrogate_control::Published;
use ferrogate_nodeapi::Names;
use ferrogate_store::Store;
use tokio::sync::watch;

use plan::names::NamesIndex;

/// The Route 53 API over a store; [`ferrogate_api::route53::Route53`] is implemented for it.
pub struct Route53Service {
    store: Arc<dyn Store>,
    invoke: Arc<dyn Invoke>,
    names: Published<NamesIndex>,
}

impl Route53Service {
    /// Reads the records there are and follows their changes on the current Tokio runtime, until dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(store: Arc<dyn Store>, invoke: Arc<dyn Invoke>) -> Self {
        let names = Published::start(Arc::clone(&store), state::PREFIX, "Route 53's names");
        Self { names, store, invoke }
    }

    /// All hosted zones, complete; a new value within milliseconds of each commit.
    pub fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.subscribe()
    }
}

macro_rules! operations {
    ($($method:ident($input:ty) -> $output:ty = $module:ident :: $function:ident;)*) => {$(
        async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
            operations::$module::$function(self, cx, input).await
        }
    )*};
}

impl Route53 for Route53Service {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        demands::of(self, cx, operation, input)
    }

    operations! {
        create_hosted_zone(CreateHostedZoneRequest) -> CreateHostedZoneResponse = zones::create;
        delete_hosted_zone(DeleteHostedZoneRequest) -> DeleteHostedZoneResponse = zones::delete;
        get_hosted_zone(GetHostedZoneRequest) -> GetHostedZoneResponse = zones::get;
        update_hosted_zone_comment(UpdateHostedZoneCommentRequest) -> UpdateHostedZoneCommentResponse = zones::update_comment;

        get_dnssec(GetDNSSECRequest) -> GetDNSSECResponse = zones::dnssec;
        list_health_checks(ListHealthChecksRequest) -> ListHealthChecksResponse = listing::health_checks;
        list_vpc_association_authorizations(ListVPCAssociationAuthorizationsRequest) -> ListVPCAssociationAuthorizationsResponse = vpcs::authorizations;

        get_hosted_zone_count(GetHostedZoneCountRequest) -> GetHostedZoneCountResponse = listing::count;
        list_hosted_zones(ListHostedZonesRequest) -> ListHostedZonesResponse = listing::all;
        list_hosted_zones_by_name(ListHostedZonesByNameRequest) -> ListHostedZonesByNameResponse = listing::by_name;
        list_hosted_zones_by_vpc(ListHostedZonesByVPCRequest) -> ListHostedZonesByVPCResponse = listing::by_vpc;

        associate_vpc_with_hosted_zone(AssociateVPCWithHostedZoneRequest) -> AssociateVPCWithHostedZoneResponse = vpcs::associate;
        disassociate_vpc_from_hosted_zone(DisassociateVPCFromHostedZoneRequest) -> DisassociateVPCFromHostedZoneResponse = vpcs::disassociate;

        change_resource_record_sets(ChangeResourceRecordSetsRequest) -> ChangeResourceRecordSetsResponse = records::change;
        list_resource_record_sets(ListResourceRecordSetsRequest) -> ListResourceRecordSetsResponse = records::list;
        test_dns_answer(TestDNSAnswerRequest) -> TestDNSAnswerResponse = records::test_answer;
        get_change(GetChangeRequest) -> GetChangeResponse = changes::get;

        change_tags_for_resource(ChangeTagsForResourceRequest) -> ChangeTagsForResourceResponse = tags::change;
        list_tags_for_resource(ListTagsForResourceRequest) -> ListTagsForResourceResponse = tags::list;
        list_tags_for_resources(ListTagsForResourcesRequest) -> ListTagsForResourcesResponse = tags::list_several;
    }
}
