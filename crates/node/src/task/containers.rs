//! The life of a task's containers, from the first start to the last exit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{
    ContainerAssignment, ContainerStatus, DesiredStatus, Health, ObservedStatus, StopCause,
};
use ferrogate_sandbox::{
    ContainerState, Events, Exited, Status, TaskEvent, TaskSandbox, TaskState, parse_signal,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Actor, Stop, any_running};
use crate::health;
use crate::logs::{Pump, Run};
use crate::plan::{Gate, Seen, gate, stop_order};
use crate::record::ContainerRecord;
use crate::timing::step;

const SIGTERM: i32 = 15;
/// 128 + SIGKILL.
pub(super) const KILLED: i32 = 137;
pub(super) const VANISHED: &str = "ContainerVanishedError: the process that ran the container was lost";
/// How long a stopped task waits for its last lines to be taken.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A start timeout.
struct Deadline {
    at: Instant,
    /// Whose.
    on: String,
    /// Waits for it.
    dependent: String,
}

/// What the actor waits for.
enum Happened {
    StopAsked,
    Health(health::Probed),
    Delivered(String, u64),
    Event(Option<TaskEvent>),
    Late,
}

impl Actor {
    /// Starts what may start and watches until the task has a reason to end.
    pub(super) async fn run_containers(&mut self) -> Stop {
        let Some(sandbox) = self.sandbox.clone() else { return Stop::ASKED };
        let mut events = sandbox.events();
        let Some(state) = self.unless_stopped(sandbox.state()).await else { return Stop::ASKED };
        let state = match state {
            Ok(state) => state,
            Err(error) => return Stop::failed_to_start(format!("ResourceInitializationError: {error}")),
        };
        // A container that a former agent made and did not start is made anew: whether it was finished nobody knows.
        for half_made in
            state.containers.iter().filter(|found| found.status == Status::Created && found.starts == 0)
        {
            let deleted = self.unless_stopped(sandbox.delete_container(&half_made.id)).await;
            if let Err(error) = deleted.unwrap_or(Ok(())) {
                return Stop::failed_to_start(format!("CannotCreateContainerError: {error}"));
            }
        }
        // Containers that ran before this agent: take them as they are.
        if let Some(stop) = self.adopt(&sandbox, &state).await {
            return stop;
        }
        loop {
            let deadline = match self.start_ready(&sandbox, &mut events).await {
                Ok(deadline) => deadline,
                Err(stop) => return stop,
            };
            if let Some(stop) = self.wait(&sandbox, &mut events, deadline).await {
                return stop;
            }
        }
    }

    /// One thing that happens; a reason to stop, if it is one.
    async fn wait(
        &mut self,
        sandbox: &Arc<dyn TaskSandbox>,
        events: &mut Events,
        deadline: Option<Deadline>,
    ) -> Option<Stop> {
        let at = deadline.as_ref().map(|deadline| deadline.at);
        let timer = async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let happened = tokio::select! {
            _ = self.desired.wait_for(|desired| *desired == DesiredStatus::Stopped) => Happened::StopAsked,
            Some(probed) = self.health.1.recv() => Happened::Health(probed),
            Some((name, offset)) = self.delivered.1.recv() => Happened::Delivered(name, offset),
            event = events.next() => Happened::Event(event),
            () = timer => Happened::Late,
        };
        match happened {
            Happened::StopAsked => Some(Stop::ASKED),
            Happened::Health(probed) => {
                self.note_probe(probed);
                None
            }
            Happened::Delivered(name, offset) => {
                self.note_delivered(&name, offset);
                self.save();
                None
            }
            Happened::Event(event) => self.on_event(sandbox, event).await,
            Happened::Late => deadline.map(|Deadline { on, dependent, .. }| {
                unresolved(&dependent, &on, "did not meet the condition within its startTimeout")
            }),
        }
    }

    async fn on_event(&mut self, sandbox: &Arc<dyn TaskSandbox>, event: Option<TaskEvent>) -> Option<Stop> {
        match event {
            Some(TaskEvent::Exited(exited)) => self.ended(sandbox, &exited).await,
            Some(TaskEvent::Missed) => self.catch_up(sandbox).await,
            Some(_) => None,
            None => self.shim_lost(sandbox).await,
        }
    }

