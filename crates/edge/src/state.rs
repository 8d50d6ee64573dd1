//! What all parts of the process share: the live configuration, the targets as they are, what was counted.
//!
//! Who writes what: [`Edge::apply`] the configuration (called by `control`); [`TargetEntry::set_health`] `health`;
//! `outstanding` and `idle` whoever forwards. A configuration is compiled before it replaces the old one, so a request
//! never sees half of it; it keeps the one it began with.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use ferrogate_nodeapi::{BalancerAssignment, BalancerKind, Certificate, Target, TargetGroup, TargetState};
use tokio::sync::watch;

use crate::alb::{Compiled, IdleConnections};
use crate::logs::AccessLog;
use crate::metrics::{Counters, Metrics};

/// By certificate ARN: each one that a listener names.
pub type Certificates = HashMap<String, Arc<Certificate>>;

/// A configuration that cannot be put in force; the old one stays.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("listener {port}: there is no certificate {arn}; the listener needs it to be imported")]
    CertificateMissing { port: u16, arn: String },
    #[error("listener {port}: certificate {arn} cannot be used: {reason}")]
    Certificate { port: u16, arn: String, reason: String },
    #[error(
        "listener {port}: ssl policy {policy:?} is not known; use one of ELB's, e.g. ELBSecurityPolicy-TLS13-1-2-2021-06"
    )]
    SslPolicy { port: u16, policy: String },
    #[error("rule {rule}: the regular expression {regex:?} cannot be used: {reason}")]
    Regex { rule: String, regex: String, reason: String },
    #[error("{rule}: forwards to {arn}, which is not one of the target groups of the assignment")]
    TargetGroupMissing { rule: String, arn: String },
    #[error("listener {port}: header {name:?} with value {value:?} is no header")]
    Header { port: u16, name: String, value: String },
    #[error("generation {given} is older than {in_force}, which is in force")]
    Older { given: u64, in_force: u64 },
}

/// One process: one balancer in one zone.
pub struct Edge {
    live: RwLock<Arc<Live>>,
    /// Grows with each [`Edge::apply`]; a reader that holds this number holds the newest configuration.
    version: AtomicU64,
    changed: watch::Sender<u64>,
    pub targets: TargetTable,
    pub metrics: Metrics,
    pub logs: AccessLog,
}

/// One configuration, compiled.
pub struct Live {
    pub assignment: Arc<BalancerAssignment>,
    pub certificates: Certificates,
    /// By target group ARN.
    pub groups: HashMap<String, Arc<Group>>,
    /// HTTP and HTTPS listeners; empty for network load balancers.
    pub http: Compiled,
}

/// One target group with its targets as they are.
pub struct Group {
    pub config: TargetGroup,
    /// In the order of the assignment, draining ones too.
    pub targets: Vec<(Target, Arc<TargetEntry>)>,
    pub counters: Arc<Counters>,
    /// Round robin; goes on over configurations.
    pub cursor: Arc<AtomicUsize>,
}

impl Edge {
    /// Nothing listens until sockets are given to `alb` or `l4`.
    pub fn new(
        assignment: BalancerAssignment,
        certificates: Certificates,
    ) -> Result<Arc<Edge>, ConfigurationError> {
        let active = match assignment.kind {
            BalancerKind::Application => "ActiveConnectionCount",
            BalancerKind::Network => "ActiveFlowCount",
        };
        let metrics = Metrics::new(active);
        let targets = TargetTable::default();
        let live = Live::compile(assignment, certificates, &targets, &metrics)?;
        live.mark_draining();
        Ok(Arc::new(Edge {
            changed: watch::Sender::new(live.assignment.generation),
            live: RwLock::new(Arc::new(live)),
            version: AtomicU64::new(1),
            targets,
            metrics,
            logs: AccessLog::default(),
        }))
    }

