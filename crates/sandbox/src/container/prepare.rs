//! A task's files and configuration, before its shim.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_shim::protocol::{PROTOCOL_VERSION, Resources, TaskConfig};

use super::lost;
use crate::microvm::Machines;
use crate::{Error, TaskSandboxSpec};

/// What the agent needs to know of a task it did not start.
pub(super) const SPEC_FILE: &str = "sandbox.json";
/// Below the task's directory: what is mounted over the containers' `/etc/{hosts,hostname,resolv.conf}`.
pub(super) const ETC_DIR: &str = "etc";
const CPU_PERIOD_US: u64 = 100_000;
const CPU_UNITS_PER_VCPU: u64 = 1024;
/// A task never has more than this part of the machine's process numbers, or one could take them all.
const PIDS_PART: u64 = 4;
/// What Linux has at least, unless somebody set it lower.
const PIDS_LEAST: u64 = 32_768;

/// The task's cgroup, and the one of its instance's shims.
pub(super) fn cgroup_paths(instance: &str, task_id: &str) -> Result<(PathBuf, PathBuf), Error> {
    for (what, id) in [("task id", task_id), ("instance", instance)] {
        ferrogate_shim::protocol::valid_id(id)
            .map_err(|failure| Error::Invalid { what: what.into(), why: failure.message })?;
    }
    let instance = Path::new("ferrogate").join(instance);
    Ok((instance.join(task_id), instance.join(".shims")))
}

pub(super) fn task_config(spec: &TaskSandboxSpec) -> Result<TaskConfig, Error> {
    let (cgroup, shim_cgroup) = cgroup_paths(&spec.instance, &spec.id)?;
    let limited = |value: u64| (value > 0).then_some(value);
    Ok(TaskConfig {
        version: PROTOCOL_VERSION,
        cgroup,
        shim_cgroup,
        resources: Resources {
            cpu_shares: None,
            cpu_quota_us: limited(u64::from(spec.cpu_units) * CPU_PERIOD_US / CPU_UNITS_PER_VCPU),
            cpu_period_us: limited(u64::from(spec.cpu_units)).map(|_| CPU_PERIOD_US),
            memory_max_bytes: limited(spec.memory_bytes),
            memory_reservation_bytes: None,
            pids_max: Some(spec.pids_max.unwrap_or(u64::MAX).min(machine_pids() / PIDS_PART)),
        },
        shared_pid_namespace: spec.shared_pid_namespace,
        ephemeral_storage: spec.ephemeral_storage.is_some(),
        machine: None,
    })
}

/// How many processes and threads this machine can have.
fn machine_pids() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    let bounds = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    bounds.into_iter().filter_map(read).min().unwrap_or(PIDS_LEAST)
}

/// Writes what the shim reads, and completes the configuration by what it takes to make it.
pub(super) async fn prepare(
    spec: &TaskSandboxSpec,
    config: &mut TaskConfig,
    machines: Option<Arc<Machines>>,
) -> Result<(), Error> {
    let etc = spec.dir.join(ETC_DIR);
    tokio::fs::create_dir_all(&etc).await.map_err(|source| Error::Io {
        action: "make",
        path: etc.clone(),
        source,
    })?;
    // Secrets may lie in a container's files and environment: nobody else's business.
    set_mode(&spec.dir, 0o700).await?;
    let files = [
        ("hosts", spec.hosts.clone()),
        ("hostname", format!("{}\n", spec.hostname)),
        ("resolv.conf", spec.resolv_conf.clone()),
    ];
    for (file, contents) in &files {
        write_file(&etc.join(file), contents.as_bytes()).await?;
        // For every user of a container, whatever the agent's umask is.
        set_mode(&etc.join(file), 0o644).await?;
    }
    write_json(&spec.dir.join(SPEC_FILE), spec).await?;
    match (machines, spec.ephemeral_storage.clone()) {
        (Some(machines), _) => {
            let (cpu_units, spec) = (spec.cpu_units, spec.clone());
            let mut machine = lost::blocking(move || machines.config(&spec, &files)).await?;
            config.resources = Machines::limit(&mut machine, &config.resources, cpu_units);
            config.ephemeral_storage = false;
            config.machine = Some(Box::new(machine));
        }
        (None, Some(storage)) => {
            let dir = spec.dir.clone();
            lost::blocking(move || crate::storage::make(&storage, &dir)).await?;
        }
        (None, None) => {}
    }
    write_json(&spec.dir.join(ferrogate_shim::protocol::CONFIG_FILE), config).await
}

async fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .await
        .map_err(|source| Error::Io { action: "set the mode of", path: path.into(), source })
}

async fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Io {
        action: "encode",
        path: path.into(),
        source: error.into(),
    })?;
    write_file(path, &text).await
}

async fn write_file(path: &Path, contents: &[u8]) -> Result<(), Error> {
    tokio::fs::write(path, contents).await.map_err(|source| Error::Io {
        action: "write",
        path: path.into(),
        source,
    })
}

pub(super) async fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let io = |source| Error::Io { action: "read", path: path.into(), source };
    let text = tokio::fs::read(path).await.map_err(io)?;
    serde_json::from_slice(&text).map_err(|error| io(error.into()))
}
