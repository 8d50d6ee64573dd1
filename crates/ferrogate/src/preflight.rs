//! What this machine must have, said before anything is begun.

use std::path::Path;

use anyhow::{Result, bail};
use ferrogate_shim::cgroup::Cgroups;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A task, a connection through the relay and a session hold some descriptors each; a session of a stock host starts
/// programs with 1024.
const DESCRIPTORS_MIN: u64 = 65_536;

/// Refuses with everything that is missing at once, and what would still work.
pub(crate) fn check() -> Result<()> {
    let mut missing: Vec<String> = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push(
            "root: tasks get namespaces, cgroups, mounts and network interfaces of their own. \
             Run it with sudo. Without root these work: env, status, ps and logs against one that runs"
                .into(),
        );
    }
    for (path, what) in [
        (
            "/proc/self/ns/net",
            "network namespaces (CONFIG_NET_NS): no task can have a network interface of its own",
        ),
        ("/proc/self/ns/pid", "PID namespaces (CONFIG_PID_NS): no task can be isolated"),
    ] {
        if !Path::new(path).exists() {
            missing.push(what.into());
        }
    }
    match Cgroups::detect() {
        Ok(cgroups) => missing.extend(cgroups.missing().into_iter().map(|name| {
            format!(
                "the cgroup controller `{name}`: tasks cannot be kept to their limits. Is cgroup_disable={name} on the \
                 kernel's command line? (A Raspberry Pi wants cgroup_enable={name} there.)"
            )
        })),
        Err(error) => missing.push(format!("cgroups: {error}")),
    }
    if !has_file_system("overlay") {
        missing.push("overlayfs (modprobe overlay): images cannot be mounted".into());
    }
    if !on_path("nft") {
        missing.push("nft (apt-get install nftables): security groups cannot be enforced".into());
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks\n  - {}", missing.join("\n  - "))
}

/// As many open files as this process may have, or as many as it needs if that is more. Containers get limits of their own.
pub(crate) fn raise_limits() {
    let given = getrlimit(Resource::Nofile);
    let most = given.maximum.map(|most| most.max(DESCRIPTORS_MIN));
    for maximum in [most, given.maximum] {
        if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
            return;
        }
    }
    tracing::warn!(open_files = given.current, "the limit of open files cannot be raised (ulimit -n)");
}

/// Whether the kernel has it, or gets it from a module now: /proc/filesystems lists what is loaded already, and on a stock
/// host overlay is not before its first mount.
fn has_file_system(name: &str) -> bool {
    use rustix::mount::{FsOpenFlags, fsopen};
    !matches!(fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC), Err(rustix::io::Errno::NODEV))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).exists())
}
