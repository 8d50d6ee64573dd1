//! Clusters: names under which tasks are counted and permitted.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::{Json, Txn};

use super::{check_count, exec_logging, namespaces, page, tags};
use crate::call::Call;
use crate::errors::{cluster_not_found, invalid, unsupported};
use crate::lifecycle::Status;
use crate::names::{self, DEFAULT_CLUSTER, is_name};
use crate::operations::capacity_providers::{check_providers, check_strategy};
use crate::state::service::{ServiceStatus, ServiceSummary};
use crate::state::{ClusterRecord, ClusterStatus, Tags, TaskSummary};

/// The cluster of this name as it is when it is made.
pub(crate) fn new_record(name: &str) -> ClusterRecord {
    ClusterRecord {
        name: name.to_owned(),
        status: ClusterStatus::Active,
        capacity_providers: Vec::new(),
        default_capacity_provider_strategy: Vec::new(),
        execute_command: None,
        connect_namespace: None,
        tags: Tags::new(),
        deleted_at: None,
    }
}

/// `default`, as AWS makes it for those who use Fargate first.
pub(crate) fn default_record() -> ClusterRecord {
    ClusterRecord {
        capacity_providers: vec![crate::definition::FARGATE.into()],
        ..new_record(DEFAULT_CLUSTER)
    }
}

/// Container Insights is the one setting there is, and there are no metrics yet.
fn check_settings(settings: Option<&[ecs::ClusterSetting]>) -> Result<(), ApiError> {
    for setting in settings.unwrap_or_default() {
        let (name, value) =
            (setting.name.as_deref().unwrap_or_default(), setting.value.as_deref().unwrap_or_default());
        match (name, value) {
            ("containerInsights", "disabled") => {}
            ("containerInsights", "enabled" | "enhanced") => {
                return Err(unsupported(&format!("the cluster setting 'containerInsights={value}'")));
            }
            ("containerInsights", _) => {
                return Err(invalid(format!("Invalid value '{value}' for cluster setting {name}.")));
            }
            _ => return Err(invalid(format!("Invalid cluster setting name '{name}'."))),
        }
    }
    Ok(())
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: ecs::CreateClusterRequest,
) -> Result<ecs::CreateClusterResponse, ApiError> {
    let execute_command = exec_logging::checked(input.configuration)?;
    check_settings(input.settings.as_deref())?;
    let name = input.cluster_name.filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT_CLUSTER.into());
    if !is_name(&name) {
        return Err(invalid(format!(
            "Invalid cluster name '{name}'. Up to 255 letters (uppercase and lowercase), numbers, underscores, and hyphens are allowed."
        )));
    }
    let capacity_providers = input.capacity_providers.unwrap_or_default();
    let strategy = input.default_capacity_provider_strategy.unwrap_or_default();
    check_providers(&capacity_providers)?;
    check_strategy(&strategy, &capacity_providers)?;
    let tags = tags::checked(input.tags)?;
    let wanted = ClusterRecord {
        capacity_providers,
        default_capacity_provider_strategy: strategy,
        execute_command,
        connect_namespace: connect_namespace(call, input.service_connect_defaults).await?.flatten(),
        tags,
        ..new_record(&name)
    };
    let made = call
        .update::<ClusterRecord>(&call.scope.cluster(&name), |found| match found {
            Some(found) if found.status != ClusterStatus::Inactive => {
                if agrees(&wanted, &found) {
                    Ok(Some(found))
                } else {
                    Err(inconsistent())
                }
            }
            _ => Ok(Some(wanted.clone())),
        })
        .await?;
    Ok(ecs::CreateClusterResponse { cluster: made.map(|record| shape(call, &record, &Include::all())) })
}

