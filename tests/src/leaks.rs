//! What is left on the machine of an instance of Ferrogate.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::World;

const CGROUP_DEPTH_MAX: usize = 8;

/// Of tasks: while `ferrogate up` runs there must be none of these without a task.
pub(crate) fn of_tasks(world: &World, data: &Path, instance: &str) -> Vec<String> {
    let mut left = Vec::new();
    let cgroup = format!("/ferrogate/{instance}");
    let edges = processes_in(&format!("{cgroup}/.edges"));
    for pid in processes_in(&cgroup).into_iter().filter(|pid| !edges.contains(pid)) {
        left.push(format!("process {pid}: {}", command_line(pid)));
    }
    for path in cgroups(instance) {
        // The instance's own, its shims', and load balancers' may stand while the program runs; no task's may.
        let of_edges = path.components().any(|part| part.as_os_str() == ".edges");
        if !of_edges && path.file_name().is_some_and(|name| name != instance && name != ".shims") {
            left.push(format!("cgroup {}", path.display()));
        }
    }
    let data_text = data.to_string_lossy();
    let own_disk = format!(" {data_text} ");
    for line in mounts(world).lines().filter(|line| line.contains(&*data_text) && !line.contains(&own_disk)) {
        left.push(format!("mount {line}"));
    }
    for name in listed(&run_dir(world).join("ferrogate/netns")) {
        if name.starts_with(&format!("{instance}.t.")) && !name.starts_with(&format!("{instance}.t.lb-")) {
            left.push(format!("network namespace {name}"));
        }
    }
    let tasks = world.seen(&data.join("tasks"));
    for task in listed(&tasks) {
        for folder in ["sandbox", "volumes"] {
            let path = tasks.join(&task).join(folder);
            if path.exists() {
                left.push(format!("folder {}", path.display()));
            }
        }
    }
    left
}

/// Of all of it: after `ferrogate down`.
pub(crate) fn of_all(world: &World, data: &Path, instance: &str) -> Vec<String> {
    let mut left = Vec::new();
    let data_text = data.to_string_lossy();
    for pid in pids() {
        let line = command_line(pid);
        if line.contains(&*data_text) && pid != world.pid() {
            left.push(format!("process {pid}: {line}"));
        }
    }
    for pid in processes_in(&format!("/ferrogate/{instance}/.edges")) {
        left.push(format!("process {pid}: {}", command_line(pid)));
    }
    for name in listed(&run_dir(world).join("ferrogate/edge")) {
        left.push(format!("folder {}", Path::new("/run/ferrogate/edge").join(name).display()));
    }
    left.extend(cgroups(instance).iter().map(|path| format!("cgroup {}", path.display())));
    for line in
        mounts(world).lines().filter(|line| line.contains("/ferrogate/") && !line.contains("ferrogate-test "))
    {
        left.push(format!("mount {line}"));
    }
    for name in listed(&run_dir(world).join("ferrogate/netns")) {
        left.push(format!("file {}", Path::new("/run/ferrogate/netns").join(name).display()));
    }
    let network = [
        (vec!["ip", "-o", "link"], "link", "lo:"),
        (vec!["ip", "-o", "-4", "address"], "address", " lo "),
        (vec!["ip", "-4", "route"], "route", ""),
        (vec!["nft", "list", "ruleset"], "rule", ""),
    ];
    for (command, what, expected) in network {
        for line in said(world, &command).lines() {
            if expected.is_empty() || !line.contains(expected) {
                left.push(format!("{what} {line}"));
            }
        }
    }
    left
}

/// Processes in a cgroup or below it.
pub(crate) fn processes_in(cgroup: &str) -> Vec<u32> {
    let is_in = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
            path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    // A zombie is still somebody's to reap; it holds nothing.
    pids().filter(is_in).filter(|pid| !is_zombie(*pid)).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    listed(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok())
}

fn is_zombie(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Below every hierarchy: `…/ferrogate/<instance>` and what is in it.
fn cgroups(instance: &str) -> Vec<PathBuf> {
    let mut hierarchies: Vec<PathBuf> = listed(Path::new("/sys/fs/cgroup"))
        .into_iter()
        .map(|name| Path::new("/sys/fs/cgroup").join(name))
        .collect();
    hierarchies.push("/sys/fs/cgroup".into());
    let mut found = Vec::new();
    for hierarchy in hierarchies {
        folders(&hierarchy.join("ferrogate").join(instance), 0, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn folders(path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if depth > CGROUP_DEPTH_MAX || !path.is_dir() {
        return;
    }
    found.push(path.to_owned());
    for name in listed(path) {
        folders(&path.join(name), depth + 1, found);
    }
}

fn mounts(world: &World) -> String {
    fs::read_to_string(format!("/proc/{}/mountinfo", world.pid())).unwrap_or_default()
}

/// `/run` as the namespaces see it.
fn run_dir(world: &World) -> PathBuf {
    format!("/proc/{}/root/run", world.pid()).into()
}

fn listed(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn said(world: &World, command: &[&str]) -> String {
    let output = world.command(command[0]).args(&command[1..]).output().expect("iproute2 and nftables");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
