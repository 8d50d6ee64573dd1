//! The facts that `ferrogate explain` judges, gathered from the services, the node and the kernel.
//!
//! What an API can tell is asked of it, as the root user; the rest is what this node alone can see.

mod rights;

use std::sync::Arc;

use anyhow::{Context, Result};
use ferrogate_api::{Caller, Invoke, Principal, ecs, logs};
use ferrogate_explain::{
    About, Facts, Finding, Listener, LogGroup, NodeFacts, RoleFact, RolePurpose, Weight,
};
use ferrogate_front::{Identity, session_for_service};
use ferrogate_model::{Arn, Clock};
use ferrogate_sandbox::{LogRecord, Transport, read_logs};
use ferrogate_vpc::{Destination, Unreachable};

/// Of each container.
const LAST_LINES_MAX: usize = 3;
const LINE_CHARACTERS_MAX: usize = 200;
const HTTPS: u16 = 443;
const TASKS_SERVICE: &str = "ecs-tasks.amazonaws.com";

/// What facts are gathered from.
pub(crate) struct Sources {
    pub(crate) invoke: Arc<dyn Invoke>,
    pub(crate) identity: Arc<dyn Identity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) root: Principal,
    /// One program, one node.
    pub(crate) node: ferrogate_ecs::Node,
}

/// What the node and EC2 know without being asked by API.
pub(crate) struct Known {
    pub(crate) fabric: ferrogate_nodeapi::Fabric,
    pub(crate) progress: Option<String>,
    pub(crate) output: Vec<(String, Vec<std::path::PathBuf>)>,
    pub(crate) listeners: Option<Vec<ferrogate_sandbox::Listener>>,
}

pub(crate) async fn gather(sources: &Sources, known: Known, task_arn: &str) -> Result<Facts> {
    let arn: Arn = task_arn.parse()?;
    let region = arn.region.as_str();
    let caller = || Caller::Forward(Arc::new(sources.root.clone()));
    let ecs = ecs::Client::new(Arc::clone(&sources.invoke), caller(), region);
    let cluster = arn.resource_id().split('/').next().unwrap_or_default().to_owned();
    let described = ecs
        .describe_tasks(ecs::DescribeTasksRequest {
            cluster: Some(cluster),
            tasks: Some(vec![task_arn.to_owned()]),
            ..Default::default()
        })
        .await?;
    let task =
        described.tasks.into_iter().flatten().next().with_context(|| format!("no such task: {task_arn}"))?;
    let definition = ecs
        .describe_task_definition(ecs::DescribeTaskDefinitionRequest {
            task_definition: task.task_definition_arn.clone(),
            ..Default::default()
        })
        .await
        .ok()
        .and_then(|answer| answer.task_definition);
    let logs = logs::Client::new(Arc::clone(&sources.invoke), caller(), region);
    let groups = log_groups(&logs, definition.as_ref(), region).await?;
    let id = task_arn.rsplit('/').next().unwrap_or_default();
    let running = task.last_status.as_deref() == Some("RUNNING");
    let node = NodeFacts {
        // An image for another processor has nowhere to go.
        largest_mib: has_architecture(&sources.node, definition.as_ref()).then_some(sources.node.memory_mib),
        progress: known.progress,
        listeners: known.listeners.filter(|_| running).map(listeners),
        last_lines: last_lines(&logs, definition.as_ref(), id, known.output).await,
    };
    let mut roles = Vec::new();
    for (purpose, role_arn) in roles_of(&task, definition.as_ref()) {
        let found = sources.identity.role(&role_arn).is_some();
        let now = sources.clock.now();
        let trusts =
            session_for_service(&*sources.identity, &role_arn, TASKS_SERVICE, "explain", now).is_ok();
        let rights = match found {
            true => rights::of(sources, purpose, &role_arn, &arn, &task, definition.as_ref()).await?,
            false => Vec::new(),
        };
        roles.push(RoleFact { arn: role_arn, purpose, exists: found, trusts_tasks: trusts, rights });
    }
    let no_way_out = no_way_out(&known.fabric, &task);
    Ok(Facts {
        now: sources.clock.now(),
        task,
        definition,
        roles,
        log_groups: groups,
        fabric: known.fabric,
        no_way_out,
        node,
    })
}

/// What keeps the task's interface from the internet's HTTPS; `None` also once it is gone.
fn no_way_out(fabric: &ferrogate_nodeapi::Fabric, task: &ecs::Task) -> Option<Finding> {
    let details =
        task.attachments.iter().flatten().filter_map(|attachment| attachment.details.as_ref()).flatten();
    let eni = details.filter(|detail| detail.name.as_deref() == Some("networkInterfaceId"));
    let eni = eni.filter_map(|detail| detail.value.as_deref()).next()?;
    let why = match ferrogate_vpc::reach(fabric, eni, Destination::Internet { port: HTTPS }) {
        Ok(()) | Err(Unreachable::NoInterface { .. }) => return None,
        Err(why) => why,
    };
    let about = match &why {
        Unreachable::SecurityGroupOutbound { .. } | Unreachable::SecurityGroupInbound { .. } => {
            About::SecurityGroup
        }
        Unreachable::NetworkAcl { .. } => About::NetworkAcl,
        _ => About::Route,
    };
    let text = why.to_string();
    let (what, fix) = text.split_once("; ").unwrap_or((&text, "Give it a way to the internet."));
    Some(Finding {
        weight: Weight::Cause,
        about,
        what: format!("Registries, secrets and logs cannot be reached: {what}."),
        evidence: Vec::new(),
        fix: vec![fix.to_owned()],
    })
}

