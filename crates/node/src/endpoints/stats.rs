//! Figures of a task's containers in the shape of the Docker API's `ContainerStats`, with the network's rates as
//! `network_rate_stats`.
//!
//! A sample is taken when somebody asks and the last one is old enough; rates and `precpu_stats` are over the two
//! last samples. A task that nobody asks about costs nothing. What the kernel does not count by container is not
//! made up: it is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrogate_nodeapi::ContainerAssignment;
use ferrogate_sandbox::{StorageUsage, TaskSandbox, TaskStats, Usage};
use ferrogate_vpc::{Counters, VpcFabric};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::metadata::Disk;
use super::route::Version;

/// As Docker's own.
const SAMPLE_PERIOD: Duration = Duration::from_secs(1);
/// The name Fargate's statistics have for the task's interface.
const INTERFACE: &str = "eth1";
/// Linux counts CPU time in hundredths of a second towards user space, whatever its own clock is.
const TICK_NS: u64 = 10_000_000;
/// user, nice, system, idle, iowait, irq, softirq: what Docker sums up.
const CPU_FIELDS: usize = 7;
/// Where there is no sample before: Go's zero time, as Docker says it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Where the figures come from.
pub(crate) trait Figures: Send + Sync {
    fn usage(&self) -> BoxFuture<'_, Option<TaskStats>>;
    fn counters(&self) -> BoxFuture<'_, Option<Counters>>;
}

/// A task that runs.
pub(crate) struct OfTask {
    pub(crate) sandbox: Arc<dyn TaskSandbox>,
    pub(crate) fabric: VpcFabric,
    pub(crate) task_id: String,
}

impl Figures for OfTask {
    fn usage(&self) -> BoxFuture<'_, Option<TaskStats>> {
        Box::pin(async { self.sandbox.stats().await.ok() })
    }

    fn counters(&self) -> BoxFuture<'_, Option<Counters>> {
        Box::pin(async { self.fabric.counters(&self.task_id).await.ok().flatten() })
    }
}

#[derive(Clone)]
struct Sample {
    at: Timestamp,
    taken: Instant,
    usage: TaskStats,
    host_cpu_ns: u64,
    cpus: usize,
    counters: Option<Counters>,
}

pub(super) struct Sampler {
    figures: Arc<dyn Figures>,
    /// The two last ones, older first. Locked while one is taken, so that many who ask share it.
    samples: Mutex<(Option<Sample>, Option<Sample>)>,
    disk: Mutex<Option<(Instant, Option<Disk>)>>,
}

impl Sampler {
    pub(super) fn new(figures: Arc<dyn Figures>) -> Self {
        Self { figures, samples: Mutex::default(), disk: Mutex::default() }
    }

    /// `None`: the container has no figures, because it does not run.
    pub(super) async fn container(
        &self,
        container: &ContainerAssignment,
        version: Version,
        now: Instant,
    ) -> Option<Value> {
        let (before, last) = self.samples(now).await?;
        shown(container, before.as_ref(), &last, version)
    }

    /// By runtime id; null for a container that does not run. `None`: there are no figures.
    pub(super) async fn task(
        &self,
        containers: &[ContainerAssignment],
        version: Version,
        now: Instant,
    ) -> Option<BTreeMap<String, Value>> {
        let (before, last) = self.samples(now).await?;
        let of = |container: &ContainerAssignment| {
            let stats = shown(container, before.as_ref(), &last, version);
            (container.runtime_id.clone(), stats.unwrap_or(Value::Null))
        };
        Some(containers.iter().map(of).collect())
    }

    /// What the task's ephemeral storage holds; `None` where it has none of its own.
    pub(super) async fn disk(&self, now: Instant) -> Option<Disk> {
        let mut disk = self.disk.lock().await;
        // Not one of the samples: those are for who asks for statistics.
        if disk.is_none_or(|(at, _)| now.saturating_duration_since(at) >= SAMPLE_PERIOD) {
            let storage = self.figures.usage().await.and_then(|usage| usage.storage);
            let of = |storage: StorageUsage| Disk {
                utilized: storage.used_bytes >> 20,
                reserved: storage.size_bytes >> 20,
            };
            *disk = Some((now, storage.map(of)));
        }
        disk.and_then(|(_, disk)| disk)
    }

    async fn samples(&self, now: Instant) -> Option<(Option<Sample>, Sample)> {
        let mut samples = self.samples.lock().await;
        let fresh =
            samples.1.as_ref().is_some_and(|last| now.saturating_duration_since(last.taken) < SAMPLE_PERIOD);
        if !fresh {
            let sample = self.sample(now).await?;
            samples.0 = samples.1.replace(sample);
        }
        Some((samples.0.clone(), samples.1.clone()?))
    }

