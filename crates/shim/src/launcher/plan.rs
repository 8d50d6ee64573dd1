//! A container's specification checked and brought into the form the child works through. Everything that can
//! be refused is refused here, before anything exists.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDeviceType, LinuxNamespaceType, LinuxResources, PosixRlimitType, Process, Spec,
};

use super::mounts::{self, MountPlan};
use crate::capabilities;
use crate::cgroup::DeviceRule;
use crate::protocol::{CreateContainer, Exec, Failure, FailureKind, Resources, Rootfs, Seccomp, WindowSize};
use crate::seccomp::Filter;

/// Layers of one overlay; the kernel takes 500, an image has at most 127.
const LAYERS_MAX: usize = 128;
/// System controls that belong to a namespace of the container, ECS API reference, `systemControls`.
const SYSCTLS: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];
const SYSCTL_PREFIXES: &[&str] = &["net.", "fs.mqueue."];
const DEFAULT_UMASK: u32 = 0o022;

pub(crate) struct Plan {
    pub(super) process: ProcessPlan,
    pub(super) hostname: Option<String>,
    pub(super) domainname: Option<String>,
    pub(super) rootfs: Rootfs,
    pub(super) readonly_root: bool,
    pub(super) mounts: Vec<MountPlan>,
    /// Volumes that get what the image has, if they are empty at the first start.
    filled: Vec<PathBuf>,
    pub(super) devices: Vec<DeviceNode>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) masked: Vec<String>,
    pub(super) readonly: Vec<String>,
    pub(super) network_namespace: Option<PathBuf>,
    pub(super) init: bool,
    pub(crate) resources: Resources,
    /// `None`: whatever the parent cgroup allows.
    pub(crate) device_rules: Option<Vec<DeviceRule>>,
}

/// What a process has, whether it is a container's first or one executed into it.
pub(crate) struct ProcessPlan {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) directory: String,
    pub(super) user: User,
    pub(super) umask: u32,
    pub(super) capabilities: CapabilitySets,
    pub(super) no_new_privileges: bool,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) seccomp: Option<Filter>,
    pub(super) terminal: Option<WindowSize>,
}