    /// Every probe is kept for the metadata endpoint; the control plane hears of changes only.
    fn note_probe(&mut self, probed: health::Probed) {
        let Some(container) = self.record.containers.get_mut(&probed.container) else { return };
        // Of a run that is over.
        if container.status != ContainerStatus::Running || container.restart_count != probed.restart_count {
            return;
        }
        let changed = container.health != probed.health;
        container.health = probed.health;
        if changed {
            container.health_since = Some(probed.at);
        }
        container.health_exit_code = Some(probed.exit_code);
        container.health_output = Some(probed.output);
        if changed { self.say() } else { self.save() }
    }

    fn note_delivered(&mut self, name: &str, offset: u64) {
        if let Some(container) = self.record.containers.get_mut(name) {
            container.log_offset = container.log_offset.max(offset);
        }
    }

    /// Starts every container whose gate is open. Returns the next start timeout.
    async fn start_ready(
        &mut self,
        sandbox: &Arc<dyn TaskSandbox>,
        events: &mut Events,
    ) -> Result<Option<Deadline>, Stop> {
        let containers = self.record.assignment.containers.clone();
        let mut waiting: Vec<(&str, String)> = Vec::new();
        // A start may open the next gate: go round until nothing more opens.
        loop {
            waiting.clear();
            let mut opened = false;
            for container in &containers {
                if self.has_begun(&container.name) {
                    continue;
                }
                match gate(container, &self.seen()) {
                    Gate::Open => {
                        self.start_container(sandbox, container).await?;
                        opened = true;
                        // Something may have ended, or somebody may want the end, before the next one is started.
                        while let Some(event) = events.next().now_or_never() {
                            if let Some(stop) = self.on_event(sandbox, event).await {
                                return Err(stop);
                            }
                        }
                        if self.stop_wanted() {
                            return Err(Stop::ASKED);
                        }
                    }
                    Gate::Waiting(on) => waiting.push((&container.name, on)),
                    Gate::Shut(on) => {
                        let why = "ended without meeting the condition";
                        return Err(unresolved(&container.name, &on, why));
                    }
                }
            }
            if !opened {
                break;
            }
        }
        if waiting.is_empty() && self.record.status < ObservedStatus::Running {
            self.record.status = ObservedStatus::Running;
            self.record.started_at.get_or_insert_with(Timestamp::now);
            self.say();
        }
        let timeout = |(dependent, on): (&str, String)| {
            let seconds = containers.iter().find(|c| c.name == on)?.start_timeout_seconds?;
            // Also one that a former agent started has no more time than this.
            let ran = Timestamp::now().duration_since(self.record.containers.get(&on)?.started_at?);
            let left =
                Duration::from_secs(u64::from(seconds)).saturating_sub(ran.try_into().unwrap_or_default());
            Some(Deadline { at: Instant::now() + left, on, dependent: dependent.to_owned() })
        };
        Ok(waiting.into_iter().filter_map(timeout).min_by_key(|deadline| deadline.at))
    }

    fn has_begun(&self, name: &str) -> bool {
        self.record.containers.get(name).is_some_and(|container| container.status != ContainerStatus::Pending)
    }

    fn seen(&self) -> BTreeMap<String, Seen> {
        let of = |container: &ContainerRecord| {
            Seen::of(container.status, container.started_at.is_some(), container.exit_code, container.health)
        };
        self.record.containers.iter().map(|(name, container)| (name.clone(), of(container))).collect()
    }

