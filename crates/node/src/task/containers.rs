//! The life of a task's containers, from the first start to the last exit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{
    ContainerAssignment, ContainerStatus, DesiredStatus, Health, ObservedStatus, StopCause,
};
use ferrogate_sandbox::{
    BindMount, ContainerSpec, ContainerState, Events, Exited, ImageDefaults, LogLimits, Status, TaskEvent,
    TaskSandbox, TaskState, Tmpfs, Ulimit, WhenFull, parse_signal,
};
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Actor, Stop, any_running};
use crate::health;
use crate::logs::Pump;
use crate::plan::{Gate, Seen, gate, stop_order};

const SIGTERM: i32 = 15;
/// Output of a container that keeps no log driver, for `ferrogate logs`.
const KEPT_OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Output that waits for a blocking log driver.
const BLOCKING_OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// How long a stopped task waits for its last lines to be taken.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What the actor waits for.
enum Happened {
    StopAsked,
    Health(String, Health),
    Delivered(String, u64),
    Event(Option<TaskEvent>),
    Late,
}

impl Actor {
    /// Starts what may start and watches until the task has a reason to end.
    pub(super) async fn run_containers(&mut self) -> Stop {
        let Some(sandbox) = self.sandbox.clone() else { return Stop::ASKED };
        let mut events = sandbox.events();
        let state = match sandbox.state().await {
            Ok(state) => state,
            Err(error) => return Stop::failed_to_start(format!("ResourceInitializationError: {error}")),
        };
        // A container that a former agent made and did not start is made anew: whether it was finished nobody knows.
        for half_made in
            state.containers.iter().filter(|found| found.status == Status::Created && found.starts == 0)
        {
            if let Err(error) = sandbox.delete_container(&half_made.id).await {
                return Stop::failed_to_start(format!("CannotCreateContainerError: {error}"));
            }
        }
        // Containers that ran before this agent: take them as they are.
        if let Some(stop) = self.adopt(&sandbox, &state) {
            return stop;
        }
        let mut started_at: HashMap<String, Instant> = HashMap::new();
        loop {
            let deadline = match self.start_ready(&sandbox, &mut started_at).await {
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
        deadline: Option<(Instant, String)>,
    ) -> Option<Stop> {
        let (at, late) = deadline.unzip();
        let timer = async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let happened = tokio::select! {
            _ = self.desired.wait_for(|desired| *desired == DesiredStatus::Stopped) => Happened::StopAsked,
            Some((name, health)) = self.health.1.recv() => Happened::Health(name, health),
            Some((name, offset)) = self.delivered.1.recv() => Happened::Delivered(name, offset),
            event = events.next() => Happened::Event(event),
            () = timer => Happened::Late,
        };
        match happened {
            Happened::StopAsked => Some(Stop::ASKED),
            Happened::Health(name, health) => {
                if let Some(container) = self.record.containers.get_mut(&name) {
                    container.health = health;
                }
                self.say();
                None
            }
            Happened::Delivered(name, offset) => {
                self.note_delivered(&name, offset);
                self.save();
                None
            }
            Happened::Event(Some(TaskEvent::Exited(exited))) => self.note_exit(&exited),
            Happened::Event(Some(TaskEvent::Missed)) => self.catch_up(sandbox).await,
            Happened::Event(Some(_)) => None,
            Happened::Event(None) => self.shim_lost().await,
            Happened::Late => {
                let late = late.unwrap_or_default();
                Some(Stop::failed_to_start(format!(
                    "TaskFailedToStart: container {late} did not meet the condition its dependents wait for within its startTimeout"
                )))
            }
        }
    }

    fn note_delivered(&mut self, name: &str, offset: u64) {
        if let Some(container) = self.record.containers.get_mut(name) {
            container.log_offset = container.log_offset.max(offset);
        }
    }

    /// Starts every container whose gate is open. Returns the next start timeout, and whose it is.
    async fn start_ready(
        &mut self,
        sandbox: &Arc<dyn TaskSandbox>,
        started_at: &mut HashMap<String, Instant>,
    ) -> Result<Option<(Instant, String)>, Stop> {
        let containers = self.record.assignment.containers.clone();
        let mut waiting_on: Vec<String> = Vec::new();
        // A start may open the next gate: go round until nothing more opens.
        loop {
            waiting_on.clear();
            let mut opened = false;
            for container in &containers {
                if self.has_begun(&container.name) {
                    continue;
                }
                match gate(container, &self.seen()) {
                    Gate::Open => {
                        self.start_container(sandbox, container).await?;
                        started_at.insert(container.name.clone(), Instant::now());
                        opened = true;
                    }
                    Gate::Waiting(on) => waiting_on.push(on),
                    Gate::Shut(on) => {
                        let reason = format!(
                            "TaskDependencyError: container {} depends on {on}, which ended without meeting the condition",
                            container.name
                        );
                        return Err(Stop::failed_to_start("Task failed to start")
                            .of_container(&container.name, reason));
                    }
                }
            }
            if !opened {
                break;
            }
        }
        if waiting_on.is_empty() && self.record.status < ObservedStatus::Running {
            self.record.status = ObservedStatus::Running;
            self.record.started_at.get_or_insert_with(Timestamp::now);
            self.say();
        }
        let timeout = |name: &String| {
            let seconds = containers.iter().find(|c| c.name == *name)?.start_timeout_seconds?;
            Some((*started_at.get(name)? + Duration::from_secs(u64::from(seconds)), name.clone()))
        };
        Ok(waiting_on.iter().filter_map(timeout).min())
    }

    fn has_begun(&self, name: &str) -> bool {
        self.record.containers.get(name).is_some_and(|container| container.status != ContainerStatus::Pending)
    }

    fn seen(&self) -> BTreeMap<String, Seen> {
        let of = |container: &crate::record::ContainerRecord| {
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
        let spec =
            self.container_spec(container).map_err(|error| failed("CannotCreateContainerError", error))?;
        sandbox
            .create_container(&spec)
            .await
            .map_err(|error| failed("CannotCreateContainerError", error.to_string()))?;
        let started = sandbox.start(name).await;
        let record = self.record.containers.entry(name.clone()).or_default();
        match started {
            Ok(_) => {
                record.status = ContainerStatus::Running;
                record.started_at = Some(Timestamp::now());
            }
            Err(error) => {
                record.status = ContainerStatus::Stopped;
                if let ferrogate_sandbox::Error::CannotExecute { exit_code, .. } = &error {
                    record.exit_code = Some(*exit_code);
                }
                return Err(failed("CannotStartContainerError", error.to_string()));
            }
        }
        self.watch_container(sandbox, container);
        self.save();
        Ok(())
    }

    /// Health probes and the log driver of a container that runs.
    fn watch_container(&mut self, sandbox: &Arc<dyn TaskSandbox>, container: &ContainerAssignment) {
        if let Some(check) = &container.health_check {
            let probes = health::watch(
                Arc::clone(sandbox),
                container.name.clone(),
                check.clone(),
                self.health.0.clone(),
            );
            self.helpers.spawn(probes);
        }
        self.pump_logs(sandbox, container);
    }

    fn pump_logs(&mut self, sandbox: &Arc<dyn TaskSandbox>, container: &ContainerAssignment) {
        let Some(configuration) = &container.logs else { return };
        let from = self.record.containers.get(&container.name).map_or(0, |record| record.log_offset);
        let pump = Pump {
            control: Arc::clone(&self.shared.control),
            sandbox: Arc::clone(sandbox),
            task_arn: self.record.assignment.task_arn.clone(),
            container: container.name.clone(),
            configuration: configuration.clone(),
            delivered: self.delivered.0.clone(),
        };
        self.pumps.spawn(pump.run(from));
    }

    fn container_spec(&self, container: &ContainerAssignment) -> Result<ContainerSpec, String> {
        let image = self.images.get(&container.name).ok_or("its image is not here")?;
        let config = &image.config;
        let mounts = container.mount_points.iter().map(|mount| BindMount {
            source: self.dirs.volume(&mount.volume),
            container_path: mount.container_path.clone(),
            read_only: mount.read_only,
        });
        let logs = match &container.logs {
            None => LogLimits { bytes_max: KEPT_OUTPUT_BYTES_MAX, when_full: WhenFull::DropOldest },
            Some(logs) if logs.non_blocking => {
                LogLimits { bytes_max: logs.max_buffer_bytes, when_full: WhenFull::DropNewest }
            }
            Some(_) => LogLimits { bytes_max: BLOCKING_OUTPUT_BYTES_MAX, when_full: WhenFull::Block },
        };
        Ok(ContainerSpec {
            id: container.name.clone(),
            layers: image.layers.iter().rev().cloned().collect(),
            image: ImageDefaults {
                entry_point: config.entrypoint.clone(),
                command: config.cmd.clone(),
                environment: config.env.clone(),
                user: config.user.clone(),
                working_directory: config.working_dir.clone(),
            },
            entry_point: container.entry_point.clone(),
            command: container.command.clone(),
            environment: self.environment(container),
            user: container.user.clone(),
            working_directory: container.working_directory.clone(),
            cpu_units: container.cpu_units,
            memory_bytes: container.memory_mib.map(|mib| u64::from(mib) << 20),
            memory_reservation_bytes: container.memory_reservation_mib.map(|mib| u64::from(mib) << 20),
            readonly_root_filesystem: container.readonly_root_filesystem,
            ulimits: container
                .ulimits
                .iter()
                .map(|limit| Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
                .collect(),
            capabilities_add: container.capabilities_add.clone(),
            capabilities_drop: container.capabilities_drop.clone(),
            tmpfs: container
                .tmpfs
                .iter()
                .map(|tmpfs| Tmpfs {
                    container_path: tmpfs.container_path.clone(),
                    size_bytes: u64::from(tmpfs.size_mib) << 20,
                    mount_options: tmpfs.mount_options.clone(),
                })
                .collect(),
            system_controls: container.system_controls.clone(),
            mounts: mounts.collect(),
            init: container.init_process_enabled,
            allow_new_privileges: false,
            logs,
        })
    }

    /// What ran before this agent is taken over; what ended meanwhile is noted.
    fn adopt(&mut self, sandbox: &Arc<dyn TaskSandbox>, state: &TaskState) -> Option<Stop> {
        let mut stop = None;
        for container in self.record.assignment.containers.clone() {
            let Some(found) = state.containers.iter().find(|found| found.id == container.name) else {
                continue;
            };
            if found.starts == 0 || found.started_at_ns.is_none() {
                continue;
            }
            let record = self.record.containers.entry(container.name.clone()).or_default();
            record.started_at = record.started_at.or(found.started_at_ns.and_then(timestamp));
            let known = record.status;
            if found.status == Status::Running {
                record.status = ContainerStatus::Running;
                self.watch_container(sandbox, &container);
            } else if known != ContainerStatus::Stopped {
                self.pump_logs(sandbox, &container);
                stop = stop.or(self.note_exit(&exited(found)));
            }
        }
        stop
    }

    /// Events passed us by: the state says what they said.
    async fn catch_up(&mut self, sandbox: &Arc<dyn TaskSandbox>) -> Option<Stop> {
        let Ok(state) = sandbox.state().await else { return self.shim_lost().await };
        let ended: Vec<Exited> = state
            .containers
            .iter()
            .filter(|found| found.status == Status::Exited)
            .filter(|found| {
                self.record.containers.get(&found.id).is_some_and(|c| c.status == ContainerStatus::Running)
            })
            .map(exited)
            .collect();
        ended.iter().filter_map(|exited| self.note_exit(exited)).next()
    }

    /// The shim is gone, and with it the containers.
    async fn shim_lost(&mut self) -> Option<Stop> {
        tracing::error!(task = self.record.assignment.task_arn, "the task's shim is gone");
        match self.shared.sandbox.reattach(&self.dirs.sandbox()).await {
            Ok(sandbox) => {
                self.sandbox = Some(Arc::clone(&sandbox));
                let stop = self.catch_up_lost(&sandbox).await;
                Some(stop)
            }
            Err(error) => {
                tracing::error!(%error, "what it left cannot be read");
                Some(Stop {
                    cause: Some(StopCause {
                        code: "EssentialContainerExited".into(),
                        reason: "Essential container in task exited".into(),
                    }),
                    container: None,
                })
            }
        }
    }

    async fn catch_up_lost(&mut self, sandbox: &Arc<dyn TaskSandbox>) -> Stop {
        let state = sandbox.state().await.unwrap_or_default();
        let mut stop = None;
        for found in &state.containers {
            let running =
                self.record.containers.get(&found.id).is_some_and(|c| c.status == ContainerStatus::Running);
            if running && found.status != Status::Running {
                if let Some(record) = self.record.containers.get_mut(&found.id) {
                    record.reason.get_or_insert_with(|| {
                        "ContainerVanishedError: the process that ran the container was lost".to_owned()
                    });
                }
                stop = stop.or(self.note_exit(&exited(found)));
            }
        }
        stop.unwrap_or(Stop::ASKED)
    }

    /// Notes an exit; a reason to stop the task if the container was essential.
    fn note_exit(&mut self, exited: &Exited) -> Option<Stop> {
        let essential =
            self.record.assignment.containers.iter().any(|c| c.name == exited.container && c.essential);
        let record = self.record.containers.get_mut(&exited.container)?;
        record.status = ContainerStatus::Stopped;
        record.exit_code = Some(exited.exit_code);
        record.finished_at = timestamp(exited.at_ns);
        if record.health == Health::Healthy {
            record.health = Health::Unknown;
        }
        if exited.oom_killed {
            record.reason = Some("OutOfMemoryError: Container killed due to memory usage".into());
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
                        Err(error) => self.note_lost(&name, &error),
                    }
                }
            }
            self.record.execution_stopped_at.get_or_insert_with(Timestamp::now);
            self.drain_logs().await;
        }
        for container in self.record.containers.values_mut() {
            container.status = ContainerStatus::Stopped;
        }
        self.save();
    }

    fn note_lost(&mut self, name: &str, error: &ferrogate_sandbox::Error) {
        tracing::warn!(%error, container = name, "a container could not be stopped in order; it is killed with its sandbox");
        if let Some(record) = self.record.containers.get_mut(name) {
            record.status = ContainerStatus::Stopped;
            record.finished_at.get_or_insert_with(Timestamp::now);
            record.reason.get_or_insert_with(|| format!("CannotStopContainerError: {error}"));
        }
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

fn exited(found: &ContainerState) -> Exited {
    Exited {
        container: found.id.clone(),
        exit_code: found.exit_code.unwrap_or(137),
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