#[derive(Clone)]
pub(super) enum User {
    /// To be looked up in the container.
    Named(String),
    Numbers {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
}

#[derive(Clone, Copy, Default)]
pub(super) struct CapabilitySets {
    pub(super) bounding: u64,
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
    pub(super) ambient: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Rlimit {
    pub(super) resource: u32,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

pub(super) struct DeviceNode {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

fn unsupported(what: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, format!("{what} is not supported by this launcher"))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

impl Plan {
    pub(crate) fn filled(&self) -> &[PathBuf] {
        &self.filled
    }

    /// `default_filter` is what [`Seccomp::Default`] stands for.
    pub(crate) fn new(create: &CreateContainer, default_filter: &Filter) -> Result<Plan, Failure> {
        let spec = &create.spec;
        refuse_unsupported(spec)?;
        let none = Linux::default();
        let linux = spec.linux().as_ref().unwrap_or(&none);
        check_namespaces(linux)?;
        let seccomp = match create.seccomp {
            Seccomp::Default => Some(default_filter.clone()),
            Seccomp::FromSpec => match linux.seccomp() {
                Some(profile) => Some(
                    Filter::from_profile(profile)
                        .map_err(|error| Failure::new(FailureKind::Unsupported, error.to_string()))?,
                ),
                None => None,
            },
        };
        if let Rootfs::Layers(layers) = &create.rootfs
            && (layers.is_empty() || layers.len() > LAYERS_MAX)
        {
            return Err(invalid(format!("{} root layers: 1 to {LAYERS_MAX} are allowed", layers.len())));
        }
        let process = spec.process().as_ref().ok_or_else(|| invalid("the specification has no process"))?;
        let resources = linux.resources().clone().unwrap_or_default();
        for volume in &create.volumes {
            let inside = volume.path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if !inside || volume.path.as_os_str().is_empty() {
                return Err(invalid(format!("volume {:?} must lie in the storage", volume.path.display())));
            }
        }
        let filled = create.volumes.iter().filter(|volume| volume.copy_image);
        Ok(Plan {
            process: ProcessPlan::new(process, create.user.as_deref(), seccomp)?,
            hostname: spec.hostname().clone(),
            domainname: spec.domainname().clone(),
            rootfs: create.rootfs.clone(),
            readonly_root: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
            mounts: spec.mounts().iter().flatten().map(mounts::plan).collect::<Result<_, _>>()?,
            filled: filled.map(|volume| volume.path.clone()).collect(),
            devices: device_nodes(linux)?,
            sysctls: sysctls(linux)?,
            masked: linux.masked_paths().clone().unwrap_or_default(),
            readonly: linux.readonly_paths().clone().unwrap_or_default(),
            network_namespace: create.network_namespace.clone().or_else(|| network_path(linux)),
            init: create.init,
            resources: cgroup_resources(&resources)?,
            device_rules: device_rules(&resources)?,
        })
    }
}

impl Plan {
    pub(crate) fn has_terminal(&self) -> bool {
        self.process.terminal.is_some()
    }

    /// Of a further process in the container: what it is asked to be, with the rights and limits of the first.
    pub(crate) fn execution(&self, exec: &Exec) -> Result<ProcessPlan, Failure> {
        let own = &self.process;
        let mut environment = own.environment.clone();
        for pair in &exec.environment {
            let name = |pair: &str| pair.split('=').next().map(str::to_owned);
            environment.retain(|known| name(known) != name(pair));
            environment.push(pair.clone());
        }
        let plan = ProcessPlan {
            arguments: exec.arguments.clone(),
            environment,
            directory: exec.directory.clone().unwrap_or_else(|| own.directory.clone()),
            user: exec.user.clone().map_or_else(|| own.user.clone(), User::Named),
            umask: own.umask,
            capabilities: own.capabilities,
            no_new_privileges: own.no_new_privileges,
            rlimits: own.rlimits.clone(),
            oom_score_adj: own.oom_score_adj,
            seccomp: own.seccomp.clone(),
            terminal: exec.terminal,
        };
        plan.check()?;
        Ok(plan)
    }

    /// Whether its processes could trace one that is not theirs.
    pub(crate) fn may_trace(&self) -> bool {
        capabilities::bit("SYS_PTRACE").is_some_and(|bit| self.process.capabilities.bounding & bit != 0)
    }
}

impl ProcessPlan {
    pub(crate) fn new(
        process: &Process,
        user: Option<&str>,
        seccomp: Option<Filter>,
    ) -> Result<ProcessPlan, Failure> {
        for (given, what) in [
            (process.apparmor_profile().is_some(), "process.apparmorProfile"),
            (process.selinux_label().is_some(), "process.selinuxLabel"),
            (process.io_priority().is_some(), "process.ioPriority"),
            (process.scheduler().is_some(), "process.scheduler"),
            (process.exec_cpu_affinity().is_some(), "process.execCPUAffinity"),
        ] {
            if given {
                return Err(unsupported(what));
            }
        }
        let terminal = (process.terminal() == Some(true)).then(|| {
            let characters = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
            let size = process.console_size();
            let (rows, columns) = size.map_or((0, 0), |size| (size.height(), size.width()));
            WindowSize { rows: characters(rows), columns: characters(columns) }
        });
        let numbers = process.user();
        let user = match user {
            Some(name) => User::Named(name.to_owned()),
            None => User::Numbers {
                uid: numbers.uid(),
                gid: numbers.gid(),
                groups: numbers.additional_gids().clone().unwrap_or_default(),
            },
        };
        let plan = ProcessPlan {
            arguments: process.args().clone().unwrap_or_default(),
            environment: process.env().clone().unwrap_or_default(),
            directory: process.cwd().to_string_lossy().into_owned(),
            user,
            umask: numbers.umask().unwrap_or(DEFAULT_UMASK),
            capabilities: capability_sets(process)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
            oom_score_adj: process.oom_score_adj(),
            seccomp,
            terminal,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.arguments.is_empty() {
            return Err(invalid("process.args is empty: there is nothing to execute"));
        }
        let mut texts = self.arguments.iter().chain(&self.environment).chain([&self.directory]);
        if texts.any(|text| text.contains('\0')) {
            return Err(invalid("an argument, environment variable or directory contains a NUL byte"));
        }
        if !self.directory.starts_with('/') {
            return Err(invalid(format!("process.cwd {:?} must be an absolute path", self.directory)));
        }
        Ok(())
    }
}

fn refuse_unsupported(spec: &Spec) -> Result<(), Failure> {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| *hooks != Default::default());
    let mut given =
        vec![(hooks, "hooks"), (spec.windows().is_some(), "windows"), (spec.vm().is_some(), "vm")];
    if let Some(linux) = spec.linux() {
        let maps = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps: &Vec<_>| !maps.is_empty());
        given.extend([
            (maps(linux.uid_mappings()), "linux.uidMappings (user namespaces)"),
            (maps(linux.gid_mappings()), "linux.gidMappings (user namespaces)"),
            (linux.intel_rdt().is_some(), "linux.intelRdt"),
            (linux.personality().is_some(), "linux.personality"),
            (linux.time_offsets().is_some(), "linux.timeOffsets"),
            (linux.mount_label().is_some(), "linux.mountLabel"),
            (linux.memory_policy().is_some(), "linux.memoryPolicy"),
            (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "linux.netDevices"),
            (
                !matches!(linux.rootfs_propagation().as_deref(), None | Some("" | "private" | "rprivate")),
                "linux.rootfsPropagation other than private",
            ),
        ]);
    }
    match given.iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(unsupported(what)),
        None => Ok(()),
    }
}

/// The set is fixed; a specification that asks for less isolation, or for more than we have, is refused.
fn check_namespaces(linux: &Linux) -> Result<(), Failure> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let namespaces = linux.namespaces().clone().unwrap_or_default();
    for wanted in [Mount, Pid, Ipc, Uts, Cgroup, Network] {
        if !namespaces.iter().any(|namespace| namespace.typ() == wanted) {
            return Err(invalid(format!(
                "the specification has no {wanted} namespace: a container always has one"
            )));
        }
    }
    for namespace in &namespaces {
        match namespace.typ() {
            Network | Cgroup | Ipc | Mount | Pid | Uts if namespace.path().is_none() => {}
            Network => {}
            kind => {
                return Err(unsupported(&format!(
                    "namespace {kind}{}",
                    if namespace.path().is_some() { " by path" } else { "" }
                )));
            }
        }
    }
    Ok(())
}

fn network_path(linux: &Linux) -> Option<PathBuf> {
    let namespaces = linux.namespaces().as_ref()?;
    namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?.path().clone()
}

fn capability_sets(process: &Process) -> Result<CapabilitySets, Failure> {
    let Some(given) = process.capabilities() else { return Ok(CapabilitySets::default()) };
    let bits = |set: &Option<oci_spec::runtime::Capabilities>| {
        set.iter().flatten().try_fold(0u64, |bits, capability| {
            let name = capability.to_string();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            capabilities::bit(name)
                .map(|bit| bits | bit)
                .ok_or_else(|| invalid(format!("unknown capability {name}")))
        })
    };
    Ok(CapabilitySets {
        bounding: bits(given.bounding())?,
        effective: bits(given.effective())?,
        permitted: bits(given.permitted())?,
        inheritable: bits(given.inheritable())?,
        ambient: bits(given.ambient())?,
    })
}

fn rlimit(limit: &oci_spec::runtime::PosixRlimit) -> Rlimit {
    use PosixRlimitType as Kind;
    let resource = match limit.typ() {
        Kind::RlimitCpu => libc::RLIMIT_CPU,
        Kind::RlimitFsize => libc::RLIMIT_FSIZE,
        Kind::RlimitData => libc::RLIMIT_DATA,
        Kind::RlimitStack => libc::RLIMIT_STACK,
        Kind::RlimitCore => libc::RLIMIT_CORE,
        Kind::RlimitRss => libc::RLIMIT_RSS,
        Kind::RlimitNproc => libc::RLIMIT_NPROC,
        Kind::RlimitNofile => libc::RLIMIT_NOFILE,
        Kind::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Kind::RlimitAs => libc::RLIMIT_AS,
        Kind::RlimitLocks => libc::RLIMIT_LOCKS,
        Kind::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Kind::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Kind::RlimitNice => libc::RLIMIT_NICE,
        Kind::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Kind::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    Rlimit { resource, soft: limit.soft(), hard: limit.hard() }
}

fn device_nodes(linux: &Linux) -> Result<Vec<DeviceNode>, Failure> {
    let number = |n: i64| u32::try_from(n).map_err(|_| invalid(format!("device number {n} is out of range")));
    linux
        .devices()
        .iter()
        .flatten()
        .map(|device| {
            if device.typ() != LinuxDeviceType::C && device.typ() != LinuxDeviceType::U {
                return Err(unsupported(&format!(
                    "device {} that is not a character device",
                    device.path().display()
                )));
            }
            if !device.path().starts_with("/dev") {
                return Err(invalid(format!("device {} must lie in /dev", device.path().display())));
            }
            Ok(DeviceNode {
                path: device.path().clone(),
                mode: device.file_mode().unwrap_or(0o666) & 0o777,
                major: number(device.major())?,
                minor: number(device.minor())?,
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
            })
        })
        .collect()
}

fn sysctls(linux: &Linux) -> Result<Vec<(String, String)>, Failure> {
    let mut all: Vec<(String, String)> =
        linux.sysctl().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    all.sort();
    for (key, _) in &all {
        let namespaced =
            SYSCTLS.contains(&key.as_str()) || SYSCTL_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        if !namespaced || key.contains('/') || key.contains("..") {
            return Err(invalid(format!(
                "system control {key:?} is not a container's own: {} and {}* are",
                SYSCTLS.join(", "),
                SYSCTL_PREFIXES.join("*, ")
            )));
        }
    }
    Ok(all)
}

fn cgroup_resources(resources: &LinuxResources) -> Result<Resources, Failure> {
    for (given, what) in [
        (resources.block_io().is_some(), "linux.resources.blockIO"),
        (
            resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()),
            "linux.resources.hugepageLimits",
        ),
        (resources.network().is_some(), "linux.resources.network"),
        (resources.rdma().is_some(), "linux.resources.rdma"),
        (resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()), "linux.resources.unified"),
    ] {
        if given {
            return Err(unsupported(what));
        }
    }
    let positive = |value: Option<i64>| value.filter(|value| *value > 0).map(|value| value as u64);
    let mut wanted = Resources::default();
    if let Some(cpu) = resources.cpu() {
        let more =
            cpu.realtime_period().is_some() || cpu.realtime_runtime().is_some() || cpu.burst().is_some();
        if more || cpu.cpus().is_some() || cpu.mems().is_some() || cpu.idle().is_some() {
            return Err(unsupported("linux.resources.cpu beyond shares, quota and period"));
        }
        wanted.cpu_shares = cpu.shares();
        wanted.cpu_quota_us = positive(cpu.quota());
        wanted.cpu_period_us = cpu.period();
    }
    if let Some(memory) = resources.memory() {
        let swap_differs = memory.swap().is_some() && memory.swap() != memory.limit();
        if swap_differs || memory.swappiness().is_some() || memory.disable_oom_killer() == Some(true) {
            return Err(unsupported(
                "linux.resources.memory beyond limit and reservation (swap must equal the limit)",
            ));
        }
        wanted.memory_max_bytes = positive(memory.limit());
        wanted.memory_reservation_bytes = positive(memory.reservation());
    }
    wanted.pids_max = resources.pids().as_ref().and_then(|pids| positive(Some(pids.limit())));
    Ok(wanted)
}