    async fn start_container(
        &mut self,
        sandbox: &Arc<dyn TaskSandbox>,
        container: &ContainerAssignment,
    ) -> Result<(), Stop> {
        let name = &container.name;
        let failed = |what: &str, error: String| {
            let reason = format!("{what}: {error}");
            Stop::failed_to_start(reason.clone()).of_container(name, reason)
        };
        let began = Timestamp::now();
        let spec =
            self.container_spec(container).map_err(|error| failed("CannotCreateContainerError", error))?;
        let created = self.unless_stopped(sandbox.create_container(&spec)).await;
        let Some(created) = created else { return Err(Stop::ASKED) };
        // A disk that has no room for the images may have had none for the container.
        self.images_reserved().await?;
        created.map_err(|error| failed("CannotCreateContainerError", error.to_string()))?;
        self.record.note(step::CREATED, Some(name), began);
        for made in sandbox.booted().await {
            self.record.note_made(&made);
        }
        let created = Timestamp::now();
        let started = self.start_or_stop(sandbox, name).await;
        self.record.note(step::STARTED, Some(name), created);
        let Some(started) = started else { return Err(Stop::ASKED) };
        let record = self.record.containers.entry(name.clone()).or_default();
        match started {
            Ok(_) => {
                record.status = ContainerStatus::Running;
                record.created_at = Some(created);
                record.started_at = Some(Timestamp::now());
            }
            Err(error) => {
                record.status = ContainerStatus::Stopped;
                if let ferrogate_sandbox::Error::CannotExecute { exit_code, .. } = &error {
                    record.exit_code = Some(*exit_code);
                }
                return Err(failed("CannotStartContainerError", cannot_start(&error)));
            }
        }
        self.watch_container(sandbox, container);
        self.save();
        Ok(())
    }

    /// Health probes and the log driver of a container that runs.
    fn watch_container(&mut self, sandbox: &Arc<dyn TaskSandbox>, container: &ContainerAssignment) {
        if let Some(check) = &container.health_check {
            let restarts =
                self.record.containers.get(&container.name).map_or(0, |record| record.restart_count);
            let probes = health::watch(
                Arc::clone(sandbox),
                container.name.clone(),
                restarts,
                check.clone(),
                self.health.0.clone(),
            );
            let probes = self.helpers.spawn(probes);
            if let Some(former) = self.probes.insert(container.name.clone(), probes) {
                former.abort();
            }
        }
        // One driver follows all runs of a container.
        if let Some(run) = self.runs.get(&container.name) {
            run.send_modify(|run| run.number += 1);
        } else {
            self.pump_logs(sandbox, container);
        }
    }

    fn pump_logs(&mut self, sandbox: &Arc<dyn TaskSandbox>, container: &ContainerAssignment) {
        let Some(configuration) = &container.logs else { return };
        if self.runs.contains_key(&container.name) {
            return;
        }
        let last = container.restart_policy.is_none();
        let (run, runs) = watch::channel(Run { number: 0, last });
        self.runs.insert(container.name.clone(), run);
        let from = self.record.containers.get(&container.name).map_or(0, |record| record.log_offset);
        let pump = Pump {
            control: Arc::clone(&self.shared.control),
            sandbox: Arc::clone(sandbox),
            task_arn: self.record.assignment.task_arn.clone(),
            container: container.name.clone(),
            configuration: configuration.clone(),
            delivered: self.delivered.0.clone(),
            runs,
        };
        self.pumps.spawn(pump.run(from));
    }

    /// What ran before this agent is taken over; what ended meanwhile is noted.
    async fn adopt(&mut self, sandbox: &Arc<dyn TaskSandbox>, state: &TaskState) -> Option<Stop> {
        let mut stop = None;
        for container in self.record.assignment.containers.clone() {
            let found = state.containers.iter().find(|found| found.id == container.name);
            let Some(found) = found.filter(|found| found.starts > 0 && found.started_at_ns.is_some()) else {
                stop = stop.or_else(|| self.vanished(&container.name));
                continue;
            };
            let record = self.record.containers.entry(container.name.clone()).or_default();
            record.started_at = record.started_at.or(found.started_at_ns.and_then(timestamp));
            let known = record.status;
            // A former agent may have died between a restart and the record of it.
            record.restart_count = found.starts.saturating_sub(1);
            if found.status == Status::Running {
                record.started_at = found.started_at_ns.and_then(timestamp).or(record.started_at);
                record.status = ContainerStatus::Running;
                self.watch_container(sandbox, &container);
            } else if known != ContainerStatus::Stopped {
                self.pump_logs(sandbox, &container);
                let ended = self.ended(sandbox, &exited(found)).await;
                stop = stop.or(ended);
                continue;
            }
            // Ended and noted by a former agent, which may not have delivered its last lines.
            if found.status != Status::Running && known == ContainerStatus::Stopped {
                self.pump_logs(sandbox, &container);
                if let Some(run) = self.runs.get(&container.name) {
                    run.send_modify(|run| run.last = true);
                }
            }
            if found.status != Status::Running && container.essential {
                // Noted, and then the former agent died before it could act on it.
                stop = stop.or(self.note_exit(&exited(found)));
            }
        }
        stop
    }

