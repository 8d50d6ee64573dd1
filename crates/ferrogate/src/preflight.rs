//! What this machine must have, said before anything is begun.

use std::path::Path;

use anyhow::{Result, bail};

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
        (
            "/sys/fs/cgroup",
            "a mounted cgroup file system at /sys/fs/cgroup: CPU and memory cannot be limited",
        ),
    ] {
        if !Path::new(path).exists() {
            missing.push(what.into());
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.split_whitespace().any(|name| name == "overlay") {
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

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).exists())
}