    /// Puts a configuration in force for every request from now on; in-flight ones go on under theirs. The same
    /// generation again is taken (a certificate may have changed); an older one is refused.
    pub fn apply(
        &self,
        assignment: BalancerAssignment,
        certificates: Certificates,
    ) -> Result<(), ConfigurationError> {
        let in_force = self.live().assignment.generation;
        let given = assignment.generation;
        if given < in_force {
            return Err(ConfigurationError::Older { given, in_force });
        }
        let live = Arc::new(Live::compile(assignment, certificates, &self.targets, &self.metrics)?);
        self.targets.retain(|key| live.groups.contains_key(&key.target_group_arn) && live.holds(key));
        self.metrics.retain(|arn| live.groups.contains_key(arn));
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live.clone();
        live.mark_draining();
        self.version.fetch_add(1, std::sync::atomic::Ordering::Release);
        self.changed.send_replace(given);
        Ok(())
    }

    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The generation in force; wakes at each [`Edge::apply`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Live {
    fn compile(
        assignment: BalancerAssignment,
        certificates: Certificates,
        table: &TargetTable,
        metrics: &Metrics,
    ) -> Result<Live, ConfigurationError> {
        let groups: HashMap<String, Arc<Group>> = assignment
            .target_groups
            .iter()
            .map(|config| {
                let arn = &config.target_group_arn;
                let entry = |target: &Target| (target.clone(), table.entry(arn, target));
                let group = Group {
                    targets: config.targets.iter().map(entry).collect(),
                    counters: metrics.group(arn),
                    cursor: table.cursor(arn, &assignment.availability_zone),
                    config: config.clone(),
                };
                (arn.clone(), Arc::new(group))
            })
            .collect();
        let http = Compiled::new(&assignment, &certificates, &groups)?;
        Ok(Live { assignment: Arc::new(assignment), certificates, groups, http })
    }

    /// After this configuration is in force, not before: until then the old one may know no other target.
    fn mark_draining(&self) {
        for (target, entry) in self.groups.values().flat_map(|group| &group.targets) {
            entry.draining.store(target.draining_since.is_some(), Relaxed);
        }
    }

    fn holds(&self, key: &TargetKey) -> bool {
        self.groups
            .get(&key.target_group_arn)
            .is_some_and(|group| group.targets.iter().any(|(_, entry)| entry.key == *key))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetKey {
    pub target_group_arn: String,
    pub ip: IpAddr,
    pub port: u16,
}

/// All targets of the assignment; an entry lives as long as some configuration in use names it.
#[derive(Default)]
pub struct TargetTable {
    entries: Mutex<HashMap<TargetKey, Arc<TargetEntry>>>,
    cursors: Mutex<HashMap<String, Arc<AtomicUsize>>>,
}

impl TargetTable {
    fn entry(&self, target_group_arn: &str, target: &Target) -> Arc<TargetEntry> {
        let key =
            TargetKey { target_group_arn: target_group_arn.to_owned(), ip: target.ip, port: target.port };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.entry(key.clone()).or_insert_with(|| Arc::new(TargetEntry::new(key))).clone()
    }

    /// Zones begin at different targets, so that few requests to many zones do not all meet the first one.
    fn cursor(&self, target_group_arn: &str, zone: &str) -> Arc<AtomicUsize> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = || AtomicUsize::new(zone.bytes().map(usize::from).sum());
        cursors.entry(target_group_arn.to_owned()).or_insert_with(|| Arc::new(offset())).clone()
    }

    fn retain(&self, assigned: impl Fn(&TargetKey) -> bool) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| assigned(key));
    }

    /// All targets that are assigned, in no order.
    pub fn all(&self) -> Vec<Arc<TargetEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn get(&self, key: &TargetKey) -> Option<Arc<TargetEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

/// One target of one group as it is: routing reads it without a lock.
pub struct TargetEntry {
    pub key: TargetKey,
    /// A [`TargetState`] by [`state_code`]; the assignment's draining is apart.
    health: AtomicU8,
    /// Milliseconds since 1970 at which it became healthy; 0: is not. Slow start counts from here.
    healthy_since_ms: AtomicU64,
    draining: AtomicBool,
    /// Requests (or flows) that are not answered yet.
    outstanding: AtomicU32,
    /// Of the last requests, those that failed: 0 to 65536, a moving average (anomaly mitigation).
    failing: AtomicU32,
    /// `reason`, `description` as the report has them.
    why: Mutex<(Option<String>, Option<String>)>,
    pub(crate) idle: IdleConnections,
}

/// One of this many requests moves the average of failures.
const FAILING_SHIFT: u32 = 5;
/// All of the last requests failed.
const FAILING_ALL: u32 = 1 << 16;
/// Failing less than this is no anomaly.
const ANOMALOUS_FROM: f64 = 0.1;

impl TargetEntry {
    fn new(key: TargetKey) -> TargetEntry {
        TargetEntry {
            key,
            health: AtomicU8::new(state_code(TargetState::Initial)),
            healthy_since_ms: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            outstanding: AtomicU32::new(0),
            failing: AtomicU32::new(0),
            why: Mutex::default(),
            idle: IdleConnections::default(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.key.ip, self.key.port)
    }

    /// Only `health` calls this. `Draining` and `UnhealthyDraining` are not health: the assignment says them.
    pub fn set_health(&self, state: TargetState, reason: Option<String>, description: Option<String>) {
        self.set_health_at(state, now_ms());
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = (reason, description);
    }

    pub(crate) fn set_health_at(&self, state: TargetState, now_ms: u64) {
        let before = self.health.swap(state_code(state), Relaxed);
        if !usable(state) {
            self.healthy_since_ms.store(0, Relaxed);
        } else if !usable(state_of(before)) {
            self.healthy_since_ms.store(now_ms, Relaxed);
        }
    }

    /// What `health` last saw.
    pub fn health(&self) -> TargetState {
        state_of(self.health.load(Relaxed))
    }

    /// Reason and description as `health` last gave them.
    pub fn why(&self) -> (Option<String>, Option<String>) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes new requests when the group has enough like it.
    pub fn is_healthy(&self) -> bool {
        usable(self.health())
    }

    /// As the newest configuration has it. A choice among the targets of a [`Group`] looks at their `draining_since`: the
    /// group may be of an older configuration, all of whose targets drain by now.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub fn healthy_since_ms(&self) -> Option<u64> {
        Some(self.healthy_since_ms.load(Relaxed)).filter(|&since| since > 0)
    }

    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Relaxed)
    }

