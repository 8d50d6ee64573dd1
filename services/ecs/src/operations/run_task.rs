//! RunTask: up to ten tasks in one transaction.

use std::collections::BTreeMap;

use ferrogate_api::{ApiError, Value, ecs};
use ferrogate_store::Txn;

use super::new_task::NewTask;
use super::overrides::Effective;
use super::settings::{self, DEFAULT_LOG_DRIVER_MODE};
use super::{NO_CAPACITY, clusters, definitions, digest, launch, network, overrides, shape, tasks};
use crate::call::Call;
use crate::definition;
use crate::errors::{client, cluster_not_found, invalid};
use crate::names::{self, DEFAULT_CLUSTER, DefinitionName};
use crate::plan::placement::{self, Needs, NoNode};
use crate::state::{
    ClientTokenRecord, ClusterRecord, ClusterStatus, NetworkRecord, RevisionStatus, Tags, TaskRecord,
};

const CLIENT_TOKEN_CHARACTERS_MAX: usize = 64;

/// A call that may come twice.
struct ClientToken {
    key: String,
    parameters: String,
}

/// The cluster a call means, made by it if it is `default` and not there.
struct Cluster {
    record: ClusterRecord,
    /// 0: to be made.
    mod_revision: u64,
}

/// All that a task is made of but its identity.
struct Plan {
    found: definitions::Found,
    effective: Effective,
    capacity_provider: Option<String>,
    platform_version: String,
    group: String,
    tags: Tags,
}

pub(crate) async fn run(
    call: &Call<'_>,
    input: ecs::RunTaskRequest,
) -> Result<ecs::RunTaskResponse, ApiError> {
    launch::refuse(&input)?;
    let count = launch::count(input.count)?;
    let cluster_name = names::cluster(&call.scope, input.cluster.as_deref())?;
    let name = names::definition(&call.scope, input.task_definition.as_deref().unwrap_or_default())?;
    let token = client_token(call, &input, &cluster_name)?;
    cluster(call, &cluster_name)?;
    if let Some(tasks) = made_before(call, &cluster_name, token.as_ref())? {
        return Ok(answer(&tasks));
    }
    let plan = plan(call, &input, &cluster_name, &name)?;
    let wanted = network::wanted(input.network_configuration.clone())?;
    let invoke = &call.service.invoke;
    let (subnets, roles) = tokio::join!(
        network::resolve(invoke, &call.scope, &wanted),
        network::check_roles(invoke, &call.scope, &plan.effective)
    );
    let subnets = subnets?;
    roles?;
    let architecture = definition::architecture(&plan.found.definition);
    let needs = Needs::new(architecture, plan.effective.memory_mib);
    if let Err(why) = placement::check(&call.service.nodes, needs) {
        return Ok(no_capacity(count, why));
    }
    let zones = call.service.assignments.zones();
    let chosen = placement::spread(&subnets, &zones, call.service.next_zone(count), count);
    let networks: Vec<NetworkRecord> = chosen.into_iter().cloned().collect();
    let tasks = call
        .transact(|| {
            if let Some(tasks) = made_before(call, &cluster_name, token.as_ref())? {
                return Ok((Txn::new(), tasks));
            }
            let cluster = cluster(call, &cluster_name)?;
            let plan = self::plan(call, &input, &cluster_name, &name)?;
            let new = new_task(call, &cluster_name, &input, &plan);
            let tasks: Vec<TaskRecord> = networks.iter().map(|network| new.record(network)).collect();
            Ok((transaction(call, &cluster, &plan, token.as_ref(), &tasks), tasks))
        })
        .await?;
    Ok(answer(&tasks))
}

fn answer(tasks: &[TaskRecord]) -> ecs::RunTaskResponse {
    let tasks = tasks.iter().map(|task| shape::task(task, true)).collect();
    ecs::RunTaskResponse { tasks: Some(tasks), failures: Some(Vec::new()) }
}

fn no_capacity(count: usize, why: NoNode) -> ecs::RunTaskResponse {
    let failure = ecs::Failure { arn: None, reason: Some(NO_CAPACITY.into()), detail: Some(why.to_string()) };
    ecs::RunTaskResponse { tasks: Some(Vec::new()), failures: Some(vec![failure; count]) }
}

fn cluster(call: &Call<'_>, name: &str) -> Result<Cluster, ApiError> {
    let found = call.get::<ClusterRecord>(&call.scope.cluster(name));
    match found {
        Some(found) if found.record.status == ClusterStatus::Active => {
            Ok(Cluster { mod_revision: found.mod_revision, record: found.record })
        }
        Some(found) if name == DEFAULT_CLUSTER && found.record.status == ClusterStatus::Inactive => {
            Ok(Cluster { mod_revision: 0, record: clusters::default_record() })
        }
        Some(_) => Err(ApiError::new("ClusterNotFoundException", "The referenced cluster was inactive.")),
        None if name == DEFAULT_CLUSTER => {
            Ok(Cluster { mod_revision: 0, record: clusters::default_record() })
        }
        None => Err(cluster_not_found()),
    }
}

