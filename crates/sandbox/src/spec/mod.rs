//! From a task definition's container and its image to an OCI runtime specification. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ferrogate_shim::{capabilities, protocol};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder,
};

use crate::{ContainerSpec, Error, TaskSandboxSpec, Ulimit};

mod devices;
#[cfg(test)]
mod tests;

/// What a container gets whose image says nothing of it, as Docker.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Fargate's default, ECS API reference, `ulimits`.
const NOFILE_DEFAULT: u64 = 65_535;
const SHM_SIZE: &str = "size=65536k";
/// Of one container: the machine has some thousands for all (`kernel.pty.max`).
const TERMINALS_MAX: &str = "max=256";
/// The least the kernel takes; ECS gives it to a container without `cpu`.
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;

/// Unreadable in a container: they tell of, or act on, the whole machine.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/dynamic_debug",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

pub const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/pressure",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The whole specification. `etc` holds `hosts`, `hostname` and `resolv.conf`.
pub fn oci_spec(task: &TaskSandboxSpec, container: &ContainerSpec, etc: &Path) -> Result<Spec, Error> {
    let spec = SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(container.readonly_root_filesystem)
                .build()
                .map_err(bug)?,
        )
        .hostname(task.hostname.as_str())
        .process(process(task, container)?)
        .mounts(mounts(task, container, etc)?)
        .linux(linux(task, container)?)
        .build()
        .map_err(bug)?;
    Ok(spec)
}

/// The user to run as: the task definition's, else the image's, else root.
pub fn user(container: &ContainerSpec) -> Option<String> {
    let user = container.user.as_deref().unwrap_or(&container.image.user);
    (!user.is_empty()).then(|| user.to_owned())
}

fn process(task: &TaskSandboxSpec, container: &ContainerSpec) -> Result<Process, Error> {
    let kept: oci_spec::runtime::Capabilities = container_capabilities(container)?.into_iter().collect();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(kept.clone())
        .effective(kept.clone())
        .permitted(kept)
        .inheritable(Vec::new().into_iter().collect::<oci_spec::runtime::Capabilities>())
        .ambient(Vec::new().into_iter().collect::<oci_spec::runtime::Capabilities>())
        .build()
        .map_err(bug)?;
    let directory = match container.working_directory.as_deref().unwrap_or(&container.image.working_directory)
    {
        "" => "/",
        directory if directory.starts_with('/') => directory,
        directory => {
            return Err(Error::Invalid {
                what: format!("working directory {directory:?} of container {:?}", container.id),
                why: "it must be an absolute path".into(),
            });
        }
    };
    ProcessBuilder::default()
        .args(arguments(container)?)
        .env(environment(task, container))
        .cwd(directory)
        .capabilities(capabilities)
        .rlimits(rlimits(container)?)
        .no_new_privileges(!container.allow_new_privileges)
        .terminal(container.pseudo_terminal)
        .build()
        .map_err(bug)
}

/// Entry point and command: one given by the task definition replaces the image's, and an entry point given
/// there discards the image's command too (Docker).
fn arguments(container: &ContainerSpec) -> Result<Vec<String>, Error> {
    let image = &container.image;
    let entry_point = container.entry_point.as_ref().filter(|words| !words.is_empty());
    let command = match (&container.command, entry_point) {
        (Some(command), _) if !command.is_empty() => command.as_slice(),
        (_, Some(_)) => &[],
        (_, None) => &image.command,
    };
    let entry_point = entry_point.unwrap_or(&image.entry_point);
    let arguments: Vec<String> = entry_point.iter().chain(command).cloned().collect();
    if arguments.is_empty() {
        return Err(Error::Invalid {
            what: format!("container {:?}", container.id),
            why: "no command specified: neither the image nor the task definition has an entryPoint or a command"
                .into(),
        });
    }
    Ok(arguments)
}

fn environment(task: &TaskSandboxSpec, container: &ContainerSpec) -> Vec<String> {
    let mut all = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", task.hostname)];
    if container.pseudo_terminal {
        all.push("TERM=xterm".to_owned());
    }
    for pair in &container.image.environment {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        set_variable(&mut all, key, value);
    }
    overlay_environment(&mut all, &container.environment);
    all
}

/// Sets variables in a `KEY=value` list; those already there keep their place.
fn overlay_environment(all: &mut Vec<String>, over: &BTreeMap<String, String>) {
    for (key, value) in over {
        set_variable(all, key, value);
    }
}