    /// Counts a request (or flow) as not answered until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Outstanding {
        self.outstanding.fetch_add(1, Relaxed);
        Outstanding { target: self.clone() }
    }

    /// An answer came (5XX or none at all: failed), for anomaly mitigation. Two at once may count as one.
    pub(crate) fn answered(&self, failed: bool) {
        let before = self.failing.load(Relaxed);
        if before == 0 && !failed {
            return;
        }
        let goal = if failed { FAILING_ALL } else { 0 };
        let after = before - (before >> FAILING_SHIFT) + (goal >> FAILING_SHIFT);
        // What is left after a long time without failure would never quite go away by halves.
        let after = if !failed && after < FAILING_ALL >> 10 { 0 } else { after.min(FAILING_ALL) };
        self.failing.store(after, Relaxed);
    }

    /// It fails more than a target does now and then.
    pub(crate) fn is_anomalous(&self) -> bool {
        self.failing() >= ANOMALOUS_FROM
    }

    /// 0.0 none failed, 1.0 all.
    pub(crate) fn failing(&self) -> f64 {
        f64::from(self.failing.load(Relaxed)) / f64::from(FAILING_ALL)
    }
}

/// A request or flow that its target has not answered yet.
pub struct Outstanding {
    target: Arc<TargetEntry>,
}

impl Outstanding {
    pub fn target(&self) -> &Arc<TargetEntry> {
        &self.target
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.target.outstanding.fetch_sub(1, Relaxed);
    }
}

/// `unavailable`: health checks are off, it is taken for healthy.
fn usable(state: TargetState) -> bool {
    matches!(state, TargetState::Healthy | TargetState::Unavailable)
}

const STATES: [TargetState; 7] = [
    TargetState::Initial,
    TargetState::Healthy,
    TargetState::Unhealthy,
    TargetState::UnhealthyDraining,
    TargetState::Unused,
    TargetState::Draining,
    TargetState::Unavailable,
];

fn state_code(state: TargetState) -> u8 {
    STATES.iter().position(|known| *known == state).unwrap_or_default() as u8
}

fn state_of(code: u8) -> TargetState {
    STATES[usize::from(code)]
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
