//! One balancer's interface on this node: its process stands, knows what it must, and is heard.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_edge::control::{Configuration, FromEdge, ToEdge};
use ferrogate_nodeapi::{BalancerAssignment, BalancerReport, ControlPlaneError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::certificates::Certificates;
use super::process::{EdgeLink, Place};
use super::{BalancerError, Shared, Wanted};

pub(crate) const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// A process that lived so long is no sick one: its restart is quick again.
pub(crate) const HEALTHY_LIFE: Duration = Duration::from_secs(60);
/// A new version of a certificate is served within this time.
const CERTIFICATE_PERIOD: Duration = Duration::from_secs(60);
/// One that could not be got is asked for again.
const CERTIFICATE_RETRY: Duration = Duration::from_secs(5);
/// For the control plane to take a report or lines.
const TAKE_PATIENCE: Duration = Duration::from_secs(10);
/// A process has one report and the lines of two logs under way; one that sends more is sick.
const UNDER_WAY_MAX: usize = 3;

pub(super) struct Actor {
    shared: Arc<Shared>,
    place: Place,
    wanted: watch::Receiver<Wanted>,
    certificates: Certificates,
    /// `None`: a former agent's.
    child: Option<Child>,
}

/// Why a conversation ended without an error.
enum Over {
    /// The assignment is gone.
    Unwanted,
    /// The agent ends; the process goes on.
    AgentEnds,
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, place: Place, wanted: watch::Receiver<Wanted>) -> Self {
        Self { shared, place, wanted, certificates: Certificates::default(), child: None }
    }

    /// Until the balancer is no longer assigned and nothing of it is left, or the agent ends.
    pub(super) async fn run(mut self) {
        let mut pause = RESTART_MIN;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let began = Instant::now();
            let outcome = match &wanted {
                Some(assignment) => Box::pin(self.life(assignment)).await,
                None => Ok(Over::Unwanted),
            };
            let error = match outcome {
                Ok(Over::AgentEnds) => return,
                Ok(Over::Unwanted) => match self.end().await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let eni = &self.place.id;
            tracing::warn!(%error, eni, "a load balancer does not run as it should");
            if began.elapsed() > HEALTHY_LIFE {
                pause = RESTART_MIN;
            }
            // One that is restarted at once is no news.
            if let Some(assignment) = wanted.filter(|_| pause > RESTART_MIN) {
                self.report_problem(&assignment, &error).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.wanted.changed() => if changed.is_err() { return }
            }
            pause = (pause * 2).min(RESTART_MAX);
        }
    }

    /// From finding or starting the process to the end of what is said with it.
    async fn life(&mut self, assignment: &BalancerAssignment) -> Result<Over, BalancerError> {
        let fabric = &self.shared.fabric;
        fabric.create_netns(&self.place.netns).await?;
        fabric.attach(&assignment.network.eni_id, &self.place.netns).await?;
        let (balancer, eni) = (assignment.load_balancer_arn.as_str(), self.place.id.as_str());
        let found = match self.place.connect().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, balancer, eni, "a load balancer's process is of no use and is ended");
                None
            }
        };
        let link = match found {
            Some((link, generation)) => {
                tracing::info!(balancer, eni, generation, "a load balancer's process was taken over");
                link
            }
            None => {
                self.place.kill().await?;
                self.child = None;
                let started = self.place.start(&self.shared.edge.program, fabric, &[]).await?;
                let (child, link, _) = started;
                tracing::info!(balancer, eni, pid = child.id(), "a load balancer's process was started");
                self.child = Some(child);
                link
            }
        };
        self.converse(link).await
    }

    async fn converse(&mut self, mut link: EdgeLink) -> Result<Over, BalancerError> {
        let plane = Arc::clone(&self.shared.edge.plane);
        let mut taking: FuturesUnordered<BoxFuture<'static, (u64, bool)>> = FuturesUnordered::new();
        let mut refresh = tokio::time::interval(CERTIFICATE_PERIOD);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.wanted.mark_changed();
        loop {
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(Over::AgentEnds);
                    }
                    let Some(assignment) = self.wanted.borrow_and_update().clone() else {
                        return Ok(Over::Unwanted);
                    };
                    let refreshed = self.certificates.refresh(&assignment, &*plane).await;
                    let after = if refreshed.failed { CERTIFICATE_RETRY } else { CERTIFICATE_PERIOD };
                    refresh.reset_after(after);
                    self.configure(&mut link, &assignment).await?;
                }
                _ = refresh.tick() => {
                    let Some(assignment) = self.wanted.borrow().clone() else { return Ok(Over::Unwanted) };
                    let refreshed = self.certificates.refresh(&assignment, &*plane).await;
                    if refreshed.failed {
                        refresh.reset_after(CERTIFICATE_RETRY);
                    }
                    if refreshed.changed {
                        self.configure(&mut link, &assignment).await?;
                    }
                }
                message = link.receive() => {
                    if taking.len() >= UNDER_WAY_MAX {
                        return Err(BalancerError::Silent("it does not wait for answers".into()));
                    }
                    if let Some(take) = self.take(message?) {
                        taking.push(take);
                    }
                }
                Some((sequence, taken)) = taking.next(), if !taking.is_empty() => {
                    link.send(&ToEdge::Answer { sequence, taken }).await?;
                }
                status = ended(&mut self.child) => {
                    self.child = None;
                    return Err(BalancerError::Ended { status, said: self.place.said() });
                }
            }
        }
    }

    async fn configure(
        &self,
        link: &mut EdgeLink,
        assignment: &BalancerAssignment,
    ) -> Result<(), BalancerError> {
        let certificates = self.certificates.known().clone();
        let configuration = Configuration { assignment: assignment.clone(), certificates };
        Ok(link.send(&ToEdge::Configure(Box::new(configuration))).await?)
    }

    /// What the process says goes to the control plane; `None`: it says nothing that is of use. Whose it is the agent
    /// knows: a process speaks for its own balancer only.
    fn take(&self, message: FromEdge) -> Option<BoxFuture<'static, (u64, bool)>> {
        let assignment = self.wanted.borrow().clone()?;
        let plane = Arc::clone(&self.shared.edge.plane);
        match message {
            FromEdge::Hello { .. } => None,
            FromEdge::Report { sequence, mut report } => {
                own(&mut report, &assignment);
                Some(Box::pin(async move {
                    let taken = patiently(plane.report_balancers(vec![*report])).await;
                    (sequence, said(&assignment, "a load balancer's report", taken))
                }))
            }
            FromEdge::Lines { sequence, connection, lines, dropped } => {
                let balancer = &assignment.load_balancer_arn;
                if dropped > 0 {
                    tracing::warn!(balancer, dropped, "lines of a load balancer's log were lost");
                }
                Some(Box::pin(async move {
                    let (arn, zone) = (&assignment.load_balancer_arn, &assignment.availability_zone);
                    let taken = patiently(plane.put_access_logs(arn, zone, connection, lines)).await;
                    // What is refused now is refused again: only what did not arrive is worth another try.
                    let refused = matches!(taken, Err(ControlPlaneError::Refused { .. }));
                    (sequence, said(&assignment, "a load balancer's log", taken) || refused)
                }))
            }
        }
    }

    async fn report_problem(&self, assignment: &BalancerAssignment, error: &BalancerError) {
        let report = BalancerReport {
            load_balancer_arn: assignment.load_balancer_arn.clone(),
            availability_zone: assignment.availability_zone.clone(),
            generation: 0,
            active: false,
            problem: Some(words(error)),
            targets: Vec::new(),
            metrics: Vec::new(),
        };
        let taken = patiently(self.shared.edge.plane.report_balancers(vec![report])).await;
        said(assignment, "a load balancer's report", taken);
    }

    async fn end(&mut self) -> Result<(), BalancerError> {
        self.place.end(&self.shared.fabric).await?;
        if let Some(mut child) = self.child.take() {
            // Killed: reaped here, so that it is no zombie.
            let _ = child.wait().await;
        }
        tracing::info!(eni = self.place.id, "a load balancer's process was ended");
        Ok(())
    }
}

