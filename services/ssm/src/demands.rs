//! What a call needs: `ssm:<Operation>` on each parameter or session it is about ("Actions, resources, and
//! condition keys for AWS Systems Manager", Service Authorization Reference).

use ferrogate_api::{Context, Demand, Value};

use crate::SsmService;
use crate::state::{find, parameter_arn, split_selector};

pub(crate) fn of(service: &SsmService, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
    let action = format!("ssm:{operation}");
    let names = input.get_strs("Names");
    let demands = match operation {
        // AWS names this in its refusals; `*` and `…:*` allow it.
        "DescribeParameters" => {
            vec![Demand::new(action, format!("arn:aws:ssm:{}:{}:*", cx.region, cx.account))]
        }
        "GetParametersByPath" => {
            // `…:parameter/a` for `/a` and for `/a/`.
            let path = input.get_str("Path").unwrap_or_default();
            let recursive = input.get("Recursive").and_then(Value::as_bool).unwrap_or(false);
            let arn = parameter_arn(cx, path.strip_suffix('/').unwrap_or(path));
            vec![Demand::new(action, arn).with("ssm:Recursive", [recursive.to_string()])]
        }
        "AddTagsToResource" | "RemoveTagsFromResource" | "ListTagsForResource" => {
            vec![on_parameter(service, cx, &action, input.get_str("ResourceId").unwrap_or_default())]
        }
        "ResumeSession" | "TerminateSession" => {
            let id = input.get_str("SessionId").unwrap_or_default();
            vec![Demand::new(action, format!("arn:aws:ssm:{}:{}:session/{id}", cx.region, cx.account))]
        }
        // AWS knows no resource of it but all.
        "DescribeSessions" => vec![Demand::new(action, "*")],
        "PutParameter" => put(service, cx, &action, input),
        _ if !names.is_empty() => {
            names.into_iter().map(|name| on_parameter(service, cx, &action, name)).collect()
        }
        _ => vec![on_parameter(service, cx, &action, input.get_str("Name").unwrap_or_default())],
    };
    demands.into_iter().map(|demand| with_request_tags(demand, input)).collect()
}

fn put(service: &SsmService, cx: &Context, action: &str, input: &Value) -> Vec<Demand> {
    let name = input.get_str("Name").unwrap_or_default();
    let overwrite = input.get("Overwrite").and_then(Value::as_bool).unwrap_or(false);
    let put = on_parameter(service, cx, action, name).with("ssm:Overwrite", [overwrite.to_string()]);
    let mut demands = vec![put];
    if input.get("Tags").is_some() {
        demands.push(on_parameter(service, cx, "ssm:AddTagsToResource", name));
    }
    demands
}

/// The right, and what the parameter's tags say.
fn on_parameter(service: &SsmService, cx: &Context, action: &str, given: &str) -> Demand {
    let (name, _) = split_selector(given);
    let arn = if name.starts_with("arn:") { name.to_owned() } else { parameter_arn(cx, name) };
    let mut demand = Demand::new(action, arn);
    if let Some(found) = find(service, cx, name) {
        for (key, value) in found.record.tags {
            demand = demand
                .with(format!("aws:ResourceTag/{key}"), [value.clone()])
                .with(format!("ssm:resourceTag/{key}"), [value]);
        }
    }
    demand
}

fn with_request_tags(mut demand: Demand, input: &Value) -> Demand {
    let removed = input.get_strs("TagKeys");
    if !removed.is_empty() {
        return demand.with("aws:TagKeys", removed);
    }
    let tags = input.get("Tags").and_then(Value::as_list).unwrap_or_default();
    let keys: Vec<&str> = tags.iter().filter_map(|tag| tag.get_str("Key")).collect();
    if keys.is_empty() {
        return demand;
    }
    for tag in tags {
        if let Some(key) = tag.get_str("Key") {
            demand = demand.with(format!("aws:RequestTag/{key}"), [tag.get_str("Value").unwrap_or_default()]);
        }
    }
    demand.with("aws:TagKeys", keys)
}
