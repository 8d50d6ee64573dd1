//! How much memory this machine has.

use anyhow::{Context, Result};

const FROM: &str = "/proc/meminfo";

/// In MiB, rounded down: what the kernel gives out in all, without swap.
pub(crate) fn total_mib() -> Result<u64> {
    let text = std::fs::read_to_string(FROM).with_context(|| format!("{FROM} cannot be read"))?;
    total_mib_of(&text).with_context(|| format!("{FROM} says no MemTotal in kB"))
}

fn total_mib_of(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_meminfo() {
        let of = |text: &str| total_mib_of(text);
        assert_eq!(of("MemTotal:       24684084 kB\nMemFree:         1024 kB\n"), Some(24_105));
        assert_eq!(of("MemFree: 1024 kB\nMemTotal: 2047 kB\n"), Some(1));
        for text in ["", "MemFree: 1024 kB\n", "MemTotal: 1024\n", "MemTotal: much kB\n"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert!(total_mib().unwrap() > 0);
    }
}
