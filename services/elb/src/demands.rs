//! The rights each call needs (Service Authorization Reference, "Actions, resources, and condition keys for AWS
//! Elastic Load Balancing V2"). Describe operations are for `*`.

use std::collections::BTreeSet;

use ferrogate_api::{Demand, Value};

use crate::call::Call;
use crate::operations::tags;

/// Members of inputs that name what a call is about.
const NAMED: &[&str] = &["LoadBalancerArn", "ListenerArn", "RuleArn", "TargetGroupArn"];

pub(crate) fn demands(call: &Call<'_>, operation: &'static str, input: &Value) -> Vec<Demand> {
    let action = format!("elasticloadbalancing:{operation}");
    if operation.starts_with("Describe") {
        return vec![Demand::new(action, "*")];
    }
    let mut demands: Vec<Demand> = resources(call, operation, input)
        .into_iter()
        .map(|arn| {
            let demand = Demand::new(action.as_str(), arn.as_str());
            with_own_tags(call, with_conditions(demand, operation, input), &arn)
        })
        .collect();
    if demands.is_empty() {
        demands.push(with_conditions(Demand::new(action, "*"), operation, input));
    }
    // Who makes something with tags has to be allowed to tag it.
    if operation.starts_with("Create") && input.get("Tags").is_some() {
        let tagging: Vec<Demand> = made(call, operation, input)
            .into_iter()
            .map(|arn| {
                let demand = Demand::new("elasticloadbalancing:AddTags", arn);
                with_request_tags(demand, input).with("elasticloadbalancing:CreateAction", [operation])
            })
            .collect();
        demands.extend(tagging);
    }
    demands
}

fn resources(call: &Call<'_>, operation: &str, input: &Value) -> Vec<String> {
    match operation {
        "CreateLoadBalancer" | "CreateTargetGroup" => made(call, operation, input),
        "AddTags" | "RemoveTags" => input.get_strs("ResourceArns").into_iter().map(str::to_owned).collect(),
        "SetRulePriorities" => {
            let pairs = input.get("RulePriorities").and_then(Value::as_list).unwrap_or_default();
            pairs.iter().filter_map(|pair| pair.get_str("RuleArn")).map(str::to_owned).collect()
        }
        _ => NAMED.iter().filter_map(|member| input.get_str(member)).map(str::to_owned).collect(),
    }
}

/// The ARN of what an operation makes, `*` in the place of its id.
fn made(call: &Call<'_>, operation: &str, input: &Value) -> Vec<String> {
    let name = input.get_str("Name").unwrap_or("*");
    let below = |member: &str, from: &str, to: &str| {
        let arn = input.get_str(member).unwrap_or("*");
        format!("{}/*", arn.replacen(from, to, 1))
    };
    let arn = match operation {
        "CreateLoadBalancer" => {
            let kind = if input.get_str("Type") == Some("network") { "net" } else { "app" };
            call.scope.arn(&format!("loadbalancer/{kind}/{name}/*"))
        }
        "CreateTargetGroup" => call.scope.arn(&format!("targetgroup/{name}/*")),
        "CreateListener" => below("LoadBalancerArn", ":loadbalancer/", ":listener/"),
        "CreateRule" => below("ListenerArn", ":listener/", ":listener-rule/"),
        _ => return Vec::new(),
    };
    vec![arn]
}

fn with_conditions(mut demand: Demand, operation: &str, input: &Value) -> Demand {
    match operation {
        "CreateLoadBalancer" => {
            let scheme = input.get_str("Scheme").unwrap_or("internet-facing");
            demand = demand.with("elasticloadbalancing:Scheme", [scheme]);
        }
        "CreateListener" | "ModifyListener" => {
            for (member, key) in [("Protocol", "ListenerProtocol"), ("SslPolicy", "SecurityPolicy")] {
                if let Some(value) = input.get_str(member) {
                    demand = demand.with(format!("elasticloadbalancing:{key}"), [value]);
                }
            }
        }
        _ => {}
    }
    if matches!(operation, "CreateLoadBalancer" | "SetSubnets") {
        let mappings = input.get("SubnetMappings").and_then(Value::as_list).unwrap_or_default();
        let mapped = mappings.iter().filter_map(|mapping| mapping.get_str("SubnetId"));
        let subnets: BTreeSet<&str> = input.get_strs("Subnets").into_iter().chain(mapped).collect();
        demand = demand.with("elasticloadbalancing:Subnet", subnets);
    }
    if matches!(operation, "CreateLoadBalancer" | "SetSecurityGroups") {
        demand = demand.with("elasticloadbalancing:SecurityGroup", input.get_strs("SecurityGroups"));
    }
    with_request_tags(demand, input)
}

fn with_request_tags(mut demand: Demand, input: &Value) -> Demand {
    if let Some(tags) = input.get("Tags").and_then(Value::as_list) {
        for tag in tags {
            if let Some(key) = tag.get_str("Key") {
                let value = tag.get_str("Value").unwrap_or_default();
                demand = demand.with(format!("aws:RequestTag/{key}"), [value]);
            }
        }
        demand = demand.with("aws:TagKeys", tags.iter().filter_map(|tag| tag.get_str("Key")));
    } else if input.get("TagKeys").is_some() {
        demand = demand.with("aws:TagKeys", input.get_strs("TagKeys"));
    }
    demand
}

fn with_own_tags(call: &Call<'_>, mut demand: Demand, arn: &str) -> Demand {
    for (key, value) in tags::of(call, arn).unwrap_or_default() {
        demand = demand.with(format!("aws:ResourceTag/{key}"), [value.as_str()]);
        demand = demand.with(format!("elasticloadbalancing:ResourceTag/{key}"), [value]);
    }
    demand
}