/// The task's own endpoints are ours.
fn listeners(all: Vec<ferrogate_sandbox::Listener>) -> Vec<Listener> {
    let listener = |of: ferrogate_sandbox::Listener| {
        let protocol = match of.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        Listener { protocol, address: of.address, port: of.port }
    };
    let is_ours =
        |of: &Listener| matches!(of.address, std::net::IpAddr::V4(address) if address.is_link_local());
    all.into_iter().map(listener).filter(|of| !is_ours(of)).collect()
}

fn has_architecture(node: &ferrogate_ecs::Node, definition: Option<&ecs::TaskDefinition>) -> bool {
    let platform = definition.and_then(|of| of.runtime_platform.as_ref());
    let wanted = platform.and_then(|of| of.cpu_architecture.as_deref()).unwrap_or("X86_64");
    let arm = node.architecture == ferrogate_nodeapi::Architecture::Arm64;
    wanted == if arm { "ARM64" } else { "X86_64" }
}

fn roles_of(task: &ecs::Task, definition: Option<&ecs::TaskDefinition>) -> Vec<(RolePurpose, String)> {
    let over = task.overrides.clone().unwrap_or_default();
    let execution =
        over.execution_role_arn.or_else(|| definition.and_then(|of| of.execution_role_arn.clone()));
    let own = over.task_role_arn.or_else(|| definition.and_then(|of| of.task_role_arn.clone()));
    let named = [(RolePurpose::Execution, execution), (RolePurpose::Task, own)];
    named.into_iter().filter_map(|(purpose, arn)| Some((purpose, arn?))).collect()
}

/// An option of a container's awslogs driver.
pub(crate) fn log_option<'a>(container: &'a ecs::ContainerDefinition, name: &str) -> Option<&'a str> {
    let logs = container.log_configuration.as_ref()?;
    if logs.log_driver.as_deref() != Some("awslogs") {
        return None;
    }
    logs.options.as_ref()?.get(name).map(String::as_str)
}

fn containers(definition: Option<&ecs::TaskDefinition>) -> &[ecs::ContainerDefinition] {
    definition.and_then(|of| of.container_definitions.as_deref()).unwrap_or_default()
}

async fn log_groups(
    logs: &logs::Client,
    definition: Option<&ecs::TaskDefinition>,
    region: &str,
) -> Result<Vec<LogGroup>> {
    let mut groups = Vec::new();
    for container in containers(definition) {
        let Some(name) = log_option(container, "awslogs-group") else { continue };
        let asked = logs::DescribeLogGroupsRequest {
            log_group_name_prefix: Some(name.to_owned()),
            ..Default::default()
        };
        let found = logs.describe_log_groups(asked).await?;
        groups.push(LogGroup {
            name: name.to_owned(),
            region: region.to_owned(),
            exists: found
                .log_groups
                .iter()
                .flatten()
                .any(|group| group.log_group_name.as_deref() == Some(name)),
            made_on_demand: log_option(container, "awslogs-create-group") == Some("true"),
        });
    }
    Ok(groups)
}

async fn last_lines(
    logs: &logs::Client,
    definition: Option<&ecs::TaskDefinition>,
    task_id: &str,
    kept: Vec<(String, Vec<std::path::PathBuf>)>,
) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for container in containers(definition) {
        let name = container.name.clone().unwrap_or_default();
        let lines = match log_option(container, "awslogs-group") {
            Some(group) => {
                let prefix = log_option(container, "awslogs-stream-prefix").unwrap_or_default();
                let asked = logs::GetLogEventsRequest {
                    log_group_name: Some(group.to_owned()),
                    log_stream_name: Some(format!("{prefix}/{name}/{task_id}")),
                    limit: Some(LAST_LINES_MAX as i32),
                    ..Default::default()
                };
                // A stream that is not there has no lines.
                let events = logs.get_log_events(asked).await.ok().and_then(|answer| answer.events);
                events.into_iter().flatten().filter_map(|event| event.message).collect()
            }
            None => {
                let dirs = kept.iter().filter(|(of, _)| *of == name).flat_map(|(_, dirs)| dirs);
                let records =
                    dirs.filter(|dir| dir.exists()).filter_map(|dir| read_logs(dir, 0).ok()).flatten();
                let text = |record| match record {
                    LogRecord::Line { bytes, .. } => Some(String::from_utf8_lossy(&bytes).into_owned()),
                    LogRecord::Dropped { .. } => None,
                };
                records.filter_map(text).collect()
            }
        };
        all.push((name, shortened(lines)));
    }
    all
}

fn shortened(lines: Vec<String>) -> Vec<String> {
    let from = lines.len().saturating_sub(LAST_LINES_MAX);
    lines[from..].iter().map(|line| line.trim_end().chars().take(LINE_CHARACTERS_MAX).collect()).collect()
}
