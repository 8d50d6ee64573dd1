//! Control groups: v1, v2, and the two side by side ("hybrid": controllers on v1, `cgroup.kill` on v2).
//!
//! Paths are relative to the root of each hierarchy. A cgroup is made in every hierarchy that is of use, so one
//! relative path names it everywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::{Resources, Usage};

pub mod devices;
mod v1;
mod v2;

pub use devices::DeviceRule;

/// Pause between two looks at whether killed processes are gone.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// A sibling's removal can take an empty parent away while we make our own below it.
const CREATE_ATTEMPTS_MAX: u32 = 8;
/// v1 controllers we use; others of a machine are left alone.
const V1_CONTROLLERS: &[&str] = &["memory", "cpu", "cpuacct", "pids", "devices", "blkio"];
/// Every v1 controller there is: what else a mount's options hold is no controller.
const V1_KNOWN: &[&str] = &[
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];
/// What a task's limits are kept by.
const NEEDED_CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];
/// Needed on v1 only where there is no v2 hierarchy to kill by.
const V1_KILL_CONTROLLER: &str = "freezer";

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Mount point of the v2 hierarchy.
    v2: Option<PathBuf>,
    /// Whether memory, cpu and pids are v2's.
    v2_controls: bool,
    /// Controllers by mount point; one mount may carry several (`cpu,cpuacct`).
    v1: Vec<v1::Hierarchy>,
}

