//! What is counted, under CloudWatch's names (ELB user guides, "CloudWatch metrics"). Counting is one relaxed addition;
//! names and sums are put together once per report.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_nodeapi::BalancerMetric;

macro_rules! metrics {
    ($($name:ident = $text:literal,)*) => {
        /// A sum over the time between two reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Metric { $($name,)* }
        const NAMES: &[&str] = &[$($text,)*];
    };
}

metrics! {
    RequestCount = "RequestCount",
    Target2xx = "HTTPCode_Target_2XX_Count",
    Target3xx = "HTTPCode_Target_3XX_Count",
    Target4xx = "HTTPCode_Target_4XX_Count",
    Target5xx = "HTTPCode_Target_5XX_Count",
    Elb3xx = "HTTPCode_ELB_3XX_Count",
    Elb4xx = "HTTPCode_ELB_4XX_Count",
    Elb5xx = "HTTPCode_ELB_5XX_Count",
    Elb500 = "HTTPCode_ELB_500_Count",
    Elb502 = "HTTPCode_ELB_502_Count",
    Elb503 = "HTTPCode_ELB_503_Count",
    Elb504 = "HTTPCode_ELB_504_Count",
    NewConnections = "NewConnectionCount",
    RejectedConnections = "RejectedConnectionCount",
    ProcessedBytes = "ProcessedBytes",
    TargetConnectionErrors = "TargetConnectionErrorCount",
    TargetTlsErrors = "TargetTLSNegotiationErrorCount",
    ClientTlsErrors = "ClientTLSNegotiationErrorCount",
    RuleEvaluations = "RuleEvaluations",
    Redirects = "HTTP_Redirect_Count",
    RedirectUrlLimitExceeded = "HTTP_Redirect_Url_Limit_Exceeded_Count",
    FixedResponses = "HTTP_Fixed_Response_Count",
    GrpcRequests = "GrpcRequestCount",
    DesyncNonCompliant = "DesyncMitigationMode_NonCompliant_Request_Count",
    DroppedInvalidHeader = "DroppedInvalidHeaderRequestCount",
    NonStickyRequests = "NonStickyRequestCount",
    NewFlows = "NewFlowCount",
    NewFlowsTcp = "NewFlowCount_TCP",
    NewFlowsTls = "NewFlowCount_TLS",
    NewFlowsUdp = "NewFlowCount_UDP",
    ProcessedBytesTcp = "ProcessedBytes_TCP",
    ProcessedBytesTls = "ProcessedBytes_TLS",
    ProcessedBytesUdp = "ProcessedBytes_UDP",
    TcpClientResets = "TCP_Client_Reset_Count",
    TcpElbResets = "TCP_ELB_Reset_Count",
    TcpTargetResets = "TCP_Target_Reset_Count",
}

/// Threads count apart, so that they do not take a cache line from each other with every request.
const SHARDS: usize = 8;

/// The sums of a balancer, or of one of its target groups.
pub struct Counters {
    shards: [Shard; SHARDS],
    connections: AtomicU64,
    connections_max: AtomicU64,
}

#[repr(align(128))]
struct Shard {
    sums: [AtomicU64; NAMES.len()],
    response_time: ResponseTime,
}

thread_local! {
    static SHARD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Relaxed) % SHARDS
    };
}

/// `TargetResponseTime`, in microseconds.
struct ResponseTime {
    sum: AtomicU64,
    samples: AtomicU64,
    minimum: AtomicU64,
    maximum: AtomicU64,
}

impl Shard {
    const fn new() -> Shard {
        Shard {
            sums: [const { AtomicU64::new(0) }; NAMES.len()],
            response_time: ResponseTime {
                sum: AtomicU64::new(0),
                samples: AtomicU64::new(0),
                minimum: AtomicU64::new(u64::MAX),
                maximum: AtomicU64::new(0),
            },
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            shards: [const { Shard::new() }; SHARDS],
            connections: AtomicU64::new(0),
            connections_max: AtomicU64::new(0),
        }
    }
}

impl Counters {
    fn shard(&self) -> &Shard {
        &self.shards[SHARD.with(|shard| *shard)]
    }

    pub fn add(&self, metric: Metric, count: u64) {
        self.shard().sums[metric as usize].fetch_add(count, Relaxed);
    }

    /// Since the report before.
    pub fn count(&self, metric: Metric) -> u64 {
        self.shards.iter().map(|shard| shard.sums[metric as usize].load(Relaxed)).sum()
    }

    /// From the request having left to the response's head.
    pub fn target_response_time(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let times = &self.shard().response_time;
        times.sum.fetch_add(micros, Relaxed);
        times.samples.fetch_add(1, Relaxed);
        // Most values are no extreme: a look is cheaper than a write that others must see.
        if micros < times.minimum.load(Relaxed) {
            times.minimum.fetch_min(micros, Relaxed);
        }
        if micros > times.maximum.load(Relaxed) {
            times.maximum.fetch_max(micros, Relaxed);
        }
    }