fn set_variable(all: &mut Vec<String>, key: &str, value: &str) {
    let pair = format!("{key}={value}");
    let same = |known: &&mut String| known.split_once('=').is_some_and(|(name, _)| name == key);
    match all.iter_mut().find(same) {
        Some(known) => *known = pair,
        None => all.push(pair),
    }
}

/// Docker's default set, plus what is added, minus what is dropped. Only what Fargate itself allows can be added.
fn container_capabilities(container: &ContainerSpec) -> Result<Vec<oci_spec::runtime::Capability>, Error> {
    let mut kept: Vec<&str> = capabilities::DEFAULT.to_vec();
    let named = |text: &str| {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        capabilities::NAMES.iter().copied().find(|known| *known == name).ok_or_else(|| Error::Invalid {
            what: format!("capability {text:?} of container {:?}", container.id),
            why: "the kernel has none of that name".into(),
        })
    };
    for text in &container.capabilities_drop {
        if text.eq_ignore_ascii_case("ALL") {
            kept.clear();
        } else {
            let name = named(text)?;
            kept.retain(|known| *known != name);
        }
    }
    for text in &container.capabilities_add {
        let name = named(text)?;
        if !capabilities::DEFAULT.contains(&name) && !capabilities::ADDABLE.contains(&name) {
            return Err(Error::Invalid {
                what: format!("added capability {text:?} of container {:?}", container.id),
                why: format!("only {} can be added to the default set", capabilities::ADDABLE.join(", ")),
            });
        }
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    kept.iter()
        .map(|name| {
            serde_json::from_value(format!("CAP_{name}").into()).map_err(|error| Error::Invalid {
                what: format!("capability {name}"),
                why: error.to_string(),
            })
        })
        .collect()
}

fn rlimits(container: &ContainerSpec) -> Result<Vec<PosixRlimit>, Error> {
    let mut limits: BTreeMap<String, (u64, u64)> =
        BTreeMap::from([("RLIMIT_NOFILE".to_owned(), (NOFILE_DEFAULT, NOFILE_DEFAULT))]);
    for Ulimit { name, soft, hard } in &container.ulimits {
        if soft > hard {
            return Err(Error::Invalid {
                what: format!("ulimit {name} of container {:?}", container.id),
                why: format!("the soft limit {soft} is above the hard limit {hard}"),
            });
        }
        limits.insert(format!("RLIMIT_{}", name.to_ascii_uppercase()), (*soft, *hard));
    }
    limits
        .into_iter()
        .map(|(name, (soft, hard))| {
            let kind: PosixRlimitType =
                serde_json::from_value(name.clone().into()).map_err(|_| Error::Invalid {
                    what: format!("ulimit {name} of container {:?}", container.id),
                    why: "the kernel has no such limit".into(),
                })?;
            PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().map_err(bug)
        })
        .collect()
}

fn mounts(task: &TaskSandboxSpec, container: &ContainerSpec, etc: &Path) -> Result<Vec<Mount>, Error> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", SHM_SIZE])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", TERMINALS_MAX],
        )?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", SHM_SIZE])?,
    ];
    for file in ["resolv.conf", "hostname", "hosts"] {
        mounts.push(bind(&etc.join(file), &format!("/etc/{file}"), true)?);
    }
    let mut own = Vec::new();
    for tmpfs in &container.tmpfs {
        absolute(container, &tmpfs.container_path)?;
        let size = format!("size={}", tmpfs.size_bytes);
        let mut options: Vec<&str> = tmpfs.mount_options.iter().map(String::as_str).collect();
        // As Docker: what is not said is the careful choice; the size is always the task definition's.
        for (careful, bold) in [("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")] {
            if !options.contains(&bold) && !options.contains(&careful) {
                options.push(careful);
            }
        }
        options.push(&size);
        own.push(mount(&tmpfs.container_path, "tmpfs", "tmpfs", &options)?);
    }
    for volume in &container.mounts {
        absolute(container, &volume.container_path)?;
        own.push(bind(&volume.source, &volume.container_path, volume.read_only)?);
    }
    for volume in volumes(task, container)? {
        let source = task.dir.join(protocol::STORAGE_DIR).join(&volume.made.path);
        own.push(bind(&source, &volume.container_path, volume.read_only)?);
    }
    // A mount below another one must come after it; equal depth keeps the task definition's order.
    own.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(own);
    Ok(mounts)
}

/// A volume and where the container has it.
pub struct MountedVolume {
    pub made: protocol::Volume,
    pub container_path: String,
    pub read_only: bool,
}

