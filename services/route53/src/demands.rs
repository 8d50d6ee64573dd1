//! What a call to Route 53 needs ("Actions, resources, and condition keys for Amazon Route 53", Service Authorization
//! Reference).

use ferrogate_api::{Context, Demand, Value};

use crate::Route53Service;
use crate::state::bare_id;

pub(crate) fn of(
    service: &Route53Service,
    cx: &Context,
    operation: &'static str,
    input: &Value,
) -> Vec<Demand> {
    let action = format!("route53:{operation}");
    let zone = |member: &str| input.get_str(member).map(|id| on_zone(service, cx, &action, id));
    let demand = match operation {
        "CreateHostedZone" => with_vpc(Demand::new(action, "*"), input),
        "ListHostedZonesByVPC" => {
            let (id, region) = (input.get_str("VPCId"), input.get_str("VPCRegion"));
            vpc_key(Demand::new(action, "*"), id, region)
        }
        "GetChange" => {
            let id = bare_id(input.get_str("Id").unwrap_or_default());
            Demand::new(action, format!("arn:aws:route53:::change/{id}"))
        }
        "GetHostedZone" | "DeleteHostedZone" | "UpdateHostedZoneComment" => {
            zone("Id").unwrap_or_else(|| Demand::new(action, "*"))
        }
        "ChangeResourceRecordSets" => zone("HostedZoneId")
            .map(|demand| with_changes(demand, input))
            .unwrap_or_else(|| Demand::new(action, "*")),
        "ChangeTagsForResource" | "ListTagsForResource" => tagged(service, cx, action, input),
        "ListTagsForResources" => {
            let ids = input.get_strs("ResourceIds");
            return ids.into_iter().map(|id| on_zone(service, cx, &action, id)).collect();
        }
        "ListResourceRecordSets"
        | "AssociateVPCWithHostedZone"
        | "DisassociateVPCFromHostedZone"
        | "GetDNSSEC"
        | "CreateVPCAssociationAuthorization"
        | "DeleteVPCAssociationAuthorization"
        | "ListVPCAssociationAuthorizations" => zone("HostedZoneId")
            .map(|demand| with_vpc(demand, input))
            .unwrap_or_else(|| Demand::new(action, "*")),
        _ => Demand::new(action, "*"),
    };
    vec![demand]
}

fn on_zone(service: &Route53Service, cx: &Context, action: &str, id: &str) -> Demand {
    let id = bare_id(id);
    let mut demand = Demand::new(action, format!("arn:aws:route53:::hostedzone/{id}"));
    for (key, value) in service.find_zone(cx, id).map(|found| found.record.tags).unwrap_or_default() {
        demand = demand.with(format!("aws:ResourceTag/{key}"), [value]);
    }
    demand
}

fn tagged(service: &Route53Service, cx: &Context, action: String, input: &Value) -> Demand {
    let id = bare_id(input.get_str("ResourceId").unwrap_or_default());
    let mut demand = match input.get_str("ResourceType") {
        Some("healthcheck") => Demand::new(action, format!("arn:aws:route53:::healthcheck/{id}")),
        _ => on_zone(service, cx, &action, id),
    };
    let mut keys: Vec<String> = input.get_strs("RemoveTagKeys").into_iter().map(str::to_owned).collect();
    for tag in input.get("AddTags").and_then(Value::as_list).unwrap_or_default() {
        let Some(key) = tag.get_str("Key") else { continue };
        demand = demand.with(format!("aws:RequestTag/{key}"), [tag.get_str("Value").unwrap_or_default()]);
        keys.push(key.to_owned());
    }
    if keys.is_empty() { demand } else { demand.with("aws:TagKeys", keys) }
}

fn with_vpc(demand: Demand, input: &Value) -> Demand {
    match input.get("VPC") {
        Some(vpc) => vpc_key(demand, vpc.get_str("VPCId"), vpc.get_str("VPCRegion")),
        None => demand,
    }
}

fn vpc_key(demand: Demand, id: Option<&str>, region: Option<&str>) -> Demand {
    let value = format!("VPCId={},VPCRegion={}", id.unwrap_or_default(), region.unwrap_or_default());
    demand.with("route53:VPCs", [value])
}

/// What a policy may ask about the changes of a batch, each once.
fn with_changes(demand: Demand, input: &Value) -> Demand {
    let batch = input.get("ChangeBatch").and_then(|batch| batch.get("Changes")).and_then(Value::as_list);
    let changes = batch.unwrap_or_default();
    let set = |change: &'_ Value, member: &str| {
        change.get("ResourceRecordSet").and_then(|set| set.get_str(member)).map(str::to_owned)
    };
    let distinct = |values: Vec<String>| {
        let mut values = values;
        values.sort();
        values.dedup();
        values
    };
    let names = changes.iter().filter_map(|change| {
        let name = set(change, "Name")?;
        Some(ferrogate_dns::normal(&name).unwrap_or(name).replace('*', "\\052"))
    });
    let types = changes.iter().filter_map(|change| set(change, "Type"));
    let actions = changes.iter().filter_map(|change| change.get_str("Action").map(str::to_owned));
    demand
        .with("route53:ChangeResourceRecordSetsNormalizedRecordNames", distinct(names.collect()))
        .with("route53:ChangeResourceRecordSetsRecordTypes", distinct(types.collect()))
        .with("route53:ChangeResourceRecordSetsActions", distinct(actions.collect()))
}