    /// A connection (or flow) that stands, from client or to target, until the guard is dropped.
    pub fn connection(self: &Arc<Self>) -> OpenConnection {
        let now = self.connections.fetch_add(1, Relaxed) + 1;
        self.connections_max.fetch_max(now, Relaxed);
        OpenConnection { counters: self.clone() }
    }

    fn has_counted(&self) -> bool {
        self.shards.iter().flat_map(|shard| &shard.sums).any(|sum| sum.load(Relaxed) > 0)
    }

    pub fn open_connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    fn drain(&self, target_group_arn: Option<&str>, active_name: &str, out: &mut Vec<BalancerMetric>) {
        let metric = |name: &str, sum: f64, minimum: f64, maximum: f64, samples: u64| BalancerMetric {
            name: name.to_owned(),
            target_group_arn: target_group_arn.map(str::to_owned),
            sum,
            minimum,
            maximum,
            samples,
        };
        let all = |of: fn(&ResponseTime) -> &AtomicU64, empty: u64| {
            self.shards.iter().map(move |shard| of(&shard.response_time).swap(empty, Relaxed))
        };
        for (at, name) in NAMES.iter().enumerate() {
            let sum = self.shards.iter().map(|shard| shard.sums[at].swap(0, Relaxed)).sum::<u64>() as f64;
            if sum > 0.0 {
                out.push(metric(name, sum, sum, sum, 1));
            }
        }
        let samples = all(|times| &times.samples, 0).sum();
        if samples > 0 {
            let seconds = |micros: u64| micros as f64 / 1e6;
            out.push(metric(
                "TargetResponseTime",
                seconds(all(|times| &times.sum, 0).sum()),
                seconds(all(|times| &times.minimum, u64::MAX).min().unwrap_or_default()),
                seconds(all(|times| &times.maximum, 0).max().unwrap_or_default()),
                samples,
            ));
        }
        let now = self.connections.load(Relaxed);
        let most = self.connections_max.swap(now, Relaxed).max(now) as f64;
        if most > 0.0 {
            out.push(metric(active_name, most, now as f64, most, 1));
        }
    }
}

/// Counts a connection as open until it is dropped.
pub struct OpenConnection {
    counters: Arc<Counters>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counters.connections.fetch_sub(1, Relaxed);
    }
}

/// All sums of one balancer.
pub struct Metrics {
    pub balancer: Arc<Counters>,
    groups: Mutex<HashMap<String, Arc<Counters>>>,
    /// `ActiveConnectionCount` or `ActiveFlowCount`.
    active_name: &'static str,
}

impl Metrics {
    pub(crate) fn new(active_name: &'static str) -> Metrics {
        Metrics { balancer: Arc::default(), groups: Mutex::default(), active_name }
    }

    /// The sums of one target group; the same while the group is assigned.
    pub fn group(&self, target_group_arn: &str) -> Arc<Counters> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.entry(target_group_arn.to_owned()).or_default().clone()
    }

    /// What was counted since the last call; metrics of nothing are left out, as CloudWatch has them.
    pub fn drain(&self) -> Vec<BalancerMetric> {
        let mut out = Vec::new();
        self.balancer.drain(None, self.active_name, &mut out);
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for (arn, counters) in groups.iter() {
            counters.drain(Some(arn), self.active_name, &mut out);
        }
        out
    }

    /// Groups that are gone have been drained once more and are forgotten.
    pub(crate) fn retain(&self, assigned: impl Fn(&str) -> bool) {
        self.groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|arn, counters| assigned(arn) || counters.has_counted());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_what_was_counted_since_the_last_one() {
        let metrics = Metrics::new("ActiveConnectionCount");
        let open = metrics.balancer.connection();
        metrics.balancer.add(Metric::RequestCount, 3);
        metrics.group("tg").target_response_time(Duration::from_millis(20));
        metrics.group("tg").target_response_time(Duration::from_millis(40));
        let report = metrics.drain();
        let find = |name: &str| report.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!(find("RequestCount").sum, 3.0);
        assert_eq!(find("ActiveConnectionCount").maximum, 1.0);
        let time = find("TargetResponseTime");
        assert_eq!((time.sum, time.minimum, time.maximum, time.samples), (0.06, 0.02, 0.04, 2));
        assert_eq!(time.target_group_arn.as_deref(), Some("tg"));
        drop(open);
        metrics.drain();
        assert!(metrics.drain().is_empty());
    }

    #[test]
    fn names_are_no_name_twice() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }
}