/// Whether what a repeated call asks for is there. What it does not mention may be anything.
fn agrees(wanted: &ClusterRecord, found: &ClusterRecord) -> bool {
    let strategy = &wanted.default_capacity_provider_strategy;
    (wanted.capacity_providers.is_empty() || wanted.capacity_providers == found.capacity_providers)
        && (strategy.is_empty() || *strategy == found.default_capacity_provider_strategy)
        && (wanted.connect_namespace.is_none() || wanted.connect_namespace == found.connect_namespace)
        && (wanted.execute_command.is_none() || wanted.execute_command == found.execute_command)
        && (wanted.tags.is_empty() || wanted.tags == found.tags)
}

/// A call that comes again and says something else.
pub(crate) fn inconsistent() -> ApiError {
    invalid(
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
    )
}

/// Which parts a caller wants to see.
struct Include {
    configurations: bool,
    settings: bool,
    statistics: bool,
    tags: bool,
}

impl Include {
    fn all() -> Self {
        Self { configurations: true, settings: true, statistics: false, tags: true }
    }

    fn of(fields: Option<&[String]>) -> Self {
        let has = |name: &str| fields.unwrap_or_default().iter().any(|field| field == name);
        Self {
            configurations: has("CONFIGURATIONS"),
            settings: has("SETTINGS"),
            statistics: has("STATISTICS"),
            tags: has("TAGS"),
        }
    }
}

fn shape(call: &Call<'_>, cluster: &ClusterRecord, include: &Include) -> ecs::Cluster {
    let tasks: Vec<Json<TaskSummary>> = call.range(&call.scope.tasks(&cluster.name));
    let count = |counts: fn(Status) -> bool| {
        let counted = tasks.iter().filter(|task| counts(task.record.lifecycle.status)).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    };
    let (running, pending) = (count(|status| status == Status::Running), count(Status::is_before_running));
    let services: Vec<Json<ServiceSummary>> = call.range(&call.scope.services_of(&cluster.name));
    let services_that_are = |status: ServiceStatus| {
        let counted = services.iter().filter(|service| service.record.status == status).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    };
    let (active, draining) =
        (services_that_are(ServiceStatus::Active), services_that_are(ServiceStatus::Draining));
    let setting =
        ecs::ClusterSetting { name: Some("containerInsights".into()), value: Some("disabled".into()) };
    ecs::Cluster {
        cluster_arn: Some(call.scope.cluster_arn(&cluster.name)),
        cluster_name: Some(cluster.name.clone()),
        status: Some(cluster.status.name().into()),
        registered_container_instances_count: Some(0),
        running_tasks_count: Some(running),
        pending_tasks_count: Some(pending),
        active_services_count: Some(active),
        statistics: Some(if include.statistics {
            statistics(running, pending, active, draining)
        } else {
            Vec::new()
        }),
        tags: Some(if include.tags { tags::shape(&cluster.tags) } else { Vec::new() }),
        settings: Some(if include.settings { vec![setting] } else { Vec::new() }),
        configuration: exec_logging::shape(cluster).filter(|_| include.configurations),
        capacity_providers: Some(cluster.capacity_providers.clone()),
        default_capacity_provider_strategy: Some(cluster.default_capacity_provider_strategy.clone()),
        service_connect_defaults: cluster
            .connect_namespace
            .clone()
            .map(|namespace| ecs::ClusterServiceConnectDefaults { namespace: Some(namespace) }),
        ..Default::default()
    }
}

