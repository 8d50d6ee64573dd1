//! A task as a node must run it: the task definition with its overrides applied, nothing left to look up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskAssignment {
    pub task_arn: String,
    /// The 32 hex digits at the end of the ARN.
    pub task_id: String,
    pub account: String,
    pub region: String,
    pub availability_zone: String,
    /// `use1-az1`
    #[serde(default)]
    pub availability_zone_id: String,
    pub cluster_arn: String,
    pub family: String,
    pub revision: u32,
    /// `family:<family>`, `service:<service>` or the caller's.
    #[serde(default)]
    pub group: String,
    /// `None`: no service started it.
    #[serde(default)]
    pub service_name: Option<String>,
    #[serde(default)]
    pub created_at: jiff::Timestamp,
    /// `enableExecuteCommand`
    #[serde(default)]
    pub exec_enabled: bool,
    pub desired: DesiredStatus,
    /// The last report the control plane took; 0: none yet. A node that is given a task it does not know and
    /// that was reported before must not start it a second time: it says that the task is lost.
    pub reported_sequence: u64,
    /// 1024 units are one vCPU; the hard limit of the whole task.
    pub cpu_units: u32,
    pub memory_mib: u32,
    pub ephemeral_storage_gib: u32,
    pub architecture: Architecture,
    /// Containers share one PID namespace (`pidMode: task`).
    pub shared_pid_namespace: bool,
    pub network: TaskNetwork,
    /// In task definition order.
    pub containers: Vec<ContainerAssignment>,
    /// Task-scoped volumes, shared by the containers and gone with the task.
    pub volumes: Vec<VolumeAssignment>,
    pub has_task_role: bool,
    /// Service Connect; `None`: the task has no part in it.
    #[serde(default)]
    pub connect: Option<crate::Connect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DesiredStatus {
    Running,
    Stopped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    #[default]
    #[serde(rename = "X86_64")]
    X86_64,
    #[serde(rename = "ARM64")]
    Arm64,
}

/// The task's one network interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskNetwork {
    pub eni_id: String,
    pub vpc_id: String,
    pub subnet_id: String,
    pub mac: String,
    pub private_ip: Ipv4Addr,
    pub subnet_cidr: ipnet::Ipv4Net,
    /// The subnet's `.1`.
    pub gateway: Ipv4Addr,
    /// The VPC's `+2` resolver.
    pub dns_servers: Vec<Ipv4Addr>,
    pub dns_search: Vec<String>,
    /// `ip-172-31-0-5.ec2.internal`
    pub hostname: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Of the same task.
    pub container: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerAssignment {
    pub name: String,
    pub container_arn: String,
    /// `<task id>-<ten digits>`, as on Fargate.
    pub runtime_id: String,
    pub image: String,
    /// What it is to be, whatever its tag says now.
    pub image_digest: Option<String>,
    pub essential: bool,
    /// `None`: the image's.
    pub entry_point: Option<Vec<String>>,
    /// `None`: the image's.
    pub command: Option<Vec<String>>,
    /// Already with what Fargate adds, overrides applied; later wins over the image's.
    pub environment: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_directory: Option<String>,
    /// Relative share inside the task; 0: none.
    pub cpu_units: u32,
    pub memory_mib: Option<u32>,
    pub memory_reservation_mib: Option<u32>,
    pub readonly_root_filesystem: bool,
    pub ulimits: Vec<Ulimit>,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub init_process_enabled: bool,
    pub pseudo_terminal: bool,
    pub interactive: bool,
    pub tmpfs: Vec<Tmpfs>,
    pub system_controls: BTreeMap<String, String>,
    /// Also those it takes from other containers.
    pub mount_points: Vec<MountPoint>,
    /// Whose images' volumes it has as well. Earlier ones give way to later ones.
    #[serde(default)]
    pub volumes_from: Vec<VolumesFrom>,
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Variables whose values come by [`crate::ControlPlane::secrets`]; never written to a disk of the node's.
    #[serde(default)]
    pub secret_names: Vec<String>,
    /// `None`: output is kept with the task on the node only.
    pub logs: Option<LogConfiguration>,
    /// The log configuration as the definition words it, for the metadata endpoint.
    #[serde(default)]
    pub log_driver: Option<LogDriver>,
    pub stop_timeout_seconds: u32,
    pub start_timeout_seconds: Option<u32>,
    pub depends_on: Vec<Dependency>,
    pub health_check: Option<HealthCheck>,
    pub restart_policy: Option<RestartPolicy>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `core`, …
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    pub container_path: String,
    pub size_mib: u32,
    pub mount_options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub volume: String,
    pub container_path: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub container_port: u16,
    /// `tcp` or `udp`
    pub protocol: String,
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDriver {
    /// `awslogs`
    pub name: String,
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeAssignment {
    pub name: String,
}

/// The awslogs driver: the only one here so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfiguration {
    pub group: String,
    pub region: String,
    /// `prefix/container/task id`
    pub stream: String,
    pub create_group: bool,
    pub non_blocking: bool,
    /// Bytes kept for a sink that lags, `max-buffer-size`; non-blocking only.
    pub max_buffer_bytes: u64,
    /// `awslogs-multiline-pattern`: a line that matches starts an event.
    pub multiline_pattern: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub container: String,
    pub condition: DependencyCondition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DependencyCondition {
    Start,
    Complete,
    Success,
    Healthy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// As run: `["CMD", …]` resolved to argv, `CMD-SHELL` to `/bin/sh -c`.
    pub argv: Vec<String>,
    pub interval_seconds: u32,
    pub timeout_seconds: u32,
    pub retries: u32,
    pub start_period_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub ignored_exit_codes: Vec<i32>,
    pub attempt_period_seconds: u32,
}

/// What a private registry wants to see.
#[derive(Clone, Serialize, Deserialize)]
pub struct RegistryCredentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryCredentials({}, …)", self.username)
    }
}

/// Temporary credentials of a role, as the credentials endpoint serves them.
#[derive(Clone, Serialize, Deserialize)]
pub struct RoleCredentials {
    pub role_arn: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub token: String,
    pub expiration: jiff::Timestamp,
}

impl std::fmt::Debug for RoleCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RoleCredentials({}, {}, …)", self.role_arn, self.access_key_id)
    }
}

/// What a task asks for through its agent endpoint; ECS API reference, UpdateTaskProtection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionChange {
    pub enabled: bool,
    /// `None`: ECS's default of two hours.
    pub expires_in_minutes: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    pub enabled: bool,
    /// `None` while it is not protected.
    pub expires_at: Option<jiff::Timestamp>,
}
