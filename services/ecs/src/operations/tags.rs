//! Tags of clusters, task definitions, tasks, services and task sets.

use ferrogate_api::{ApiError, ecs};

use crate::call::Call;
use crate::errors::{cluster_not_found, invalid};
use crate::names;
use crate::state::service::{ServiceKey, ServiceRecord};
use crate::state::{ClusterRecord, RevisionRecord, Tags, TaskKey, TaskRecord};

const TAGS_MAX: usize = 50;

/// A resource that can have tags.
enum Tagged {
    Cluster(String),
    Definition {
        family: String,
        revision: u32,
    },
    Task(TaskKey),
    Service(ServiceKey),
    /// By the end of its id.
    TaskSet(ServiceKey, String),
}

/// The tags of a request.
pub(crate) fn checked(tags: Option<Vec<ecs::Tag>>) -> Result<Tags, ApiError> {
    let tags = tags.unwrap_or_default();
    let mut checked = Tags::new();
    for tag in tags {
        let key = tag.key.unwrap_or_default();
        check_key(&key)?;
        if checked.insert(key.clone(), tag.value.unwrap_or_default()).is_some() {
            return Err(invalid(format!("Duplicate tag keys found: '{key}'. Tag keys must be unique.")));
        }
    }
    check_count(&checked)?;
    Ok(checked)
}

fn check_key(key: &str) -> Result<(), ApiError> {
    if key.is_empty() {
        return Err(invalid("Tag keys cannot be empty."));
    }
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(invalid(format!(
            "Invalid tag key '{key}': keys that begin with 'aws:' are reserved for AWS."
        )));
    }
    Ok(())
}

pub(crate) fn check_count(tags: &Tags) -> Result<(), ApiError> {
    let own = tags.keys().filter(|key| !key.starts_with("aws:")).count();
    if own > TAGS_MAX {
        return Err(invalid(format!("A resource can have at most {TAGS_MAX} tags; these are {own}.")));
    }
    Ok(())
}

pub(crate) fn shape(tags: &Tags) -> Vec<ecs::Tag> {
    tags.iter().map(|(key, value)| ecs::Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

fn resolve(call: &Call<'_>, arn: Option<&str>) -> Result<Tagged, ApiError> {
    let arn = arn.unwrap_or_default();
    let unsupported = || {
        invalid(format!(
            "Invalid resource ARN '{arn}'. Clusters, task definitions, tasks, services and task sets can be tagged."
        ))
    };
    let resource = arn.splitn(6, ':').nth(5).ok_or_else(unsupported)?;
    match resource.split('/').next().unwrap_or_default() {
        "cluster" => Ok(Tagged::Cluster(names::cluster(&call.scope, Some(arn))?)),
        "task-definition" => {
            let name = names::definition(&call.scope, arn)?;
            let revision = name.revision.ok_or_else(unsupported)?;
            Ok(Tagged::Definition { family: name.family, revision })
        }
        "task" => {
            let cluster = resource.split('/').nth(1).filter(|_| resource.matches('/').count() == 2);
            let cluster =
                cluster.ok_or_else(|| invalid("Long arn format must be used for tagging operations"))?;
            let id = names::task(&call.scope, cluster, arn)?;
            Ok(Tagged::Task(TaskKey { scope: call.scope.clone(), cluster: cluster.to_owned(), id }))
        }
        "service" => {
            let cluster = resource.split('/').nth(1).ok_or_else(unsupported)?;
            let name = names::service(&call.scope, cluster, arn)?;
            Ok(Tagged::Service(ServiceKey::new(&call.scope, cluster, &name)))
        }
        "task-set" => {
            let (key, id) = names::of_service(&call.scope, "task-set", arn)?;
            Ok(Tagged::TaskSet(key, format!("ecs-svc/{id}")))
        }
        _ => Err(unsupported()),
    }
}

impl Tagged {
    fn not_found(&self) -> ApiError {
        match self {
            Self::Cluster(_) => cluster_not_found(),
            Self::Definition { .. } => invalid("The specified task definition is not found."),
            Self::Task(_) => invalid("The specified task is not found. Specify a valid task and try again."),
            Self::Service(_) => {
                invalid("The specified service is not found. Specify a valid service and try again.")
            }
            Self::TaskSet(..) => invalid("The specified task set is not found."),
        }
    }

    fn read(&self, call: &Call<'_>) -> Result<Tags, ApiError> {
        let tags = match self {
            Self::Cluster(name) => {
                call.get::<ClusterRecord>(&call.scope.cluster(name)).map(|found| found.record.tags)
            }
            Self::Definition { family, revision } => call
                .get::<RevisionRecord>(&call.scope.revision(family, *revision))
                .map(|found| found.record.tags),
            Self::Task(task) => call.get::<TaskRecord>(&task.record()).map(|found| found.record.tags),
            Self::Service(service) => {
                call.get::<ServiceRecord>(&service.record()).map(|found| found.record.tags)
            }
            Self::TaskSet(service, id) => call
                .get::<ServiceRecord>(&service.record())
                .and_then(|mut found| found.record.deployment_mut(id)?.task_set.take())
                .map(|set| set.tags),
        };
        tags.ok_or_else(|| self.not_found())
    }

    async fn change(
        &self,
        call: &Call<'_>,
        change: impl Fn(&mut Tags) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        macro_rules! change {
            ($record:ty, $key:expr) => {
                call.update::<$record>(&$key, |record| {
                    let mut record = record.ok_or_else(|| self.not_found())?;
                    change(&mut record.tags)?;
                    Ok(Some(record))
                })
                .await
                .map(drop)
            };
        }
        match self {
            Self::Cluster(name) => change!(ClusterRecord, call.scope.cluster(name)),
            Self::Definition { family, revision } => {
                change!(RevisionRecord, call.scope.revision(family, *revision))
            }
            Self::Task(task) => change!(TaskRecord, task.record()),
            Self::Service(service) => change!(ServiceRecord, service.record()),
            Self::TaskSet(service, id) => call
                .update::<ServiceRecord>(&service.record(), |record| {
                    let mut record = record.ok_or_else(|| self.not_found())?;
                    let set = record.deployment_mut(id).and_then(|one| one.task_set.as_mut());
                    change(&mut set.ok_or_else(|| self.not_found())?.tags)?;
                    Ok(Some(record))
                })
                .await
                .map(drop),
        }
    }
}

pub(crate) async fn tag(
    call: &Call<'_>,
    input: ecs::TagResourceRequest,
) -> Result<ecs::TagResourceResponse, ApiError> {
    let resource = resolve(call, input.resource_arn.as_deref())?;
    let new = checked(input.tags)?;
    resource
        .change(call, |tags| {
            tags.extend(new.clone());
            check_count(tags)
        })
        .await?;
    Ok(ecs::TagResourceResponse {})
}

pub(crate) async fn untag(
    call: &Call<'_>,
    input: ecs::UntagResourceRequest,
) -> Result<ecs::UntagResourceResponse, ApiError> {
    let resource = resolve(call, input.resource_arn.as_deref())?;
    let keys = input.tag_keys.unwrap_or_default();
    keys.iter().try_for_each(|key| check_key(key))?;
    resource
        .change(call, |tags| {
            tags.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await?;
    Ok(ecs::UntagResourceResponse {})
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListTagsForResourceRequest,
) -> Result<ecs::ListTagsForResourceResponse, ApiError> {
    let tags = resolve(call, input.resource_arn.as_deref())?.read(call)?;
    Ok(ecs::ListTagsForResourceResponse { tags: Some(shape(&tags)) })
}