fn statistics(running: i32, pending: i32, active: i32, draining: i32) -> Vec<ecs::KeyValuePair> {
    let pair = |name: &str, value: i32| ecs::KeyValuePair {
        name: Some(name.into()),
        value: Some(value.to_string()),
    };
    vec![
        pair("runningEC2TasksCount", 0),
        pair("runningFargateTasksCount", running),
        pair("pendingEC2TasksCount", 0),
        pair("pendingFargateTasksCount", pending),
        pair("activeEC2ServiceCount", 0),
        pair("activeFargateServiceCount", active),
        pair("drainingEC2ServiceCount", 0),
        pair("drainingFargateServiceCount", draining),
    ]
}

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeClustersRequest,
) -> Result<ecs::DescribeClustersResponse, ApiError> {
    let mut identifiers = input.clusters.unwrap_or_default();
    if identifiers.is_empty() {
        identifiers.push(DEFAULT_CLUSTER.into());
    }
    check_count("Clusters", identifiers.len())?;
    let include = Include::of(input.include.as_deref());
    let (mut clusters, mut failures) = (Vec::new(), Vec::new());
    for identifier in identifiers {
        let name = names::cluster(&call.scope, Some(&identifier))?;
        match call.get::<ClusterRecord>(&call.scope.cluster(&name)) {
            Some(found) => clusters.push(shape(call, &found.record, &include)),
            None => failures.push(missing(call.scope.cluster_arn(&name))),
        }
    }
    Ok(ecs::DescribeClustersResponse { clusters: Some(clusters), failures: Some(failures) })
}

pub(crate) fn missing(arn: String) -> ecs::Failure {
    ecs::Failure { arn: Some(arn), reason: Some("MISSING".into()), detail: None }
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListClustersRequest,
) -> Result<ecs::ListClustersResponse, ApiError> {
    let clusters: Vec<Json<ClusterRecord>> = call.range(&call.scope.clusters());
    let active = clusters.into_iter().filter(|cluster| cluster.record.status != ClusterStatus::Inactive);
    let page = page(active, |cluster| &cluster.record.name, input.next_token.as_deref(), input.max_results)?;
    let arns = page.items.iter().map(|cluster| call.scope.cluster_arn(&cluster.record.name)).collect();
    Ok(ecs::ListClustersResponse { cluster_arns: Some(arns), next_token: page.next_token })
}

/// First nothing new may begin in it, then it is looked for tasks, then it is gone: a RunTask that comes between finds
/// either the cluster or its end.
pub(crate) async fn delete(
    call: &Call<'_>,
    input: ecs::DeleteClusterRequest,
) -> Result<ecs::DeleteClusterResponse, ApiError> {
    let name = names::cluster(&call.scope, input.cluster.as_deref())?;
    let key = call.scope.cluster(&name);
    let found = call.get::<ClusterRecord>(&key).ok_or_else(cluster_not_found)?.record;
    if found.status == ClusterStatus::Inactive {
        return Ok(ecs::DeleteClusterResponse { cluster: Some(shape(call, &found, &Include::all())) });
    }
    check_empty(call, &name)?;
    set_status(call, &key, ClusterStatus::Deprovisioning).await?;
    if let Err(busy) = check_empty(call, &name) {
        set_status(call, &key, ClusterStatus::Active).await?;
        return Err(busy);
    }
    let record = set_status(call, &key, ClusterStatus::Inactive).await?;
    Ok(ecs::DeleteClusterResponse { cluster: Some(shape(call, &record, &Include::all())) })
}

fn check_empty(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    let services: Vec<Json<ServiceSummary>> = call.range(&call.scope.services_of(name));
    if services.iter().any(|service| service.record.status != ServiceStatus::Inactive) {
        let message = "The Cluster cannot be deleted while Services are active.";
        return Err(ApiError::new("ClusterContainsServicesException", message));
    }
    let tasks: Vec<Json<TaskSummary>> = call.range(&call.scope.tasks(name));
    if tasks.iter().all(|task| task.record.lifecycle.status == Status::Stopped) {
        return Ok(());
    }
    let message = "The Cluster cannot be deleted while Tasks are active.";
    Err(ApiError::new("ClusterContainsTasksException", message))
}

async fn set_status(call: &Call<'_>, key: &str, status: ClusterStatus) -> Result<ClusterRecord, ApiError> {
    let written = call
        .update::<ClusterRecord>(key, |found| {
            let mut record = found.ok_or_else(cluster_not_found)?;
            record.status = status;
            record.deleted_at = (status == ClusterStatus::Inactive).then_some(call.cx.now);
            Ok(Some(record))
        })
        .await?;
    written.ok_or_else(cluster_not_found)
}

