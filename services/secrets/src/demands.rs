//! What a call to Secrets Manager needs: `secretsmanager:<Operation>` on the secret it is about ("Actions, resources,
//! and condition keys for AWS Secrets Manager", Service Authorization Reference).

use ferrogate_api::{Context, Demand, Value};

use crate::SecretsService;
use crate::state::{CURRENT, SecretRecord, find, secret_arn};

/// Stands for the six characters of an ARN that nobody knows yet; `?` of a policy matches each of them.
const SUFFIX_UNKNOWN: &str = "??????";

pub(crate) fn of(
    service: &SecretsService,
    cx: &Context,
    operation: &'static str,
    input: &Value,
) -> Vec<Demand> {
    let action = format!("secretsmanager:{operation}");
    match operation {
        // Each secret of a batch is judged by a GetSecretValue of its own.
        "GetRandomPassword" | "ListSecrets" | "BatchGetSecretValue" => vec![Demand::new(action, "*")],
        "CreateSecret" => create(cx, &action, input),
        _ => match input.get_str("SecretId") {
            Some(id) => vec![on_secret(service, cx, &action, id, operation, input)],
            None => vec![Demand::new(action, "*")],
        },
    }
}

fn create(cx: &Context, action: &str, input: &Value) -> Vec<Demand> {
    let name = input.get_str("Name").unwrap_or_default();
    let arn = secret_arn(cx, &format!("{name}-{SUFFIX_UNKNOWN}"));
    let demand = Demand::new(action, arn.as_str()).with("secretsmanager:Name", [name]);
    let mut demands = vec![with_request(demand, input)];
    if input.get("Tags").is_some() {
        demands.push(with_request(Demand::new("secretsmanager:TagResource", arn), input));
    }
    demands
}

fn on_secret(
    service: &SecretsService,
    cx: &Context,
    action: &str,
    id: &str,
    operation: &str,
    input: &Value,
) -> Demand {
    let record = find(service, cx, id).map(|found| found.record);
    let arn = match &record {
        Some(record) => record.arn(cx),
        None if id.starts_with("arn:") => id.to_owned(),
        None => secret_arn(cx, &format!("{id}-{SUFFIX_UNKNOWN}")),
    };
    let mut demand = Demand::new(action, arn.as_str()).with("secretsmanager:SecretId", [arn]);
    if let Some(record) = record {
        demand = with_secret(demand, cx, record);
    }
    let by_default = operation == "GetSecretValue" && input.get("VersionId").is_none();
    demand = match input.get_str("VersionStage") {
        Some(stage) => demand.with("secretsmanager:VersionStage", [stage]),
        None if by_default => demand.with("secretsmanager:VersionStage", [CURRENT]),
        None => demand,
    };
    with_request(demand, input)
}

/// What the secret's policy and tags say.
fn with_secret(mut demand: Demand, cx: &Context, record: SecretRecord) -> Demand {
    for (key, value) in record.tags {
        demand = demand
            .with(format!("aws:ResourceTag/{key}"), [value.clone()])
            .with(format!("secretsmanager:ResourceTag/{key}"), [value]);
    }
    demand.resource_policy = record.policy;
    demand.with("secretsmanager:SecretPrimaryRegion", [cx.region.as_str()])
}

fn with_request(mut demand: Demand, input: &Value) -> Demand {
    for (member, key) in [
        ("Description", "secretsmanager:Description"),
        ("KmsKeyId", "secretsmanager:KmsKeyId"),
        ("VersionId", "secretsmanager:VersionId"),
    ] {
        if let Some(text) = input.get_str(member) {
            demand = demand.with(key, [text]);
        }
    }
    for (member, key) in [
        ("ForceDeleteWithoutRecovery", "secretsmanager:ForceDeleteWithoutRecovery"),
        ("BlockPublicPolicy", "secretsmanager:BlockPublicPolicy"),
    ] {
        if let Some(flag) = input.get(member).and_then(Value::as_bool) {
            demand = demand.with(key, [flag.to_string()]);
        }
    }
    if let Some(days) = input.get("RecoveryWindowInDays").and_then(Value::as_i64) {
        demand = demand.with("secretsmanager:RecoveryWindowInDays", [days.to_string()]);
    }
    let stages = input.get_strs("VersionStages");
    if !stages.is_empty() {
        demand = demand.with("secretsmanager:VersionStage", stages);
    }
    with_tags(demand, input)
}

fn with_tags(mut demand: Demand, input: &Value) -> Demand {
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
            let value = tag.get_str("Value").unwrap_or_default();
            demand = demand.with(format!("aws:RequestTag/{key}"), [value]);
        }
    }
    demand.with("aws:TagKeys", keys)
}
