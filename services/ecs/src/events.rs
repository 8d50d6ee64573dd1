//! What EventBridge is told: documents below `/events/`, written in the transaction of the change they tell of.
//!
//! ```text
//! /events/<account>/<region>/<nanoseconds since 1970>-<id>
//! ```
//!
//! They are kept for an hour and up to [`EVENTS_MAX`] in a region; `controllers/sweep.rs` forgets the rest. Who reads
//! them has to follow.

use ferrogate_store::Txn;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::operations::shape::{self, ATTACHMENT_TYPE};
use crate::state::service::{ServiceKey, ServiceRecord};
use crate::state::{Scope, TaskRecord, uuid};

/// All of them.
pub(crate) const PREFIX: &str = "/events/";
pub(crate) const EVENTS_KEPT: SignedDuration = SignedDuration::from_hours(1);
/// In one region of an account.
pub(crate) const EVENTS_MAX: usize = 10_000;

/// As EventBridge gives it on: Developer Guide, "Amazon ECS events".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventRecord {
    pub version: String,
    pub id: String,
    #[serde(rename = "detail-type")]
    pub detail_type: String,
    pub source: String,
    pub account: String,
    /// To the second.
    pub time: Timestamp,
    pub region: String,
    pub resources: Vec<String>,
    pub detail: Value,
}

/// `INFO`, `WARN` or `ERROR`, and the name of what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named(&'static str, pub &'static str);

impl Named {
    pub(crate) const STEADY: Self = Self("INFO", "SERVICE_STEADY_STATE");
    pub(crate) const TASK_SET_STEADY: Self = Self("INFO", "TASKSET_STEADY_STATE");
    pub(crate) const DESIRED_COUNT_UPDATED: Self = Self("INFO", "SERVICE_DESIRED_COUNT_UPDATED");
    pub(crate) const TASK_START_IMPAIRED: Self = Self("WARN", "SERVICE_TASK_START_IMPAIRED");
    pub(crate) const DISCOVERY_INSTANCE_UNHEALTHY: Self =
        Self("WARN", "SERVICE_DISCOVERY_INSTANCE_UNHEALTHY");
    pub(crate) const TASK_PLACEMENT_FAILURE: Self = Self("ERROR", "SERVICE_TASK_PLACEMENT_FAILURE");
    pub(crate) const TASK_CONFIGURATION_FAILURE: Self = Self("ERROR", "SERVICE_TASK_CONFIGURATION_FAILURE");
    pub(crate) const DEPLOYMENT_IN_PROGRESS: Self = Self("INFO", "SERVICE_DEPLOYMENT_IN_PROGRESS");
    pub(crate) const DEPLOYMENT_COMPLETED: Self = Self("INFO", "SERVICE_DEPLOYMENT_COMPLETED");
    pub(crate) const DEPLOYMENT_FAILED: Self = Self("ERROR", "SERVICE_DEPLOYMENT_FAILED");
}

/// All of a region's.
pub(crate) fn prefix_of(scope: &Scope) -> String {
    format!("{PREFIX}{}/{}/", scope.account, scope.region)
}

/// The first key that is younger than `at`.
pub(crate) fn key_at(scope: &Scope, at: Timestamp) -> String {
    format!("{}{:020}", prefix_of(scope), at.as_nanosecond().max(0))
}

/// As ECS writes a time: to the millisecond.
fn written(at: Timestamp) -> String {
    DateTimePrinter::new().precision(Some(3)).timestamp_to_string(&at)
}

/// What has a name of its own in events: times are texts, an interface is an `eni`; tags are not told.
fn as_told(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(as_told),
        Value::Object(members) => {
            members.remove("tags");
            for (name, value) in members {
                let time = value.as_str().filter(|_| name.ends_with("At")).and_then(|text| text.parse().ok());
                match time {
                    Some(at) => *value = json!(written(at)),
                    None if *value == ATTACHMENT_TYPE => *value = json!("eni"),
                    None => as_told(value),
                }
            }
        }
        _ => {}
    }
}

fn put(
    txn: Txn,
    scope: &Scope,
    detail_type: &str,
    at: Timestamp,
    resource: String,
    mut detail: Value,
) -> Txn {
    as_told(&mut detail);
    let id = uuid();
    let key = format!("{}-{id}", key_at(scope, at));
    let event = EventRecord {
        version: "0".into(),
        id,
        detail_type: detail_type.into(),
        source: "aws.ecs".into(),
        account: scope.account.clone(),
        time: Timestamp::from_second(at.as_second()).unwrap_or(at),
        region: scope.region.clone(),
        resources: vec![resource],
        detail,
    };
    txn.put_json(key, &event)
}

/// "ECS Task State Change", as of the task's last change.
pub(crate) fn task_state_change(txn: Txn, task: &TaskRecord) -> Txn {
    let at = task.lifecycle.changed_at();
    let mut detail = serde_json::to_value(shape::task(task, false)).unwrap_or_default();
    if let Some(detail) = detail.as_object_mut() {
        detail.insert("updatedAt".into(), json!(at));
    }
    put(txn, &task.scope(), "ECS Task State Change", at, task.arn(), detail)
}

/// "ECS Service Action". `reason`: for TASKSET_STEADY_STATE the task set's ARN.
pub(crate) fn service_action(
    txn: Txn,
    service: &ServiceRecord,
    named: Named,
    reason: Option<&str>,
    at: Timestamp,
) -> Txn {
    let key = service.key();
    let mut detail = json!({
        "eventType": named.0, "eventName": named.1,
        "clusterArn": key.scope.cluster_arn(&key.cluster), "createdAt": at,
    });
    if named == Named::DESIRED_COUNT_UPDATED {
        detail["desiredCount"] = json!(service.desired_count);
    }
    if named == Named::TASK_SET_STEADY {
        detail["taskSetArns"] = json!([reason]);
    } else if let Some(reason) = reason {
        detail["reason"] = json!(reason);
    }
    put(txn, &key.scope, "ECS Service Action", at, key.arn(), detail)
}

/// "ECS Deployment State Change"
pub(crate) fn deployment_state_change(
    txn: Txn,
    service: &ServiceKey,
    named: Named,
    deployment: &str,
    reason: &str,
    at: Timestamp,
) -> Txn {
    let detail = json!({
        "eventType": named.0, "eventName": named.1, "deploymentId": deployment, "updatedAt": at, "reason": reason,
    });
    put(txn, &service.scope, "ECS Deployment State Change", at, service.arn(), detail)
}
