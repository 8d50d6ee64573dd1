//! The process as its agent governs it: one balancer, its listeners, its checks.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ferrogate_nodeapi::{
    Anomaly, BalancerKind, BalancerMetric, BalancerReport, TargetObservation, TargetState,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::listeners::{Listeners, Problems};
use super::message::Configuration;
use super::server::Governed;
use crate::alb::Alb;
use crate::health::{self, Health};
use crate::l4::{self, Flows};
use crate::logs::LogKind;
use crate::state::{Certificates, ConfigurationError, Edge};

/// Threads that serve HTTP: one per processor, and no more than a machine's share of one balancer.
const WORKERS_MAX: usize = 4;

/// A configuration is not in force.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error("threads cannot be started: {0}")]
    Threads(std::io::Error),
}

/// [`Governed`] for real.
pub struct Process {
    running: Mutex<Option<Running>>,
    changes: watch::Sender<u64>,
    problems: Problems,
    /// The last configuration that could not be put in force.
    refused: Mutex<Option<Refused>>,
    generation: AtomicU64,
    /// Taken from the buffer and not yet asked for: access log, connection log.
    lines: [Mutex<VecDeque<String>>; 2],
}

struct Refused {
    load_balancer_arn: String,
    availability_zone: String,
    why: String,
}

struct Running {
    edge: Arc<Edge>,
    _tasks: JoinSet<()>,
}

impl Process {
    /// With nothing to do until it is configured. Inside a runtime.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            changes: watch::Sender::new(0),
            problems: Problems::default(),
            refused: Mutex::default(),
            generation: AtomicU64::new(0),
            lines: Default::default(),
        })
    }

    fn put(&self, configuration: Configuration) -> Result<(), Refusal> {
        let Configuration { assignment, certificates } = configuration;
        let generation = assignment.generation;
        let certificates: Certificates =
            certificates.into_iter().map(|(arn, certificate)| (arn, Arc::new(certificate))).collect();
        l4::check(&assignment, &certificates)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match &*running {
            Some(running) => running.edge.apply(assignment, certificates)?,
            None => *running = Some(self.start(Edge::new(assignment, certificates)?)?),
        }
        self.generation.store(generation, Relaxed);
        Ok(())
    }

    fn start(&self, edge: Arc<Edge>) -> Result<Running, Refusal> {
        let address = IpAddr::V4(edge.live().assignment.network.private_ip);
        let flows = Flows::new(Arc::clone(&edge), address);
        let workers = workers();
        let alb = match edge.live().assignment.kind {
            BalancerKind::Application => Some(Alb::start(&edge, workers).map_err(Refusal::Threads)?),
            BalancerKind::Network => None,
        };
        let health = Health::new(Arc::clone(&edge), self.changes.clone());
        let listeners = Listeners::new(
            Arc::clone(&edge),
            alb,
            workers,
            flows.clone(),
            self.changes.clone(),
            &self.problems,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(health.run());
        tasks.spawn(flows.cut(self.changes.subscribe()));
        tasks.spawn(listeners.run());
        Ok(Running { edge, _tasks: tasks })
    }

    fn edge(&self) -> Option<Arc<Edge>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|running| Arc::clone(&running.edge))
    }
}

#[async_trait]
impl Governed for Process {
    async fn configure(&self, configuration: Configuration) {
        let (arn, zone) = {
            let assignment = &configuration.assignment;
            (assignment.load_balancer_arn.clone(), assignment.availability_zone.clone())
        };
        let outcome = self.put(configuration);
        let refused = outcome.err().map(|error| {
            tracing::warn!(%error, "a configuration is refused; the one before it stays in force");
            Refused { load_balancer_arn: arn, availability_zone: zone, why: error.to_string() }
        });
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        self.changes.send_modify(|count| *count += 1);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn report(&self) -> Option<BalancerReport> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut problems = self.problems.words();
        problems.extend(refused.as_ref().map(|refused| refused.why.clone()));
        let words = |problems: Vec<String>| (!problems.is_empty()).then(|| problems.join("; "));
        let Some(edge) = self.edge() else {
            let refused = refused.as_ref()?;
            return Some(BalancerReport {
                load_balancer_arn: refused.load_balancer_arn.clone(),
                availability_zone: refused.availability_zone.clone(),
                generation: 0,
                active: false,
                problem: words(problems),
                targets: Vec::new(),
                metrics: Vec::new(),
            });
        };
        let live = edge.live();
        let targets = health::observations(&live);
        let mut metrics = edge.metrics.drain();
        for arn in live.groups.keys() {
            metrics.extend(counts(arn, live.assignment.kind, &targets));
        }
        Some(BalancerReport {
            load_balancer_arn: live.assignment.load_balancer_arn.clone(),
            availability_zone: live.assignment.availability_zone.clone(),
            generation: live.assignment.generation,
            active: true,
            problem: words(problems),
            targets,
            metrics,
        })
    }

    fn lines(&self, connection: bool, max: usize) -> (Vec<String>, u64) {
        let Some(edge) = self.edge() else { return (Vec::new(), 0) };
        let mut waiting = self.lines[usize::from(connection)].lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            waiting.extend(edge.logs.take(if connection { LogKind::Connection } else { LogKind::Access }));
        }
        let count = waiting.len().min(max);
        // One number for both logs: it is told with the access log.
        let dropped = if connection { 0 } else { edge.logs.take_dropped() };
        (waiting.drain(..count).collect(), dropped)
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

/// Targets of one group: healthy and unhealthy; of application load balancers those whose answers are strange as well.
fn counts(
    target_group_arn: &str,
    kind: BalancerKind,
    targets: &[TargetObservation],
) -> impl Iterator<Item = BalancerMetric> {
    let of = |name: &str, is: &dyn Fn(&TargetObservation) -> bool| {
        let here = targets.iter().filter(|target| target.target_group_arn == target_group_arn);
        let count = here.filter(|target| is(target)).count() as f64;
        BalancerMetric {
            name: name.to_owned(),
            target_group_arn: Some(target_group_arn.to_owned()),
            sum: count,
            minimum: count,
            maximum: count,
            samples: 1,
        }
    };
    let healths = [
        of("HealthyHostCount", &|target| target.state == TargetState::Healthy),
        of("UnHealthyHostCount", &|target| target.state == TargetState::Unhealthy),
    ];
    let anomalies = (kind == BalancerKind::Application).then(|| {
        [
            of("AnomalousHostCount", &|target| target.anomaly != Anomaly::None),
            of("MitigatedHostCount", &|target| target.anomaly == Anomaly::Mitigated),
        ]
    });
    healths.into_iter().chain(anomalies.into_iter().flatten())
}