/// The task's volumes this container mounts, and one of its own for each `VOLUME` of the image without another mount.
pub fn volumes(task: &TaskSandboxSpec, container: &ContainerSpec) -> Result<Vec<MountedVolume>, Error> {
    let same = |one: &str, other: &str| Path::new(one).components().eq(Path::new(other).components());
    let of_image = |path: &str| container.image.volumes.iter().any(|declared| same(declared, path));
    let mut all = Vec::new();
    for mount in &container.volumes {
        absolute(container, &mount.container_path)?;
        protocol::valid_id(&mount.volume).map_err(|failure| Error::Invalid {
            what: format!("volume {:?} of task {}", mount.volume, task.id),
            why: failure.message,
        })?;
        all.push(MountedVolume {
            made: protocol::Volume {
                path: Path::new(protocol::VOLUMES_DIR).join(&mount.volume),
                copy_image: of_image(&mount.container_path),
            },
            container_path: mount.container_path.clone(),
            read_only: mount.read_only,
        });
    }
    let tmpfs = container.tmpfs.iter().map(|tmpfs| tmpfs.container_path.clone());
    let binds = container.mounts.iter().map(|mount| mount.container_path.clone());
    let taken: Vec<String> =
        all.iter().map(|volume| volume.container_path.clone()).chain(tmpfs).chain(binds).collect();
    for (index, path) in container.image.volumes.iter().enumerate() {
        if taken.iter().any(|taken| same(taken, path)) {
            continue;
        }
        absolute(container, path)?;
        let place = Path::new(protocol::CONTAINERS_DIR).join(&container.id);
        all.push(MountedVolume {
            made: protocol::Volume {
                path: place.join(protocol::VOLUMES_DIR).join(index.to_string()),
                copy_image: true,
            },
            container_path: path.clone(),
            read_only: false,
        });
    }
    Ok(all)
}

fn absolute(container: &ContainerSpec, path: &str) -> Result<(), Error> {
    let inside = PathBuf::from(path);
    let clean = inside.is_absolute()
        && inside != Path::new("/")
        && !inside.components().any(|part| part == std::path::Component::ParentDir);
    if clean {
        return Ok(());
    }
    Err(Error::Invalid {
        what: format!("container path {path:?} of container {:?}", container.id),
        why: "it must be an absolute path below / without ..".into(),
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, Error> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(bug)
}

fn bind(source: &Path, destination: &str, read_only: bool) -> Result<Mount, Error> {
    let access = if read_only { "ro" } else { "rw" };
    let source = source.to_str().ok_or_else(|| Error::Invalid {
        what: format!("mount source {}", source.display()),
        why: "the path is not UTF-8".into(),
    })?;
    mount(destination, "bind", source, &["rbind", "rprivate", "nodev", access])
}

fn linux(task: &TaskSandboxSpec, container: &ContainerSpec) -> Result<Linux, Error> {
    let sysctl: HashMap<String, String> =
        container.system_controls.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let text = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<String>>();
    LinuxBuilder::default()
        .namespaces(namespaces(task)?)
        .resources(resources(container)?)
        .devices(devices::nodes().map_err(bug)?)
        .sysctl(sysctl)
        .masked_paths(text(MASKED_PATHS))
        .readonly_paths(text(READONLY_PATHS))
        .build()
        .map_err(bug)
}

fn namespaces(task: &TaskSandboxSpec) -> Result<Vec<LinuxNamespace>, Error> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    [Mount, Pid, Ipc, Uts, Cgroup, Network]
        .into_iter()
        .map(|kind| {
            let builder = LinuxNamespaceBuilder::default().typ(kind);
            match &task.network_namespace {
                Some(path) if kind == Network => builder.path(path.clone()).build(),
                _ => builder.build(),
            }
            .map_err(bug)
        })
        .collect()
}

fn resources(container: &ContainerSpec) -> Result<LinuxResources, Error> {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = container.memory_bytes {
        // No swap on top: Fargate has none.
        memory = memory.limit(signed(limit)).swap(signed(limit));
    }
    if let Some(reservation) = container.memory_reservation_bytes {
        memory = memory.reservation(signed(reservation));
    }
    let shares = u64::from(container.cpu_units).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX);
    LinuxResourcesBuilder::default()
        .cpu(LinuxCpuBuilder::default().shares(shares).build().map_err(bug)?)
        .memory(memory.build().map_err(bug)?)
        .devices(devices::rules().map_err(bug)?)
        .build()
        .map_err(bug)
}

/// Builders fail only on fields left out, and none is.
fn bug(error: OciSpecError) -> Error {
    Error::Invalid { what: "the container specification".into(), why: error.to_string() }
}