    async fn sample(&self, taken: Instant) -> Option<Sample> {
        let usage = self.figures.usage().await?;
        let counters = self.figures.counters().await;
        let (host_cpu_ns, cpus) = host_cpu(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        Some(Sample { at: Timestamp::now(), taken, usage, host_cpu_ns, cpus, counters })
    }
}

/// All CPU time since the machine started, and how many CPUs there are. Of `/proc/stat`.
fn host_cpu(text: &str) -> (u64, usize) {
    let mut lines = text.lines();
    let all = lines.next().unwrap_or_default().split_whitespace().skip(1).take(CPU_FIELDS);
    let ticks: u64 = all.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    (ticks.saturating_mul(TICK_NS), lines.take_while(|line| line.starts_with("cpu")).count())
}

impl Sample {
    fn of(&self, container: &str) -> Option<&Usage> {
        self.usage.containers.iter().find(|of| of.id == container).map(|of| &of.usage)
    }
}

/// `None`: it does not run.
fn shown(
    container: &ContainerAssignment,
    before: Option<&Sample>,
    last: &Sample,
    version: Version,
) -> Option<Value> {
    let usage = last.of(&container.name).filter(|usage| usage.pids > 0)?;
    let before = before.and_then(|sample| Some((sample, sample.of(&container.name)?)));
    let preread = before.map_or_else(|| NEVER.to_owned(), |(sample, _)| sample.at.to_string());
    let precpu = before.map_or_else(
        || cpu(&Usage::default(), 0, None),
        |(sample, usage)| cpu(usage, sample.host_cpu_ns, Some(sample.cpus)),
    );
    let mut stats = json!({
        "read": last.at.to_string(),
        "preread": preread,
        "pids_stats": { "current": usage.pids },
        "blkio_stats": blkio(usage),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(usage, last.host_cpu_ns, Some(last.cpus)),
        "precpu_stats": precpu,
        "memory_stats": memory(usage, &last.usage.task),
        "name": container.name,
        "id": container.runtime_id,
    });
    if let Some(counters) = &last.counters {
        stats["networks"] = json!({ INTERFACE: network(counters) });
    }
    if version == Version::V4
        && let Some(rates) = before.and_then(|(sample, _)| rates(sample, last))
    {
        stats["network_rate_stats"] = rates;
    }
    Some(stats)
}

fn cpu(usage: &Usage, host_cpu_ns: u64, cpus: Option<usize>) -> Value {
    let mut cpu = json!({
        "cpu_usage": {
            "total_usage": usage.cpu_ns,
            "usage_in_kernelmode": usage.cpu_system_ns,
            "usage_in_usermode": usage.cpu_user_ns,
        },
        "throttling_data": {
            "periods": usage.cpu_periods,
            "throttled_periods": usage.cpu_throttled_periods,
            "throttled_time": usage.cpu_throttled_ns,
        },
    });
    if let Some(cpus) = cpus {
        cpu["system_cpu_usage"] = host_cpu_ns.into();
        cpu["online_cpus"] = cpus.into();
    }
    cpu
}

/// The limit is the nearer of the container's and the task's.
fn memory(usage: &Usage, task: &Usage) -> Value {
    let limit = [usage.memory_max_bytes, task.memory_max_bytes].into_iter().flatten().min();
    let mut memory = json!({
        "usage": usage.memory_bytes,
        "max_usage": usage.memory_peak_bytes,
        // Both names are looked for: of version 1 of cgroups and of version 2.
        "stats": {
            "inactive_file": usage.memory_inactive_file_bytes,
            "total_inactive_file": usage.memory_inactive_file_bytes,
        },
    });
    if let Some(limit) = limit {
        memory["limit"] = limit.into();
    }
    memory
}

fn blkio(usage: &Usage) -> Value {
    json!({ "io_service_bytes_recursive": [
        { "op": "Read", "value": usage.io_read_bytes },
        { "op": "Write", "value": usage.io_write_bytes },
    ]})
}

fn network(of: &Counters) -> Value {
    json!({
        "rx_bytes": of.rx_bytes,
        "rx_packets": of.rx_packets,
        "rx_errors": of.rx_errors,
        "rx_dropped": of.rx_dropped,
        "tx_bytes": of.tx_bytes,
        "tx_packets": of.tx_packets,
        "tx_errors": of.tx_errors,
        "tx_dropped": of.tx_dropped,
    })
}

fn rates(before: &Sample, last: &Sample) -> Option<Value> {
    let (then, now) = (before.counters.as_ref()?, last.counters.as_ref()?);
    let seconds = last.taken.saturating_duration_since(before.taken).as_secs_f64();
    if seconds <= 0.0 {
        return None;
    }
    Some(json!({
        "rx_bytes_per_sec": now.rx_bytes.saturating_sub(then.rx_bytes) as f64 / seconds,
        "tx_bytes_per_sec": now.tx_bytes.saturating_sub(then.tx_bytes) as f64 / seconds,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_cpu_time() {
        let text = "cpu  1 2 3 4 5 6 7 800 900 1000\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n";
        assert_eq!(host_cpu(text), (28 * TICK_NS, 2));
        assert_eq!(host_cpu(""), (0, 0));
    }
}
