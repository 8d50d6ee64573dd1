//! The process's end: takes configurations, says how it is. It never waits for an agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ferrogate_nodeapi::{BalancerMetric, BalancerReport};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::link::{Link, LinkError, SEND_PATIENCE};
use super::message::{Configuration, FromEdge, ToEdge, VERSION};
use crate::connect::ConnectConfiguration;

/// Without a change of state.
const REPORT_PERIOD: Duration = Duration::from_secs(5);
/// Changes that come together are said together.
const REPORT_PAUSE: Duration = Duration::from_millis(20);
/// Log lines wait so long for others.
const LINES_PERIOD: Duration = Duration::from_secs(1);
/// In one message.
const LINES_MAX: usize = 1000;
/// For the agent's answer; then another one is waited for.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// When no connection can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Series of metrics kept for a report that was not taken.
const SERIES_MAX: usize = 10_000;

/// What is spoken for.
#[async_trait]
pub trait Governed: Send + Sync + 'static {
    /// Replaces what was. Problems are part of the reports that follow.
    async fn configure(&self, configuration: Configuration);

    /// What a task's proxy does.
    async fn connect(&self, _: ConnectConfiguration) {
        tracing::error!("this process carries a load balancer: it is no task's proxy");
    }

    /// Of the configuration in force; 0: none yet.
    fn generation(&self) -> u64;

    /// Bumped when a report would say something else of listeners or targets than the last one.
    fn changes(&self) -> watch::Receiver<u64>;

    /// How it is, with what was counted since the call before; `None`: there is no configuration yet.
    fn report(&self) -> Option<BalancerReport>;

    /// The oldest lines of a log, at most so many, and how many were lost since the call before.
    fn lines(&self, connection: bool, max: usize) -> (Vec<String>, u64);
}

/// Said and not yet known to be taken; it outlives connections.
#[derive(Default)]
struct Unsaid {
    sequence: u64,
    report: Option<u64>,
    metrics: Metrics,
    /// Access log, connection log.
    lines: [Batch; 2],
}

#[derive(Default)]
struct Batch {
    under_way: Option<u64>,
    lines: Vec<String>,
    dropped: u64,
}

impl Unsaid {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn settle(&mut self, sequence: u64, taken: bool) {
        if self.report == Some(sequence) {
            self.report = None;
            if taken {
                self.metrics = Metrics::default();
            }
        }
        for batch in &mut self.lines {
            if batch.under_way == Some(sequence) {
                batch.under_way = None;
                if taken {
                    *batch = Batch::default();
                }
            }
        }
    }

    fn waits(&self) -> bool {
        self.report.is_some() || self.lines.iter().any(|batch| batch.under_way.is_some())
    }
}

/// Metrics of several reports as those of one.
#[derive(Default)]
struct Metrics(BTreeMap<(String, Option<String>), BalancerMetric>);

impl Metrics {
    fn add(&mut self, metrics: Vec<BalancerMetric>) {
        for metric in metrics {
            let key = (metric.name.clone(), metric.target_group_arn.clone());
            let room = self.0.len() < SERIES_MAX;
            match self.0.get_mut(&key) {
                Some(known) => {
                    known.sum += metric.sum;
                    known.minimum = known.minimum.min(metric.minimum);
                    known.maximum = known.maximum.max(metric.maximum);
                    known.samples += metric.samples;
                }
                None if room => drop(self.0.insert(key, metric)),
                None => {}
            }
        }
    }
}

