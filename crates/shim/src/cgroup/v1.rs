//! One v1 hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{DeviceRule, V1_KILL_CONTROLLER, processes, read_field, read_number, signal_all, write};
use crate::protocol::{Resources, Usage};

/// What `memory.limit_in_bytes` says at most without a limit: LONG_MAX rounded down to pages, whatever their size.
const NO_LIMIT: u64 = 1 << 62;

#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) controllers: Vec<String>,
}

impl Hierarchy {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    pub(super) fn limit(&self, path: &Path, resources: &Resources) -> io::Result<()> {
        let dir = self.mount.join(path);
        let set = |file: &str, value: Option<u64>| match value {
            Some(value) => write(&dir.join(file), &value.to_string()),
            None => Ok(()),
        };
        if self.has("memory") {
            set("memory.limit_in_bytes", resources.memory_max_bytes)?;
            // No swap on top of the memory, where the kernel counts swap at all.
            if dir.join("memory.memsw.limit_in_bytes").exists() {
                set("memory.memsw.limit_in_bytes", resources.memory_max_bytes)?;
            }
            set("memory.soft_limit_in_bytes", resources.memory_reservation_bytes)?;
        }
        if self.has("cpu") {
            set("cpu.shares", resources.cpu_shares)?;
            set("cpu.cfs_period_us", resources.cpu_period_us)?;
            set("cpu.cfs_quota_us", resources.cpu_quota_us)?;
        }
        if self.has("pids") {
            set("pids.max", resources.pids_max)?;
        }
        Ok(())
    }

    pub(super) fn limit_devices(&self, path: &Path, rules: &[DeviceRule]) -> io::Result<()> {
        let dir = self.mount.join(path);
        write(&dir.join("devices.deny"), "a")?;
        rules.iter().try_for_each(|rule| write(&dir.join("devices.allow"), &rule.to_string()))
    }

    pub(super) fn usage(&self, path: &Path, usage: &mut Usage) {
        let dir = self.mount.join(path);
        let number = |file: &str| read_number(&dir.join(file)).unwrap_or(0);
        if self.has("cpuacct") {
            usage.cpu_ns = number("cpuacct.usage");
            usage.cpu_user_ns = number("cpuacct.usage_user");
            usage.cpu_system_ns = number("cpuacct.usage_sys");
        }
        if self.has("cpu") {
            let stat = dir.join("cpu.stat");
            usage.cpu_throttled_ns = read_field(&stat, "throttled_time").unwrap_or(0);
            usage.cpu_periods = read_field(&stat, "nr_periods").unwrap_or(0);
            usage.cpu_throttled_periods = read_field(&stat, "nr_throttled").unwrap_or(0);
        }
        if self.has("memory") {
            usage.memory_bytes = number("memory.usage_in_bytes");
            usage.memory_inactive_file_bytes =
                read_field(&dir.join("memory.stat"), "total_inactive_file").unwrap_or(0);
            usage.memory_peak_bytes = number("memory.max_usage_in_bytes");
            usage.memory_max_bytes =
                read_number(&dir.join("memory.limit_in_bytes")).filter(|limit| *limit < NO_LIMIT);
            usage.oom_kills = self.oom_kills(path);
        }
        if self.has("pids") {
            usage.pids = number("pids.current");
        }
        if self.has("blkio") {
            let text =
                fs::read_to_string(dir.join("blkio.throttle.io_service_bytes_recursive")).unwrap_or_default();
            (usage.io_read_bytes, usage.io_write_bytes) = io_bytes(&text);
        }
    }

    pub(super) fn oom_kills(&self, path: &Path) -> u64 {
        read_field(&self.mount.join(path).join("memory.oom_control"), "oom_kill").unwrap_or(0)
    }

    /// Frozen, no process can fork away from the signal; it dies when thawed.
    pub(super) fn kill_frozen(&self, path: &Path) -> io::Result<()> {
        let dir = self.mount.join(path);
        if !dir.exists() {
            return Ok(());
        }
        let state = dir.join("freezer.state");
        let freezes = self.has(V1_KILL_CONTROLLER) && state.exists();
        if freezes {
            write(&state, "FROZEN")?;
        }
        let killed = processes(&dir).and_then(|pids| signal_all(&pids));
        if freezes {
            write(&state, "THAWED")?;
        }
        killed
    }
}

/// `8:0 Read 4096` lines of all devices, summed.
fn io_bytes(text: &str) -> (u64, u64) {
    let (mut read, mut written) = (0, 0);
    for line in text.lines() {
        let mut words = line.split(' ').skip(1);
        let (kind, count) =
            (words.next(), words.next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0));
        match kind {
            Some("Read") => read += count,
            Some("Write") => written += count,
            _ => {}
        }
    }
    (read, written)
}

#[cfg(test)]
mod tests {
    #[test]
    fn io_is_summed_over_devices() {
        let text = "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\nTotal 31\n";
        assert_eq!(super::io_bytes(text), (11, 20));
    }
}