impl Cgroups {
    /// Finds the hierarchies in `/proc/self/mountinfo`.
    pub fn detect() -> io::Result<Self> {
        let cgroups = Cgroups::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?);
        if cgroups.v2.is_none() && cgroups.v1.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup hierarchy is mounted: mount one at /sys/fs/cgroup",
            ));
        }
        Ok(cgroups)
    }

    /// No hierarchy at all: for a machine that is none.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn none() -> Self {
        Cgroups::from_mountinfo("")
    }

    fn from_mountinfo(text: &str) -> Self {
        let mut v2 = None;
        let mut v1: Vec<v1::Hierarchy> = Vec::new();
        for line in text.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let Some(mount) = place.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut kind = kind.split(' ');
            match (kind.next(), kind.nth(1)) {
                (Some("cgroup2"), _) => v2 = Some(mount),
                (Some("cgroup"), Some(options)) => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|name| V1_KNOWN.contains(name))
                        .map(str::to_owned)
                        .collect();
                    let of_use =
                        |name: &String| V1_CONTROLLERS.contains(&name.as_str()) || name == V1_KILL_CONTROLLER;
                    let known = v1.iter().any(|h| h.controllers == controllers);
                    if controllers.iter().any(of_use) && !known {
                        v1.push(v1::Hierarchy { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        if v2.is_some() {
            v1.retain(|h| h.controllers != [V1_KILL_CONTROLLER]);
        }
        let v2_controls = !v1.iter().any(|h| h.has("memory") || h.has("cpu") || h.has("pids"));
        Cgroups { v2, v2_controls, v1 }
    }

    /// Whether the controllers are v2's.
    pub fn is_v2(&self) -> bool {
        self.v2_controls
    }

    /// Controllers that tasks need and this kernel does not give: not built, or turned off on its command line.
    pub fn missing(&self) -> Vec<&'static str> {
        let root = self.v2.as_ref().filter(|_| self.v2_controls);
        let listed = root.and_then(|mount| fs::read_to_string(mount.join("cgroup.controllers")).ok());
        let listed = listed.unwrap_or_default();
        let is_there = |name: &str| {
            self.v1.iter().any(|hierarchy| hierarchy.has(name))
                || listed.split_whitespace().any(|known| known == name)
        };
        NEEDED_CONTROLLERS.iter().copied().filter(|name| !is_there(name)).collect()
    }

    /// Mount points of the v1 hierarchies in use with their controllers, to be shown inside a container.
    pub(crate) fn v1_views(&self) -> impl Iterator<Item = (&Path, &[String])> {
        self.v1.iter().map(|h| (h.mount.as_path(), h.controllers.as_slice()))
    }

    /// Makes the cgroup and its ancestors, with these limits. Existing is fine.
    pub fn create(&self, path: &Path, resources: &Resources) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            let made = self.make(path).and_then(|()| self.limit(path, resources));
            attempts += 1;
            match made {
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < CREATE_ATTEMPTS_MAX => {}
                made => return made,
            }
        }
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        if let Some(mount) = &self.v2 {
            if self.v2_controls {
                v2::delegate(mount, path)?;
            }
            make_dir(&mount.join(path))?;
        }
        for hierarchy in &self.v1 {
            make_dir(&hierarchy.mount.join(path))?;
        }
        Ok(())
    }

    fn limit(&self, path: &Path, resources: &Resources) -> io::Result<()> {
        if let Some(mount) = &self.v2
            && self.v2_controls
        {
            v2::limit(&mount.join(path), resources)?;
        }
        self.v1.iter().try_for_each(|hierarchy| hierarchy.limit(path, resources))
    }

    /// Keeps its processes to these devices.
    pub fn limit_devices(&self, path: &Path, rules: &[DeviceRule]) -> io::Result<()> {
        match self.v1.iter().find(|h| h.has("devices")) {
            Some(hierarchy) => hierarchy.limit_devices(path, rules),
            None => match &self.v2 {
                Some(mount) => devices::attach(&mount.join(path), rules),
                None => Ok(()),
            },
        }
    }

    /// The files into which a process writes `0` to move itself there.
    pub fn join_files(&self, path: &Path) -> Vec<PathBuf> {
        self.mounts().map(|mount| mount.join(path).join("cgroup.procs")).collect()
    }

    /// Where the v2 part of it lies, if there is one.
    pub fn v2_dir(&self, path: &Path) -> Option<PathBuf> {
        self.v2.as_ref().map(|mount| mount.join(path))
    }

    /// Moves the calling process.
    pub fn join(&self, path: &Path) -> io::Result<()> {
        self.join_files(path).iter().try_for_each(|file| write(file, "0"))
    }

    pub fn usage(&self, path: &Path) -> Usage {
        let mut usage = Usage::default();
        if let Some(mount) = &self.v2
            && self.v2_controls
        {
            v2::usage(&mount.join(path), &mut usage);
        }
        for hierarchy in &self.v1 {
            hierarchy.usage(path, &mut usage);
        }
        usage
    }

    /// How many of its processes the out-of-memory killer took. (On v1 without those of its children.)
    pub fn oom_kills(&self, path: &Path) -> u64 {
        if let Some(hierarchy) = self.v1.iter().find(|h| h.has("memory")) {
            return hierarchy.oom_kills(path);
        }
        self.v2.as_ref().map_or(0, |mount| v2::oom_kills(&mount.join(path)))
    }

    /// SIGKILL to everything in it and below; returns when all are gone. An absent cgroup is empty.
    pub fn kill_tree(&self, path: &Path, deadline: Duration) -> io::Result<()> {
        let until = Instant::now() + deadline;
        loop {
            self.kill_once(path)?;
            if self.is_empty(path)? {
                return Ok(());
            }
            wait_until(until, path)?;
        }
    }

    /// SIGKILL to everything in it and below, without waiting.
    pub fn kill_once(&self, path: &Path) -> io::Result<()> {
        if let Some(mount) = &self.v2 {
            match write(&mount.join(path).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                Err(error) if is_gone(&error) && !mount.join(path).exists() => return Ok(()),
                // Kernel before 5.14: one by one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            return signal_all(&processes(&mount.join(path))?);
        }
        let Some(hierarchy) = self.v1.iter().find(|h| h.has(V1_KILL_CONTROLLER)).or(self.v1.first()) else {
            return Ok(());
        };
        hierarchy.kill_frozen(path)
    }

    /// Stops everything in it and below, or lets it go on. Returns when it has stopped.
    pub fn freeze(&self, path: &Path, frozen: bool, deadline: Duration) -> io::Result<()> {
        let until = Instant::now() + deadline;
        let flag = if frozen { "1" } else { "0" };
        if let Some(mount) = &self.v2 {
            let dir = mount.join(path);
            write(&dir.join("cgroup.freeze"), flag)?;
            while frozen && read_field(&dir.join("cgroup.events"), "frozen") != Some(1) {
                wait_until(until, path)?;
            }
            return Ok(());
        }
        let Some(hierarchy) = self.v1.iter().find(|h| h.has(V1_KILL_CONTROLLER)) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no hierarchy has a freezer"));
        };
        let state = hierarchy.mount.join(path).join("freezer.state");
        write(&state, if frozen { "FROZEN" } else { "THAWED" })?;
        while frozen && fs::read_to_string(&state)?.trim() != "FROZEN" {
            wait_until(until, path)?;
        }
        Ok(())
    }

    fn is_empty(&self, path: &Path) -> io::Result<bool> {
        for mount in self.mounts() {
            if !processes(&mount.join(path))?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes it with what is below. Retries while the kernel is still busy with dead processes.
    pub fn remove(&self, path: &Path, deadline: Duration) -> io::Result<()> {
        let until = Instant::now() + deadline;
        for mount in self.mounts() {
            while let Err(error) = remove_below(&mount.join(path)) {
                if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > until {
                    return Err(error);
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }

    /// Removes its ancestors as far as they are empty: the last task takes the instance's cgroup with it.
    pub fn remove_empty_ancestors(&self, path: &Path) {
        for mount in self.mounts() {
            for ancestor in path.ancestors().skip(1).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
                if fs::remove_dir(mount.join(ancestor)).is_err() {
                    break;
                }
            }
        }
    }

    fn mounts(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().chain(self.v1.iter().map(|hierarchy| &hierarchy.mount))
    }
}

fn wait_until(until: Instant, path: &Path) -> io::Result<()> {
    if Instant::now() > until {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("cgroup {} does not come to rest", path.display()),
        ));
    }
    std::thread::sleep(POLL_INTERVAL);
    Ok(())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(path),
        Err(error) => Err(error),
    }
}

