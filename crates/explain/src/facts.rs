//! What is known of a task.

use ferrogate_api::ecs;
use ferrogate_nodeapi::Fabric;
use jiff::Timestamp;

use crate::Finding;
use crate::network;

/// Everything that is recorded of one task and what it stands on.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub now: Timestamp,
    pub task: ecs::Task,
    /// `None`: it was deleted.
    pub definition: Option<ecs::TaskDefinition>,
    pub roles: Vec<RoleFact>,
    pub log_groups: Vec<LogGroup>,
    pub fabric: Fabric,
    /// What keeps the task's interface, while it has one, from registries, secrets and logs (tcp 443 of the internet).
    pub no_way_out: Option<Finding>,
    pub node: NodeFacts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolePurpose {
    Execution,
    Task,
}

#[derive(Clone, Debug)]
pub struct RoleFact {
    pub arn: String,
    pub purpose: RolePurpose,
    pub exists: bool,
    /// Its trust policy lets `ecs-tasks.amazonaws.com` assume it.
    pub trusts_tasks: bool,
    /// What the definition needs it for.
    pub rights: Vec<Right>,
}

#[derive(Clone, Debug)]
pub struct Right {
    /// `logs:PutLogEvents`
    pub action: String,
    pub resource: String,
    pub allowed: bool,
}

#[derive(Clone, Debug)]
pub struct LogGroup {
    pub name: String,
    pub region: String,
    pub exists: bool,
    /// `awslogs-create-group`
    pub made_on_demand: bool,
}

/// What only the node knows.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Memory of the largest node of the task's architecture, in MiB; `None`: there is no such node.
    pub largest_mib: Option<u64>,
    /// `pulling nginx:latest: 2 of 4 layers, 3.1 of 6.5 MB`
    pub progress: Option<String>,
    /// What the task's processes listen on; `None`: not looked, for it does not run here.
    pub listeners: Option<Vec<Listener>>,
    /// The last lines of each container, by name.
    pub last_lines: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `tcp` or `udp`
    pub protocol: &'static str,
    pub address: std::net::IpAddr,
    pub port: u16,
}

impl Facts {
    pub(crate) fn containers(&self) -> &[ecs::Container] {
        self.task.containers.as_deref().unwrap_or_default()
    }

    pub(crate) fn definition_of(&self, container: &str) -> Option<&ecs::ContainerDefinition> {
        let all = self.definition.as_ref()?.container_definitions.as_deref()?;
        all.iter().find(|definition| definition.name.as_deref() == Some(container))
    }

    pub(crate) fn reason(&self) -> &str {
        self.task.stopped_reason.as_deref().unwrap_or_default()
    }

    /// A detail of the task's network interface: `subnetId`, `networkInterfaceId`, `privateIPv4Address`.
    pub(crate) fn interface(&self, name: &str) -> Option<&str> {
        let attachments = self.task.attachments.as_deref()?;
        let details = attachments.iter().filter_map(|attachment| attachment.details.as_deref()).flatten();
        details
            .filter(|detail| detail.name.as_deref() == Some(name))
            .find_map(|detail| detail.value.as_deref())
    }

    /// Why a start could not reach what it needed.
    pub(crate) fn blocked(&self) -> Option<Finding> {
        self.no_way_out.clone().or_else(|| network::no_way_out(&self.fabric, self.interface("subnetId")?))
    }

    pub(crate) fn last_lines(&self, container: &str) -> &[String] {
        let found = self.node.last_lines.iter().find(|(name, _)| name == container);
        found.map_or(&[], |(_, lines)| lines)
    }
}

/// What it really runs in, as the node told.
fn isolation(task: &ecs::Task) -> Option<&'static str> {
    let mut attributes = task.attributes.iter().flatten();
    let told = attributes.find(|of| of.name.as_deref() == Some("ferrogate.isolation"))?;
    match told.value.as_deref()? {
        "microvm" => Some("a micro-VM of its own"),
        _ => Some("hardened containers"),
    }
}

/// One line: what it is and for how long.
pub(crate) fn state(facts: &Facts) -> String {
    let task = &facts.task;
    let status = task.last_status.as_deref().unwrap_or("UNKNOWN");
    let ago = |at: Option<Timestamp>| at.map(|at| words(facts.now.as_second() - at.as_second()));
    match status {
        "STOPPED" => {
            let ran = match (task.started_at, task.stopped_at) {
                (Some(started), Some(stopped)) => {
                    format!(", after it had run for {}", words(stopped.as_second() - started.as_second()))
                }
                (None, _) => ", without ever having run".to_owned(),
                _ => String::new(),
            };
            let code = task.stop_code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
            let when = ago(task.stopped_at).map(|ago| format!(" {ago} ago")).unwrap_or_default();
            format!("STOPPED{code}{when}{ran}")
        }
        "RUNNING" => {
            let health = task.health_status.as_deref().unwrap_or("UNKNOWN");
            let since = ago(task.started_at).map(|ago| format!(" for {ago}")).unwrap_or_default();
            let isolation = isolation(task).map(|of| format!(", in {of}")).unwrap_or_default();
            format!("RUNNING{since}{isolation}, health {health}")
        }
        other => {
            let since = ago(task.created_at).map(|ago| format!(", accepted {ago} ago")).unwrap_or_default();
            format!("{other}{since}")
        }
    }
}

/// `2 s`, `3 min`, `5 h`, `2 d`
pub(crate) fn words(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{} s", seconds.max(0)),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
