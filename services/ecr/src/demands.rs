//! What a call to ECR needs: `ecr:<Operation>` on the repository it is about ("Actions, resources, and condition
//! keys for Amazon Elastic Container Registry", Service Authorization Reference).

use std::collections::BTreeMap;

use ferrogate_api::{Context, Demand, Value};
use ferrogate_model::Arn;

use crate::EcrService;
use crate::operations::{cache_rules, registry};
use crate::state::{Place, Repository, repository_arn};

pub(crate) fn of(service: &EcrService, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
    let action = format!("ecr:{operation}");
    let demands = match operation {
        "CreateRepository" => create(service, cx, input),
        "TagResource" | "UntagResource" | "ListTagsForResource" => {
            let arn = input.get_str("resourceArn").unwrap_or("*");
            let name = arn.parse::<Arn>().ok().filter(|arn| arn.service == "ecr" && arn.region == cx.region);
            match name {
                Some(found) if found.resource_type() == "repository" => {
                    vec![on_repository(service, cx, &action, found.resource_id())]
                }
                _ => vec![Demand::new(action, arn)],
            }
        }
        "DescribeRepositories" | "BatchGetRepositoryScanningConfiguration" => {
            let names = input.get_strs("repositoryNames");
            if names.is_empty() {
                vec![Demand::new(action, repository_arn(cx, "*"))]
            } else {
                names.into_iter().map(|name| on_repository(service, cx, &action, name)).collect()
            }
        }
        "BatchGetImage" => {
            let name = input.get_str("repositoryName").unwrap_or("*");
            let mut demands = vec![on_repository(service, cx, &action, name)];
            demands.extend(import(service, cx, name, input));
            demands
        }
        _ => match input.get_str("repositoryName") {
            Some(name) => vec![on_repository(service, cx, &action, name)],
            // The registry's own: the token, policies, settings, rules.
            None => vec![Demand::new(action, "*")],
        },
    };
    demands.into_iter().map(|demand| with_request_tags(demand, input)).collect()
}

fn create(service: &EcrService, cx: &Context, input: &Value) -> Vec<Demand> {
    let arn = repository_arn(cx, input.get_str("repositoryName").unwrap_or("*"));
    let mut demands = vec![registry_demand(service, cx, "ecr:CreateRepository", &arn)];
    if input.get("tags").is_some() {
        demands.push(Demand::new("ecr:TagResource", arn));
    }
    demands
}

/// The registry's policy speaks about these as well ("Private registry permissions in Amazon ECR").
fn registry_demand(service: &EcrService, cx: &Context, action: &str, resource: &str) -> Demand {
    let mut demand = Demand::new(action, resource);
    demand.resource_policy = registry::record(service, cx).policy;
    demand
}

/// The right and, where the repository is there, what its policy and tags say about it.
fn on_repository(service: &EcrService, cx: &Context, action: &str, name: &str) -> Demand {
    let mut demand = Demand::new(action, repository_arn(cx, name));
    if let Some(repository) = Repository::find(&*service.store, &Place::of(cx), name) {
        for (key, value) in repository.record.tags {
            demand = demand
                .with(format!("aws:ResourceTag/{key}"), [value.clone()])
                .with(format!("ecr:ResourceTag/{key}"), [value]);
        }
        demand.resource_policy = repository.record.policy;
    }
    demand
}

/// What it takes to have an image come through a cache rule, if this call would make one come.
fn import(service: &EcrService, cx: &Context, name: &str, input: &Value) -> Vec<Demand> {
    if cache_rules::rule_for(service, &Place::of(cx), name).is_none() {
        return Vec::new();
    }
    let arn = repository_arn(cx, name);
    let Some(repository) = Repository::find(&*service.store, &Place::of(cx), name) else {
        return ["ecr:BatchImportUpstreamImage", "ecr:CreateRepository"]
            .map(|action| registry_demand(service, cx, action, &arn))
            .into();
    };
    let wanted = input.get("imageIds").and_then(Value::as_list).unwrap_or_default();
    let here = |id: &Value| match (id.get_str("imageDigest"), id.get_str("imageTag")) {
        (Some(digest), _) => repository.image(digest).is_some(),
        (None, Some(tag)) => repository.tag(tag).is_some(),
        (None, None) => true,
    };
    if wanted.iter().all(here) {
        return Vec::new();
    }
    vec![registry_demand(service, cx, "ecr:BatchImportUpstreamImage", &arn)]
}

fn with_request_tags(mut demand: Demand, input: &Value) -> Demand {
    if input.get("tagKeys").is_some() {
        return demand.with("aws:TagKeys", input.get_strs("tagKeys"));
    }
    let tags: BTreeMap<&str, &str> = input
        .get("tags")
        .and_then(Value::as_list)
        .unwrap_or_default()
        .iter()
        .filter_map(|tag| Some((tag.get_str("Key")?, tag.get_str("Value").unwrap_or_default())))
        .collect();
    if tags.is_empty() {
        return demand;
    }
    for (key, value) in &tags {
        demand = demand.with(format!("aws:RequestTag/{key}"), [*value]);
    }
    demand.with("aws:TagKeys", tags.into_keys())
}