/// Until it is dropped. Connections are root's, as the socket's folder is.
pub async fn serve(listener: UnixListener, subject: Arc<dyn Governed>) {
    let mut unsaid = Unsaid::default();
    let mut waiting = None;
    loop {
        let accepted = match waiting.take() {
            Some(accepted) => accepted,
            None => listener.accept().await.map(|(stream, _)| stream),
        };
        let stream: UnixStream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "no connection of an agent could be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // What was under way on the former connection is said again.
        unsaid.report = None;
        unsaid.lines.iter_mut().for_each(|batch| batch.under_way = None);
        tokio::select! {
            Err(error) = session(Link::new(stream), &*subject, &mut unsaid) => {
                tracing::info!(%error, "the connection to the agent ended");
            }
            accepted = listener.accept() => waiting = Some(accepted.map(|(stream, _)| stream)),
        }
    }
}

enum Never {}

/// One connection, to its end.
async fn session(
    mut link: Link<FromEdge, ToEdge>,
    subject: &dyn Governed,
    unsaid: &mut Unsaid,
) -> Result<Never, LinkError> {
    let first = tokio::time::timeout(SEND_PATIENCE, link.receive()).await;
    let ToEdge::Hello { version } = first.unwrap_or(Err(LinkError::NotRead))? else {
        return Err(LinkError::Unexpected("the first word is no greeting"));
    };
    let hello =
        FromEdge::Hello { version: VERSION, pid: std::process::id(), generation: subject.generation() };
    link.send(&hello).await?;
    if version != VERSION {
        return Err(LinkError::Unexpected("another version of the protocol"));
    }
    let mut changes = subject.changes();
    changes.mark_changed();
    let mut report_at = Instant::now();
    let mut lines = tokio::time::interval(LINES_PERIOD);
    lines.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = Instant::now() + ANSWER_PATIENCE;
    loop {
        if !unsaid.waits() {
            patience = Instant::now() + ANSWER_PATIENCE;
        }
        tokio::select! {
            message = link.receive() => match message? {
                ToEdge::Hello { .. } => return Err(LinkError::Unexpected("a second greeting")),
                ToEdge::Configure(configuration) => {
                    subject.configure(*configuration).await;
                    report_at = Instant::now();
                }
                ToEdge::Connect(configuration) => subject.connect(*configuration).await,
                ToEdge::Answer { sequence, taken } => unsaid.settle(sequence, taken),
            },
            changed = changes.changed() => {
                if changed.is_err() {
                    return Err(LinkError::Unexpected("the process ends"));
                }
                report_at = report_at.min(Instant::now() + REPORT_PAUSE);
            }
            () = tokio::time::sleep_until(report_at), if unsaid.report.is_none() => {
                report_at = Instant::now() + REPORT_PERIOD;
                let Some(mut report) = subject.report() else { continue };
                let sequence = unsaid.next();
                unsaid.report = Some(sequence);
                unsaid.metrics.add(std::mem::take(&mut report.metrics));
                report.metrics = unsaid.metrics.0.values().cloned().collect();
                link.send(&FromEdge::Report { sequence, report: Box::new(report) }).await?;
            }
            _ = lines.tick() => {
                for connection in [false, true] {
                    say_lines(&mut link, subject, unsaid, connection).await?;
                }
            }
            () = tokio::time::sleep_until(patience), if unsaid.waits() => {
                return Err(LinkError::Unexpected("no answer"));
            }
        }
    }
}

async fn say_lines(
    link: &mut Link<FromEdge, ToEdge>,
    subject: &dyn Governed,
    unsaid: &mut Unsaid,
    connection: bool,
) -> Result<(), LinkError> {
    let sequence = unsaid.next();
    let batch = &mut unsaid.lines[usize::from(connection)];
    if batch.under_way.is_some() {
        return Ok(());
    }
    let (lines, dropped) = subject.lines(connection, LINES_MAX.saturating_sub(batch.lines.len()));
    batch.lines.extend(lines);
    batch.dropped += dropped;
    if batch.lines.is_empty() && batch.dropped == 0 {
        return Ok(());
    }
    batch.under_way = Some(sequence);
    let (lines, dropped) = (batch.lines.clone(), batch.dropped);
    link.send(&FromEdge::Lines { sequence, connection, lines, dropped }).await
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
