//! The v2 hierarchy, where it has the controllers.

use std::fs;
use std::io;
use std::path::Path;

use super::{make_dir, read_field, read_number, write};
use crate::protocol::{Resources, Usage};

const CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "io"];

/// Hands the controllers down to `path`: each ancestor must list them for its children.
pub(super) fn delegate(mount: &Path, path: &Path) -> io::Result<()> {
    let available = fs::read_to_string(mount.join("cgroup.controllers"))?;
    let wanted: Vec<String> = CONTROLLERS
        .iter()
        .filter(|name| available.split_whitespace().any(|known| known == **name))
        .map(|name| format!("+{name}"))
        .collect();
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for ancestor in ancestors {
        let dir = mount.join(ancestor);
        make_dir(&dir)?;
        let control = dir.join("cgroup.subtree_control");
        let given = fs::read_to_string(&control)?;
        let missing: Vec<&str> = wanted
            .iter()
            .map(String::as_str)
            .filter(|name| !given.split_whitespace().any(|known| known == &name[1..]))
            .collect();
        if !missing.is_empty() {
            write(&control, &missing.join(" "))?;
        }
    }
    Ok(())
}

pub(super) fn limit(dir: &Path, resources: &Resources) -> io::Result<()> {
    if let Some(shares) = resources.cpu_shares {
        write(&dir.join("cpu.weight"), &weight(shares).to_string())?;
    }
    if let Some(quota) = resources.cpu_quota_us {
        let period = resources.cpu_period_us.unwrap_or(100_000);
        write(&dir.join("cpu.max"), &format!("{quota} {period}"))?;
    }
    if let Some(limit) = resources.memory_max_bytes {
        write(&dir.join("memory.max"), &limit.to_string())?;
        if dir.join("memory.swap.max").exists() {
            write(&dir.join("memory.swap.max"), "0")?;
        }
    }
    if let Some(reservation) = resources.memory_reservation_bytes {
        write(&dir.join("memory.low"), &reservation.to_string())?;
    }
    if let Some(limit) = resources.pids_max {
        write(&dir.join("pids.max"), &limit.to_string())?;
    }
    Ok(())
}

/// v1's 2..=262144 on v2's 1..=10000, as runc and crun map it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

pub(super) fn usage(dir: &Path, usage: &mut Usage) {
    let cpu = dir.join("cpu.stat");
    let nanoseconds = |key: &str| read_field(&cpu, key).unwrap_or(0) * 1000;
    usage.cpu_ns = nanoseconds("usage_usec");
    usage.cpu_user_ns = nanoseconds("user_usec");
    usage.cpu_system_ns = nanoseconds("system_usec");
    usage.cpu_throttled_ns = nanoseconds("throttled_usec");
    usage.cpu_periods = read_field(&cpu, "nr_periods").unwrap_or(0);
    usage.cpu_throttled_periods = read_field(&cpu, "nr_throttled").unwrap_or(0);
    usage.memory_bytes = read_number(&dir.join("memory.current")).unwrap_or(0);
    usage.memory_inactive_file_bytes = read_field(&dir.join("memory.stat"), "inactive_file").unwrap_or(0);
    usage.memory_peak_bytes = read_number(&dir.join("memory.peak")).unwrap_or(0);
    // "max" is no number.
    usage.memory_max_bytes = read_number(&dir.join("memory.max"));
    usage.pids = read_number(&dir.join("pids.current")).unwrap_or(0);
    usage.oom_kills = oom_kills(dir);
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    (usage.io_read_bytes, usage.io_write_bytes) = (io_bytes(&text, "rbytes="), io_bytes(&text, "wbytes="));
}

pub(super) fn oom_kills(dir: &Path) -> u64 {
    read_field(&dir.join("memory.events"), "oom_kill").unwrap_or(0)
}

