//! One container of a definition: what it may say wherever it runs, and its defaults.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use ferrogate_api::{ApiError, ecs};

use super::{bad_name, logs};
use crate::errors::{client, unsupported};
use crate::names::is_name;

/// Docker's least.
const MEMORY_MIB_MIN: i32 = 6;
const CPU_UNITS_MAX: i32 = 10 * 1024 * 1024;
const PORT_NAME_CHARACTERS_MAX: usize = 64;

/// Without the `CAP_` in front, as Docker writes them.
const CAPABILITIES: &str = "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN \
    DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE \
    MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN \
    SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG \
    WAKE_ALARM";

/// ECS API reference, Tmpfs, `mountOptions`.
const TMPFS_OPTIONS: &str = "defaults ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand \
    atime noatime diratime nodiratime bind rbind unbindable runbindable private rprivate shared rshared slave rslave \
    relatime norelatime strictatime nostrictatime mode uid gid nr_inodes nr_blocks mpol";

/// Checks it and fills in its defaults.
pub(super) fn check(
    container: &mut ecs::ContainerDefinition,
    volumes: &BTreeSet<String>,
    awsvpc: bool,
) -> Result<(), ApiError> {
    let name = container.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(client("Container.name should not be null or empty."));
    }
    if !is_name(&name) {
        return Err(bad_name("container", &name));
    }
    if container.image.as_deref().is_none_or(|image| image.trim().is_empty()) {
        return Err(client("Container.image should not be null or empty."));
    }
    defaults(container);
    check_numbers(&name, container)?;
    check_environment(&name, container)?;
    check_ulimits(&name, container)?;
    check_mount_points(&name, container, volumes)?;
    check_linux(&name, container)?;
    if let Some(check) = &mut container.health_check {
        check_health(&name, check)?;
    }
    for port in container.port_mappings.iter_mut().flatten() {
        check_port(&name, port, awsvpc)?;
    }
    container.log_configuration.as_ref().map_or(Ok(()), logs::check)
}

/// What ECS adds to a definition's container when it is registered.
fn defaults(container: &mut ecs::ContainerDefinition) {
    container.cpu.get_or_insert(0);
    container.essential.get_or_insert(true);
    container.environment.get_or_insert_default();
    container.mount_points.get_or_insert_default();
    container.volumes_from.get_or_insert_default();
    container.port_mappings.get_or_insert_default();
    container.system_controls.get_or_insert_default();
}

fn in_range(name: &str, what: &str, value: Option<i32>, range: RangeInclusive<i32>) -> Result<(), ApiError> {
    match value {
        Some(value) if !range.contains(&value) => Err(client(format!(
            "Invalid '{what}' setting for container '{name}': {value}. It is between {} and {}.",
            range.start(),
            range.end()
        ))),
        _ => Ok(()),
    }
}

fn check_numbers(name: &str, container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    in_range(name, "cpu", container.cpu, 0..=CPU_UNITS_MAX)?;
    in_range(name, "memory", container.memory, MEMORY_MIB_MIN..=i32::MAX)?;
    in_range(name, "memoryReservation", container.memory_reservation, MEMORY_MIB_MIN..=i32::MAX)?;
    match (container.memory, container.memory_reservation) {
        (Some(memory), Some(reservation)) if reservation > memory => Err(client(format!(
            "Invalid setting for container '{name}'. 'memory' must be greater than 'memoryReservation'."
        ))),
        _ => Ok(()),
    }
}

fn check_environment(name: &str, container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    for variable in container.environment.iter().flatten() {
        check_variable(name, variable)?;
    }
    Ok(())
}

/// Also for overrides.
pub(crate) fn check_variable(name: &str, variable: &ecs::KeyValuePair) -> Result<(), ApiError> {
    let text = variable.name.as_deref().unwrap_or_default();
    let bad =
        |why: &str| client(format!("Invalid environment variable '{text}' of container '{name}': {why}."));
    if text.is_empty() || text.contains(['=', '\0']) {
        return Err(bad("its name must not be empty nor hold '='"));
    }
    if variable.value.as_deref().is_some_and(|value| value.contains('\0')) {
        return Err(bad("its value holds a null character"));
    }
    Ok(())
}

fn check_ulimits(name: &str, container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    for ulimit in container.ulimits.iter().flatten() {
        let kind = ulimit.name.as_deref().unwrap_or_default();
        let bad = |why: String| client(format!("Invalid ulimit '{kind}' of container '{name}': {why}."));
        let (soft, hard) = (ulimit.soft_limit.unwrap_or_default(), ulimit.hard_limit.unwrap_or_default());
        // -1 is no limit.
        let above = hard != -1 && (soft == -1 || soft > hard);
        if above || soft < -1 || hard < -1 {
            return Err(bad(format!("the soft limit {soft} must not be greater than the hard limit {hard}")));
        }
        if !seen.insert(kind) {
            return Err(bad("it is there twice".into()));
        }
    }
    Ok(())
}