pub(crate) async fn update(
    call: &Call<'_>,
    input: ecs::UpdateClusterRequest,
) -> Result<ecs::UpdateClusterResponse, ApiError> {
    let execute_command = exec_logging::checked(input.configuration)?;
    let mut cluster = with_settings(call, input.cluster.as_deref(), input.settings.as_deref())?;
    let namespace = connect_namespace(call, input.service_connect_defaults).await?;
    if execute_command.is_some() || namespace.is_some() {
        let name = call.cluster(input.cluster.as_deref())?.record.name;
        let written = call
            .update::<ClusterRecord>(&call.scope.cluster(&name), |found| {
                let found = found.filter(|found| found.status == ClusterStatus::Active);
                let mut record = found.ok_or_else(cluster_not_found)?;
                record.execute_command = execute_command.clone().or(record.execute_command);
                record.connect_namespace = namespace.clone().unwrap_or(record.connect_namespace);
                Ok(Some(record))
            })
            .await?;
        cluster = shape(call, &written.ok_or_else(cluster_not_found)?, &Include::all());
    }
    Ok(ecs::UpdateClusterResponse { cluster: Some(cluster) })
}

/// The ARN of the namespace that `serviceConnectDefaults` asks for; `Some(None)`: it asks for none, `None`: it is not there.
async fn connect_namespace(
    call: &Call<'_>,
    defaults: Option<ecs::ClusterServiceConnectDefaultsRequest>,
) -> Result<Option<Option<String>>, ApiError> {
    match defaults.map(|defaults| defaults.namespace.unwrap_or_default()) {
        None => Ok(None),
        Some(namespace) if namespace.is_empty() => Ok(Some(None)),
        Some(namespace) => {
            let found = Box::pin(namespaces::existing_or_made(call, &namespace)).await?;
            Ok(Some(Some(found.arn)))
        }
    }
}

pub(crate) fn update_settings(
    call: &Call<'_>,
    input: ecs::UpdateClusterSettingsRequest,
) -> Result<ecs::UpdateClusterSettingsResponse, ApiError> {
    let cluster = with_settings(call, input.cluster.as_deref(), input.settings.as_deref())?;
    Ok(ecs::UpdateClusterSettingsResponse { cluster: Some(cluster) })
}

/// The one value the one setting can have is the one it has: nothing is written.
fn with_settings(
    call: &Call<'_>,
    cluster: Option<&str>,
    settings: Option<&[ecs::ClusterSetting]>,
) -> Result<ecs::Cluster, ApiError> {
    let cluster = call.cluster(cluster)?.record;
    check_settings(settings)?;
    Ok(shape(call, &cluster, &Include::all()))
}

pub(crate) async fn put_capacity_providers(
    call: &Call<'_>,
    input: ecs::PutClusterCapacityProvidersRequest,
) -> Result<ecs::PutClusterCapacityProvidersResponse, ApiError> {
    let name = call.cluster(input.cluster.as_deref())?.record.name;
    let providers = input.capacity_providers.unwrap_or_default();
    let strategy = input.default_capacity_provider_strategy.unwrap_or_default();
    check_providers(&providers)?;
    check_strategy(&strategy, &providers)?;
    let written = call
        .transact(|| {
            let found = call.cluster(Some(&name))?;
            let record = ClusterRecord {
                capacity_providers: providers.clone(),
                default_capacity_provider_strategy: strategy.clone(),
                ..found.record
            };
            let txn =
                Txn::new().when_revision(&*found.key, found.mod_revision).put_json(&*found.key, &record);
            Ok((txn, record))
        })
        .await?;
    Ok(ecs::PutClusterCapacityProvidersResponse { cluster: Some(shape(call, &written, &Include::all())) })
}