/// What the request and the definition say, put together. Everything here is checked before anything is asked of EC2.
fn plan(
    call: &Call<'_>,
    input: &ecs::RunTaskRequest,
    cluster_name: &str,
    name: &DefinitionName,
) -> Result<Plan, ApiError> {
    let found = definitions::find(call, name).ok_or_else(|| client("TaskDefinition not found."))?;
    if found.revision.record.status != RevisionStatus::Active {
        return Err(invalid("TaskDefinition is inactive"));
    }
    let cluster = cluster(call, cluster_name)?;
    let capacity_provider = launch::capacity_provider(input, &cluster.record, &found.definition)?;
    let effective = overrides::apply(&call.scope, &found.definition, input.overrides.clone())?;
    launch::check_exec(input, effective.task_role_arn.as_deref())?;
    Ok(Plan {
        capacity_provider,
        platform_version: launch::platform_version(input.platform_version.as_deref())?,
        effective,
        group: launch::group(input.group.clone(), &name.family)?,
        tags: launch::tags(input, cluster_name, &found.revision.record.tags)?,
        found,
    })
}

fn new_task<'a>(
    call: &'a Call<'_>,
    cluster_name: &'a str,
    input: &ecs::RunTaskRequest,
    plan: &'a Plan,
) -> NewTask<'a> {
    NewTask {
        scope: &call.scope,
        cluster: cluster_name,
        family: &plan.found.revision.record.family,
        revision: plan.found.revision.record.revision,
        architecture: definition::architecture(&plan.found.definition),
        effective: &plan.effective,
        group: plan.group.clone(),
        started_by: input.started_by.clone().filter(|by| !by.is_empty()),
        capacity_provider: plan.capacity_provider.clone(),
        exec_enabled: input.enable_execute_command == Some(true),
        platform_version: plan.platform_version.clone(),
        default_log_mode: settings::effective(&*call.service.store, call.cx, DEFAULT_LOG_DRIVER_MODE),
        tags: plan.tags.clone(),
        images: BTreeMap::new(),
        connect: None,
        scheduling: None,
        now: call.cx.now,
    }
}

/// Only if the cluster and the definition are still what they were.
fn transaction(
    call: &Call<'_>,
    cluster: &Cluster,
    plan: &Plan,
    token: Option<&ClientToken>,
    tasks: &[TaskRecord],
) -> Txn {
    let key = call.scope.cluster(&cluster.record.name);
    let revision = &plan.found.revision;
    let mut txn = Txn::new().when_revision(&*revision.key, revision.mod_revision);
    txn = if cluster.mod_revision == 0 {
        let before = call.get::<ClusterRecord>(&key).map_or(0, |found| found.mod_revision);
        txn.when_revision(&key, before).put_json(key, &cluster.record)
    } else {
        txn.when_revision(key, cluster.mod_revision)
    };
    if let Some(token) = token {
        let record = ClientTokenRecord {
            parameters: token.parameters.clone(),
            task_ids: tasks.iter().map(|task| task.task_id.clone()).collect(),
            made_at: call.cx.now,
        };
        txn = txn.when_absent(&token.key).put_json(&token.key, &record);
    }
    tasks.iter().fold(txn, |txn, task| task.put(txn, None))
}

fn client_token(
    call: &Call<'_>,
    input: &ecs::RunTaskRequest,
    cluster_name: &str,
) -> Result<Option<ClientToken>, ApiError> {
    let Some(token) = input.client_token.as_deref().filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    if token.len() > CLIENT_TOKEN_CHARACTERS_MAX || !token.bytes().all(|byte| (33..=126).contains(&byte)) {
        let message = format!(
            "The clientToken may have up to {CLIENT_TOKEN_CHARACTERS_MAX} ASCII characters in the range of 33-126."
        );
        return Err(invalid(message));
    }
    let others = ecs::RunTaskRequest { client_token: None, ..input.clone() };
    let parameters = digest(&others)?;
    Ok(Some(ClientToken { key: call.scope.client_token(cluster_name, token), parameters }))
}

/// The tasks that a call with this token has made, as they are now.
fn made_before(
    call: &Call<'_>,
    cluster_name: &str,
    token: Option<&ClientToken>,
) -> Result<Option<Vec<TaskRecord>>, ApiError> {
    let Some(token) = token else { return Ok(None) };
    let Some(made) = call.get::<ClientTokenRecord>(&token.key) else { return Ok(None) };
    if made.record.parameters == token.parameters {
        let tasks = made.record.task_ids.iter().filter_map(|id| tasks::find(call, cluster_name, id));
        return Ok(Some(tasks.map(|found| found.record).collect()));
    }
    let arn = |id: &String| Value::String(call.scope.arn(format!("task/{cluster_name}/{id}")));
    let message =
        "The client token was used before with other parameters. Use another token for another request.";
    Err(ApiError::new("ConflictException", message)
        .with_member("resourceIds", Value::List(made.record.task_ids.iter().map(arn).collect())))
}