    /// The sandbox does not know it. If it ran, with what it ran in it is gone.
    fn vanished(&mut self, name: &str) -> Option<Stop> {
        let record = self.record.containers.get_mut(name)?;
        if record.status != ContainerStatus::Running {
            return None;
        }
        record.reason.get_or_insert_with(|| VANISHED.to_owned());
        let (container, at_ns) = (name.to_owned(), nanoseconds(Timestamp::now()));
        self.note_exit(&Exited { container, exit_code: KILLED, oom_killed: false, at_ns, log_end: 0 })
    }

    /// Events passed us by: the state says what they said.
    async fn catch_up(&mut self, sandbox: &Arc<dyn TaskSandbox>) -> Option<Stop> {
        let Ok(state) = sandbox.state().await else { return self.shim_lost(sandbox).await };
        if state.shim_pid == 0 {
            return Some(self.catch_up_lost(&state));
        }
        let ended: Vec<Exited> = state
            .containers
            .iter()
            .filter(|found| found.status == Status::Exited)
            .filter(|found| {
                self.record.containers.get(&found.id).is_some_and(|c| c.status == ContainerStatus::Running)
            })
            .map(exited)
            .collect();
        let mut stop = None;
        for exited in &ended {
            let ended = self.ended(sandbox, exited).await;
            stop = stop.or(ended);
        }
        stop
    }

    /// A container has ended: it is restarted, if its policy says so and nobody wants the task's end.
    async fn ended(&mut self, sandbox: &Arc<dyn TaskSandbox>, exited: &Exited) -> Option<Stop> {
        let container =
            self.record.assignment.containers.iter().find(|c| c.name == exited.container)?.clone();
        let record = self.record.containers.get(&container.name)?;
        // Said twice: once by the state, once by an event that was on its way.
        if record.finished_at.is_some() && record.finished_at == timestamp(exited.at_ns) {
            return None;
        }
        let started_at = record.started_at;
        self.note_lost_machine(sandbox, &exited.container).await;
        let ran =
            timestamp(exited.at_ns).zip(started_at).map(|(ended, started)| ended.duration_since(started));
        let restarts = container.restart_policy.as_ref().zip(ran);
        if self.stop_wanted()
            || !restarts.is_some_and(|(policy, ran)| crate::plan::restarts(policy, exited.exit_code, ran))
        {
            return self.note_exit(exited);
        }
        tracing::info!(
            task = self.record.assignment.task_arn,
            container = container.name,
            exit_code = exited.exit_code,
            "restarted, as its restart policy says"
        );
        let Some(started) = self.unless_stopped(sandbox.start(&container.name)).await else {
            return self.note_exit(exited);
        };
        let record = self.record.containers.get_mut(&container.name)?;
        note_end(record, exited);
        if let Err(error) = started {
            let reason = format!("CannotStartContainerError: {}", cannot_start(&error));
            let stop = self.note_exit(exited);
            if let Some(record) = self.record.containers.get_mut(&container.name) {
                record.reason = Some(reason);
            }
            return stop;
        }
        record.status = ContainerStatus::Running;
        record.restart_count += 1;
        record.started_at = Some(Timestamp::now());
        record.health = Health::Unknown;
        self.watch_container(sandbox, &container);
        self.say();
        None
    }