/// Waits for ever where there is no child.
pub(crate) async fn ended(child: &mut Option<Child>) -> String {
    match child {
        Some(child) => match child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        },
        None => std::future::pending().await,
    }
}

/// A report is about the balancer it is from, and its groups.
fn own(report: &mut BalancerReport, assignment: &BalancerAssignment) {
    report.load_balancer_arn.clone_from(&assignment.load_balancer_arn);
    report.availability_zone.clone_from(&assignment.availability_zone);
    let known = |arn: &str| assignment.target_groups.iter().any(|group| group.target_group_arn == arn);
    report.targets.retain(|target| known(&target.target_group_arn));
    report.metrics.retain(|metric| metric.target_group_arn.as_deref().is_none_or(known));
}

fn words(error: &BalancerError) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}

async fn patiently(
    taking: impl Future<Output = Result<(), ControlPlaneError>>,
) -> Result<(), ControlPlaneError> {
    tokio::time::timeout(TAKE_PATIENCE, taking).await.unwrap_or_else(|_| {
        Err(ControlPlaneError::Unavailable(format!("no answer within {} s", TAKE_PATIENCE.as_secs())))
    })
}

fn said(assignment: &BalancerAssignment, what: &str, taken: Result<(), ControlPlaneError>) -> bool {
    if let Err(error) = &taken {
        tracing::warn!(%error, balancer = assignment.load_balancer_arn, "{what} was not taken");
    }
    taken.is_ok()
}