/// First "deny all", then what is allowed: the only form there is here.
fn device_rules(resources: &LinuxResources) -> Result<Option<Vec<DeviceRule>>, Failure> {
    let given = match resources.devices() {
        Some(given) if !given.is_empty() => given,
        _ => return Ok(None),
    };
    let form =
        || invalid("linux.resources.devices must deny everything first and then only allow devices by type");
    let (first, allowed) = given.split_first().ok_or_else(form)?;
    let all = first.typ().is_none_or(|kind| kind == LinuxDeviceType::A);
    if first.allow() || !all || first.major().is_some() || first.minor().is_some() {
        return Err(form());
    }
    allowed
        .iter()
        .map(|rule| {
            let block = match (rule.allow(), rule.typ()) {
                (true, Some(LinuxDeviceType::B)) => true,
                (true, Some(LinuxDeviceType::C)) => false,
                _ => return Err(form()),
            };
            let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
            let access = rule.access().as_deref().unwrap_or("");
            Ok(DeviceRule {
                block,
                major: number(rule.major()),
                minor: number(rule.minor()),
                read: access.contains('r'),
                write: access.contains('w'),
                mknod: access.contains('m'),
            })
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Where a container keeps its root, below its own directory.
pub(super) fn root_target(directory: &Path) -> PathBuf {
    directory.join("rootfs")
}
