//! One container of a definition: what it may say wherever it runs, and its defaults.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use ferrogate_api::{ApiError, ecs};

use super::storage::normal;
use super::{logs, ports, wrong_name};
use crate::errors::{client, unsupported};
use crate::names::is_name;

/// Docker's least.
const MEMORY_MIB_MIN: i32 = 6;
const CPU_UNITS_MAX: i32 = 10 * 1024 * 1024;
const IMAGE_CHARACTERS_MAX: usize = 255;
const IGNORED_EXIT_CODES_MAX: usize = 50;

/// ECS API reference, Ulimit, `name`.
const ULIMITS: &str =
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack";

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

/// Of these, what means nothing for a file system of a container's own, or reaches out of it.
const TMPFS_OPTIONS_NOT_HERE: &str =
    "bind rbind shared rshared slave rslave unbindable runbindable remount mand nomand";

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
        return Err(wrong_name("Container.name", "container", &name));
    }
    check_image(container.image.as_deref().unwrap_or_default())?;
    defaults(container);
    check_numbers(&name, container)?;
    check_environment(&name, container)?;
    check_ulimits(&name, container)?;
    check_mount_points(&name, container, volumes)?;
    check_linux(&name, container)?;
    check_restart(&name, container.restart_policy.as_ref())?;
    if let Some(value) = &container.version_consistency {
        is_one_of(&name, "versionConsistency", value, value, "enabled disabled")?;
    }
    if let Some(check) = &mut container.health_check {
        check_health(&name, check)?;
    }
    for port in container.port_mappings.iter_mut().flatten() {
        ports::check(&name, port, awsvpc)?;
    }
    container.log_configuration.as_ref().map_or(Ok(()), logs::check)
}

/// ECS API reference, ContainerDefinition, `image`: what is in it is the registry's business, that it can be one is ours.
fn check_image(image: &str) -> Result<(), ApiError> {
    if image.trim().is_empty() {
        return Err(client("Container.image should not be null or empty."));
    }
    let of_image = |b: u8| b.is_ascii_alphanumeric() || b"-_:./#@+".contains(&b);
    if image.len() > IMAGE_CHARACTERS_MAX || !image.bytes().all(of_image) {
        return Err(client("Container.image contains invalid characters."));
    }
    Ok(())
}

/// ECS API reference, ContainerRestartPolicy.
fn check_restart(name: &str, policy: Option<&ecs::ContainerRestartPolicy>) -> Result<(), ApiError> {
    let Some(policy) = policy else { return Ok(()) };
    in_range(name, "restartPolicy.restartAttemptPeriod", policy.restart_attempt_period, 60..=1800)?;
    let codes = policy.ignored_exit_codes.as_deref().unwrap_or_default();
    if codes.len() > IGNORED_EXIT_CODES_MAX {
        return Err(client(format!(
            "Invalid 'restartPolicy.ignoredExitCodes' setting for container '{name}': {} exit codes. At most \
             {IGNORED_EXIT_CODES_MAX} can be ignored.",
            codes.len()
        )));
    }
    Ok(())
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

pub(super) fn in_range(
    name: &str,
    what: &str,
    value: Option<i32>,
    range: RangeInclusive<i32>,
) -> Result<(), ApiError> {
    match value {
        Some(value) if !range.contains(&value) => Err(client(format!(
            "Invalid '{what}' setting for container '{name}': {value}. It is between {} and {}.",
            range.start(),
            range.end()
        ))),
        _ => Ok(()),
    }
}

/// Also with overrides.
pub(crate) fn check_numbers(name: &str, container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
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
        is_one_of(name, "ulimit", kind, kind, ULIMITS)?;
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
        if !is_below_root(path) {
            return Err(bad(
                "'containerPath' must be below the container's root and not in /proc or /sys, without '..'",
            ));
        }
        if !paths.insert(normal(path)) {
            return Err(bad("it is there twice"));
        }
    }
    let tmpfs = container.linux_parameters.as_ref().and_then(|linux| linux.tmpfs.as_deref());
    for path in tmpfs.unwrap_or_default().iter().filter_map(|tmpfs| tmpfs.container_path.as_deref()) {
        if !paths.insert(normal(path)) {
            return Err(client(format!(
                "Invalid tmpfs '{path}' of container '{name}': something is mounted there already."
            )));
        }
    }
    Ok(())
}

/// Neither the root itself nor what the kernel shows of itself.
fn is_below_root(path: &str) -> bool {
    let first = path.split('/').find(|part| !part.is_empty() && *part != ".");
    !matches!(first, None | Some("proc" | "sys"))
        && normal(path) != "/"
        && path.split('/').all(|part| part != "..")
        && !path.contains('\0')
}

fn check_linux(name: &str, container: &ecs::ContainerDefinition) -> Result<(), ApiError> {
    let linux = container.linux_parameters.clone().unwrap_or_default();
    let capabilities = linux.capabilities.unwrap_or_default();
    for capability in capabilities.add.iter().flatten().chain(capabilities.drop.iter().flatten()) {
        is_one_of(name, "capability", capability, capability, CAPABILITIES)?;
    }
    for tmpfs in linux.tmpfs.iter().flatten() {
        let path = tmpfs.container_path.as_deref().unwrap_or_default();
        if !path.starts_with('/') || !is_below_root(path) || tmpfs.size.is_none_or(|size| size < 1) {
            return Err(client(format!(
                "Invalid tmpfs '{path}' of container '{name}': 'containerPath' must be an absolute path and 'size' at least 1 MiB."
            )));
        }
        for option in tmpfs.mount_options.iter().flatten() {
            let key = option.split('=').next().unwrap_or_default();
            is_one_of(name, "tmpfs mount option", option, key, TMPFS_OPTIONS)?;
            if TMPFS_OPTIONS_NOT_HERE.split_whitespace().any(|one| one == key) {
                return Err(unsupported(&format!("the tmpfs mount option '{option}' of container '{name}'")));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for control in container.system_controls.iter().flatten() {
        if control.namespace.as_deref().is_none_or(str::is_empty) || control.value.is_none() {
            let message =
                format!("Invalid system control of container '{name}': it needs 'namespace' and 'value'.");
            return Err(client(message));
        }
        let namespace = control.namespace.as_deref().unwrap_or_default();
        if !is_control(namespace) {
            return Err(client(format!(
                "Invalid system control '{namespace}' of container '{name}': it is letters, numbers, underscores and hyphens \
                 with dots between."
            )));
        }
        if !seen.insert(namespace) {
            return Err(client(format!(
                "Invalid system control '{namespace}' of container '{name}': it is there twice."
            )));
        }
    }
    Ok(())
}

/// `net.core.somaxconn`: it becomes a path on the node, so nothing in it may be one already.
fn is_control(namespace: &str) -> bool {
    let of_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    namespace.split('.').all(|part| !part.is_empty() && part.bytes().all(of_part))
}

pub(super) fn is_one_of(name: &str, what: &str, given: &str, value: &str, all: &str) -> Result<(), ApiError> {
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