fn check_mount_points(
    name: &str,
    container: &ecs::ContainerDefinition,
    volumes: &BTreeSet<String>,
) -> Result<(), ApiError> {
    let mut paths = BTreeSet::new();
    for mount in container.mount_points.iter().flatten() {
        let volume = mount.source_volume.as_deref().unwrap_or_default();
        if !volumes.contains(volume) {
            return Err(client(format!("Unknown volume '{volume}'.")));
        }
        let path = mount.container_path.as_deref().unwrap_or_default();
        let bad = |why: &str| client(format!("Invalid mount point '{path}' of container '{name}': {why}."));
        if !path.starts_with('/') {
            return Err(bad("'containerPath' must be an absolute path"));
        }
        if !paths.insert(path) {
            return Err(bad("it is there twice"));
        }
    }
    Ok(())
}

fn check_linux(name: &str, container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    let linux = container.linux_parameters.clone().unwrap_or_default();
    let capabilities = linux.capabilities.unwrap_or_default();
    for capability in capabilities.add.iter().flatten().chain(capabilities.drop.iter().flatten()) {
        is_one_of(name, "capability", capability, capability, CAPABILITIES)?;
    }
    for tmpfs in linux.tmpfs.iter().flatten() {
        let path = tmpfs.container_path.as_deref().unwrap_or_default();
        if !path.starts_with('/') || tmpfs.size.is_none_or(|size| size < 1) {
            return Err(client(format!(
                "Invalid tmpfs '{path}' of container '{name}': 'containerPath' must be an absolute path and 'size' at least 1 MiB."
            )));
        }
        for option in tmpfs.mount_options.iter().flatten() {
            let key = option.split('=').next().unwrap_or_default();
            is_one_of(name, "tmpfs mount option", option, key, TMPFS_OPTIONS)?;
        }
    }
    for control in container.system_controls.iter().flatten() {
        if control.namespace.as_deref().is_none_or(str::is_empty) || control.value.is_none() {
            let message =
                format!("Invalid system control of container '{name}': it needs 'namespace' and 'value'.");
            return Err(client(message));
        }
    }
    Ok(())
}

fn is_one_of(name: &str, what: &str, given: &str, value: &str, all: &str) -> Result<(), ApiError> {
    if all.split_whitespace().any(|one| one == value) {
        return Ok(());
    }
    let all: Vec<&str> = all.split_whitespace().collect();
    Err(client(format!("Invalid {what} '{given}' of container '{name}'. Must be one of [{}]", all.join(","))))
}

fn check_health(name: &str, check: &mut ecs::HealthCheck) -> Result<(), ApiError> {
    let command = check.command.as_deref().unwrap_or_default();
    let valid = match command.first().map(String::as_str) {
        Some("CMD" | "CMD-SHELL") => command.len() > 1,
        Some("NONE") => true,
        _ => false,
    };
    if !valid {
        return Err(client(format!(
            "Invalid 'healthCheck' setting for container '{name}': 'command' must begin with CMD or CMD-SHELL and say what to run."
        )));
    }
    in_range(name, "healthCheck.interval", check.interval, 5..=300)?;
    in_range(name, "healthCheck.timeout", check.timeout, 2..=60)?;
    in_range(name, "healthCheck.retries", check.retries, 1..=10)?;
    in_range(name, "healthCheck.startPeriod", check.start_period, 0..=300)?;
    check.interval.get_or_insert(30);
    check.timeout.get_or_insert(5);
    check.retries.get_or_insert(3);
    Ok(())
}

fn check_port(name: &str, port: &mut ecs::PortMapping, awsvpc: bool) -> Result<(), ApiError> {
    if port.container_port_range.is_some() {
        return Err(unsupported("'containerPortRange'"));
    }
    in_range(name, "containerPort", Some(port.container_port.unwrap_or_default()), 1..=65_535)?;
    in_range(name, "hostPort", port.host_port, 0..=65_535)?;
    if awsvpc {
        if port.host_port.is_some_and(|host| host != 0 && Some(host) != port.container_port) {
            return Err(client(
                "When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
            ));
        }
        port.host_port = port.container_port;
    }
    port.host_port.get_or_insert(0);
    port.protocol.get_or_insert_with(|| "tcp".into());
    let Some(text) = &port.name else { return Ok(()) };
    let of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=PORT_NAME_CHARACTERS_MAX).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(of_name)
    {
        return Ok(());
    }
    Err(client(format!(
        "Invalid port mapping name '{text}' of container '{name}'. Up to 64 lowercase letters, numbers, underscores, and \
         hyphens are allowed, and no hyphen in front."
    )))
}

/// The containers of a task share one interface, and names of ports are the task's.
pub(super) fn check_ports(containers: &[ecs::ContainerDefinition], awsvpc: bool) -> Result<(), ApiError> {
    let mut used = BTreeSet::new();
    let mut names = BTreeSet::new();
    for container in containers {
        let name = container.name.as_deref().unwrap_or_default();
        for port in container.port_mappings.iter().flatten() {
            if awsvpc && !used.insert((port.container_port, port.protocol.as_deref())) {
                let number = port.container_port.unwrap_or_default();
                return Err(client(format!(
                    "Invalid port mapping of container '{name}': port {number} is mapped twice."
                )));
            }
            if let Some(text) = &port.name
                && !names.insert(text)
            {
                return Err(client(format!("Port mapping names should be unique: '{text}' is there twice.")));
            }
        }
    }
    Ok(())
}