fn remove_below(path: &Path) -> io::Result<()> {
    // The common case is a leaf.
    match fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Every process in a cgroup directory and below.
fn processes(path: &Path) -> io::Result<Vec<i32>> {
    let text = match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        // A threaded cgroup; ours never are.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        Err(error) => return Err(error),
    };
    let mut found: Vec<i32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path())?);
        }
    }
    Ok(found)
}

fn signal_all(pids: &[i32]) -> io::Result<()> {
    for pid in pids {
        let Some(pid) = rustix::process::Pid::from_raw(*pid) else { continue };
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write {value:?} to {}: {error}", path.display()))
    };
    fs::File::options().write(true).open(path).map_err(named)?.write_all(value.as_bytes()).map_err(named)
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `key value` lines.
fn read_field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    field(&text, key)
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const PURE: &str = "35 23 0:31 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";

    #[test]
    fn hybrid_controls_by_v1_and_kills_by_v2() {
        let found = Cgroups::from_mountinfo(HYBRID);
        assert!(!found.is_v2());
        assert_eq!(found.missing(), ["pids"]);
        let paths: Vec<PathBuf> = found.join_files(Path::new("ferrogate/x"));
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/unified/ferrogate/x/cgroup.procs",
                "/sys/fs/cgroup/cpu,cpuacct/ferrogate/x/cgroup.procs",
                "/sys/fs/cgroup/memory/ferrogate/x/cgroup.procs",
            ]
            .map(PathBuf::from)
        );
    }

    #[test]
    fn pure_v2_controls_by_v2() {
        let found = Cgroups::from_mountinfo(PURE);
        assert!(found.is_v2());
        assert_eq!(found.v2_dir(Path::new("a")), Some("/sys/fs/cgroup/a".into()));
    }

    #[test]
    fn pure_v1_keeps_the_freezer() {
        let text: String =
            HYBRID.lines().filter(|l| !l.contains("cgroup2")).map(|l| format!("{l}\n")).collect();
        let found = Cgroups::from_mountinfo(&text);
        assert!(found.v1.iter().any(|h| h.has("freezer")));
        assert!(!found.is_v2());
    }

    #[test]
    fn fields_are_matched_whole() {
        let text = "oom 3\noom_kill 2\n";
        assert_eq!((field(text, "oom"), field(text, "oom_kill"), field(text, "o")), (Some(3), Some(2), None));
    }
}