    /// Notes an exit; a reason to stop the task if the container was essential.
    pub(super) fn note_exit(&mut self, exited: &Exited) -> Option<Stop> {
        let essential =
            self.record.assignment.containers.iter().any(|c| c.name == exited.container && c.essential);
        let record = self.record.containers.get_mut(&exited.container)?;
        record.status = ContainerStatus::Stopped;
        note_end(record, exited);
        if record.health == Health::Healthy {
            record.health = Health::Unknown;
        }
        if let Some(run) = self.runs.get(&exited.container) {
            run.send_modify(|run| run.last = true);
        }
        let nothing_runs = !any_running(&self.record);
        if !essential && !nothing_runs {
            self.say();
            return None;
        }
        self.save();
        if !essential && self.record.status < ObservedStatus::Running {
            // Others are still to be started.
            self.say();
            return None;
        }
        let cause = StopCause {
            code: "EssentialContainerExited".into(),
            reason: "Essential container in task exited".into(),
        };
        Some(Stop { cause: Some(cause), container: None })
    }

    /// Ends what runs, dependents first, and waits for the last lines.
    pub(super) async fn stop_all(&mut self) {
        if let Some(sandbox) = self.sandbox.clone() {
            self.helpers.abort_all();
            let containers = self.record.assignment.containers.clone();
            // Of a task that a former agent was stopping: nobody follows its output yet.
            for container in &containers {
                if self
                    .record
                    .containers
                    .get(&container.name)
                    .is_some_and(|record| record.started_at.is_some())
                {
                    self.pump_logs(&sandbox, container);
                }
            }
            for group in stop_order(&containers) {
                let stops = group.into_iter().filter_map(|container| {
                    let record = self.record.containers.get(&container.name)?;
                    if record.status != ContainerStatus::Running {
                        return None;
                    }
                    let signal = record.stop_signal.as_deref().and_then(parse_signal).unwrap_or(SIGTERM);
                    let timeout = Duration::from_secs(u64::from(container.stop_timeout_seconds));
                    let sandbox = Arc::clone(&sandbox);
                    Some(async move {
                        (container.name.clone(), sandbox.stop(&container.name, signal, timeout).await)
                    })
                });
                for (name, ended) in join_all(stops.collect::<Vec<_>>()).await {
                    match ended {
                        Ok(exited) => drop(self.note_exit(&exited)),
                        Err(error) => self.note_lost(&sandbox, &name, &error).await,
                    }
                }
            }
            self.record.execution_stopped_at.get_or_insert_with(Timestamp::now);
            for run in self.runs.values() {
                run.send_modify(|run| run.last = true);
            }
            self.drain_logs().await;
        }
        for container in self.record.containers.values_mut() {
            container.status = ContainerStatus::Stopped;
        }
        self.save();
    }

    async fn drain_logs(&mut self) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            tokio::select! {
                ended = self.pumps.join_next() => if ended.is_none() { break },
                Some((name, offset)) = self.delivered.1.recv() => self.note_delivered(&name, offset),
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!(task = self.record.assignment.task_arn, "the log driver did not take the last lines in time");
                    self.pumps.shutdown().await;
                    break;
                }
            }
        }
    }
}

/// What is known of a container's last end; also of one that runs again.
fn note_end(record: &mut ContainerRecord, exited: &Exited) {
    record.exit_code = Some(exited.exit_code);
    record.finished_at = timestamp(exited.at_ns);
    record.reason = exited
        .oom_killed
        .then(|| "OutOfMemoryError: Container killed due to memory usage".to_owned())
        .or_else(|| record.reason.take().filter(|_| record.restart_count == 0));
}

/// A container that cannot start any more, by the one it waits for.
fn unresolved(dependent: &str, on: &str, why: &str) -> Stop {
    let reason = format!("TaskDependencyError: container {dependent} depends on {on}, which {why}");
    Stop::failed_to_start("Task failed to start").of_container(dependent, reason)
}

/// As Fargate passes on what containerd says of runc.
fn cannot_start(error: &ferrogate_sandbox::Error) -> String {
    format!(
        "ResourceInitializationError: failed to create new container runtime task: failed to create shim task: \
         OCI runtime create failed: runc create failed: unable to start container process: {error}: unknown"
    )
}

pub(super) fn exited(found: &ContainerState) -> Exited {
    Exited {
        container: found.id.clone(),
        exit_code: found.exit_code.unwrap_or(KILLED),
        oom_killed: found.oom_killed,
        at_ns: found.exited_at_ns.unwrap_or_else(|| nanoseconds(Timestamp::now())),
        log_end: found.log_end,
    }
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

pub(super) fn timestamp(ns: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(ns)).ok()
}