fn io_bytes(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text = "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=0 rios=1\n";
        assert_eq!((io_bytes(text, "rbytes="), io_bytes(text, "wbytes=")), (15, 20));
    }

    use std::path::PathBuf;

    use crate::cgroup::{Cgroups, DeviceRule};

    /// A directory that looks like a hierarchy: files the kernel would make are there when a cgroup is.
    struct Fake(tempfile::TempDir);

    const FILES: &[(&str, &str)] = &[
        ("cgroup.procs", ""),
        ("cgroup.subtree_control", ""),
        ("cpu.weight", "100"),
        ("cpu.max", "max 100000"),
        ("memory.max", "max"),
        ("memory.low", "0"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
    ];

    impl Fake {
        fn new(controllers: &str) -> (Fake, Cgroups) {
            let fake = Fake(tempfile::tempdir().unwrap());
            fake.make("", FILES);
            fs::write(fake.0.path().join("cgroup.controllers"), controllers).unwrap();
            let mount = fake.0.path().display();
            let line = format!("35 23 0:31 / {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
            let cgroups = Cgroups::from_mountinfo(&line);
            assert!(cgroups.is_v2());
            (fake, cgroups)
        }

        fn make(&self, path: &str, files: &[(&str, &str)]) {
            let directory = self.0.path().join(path);
            fs::create_dir_all(&directory).unwrap();
            for (name, contents) in files {
                fs::write(directory.join(name), contents).unwrap();
            }
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.path().join(path)).unwrap()
        }
    }

    #[test]
    fn limits_are_written_as_the_kernel_names_them() {
        let (fake, cgroups) = Fake::new("cpuset cpu io memory hugetlb pids rdma misc\n");
        for path in ["ferrogate", "ferrogate/i", "ferrogate/i/task"] {
            fake.make(path, FILES);
        }
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(25_000),
            cpu_period_us: Some(100_000),
            memory_max_bytes: Some(512 << 20),
            memory_reservation_bytes: Some(64 << 20),
            pids_max: Some(100),
        };
        cgroups.create(Path::new("ferrogate/i/task"), &resources).unwrap();
        // Every ancestor hands all four down, the cgroup itself none: processes live there.
        for ancestor in ["", "ferrogate/", "ferrogate/i/"] {
            assert_eq!(fake.read(&format!("{ancestor}cgroup.subtree_control")), "+cpu +memory +pids +io");
        }
        let of = |name: &str| fake.read(&format!("ferrogate/i/task/{name}"));
        let written =
            ["cgroup.subtree_control", "cpu.weight", "cpu.max", "memory.max", "memory.low", "pids.max"]
                .map(|name| (name, of(name)));
        // Written over what was there, whose end a real file would not keep.
        let begins = ["", "20", "25000 100000", "536870912", "67108864", "100"];
        for ((name, written), begin) in written.iter().zip(begins) {
            assert!(written.starts_with(begin), "{name}: {written}");
        }
        // Memory is the whole bound: none of it moves to a swap device.
        assert!(of("memory.swap.max").starts_with('0'));
    }

    #[test]
    fn what_a_kernel_lacks_is_not_asked_for() {
        let (fake, cgroups) = Fake::new("cpu pids\n");
        assert_eq!(cgroups.missing(), ["memory"]);
        let files: Vec<(&str, &str)> =
            FILES.iter().copied().filter(|(name, _)| *name != "memory.swap.max").collect();
        fake.make("ferrogate", &files);
        fs::write(fake.0.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        let resources = Resources { memory_max_bytes: Some(1 << 20), ..Resources::default() };
        cgroups.create(Path::new("ferrogate"), &resources).unwrap();
        // Only what was missing, and what there is.
        assert!(fake.read("cgroup.subtree_control").starts_with("+pids"));
        assert!(!fake.0.path().join("ferrogate/memory.swap.max").exists());
        let refused =
            cgroups.create(Path::new("ferrogate"), &Resources { pids_max: Some(1), ..Default::default() });
        refused.unwrap();
        fs::remove_file(fake.0.path().join("ferrogate/cpu.max")).unwrap();
        let cpu = Resources { cpu_quota_us: Some(1000), ..Resources::default() };
        let refused = cgroups.create(Path::new("ferrogate"), &cpu).unwrap_err();
        assert!(refused.to_string().contains("cpu.max"), "{refused}");
    }

    #[test]
    fn usage_is_read_from_the_files_that_are_there() {
        let (fake, cgroups) = Fake::new("cpu io memory pids\n");
        fake.make(
            "t",
            &[
                ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n"),
                ("memory.current", "4096\n"),
                ("memory.peak", "8192\n"),
                ("memory.max", "max\n"),
                ("memory.stat", "anon 1\nfile 2\ninactive_file 1024\n"),
                ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"),
                ("pids.current", "3\n"),
                ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n"),
                ("cgroup.procs", ""),
            ],
        );
        let usage = cgroups.usage(Path::new("t"));
        assert_eq!((usage.cpu_ns, usage.cpu_user_ns, usage.cpu_system_ns), (1_500_000, 1_000_000, 500_000));
        assert_eq!((usage.cpu_periods, usage.cpu_throttled_periods, usage.cpu_throttled_ns), (4, 2, 7000));
        assert_eq!((usage.memory_bytes, usage.memory_peak_bytes), (4096, 8192));
        assert_eq!((usage.memory_inactive_file_bytes, usage.memory_max_bytes), (1024, None));
        assert_eq!((usage.pids, usage.oom_kills, usage.io_read_bytes, usage.io_write_bytes), (3, 1, 10, 20));
        assert_eq!(cgroups.oom_kills(Path::new("t")), 1);
        fs::write(fake.0.path().join("t/memory.max"), "1048576\n").unwrap();
        assert_eq!(cgroups.usage(Path::new("t")).memory_max_bytes, Some(1 << 20));
        // A cgroup that is gone has used nothing anybody can tell.
        assert_eq!(cgroups.usage(Path::new("gone")), Usage::default());
    }

    #[test]
    fn kill_freeze_and_join_take_the_v2_files() {
        let (fake, cgroups) = Fake::new("cpu io memory pids\n");
        let path = Path::new("t");
        fake.make(
            "t",
            &[("cgroup.kill", ""), ("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 1\n")],
        );
        fake.make("t", &[("cgroup.procs", "")]);
        let deadline = std::time::Duration::from_secs(5);
        cgroups.kill_tree(path, deadline).unwrap();
        assert_eq!(fake.read("t/cgroup.kill"), "1");
        cgroups.freeze(path, true, deadline).unwrap();
        assert_eq!(fake.read("t/cgroup.freeze"), "1");
        cgroups.freeze(path, false, deadline).unwrap();
        assert_eq!(fake.read("t/cgroup.freeze"), "0");
        cgroups.join(path).unwrap();
        assert_eq!(fake.read("t/cgroup.procs"), "0");
        let files: Vec<PathBuf> = cgroups.join_files(path);
        assert_eq!(files, [fake.0.path().join("t/cgroup.procs")]);
        // Absent is dead, empty and removed.
        cgroups.kill_tree(Path::new("gone"), deadline).unwrap();
        cgroups.remove(Path::new("gone"), deadline).unwrap();
        // Where devices are limited by a program, the directory must be a cgroup: this one is none.
        assert!(cgroups.limit_devices(path, &[] as &[DeviceRule]).is_err());
    }
}
