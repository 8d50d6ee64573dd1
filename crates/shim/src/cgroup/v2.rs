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
}
