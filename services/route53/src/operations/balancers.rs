//! The load balancers that aliases lead to, as ELB knows them.

use std::collections::BTreeSet;

use ferrogate_api::{ApiError, Caller, Context, elbv2};

use crate::Route53Service;
use crate::plan::batch::{Action, Balancers};
use crate::plan::names::balancer;
use crate::state::SetRecord;

const SERVICE_PRINCIPAL: &str = "route53.amazonaws.com";

/// Those of every region that a new alias leads to. Whoever may change the zone may name any of them: ELB is asked in
/// Route 53's own name.
pub(crate) async fn of(
    service: &Route53Service,
    cx: &Context,
    changes: &[(Action, SetRecord)],
) -> Result<Balancers, ApiError> {
    let new = changes.iter().filter(|(action, _)| *action != Action::Delete);
    let targets = new.filter_map(|(_, set)| set.alias.as_ref());
    let regions: BTreeSet<&str> = targets.filter_map(|alias| region(&alias.name)).collect();
    let mut found = Balancers::new();
    for region in regions {
        let caller = Caller::Service { name: SERVICE_PRINCIPAL, account: cx.account.clone() };
        let client = elbv2::Client::new(service.invoke.clone(), caller, region);
        let mut request = elbv2::DescribeLoadBalancersInput::default();
        loop {
            let answer = client.describe_load_balancers(request.clone()).await?;
            let balancers = answer.load_balancers.unwrap_or_default().into_iter();
            found.extend(balancers.filter_map(|balancer| {
                let name = ferrogate_dns::normal(&balancer.dns_name?).ok()?;
                Some((name, balancer.canonical_hosted_zone_id?))
            }));
            if answer.next_marker.is_none() {
                break;
            }
            request.marker = answer.next_marker;
        }
    }
    Ok(found)
}

/// `us-east-1` of `web-1234567890.us-east-1.elb.amazonaws.com`
fn region(name: &str) -> Option<&str> {
    let mut labels = balancer(name)?.rsplit('.');
    Some(labels.nth(3).unwrap_or_default()).filter(|region| !region.is_empty())
}
